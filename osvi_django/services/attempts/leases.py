"""The claims that this process holds, and the thread that renews their leases while it lives.

A lease is short, so that the sessions of a dead process are free soon, but a close may take long.
The heartbeat therefore extends all leases held here every few seconds, by the database's clock. It
ends when nothing is held. A claim that its holder has forgotten is not renewed forever.

No request may be sent under a lease that may be over. This process knows how long a lease surely
lasts by the monotonic clock of the last renewal that was committed: ``send_by`` returns it.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Final

from django.db import connections, transaction
from django.db.models import Q, QuerySet

from osvi_django import clock
from osvi_django.conf import Account
from osvi_django.contexts import ThreadContext
from osvi_django.database import DatabaseNow, lease_expired, safe_error_name
from osvi_django.models import ChatSession, CloseJobItem, StartLock

logger = logging.getLogger(__name__)

Table = type[ChatSession] | type[CloseJobItem] | type[StartLock]
_Group = tuple[ThreadContext, Table, str, float]
_Pair = tuple[int, uuid.UUID | None]

# How many times a lease is renewed before it would be over: some of these may fail.
RENEWALS_PER_LEASE: Final = 6
# A request is sent only if this share of the lease is left, as sending takes time.
_LEFT_TO_SEND: Final = 1 / 3
_NEVER: Final = float("inf")

_CLAIMED: Final[dict[Table, Q]] = {
    ChatSession: Q(status=ChatSession.Status.CLOSING),
    CloseJobItem: Q(outcome=CloseJobItem.Outcome.CLOSING),
    StartLock: Q(),
}


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How long a claim lasts.

    ``seconds``: after the claim and after each renewal; ``longest``: how long the heartbeat renews
    it without a sign of its holder, and how long it lasts if it cannot be renewed.
    """

    seconds: float
    longest: float
    is_renewed: bool = True


@dataclass(frozen=True, kw_only=True)
class ClaimedRow:
    """A row that a claim of this process holds."""

    table: Table
    using: str
    pk: int
    claim: uuid.UUID


@dataclass(kw_only=True)
class _Lease:
    """A lease, in moments of the monotonic clock; ``until``: how long it is surely ours.

    ``context``: that of the thread that claimed it; None if it is not renewed.
    """

    context: ThreadContext | None
    longest: float
    seconds: float
    until: float
    ends_at: float
    renews_at: float


def expired() -> Q:
    """Return the condition for rows whose lease is over; see ``database.lease_expired``."""
    return lease_expired()


def terms_of(account: Account, using: str) -> Terms:
    """Return the terms of claims for an account. Raises ``InvalidSetting``."""
    return terms_lasting(account.lease_timeout, longest=account.longest_close, using=using)


def terms_lasting(seconds: float, *, longest: float, using: str) -> Terms:
    """Return the terms of claims that last so long."""
    is_renewed = _is_visible_to_others(using)
    return Terms(seconds=seconds, longest=longest, is_renewed=is_renewed)


def start_renewing(rows: Iterable[ClaimedRow], terms: Terms) -> float:
    """Renew the leases of these rows from now on; return for how many seconds to claim them.

    Call this before the rows are claimed: those that are not claimed are forgotten in time.
    """
    return _heartbeat.start_renewing(rows, terms)


def stop_renewing(rows: Iterable[ClaimedRow]) -> None:
    """Stop renewing the leases of these rows."""
    _heartbeat.stop_renewing(rows)


@contextmanager
def renewing(row: ClaimedRow) -> Iterator[None]:
    """Stop renewing the lease of a row at the end of the block, however it ends."""
    try:
        yield
    finally:
        stop_renewing([row])


@contextmanager
def claiming(claim: uuid.UUID) -> Iterator[None]:
    """Stop renewing a claim that fails; any part of it that was committed is left as it is."""
    try:
        yield
    except BaseException:
        _heartbeat.stop_renewing_claim(claim)
        raise


