"""Read and write the rows of a job: its items, their leases and outcomes, and its counts.

An item belongs to the first worker that changes it from ``waiting``, under a lease. Its outcome is
written, and counted in the job, in the transaction that settles its session.
"""

from __future__ import annotations

import logging
import random
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, Final, cast

from django.db import router, transaction
from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet, Subquery
from django.db.models.expressions import CombinedExpression
from django.db.models.functions import Coalesce, Lower
from django.utils import timezone
from django.utils.text import Truncator
from django.utils.translation import gettext as _

from osvi_django.database import DatabaseNow
from osvi_django.exceptions import InvalidInput, OSVIError, OSVINotConfigured
from osvi_django.models import ChatAgent, ChatSession, CloseAttempt, CloseJob, CloseJobItem
from osvi_django.services.access import Purpose, condition_inside, sessions_inside
from osvi_django.services.attempts import leases
from osvi_django.services.attempts.error_policy import ItemResult
from osvi_django.services.attempts.leases import ClaimedRow, Terms
from osvi_django.services.events import outbox
from osvi_django.services.events.outbox import job_completed
from osvi_django.signals import close_job_completed

logger = logging.getLogger(__name__)
JobStatus = CloseJob.Status
ERROR_REASON_MAX_LENGTH: Final = 300

ItemOutcome = CloseJobItem.Outcome

# What identifies a job: its UUID, unique across schemas and databases, or its number in this one.
JobId = uuid.UUID | str | int

# The counter of the job in which each final outcome of an item is counted.
COUNTERS: Final[Mapping[str, str]] = {
    **dict.fromkeys(CloseJobItem.SUCCEEDED, "succeeded"),
    **dict.fromkeys(CloseJobItem.FAILED, "failed"),
    ItemOutcome.UNCONFIRMED: "unconfirmed",
    ItemOutcome.CANCELLED: "cancelled",
    **dict.fromkeys(CloseJobItem.LEFT_OUT, "left_out"),
}
UNFINISHED: Final = (ItemOutcome.WAITING, ItemOutcome.CLOSING)
# Whatever became of an item in its job, a session that is closed by now is settled.
SETTLED: Final = Q(session__status=ChatSession.Status.CLOSED)
# What was found to be open since may be closed again.
_REOPENED: Final = Q(outcome=ItemOutcome.UNCONFIRMED, session__status__in=ChatSession.OPEN)
# A job that retries nothing, because it was stopped or is not confirmed yet.
NOT_A_RETRY: Final = (JobStatus.CANCELLED, JobStatus.DRAFT)
NEEDS_ATTENTION: Final = Q(outcome__in=CloseJobItem.TROUBLED) & ~SETTLED
# How often a worker writes the heartbeat; a job without one for so long is stalled.
HEARTBEAT_INTERVAL: Final = 5.0  # seconds
STALLED_AFTER: Final = 6 * HEARTBEAT_INTERVAL  # seconds
# Each worker picks at random from so many times the rows it needs, so that workers rarely collide.
_OVERSAMPLING: Final = 4


def find(job_id: JobId) -> CloseJob:
    """Return the job of this UUID or number. Raises ``InvalidInput``."""
    jobs = CloseJob.objects.using(router.db_for_write(CloseJob)).select_related("requested_by")
    found = jobs.filter(**_named(job_id)).first()
    if found is None:
        problem = _("There is no close job %(id)s.") % {"id": job_id}
        raise InvalidInput(problem, field="job_id")
    return found


def _named(job_id: JobId) -> dict[str, object]:
    """Return the condition that finds a job: a string is a UUID and never a number."""
    if isinstance(job_id, int) and not isinstance(job_id, bool):
        return {"pk": job_id}
    try:
        return {"uuid": uuid.UUID(str(job_id))}
    except ValueError:
        return {"pk": None}  # matches no job


