"""Find sessions by the beginning or the end of a number or an id, each by an index of its own."""

from __future__ import annotations

from typing import Final

from django.db import connections
from django.db.models import Q

from osvi_django.models.search_keys import reversed_text

# Numbers of so many digits may be stored without what was typed before them.
_LOCAL_NUMBER: Final = 7
# On MariaDB startswith is LIKE BINARY, and on SQLite LIKE ignores case as the index does not: both
# would read all rows.
_LOOKUPS: Final = {"mysql": ("istartswith",), "sqlite": ("startswith", "gte", "lt")}
_LAST_CHARACTER: Final = "\U0010ffff"


def begins(field: str, start: str, *, using: str) -> Q:
    """Return the condition that a field begins with a text, in the way that its index serves."""
    values = {
        "startswith": start,
        "istartswith": start,
        "gte": start,
        "lt": start + _LAST_CHARACTER,
    }
    lookups = _LOOKUPS.get(connections[using].vendor, ("startswith",))
    return Q(**{f"{field}__{lookup}": values[lookup] for lookup in lookups})


def has_number(digits: str, *, using: str) -> Q:
    """Return the condition that a customer's digits end with these.

    A number that is stored without the code of its country, or with a zero in place of it, is found
    by the whole number too.
    """
    key = reversed_text(digits)
    local = [key[:length] for length in range(_LOCAL_NUMBER, len(key))]
    condition = begins("customer_digits", key, using=using)
    if local:
        condition |= Q(customer_digits__in=[*local, *(f"{each}0" for each in local)])
    return condition


def has_customer(text: str, *, using: str) -> Q:
    """Return the condition that a customer's id begins with a text, in one of the usual cases."""
    condition = Q()
    for each in dict.fromkeys((text, text.lower(), text.upper())):
        condition |= begins("customer_id", each, using=using)
    return condition


def has_id(start: str, end: str, *, using: str) -> Q:
    """Return the condition that a session id begins with one text and ends with another."""
    condition = begins("session_key", start, using=using) if start else Q()
    if end:
        condition &= begins("session_key_reversed", reversed_text(end), using=using)
    return condition


def has_part(part: str, *, using: str) -> Q:
    """Return the condition that a session id begins or ends with a text."""
    return has_id(part, "", using=using) | has_id("", part, using=using)
