"""The rows that wait to be sent: claim them, and write how a try ended.

A row is claimed under a lease by one conditional UPDATE, so that each is with one process at a
time, and is free again if that process dies. Of the rows about one session for one receiver, only
the oldest that is not over can be claimed: they arrive in the order in which they were written.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.utils import timezone

from osvi_django.conf import (
    DEFAULT_WEBHOOK_RETRY,
    InvalidSetting,
    longest_retention,
    webhook_retry,
)
from osvi_django.database import PATIENCE_BEFORE, DatabaseNow, lease_expired, persist, since
from osvi_django.models import WebhookDelivery
from osvi_django.services.events.sending import TOTAL_TIMEOUT, Outcome

State = WebhookDelivery.State

BATCH: Final = 20
# Longer than a try takes, by far: the lease is not renewed.
LEASE: Final = 4 * TOTAL_TIMEOUT  # seconds
# How long to wait for the database while it has not got the outcome of a try.
_PATIENCE_AFTER: Final = 20.0  # seconds
_JITTER: Final = 0.1
# A row that waits behind others gets no more time than its own tries would take, and this.
_LENIENCE: Final = 3600.0  # seconds
_CHUNK: Final = 1_000


def all_deliveries(using: str) -> QuerySet[WebhookDelivery]:
    """Return all rows of the outbox."""
    return WebhookDelivery.objects.using(using)


def claim(receiver: str, *, using: str) -> list[WebhookDelivery]:
    """Claim a few rows that are due for a receiver; the oldest first."""
    while True:
        due = _heads(receiver, using).filter(due_at__lte=DatabaseNow())
        chosen = list(due.order_by("due_at", "id").values_list("pk", flat=True)[:BATCH])
        if not chosen:
            return []
        if claimed := _claim(chosen, using):
            return claimed
        # Another process has claimed all of these: it leaves others.


def _claim(chosen: Sequence[int], using: str) -> list[WebhookDelivery]:
    token, rows = uuid.uuid4(), all_deliveries(using).filter(pk__in=chosen)
    free = rows.filter(lease_expired(), state=State.PENDING)
    lease = DatabaseNow() + timedelta(seconds=LEASE)
    work = partial(free.update, claim=token, lease_until=lease)
    persist(work, using=using, patience=PATIENCE_BEFORE)
    return list(rows.filter(claim=token).order_by("id"))


def release(claimed: Sequence[WebhookDelivery], *, using: str) -> None:
    """Let others send these, which were claimed and not tried."""
    mine = _mine(claimed, using)
    persist(
        partial(mine.update, claim=None, lease_until=None), using=using, patience=PATIENCE_BEFORE
    )


def store(delivery: WebhookDelivery, outcome: Outcome, *, using: str) -> None:
    """Write how a try ended, unless the lease was over and others have the row."""
    changes = _changes_after(delivery, outcome)
    mine = _mine([delivery], using)
    work = partial(mine.update, claim=None, lease_until=None, **changes)
    persist(work, using=using, patience=_PATIENCE_AFTER)


def _changes_after(delivery: WebhookDelivery, outcome: Outcome) -> dict[str, Any]:
    changes: dict[str, Any] = {"http_status": outcome.status, "error_code": outcome.code}
    if outcome.is_gone:  # it waits until the receiver is switched on again
        return changes
    changes["tries"] = F("tries") + 1
    if outcome.is_delivered:
        return {**changes, "state": State.DELIVERED, "finished_at": timezone.now()}
    pauses = _pauses()
    if delivery.tries >= len(pauses):
        return {**changes, "state": State.FAILED, "finished_at": timezone.now()}
    pause = max(pauses[delivery.tries], outcome.retry_after or 0)
    spread = pause * random.uniform(1, 1 + _JITTER)  # noqa: S311  # not used for a secret
    return {**changes, "due_at": DatabaseNow() + timedelta(seconds=spread)}


def _pauses() -> tuple[float, ...]:
    """Return the pauses between tries: an invalid setting must not cause one try a minute."""
    try:
        return webhook_retry()
    except InvalidSetting:
        return DEFAULT_WEBHOOK_RETRY


def _mine(claimed: Sequence[WebhookDelivery], using: str) -> QuerySet[WebhookDelivery]:
    keys, tokens = [each.pk for each in claimed], {each.claim for each in claimed}
    return all_deliveries(using).filter(pk__in=keys, claim__in=tokens)


def seconds_until_due(receiver: str, *, using: str) -> float | None:
    """Return in how many seconds there may be something to send; None if nothing waits."""
    heads = _heads(receiver, using).order_by("due_at", "id").values_list("due_at", flat=True)
    waits = [wait_of(moment, using=using) for moment in heads[:1]]
    claimed = all_deliveries(using).filter(
        state=State.PENDING, receiver=receiver, claim__isnull=False
    )
    if claimed.exists():  # by another process, which may have died
        waits.append(LEASE)
    return min(waits, default=None)


def wait_of(moment: datetime, *, using: str) -> float:
    """Return the seconds until a moment that was written by the database's clock."""
    return max(0.0, -since(moment, using=using).total_seconds())


def _heads(receiver: str, using: str) -> QuerySet[WebhookDelivery]:
    """Return the rows that can be claimed: not leased, and not behind another of their session."""
    same = {"subject": OuterRef("subject"), "receiver": OuterRef("receiver")}
    before = all_deliveries(using).filter(state=State.PENDING, pk__lt=OuterRef("pk"), **same)
    waiting = all_deliveries(using).filter(lease_expired(), state=State.PENDING, receiver=receiver)
    return waiting.filter(~Exists(before))


def give_up_old(*, using: str) -> int:
    """Give up what has waited longer than all of its tries would take; return how many rows.

    Its receiver is off or no longer in the settings, or others about the same session were tried.
    """
    longest = (1 + _JITTER) * sum(_pauses()) + _LENIENCE
    over = DatabaseNow() - timedelta(seconds=longest)
    old = all_deliveries(using).filter(lease_expired(), state=State.PENDING, waits_since__lt=over)
    end = {"state": State.FAILED, "error_code": "expired", "finished_at": timezone.now()}
    return sum(
        old.filter(pk__in=keys).update(**end, claim=None, lease_until=None) for keys in _chunks(old)
    )


def purge(*, using: str) -> Iterator[int]:
    """Delete what has been over for longer than the settings say; yield how many rows at a time.

    Raises ``InvalidSetting``.
    """
    old = expired(using=using)
    for keys in _chunks(old):
        yield old.filter(pk__in=keys).delete()[0]


def expired(*, using: str) -> QuerySet[WebhookDelivery]:
    """Return what has been over for longer than the settings say. Raises ``InvalidSetting``."""
    days, over = longest_retention("events"), all_deliveries(using)
    if days is None:
        return over.none()
    oldest = timezone.now() - timedelta(days=days)
    return over.filter(state__in=WebhookDelivery.FINAL, finished_at__lt=oldest)


def make_due(rows: QuerySet[WebhookDelivery]) -> int:
    """Have rows sent as if they were new, except those that are being sent now."""
    now = DatabaseNow()
    again = {"state": State.PENDING, "tries": 0, "waits_since": now, "due_at": now}
    nothing: dict[str, Any] = {"http_status": None, "error_code": "", "finished_at": None}
    return rows.filter(Q(claim=None) | lease_expired()).update(**again, **nothing)


def _chunks(rows: QuerySet[WebhookDelivery]) -> Iterator[list[int]]:
    """Yield the keys of rows that are changed so that they are no longer among them."""
    while keys := list(rows.order_by("pk").values_list("pk", flat=True)[:_CHUNK]):
        yield keys
