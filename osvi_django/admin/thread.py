"""What was said and done in a session through this site, as it is shown to staff."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from django.utils.translation import gettext as _

from osvi_django.exceptions import OSVINoAnswer, describe
from osvi_django.models import ChatSession, SupportAction

LINES_SHOWN: Final = 50

Kind = SupportAction.Kind
Outcome = SupportAction.Outcome

_WORDLESS: Final = (Kind.START, Kind.TAKE_OVER, Kind.HAND_BACK)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One thing that was done; ``trouble`` and ``advice`` are "" where it went well.

    ``is_forgotten``: its words are not kept any longer.
    """

    action: SupportAction
    is_forgotten: bool
    who: str
    did: str
    trouble: str
    advice: str


@dataclass(frozen=True, kw_only=True)
class Thread:
    """The newest lines, in the order of time; ``is_cut``: there are earlier ones."""

    lines: Sequence[Line]
    is_cut: bool
    is_readable: bool
    """Whether the one who looks may read what was said."""


def thread_of(session: ChatSession, *, is_readable: bool) -> Thread:
    """One query, however long the conversation is."""
    # The raw answer may be long, and says nothing more.
    newest = session.actions.select_related("requested_by").defer("answer")
    found = list(newest.order_by("-started_at", "-id")[: LINES_SHOWN + 1])
    lines = [_line_of(action) for action in reversed(found[:LINES_SHOWN])]
    return Thread(lines=lines, is_cut=len(found) > LINES_SHOWN, is_readable=is_readable)


def _line_of(action: SupportAction) -> Line:
    went_well = action.outcome == Outcome.DONE
    return Line(
        action=action,
        is_forgotten=action.forgotten_at is not None and action.kind not in _WORDLESS,
        who=_who(action),
        did=_("wrote") if action.kind == Kind.INBOUND else action.get_kind_display(),
        trouble="" if went_well else action.get_outcome_display(),
        advice="" if went_well else _advice(action),
    )


def _who(action: SupportAction) -> str:
    if action.kind == Kind.INBOUND:
        return _("The customer")
    return str(action.requested_by) if action.requested_by else _("This site")


def _advice(action: SupportAction) -> str:
    if action.outcome == Outcome.STARTED:
        return _(
            "If it stays so, whoever sent it did not come back. Look at the conversation at OSVI "
            "before you repeat it."
        )
    is_unknown = action.outcome in SupportAction.UNKNOWN
    code = action.error_code or (OSVINoAnswer.code if is_unknown else "")
    return describe(code, action.error_reason, is_close=False)
