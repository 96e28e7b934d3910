"""The bodies of responses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

from django.db import models
from rest_framework import serializers
from rest_framework.request import Request

from osvi_django.exceptions import message_for_code
from osvi_django.models import ChatSession, CloseAttempt, CloseJob, CloseJobItem, SupportAction
from osvi_django.rest.fields import StoredDateTimeField
from osvi_django.rest.links import job_url
from osvi_django.services.permissions import may_read_summary, may_view
from osvi_django.services.selectors import load_relations

_Row = TypeVar("_Row", bound=models.Model)


class RowSerializer(serializers.ModelSerializer[_Row]):
    """A row as clients see it."""

    serializer_field_mapping: ClassVar[dict[Any, Any]] = {
        **serializers.ModelSerializer.serializer_field_mapping,
        models.DateTimeField: StoredDateTimeField,
    }


class SessionSerializer(RowSerializer[ChatSession]):
    """A session; ``summary`` is its text, or null: ``summary_status`` says why.

    ``summary_source`` is who wrote it, ``summarizer_error`` why this site's own code did not.
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
        """Return the text, if the user may read it."""
        return session.summary.text if self._is_readable(session) else None

    def get_summary_source(self, session: ChatSession) -> str | None:
        """Return who wrote it, if the user may read it."""
        return session.summary.source if self._is_readable(session) else None

    def _is_readable(self, session: ChatSession) -> bool:
        readable = may_read_summary(self.context["request"].user, session)
        return readable and hasattr(session, "summary")


class ActionSerializer(RowSerializer[SupportAction]):
    """An action in a session; its texts are null for users who may not read them."""

    requested_by = serializers.CharField(source="requester", default=None)
    text = serializers.SerializerMethodField()
    reply = serializers.SerializerMethodField()

    class Meta:
        model = SupportAction
        fields = (
            "id",
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

    def get_text(self, action: SupportAction) -> str | None:
        """Return what was said."""
        return action.text if self.context["may_read"] else None

    def get_reply(self, action: SupportAction) -> str | None:
        """Return what the agent said to it."""
        return action.reply if self.context["may_read"] else None


class AttemptSerializer(RowSerializer[CloseAttempt]):
    """One attempt to close a session: who, via what, when, and its outcome."""

    session_id = serializers.CharField(source="session.session_id")
    requested_by = serializers.CharField(source="requester", default=None)
    reason_display = serializers.CharField(source="get_reason_display")

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
            "via",
            "note",
            "reason",
            "reason_display",
            "started_at",
            "answered_at",
            "finished_at",
        )
        read_only_fields = fields


class JobSerializer(RowSerializer[CloseJob]):
    """A close job and its progress."""

    done = serializers.IntegerField()
    created_by = serializers.CharField(source="requester", default=None)
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
            "left_out",
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
        """Return the URL of the outcomes of its sessions."""
        return job_url("close-job-results", job, self.context["request"])


class ResultSerializer(RowSerializer[CloseJobItem]):
    """The outcome of one session of a job, and the session's status now, which may be newer."""

    session_id = serializers.CharField(source="requested_session_id")
    session_status = serializers.CharField(source="session.status", default=None)
    code = serializers.CharField(source="error_code")
    detail = serializers.SerializerMethodField()

    class Meta:
        model = CloseJobItem
        fields = ("session_id", "outcome", "session_status", "code", "detail")
        read_only_fields = fields

    def get_detail(self, item: CloseJobItem) -> str:
        """Return what the code means, with OSVI's own words."""
        return message_for_code(item.error_code, item.error_reason)


def session_body(
    session: ChatSession, request: Request, *, also: Sequence[str] = ()
) -> dict[str, Any]:
    """Return a session for a caller who acted in it: all fields, or a few if they may not view it.

    ``also``: further fields that they need.
    """
    load_relations(session)
    body = dict(SessionSerializer(session, context={"request": request}).data)
    if may_view(request.user, session):
        return body
    return {name: body[name] for name in ("session_id", "status", "mode", *also)}


def closed_body(session: ChatSession, request: Request) -> dict[str, Any]:
    """Return a session for the caller who closed it, who always gets its summary."""
    return session_body(session, request, also=("summary", "summary_status"))
