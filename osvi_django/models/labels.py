"""Texts of rows that ask the database nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

from django.db import models

_M = TypeVar("_M", bound=models.Model)


def needs_loaded(*names: str) -> Callable[[Callable[[_M], str]], Callable[[_M], str]]:
    """Return a decorator for ``__str__``: if one of these columns is not loaded, use the row's key.

    ``names``: of a relation, the column of its key; what it leads to may not be loaded.
    Debuggers, logs and error reporters show rows at any time: also in an event loop, inside a
    broken transaction, or when the database does not answer.
    """

    def decorate(function: Callable[[_M], str]) -> Callable[[_M], str]:
        @functools.wraps(function)
        def text(row: _M) -> str:
            if row.get_deferred_fields().isdisjoint(names):
                return function(row)
            return f"{type(row).__name__} {row.pk}"

        return text

    return decorate
