"""List, show and start sessions over REST."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from django.db.models import QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as _lazy
from rest_framework.exceptions import NotFound
from rest_framework.permissions import BasePermission, IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer
from rest_framework.status import HTTP_201_CREATED

from osvi_django.models import ChatSession
from osvi_django.rest.input_serializers import (
    QuerySerializer,
    SessionFilterSerializer,
    StartSerializer,
)
from osvi_django.rest.links import session_url
from osvi_django.rest.output_serializers import (
    SESSION_FIELDS,
    AttemptSerializer,
    SessionSerializer,
    search_body,
    session_body,
)
from osvi_django.rest.pagination import SessionPagination, order_of
from osvi_django.rest.parsing import (
    require_account,
    require_visible_job,
    validated_body,
    validated_query,
)
from osvi_django.rest.permissions import MayViewSessions
from osvi_django.rest.views.base import SessionView, SummariesListView, unknown_path
from osvi_django.services import selectors
from osvi_django.services.access import Purpose, sessions_inside
from osvi_django.services.changes import settled_changes
from osvi_django.services.permissions import may_view, require_operate
from osvi_django.services.search import SearchResult, search_sessions
from osvi_django.services.selectors import SessionFilter, all_sessions
from osvi_django.services.starting import start_session

# What only those see who may read what was said.
_FOR_READERS: Final = frozenset({"summary", "summary_source", "input_fields", "context"})
# The rows that are shown with a session.
_SHOWN: Final = ("agent", "summary", "taken_over_by", "closed_by")


class SessionListView(SummariesListView[ChatSession]):
    """``GET sessions/``: newest first, by the fields of ``SessionFilter`` and by ``search``.

    ``POST sessions/`` starts one, with ``agent_uuid`` and ``customer_id``; with ``replace`` an open
    one is closed first.
    """

    description = _lazy("List chat sessions, newest first (GET), or start one (POST).")
    pagination_class = SessionPagination
    found: SearchResult | None = None
    shown: Collection[str] = SESSION_FIELDS

    def get_permissions(self) -> list[BasePermission]:
        """Require the permission to view; the service checks the permission for a start."""
        is_start = self.request.method == "POST"
        self.permission_classes = (IsAuthenticated,) if is_start else (MayViewSessions,)
        return super().get_permissions()

    def require_allowed(self, request: Request, **kwargs: Any) -> None:
        """Raise ``NotAllowed`` for a start; who may view is checked already."""
        if request.method == "POST":
            require_operate(request.user)

    def get_serializer_class(self) -> type[BaseSerializer[Any]]:
        """Return the serializer of a start for a POST, else that of a session."""
        return StartSerializer if self.request.method == "POST" else SessionSerializer

    def get_query_serializer(self) -> type[QuerySerializer]:
        """Return the serializer of the query string; a start has no filter."""
        return QuerySerializer if self.request.method == "POST" else SessionFilterSerializer

    def get_queryset(self) -> QuerySet[ChatSession]:
        """Return the sessions that match the query string."""
        wanted = validated_query(SessionFilterSerializer, self.request)
        text, order = wanted.pop("search", None), order_of(wanted)
        wanted.pop("ordering", None)
        self.shown = wanted.pop("fields", SESSION_FIELDS)
        sessions = _in_order(order, shown=self.shown)
        require_visible_job(self.request.user, wanted.get("close_job"))
        chosen = SessionFilter(**{"status": None, **wanted})
        sessions = sessions_inside(sessions, self.request.user, Purpose.VIEW)
        if text is not None:
            self.found = search_sessions(text, requested_by=self.request.user)
            sessions = sessions.filter(self.found.condition)
        return sessions.filter(chosen.condition())

    def sessions_on(self, page: Sequence[ChatSession]) -> Sequence[ChatSession]:
        """Return the sessions of the page; none if nothing is shown that not everybody may read.

        The host's backends may ask the database for each.
        """
        return page if _FOR_READERS.intersection(self.shown) else ()

    def get_serializer_context(self) -> dict[str, Any]:
        """Add the fields that the query string names."""
        return {**super().get_serializer_context(), "fields": self.shown}

    def get_paginated_response(self, data: Any) -> Response:
        """Return the page, with what was searched if there was a search."""
        response = super().get_paginated_response(data)
        if self.found is not None:
            response.data["search"] = search_body(self.found)
        return response

    def post(self, request: Request, **kwargs: Any) -> Response:
        """Start a session: 201, the session and its URL."""
        wanted = validated_body(StartSerializer, request)
        require_account(wanted.get("account"))
        session = start_session(**wanted, requested_by=request.user, via="rest")
        location = {"Location": session_url(session, request)}
        return Response(session_body(session, request), HTTP_201_CREATED, headers=location)


def _in_order(order: str, *, shown: Collection[str]) -> QuerySet[ChatSession]:
    """Return the sessions of a list in this order, with what is shown of each and no more."""
    # A replica may not have a change that is older than the last one that it has.
    is_sync = order == "updated_at"
    sessions = settled_changes(all_sessions()) if is_sync else ChatSession.objects.all()
    if order.endswith("closed_at"):
        sessions = sessions.filter(closed_at__isnull=False)
    if "summary" not in shown:
        sessions = sessions.defer("summary__text")
    if not {"input_fields", "context"}.intersection(shown):
        sessions = sessions.defer("metadata")
    return sessions.select_related(*_SHOWN)


class SessionDetailView(SessionView):
    """``GET sessions/{session_id}/``."""

    description = _lazy("Show one chat session.")
    permission_classes = (MayViewSessions,)

    def check_permissions(self, request: Request) -> None:
        """Tell a path below a session that does not exist from an id with a slash in it.

        For callers who may not see a session of this id, there is none.
        """
        if "/" in self.kwargs["session_id"] and IsAuthenticated().has_permission(request, self):
            session = self.find_session()
            if session is None or not may_view(request.user, session):
                raise unknown_path()
        super().check_permissions(request)

    def get(self, request: Request, session_id: str, **kwargs: Any) -> Response:
        """Return one session, or 404."""
        session = self.get_session()
        return Response(SessionSerializer(session, context={"request": request}).data)


class AttemptView(SessionView):
    """``GET sessions/{session_id}/attempts/{id}/``: one attempt to close it."""

    description = _lazy("Show one attempt to close a chat session.")
    permission_classes = (MayViewSessions,)

    def get(self, request: Request, session_id: str, pk: int, **kwargs: Any) -> Response:
        """Return one attempt of this session, or 404."""
        session = self.get_session()
        attempts = (
            selectors.attempts(session).select_related("session", "requested_by").filter(pk=pk)
        )
        attempt = attempts.first()
        if attempt is None:
            raise NotFound(_("This chat session has no such attempt."))
        return Response(AttemptSerializer(attempt, context={"request": request}).data)