def start(job: CloseJob) -> bool:
    """Mark the job as running; return False if there is nothing to do in it."""
    waits = Q(status__in=(JobStatus.QUEUED, JobStatus.PAUSED))
    left = Q(status=JobStatus.RUNNING, heartbeat_at__lt=stalled_before())
    rows(job).filter(waits | left).update(
        status=JobStatus.RUNNING,
        started_at=Coalesce("started_at", timezone.now()),
        running_since=timezone.now(),
        done_at_resume=F("succeeded") + F("failed") + F("unconfirmed") + F("left_out"),
        resume_at=None,
        paused_by="",
    )
    return heartbeat(job)


def heartbeat(job: CloseJob) -> bool:
    """Write the heartbeat; return False if the job is finished or was never started."""
    started = rows(job).filter(finished_at=None).exclude(status=JobStatus.DRAFT)
    return bool(started.update(heartbeat_at=DatabaseNow()))


def pause(job: CloseJob, error: OSVIError | OSVINotConfigured, wait: float) -> None:
    """Pause the job for ``wait`` seconds, and store why."""
    rows(job).filter(status=JobStatus.RUNNING).update(
        status=JobStatus.PAUSED,
        paused_by=error.code,
        resume_at=timezone.now() + timedelta(seconds=wait),
        running_since=None,
    )


def requeue(job: CloseJob) -> None:
    """Requeue a job for another worker, unless another one holds some of it."""
    if not has_leased_items(job):
        rows(job).filter(status=JobStatus.RUNNING).update(status=JobStatus.QUEUED)


def finish(job: CloseJob) -> bool:
    """Finish the job if nothing of it is left; return whether it is finished."""
    if items(job).filter(outcome__in=UNFINISHED).exists():
        return False
    with transaction.atomic(using=_using(job), savepoint=False):
        if _write_end(job):
            outbox.write([job_completed(job)], using=_using(job))
            transaction.on_commit(partial(_notify_completed, job), using=_using(job))
    return True


def _write_end(job: CloseJob) -> int:
    """Write that nothing of the job is left; return 0 if that is known already."""
    unfinished = rows(job).filter(finished_at=None)
    ends = {"finished_at": timezone.now(), "resume_at": None, "paused_by": ""}
    ended = unfinished.filter(status=JobStatus.CANCELLED).update(**ends)
    ended += unfinished.filter(failed=0, unconfirmed=0).update(**ends, status=JobStatus.COMPLETED)
    return ended + unfinished.update(**ends, status=JobStatus.COMPLETED_WITH_ERRORS)


def _notify_completed(job: CloseJob) -> None:
    """Send the signal, after the commit, for a job that is finished or stopped."""
    logger.info("close job %s is finished", job.pk)
    if close_job_completed.has_listeners(CloseJob):
        close_job_completed.send_robust(CloseJob, job=find(job.pk))


def lock_if_finished(job: CloseJob) -> bool:
    """Lock the row of a job for the caller's transaction; return False if it is not finished."""
    return bool(rows(job).filter(finished_at__isnull=False).update(heartbeat_at=DatabaseNow()))


def is_cancelled(job: CloseJob) -> bool:
    """Return whether the job is cancelled, so that nothing more of it is started."""
    return rows(job).filter(status=JobStatus.CANCELLED).exists()


def cancel_waiting(job: CloseJob) -> None:
    """Cancel what has not been started, in a transaction that has locked the job's row."""
    cancelled = items(job).filter(outcome=ItemOutcome.WAITING).update(outcome=ItemOutcome.CANCELLED)
    rows(job).update(cancelled=F("cancelled") + cancelled)


def refuse_waiting(job: CloseJob, account: str, error: InvalidInput) -> None:
    """Settle the waiting items of an account that are not closed for this reason."""
    reason = Truncator(str(error)).chars(ERROR_REASON_MAX_LENGTH)
    waiting = items(job).filter(outcome=ItemOutcome.WAITING, account=account)
    number = waiting.update(
        outcome=ItemOutcome.NOT_SENT, error_code=error.code, error_reason=reason
    )
    rows(job).update(failed=F("failed") + number)


def accounts(job: CloseJob) -> list[str]:
    """Return the accounts of the items that are waiting or stalled."""
    stalled = Q(leases.expired(), outcome=ItemOutcome.CLOSING)
    left = items(job).filter(Q(outcome=ItemOutcome.WAITING) | stalled)
    return list(left.order_by().values_list("account", flat=True).distinct())


