"""Running a close job: any number of processes may, and each may be killed at any moment.

One thread, whoever called ``run_close_job``, claims waiting sessions in batches, hands them to the
threads of ``lanes.py``, which do not touch the database, and stores whatever has come back in one
commit for all of it. The steps and rules of each close are those of ``closing.py``.

What was claimed by a process that died is taken up again when its lease is over. Nobody knows then
whether it was sent, so that OSVI is asked first, as for any unconfirmed session: these come last,
and are the business of ``abandoned.py``. ``writers.py`` has this site write summaries meanwhile.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Final, TypeVar, cast

from django.db import Error, IntegrityError, InterfaceError, OperationalError, router

from osvi_django.answers import Answer, read_closed
from osvi_django.exceptions import (
    NotAllowed,
    OSVIError,
    OSVINotConfigured,
    OSVIRejected,
    SessionNotFound,
)
from osvi_django.models import ChatSession, CloseAttempt, CloseJob, CloseJobItem
from osvi_django.services import ledger, steps
from osvi_django.services.abandoned import Finders
from osvi_django.services.closing import (
    LOOK_AGAIN_AFTER,
    closed_already,
    is_closed_already,
    is_worth_a_look,
)
from osvi_django.services.lanes import Lane, Reply
from osvi_django.services.pace import DOUBT, NOT_NOW, TRY_AGAIN_AFTER, Trouble, named
from osvi_django.services.permissions import may_close
from osvi_django.services.steps import Closed, CloseRequest, Failed, Status
from osvi_django.services.verdicts import Verdict, as_tried, verdict_of
from osvi_django.services.writers import Writers
from osvi_django.transactions import kind_of, persist, refuse_inside_transaction

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
Outcome = CloseJobItem.Outcome

# How often to look for something to do while others have the rest of the job under way.
_POLL: Final = 0.5  # seconds
# How soon to notice that the job was cancelled.
_NOTICE: Final = 0.1  # seconds
# How often to see whether whoever asked for the job still may close.
_ASK_EVERY: Final = 5.0  # seconds
# How long to let answers gather before they are stored together.
_GATHER: Final = 0.01  # seconds
# How long to wait for a database that went away.
_PATIENCE: Final = 20.0  # seconds


def run_close_job(
    job_id: int,
    *,
    stop: threading.Event | None = None,
    on_progress: Callable[[CloseJob], None] | None = None,
) -> CloseJob:
    """Work on a job until it is finished, or paused, and return it as it is then.

    Paused is a job while OSVI is in trouble: ``resume_at`` says when it is worth another run. Where
    other processes have the last sessions under way, they are waited for, and taken up should their
    lease run out. ``stop``, once set, ends the run early: nothing more is begun, and what is under
    way is brought home. ``on_progress`` is called after each commit of results.

    Raises ``InsideTransaction``, ``InvalidInput`` where there is no such job, and the database's
    own errors where it stays away; the job can be run again after each.
    """
    refuse_inside_transaction(router.db_for_write(CloseJob))
    job = ledger.find(job_id)
    if ledger.begin(job):
        run = _Run(job, stop or threading.Event(), on_progress)
        run.work()
    return ledger.find(job_id)


@dataclass(frozen=True, kw_only=True)
class _Result:
    """What is to be stored of one reply; without an ``end``, nothing was sent."""

    attempt: CloseAttempt
    verdict: Verdict
    end: Closed | Failed | None = None


class _Run:
    """One process's share in a job."""

    def __init__(
        self,
        job: CloseJob,
        stop: threading.Event,
        on_progress: Callable[[CloseJob], None] | None,
    ) -> None:
        self.job = job
        self.stop = stop
        self.on_progress = on_progress
        self.using = router.db_for_write(CloseJob, instance=job)
        self.arrived: SimpleQueue[Reply] = SimpleQueue()
        self.lanes: dict[str, Lane] = {}
        self.broken: dict[str, OSVINotConfigured] = {}
        self.items: dict[int, CloseJobItem] = {}
        self.in_hand: list[Reply] = []
        self.is_finished = False
        self.finders = Finders(self.using)
        self.writers = Writers(self.using)
        self.seen_at = self.looked_at = time.monotonic()
        self._see_who_asks(job)

    def _see_who_asks(self, job: CloseJob) -> None:
        """Close on behalf of whoever asked for it, as far as they may just now."""
        self.request = CloseRequest(requested_by=job.requested_by, door=job.door, note=job.note)
        self.may_close_all = not job.for_somebody or may_close(job.requested_by)
        self.asked_at = time.monotonic()

    def work(self) -> None:
        """Claim, collect and store until nothing is left that this process can do."""
        try:
            while not self.stop.is_set() and self._goes_on():
                self._hand_out()
                self._collect_and_store()
                self._look_up()
            # A pause is not to wait for summaries: osvi_summarize has what is left then.
            while self.is_finished and not self.stop.is_set() and self.writers.go_on(_POLL):
                pass
        finally:
            self._bring_home()

    def _goes_on(self) -> bool:
        """Whether something is under way; at the end of it, whether there is more to do."""
        if self._under_way:
            return True
        self._hand_out()
        if self._under_way:
            return True
        self._open_lanes()  # it reads what is left of the job, which may be much
        self._hand_out()
        if self._under_way or self._take_up():
            return True
        self.is_finished = ledger.finish(self.job)
        return not (self.is_finished or self._is_to_pause()) and self._wait()

    def _wait(self) -> bool:
        """Leave others, or OSVI, a moment."""
        self.stop.wait(_POLL)
        self._look_up()
        return True

    def _is_to_pause(self) -> bool:
        """Pause the job where all that is left of it is the business of an OSVI in trouble."""
        troubles = {account: self._trouble_of(account) for account in ledger.accounts(self.job)}
        known = {account: each for account, each in troubles.items() if each is not None}
        if not known or len(known) < len(troubles) or ledger.others_are_at_it(self.job):
            return False
        for account, trouble in known.items():
            logger.warning("account %r: %s", account, named(trouble))
        waits = [self.lanes[each].pace.opens_in for each in known if each in self.lanes]
        ledger.pause(self.job, next(iter(known.values())), min(waits, default=TRY_AGAIN_AFTER))
        return True

    def _trouble_of(self, account: str) -> Trouble | None:
        """Why nothing of this account is done for a while; None where something is."""
        if account in self.broken:
            return self.broken[account]
        if account not in self.lanes:
            return None
        pace = self.lanes[account].pace
        # A run that ends leaves the rest of a pause to the next.
        waits = pace.is_given_up or (pace.opens_in > 0 and self.stop.is_set())
        return pace.trouble if waits else None

    @property
    def _under_way(self) -> int:
        return sum(lane.under_way for lane in self.lanes.values())

    def _open_lanes(self) -> None:
        known = {*self.lanes, *self.broken}
        for account in ledger.accounts(self.job):
            if account not in known:
                self._open_lane(account)

    def _open_lane(self, account: str) -> None:
        try:
            self.lanes[account] = Lane(account, self.arrived, self.stop)
        except OSVINotConfigured as error:
            self.broken[account] = error

    def _hand_out(self) -> None:
        for lane in self.lanes.values():
            if (room := lane.room) and (attempts := self._claim(lane, room)):
                lane.close(attempts)

    def _claim(self, lane: Lane, room: int) -> list[CloseAttempt]:
        """Claim up to ``room`` waiting sessions, and settle those that need no close."""
        chosen = ledger.next_waiting(self.job, lane.account, room)
        if not chosen:
            return []
        token = uuid.uuid4()

        def work() -> list[CloseAttempt]:
            items = ledger.take(self.job, chosen, token, lane.lease)
            return self._claim_sessions(items, token, lane.lease)

        try:
            return self._persist(work)
        except IntegrityError:  # whoever asked for it was deleted meanwhile
            self._see_who_asks(ledger.find(self.job.pk))
            return self._persist(work)

    def _claim_sessions(
        self, items: Sequence[CloseJobItem], token: uuid.UUID, lease: float
    ) -> list[CloseAttempt]:
        verdicts = [(item, verdict) for item in items if (verdict := self._at_sight(item))]
        settled = {item.pk for item, _verdict in verdicts}
        open_items = {item.session_id: item for item in items if item.pk not in settled}
        sessions = [item.session for item in open_items.values() if item.session]
        attempts = steps.claim_all(sessions, self.request, token, lease=lease) if sessions else []
        mine = {attempt.pk: open_items.pop(attempt.session_id) for attempt in attempts}
        if verdicts:
            ledger.settle(self.job, verdicts)
        if open_items:  # somebody else has these, or nobody knows
            ledger.come_back(self.job, list(open_items.values()))
        self.items |= mine
        return attempts

    def _at_sight(self, item: CloseJobItem) -> Verdict | None:
        """What becomes of an item that needs no close, or may have none."""
        session = item.session
        if session is None:
            return Verdict(outcome=Outcome.NOT_FOUND, code=SessionNotFound.code)
        if not self.may_close_all and not may_close(self.request.requested_by, session):
            return Verdict(outcome=Outcome.NOT_ALLOWED, code=NotAllowed.code)
        if session.status == Status.CLOSED:
            return Verdict(outcome=Outcome.ALREADY_CLOSED)
        return None

    def _take_up(self) -> bool:
        """Have OSVI asked about what nobody knows, or others had; False where there is nothing."""
        taken = sum(self._find_out(lane) for lane in self.lanes.values())
        return self._settle_found(_POLL) or taken > 0

    def _find_out(self, lane: Lane) -> int:
        """Take up as many as there are threads idle for them; how many there were."""
        room = lane.idle - self.finders.under_way
        if room <= 0:
            return 0
        token = uuid.uuid4()
        # Finding out and closing have a lease each.
        chosen = (self.job, lane.account, room, token, 2 * lane.lease)
        items = self._persist(lambda: ledger.take_abandoned(*chosen))
        for item in items:
            verdict = self._at_sight(item)
            if verdict is None:
                session = cast("ChatSession", item.session)
                self.finders.find_out(lane, item, session, self.request)
            else:
                self._settle_alone(item, as_tried(item, verdict))
        return len(items)

    def _settle_found(self, seconds: float) -> bool:
        """Store what the finders have found; False where they had nothing to do."""
        was_under_way = self.finders.under_way > 0
        for found in self.finders.collect(seconds):
            if found.verdict is None:
                self._come_back(found.item)
                continue
            if found.was_asked:
                self._tell_lane(self.lanes[found.item.account], found.sent_at, found.error)
            self._settle_alone(found.item, found.verdict)
            if found.bare is not None:
                self.writers.write_of([found.bare])
        return was_under_way

    def _settle_alone(self, item: CloseJobItem, verdict: Verdict) -> None:
        if self._is_stored(item, lambda: ledger.settle(self.job, [(item, verdict)])):
            self._report()

    def _come_back(self, item: CloseJobItem) -> None:
        self._is_stored(item, lambda: ledger.come_back(self.job, [item], LOOK_AGAIN_AFTER))

    def _is_stored(self, item: CloseJobItem, work: Callable[[], None]) -> bool:
        """Whether what became of an item could be stored; else its lease runs out."""
        try:
            self._persist(work)
        except Error as error:
            told = (item.pk, self.job.pk, kind_of(error))
            logger.error("the end of item %s of job %s cannot be stored: %s", *told)
            return False
        return True

    def _tell_lane(self, lane: Lane, sent_at: float, error: Trouble | None) -> None:
        if isinstance(error, (*NOT_NOW, *DOUBT)):
            lane.went_wrong(sent_at, error)
        elif error is None or isinstance(error, OSVIRejected):  # else nothing was sent
            lane.pace.went_well(sent_at)

    def _collect_and_store(self) -> None:
        if self._under_way:
            self._collect()
        if self.in_hand:
            self._store()
        self._settle_found(0)
        self.writers.go_on(0)

    def _collect(self) -> None:
        """Take whatever has come back; a moment is left for more, as each commit costs."""
        try:
            self._take(self.arrived.get(timeout=_NOTICE))
            time.sleep(_GATHER)
            while True:
                self._take(self.arrived.get_nowait())
        except Empty:
            return

    def _take(self, reply: Reply) -> None:
        self.in_hand.append(reply)
        self._lane_of(reply).collected()

    def _store(self) -> None:
        """Keep the raw answers, and only then read them and write down what they say."""
        # Some may have been stored before somebody's Ctrl-C came in between.
        replies = [reply for reply in self.in_hand if reply.attempt.pk in self.items]
        answered = [
            (reply.attempt, reply.found) for reply in replies if isinstance(reply.found, Answer)
        ]
        lost = steps.keep_all(answered) if answered else {}
        kept = [reply for reply in replies if reply.attempt.pk not in lost]
        results = [result for reply in kept if (result := self._judge_safely(reply))]
        if results:
            self._write(results)
        for key in lost:
            self.items.pop(key)  # the answer is in the spool: recovery has it
        self.in_hand = []
        # Not before: an error of whoever watches must not have these judged once more.
        if results:
            self._report()

    def _lane_of(self, reply: Reply) -> Lane:
        return self.lanes[self.items[reply.attempt.pk].account]

    def _judge_safely(self, reply: Reply) -> _Result | None:
        """The same; a bug over one answer leaves that one, which is kept, to recovery."""
        try:
            return self._judge(reply)
        except Exception:
            logger.exception("attempt %s waits for recovery", reply.attempt.pk)
            self.items.pop(reply.attempt.pk, None)
            return None

    def _judge(self, reply: Reply) -> _Result | None:
        """What a reply says; None where OSVI is asked once more."""
        attempt, found = reply.attempt, reply.found
        if reply.refusal is not None:
            return self._judge_look(attempt, reply.refusal, is_closed=found is True)
        if isinstance(found, OSVIError | OSVINotConfigured):
            return self._judge_error(reply, found)
        if not isinstance(found, Answer):
            return _Result(attempt=attempt, verdict=Verdict(outcome=Outcome.WAITING))
        try:
            closed = read_closed(found, attempt.session.session_id)
        except OSVIError as error:
            return self._judge_error(reply, error)
        self._tell_lane(self._lane_of(reply), reply.sent_at, None)
        end = Closed(session=attempt.session, attempt=attempt, text=closed.summary)
        return _Result(attempt=attempt, verdict=Verdict(outcome=Outcome.CLOSED), end=end)

    def _judge_error(self, reply: Reply, error: Trouble) -> _Result | None:
        lane, attempt = self._lane_of(reply), reply.attempt
        self._tell_lane(lane, reply.sent_at, error)
        if is_worth_a_look(error, attempt.session):
            ask = partial(is_closed_already, session=attempt.session, error=error)
            lane.look(attempt, ask, error)
            return None
        return _failed(attempt, error)

    def _judge_look(
        self, attempt: CloseAttempt, refusal: OSVIRejected, *, is_closed: bool
    ) -> _Result | None:
        if not is_closed:
            return _failed(attempt, refusal)
        try:
            end = closed_already(attempt.session, attempt, refusal)
        except Error as error:
            logger.error("attempt %s waits for recovery: %s", attempt.pk, kind_of(error))
            self.items.pop(attempt.pk)
            return None
        return _Result(attempt=attempt, verdict=Verdict(outcome=Outcome.ALREADY_CLOSED), end=end)

    def _write(self, results: Sequence[_Result]) -> None:
        """Store results in one commit; one that the database refuses must not stop the others."""
        try:
            closed = self._persist(lambda: self._write_together(results))
        except Error as error:
            told = (len(results), self.job.pk, kind_of(error))
            logger.error("%s results of job %s cannot be stored: %s", *told)
            is_away = isinstance(error, OperationalError | InterfaceError)
            if len(results) > 1 and not is_away:
                for result in results:
                    self._write([result])
        else:
            steps.tell_closed(closed)
            self.writers.write_of(end.session for end in closed if end.text is None)
            steps.tell_failed([each.end for each in results if isinstance(each.end, Failed)])
            self.seen_at = time.monotonic()
        for result in results:
            self.items.pop(result.attempt.pk, None)  # what was not stored is taken up again

    def _write_together(self, results: Sequence[_Result]) -> list[Closed]:
        closed = [each.end for each in results if isinstance(each.end, Closed)]
        failed = [each.end for each in results if isinstance(each.end, Failed)]
        unsent = [each.attempt for each in results if each.end is None]
        closed = steps.write_closed(closed)
        steps.write_failed(failed)
        if unsent:
            steps.give_back(unsent)
        items = [(self.items[each.attempt.pk], each.verdict) for each in results]
        ledger.settle(self.job, items)
        return closed

    def _persist(self, work: Callable[[], _T]) -> _T:
        return persist(work, using=self.using, patience=_PATIENCE)

    def _look_up(self) -> None:
        """Say now and then that the job is run, and see whether it still is to be."""
        now = time.monotonic()
        if now - self.seen_at > ledger.SIGN_OF_LIFE:
            self.seen_at = now
            self._persist(lambda: ledger.say_alive(self.job))
        if now - self.asked_at > _ASK_EVERY:
            self._see_who_asks(ledger.find(self.job.pk))
        if now - self.looked_at > _NOTICE:
            self.looked_at = now
            if ledger.is_cancelled(self.job):
                for lane in self.lanes.values():
                    lane.recall()

    def _report(self) -> None:
        if self.on_progress is not None:
            self.on_progress(ledger.find(self.job.pk))

    def _bring_home(self) -> None:
        """Begin nothing more, store what still comes back, and let the threads go."""
        self.on_progress = None
        self.writers.halt()
        for lane in self.lanes.values():
            lane.halt()
        try:
            while self._under_way or self.in_hand:
                self._collect_and_store()
            while self._settle_found(_POLL):
                pass
            self._wait_for_writers()
        finally:
            for lane in self.lanes.values():
                lane.end()
            self.writers.end()
        with suppress(Error):  # then its silence tells that nobody runs it
            self._leave()

    def _wait_for_writers(self) -> None:
        """For a while: what is not written by then is written another time."""
        ends_at = time.monotonic() + _PATIENCE
        while self.writers.go_on(_POLL) and time.monotonic() < ends_at:
            pass

    def _leave(self) -> None:
        """Let what is left of the job wait for whoever goes on with it, or for its time."""
        if not (self.is_finished or ledger.finish(self.job) or self._is_to_pause()):
            ledger.leave(self.job)


def _failed(attempt: CloseAttempt, error: Trouble) -> _Result:
    error.attempt = attempt
    end = Failed(session=attempt.session, attempt=attempt, error=error)
    return _Result(attempt=attempt, verdict=verdict_of(error), end=end)
