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

from osvi_django.database import is_without_tables, safe_error_name
from osvi_django.exceptions import InvalidInput, OSVIError, OSVINotConfigured, SentBefore
from osvi_django.rest.idempotency import Replayed, RequestInProgress
from osvi_django.rest.links import action_url, attempt_url, recover_url, session_url

logger = logging.getLogger(__name__)

# OSVI's own 401 and 404 concern us and OSVI: never pass them on as if they concerned the caller.
STATUSES: Final = {
    "invalid": status.HTTP_400_BAD_REQUEST,
    "too_many_rows": status.HTTP_400_BAD_REQUEST,
    "permission_denied": status.HTTP_403_FORBIDDEN,
    "not_found": status.HTTP_404_NOT_FOUND,
    "close_in_progress": status.HTTP_409_CONFLICT,
    "session_closed": status.HTTP_409_CONFLICT,
    "unknown_status": status.HTTP_409_CONFLICT,
    "wrong_mode": status.HTTP_409_CONFLICT,
    "takeover_changed": status.HTTP_409_CONFLICT,
    "sent_before": status.HTTP_409_CONFLICT,
    "already_open": status.HTTP_409_CONFLICT,
    "xlsx_not_installed": status.HTTP_501_NOT_IMPLEMENTED,
    "customer_busy": status.HTTP_409_CONFLICT,
    "chats_open": status.HTTP_409_CONFLICT,
    "chats_kept": status.HTTP_409_CONFLICT,
    "rejected": status.HTTP_502_BAD_GATEWAY,
    "unknown_at_osvi": status.HTTP_502_BAD_GATEWAY,
    "unauthorized": status.HTTP_502_BAD_GATEWAY,
    "bad_answer": status.HTTP_502_BAD_GATEWAY,
    "gateway_refused": status.HTTP_502_BAD_GATEWAY,
    "busy": status.HTTP_503_SERVICE_UNAVAILABLE,
    "unreachable": status.HTTP_503_SERVICE_UNAVAILABLE,
    "busy_at_osvi": status.HTTP_503_SERVICE_UNAVAILABLE,
    "not_configured": status.HTTP_503_SERVICE_UNAVAILABLE,
    "inside_transaction": status.HTTP_503_SERVICE_UNAVAILABLE,
    "unconfirmed": status.HTTP_504_GATEWAY_TIMEOUT,
}
# Used if an error may be retried and OSVI did not say when.
RETRY_AFTER: Final = 10  # seconds
DATABASE_UNAVAILABLE: Final = _(
    "This site's database is unavailable. If you asked for a change, check the chat session "
    "before you repeat it."
)
# The most that ``errors`` lists of a body with thousands of mistakes, and ``detail`` of those.
MAX_PROBLEMS: Final = 20
MAX_SENTENCES: Final = 10
# The key of a problem that is of no one field, whatever it is elsewhere on this site.
NO_FIELD: Final = "non_field_errors"


def handle(exc: Exception, context: dict[str, Any]) -> Response | None:
    """Return the response for an error of ours or of REST framework; None for any other, a bug."""
    if isinstance(exc, Replayed):
        return exc.response
    if isinstance(exc, OSVIError | OSVINotConfigured):
        return _answer(exc, context["request"])
    if isinstance(exc, OperationalError | InterfaceError) or is_without_tables(exc):
        return _database_unavailable(exc, context)
    response = exception_handler(exc, context)
    if response is not None:
        response.data = _body_of(exc, response.data)
    return response


def _answer(error: OSVIError | OSVINotConfigured, request: Request) -> Response:
    body = {"detail": _detail_of(error), "code": error.code, "retryable": error.retryable}
    if isinstance(error, InvalidInput):
        body["errors"] = {error.field or NO_FIELD: [problem_of(error)]}
    if isinstance(error, OSVIError) and error.status is not None:
        body |= {"osvi_status": error.status, "osvi_reason": error.reason or None}
    body |= dict(_links_of(error, request))
    headers = {}
    if error.retryable:
        headers["Retry-After"] = str(math.ceil(getattr(error, "retry_after", 0) or RETRY_AFTER))
    return Response(body, _status_of(error), headers=headers)


