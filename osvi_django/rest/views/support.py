"""Operate sessions over REST: look up, take over, write, guide the agent, hand back."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _
from rest_framework.exceptions import NotFound
from rest_framework.generics import ListAPIView
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response

from osvi_django.conf import DEFAULT_ACCOUNT
from osvi_django.models import ChatSession, SupportAction
from osvi_django.redaction import hidden
from osvi_django.rest.fields import CLOSE, SUPPORT_COMMANDS
from osvi_django.rest.input_serializers import (
    PageSerializer,
    SupportSerializer,
    SyncSerializer,
    text_serializer,
)
from osvi_django.rest.links import action_url
from osvi_django.rest.output_serializers import ActionSerializer, session_body
from osvi_django.rest.pagination import OldestStartedFirst
from osvi_django.rest.parsing import require_account, validated_body
from osvi_django.rest.permissions import MayViewSessions
from osvi_django.rest.views.base import OSVIAPIView, SessionView
from osvi_django.rest.views.closing import closed
from osvi_django.services.access import Purpose, is_inside
from osvi_django.services.mirroring import look_up_customer
from osvi_django.services.permissions import (
    may_close,
    may_operate,
    may_read_summary,
    may_view,
    require_operate,
)
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

    def require_allowed(self, request: Request, **kwargs: Any) -> None:
        require_operate(request.user)

    def post(self, request: Request, **kwargs: Any) -> Response:
        """Ask OSVI: 200 and all open sessions of the customer."""
        wanted = validated_body(SyncSerializer, request)
        require_account(wanted.get("account", DEFAULT_ACCOUNT))
        found = look_up_customer(**wanted, requested_by=request.user, via="rest")
        return Response({"results": [session_body(each, request) for each in found.sessions]})


class OperatingView(SessionView):
    """A view for callers who may operate the session that its path names."""

    purpose = Purpose.OPERATE
    permission_classes = (IsAuthenticated,)

    def require_allowed(self, request: Request, **kwargs: Any) -> None:
        """Raise ``NotAllowed``, also if the session is unknown."""
        require_operate(request.user, self.find_session())
        super().require_allowed(request, **kwargs)

    def run(self, request: Request, command: SupportCommand, values: dict[str, Any]) -> Response:
        """Run a command: 200, the session and the agent's reply."""
        require_operate(request.user, self.find_session())
        session = self.get_session()
        text = values.pop(command.field, "")
        options = {"requested_by": request.user, "via": "rest", **values}
        return _done(run_command(command, session, text, **options), request, session)


class SupportView(OperatingView):
    """``POST sessions/{session_id}/support/`` with ``command``, ``message`` or both."""

    description = _("Run a command in a chat session, or write to the customer.")

    def require_allowed(self, request: Request, **kwargs: Any) -> None:
        """Raise ``NotAllowed`` if the caller may neither operate nor close: one command closes."""
        if may_close(request.user, self.find_session(Purpose.CLOSE)):
            SessionView.require_allowed(self, request, **kwargs)
        else:
            super().require_allowed(request, **kwargs)

    def post(self, request: Request, session_id: str, **kwargs: Any) -> Response:
        """Run it: 200, the session and the agent's reply; a close answers as a close does."""
        values = validated_body(SupportSerializer, request)
        word = values.pop("command", "")
        if word == CLOSE:
            return closed(request, session_id, **values)
        return self.run(request, SUPPORT_COMMANDS[word], values)


class TextView(OperatingView):
    """A command that OSVI has a call for, and whose endpoint takes nothing but its text."""

    command: SupportCommand

    def post(self, request: Request, session_id: str, **kwargs: Any) -> Response:
        """Run it: 200, the session and the agent's reply, or null."""
        values = validated_body(text_serializer(self.command), request)
        return self.run(request, self.command, values)


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


class ActionListView(SessionView, ListAPIView[SupportAction]):
    """``GET sessions/{session_id}/actions/``: the activity on this site."""

    description = _("List what was done in a chat session on this site, oldest first.")
    permission_classes = (MayViewSessions,)
    pagination_class = OldestStartedFirst
    serializer_class = ActionSerializer
    query_serializer = PageSerializer
    filter_backends = ()

    def get_queryset(self) -> QuerySet[SupportAction]:
        """Return the actions in this session, or raise 404."""
        return _actions_of(self.get_session())

    def get_serializer_context(self) -> dict[str, Any]:
        """Add whether the caller may read the texts."""
        readable = _readable(self.request, self.find_session())
        return {**super().get_serializer_context(), **readable}


class ActionView(SessionView):
    """``GET sessions/{session_id}/actions/{id}/``: what was done once."""

    description = _("Show one action in a chat session.")
    permission_classes = (MayViewSessions,)

    def get(self, request: Request, session_id: str, pk: int, **kwargs: Any) -> Response:
        """Return one action in this session, or 404."""
        session = self.get_session()
        action = _actions_of(session).filter(pk=pk).first()
        if action is None:
            raise NotFound(_("This chat session has no such action."))
        context = {"request": request, **_readable(request, session)}
        return Response(ActionSerializer(action, context=context).data)


def _actions_of(session: ChatSession) -> QuerySet[SupportAction]:
    return actions_of(session).select_related("requested_by", "session")


def _readable(request: Request, session: ChatSession | None) -> dict[str, bool]:
    """Return what the serializer of actions needs to know of the caller."""
    user = request.user
    return {"may_read": may_read_summary(user, session) or may_operate(user, session)}


def _done(result: ActionResult, request: Request, named: ChatSession) -> Response:
    """Return the result; callers who may not view sessions get only its outcome.

    If OSVI put a message into a session outside their access, they get the one that they named.
    """
    is_seen = is_inside(result.session, request.user, Purpose.OPERATE)
    session = result.session if is_seen else named
    body = {**session_body(session, request), "reply": result.reply}
    if result.action.kind == INBOUND.kind:
        body["is_other_session"] = result.is_other_session
    if may_view(request.user, result.session):
        body["action"] = action_url(result.action, request)
        if result.action.kind == CONTEXT.kind:
            body["context"] = hidden(context_of(result.session))
    return Response(body)
