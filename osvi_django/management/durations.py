"""Durations such as 90m or 7d, as arguments of commands."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

_PERIOD: Final = re.compile(r"([1-9]\d{0,8})([smhdw])", re.ASCII)
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def read_period(text: str) -> timedelta | None:
    """Return the duration that ``text`` means, above zero; None if it is not valid."""
    found = _PERIOD.fullmatch(text)
    try:
        return timedelta(**{_UNITS[found[2]]: int(found[1])}) if found else None
    except OverflowError:
        return None  # no chat is that old
