"""How hard this process asks an account: all of its runs together, as it is one OSVI that answers.

Where OSVI is in trouble it is left alone for a while, and asked again first by one call, then by
one more with each that goes well.
"""

from __future__ import annotations

import threading
import time
from typing import Final

from osvi_django.exceptions import (
    OSVIBadAnswer,
    OSVIError,
    OSVINoAnswer,
    OSVINotConfigured,
    OSVIThrottled,
    OSVIUnauthorized,
    OSVIUnreachable,
)

Trouble = OSVIError | OSVINotConfigured

# After trouble without a Retry-After: longer each time, and at the last the account is given up.
PAUSES: Final = (1.0, 3.0, 9.0)  # seconds
# What is longer is no slowing down any more.
LONGEST_PAUSE: Final = 60.0  # seconds
# When to try again an account that was given up.
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


def named(trouble: Trouble) -> str:
    """What a log says of it: of the settings the words say more, and they are ours."""
    return str(trouble) if isinstance(trouble, OSVINotConfigured) else trouble.code


class Pace:
    """What is known of one account's OSVI; any thread may ask and tell.

    ``slot``: to be held around each call, one for each that may be under way. ``limit``: how many
    to have under way just now. ``trouble``: what was wrong last, until a call goes well.
    """

    def __init__(self, size: int) -> None:
        self.slot = threading.Semaphore(size)
        self.limit = size
        self.trouble: Trouble | None = None
        self._size = size
        self._lock = threading.Lock()
        self._opens_at = 0.0
        self._given_up_until = 0.0
        self._changed_at = 0.0
        self._strikes = 0
        self._doubts = 0
        self._was_told = False

    @property
    def opens_in(self) -> float:
        """Seconds until something may be sent."""
        return max(0.0, self._opens_at - time.monotonic())

    @property
    def is_given_up(self) -> bool:
        """Whether OSVI is in such trouble that waiting here makes no sense."""
        return self._given_up_until > time.monotonic()

    def begin(self) -> None:
        """A run begins: it may try at once, unless OSVI itself has said when to come back."""
        with self._lock:
            if not self._was_told:
                self._opens_at = self._given_up_until = 0.0

    def went_well(self, sent_at: float) -> None:
        """OSVI answered as it should: after trouble, ask a little more of it."""
        with self._lock:
            self._doubts = 0
            if sent_at < self._changed_at:
                return
            self._strikes, self.trouble = 0, None
            self.limit = min(self.limit + 1, self._size)

    def went_wrong(self, sent_at: float, error: Trouble) -> bool:
        """OSVI is in trouble, or may be; False where it is too early to tell."""
        with self._lock:
            if sent_at < self._changed_at:
                return True  # it was on its way when the trouble became known
            self._doubts += 1
            is_one_alone = not self._strikes and self._doubts < DOUBTS_IN_A_ROW
            if isinstance(error, DOUBT) and is_one_alone:
                return False
            self._slow_down(error)
            return True

    def _slow_down(self, error: Trouble) -> None:
        """Wait, then let a single call go first."""
        self.trouble = error
        self._changed_at = time.monotonic()
        self._strikes += 1
        self.limit = 1
        told = getattr(error, "retry_after", None)
        self._was_told = bool(told)
        pause = told or PAUSES[min(self._strikes, len(PAUSES)) - 1]
        self._opens_at = self._changed_at + pause
        worn_out = self._strikes >= (_PATIENCE if told else len(PAUSES))
        if isinstance(error, _HOPELESS) or worn_out or pause > LONGEST_PAUSE:
            self._opens_at = self._changed_at + max(pause, TRY_AGAIN_AFTER)
            self._given_up_until = self._opens_at


def pace_of(account: str, base_url: str, size: int) -> Pace:
    """The one of this process for an account at this address; another for another ``size``."""
    return _paces.setdefault((account, base_url, size), Pace(size))


_paces: Final[dict[tuple[str, str, int], Pace]] = {}
