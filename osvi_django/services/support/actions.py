"""The support actions: what each sends, and what it changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from osvi_django.client import OSVIClient
from osvi_django.client.responses import (
    Answer,
    read_context,
    read_reply,
    read_support,
)
from osvi_django.models import ChatSession, SupportAction
from osvi_django.services.attempts.types import Status
from osvi_django.services.support.context import CONTEXT_KEPT

ActionKind = SupportAction.Kind
ActionOutcome = SupportAction.Outcome
Mode = ChatSession.Mode


@dataclass(frozen=True, kw_only=True)
class StateChange:
    """What an answer says: the agent's reply, the changes here, and the context kept from now."""

    reply: str | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    context: list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class SupportCommand:
    """One action: how it is sent, and what its answer changes here."""

    kind: ActionKind
    send: Callable[[OSVIClient, ChatSession, str], Answer]
    read: Callable[[Answer, ChatSession], StateChange]
    field: str = "message"
    needs_text: bool = True
    needs_support: bool = False
    needs_customer: bool = False


def _command(name: str) -> Callable[[OSVIClient, ChatSession, str], Answer]:
    def send(client: OSVIClient, session: ChatSession, text: str) -> Answer:
        return client.send_support(session.session_id, command=name, message=text)

    return send


def _send_context(client: OSVIClient, session: ChatSession, text: str) -> Answer:
    return client.send_context(session.session_id, text)


def _send_inbound(client: OSVIClient, session: ChatSession, text: str) -> Answer:
    return client.send_inbound(
        agent_uuid=session.agent.uuid or "",
        customer_id=session.customer_id,
        content=text,
        session_id=session.session_id,
    )


def _nothing_changes(answer: Answer, session: ChatSession) -> StateChange:
    return StateChange(reply=read_support(answer, session.session_id).reply)


def _taken_over(answer: Answer, session: ChatSession) -> StateChange:
    told = read_support(answer, session.session_id)
    who = told.active_human[:255]
    return StateChange(changes={"mode": Mode.SUPPORT, "active_human": who, "help_requested": False})


def _handed_back(answer: Answer, session: ChatSession) -> StateChange:
    read_support(answer, session.session_id)
    return StateChange(changes={"mode": Mode.AI, "active_human": ""})


def _context_added(answer: Answer, session: ChatSession) -> StateChange:
    return StateChange(context=list(read_context(answer, session.session_id))[-CONTEXT_KEPT:])


def _received(answer: Answer, session: ChatSession) -> StateChange:
    # OSVI may have put the message into another session, whose reply must not be stored here.
    reply = read_reply(answer, session.session_id, may_differ=False)
    # The customer's message has made it active.
    changes = {"status": Status.ACTIVE} if session.status == Status.DORMANT else {}
    return StateChange(reply=reply.text, changes=changes)


TAKE_OVER: Final = SupportCommand(
    kind=ActionKind.TAKE_OVER, send=_command("takeover"), read=_taken_over, needs_text=False
)
HAND_BACK: Final = SupportCommand(
    kind=ActionKind.HAND_BACK, send=_command("end"), read=_handed_back, needs_text=False
)
TELL: Final = SupportCommand(kind=ActionKind.TELL, send=_command("tell"), read=_nothing_changes)
WHISPER: Final = SupportCommand(
    kind=ActionKind.WHISPER, send=_command("whisper"), read=_nothing_changes
)
MESSAGE: Final = SupportCommand(
    kind=ActionKind.MESSAGE, send=_command(""), read=_nothing_changes, needs_support=True
)
CONTEXT: Final = SupportCommand(
    kind=ActionKind.CONTEXT, send=_send_context, read=_context_added, field="context"
)
INBOUND: Final = SupportCommand(
    kind=ActionKind.INBOUND,
    send=_send_inbound,
    read=_received,
    field="content",
    needs_customer=True,
)
