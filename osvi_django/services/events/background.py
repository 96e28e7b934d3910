"""The threads that deliver events while a process runs."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from django.db import connections

from osvi_django import clock
from osvi_django.contexts import ThreadContext
from osvi_django.services.events.delivery import (
    deliver_events,
    log_failure,
    seconds_until_due,
    tidy,
)
from osvi_django.services.events.sending import TOTAL_TIMEOUT

# How long to wait at most, as other processes may switch a receiver on or send something again.
_LONGEST_WAIT: Final = 60.0  # seconds
_AFTER_ERROR: Final = 30.0  # seconds
# A process that ends sends what is due, but does not wait long for that.
_GRACE: Final = 5.0  # seconds
# How often the worker looks for events that other processes have written.
_LOOK_EVERY: Final = 2.0  # seconds
_TIDY_EVERY: Final = 60.0  # seconds
# Contexts of tenants may be as many as commits: those beyond wait for osvi_worker.
_MAX_CONTEXTS: Final = 100
_NEVER: Final = float("inf")


def wake() -> None:
    """Have the thread of this process deliver what is due, in the context of this thread.

    It ends when nothing waits. Raises ``RuntimeError`` if the system has no thread for it.
    """
    _deliverer.wake(ThreadContext())


class _Deliverer:
    """One thread, for all contexts in which events were written in this process."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start without a thread: a forked child has none of its parent's."""
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._due: dict[ThreadContext, float] = {}
        self._thread: threading.Thread | None = None
        self._is_ending = False
        self._stop = threading.Event()

    def end(self) -> None:
        """Send what is due now, for a short time: no thread can start when the process has ended.

        What is left waits for another process.
        """
        with self._lock:
            thread, self._is_ending = self._thread, True
            self._woken.set()
        if thread is not None:
            thread.join(_GRACE)
            self._stop.set()
            thread.join(TOTAL_TIMEOUT)

    def wake(self, context: ThreadContext) -> None:
        with self._lock:
            self._due[context] = 0.0
            self._woken.set()
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="osvi-events", daemon=True)
                thread.start()
                self._thread = thread

    def _run(self) -> None:
        while (pause := self._pause()) is not None:
            self._woken.wait(pause)
            for context in self._take_due():
                wait = _deliver(context, self._stop)
                self._put_back(context, wait)

    def _pause(self) -> float | None:
        """Return the seconds until something is due; None at the end of the thread."""
        with self._lock:
            self._woken.clear()
            wait = min(self._due.values(), default=_NEVER) - clock.monotonic()
            if wait == _NEVER or (self._is_ending and wait > 0) or self._stop.is_set():
                self._thread = None
                return None
            return max(0.0, wait)

    def _take_due(self) -> list[ThreadContext]:
        with self._lock:
            now = clock.monotonic()
            due = [context for context, moment in self._due.items() if moment <= now]
            for context in due:
                del self._due[context]
            return due

    def _put_back(self, context: ThreadContext, wait: float | None) -> None:
        with self._lock:
            # What was put in meanwhile is due earlier.
            if wait is not None and len(self._due) < _MAX_CONTEXTS:
                self._due.setdefault(context, clock.monotonic() + min(wait, _LONGEST_WAIT))


def _deliver(context: ThreadContext, stop: threading.Event) -> float | None:
    """Deliver what is due in a context; return the seconds until more is."""

    def work() -> float | None:
        deliver_events(stop)
        return seconds_until_due()

    try:
        return context.run(work)
    except Exception as error:  # noqa: BLE001  # logged, and tried again
        log_failure(error)
        return _AFTER_ERROR
    finally:
        connections.close_all()


@contextmanager
def delivering() -> Iterator[None]:
    """Deliver events in a thread during the block."""
    stop = threading.Event()
    work = partial(_deliver_until, stop)
    thread = threading.Thread(target=ThreadContext().run, args=(work,), name="osvi-events")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _deliver_until(stop: threading.Event) -> None:
    tidied_at = float("-inf")
    while not stop.is_set():
        try:
            deliver_events(stop)
            if clock.monotonic() - tidied_at > _TIDY_EVERY:
                tidied_at = clock.monotonic()
                tidy()
        except Exception as error:  # noqa: BLE001  # logged, and tried again
            log_failure(error)
        finally:
            connections.close_all()
        stop.wait(_LOOK_EVERY)


_deliverer = _Deliverer()
atexit.register(_deliverer.end)
os.register_at_fork(after_in_child=_deliverer.reset)
