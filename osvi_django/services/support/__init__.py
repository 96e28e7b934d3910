"""Support actions: take over a chat, write in it, hand it back."""

from osvi_django.services.support.actions import (
    COMMANDS,
    CONTEXT,
    INBOUND,
    ActionKind,
    ActionOutcome,
    ActionResult,
    Mode,
    SupportCommand,
)
from osvi_django.services.support.context import context_of
from osvi_django.services.support.journal import action_of_form, actions_of
from osvi_django.services.support.sending import TEXT_MAX_LENGTH, run_command
from osvi_django.services.support.service import (
    hand_back,
    inject_context,
    receive_message,
    send_message,
    take_over,
    tell,
    whisper,
)

__all__ = [
    "COMMANDS",
    "CONTEXT",
    "INBOUND",
    "TEXT_MAX_LENGTH",
    "ActionKind",
    "ActionOutcome",
    "ActionResult",
    "Mode",
    "SupportCommand",
    "action_of_form",
    "actions_of",
    "context_of",
    "hand_back",
    "inject_context",
    "receive_message",
    "run_command",
    "send_message",
    "take_over",
    "tell",
    "whisper",
]
