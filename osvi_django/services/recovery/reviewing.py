"""Summaries that staff take from answers that cannot be trusted."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from django.db import router
from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.utils.translation import gettext as _

from osvi_django import database
from osvi_django.client.responses import (
    guess_summary,
    names_another,
)
from osvi_django.database import persist, refuse_inside_transaction
from osvi_django.exceptions import InvalidInput, generic_messages
from osvi_django.models import ChatSession, CloseAttempt, SessionSummary
from osvi_django.redaction import HiddenText, hides
from osvi_django.services import selectors
from osvi_django.services.attempts import claims, notifications, settlement, types
from osvi_django.services.attempts.kept_answers import (
    CHUNK,
    UNREAD,
    answer_of,
    find_summary,
)
from osvi_django.services.attempts.types import (
    CLOSED_FIELDS,
    AttemptKind,
    AttemptOutcome,
    CloseResult,
    RequestOrigin,
    Settlement,
    Status,
    User,
)
from osvi_django.services.events.outbox import Event
from osvi_django.services.permissions import require_close
from osvi_django.validation import ANSWER_MAX_BYTES, checks_types

Source = SessionSummary.Source
# These sessions are known to be closed, or a user must state so.
_NOT_OPEN: Final = (Status.CLOSED, Status.UNCONFIRMED)
# The HTTP statuses of answers that are not an error of OSVI's own.
_NO_ERROR: Final = range(200, 300)
# Longer than any that OSVI's answers can hold.
SUMMARY_MAX_LENGTH: Final = ANSWER_MAX_BYTES


@dataclass(frozen=True, kw_only=True)
class Review:
    """A stored answer for staff to read: ``text`` is all of it, ``summary`` a possible summary."""

    text: str = field(repr=False)
    summary: str = field(repr=False)
    is_incomplete: bool
    names_another: bool


def without_summary() -> Iterator[ChatSession]:
    """Yield sessions that are not open, have no summary, and have answers to read again."""
    alias = router.db_for_write(ChatSession)
    answers = CloseAttempt.objects.using(alias).filter(session=OuterRef("pk")).exclude(answer="")
    missing = ChatSession.objects.using(alias).filter(status__in=_NOT_OPEN)
    missing = missing.filter(~Q(summary_status__in=ChatSession.HAD_SUMMARY), Exists(answers))
    return by_key(missing.select_related("agent").defer("metadata"))


def by_key(sessions: QuerySet[ChatSession]) -> Iterator[ChatSession]:
    """Yield each once, in pages, so that few are in memory."""
    last = 0
    while page := list(sessions.filter(pk__gt=last).order_by("pk")[:CHUNK]):
        yield from page
        last = page[-1].pk


def store_summary(session: ChatSession) -> bool:
    """Store the summary of a session without one, if a stored answer has it; return whether."""
    read = find_summary(session, tuple(AttemptOutcome))
    if read is None:
        return False
    result = Settlement(
        session=session,
        attempt=read.attempt,
        text=read.text,
        allowed_statuses=_NOT_OPEN,
        attempt_fields=CLOSED_FIELDS,
    )
    return _store(result, unless_from=tuple(Source))


def is_reviewable(attempt: CloseAttempt) -> bool:
    """Return whether staff may read its answer: it is stored and could not be parsed.

    The page of an error of OSVI's own holds no summary.
    """
    status = attempt.http_status
    return attempt.outcome in UNREAD and status is not None and status in _NO_ERROR


def reviewable_attempts(session: ChatSession) -> QuerySet[CloseAttempt]:
    """Return attempts whose answer staff may read, newest first, without the answer."""
    answered = selectors.attempts(session).filter(
        outcome__in=UNREAD, http_status__gte=_NO_ERROR.start, http_status__lt=_NO_ERROR.stop
    )
    return answered.defer("answer", "answer_bytes")


def can_take_summary(session: ChatSession) -> bool:
    """Return whether staff may take a summary: it is not open, and OSVI's own is not stored."""
    own = SessionSummary.objects.using(selectors.using(session)).filter(session=session)
    return session.status in _NOT_OPEN and not own.filter(source=Source.OSVI).exists()


