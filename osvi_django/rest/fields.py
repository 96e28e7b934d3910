"""Fields of request bodies and query strings."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from django.utils.timezone import get_default_timezone, is_naive, make_aware
from django.utils.translation import gettext_lazy as _
from rest_framework import serializers

from osvi_django.conf import bulk_limit, configured
from osvi_django.services.support import COMMANDS, TEXT_MAX_LENGTH
from osvi_django.validation import (
    NOTE_MAX_LENGTH,
    id_problem,
)

# Maximum nesting; copying deeper JSON overflows the stack.
_DEEPEST: Final = 20
# The command of ``support/`` that closes a session, as ``close/`` does.
CLOSE: Final = "close"
# The support commands by OSVI's names; without one, the message goes to the customer.
SUPPORT_COMMANDS: Final = {each.word: each for each in COMMANDS.values() if not each.own_call}
FIELDS_OF_COMMANDS: Final[dict[str, tuple[str, ...]]] = {
    **{word: command.rest_fields for word, command in SUPPORT_COMMANDS.items()},
    CLOSE: ("note", "agent_uuid", "account"),
}


class StoredDateTimeField(serializers.DateTimeField):
    """A time of a row, always with its offset from UTC, as clients are in other time zones."""

    def to_representation(self, value: Any) -> Any:
        """Return its text; without ``USE_TZ`` in the site's own time zone."""
        # Not left to Django REST framework: it fails for the hour that comes twice a year.
        aware = make_aware(value, get_default_timezone()) if is_naive(value) else value
        return super().to_representation(aware)

    def default_timezone(self) -> Any:
        """Return the time zone in which times are shown."""
        return super().default_timezone() or get_default_timezone()


class IdField(serializers.Field[str, str, str, Any]):
    """One of OSVI's ids, exactly as it was sent; other types are not converted."""

    def to_internal_value(self, data: str) -> str:
        """Return the id, or raise an error."""
        if problem := id_problem(data):
            raise serializers.ValidationError(problem, code="invalid")
        return data


class CustomerField(IdField):
    """The site's own id of a customer."""

    default_error_messages = {"blank": _("This field is required.")}

    def to_internal_value(self, data: str) -> str:
        """Return the id, or raise an error."""
        if data == "":
            self.fail("blank")
        return super().to_internal_value(data)


class TextField(serializers.CharField):
    """A text; other types are not converted."""

    def to_internal_value(self, data: Any) -> str:
        """Return the text without surrounding spaces, or raise an error."""
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class MessageField(TextField):
    """A message of a person."""

    def __init__(self, **options: Any) -> None:
        super().__init__(max_length=TEXT_MAX_LENGTH, **options)


class NoteField(TextField):
    """A note that says why something is done."""

    def __init__(self) -> None:
        super().__init__(required=False, allow_blank=True, max_length=NOTE_MAX_LENGTH)


class IdListField(serializers.ListField):
    """A list of ids: at least one, and no more than the limit."""

    child = IdField()
    default_error_messages = {
        "too_many": _("You can close {limit} chat sessions at a time, and this list has {number}.")
    }

    def to_internal_value(self, data: Any) -> list[str]:
        """Return the ids. If there are too many, none of them is checked."""
        limit = current_limit()
        if isinstance(data, list) and len(data) > limit:
            self.fail("too_many", limit=limit, number=len(data))
        return super().to_internal_value(data)


class StatusField(serializers.ChoiceField):
    """A status. An invalid value is not repeated in the error: it may not be encodable."""

    default_error_messages = {"unknown": _("This is not a status: use one of {statuses}.")}

    def to_internal_value(self, data: Any) -> Any:
        """Return the status, or raise an error."""
        if not isinstance(data, str) or data not in self.choices:
            self.fail("unknown", statuses=", ".join(map(str, self.choices)))
        return data


class AwareDateTimeField(serializers.DateTimeField):
    """A time with an offset, so that it means the same in every time zone."""

    default_error_messages = {
        "naive": _("The time has no offset from UTC. Use a time such as 2026-01-31T12:00:00Z.")
    }

    def enforce_timezone(self, value: datetime) -> datetime:
        """Return the time in UTC, or raise an error."""
        if is_naive(value):
            self.fail("naive")
        return super().enforce_timezone(value)


class StrictBooleanField(serializers.BooleanField):
    """True or false; other types are not converted."""

    def __init__(self, **options: Any) -> None:
        super().__init__(default=False, **options)

    def to_internal_value(self, data: Any) -> bool:
        """Return the value, or raise an error."""
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return data


class CommandField(serializers.Field[str, str, str, Any]):
    """One of the commands. Leave the field out for no command."""

    default_error_messages = {"unknown": _("This is not a command: use one of {commands}.")}

    def to_internal_value(self, data: Any) -> str:
        """Return the command, or raise an error."""
        if not isinstance(data, str) or not data or data not in FIELDS_OF_COMMANDS:
            self.fail("unknown", commands=", ".join(filter(None, FIELDS_OF_COMMANDS)))
        return data


class JSONObjectField(serializers.DictField):
    """A JSON object with a limited depth."""

    default_error_messages = {"too_deep": _("This is nested too deeply.")}

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        """Return the object, or raise an error."""
        layer = [data]
        for _depth in range(_DEEPEST):
            layer = [inner for each in layer for inner in _inside(each)]
        if layer:
            self.fail("too_deep")
        return super().to_internal_value(data)


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def current_limit() -> int:
    """Return how many sessions may be closed at a time. Raise ``OSVINotConfigured``."""
    with configured():
        return bulk_limit()
