"""Columns that hold a text as it is searched for, filled from another field of the row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db import models

from osvi_django.validation import ID_MAX_LENGTH


class SearchKeyField(models.CharField):  # type: ignore[type-arg]  # no subscript at run time
    """What a search compares: made from the field ``source`` whenever the row is saved.

    ``QuerySet.update`` does not save rows: an update of ``source`` names this field too.
    """

    def __init__(
        self, source: str = "", key_of: Callable[[str], str] = str, **options: Any
    ) -> None:
        self.source = source
        self.key_of = key_of
        options |= {"max_length": ID_MAX_LENGTH, "blank": True, "editable": False}
        super().__init__(**{"default": "", "db_index": True, **options})

    def deconstruct(self) -> Any:
        """Return a plain text column: how it is filled is no business of a migration."""
        name, _path, args, options = super().deconstruct()
        return name, "django.db.models.CharField", args, options

    def pre_save(self, model_instance: models.Model, add: bool) -> str:
        """Return the key of the current text, and set it on the row."""
        key = self.key_of(str(getattr(model_instance, self.source)))
        setattr(model_instance, self.attname, key)
        return key


def digits_of(text: str) -> str:
    """Return the digits of a text, as ASCII."""
    return "".join(str(int(each)) for each in text if each.isdecimal())


def compact_id(text: str) -> str:
    """Return an id as people copy it: its letters and digits, in lower case."""
    return "".join(each for each in text.lower() if each.isalnum())


def reversed_text(text: str) -> str:
    """Return a text from its end to its beginning."""
    return text[::-1]


def customer_key(customer_id: str) -> str:
    """Return the digits of a customer id from its end: a search for the last ones finds it."""
    return reversed_text(digits_of(customer_id))


def customer_columns(customer_id: str) -> dict[str, str]:
    """Return the columns that hold a customer id, for ``QuerySet.update``."""
    return {"customer_id": customer_id, "customer_digits": customer_key(customer_id)}
