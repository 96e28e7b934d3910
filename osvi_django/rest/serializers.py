"""The shapes that REST takes and gives."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from osvi_django.models import ID_MAX_LENGTH, NOTE_MAX_LENGTH, ChatSession
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
