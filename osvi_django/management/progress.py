"""The progress of a command, for a terminal or a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, Generic, Protocol, TypeVar

from django.core.management.base import OutputWrapper
from django.utils.translation import gettext as _

from osvi_django.exceptions import message_for_code
from osvi_django.models import CloseJob, CloseJobItem
from osvi_django.services.jobs import progress_of, store

try:
    from tqdm import tqdm
except ImportError:  # it comes with the extra "progress"
    tqdm = None  # type: ignore[assignment,misc]


class Counted(Protocol):
    """Work in steps; ``total`` may become known later."""

    @property
    def total(self) -> int:
        """Return the number of steps."""

    @property
    def done(self) -> int:
        """Return how many steps are done."""


_T = TypeVar("_T", bound=Counted)

# How often to write a line if there is no bar.
EVERY: Final = 10.0  # seconds
# How many failures are listed.
MAX_FAILURES: Final = 20

_NOT_CLOSED: Final = (*CloseJobItem.FAILED, CloseJobItem.Outcome.UNCONFIRMED)


@contextmanager
def progress(
    begun: _T,
    stream: OutputWrapper,
    *,
    line: Callable[[_T], str],
    unit: str,
    postfix: Sequence[str],
) -> Iterator[Callable[[_T], None]]:
    """Yield a function that shows progress: a bar in a terminal, else a line at intervals.

    ``unit`` is what the bar counts; ``postfix`` provides the numbers next to it.
    """
    if tqdm is None or not stream.isatty():
        yield _Lines(stream, line)
        return
    file = _Unended(stream)
    with tqdm(total=begun.total, initial=begun.done, unit=f" {unit}", file=file) as bar:
        yield lambda now: _move(bar, now, postfix)


def job_progress(
    job: CloseJob, stream: OutputWrapper
) -> AbstractContextManager[Callable[[CloseJob], None]]:
    """Return the same for a close job."""
    postfix = ("failed", "unconfirmed")
    return progress(job, stream, line=line_of, unit=_("chats"), postfix=postfix)


def line_of(job: CloseJob) -> str:
    """Return a job in one line, with the codes that programs know."""
    line = _(
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
    if not job.left_out:
        return line
    return line + _(", %(left_out)s left out") % {"left_out": job.left_out}


def summary_of(job: CloseJob) -> Iterator[str]:
    """Yield a summary of a job: the number of each outcome, and the first failures."""
    yield line_of(job)
    counts = progress_of(job).counts
    for outcome in CloseJobItem.Outcome:
        if number := counts.get(outcome):
            yield f"{number:>9}  {outcome.label}"
    yield from _failures(job)


def _failures(job: CloseJob) -> Iterator[str]:
    failed = store.items(job).filter(outcome__in=_NOT_CLOSED)
    for item in failed[:MAX_FAILURES]:
        detail = message_for_code(item.error_code, item.error_reason)
        yield f"{item.requested_session_id!r}: {item.get_outcome_display()}. {detail}".rstrip()
    more = job.failed + job.unconfirmed - MAX_FAILURES
    if more > 0:
        yield _("and %(more)d more") % {"more": more}


def _move(bar: Any, now: Counted, postfix: Sequence[str]) -> None:
    bar.total = now.total
    bar.set_postfix({name: getattr(now, name) for name in postfix}, refresh=False)
    bar.update(now.done - bar.n)


class _Lines(Generic[_T]):
    """Write the progress at intervals."""

    def __init__(self, stream: OutputWrapper, line: Callable[[_T], str]) -> None:
        self.stream = stream
        self.line = line
        self.next_at = time.monotonic() + EVERY

    def __call__(self, now: _T) -> None:
        if time.monotonic() >= self.next_at:
            self.stream.write(self.line(now), str)
            self.next_at = time.monotonic() + EVERY


class _Unended:
    """A command's stream for a writer that ends its own lines."""

    def __init__(self, stream: OutputWrapper) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        self.stream.write(text, str, ending="")

    def flush(self) -> None:
        self.stream.flush()
