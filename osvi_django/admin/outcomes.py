"""What is said to staff of a close: one plain sentence, and how loudly."""

from __future__ import annotations

from typing import Final, NamedTuple

from django.contrib import messages
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as _lazy

from osvi_django.exceptions import (
    CloseInProgress,
    InvalidInput,
    OSVIError,
    OSVINoAnswer,
    OSVINotConfigured,
)
from osvi_django.services import CloseResult
from osvi_django.services.recovery import RecoveryResult, Settled
from osvi_django.services.steps import SummaryStatus

_NOT_FINAL: Final = (CloseInProgress, OSVINoAnswer)
_NO_UUID: Final = _lazy(
    "The UUID of this chat session's agent is not known here, and OSVI closes nothing without it, "
    "so nothing was sent. Add it under Chat agents, or ask whoever may."
)


_FOUND: Final = {
    Settled.STORED: _lazy("OSVI had closed the chat session, and its summary is stored now."),
    Settled.NOT_PROVIDED: _lazy("OSVI had closed the chat session, and provided no summary."),
    Settled.LOST: _lazy("OSVI had closed the chat session, and its summary is lost."),
    Settled.REOPENED: _lazy("OSVI has the chat session open: it can be closed again."),
}


class Told(NamedTuple):
    """A sentence, its level (of ``django.contrib.messages``), and whether a close was tried."""

    level: int
    sentence: str
    tried: bool


def told_of_result(result: CloseResult) -> Told:
    """What to say of a session that is closed now."""
    if not result.changed:
        sentence = _("This chat session was closed already: nothing was sent.")
        return Told(messages.INFO, sentence, tried=False)
    if result.summary:
        sentence = _("The chat session is closed and its summary is stored.")
    elif result.session.summary_status == SummaryStatus.LOST:
        sentence = _("The chat session is closed, and its summary is lost.")
    else:
        sentence = _("The chat session is closed. OSVI provided no summary of it.")
    return Told(messages.SUCCESS, sentence, tried=True)


def told_of_marking(note: str) -> Told:
    """What to say of a session that somebody marked as closed, and why."""
    sentence = _("The chat session is marked as closed: %(note)s")
    return Told(messages.SUCCESS, sentence % {"note": note}, tried=True)


def told_of_recovery(found: RecoveryResult) -> Told:
    """What to say of a session that was looked into."""
    if found.settled is Settled.LEFT:
        return Told(messages.WARNING, found.detail, tried=False)
    return Told(messages.SUCCESS, str(_FOUND[found.settled]), tried=True)


def told_of_error(error: OSVIError | OSVINotConfigured) -> Told:
    """What to say of a close that did not take place, or of which nobody knows."""
    level = messages.WARNING if isinstance(error, _NOT_FINAL) else messages.ERROR
    lacks_uuid = isinstance(error, InvalidInput) and error.field == "agent_uuid"
    sentence = str(_NO_UUID if lacks_uuid else error)
    return Told(level, sentence, tried=error.attempt is not None)
