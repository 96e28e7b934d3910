"""Fields of request bodies and query strings."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

from django.http import QueryDict
from django.utils.timezone import is_naive
from django.utils.translation import gettext_lazy as _
from rest_framework import ISO_8601, serializers

from osvi_django.conf import bulk_limit, configured
from osvi_django.database import utc_text
from osvi_django.models import ChatSession
from osvi_django.services.selectors import MOMENT_YEARS
from osvi_django.services.support import COMMANDS, TEXT_MAX_LENGTH
from osvi_django.validation import (
    CLOSE_REASON_MAX_LENGTH,
    NOTE_MAX_LENGTH,
    id_problem,
)

# Maximum nesting; copying deeper JSON overflows the stack.
_DEEPEST: Final = 20
# A number with more digits is no key of a row.
ID_DIGITS: Final = 18
# The command of ``support/`` that closes a session, as ``close/`` does.
CLOSE: Final = "close"
# The support commands by OSVI's names; without one, the message goes to the customer.
SUPPORT_COMMANDS: Final = {each.word: each for each in COMMANDS.values() if not each.own_call}
FIELDS_OF_COMMANDS: Final[dict[str, tuple[str, ...]]] = {
    **{word: command.rest_fields for word, command in SUPPORT_COMMANDS.items()},
    CLOSE: ("note", "close_reason", "goodbye", "agent_uuid", "account"),
}
# The commands that need a message.
WITH_MESSAGE: Final = {word for word, each in SUPPORT_COMMANDS.items() if each.needs_text}


class StoredDateTimeField(serializers.DateTimeField):
    """A time of a row, in UTC, in one format whatever the host's settings say."""

    def to_representation(self, value: datetime) -> str:
        """Return its text, such as ``2026-01-31T12:00:00.123456Z``."""
        return utc_text(value)


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


class SearchField(serializers.Field[str, str, str, Any]):
    """What to search for: any text, as a search that cannot find anything is no error of a list."""

    default_error_messages = {"invalid": _("This is not a text.")}

    def to_internal_value(self, data: str) -> str:
        """Return the text as it was sent; other types are not converted."""
        if not isinstance(data, str):
            self.fail("invalid")
        return data


class MessageField(TextField):
    """A message of a person."""

    def __init__(self, **options: Any) -> None:
        super().__init__(max_length=TEXT_MAX_LENGTH, **options)


class NoteField(TextField):
    """A note that says why something is done."""

    def __init__(self) -> None:
        super().__init__(required=False, allow_blank=True, max_length=NOTE_MAX_LENGTH)


class CloseReasonField(TextField):
    """A reason for closing; the service checks whether the account allows it."""

    def __init__(self) -> None:
        super().__init__(required=False, allow_blank=True, max_length=CLOSE_REASON_MAX_LENGTH)


class AgentListField(serializers.ListField):
    """A list of OSVI's ids of agents; the service limits how many."""

    child = IdField()


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

    default_error_messages = {"unknown": _("This is not a status: use one of {known}.")}

    def to_internal_value(self, data: Any) -> Any:
        """Return the status, or raise an error."""
        if not isinstance(data, str) or data not in self.choices:
            self.fail("unknown", known=", ".join(map(str, self.choices)))
        return data


class StatusListField(serializers.Field[list[str], Any, list[str], Any]):
    """One or several statuses: a list in JSON; in a query string with commas, or repeated."""

    is_repeatable = True
    default_error_messages = {
        "empty": _("A status between two commas, or before or after one, is missing.")
    }

    def get_value(self, dictionary: Any) -> Any:
        """Return what was given, also if a query string has it more than once."""
        name = str(self.field_name)
        if isinstance(dictionary, QueryDict) and name in dictionary:
            return ",".join(dictionary.getlist(name))
        return super().get_value(dictionary)

    def to_internal_value(self, data: Any) -> list[str]:
        """Return the statuses, each once, or raise an error."""
        named = data.split(",") if isinstance(data, str) else data
        if not isinstance(named, list) or not named:
            named = [None]
        if isinstance(data, str) and data and not all(each.strip() for each in named):
            self.fail("empty")
        one = StatusField(choices=ChatSession.Status.choices)
        return list(dict.fromkeys(one.to_internal_value(each) for each in named))


