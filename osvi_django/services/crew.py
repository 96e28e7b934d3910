"""Threads that use the database too: for work that takes long, and is more than one call."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from typing import Generic, TypeVar

from django.db import connections

from osvi_django.transactions import kind_of

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


class Crew(Generic[_T]):
    """A thread for each piece of work, with connections of its own while that lasts.

    Its methods are for the one thread that runs it, which minds how much is ``under_way``.
    """

    def __init__(self, name: str, using: str) -> None:
        self._name = name
        self._using = using
        self._futures: set[Future[_T]] = set()

    @property
    def under_way(self) -> int:
        """How many pieces were begun and not collected."""
        return len(self._futures)

    def do(self, work: Callable[[], _T]) -> None:
        """Do it in a thread, or here and now where the system has none left."""
        future: Future[_T] = Future()
        self._futures.add(future)
        # No other connection sees what a TestCase has in its transaction.
        if connections[self._using].in_atomic_block:
            _carry_out(future, work)
            return
        target = partial(_carry_out, future, partial(_with_own_connections, work))
        try:
            threading.Thread(target=target, name=self._name, daemon=True).start()
        except RuntimeError:
            _carry_out(future, work)

    def collect(self, seconds: float) -> list[_T]:
        """What has come of those that have ended, waiting so long for the first.

        Of what raised an error, that is logged by its kind, and nothing else comes.
        """
        done, self._futures = wait(self._futures, timeout=seconds, return_when=FIRST_COMPLETED)
        for future in done:
            if error := future.exception():
                logger.error("a thread %s ended with %s", self._name, kind_of(error))
        return [future.result() for future in done if future.exception() is None]


def _with_own_connections(work: Callable[[], _T]) -> _T:
    try:
        return work()
    finally:
        connections.close_all()


def _carry_out(future: Future[_T], work: Callable[[], _T]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001  # told where it is collected
        future.set_exception(error)
