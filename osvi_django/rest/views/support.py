"""Operate sessions over REST: look up, take over, write, guide the agent, hand back."""

from __future__ import annotations

from typing import Any, Final

from django.db.models import QuerySet
from rest_framework.generics import ListAPIView
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response

from osvi_django.conf import DEFAULT_ACCOUNT
from osvi_django.exceptions import SessionNotFound
from osvi_django.models import ChatSession, SupportAction
from osvi_django.redaction import hidden
from osvi_django.rest.input_serializers import (
    ContextSerializer,
    MessageSerializer,
    PageSerializer,
    SupportSerializer,
    SyncSerializer,
)
from osvi_django.rest.output_serializers import ActionSerializer, session_body
from osvi_django.rest.pagination import OldestByStart
from osvi_django.rest.parsing import require_account, validated_body
from osvi_django.rest.permissions import MayViewSessions
from osvi_django.rest.views.base import OSVIAPIView
from osvi_django.rest.views.closing import closed
from osvi_django.services.mirroring import look_up_customer
from osvi_django.services.permissions import (
    may_operate,
    may_read_summary,
    may_view,
    require_operate,
)
from osvi_django.services.selectors import find_session
from osvi_django.services.support import (
    ActionResult,
    actions_of,
    context_of,
    hand_back,
    inject_context,
    receive_message,
    send_message,
    take_over,
    tell,
    whisper,
)

_WORDLESS: Final = {"takeover": take_over, "end": hand_back}
_WITH_WORDS: Final = {"tell": tell, "whisper": whisper, "": send_message}


class SyncView(OSVIAPIView):
    """``POST sessions/sync/`` with ``customer_id``: look up what a customer has open at OSVI."""

    permission_classes = (IsAuthenticated,)

    def post(self, request: Request, **kwargs: Any) -> Response:
        """Ask OSVI: 200 and all open sessions of the customer."""
        wanted = validated_body(SyncSerializer, request)
        require_operate(request.user)
        require_account(wanted.get("account", DEFAULT_ACCOUNT))
        found = look_up_customer(**wanted, requested_by=request.user, via="rest")
        return Response({"results": [session_body(each, request) for each in found.sessions]})


class SupportView(OSVIAPIView):
    """``POST sessions/{session_id}/support/`` with ``command``, ``message`` or both."""

    permission_classes = (IsAuthenticated,)

    def post(self, request: Request, session_id: str, **kwargs: Any) -> Response:
        """Run it: 200, the session and the agent's reply; a close answers as a close does."""
        wanted = validated_body(SupportSerializer, request)
        command, message = wanted.pop("command", ""), wanted.pop("message", "")
        resend = wanted.pop("resend")
        if command == "close":
            return closed(request, session_id, **wanted)
        session = _session_for(request, session_id)
        if command in _WORDLESS:
            result = _WORDLESS[command](session, requested_by=request.user, via="rest")
        else:
            act = _WITH_WORDS[command]
            result = act(session, message, resend=resend, requested_by=request.user, via="rest")
        return _done(result, request)


class ContextView(OSVIAPIView):
    """``POST sessions/{session_id}/context/`` with ``context``: a fact for the agent to know."""

    permission_classes = (IsAuthenticated,)

    def post(self, request: Request, session_id: str, **kwargs: Any) -> Response:
        """Add it: 200, the session, and in ``context`` all that OSVI keeps of it now."""
        wanted = validated_body(ContextSerializer, request)
        session = _session_for(request, session_id)
        text = wanted.pop("context")
        result = inject_context(session, text, **wanted, requested_by=request.user, via="rest")
        return _done(result, request, context=hidden(context_of(result.session)))


class MessagesView(OSVIAPIView):
    """``POST sessions/{session_id}/messages/`` with ``content``: what the customer wrote."""

    permission_classes = (IsAuthenticated,)

    def post(self, request: Request, session_id: str, **kwargs: Any) -> Response:
        """Send it to OSVI: 200, the session, and in ``reply`` the agent's answer, or null."""
        wanted = validated_body(MessageSerializer, request)
        session = _session_for(request, session_id)
        text = wanted.pop("content")
        result = receive_message(session, text, **wanted, requested_by=request.user, via="rest")
        return _done(result, request)


class ActionListView(OSVIAPIView, ListAPIView[SupportAction]):
    """``GET sessions/{session_id}/actions/``: the activity on this site."""

    permission_classes = (MayViewSessions,)
    pagination_class = OldestByStart
    serializer_class = ActionSerializer
    query_serializer = PageSerializer
    filter_backends = ()

    def get_queryset(self) -> QuerySet[SupportAction]:
        """Return the actions in this session, or raise 404."""
        session = find_session(self.kwargs["session_id"])
        if session is None:
            raise SessionNotFound
        self.session = session
        return actions_of(session).select_related("requested_by")

    def get_serializer_context(self) -> dict[str, Any]:
        """Add whether the caller may read the texts."""
        user, session = self.request.user, getattr(self, "session", None)
        may_read = may_read_summary(user, session) or may_operate(user, session)
        return {**super().get_serializer_context(), "may_read": may_read}


def _session_for(request: Request, session_id: str) -> ChatSession:
    """Return the session. Raise ``SessionNotFound`` only for callers who may know that."""
    session = find_session(session_id)
    if session is None:
        require_operate(request.user)
        raise SessionNotFound
    return session


def _done(result: ActionResult, request: Request, **more: Any) -> Response:
    """Return the result; callers who may not view sessions get only its outcome."""
    body = {**session_body(result.session, request), "reply": result.reply}
    if may_view(request.user, result.session):
        body |= {"action": result.action.pk, **more}
    return Response(body)
