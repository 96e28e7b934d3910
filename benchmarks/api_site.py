"""The site that ``benchmarks.api`` measures: this app's API, and beside it a bare one.

The bare one is what Django REST framework's documentation leads to: generic views, a
``ModelSerializer`` with the same fields from the same query, pages by cursor of the same size, and
the same authentication and permissions. It has nothing else: no ETag, no check of the query
string, no filters.
"""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.urls import include, path
from rest_framework import serializers
from rest_framework.generics import GenericAPIView, ListAPIView, RetrieveAPIView
from rest_framework.pagination import CursorPagination
from rest_framework.permissions import BasePermission, IsAuthenticated
from rest_framework.request import Request
from rest_framework.views import APIView

from osvi_django.models import ChatSession
from osvi_django.rest.output_serializers import SessionSerializer

# The same, whatever they are.
FIELDS = SessionSerializer.Meta.fields


class MayView(BasePermission):
    """Allow who may view sessions."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        return bool(request.user.has_perm("osvi_django.view_chatsession"))


class Pages(CursorPagination):
    """Pages of the same size in the same order."""

    page_size = 50
    ordering = ("-started_at", "-id")


class BareSerializer(serializers.ModelSerializer[ChatSession]):
    """The same fields, without a check of each session."""

    url = serializers.HyperlinkedIdentityField(view_name="bare-detail", lookup_field="session_id")
    account = serializers.CharField(source="agent.account")
    agent_uuid = serializers.CharField(source="agent.uuid")
    agent_name = serializers.CharField(source="agent.name")
    taken_over_by = serializers.CharField(source="taken_over_by.username", default=None)
    closed_by = serializers.CharField(source="closed_by.username", default=None)
    summary = serializers.CharField(source="summary.text", default=None)
    summary_source = serializers.CharField(source="summary.source", default=None)
    input_fields = serializers.SerializerMethodField()

    class Meta:
        model = ChatSession
        fields = FIELDS

    def get_fields(self) -> dict[str, Any]:
        """Return also ``context``, whose name a serializer has for something else."""
        return {**super().get_fields(), "context": serializers.SerializerMethodField()}

    def get_input_fields(self, session: ChatSession) -> Any:
        """Return what the chat was started with."""
        return session.metadata.get("input_fields", {})

    def get_context(self, session: ChatSession) -> Any:
        """Return the facts that the agent was given."""
        return session.metadata.get("context", [])


class Bare(GenericAPIView[ChatSession]):
    """What both bare views have."""

    permission_classes = (IsAuthenticated, MayView)
    serializer_class = BareSerializer

    def get_queryset(self) -> QuerySet[ChatSession]:
        """Return the sessions with what is shown of them."""
        return ChatSession.objects.select_related("agent", "summary", "taken_over_by", "closed_by")


class BareList(Bare, ListAPIView[ChatSession]):
    """A bare list."""

    pagination_class = Pages


class BareDetail(Bare, RetrieveAPIView[ChatSession]):
    """A bare session."""

    lookup_field = "session_id"


urlpatterns = [
    path("api/osvi/", include("osvi_django.urls")),
    path("bare/sessions/", BareList.as_view(), name="bare-list"),
    path("bare/sessions/<session_id>/", BareDetail.as_view(), name="bare-detail"),
]
