"""The runner of a process: one thread that runs all jobs of the process concurrently.

It holds one database connection and, for each account, one set of threads that only send calls.
Each job it is given is in the table, so a job that is not run here because the process ends or is
killed waits there. Each step of a job runs in the context of the thread that asked for the job.
"""

from __future__ import annotations

import atexit
import heapq
import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Final

from django.db import Error, InterfaceError, OperationalError, connections
from django.utils import timezone

from osvi_django import clock
from osvi_django.client.threads import Pools
from osvi_django.contexts import ThreadContext
from osvi_django.database import safe_error_name
from osvi_django.models import CloseJob
from osvi_django.services.jobs import store
from osvi_django.services.jobs.background import ThreadSlots
from osvi_django.services.jobs.running import Patience, Shared
from osvi_django.services.jobs.worker import JobWorker, wait_for_signal

logger = logging.getLogger(__name__)

# The maximum of jobs at once: more than any account's concurrent closes, within bounds of memory.
MAX_JOBS: Final = 100
# In addition to the runner's connection, for work of several calls with commits in between.
MAX_DATABASE_THREADS: Final = 2
# How long to leave a job alone if its database is unavailable.
DATABASE_RETRY_DELAY: Final = 30.0  # seconds
# Start only a few at once, so that the first of many runs before the last is started.
_STARTED_AT_ONCE: Final = 4
# How soon to check what a job that has ended here has left, such as a pause.
_CHECK_AGAIN_AFTER: Final = 0.5  # seconds


@dataclass(kw_only=True, order=True)
class _QueuedJob:
    """A job that waits here until it is due; ``has_waited``: whether it has waited for a pause."""

    due_at: float
    number: int
    job_id: str = field(compare=False)
    context: ThreadContext = field(compare=False)
    has_waited: bool = field(default=False, compare=False)


@dataclass(kw_only=True, eq=False)
class _Active:
    """A job that is running here; ``error``: what ended it while its last answers are stored."""

    entry: _QueuedJob
    worker: JobWorker
    due_at: float = 0.0
    is_draining: bool = False
    error: BaseException | None = None

    def is_due(self, now: float) -> bool:
        """Return whether there may be something to do."""
        return self.worker.has_results or self.due_at <= now


def submit(job_id: str) -> None:
    """Pass a job, by its UUID, to the runner of this process, in the context of this thread.

    Raises ``RuntimeError`` if the system has no thread for a runner.
    """
    _runners.submit(job_id, ThreadContext())


def stop() -> None:
    """Start nothing more, wait for the answers to calls in progress, and store them."""
    _runners.stop()


def due_in(job: CloseJob) -> float | None:
    """Return in how many seconds a job is to be run; None means never."""
    if job.status == CloseJob.Status.DRAFT or job.is_finished:
        return None
    if job.resume_at is None:
        return 0.0
    return max(0.0, (job.resume_at - timezone.now()).total_seconds())


def log_failure(job_id: str, error: BaseException) -> None:
    """Log with a traceback, except for database errors, whose text may quote a summary."""
    names = (job_id, safe_error_name(error))
    has_traceback = None if isinstance(error, Error) else error
    logger.error("close job %s failed in this process: %s", *names, exc_info=has_traceback)


def log_unavailable(job_id: str, error: BaseException) -> None:
    """Log that a job waits for its database."""
    logger.warning(
        "the database of close job %s is unavailable: %s", job_id, safe_error_name(error)
    )


