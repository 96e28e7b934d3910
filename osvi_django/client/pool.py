"""Calls to one account in threads: as many at once as its throttle allows.

No thread here uses the database. The caller submits calls and collects their results; after an
error of the whole account, calls that were not sent come back unsent.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from django.db import connections

from osvi_django import clock
from osvi_django.client.api import OSVIClient
from osvi_django.client.responses import Answer, error_in
from osvi_django.client.threads import Arrived, Pools
from osvi_django.client.throttle import (
    IN_A_ROW,
    concurrency_of,
    is_account_wide,
    is_ambiguous,
    throttle_for,
)
from osvi_django.contexts import ThreadContext
from osvi_django.exceptions import (
    CallError,
    OSVIError,
    OSVINoAnswer,
    OSVINotConfigured,
    OSVIRejected,
)

logger = logging.getLogger(__name__)

# What a call returns: an answer, an error, whether it was closed already; None: not started.
CallOutcome = Answer | CallError | bool | None

# Prefetch as many as the threads send in this time, so that none waits while answers are stored and
# the next items are claimed; with a minimum and a maximum per thread.
PREFETCH_SECONDS: Final = 0.5  # seconds
MIN_PREFETCH_PER_THREAD: Final = 1
MAX_PREFETCH_PER_THREAD: Final = 16
# How often to measure throughput.
_MEASURE_EVERY: Final = 0.25  # seconds


class Named(Protocol):
    """The subject of a call; its key is what a log may show of it."""

    @property
    def pk(self) -> Any:
        """Return the key of a row."""


_Subject = TypeVar("_Subject", bound=Named)


@dataclass(frozen=True, kw_only=True)
class CallResult(Generic[_Subject]):
    """The result of one call; ``sent_at``: seconds of the monotonic clock."""

    subject: _Subject
    found: CallOutcome
    sent_at: float
    refusal: OSVIRejected | None = None


@dataclass(frozen=True, kw_only=True)
class _Call(Generic[_Subject]):
    """One call, as the work of a thread; ``context`` is that of the thread that asked for it."""

    pool: CallPool[_Subject]
    subject: _Subject
    ask: Callable[[], CallOutcome]
    context: ThreadContext
    refusal: OSVIRejected | None = None

    def carry_out(self) -> None:
        """Make the call, and put its result in the queue."""
        self.pool.carry_out(self)

    def return_unsent(self) -> None:
        """Put it in the queue of results, unsent: no thread has started it."""
        self.pool.put_back(self.subject, self.refusal)


class CallPool(Generic[_Subject]):
    """The calls that one job, or one sync, makes to one account; ``stop`` ends them.

    Its methods are for one thread, which may use other pools as well: these share the threads and
    the capacity in ``pools``.
    """

    def __init__(
        self,
        account: str,
        client: OSVIClient,
        arrived: Arrived[CallResult[_Subject]],
        stop: threading.Event,
        pools: Pools | None = None,
    ) -> None:
        self.account = account
        self._stop = stop
        self.client = client
        self.size = concurrency_of(account)
        self.throttle = throttle_for(account, self.client.base_url, self.size)
        self._own_pools = Pools() if pools is None else None
        self._pool = (pools or self._own_pools or Pools()).of(account, self.size)
        self._arrived = arrived
        self._is_stopped = False
        self._prefetch = MIN_PREFETCH_PER_THREAD * self.size
        self._returned = 0
        self._measured_at = clock.monotonic()
        self.throttle.reset()

    @property
    def in_progress(self) -> int:
        """Return how many calls of this pool are running or waiting for a thread."""
        return self._pool.in_progress_of(self)

    @property
    def capacity(self) -> int:
        """Return how many more sessions to claim now; in batches, as a claim costs a commit."""
        if self.is_paused or self.throttle.limit < self.size:
            return self.free_slots
        # Pools that share the threads share the capacity as well.
        sharers = self._pool.owners_with(self)
        prefetch = self._prefetch // sharers
        capacity = max(1, self.size // sharers) + prefetch - self.in_progress
        return capacity if capacity >= prefetch // 2 else 0

    @property
    def free_slots(self) -> int:
        """Return how many more calls there is a free thread for."""
        return 0 if self.is_paused else max(0, self.throttle.limit - self._pool.in_progress)

    @property
    def is_paused(self) -> bool:
        """Return whether nothing is to be sent now."""
        return self._is_stopped or self._pool.is_blocked or self.throttle.seconds_until_retry > 0

    def submit(
        self,
        subject: _Subject,
        ask: Callable[[], CallOutcome],
        *,
        refusal: OSVIRejected | None = None,
    ) -> None:
        """Submit a call, which is made as soon as a thread is free.

        Raises ``RuntimeError`` if the system has no thread left.
        """
        call = _Call(
            pool=self,
            subject=subject,
            ask=ask,
            context=ThreadContext(),
            refusal=refusal,
        )
        self._pool.submit(self, call)

    def task_done(self) -> None:
        """Record that one call has come back."""
        self._pool.count_finished(self)
        self._returned += 1
        seconds = clock.monotonic() - self._measured_at
        if seconds > _MEASURE_EVERY:
            prefetch = int(PREFETCH_SECONDS * self._returned / seconds)
            self._prefetch = min(
                max(prefetch, MIN_PREFETCH_PER_THREAD * self.size),
                MAX_PREFETCH_PER_THREAD * self.size,
            )
            self._returned, self._measured_at = 0, clock.monotonic()

    def record_failure(self, sent_at: float, error: CallError) -> None:
        """Record an error of a call that was sent at this moment."""
        # If it may be one session's alone, not all answers that blocked the pool are read yet.
        if self.throttle.record_failure(sent_at, error):
            self._pool.is_blocked = False

    def stop_accepting(self) -> None:
        """Stop sending: calls that were not sent come back at once."""
        self._is_stopped = True

    def cancel_pending(self) -> None:
        """Cancel calls that no thread has started: their results say that they were not sent."""
        self._pool.cancel_pending(self)

    def shutdown(self) -> None:
        """Stop the threads, which are idle by now, or whose answers are no longer awaited."""
        self._pool.discard(self)
        if self._own_pools is not None:
            self._own_pools.end()

    def carry_out(self, call: _Call[_Subject]) -> None:
        """Make a call in a thread of the pool, and put its result in the queue."""
        with self.throttle.slot:
            sent_at = clock.monotonic()
            found = self._make(call) if self._may_send(call) else None
            self._block_after(found)
        self._arrived.put(
            CallResult(subject=call.subject, found=found, sent_at=sent_at, refusal=call.refusal)
        )

    def _return_unsent(self, unsent: Iterable[_Subject]) -> None:
        """Put calls that no thread will make in the queue of results, unsent."""
        for subject in unsent:
            self._pool.count_started(self)
            self.put_back(subject)

    def put_back(self, subject: _Subject, refusal: OSVIRejected | None = None) -> None:
        """Put a call that no thread has started in the queue of results, unsent."""
        self._arrived.put(CallResult(subject=subject, found=None, sent_at=0.0, refusal=refusal))

    def _block_after(self, found: CallOutcome) -> None:
        """Block the pool if no other call can do better, until the answer was read.

        If OSVI refuses at once, many calls would be sent before the first answer is stored and
        read.
        """
        pool = self._pool
        error = error_in(found) if isinstance(found, Answer) else found
        if is_ambiguous(error):
            pool.failures_in_a_row += 1
        elif found is not None:
            pool.failures_in_a_row = 0
        pool.is_blocked = (
            pool.is_blocked or is_account_wide(error) or pool.failures_in_a_row >= IN_A_ROW
        )

    def _may_send(self, call: _Call[_Subject]) -> bool:
        if call.refusal is not None:
            return True
        return not self.is_paused and not self._stop.is_set()

    def _make(self, call: _Call[_Subject]) -> CallOutcome:
        """Make a call in its context; an error on leaving the context must not lose the answer."""
        found: list[CallOutcome] = []
        try:
            call.context.run(lambda: found.append(self._answer_of(call)))
        except BaseException as error:  # for the same reason as below
            logger.exception("the context of account %r cannot be used", self.account)
            problem = f"OSVI_THREAD_CONTEXT failed with {type(error).__name__}: the log says how."
            found.append(OSVINotConfigured(problem))
        finally:
            # The host's own code may have used the database, for example to read the token.
            connections.close_all()
        return found[0]

    def _answer_of(self, call: _Call[_Subject]) -> CallOutcome:
        try:
            return call.ask()
        except (OSVIError, OSVINotConfigured) as error:
            return error
        # A bug, or a sys.exit() of the host's code, must not end the thread, as its answer is
        # awaited. It is unknown what was sent.
        except BaseException:
            subject = (type(call.subject).__name__, call.subject.pk)
            logger.exception("%s %s was not answered", *subject)
            return OSVINoAnswer()
