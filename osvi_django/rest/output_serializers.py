"""The bodies of responses."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, ClassVar, Final, TypeVar, cast

from django.db import models
from django.utils.translation import gettext_lazy as _
from rest_framework import serializers
from rest_framework.request import Request

from osvi_django.exceptions import error_reason, message_for_code
from osvi_django.models import (
    ChatSession,
    CloseAttempt,
    CloseJob,
    CloseJobItem,
    SessionSummary,
    SupportAction,
)
from osvi_django.rest.fields import StoredDateTimeField
from osvi_django.rest.links import (
    action_url,
    attempt_url,
    item_attempt_url,
    job_url,
    recover_url,
    session_url,
)
from osvi_django.services.mirroring.sessions import input_fields_in
from osvi_django.services.permissions import is_user, may_view, readable_summaries
from osvi_django.services.recovery import RecoveryResult, Settled
from osvi_django.services.search import SearchResult
from osvi_django.services.selectors import load_relations
from osvi_django.services.support import context_of

_Row = TypeVar("_Row", bound=models.Model)
_COUNTED: Final = _(
    "How many ended like this in the job. It does not change when one is settled later: "
    "session_status in the results is the status now."
)


class RowSerializer(serializers.ModelSerializer[_Row]):
    """A row as clients see it: null where there is nothing."""

    serializer_field_mapping: ClassVar[dict[Any, Any]] = {
        **serializers.ModelSerializer.serializer_field_mapping,
        models.DateTimeField: StoredDateTimeField,
    }

    def to_representation(self, instance: _Row) -> dict[str, Any]:
        """Return the fields; an empty text is null, as all that is missing."""
        shown = super().to_representation(instance)
        return {name: None if value == "" else value for name, value in shown.items()}


SESSION_FIELDS: Final = (
    "session_id",
    "url",
    "account",
    "agent_uuid",
    "agent_name",
    "customer_id",
    "status",
    "mode",
    "help_requested",
    "help_requested_at",
    "active_human",
    "taken_over_by",
    "taken_over_at",
    "started_at",
    "last_activity_at",
    "updated_at",
    "closed_at",
    "closed_by",
    "close_reason",
    "summary",
    "summary_status",
    "summary_source",
    "summarizer_error",
    "input_fields",
    "context",
)


class SessionSerializer(RowSerializer[ChatSession]):
    """A session; ``summary`` is its text, or null: ``summary_status`` says why.

    ``summary_source`` is who wrote it, ``summarizer_error`` why this site's own code did not.
    ``input_fields`` and ``context`` are what the agent was given, as far as this site knows; null
    for callers who may not read what was said.
    """

    _may_read: bool = False

    url = serializers.SerializerMethodField()

    account = serializers.CharField(source="agent.account")
    agent_uuid = serializers.CharField(source="agent.uuid")
    agent_name = serializers.CharField(source="agent.name")
    taken_over_by = serializers.CharField(source="taken_over_by.get_username", default=None)
    closed_by = serializers.CharField(source="closed_by.get_username", default=None)
    summary = serializers.SerializerMethodField()
    summary_source = serializers.SerializerMethodField()
    input_fields = serializers.SerializerMethodField()

    class Meta:
        model = ChatSession
        fields = tuple(name for name in SESSION_FIELDS if name != "context")
        read_only_fields = fields

    def get_fields(self) -> dict[str, Any]:
        """Return also ``context``, whose name a serializer has for something else.

        Of all fields, those that the caller has named.
        """
        known = {**super().get_fields(), "context": serializers.SerializerMethodField()}
        wanted = self.context.get("fields", SESSION_FIELDS)
        return {name: field for name, field in known.items() if name in wanted}

    def to_representation(self, instance: ChatSession) -> dict[str, Any]:
        """Return the fields; what the user may read is asked once for all of them."""
        readable: Collection[int] | None = self.context.get("readable")  # of a page of a list
        if readable is None:
            readable = readable_summaries(self.context["request"].user, [instance])
        self._may_read = instance.pk in readable
        return super().to_representation(instance)

    def get_url(self, session: ChatSession) -> str:
        """Return its address."""
        return session_url(session, self.context["request"])

    def get_summary(self, session: ChatSession) -> str | None:
        """Return the text, if the user may read it."""
        return session.summary.text if self._is_readable(session) else None

    def get_summary_source(self, session: ChatSession) -> str | None:
        """Return who wrote it, if the user may read it."""
        return session.summary.source if self._is_readable(session) else None

    def get_input_fields(self, session: ChatSession) -> dict[str, Any] | None:
        """Return what the chat was started with, if the user may read it."""
        return input_fields_in(session.metadata) if self._may_read else None

    def get_context(self, session: ChatSession) -> list[str] | None:
        """Return the facts that the agent was given, if the user may read them."""
        return context_of(session) if self._may_read else None

    def _is_readable(self, session: ChatSession) -> bool:
        return self._may_read and hasattr(session, "summary")


class ActionSerializer(RowSerializer[SupportAction]):
    """An action in a session; its texts are null for users who may not read them."""

    url = serializers.SerializerMethodField()
    session = serializers.SerializerMethodField()
    requested_by = serializers.CharField(source="requester", default=None)
    text = serializers.SerializerMethodField()
    reply = serializers.SerializerMethodField()

    class Meta:
        model = SupportAction
        fields = (
            "id",
            "url",
            "session",
            "kind",
            "requested_by",
            "via",
            "text",
            "reply",
            "outcome",
            "error_code",
            "error_reason",
            "started_at",
            "finished_at",
            "redacted_at",
        )
        read_only_fields = fields

    def get_url(self, action: SupportAction) -> str:
        """Return its address."""
        return action_url(action, self.context["request"])

    def get_session(self, action: SupportAction) -> str:
        """Return the address of its session."""
        return session_url(action.session, self.context["request"])

    def get_text(self, action: SupportAction) -> str | None:
        """Return what was said."""
        return action.text if self.context["may_read"] else None

    def get_reply(self, action: SupportAction) -> str | None:
        """Return what the agent said to it."""
        return action.reply if self.context["may_read"] else None


class AttemptSerializer(RowSerializer[CloseAttempt]):
    """One attempt to close a session: who, via what, when, and its outcome."""

    url = serializers.SerializerMethodField()
    session_id = serializers.CharField(source="session.session_id")
    session = serializers.SerializerMethodField()
    requested_by = serializers.CharField(source="requester", default=None)
    reason_display = serializers.CharField(source="get_reason_display", allow_null=True)

    class Meta:
        model = CloseAttempt
        fields = (
            "id",
            "url",
            "session_id",
            "session",
            "kind",
            "outcome",
            "error_code",
            "error_reason",
            "requested_by",
            "via",
            "note",
            "close_reason",
            "reason",
            "reason_display",
            "started_at",
            "answered_at",
            "finished_at",
        )
        read_only_fields = fields

    def get_url(self, attempt: CloseAttempt) -> str:
        """Return its address."""
        return attempt_url(attempt, self.context["request"])

    def get_session(self, attempt: CloseAttempt) -> str:
        """Return the address of its session."""
        return session_url(attempt.session, self.context["request"])


class JobSerializer(RowSerializer[CloseJob]):
    """A close job and its progress."""

    url = serializers.SerializerMethodField()
    done = serializers.IntegerField()
    requested_by = serializers.CharField(source="requester", default=None)
    results = serializers.SerializerMethodField()

    class Meta:
        model = CloseJob
        fields = (
            "id",
            "url",
            "status",
            "total",
            "done",
            "succeeded",
            "failed",
            "unconfirmed",
            "left_out",
            "cancelled",
            "requested_by",
            "via",
            "created_at",
            "started_at",
            "finished_at",
            "note",
            "close_reason",
            "goodbye",
            "paused_by",
            "resume_at",
            "results",
        )
        read_only_fields = fields
        extra_kwargs: ClassVar = {
            name: {"help_text": _COUNTED}
            for name in ("succeeded", "failed", "unconfirmed", "left_out", "cancelled")
        }

    def get_url(self, job: CloseJob) -> str:
        """Return its address."""
        return job_url("close-job", job, self.context["request"])

    def get_results(self, job: CloseJob) -> str:
        """Return the URL of the outcomes of its sessions."""
        return job_url("close-job-results", job, self.context["request"])


class ResultSerializer(RowSerializer[CloseJobItem]):
    """The outcome of one session of a job, and the session's status now, which may be newer."""

    session_id = serializers.CharField(source="requested_session_id")
    session = serializers.SerializerMethodField()
    session_status = serializers.CharField(source="session.status", default=None)
    attempt = serializers.SerializerMethodField()
    detail = serializers.SerializerMethodField()

    class Meta:
        model = CloseJobItem
        fields = (
            "session_id",
            "session",
            "outcome",
            "session_status",
            "attempt",
            "error_code",
            "error_reason",
            "detail",
            "goodbye",
        )
        read_only_fields = fields

    def get_session(self, item: CloseJobItem) -> str | None:
        """Return the address of the session, if this site has it."""
        return session_url(item.session, self.context["request"]) if item.session else None

    def get_attempt(self, item: CloseJobItem) -> str | None:
        """Return the address of the attempt to close it, if there was one."""
        return item_attempt_url(item, self.context["request"])

    def get_detail(self, item: CloseJobItem) -> str | None:
        """Return what the code means, with OSVI's own words."""
        return message_for_code(item.error_code, item.error_reason) or None


