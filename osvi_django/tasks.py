"""The task of ``osvi_django.executors.django_tasks``.

It can be imported only if Django has task queues, or their backport is installed.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from django.utils import timezone

from osvi_django.executors import run_for

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
        _enqueue_like(this, job_id, wait)
    else:
        logger.warning("close job %s is not finished, and waits for manage.py osvi_worker", job_id)


def _enqueue_like(this: Any, job_id: str, wait: float) -> None:
    # A time in the past would let it overtake everything else in the queue.
    run_after = timezone.now() + timedelta(seconds=wait) if wait else None
    where = {"queue_name": this.queue_name, "backend": this.backend, "priority": this.priority}
    close_sessions.using(**where, run_after=run_after).enqueue(job_id)
