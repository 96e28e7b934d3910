"""Waiting for what other threads and processes do, and never for ever."""

from __future__ import annotations

import time

PATIENCE = 20  # seconds for anything that is waited for


def until(condition, seconds=PATIENCE):
    """Wait until it holds; fail after so many seconds."""
    ends_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends_at, f"it did not come in {seconds} s"
        time.sleep(0.005)
