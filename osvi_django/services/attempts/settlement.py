"""Settle an attempt: store its outcome and release the claim."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from django.db import Error
from django.db.models import Case, F, OuterRef, QuerySet, Subquery, Value, When
from django.db.models.functions import Coalesce
from django.utils import timezone

from osvi_django.database import (
    grouped,
    packets,
    persist,
    safe_error_name,
    seconds_to_retry,
)
from osvi_django.exceptions import AnswerNotStored, OSVIRejected
from osvi_django.models import ChatSession, CloseAttempt, SessionSummary, WebhookDelivery
from osvi_django.services import selectors
from osvi_django.services.attempts import kept_answers
from osvi_django.services.attempts.claims import finish_attempts, release, stop_renewing
from osvi_django.services.attempts.error_policy import error_fields
from osvi_django.services.attempts.help_waits import help_waited
from osvi_django.services.attempts.interpret import RemoteClose
from osvi_django.services.attempts.named_agents import set_aside_named_agents
from osvi_django.services.attempts.notifications import notify_failed, send_closed
from osvi_django.services.attempts.types import (
    AttemptKind,
    AttemptOutcome,
    CloseResult,
    Failure,
    Settlement,
    Status,
    SummaryStatus,
    claim_of,
    closed_result,
)
from osvi_django.services.events import outbox
from osvi_django.services.events.outbox import Event, Fact, fact_of
from osvi_django.services.selectors import reload, rows, using

logger = logging.getLogger(__name__)
# A closed session waits for no person, and no person has it.
_CLEARED: Final[Mapping[str, Any]] = {
    "help_requested": False,
    "help_requested_at": None,
    "mode": ChatSession.Mode.AI,
    "taken_over_by": None,
    "taken_over_at": None,
    "active_human": "",
    "is_close_refused": False,
}


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


def settle(settlement: Settlement) -> CloseResult:
    """Close the session here, store its summary, and send the signal.

    Raises ``AnswerNotStored`` if the database is unavailable: the attempt holds the answer.
    """
    session = settlement.session
    try:
        changed = persist(
            lambda: bool(write_closed([settlement])),
            using=using(session),
            patience=seconds_to_retry(session.agent.account),
        )
    except Error as error:
        ids = (session.session_id, safe_error_name(error))
        logger.error("the answer for session %r waits for recovery: %s", *ids)
        raise AnswerNotStored(attempt=settlement.attempt) from None
    result = closed_result(session, changed=changed, attempt=settlement.attempt)
    if changed:
        send_closed(settlement, result.summary)
    return result


def write_closed(
    settlements: Sequence[Settlement], *, event: WebhookDelivery.Event = Event.SESSION_CLOSED
) -> list[Settlement]:
    """Close sessions and store their summaries, in the caller's transaction; return those.

    ``event``: what receivers are sent about each.
    """
    stop_renewing(
        (each.session, each.claim_token or claim_of(each.attempt)) for each in settlements
    )
    # The UPDATE comes first: in SQLite, a transaction that has read cannot start to write.
    with_text = _close_sessions(
        [each for each in settlements if each.text is not None], summary_status=SummaryStatus.STORED
    )
    without = _close_sessions([each for each in settlements if each.text is None])
    _store_summaries(with_text)
    _store_missing_status(without)
    closed = with_text + without
    set_aside_named_agents(closed)
    finish_attempts(
        [(each.attempt, each.attempt_fields) for each in closed if each.attempt is not None]
    )
    if closed:
        facts = (_fact_of_closed(event, each) for each in closed)
        outbox.write(facts, using=using(closed[0].session))
    return closed


def _fact_of_closed(event: WebhookDelivery.Event, closed: Settlement) -> Fact:
    return fact_of(event, closed.session, attempt_id=closed.attempt and closed.attempt.pk)


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
        logger.error("the settlement of attempt %s could not be written: %s", *ids)
        return
    notify_failed([failure])


def write_failed(failures: Sequence[Failure]) -> None:
    """Release sessions that were not closed, in the caller's transaction."""
    stop_renewing((each.session, each.claim_token or each.attempt.claim) for each in failures)
    for (is_open, is_refused), alike in grouped(failures, _result_of):
        claims = {each.claim_token or each.attempt.claim for each in alike}
        claimed = rows(*(each.session for each in alike)).filter(claim__in=claims)
        status = F("previous_status") if is_open else Status.UNCONFIRMED
        release(claimed, status=status, is_close_refused=is_refused)
    finish_attempts([(each.attempt, error_fields(each.error)) for each in failures])
    if failures:
        facts = (_fact_of_failed(each) for each in failures)
        outbox.write(facts, using=using(failures[0].session))


def _fact_of_failed(failed: Failure) -> Fact:
    about = {"attempt_id": failed.attempt.pk, "code": failed.error.code}
    return fact_of(Event.CLOSE_FAILED, failed.session, **about)


def _result_of(failure: Failure) -> tuple[bool, bool]:
    """Return whether the session is open, and whether OSVI considered the close and refused it."""
    is_refusal = isinstance(failure.error, OSVIRejected) and not failure.error.is_account_wide
    return failure.is_open, failure.is_open and is_refusal


