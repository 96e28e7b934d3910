"""Count closed chats in a range of the index of their moments, without reading them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db.models import (
    Count,
    DateTimeField,
    DurationField,
    ExpressionWrapper,
    F,
    Q,
    QuerySet,
    Sum,
    Value,
)
from django.db.models.functions import Floor

from osvi_django.database import Seconds
from osvi_django.models import ChatSession, DailyCount
from osvi_django.services.statistics.histograms import bucket_of
from osvi_django.services.statistics.ranges import Run, begin_of, end_of, runs_of, today
from osvi_django.services.statistics.types import DateRange

# The columns of counts that have another name than those of sessions.
_COLUMNS = {"closed_via": "via"}


@dataclass(frozen=True, kw_only=True)
class Closed:
    """The closed chats that a caller may see, and the counts of those deleted since, or None."""

    sessions: QuerySet[ChatSession]
    removed: QuerySet[DailyCount] | None

    def by(self, days: DateRange, *columns: str) -> dict[tuple[Any, ...], tuple[int, int]]:
        """Return how many there are with each of these values, in a range and in the one before."""
        found: dict[tuple[Any, ...], tuple[int, int]] = {}
        for *key, now, before in self._rows_by(days, columns):
            known = found.get(tuple(key), (0, 0))
            found[tuple(key)] = (known[0] + now, known[1] + before)
        return found

    def _rows_by(self, days: DateRange, columns: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
        begin = begin_of(days.first)
        counts = {
            "now": Count("pk", filter=Q(closed_at__gte=begin)),
            "earlier": Count("pk", filter=Q(closed_at__lt=begin)),
        }
        rows = self._in(DateRange(first=days.before.first, last=days.last))
        yield from rows.values_list(*columns).annotate(**counts)
        if self.removed is None:
            return
        names = [_COLUMNS.get(column, column) for column in columns]
        sums = {
            "now": Sum("number", filter=Q(day__gte=days.first), default=0),
            "earlier": Sum("number", filter=Q(day__lt=days.first), default=0),
        }
        removed = self.removed.filter(day__gte=days.before.first, day__lte=days.last)
        yield from removed.order_by().values_list(*names).annotate(**sums)

    def recent(self) -> dict[str, tuple[int, int, int]]:
        """Return how many of each outcome were closed today, in the last 7 and 30 days."""
        firsts = {"day": today()}
        firsts |= {"week": today() - timedelta(days=6), "month": today() - timedelta(days=29)}
        counts = {
            f"in_{name}": Count("pk", filter=Q(closed_at__gte=begin_of(first)))
            for name, first in firsts.items()
        }
        rows = self._in(DateRange(first=firsts["month"], last=today()))
        found: dict[str, tuple[int, int, int]] = defaultdict(lambda: (0, 0, 0))
        found |= {row[0]: row[1:] for row in rows.values_list("summary_status").annotate(**counts)}
        if self.removed is not None:
            sums = {
                f"in_{name}": Sum("number", filter=Q(day__gte=first), default=0)
                for name, first in firsts.items()
            }
            removed = self.removed.filter(day__gte=firsts["month"], day__lte=today()).order_by()
            for outcome, *numbers in removed.values_list("summary_status").annotate(**sums):
                known = found[outcome]
                found[outcome] = (
                    known[0] + numbers[0],
                    known[1] + numbers[1],
                    known[2] + numbers[2],
                )
        return found

    def by_step(self, steps: list[DateRange]) -> Counter[tuple[int, str, int | None]]:
        """Return how many there are by step, outcome and bucket of the time that OSVI took."""
        counts: Counter[tuple[int, str, int | None]] = Counter()
        for run in runs_of(steps, using=self.sessions.db):
            for number, outcome, bucket, count in self._rows_of(run):
                known = None if bucket is None else int(bucket)
                counts[run.number + int(number), outcome, known] += count
        if self.removed is not None:
            days = DateRange(first=steps[0].first, last=steps[-1].last)
            removed = self.removed.filter(day__gte=days.first, day__lte=days.last).order_by()
            rows = removed.values_list("day", "summary_status").annotate(count=Sum("number"))
            for day, outcome, count in rows:
                counts[(day - days.first).days // steps[0].days, outcome, None] += count
        return counts

    def _rows_of(self, run: Run) -> Iterator[tuple[Any, ...]]:
        passed = ExpressionWrapper(
            F("closed_at") - Value(run.begin, DateTimeField()), output_field=DurationField()
        )
        rows = self.sessions.filter(closed_at__gte=run.begin, closed_at__lt=run.end).order_by()
        columns = {"step": Floor(Seconds(passed) / run.seconds), "took": bucket_of("close_seconds")}
        names = ("step", "summary_status", "took")
        yield from rows.annotate(**columns).values_list(*names).annotate(count=Count("pk"))

    def buckets(self, days: DateRange, column: str) -> Counter[int]:
        """Return how many there are in each bucket of a column of seconds."""
        known = self._in(days).filter(**{f"{column}__isnull": False})
        rows = known.annotate(took=bucket_of(column)).values_list("took")
        return Counter({int(took): count for took, count in rows.annotate(count=Count("pk"))})

    def count_removed(self, days: DateRange) -> int | None:
        """Return how many chats closed in a range have been deleted; None if that is not known."""
        if self.removed is None:
            return None
        removed = self.removed.filter(day__gte=days.first, day__lte=days.last)
        return int(removed.aggregate(count=Sum("number", default=0))["count"])

    def _in(self, days: DateRange) -> QuerySet[ChatSession]:
        begin, end = begin_of(days.first), end_of(days)
        return self.sessions.filter(closed_at__gte=begin, closed_at__lt=end).order_by()
