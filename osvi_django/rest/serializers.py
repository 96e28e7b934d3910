"""The shapes that REST takes and gives."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from django.http import QueryDict
from django.utils.timezone import is_naive
from django.utils.translation import gettext_lazy as _
from rest_framework import ISO_8601, serializers
from rest_framework.request import Request
from rest_framework.reverse import reverse
from rest_framework.settings import api_settings

from osvi_django.conf import InvalidSetting, bulk_limit
from osvi_django.exceptions import OSVINotConfigured, describe
from osvi_django.models import (
    ID_MAX_LENGTH,
    NOTE_MAX_LENGTH,
    ChatSession,
    CloseAttempt,
    CloseJob,
    CloseJobItem,
    SupportAction,
)
from osvi_django.rest.pagination import ByKey
from osvi_django.services.mirroring import is_storable_id
from osvi_django.services.permissions import may_read_summary, may_view
from osvi_django.services.support import TEXT_MAX_LENGTH

# What our own routes name; whatever else is named in an address, the host did.
_OWN_NAMES: Final = ("session_id", "pk")
# Of the keys that are not known.
_MOST_NAMED: Final = 5
# Of what is in one another; whoever copies it along the way runs out of stack at hundreds.
_DEEPEST: Final = 20
# What goes with each command; without one, the message is for the customer.
_TAKEN_BY: Final[dict[str, tuple[str, ...]]] = {
    "takeover": (),
    "tell": ("message", "again"),
    "whisper": ("message", "again"),
    "end": (),
    "close": ("note", "agent_uuid", "account"),
    "": ("message", "again"),
}


class SessionSerializer(serializers.ModelSerializer[ChatSession]):
    """A session; ``summary`` is its text, or null: ``summary_status`` says why.

    ``summary_source`` is who wrote it, and ``summarizer_error`` what kept this site's own code.
    """

    account = serializers.CharField(source="agent.account")
    agent_uuid = serializers.CharField(source="agent.uuid")
    agent_name = serializers.CharField(source="agent.name")
    summary = serializers.SerializerMethodField()
    summary_source = serializers.SerializerMethodField()

    class Meta:
        model = ChatSession
        fields = (
            "session_id",
            "account",
            "agent_uuid",
            "agent_name",
            "customer_id",
            "status",
            "mode",
            "help_requested",
            "active_human",
            "started_at",
            "closed_at",
            "summary",
            "summary_status",
            "summary_source",
            "summarizer_error",
        )
        read_only_fields = fields

    def get_summary(self, session: ChatSession) -> str | None:
        """The text, for those who may read it."""
        return session.summary.text if self._is_readable(session) else None

    def get_summary_source(self, session: ChatSession) -> str | None:
        """Who wrote it, for those who may read it."""
        return session.summary.source if self._is_readable(session) else None

    def _is_readable(self, session: ChatSession) -> bool:
        readable = may_read_summary(self.context["request"].user, session)
        return readable and hasattr(session, "summary")


class ActionSerializer(serializers.ModelSerializer[SupportAction]):
    """What was said or done in a session; its words are null for those who may not read them."""

    requested_by = serializers.CharField(source="requested_by.get_username", default=None)
    text = serializers.SerializerMethodField()
    reply = serializers.SerializerMethodField()

    class Meta:
        model = SupportAction
        fields = (
            "id",
            "kind",
            "requested_by",
            "door",
            "text",
            "reply",
            "outcome",
            "error_code",
            "error_reason",
            "started_at",
            "finished_at",
            "forgotten_at",
        )
        read_only_fields = fields

    def get_text(self, action: SupportAction) -> str | None:
        """What was said."""
        return action.text if self.context["may_read"] else None

    def get_reply(self, action: SupportAction) -> str | None:
        """What the agent said to it."""
        return action.reply if self.context["may_read"] else None


class AttemptSerializer(serializers.ModelSerializer[CloseAttempt]):
    """One try to close a session: who, through which door, when, and what came of it."""

    session_id = serializers.CharField(source="session.session_id")
    requested_by = serializers.CharField(source="requested_by.get_username", default=None)

    class Meta:
        model = CloseAttempt
        fields = (
            "id",
            "session_id",
            "kind",
            "outcome",
            "error_code",
            "error_reason",
            "requested_by",
            "door",
            "note",
            "started_at",
            "answered_at",
            "finished_at",
        )
        read_only_fields = fields


class JobSerializer(serializers.ModelSerializer[CloseJob]):
    """A job that closes many sessions, and how far it has come."""

    done = serializers.IntegerField()
    created_by = serializers.CharField(source="requested_by.get_username", default=None)
    results = serializers.SerializerMethodField()

    class Meta:
        model = CloseJob
        fields = (
            "id",
            "status",
            "total",
            "done",
            "succeeded",
            "failed",
            "unconfirmed",
            "cancelled",
            "created_by",
            "created_at",
            "started_at",
            "finished_at",
            "note",
            "paused_by",
            "resume_at",
            "results",
        )
        read_only_fields = fields

    def get_results(self, job: CloseJob) -> str:
        """Where what became of each session is to be seen."""
        return job_url("close-job-results", job, self.context["request"])


class ResultSerializer(serializers.ModelSerializer[CloseJobItem]):
    """What became of one session of a job."""

    session_id = serializers.CharField(source="asked_id")
    code = serializers.CharField(source="error_code")
    detail = serializers.SerializerMethodField()

    class Meta:
        model = CloseJobItem
        fields = ("session_id", "outcome", "code", "detail")
        read_only_fields = fields

    def get_detail(self, item: CloseJobItem) -> str:
        """What the code means, with OSVI's own words."""
        return describe(item.error_code, item.error_reason)


