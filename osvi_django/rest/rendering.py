"""How bodies are read and written: the same whatever the host's REST framework settings say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import IO, Any, Final

from django.http import HttpResponseBase
from django.utils.translation import gettext as _
from rest_framework.exceptions import ParseError
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.parsers import JSONParser
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.status import HTTP_400_BAD_REQUEST
from rest_framework.utils.encoders import JSONEncoder

from osvi_django.database import MomentsInUTC

JSON_MEDIA_TYPE: Final = "application/json"
PROBLEM_MEDIA_TYPE: Final = "application/problem+json"
# As RFC 9110 has them; Python before 3.13 knows older ones.
_TITLES: Final = {413: "Content Too Large", 422: "Unprocessable Content"}


class StrictJSONParser(JSONParser):
    """JSON as its standard has it, without ``NaN`` and ``Infinity``."""

    strict = True

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return the parsed body, or raise ``ParseError`` that says nothing of Python."""
        try:
            return super().parse(stream, media_type, parser_context)
        except ParseError as error:
            if "set_int_max_str_digits" in str(error.detail):
                raise ParseError(_("The body has a number with too many digits.")) from None
            raise


class RESTEncoder(MomentsInUTC, JSONEncoder):
    """REST framework's encoder, with moments in UTC whatever the host's settings say."""


class OSVIJSONRenderer(JSONRenderer):
    """Compact JSON in UTF-8, with the names of this API."""

    encoder_class = RESTEncoder
    compact = True
    ensure_ascii = False
    strict = True


class ProblemRenderer(OSVIJSONRenderer):
    """An error as Problem Details (RFC 9457)."""

    media_type = PROBLEM_MEDIA_TYPE
    format = "problem"

    def render(
        self,
        data: Any,
        accepted_media_type: str | None = None,
        renderer_context: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return the error with its status and the title of that."""
        status = (renderer_context or {})["response"].status_code
        problem = problem_of(status, data)
        return super().render(problem, accepted_media_type, renderer_context)


class KnownFormats(DefaultContentNegotiation):
    """Choose a renderer as REST framework does, but for a format that does not exist.

    The view refuses it by name, after it has checked who asks.
    """

    def filter_renderers(
        self,
        renderers: Iterable[BaseRenderer],
        format: str,  # noqa: A002  # as REST framework names it
    ) -> list[BaseRenderer]:
        """Return the renderers of a format; all if it is unknown."""
        every = list(renderers)
        return [each for each in every if each.format == format] or every


def problem_of(status: int, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return an error as Problem Details."""
    return {"type": "about:blank", "title": title_of(status), "status": status, **data}


def title_of(status: int) -> str:
    """Return the words of a status."""
    return _TITLES.get(status) or HTTPStatus(status).phrase


def choose_renderer(request: Request, response: HttpResponseBase) -> None:
    """Render errors as Problem Details for callers who name that type, and all else as JSON."""
    if not isinstance(response, Response):  # a file
        return
    is_error = response.status_code >= HTTP_400_BAD_REQUEST
    if is_error and PROBLEM_MEDIA_TYPE in request.headers.get("Accept", "").lower():
        response.accepted_renderer = ProblemRenderer()
        response.accepted_media_type = PROBLEM_MEDIA_TYPE
    elif isinstance(response.accepted_renderer, ProblemRenderer):
        response.accepted_renderer = OSVIJSONRenderer()
        response.accepted_media_type = JSON_MEDIA_TYPE
