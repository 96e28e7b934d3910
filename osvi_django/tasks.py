"""The tasks of ``osvi_django.executors.django_tasks``.

They can be imported only if Django has task queues, or their backport is installed.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from django.utils import timezone

from osvi_django.executors import deliver_for_a_slice, run_for

try:
    from django.tasks import task
except ImportError:  # before Django 6
    from django_tasks import task  # type: ignore[no-redef]  # one or the other

logger = logging.getLogger(__name__)


# No queue is named: if a host has none of that name, this could not even be imported.
@task(takes_context=True)
def close_sessions(context: Any, job_id: str) -> None:
    """Run a job for a time slice, and queue the next one in the same queue."""
    this = context.task_result.task
    may_wait = this.get_backend().supports_defer
    wait = run_for(job_id, until_done=not may_wait)
    if wait is None:
        return
    if may_wait:
        _enqueue(close_sessions, this, wait, job_id)
    else:
        logger.warning("close job %s is not finished, and waits for manage.py osvi_worker", job_id)


@task(takes_context=True)
def deliver_events(context: Any) -> None:
    """Deliver events for a time slice, and queue the next one in the same queue."""
    this = context.task_result.task
    wait = deliver_for_a_slice()
    # A queue that cannot wait would run it again and again: osvi_worker sends what is due later.
    if wait is not None and (wait == 0 or this.get_backend().supports_defer):
        _enqueue(deliver_events, this, wait)


def _enqueue(next_slice: Any, this: Any, wait: float, *arguments: str) -> None:
    # A time in the past would let it overtake everything else in the queue.
    run_after = timezone.now() + timedelta(seconds=wait) if wait else None
    where = {"queue_name": this.queue_name, "backend": this.backend, "priority": this.priority}
    next_slice.using(**where, run_after=run_after).enqueue(*arguments)
