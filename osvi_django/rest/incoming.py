"""What a request says beside its fields: its body as a whole, and what its sender prefers."""

from __future__ import annotations

from typing import Any, Final
from urllib.request import parse_http_list

from django.utils.translation import gettext as _
from rest_framework.exceptions import ParseError
from rest_framework.request import Request
from rest_framework.serializers import Serializer

RESPOND_ASYNC: Final = "respond-async"


def body_of(request: Request) -> Any:
    """What was sent. Raises ``ParseError`` also where it is nested too deeply to be read."""
    try:
        return request.data
    except RecursionError:
        raise ParseError(_("The body is nested too deeply.")) from None


def asked(serializer: type[Serializer[Any]], request: Request) -> dict[str, Any]:
    """What the body asks for; a 400 where that cannot be used."""
    return _checked(serializer, body_of(request))


def asked_by_address(serializer: type[Serializer[Any]], request: Request) -> dict[str, Any]:
    """What the query string asks for; a 400 where that cannot be used."""
    return _checked(serializer, request.query_params)


def _checked(serializer: type[Serializer[Any]], data: Any) -> dict[str, Any]:
    wanted = serializer(data=data)
    wanted.is_valid(raise_exception=True)
    values: dict[str, Any] = wanted.validated_data
    return values


def prefers_async(request: Request) -> bool:
    """Whether the sender would rather not wait (RFC 7240)."""
    preferences = parse_http_list(request.headers.get("Prefer", ""))
    return any(_name_of(each) == RESPOND_ASYNC for each in preferences)


def _name_of(preference: str) -> str:
    """The name in lower case; "" where it has a value, which this one is not defined with."""
    name, _equals, value = preference.partition(";")[0].partition("=")
    return "" if value.strip() not in {"", '""'} else name.strip().lower()
