"""REST's face of the services: each view asks one of them and says what came of it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

from django.db.models import QuerySet
from django.utils.translation import gettext as _
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.generics import ListAPIView
from rest_framework.parsers import JSONParser
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer
from rest_framework.status import HTTP_201_CREATED

from osvi_django.conf import InvalidSetting, account_aliases
from osvi_django.exceptions import SessionNotFound
from osvi_django.models import ChatSession
from osvi_django.rest.errors import OwnView
from osvi_django.rest.incoming import RESPOND_ASYNC, asked, asked_by_address, prefers_async
from osvi_django.rest.jobs import accepted
from osvi_django.rest.pagination import NewestSessions
from osvi_django.rest.permissions import MayAsk, MayViewSessions
from osvi_django.rest.serializers import (
    AttemptSerializer,
    CloseSerializer,
    NothingSerializer,
    SessionFilterSerializer,
    SessionSerializer,
    StartSerializer,
    closed_body,
    session_body,
    session_url,
)
from osvi_django.services import close_session_by_id
from osvi_django.services.closing import require_closable, session_to_close
from osvi_django.services.jobs import create_close_job
from osvi_django.services.mirroring import exactly, find_session, start_session
from osvi_django.services.permissions import require_close, require_operate
from osvi_django.services.recovery import recover_session

# What must be the very same; MariaDB would take what looks alike.
_IDS: Final = {"customer_id", "agent__uuid"}


class SessionListView(OwnView, ListAPIView[ChatSession]):
    """``GET sessions/``: newest first, by ``status``, ``agent_uuid`` and ``customer_id``.

    ``POST sessions/`` starts one, with ``agent_uuid`` and ``customer_id``.
    """

    pagination_class = NewestSessions
    parser_classes = (JSONParser,)
    filter_backends = ()

    def get_permissions(self) -> list[BasePermission]:
        """Seeing takes a permission; whether a start is allowed, the service says."""
        return [MayAsk()] if self.request.method == "POST" else [MayViewSessions()]

    def get_serializer_class(self) -> type[BaseSerializer[Any]]:
        """What is asked for a start, or a session."""
        return StartSerializer if self.request.method == "POST" else SessionSerializer

    def get_queryset(self) -> QuerySet[ChatSession]:
        """The sessions that the query string asks for; a 400 where it asks for nonsense."""
        wanted = asked_by_address(SessionFilterSerializer, self.request)
        sessions = ChatSession.objects.select_related("agent", "summary")
        for name in _IDS & wanted.keys():
            sessions = sessions.filter(exactly(name, wanted.pop(name)))
        return sessions.filter(**wanted)

    def post(self, request: Request, **kwargs: Any) -> Response:
        """Start it: 201, the session, and where it is to be seen."""
        wanted = asked(StartSerializer, request)
        require_operate(request.user)
        require_account(wanted.get("account"))
        session = start_session(**wanted, requested_by=request.user, door="rest")
        location = {"Location": session_url(session, request)}
        return Response(session_body(session, request), HTTP_201_CREATED, headers=location)


class SessionDetailView(OwnView):
    """``GET sessions/{session_id}/``."""

    permission_classes = (MayViewSessions,)

    def get(self, request: Request, session_id: str, **kwargs: Any) -> Response:
        """One session, or 404."""
        session = find_session(session_id)
        if session is None:
            raise SessionNotFound
        return Response(SessionSerializer(session, context={"request": request}).data)


class AttemptView(OwnView):
    """``GET sessions/{session_id}/attempts/{id}/``: what became of a try to close it."""

    permission_classes = (MayViewSessions,)

    def get(self, request: Request, session_id: str, pk: int, **kwargs: Any) -> Response:
        """One attempt of this session, or 404."""
        session = find_session(session_id)
        if session is None:
            raise SessionNotFound
        attempts = session.attempts.select_related("session", "requested_by").filter(pk=pk)
        attempt = attempts.first()
        if attempt is None:
            raise NotFound(_("There is no such attempt to close this chat session here."))
        return Response(AttemptSerializer(attempt).data)


class SessionCloseView(OwnView):
    """``POST sessions/{session_id}/close/``; ``agent_uuid``, ``account``, ``note`` are optional."""

    permission_classes = (MayAsk,)

    def post(self, request: Request, session_id: str, **kwargs: Any) -> Response:
        """Close it: 200 and the session, its summary, and whether this call changed anything.

        Who prefers not to wait is answered 202 and a job of one session.
        """
        return closed(request, session_id, **asked(CloseSerializer, request))


class SessionRecoverView(OwnView):
    """``POST sessions/{session_id}/recover/``: settle a session of which nobody knows."""

    permission_classes = (MayAsk,)

    def post(self, request: Request, session_id: str, **kwargs: Any) -> Response:
        """Ask OSVI: 200, the session, and in ``settled`` and ``detail`` what became of it."""
        asked(NothingSerializer, request)
        session = find_session(session_id)
        if session is None:
            require_close(request.user)
            raise SessionNotFound
        found = recover_session(session, requested_by=request.user, door="rest")
        told = {"settled": found.settled.value, "detail": found.detail}
        return Response(closed_body(found.session, request) | told)


def closed(request: Request, session_id: str, **wishes: Any) -> Response:
    """Close a session and answer it, or a job of it where the sender prefers not to wait."""
    if "account" in wishes:
        require_close(request.user, find_session(session_id))
        require_account(wishes["account"])
    if prefers_async(request):
        return _accept(request, session_id, **wishes)
    result = close_session_by_id(session_id, requested_by=request.user, door="rest", **wishes)
    return Response(closed_body(result.session, request) | {"changed": result.changed})


def _accept(request: Request, session_id: str, *, note: str = "", **ids: str) -> Response:
    user = request.user
    session = session_to_close(session_id, requested_by=user, **ids)
    require_closable(session)
    job = create_close_job([session], requested_by=user, door="rest", note=note)
    response = accepted(job, request)
    response["Preference-Applied"] = RESPOND_ASYNC
    return response


def require_account(account: str | None) -> None:
    """400 where an account is named that this site does not have."""
    with suppress(InvalidSetting):  # which the service tells
        if account is not None and account not in account_aliases():
            known = ", ".join(account_aliases())
            problem = _("This site has no account “%(account)s”: name one of %(known)s.")
            told = {"account": account, "known": known}
            raise ValidationError({"account": [problem % told]})
