"""Operate a session: take over, write, guide the agent, hand back.

Each action is written before it is sent, and OSVI's raw answer before it is parsed. An action that
was sent and not answered is not repeated automatically, nor by a caller who does not know about it:
a customer must not receive a message twice.

Each function takes the keywords of ``ActionOptions``, and each that takes a text also ``resend``.
They raise ``InsideTransaction``, ``NotAllowed``, ``InvalidInput``, ``SessionClosed``,
``UnknownStatus``, ``WrongMode``, ``TakeOverChanged``, ``SessionNotFound``, ``Busy`` and
``OSVINotConfigured`` before anything is sent, and then what the client raises.

Those that take a text also raise ``SentBefore`` if the same text was the last one sent in the same
way and is still being sent, or it is unknown whether it arrived. ``resend`` sends it anyway; a text
that did arrive is then repeated. Of two callers at the same moment one is refused; a redacted text
does not refuse any.

Of all calls with the same ``form_key``, a UUID of the form or the task that asks, one is sent. The
others raise ``SentBefore``, even with ``resend``; its ``action`` is the one that was sent, or None
if that is of another session. An action that was not done, because OSVI was not reached or refused
it, can be sent with the same key again.
"""

from __future__ import annotations

from typing import Unpack

from osvi_django.models import ChatSession
from osvi_django.redaction import hides
from osvi_django.services.support.actions import (
    CONTEXT,
    HAND_BACK,
    INBOUND,
    MESSAGE,
    TAKE_OVER,
    TELL,
    WHISPER,
    ActionResult,
)
from osvi_django.services.support.sending import HandBackOptions, TextOptions, run_command


@hides("text")
def take_over(session: ChatSession, text: str = "", **options: Unpack[TextOptions]) -> ActionResult:
    """Let people answer the customer; the agent stops answering. ``text``: context for it."""
    return run_command(TAKE_OVER, session, text, **options)


def hand_back(session: ChatSession, **options: Unpack[HandBackOptions]) -> ActionResult:
    """Let the agent answer again.

    ``taken_over_at``: that of the take-over to end, as the caller last read it from the session.
    Raises ``TakeOverChanged``, before anything is sent, if it is another one by now.
    """
    return run_command(HAND_BACK, session, **options)


@hides("text")
def tell(session: ChatSession, text: str, **options: Unpack[TextOptions]) -> ActionResult:
    """Guide the agent, and have it answer the customer at once; ``reply`` is its answer."""
    return run_command(TELL, session, text, **options)


@hides("text")
def whisper(session: ChatSession, text: str, **options: Unpack[TextOptions]) -> ActionResult:
    """Guide the agent for the customer's next message; only the agent sees this."""
    return run_command(WHISPER, session, text, **options)


@hides("text")
def send_message(session: ChatSession, text: str, **options: Unpack[TextOptions]) -> ActionResult:
    """Write to the customer, after having taken over."""
    return run_command(MESSAGE, session, text, **options)


@hides("text")
def inject_context(session: ChatSession, text: str, **options: Unpack[TextOptions]) -> ActionResult:
    """Add a fact to what the agent knows of this session; OSVI keeps the last five."""
    return run_command(CONTEXT, session, text, **options)


@hides("text")
def receive_message(
    session: ChatSession, text: str, **options: Unpack[TextOptions]
) -> ActionResult:
    """Pass on what the customer wrote; ``reply`` is the agent's answer, if it gives one."""
    return run_command(INBOUND, session, text, **options)
