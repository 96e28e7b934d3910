"""The rows of a job: who has which of its sessions, what became of them, and how far it has come.

An item goes to whoever changes it from ``waiting`` first, and is held by a lease. What becomes of
it is written, and counted in the job, in the transaction that settles its session.
"""

from __future__ import annotations

import random
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

from django.db import router
from django.db.models import F, OuterRef, Q, QuerySet, Subquery
from django.db.models.expressions import CombinedExpression
from django.db.models.functions import Coalesce
from django.utils import timezone
from django.utils.translation import gettext as _

from osvi_django.exceptions import InvalidInput, OSVIError, OSVINotConfigured
from osvi_django.models import ChatAgent, ChatSession, CloseAttempt, CloseJob, CloseJobItem
from osvi_django.services.steps import DatabaseNow
from osvi_django.services.verdicts import Verdict

Outcome = CloseJobItem.Outcome
JobStatus = CloseJob.Status

# Where each end of an item is counted in its job.
COUNTERS: Final[Mapping[str, str]] = {
    **dict.fromkeys(CloseJobItem.SUCCEEDED, "succeeded"),
    **dict.fromkeys(CloseJobItem.FAILED, "failed"),
    Outcome.UNCONFIRMED: "unconfirmed",
    Outcome.CANCELLED: "cancelled",
}
ON_THE_WAY: Final = (Outcome.WAITING, Outcome.CLOSING)
# How often whoever runs a job says that it is alive; without that for so long, nobody runs it.
SIGN_OF_LIFE: Final = 5.0  # seconds
ABANDONED_AFTER: Final = 6 * SIGN_OF_LIFE  # seconds
# Of how many times as many as it needs each process chooses, so that several seldom want the same.
_CHOICE: Final = 4


def find(job_id: int) -> CloseJob:
    """The job of this key. Raises ``InvalidInput``."""
    alias = router.db_for_write(CloseJob)
    found = CloseJob.objects.using(alias).select_related("requested_by").filter(pk=job_id).first()
    if found is None:
        problem = _("There is no close job %(id)s.") % {"id": job_id}
        raise InvalidInput(problem, field="job_id")
    return found


def begin(job: CloseJob) -> bool:
    """Say that the job is at work; False where there is nothing to do in it."""
    waits = Q(status__in=(JobStatus.QUEUED, JobStatus.PAUSED))
    left = Q(status=JobStatus.RUNNING, seen_at__lt=silence())
    rows(job).filter(waits | left).update(
        status=JobStatus.RUNNING,
        started_at=Coalesce("started_at", timezone.now()),
        running_since=timezone.now(),
        done_before=F("succeeded") + F("failed") + F("unconfirmed"),
        resume_at=None,
        paused_by="",
    )
    return say_alive(job)


def say_alive(job: CloseJob) -> bool:
    """Leave a sign of life; False where the job is finished, or was never begun."""
    begun = rows(job).filter(finished_at=None).exclude(status=JobStatus.DRAFT)
    return bool(begun.update(seen_at=DatabaseNow()))


def pause(job: CloseJob, error: OSVIError | OSVINotConfigured, wait: float) -> None:
    """Say why nothing is done, and for how many seconds to leave it so."""
    rows(job).filter(status=JobStatus.RUNNING).update(
        status=JobStatus.PAUSED,
        paused_by=error.code,
        resume_at=timezone.now() + timedelta(seconds=wait),
        running_since=None,
    )


def leave(job: CloseJob) -> None:
    """Let a job that nobody else has under way wait for whoever goes on with it."""
    if not others_are_at_it(job):
        rows(job).filter(status=JobStatus.RUNNING).update(status=JobStatus.QUEUED)


def finish(job: CloseJob) -> bool:
    """End the job where nothing of it is left; whether that is so."""
    if items(job).filter(outcome__in=ON_THE_WAY).exists():
        return False
    unfinished = rows(job).filter(finished_at=None)
    ends = {"finished_at": timezone.now(), "resume_at": None, "paused_by": ""}
    unfinished.filter(status=JobStatus.CANCELLED).update(**ends)
    unfinished.filter(failed=0, unconfirmed=0).update(**ends, status=JobStatus.COMPLETED)
    unfinished.update(**ends, status=JobStatus.COMPLETED_WITH_ERRORS)
    return True


def hold_finished(job: CloseJob) -> bool:
    """Lock the row of a finished job for the caller's transaction; False where it is not one."""
    return bool(rows(job).filter(finished_at__isnull=False).update(seen_at=DatabaseNow()))


def is_cancelled(job: CloseJob) -> bool:
    """Whether nothing more of it is to be begun."""
    return rows(job).filter(status=JobStatus.CANCELLED).exists()


def cancel_waiting(job: CloseJob) -> None:
    """Give up what has not been begun, in a transaction that has locked the job's row."""
    given_up = items(job).filter(outcome=Outcome.WAITING).update(outcome=Outcome.CANCELLED)
    rows(job).update(cancelled=F("cancelled") + given_up)


def accounts(job: CloseJob) -> list[str]:
    """The accounts of whatever waits or was abandoned."""
    abandoned = Q(outcome=Outcome.CLOSING, lease_until__lt=DatabaseNow())
    left = items(job).filter(Q(outcome=Outcome.WAITING) | abandoned)
    return list(left.order_by().values_list("account", flat=True).distinct())


def others_are_at_it(job: CloseJob) -> bool:
    """Whether some of it is held by a lease that is not over."""
    return items(job).filter(outcome=Outcome.CLOSING, lease_until__gte=DatabaseNow()).exists()


