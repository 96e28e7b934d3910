"""Allow one start at a time for a customer and an agent, across all processes.

OSVI closes what the customer has open with the agent, so the second of two starts at once would end
the chat of the first.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from hashlib import sha256

from django.db import Error, router
from django.db.models import Q

from osvi_django.database import PATIENCE_BEFORE, DatabaseNow, persist, safe_error_name
from osvi_django.exceptions import AlreadyOpen
from osvi_django.models import StartLock
from osvi_django.services.attempts import leases
from osvi_django.services.attempts.leases import ClaimedRow, Terms

logger = logging.getLogger(__name__)


class StartLockHolder:
    """The holder of a lock; the heartbeat of this process renews its lease."""

    def __init__(self, row: ClaimedRow) -> None:
        self._row = row
        self._rows = StartLock.objects.using(row.using).filter(pk=row.pk)

    def renew(self) -> None:
        """Renew the lease now. Raises ``AlreadyOpen`` if another start has the lock by now."""
        if not leases.renew(self._row):
            raise AlreadyOpen(AlreadyOpen.being_started)

    def acquire(self, seconds: float) -> bool:
        """Acquire the lock for so many seconds if it is free; return whether it was."""
        lease_until = DatabaseNow() + timedelta(seconds=seconds)
        # Includes a lock of an earlier try whose commit succeeded without our learning of it.
        free = self._rows.filter(Q(claim=None) | Q(claim=self._row.claim) | leases.expired())

        def work() -> int:
            return free.update(claim=self._row.claim, lease_until=lease_until)

        return bool(persist(work, using=self._row.using, patience=PATIENCE_BEFORE))

    def release(self) -> None:
        """Let others start; if the database does not answer, the lease runs out."""
        mine = self._rows.filter(claim=self._row.claim)
        try:
            persist(mine.delete, using=self._row.using, patience=PATIENCE_BEFORE)
        except Error as error:
            logger.error("the lock of a start could not be removed: %s", safe_error_name(error))


@contextmanager
def start_lock(
    account: str, agent_uuid: str, customer_id: str, *, terms: Terms
) -> Iterator[StartLockHolder]:
    """Hold the lock for these until the end of the block. Raises ``AlreadyOpen`` if another does.

    ``terms``: those of its lease, so that the lock of a process that died is free soon.
    """
    row = _row_of(key_of(account, agent_uuid, customer_id))
    with leases.renewing(row):
        lock = StartLockHolder(row)
        # The row is removed when a start ends: if it is gone, the customer has a chat now.
        if not lock.acquire(leases.start_renewing([row], terms)):
            raise AlreadyOpen(AlreadyOpen.being_started)
        try:
            yield lock
        finally:
            lock.release()


def key_of(account: str, agent_uuid: str, customer_id: str) -> str:
    """Return what names the lock of a customer and an agent."""
    return sha256("\0".join((account, agent_uuid, customer_id)).encode()).hexdigest()


def _row_of(key: str) -> ClaimedRow:
    """Return the row of a key, with its own claim; the row is created if it does not exist."""
    locks = StartLock.objects.using(router.db_for_write(StartLock))

    def work() -> int | None:
        locks.bulk_create([StartLock(key=key)], ignore_conflicts=True)
        return locks.filter(key=key).values_list("pk", flat=True).first()

    pk = persist(work, using=locks.db, patience=PATIENCE_BEFORE)
    if pk is None:  # another start has ended since
        raise AlreadyOpen(AlreadyOpen.being_started)
    return ClaimedRow(table=StartLock, using=locks.db, pk=pk, claim=uuid.uuid4())
