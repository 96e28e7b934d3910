"""Ranges of days as moments of the database, and their steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from itertools import groupby
from typing import Final

from django.conf import settings
from django.db import connections
from django.utils import timezone
from django.utils.translation import gettext as _

from osvi_django.database import in_utc, site_date
from osvi_django.exceptions import InvalidInput
from osvi_django.services.statistics.types import DateRange
from osvi_django.validation import require_year

# How many days a range has if its beginning is not given, and at most.
DAYS: Final = 30
MAX_DAYS: Final = 3_660
YEARS: Final = range(1900, 3000)
# How many steps are shown at most; longer ones have whole weeks.
MAX_STEPS: Final = 62
_WEEK: Final = 7


@dataclass(frozen=True, kw_only=True)
class Run:
    """Steps of a range that are equally long, though a day may have 23 hours.

    ``number``: of the first of them.
    """

    begin: datetime
    end: datetime
    seconds: float
    number: int


def today() -> date:
    """Return the day that it is by the site's time zone."""
    return site_date(timezone.now())


def range_of(first: date | None, last: date | None) -> DateRange:
    """Return the range that is meant: by default the last 30 days. Raises ``InvalidInput``."""
    last = last or max(today(), first or date.min)
    for name, day in (("first", first), ("last", last)):
        if day is not None:
            require_year(name, day, YEARS)
    days = DateRange(first=first or last - timedelta(days=DAYS - 1), last=last)
    if days.days < 1:
        raise InvalidInput(_("last is before first: choose a later day."), field="last")
    if days.days > MAX_DAYS:
        problem = _("The range from first to last is too long: use at most %(most)d days.")
        raise InvalidInput(problem % {"most": MAX_DAYS}, field="first")
    return days


def begin_of(day: date) -> datetime:
    """Return when a day begins in the site's time zone, as the database has it."""
    begins = datetime.combine(day, time())
    return (
        timezone.make_aware(begins, timezone.get_default_timezone()) if settings.USE_TZ else begins
    )


def end_of(days: DateRange) -> datetime:
    """Return when a range ends, which is no longer in it."""
    return begin_of(days.last + timedelta(days=1))


def steps_of(days: DateRange) -> list[DateRange]:
    """Return the steps in which a range is shown: days, or whole weeks from its first day."""
    size = 1 if days.days <= MAX_STEPS else _WEEK * -(-days.days // (_WEEK * MAX_STEPS))
    length = timedelta(days=size)
    firsts = [days.first + number * length for number in range(-(-days.days // size))]
    end = timedelta(days=size - 1)
    return [DateRange(first=each, last=min(each + end, days.last)) for each in firsts]


def runs_of(steps: list[DateRange], *, using: str) -> Iterator[Run]:
    """Yield the steps as runs, of which each is one query."""
    number = 0
    for seconds, alike in groupby(steps, lambda step: _seconds_of(step, using=using)):
        run = list(alike)
        begin, end = begin_of(run[0].first), end_of(run[-1])
        yield Run(begin=begin, end=end, seconds=seconds, number=number)
        number += len(run)


def _seconds_of(step: DateRange, *, using: str) -> float:
    """Return how long a step is by the clock of the database."""
    begin, end = begin_of(step.first), end_of(step)
    # Other databases have no zone, and without USE_TZ all of their days are equally long.
    has_zone = settings.USE_TZ or connections[using].vendor == "postgresql"
    length = in_utc(end) - in_utc(begin) if has_zone else end - begin
    return length.total_seconds()