class _Runner(threading.Thread):
    """A thread that takes a step of each of its jobs in turn until none is left."""

    def __init__(self) -> None:
        super().__init__(name="osvi-runner", daemon=True)
        self.stop = threading.Event()
        self.has_ended = False
        self._lock = threading.Lock()
        self._signal = threading.Event()
        self._numbers = count()
        self._queue: list[_QueuedJob] = []
        self._queued_ids: set[str] = set()
        self._active: dict[str, _Active] = {}
        self._shared = Shared(
            signal=self._signal,
            pools=Pools(),
            slots=ThreadSlots(MAX_DATABASE_THREADS),
            patience=Patience(),
            sharers=lambda: max(1, len(self._active)),
        )

    def submit(self, job_id: str, context: ThreadContext) -> bool:
        """Run this job too; return False if this runner has already ended."""
        with self._lock:
            if self.has_ended or self.stop.is_set():
                return False
            if job_id not in self._queued_ids:
                self._put(_QueuedJob(due_at=0.0, number=0, job_id=job_id, context=context), 0.0)
        self._signal.set()
        return True

    def end(self) -> None:
        """Start nothing more; any thread may call this."""
        self.stop.set()
        self._signal.set()

    def run(self) -> None:
        """Work until nothing is left or this process ends."""
        try:
            while not self._end_if_idle():
                self._start_due()
                for active in list(self._active.values()):
                    if active.is_due(clock.monotonic()):
                        self._step(active)
                self._wait()
        finally:
            self.has_ended = True
            self._shared.pools.end()
            connections.close_all()

    def _end_if_idle(self) -> bool:
        with self._lock:
            is_needed = self._active or (self._queue and not self.stop.is_set())
            self.has_ended = not is_needed
            return self.has_ended

    def _put(self, entry: _QueuedJob, seconds: float, *, has_waited: bool = False) -> None:
        """Schedule a job after so many seconds, behind those that have waited longer."""
        entry.due_at = clock.monotonic() + seconds
        entry.number, entry.has_waited = next(self._numbers), has_waited
        self._queued_ids.add(entry.job_id)
        heapq.heappush(self._queue, entry)

    def _put_back(self, entry: _QueuedJob, seconds: float, *, has_waited: bool = False) -> None:
        with self._lock:
            if entry.job_id not in self._queued_ids:
                self._put(entry, seconds, has_waited=has_waited)

    def _start_due(self) -> None:
        for entry in self._due():
            try:
                entry.context.run(partial(self._open, entry))
            except BaseException as error:  # noqa: BLE001  # logged, and the other jobs continue
                self._end_with_error(entry, error)

    def _due(self) -> Iterator[_QueuedJob]:
        """Yield a few of the jobs that are due, if there is capacity for them."""
        for _number in range(_STARTED_AT_ONCE):
            with self._lock:
                if not self._has_due:
                    return
                entry = heapq.heappop(self._queue)
                self._queued_ids.discard(entry.job_id)
                if entry.job_id in self._active:  # it may leave something
                    self._put(entry, _CHECK_AGAIN_AFTER)
                    continue
            yield entry

    @property
    def _has_due(self) -> bool:
        has_capacity = len(self._active) < MAX_JOBS and not self.stop.is_set()
        return has_capacity and bool(self._queue) and self._queue[0].due_at <= clock.monotonic()

    def _open(self, entry: _QueuedJob) -> None:
        """Start a job, or schedule it for the end of its pause."""
        job = store.find(entry.job_id)
        seconds = due_in(job)
        if seconds is None:
            return
        # If it has waited, its pause is over whatever the clock says, which may have been set back.
        if seconds and not entry.has_waited:
            self._put_back(entry, seconds, has_waited=True)
        elif store.start(job):
            worker = JobWorker(job, self.stop, shared=self._shared)
            self._active[entry.job_id] = _Active(entry=entry, worker=worker)

    def _step(self, active: _Active) -> None:
        step = active.worker.drain if active.is_draining else active.worker.step
        try:
            seconds = active.entry.context.run(step)
        # This is logged at the end and the other jobs continue: a sys.exit() of host code ends one
        # job.
        except BaseException as error:  # noqa: BLE001
            self._fail(active, error)
            return
        if seconds is not None:
            active.due_at = clock.monotonic() + seconds
        elif active.is_draining:
            self._close(active)
        else:
            active.is_draining, active.due_at = True, 0.0

    def _fail(self, active: _Active, error: BaseException) -> None:
        """Stop a job after an error and store its running calls; give up if even that fails."""
        # A context that could not be left must leave nothing on the connections.
        connections.close_all()
        was_draining, active.is_draining = active.is_draining, True
        active.error, active.due_at = active.error or error, 0.0
        if was_draining:
            self._close(active)

    def _close(self, active: _Active) -> None:
        active.worker.shutdown()
        del self._active[active.entry.job_id]
        if active.error is not None:
            self._end_with_error(active.entry, active.error)
        elif not active.worker.is_finished:
            self._put_back(active.entry, _CHECK_AGAIN_AFTER)

    def _end_with_error(self, entry: _QueuedJob, error: BaseException) -> None:
        """Log an error; retry the job later if the database was unavailable."""
        connections.close_all()
        if isinstance(error, OperationalError | InterfaceError):
            log_unavailable(entry.job_id, error)
            self._put_back(entry, DATABASE_RETRY_DELAY)
        else:
            log_failure(entry.job_id, error)

    def _wait(self) -> None:
        """Wait for the signal; with no job to run, release the threads and connections first."""
        if not self._active:
            self._shared.pools.end()
            connections.close_all()
        wait_for_signal(self._signal, max(0.0, self._next_at() - clock.monotonic()))

    def _next_at(self) -> float:
        """Return the time at which there is something to do if nothing arrives."""
        moments = [active.due_at for active in self._active.values()]
        with self._lock:
            if len(self._active) < MAX_JOBS and not self.stop.is_set():
                moments += [entry.due_at for entry in self._queue[:1]]
        return min(moments, default=0.0)


class _Runners:
    """The runner of this process, created when there is something to run."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Discard it after a fork: its thread exists in the parent only, and a lock may be held."""
        self._lock = threading.Lock()
        self._runner: _Runner | None = None
        self._is_closed = False

    def submit(self, job_id: str, context: ThreadContext) -> None:
        """Pass a job to the current runner, or to a new one if that has ended."""
        with self._lock:
            if self._is_closed:
                logger.warning("close job %s waits: this process ends", job_id)
            elif self._runner is None or not self._runner.submit(job_id, context):
                runner = _Runner()
                runner.submit(job_id, context)
                runner.start()
                self._runner = runner

    def stop(self) -> None:
        """End the current runner and wait for it."""
        with self._lock:
            runner = self._runner
        if runner is not None:
            runner.end()
            runner.join()

    def close(self) -> None:
        """End it for good at the end of the process, as an answer may come only once."""
        with self._lock:
            self._is_closed = True
        self.stop()


_runners: Final = _Runners()
atexit.register(_runners.close)
os.register_at_fork(after_in_child=_runners.reset)