def review_of(attempt: CloseAttempt) -> Review:
    """Return a stored answer for staff to review."""
    answer = answer_of(attempt)
    return Review(
        text=answer.text,
        summary=guess_summary(answer),
        is_incomplete=answer.incomplete or answer.truncated,
        names_another=names_another(answer, attempt.session.session_id),
    )


@hides("text", "note")
@checks_types
def take_reviewed_summary(
    attempt: CloseAttempt,
    *,
    text: str,
    requested_by: User | None = None,
    via: str = "code",
    note: str = "",
) -> CloseResult:
    """Store ``text`` as the summary, as decided by a user who has read a stored answer.

    This closes nothing that is open; an unconfirmed session becomes closed. Raises
    ``InsideTransaction``, ``NotAllowed``, ``SessionNotFound``, and ``InvalidInput`` if the attempt
    has no answer to review, the session is open or being closed, OSVI's own summary is stored, or
    the text is empty or too long.
    """
    session = attempt.session
    with generic_messages():
        refuse_inside_transaction(selectors.using(session))
    require_close(requested_by, session)
    request = RequestOrigin(requested_by=requested_by, via=via, note=note)
    text = _checked(text)
    if not is_reviewable(attempt):
        raise InvalidInput(_("This attempt has no answer to review."), field="attempt")
    claims.expire_lease(session)
    if not _store_reviewed(session, text, request):
        raise _refusal(session)
    return types.closed_result(
        session,
        changed=True,
        attempt=selectors.attempts(session).filter(kind=AttemptKind.REVIEW).first(),
    )


def _checked(text: str) -> str:
    text = HiddenText(text.strip())
    if not text:
        raise InvalidInput(_("text is required: enter the summary."), field="text")
    if len(text) > SUMMARY_MAX_LENGTH:
        problem = _("%(field)s is too long: use at most %(length)d characters.")
        values = {"field": "text", "length": SUMMARY_MAX_LENGTH}
        raise InvalidInput(problem % values, field="text")
    return text


@hides("text")
def _store_reviewed(session: ChatSession, text: str, request: RequestOrigin) -> bool:
    token = uuid.uuid4()

    def journal(result: Settlement) -> Settlement:
        (attempt,) = claims.write_attempts([session], request, token, AttemptKind.REVIEW)
        return replace(result, attempt=attempt)

    result = Settlement(
        session=session, attempt=None, text=text, source=Source.REVIEWED, allowed_statuses=_NOT_OPEN
    )
    return _store(result, unless_from=(Source.OSVI,), journal=journal)


def _store(
    result: Settlement,
    *,
    unless_from: Sequence[Source],
    journal: Callable[[Settlement], Settlement] = lambda result: result,
) -> bool:
    """Store a summary unless one of these sources is stored; return whether it was stored."""
    session = result.session
    stored = SessionSummary.objects.using(selectors.using(session)).filter(session=session)

    def work() -> list[Settlement]:
        # The UPDATE comes first and locks the row, so no other process stores one before the
        # commit.
        was_closed = _lock(session, Status.CLOSED)
        locked = was_closed or _lock(session, Status.UNCONFIRMED)
        if not locked or stored.filter(source__in=unless_from).exists():
            return []
        event = Event.SUMMARIZED if was_closed else Event.SESSION_CLOSED
        later.append(was_closed)
        return settlement.write_closed([journal(result)], event=event)

    later: list[bool] = []
    closed = persist(work, using=selectors.using(session), patience=database.PATIENCE_BEFORE)
    notifications.notify_closed(closed)
    if closed and later[-1]:
        notifications.notify_summarized(session)
    selectors.reload(session)
    return bool(closed)


def _lock(session: ChatSession, status: Status) -> bool:
    """Lock the row of a session for the caller's transaction, if it has this status."""
    return bool(selectors.rows(session).filter(status=status).update(status=F("status")))


def _refusal(session: ChatSession) -> InvalidInput:
    selectors.reload(session)
    if session.status not in _NOT_OPEN:
        problem = _("This chat session is open or being closed, so it has no summary yet.")
        return InvalidInput(problem, field="status")
    problem = _("OSVI's own summary of this chat session is already stored.")
    return InvalidInput(problem, field="summary")
