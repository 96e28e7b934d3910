"""The schemas of answers, from their serializers and the models behind these."""

from __future__ import annotations

import types
import typing
from typing import Any, Final

from django.core.exceptions import FieldDoesNotExist
from django.db.models import Field, Model
from rest_framework import serializers

from osvi_django.models import CloseJobItem, SessionSummary
from osvi_django.rest import output_serializers
from osvi_django.rest.output_serializers import (
    ActionSerializer,
    AttemptSerializer,
    JobSerializer,
    ResultSerializer,
    ResultWithSummarySerializer,
    RowSerializer,
    SessionSerializer,
)
from osvi_django.rest.schema.enums import choices_of
from osvi_django.rest.schema.inputs import plain
from osvi_django.rest.schema.nodes import (
    ADDRESS,
    BOOLEAN,
    INTEGER,
    MOMENT,
    STRING,
    Components,
    Node,
    array_of,
    described,
    nullable,
    object_of,
)
from osvi_django.services.recovery import Settled
from osvi_django.services.search.service import SearchKind

# Fields with an address, and those whose method cannot say which values it returns.
_ADDRESSES: Final = {"action", "attempt", "next", "previous", "results", "session", "url"}
_CHOICES: Final = {"summary_source": SessionSummary.Source}
# What a caller without the permission to view gets of a session.
_ALWAYS: Final = ("session_id", "status", "mode")
_KINDS: Final[dict[Any, Node]] = {str: STRING, bool: BOOLEAN, int: INTEGER}


def session(components: Components) -> Node:
    """Return the schema of a session."""
    return _row(SessionSerializer, components, "Session")


def file(_components: Components) -> Node:
    """Return the schema of a file."""
    return {"type": "string", "format": "binary"}


def job(components: Components) -> Node:
    """Return the schema of a close job."""
    return _row(JobSerializer, components, "CloseJob")


def action(components: Components) -> Node:
    """Return the schema of an action in a session."""
    return _row(ActionSerializer, components, "Action")


def attempt(components: Components) -> Node:
    """Return the schema of an attempt to close a session."""
    return _row(AttemptSerializer, components, "Attempt")


def started_session(components: Components) -> Node:
    """Return the schema of a session for a caller who may be allowed to see little of it."""
    return _acted(components, "StartedSession", {})


def closed_session(components: Components) -> Node:
    """Return the schema of a session that was closed."""
    goodbye = choices_of(CloseJobItem.Goodbye.values, components, name="Goodbye")
    done = {"changed": BOOLEAN, "goodbye": nullable(goodbye)}
    return _acted(components, "ClosedSession", done, also=("summary", "summary_status"))


def recovered_session(components: Components) -> Node:
    """Return the schema of the result of a recovery."""
    done = {
        "settled": choices_of(Settled, components, name="Settled"),
        "detail": nullable(STRING),
        "error_code": nullable(STRING),
        "error_reason": nullable(STRING),
        "next": nullable(ADDRESS),
    }
    return _acted(components, "RecoveredSession", done, also=("summary", "summary_status"))


def operated_session(components: Components) -> Node:
    """Return the schema of the result of a support command."""
    done = {"reply": nullable(STRING)}
    return _acted(components, "OperatedSession", done, seen={"action": ADDRESS})


def answered_session(components: Components) -> Node:
    """Return the schema of the result of a customer's message."""
    done = {"reply": nullable(STRING), "is_other_session": BOOLEAN}
    return _acted(components, "AnsweredSession", done, seen={"action": ADDRESS})


def supported_session(components: Components) -> Node:
    """Return the schema of the result of any support command, one of which closes."""
    return {"anyOf": [operated_session(components), closed_session(components)]}


def found_sessions(components: Components) -> Node:
    """Return the schema of the sessions that a customer has open."""
    node = object_of({"results": array_of(started_session(components))})
    return components.schema("FoundSessions", node)


def erased_customer(components: Components) -> Node:
    """Return the schema of what was erased of a customer."""
    obstacle = object_of({"code": STRING, "detail": STRING})
    body = {
        "marker": described(nullable(STRING), "What the customer's id was replaced by."),
        "counts": {"type": "object", "additionalProperties": INTEGER},
        "dry_run": BOOLEAN,
        "obstacle": described(nullable(obstacle), "What keeps the customer from being erased."),
        "notice": described(STRING, "What OSVI keeps."),
    }
    return components.schema("ErasedCustomer", object_of(body))


def exported_customer(components: Components) -> Node:
    """Return the schema of all that is stored of a customer."""
    rows: Node = {"type": "object", "additionalProperties": array_of({"type": "object"})}
    body = {
        "customer_id": STRING,
        "exported_at": MOMENT,
        "notice": STRING,
        "sessions": array_of(described(rows, "The rows of each place.")),
    }
    return components.schema("ExportedCustomer", object_of(body))


