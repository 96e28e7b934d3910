"""The schemas of bodies and query strings, from their serializers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from rest_framework import serializers

from osvi_django.models import ChatSession
from osvi_django.rest import fields
from osvi_django.rest.input_serializers import QuerySerializer, StrictSerializer
from osvi_django.rest.schema.enums import choices_of
from osvi_django.rest.schema.nodes import (
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
from osvi_django.validation import ID_MAX_LENGTH

# What no database stores, and what a URL loses.
_ID: Final[Node] = {
    "type": "string",
    "minLength": 1,
    "maxLength": ID_MAX_LENGTH,
    "pattern": r"^(?!\.{1,2}$)[^\u0000]+$",
}
_JOB: Final[Node] = {**INTEGER, "minimum": 0, "maximum": 10**fields.ID_DIGITS - 1}
DAY: Final[Node] = {"type": "string", "format": "date"}
_TEXT: Final = r"^[^\u0000]*$"
_NOT_BLANK: Final = r"^[^\u0000]*\S[^\u0000]*$"


def body_of(serializer: type[StrictSerializer], components: Components) -> Node:
    """Return the schema of a body."""
    return _object_of(serializer(), components)


def parameters_of(serializer: type[QuerySerializer], components: Components) -> list[Node]:
    """Return the parameters of a query string, apart from those of pages."""
    declared = serializer().fields.items()
    return [_parameter(name, field, components) for name, field in declared]


def id_schema() -> Node:
    """Return the schema of one of OSVI's ids."""
    return _ID


def _parameter(name: str, field: Any, components: Components) -> Node:
    parameter: Node = {"name": name, "in": "query"}
    parameter |= {"required": True} if field.required else {}
    if isinstance(field, fields.JobField):
        return parameter | {"schema": _JOB}
    if isinstance(field, fields.StatusListField):
        return parameter | {"schema": _statuses(field, components, name)}
    if isinstance(field, fields.NamesField):  # with commas in one parameter
        parameter |= {"style": "form", "explode": False}
    return parameter | {"schema": _field(field, components, name)}


def _object_of(serializer: StrictSerializer, components: Components) -> Node:
    declared = {
        name: _member(serializer, name, field, components)
        for name, field in serializer.fields.items()
    }
    required = [name for name, field in serializer.fields.items() if field.required]
    node = object_of(declared, required=required, additionalProperties=False)
    name = type(serializer).__name__.removesuffix("Serializer").strip("_")
    return components.schema(f"{name}Request", described(node, plain(type(serializer).__doc__)))


def _member(serializer: StrictSerializer, name: str, field: Any, components: Components) -> Node:
    """Return the schema of a field; null means that an optional one is not given."""
    node = _field(field, components, name)
    may_be_null = field.allow_null or not serializer.given({name: None})
    return nullable(node) if may_be_null else node


def _field(field: Any, components: Components, name: str) -> Node:
    for kind, write in _WRITERS:
        if isinstance(field, kind):
            return described(write(field, components, name), field.help_text)
    raise TypeError(f"rest/schema/inputs.py does not know fields such as {type(field).__name__}.")


def _text(field: Any, components: Components, name: str) -> Node:
    limit = {"maxLength": field.max_length} if field.max_length else {}
    return {**STRING, **limit, "pattern": _TEXT if field.allow_blank else _NOT_BLANK}


def _choice(field: Any, components: Components, name: str) -> Node:
    return choices_of(field.choices, components, name=_title(name))


def _command(field: Any, components: Components, name: str) -> Node:
    return choices_of(fields.FIELDS_OF_COMMANDS, components, name="SupportCommand")


def _number(field: Any, components: Components, name: str) -> Node:
    return {"type": "integer", "minimum": field.min_value, "maximum": field.max_value}


def _list(field: Any, components: Components, name: str) -> Node:
    least = {} if field.allow_empty else {"minItems": 1}
    return array_of(_field(field.child, components, name), **least)


def _statuses(field: Any, components: Components, name: str) -> Node:
    one = choices_of(ChatSession.Status.values, components, name=_title(name))
    return array_of(one, minItems=1)


def _status_or_list(field: Any, components: Components, name: str) -> Node:
    several = _statuses(field, components, name)
    return {"anyOf": [several["items"], several]}


def _names(field: Any, components: Components, name: str) -> Node:
    return array_of({"type": "string", "enum": list(field.names)}, minItems=1)


def _job(field: Any, components: Components, name: str) -> Node:
    return {"anyOf": [_JOB, {"type": "string", "pattern": rf"^[0-9]{{1,{fields.ID_DIGITS}}}$"}]}


# The first that fits counts.
_WRITERS: Final[tuple[tuple[Any, Callable[[Any, Components, str], Node]], ...]] = (
    (StrictSerializer, lambda field, components, name: _object_of(field, components)),
    (fields.IdField, lambda field, components, name: _ID),
    (fields.CommandField, _command),
    (fields.SearchField, lambda field, components, name: {**STRING, "pattern": r"\S"}),
    (fields.StatusListField, _status_or_list),
    (fields.NamesField, _names),
    (fields.JobField, _job),
    (fields.FlagField, lambda field, components, name: BOOLEAN),
    (fields.JSONObjectField, lambda field, components, name: {"type": "object"}),
    (serializers.BooleanField, lambda field, components, name: {**BOOLEAN, "default": False}),
    (serializers.ChoiceField, _choice),
    (serializers.DateField, lambda field, components, name: DAY),
    (serializers.IntegerField, _number),
    (serializers.DateTimeField, lambda field, components, name: MOMENT),
    (serializers.CharField, _text),
    (serializers.ListField, _list),
)


def plain(text: str | None) -> str:
    """Return a docstring as CommonMark in one paragraph for each of its own."""
    paragraphs = (text or "").replace("``", "`").split("\n\n")
    return "\n\n".join(" ".join(each.split()) for each in paragraphs)


def _title(name: str) -> str:
    return name.title().replace("_", "")