def send_by(row: ClaimedRow) -> float | None:
    """Return until when a request may be sent for a row, in seconds of the monotonic clock.

    None if too little of the lease is left, as far as is known, to send one.
    """
    return _heartbeat.send_by(row)


def renew(row: ClaimedRow) -> bool:
    """Renew one lease now, on the connection of this thread; return whether it is still ours."""
    return _heartbeat.renew(row)


class _Heartbeat:
    """All leases of one process; its methods may be called from any thread."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start with no leases: a forked child has neither its parent's claims nor its threads."""
        self._lock = threading.Lock()
        self._leases: dict[ClaimedRow, _Lease] = {}
        self._thread: threading.Thread | None = None
        self._woken = threading.Event()
        self._sleeps_until = 0.0

    def start_renewing(self, rows: Iterable[ClaimedRow], terms: Terms) -> float:
        context = _context() if terms.is_renewed else None
        with self._lock:
            now = clock.monotonic()
            self._discard_expired(now)
            if context is not None and not self._ensure_running():
                context = None
            seconds = terms.seconds if context else terms.longest
            renews_at = now + seconds / RENEWALS_PER_LEASE if context else _NEVER
            for row in rows:
                lease = _Lease(
                    context=context,
                    longest=terms.longest,
                    seconds=seconds,
                    until=now + seconds,
                    ends_at=now + terms.longest,
                    renews_at=renews_at,
                )
                # A claim that is tried again may have been committed the first time.
                self._leases.setdefault(row, lease)
            if renews_at < self._sleeps_until:
                self._woken.set()
        return seconds

    def stop_renewing(self, rows: Iterable[ClaimedRow]) -> None:
        dropped = list(rows)
        with self._lock:
            for row in dropped:
                self._leases.pop(row, None)
            if not self._leases:
                self._woken.set()

    def stop_renewing_claim(self, claim: uuid.UUID) -> None:
        with self._lock:
            rows = [row for row in self._leases if row.claim == claim]
        self.stop_renewing(rows)

    def send_by(self, row: ClaimedRow) -> float | None:
        with self._lock:
            lease, now = self._leases.get(row), clock.monotonic()
            if lease is None or lease.until - now < lease.seconds * _LEFT_TO_SEND:
                return None
            lease.ends_at = now + lease.longest
            return lease.until

    def renew(self, row: ClaimedRow) -> bool:
        with self._lock:
            lease = self._leases.get(row)
        if lease is None:
            return False
        began = clock.monotonic()
        if (row.pk, row.claim) not in _renew(row.table, row.using, [row], lease.seconds):
            return False
        with self._lock:
            lease.until = began + lease.seconds
            lease.ends_at = began + lease.longest
        return True

    def _discard_expired(self, now: float) -> None:
        for row in [row for row, lease in self._leases.items() if lease.ends_at < now]:
            del self._leases[row]

    def _ensure_running(self) -> bool:
        """Start the heartbeat if it is not running; return False if the system has no thread."""
        if self._thread is None or not self._thread.is_alive():
            thread = threading.Thread(target=self._run, name="osvi-heartbeat", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return False
            self._thread = thread
        return True

    def _run(self) -> None:
        while (pause := self._pause()) is not None:
            self._woken.wait(pause)
            self._woken.clear()
            self._renew_all()

    def _pause(self) -> float | None:
        """Return the seconds until the next beat; None at the end of the thread."""
        with self._lock:
            now = clock.monotonic()
            self._discard_expired(now)
            moments = [lease.renews_at for lease in self._leases.values()]
            self._sleeps_until = min(moments, default=_NEVER)
            if self._sleeps_until == _NEVER:
                self._thread = None
                return None
            return max(0.0, self._sleeps_until - now)

    def _renew_all(self) -> None:
        """Renew all leases if one of them is due, each group of them in one UPDATE."""
        for (context, table, using, seconds), rows in self._due().items():
            began = clock.monotonic()
            try:
                renewed, there = context.run(partial(_renew_group, table, using, rows, seconds))
            except Exception as error:  # noqa: BLE001  # the next beat may reach the database
                logger.warning("%s leases were not renewed: %s", len(rows), safe_error_name(error))
            else:
                self._note(rows, renewed, there, began)

    def _due(self) -> dict[_Group, list[ClaimedRow]]:
        with self._lock:
            now = clock.monotonic()
            if all(lease.renews_at > now for lease in self._leases.values()):
                return {}
            groups: dict[_Group, list[ClaimedRow]] = {}
            for row, lease in self._leases.items():
                if lease.context is not None:
                    lease.renews_at = now + lease.seconds / RENEWALS_PER_LEASE
                    group = (lease.context, row.table, row.using, lease.seconds)
                    groups.setdefault(group, []).append(row)
            return groups

    def _note(
        self, rows: list[ClaimedRow], renewed: set[_Pair], there: set[_Pair], began: float
    ) -> None:
        """Record what a beat has found out about these rows."""
        with self._lock:
            held = [(row, self._leases[row]) for row in rows if row in self._leases]
            for row, lease in held:
                pair = row.pk, row.claim
                if pair in renewed:
                    lease.until = began + lease.seconds
                # Not before its end: the claim may not have been committed yet.
                elif pair not in there and lease.until < began:
                    del self._leases[row]


def _context() -> ThreadContext | None:
    """Return the context of this thread; None if the host's own code fails to provide it."""
    try:
        return ThreadContext()
    except Exception as error:  # noqa: BLE001  # the host's own code, and a close is worth more
        logger.error("leases cannot be renewed in this context: %s", safe_error_name(error))
        return None


def _renew_group(
    table: Table, using: str, rows: Sequence[ClaimedRow], seconds: float
) -> tuple[set[_Pair], set[_Pair]]:
    """Renew these leases; return the renewed ones, and those seen committed as ours."""
    try:
        renewed = _renew(table, using, rows, seconds)
        is_all = len(renewed) == len(rows)
        return renewed, renewed if is_all else _pairs(_rows(table, using, rows))
    finally:
        connections.close_all()


def _renew(table: Table, using: str, rows: Sequence[ClaimedRow], seconds: float) -> set[_Pair]:
    """Extend these leases, except those that others hold or are writing to now."""
    mine = _rows(table, using, rows)
    until = DatabaseNow() + timedelta(seconds=seconds)
    skips = connections[using].features.has_select_for_update_skip_locked
    with transaction.atomic(using=using):
        # Locked rows are left to the next beat, as waiting for several may cause a deadlock. SQLite
        # locks no rows, and lets no reader become a writer: there the UPDATE comes first.
        unlocked = mine.select_for_update(skip_locked=True) if skips else mine.none()
        free = mine.filter(pk__in=[key for key, _claim in _pairs(unlocked)]) if skips else mine
        free.update(lease_until=until)
        return _pairs(free)


def _rows(table: Table, using: str, rows: Sequence[ClaimedRow]) -> QuerySet[Any]:
    keys, claims = [row.pk for row in rows], {row.claim for row in rows}
    return table.objects.using(using).filter(_CLAIMED[table], pk__in=keys, claim__in=claims)


def _pairs(rows: QuerySet[Any]) -> set[_Pair]:
    return set(rows.order_by().values_list("pk", "claim"))


def _is_visible_to_others(using: str) -> bool:
    """Return whether another thread sees what is committed here; false in a TestCase."""
    connection: Any = connections[using]  # the stubs do not know a backend's own methods
    is_in_memory = connection.vendor == "sqlite" and connection.is_in_memory_db()
    return not (is_in_memory or connection.in_atomic_block)


_heartbeat = _Heartbeat()
os.register_at_fork(after_in_child=_heartbeat.reset)
