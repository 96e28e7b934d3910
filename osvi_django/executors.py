"""Who runs a job: the callables that ``settings.OSVI_EXECUTOR`` may name.

Each is told the id of a job that is committed. None of them keeps it: the job's rows do, whoever
runs it may die, and whoever is told of it next, ``manage.py osvi_work`` too, goes on where it was.
A task of a host's own queue takes turns, as those of ``tasks.py`` do.
"""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from django.db import Error, InterfaceError, OperationalError, connections
from django.utils import timezone

from osvi_django.conf import InvalidSetting, close_task
from osvi_django.exceptions import OSVINotConfigured
from osvi_django.models import CloseJob
from osvi_django.services.jobs import run_close_job
from osvi_django.services.ledger import find
from osvi_django.transactions import kind_of

logger = logging.getLogger(__name__)

# A worker of a queue runs one task at a time, so a job with many sessions is given to several.
SESSIONS_PER_TASK: Final = 100
MOST_TASKS: Final = 4
# Workers of a queue end with each release of a site, and are waited for, though not for an hour.
TURN = 20.0  # seconds
# How long to leave a job alone whose database is away.
_DATABASE_AWAY: Final = 30.0  # seconds


class JobFailed(RuntimeError):
    """A job cannot be run. Queues keep what a task raises, so this says no more than that."""


def thread(job_id: int) -> None:
    """Run a job in a thread of this process, through all of its pauses."""
    _JobThread(job_id).start()


def immediate(job_id: int) -> None:
    """Run a job now, to its end or its first pause: for tests and scripts."""
    run_close_job(job_id)


def django_tasks(job_id: int) -> None:
    """Put a job into the queue of ``django.tasks``, or of its backport ``django-tasks``.

    Raises ``OSVINotConfigured`` where there is neither.
    """
    try:
        task = close_task()
    except InvalidSetting as error:
        raise OSVINotConfigured(str(error)) from None
    for _number in range(tasks_for(job_id)):
        task.enqueue(job_id)


def tasks_for(job_id: int) -> int:
    """How many tasks of a queue shall share a job, so that several workers take part."""
    job = find(job_id)
    left = job.total - job.done - job.cancelled
    return min(MOST_TASKS, max(1, -(-left // SESSIONS_PER_TASK)))


def take_turn(job_id: int, *, to_its_end: bool = False) -> float | None:
    """Run a job for a while, ``TURN`` seconds or a little more: what a task of any queue calls.

    Returns in how many seconds the next turn is due, None where the job is finished.
    ``to_its_end``: go on up to the end or a pause, for a queue that runs no task later.
    Raises ``JobFailed``.
    """
    try:
        with _stop_after(threading.TIMEOUT_MAX if to_its_end else TURN) as stop:
            return _run(job_id, stop)
    except Exception as error:  # noqa: BLE001  # raised again, below, in other words
        _log_failure(job_id, error)
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


def _run(job_id: int, stop: threading.Event) -> float | None:
    """Run a job where it is time for that; in how many seconds it is again, None: never."""
    try:
        wait = _due_in(find(job_id))
        return wait if wait is None or wait > 0 else _due_in(run_close_job(job_id, stop=stop))
    except (OperationalError, InterfaceError) as error:
        # A database that is away will be back.
        logger.warning("the database of close job %s is away: %s", job_id, kind_of(error))
        return _DATABASE_AWAY


def _log_failure(job_id: int, error: Exception) -> None:
    """With a traceback, unless the error is the database's, whose words may quote a summary."""
    told = (job_id, kind_of(error))
    has_traceback = not isinstance(error, Error)
    logger.error("close job %s failed in this process: %s", *told, exc_info=has_traceback)


def _due_in(job: CloseJob) -> float | None:
    if job.status == CloseJob.Status.DRAFT or job.is_finished:
        return None
    if job.resume_at is None:
        return 0.0
    return max(0.0, (job.resume_at - timezone.now()).total_seconds())


class _JobThread(threading.Thread):
    """Runs a job to its end, or that of the process."""

    def __init__(self, job_id: int) -> None:
        super().__init__(name=f"osvi-job-{job_id}", daemon=True)
        self.job_id = job_id
        self.stop = threading.Event()

    def run(self) -> None:
        try:
            self._run_through_pauses()
        except Exception as error:  # noqa: BLE001  # nobody else would hear of it
            _log_failure(self.job_id, error)
        finally:
            connections.close_all()

    def _run_through_pauses(self) -> None:
        wait: float | None = 0.0
        while wait is not None and not self.stop.wait(wait):
            wait = _run(self.job_id, self.stop)
            connections.close_all()  # a pause may be long


@atexit.register
def _end_threads() -> None:
    """Let answers that are under way come home: there may be no second time for them."""
    threads = [each for each in threading.enumerate() if isinstance(each, _JobThread)]
    for each in threads:
        each.stop.set()
    for each in threads:
        each.join()
