"""Messages to staff about a close: one sentence and its level."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from django.contrib import messages
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as _lazy
from django.utils.translation import ngettext

from osvi_django.exceptions import (
    CloseInProgress,
    InvalidInput,
    OSVIBadAnswer,
    OSVIError,
    OSVINoAnswer,
    OSVINotConfigured,
)
from osvi_django.models import ChatSession
from osvi_django.redaction import HiddenText
from osvi_django.services import CloseResult
from osvi_django.services.attempts.types import Status, SummaryStatus
from osvi_django.services.recovery import RecoveryResult, Settled

_NOT_FINAL: Final = (CloseInProgress, OSVINoAnswer)
_NO_UUID: Final = _lazy(
    "Nothing was sent: OSVI needs the agent's UUID to close a chat, and this site does not have "
    "it. Add it under Chat agents, or ask your administrator."
)
# What is known about a session that may be closed, and what to press.
UNKNOWN: Final = {
    OSVINoAnswer: _lazy("We do not know whether this chat is closed: OSVI did not answer."),
    OSVIBadAnswer: _lazy(
        "OSVI's answer was unreadable, so we do not know whether this chat is closed."
    ),
}
TRY_AGAIN: Final = _lazy("Press “Try again”: it checks first and cannot close twice.")
JUDGE: Final = _lazy("Or press “Review OSVI's answer” to read it and choose the right text.")

# By the status of a chat: what is known in place of an earlier reason that no longer holds.
SINCE: Final[Mapping[str, Any]] = {
    Status.CLOSED: _lazy("Settled since: the chat is closed."),
    Status.ACTIVE: _lazy("Checked since: OSVI has not closed the chat, so it is open again."),
    Status.DORMANT: _lazy("Checked since: OSVI has not closed the chat, so it is open again."),
    Status.CLOSING: _lazy("The chat is being closed again."),
    Status.UNCONFIRMED: _lazy("Closed again since, and OSVI did not answer."),
}

_FOUND: Final = {
    Settled.STORED: _lazy("OSVI had closed this chat. Its summary is stored now."),
    Settled.NOT_PROVIDED: _lazy("OSVI had closed this chat and sent no summary."),
    Settled.LOST: _lazy(
        "OSVI had closed this chat, but its summary was lost: OSVI's answer did not reach us."
    ),
    Settled.REOPENED: _lazy("This chat is still open. You can close it again."),
}

_COUNTED: Final = {
    Settled.STORED: _lazy("closed with summary"),
    Settled.REOPENED: _lazy("open again"),
    Settled.NOT_PROVIDED: _lazy("closed without summary"),
    Settled.LOST: _lazy("closed, summary lost"),
    Settled.ALREADY_SETTLED: _lazy("already settled"),
}


class StaffMessage(NamedTuple):
    """A sentence, its level (of ``django.contrib.messages``), and whether a close was tried."""

    level: int
    sentence: str
    tried: bool
    settled: Settled | None = None


def message_for_result(result: CloseResult) -> StaffMessage:
    """Return the message for a session that is closed now."""
    if not result.changed:
        sentence = _("This chat session was already closed. Nothing was sent.")
        return StaffMessage(messages.INFO, sentence, tried=False)
    if result.summary:
        sentence = _("The chat is closed and its summary is stored.")
    elif result.session.summary_status == SummaryStatus.LOST:
        sentence = _(
            "The chat is closed, but its summary was lost: OSVI's answer did not reach us."
        )
    else:
        sentence = _("The chat is closed. OSVI sent no summary.")
    return StaffMessage(messages.SUCCESS, sentence, tried=True)


def message_for_marking(note: str) -> StaffMessage:
    """Return the message for a session that was marked as closed."""
    sentence = _("The chat session is marked as closed: %(note)s")
    return StaffMessage(messages.SUCCESS, HiddenText(sentence % {"note": note}), tried=True)


def message_for_review() -> StaffMessage:
    """Return the message for a text that was stored as the summary."""
    sentence = _("The text is stored as the summary of this chat.")
    return StaffMessage(messages.SUCCESS, sentence, tried=True)


def message_for_recovery(found: RecoveryResult) -> StaffMessage:
    """Return the message for a session that was checked."""
    if found.settled is Settled.ALREADY_SETTLED:
        sentence = f"{found.detail} {_status_now(found.session)}"
        return StaffMessage(messages.WARNING, sentence, tried=False)
    if found.settled is Settled.UNCHANGED:
        return StaffMessage(messages.WARNING, found.detail, tried=False)
    sentence = str(_FOUND[found.settled])
    return StaffMessage(messages.SUCCESS, sentence, tried=True, settled=found.settled)


def _status_now(session: ChatSession) -> str:
    """Return what is known about a session that needs no check."""
    if session.is_open:
        return _("It is open.")
    names = {"summary": session.get_summary_status_display()}
    return _("It is closed. Summary: %(summary)s.") % names


def message_for_selection(settled: Mapping[Settled, int]) -> str:
    """Return the results of the checked chats, with the number of each kind."""
    total = sum(settled.values())
    checked = ngettext("Checked %(number)d chat:", "Checked %(number)d chats:", total)
    parts = (f"{settled[kind]} {words}" for kind, words in _COUNTED.items() if settled.get(kind))
    return f"{checked % {'number': total}} {', '.join(parts)}."


def message_for_error(error: OSVIError | OSVINotConfigured) -> StaffMessage:
    """Return the message for a close that failed or is unconfirmed."""
    level = messages.WARNING if isinstance(error, _NOT_FINAL) else messages.ERROR
    lacks_uuid = isinstance(error, InvalidInput) and error.field == "agent_uuid"
    sentence = str(_NO_UUID if lacks_uuid else _with_button(error))
    return StaffMessage(level, sentence, tried=error.attempt is not None)


def _with_button(error: OSVIError | OSVINotConfigured) -> OSVIError | OSVINotConfigured:
    """Return the error, with the button to press if the result is unknown."""
    kind = type(error)
    # An answer that waits for the database has its own class and message.
    if not isinstance(error, OSVIError) or kind not in UNKNOWN or any(error.args):
        return error
    return kind(f"{UNKNOWN[kind]} {TRY_AGAIN}", reason=error.reason)
