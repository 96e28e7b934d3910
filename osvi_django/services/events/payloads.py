"""What receivers are sent about an event: ids and an address, and words only if they may have them.

The words and facts are read when the event is sent, so that nothing is stored twice, and what was
erased meanwhile is not sent.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from django.db import router
from django.urls import NoReverseMatch, reverse

from osvi_django.conf import Webhook
from osvi_django.database import in_utc
from osvi_django.models import ChatSession, CloseJob, WebhookDelivery
from osvi_django.redaction import HiddenBytes
from osvi_django.services.selectors import find_session

Event = WebhookDelivery.Event
COUNTS = ("total", "succeeded", "failed", "unconfirmed", "cancelled", "left_out")
WITH_SUMMARY = (Event.SESSION_CLOSED, Event.SUMMARIZED)


def message_id_of(delivery: WebhookDelivery) -> str:
    """Return the id of an event for receivers, which is the same at each try."""
    return f"msg_{delivery.event_id.hex}"


def body_of(delivery: WebhookDelivery, receiver: Webhook) -> bytes:
    """Return the body to send."""
    is_job = delivery.event == Event.JOB_COMPLETED
    data = _data_of_job(delivery) if is_job else _data_of_session(delivery, receiver)
    payload = {"type": delivery.event, "timestamp": _with_z(delivery.occurred_at), "data": data}
    return HiddenBytes(json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode())


def _data_of_session(delivery: WebhookDelivery, receiver: Webhook) -> dict[str, Any]:
    data = {"session_id": delivery.subject, **delivery.data}
    session = find_session(delivery.subject)
    if session is None:  # it was deleted since
        return data
    data |= {"account": session.agent.account, "agent_uuid": session.agent.uuid}
    if receiver.include_customer:
        data["customer_id"] = session.customer_id
    if delivery.event in WITH_SUMMARY:
        data["summary_status"] = session.summary_status
        if receiver.include_summary:
            data["summary"] = _summary_of(session)
    return data | _address("session-detail", session_id=session.session_id)


def _summary_of(session: ChatSession) -> str | None:
    summary = getattr(session, "summary", None)
    return summary and summary.text


def _data_of_job(delivery: WebhookDelivery) -> dict[str, Any]:
    data: dict[str, Any] = {"job_id": delivery.subject}
    jobs = CloseJob.objects.using(router.db_for_write(CloseJob))
    job = jobs.filter(uuid=delivery.subject).first()
    if job is None:
        return data
    data |= {"status": job.status, **{name: getattr(job, name) for name in COUNTS}}
    return data | _address("close-job", pk=job.pk)


def _address(name: str, **ids: Any) -> dict[str, str]:
    """Return the path of the REST API for more; nothing if the host does not include that API."""
    try:
        return {"path": reverse(f"osvi_django:{name}", kwargs=ids)}
    except NoReverseMatch:
        return {}


def _with_z(moment: datetime) -> str:
    return in_utc(moment).isoformat(timespec="milliseconds").replace("+00:00", "Z")