class NamesField(serializers.Field[list[str], str, list[str], Any]):
    """Names with commas between them, each of which must be known."""

    default_error_messages = {
        "unknown": _("{name} is unknown: use {known}."),
        "empty": _("A name between two commas, or before or after one, is missing: use {known}."),
    }

    def __init__(self, *, names: Collection[str], **options: Any) -> None:
        self.names = names
        super().__init__(**options)

    def to_internal_value(self, data: str) -> list[str]:
        """Return the names, or raise an error."""
        named = data.split(",")
        for name in named:
            if not name.strip():
                self.fail("empty", known=", ".join(self.names))
            if name not in self.names:
                self.fail("unknown", name=repr(name), known=", ".join(self.names))
        return named


class OrderingField(StatusField):
    """The order of a list."""

    default_error_messages = {"unknown": _("This is not an order: use one of {known}.")}


class OutcomeField(StatusField):
    """The outcome of one session of a job."""

    default_error_messages = {"unknown": _("This is not an outcome: use one of {known}.")}


class ExpandField(StatusField):
    """What is shown with each row."""

    default_error_messages = {"unknown": _("This cannot be shown: use one of {known}.")}


class ModeField(StatusField):
    """Who answers the customer."""

    default_error_messages = {"unknown": _("This is not a mode: use one of {known}.")}


class FormatField(StatusField):
    """The format of a file."""

    default_error_messages = {
        "unknown": _("This is not a format: use one of {known}."),
        "required": _("The format of the file is missing: use one of {known}."),
    }

    def fail(self, key: str, **values: Any) -> NoReturn:
        """Raise the error; each of them names the formats."""
        super().fail(key, **{"known": ", ".join(map(str, self.choices)), **values})


class AwareDateTimeField(serializers.DateTimeField):
    """A time with an offset, so that it means the same in every time zone."""

    default_error_messages = {
        "naive": _("The time has no offset from UTC. Use a time such as 2026-01-31T12:00:00Z."),
        "overflow": _("This is too far in the past or future: use a year from 2 to 9998."),
    }

    def enforce_timezone(self, value: datetime) -> datetime:
        """Return the time in UTC, or raise an error."""
        if is_naive(value):
            self.fail("naive")
        moment = super().enforce_timezone(value)
        if moment.year not in MOMENT_YEARS:
            self.fail("overflow")
        return moment


class MomentField(AwareDateTimeField):
    """A time by which sessions are chosen."""

    def __init__(self) -> None:
        super().__init__(required=False, input_formats=[ISO_8601], default_timezone=UTC)


class StrictBooleanField(serializers.BooleanField):
    """True or false; other types are not converted."""

    default_error_messages = {
        "invalid": _("This is not a flag: use true or false."),
        "null": _("This is not a flag: use true or false."),
    }

    def __init__(self, **options: Any) -> None:
        super().__init__(default=False, **options)

    def to_internal_value(self, data: Any) -> bool:
        """Return the value, or raise an error."""
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return data


class JobField(serializers.Field[int, int | str, int, Any]):
    """The id of a close job; the service checks whether the caller may see it."""

    default_error_messages = {"invalid": _("This is not the id of a close job.")}

    def to_internal_value(self, data: int | str) -> int:
        """Return the id, or raise an error."""
        is_text = isinstance(data, str) and data.isascii() and data.isdigit()
        is_number = isinstance(data, int) and not isinstance(data, bool)
        if not (is_text or is_number) or not 0 <= len(str(data)) <= ID_DIGITS or int(data) < 0:
            self.fail("invalid")
        return int(data)


class FlagField(serializers.Field[bool, bool | str, bool, Any]):
    """True or false, in JSON or, as ``true`` or ``false``, in a query string."""

    default_error_messages = {"unknown": _("This is not a flag: use true or false.")}

    def to_internal_value(self, data: bool | str) -> bool:
        """Return the value, or raise an error."""
        if isinstance(data, bool):
            return data
        if data not in {"true", "false"}:
            self.fail("unknown")
        return data == "true"


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
