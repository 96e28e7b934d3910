"""Rescue of sessions of a job that may be closed already: OSVI is asked first.

These are the sessions that were unconfirmed before, and those whose worker has died. Each takes
several calls with commits in between, so each is settled in a thread with its own connection.
"""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, cast

from django.db import Error

from osvi_django import clock
from osvi_django.database import safe_error_name
from osvi_django.exceptions import (
    CallError,
    CloseInProgress,
    OSVIError,
    OSVIGatewayRefused,
    OSVINoAnswer,
    OSVINotConfigured,
    OSVIRejected,
)
from osvi_django.models import ChatSession, CloseAttempt, CloseJobItem
from osvi_django.services.attempts import leases
from osvi_django.services.attempts.error_policy import (
    ItemOutcome,
    ItemResult,
    credit_own_attempt,
    item_result,
)
from osvi_django.services.attempts.leases import ClaimedRow
from osvi_django.services.attempts.sync_limit import without_slot
from osvi_django.services.attempts.types import CloseResult, RequestOrigin
from osvi_django.services.closing import LOOK_AGAIN_AFTER, close
from osvi_django.services.jobs import store
from osvi_django.services.jobs.background import DatabaseThreads, ThreadSlots
from osvi_django.services.jobs.close_pool import ClosePool
from osvi_django.services.jobs.completer import Completer
from osvi_django.services.jobs.running import RunningJob

logger = logging.getLogger(__name__)

# The maximum of threads. Each has its own connection, but not while it waits for OSVI.
MAX_THREADS: Final = 4


@dataclass(frozen=True, kw_only=True)
class RescueResult:
    """The result of one rescue; without a ``result``, another caller has the item now.

    ``sent_at``: when OSVI was asked, in seconds of the monotonic clock; ``is_unknown``: whether it
    has no customer and is still unconfirmed, which says nothing about OSVI; ``needs_summary``: the
    session, if it was closed without a summary.
    """

    item: CloseJobItem
    result: ItemResult | None
    sent_at: float
    error: CallError | None = None
    is_unknown: bool = False
    needs_summary: ChatSession | None = None


class Rescuer:
    """Settles the stalled items of one job."""

    def __init__(self, running: RunningJob, completer: Completer) -> None:
        slots = running.slots or ThreadSlots(MAX_THREADS)
        self._threads: DatabaseThreads[RescueResult] = DatabaseThreads(
            "osvi-rescuer", running.using, running.signal, slots
        )
        self._running = running
        self._completer = completer
        self._job = running.job

    @property
    def running(self) -> int:
        """Return the number of running threads."""
        return self._threads.running

    @property
    def has_results(self) -> bool:
        """Return whether a thread has ended."""
        return self._threads.has_results

    def dispatch(self) -> int:
        """Lease as many stalled items as there are free threads; return how many were leased."""
        return sum(self._dispatch(pool) for pool in self._running.pools)

    def complete(self) -> bool:
        """Store the results; return False if no thread was running."""
        was_running = self.running > 0
        for rescued in self._threads.collect():
            self._complete(rescued)
        return was_running

    def _dispatch(self, pool: ClosePool) -> int:
        number = min(pool.free_slots - self.running, self._threads.slots.free)
        if number <= 0:
            return 0
        token = uuid.uuid4()
        with leases.claiming(token):
            items = self._running.persist(
                partial(
                    store.lease_stalled_items, self._job, pool.account, number, token, pool.lease
                )
            )
            matching = self._running.matching(items)
        for item in items:
            result = self._running.resolve_locally(item, None if _was_sent(item) else matching)
            if result is None:
                self._submit(pool, item)
            else:
                self._completer.settle_alone(item, credit_own_attempt(item, result))
        return len(items)

    def _submit(self, pool: ClosePool, item: CloseJobItem) -> None:
        session = cast("ChatSession", item.session)
        item_row = store.claimed_row(self._job, item)
        self._threads.submit(partial(_rescue, pool, item, session, self._running.origin, item_row))

    def _complete(self, rescued: RescueResult) -> None:
        item = rescued.item
        if rescued.result is None:
            again = partial(store.snooze, self._job, [item], LOOK_AGAIN_AFTER)
            self._running.try_persist(item, again)
            return
        if not rescued.is_unknown:
            pool = self._running.pools[item.account]
            self._completer.record(pool, rescued.sent_at, rescued.error)
        self._completer.settle_alone(item, self._result_of(rescued, rescued.result))
        if rescued.needs_summary is not None:
            self._running.summaries.add_sessions([rescued.needs_summary])

    def _result_of(self, rescued: RescueResult, result: ItemResult) -> ItemResult:
        """Return the result, changed if a gateway refused or OSVI does not know the session."""
        if isinstance(rescued.error, OSVIRejected | OSVIGatewayRefused):
            return self._completer.result_of_error(rescued.item, rescued.error)
        return result


def _rescue(
    pool: ClosePool,
    item: CloseJobItem,
    session: ChatSession,
    origin: RequestOrigin,
    item_row: ClaimedRow,
) -> RescueResult:
    """Ask OSVI whether a session is open, and close it if so; ``item_row`` is the item's row."""
    # However the thread ends, the lease of its item must not be renewed forever.
    with leases.renewing(item_row), without_slot(), pool.throttle.slot:
        rescued = RescueResult(item=item, result=None, sent_at=clock.monotonic())
        try:
            closed = _close(session, origin)
        except CloseInProgress:
            return rescued
        except Error as error:  # any answer of OSVI is in the journal or the spool
            about = (session.session_id, safe_error_name(error))
            logger.error("session %r is looked at again: %s", *about)
            return rescued
        except (OSVIError, OSVINotConfigured) as error:
            is_unknown = error.was_sent is None and not session.customer_id
            return replace(rescued, result=item_result(error), error=error, is_unknown=is_unknown)
    return _rescued(rescued, session, closed)


def _rescued(
    rescued: RescueResult, session: ChatSession, closed: CloseResult | None
) -> RescueResult:
    if closed is None:
        unconfirmed = ItemResult(outcome=ItemOutcome.UNCONFIRMED, code=OSVINoAnswer.code)
        return replace(rescued, result=unconfirmed)
    outcome = ItemOutcome.CLOSED if closed.changed else ItemOutcome.ALREADY_CLOSED
    result = credit_own_attempt(rescued.item, ItemResult(outcome=outcome))
    needs_summary = session if closed.changed and closed.summary is None else None
    return replace(rescued, result=result, needs_summary=needs_summary)


def _close(session: ChatSession, origin: RequestOrigin) -> CloseResult | None:
    """Close the session; return None if a bug prevented it."""
    requester, via, note = origin.requested_by, origin.via, origin.note
    try:
        return close(session, requested_by=requester, via=via, note=note, writes_summary=False)
    except (OSVIError, OSVINotConfigured, Error):
        raise
    except Exception:  # a bug in one session must not stop the job
        logger.exception("session %r could not be closed", session.session_id)
        return None


def _was_sent(item: CloseJobItem) -> bool:
    """Return whether this job may have closed it already, even if it no longer matches."""
    unsent = (CloseAttempt.Outcome.NOT_SENT, CloseAttempt.Outcome.REJECTED)
    return item.attempt is not None and item.attempt.outcome not in unsent