def session_body(
    session: ChatSession, request: Request, *, also: Sequence[str] = ()
) -> dict[str, Any]:
    """A session for whoever has done something in it, who may see all of it or what that takes.

    ``also``: what else that is.
    """
    told = dict(SessionSerializer(session, context={"request": request}).data)
    if may_view(request.user, session):
        return told
    return {name: told[name] for name in ("session_id", "status", "mode", *also)}


def closed_body(session: ChatSession, request: Request) -> dict[str, Any]:
    """A session for whoever has closed it, who is told of its summary whatever they may see."""
    return session_body(session, request, also=("summary", "summary_status"))


def session_url(session: ChatSession, request: Request) -> str:
    """Where a session is to be seen."""
    return _url("session-detail", request, session_id=session.session_id)


def attempt_url(attempt: CloseAttempt, request: Request) -> str:
    """Where an attempt is to be seen."""
    return _url("session-attempt", request, session_id=attempt.session.session_id, pk=attempt.pk)


def job_url(name: str, job: CloseJob, request: Request) -> str:
    """Where a job, or something of it, is to be seen."""
    return _url(name, request, pk=job.pk)


def _url(name: str, request: Request, **names: Any) -> str:
    """An address below wherever the host has included our URLs."""
    here: Any = request.resolver_match
    hosts = {key: value for key, value in here.kwargs.items() if key not in _OWN_NAMES}
    return reverse(f"{here.namespace}:{name}", kwargs=hosts | names, request=request)


class IdField(serializers.Field[str, str, str, Any]):
    """One of OSVI's ids: taken as it is, and nothing is made one that is none."""

    default_error_messages = {
        "invalid": _("This is not an id that OSVI gave: use a text of 1 to {length} characters.")
    }

    def to_internal_value(self, data: str) -> str:
        """The id, or an error."""
        if not is_storable_id(data):
            self.fail("invalid", length=ID_MAX_LENGTH)
        return data


class TextField(serializers.CharField):
    """A text, and nothing is made one that is none."""

    def to_internal_value(self, data: Any) -> str:
        """The text without spaces around it, or an error."""
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class WordsField(TextField):
    """What somebody says."""

    def __init__(self, **options: Any) -> None:
        super().__init__(max_length=TEXT_MAX_LENGTH, **options)


class NoteField(TextField):
    """Why something is done."""

    def __init__(self) -> None:
        super().__init__(required=False, allow_blank=True, max_length=NOTE_MAX_LENGTH)


