"""A clock for waiting that neither the system's date nor a test library can stop."""

from __future__ import annotations

import time


def monotonic() -> float:
    """Return seconds that always increase.

    Libraries that freeze the time in tests replace ``time.monotonic``: a deadline would never come,
    and code that waits for it would wait forever.
    """
    return time.clock_gettime(time.CLOCK_MONOTONIC)
