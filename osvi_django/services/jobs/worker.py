"""The worker of a close job; any number of processes may run one, and each may be killed.

One thread, which called ``run_close_job`` or belongs to ``runner.py``, claims waiting sessions in
batches and dispatches them to the threads of ``close_pool.py``, which do not use the database.
``completer.py`` stores what has come back, in one commit for all of it. The worker works in steps
that do not wait, so that one thread can run several jobs. Each close follows the steps and rules of
``closing.py``.

What a dead process had claimed is rescued when its lease is over. It may have been sent, so OSVI is
asked first, as for any unconfirmed session: ``rescuer.py`` does that, last of all.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, cast

from django.db import Error, IntegrityError, router

from osvi_django import clock
from osvi_django.client.throttle import TRY_AGAIN_AFTER, named
from osvi_django.database import refuse_inside_transaction
from osvi_django.models import ChatSession, CloseAttempt, CloseJob, CloseJobItem
from osvi_django.services.attempts import claims, leases
from osvi_django.services.attempts.leases import Terms
from osvi_django.services.jobs import store
from osvi_django.services.jobs.close_pool import ClosePool
from osvi_django.services.jobs.completer import Completer
from osvi_django.services.jobs.rescuer import Rescuer
from osvi_django.services.jobs.running import RunningJob, Shared
from osvi_django.services.mirroring.sessions import remove_unknown
from osvi_django.validation import checks_types

logger = logging.getLogger(__name__)

# How often to look for something to do while other processes have the rest of the job.
_POLL_INTERVAL: Final = 0.5  # seconds
# How often to check whether the job was cancelled.
_CANCEL_INTERVAL: Final = 0.1  # seconds
# How often to check whether the user of the job may still close.
_REQUESTER_INTERVAL: Final = 5.0  # seconds
# How long to collect answers before they are stored together.
_GATHER: Final = 0.01  # seconds
# How long to wait, at the end, for summaries that are being written.
_SUMMARY_TIMEOUT: Final = 20.0  # seconds


@checks_types
def run_close_job(
    job_id: store.JobId,
    *,
    stop: threading.Event | None = None,
    on_progress: Callable[[CloseJob], None] | None = None,
) -> CloseJob:
    """Run a job until it is finished or paused, and return it as it is then.

    ``job_id`` is the job's UUID, which may be a string, or its number. A draft is left as it is. A
    job is paused while OSVI cannot be used: ``resume_at`` says when to run it again. If other
    processes have the last sessions, this waits for them, and rescues them if their leases run out.
    ``stop``, once set, ends the run early: nothing more is started, and calls in progress are
    finished and stored. ``on_progress`` is called after each commit of results.

    Raises ``InsideTransaction``, ``InvalidInput`` if there is no such job, and the database's own
    errors if it is unavailable. The job can be run again after each of these.
    """
    refuse_inside_transaction(router.db_for_write(CloseJob))
    job = store.find(job_id)
    if store.start(job):
        JobWorker(job, stop or threading.Event(), on_progress).work()
    return store.find(job.pk)


class JobWorker:
    """One process's share in a job; each step does what can be done without waiting.

    Call ``step`` until nothing is left to do, then ``drain`` until no call is running, and always
    ``shutdown`` last. ``shared``: what it shares with other workers of the thread.
    """

    def __init__(
        self,
        job: CloseJob,
        stop: threading.Event,
        on_progress: Callable[[CloseJob], None] | None = None,
        shared: Shared | None = None,
    ) -> None:
        self.job = job
        self.stop = stop
        self.is_finished = False
        self.running = RunningJob(job, stop, on_progress, shared)
        self.completer = Completer(self.running)
        self.rescuer = Rescuer(self.running, self.completer)
        self._sharers = shared.sharers if shared else lambda: 1
        self._is_draining = False
        self._summaries_until = 0.0
        self._cancel_checked_at = clock.monotonic()

    def work(self) -> None:
        """Claim, collect and store until nothing is left that this process can do."""
        try:
            self._repeat(self.step)
        finally:
            try:
                self._repeat(self.drain)
            finally:
                self.shutdown()

    @property
    def has_results(self) -> bool:
        """Return whether something has come back since the last step."""
        running = self.running
        return bool(running.arrived) or self.rescuer.has_results or running.summaries.has_results

    def step(self) -> float | None:
        """Take a step; return in how many seconds to take the next one if nothing arrives.

        None means that nothing is left that this process can do.
        """
        if self.stop.is_set():
            return None
        self._complete()
        if self.is_finished:  # except for summaries that this site writes itself
            return self._poll_summaries()
        self._heartbeat_and_check_cancelled()
        self._dispatch()
        return self._interval if self._is_busy else self._look_for_more()

    def drain(self) -> float | None:
        """Start nothing more and store what comes back; return the same as ``step``."""
        if not self._is_draining:
            self._stop_accepting()
        self._complete()
        if self.running.pools.running or self.completer.uncommitted:
            return self._interval
        self._summaries_until = self._summaries_until or clock.monotonic() + _SUMMARY_TIMEOUT
        if self.rescuer.running or self._has_summaries_to_await():
            return _POLL_INTERVAL
        with suppress(Error):  # then the job counts as stalled, as its heartbeat stops
            self._leave_job()
        return None

    def shutdown(self) -> None:
        """Stop the threads without waiting for their replies."""
        self.running.pools.shutdown()
        self.running.summaries.shutdown()
        self.running.release_all()

    def _repeat(self, step: Callable[[], float | None]) -> None:
        while (seconds := step()) is not None:
            wait_for_signal(self.running.signal, seconds)

    @property
    def _interval(self) -> float:
        """Return the polling interval, in seconds; more workers of the thread poll less often."""
        return _CANCEL_INTERVAL * self._sharers()

    def _complete(self) -> None:
        self.completer.complete_arrived()
        self.rescuer.complete()
        self.running.summaries.poll()

    def _poll_summaries(self) -> float | None:
        return _POLL_INTERVAL if self.running.summaries.poll() else None

    def _look_for_more(self) -> float | None:
        """Look for more to do if no call is running; return the same as ``step``."""
        self.running.pools.drained.clear()
        # This reads the rest of the job, which may be large.
        self.running.pools.open(store.accounts(self.job))
        self._dispatch()
        if self._is_busy:
            return self._interval
        if self._rescue():
            return _POLL_INTERVAL
        self.is_finished = self._finish()
        if self.is_finished:
            # A paused job does not wait for summaries: osvi_summarize writes the rest later.
            return self._poll_summaries()
        # Give the others, or OSVI, some time.
        return None if self._pause() else _POLL_INTERVAL

    def _rescue(self) -> bool:
        """Dispatch stalled items to be checked with OSVI; return False if there are none."""
        dispatched = self.rescuer.dispatch()
        return self.rescuer.complete() or dispatched > 0

    @property
    def _is_busy(self) -> bool:
        """Return whether calls are running, so that nothing else needs to be found to do."""
        is_saying_goodbye = bool(self.job.goodbye) and self.rescuer.running > 0
        return is_saying_goodbye or self.running.pools.running > 0

    def _dispatch(self) -> None:
        for pool in self.running.pools.with_waiting:
            if self.job.goodbye:
                self.rescuer.dispatch_waiting(pool)
            elif (capacity := pool.capacity) and (attempts := self._claim(pool, capacity)):
                pool.close(attempts)

    def _claim(self, pool: ClosePool, capacity: int) -> list[CloseAttempt]:
        """Claim up to ``capacity`` waiting sessions, and settle those that need no close."""
        chosen = store.fetch_waiting_ids(self.job, pool.account, capacity)
        if not chosen:
            self.running.pools.drained.add(pool.account)
            return []
        token = uuid.uuid4()
        work = partial(self._claim_chosen, chosen, token, pool.lease)
        with leases.claiming(token):
            try:
                return self.running.persist(work)
            except IntegrityError:  # the user of the job has been deleted
                self.running.refresh_requester()
                return self.running.persist(work)

    def _claim_chosen(
        self, chosen: Sequence[int], token: uuid.UUID, lease: Terms
    ) -> list[CloseAttempt]:
        """Claim the chosen items that are still waiting, in the caller's transaction."""
        items = store.lease_items(self.job, chosen, token, lease)
        matching = self.running.matching(items)
        outside = self.running.outside(items)
        results = {item: self.running.resolve_locally(item, matching, outside) for item in items}
        resolved = [(item, result) for item, result in results.items() if result]
        to_close = [item for item, result in results.items() if not result]
        attempts, not_claimed = self._claim_sessions(to_close, token, lease)
        if resolved:
            store.settle(self.job, resolved)
        if not_claimed:  # another caller has these, or they may be closed
            store.snooze(self.job, not_claimed)
        return attempts

    def _claim_sessions(
        self, items: Sequence[CloseJobItem], token: uuid.UUID, lease: Terms
    ) -> tuple[list[CloseAttempt], list[CloseJobItem]]:
        """Claim the sessions of items; return the attempts, and the items not claimed."""
        by_session = {item.session_id: item for item in items}
        sessions = [item.session for item in items if item.session]
        origin = self.running.origin
        attempts = claims.claim_all(sessions, origin, token, lease=lease) if sessions else []
        mine = {attempt.pk: by_session.pop(attempt.session_id) for attempt in attempts}
        self.running.items |= mine
        return attempts, list(by_session.values())

    def _heartbeat_and_check_cancelled(self) -> None:
        """Write the heartbeat at intervals, and check whether the job was cancelled."""
        now = clock.monotonic()
        if now - self.running.heartbeat_at > store.HEARTBEAT_INTERVAL:
            self.running.heartbeat_at = now
            self.running.persist(partial(store.heartbeat, self.job))
        if now - self.running.requester_read_at > _REQUESTER_INTERVAL:
            self.running.refresh_requester()
        if now - self._cancel_checked_at > self._interval:
            self._cancel_checked_at = now
            if store.is_cancelled(self.job):
                self.running.pools.cancel_pending()

    def _pause(self) -> bool:
        """Pause the job if only errors of whole accounts are left; return whether it is paused."""
        pools = self.running.pools
        errors = {account: pools.error_of(account) for account in store.accounts(self.job)}
        known = {account: each for account, each in errors.items() if each is not None}
        if not known or len(known) < len(errors) or store.has_leased_items(self.job):
            return False
        for account, error in known.items():
            logger.warning("account %r: %s", account, named(error))
        wait = pools.seconds_until_retry(known, default=TRY_AGAIN_AFTER)
        store.pause(self.job, next(iter(known.values())), wait)
        return True

    def _stop_accepting(self) -> None:
        self._is_draining = True
        self.running.on_progress = None
        self.running.summaries.stop_accepting()
        self.running.pools.stop_accepting()

    def _has_summaries_to_await(self) -> bool:
        """Return whether to wait for summaries; those not written in time are written later."""
        return self.running.summaries.running > 0 and clock.monotonic() < self._summaries_until

    def _leave_job(self) -> None:
        """Leave the rest of the job to another worker, or until it is due."""
        if not (self.is_finished or self._finish() or self._pause()):
            store.requeue(self.job)

    def _finish(self) -> bool:
        """Finish the job if nothing of it is left; return whether it is finished."""
        remove_not_closed(self.job)  # first: if this process dies here, another one repeats it
        return store.finish(self.job)


def remove_not_closed(job: CloseJob) -> None:
    """Remove unverified sessions of a job that are not closed and that nothing refers to."""
    over = store.items(job).filter(outcome__in=CloseJobItem.NOT_CLOSED, session__is_unverified=True)
    for item in over.filter(session__status__in=ChatSession.OPEN).select_related("session"):
        remove_unknown(cast("ChatSession", item.session), job=job)


def wait_for_signal(signal: threading.Event, seconds: float) -> None:
    """Wait up to ``seconds`` for the signal, and a moment for more, as each commit costs time."""
    if signal.wait(seconds):
        time.sleep(_GATHER)
        # Clear it before looking: any later result sets it again.
        signal.clear()
