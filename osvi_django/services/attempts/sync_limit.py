"""Limit how many web requests of one process may wait for OSVI at once.

OSVI may answer slowly or not at all. Without a limit, requests that wait for it would use up all
threads of a web server, and no page of the site would be shown.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from osvi_django.conf import configured, max_sync_calls
from osvi_django.exceptions import Busy

# Entry points at which a web server's thread waits.
_WEB: Final = frozenset({"admin", "rest"})
_LOOK_AGAIN_AFTER: Final = 5  # seconds


class _Places(threading.local):
    """Whether this thread needs no slot: it has one, or no web request waits for it."""

    is_taken = False


class _Room:
    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Start empty: a forked child has none of its parent's threads."""
        self._lock = threading.Lock()
        self._inside = 0

    def enter(self, most: int) -> bool:
        with self._lock:
            has_room = self._inside < most
            self._inside += has_room
            return has_room

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1


@contextmanager
def waiting(via: str) -> Iterator[None]:
    """Hold a slot for the block if a web request is waiting.

    Raises ``Busy`` if none is free, and ``OSVINotConfigured``.
    """
    if via not in _WEB or _place.is_taken:
        yield
        return
    if not _room.enter(_most()):
        raise Busy(retry_after=_LOOK_AGAIN_AFTER)
    _place.is_taken = True
    try:
        yield
    finally:
        _place.is_taken = False
        _room.leave()


@contextmanager
def in_the_background() -> Iterator[None]:
    """Let this thread run without a slot until the end of the block.

    Jobs limit their own threads, and no page waits for these.
    """
    before, _place.is_taken = _place.is_taken, True
    try:
        yield
    finally:
        _place.is_taken = before


def _most() -> int:
    with configured():
        return max_sync_calls()


_place = _Places()
_room = _Room()
os.register_at_fork(after_in_child=_room.begin)
