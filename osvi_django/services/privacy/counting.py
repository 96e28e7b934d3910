"""Count sessions before they are deleted, so that the figures of their days remain."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any, Final, NamedTuple

from django.db.models import F

from osvi_django.conf import Account, InvalidSetting
from osvi_django.database import site_date
from osvi_django.models import ChatSession, DailyCount

# A reason that is not in CLOSE_REASONS may be anyone's words.
OTHER_REASON: Final = "other"


class Counted(NamedTuple):
    """What sessions have in common that are counted together."""

    day: date
    account: str
    agent_id: int
    closed_by_id: Any
    close_reason: str
    via: str
    summary_status: str

    @property
    def key(self) -> str:
        """Return what names the row that counts them."""
        return hashlib.sha256(json.dumps(self, default=str).encode()).hexdigest()


def add_to_counts(keys: Sequence[int], using: str) -> None:
    """Add closed sessions to the counts of their days, in the caller's transaction."""
    counts = Counter(_counted(keys, using))
    # In one order, so that two processes do not wait for each other.
    ordered = sorted(counts.items(), key=lambda each: each[0].key)
    rows = DailyCount.objects.using(using)
    rows.bulk_create(
        [DailyCount(key=each.key, **each._asdict()) for each, _number in ordered],
        ignore_conflicts=True,
    )
    for each, number in ordered:
        rows.filter(key=each.key).update(number=F("number") + number)


def _counted(keys: Sequence[int], using: str) -> Iterator[Counted]:
    names = ("closed_at", "agent__account", "agent_id", "closed_by_id", "close_reason")
    sessions = ChatSession.objects.using(using).filter(pk__in=keys).order_by()
    for closed_at, account, agent, user, reason, via, status in sessions.values_list(
        *names, "closed_via", "summary_status"
    ):
        known = known_reason(reason, account)
        yield Counted(site_date(closed_at), account, agent, user, known, via, status)


def known_reason(reason: str, account: str) -> str:
    """Return a reason for a close without anyone's words: one of the settings, or "other"."""
    return reason if not reason or reason in reasons_of(account) else OTHER_REASON


def reasons_of(account: str) -> tuple[str, ...]:
    """Return the reasons that the settings have for an account."""
    try:
        return tuple(Account(account).close_reasons)
    except InvalidSetting:  # or the account is no longer in the settings
        return ()
