"""The form of the desk: one text, who is to read it, and who answers the customer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django import forms
from django.utils.timesince import timesince
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as _lazy

from osvi_django.admin.forms import PersonalField
from osvi_django.admin.moments import JUST_BEFORE
from osvi_django.models import ChatSession
from osvi_django.services.support import COMMANDS, TEXT_MAX_LENGTH, ActionKind, Mode, SupportCommand

# In the order in which they are offered.
WAYS: Final[Sequence[SupportCommand]] = [
    COMMANDS[kind]
    for kind in (ActionKind.MESSAGE, ActionKind.TELL, ActionKind.WHISPER, ActionKind.CONTEXT)
]
_CHOOSE: Final = _lazy(
    "Choose who gets this text: select one of the choices above. Nothing was sent."
)
TURNS: Final = {str(kind): COMMANDS[kind] for kind in (ActionKind.TAKE_OVER, ActionKind.HAND_BACK)}


@dataclass(frozen=True, kw_only=True)
class WayToSend:
    """A choice of who reads the text; ``is_locked``: one has to take over first."""

    command: SupportCommand
    label: Any
    is_locked: bool
    is_chosen: bool


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Who answers the customer. ``token`` names the take-over; "" if its time is not known."""

    is_taken: bool
    is_own: bool
    who: str
    since: datetime | None

    @property
    def token(self) -> str:
        """Return what differs for each take-over."""
        return self.since.isoformat() if self.is_taken and self.since else ""

    @property
    def version(self) -> str:
        """Return what changes whenever another answers the customer."""
        return f"{self.is_taken} {self.is_own} {self.who} {self.token}"

    @property
    def is_of_other(self) -> bool:
        """Return whether somebody else has taken over."""
        return self.is_taken and not self.is_own

    @property
    def text(self) -> str:
        """Return a sentence that says it."""
        if not self.is_taken:
            return _("The AI agent answers the customer.")
        ago = self._ago
        if self.is_own:
            return _("You took over %(ago)s.") % {"ago": ago} if ago else _("You have taken over.")
        values = {"who": self.who or _("A colleague"), "ago": ago}
        return (_("%(who)s took over %(ago)s.") if ago else _("%(who)s has taken over.")) % values

    @property
    def _ago(self) -> str:
        if self.since is None:
            return ""
        time = timesince(self.since, depth=1)
        # Django counts in whole minutes, and has no word for less than one.
        if time == timesince(self.since, self.since, depth=1):
            return str(JUST_BEFORE)
        return _("%(time)s ago") % {"time": time}


class DeskForm(forms.Form):
    """A text, who is to read it, and an optional note for the agent at a take-over."""

    to = forms.ChoiceField(
        label=_lazy("Who reads it"),
        choices=[(str(command.kind), command.kind.label) for command in WAYS],
        required=False,
        error_messages={"invalid_choice": _CHOOSE},
    )
    text = PersonalField(
        label=_lazy("Text"),
        required=False,
        widget=forms.Textarea(
            attrs={"rows": 4, "maxlength": TEXT_MAX_LENGTH, "dir": "auto"},
        ),
    )
    takeover_note = PersonalField(
        label=_lazy("For the agent (optional)"),
        required=False,
        max_length=1_000,
        widget=forms.TextInput(attrs={"dir": "auto"}),
    )

    def command(self) -> SupportCommand | None:
        """Return the way that is chosen; None, with an error, if none is."""
        chosen = self.cleaned_data.get("to")
        for command in WAYS:
            if command.kind == chosen:
                return command
        if "to" not in self.errors:
            self.add_error("to", _CHOOSE)
        return None

    def typed_text(self) -> str:
        """Return the text. If it is empty, add an error and return ""."""
        text: str = self.cleaned_data.get("text", "")
        if not text and "text" not in self.errors:
            self.add_error("text", _("Enter a text first."))
        return text


def turn_of(session: ChatSession, user: Any) -> Turn:
    """Return who answers the customer, as this user sees it."""
    is_taken = session.mode == Mode.SUPPORT
    taker = session.taken_over_by if is_taken else None
    return Turn(
        is_taken=is_taken,
        is_own=taker is not None and taker.pk == user.pk,
        who=str(taker) if taker is not None else session.active_human,
        since=session.taken_over_at if is_taken else None,
    )


def ways_of(session: ChatSession, chosen: str, *, has_text: bool) -> list[WayToSend]:
    """Return the choices of who reads the text; to begin with the first that is possible.

    A text that is typed never gets another reader: if the chosen one is not possible, none is.
    """
    has_taken_over = session.mode == Mode.SUPPORT
    possible = [str(each.kind) for each in WAYS if has_taken_over or not each.needs_support]
    checked = chosen if chosen in possible or has_text else possible[0]
    return [
        WayToSend(
            command=command,
            label=command.label,
            is_locked=str(command.kind) not in possible,
            is_chosen=str(command.kind) == checked and checked in possible,
        )
        for command in WAYS
    ]
