"""Threads that only send HTTP requests, shared by one thread's pools for an account."""

from __future__ import annotations

import threading
from collections import deque
from queue import SimpleQueue
from typing import Final, Generic, Protocol, TypeVar

_T_contra = TypeVar("_T_contra", contravariant=True)

_T = TypeVar("_T")


class Work(Protocol):
    """A task that a thread carries out for an owner."""

    def carry_out(self) -> None:
        """Run the task."""

    def return_unsent(self) -> None:
        """Return it to the owner: no thread has started it, and none will."""


class Arrived(Protocol[_T_contra]):
    """A place for the results."""

    def put(self, reply: _T_contra, /) -> None:
        """Store one more result; any thread may call this."""


class Arrivals(Generic[_T]):
    """A queue of results, and the event that is set when there is one."""

    def __init__(self, signal: threading.Event) -> None:
        self._signal = signal
        self._replies: SimpleQueue[_T] = SimpleQueue()

    def __bool__(self) -> bool:
        return not self._replies.empty()

    def put(self, reply: _T, /) -> None:
        """Store one more result; any thread may call this."""
        self._replies.put(reply)
        self._signal.set()

    def take(self) -> _T:
        """Return the oldest result. Raises ``queue.Empty``."""
        return self._replies.get_nowait()


class FairQueue(Generic[_T]):
    """A queue for each owner; the owners take turns, so that a long one does not delay others."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owners: dict[object, deque[_T]] = {}
        # One for each item that was put in, including those that were withdrawn; False means an
        # end.
        self._tokens: SimpleQueue[bool] = SimpleQueue()

    def put(self, owner: object, item: _T) -> None:
        """Queue an item for its owner's turn."""
        with self._lock:
            self._owners.setdefault(owner, deque()).append(item)
        self._tokens.put(True)  # the items of a queue have no names

    def get(self) -> _T | None:
        """Return the next item as soon as there is one; None at the end."""
        while self._tokens.get():
            with self._lock:
                if self._owners:
                    return self._next()
        return None

    def cancel_pending(self, owner: object) -> list[_T]:
        """Return all items of an owner that are still waiting."""
        with self._lock:
            return list(self._owners.pop(owner, ()))

    def end(self) -> None:
        """Let one of the waiting threads end."""
        self._tokens.put(False)

    def _next(self) -> _T:
        owner = next(iter(self._owners))
        waiting = self._owners.pop(owner)
        item = waiting.popleft()
        if waiting:
            self._owners[owner] = waiting  # behind the others
        return item


class Pool:
    """The threads of one account; its methods, except ``is_blocked``, are for one thread.

    ``in_progress``: the number of running calls of all owners; ``is_blocked``: whether nothing more
    is to be sent until the results so far have been interpreted.
    """

    def __init__(self, name: str, size: int) -> None:
        self.size = size
        self.is_blocked = False
        self.failures_in_a_row = 0
        self._name = name
        self._queue: FairQueue[Work] = FairQueue()
        self._threads: list[threading.Thread] = []
        self._in_progress: dict[object, int] = {}

    @property
    def in_progress(self) -> int:
        """Return how many calls are running or waiting for a thread."""
        return sum(self._in_progress.values())

    def in_progress_of(self, owner: object) -> int:
        """Return how many of these are an owner's."""
        return self._in_progress.get(owner, 0)

    def owners_with(self, owner: object) -> int:
        """Return how many owners have running calls, counting this one."""
        return len(self._in_progress.keys() | {owner})

    def submit(self, owner: object, work: Work) -> None:
        """Submit work, which is done as soon as a thread is free.

        Raises ``RuntimeError`` if the pool has no thread and the system has none left.
        """
        if len(self._threads) < min(self.size, self.in_progress + 1):
            self._start_thread()
        self.count_started(owner)
        self._queue.put(owner, work)

    def count_started(self, owner: object) -> None:
        """Count one more call of an owner."""
        self._in_progress[owner] = self._in_progress.get(owner, 0) + 1

    def count_finished(self, owner: object) -> None:
        """Count one call less of an owner."""
        left = self._in_progress.pop(owner, 0) - 1
        if left > 0:
            self._in_progress[owner] = left
        # The answer that blocked it may be one that could not be stored, and so was not read.
        self.is_blocked = self.is_blocked and bool(self._in_progress)

    def cancel_pending(self, owner: object) -> None:
        """Withdraw an owner's work that no thread has started; it stays counted."""
        for work in self._queue.cancel_pending(owner):
            work.return_unsent()

    def discard(self, owner: object) -> None:
        """Count an owner's calls no more: their results are not awaited."""
        self._queue.cancel_pending(owner)
        self._in_progress.pop(owner, None)

    def end(self) -> None:
        """Stop the threads."""
        for _thread in self._threads:
            self._queue.end()
        self._threads = []

    def _start_thread(self) -> None:
        """Start one more thread. Raises ``RuntimeError`` if the system has none for a first."""
        name = f"{self._name}-{len(self._threads)}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            if not self._threads:
                raise
        else:
            self._threads.append(thread)

    def _work(self) -> None:
        while (work := self._queue.get()) is not None:
            work.carry_out()


class Pools:
    """A pool for each account, shared by all that one thread runs."""

    _NAME: Final = "osvi-call"

    def __init__(self) -> None:
        self._pools: dict[tuple[str, int], Pool] = {}

    def of(self, account: str, size: int) -> Pool:
        """Return the pool of an account; another one for another ``size``."""
        known = self._pools.get((account, size))
        if known is None:
            known = self._pools[account, size] = Pool(f"{self._NAME}-{account}", size)
        return known

    def end(self) -> None:
        """Stop all threads: no call is running any more, or none is awaited."""
        for pool in self._pools.values():
            pool.end()
        self._pools.clear()