def session_page(components: Components) -> Node:
    """Return the schema of a page of sessions, with what was searched."""
    kinds = choices_of(SearchKind.values, components, name="SearchKind")
    members = {"searched": array_of(kinds), "is_capped": BOOLEAN, "notice": nullable(STRING)}
    searched = components.schema("Search", object_of(members))
    return _page("SessionPage", _listed_session(components), components, search=searched)


def _listed_session(components: Components) -> Node:
    """Return the schema of a session of which the caller may have named the fields to show."""
    whole = components.resolve(session(components))
    return components.schema("ListedSession", object_of(whole["properties"], required=[]))


def job_page(components: Components) -> Node:
    """Return the schema of a page of jobs."""
    return _page("CloseJobPage", job(components), components)


def result_page(components: Components) -> Node:
    """Return the schema of a page of the results of a job."""
    row = _row(ResultWithSummarySerializer, components, "Result", always=ResultSerializer)
    return _page("ResultPage", row, components)


def action_page(components: Components) -> Node:
    """Return the schema of a page of actions."""
    return _page("ActionPage", action(components), components)


def _page(name: str, row: Node, components: Components, **more: Node) -> Node:
    properties = {"next": nullable(ADDRESS), "previous": nullable(ADDRESS)}
    properties |= {"results": array_of(row), **more}
    required = ["next", "previous", "results"]
    return components.schema(name, object_of(properties, required=required))


def _acted(
    components: Components,
    name: str,
    done: Node,
    *,
    also: tuple[str, ...] = (),
    seen: Node | None = None,
) -> Node:
    """Return the schema of a session that the caller acted in, without seeing all of it perhaps."""
    shown = components.resolve(session(components))["properties"]
    required = [*_ALWAYS, *also, *done]
    node = object_of({**shown, **(seen or {}), **done}, required=required)
    return components.schema(name, node)


def _row(
    serializer: type[RowSerializer[Any]],
    components: Components,
    name: str,
    *,
    always: type[RowSerializer[Any]] | None = None,
) -> Node:
    """Return the schema of a row; ``always``: what is shown of it if nothing more is asked for."""
    instance = serializer()
    members = {
        key: described(_member(instance, field, components, name), _help_of(field))
        for key, field in instance.fields.items()
    }
    node = object_of(members, required=list(always().fields) if always else None)
    return components.schema(name, described(node, plain(serializer.__doc__)))


def _help_of(field: serializers.Field[Any, Any, Any, Any]) -> object:
    if isinstance(field, serializers.SerializerMethodField):
        return ""
    return field.help_text


def _member(parent: Any, field: Any, components: Components, owner: str) -> Node:
    if isinstance(field, serializers.SerializerMethodField):
        return _of_method(parent, field, components)
    column = _column_of(parent.Meta.model, field.source)
    node = _of_field(field, column, components, owner)
    may_be_null = field.allow_null or field.default is None or getattr(column, "null", False)
    # An empty text is shown as null.
    return nullable(node) if may_be_null or getattr(column, "blank", False) else node


def _of_field(field: Any, column: Any, components: Components, owner: str) -> Node:
    if choices := getattr(column, "choices", None):
        values = [value for value, _label in choices]
        return choices_of(values, components, name=f"{owner}{field.field_name.title()}")
    if isinstance(field, serializers.DateTimeField):
        return MOMENT
    if isinstance(field, serializers.BooleanField):
        return BOOLEAN
    return INTEGER if isinstance(field, serializers.IntegerField) else STRING


def _of_method(parent: Any, field: Any, components: Components) -> Node:
    """Return the schema of what a method returns, by its annotation."""
    name = field.field_name
    method = getattr(parent, field.method_name)
    hint = typing.get_type_hints(method, vars(output_serializers))["return"]
    is_union = isinstance(hint, types.UnionType)
    [kind, *more] = [each for each in typing.get_args(hint) if is_union] or [hint]
    if name in _ADDRESSES:
        node = ADDRESS
    elif name in _CHOICES:
        node = choices_of(_CHOICES[name].values, components, name=name.title())
    else:
        node = _kind(kind)
    return nullable(node) if types.NoneType in more else node


def _kind(kind: Any) -> Node:
    if typing.get_origin(kind) is list:
        return array_of(_kind(typing.get_args(kind)[0]))
    return _KINDS.get(kind, {"type": "object"})


def _column_of(model: type[Model], source: str) -> Field[Any, Any] | None:
    """Return the column that a field shows; None if it shows a property or a method."""
    *relations, name = source.split(".")
    try:
        for relation in relations:
            related: Any = model._meta.get_field(relation).related_model  # noqa: SLF001
            model = related
        column: Any = model._meta.get_field(name)  # noqa: SLF001  # documented
    except FieldDoesNotExist:
        return None
    return column  # type: ignore[no-any-return]