def has_leased_items(job: CloseJob) -> bool:
    """Return whether some item has a lease that is not over."""
    return items(job).filter(outcome=ItemOutcome.CLOSING, lease_until__gte=DatabaseNow()).exists()


def is_last(job: CloseJob, item: CloseJobItem) -> bool:
    """Return whether no other item of its account is left in the job."""
    left = items(job).filter(outcome__in=UNFINISHED, account=item.account)
    return not left.exclude(pk=item.pk).exists()


def fetch_waiting_ids(job: CloseJob, account: str, number: int) -> list[int]:
    """Return the keys of up to ``number`` waiting items, chosen at random."""
    waiting = items(job).filter(outcome=ItemOutcome.WAITING, account=account)
    choice = list(waiting.values_list("pk", flat=True)[: number * _OVERSAMPLING])
    return sorted(random.sample(choice, min(number, len(choice))))  # not used for a secret


def lease_items(
    job: CloseJob, chosen: Sequence[int], token: uuid.UUID, lease: Terms
) -> list[CloseJobItem]:
    """Lease the chosen items that are still waiting, in the caller's transaction."""
    chosen_items = _of_keys(job, chosen)
    seconds = leases.start_renewing(_claimed_rows(job, chosen, token), lease)
    chosen_items.filter(outcome=ItemOutcome.WAITING).update(
        outcome=ItemOutcome.CLOSING, claim=token, lease_until=_seconds_from_now(seconds)
    )
    # Includes rows leased by an earlier try whose commit succeeded without our learning of it.
    leased = list(
        chosen_items.filter(claim=token).select_related("session").defer("session__metadata")
    )
    _stop_renewing_others(job, chosen, leased, token)
    _share_agents([item.session for item in leased if item.session])
    return leased


def note_goodbyes(job: CloseJob, leased: Sequence[CloseJobItem]) -> None:
    """Note on these items that their customers are written to, whatever becomes of this process."""
    _still_claimed(job, leased).filter(goodbye="").update(goodbye=CloseJobItem.Goodbye.UNKNOWN)


def _share_agents(sessions: Sequence[ChatSession]) -> None:
    """Set the agents of sessions, which share a few of them."""
    rows = ChatAgent.objects.using(router.db_for_write(ChatAgent))
    agents = rows.in_bulk({each.agent_id for each in sessions})
    for session in sessions:
        if session.agent_id not in agents:  # the session has moved to another agent
            session.refresh_from_db(using=rows.db, fields=["agent"])
        session.agent = agents.get(session.agent_id) or rows.get(pk=session.agent_id)


def lease_stalled_items(
    job: CloseJob, account: str, number: int, token: uuid.UUID, lease: Terms
) -> list[CloseJobItem]:
    """Lease up to ``number`` items whose worker has died, or whose snooze is over.

    In the caller's transaction.
    """
    expired = items(job).filter(leases.expired(), outcome=ItemOutcome.CLOSING)
    chosen = list(expired.filter(account=account).values_list("pk", flat=True)[:number])
    # The check and the close may each take as long as a close.
    seconds = leases.start_renewing(
        _claimed_rows(job, chosen, token), replace(lease, longest=2 * lease.longest)
    )
    # The attempt is that of the dead worker's claim, which MariaDB reads before it is changed.
    leased = {"attempt": _attempt_made(), "claim": token, "lease_until": _seconds_from_now(seconds)}
    expired.filter(pk__in=chosen).update(**leased)
    # Includes rows leased by an earlier try, as in ``lease_items``.
    leased_items = items(job).filter(outcome=ItemOutcome.CLOSING, claim=token)
    found = list(leased_items.select_related("session__agent"))
    _stop_renewing_others(job, chosen, found, token)
    return found


def _attempt_made() -> Coalesce:
    """Return the attempt that the holder of an item has made, or the one known before."""
    made = CloseAttempt.objects.filter(session=OuterRef("session"), claim=OuterRef("claim"))
    return Coalesce(Subquery(made.values("pk")[:1]), "attempt")


