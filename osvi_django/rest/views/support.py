"""Operate sessions over REST: look up, take over, write, guide the agent, hand back."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _
from rest_framework.generics import ListAPIView
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response

from osvi_django.conf import DEFAULT_ACCOUNT
from osvi_django.exceptions import SessionNotFound
from osvi_django.models import ChatSession, SupportAction
from osvi_django.redaction import hidden
from osvi_django.rest.fields import CLOSE, SUPPORT_COMMANDS
from osvi_django.rest.input_serializers import (
    PageSerializer,
    SupportSerializer,
    SyncSerializer,
    text_serializer,
)
from osvi_django.rest.output_serializers import ActionSerializer, session_body
from osvi_django.rest.pagination import OldestStartedFirst
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
    CONTEXT,
    INBOUND,
    ActionResult,
    SupportCommand,
    actions_of,
    context_of,
    run_command,
)


class SyncView(OSVIAPIView):
    """``POST sessions/sync/`` with ``customer_id``: look up what a customer has open at OSVI."""

    description = _("Look up which chat sessions a customer has open at OSVI.")
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

    description = _("Run a command in a chat session, or write to the customer.")
    permission_classes = (IsAuthenticated,)

    def post(self, request: Request, session_id: str, **kwargs: Any) -> Response:
        """Run it: 200, the session and the agent's reply; a close answers as a close does."""
        values = validated_body(SupportSerializer, request)
        word = values.pop("command", "")
        if word == CLOSE:
            return closed(request, session_id, **values)
        return _run(SUPPORT_COMMANDS[word], request, session_id, values)


class TextView(OSVIAPIView):
    """A command that OSVI has a call for, and whose endpoint takes nothing but its text."""

    permission_classes = (IsAuthenticated,)
    command: SupportCommand

    def post(self, request: Request, session_id: str, **kwargs: Any) -> Response:
        """Run it: 200, the session and the agent's reply, or null."""
        values = validated_body(text_serializer(self.command), request)
        return _run(self.command, request, session_id, values)


class ContextView(TextView):
    """``POST sessions/{session_id}/context/`` with ``context``: a fact for the agent to know.

    The answer also has, in ``context``, all that OSVI keeps of it now.
    """

    description = _("Add a fact for the agent to know, and return all facts that OSVI keeps now.")
    command = CONTEXT


class MessagesView(TextView):
    """``POST sessions/{session_id}/messages/`` with ``content``: what the customer wrote."""

    description = _("Pass on what the customer wrote, and return the agent's reply.")
    command = INBOUND


class ActionListView(OSVIAPIView, ListAPIView[SupportAction]):
    """``GET sessions/{session_id}/actions/``: the activity on this site."""

    description = _("List what was done in a chat session on this site, oldest first.")
    permission_classes = (MayViewSessions,)
    pagination_class = OldestStartedFirst
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


def _run(
    command: SupportCommand, request: Request, session_id: str, values: dict[str, Any]
) -> Response:
    session = _session_for(request, session_id)
    text = values.pop(command.field, "")
    result = run_command(command, session, text, requested_by=request.user, via="rest", **values)
    return _done(result, request)


def _session_for(request: Request, session_id: str) -> ChatSession:
    """Return the session. Raise ``SessionNotFound`` only for callers who may know that."""
    session = find_session(session_id)
    if session is None:
        require_operate(request.user)
        raise SessionNotFound
    return session


def _done(result: ActionResult, request: Request) -> Response:
    """Return the result; callers who may not view sessions get only its outcome."""
    body = {**session_body(result.session, request), "reply": result.reply}
    if may_view(request.user, result.session):
        body["action"] = result.action.pk
        if result.action.kind == CONTEXT.kind:
            body["context"] = hidden(context_of(result.session))
    return Response(body)
