"""Durations such as 90m or 7d, and times, as arguments of commands."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext as _

from osvi_django.exceptions import InvalidInput

_PERIOD: Final = re.compile(r"([1-9]\d*)([smhdw])", re.ASCII)
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
# More digits are longer than this in any unit.
_MAX_DIGITS: Final = 10
_MAX_PERIOD: Final = timedelta(days=36_525)  # 100 years


def read_period(option: str, text: str) -> timedelta:
    """Return the duration that ``text`` means. Raises ``InvalidInput``, which names the option."""
    found = _PERIOD.fullmatch(text)
    if found is None:
        problem = _("%(option)s needs a duration above zero, such as 30s, 90m, 12h, 7d or 2w.")
    elif (period := _period_of(found[1], found[2])) is None:
        problem = _("%(option)s is longer than 100 years: give a shorter time, such as 7d.")
    else:
        return period
    raise InvalidInput(problem % {"option": option})


def _period_of(digits: str, unit: str) -> timedelta | None:
    """Return a duration, or None if it is too long."""
    try:
        period = timedelta(**{_UNITS[unit]: int(digits[: _MAX_DIGITS + 1])})
    except OverflowError:
        return None
    return period if len(digits) <= _MAX_DIGITS and period <= _MAX_PERIOD else None


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
