"""Remove one kind of data from old sessions, a bounded number of them in each transaction.

Any number of processes may do so at once, and each may be stopped at any time: a batch is done or
not, and what is done is not found again. Sessions that another process has locked are left to the
next run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final

from django.db import connections
from django.db.models import F, Q, QuerySet

from osvi_django.database import PATIENCE_BEFORE, persist
from osvi_django.models import ChatSession
from osvi_django.services.privacy.periods import Period, old_sessions, periods

BATCH: Final = 500

Removal = Callable[[Sequence[int], str], int]


@dataclass(frozen=True, kw_only=True)
class SessionPurge:
    """A kind of data that belongs to sessions.

    ``has_any``: returns the condition for sessions that have any, in a database; ``remove``:
    removes it from the sessions with these keys and returns from how many.
    """

    kind: str
    has_any: Callable[[str], Q]
    remove: Removal

    def count(self) -> int:
        """Return from how many sessions it would be removed."""
        return sum(self._old(period).count() for period in periods(self.kind))

    def run(self) -> Iterator[int]:
        """Remove it; yield from how many sessions at a time."""
        for period in periods(self.kind):
            old = self._old(period)
            for keys in _pages(old):
                work = partial(self._remove, old, keys)
                yield persist(work, using=old.db, patience=PATIENCE_BEFORE)

    def _old(self, period: Period) -> QuerySet[ChatSession]:
        old = old_sessions(period)
        return old.filter(self.has_any(old.db))

    def _remove(self, old: QuerySet[ChatSession], keys: Sequence[int]) -> int:
        locked = _locked(keys, old.db)
        # Asked again under the lock: the page may have been read a while ago.
        still = list(old.filter(pk__in=locked).values_list("pk", flat=True))
        return self.remove(still, old.db) if still else 0


def _pages(old: QuerySet[ChatSession]) -> Iterator[list[int]]:
    """Yield keys along the index of when sessions were closed, each once."""
    ordered, after = old.order_by("closed_at", "pk"), Q()
    while page := list(ordered.filter(after).values_list("closed_at", "pk")[:BATCH]):
        yield [pk for _moment, pk in page]
        moment, last = page[-1]
        after = _after(moment, last)


def _after(moment: datetime | None, last: int) -> Q:
    return Q(closed_at__gt=moment) | Q(closed_at=moment, pk__gt=last)


def _locked(keys: Sequence[int], using: str) -> list[int]:
    """Lock these rows for the caller's transaction, except those that others have locked."""
    rows = ChatSession.objects.using(using).filter(pk__in=keys)
    skips = connections[using].features.has_select_for_update_skip_locked
    # SQLite locks no rows, and lets no reader become a writer: there the UPDATE comes first.
    (rows.none() if skips else rows).update(claim=F("claim"))
    free = rows.order_by("pk").select_for_update(skip_locked=True) if skips else rows
    return list(free.values_list("pk", flat=True))
