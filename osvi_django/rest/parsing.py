"""Read requests: the whole body, and the preferences of the caller.

REST framework treats a body without a length, and a form that the host does not parse, as empty:
its contents would be ignored silently. So each body is checked before a view runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from django.core.exceptions import RequestDataTooBig
from django.http import UnreadablePostError
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as _lazy
from rest_framework import status
from rest_framework.exceptions import (
    APIException,
    ParseError,
    UnsupportedMediaType,
    ValidationError,
)
from rest_framework.request import Request
from rest_framework.serializers import Serializer

from osvi_django.redaction import hidden
from osvi_django.services.permissions import visible_jobs
from osvi_django.services.support import COMMANDS
from osvi_django.validation import account_problem

_JSON: Final = "application/json"
# A number with more digits is not a length.
_LENGTH_DIGITS: Final = 18


class LengthRequired(APIException):
    """A body came without its length, so its end is unknown."""

    status_code = status.HTTP_411_LENGTH_REQUIRED
    default_code = "length_required"
    default_detail = _lazy(
        "The body has no Content-Length, so it was not read and nothing was done. Send it again "
        "with its length and without chunked encoding."
    )


class BodyTooLarge(APIException):
    """A body is longer than the host's ``DATA_UPLOAD_MAX_MEMORY_SIZE``."""

    status_code = status.HTTP_413_REQUEST_ENTITY_TOO_LARGE
    default_code = "too_large"
    default_detail = _lazy(
        "The body is larger than this site accepts, so nothing was done. Send less at a time."
    )


def require_json(request: Request) -> None:
    """Raise an error of REST framework if there is a body that is not JSON, or is incomplete."""
    length = _length_of(request)
    if not length:
        return
    if (request.content_type or "").partition(";")[0].strip().lower() != _JSON:
        raise UnsupportedMediaType(request.content_type or "")
    if len(_read_body(request)) < length:
        raise ParseError(_("The body is shorter than its Content-Length."))


def _length_of(request: Request) -> int:
    """Return the length of the body; 0 if there is none."""
    length = str(request.META.get("CONTENT_LENGTH") or "0").strip()
    if not (length.isascii() and length.isdigit()) or len(length) > _LENGTH_DIGITS:
        raise ParseError(_("The Content-Length is not a whole number."))
    if not int(length) and ("HTTP_TRANSFER_ENCODING" in request.META or _has_more(request)):
        raise LengthRequired
    return int(length)


def _has_more(request: Request) -> bool:
    """Return whether there is a body without a length, as in HTTP/2, if it is safe to look."""
    if "wsgi.input" not in request.META:  # under ASGI the whole body is here before a view runs
        return bool(request.read(1))
    if request.META.get("wsgi.input_terminated"):
        return bool(request.META["wsgi.input"].read(1))
    return False


def _read_body(request: Request) -> bytes:
    try:
        return bytes(request.body)
    except RequestDataTooBig:
        raise BodyTooLarge from None
    except UnreadablePostError:
        raise ParseError(_("The body did not arrive completely.")) from None


_PERSONAL: Final = frozenset(
    {"context", "customer_id", "goodbye", "input_fields", "note", "search", "text"}
    | {command.field for command in COMMANDS.values()}
)


def body_of(request: Request) -> Any:
    """Return the parsed body. Raise ``ParseError`` if it is nested too deeply."""
    try:
        return request.data
    except RecursionError:
        raise ParseError(_("The body is nested too deeply.")) from None


def validated_body(serializer: type[Serializer[Any]], request: Request) -> dict[str, Any]:
    """Return the validated body. Raise ``ValidationError`` if it is invalid."""
    return _checked(serializer, body_of(request))


def validated_query(serializer: type[Serializer[Any]], request: Request) -> dict[str, Any]:
    """Return the validated query string. Raise ``ValidationError`` if it is invalid."""
    return _checked(serializer, request.query_params)


def _checked(serializer: type[Serializer[Any]], data: Any) -> dict[str, Any]:
    wanted = serializer(data=data)
    wanted.is_valid(raise_exception=True)
    values: dict[str, Any] = wanted.validated_data
    return _with_hidden_texts(values)


def _with_hidden_texts(values: Mapping[str, Any]) -> dict[str, Any]:
    """Hide personal texts and ids from error reporters."""
    return {
        name: hidden(value) if name in _PERSONAL else value for name, value in values.items()
    } | {name: _with_hidden_texts(value) for name, value in values.items() if name == "filter"}


def require_visible_job(user: Any, key: int | None) -> None:
    """Raise a 400 if a job is named that this user may not see."""
    if key is not None and not visible_jobs(user).filter(pk=key).exists():
        raise ValidationError({"close_job": [_("This site has no such close job.")]})


def require_account(account: str | None) -> None:
    """Raise a 400 if an account is named that this site does not have."""
    if account is not None and (problem := account_problem(account)):
        raise ValidationError({"account": [problem]})
