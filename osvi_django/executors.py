"""The callables that ``settings.OSVI_EXECUTOR`` may name, which run jobs.

Each is called with the UUID of a committed job, as a string. None of them stores the job: its rows
do. The process that runs it may die, and another one, such as ``manage.py osvi_worker``, resumes
it. A task in a host's own queue runs in time slices, as those of ``tasks.py`` do.

The functions named ``deliver_...`` are their counterparts for events, which are rows as well.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from django.db import InterfaceError, OperationalError

from osvi_django.conf import close_task, configured, event_task
from osvi_django.services.events import background
from osvi_django.services.events.delivery import deliver_events, seconds_until_due
from osvi_django.services.jobs import run_close_job, runner
from osvi_django.services.jobs.store import find

# A worker of a queue runs one task at a time, so a job with many sessions gets several tasks.
SESSIONS_PER_TASK: Final = 100
MAX_TASKS: Final = 4
# A deployment stops the workers of a queue and waits for them, but not for an hour.
TIME_SLICE = 20.0  # seconds


class JobFailed(RuntimeError):
    """A job cannot be run. Queues store what a task raises, so this says no more than that."""


def thread(job_id: str) -> None:
    """Pass a job to the one thread of this process that runs all of its jobs."""
    runner.submit(job_id)


def immediate(job_id: str) -> None:
    """Run a job now, until it is finished or first paused: for tests and scripts."""
    run_close_job(job_id)


def django_tasks(job_id: str) -> None:
    """Put a job into the queue of ``django.tasks``, or of its backport ``django-tasks``.

    Raises ``OSVINotConfigured`` if there is neither.
    """
    with configured():
        task = close_task()
    for _number in range(tasks_for(job_id)):
        task.enqueue(job_id)


def deliver_in_thread() -> None:
    """Wake the one thread of this process that delivers events."""
    background.wake()


def deliver_now() -> None:
    """Deliver events now: for tests and scripts."""
    deliver_events()


def deliver_in_task() -> None:
    """Put a task that delivers events into the queue. Raises ``OSVINotConfigured``."""
    with configured():
        task = event_task()
    task.enqueue()


def deliver_for_a_slice() -> float | None:
    """Deliver events for ``TIME_SLICE`` seconds or a little more: for tasks of any queue.

    Return in how many seconds the next slice is due, None if others do what is left.
    """
    with _stop_after(TIME_SLICE) as stop:
        tries = deliver_events(stop)
    # Each commit has its own task: one that finds nothing must not queue another.
    return seconds_until_due() if tries else None


def tasks_for(job_id: str) -> int:
    """Return how many tasks of a queue should share a job, so that several workers take part."""
    job = find(job_id)
    left = job.total - job.done - job.cancelled
    return min(MAX_TASKS, max(1, -(-left // SESSIONS_PER_TASK)))


def run_for(job_id: str, *, until_done: bool = False) -> float | None:
    """Run a job for ``TIME_SLICE`` seconds or a little more: for tasks of any queue.

    Return in how many seconds the next slice is due, None if the job is finished. ``until_done``:
    go on until the end or a pause, for a queue that cannot schedule a task for later. Raises
    ``JobFailed``.
    """
    try:
        with _stop_after(threading.TIMEOUT_MAX if until_done else TIME_SLICE) as stop:
            return _run(job_id, stop)
    except Exception as error:  # noqa: BLE001  # raised again below with another text
        runner.log_failure(job_id, error)
        problem = f"Close job {job_id} failed with {type(error).__name__}: the log says how."
    raise JobFailed(problem)


@contextmanager
def _stop_after(seconds: float) -> Iterator[threading.Event]:
    stop = threading.Event()
    timer = threading.Timer(seconds, stop.set)
    timer.daemon = True
    timer.start()
    try:
        yield stop
    finally:
        timer.cancel()


def _run(job_id: str, stop: threading.Event) -> float | None:
    """Run a job if it is due; return in how many seconds it is due again, None for never."""
    try:
        wait = runner.due_in(find(job_id))
        if wait is None or wait > 0:
            return wait
        return runner.due_in(run_close_job(job_id, stop=stop))
    except (OperationalError, InterfaceError) as error:
        runner.log_unavailable(job_id, error)  # the database will be back
        return runner.DATABASE_RETRY_DELAY
