"""How far a close job has come, for whoever sits at a terminal or reads a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Generic, TypeVar

from django.core.management.base import OutputWrapper
from django.utils.translation import gettext as _

from osvi_django.exceptions import describe
from osvi_django.models import CloseJob, CloseJobItem
from osvi_django.services import ledger
from osvi_django.services.jobs import progress_of

try:
    from tqdm import tqdm
except ImportError:  # it comes with the extra "progress"
    tqdm = None  # type: ignore[assignment,misc]

_T = TypeVar("_T")

# How often to write a line where there is no bar.
EVERY: Final = 10.0  # seconds
# Of the sessions that could not be closed.
MOST_FAILURES: Final = 20

_NOT_CLOSED: Final = (*CloseJobItem.FAILED, CloseJobItem.Outcome.UNCONFIRMED)


@contextmanager
def progress(job: CloseJob, stream: OutputWrapper) -> Iterator[Callable[[CloseJob], None]]:
    """What is to be told how far the job has come: a bar at a terminal, lines elsewhere."""
    if tqdm is None or not stream.isatty():
        yield Lines(stream, line_of)
        return
    with tqdm(total=job.total, initial=job.done, unit=" chats", file=_Unended(stream)) as bar:
        yield partial(_move, bar)


def line_of(job: CloseJob) -> str:
    """A job in one line, by the words that programs know."""
    return _(
        "Close job %(id)s: %(status)s, %(done)s of %(total)s done: %(succeeded)s closed, "
        "%(failed)s failed, %(unconfirmed)s unconfirmed, %(cancelled)s cancelled"
    ) % {
        "id": job.pk,
        "status": job.status,
        "total": job.total,
        "done": job.done,
        "succeeded": job.succeeded,
        "failed": job.failed,
        "unconfirmed": job.unconfirmed,
        "cancelled": job.cancelled,
    }


def summary_of(job: CloseJob) -> Iterator[str]:
    """A job in a few lines: how many of each outcome, and the first that could not be closed."""
    yield line_of(job)
    counts = progress_of(job).counts
    for outcome in CloseJobItem.Outcome:
        if number := counts.get(outcome):
            yield f"{number:>9}  {outcome.label}"
    yield from _failures(job)


def _failures(job: CloseJob) -> Iterator[str]:
    failed = ledger.items(job).filter(outcome__in=_NOT_CLOSED)
    for item in failed[:MOST_FAILURES]:
        detail = describe(item.error_code, item.error_reason)
        yield f"{item.asked_id!r}: {item.get_outcome_display()}. {detail}".rstrip()
    more = job.failed + job.unconfirmed - MOST_FAILURES
    if more > 0:
        yield _("and %(more)d more") % {"more": more}


def _move(bar: Any, job: CloseJob) -> None:
    bar.set_postfix(failed=job.failed, unconfirmed=job.unconfirmed, refresh=False)
    bar.update(job.done - bar.n)


class Lines(Generic[_T]):
    """Writes how far something has come, now and then."""

    def __init__(self, stream: OutputWrapper, line_of: Callable[[_T], str]) -> None:
        self.stream = stream
        self.line_of = line_of
        self.next_at = time.monotonic() + EVERY

    def __call__(self, progress: _T) -> None:
        """Write a line where it is time for one."""
        if time.monotonic() >= self.next_at:
            self.stream.write(self.line_of(progress), str)
            self.next_at = time.monotonic() + EVERY


class _Unended:
    """The stream of a command for what ends its lines, or does not, by itself."""

    def __init__(self, stream: OutputWrapper) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        self.stream.write(text, str, ending="")

    def flush(self) -> None:
        self.stream.flush()