class ResultWithSummarySerializer(ResultSerializer):
    """The same with the summary of the session, as the session itself shows it."""

    summary = serializers.SerializerMethodField()
    summary_status = serializers.CharField(source="session.summary_status", default=None)
    summary_source = serializers.SerializerMethodField()

    class Meta:
        model = CloseJobItem
        fields = (*ResultSerializer.Meta.fields, "summary", "summary_status", "summary_source")
        read_only_fields = fields

    def get_summary(self, item: CloseJobItem) -> str | None:
        """Return the text, if the user may read it."""
        found = self._summary_of(item)
        return found.text if found else None

    def get_summary_source(self, item: CloseJobItem) -> str | None:
        """Return who wrote it, if the user may read it."""
        found = self._summary_of(item)
        return found.source if found else None

    def _summary_of(self, item: CloseJobItem) -> SessionSummary | None:
        is_readable = item.session_id in self.context["readable"]
        return getattr(item.session, "summary", None) if is_readable else None


def search_body(found: SearchResult) -> dict[str, Any]:
    """Return what was searched, and whether there may be more."""
    return {
        "searched": [str(kind) for kind in found.kinds],
        "is_capped": found.is_capped,
        "notice": found.notice or None,
    }


def recovery_body(found: RecoveryResult, request: Request) -> dict[str, Any]:
    """Return the result of a recovery: if nothing has changed, why, and the address to call."""
    code, reason = (found.error.code, error_reason(found.error)) if found.error else (None, None)
    is_open_question = found.settled is Settled.UNCHANGED
    return {
        "settled": found.settled.value,
        "detail": found.detail or None,
        "error_code": code,
        "error_reason": reason or None,
        "next": recover_url(found.session, request) if is_open_question else None,
    }


def session_body(
    session: ChatSession, request: Request, *, also: Sequence[str] = ()
) -> dict[str, Any]:
    """Return a session for a caller who acted in it: all fields, or a few if they may not view it.

    ``also``: further fields that they need.
    """
    load_relations(session)
    if is_user(request.user, session.closed_by_id):
        session.closed_by = cast("Any", request.user)  # which is loaded already
    body = dict(SessionSerializer(session, context={"request": request}).data)
    if may_view(request.user, session):
        return body
    return {name: body[name] for name in ("session_id", "status", "mode", *also)}


def closed_body(session: ChatSession, request: Request) -> dict[str, Any]:
    """Return a session for the caller who closed it, who always gets its summary."""
    return session_body(session, request, also=("summary", "summary_status"))
