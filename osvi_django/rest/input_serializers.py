"""The bodies and query strings of requests."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC
from functools import cache
from typing import Any, Final

from django.http import QueryDict
from django.utils.translation import gettext_lazy as _
from rest_framework import ISO_8601, serializers
from rest_framework.settings import api_settings
from rest_framework.versioning import QueryParameterVersioning

from osvi_django.models import ChatSession, CloseJobItem, DataExport
from osvi_django.rest.fields import (
    FIELDS_OF_COMMANDS,
    WITH_MESSAGE,
    AgentListField,
    AwareDateTimeField,
    CloseReasonField,
    CommandField,
    CustomerField,
    ExpandField,
    FlagField,
    FormatField,
    IdField,
    IdListField,
    JobField,
    JSONObjectField,
    MessageField,
    ModeField,
    MomentField,
    NamesField,
    NoteField,
    OrderingField,
    OutcomeField,
    SearchField,
    StatusField,
    StatusListField,
    StrictBooleanField,
    TextField,
)
from osvi_django.rest.output_serializers import SESSION_FIELDS
from osvi_django.rest.pagination import KeysetPagination, SessionPagination
from osvi_django.services.statistics import MAX_TOP
from osvi_django.services.support import SupportCommand
from osvi_django.validation import CLOSE_REASON_MAX_LENGTH

# A phone number or an offset from UTC whose plus was decoded as a space.
_LOST_PLUS: Final = re.compile(r"^ \d|\d \d\d:?\d\d$")
# How many unknown keys an error names.
_MAX_NAMED: Final = 5
_UNKNOWN: Final = _("This name is unknown: leave it out.")


class StrictSerializer(serializers.Serializer[Any]):
    """Refuse unknown fields: a misspelt one would be ignored silently.

    Null for an optional field means that it is not given.
    """

    def to_internal_value(self, data: Any) -> Any:
        """Return the values, or raise errors."""
        data = self.given(data)
        if isinstance(data, dict) and (unknown := [key for key in data if not self._knows(key)]):
            raise serializers.ValidationError(_not_known(unknown, self))
        return super().to_internal_value(data)

    def given(self, data: Any) -> Any:
        """Return the body without the optional fields that are null."""
        if not isinstance(data, dict) or None not in data.values():
            return data
        return {key: value for key, value in data.items() if not self._is_left_out(key, value)}

    def known_keys(self) -> list[str]:
        """Return the keys to name to a caller who uses another."""
        return list(self.fields)

    def _knows(self, key: object) -> bool:
        return key in self.known_keys()

    def _is_left_out(self, key: object, value: object) -> bool:
        field = self.fields.get(key) if value is None and isinstance(key, str) else None
        return field is not None and not field.required and not field.allow_null


class EmptySerializer(StrictSerializer):
    """An empty body."""


class CloseSerializer(StrictSerializer):
    """The body of a close."""

    agent_uuid = IdField(required=False)
    account = IdField(required=False)
    note = NoteField()
    close_reason = CloseReasonField()
    goodbye = MessageField(required=False, allow_blank=True)


class QuerySerializer(StrictSerializer):
    """A query string without parameters of ours.

    A key that is given more than once or without a value is an error and is never ignored:
    otherwise a list of one customer's sessions would become a list of all sessions.
    """

    def to_internal_value(self, data: QueryDict) -> Any:
        """Return the values, or raise errors."""
        if problems := dict(_invalid_keys(data, repeatable=self._repeatable())):
            raise serializers.ValidationError(problems)
        return super().to_internal_value(data)

    def _knows(self, key: object) -> bool:
        return super()._knows(key) or key in _framework_keys()

    def _repeatable(self) -> set[str]:
        return {name for name, field in self.fields.items() if hasattr(field, "is_repeatable")}


class PageSerializer(QuerySerializer):
    """A query string of a list that is not filtered."""

    def known_keys(self) -> list[str]:
        """Return also the keys of a page."""
        return [
            *super().known_keys(),
            KeysetPagination.page_size_query_param,
            KeysetPagination.cursor_query_param,
        ]


def _framework_keys() -> set[str]:
    """Return the keys of a query string that REST framework itself reads."""
    versioning: Any = api_settings.DEFAULT_VERSIONING_CLASS
    by_query = bool(versioning) and issubclass(versioning, QueryParameterVersioning)
    taken = [api_settings.URL_FORMAT_OVERRIDE, versioning.version_param if by_query else None]
    return {key for key in taken if key}


def _invalid_keys(
    query: QueryDict, *, repeatable: Collection[str]
) -> Iterator[tuple[str, list[Any]]]:
    for key, values in query.lists():
        if len(values) > 1 and key not in repeatable:
            yield key, [_("Give this parameter once.")]
        elif not all(value.strip() for value in values):
            yield key, [_("This parameter has no value: give one or leave it out.")]
        elif key != "search" and _LOST_PLUS.search(values[0]):
            yield key, [_("A + in a URL means a space: send it as %2B.")]


class SessionFields(StrictSerializer):
    """The fields of ``SessionFilter``, by which sessions are chosen."""

    status = StatusListField(required=False)
    agent_uuid = IdField(required=False)
    customer_id = CustomerField(required=False)
    open = FlagField(required=False)
    account = IdField(required=False)
    started_after = MomentField()
    started_before = MomentField()
    closed_after = MomentField()
    closed_before = MomentField()
    idle_since = MomentField()
    mode = ModeField(choices=ChatSession.Mode.choices, required=False)
    help_requested = FlagField(required=False)
    close_reason = TextField(required=False, max_length=CLOSE_REASON_MAX_LENGTH)
    summary_status = StatusField(choices=ChatSession.SummaryStatus.choices, required=False)
    closed_by = IdField(required=False)
    close_job = JobField(required=False)
    search = SearchField(required=False)


class ListedFields(SessionFields):
    """The filters of a list of sessions."""

    # Not for a close, which changes what these look at before it asks once more.
    updated_after = MomentField()
    updated_before = MomentField()


class SessionFilterSerializer(ListedFields, PageSerializer):
    """The filters of a list of sessions, and what is shown in which order."""

    ordering = OrderingField(choices=list(SessionPagination.orderings), required=False)
    # REST framework removes fields from the class, so this does not hide a property.
    fields = NamesField(names=SESSION_FIELDS, required=False)  # type: ignore[assignment]


class ExportSerializer(ListedFields, QuerySerializer):
    """The format of a file, and the filters of a list."""

    format = FormatField(choices=DataExport.Format.choices)


class ResultFilterSerializer(PageSerializer):
    """The filters of the results of a job."""

    outcome = OutcomeField(choices=CloseJobItem.Outcome.choices, required=False)
    expand = ExpandField(choices=["summary"], required=False)


class FiguresQuerySerializer(QuerySerializer):
    """The days of the figures, and how many of each kind are named."""

    first = serializers.DateField(required=False, input_formats=["%Y-%m-%d"])
    last = serializers.DateField(required=False, input_formats=["%Y-%m-%d"])
    top = serializers.IntegerField(required=False, min_value=1, max_value=MAX_TOP)


class BulkFilterSerializer(SessionFields):
    """A filter for the sessions to close, with at least one key."""

    exclude_agents = AgentListField(required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Check that there is at least one condition: an empty filter must not mean all."""
        if not any(name != "exclude_agents" or value for name, value in attrs.items()):
            raise serializers.ValidationError(_none_of(self))
        return attrs

    def _is_left_out(self, key: object, value: object) -> bool:
        # A program's missing value must not turn one customer's sessions into all sessions.
        return False


