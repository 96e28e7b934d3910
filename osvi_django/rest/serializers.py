"""The shapes that REST takes and gives."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.reverse import reverse

from osvi_django.models import ID_MAX_LENGTH, NOTE_MAX_LENGTH, ChatSession, CloseAttempt
from osvi_django.services.permissions import may_read_summary


class SessionSerializer(serializers.ModelSerializer[ChatSession]):
    """A session; ``summary`` is its text, or null: ``summary_status`` says why."""

    account = serializers.CharField(source="agent.account")
    agent_uuid = serializers.CharField(source="agent.uuid")
    agent_name = serializers.CharField(source="agent.name")
    summary = serializers.SerializerMethodField()

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
            "started_at",
            "closed_at",
            "summary",
            "summary_status",
        )
        read_only_fields = fields

    def get_summary(self, session: ChatSession) -> str | None:
        """The text, for those who may read it."""
        readable = may_read_summary(self.context["request"].user, session)
        return session.summary.text if readable and hasattr(session, "summary") else None


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


def attempt_url(attempt: CloseAttempt, request: Request) -> str:
    """Where an attempt is to be seen, below wherever the host has included our URLs."""
    here: Any = request.resolver_match
    names = {**here.kwargs, "session_id": attempt.session.session_id, "pk": attempt.pk}
    return reverse(f"{here.namespace}:session-attempt", kwargs=names, request=request)


class CloseSerializer(serializers.Serializer[Any]):
    """What a close may say."""

    agent_uuid = serializers.CharField(
        required=False, max_length=ID_MAX_LENGTH, trim_whitespace=False
    )
    note = serializers.CharField(required=False, allow_blank=True, max_length=NOTE_MAX_LENGTH)


class SessionFilterSerializer(serializers.Serializer[Any]):
    """By what a list of sessions may be filtered."""

    status = serializers.ChoiceField(choices=ChatSession.Status.choices, required=False)
    agent = serializers.CharField(
        required=False, max_length=ID_MAX_LENGTH, source="agent__uuid", trim_whitespace=False
    )
    customer_id = serializers.CharField(
        required=False, max_length=ID_MAX_LENGTH, trim_whitespace=False
    )
