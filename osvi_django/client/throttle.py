"""How many calls this process makes to an account: all of its jobs share one throttle.

After an error of the whole account, nothing is sent for a while; then one call is sent first, and
one more at a time with each that succeeds.
"""

from __future__ import annotations

import os
import threading
from typing import Final, TypeGuard

from osvi_django import clock
from osvi_django.conf import Account, configured
from osvi_django.exceptions import CallError, OSVIError, OSVINotConfigured

# After errors without a Retry-After: longer each time, and the throttle opens after the last.
PAUSES: Final = (1.0, 3.0, 9.0)  # seconds
# If OSVI asks for a longer pause, the throttle opens.
LONGEST_PAUSE: Final = 60.0  # seconds
# How long a throttle that has opened stays open.
TRY_AGAIN_AFTER: Final = 30.0  # seconds

# Ambiguous errors may concern one session; this many in a row mean that the account has them.
IN_A_ROW: Final = 3
# How many times in a row OSVI may ask for a pause before the throttle opens.
_MAX_RETRY_AFTER_ROUNDS: Final = 10


def is_account_wide(found: object) -> TypeGuard[CallError]:
    """Return whether this is an error that all calls to the account have."""
    return isinstance(found, OSVIError | OSVINotConfigured) and found.is_account_wide


def is_ambiguous(found: object) -> TypeGuard[CallError]:
    """Return whether this is an error of one call that may be, or become, the account's."""
    if not isinstance(found, OSVIError | OSVINotConfigured) or found.is_account_wide:
        return False
    return found.was_sent is None or found.may_be_account_wide


def named(error: CallError) -> str:
    """Return the text for a log: a settings error's own message, or the code of another error."""
    return str(error) if isinstance(error, OSVINotConfigured) else error.code


class AccountThrottle:
    """The rate limit and circuit breaker of one account; any thread may use it.

    ``slot``: to be held around each call, one for each that may run at once. ``limit``: how many
    calls may run now. ``last_error``: the last error, until a call succeeds.
    """

    def __init__(self, size: int) -> None:
        self.slot = threading.Semaphore(size)
        self.limit = size
        self.last_error: CallError | None = None
        self._size = size
        self._lock = threading.Lock()
        self._opens_at = 0.0
        self._is_open_until = 0.0
        self._changed_at = 0.0
        self._failures = 0
        self._ambiguous = 0
        self._has_retry_after = False

    @property
    def seconds_until_retry(self) -> float:
        """Return the seconds until something may be sent."""
        return max(0.0, self._opens_at - clock.monotonic())

    @property
    def seconds_of_retry_after(self) -> float:
        """Return the seconds for which OSVI itself has asked to wait."""
        return self.seconds_until_retry if self._has_retry_after else 0.0

    @property
    def is_open(self) -> bool:
        """Return whether errors have continued so long that a worker must not wait for them."""
        return self._is_open_until > clock.monotonic()

    def reset(self) -> None:
        """Let a new job try at once, unless OSVI itself has asked to wait."""
        with self._lock:
            if not self._has_retry_after:
                self._opens_at = self._is_open_until = 0.0

    def record_success(self, sent_at: float) -> None:
        """Record that OSVI answered: after errors, allow one more call at a time."""
        with self._lock:
            self._ambiguous = 0
            if sent_at < self._changed_at:
                return
            self._failures, self.last_error = 0, None
            self.limit = min(self.limit + 1, self._size)

    def record_failure(self, sent_at: float, error: CallError) -> bool:
        """Record an error; return False if it may be one session's alone."""
        with self._lock:
            if sent_at < self._changed_at:
                return True  # it was sent before the error was known
            self._ambiguous += 1
            is_one_alone = not self._failures and self._ambiguous < IN_A_ROW
            if is_ambiguous(error) and is_one_alone:
                return False
            self._slow_down(error)
            return True

    def _slow_down(self, error: CallError) -> None:
        """Wait, then send a single call first."""
        self.last_error = error
        self._changed_at = clock.monotonic()
        self._failures += 1
        self.limit = 1
        retry_after = getattr(error, "retry_after", None)
        self._has_retry_after = bool(retry_after)
        pause = retry_after or PAUSES[min(self._failures, len(PAUSES)) - 1]
        self._opens_at = self._changed_at + pause
        is_too_often = self._failures >= (_MAX_RETRY_AFTER_ROUNDS if retry_after else len(PAUSES))
        if error.needs_operator or is_too_often or pause > LONGEST_PAUSE:
            self._opens_at = self._changed_at + max(pause, TRY_AGAIN_AFTER)
            self._is_open_until = self._opens_at


def concurrency_of(account: str) -> int:
    """Return how many calls to an account may run at once. Raises ``OSVINotConfigured``."""
    with configured():
        return Account(account).concurrency


def throttle_for(account: str, base_url: str, size: int) -> AccountThrottle:
    """Return this process's throttle for an account at this address, of this size."""
    return _throttles.setdefault((account, base_url, size), AccountThrottle(size))


def reset_throttles() -> None:
    """Discard all throttles, as tests must: the next OSVI may have an earlier one's address."""
    _throttles.clear()


_throttles: Final[dict[tuple[str, str, int], AccountThrottle]] = {}
# The slots may be held by threads that exist only in the parent of a fork.
os.register_at_fork(after_in_child=_throttles.clear)
