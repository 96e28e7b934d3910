"""The task of ``osvi_django.executors.django_tasks``.

It can be imported only where Django has task queues, or their backport is installed.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from django.utils import timezone

from osvi_django.executors import take_turn

try:
    from django.tasks import task
except ImportError:  # before Django 6
    from django_tasks import task  # type: ignore[no-redef]  # one or the other

logger = logging.getLogger(__name__)


# No queue is named: where a host has none of that name, this could not even be imported.
@task(takes_context=True)
def close_sessions(context: Any, job_id: int) -> None:
    """Take a turn at a job, and queue the next one where this one was."""
    this = context.task_result.task
    may_wait = this.get_backend().supports_defer
    wait = take_turn(job_id, to_its_end=not may_wait)
    if wait is None:
        return
    if may_wait:
        _enqueue_like(this, job_id, wait)
    else:
        logger.warning("close job %s is not finished, and waits for manage.py osvi_work", job_id)


def _enqueue_like(this: Any, job_id: int, wait: float) -> None:
    # A time in the past would let it overtake whatever else is in the queue.
    run_after = timezone.now() + timedelta(seconds=wait) if wait else None
    where = {"queue_name": this.queue_name, "backend": this.backend, "priority": this.priority}
    close_sessions.using(**where, run_after=run_after).enqueue(job_id)
