"""Turn errors into HTTP: a status, and a body with detail, code and retryable."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from django.db import InterfaceError, OperationalError
from django.utils.translation import gettext_lazy as _
from rest_framework import exceptions, status
from rest_framework.permissions import SAFE_METHODS
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.settings import api_settings
from rest_framework.views import exception_handler

from osvi_django.database import safe_error_name
from osvi_django.exceptions import InvalidInput, OSVIError, OSVINotConfigured, SentBefore
from osvi_django.rest.links import attempt_url, session_url

logger = logging.getLogger(__name__)

# OSVI's own 401 and 404 concern us and OSVI: never pass them on as if they concerned the caller.
STATUSES: Final = {
    "invalid": status.HTTP_400_BAD_REQUEST,
    "permission_denied": status.HTTP_403_FORBIDDEN,
    "not_found": status.HTTP_404_NOT_FOUND,
    "close_in_progress": status.HTTP_409_CONFLICT,
    "session_closed": status.HTTP_409_CONFLICT,
    "unknown_status": status.HTTP_409_CONFLICT,
    "wrong_mode": status.HTTP_409_CONFLICT,
    "sent_before": status.HTTP_409_CONFLICT,
    "already_open": status.HTTP_409_CONFLICT,
    "rejected": status.HTTP_502_BAD_GATEWAY,
    "unauthorized": status.HTTP_502_BAD_GATEWAY,
    "bad_answer": status.HTTP_502_BAD_GATEWAY,
    "gateway_refused": status.HTTP_502_BAD_GATEWAY,
    "busy": status.HTTP_503_SERVICE_UNAVAILABLE,
    "unreachable": status.HTTP_503_SERVICE_UNAVAILABLE,
    "throttled": status.HTTP_503_SERVICE_UNAVAILABLE,
    "not_configured": status.HTTP_503_SERVICE_UNAVAILABLE,
    "inside_transaction": status.HTTP_503_SERVICE_UNAVAILABLE,
    "unconfirmed": status.HTTP_504_GATEWAY_TIMEOUT,
}
# Used if an error may be retried and OSVI did not say when.
RETRY_AFTER: Final = 10  # seconds
_DATABASE_UNAVAILABLE: Final = _(
    "This site's database is unavailable. If you asked for a change, check the chat session "
    "before you repeat it."
)
# The most that ``detail`` shows of a list with thousands of mistakes; ``errors`` has them all.
MAX_SENTENCES: Final = 10


def handle(exc: Exception, context: dict[str, Any]) -> Response | None:
    """Return the response for an error of ours or of REST framework; None for any other, a bug."""
    if isinstance(exc, OSVIError | OSVINotConfigured):
        return _answer(exc, context["request"])
    if isinstance(exc, OperationalError | InterfaceError):
        return _database_unavailable(exc, context)
    response = exception_handler(exc, context)
    if response is not None:
        response.data = _body_of(exc, response.data)
    return response


def _answer(error: OSVIError | OSVINotConfigured, request: Request) -> Response:
    body = {"detail": _detail_of(error), "code": error.code, "retryable": error.retryable}
    if isinstance(error, InvalidInput):
        field = error.field or api_settings.NON_FIELD_ERRORS_KEY
        body["errors"] = {field: [str(error)]}
    if error.attempt is not None:
        body["attempt"] = attempt_url(error.attempt, request)
    if error.action is not None:
        body["action"] = error.action.pk
    if error.session is not None:
        body["session_id"] = error.session.session_id
        body["session"] = session_url(error.session, request)
    headers = {}
    if error.retryable:
        headers["Retry-After"] = str(math.ceil(getattr(error, "retry_after", 0) or RETRY_AFTER))
    return Response(body, _status_of(error), headers=headers)


def _detail_of(error: OSVIError | OSVINotConfigured) -> str:
    """Return the message, which for a repeated text names the field and not the keyword."""
    if isinstance(error, SentBefore) and not any(error.args):
        return str(error.over_rest)
    return str(error)


def _status_of(error: OSVIError | OSVINotConfigured) -> int:
    """Return the status of an error; host code may have raised one with its own code."""
    not_sent = status.HTTP_503_SERVICE_UNAVAILABLE
    return STATUSES.get(
        error.code, not_sent if error.was_sent is False else status.HTTP_502_BAD_GATEWAY
    )


def _database_unavailable(error: Exception, context: dict[str, Any]) -> Response:
    """Return 503 if the database is unavailable; its own text may quote data and is not shown."""
    logger.error("the database is unavailable for a request: %s", safe_error_name(error))
    retryable = context["request"].method in SAFE_METHODS or not context["view"].is_begun
    body = {"detail": _DATABASE_UNAVAILABLE, "code": "database_away", "retryable": retryable}
    headers = {"Retry-After": str(RETRY_AFTER)} if retryable else {}
    return Response(body, status.HTTP_503_SERVICE_UNAVAILABLE, headers=headers)


def _body_of(exc: Exception, data: Any) -> dict[str, Any]:
    """Return the same three keys for errors of REST framework, and ``errors`` for bad input."""
    if isinstance(exc, exceptions.ValidationError):
        detail = " ".join(islice(_sentences(data), MAX_SENTENCES))
        return {"detail": detail, "code": "invalid", "retryable": False, "errors": data}
    reason = data.get("detail") if isinstance(data, dict) else None
    if not isinstance(reason, exceptions.ErrorDetail):
        # A host's own authentication may put anything there.
        plain = getattr(exc, "default_detail", ""), getattr(exc, "default_code", "error")
        reason = exceptions.ErrorDetail(*plain)
    retryable = isinstance(exc, exceptions.Throttled)
    return {"detail": reason, "code": reason.code, "retryable": retryable}


def _sentences(errors: Any, named: str = "") -> Iterator[str]:
    """Yield what is wrong with each field, with a path such as ``session_ids[3]``."""
    if not isinstance(errors, dict):
        yield from (f"{named}: {problem}" if named else str(problem) for problem in errors)
        return
    for key, problems in errors.items():
        yield from _sentences(problems, _path(named, key))


def _path(named: str, key: object) -> str:
    if key == api_settings.NON_FIELD_ERRORS_KEY:
        return named
    return f"{named}[{key}]" if isinstance(key, int) else f"{named}.{key}".removeprefix(".")
