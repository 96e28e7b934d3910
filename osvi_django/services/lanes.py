"""The lanes of a job: for each account, threads that only speak HTTP, and how hard it is asked.

A line asks OSVI whatever it is told to; a lane is the line of a job, and closes.

No thread here touches the database. Whoever runs a job hands out what is claimed and collects what
comes back; where OSVI is in trouble, what was not yet sent is given back, and it is asked again
first by one close, then by one more with each that goes well.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, Generic, Protocol, TypeVar

from osvi_django.answers import Answer
from osvi_django.client import OSVIClient
from osvi_django.conf import CALLS_PER_CLOSE, Account, InvalidSetting
from osvi_django.exceptions import (
    OSVIBadAnswer,
    OSVIError,
    OSVINoAnswer,
    OSVINotConfigured,
    OSVIRejected,
    OSVIThrottled,
    OSVIUnauthorized,
    OSVIUnreachable,
)
from osvi_django.models import CloseAttempt
from osvi_django.services import steps

logger = logging.getLogger(__name__)

Trouble = OSVIError | OSVINotConfigured
# What a thread brings back: an answer, an error, whether it was closed already; None: not begun.
Found = Answer | Trouble | bool | None

# Claimed ahead of the threads is what they send in so many seconds, so that none waits while
# answers are stored and the next are claimed; at least and at most so many for each thread.
AHEAD: Final = 0.5  # seconds
LEAST_AHEAD: Final = 2
MOST_AHEAD: Final = 16
# How often it is looked how many they send.
_LOOK_EVERY: Final = 0.25  # seconds
# After trouble without a Retry-After: longer each time, and at the last the lane is given up.
PAUSES: Final = (1.0, 3.0, 9.0)  # seconds
# What is longer is no slowing down any more.
LONGEST_PAUSE: Final = 60.0  # seconds
# When to try again a lane that was given up.
TRY_AGAIN_AFTER: Final = 30.0  # seconds

# OSVI did not do it, and it is OSVI or the way there that is at fault.
NOT_NOW: Final = (OSVIUnreachable, OSVIThrottled, OSVIUnauthorized, OSVINotConfigured)
# One of these may be the business of one session; several in a row say that OSVI is in trouble.
DOUBT: Final = (OSVINoAnswer, OSVIBadAnswer)
DOUBTS_IN_A_ROW: Final = 3
# OSVI may say for so long that it is busy, each time with a time to come back.
_PATIENCE: Final = 10
# Nothing but somebody's hand mends these.
_HOPELESS: Final = (OSVIUnauthorized, OSVINotConfigured)


class Named(Protocol):
    """What a call is about; its key is what a log may say of it."""

    @property
    def pk(self) -> Any:
        """The key of a row."""


_About = TypeVar("_About", bound=Named)


@dataclass(frozen=True, kw_only=True)
class ReplyAbout(Generic[_About]):
    """What became of one call; ``sent_at``: seconds of the monotonic clock."""

    attempt: _About
    found: Found
    sent_at: float
    refusal: OSVIRejected | None = None


Reply = ReplyAbout[CloseAttempt]


@dataclass(frozen=True, kw_only=True)
class _Call(Generic[_About]):
    attempt: _About
    ask: Callable[[], Found]
    send_by: float
    refusal: OSVIRejected | None = None


class Line(Generic[_About]):
    """The calls to one account that one run has under way; ``stop`` ends that run.

    Its methods are for the one thread that runs it. Raises ``OSVINotConfigured``.
    """

    def __init__(
        self, account: str, arrived: SimpleQueue[ReplyAbout[_About]], stop: threading.Event
    ) -> None:
        self.account = account
        self._stop = stop
        self.client, self.lease = steps.prepare(account)
        self.size = _concurrency(account)
        self.under_way = 0
        self.trouble: Trouble | None = None
        self.given_up_until = 0.0
        self.slot = _slots(account, self.size)
        self._arrived = arrived
        self._inbox: SimpleQueue[_Call[_About] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._is_held = False
        self._unanswered = 0
        self._doubts = 0
        self._opens_at = 0.0
        self._changed_at = 0.0
        self._strikes = 0
        self._limit = self.size
        self._ahead = LEAST_AHEAD * self.size
        self._came_back = 0
        self._looked_at = time.monotonic()

    @property
    def room(self) -> int:
        """How many more sessions to claim just now; in batches, as a claim costs a commit."""
        if self.is_shut or self._limit < self.size:
            return self.idle
        room = self.size + self._ahead - self.under_way
        return room if room >= self._ahead // 2 else 0

    @property
    def idle(self) -> int:
        """How many could be sent just now with no thread busy for them."""
        return 0 if self.is_shut else self._limit - self.under_way

    @property
    def is_shut(self) -> bool:
        """Whether nothing is to be sent just now."""
        return self._is_held or time.monotonic() < self._opens_at

    @property
    def opens_in(self) -> float:
        """Seconds until there may be room."""
        return max(0.0, self._opens_at - time.monotonic())

    @property
    def is_given_up(self) -> bool:
        """Whether OSVI is in such trouble that waiting here makes no sense."""
        return self.given_up_until > time.monotonic()

    def ask(
        self,
        about: _About,
        ask: Callable[[], Found],
        *,
        send_by: float = float("inf"),
        refusal: OSVIRejected | None = None,
    ) -> None:
        """Ask as soon as a thread is free, by ``send_by`` of the monotonic clock or not at all.

        Raises ``RuntimeError`` where the system has no thread left.
        """
        if len(self._threads) < min(self.size, self.under_way + 1):
            self._start_thread()
        self.under_way += 1
        self._inbox.put(_Call(attempt=about, ask=ask, send_by=send_by, refusal=refusal))

    def collected(self) -> None:
        """One call has come back."""
        self.under_way -= 1
        self._came_back += 1
        seconds = time.monotonic() - self._looked_at
        if seconds > _LOOK_EVERY:
            ahead = int(AHEAD * self._came_back / seconds)
            self._ahead = min(max(ahead, LEAST_AHEAD * self.size), MOST_AHEAD * self.size)
            self._came_back, self._looked_at = 0, time.monotonic()
        # Whatever held it may have been an answer that could not be stored, and so was not read.
        self._is_held = self._is_held and self.under_way > 0

    def went_well(self, sent_at: float) -> None:
        """OSVI answered as it should: after trouble, ask a little more of it."""
        self._doubts = 0
        if sent_at < self._changed_at:
            return
        self._strikes, self.trouble = 0, None
        self._limit = min(self._limit + 1, self.size)

    def went_wrong(self, sent_at: float, error: Trouble) -> None:
        """OSVI is in trouble, or may be: wait, then let a single close go first."""
        if sent_at < self._changed_at:
            self._is_held = False
            return  # it was on its way when the trouble became known
        self._doubts += 1
        is_one_alone = not self._strikes and self._doubts < DOUBTS_IN_A_ROW
        if isinstance(error, DOUBT) and is_one_alone:
            return  # where threads hold the lane, the answers that made them are yet to be judged
        self._is_held = False
        self.trouble = error
        self._changed_at = time.monotonic()
        self._strikes += 1
        self._limit = 1
        self._wait(error)

    def _wait(self, error: Trouble) -> None:
        asked = getattr(error, "retry_after", None)
        pause = asked or PAUSES[min(self._strikes, len(PAUSES)) - 1]
        self._opens_at = self._changed_at + pause
        worn_out = self._strikes >= (_PATIENCE if asked else len(PAUSES))
        if isinstance(error, _HOPELESS) or worn_out or pause > LONGEST_PAUSE:
            self._opens_at = self._changed_at + max(pause, TRY_AGAIN_AFTER)
            self.given_up_until = self._opens_at

    def halt(self) -> None:
        """Begin nothing more: what was not sent comes back at once."""
        self._opens_at = float("inf")

    def end(self) -> None:
        """Let the threads go; they are idle by now, or their answers are no longer awaited."""
        for _thread in self._threads:
            self._inbox.put(None)

    def _start_thread(self) -> None:
        """Start one more; ``RuntimeError`` where the system has none left, and there is none."""
        name = f"osvi-lane-{self.account}-{len(self._threads)}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            if not self._threads:
                raise
        else:
            self._threads.append(thread)

    def _hand_back(self, unsent: Iterable[_About]) -> None:
        """Let calls that nobody will take come back at once."""
        for about in unsent:
            self.under_way += 1
            self._arrived.put(ReplyAbout(attempt=about, found=None, sent_at=0.0))

    def _work(self) -> None:
        while (call := self._inbox.get()) is not None:
            with self.slot:
                sent_at = time.monotonic()
                found = self._ask(call) if self._may_send(call, sent_at) else None
                self._notice(found)
            self._arrived.put(
                ReplyAbout(attempt=call.attempt, found=found, sent_at=sent_at, refusal=call.refusal)
            )

    def _notice(self, found: Found) -> None:
        """Hold the lane where it is plain that no other will fare better, until that was judged.

        Where trouble is answered at once, many would be sent into it before it is stored and read.
        """
        status = found.status if isinstance(found, Answer) else 0
        refused = status in {401, 429} or isinstance(found, NOT_NOW)
        if status >= 500 or isinstance(found, DOUBT):
            self._unanswered += 1
        elif found is not None:
            self._unanswered = 0
        self._is_held = self._is_held or refused or self._unanswered >= DOUBTS_IN_A_ROW

    def _may_send(self, call: _Call[_About], now: float) -> bool:
        if call.refusal is not None:
            return True
        is_open = self._opens_at <= now <= call.send_by
        return is_open and not self._is_held and not self._stop.is_set()

    def _ask(self, call: _Call[_About]) -> Found:
        try:
            return call.ask()
        except (OSVIError, OSVINotConfigured) as error:
            return error
        except Exception:  # a bug must not end the thread, and nobody knows what was sent
            about = (type(call.attempt).__name__, call.attempt.pk)
            logger.exception("%s %s was not answered", *about)
            return OSVINoAnswer()


class Lane(Line[CloseAttempt]):
    """The closes of one account that one run of a job has under way."""

    def close(self, attempts: Sequence[CloseAttempt]) -> None:
        """Send these closes as soon as threads are free."""
        # Whoever comes too late must not begin: another might take the session over meanwhile.
        send_by = time.monotonic() + self.lease - CALLS_PER_CLOSE * self.client.deadline
        for number, attempt in enumerate(attempts):
            try:
                self.ask(attempt, partial(self._send, attempt), send_by=send_by)
            except RuntimeError:
                self._hand_back(attempts[number:])
                raise

    def look(
        self, attempt: CloseAttempt, ask: Callable[[OSVIClient], bool], refusal: OSVIRejected
    ) -> None:
        """Send the questions that follow a refusal."""
        self.ask(attempt, lambda: ask(self._client_of(attempt)), refusal=refusal)

    def _client_of(self, attempt: CloseAttempt) -> OSVIClient:
        # An agent may have come to another account since: its sessions go through that one's token.
        account = attempt.session.agent.account
        return self.client if account == self.account else steps.prepare(account)[0]

    def _send(self, attempt: CloseAttempt) -> Answer:
        session = attempt.session
        return self._client_of(attempt).send_close(
            session.session_id, agent_uuid=session.agent.uuid or ""
        )


def _concurrency(account: str) -> int:
    try:
        return Account(account).concurrency
    except InvalidSetting as error:
        problem = str(error)
    raise OSVINotConfigured(problem)


def _slots(account: str, size: int) -> threading.Semaphore:
    """One for each close that this process may have under way, whatever the number of its jobs."""
    return _all_slots.setdefault((account, size), threading.Semaphore(size))


_all_slots: Final[dict[tuple[str, int], threading.Semaphore]] = {}
