"""Support actions: take over a chat, write in it, hand it back."""

from osvi_django.services.support.actions import ActionKind, ActionOutcome, Mode
from osvi_django.services.support.context import context_of
from osvi_django.services.support.retention import forget_texts
from osvi_django.services.support.service import (
    TEXT_MAX_LENGTH,
    ActionResult,
    action_of_form,
    actions_of,
    hand_back,
    inject_context,
    receive_message,
    send_message,
    take_over,
    tell,
    whisper,
)

__all__ = [
    "TEXT_MAX_LENGTH",
    "ActionKind",
    "ActionOutcome",
    "ActionResult",
    "Mode",
    "action_of_form",
    "actions_of",
    "context_of",
    "forget_texts",
    "hand_back",
    "inject_context",
    "receive_message",
    "send_message",
    "take_over",
    "tell",
    "whisper",
]
