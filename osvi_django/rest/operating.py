"""Operating sessions over REST: look them up, take over, speak, guide the agent, hand back."""

from __future__ import annotations

from typing import Any, Final

from django.db.models import QuerySet
from rest_framework.generics import ListAPIView
from rest_framework.parsers import JSONParser
from rest_framework.request import Request
from rest_framework.response import Response

from osvi_django.conf import DEFAULT_ACCOUNT
from osvi_django.exceptions import SessionNotFound
from osvi_django.models import ChatSession, SupportAction
from osvi_django.rest.errors import OwnView
from osvi_django.rest.incoming import asked, asked_by_address
from osvi_django.rest.pagination import OldestByStart
from osvi_django.rest.permissions import MayAsk, MayViewSessions
from osvi_django.rest.serializers import (
    ActionSerializer,
    ContextSerializer,
    MessageSerializer,
    QuerySerializer,
    SupportSerializer,
    SyncSerializer,
    session_body,
)
from osvi_django.rest.views import closed, require_account
from osvi_django.services.mirroring import find_session, sync_customer
from osvi_django.services.permissions import (
    may_operate,
    may_read_summary,
    may_view,
    require_operate,
)
from osvi_django.services.support import (
    ActionResult,
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


class SyncView(OwnView):
    """``POST sessions/sync/`` with ``customer_id``: look up what a customer has open at OSVI."""

    permission_classes = (MayAsk,)
    parser_classes = (JSONParser,)

    def post(self, request: Request, **kwargs: Any) -> Response:
        """Ask OSVI: 200 and the customer's open sessions, all of them."""
        wanted = asked(SyncSerializer, request)
        require_operate(request.user)
        require_account(wanted.get("account", DEFAULT_ACCOUNT))
        sessions = sync_customer(**wanted, requested_by=request.user, door="rest")
        return Response({"results": [session_body(each, request) for each in sessions]})


class SupportView(OwnView):
    """``POST sessions/{session_id}/support/`` with ``command``, ``message`` or both."""

    permission_classes = (MayAsk,)
    parser_classes = (JSONParser,)

    def post(self, request: Request, session_id: str, **kwargs: Any) -> Response:
        """Do it: 200, the session and what the agent replied; a close answers as a close does."""
        wanted = asked(SupportSerializer, request)
        command, message = wanted.pop("command", ""), wanted.pop("message", "")
        again = wanted.pop("again")
        if command == "close":
            return closed(request, session_id, **wanted)
        session = _session_for(request, session_id)
        if command in _WORDLESS:
            result = _WORDLESS[command](session, requested_by=request.user, door="rest")
        else:
            act = _WITH_WORDS[command]
            result = act(session, message, again=again, requested_by=request.user, door="rest")
        return _done(result, request)


class ContextView(OwnView):
    """``POST sessions/{session_id}/context/`` with ``context``: a fact for the agent to know."""

    permission_classes = (MayAsk,)
    parser_classes = (JSONParser,)

    def post(self, request: Request, session_id: str, **kwargs: Any) -> Response:
        """Add it: 200, the session, and in ``context`` all that OSVI keeps of it now."""
        wanted = asked(ContextSerializer, request)
        session = _session_for(request, session_id)
        text = wanted.pop("context")
        result = inject_context(session, text, **wanted, requested_by=request.user, door="rest")
        return _done(result, request, context=context_of(result.session))


class MessagesView(OwnView):
    """``POST sessions/{session_id}/messages/`` with ``content``: what the customer wrote."""

    permission_classes = (MayAsk,)
    parser_classes = (JSONParser,)

    def post(self, request: Request, session_id: str, **kwargs: Any) -> Response:
        """Hand it over: 200, the session, and in ``reply`` what the agent answers, or null."""
        wanted = asked(MessageSerializer, request)
        session = _session_for(request, session_id)
        text = wanted.pop("content")
        result = receive_message(session, text, **wanted, requested_by=request.user, door="rest")
        return _done(result, request)


class ActionListView(OwnView, ListAPIView[SupportAction]):
    """``GET sessions/{session_id}/actions/``: what was said and done through this site."""

    permission_classes = (MayViewSessions,)
    pagination_class = OldestByStart
    serializer_class = ActionSerializer
    filter_backends = ()

    def get_queryset(self) -> QuerySet[SupportAction]:
        """What was done in this session, or 404; a 400 where the query string asks for more."""
        asked_by_address(QuerySerializer, self.request)
        session = find_session(self.kwargs["session_id"])
        if session is None:
            raise SessionNotFound
        self.session = session
        return session.actions.select_related("requested_by")

    def get_serializer_context(self) -> dict[str, Any]:
        """Also whether the words are for the one who asks."""
        user, session = self.request.user, getattr(self, "session", None)
        may_read = may_read_summary(user, session) or may_operate(user, session)
        return {**super().get_serializer_context(), "may_read": may_read}


def _session_for(request: Request, session_id: str) -> ChatSession:
    """The session, or 404 for those who may know that there is none."""
    session = find_session(session_id)
    if session is None:
        require_operate(request.user)
        raise SessionNotFound
    return session


def _done(result: ActionResult, request: Request, **more: Any) -> Response:
    """What was done; whoever may not see sessions is told no more than what came of it."""
    body = {**session_body(result.session, request), "reply": result.reply}
    if may_view(request.user, result.session):
        body |= {"action": result.action.pk, **more}
    return Response(body)
