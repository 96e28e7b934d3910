"""What is said to staff of a close: one plain sentence, and how loudly."""

from __future__ import annotations

from typing import Final, NamedTuple

from django.contrib import messages
from django.utils.translation import gettext as _

from osvi_django.exceptions import CloseInProgress, OSVIError, OSVINoAnswer, OSVINotConfigured
from osvi_django.services import CloseResult

_NOT_FINAL: Final = (CloseInProgress, OSVINoAnswer)


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
    else:
        sentence = _("The chat session is closed. OSVI provided no summary of it.")
    return Told(messages.SUCCESS, sentence, tried=True)


def told_of_error(error: OSVIError | OSVINotConfigured) -> Told:
    """What to say of a close that did not take place, or of which nobody knows."""
    level = messages.WARNING if isinstance(error, _NOT_FINAL) else messages.ERROR
    return Told(level, str(error), tried=error.attempt is not None)
