"""The responses of errors: for each status the codes that it may have, and an example of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from rest_framework import exceptions as framework
from rest_framework.exceptions import APIException

from osvi_django import exceptions as ours
from osvi_django.exceptions import CallError, InvalidInput, OSVIRejected
from osvi_django.rest.errors import DATABASE_UNAVAILABLE, STATUSES
from osvi_django.rest.idempotency import KeyReused, RequestInProgress
from osvi_django.rest.parsing import BodyTooLarge, LengthRequired
from osvi_django.rest.rendering import (
    JSON_MEDIA_TYPE,
    PROBLEM_MEDIA_TYPE,
    problem_of,
    title_of,
)
from osvi_django.rest.schema.examples import SESSION
from osvi_django.rest.schema.headers import headers_of
from osvi_django.rest.schema.nodes import (
    ADDRESS,
    BOOLEAN,
    INTEGER,
    STRING,
    Components,
    Node,
    array_of,
    nullable,
    object_of,
)

_HEADERS: Final = {
    401: ("WWW-Authenticate",),
    405: ("Allow",),
    409: ("Retry-After",),
    429: ("Retry-After",),
    502: ("Retry-After",),
    503: ("Retry-After",),
}


@dataclass(frozen=True, kw_only=True)
class Family:
    """Errors that some operations have in common, beside those of the families before it."""

    name: str = ""
    errors: tuple[type[CallError | APIException], ...]
    before: Family | None = None

    def lines(self) -> Iterator[tuple[int, str, Any]]:
        """Yield the status, the code and the class of each error, those of all come first."""
        if self.before is not None:
            yield from self.before.lines()
        else:
            yield 503, "database_away", None
        for error in self.errors:
            for status in _statuses_of(error):
                yield status, _code_of(error), error

    def owner_of(self, status: int) -> str:
        """Return the name of the last family that adds something to a status."""
        adds = any(status in _statuses_of(error) for error in self.errors)
        return self.name if adds or self.before is None else self.before.owner_of(status)


READ: Final = Family(
    errors=(
        InvalidInput,
        framework.NotAuthenticated,
        framework.AuthenticationFailed,
        ours.NotAllowed,
        ours.SessionNotFound,
        framework.MethodNotAllowed,
        framework.NotAcceptable,
        framework.Throttled,
        ours.OSVINotConfigured,
    )
)
EXPORT: Final = Family(
    name="Export", before=READ, errors=(ours.TooManyRows, ours.ExportNotInstalled)
)
# Any POST.
WRITE: Final = Family(
    name="Write",
    before=READ,
    errors=(
        framework.ParseError,
        RequestInProgress,
        LengthRequired,
        BodyTooLarge,
        framework.UnsupportedMediaType,
        KeyReused,
    ),
)
# The erasure of a customer.
ERASE: Final = Family(
    name="Erase",
    before=WRITE,
    errors=(
        ours.CustomerBusy,
        ours.CustomerChatsOpen,
        ours.CustomerKept,
    ),
)
# A request for which OSVI is asked.
CALL: Final = Family(
    name="Call",
    before=WRITE,
    errors=(
        ours.OSVIRejected,
        ours.OSVIUnknown,
        ours.OSVIUnauthorized,
        ours.OSVIBadAnswer,
        ours.OSVIGatewayRefused,
        ours.Busy,
        ours.OSVIUnreachable,
        ours.OSVIThrottled,
        ours.InsideTransaction,
        ours.OSVINoAnswer,
    ),
)
CLOSE: Final = Family(name="Close", before=CALL, errors=(ours.CloseInProgress, ours.UnknownStatus))
_OPERATE: Final = (
    ours.SessionClosed,
    ours.UnknownStatus,
    ours.WrongMode,
    ours.TakeOverChanged,
    ours.SentBefore,
)
OPERATE: Final = Family(name="Operate", before=CALL, errors=_OPERATE)
SUPPORT: Final = Family(name="Support", before=CLOSE, errors=_OPERATE)
START: Final = Family(name="Start", before=CLOSE, errors=(ours.AlreadyOpen,))


def responses_of(family: Family, components: Components) -> Node:
    """Return the responses of an operation whose errors are of this family."""
    return {str(status): _response(family, status, components) for status in _all(family)}


def _all(family: Family) -> list[int]:
    return sorted({status for status, _code, _error in family.lines()})


def _response(family: Family, status: int, components: Components) -> Node:
    lines = {code: error for line, code, error in family.lines() if line == status}
    name = f"{family.owner_of(status)}Error{status}"
    codes = components.schema(f"{name}Code", {"type": "string", "enum": list(lines)})
    body = components.schema(name, _body(codes, status))
    problem = components.schema("Problem", _problem())
    examples = {code: {"value": example_of(code, error)} for code, error in lines.items()}
    problems = {
        code: {"value": problem_of(status, example["value"])} for code, example in examples.items()
    }
    response = {
        "description": title_of(status),
        "headers": headers_of(("ETag", *_HEADERS.get(status, ())), components),
        "content": {
            JSON_MEDIA_TYPE: {"schema": body, "examples": examples},
            PROBLEM_MEDIA_TYPE: {"schema": {"allOf": [problem, body]}, "examples": problems},
        },
    }
    return components.response(name, response)


def _body(codes: Node, status: int) -> Node:
    """Return the schema of an error: what is always there, and what may be there."""
    always = {"detail": STRING, "code": codes, "retryable": BOOLEAN}
    sometimes = {
        "osvi_status": INTEGER,
        "osvi_reason": nullable(STRING),
        "attempt": ADDRESS,
        "action": ADDRESS,
        "session_id": STRING,
        "session": ADDRESS,
        "next": ADDRESS,
    }
    if status == HTTPStatus.BAD_REQUEST:
        problems = {"description": "The problems of each field.", "type": "object"}
        sometimes = {"errors": {**problems, "additionalProperties": _PROBLEMS}}
    return object_of(always | sometimes, required=list(always))


# Those of a field, or of the items or fields inside it.
_PROBLEMS: Final[Node] = {"anyOf": [array_of(STRING), {"type": "object"}]}


def _problem() -> Node:
    members: Node = {"type": STRING, "title": STRING, "status": INTEGER}
    return object_of(members)


def example_of(code: str, error: Any) -> Node:
    """Return the body of an error of this class; None is the database's own."""
    if error is None:
        return {"detail": DATABASE_UNAVAILABLE, "code": code, "retryable": True}
    is_framework = issubclass(error, APIException)
    detail = error.default_detail if is_framework else getattr(error, "message", error.__doc__)
    retryable = error in {framework.Throttled, RequestInProgress}
    if not is_framework:
        retryable = error.retryable
    body: Node = {"detail": str(detail), "code": code, "retryable": retryable}
    if error is InvalidInput:
        body["errors"] = {"customer_id": ["This field is required."]}
        body["detail"] = "customer_id: This field is required."
    elif not is_framework and issubclass(error, OSVIRejected):
        body |= {"osvi_status": 422, "osvi_reason": "The session is locked."}
    elif not is_framework and error.was_sent is None:
        body |= {"attempt": f"{SESSION}attempts/17/", "next": f"{SESSION}recover/"}
    return body


def _code_of(error: Any) -> str:
    return str(error.default_code if issubclass(error, APIException) else error.code)


def _statuses_of(error: Any) -> tuple[int, ...]:
    if not issubclass(error, APIException):
        return (STATUSES[error.code],)
    if issubclass(error, framework.NotAuthenticated | framework.AuthenticationFailed):
        # It depends on which of the host's authentication classes comes first.
        return (HTTPStatus.UNAUTHORIZED.value, HTTPStatus.FORBIDDEN.value)
    return (int(error.status_code),)
