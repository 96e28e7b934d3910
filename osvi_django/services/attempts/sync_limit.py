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


class _SlotState(threading.local):
    """Whether this thread has a slot, or needs none because no web request waits for it."""

    has_slot = False


class _Slots:
    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start empty: a forked child has none of its parent's threads."""
        self._lock = threading.Lock()
        self._inside = 0

    def acquire(self, limit: int) -> bool:
        with self._lock:
            is_free = self._inside < limit
            self._inside += is_free
            return is_free

    def release(self) -> None:
        with self._lock:
            self._inside -= 1


@contextmanager
def waiting_slot(via: str) -> Iterator[None]:
    """Hold a slot for the block if a web request is waiting.

    Raises ``Busy`` if none is free, and ``OSVINotConfigured``.
    """
    if via not in _WEB or _slot_state.has_slot:
        yield
        return
    if not _slots.acquire(_limit()):
        raise Busy(retry_after=_LOOK_AGAIN_AFTER)
    _slot_state.has_slot = True
    try:
        yield
    finally:
        _slot_state.has_slot = False
        _slots.release()


@contextmanager
def without_slot() -> Iterator[None]:
    """Let this thread run without a slot until the end of the block.

    Jobs limit their own threads, and no page waits for these.
    """
    before, _slot_state.has_slot = _slot_state.has_slot, True
    try:
        yield
    finally:
        _slot_state.has_slot = before


def _limit() -> int:
    with configured():
        return max_sync_calls()


_slot_state = _SlotState()
_slots = _Slots()
os.register_at_fork(after_in_child=_slots.reset)
