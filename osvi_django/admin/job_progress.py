"""The state of a job, for its page and for the script on that page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from django.utils import timezone
from django.utils.formats import localize
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from osvi_django.models import CloseJob, CloseJobItem
from osvi_django.services.jobs import Progress, pause_reason, progress_of
from osvi_django.services.jobs.progress import is_stalled

ItemOutcome = CloseJobItem.Outcome

UNFINISHED: Final = (ItemOutcome.WAITING, ItemOutcome.CLOSING)
FAILURES: Final = (*CloseJobItem.FAILED, ItemOutcome.UNCONFIRMED)
# In the order in which they are shown: done, failed, left.
OUTCOMES: Final = (
    *CloseJobItem.SUCCEEDED,
    *FAILURES,
    ItemOutcome.NO_LONGER_MATCHES,
    ItemOutcome.CANCELLED,
    *reversed(UNFINISHED),
)


def state_of(job: CloseJob) -> dict[str, Any]:
    """Return the progress of a job, in numbers and in texts; a text that does not apply is ""."""
    progress = progress_of(job)
    counts = {str(outcome): progress.counts.get(outcome, 0) for outcome in OUTCOMES}
    total = sum(progress.counts.values())  # includes any outcomes of a later version
    done = total - sum(counts[outcome] for outcome in UNFINISHED)
    is_stopped = job.is_finished and job.status == CloseJob.Status.CANCELLED
    return {
        "status": job.status,
        "is_finished": job.is_finished,
        "done": done,
        "total": total,
        "counts": counts,
        "texts": {
            "status": str(status_text(job)),
            "trouble": pause_reason(job),
            "resumes": _resumes(job),
            "done": _stopped(counts) if is_stopped else _done(done, total),
            "speed": _speed(progress),
            **{outcome: str(localize(number)) for outcome, number in counts.items() if number},
        },
    }


def status_text(job: CloseJob) -> str:
    """Return the status of a job, and how many of its chats need attention."""
    number = job.failed + job.unconfirmed
    if job.status != CloseJob.Status.COMPLETED_WITH_ERRORS or not number:
        return job.get_status_display()
    words = ngettext(
        "finished, %(number)s needs attention", "finished, %(number)s need attention", number
    )
    return words % {"number": localize(number)}


def duration_of(job: CloseJob) -> str:
    """Return how long a finished job took; "" if it is not finished or never started."""
    if job.finished_at is None or job.started_at is None:
        return ""
    return duration_text(round((job.finished_at - job.started_at).total_seconds()))


def duration_text(seconds: float) -> str:
    """Return a time to wait in words, rounded up to seconds: an hour needs no seconds."""
    whole = max(1, math.ceil(seconds))
    if whole < 100:
        return ngettext("%(number)d second", "%(number)d seconds", whole) % {"number": whole}
    minutes = round(whole / 60)
    if minutes < 100:
        return ngettext("%(number)d minute", "%(number)d minutes", minutes) % {"number": minutes}
    hours = round(minutes / 60)
    return ngettext("%(number)d hour", "%(number)d hours", hours) % {"number": hours}


def _resumes(job: CloseJob) -> str:
    if is_stalled(job):
        return _(
            "This job is waiting. If it does not start in a few minutes, tell your administrator "
            "(osvi_worker)."
        )
    if job.resume_at is None:
        return ""
    wait = (job.resume_at - timezone.now()).total_seconds()
    if wait <= 0:
        return _("It continues automatically in a moment.")
    return _("It continues automatically in about %(time)s.") % {"time": duration_text(wait)}


def _done(done: int, total: int) -> str:
    percent = 100 * done // total if total else 100
    numbers = {"done": localize(done), "total": localize(total), "percent": percent}
    return _("%(done)s of %(total)s done (%(percent)d %%)") % numbers


def _stopped(counts: Mapping[str, int]) -> str:
    numbers = {
        "closed": sum(counts[outcome] for outcome in CloseJobItem.SUCCEEDED),
        "attention": sum(counts[outcome] for outcome in FAILURES),
        "left": counts[ItemOutcome.CANCELLED],
    }
    words = _("Stopped: %(closed)s closed, %(attention)s need attention, %(left)s not closed")
    return words % {name: localize(number) for name, number in numbers.items()}


def _speed(progress: Progress) -> str:
    if progress.per_second is None or progress.seconds_left is None:
        return ""
    speed, left = progress.per_second, duration_text(progress.seconds_left)
    if speed < 1:
        per_minute = localize(round(60 * speed))
        return _("%(number)s a minute, about %(time)s left") % {"number": per_minute, "time": left}
    per_second = localize(round(speed, 1))
    return _("%(number)s a second, about %(time)s left") % {"number": per_second, "time": left}
