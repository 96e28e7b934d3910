"""Store, interpret and settle what comes back from the threads of a job.

Raw answers are stored in one commit before any of them is parsed, and the results in another.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from queue import Empty

from django.db import Error, InterfaceError, OperationalError

from osvi_django import clock
from osvi_django.client.responses import Answer
from osvi_django.client.throttle import is_account_wide, is_ambiguous
from osvi_django.database import safe_error_name
from osvi_django.exceptions import (
    CallError,
    OSVIGatewayRefused,
    OSVINoAnswer,
    OSVIRejected,
    SessionNotFound,
)
from osvi_django.models import CloseAttempt, CloseJobItem
from osvi_django.services.attempts import claims, notifications, raw_answers, settlement
from osvi_django.services.attempts.error_policy import (
    ItemOutcome,
    ItemResult,
    Refusals,
    item_outcome,
    item_result,
)
from osvi_django.services.attempts.interpret import NeedsCheck, interpret, interpret_check
from osvi_django.services.attempts.remote_state import (
    is_closed_already,
    is_not_found,
    reason_of_unknown,
)
from osvi_django.services.attempts.types import Failure, Settlement, Status
from osvi_django.services.jobs import store
from osvi_django.services.jobs.close_pool import ClosePool, CloseReply
from osvi_django.services.jobs.running import RunningJob
from osvi_django.services.mirroring.sessions import remove_unknown

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Completed:
    """What to store of one reply; without ``interpreted``, nothing about its session."""

    attempt: CloseAttempt
    result: ItemResult
    interpreted: Settlement | Failure | None = None


class Completer:
    """Stores the replies of one job; ``uncommitted``: replies that are not stored yet."""

    def __init__(self, running: RunningJob) -> None:
        self.running = running
        self.job = running.job
        self.uncommitted: list[CloseReply] = []
        self._refusals = Refusals()

    def complete_arrived(self) -> None:
        """Collect the replies that have arrived, and store them."""
        with suppress(Empty):
            while True:
                self._collect(self.running.arrived.take())
        if self.uncommitted:
            self._store()

    def settle_alone(self, item: CloseJobItem, result: ItemResult) -> None:
        """Store the result of one item whose session is settled, or has nothing to settle."""
        work = partial(store.settle, self.job, [(item, result)])
        if self.running.try_persist(item, work):
            self.running.report()

    def result_of_error(self, item: CloseJobItem, error: CallError) -> ItemResult:
        """Return what an error means; OSVI may not know an unverified session either."""
        if isinstance(error, OSVIGatewayRefused):
            return self._result_of_gateways(self.running.pools[item.account], item, error)
        is_unverified = item.session is not None and item.session.is_unverified
        if is_unverified and is_not_found(error):
            reason = reason_of_unknown(error, self.running.origin.requested_by)
            return ItemResult(
                outcome=ItemOutcome.NOT_FOUND, code=SessionNotFound.code, reason=reason
            )
        return item_result(error)

    def record(self, pool: ClosePool, sent_at: float, error: CallError | None) -> None:
        """Record in the throttle of an account how a call ended."""
        if is_account_wide(error) or is_ambiguous(error):
            pool.record_failure(sent_at, error)
        elif error is None or error.was_sent:  # otherwise it says nothing about OSVI
            pool.throttle.record_success(sent_at)
            self._refusals.note_success(pool.account)

    def _result_of_gateways(
        self, pool: ClosePool, item: CloseJobItem, error: OSVIGatewayRefused
    ) -> ItemResult:
        """Return the result of a session that a gateway refused: it alone, or all sessions.

        That shows only after a few calls, so each such item waits until it is known.
        """
        is_last = partial(store.is_last, self.job, item)
        is_alone = self._refusals.record_refusal(pool.account, item.pk, is_last=is_last)
        if pool.throttle.last_error is not None or not is_alone:
            return ItemResult(outcome=ItemOutcome.WAITING)
        is_unconfirmed = item.session is not None and item.session.status == Status.UNCONFIRMED
        outcome = ItemOutcome.UNCONFIRMED if is_unconfirmed else item_outcome(error)
        return ItemResult(outcome=outcome, code=error.code)

    def _collect(self, reply: CloseReply) -> None:
        self.uncommitted.append(reply)
        self._pool_of(reply).task_done()

    def _store(self) -> None:
        """Store the raw answers, and only then parse them and store the results."""
        # Some may have been stored before a KeyboardInterrupt.
        replies = [each for each in self.uncommitted if each.subject.pk in self.running.items]
        answered = [
            (each.subject, each.found) for each in replies if isinstance(each.found, Answer)
        ]
        lost = self._store_answers(answered) if answered else {}
        kept = [reply for reply in replies if reply.subject.pk not in lost]
        completed = [each for reply in kept if (each := self._interpret_safely(reply))]
        if completed:
            self._write([self._without_unknown(each) for each in completed])
        # Their answers are in the spool, where recovery finds them.
        self._leave_to_recovery([each.subject for each in replies if each.subject.pk in lost])
        self.uncommitted = []
        # Not before this: an error in the caller's function must not cause these to be read again.
        if completed:
            self.running.report()

    def _store_answers(
        self, answered: Sequence[tuple[CloseAttempt, Answer]]
    ) -> dict[int, OSVINoAnswer]:
        """Store the raw answers; return, by attempt, the error if only the spool has the answer."""
        patience = self.running.patience
        if patience is None:
            return raw_answers.store_answers(answered)
        lost = raw_answers.store_answers(
            answered, is_database_unavailable=patience.is_database_unavailable
        )
        patience.is_database_unavailable = len(lost) == len(answered)
        return lost

    def _pool_of(self, reply: CloseReply) -> ClosePool:
        return self.running.pools[self.running.items[reply.subject.pk].account]

    def _interpret_safely(self, reply: CloseReply) -> _Completed | None:
        """Interpret a reply; if a bug prevents that, leave its stored answer to recovery."""
        try:
            return self._interpret(reply)
        except Exception:
            logger.exception("attempt %s waits for recovery", reply.subject.pk)
            self._leave_to_recovery([reply.subject])
            return None

    def _interpret(self, reply: CloseReply) -> _Completed | None:
        """Return what to store of a reply; None if OSVI is asked a second time."""
        if reply.refusal is not None:
            return self._interpret_check(
                reply.subject, reply.refusal, is_closed=reply.found is True
            )
        if reply.found is None or isinstance(reply.found, bool):
            waiting = ItemResult(outcome=ItemOutcome.WAITING)
            return _Completed(attempt=reply.subject, result=waiting)
        attempt, pool = reply.subject, self._pool_of(reply)
        interpreted = interpret(reply.found, session=attempt.session, attempt=attempt)
        self.record(
            pool, reply.sent_at, None if isinstance(interpreted, Settlement) else interpreted.error
        )
        if isinstance(interpreted, NeedsCheck):
            ask = partial(is_closed_already, session=interpreted.session, error=interpreted.error)
            pool.submit_check(attempt, ask, interpreted.error)
            return None
        return self._completed(interpreted, attempt, ItemOutcome.CLOSED)

    def _interpret_check(
        self, attempt: CloseAttempt, refusal: OSVIRejected, *, is_closed: bool
    ) -> _Completed | None:
        check = NeedsCheck(session=attempt.session, attempt=attempt, error=refusal)
        try:
            remote = settlement.remote_close_of(attempt.session) if is_closed else None
        except Error as error:
            logger.error("attempt %s waits for recovery: %s", attempt.pk, safe_error_name(error))
            self._leave_to_recovery([attempt])
            return None
        interpreted = interpret_check(check, remote)
        return self._completed(interpreted, attempt, ItemOutcome.ALREADY_CLOSED)

    def _completed(
        self, interpreted: Settlement | Failure, attempt: CloseAttempt, closed: ItemOutcome
    ) -> _Completed:
        """Return what to store; ``closed`` is the result of the item if its session is closed."""
        if isinstance(interpreted, Settlement):
            return _Completed(
                attempt=attempt, result=ItemResult(outcome=closed), interpreted=interpreted
            )
        interpreted.error.attempt = attempt
        result = self.result_of_error(self.running.items[attempt.pk], interpreted.error)
        return _Completed(attempt=attempt, result=result, interpreted=interpreted)

    def _without_unknown(self, completed: _Completed) -> _Completed:
        """Return the same, without the settlement of an unverified session that is removed."""
        interpreted = completed.interpreted
        has_failed = completed.result.outcome in CloseJobItem.FAILED
        if not (
            isinstance(interpreted, Failure) and has_failed and interpreted.session.is_unverified
        ):
            return completed
        if not remove_unknown(interpreted.session, interpreted.attempt, job=self.job):
            return completed
        notifications.notify_removed(interpreted.session, interpreted.attempt, interpreted.error)
        return replace(completed, interpreted=None)

    def _write(self, completed: Sequence[_Completed]) -> None:
        """Store these in one commit; one that the database refuses must not stop the others."""
        try:
            closed = self.running.persist(partial(self._write_together, completed))
        except Error as error:
            names = (len(completed), self.job.pk, safe_error_name(error))
            logger.error("%s results of job %s cannot be stored: %s", *names)
            is_database_unavailable = isinstance(error, OperationalError | InterfaceError)
            if len(completed) > 1 and not is_database_unavailable:
                for each in completed:
                    self._write([each])
        else:
            self._notify(closed, completed)
        for each in completed:
            # What was not stored is rescued when its lease is over.
            item = self.running.items.pop(each.attempt.pk, None)
            if item is not None and each.result.outcome == ItemOutcome.WAITING:
                self.running.pools.drained.discard(item.account)

    def _write_together(self, completed: Sequence[_Completed]) -> list[Settlement]:
        closed = [
            each.interpreted for each in completed if isinstance(each.interpreted, Settlement)
        ]
        failed = [each.interpreted for each in completed if isinstance(each.interpreted, Failure)]
        unsent = [each.attempt for each in completed if each.interpreted is None]
        closed = settlement.write_closed(closed)
        settlement.write_failed(failed)
        if unsent:
            claims.undo_claims(unsent)
        items = [(self.running.items[each.attempt.pk], each.result) for each in completed]
        store.settle(self.job, items)
        return closed

    def _notify(self, closed: Sequence[Settlement], completed: Sequence[_Completed]) -> None:
        """Send the signals of what was committed, and start writing missing summaries."""
        notifications.notify_closed(closed)
        self.running.summaries.add_sessions(each.session for each in closed if each.text is None)
        notifications.notify_failed(
            [each.interpreted for each in completed if isinstance(each.interpreted, Failure)]
        )
        self.running.heartbeat_at = clock.monotonic()

    def _leave_to_recovery(self, attempts: Sequence[CloseAttempt]) -> None:
        """Leave these to recovery when their leases are over."""
        items = [self.running.items.pop(attempt.pk, None) for attempt in attempts]
        store.stop_renewing(self.job, [item for item in items if item])
        claims.leave_to_recovery(attempts)
