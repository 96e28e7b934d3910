"""Texts of rows that ask the database nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

from django.db import models
from django.db.models.fields.related_descriptors import ForwardManyToOneDescriptor

_M = TypeVar("_M", bound=models.Model)


def needs_loaded(*names: str) -> Callable[[Callable[[_M], str]], Callable[[_M], str]]:
    """Return a decorator for ``__str__``: if one of these fields is not loaded, use the row's key.

    Debuggers, logs and error reporters show rows at any time: also in an event loop, inside a
    broken transaction, or when the database does not answer.
    """

    def decorate(function: Callable[[_M], str]) -> Callable[[_M], str]:
        @functools.wraps(function)
        def text(row: _M) -> str:
            if all(_is_loaded(row, name) for name in names):
                return function(row)
            return f"{type(row).__name__} {row.pk}"

        return text

    return decorate


def _is_loaded(row: models.Model, name: str) -> bool:
    field = getattr(type(row), name)
    if isinstance(field, ForwardManyToOneDescriptor):  # a relation
        return field.is_cached(row)
    return name in vars(row)