def _close_sessions(settlements: Sequence[Settlement], **changes: Any) -> list[Settlement]:
    """Close the sessions of ``settlements``; return those changed.

    Those that no longer exist, or that their claim no longer holds, are left out.
    """
    now = timezone.now()
    changes |= {"closed_at": Coalesce("closed_at", now), "last_activity_at": now}
    changes |= {"close_reason": _text_given("close_reason")}
    # The order matters to MariaDB, which assigns from left to right.
    changes |= {"help_waited_seconds": help_waited(now), **_CLEARED}
    without_claim = [
        each for each in settlements if each.claim_token is None and not each.allowed_statuses
    ]
    closed = {**_closed_by(), **changes, "status": Status.CLOSED}
    if without_claim and release(_rows_of(without_claim), **closed) < len(without_claim):
        there = set(_rows_of(without_claim).values_list("pk", flat=True))
        without_claim = [each for each in without_claim if each.session.pk in there]
    with_claim = [
        each for each in settlements if each.claim_token is not None or each.allowed_statuses
    ]
    remote = {**changes, "status": Status.CLOSED}
    return without_claim + [
        each
        for each in with_claim
        if release(_matching_row(each), **(remote if _is_closed_by_osvi(each) else closed))
    ]


def _is_closed_by_osvi(settlement: Settlement) -> bool:
    """Return whether no one asked for this close through this site."""
    return settlement.attempt is None and settlement.claim_token is None


def _closed_by() -> dict[str, Case]:
    """Return who closed it, via what and how fast OSVI did it, unless it was closed before.

    Read from the journal in the UPDATE itself: one statement closes all, for any requesters, and no
    user who has been deleted meanwhile is written.
    """
    columns = {
        "closed_by": _newest("requested_by"),
        "closed_via": _text_given("via"),
        "close_seconds": _newest("osvi_seconds"),
    }
    return {name: _unless_closed(name, value) for name, value in columns.items()}


def _unless_closed(column: str, value: Any) -> Case:
    # The key of a user may be of any type.
    field: Any = ChatSession._meta.get_field(column)  # noqa: SLF001  # documented
    return Case(When(status=Status.CLOSED, then=F(column)), default=value, output_field=field)


def _text_given(column: str) -> Coalesce:
    """Return a text given with the newest attempt that may have closed the session."""
    return Coalesce(_newest(column), Value(""))


def _newest(column: str) -> Subquery:
    """Return a column of the newest attempt that may have closed the session."""
    kinds = (AttemptKind.CLOSE, AttemptKind.MARK, AttemptKind.REOPENED)
    unsent = (AttemptOutcome.NOT_SENT, AttemptOutcome.REJECTED)
    asked = CloseAttempt.objects.filter(session=OuterRef("pk"), kind__in=kinds)
    newest = asked.exclude(outcome__in=unsent).order_by("-started_at", "-id")
    return Subquery(newest.values(column)[:1])


def _matching_row(settlement: Settlement) -> QuerySet[ChatSession]:
    """Return the row of the session as a queryset, empty if it is not as it must be."""
    row = (
        rows(settlement.session).filter(status__in=settlement.allowed_statuses)
        if settlement.allowed_statuses
        else rows(settlement.session)
    )
    return row if settlement.claim_token is None else row.filter(claim=settlement.claim_token)


def _store_summaries(settlements: Sequence[Settlement]) -> None:
    """Store the texts; the sessions' rows are locked, so no other process does the same."""
    stored = _stored_summaries(settlements)
    fresh = []
    for settlement in settlements:
        written = {
            "text": settlement.text,
            "source": settlement.source,
            "received_at": timezone.now(),
        }
        if settlement.session.pk in stored:
            _summaries_of([settlement]).update(**written)
        else:
            fresh.append(SessionSummary(session=settlement.session, **written))
    for packet in packets((each, each.text) for each in fresh):
        summaries = SessionSummary.objects.using(using(settlements[0].session))
        summaries.bulk_create(each for each, _text in packet)


def _store_missing_status(settlements: Sequence[Settlement]) -> None:
    """Store why there is no summary, unless an earlier one is there."""
    stored = _stored_summaries(settlements)

    def status_of(settlement: Settlement) -> SummaryStatus:
        return (
            SummaryStatus.STORED
            if settlement.session.pk in stored
            else settlement.summary_status_if_none
        )

    for status, alike in grouped(settlements, status_of):
        _rows_of(alike).update(summary_status=status)


def _stored_summaries(settlements: Sequence[Settlement]) -> set[int]:
    """Return the keys of the sessions that have a summary."""
    return (
        set(_summaries_of(settlements).values_list("session_id", flat=True))
        if settlements
        else set()
    )


def _summaries_of(settlements: Sequence[Settlement]) -> QuerySet[SessionSummary]:
    keys = [each.session.pk for each in settlements]
    return SessionSummary.objects.using(using(settlements[0].session)).filter(session__in=keys)


def _rows_of(settlements: Sequence[Settlement]) -> QuerySet[ChatSession]:
    return rows(*(each.session for each in settlements))