def problem_of(error: InvalidInput) -> str:
    """Return what is wrong, for a body that has it under the name of the field."""
    return str(error).removeprefix(f"{error.field}: ")


def _links_of(error: OSVIError | OSVINotConfigured, request: Request) -> Iterator[tuple[str, str]]:
    """Yield the addresses of what the error is about; ``next`` is the one to call."""
    if error.attempt is not None:
        yield "attempt", attempt_url(error.attempt, request)
    if error.action is not None:
        yield "action", action_url(error.action, request)
    if error.session is not None:
        yield "session_id", error.session.session_id
        yield "session", session_url(error.session, request)
    if error.was_sent is None and error.attempt is not None:
        yield "next", recover_url(error.attempt.session, request)
    elif error.was_sent is None and error.action is not None:
        yield "next", action_url(error.action, request)


def _detail_of(error: OSVIError | OSVINotConfigured) -> str:
    """Return the message, which names what the caller has sent."""
    if isinstance(error, SentBefore) and not any(error.args):
        return str(error.over_rest)
    if isinstance(error, InvalidInput) and not str(error).startswith(error.field):
        return f"{error.field}: {error}"
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
    was_nothing_done = context["request"].method in SAFE_METHODS or not context["view"].is_begun
    # What is missing is there only after a migration.
    retryable = was_nothing_done and not is_without_tables(error)
    body = {"detail": DATABASE_UNAVAILABLE, "code": "database_away", "retryable": retryable}
    headers = {"Retry-After": str(RETRY_AFTER)} if retryable else {}
    return Response(body, status.HTTP_503_SERVICE_UNAVAILABLE, headers=headers)


def _body_of(exc: Exception, data: Any) -> dict[str, Any]:
    """Return the same three keys for errors of REST framework, and ``errors`` for bad input."""
    if isinstance(exc, exceptions.ValidationError):
        listed = _listed(data, iter(range(MAX_PROBLEMS)))
        detail = " ".join(islice(_sentences(listed), MAX_SENTENCES))
        return {"detail": detail, "code": "invalid", "retryable": False, "errors": listed}
    reason = data.get("detail") if isinstance(data, dict) else None
    if not isinstance(reason, exceptions.ErrorDetail):
        # A host's own authentication may put anything there.
        plain = getattr(exc, "default_detail", ""), getattr(exc, "default_code", "error")
        reason = exceptions.ErrorDetail(*plain)
    retryable = isinstance(exc, exceptions.Throttled | RequestInProgress)
    return {"detail": reason, "code": reason.code, "retryable": retryable}


def _listed(errors: Any, room: Iterator[int]) -> Any:
    """Return the first problems, as many as there is room for, by the names of this API."""
    if not isinstance(errors, dict):
        return [problem for problem in errors if next(room, None) is not None]
    named = ((_key_of(key), _listed(problems, room)) for key, problems in errors.items())
    return {key: problems for key, problems in named if problems}


def _key_of(key: object) -> object:
    return NO_FIELD if key == api_settings.NON_FIELD_ERRORS_KEY else key


def _sentences(errors: Any, named: str = "") -> Iterator[str]:
    """Yield what is wrong with each field, with a path such as ``session_ids[3]``."""
    if not isinstance(errors, dict):
        yield from (f"{named}: {problem}" if named else str(problem) for problem in errors)
        return
    for key, problems in errors.items():
        yield from _sentences(problems, _path(named, key))


def _path(named: str, key: object) -> str:
    if key == NO_FIELD:
        return named
    return f"{named}[{key}]" if isinstance(key, int) else f"{named}.{key}".removeprefix(".")