def snooze(job: CloseJob, leased: Sequence[CloseJobItem], wait: float = 0) -> None:
    """Let these be rescued in ``wait`` seconds: others have, or may have had, their sessions."""
    stop_renewing(job, leased)
    _still_claimed(job, leased).update(lease_until=_seconds_from_now(wait))


def claimed_row(job: CloseJob, item: CloseJobItem) -> ClaimedRow:
    """Return the row of a leased item, as its claim holds it."""
    return ClaimedRow(
        table=CloseJobItem, using=_using(job), pk=item.pk, claim=cast("uuid.UUID", item.claim)
    )


def stop_renewing(job: CloseJob, leased: Sequence[CloseJobItem]) -> None:
    """Stop renewing the leases of these items: they are settled, or to be rescued."""
    leases.stop_renewing(claimed_row(job, item) for item in leased)


def settle(job: CloseJob, results: Sequence[tuple[CloseJobItem, ItemResult]]) -> None:
    """Store the results of items and count them, in the caller's transaction.

    Items that another worker has taken over are left to that worker.
    """
    stop_renewing(job, [item for item, _result in results])
    if any(result.outcome == ItemOutcome.WAITING for _item, result in results):
        heartbeat(job)  # locks the row: a job must not be cancelled between this and the commit
    counts: Counter[str] = Counter()
    for result, alike in _alike(results).items():
        settled = _still_claimed(job, alike).update(
            outcome=result.outcome,
            error_code=result.code,
            error_reason=result.reason,
            goodbye=result.goodbye,
            attempt=_attempt_made(),
            lease_until=None,
        )
        counts[COUNTERS.get(result.outcome, "")] += settled
    counts.pop("", None)
    _count(job, {name: F(name) + number for name, number in counts.items()})


def _count(job: CloseJob, counts: Mapping[str, CombinedExpression]) -> None:
    """Add to the counts of the job; if it was cancelled since, nothing waits any more."""
    changes = {**counts, "heartbeat_at": DatabaseNow()}
    not_cancelled = rows(job).exclude(status=JobStatus.CANCELLED)
    if not not_cancelled.update(**changes) and rows(job).update(**changes):
        cancel_waiting(job)


def stalled_before() -> CombinedExpression:
    """Return the time before which a job's last heartbeat makes it stalled."""
    return _seconds_from_now(-STALLED_AFTER)


def rows(job: CloseJob) -> QuerySet[CloseJob]:
    """Return the job's row as a queryset, to filter and update."""
    return CloseJob.objects.using(_using(job)).filter(pk=job.pk)


def items(job: CloseJob) -> QuerySet[CloseJobItem]:
    """Return the job's items as a queryset."""
    return CloseJobItem.objects.using(_using(job)).filter(job=job)


def items_with_sessions(job: CloseJob) -> QuerySet[CloseJobItem]:
    """Return the job's items with their sessions as they are now.

    The outcome of an item is the record of the job; its session may have been settled since.
    """
    return items(job).select_related("session__agent", "attempt").defer("session__metadata")


def items_needing_attention(job: CloseJob) -> QuerySet[CloseJobItem]:
    """Return the items that failed or are unconfirmed, and whose sessions are still not closed."""
    return items_with_sessions(job).filter(NEEDS_ATTENTION)


def count_needing_attention(jobs: Sequence[CloseJob]) -> dict[int, int]:
    """Return, by the keys of these jobs, how many items need attention now, in one query."""
    keys = [job.pk for job in jobs if job.failed or job.unconfirmed]
    if not keys:
        return {}
    troubled = CloseJobItem.objects.using(_using(jobs[0])).filter(NEEDS_ATTENTION, job__in=keys)
    return dict(troubled.order_by().values_list("job").annotate(Count("pk")))


