"""The numbers of the day: from aggregates over ranges of indexes, never from each chat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Final

from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from osvi_django.exceptions import InvalidInput
from osvi_django.models import ChatSession, CloseAttempt, DailyCount
from osvi_django.services import selectors
from osvi_django.services.access import Purpose, is_narrowed, sessions_inside
from osvi_django.services.permissions import require_view
from osvi_django.services.statistics import labels
from osvi_django.services.statistics.closed import Closed
from osvi_django.services.statistics.histograms import times_of
from osvi_django.services.statistics.open import (
    count_failures,
    count_open,
    count_waiting,
    count_with_people,
)
from osvi_django.services.statistics.ranges import range_of, steps_of
from osvi_django.services.statistics.types import (
    ComparedTimes,
    DateRange,
    Figures,
    RecentCount,
    Share,
    Step,
)
from osvi_django.validation import checks_types

# How many people, agents, reasons and so on are named, by default and at most.
TOP: Final = 10
MAX_TOP: Final = 100


@checks_types
def figures(
    *,
    first: date | None = None,
    last: date | None = None,
    top: int = TOP,
    requested_by: Any = None,
) -> Figures:
    """Return the numbers of now and of a range of days, compared with the range before.

    Days are those of the site's time zone; by default they are the last 30. ``top``: how many
    people, agents, reasons and so on are named; the others are added up. Only chats that
    ``requested_by`` may see are counted. Raises ``NotAllowed`` and ``InvalidInput``.
    """
    sessions, is_narrowed = _visible(requested_by)
    if not 1 <= top <= MAX_TOP:
        problem = _("top must be from 1 to %(most)d.") % {"most": MAX_TOP}
        raise InvalidInput(problem, field="top")
    days = range_of(first, last)
    now = timezone.now()
    closed = Closed(sessions=sessions, removed=_removed(sessions.db, is_narrowed=is_narrowed))
    return Figures(
        made_at=now,
        days=days,
        before=days.before,
        open=count_open(sessions),
        with_people=count_with_people(sessions),
        waiting=count_waiting(sessions, now),
        recent=_recent(closed),
        help_times=_help_times(closed, days),
        failures=count_failures(_attempts(sessions, is_narrowed=is_narrowed), now),
        removed=closed.count_removed(days),
        **_by_step(closed, days),
        **_by_kind(closed, days, top),
    )


def _visible(user: Any) -> tuple[QuerySet[ChatSession], bool]:
    """Return the sessions that a caller may see, and whether these may be only some."""
    require_view(user)
    sessions = sessions_inside(selectors.all_sessions(), user, Purpose.VIEW)
    return sessions, is_narrowed(user)


def _removed(using: str, *, is_narrowed: bool) -> QuerySet[DailyCount] | None:
    """Return the counts of deleted chats; of these it is not known who might see them."""
    return None if is_narrowed else DailyCount.objects.using(using)


def _attempts(sessions: QuerySet[ChatSession], *, is_narrowed: bool) -> QuerySet[CloseAttempt]:
    attempts = CloseAttempt.objects.using(sessions.db)
    return attempts.filter(session__in=sessions.order_by()) if is_narrowed else attempts


def _recent(closed: Closed) -> list[RecentCount]:
    found = closed.recent()
    shown = labels.outcomes_of({outcome: numbers[:2] for outcome, numbers in found.items()})
    return [
        RecentCount(
            key=str(each.key),
            label=each.label,
            **dict(zip(("today", "week", "month"), found[str(each.key)], strict=True)),
        )
        for each in shown
    ]


def _by_step(closed: Closed, days: DateRange) -> dict[str, Any]:
    """Return what is counted by steps, and their sums, with those of the range before."""
    steps = steps_of(days)
    counts = closed.by_step(steps)
    before = closed.by_step([days.before])
    numbers, earlier = _sums(counts, by=1), _sums(before, by=1)
    outcomes = labels.outcomes_of(
        {each: (numbers[each], earlier[each]) for each in {*numbers, *earlier}}
    )
    now, then = labels.added((each.number, each.before) for each in outcomes)
    return {
        "closed": Share(key=None, label=_("closed"), number=now, before=then),
        "outcomes": outcomes,
        "steps": _steps(steps, counts, outcomes),
        "close_times": ComparedTimes(
            now=times_of(_sums(counts, by=2)), before=times_of(_sums(before, by=2))
        ),
    }


def _sums(counts: Mapping[tuple[int, str, int | None], int], *, by: int) -> Counter[Any]:
    """Return the sums by one part of the keys, without those that are not known."""
    sums: Counter[Any] = Counter()
    for key, number in counts.items():
        if key[by] is not None:
            sums[key[by]] += number
    return sums


def _steps(
    steps: Sequence[DateRange],
    counts: Mapping[tuple[int, str, int | None], int],
    outcomes: Sequence[Share],
) -> list[Step]:
    of_step: list[dict[tuple[int, str, int | None], int]] = [{} for _days in steps]
    for key, number in counts.items():
        of_step[key[0]][key] = number
    return [_step(days, found, outcomes) for days, found in zip(steps, of_step, strict=True)]


def _step(
    days: DateRange, counts: Mapping[tuple[int, str, int | None], int], outcomes: Sequence[Share]
) -> Step:
    numbers = _sums(counts, by=1)
    return Step(
        days=days,
        number=numbers.total(),
        outcomes=[numbers[each.key] for each in outcomes],
        close_times=times_of(_sums(counts, by=2)),
    )


def _by_kind(closed: Closed, days: DateRange, top: int) -> dict[str, Any]:
    using = closed.sessions.db
    people = {key: numbers for (key,), numbers in closed.by(days, "closed_by").items()}
    agents = {key: numbers for (key,), numbers in closed.by(days, "agent").items()}
    both = closed.by(days, "close_reason", "closed_via")
    return {
        "people": labels.people_of(people, top, using=using),
        "agents": labels.agents_of(agents, top, using=using),
        "reasons": labels.reasons_of(_part(both, 0), top),
        "vias": labels.vias_of(_part(both, 1), top),
    }


def _part(
    counts: Mapping[tuple[Any, ...], tuple[int, int]], place: int
) -> dict[Any, tuple[int, int]]:
    """Return the sums by one part of the keys."""
    sums: dict[Any, tuple[int, int]] = {}
    for key, numbers in counts.items():
        sums[key[place]] = labels.added([sums.get(key[place], (0, 0)), numbers])
    return sums


def _help_times(closed: Closed, days: DateRange) -> ComparedTimes:
    """Return how long customers waited for a person, of the chats closed in a range."""
    now, before = (closed.buckets(each, "help_waited_seconds") for each in (days, days.before))
    return ComparedTimes(now=times_of(now), before=times_of(before))
