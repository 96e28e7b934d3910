"""Calls of the sandbox's own, to create a situation from outside its process, such as with curl.

OSVI has none of them. They are not recorded among the requests, and faults do not meet them.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from osvi_django.testing.account import Account, ReceivedRequest
from osvi_django.testing.answers import Answer, success
from osvi_django.testing.calls import (
    Fields,
    RefusedError,
    answer_by,
    find_session,
    read_fields,
    route,
)
from osvi_django.testing.faults import Drop, Status

PREFIX: Final = "/sandbox/"
_STATUSES: Final = range(300, 600)


def is_control(path: str) -> bool:
    """Return whether a request is for the sandbox itself."""
    return path.startswith(PREFIX)


def control(account: Account, request: ReceivedRequest) -> Answer:
    """Carry out one request and return its answer; the caller holds the account's lock."""
    return answer_by(CONTROLS, account, request, lambda: _fields_of(request))


def _fields_of(request: ReceivedRequest) -> dict[str, Any]:
    """Return the JSON object of a request; no body is an empty one."""
    return read_fields(request) if request.raw else {}


def _request_help(account: Account, fields: Fields) -> Answer:
    session = find_session(account, fields["id"])
    return success(account.request_help(session.id).as_json())


def _customer_writes(account: Account, fields: Fields) -> Answer:
    session = find_session(account, fields["id"])
    return success(account.customer_writes(session.id, fields["text"]).as_json())


def _fail(account: Account, fields: Fields) -> Answer:
    """Let the next call about a session fail: with a status, or after it was done, unanswered."""
    session, status = find_session(account, fields["id"]), fields.get("status")
    if status is not None and status not in _STATUSES:
        raise RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, "status must be from 300 to 599")
    account.script(session.id, Drop(after_closing=True) if status is None else Status(status))
    return success(session.as_json())


CONTROLS: Final = (
    route("POST", f"{PREFIX}{{id}}/request_help", _request_help, {}),
    route("POST", f"{PREFIX}{{id}}/customer_writes", _customer_writes, {"text": str}),
    route("POST", f"{PREFIX}{{id}}/fail", _fail, {}, status=int),
)
