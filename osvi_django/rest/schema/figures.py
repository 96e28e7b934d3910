"""The schema of the figures, from their serializers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from rest_framework import serializers

from osvi_django.rest.figures import Body, FiguresSerializer, StepSerializer
from osvi_django.rest.schema.inputs import DAY, plain
from osvi_django.rest.schema.nodes import (
    INTEGER,
    STRING,
    Components,
    Node,
    array_of,
    described,
    nullable,
    object_of,
)

_KINDS: Final[tuple[tuple[Any, Node], ...]] = (
    (serializers.DateField, DAY),
    (serializers.IntegerField, INTEGER),
    (serializers.FloatField, {"type": "number"}),
)
# What a method returns.
_RETURNED: Final[dict[str, Callable[[Components], Node]]] = {
    "closed": lambda components: object_of({"number": INTEGER, "before": INTEGER}),
    "detail": lambda components: nullable(STRING),
    "error_code": lambda components: nullable(STRING),
    "longest_seconds": lambda components: nullable(INTEGER),
    "outcomes": lambda components: {"type": "object", "additionalProperties": INTEGER},
    "steps": lambda components: array_of(_object_of(StepSerializer(), components)),
}


def figures(components: Components) -> Node:
    """Return the schema of the figures."""
    return _object_of(FiguresSerializer(), components)


def _object_of(part: Body, components: Components) -> Node:
    members = {name: _member(field, components) for name, field in part.fields.items()}
    name = type(part).__name__.removesuffix("Serializer").removesuffix("Figures")
    node = described(object_of(members), plain(type(part).__doc__))
    return components.schema(f"Figures{name}", node)


def _member(field: Any, components: Components) -> Node:
    if isinstance(field, serializers.SerializerMethodField):
        return _RETURNED[str(field.field_name)](components)
    node = _value(field, components)
    return nullable(node) if field.allow_null else node


def _value(field: Any, components: Components) -> Node:
    if isinstance(field, serializers.ListSerializer):
        row: Any = field.child
        return array_of(_object_of(row, components))
    if isinstance(field, Body):
        return _object_of(field, components)
    return next((node for kind, node in _KINDS if isinstance(field, kind)), STRING)
