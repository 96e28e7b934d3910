"""The journal of erasures: the row of each, from its beginning to its end.

What a step erases is counted in the transaction of that step, so the counts are those of the work
that was done, by any process and after any interruption.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import Error, router
from django.db.models import DateTimeField, QuerySet, Value
from django.db.models.functions import Coalesce
from django.utils import timezone

from osvi_django.database import PATIENCE_BEFORE, persist
from osvi_django.models import Erasure
from osvi_django.services.attempts.types import User
from osvi_django.services.permissions import requester_fields
from osvi_django.services.privacy.hashing import customer_hash, customer_hashes, new_marker

State = Erasure.State


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row of the journal, also of one that was kept elsewhere.

    ``until``: when it ended, or began if it did not end: what came later is not meant.
    """

    customer_hash: str
    account: str
    marker: str
    started_at: datetime
    until: datetime


def erasures() -> QuerySet[Erasure]:
    """Return all rows of the journal."""
    return Erasure.objects.using(router.db_for_write(Erasure))


def begun(
    customer_id: str, *, account: str | None, is_narrowed: bool, requested_by: User | None, via: str
) -> Erasure:
    """Return the row of an erasure that was broken off, or else a new one.

    ``is_narrowed``: only a part of the customer's chats is erased, so this must neither count as
    the rest of another erasure nor be repeated for all.
    """
    rows = erasures()
    if not is_narrowed:
        unfinished = _of(customer_id).filter(account=account or "").exclude(state=State.DONE)
        if (found := unfinished.first()) is not None:
            again = {"state": State.RUNNING, "last_step_at": timezone.now(), "finished_at": None}
            rows.filter(pk=found.pk).update(**again)
            return found
    return rows.create(
        marker=new_marker(),
        customer_hash="" if is_narrowed else customer_hash(customer_id),
        account=account or "",
        via=via,
        **requester_fields(requested_by),
    )


def begun_again(line: Line, customer_id: str, *, requested_by: User | None, via: str) -> Erasure:
    """Return the row of an erasure that is repeated; it is written again if it is gone.

    It keeps the moment until which it holds, and gets the hash with the key of today.
    """
    now = {"customer_hash": customer_hash(customer_id), "finished_at": line.until}
    row, _is_new = erasures().get_or_create(
        marker=line.marker,
        defaults={
            **now,
            "account": line.account,
            "started_at": line.started_at,
            "via": via,
            **requester_fields(requested_by),
        },
    )
    running = {**now, "state": State.RUNNING, "last_step_at": timezone.now()}
    _row_of(row).update(**running)
    return row


def is_erased(customer_id: str) -> bool:
    """Return whether data of the customer was erased here, of any account."""
    return _of(customer_id).filter(state=State.DONE).exclude(counts={}).exists()


@contextmanager
def ending(erasure: Erasure) -> Iterator[None]:
    """Write to the journal that an erasure is not finished if the block raises an error."""
    try:
        yield
    except BaseException:
        with suppress(Error):  # the original error is what counts
            # One that is repeated keeps its moment.
            ended_at = Coalesce("finished_at", Value(timezone.now(), DateTimeField()))
            running = _row_of(erasure).exclude(state=State.DONE)
            running.update(state=State.UNFINISHED, finished_at=ended_at)
        raise


def count_step(erasure: Erasure, work: Callable[[], Mapping[str, int]], *, using: str) -> None:
    """Do a step of an erasure, and add what it returns to the counts, in one transaction."""
    rows = Erasure.objects.using(using).filter(pk=erasure.pk)

    def step() -> None:
        # The UPDATE comes first and locks the row: no other process counts before the commit.
        rows.update(last_step_at=timezone.now())
        counts = Counter(rows.values_list("counts", flat=True).get())
        counts.update(work())
        rows.update(counts=dict(+counts))

    persist(step, using=using, patience=PATIENCE_BEFORE)


def finish(erasure: Erasure, *, at: datetime | None = None) -> dict[str, int]:
    """Write to the journal that all is erased; return how much that was."""
    now = timezone.now()
    _row_of(erasure).update(state=State.DONE, finished_at=at or now, last_step_at=now)
    counts: dict[str, int] = _row_of(erasure).values_list("counts", flat=True).get()
    # Databases have an order of their own.
    return dict(sorted(counts.items()))


def join_earlier(erasure: Erasure, customer_id: str) -> Erasure:
    """Let the earlier row of the customer stand for this erasure, which found nothing; return it.

    If there is none, the row of this erasure stays.
    """
    same = _of(customer_id).filter(account=erasure.account, state=State.DONE)
    if (earlier := same.exclude(pk=erasure.pk).first()) is None:
        return erasure
    # It holds for what there was until now, which matters when it is repeated.
    _row_of(earlier).update(finished_at=timezone.now())
    _row_of(erasure).delete()
    return earlier


def _of(customer_id: str) -> QuerySet[Erasure]:
    return erasures().filter(customer_hash__in=list(customer_hashes(customer_id)))


def _row_of(erasure: Erasure) -> QuerySet[Any]:
    return erasures().filter(pk=erasure.pk)
