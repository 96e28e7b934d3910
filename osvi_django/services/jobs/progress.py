"""The progress of a job."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, cast

from django.db import router
from django.db.models import Count
from django.utils import timezone

from osvi_django.database import since
from osvi_django.exceptions import account_message_for_code
from osvi_django.models import CloseJob
from osvi_django.services.jobs import store
from osvi_django.validation import checks_types

JobStatus = CloseJob.Status
# A job without a heartbeat for so long is shown as stalled; clocks may differ a little.
_SHOWN_AS_STALLED_AFTER: Final = timedelta(seconds=3 * store.HEARTBEAT_INTERVAL)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The progress of a job: counts by outcome, sessions per second, and seconds remaining.

    The last two are None if there is no estimate.
    """

    counts: dict[str, int]
    per_second: float | None
    seconds_left: float | None


@checks_types
def progress_of(job: CloseJob) -> Progress:
    """Return the progress of a job."""
    outcomes = store.items(job).order_by().values_list("outcome").annotate(Count("pk"))
    rate = _rate(job)
    left = (job.total - job.done - job.cancelled) / rate if rate else None
    return Progress(counts=dict(outcomes), per_second=rate, seconds_left=left)


def is_stalled(job: CloseJob) -> bool:
    """Return whether a job is due but no worker runs it."""
    if job.is_finished or job.status == JobStatus.DRAFT:
        return False
    if job.status == JobStatus.PAUSED:
        return (
            job.resume_at is not None and timezone.now() - job.resume_at > _SHOWN_AS_STALLED_AFTER
        )
    using = router.db_for_write(CloseJob, instance=job)
    return (
        job.heartbeat_at is not None
        and since(job.heartbeat_at, using=using) > _SHOWN_AS_STALLED_AFTER
    )


def seconds_until_stalled(job: CloseJob) -> int:
    """Return after how many seconds a job with a heartbeat is stalled if its worker has died."""
    using = router.db_for_write(CloseJob, instance=job)
    heartbeat_at = cast("datetime", job.heartbeat_at)
    left = store.STALLED_AFTER - since(heartbeat_at, using=using).total_seconds()
    return int(min(max(0, left), store.STALLED_AFTER)) + 1  # clocks may differ


def pause_reason(job: CloseJob) -> str:
    """Return why a job is paused, in a sentence or two; "" for any other job."""
    return account_message_for_code(job.paused_by)


def _rate(job: CloseJob) -> float | None:
    if job.running_since is None or job.status != JobStatus.RUNNING or is_stalled(job):
        return None
    seconds = (timezone.now() - job.running_since).total_seconds()
    done = job.done - job.done_at_resume
    return done / seconds if seconds > 0 and done else None
