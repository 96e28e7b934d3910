"""Write events in the transaction of their facts.

An event is a row for each receiver that wants it. After the commit, the executor delivers it.
Without receivers in the settings, nothing is written or read.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import Error, transaction
from django.utils import timezone

from osvi_django.conf import Webhook, event_executor
from osvi_django.database import DatabaseNow, safe_error_name
from osvi_django.models import ChatSession, CloseJob, WebhookDelivery
from osvi_django.services.events.receivers import usable_receivers

logger = logging.getLogger(__name__)
Event = WebhookDelivery.Event


@dataclass(frozen=True, kw_only=True)
class Fact:
    """Something that has happened; ``subject``: the id of the session, or the UUID of the job.

    ``data`` has ids and codes only. The rest is read when the event is sent.
    """

    event: WebhookDelivery.Event
    subject: str
    data: Mapping[str, Any] = field(default_factory=dict)


def fact_of(event: WebhookDelivery.Event, session: ChatSession, **data: Any) -> Fact:
    """Return what has happened to a session; values that are None are left out."""
    known = {name: value for name, value in data.items() if value is not None}
    return Fact(event=event, subject=session.session_id, data=known)


def job_completed(job: CloseJob) -> Fact:
    """Return that a job is finished."""
    return Fact(event=Event.JOB_COMPLETED, subject=str(job.uuid))


def write(facts: Iterable[Fact], *, using: str) -> None:
    """Write events in the caller's transaction, in one INSERT, and deliver them after it."""
    receivers = usable_receivers()
    if not receivers:
        return
    now = timezone.now()
    rows = [row for fact in facts for row in _rows(fact, receivers, now)]
    if rows:
        WebhookDelivery.objects.using(using).bulk_create(rows)
        transaction.on_commit(request_delivery, using=using)


def request_delivery() -> None:
    """Have the executor deliver what is due; if that fails, ``osvi_worker`` does."""
    try:
        deliver = event_executor()
        if deliver is not None:
            deliver()
    except Exception as error:  # the fact is committed, and the event waits
        has_traceback = None if isinstance(error, Error) else error  # its text may quote a row
        name = safe_error_name(error)
        logger.error("events could not be passed to the executor: %s", name, exc_info=has_traceback)


def _rows(fact: Fact, receivers: Sequence[Webhook], moment: datetime) -> Iterator[WebhookDelivery]:
    event_id = uuid.uuid4()
    for receiver in receivers:
        if fact.event in receiver.events:
            yield WebhookDelivery(
                event_id=event_id,
                event=fact.event,
                receiver=receiver.key,
                subject=fact.subject,
                data=fact.data,
                occurred_at=moment,
                waits_since=DatabaseNow(),
                due_at=DatabaseNow(),
            )
