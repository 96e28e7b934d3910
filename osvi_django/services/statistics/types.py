"""What the figures consist of: counts and times, and nothing of any one customer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any


@dataclass(frozen=True, kw_only=True)
class DateRange:
    """Days of the site's time zone, from the first to the last."""

    first: date
    last: date

    @property
    def days(self) -> int:
        """Return how many days there are."""
        return (self.last - self.first).days + 1

    @property
    def before(self) -> DateRange:
        """Return the range of the same length that ends when this one begins."""
        length = timedelta(days=self.days)
        return DateRange(first=self.first - length, last=self.last - length)


@dataclass(frozen=True, kw_only=True)
class Share:
    """How many chats were closed of one kind, and in the range before.

    ``key``: what it is for a program: an outcome, the name of a user, the UUID of an agent and so
    on; None if there is none. ``pk``: of its row, if it has one. ``kinds``: how many kinds it
    stands for.
    """

    key: str | None
    label: str
    number: int
    before: int
    pk: Any = None
    kinds: int = 1


@dataclass(frozen=True, kw_only=True)
class Shares:
    """The kinds with the most chats, the largest first, and all other kinds together, if any."""

    rows: Sequence[Share]
    others: Share | None = None


@dataclass(frozen=True, kw_only=True)
class Times:
    """How many durations are known, and two of them in seconds, within 5 %; None if none is."""

    number: int
    median: float | None
    p95: float | None


@dataclass(frozen=True, kw_only=True)
class ComparedTimes:
    """Durations in a range and in the one before."""

    now: Times
    before: Times


@dataclass(frozen=True, kw_only=True)
class Step:
    """One day of a range, or several if it is long: what was closed, and how long OSVI took.

    ``outcomes`` has a number for each of the outcomes of the whole range, in the same order.
    """

    days: DateRange
    number: int
    outcomes: Sequence[int]
    close_times: Times


@dataclass(frozen=True, kw_only=True)
class RecentCount:
    """How many chats of one outcome were closed today, in the last 7 and in the last 30 days."""

    key: str
    label: str
    today: int
    week: int
    month: int


@dataclass(frozen=True, kw_only=True)
class OpenCount:
    """How many chats have a status now."""

    key: str
    label: str
    number: int


@dataclass(frozen=True, kw_only=True)
class WaitCount:
    """How many customers wait for a person, for at least so many seconds and less than others."""

    at_least: int
    less_than: int | None
    label: str
    number: int


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """The customers who wait for a person now.

    ``is_at_least``: whether some asked before this site knew their chats, and so may wait longer.
    """

    number: int
    longest_seconds: float | None
    is_at_least: bool
    by_time: Sequence[WaitCount]


@dataclass(frozen=True, kw_only=True)
class FailureCount:
    """How many attempts to close failed in the last 24 hours for one reason."""

    outcome: str
    code: str
    http_status: int | None
    label: str
    reason: str
    number: int


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The numbers of the day and of a range of days, compared with the range before.

    ``removed``: how many of the chats closed in the range have been deleted since, for their age;
    None if they are not counted, because the caller may not see all chats.
    """

    made_at: datetime
    days: DateRange
    before: DateRange
    open: Sequence[OpenCount]
    with_people: int
    waiting: Waiting
    recent: Sequence[RecentCount]
    closed: Share
    steps: Sequence[Step]
    outcomes: Sequence[Share]
    people: Shares
    agents: Shares
    reasons: Shares
    vias: Shares
    close_times: ComparedTimes
    help_times: ComparedTimes
    failures: Sequence[FailureCount]
    removed: int | None
