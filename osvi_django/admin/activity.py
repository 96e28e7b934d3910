"""The activity of a session on this site, as staff see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.db.models import Q
from django.utils.translation import gettext as _

from osvi_django.admin.bounded import is_key
from osvi_django.exceptions import OSVINoAnswer, message_for_code
from osvi_django.models import ChatSession, SupportAction
from osvi_django.services.support import COMMANDS, actions_of

ENTRIES_SHOWN: Final = 50

ActionKind = SupportAction.Kind
ActionOutcome = SupportAction.Outcome

_TEXTLESS: Final = {ActionKind.START, *(each.kind for each in COMMANDS.values() if not each.field)}


@dataclass(frozen=True, kw_only=True)
class ActivityEntry:
    """One action. ``trouble`` and ``advice`` are "" if it succeeded.

    ``is_forgotten``: whether its texts were removed.
    """

    action: SupportAction
    is_forgotten: bool
    who: str
    did: str
    trouble: str
    advice: str


@dataclass(frozen=True, kw_only=True)
class Activity:
    """The newest lines, oldest first; ``is_cut``: whether there are older ones."""

    lines: Sequence[ActivityEntry]
    is_cut: bool
    is_readable: bool
    """Whether the user may read the texts."""


def thread_of(session: ChatSession, *, is_readable: bool, before: str = "") -> Activity:
    """Return a page of the activity: the newest lines, or those before the action with this key."""
    # The raw answer may be long, and says nothing more.
    actions = actions_of(session).select_related("requested_by").defer("answer")
    newest = actions.filter(_before(session, before)).order_by("-started_at", "-id")
    found = list(newest[: ENTRIES_SHOWN + 1])
    lines = [_entry_of(action) for action in reversed(found[:ENTRIES_SHOWN])]
    return Activity(lines=lines, is_cut=len(found) > ENTRIES_SHOWN, is_readable=is_readable)


def taken_over_at(activity: Activity) -> datetime | None:
    """Return when a person took over on this site, unless the chat was handed back since."""
    for line in reversed(activity.lines):
        is_done = line.action.outcome == ActionOutcome.DONE
        if is_done and line.action.kind in (ActionKind.TAKE_OVER, ActionKind.HAND_BACK):
            took_over = line.action.kind == ActionKind.TAKE_OVER
            return line.action.started_at if took_over else None
    return None


def _before(session: ChatSession, key: str) -> Q:
    """Return a condition for the actions before this one; for all if there is no such action."""
    if not is_key(key):
        return Q()
    moments = actions_of(session).filter(pk=key).values_list("started_at", flat=True)
    if not moments:
        return Q()
    return Q(started_at__lt=moments[0]) | Q(started_at=moments[0], pk__lt=key)


def _entry_of(action: SupportAction) -> ActivityEntry:
    is_done = action.outcome == ActionOutcome.DONE
    return ActivityEntry(
        action=action,
        is_forgotten=action.redacted_at is not None and action.kind not in _TEXTLESS,
        who=_who(action),
        did=_("wrote") if action.kind == ActionKind.INBOUND else action.get_kind_display(),
        trouble="" if is_done else action.get_outcome_display(),
        advice="" if is_done else _advice(action),
    )


def _who(action: SupportAction) -> str:
    if action.kind == ActionKind.INBOUND:
        return _("The customer")
    return str(action.requested_by or action.requester or _("This site"))


def _advice(action: SupportAction) -> str:
    if action.outcome == ActionOutcome.STARTED:
        return _(
            "If this does not change, the process that sent it has stopped. Check the chat in "
            "OSVI's dashboard before you send it again."
        )
    is_unknown = action.outcome in SupportAction.UNKNOWN
    code = action.error_code or (OSVINoAnswer.code if is_unknown else "")
    return message_for_code(code, action.error_reason, is_close=False)
