"""The threads that send the closes of one job: one pool per account."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from osvi_django.client import OSVIClient
from osvi_django.client.pool import CallPool, CallResult
from osvi_django.client.responses import Answer
from osvi_django.client.threads import Arrived, Pools
from osvi_django.exceptions import CallError, OSVINotConfigured, OSVIRejected
from osvi_django.models import CloseAttempt
from osvi_django.services.attempts import claims, leases

CloseReply = CallResult[CloseAttempt]


class ClosePool(CallPool[CloseAttempt]):
    """The running closes of one job in one account.

    Raises ``OSVINotConfigured``.
    """

    def __init__(
        self,
        account: str,
        arrived: Arrived[CloseReply],
        stop: threading.Event,
        pools: Pools | None = None,
    ) -> None:
        client, self.lease = claims.prepare(account)
        super().__init__(account, client, arrived, stop, pools)

    def close(self, attempts: Sequence[CloseAttempt]) -> None:
        """Submit these closes; each is sent as soon as a thread is free."""
        for number, attempt in enumerate(attempts):
            try:
                self.submit(attempt, partial(self._send, attempt))
            except RuntimeError:
                self._return_unsent(attempts[number:])
                raise

    def submit_check(
        self, attempt: CloseAttempt, ask: Callable[[OSVIClient], bool], refusal: OSVIRejected
    ) -> None:
        """Submit a check, after a refusal, of whether the session is closed."""
        self.submit(attempt, lambda: ask(self._client_of(attempt)), refusal=refusal)

    def _client_of(self, attempt: CloseAttempt) -> OSVIClient:
        # If the agent has moved to another account, its sessions need that account's token.
        account = attempt.session.agent.account
        return self.client if account == self.account else claims.prepare(account)[0]

    def _send(self, attempt: CloseAttempt) -> Answer | None:
        session = attempt.session
        # If it is too late it must not be sent: another worker may have claimed the session.
        send_by = leases.send_by(claims.claimed_row(session, attempt.claim))
        if send_by is None:
            return None
        return self._client_of(attempt).send_close(
            session.session_id, agent_uuid=session.agent.uuid or "", send_by=send_by
        )


class ClosePools:
    """The pools of one job, by account.

    ``misconfigured``: the errors of accounts that have no pool; ``drained``: accounts that, as far
    as is known, have no more waiting items.
    """

    def __init__(
        self, arrived: Arrived[CloseReply], stop: threading.Event, shared: Pools | None
    ) -> None:
        self.misconfigured: dict[str, OSVINotConfigured] = {}
        self.drained: set[str] = set()
        self._arrived = arrived
        self._stop = stop
        self._shared = shared
        self._pools: dict[str, ClosePool] = {}

    def __iter__(self) -> Iterator[ClosePool]:
        return iter([*self._pools.values()])

    def __getitem__(self, account: str) -> ClosePool:
        return self._pools[account]

    @property
    def running(self) -> int:
        """Return how many calls are running or waiting for a thread."""
        return sum(pool.in_progress for pool in self)

    @property
    def with_waiting(self) -> list[ClosePool]:
        """Return the pools for which there may be waiting items in the table."""
        return [pool for pool in self if pool.account not in self.drained]

    def open(self, accounts: Iterable[str]) -> None:
        """Open a pool for each of these accounts that has none."""
        for account in accounts:
            if account not in self._pools and account not in self.misconfigured:
                self._open(account)

    def error_of(self, account: str) -> CallError | None:
        """Return why calls to this account are suspended; None if they are not."""
        if account in self.misconfigured:
            return self.misconfigured[account]
        if account not in self._pools:
            return None
        throttle = self._pools[account].throttle
        # A worker that stops leaves the rest of a pause to the next one.
        is_stopping = throttle.seconds_until_retry > 0 and self._stop.is_set()
        return throttle.last_error if throttle.is_open or is_stopping else None

    def seconds_until_retry(self, accounts: Iterable[str], *, default: float) -> float:
        """Return after how many seconds the first of these accounts may be tried again."""
        waits = [
            self._pools[account].throttle.seconds_until_retry
            for account in accounts
            if account in self._pools
        ]
        return min(waits, default=default)

    def cancel_pending(self) -> None:
        """Cancel all calls that no thread has started; they come back unsent."""
        for pool in self:
            pool.cancel_pending()

    def stop_accepting(self) -> None:
        """Stop sending calls."""
        for pool in self:
            pool.stop_accepting()

    def shutdown(self) -> None:
        """Stop the threads."""
        for pool in self:
            pool.shutdown()

    def _open(self, account: str) -> None:
        try:
            self._pools[account] = ClosePool(account, self._arrived, self._stop, self._shared)
        except OSVINotConfigured as error:
            self.misconfigured[account] = error
