"""The events that this app posts to receivers, as OpenAPI's webhooks."""

from __future__ import annotations

from typing import Final

from osvi_django.models import ChatSession, CloseJob, WebhookDelivery
from osvi_django.rest.rendering import JSON_MEDIA_TYPE
from osvi_django.rest.schema.document import TAG
from osvi_django.rest.schema.enums import choices_of
from osvi_django.rest.schema.examples import example_of
from osvi_django.rest.schema.nodes import (
    INTEGER,
    MOMENT,
    PREFIX,
    STRING,
    Components,
    Node,
    nullable,
    object_of,
)
from osvi_django.services.events.payloads import COUNTS, WITH_SUMMARY

_Event: Final = WebhookDelivery.Event
_HEADERS: Final = {
    "webhook-id": ("The same at each try: ignore an id that you know.", STRING),
    "webhook-timestamp": ("Seconds since 1970, when it was sent.", STRING),
    "webhook-signature": (
        "Signatures of exactly these bytes, by Standard Webhooks 1.0.0.",
        {**STRING, "pattern": "^v1,"},
    ),
}
_ANSWERS: Final = {
    "2XX": "The event has arrived. Any other answer means that it is sent again.",
    "410": "No more events are wanted: the receiver is switched off.",
}


def describe_events(components: Components) -> Node:
    """Return the path item of each event."""
    return {f"{PREFIX.lower()}.{each.value}": _item(each, components) for each in _Event}


def _item(event: WebhookDelivery.Event, components: Components) -> Node:
    schema = _payload(event, components)
    example = {**example_of(schema, components), "timestamp": "2026-01-31T12:00:00.123Z"}
    body = {JSON_MEDIA_TYPE: {"schema": schema, "example": example}}
    operation = {
        "operationId": f"{PREFIX.lower()}_event_{event.value.replace('.', '_')}",
        "summary": str(event.label).capitalize(),
        "tags": [TAG],
        "parameters": [_header(name, *line) for name, line in _HEADERS.items()],
        "requestBody": {"required": True, "content": body},
        "responses": {status: {"description": text} for status, text in _ANSWERS.items()},
        # It is authenticated by its signature.
        "security": [],
    }
    return {"post": operation}


def _header(name: str, description: str, schema: Node) -> Node:
    return {
        "name": name,
        "in": "header",
        "required": True,
        "description": description,
        "schema": schema,
    }


def _payload(event: WebhookDelivery.Event, components: Components) -> Node:
    is_job = event is _Event.JOB_COMPLETED
    data = _job(components) if is_job else _session(event, components)
    name = event.value.title().replace(".", "").replace("_", "")
    kind = choices_of([event.value], components, name=f"{name}EventType")
    members: Node = {"type": kind, "timestamp": MOMENT, "data": data}
    return components.schema(f"{name}Event", object_of(members))


def _session(event: WebhookDelivery.Event, components: Components) -> Node:
    """Return the schema of ``data``; of a session that was deleted only its id is left."""
    members: Node = {"session_id": STRING, "account": STRING, "agent_uuid": nullable(STRING)}
    members |= {"attempt_id": INTEGER, "path": STRING, "customer_id": STRING}
    if event is _Event.CLOSE_FAILED:
        members["code"] = STRING
    if event in WITH_SUMMARY:
        statuses = choices_of(ChatSession.SummaryStatus.values, components, name="SummaryStatus")
        members |= {"summary_status": statuses, "summary": nullable(STRING)}
    return object_of(members, required=["session_id"])


def _job(components: Components) -> Node:
    status = choices_of(CloseJob.Status.values, components, name="JobStatus")
    counts = dict.fromkeys(COUNTS, INTEGER)
    members: Node = {"job_id": STRING, "status": status, **counts, "path": STRING}
    return object_of(members, required=["job_id"])
