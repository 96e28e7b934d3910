"""What is open now, who waits for a person, and what has failed lately."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from django.db.models import Count, Min, Q, QuerySet
from django.db.models.functions import Coalesce
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from osvi_django.exceptions import message_for_code
from osvi_django.models import ChatSession, CloseAttempt
from osvi_django.services.selectors import NOT_CLOSED
from osvi_django.services.statistics.types import FailureCount, OpenCount, WaitCount, Waiting

Outcome = CloseAttempt.Outcome
Rank = ChatSession.AttentionRank
_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_WAITS: Final[Sequence[tuple[int, int | None, Promise]]] = (
    (0, 5 * _MINUTE, _("less than 5 minutes")),
    (5 * _MINUTE, 15 * _MINUTE, _("5 to 15 minutes")),
    (15 * _MINUTE, _HOUR, _("15 minutes to 1 hour")),
    (_HOUR, 24 * _HOUR, _("1 hour to 1 day")),
    (24 * _HOUR, None, _("1 day or longer")),
)
_FAILED: Final = (
    Outcome.NOT_SENT,
    Outcome.REJECTED,
    Outcome.BAD_ANSWER,
    Outcome.NO_ANSWER,
)
_LATELY: Final = timedelta(hours=24)
FAILURES_SHOWN: Final = 20


def count_open(sessions: QuerySet[ChatSession]) -> list[OpenCount]:
    """Return how many chats have each status but closed."""
    rows = sessions.filter(status__in=NOT_CLOSED).order_by().values_list("status")
    counts = dict(rows.annotate(count=Count("pk")))
    return [
        OpenCount(key=status.value, label=str(status.label), number=counts.get(status.value, 0))
        for status in NOT_CLOSED
    ]


def count_with_people(sessions: QuerySet[ChatSession]) -> int:
    """Return how many open chats people have taken over."""
    return sessions.filter(mode=ChatSession.Mode.SUPPORT, status__in=NOT_CLOSED).order_by().count()


def count_waiting(sessions: QuerySet[ChatSession], now: datetime) -> Waiting:
    """Return how many customers wait for a person, and for how long."""
    waiting = sessions.filter(attention_rank=Rank.HELP_REQUESTED).order_by()
    waiting = waiting.annotate(since=Coalesce("help_requested_at", "last_activity_at"))
    counts = {f"from_{wait[0]}": Count("pk", filter=_waits(wait, now)) for wait in _WAITS}
    vague = Count("pk", filter=Q(help_requested_at=None))
    found = waiting.aggregate(number=Count("pk"), first=Min("since"), vague=vague, **counts)
    first = found["first"]
    return Waiting(
        number=found["number"],
        longest_seconds=None if first is None else (now - first).total_seconds(),
        is_at_least=found["vague"] > 0,
        by_time=[
            WaitCount(at_least=low, less_than=high, label=str(label), number=found[f"from_{low}"])
            for low, high, label in _WAITS
        ],
    )


def _waits(wait: tuple[int, int | None, Promise], now: datetime) -> Q:
    low, high, _label = wait
    # The first includes who has asked since this moment.
    waits = Q(since__lte=now - timedelta(seconds=low)) if low else Q()
    return waits if high is None else waits & Q(since__gt=now - timedelta(seconds=high))


def count_failures(attempts: QuerySet[CloseAttempt], now: datetime) -> list[FailureCount]:
    """Return the attempts that failed in the last 24 hours, by reason, the most frequent first.

    OSVI's own words are not among them: they may name a chat or a customer.
    """
    lately = attempts.filter(started_at__gte=now - _LATELY, outcome__in=_FAILED).order_by()
    rows = lately.values_list("outcome", "error_code", "http_status").annotate(count=Count("pk"))
    found = [_failure(*row) for row in rows]
    return sorted(found, key=lambda each: (-each.number, each.outcome, each.code))[:FAILURES_SHOWN]


def _failure(outcome: str, code: str, http_status: int | None, number: int) -> FailureCount:
    return FailureCount(
        outcome=outcome,
        code=code,
        http_status=http_status,
        label=str(Outcome(outcome).label),
        reason=message_for_code(code),
        number=number,
    )
