"""The one place where errors become HTTP: a status, and a body of detail, code and retryable."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final

from django.utils.decorators import method_decorator
from rest_framework import exceptions, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.settings import api_settings
from rest_framework.views import APIView, exception_handler

from osvi_django.exceptions import OSVIError, OSVINotConfigured
from osvi_django.rest.serializers import attempt_url
from osvi_django.transactions import non_atomic

# OSVI's own 401 and 404 are about us and OSVI: never passed on as if they were about the caller.
STATUSES: Final = {
    "invalid": status.HTTP_400_BAD_REQUEST,
    "permission_denied": status.HTTP_403_FORBIDDEN,
    "not_found": status.HTTP_404_NOT_FOUND,
    "close_in_progress": status.HTTP_409_CONFLICT,
    "session_closed": status.HTTP_409_CONFLICT,
    "wrong_mode": status.HTTP_409_CONFLICT,
    "sent_before": status.HTTP_409_CONFLICT,
    "rejected": status.HTTP_502_BAD_GATEWAY,
    "unauthorized": status.HTTP_502_BAD_GATEWAY,
    "bad_answer": status.HTTP_502_BAD_GATEWAY,
    "unreachable": status.HTTP_503_SERVICE_UNAVAILABLE,
    "throttled": status.HTTP_503_SERVICE_UNAVAILABLE,
    "not_configured": status.HTTP_503_SERVICE_UNAVAILABLE,
    "inside_transaction": status.HTTP_503_SERVICE_UNAVAILABLE,
    "unconfirmed": status.HTTP_504_GATEWAY_TIMEOUT,
}
# Where an error may be retried and OSVI did not say when.
RETRY_AFTER: Final = 10  # seconds
# Of a list with thousands of mistakes; ``errors`` has all of them.
MOST_SENTENCES: Final = 10


@method_decorator(non_atomic, name="dispatch")
class OwnView(APIView):
    """A view of this app: outside the host's transactions, and errors are answered in its own way.

    That is so whatever ``ATOMIC_REQUESTS`` and the handler are that the host has for its own views.
    """

    def get_exception_handler(self) -> Callable[..., Response | None]:
        return handle


def handle(exc: Exception, context: dict[str, Any]) -> Response | None:
    """Answer for an error of ours or of REST framework; None for any other, which is a bug."""
    if isinstance(exc, OSVIError | OSVINotConfigured):
        return _answer(exc, context["request"])
    response = exception_handler(exc, context)
    if response is not None:
        response.data = _body_of(exc, response.data)
    return response


def _answer(error: OSVIError | OSVINotConfigured, request: Request) -> Response:
    body = {"detail": str(error), "code": error.code, "retryable": error.retryable}
    if error.attempt is not None:
        body["attempt"] = attempt_url(error.attempt, request)
    if error.action is not None:
        body["action"] = error.action.pk
    headers = {}
    if error.retryable:
        headers["Retry-After"] = str(math.ceil(getattr(error, "retry_after", 0) or RETRY_AFTER))
    return Response(body, STATUSES[error.code], headers=headers)


def _body_of(exc: Exception, data: Any) -> dict[str, Any]:
    """The same three keys for what REST framework found, and ``errors`` by field for bad input."""
    if isinstance(exc, exceptions.ValidationError):
        detail = " ".join(islice(_sentences(data), MOST_SENTENCES))
        return {"detail": detail, "code": "invalid", "retryable": False, "errors": data}
    told = data.get("detail") if isinstance(data, dict) else None
    if not isinstance(told, exceptions.ErrorDetail):
        # A host's own authentication may put anything there.
        plain = getattr(exc, "default_detail", ""), getattr(exc, "default_code", "error")
        told = exceptions.ErrorDetail(*plain)
    retryable = isinstance(exc, exceptions.Throttled)
    return {"detail": told, "code": told.code, "retryable": retryable}


def _sentences(errors: Any, named: str = "") -> Iterator[str]:
    """What is wrong with each field, as a path such as ``filter.status`` or ``session_ids[3]``."""
    if not isinstance(errors, dict):
        yield from (f"{named}: {problem}" if named else str(problem) for problem in errors)
        return
    for key, problems in errors.items():
        yield from _sentences(problems, _path(named, key))


def _path(named: str, key: object) -> str:
    if key == api_settings.NON_FIELD_ERRORS_KEY:
        return named
    return f"{named}[{key}]" if isinstance(key, int) else f"{named}.{key}".removeprefix(".")
