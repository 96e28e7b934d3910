"""Stored answers, read again by the current parser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from osvi_django.client.responses import (
    Answer,
    ClosedSession,
    read_closed,
)
from osvi_django.exceptions import OSVIError
from osvi_django.models import ChatSession, CloseAttempt
from osvi_django.services import selectors
from osvi_django.services.attempts.types import (
    AttemptOutcome,
)
from osvi_django.validation import ANSWER_MAX_BYTES

# The answer of an attempt that ended like this may hold a summary.
UNREAD: Final = (AttemptOutcome.ANSWERED, AttemptOutcome.BAD_ANSWER, AttemptOutcome.NO_ANSWER)
CHUNK: Final = 200


@dataclass(frozen=True, kw_only=True)
class ParsedAnswer:
    """An attempt whose answer says that the session is closed, and the summary in it."""

    attempt: CloseAttempt
    text: str | None = field(repr=False)


def answer_of(attempt: CloseAttempt) -> Answer:
    """Return the answer that the journal holds."""
    if attempt.answer_bytes is not None:
        body, longest = bytes(attempt.answer_bytes), ANSWER_MAX_BYTES - 1
    else:
        # If it was cut, that was at a whole character, of at most four bytes.
        body, longest = attempt.answer.encode(), ANSWER_MAX_BYTES - 4
    return Answer(
        status=attempt.http_status or 0,
        body=body,
        truncated=len(body) > longest,
        incomplete=attempt.answer_incomplete,
        charset=attempt.answer_charset,
    )


def find_summary(
    session: ChatSession, outcomes: Sequence[AttemptOutcome] = UNREAD
) -> ParsedAnswer | None:
    """Return the newest stored answer that has the summary of this session."""
    return next((each for each in _read_again(session, outcomes) if each.text), None)


def find_close(session: ChatSession) -> ParsedAnswer | None:
    """Return the newest stored answer that says that this session is closed."""
    return next(_read_again(session, UNREAD), None)


def _read_again(session: ChatSession, outcomes: Sequence[AttemptOutcome]) -> Iterator[ParsedAnswer]:
    answered = selectors.attempts(session).filter(outcome__in=outcomes).exclude(answer="")
    # One at a time: each may be a megabyte.
    for key in list(answered.values_list("pk", flat=True)):
        attempt = answered.filter(pk=key).first()
        closed = _closed_in(session, attempt) if attempt else None
        if attempt and closed:
            yield ParsedAnswer(attempt=attempt, text=closed.summary)


def _closed_in(session: ChatSession, attempt: CloseAttempt) -> ClosedSession | None:
    try:
        return read_closed(answer_of(attempt), session.session_id)
    except OSVIError:
        return None
