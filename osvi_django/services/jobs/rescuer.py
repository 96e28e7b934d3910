"""Sessions of a job that take more than one call, each in a thread with its own connection.

These are the ones that may be closed already, because they were unconfirmed before or their worker
has died: OSVI is asked first. In a job with a goodbye they are all of them.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
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
from osvi_django.services.support.goodbye import Goodbye

logger = logging.getLogger(__name__)

# The maximum of threads. Each has its own connection, but not while it waits for OSVI.
MAX_THREADS: Final = 4
# The same for a job with a goodbye, which has no other threads.
GOODBYE_THREADS: Final = 8


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
        self._goodbye = running.job.goodbye
        shared = running.slots or ThreadSlots(MAX_THREADS)
        slots = ThreadSlots(GOODBYE_THREADS) if self._goodbye else shared
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

    def dispatch_waiting(self, pool: ClosePool) -> None:
        """Lease waiting items whose customers are said goodbye to, and close them."""
        number = min(pool.free_slots - self.running, self._threads.slots.free)
        if number <= 0:
            return
        chosen = store.fetch_waiting_ids(self._job, pool.account, number)
        if not chosen:
            self._running.pools.drained.add(pool.account)
            return
        token = uuid.uuid4()
        # Taking over, writing and closing may each take as long as a close.
        terms = replace(pool.lease, longest=3 * pool.lease.longest)
        lease = partial(store.lease_items, self._job, chosen, token, terms)
        with leases.claiming(token):
            items = self._running.persist(lease)
            matching = self._running.matching(items)
        self._submit_all(pool, items, lambda _item: matching, is_new=True)

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
        self._submit_all(pool, items, lambda item: None if _was_sent(item) else matching)
        return len(items)

    def _submit_all(
        self,
        pool: ClosePool,
        items: Sequence[CloseJobItem],
        matching: Callable[[CloseJobItem], set[int] | None],
        *,
        is_new: bool = False,
    ) -> None:
        """Settle the items that need no close, and close the others.

        ``is_new``: whether they are tried for the first time.
        """
        outside = self._running.outside(items)
        results = {
            item: self._running.resolve_locally(item, matching(item), outside) for item in items
        }
        to_close = [item for item, result in results.items() if result is None]
        if self._goodbye and to_close:
            self._running.persist(partial(store.note_goodbyes, self._job, to_close))
        for item, result in results.items():
            if result is None:
                self._submit(pool, item, is_new=is_new)
            else:
                settled = replace(credit_own_attempt(item, result), goodbye=item.goodbye)
                self._completer.settle_alone(item, settled)

    def _submit(self, pool: ClosePool, item: CloseJobItem, *, is_new: bool) -> None:
        task = _Task(
            item=item,
            session=cast("ChatSession", item.session),
            origin=self._running.origin,
            item_row=store.claimed_row(self._job, item),
            goodbye=Goodbye(self._goodbye, can_wait=True) if self._goodbye else None,
            token=item.claim if is_new else None,
        )
        self._threads.submit(partial(_rescue, pool, task))

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
            changed = self._completer.result_of_error(rescued.item, rescued.error)
            return replace(changed, goodbye=result.goodbye)
        return result


@dataclass(frozen=True, kw_only=True)
class _Task:
    """One session to close; ``item_row`` is the row of its item.

    ``token``: the claim on the session, by which the attempt of a new item is found.
    """

    item: CloseJobItem
    session: ChatSession
    origin: RequestOrigin
    item_row: ClaimedRow
    goodbye: Goodbye | None
    token: uuid.UUID | None


def _rescue(pool: ClosePool, task: _Task) -> RescueResult:
    """Close a session, and say what became of the goodbye, if there was one to say."""
    rescued = _try_to_close(pool, task)
    if rescued.result is None or task.goodbye is None:
        return rescued
    # Until something was sent, a waiting item must still match the filter.
    is_over = rescued.result.outcome != ItemOutcome.WAITING or task.goodbye.has_begun
    outcome = task.goodbye.outcome if is_over else ""
    return replace(rescued, result=replace(rescued.result, goodbye=outcome))


def _try_to_close(pool: ClosePool, task: _Task) -> RescueResult:
    """Close a session; if it is not known whether it is open, OSVI is asked that first."""
    session = task.session
    # However the thread ends, the lease of its item must not be renewed forever.
    with leases.renewing(task.item_row), without_slot(), pool.throttle.slot:
        rescued = RescueResult(item=task.item, result=None, sent_at=clock.monotonic())
        try:
            closed = _close(task)
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


def _close(task: _Task) -> CloseResult | None:
    """Close the session; return None if a bug prevented it."""
    try:
        return close(
            task.session,
            task.origin,
            writes_summary=False,
            is_asked_now=False,
            goodbye=task.goodbye,
            token=task.token,
        )
    except (OSVIError, OSVINotConfigured, Error):
        raise
    except Exception:  # a bug in one session must not stop the job
        logger.exception("session %r could not be closed", task.session.session_id)
        return None


def _was_sent(item: CloseJobItem) -> bool:
    """Return whether this job may have closed it already, even if it no longer matches."""
    unsent = (CloseAttempt.Outcome.NOT_SENT, CloseAttempt.Outcome.REJECTED)
    return item.attempt is not None and item.attempt.outcome not in unsent
