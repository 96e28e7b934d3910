"""How far a command has come, for whoever sits at a terminal or reads a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, Generic, Protocol, TypeVar

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


class Counted(Protocol):
    """Something that is done bit by bit; ``total`` may become known on the way."""

    @property
    def total(self) -> int:
        """How many bits."""

    @property
    def done(self) -> int:
        """How many of them have come to an end."""


_T = TypeVar("_T", bound=Counted)

# How often to write a line where there is no bar.
EVERY: Final = 10.0  # seconds
# Of the sessions that could not be closed.
MOST_FAILURES: Final = 20

_NOT_CLOSED: Final = (*CloseJobItem.FAILED, CloseJobItem.Outcome.UNCONFIRMED)


@contextmanager
def progress(
    begun: _T, stream: OutputWrapper, *, line: Callable[[_T], str], unit: str, beside: Sequence[str]
) -> Iterator[Callable[[_T], None]]:
    """What is to be told how far it has come: a bar at a terminal, elsewhere now and then a line.

    ``unit`` is what the bar counts, and ``beside`` are the numbers that stand beside it.
    """
    if tqdm is None or not stream.isatty():
        yield _Lines(stream, line)
        return
    file = _Unended(stream)
    with tqdm(total=begun.total, initial=begun.done, unit=f" {unit}", file=file) as bar:
        yield lambda now: _move(bar, now, beside)


def job_progress(
    job: CloseJob, stream: OutputWrapper
) -> AbstractContextManager[Callable[[CloseJob], None]]:
    """The same for a close job."""
    beside = ("failed", "unconfirmed")
    return progress(job, stream, line=line_of, unit=_("chats"), beside=beside)


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


def _move(bar: Any, now: Counted, beside: Sequence[str]) -> None:
    bar.total = now.total
    bar.set_postfix({name: getattr(now, name) for name in beside}, refresh=False)
    bar.update(now.done - bar.n)


class _Lines(Generic[_T]):
    """Writes how far something has come, now and then."""

    def __init__(self, stream: OutputWrapper, line: Callable[[_T], str]) -> None:
        self.stream = stream
        self.line = line
        self.next_at = time.monotonic() + EVERY

    def __call__(self, now: _T) -> None:
        if time.monotonic() >= self.next_at:
            self.stream.write(self.line(now), str)
            self.next_at = time.monotonic() + EVERY


class _Unended:
    """The stream of a command for what ends its lines, or does not, by itself."""

    def __init__(self, stream: OutputWrapper) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        self.stream.write(text, str, ending="")

    def flush(self) -> None:
        self.stream.flush()
