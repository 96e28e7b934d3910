"""Allow one start at a time for a customer and an agent, across all processes; and one erasure.

OSVI closes what the customer has open with the agent, so the second of two starts at once would end
the chat of the first. The second of two erasures of a customer would find half of the data.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from hashlib import sha256
from typing import Final

from django.db import Error, router
from django.db.models import Q

from osvi_django.database import (
    PATIENCE_BEFORE,
    DatabaseNow,
    lease_expired,
    persist,
    safe_error_name,
)
from osvi_django.exceptions import AlreadyOpen, CustomerBusy, OSVIError
from osvi_django.models import StartLock
from osvi_django.services.attempts import leases
from osvi_django.services.attempts.leases import ClaimedRow, Terms

logger = logging.getLogger(__name__)

# How long the lock of an erasure lasts after its process died, and how long it is renewed.
_ERASURE_LEASE: Final = 30  # seconds
_LONGEST_ERASURE: Final = 3_600  # seconds


class StartLockHolder:
    """The holder of a lock; the heartbeat of this process renews its lease."""

    def __init__(self, row: ClaimedRow, held: Callable[[], OSVIError]) -> None:
        self._row = row
        self._held = held
        self._rows = StartLock.objects.using(row.using).filter(pk=row.pk)

    def renew(self) -> None:
        """Renew the lease now. Raises the error of its kind if another has the lock by now."""
        if not leases.renew(self._row):
            raise self._held()

    def acquire(self, seconds: float) -> bool:
        """Acquire the lock for so many seconds if it is free; return whether it was."""
        lease_until = DatabaseNow() + timedelta(seconds=seconds)
        # Includes a lock of an earlier try whose commit succeeded without our learning of it.
        free = self._rows.filter(Q(claim=None) | Q(claim=self._row.claim) | leases.expired())

        def work() -> int:
            return free.update(claim=self._row.claim, lease_until=lease_until)

        return bool(persist(work, using=self._row.using, patience=PATIENCE_BEFORE))

    def release(self) -> None:
        """Let others have it; if the database does not answer, the lease runs out."""
        mine = self._rows.filter(claim=self._row.claim)
        try:
            persist(mine.delete, using=self._row.using, patience=PATIENCE_BEFORE)
        except Error as error:
            logger.error("a lock could not be removed: %s", safe_error_name(error))


@contextmanager
def start_lock(
    account: str, agent_uuid: str, customer_id: str, *, terms: Terms
) -> Iterator[StartLockHolder]:
    """Hold the lock for these until the end of the block. Raises ``AlreadyOpen`` if another does.

    ``terms``: those of its lease, so that the lock of a process that died is free soon.
    """
    with _lock(key_of(account, agent_uuid, customer_id), terms, _being_started) as lock:
        yield lock


@contextmanager
def erasure_lock(customer_id: str) -> Iterator[None]:
    """Hold the lock for an erasure until the end of the block. Raises ``CustomerBusy``."""
    using = router.db_for_write(StartLock)
    terms = leases.terms_lasting(_ERASURE_LEASE, longest=_LONGEST_ERASURE, using=using)
    with _lock(_key_of_erasure(customer_id), terms, _being_erased):
        yield


def is_being_erased(customer_id: str) -> bool:
    """Return whether an erasure of a customer holds its lock."""
    locks = StartLock.objects.using(router.db_for_write(StartLock))
    held = locks.filter(key=_key_of_erasure(customer_id)).exclude(claim=None)
    return held.exclude(lease_expired()).exists()


@contextmanager
def _lock(key: str, terms: Terms, held: Callable[[], OSVIError]) -> Iterator[StartLockHolder]:
    """Hold the lock of a key until the end of the block. Raises ``held()`` if another does."""
    row = _row_of(key, held)
    with leases.renewing(row):
        lock = StartLockHolder(row, held)
        # The row is removed when its holder ends: what it did is to be seen by now.
        if not lock.acquire(leases.start_renewing([row], terms)):
            raise held()
        try:
            yield lock
        finally:
            lock.release()


def _being_started() -> OSVIError:
    return AlreadyOpen(AlreadyOpen.being_started)


def _being_erased() -> OSVIError:
    return CustomerBusy(CustomerBusy.being_erased)


def _key_of_erasure(customer_id: str) -> str:
    return key_of("erasure", "", customer_id)


def key_of(account: str, agent_uuid: str, customer_id: str) -> str:
    """Return what names the lock of a customer and an agent."""
    return sha256("\0".join((account, agent_uuid, customer_id)).encode()).hexdigest()


def _row_of(key: str, held: Callable[[], OSVIError]) -> ClaimedRow:
    """Return the row of a key, with its own claim; the row is created if it does not exist."""
    locks = StartLock.objects.using(router.db_for_write(StartLock))

    def work() -> int | None:
        locks.bulk_create([StartLock(key=key)], ignore_conflicts=True)
        return locks.filter(key=key).values_list("pk", flat=True).first()

    pk = persist(work, using=locks.db, patience=PATIENCE_BEFORE)
    if pk is None:  # another holder has ended since
        raise held()
    return ClaimedRow(table=StartLock, using=locks.db, pk=pk, claim=uuid.uuid4())