class IdListField(serializers.ListField):
    """As many ids as may be named at a time, one at least."""

    child = IdField()
    default_error_messages = {
        "too_many": _("At most {limit} chat sessions can be closed at a time: these are {number}.")
    }

    def to_internal_value(self, data: Any) -> list[str]:
        """The ids; none of them is looked at where there are too many."""
        limit = current_limit()
        if isinstance(data, list) and len(data) > limit:
            self.fail("too_many", limit=limit, number=len(data))
        return super().to_internal_value(data)


class StatusField(serializers.ChoiceField):
    """A status; what was sent instead is not repeated, as no answer may be able to hold it."""

    default_error_messages = {"unknown": _("This is not a status: use one of {statuses}.")}

    def to_internal_value(self, data: Any) -> Any:
        """The status, or an error."""
        if not isinstance(data, str) or data not in self.choices:
            self.fail("unknown", statuses=", ".join(map(str, self.choices)))
        return data


class MomentField(serializers.DateTimeField):
    """A moment that everybody takes for the same one, whatever the host's time zone is."""

    default_error_messages = {
        "naive": _("The time has no offset from UTC: write 2026-01-31T12:00:00Z, for example.")
    }

    def enforce_timezone(self, value: datetime) -> datetime:
        """The moment in UTC, or an error."""
        if is_naive(value):
            self.fail("naive")
        return super().enforce_timezone(value)


class OnlyKnown(serializers.Serializer[Any]):
    """Takes no field that it does not know: misspelt, it would be as if it were not there."""

    def to_internal_value(self, data: Any) -> Any:
        """The values, or errors."""
        if isinstance(data, dict) and (unknown := [key for key in data if self._is_odd(key, data)]):
            problem = _not_known(unknown, self)
            raise serializers.ValidationError({api_settings.NON_FIELD_ERRORS_KEY: [problem]})
        return super().to_internal_value(data)

    def beside(self) -> Collection[str]:
        """What goes with the fields of a form, and is none of ours."""
        return ("csrfmiddlewaretoken",)

    def _is_odd(self, key: object, data: Any) -> bool:
        is_beside = isinstance(data, QueryDict) and key in self.beside()
        return key not in self.fields and not is_beside


class NothingSerializer(OnlyKnown):
    """A body that has nothing to say."""


class CloseSerializer(OnlyKnown):
    """What a close may say."""

    agent_uuid = IdField(required=False)
    account = IdField(required=False)
    note = NoteField()


class QuerySerializer(OnlyKnown):
    """A query string that filters nothing."""

    def beside(self) -> Collection[str]:
        """What pages and formats are chosen by."""
        page = (ByKey.cursor_query_param, ByKey.page_size_query_param)
        return (*page, api_settings.URL_FORMAT_OVERRIDE or "")


