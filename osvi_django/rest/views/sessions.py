"""List, show and start sessions over REST."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as _lazy
from rest_framework.exceptions import NotFound
from rest_framework.permissions import BasePermission, IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer
from rest_framework.status import HTTP_201_CREATED

from osvi_django.exceptions import SessionNotFound
from osvi_django.models import ChatSession
from osvi_django.rest.input_serializers import (
    QuerySerializer,
    SessionFilterSerializer,
    StartSerializer,
)
from osvi_django.rest.links import session_url
from osvi_django.rest.output_serializers import (
    AttemptSerializer,
    SessionSerializer,
    session_body,
)
from osvi_django.rest.pagination import NewestStartedFirst
from osvi_django.rest.parsing import (
    require_account,
    validated_body,
    validated_query,
)
from osvi_django.rest.permissions import MayViewSessions
from osvi_django.rest.views.base import OSVIAPIView, OSVIListView
from osvi_django.services import selectors
from osvi_django.services.permissions import require_operate
from osvi_django.services.selectors import SessionFilter, find_session
from osvi_django.services.starting import start_session


class SessionListView(OSVIListView[ChatSession]):
    """``GET sessions/``: newest first, by the fields of ``SessionFilter``.

    ``POST sessions/`` starts one, with ``agent_uuid`` and ``customer_id``; with ``replace`` an open
    one is closed first.
    """

    description = _lazy("List chat sessions, newest first (GET), or start one (POST).")
    pagination_class = NewestStartedFirst

    def get_permissions(self) -> list[BasePermission]:
        """Require the permission to view; the service checks the permission for a start."""
        return [IsAuthenticated()] if self.request.method == "POST" else [MayViewSessions()]

    def get_serializer_class(self) -> type[BaseSerializer[Any]]:
        """Return the serializer of a start for a POST, else that of a session."""
        return StartSerializer if self.request.method == "POST" else SessionSerializer

    def get_query_serializer(self) -> type[QuerySerializer]:
        """Return the serializer of the query string; a start has no filter."""
        return QuerySerializer if self.request.method == "POST" else SessionFilterSerializer

    def get_queryset(self) -> QuerySet[ChatSession]:
        """Return the sessions that match the query string."""
        wanted = validated_query(SessionFilterSerializer, self.request)
        chosen = SessionFilter(**{"status": None, **wanted})
        return ChatSession.objects.select_related("agent", "summary").filter(chosen.condition())

    def post(self, request: Request, **kwargs: Any) -> Response:
        """Start a session: 201, the session and its URL."""
        wanted = validated_body(StartSerializer, request)
        require_operate(request.user)
        require_account(wanted.get("account"))
        session = start_session(**wanted, requested_by=request.user, via="rest")
        location = {"Location": session_url(session, request)}
        return Response(session_body(session, request), HTTP_201_CREATED, headers=location)


class SessionDetailView(OSVIAPIView):
    """``GET sessions/{session_id}/``."""

    description = _lazy("Show one chat session.")
    permission_classes = (MayViewSessions,)

    def get(self, request: Request, session_id: str, **kwargs: Any) -> Response:
        """Return one session, or 404."""
        session = find_session(session_id)
        if session is None:
            raise SessionNotFound
        return Response(SessionSerializer(session, context={"request": request}).data)


class AttemptView(OSVIAPIView):
    """``GET sessions/{session_id}/attempts/{id}/``: one attempt to close it."""

    description = _lazy("Show one attempt to close a chat session.")
    permission_classes = (MayViewSessions,)

    def get(self, request: Request, session_id: str, pk: int, **kwargs: Any) -> Response:
        """Return one attempt of this session, or 404."""
        session = find_session(session_id)
        if session is None:
            raise SessionNotFound
        attempts = (
            selectors.attempts(session).select_related("session", "requested_by").filter(pk=pk)
        )
        attempt = attempts.first()
        if attempt is None:
            raise NotFound(_("This chat session has no such attempt."))
        return Response(AttemptSerializer(attempt).data)
