"""Durations such as 90m or 7d, and times, as arguments of commands."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from django.utils import timezone
from django.utils.dateparse import parse_datetime

_PERIOD: Final = re.compile(r"([1-9]\d{0,8})([smhdw])", re.ASCII)
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def read_period(text: str) -> timedelta | None:
    """Return the duration that ``text`` means, above zero; None if it is not valid."""
    found = _PERIOD.fullmatch(text)
    try:
        return timedelta(**{_UNITS[found[2]]: int(found[1])}) if found else None
    except OverflowError:
        return None  # no chat is that old


def read_moment(text: str) -> datetime | None:
    """Return the time that ``text`` means, in this site's time zone if it names none; else None."""
    try:
        moment = parse_datetime(text)
        if moment is None:
            return None
        aware = timezone.make_aware(moment) if timezone.is_naive(moment) else moment
        return aware.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
