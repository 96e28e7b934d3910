"""The lanes of a job: for each account, threads that only speak HTTP, as fast as its pace allows.

A line asks OSVI whatever it is told to; a lane is the line of a job, and closes.

No thread here touches the database. Whoever runs a job hands out what is claimed and collects what
comes back; where OSVI is in trouble, what was not yet sent is given back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final, Generic, Protocol, TypeVar

from osvi_django.answers import Answer
from osvi_django.client import OSVIClient
from osvi_django.conf import CALLS_PER_CLOSE, Account, InvalidSetting
from osvi_django.exceptions import OSVIError, OSVINoAnswer, OSVINotConfigured, OSVIRejected
from osvi_django.models import CloseAttempt
from osvi_django.services import steps
from osvi_django.services.pace import DOUBT, DOUBTS_IN_A_ROW, NOT_NOW, Trouble, pace_of

logger = logging.getLogger(__name__)

# What a thread brings back: an answer, an error, whether it was closed already; None: not begun.
Found = Answer | Trouble | bool | None

# Claimed ahead of the threads is what they send in so many seconds, so that none waits while
# answers are stored and the next are claimed; at least and at most so many for each thread.
AHEAD: Final = 0.5  # seconds
LEAST_AHEAD: Final = 1
MOST_AHEAD: Final = 16
# How often it is looked how many they send.
_LOOK_EVERY: Final = 0.25  # seconds


class Named(Protocol):
    """What a call is about; its key is what a log may say of it."""

    @property
    def pk(self) -> Any:
        """The key of a row."""


_T = TypeVar("_T")
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
        self.pace = pace_of(account, self.client.base_url, self.size)
        self._arrived = arrived
        self._inbox: SimpleQueue[_Call[_About] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._is_held = False
        self._unanswered = 0
        self._is_halted = False
        self._ahead = LEAST_AHEAD * self.size
        self._came_back = 0
        self._looked_at = time.monotonic()
        self.pace.begin()

    @property
    def room(self) -> int:
        """How many more sessions to claim just now; in batches, as a claim costs a commit."""
        if self.is_shut or self.pace.limit < self.size:
            return self.idle
        room = self.size + self._ahead - self.under_way
        return room if room >= self._ahead // 2 else 0

    @property
    def idle(self) -> int:
        """How many could be sent just now with no thread busy for them."""
        return 0 if self.is_shut else max(0, self.pace.limit - self.under_way)

    @property
    def is_shut(self) -> bool:
        """Whether nothing is to be sent just now."""
        return self._is_halted or self._is_held or self.pace.opens_in > 0

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

    def went_wrong(self, sent_at: float, error: Trouble) -> None:
        """OSVI is in trouble, or may be."""
        # Where it is too early to tell, the answers that made threads hold it are yet to be judged.
        if self.pace.went_wrong(sent_at, error):
            self._is_held = False

    def halt(self) -> None:
        """Begin nothing more: what was not sent comes back at once."""
        self._is_halted = True

    def recall(self) -> None:
        """Let what no thread has begun come back at once; a refusal needs no second look then."""
        for call in filter(None, _drain(self._inbox)):
            self._arrived.put(
                ReplyAbout(attempt=call.attempt, found=None, sent_at=0.0, refusal=call.refusal)
            )

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
            with self.pace.slot:
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
        return now <= call.send_by and not self.is_shut and not self._stop.is_set()

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


def _drain(queue: SimpleQueue[_T]) -> list[_T]:
    """Whatever is in a queue just now."""
    found = []
    with suppress(Empty):
        while True:
            found.append(queue.get_nowait())
    return found