class SessionFilterSerializer(QuerySerializer):
    """By what a list of sessions may be filtered."""

    status = serializers.ChoiceField(choices=ChatSession.Status.choices, required=False)
    agent_uuid = serializers.CharField(
        required=False, max_length=ID_MAX_LENGTH, source="agent__uuid", trim_whitespace=False
    )
    # As it was called at first.
    agent = serializers.CharField(
        required=False, max_length=ID_MAX_LENGTH, source="agent__uuid", trim_whitespace=False
    )
    customer_id = serializers.CharField(
        required=False, max_length=ID_MAX_LENGTH, trim_whitespace=False
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """One name for the agent."""
        if {"agent_uuid", "agent"} <= set(self.initial_data):
            raise serializers.ValidationError(_("Give either agent_uuid or agent."))
        return attrs


class ResultFilterSerializer(QuerySerializer):
    """By what the results of a job may be filtered."""

    outcome = serializers.ChoiceField(choices=CloseJobItem.Outcome.choices, required=False)


class BulkFilterSerializer(OnlyKnown):
    """Which sessions to close, by what they are; one key at least."""

    status = StatusField(choices=ChatSession.Status.choices, required=False)
    agent_uuid = IdField(required=False)
    customer_id = IdField(required=False)
    started_before = MomentField(required=False, input_formats=[ISO_8601], default_timezone=UTC)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """One key at least: no filter is no way to mean all."""
        if not attrs:
            raise serializers.ValidationError(_none_of(self))
        return attrs


class BulkCloseSerializer(OnlyKnown):
    """Which sessions to close, by their ids or by a filter, and why."""

    session_ids = IdListField(allow_empty=False, required=False)
    filter = BulkFilterSerializer(required=False)
    note = NoteField()

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Exactly one of the two."""
        if ("session_ids" in attrs) == ("filter" in attrs):
            raise serializers.ValidationError(_("Give either session_ids or filter."))
        return attrs


class AgainField(serializers.BooleanField):
    """Whether to send what may have been sent already: true or false, and nothing is made one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(default=False, **options)

    def to_internal_value(self, data: Any) -> bool:
        """The answer, or an error."""
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return data


class CommandField(serializers.Field[str, str, str, Any]):
    """One of the commands; none is meant by leaving it out, and by nothing else."""

    default_error_messages = {"unknown": _("This is not a command: use one of {commands}.")}

    def to_internal_value(self, data: Any) -> str:
        """The command, or an error."""
        if not isinstance(data, str) or not data or data not in _TAKEN_BY:
            self.fail("unknown", commands=", ".join(filter(None, _TAKEN_BY)))
        return data


class ObjectField(serializers.DictField):
    """An object of anything that JSON has, as deep as anybody means it."""

    default_error_messages = {"too_deep": _("This is nested too deeply.")}

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        """The object, or an error."""
        layer = [data]
        for _depth in range(_DEEPEST):
            layer = [inner for each in layer for inner in _inside(each)]
        if layer:
            self.fail("too_deep")
        return super().to_internal_value(data)


class StartSerializer(OnlyKnown):
    """With whom a session begins, and what its agent shall know."""

    agent_uuid = IdField()
    customer_id = IdField()
    input_fields = ObjectField(required=False)
    # REST framework takes fields off the class, so that this is in no property's way.
    context = serializers.ListField(child=WordsField(), required=False)  # type: ignore[assignment]
    account = IdField(required=False)


class SyncSerializer(OnlyKnown):
    """Whose sessions to look up."""

    customer_id = IdField()
    account = IdField(required=False)


class SupportSerializer(OnlyKnown):
    """A command and what goes with it, or a message for the customer."""

    command = CommandField(required=False)
    message = WordsField(required=False, allow_blank=True)
    note = NoteField()
    agent_uuid = IdField(required=False)
    account = IdField(required=False)
    again = AgainField()

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Nothing that would be left unsaid, and a message where there is nothing else."""
        taken = _TAKEN_BY[attrs.get("command", "")]
        for name in ("message", "note", "agent_uuid", "account", "again"):
            if attrs.get(name) and name not in taken:
                problem = _("Leave it out: it does not go with what is asked for.")
                raise serializers.ValidationError({name: [problem]})
        if "message" in taken and not attrs.get("message"):
            problem = _("Write what is to be said.")
            raise serializers.ValidationError({"message": [problem]})
        return attrs


class ContextSerializer(OnlyKnown):
    """What the agent shall know from now on."""

    context = WordsField()  # type: ignore[assignment]
    again = AgainField()


class MessageSerializer(OnlyKnown):
    """What the customer wrote."""

    content = WordsField()
    again = AgainField()


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def current_limit() -> int:
    """How many sessions may be closed at a time. Raises ``OSVINotConfigured``."""
    try:
        return bulk_limit()
    except InvalidSetting as error:
        problem = str(error)
    raise OSVINotConfigured(problem)


def _not_known(unknown: Sequence[object], serializer: OnlyKnown) -> str:
    # As Python writes them: what was sent may hold what no answer can.
    first = ", ".join(map(repr, unknown[:_MOST_NAMED]))
    told = {"unknown": first, "known": ", ".join(serializer.fields)}
    if not told["known"]:
        return _("%(unknown)s is not known here: leave it out.") % told
    return _("%(unknown)s is not known here: use %(known)s.") % told


def _none_of(serializer: OnlyKnown) -> str:
    return _("Name one of %(known)s at least.") % {"known": ", ".join(serializer.fields)}
