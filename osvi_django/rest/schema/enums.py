"""The enumerations of this API, each named after the class that declares it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, Final

from django.apps import apps
from django.db.models import TextChoices

from osvi_django.models import CloseJob
from osvi_django.rest.schema.nodes import Components, Node

# What is never shown: a job is one only when it is confirmed.
_HIDDEN: Final = {CloseJob.Status: {CloseJob.Status.DRAFT.value}}


def choices_of(choices: Iterable[Any], components: Components, *, name: str) -> Node:
    """Return the schema of a value that is one of these, under the name of their class.

    ``name``: what to call choices that no model of this app declares.
    """
    values = [str(value) for value in choices if value not in {"", None}]
    declared = _declared().get(frozenset(values))
    hidden: set[str] = set()
    if declared is not None:
        name, hidden = declared
    shown = [each for each in values if each not in hidden]
    return components.schema(name, {"type": "string", "enum": shown})


@cache
def _declared() -> dict[frozenset[str], tuple[str, set[str]]]:
    """Return the names and hidden values of all choices that the models declare, by values."""
    found: dict[frozenset[str], tuple[str, set[str]]] = {}
    for name, choices in _classes():
        found.setdefault(frozenset(choices.values), (name, _HIDDEN.get(choices, set())))
    return found


def _classes() -> Iterator[tuple[str, Any]]:
    for model in apps.get_app_config("osvi_django").get_models():
        for name, value in vars(model).items():
            if isinstance(value, type) and issubclass(value, TextChoices):
                yield f"{model.__name__}{name}", value