def retryable_items(
    job: CloseJob, *, user: Any, include_cancelled: bool = False
) -> QuerySet[CloseJobItem]:
    """Return the items that failed safely, and whose sessions this site knows by now.

    Of those, ``user`` retries the sessions inside their own access; None all.
    Those that are unconfirmed in the job, and whose sessions were found to be open, are among them.
    With ``include_cancelled`` also those that were not started, without those in a later job.
    """
    asked = OuterRef("requested_session_id")
    # UUIDs may be named in upper case; OSVI writes them in lower case.
    sessions = ChatSession.objects.using(_using(job))
    seen = sessions_inside(sessions, user, Purpose.CLOSE)
    known = seen.filter(session_id__in=(asked, Lower(asked)))
    inside = condition_inside(user, Purpose.CLOSE, path="session", using=_using(job))
    outcomes = (*CloseJobItem.FAILED, *((ItemOutcome.CANCELLED,) if include_cancelled else ()))
    failed = items(job).filter(~SETTLED, Q(outcome__in=outcomes) | _REOPENED)
    failed = failed.filter((Q(session__isnull=False) & inside) | Exists(known))
    return failed.exclude(Exists(_retried(job))) if include_cancelled else failed


def count_closed_since(job: CloseJob) -> int:
    """Return how many items were not started when the job was stopped, and are closed by now."""
    return items(job).filter(SETTLED, outcome=ItemOutcome.CANCELLED).count()


def _retried(job: CloseJob) -> QuerySet[CloseJobItem]:
    """Return the items of retries of a job that ask for the same session as an outer item."""
    retries = CloseJob.objects.filter(retry_of=job).exclude(status__in=NOT_A_RETRY)
    same = OuterRef("requested_session_id")
    return CloseJobItem.objects.filter(job__in=retries, requested_session_id=same)


def sessions_waiting(job: CloseJob) -> QuerySet[ChatSession]:
    """Return the sessions of the items that are waiting."""
    waiting = items(job).filter(outcome=ItemOutcome.WAITING).values("session")
    return ChatSession.objects.using(_using(job)).filter(pk__in=waiting)


def unconfirmed_sessions(job: CloseJob, *, after: int = 0) -> QuerySet[ChatSession]:
    """Return the sessions of unconfirmed items that are still unconfirmed, by their keys."""
    asked = items(job).filter(outcome=ItemOutcome.UNCONFIRMED).values("session")
    sessions = ChatSession.objects.using(_using(job)).filter(pk__in=asked, pk__gt=after)
    dead = Q(leases.expired(), status=ChatSession.Status.CLOSING)
    unknown = sessions.filter(dead | Q(status=ChatSession.Status.UNCONFIRMED))
    return unknown.select_related("agent").defer("metadata").order_by("pk")


def _still_claimed(job: CloseJob, leased: Sequence[CloseJobItem]) -> QuerySet[CloseJobItem]:
    """Return those of these items that no other worker has taken over."""
    rows_of_items = _of_keys(job, [item.pk for item in leased])
    return rows_of_items.filter(
        claim__in={item.claim for item in leased}, outcome=ItemOutcome.CLOSING
    )


def _claimed_rows(job: CloseJob, keys: Sequence[int], token: uuid.UUID) -> list[ClaimedRow]:
    using = _using(job)
    return [ClaimedRow(table=CloseJobItem, using=using, pk=key, claim=token) for key in keys]


def _stop_renewing_others(
    job: CloseJob, chosen: Sequence[int], leased: Sequence[CloseJobItem], token: uuid.UUID
) -> None:
    """Stop renewing leases of chosen items that another worker has leased first."""
    keys = set(chosen).difference(item.pk for item in leased)
    leases.stop_renewing(_claimed_rows(job, list(keys), token))


def _of_keys(job: CloseJob, keys: Sequence[int]) -> QuerySet[CloseJobItem]:
    """Return items by key only: with the job too, PostgreSQL may read all items of the job."""
    return CloseJobItem.objects.using(_using(job)).filter(pk__in=keys)


def _alike(
    results: Sequence[tuple[CloseJobItem, ItemResult]],
) -> dict[ItemResult, list[CloseJobItem]]:
    alike: dict[ItemResult, list[CloseJobItem]] = {}
    for item, result in results:
        alike.setdefault(result, []).append(item)
    return alike


def _seconds_from_now(seconds: float) -> CombinedExpression:
    return DatabaseNow() + timedelta(seconds=seconds)


def _using(job: CloseJob) -> str:
    return router.db_for_write(CloseJob, instance=job)
