"""Threads that use the database too, for work that is slow and takes more than one call."""

from __future__ import annotations

import logging
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from typing import Final, Generic, TypeVar

from django.db import connections

from osvi_django.contexts import ThreadContext
from osvi_django.database import safe_error_name
from osvi_django.models import ChatSession
from osvi_django.services.summaries import has_summarizer, summarize_by_key

_T = TypeVar("_T")

logger = logging.getLogger(__name__)


class ThreadSlots:
    """A limit on how many threads with their own connections exist at once."""

    def __init__(self, number: int = sys.maxsize) -> None:
        self.free = number
        self._lock = threading.Lock()

    def acquire(self) -> None:
        """Take one slot."""
        with self._lock:
            self.free -= 1

    def release(self) -> None:
        """Release one slot; any thread may call this."""
        with self._lock:
            self.free += 1


class DatabaseThreads(Generic[_T]):
    """One thread per task, with its own connections while the task runs.

    Its methods are for one thread, which submits only if a slot is free. ``signal`` is set when a
    task has ended.
    """

    def __init__(
        self, name: str, using: str, signal: threading.Event, slots: ThreadSlots | None = None
    ) -> None:
        self.slots = slots or ThreadSlots()
        self._name = name
        self._using = using
        self._signal = signal
        self._futures: set[Future[_T]] = set()

    @property
    def running(self) -> int:
        """Return how many tasks were submitted and not collected."""
        return len(self._futures)

    @property
    def has_results(self) -> bool:
        """Return whether there is something to collect."""
        return any(future.done() for future in self._futures)

    def submit(self, work: Callable[[], _T]) -> None:
        """Run work in a new thread in this context, or here if the system has no thread left."""
        future: Future[_T] = Future()
        self._futures.add(future)
        self.slots.acquire()
        future.add_done_callback(self._on_done)
        # No other connection sees what a TestCase has in its transaction.
        if connections[self._using].in_atomic_block:
            _carry_out(future, work)
            return
        context = ThreadContext()
        target = partial(
            _carry_out, future, partial(_with_own_connections, partial(context.run, work))
        )
        try:
            threading.Thread(target=target, name=self._name, daemon=True).start()
        except RuntimeError:
            _carry_out(future, work)

    def collect(self) -> list[_T]:
        """Return the results of the tasks that have ended.

        An error in a task is logged by its class name, and the task has no result.
        """
        done = {future for future in self._futures if future.done()}
        self._futures -= done
        for future in done:
            if error := future.exception():
                logger.error("a thread %s ended with %s", self._name, safe_error_name(error))
        return [future.result() for future in done if future.exception() is None]

    def _on_done(self, _future: Future[_T]) -> None:
        self.slots.release()
        self._signal.set()


def _with_own_connections(work: Callable[[], _T]) -> _T:
    try:
        return work()
    finally:
        connections.close_all()


def _carry_out(future: Future[_T], work: Callable[[], _T]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001  # logged when it is collected
        future.set_exception(error)


# The maximum of threads: each has a connection, and the summarizer may be a language model.
MAX_THREADS: Final = 4


class SummaryThreads(DatabaseThreads[None]):
    """Threads in which this site's own function writes the summaries of one job."""

    def __init__(
        self, using: str, signal: threading.Event, slots: ThreadSlots | None = None
    ) -> None:
        super().__init__("osvi-writer", using, signal, slots or ThreadSlots(MAX_THREADS))
        self._waiting: deque[int] = deque()
        self._is_stopped = False

    def add_sessions(self, sessions: Iterable[ChatSession]) -> None:
        """Queue these sessions if their account has a summarizer."""
        self._waiting.extend(each.pk for each in sessions if has_summarizer(each.agent.account))

    def poll(self) -> bool:
        """Start as many as there are free threads; return whether to wait for any of them."""
        self.collect()
        while self._waiting and self.slots.free and not self._is_stopped:
            self.submit(partial(summarize_by_key, self._waiting.popleft()))
        return self.running > 0 or bool(self._waiting and not self._is_stopped)

    def stop_accepting(self) -> None:
        """Start no more: ``manage.py osvi_summarize`` writes those that still wait."""
        self._is_stopped = True

    def shutdown(self) -> None:
        """Log how many were not started."""
        if self._waiting:
            logger.warning("%s summaries wait for manage.py osvi_summarize", len(self._waiting))
