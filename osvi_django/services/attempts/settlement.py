"""Settle an attempt: store its outcome and release the claim."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from django.db import Error
from django.db.models import F, QuerySet
from django.db.models.functions import Coalesce
from django.utils import timezone

from osvi_django.database import (
    grouped,
    packets,
    persist,
    safe_error_name,
    seconds_to_retry,
)
from osvi_django.exceptions import (
    AnswerNotStored,
)
from osvi_django.models import ChatSession, SessionSummary
from osvi_django.services import selectors
from osvi_django.services.attempts import kept_answers
from osvi_django.services.attempts.claims import drop, end_attempts, release
from osvi_django.services.attempts.error_policy import error_fields
from osvi_django.services.attempts.interpret import RemoteClose
from osvi_django.services.attempts.notifications import notify_failed, send_closed
from osvi_django.services.attempts.types import (
    AttemptOutcome,
    CloseResult,
    Failure,
    Settlement,
    Status,
    SummaryStatus,
    claim_of,
    closed_result,
)
from osvi_django.services.selectors import reload, rows, using


def remote_close_of(session: ChatSession) -> RemoteClose:
    """Return what is stored about a session that OSVI closed without us; it may have an answer."""
    found = kept_answers.find_summary(session)
    return RemoteClose(
        text=found.text if found else None,
        summary_status_if_none=missing_summary_status(session),
    )


def missing_summary_status(session: ChatSession) -> SummaryStatus:
    """Return why a session closed at OSVI without us has no summary; our close may have had it."""
    unanswered = selectors.attempts(session).filter(
        outcome__in=(AttemptOutcome.NO_ANSWER, AttemptOutcome.BAD_ANSWER)
    )
    return SummaryStatus.LOST if unanswered.exists() else SummaryStatus.NOT_PROVIDED


logger = logging.getLogger(__name__)


def settle(end: Settlement) -> CloseResult:
    """Close the session here, store its summary, and send the signal.

    Raises ``AnswerNotStored`` if the database is unavailable: the attempt holds the answer.
    """
    session = end.session
    try:
        changed = persist(
            lambda: bool(write_closed([end])),
            using=using(session),
            patience=seconds_to_retry(session.agent.account),
        )
    except Error as error:
        ids = (session.session_id, safe_error_name(error))
        logger.error("the answer for session %r waits for recovery: %s", *ids)
        raise AnswerNotStored(attempt=end.attempt) from None
    result = closed_result(session, changed=changed, attempt=end.attempt)
    if changed:
        send_closed(end, result.summary)
    return result


def write_closed(ends: Sequence[Settlement]) -> list[Settlement]:
    """Close sessions and store their summaries, in the caller's transaction; return those."""
    drop((end.session, end.claim_token or claim_of(end.attempt)) for end in ends)
    # The UPDATE comes first: in SQLite, a transaction that has read cannot start to write.
    with_text = _end(
        [end for end in ends if end.text is not None], summary_status=SummaryStatus.STORED
    )
    without = _end([end for end in ends if end.text is None])
    _store_summaries(with_text)
    _say_missing(without)
    closed = with_text + without
    end_attempts([(end.attempt, end.attempt_fields) for end in closed if end.attempt is not None])
    return closed


def settle_failed(failure: Failure) -> None:
    """Release a session that was not closed, or may have been, and send the signal."""
    session, attempt = failure.session, failure.attempt
    failure.error.attempt = attempt

    def work() -> None:
        write_failed([failure])
        reload(session)

    try:
        persist(work, using=using(session), patience=seconds_to_retry(session.agent.account))
    except Error as caught:
        # The lease runs out and recovery asks OSVI; the error raised is still the original one.
        ids = (attempt.pk, safe_error_name(caught))
        logger.error("the end of attempt %s could not be written: %s", *ids)
        return
    notify_failed([failure])


def write_failed(failures: Sequence[Failure]) -> None:
    """Release sessions that were not closed, in the caller's transaction."""
    drop((each.session, each.claim_token or each.attempt.claim) for each in failures)
    for is_open, alike in grouped(failures, lambda each: each.is_open):
        claims = {each.claim_token or each.attempt.claim for each in alike}
        ours = rows(*(each.session for each in alike)).filter(claim__in=claims)
        release(ours, status=F("previous_status") if is_open else Status.UNCONFIRMED)
    end_attempts([(each.attempt, error_fields(each.error)) for each in failures])


def _end(ends: Sequence[Settlement], **changes: Any) -> list[Settlement]:
    """Close the sessions of ``ends``; return those that exist and, if required, are still held."""
    now = timezone.now()
    changes |= {"status": Status.CLOSED, "closed_at": Coalesce("closed_at", now)}
    changes["last_activity_at"] = now
    free = [end for end in ends if end.claim_token is None and not end.allowed_statuses]
    if free and release(_rows_of(free), **changes) < len(free):
        there = set(_rows_of(free).values_list("pk", flat=True))
        free = [end for end in free if end.session.pk in there]
    bound = [end for end in ends if end.claim_token is not None or end.allowed_statuses]
    return free + [end for end in bound if release(_still(end), **changes)]


def _still(end: Settlement) -> QuerySet[ChatSession]:
    """Return the row of the session as a queryset, empty if it is not as it must be."""
    row = (
        rows(end.session).filter(status__in=end.allowed_statuses)
        if end.allowed_statuses
        else rows(end.session)
    )
    return row if end.claim_token is None else row.filter(claim=end.claim_token)


def _store_summaries(ends: Sequence[Settlement]) -> None:
    """Store the texts; the sessions' rows are locked, so no other process does the same."""
    stored = _stored_summaries(ends)
    fresh = []
    for end in ends:
        written = {
            "text": end.text,
            "source": end.source,
            "received_at": timezone.now(),
        }
        if end.session.pk in stored:
            _summaries_of([end]).update(**written)
        else:
            fresh.append(SessionSummary(session=end.session, **written))
    for packet in packets((each, each.text) for each in fresh):
        summaries = SessionSummary.objects.using(using(ends[0].session))
        summaries.bulk_create(each for each, _text in packet)


def _say_missing(ends: Sequence[Settlement]) -> None:
    """Store why there is no summary, unless an earlier one is there."""
    stored = _stored_summaries(ends)

    def status_of(end: Settlement) -> SummaryStatus:
        return SummaryStatus.STORED if end.session.pk in stored else end.summary_status_if_none

    for status, alike in grouped(ends, status_of):
        _rows_of(alike).update(summary_status=status)


def _stored_summaries(ends: Sequence[Settlement]) -> set[int]:
    """Return the keys of the sessions that have a summary."""
    return set(_summaries_of(ends).values_list("session_id", flat=True)) if ends else set()


def _summaries_of(ends: Sequence[Settlement]) -> QuerySet[SessionSummary]:
    keys = [end.session.pk for end in ends]
    return SessionSummary.objects.using(using(ends[0].session)).filter(session__in=keys)


def _rows_of(ends: Sequence[Settlement]) -> QuerySet[ChatSession]:
    return rows(*(end.session for end in ends))
