"""The state of a job, for its page and for the script on that page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from django.utils import timezone
from django.utils.formats import localize
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from osvi_django.admin.moments import duration_text
from osvi_django.models import CloseJob, CloseJobItem
from osvi_django.services.jobs import Progress, pause_reason, progress_of, store
from osvi_django.services.jobs.progress import is_stalled
from osvi_django.services.selectors import SessionFilter

ItemOutcome = CloseJobItem.Outcome

UNFINISHED: Final = (ItemOutcome.WAITING, ItemOutcome.CLOSING)
# What is not done yet, or never was because the job was stopped.
NOT_DONE: Final = (*UNFINISHED, ItemOutcome.CANCELLED)
# In the order in which they are shown: done, failed, left.
OUTCOMES: Final = (
    *CloseJobItem.SUCCEEDED,
    *CloseJobItem.TROUBLED,
    *CloseJobItem.LEFT_OUT,
    ItemOutcome.CANCELLED,
    *reversed(UNFINISHED),
)


def state_of(job: CloseJob) -> dict[str, Any]:
    """Return the progress of a job, in numbers and in texts; a text that does not apply is ""."""
    progress = progress_of(job)
    counts = {str(outcome): progress.counts.get(outcome, 0) for outcome in OUTCOMES}
    total = sum(progress.counts.values())  # includes any outcomes of a later version
    done = total - sum(counts[outcome] for outcome in NOT_DONE)
    is_stopped = job.is_finished and job.status == CloseJob.Status.CANCELLED
    attention = store.count_needing_attention([job]).get(job.pk, 0)
    return {
        "status": job.status,
        "is_finished": job.is_finished,
        "done": done,
        "total": total,
        "counts": counts,
        "attention": attention,
        "texts": {
            "title": _title(job, done, total),
            "status": str(status_text(job, attention)),
            "trouble": pause_reason(job),
            "resumes": _resumes(job),
            "done": _stopped(job, counts, attention) if is_stopped else _done(done, total),
            "speed": _speed(progress),
            **{outcome: str(localize(number)) for outcome, number in counts.items() if number},
        },
    }


def selection_text(job: CloseJob) -> str:
    """Return in words how the sessions of a job were chosen; "" if they were named."""
    if job.selection or not job.session_filter:
        return job.selection
    return ", ".join(SessionFilter.from_json(job.session_filter).in_words())


def status_style(job: CloseJob, attention: int) -> str:
    """Return the status whose colour a job has: that of success if all is settled since."""
    is_settled = (job.failed or job.unconfirmed) and not attention
    if job.status == CloseJob.Status.COMPLETED_WITH_ERRORS and is_settled:
        return CloseJob.Status.COMPLETED
    return job.status


def status_text(job: CloseJob, attention: int) -> str:
    """Return the status of a job, and how many of its chats need attention now."""
    is_troubled = job.failed or job.unconfirmed
    if job.status != CloseJob.Status.COMPLETED_WITH_ERRORS or not is_troubled:
        return job.get_status_display()
    if not attention:
        return _("finished, all settled since")
    words = ngettext(
        "finished, %(number)s needs attention", "finished, %(number)s need attention", attention
    )
    return words % {"number": localize(attention)}


def settled_text(state: Mapping[str, Any]) -> str:
    """Return how many chats that failed or were unconfirmed are closed by now; "" if none are."""
    settled = sum(state["counts"][each] for each in CloseJobItem.TROUBLED) - state["attention"]
    if settled <= 0:
        return ""
    if not state["attention"]:
        return _("All that needed attention is settled: these chats are closed by now.")
    words = ngettext(
        "%(number)s chat that needed attention is closed by now.",
        "%(number)s chats that needed attention are closed by now.",
        settled,
    )
    return words % {"number": localize(settled)}


def duration_of(job: CloseJob) -> str:
    """Return how long a finished job took; "" if it is not finished or never started."""
    if job.finished_at is None or job.started_at is None:
        return ""
    return duration_text(round((job.finished_at - job.started_at).total_seconds()))


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


def _title(job: CloseJob, done: int, total: int) -> str:
    """Return the name of a job, with how far it is while it runs."""
    if job.is_finished:
        return str(job)
    percent = 100 * done // total if total else 100
    return _("%(percent)d %% · %(job)s") % {"percent": percent, "job": job}


def _done(done: int, total: int) -> str:
    percent = 100 * done // total if total else 100
    numbers = {"done": localize(done), "total": localize(total), "percent": percent}
    return _("%(done)s of %(total)s done (%(percent)d %%)") % numbers


def _stopped(job: CloseJob, counts: Mapping[str, int], attention: int) -> str:
    numbers = {
        "closed": sum(counts[outcome] for outcome in CloseJobItem.SUCCEEDED),
        "attention": attention,
        "left": counts[ItemOutcome.CANCELLED],
    }
    words = ngettext(
        "Stopped: %(closed)s closed, %(attention)s needs attention, %(left)s not closed",
        "Stopped: %(closed)s closed, %(attention)s need attention, %(left)s not closed",
        attention,
    )
    shown = words % {name: localize(number) for name, number in numbers.items()}
    since = store.count_closed_since(job) if numbers["left"] else 0
    return f"{shown} {_closed_since(since)}" if since else shown


def _closed_since(number: int) -> str:
    """Return why fewer chats are left than the job did not close."""
    words = ngettext(
        "(%(number)s of these is closed by now)", "(%(number)s of these are closed by now)", number
    )
    return words % {"number": localize(number)}


def _speed(progress: Progress) -> str:
    if progress.per_second is None or progress.seconds_left is None:
        return ""
    speed, left = progress.per_second, duration_text(progress.seconds_left)
    if speed < 1:
        per_minute = localize(round(60 * speed))
        return _("%(number)s a minute, about %(time)s left") % {"number": per_minute, "time": left}
    per_second = localize(round(speed, 1))
    return _("%(number)s a second, about %(time)s left") % {"number": per_second, "time": left}
