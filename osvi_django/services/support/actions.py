"""The table of support commands: what each sends, what it changes, and how it is shown.

The functions of ``service.py``, the fields of REST and the desk of the admin are derived from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from osvi_django.client import OSVIClient
from osvi_django.client.responses import (
    Answer,
    read_context,
    read_reply,
    read_support,
)
from osvi_django.client.validation import CONTEXT_KEPT
from osvi_django.models import ChatSession, SupportAction
from osvi_django.services.mirroring.remote_facts import RemoteFacts

ActionKind = SupportAction.Kind
ActionOutcome = SupportAction.Outcome
Mode = ChatSession.Mode


@dataclass(frozen=True, kw_only=True)
class StateChange:
    """What an answer says: the agent's reply, the facts, and the context kept from now.

    ``session_id``: the session that the answer is about; ``is_report``: whether the facts are what
    OSVI noticed, and not what this command did; ``is_awake``: whether a dormant session is active.
    """

    session_id: str
    reply: str | None = None
    facts: RemoteFacts = field(default_factory=RemoteFacts)
    context: list[str] | None = None
    is_report: bool = False
    is_awake: bool = False


@dataclass(frozen=True, kw_only=True)
class ActionResult:
    """What was done in a session; ``reply`` is what the agent said to it, if anything.

    ``is_other_session``: OSVI put a customer's message into another session of this customer than
    the one that was named: ``session`` is that one, and has the action.
    """

    session: ChatSession
    action: SupportAction
    reply: str | None = None
    is_other_session: bool = False


def _read_reply(answer: Answer, session: ChatSession) -> StateChange:
    reply = read_support(answer, session.session_id).reply
    return StateChange(session_id=session.session_id, reply=reply)


def _read_takeover(answer: Answer, session: ChatSession) -> StateChange:
    name = read_support(answer, session.session_id).active_human
    facts = RemoteFacts(mode=Mode.SUPPORT, active_human=name, help_requested=False)
    return StateChange(session_id=session.session_id, facts=facts)


def _read_end(answer: Answer, session: ChatSession) -> StateChange:
    read_support(answer, session.session_id)
    return StateChange(session_id=session.session_id, facts=RemoteFacts(mode=Mode.AI))


def _send_context(client: OSVIClient, session: ChatSession, text: str) -> Answer:
    return client.send_context(session.session_id, text)


def _read_context(answer: Answer, session: ChatSession) -> StateChange:
    kept = list(read_context(answer, session.session_id))[-CONTEXT_KEPT:]
    return StateChange(session_id=session.session_id, context=kept)


def _send_inbound(client: OSVIClient, session: ChatSession, text: str) -> Answer:
    return client.send_inbound(
        agent_uuid=session.agent.uuid or "",
        customer_id=session.customer_id,
        content=text,
        session_id=session.session_id,
    )


def _read_inbound(answer: Answer, session: ChatSession) -> StateChange:
    reply = read_reply(answer, session.session_id)
    return StateChange(
        session_id=reply.session_id,
        reply=reply.text,
        facts=RemoteFacts(mode=reply.mode, help_requested=reply.help_requested),
        is_report=True,
        is_awake=True,
    )


@dataclass(frozen=True, kw_only=True)
class SupportCommand:
    """One command: how it is sent, what its answer changes here, and how staff see it.

    ``word``: OSVI's name for it in the ``support`` call, "" for a message without a command;
    ``own_call``: sends it if OSVI has another call for it; ``field``: the name of its text in
    bodies, OSVI's and ours, "" if it takes none; ``is_text_optional``: whether it may be left out;
    ``sets_mode``: who answers the customer after it.

    ``button``: its button on the desk, "" if it is not offered there; ``label`` and ``help_text``:
    of the field for its text; ``done``: the message after success; ``done_without_reply``: the
    same if a reply is usual and OSVI did not return it.
    """

    kind: ActionKind
    word: str = ""
    own_call: Callable[[OSVIClient, ChatSession, str], Answer] | None = None
    read: Callable[[Answer, ChatSession], StateChange] = _read_reply
    field: str = ""
    is_text_optional: bool = False
    sets_mode: Mode | None = None
    needs_support: bool = False
    needs_customer: bool = False
    button: str | Promise = ""
    label: str | Promise = ""
    help_text: str | Promise = ""
    done: str | Promise = ""
    done_without_reply: str | Promise = ""

    @property
    def rest_fields(self) -> tuple[str, ...]:
        """Return the fields of its body over REST, beside the command itself."""
        own = (self.field, "resend") if self.field else ()
        return (*own, "taken_over_at") if self.sets_mode == Mode.AI else own

    @property
    def needs_text(self) -> bool:
        """Return whether it cannot be sent without a text."""
        return bool(self.field) and not self.is_text_optional

    def send(self, client: OSVIClient, session: ChatSession, text: str) -> Answer:
        """Send it, and return OSVI's raw answer."""
        if self.own_call is not None:
            return self.own_call(client, session, text)
        return client.send_support(session.session_id, command=self.word, message=text)

    def done_after(self, reply: str | None) -> str:
        """Return the message after success."""
        return str(self.done if reply else self.done_without_reply or self.done)


TAKE_OVER: Final = SupportCommand(
    kind=ActionKind.TAKE_OVER,
    word="takeover",
    read=_read_takeover,
    field="message",
    is_text_optional=True,
    sets_mode=Mode.SUPPORT,
    button=_("Take over"),
    done=_("You have taken over. The AI agent does not reply on its own until you hand back."),
)
MESSAGE: Final = SupportCommand(
    kind=ActionKind.MESSAGE,
    field="message",
    needs_support=True,
    button=_("Send to the customer"),
    label=_("To the customer"),
    help_text=_("The customer sees exactly this text."),
    done=_("Your message was sent to the customer."),
)
TELL: Final = SupportCommand(
    kind=ActionKind.TELL,
    word="tell",
    field="message",
    button=_("Send instruction, reply now"),
    label=_("To the agent: answer now"),
    help_text=_(
        "The agent answers the customer now, guided by your text. Write nothing that the customer "
        "must not read."
    ),
    done=_("The agent has replied to the customer. See its reply below."),
    done_without_reply=_("The agent received your instruction, but OSVI did not return its reply."),
)
WHISPER: Final = SupportCommand(
    kind=ActionKind.WHISPER,
    word="whisper",
    field="message",
    button=_("Save hint for the next reply"),
    label=_("To the agent: keep in mind"),
    help_text=_("Only the agent reads this. It uses it in its next reply."),
    done=_("The agent will use this in its next reply."),
)
CONTEXT: Final = SupportCommand(
    kind=ActionKind.CONTEXT,
    own_call=_send_context,
    read=_read_context,
    field="context",
    button=_("Add context"),
    label=_("Add context"),
    help_text=_("Only the agent reads this fact, for the rest of the chat."),
    done=_("The fact was added. The agent knows it from now on."),
)
HAND_BACK: Final = SupportCommand(
    kind=ActionKind.HAND_BACK,
    word="end",
    read=_read_end,
    sets_mode=Mode.AI,
    button=_("Hand back"),
    done=_("You have handed back. The AI agent replies to the customer again."),
)
INBOUND: Final = SupportCommand(
    kind=ActionKind.INBOUND,
    own_call=_send_inbound,
    read=_read_inbound,
    field="content",
    needs_customer=True,
)

# Where they are listed, they are in this order.
COMMANDS: Final[Mapping[ActionKind, SupportCommand]] = {
    command.kind: command
    for command in (TAKE_OVER, MESSAGE, TELL, WHISPER, CONTEXT, HAND_BACK, INBOUND)
}