class BulkCloseSerializer(StrictSerializer):
    """The sessions to close, by ids or by a filter, and why."""

    session_ids = IdListField(allow_empty=False, required=False)
    filter = BulkFilterSerializer(required=False)
    note = NoteField()
    close_reason = CloseReasonField()
    goodbye = MessageField(required=False, allow_blank=True)

    def to_internal_value(self, data: Any) -> Any:
        """Return the values, or raise errors; if both are given, only that one."""
        if isinstance(data, dict) and "session_ids" in data and "filter" in data:
            problem = _("Give either session_ids or filter, not both.")
            raise serializers.ValidationError({api_settings.NON_FIELD_ERRORS_KEY: [problem]})
        return super().to_internal_value(data)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Check that one of the two is given."""
        if "session_ids" not in attrs and "filter" not in attrs:
            raise serializers.ValidationError(_("Give either session_ids or filter."))
        return attrs

    def _is_left_out(self, key: object, value: object) -> bool:
        # Which sessions are meant must be said.
        return key not in {"session_ids", "filter"} and super()._is_left_out(key, value)


class RetrySerializer(StrictSerializer):
    """Whether to close also what was not started when the job was cancelled."""

    include_cancelled = StrictBooleanField()


class StartSerializer(StrictSerializer):
    """The agent and customer of a new session, and what the agent should know."""

    agent_uuid = IdField()
    customer_id = CustomerField()
    input_fields = JSONObjectField(required=False)
    # REST framework removes fields from the class, so this does not hide a property.
    context = serializers.ListField(child=MessageField(), required=False)  # type: ignore[assignment]
    account = IdField(required=False)
    replace = StrictBooleanField()
    note = NoteField()
    close_reason = CloseReasonField()


class SyncSerializer(StrictSerializer):
    """The customer to look up."""

    customer_id = CustomerField()
    account = IdField(required=False)


class EraseSerializer(SyncSerializer):
    """The customer to erase."""

    dry_run = StrictBooleanField(required=False)

    def _is_left_out(self, key: object, value: object) -> bool:
        # A program's missing value must not turn a look into an erasure.
        return key != "dry_run" and super()._is_left_out(key, value)


class SupportSerializer(StrictSerializer):
    """A command with its fields, or a message for the customer."""

    command = CommandField(required=False)
    message = MessageField(required=False, allow_blank=True)
    note = NoteField()
    close_reason = CloseReasonField()
    goodbye = MessageField(required=False, allow_blank=True)
    agent_uuid = IdField(required=False)
    account = IdField(required=False)
    resend = StrictBooleanField()
    taken_over_at = AwareDateTimeField(
        required=False, allow_null=True, input_formats=[ISO_8601], default_timezone=UTC
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Check that every field fits the command, and that a message is there if needed."""
        taken = ("command", *FIELDS_OF_COMMANDS[attrs.get("command", "")])
        for name, value in attrs.items():
            if value and name not in taken:
                problem = _("This field cannot be used with this command: leave it out.")
                raise serializers.ValidationError({name: [problem]})
        if attrs.get("command", "") in WITH_MESSAGE and not attrs.get("message"):
            problem = _("This field is required.")
            raise serializers.ValidationError({"message": [problem]})
        return {name: value for name, value in attrs.items() if name in taken}


@cache
def text_serializer(command: SupportCommand) -> type[StrictSerializer]:
    """Return the serializer of a command whose endpoint takes nothing but its text."""
    fields = {command.field: MessageField(), "resend": StrictBooleanField()}
    return type(f"{command.kind.name.title()}Serializer", (StrictSerializer,), fields)


def _not_known(unknown: Sequence[object], serializer: StrictSerializer) -> dict[str, list[Any]]:
    """Return the problem of each of the first unknown fields, by names that can be sent."""
    known = ", ".join(serializer.known_keys())
    problem = _("This name is unknown: use %(known)s.") % {"known": known} if known else _UNKNOWN
    return {_sendable(name): [problem] for name in unknown[:_MAX_NAMED]}


def _sendable(name: object) -> str:
    """Return a name as it was sent, but for halves of surrogate pairs, which no answer can hold."""
    return str(name).encode(errors="backslashreplace").decode()


def _none_of(serializer: StrictSerializer) -> str:
    return _("Give at least one of %(known)s.") % {"known": ", ".join(serializer.known_keys())}