def next_waiting(job: CloseJob, account: str, number: int) -> list[int]:
    """The keys of up to ``number`` items that wait."""
    waiting = items(job).filter(outcome=Outcome.WAITING, account=account)
    choice = list(waiting.values_list("pk", flat=True)[: number * _CHOICE])
    return sorted(random.sample(choice, min(number, len(choice))))  # no secret


def take(
    job: CloseJob, chosen: Sequence[int], token: uuid.UUID, lease: float
) -> list[CloseJobItem]:
    """Claim those of the chosen that still wait, in the caller's transaction."""
    mine = _of_keys(job, chosen)
    mine.filter(outcome=Outcome.WAITING).update(
        outcome=Outcome.CLOSING, claim=token, lease_until=_in(lease)
    )
    # Also those of a try before this, where the commit arrived and the word of it did not.
    taken = list(mine.filter(claim=token).select_related("session").defer("session__metadata"))
    _share_agents([item.session for item in taken if item.session])
    return taken


def _share_agents(sessions: Sequence[ChatSession]) -> None:
    """Give sessions their agents, of which there are few."""
    rows = ChatAgent.objects.using(router.db_for_write(ChatAgent))
    agents = rows.in_bulk({each.agent_id for each in sessions})
    for session in sessions:
        if session.agent_id not in agents:  # it has become another one's in between
            session.refresh_from_db(fields=["agent"])
        session.agent = agents.get(session.agent_id) or rows.get(pk=session.agent_id)


def take_abandoned(
    job: CloseJob, account: str, number: int, token: uuid.UUID, lease: float
) -> list[CloseJobItem]:
    """Claim up to ``number`` whose closers did not come back, or whose turn has come.

    In the caller's transaction.
    """
    over = items(job).filter(outcome=Outcome.CLOSING, lease_until__lt=DatabaseNow())
    chosen = list(over.filter(account=account).values_list("pk", flat=True)[:number])
    # The attempt is that of whoever had it, by a claim that MariaDB must read before it is changed.
    taken = {"attempt": _attempt_made(), "claim": token, "lease_until": _in(lease)}
    over.filter(pk__in=chosen).update(**taken)
    # Also those of a try before this, as in ``take``.
    mine = items(job).filter(outcome=Outcome.CLOSING, claim=token)
    return list(mine.select_related("session__agent", "attempt"))


def _attempt_made() -> Coalesce:
    """The attempt that whoever holds an item has made, else the one that is known."""
    made = CloseAttempt.objects.filter(session=OuterRef("session"), claim=OuterRef("claim"))
    return Coalesce(Subquery(made.values("pk")[:1]), "attempt")


def come_back(job: CloseJob, held: Sequence[CloseJobItem], wait: float = 0) -> None:
    """Look at these again in ``wait`` seconds: others have their sessions, or nobody knows."""
    _held(job, held).update(lease_until=_in(wait))


def settle(job: CloseJob, verdicts: Sequence[tuple[CloseJobItem, Verdict]]) -> None:
    """Write down what becomes of items and count it, in the caller's transaction.

    Those that another process has taken over meanwhile are left to that one.
    """
    if any(verdict.outcome == Outcome.WAITING for _item, verdict in verdicts):
        say_alive(job)  # locks the row: a job must not be cancelled between this and the commit
    counts: Counter[str] = Counter()
    for verdict, alike in _alike(verdicts).items():
        settled = _held(job, alike).update(
            outcome=verdict.outcome,
            error_code=verdict.code,
            error_reason=verdict.reason,
            attempt=_attempt_made(),
            lease_until=None,
        )
        counts[COUNTERS.get(verdict.outcome, "")] += settled
    counts.pop("", None)
    _count(job, {name: F(name) + number for name, number in counts.items()})


def _count(job: CloseJob, counts: Mapping[str, CombinedExpression]) -> None:
    """Add to what the job has come to; where it was cancelled meanwhile, nothing waits any more."""
    told = {**counts, "seen_at": DatabaseNow()}
    goes_on = rows(job).exclude(status=JobStatus.CANCELLED)
    if not goes_on.update(**told) and rows(job).update(**told):
        cancel_waiting(job)


def silence() -> CombinedExpression:
    """The moment before which whoever runs a job must have given its last sign of life."""
    return _in(-ABANDONED_AFTER)


def rows(job: CloseJob) -> QuerySet[CloseJob]:
    """The job's row, as something to filter and update."""
    return CloseJob.objects.using(_using(job)).filter(pk=job.pk)


def items(job: CloseJob) -> QuerySet[CloseJobItem]:
    """The rows of its sessions."""
    return CloseJobItem.objects.using(_using(job)).filter(job=job)


def _held(job: CloseJob, held: Sequence[CloseJobItem]) -> QuerySet[CloseJobItem]:
    """Those of these items that nobody else has taken over."""
    mine = _of_keys(job, [item.pk for item in held])
    return mine.filter(claim__in={item.claim for item in held}, outcome=Outcome.CLOSING)


def _of_keys(job: CloseJob, keys: Sequence[int]) -> QuerySet[CloseJobItem]:
    """By their keys alone: told of the job as well, PostgreSQL may read the whole of it."""
    return CloseJobItem.objects.using(_using(job)).filter(pk__in=keys)


def _alike(
    verdicts: Sequence[tuple[CloseJobItem, Verdict]],
) -> dict[Verdict, list[CloseJobItem]]:
    alike: dict[Verdict, list[CloseJobItem]] = {}
    for item, verdict in verdicts:
        alike.setdefault(verdict, []).append(item)
    return alike


def _in(seconds: float) -> CombinedExpression:
    return DatabaseNow() + timedelta(seconds=seconds)


def _using(job: CloseJob) -> str:
    return router.db_for_write(CloseJob, instance=job)
