"""What is said of a job while it is at work: the same to its page and to the script on it."""

from __future__ import annotations

import math
from typing import Any, Final

from django.utils import timezone
from django.utils.formats import localize
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from osvi_django.models import CloseJob, CloseJobItem
from osvi_django.services.jobs import Progress, is_left_alone, progress_of, trouble_of

Outcome = CloseJobItem.Outcome

ON_THE_WAY: Final = (Outcome.WAITING, Outcome.CLOSING)
FAILURES: Final = (*CloseJobItem.FAILED, Outcome.UNCONFIRMED)
# In the order in which they are shown: what is done, what went wrong, what is left.
OUTCOMES: Final = (*CloseJobItem.SUCCEEDED, *FAILURES, Outcome.CANCELLED, *reversed(ON_THE_WAY))


def state_of(job: CloseJob) -> dict[str, Any]:
    """How far a job has come, in numbers and in words; a word that does not apply is ""."""
    progress = progress_of(job)
    counts = {str(outcome): progress.counts.get(outcome, 0) for outcome in OUTCOMES}
    total = sum(counts.values())
    done = total - sum(counts[outcome] for outcome in ON_THE_WAY)
    return {
        "status": job.status,
        "is_finished": job.is_finished,
        "done": done,
        "total": total,
        "counts": counts,
        "texts": {
            "status": job.get_status_display(),
            "trouble": trouble_of(job),
            "resumes": _resumes(job),
            "done": _done(done, total),
            "pace": _pace(progress),
            **{outcome: str(localize(number)) for outcome, number in counts.items() if number},
        },
    }


def took(job: CloseJob) -> str:
    """For how long a finished job was at work; "" where it is not finished, or never began."""
    if job.finished_at is None or job.started_at is None:
        return ""
    return spoken((job.finished_at - job.started_at).total_seconds())


def spoken(seconds: float) -> str:
    """A time as somebody would say it: nobody needs the seconds of an hour."""
    whole = max(1, math.ceil(seconds))
    if whole < 100:
        return ngettext("%(number)d second", "%(number)d seconds", whole) % {"number": whole}
    minutes = round(whole / 60)
    if minutes < 100:
        return ngettext("%(number)d minute", "%(number)d minutes", minutes) % {"number": minutes}
    hours = round(minutes / 60)
    return ngettext("%(number)d hour", "%(number)d hours", hours) % {"number": hours}


def _resumes(job: CloseJob) -> str:
    if is_left_alone(job):
        return _(
            "Nobody is at work on it just now. Should that stay so, manage.py osvi_work goes on "
            "with it."
        )
    if job.resume_at is None:
        return ""
    wait = (job.resume_at - timezone.now()).total_seconds()
    if wait <= 0:
        return _("It goes on by itself in a moment.")
    return _("It goes on by itself in about %(time)s.") % {"time": spoken(wait)}


def _done(done: int, total: int) -> str:
    percent = 100 * done // total if total else 100
    numbers = {"done": localize(done), "total": localize(total), "percent": percent}
    return _("%(done)s of %(total)s done (%(percent)d %%)") % numbers


def _pace(progress: Progress) -> str:
    if progress.per_second is None or progress.seconds_left is None:
        return ""
    speed, left = progress.per_second, spoken(progress.seconds_left)
    if speed < 1:
        per_minute = localize(round(60 * speed))
        return _("%(number)s a minute, about %(time)s left") % {"number": per_minute, "time": left}
    per_second = localize(round(speed, 1))
    return _("%(number)s a second, about %(time)s left") % {"number": per_second, "time": left}
