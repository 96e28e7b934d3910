"""Examples that fit a schema, with the values of one story."""

from __future__ import annotations

from typing import Any, Final

from osvi_django.rest.schema.nodes import Components, Node

_SITE: Final = "https://example.com/api/osvi"
_ID: Final = "4718a326-417b-4dda-90d0-21fd65a11cb8"
SESSION: Final = f"{_SITE}/sessions/{_ID}/"
_JOB: Final = f"{_SITE}/close-jobs/17/"
_MOMENT: Final = "2026-01-31T12:00:00.123456Z"
# By the names of fields; what is not named here gets the first value that its schema allows.
_VALUES: Final[dict[str, Any]] = {
    "account": "default",
    "action": f"{SESSION}actions/4712/",
    "agent_name": "Billing",
    "agent_uuid": "agent_IsZ3Q6Sf_60Eh26XQMGbz-R_og",
    "attempt": f"{SESSION}attempts/4711/",
    "attempt_id": 4711,
    "changed": True,
    "close_reason": "",
    "closed_at": _MOMENT,
    "closed_by": "sam",
    "code": "unreachable",
    "before_first": "2025-12-01",
    "before_last": "2025-12-31",
    "content": "I was charged twice.",
    "context": ["A regular."],
    "customer_id": "+15551112222",
    "finished_at": _MOMENT,
    "first": "2026-01-01",
    "id": 4711,
    "input_fields": {"first_name": "Alex"},
    "job_id": "0b6f4f0e-6f0b-4a8b-8f8c-2b7d3a1f2c11",
    "last": "2026-01-31",
    "message": "Offer a refund.",
    "note": "Customer said goodbye",
    "outcome": "closed",
    "path": f"/api/osvi/sessions/{_ID}/",
    "reply": "I have refunded the second charge.",
    "requested_by": "sam",
    "session": SESSION,
    "session_id": _ID,
    "session_ids": [_ID],
    "session_status": "closed",
    "status": "closed",
    "summary": "The customer was charged twice and got a refund.",
    "summary_source": "osvi",
    "summary_status": "stored",
    "text": "Offer a refund.",
    "url": SESSION,
    "via": "rest",
}
_COUNTS: Final = {"total": 3, "succeeded": 3, "status": "completed"}
# The same for the fields of one component.
_OWN: Final[dict[str, dict[str, Any]]] = {
    "OSVIAction": {"id": 4712, "url": f"{SESSION}actions/4712/", "kind": "tell", "outcome": "done"},
    "OSVIAttempt": {"url": f"{SESSION}attempts/4711/"},
    "OSVICloseJob": {
        **_COUNTS,
        "done": 3,
        "id": 17,
        "results": f"{_JOB}results/",
        "started_at": _MOMENT,
        "url": _JOB,
    },
    "OSVICloseJobCompletedEvent": {
        "data": {
            **_COUNTS,
            "job_id": "0b6f4f0e-6f0b-4a8b-8f8c-2b7d3a1f2c11",
            "path": "/api/osvi/close-jobs/17/",
        }
    },
    "OSVIOperatedSession": {"status": "active"},
    "OSVIAnsweredSession": {"status": "active"},
    "OSVIStartedSession": {"status": "active"},
}
_OPEN: Final = frozenset({"OSVIOperatedSession", "OSVIAnsweredSession", "OSVIStartedSession"})
# What an open session does not have yet.
_OF_CLOSED: Final = frozenset(
    {"closed_at", "closed_by", "summary", "summary_source", "summary_status"}
)
# Those of bodies that take one of several things.
_WHOLE: Final[dict[str, dict[str, Any]]] = {
    "OSVIBulkCloseRequest": {"session_ids": [_ID], "note": "Spring cleaning"},
    "OSVICloseRequest": {"note": "Customer said goodbye"},
    "OSVIRetryRequest": {"include_cancelled": True},
    "OSVISupportRequest": {"command": "tell", "message": "Offer a refund."},
}
# Optional fields that a reader does not expect in a first request.
_LEFT_OUT: Final = frozenset({"account", "close_reason", "replace", "resend", "search"})


def example_of(node: Node, components: Components, name: str = "") -> Any:
    """Return a value that fits a schema; ``name``: of the field that has it."""
    component = node.get("$ref", "").rpartition("/")[2]
    if component in _WHOLE:
        return _WHOLE[component]
    schema = components.resolve(node)
    if name in _VALUES and _fits(_VALUES[name], schema, components):
        return _VALUES[name]
    if isinstance(schema.get("type"), list):
        return None
    return _written(schema, components, component)


def _written(schema: Node, components: Components, component: str) -> Any:
    if "anyOf" in schema:
        first, *more = schema["anyOf"]
        return None if {"type": "null"} in more else example_of(first, components)
    if "enum" in schema:
        return schema["enum"][0]
    if schema["type"] == "object":
        return _object(schema, components, component)
    if schema["type"] == "array":
        return [example_of(schema["items"], components)]
    return _simple(schema)


def _object(schema: Node, components: Components, component: str) -> Node:
    required, own = schema.get("required", ()), _OWN.get(component, {})
    is_open = component in _OPEN
    return {
        name: own[name] if name in own else _member(name, member, components, is_open=is_open)
        for name, member in schema.get("properties", {}).items()
        if name in required or name not in _LEFT_OUT
    }


def _member(name: str, node: Node, components: Components, *, is_open: bool) -> Any:
    is_missing = is_open and name in _OF_CLOSED
    return example_of(node, components, "" if is_missing else name)


def _simple(schema: Node) -> Any:
    if schema.get("format") == "date-time":
        return _MOMENT
    return {"string": "text", "boolean": False, "integer": 0}[schema["type"]]


def _fits(value: Any, node: Node, components: Components) -> bool:
    """Return whether a value of the story can be one of this schema."""
    schema = components.resolve(node)
    if "anyOf" in schema:
        return any(_fits(value, each, components) for each in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    kinds = schema["type"]
    return _kind_of(value) in (kinds if isinstance(kinds, list) else [kinds])


def _kind_of(value: Any) -> str:
    names = {str: "string", bool: "boolean", int: "integer", list: "array", dict: "object"}
    return names.get(type(value), "null")
