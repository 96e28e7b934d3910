"""What needs a person: the conditions, and how many chats meet each, however many there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from django.db import models
from django.db.models import Q, QuerySet, Subquery
from django.utils.formats import localize
from django.utils.translation import gettext_lazy as _

from osvi_django.models import ChatSession, CloseJob
from osvi_django.services import selectors
from osvi_django.services.access import sessions_inside
from osvi_django.services.attempts import leases
from osvi_django.services.permissions import (
    may_close,
    may_operate,
    may_view,
    may_view_all_jobs,
    purpose_of,
    visible_jobs,
)

CAP: Final = 10_000
Rank = ChatSession.AttentionRank
Status = ChatSession.Status
SummaryStatus = ChatSession.SummaryStatus


class Attention(models.TextChoices):
    """Why a chat, or a job, may need a person."""

    HELP = "help", _("customer waits for a person")
    TAKEN_OVER = "taken_over", _("taken over by me")
    UNCONFIRMED = "unconfirmed", _("unconfirmed")
    REFUSED = "refused", _("OSVI refused to close it")
    CLOSING = "closing", _("being closed for too long")
    NOT_PROVIDED = "not_provided", _("closed, OSVI sent no summary")
    LOST = "lost", _("closed, summary lost")
    PENDING = "pending", _("closed, no summary yet")
    JOBS = "jobs", _("close jobs that run or wait")


# Each counts along an index; a rank is named so that the order of the lists has one, too.
_CONDITIONS: Final[Mapping[Attention, Q]] = {
    Attention.HELP: Q(attention_rank=Rank.HELP_REQUESTED),
    Attention.UNCONFIRMED: Q(status=Status.UNCONFIRMED),
    Attention.REFUSED: Q(is_close_refused=True, status__in=ChatSession.OPEN),
    Attention.NOT_PROVIDED: Q(
        summary_status=SummaryStatus.NOT_PROVIDED, attention_rank=Rank.CLOSED
    ),
    Attention.LOST: Q(summary_status=SummaryStatus.LOST, attention_rank=Rank.CLOSED),
    Attention.PENDING: Q(summary_status=SummaryStatus.PENDING, attention_rank=Rank.CLOSED),
}
# What users may know who may operate chats, but not list them.
_FOR_OPERATORS: Final = (Attention.HELP, Attention.TAKEN_OVER)


@dataclass(frozen=True, kw_only=True)
class CappedCount:
    """A number that is counted up to a limit; ``is_more``: whether there are more."""

    number: int
    is_more: bool = False

    def __str__(self) -> str:
        return f"{localize(self.number)}{'+' if self.is_more else ''}"


class _CountOf(Subquery):
    """How many rows a queryset has, as a part of another query."""

    template = "(SELECT COUNT(*) FROM (%(subquery)s) counted)"


def condition_of(kind: Attention, *, user: Any) -> Q:
    """Return the condition for the chats of this kind."""
    if kind is Attention.TAKEN_OVER:
        return Q(taken_over_by=user.pk)
    if kind is Attention.CLOSING:  # by the database's clock
        return Q(leases.expired(), status=Status.CLOSING)
    return _CONDITIONS[kind]


def count_attention(
    *, requested_by: Any, among: QuerySet[ChatSession] | None = None
) -> dict[Attention, CappedCount]:
    """Return the counts that this user may know, in two queries; ``among`` narrows the chats."""
    sessions = _seen_by(requested_by) if among is None else among
    counts = _count_sessions(sessions, requested_by)
    if may_close(requested_by) or may_view_all_jobs(requested_by):
        running = visible_jobs(requested_by).filter(status__in=CloseJob.UNFINISHED)
        counts[Attention.JOBS] = _capped(running.order_by()[: CAP + 1].count())
    return counts


def first_waiting(
    number: int, *, requested_by: Any, among: QuerySet[ChatSession] | None = None
) -> Sequence[ChatSession]:
    """Return the first chats whose customer waits, with their agents and who has taken over."""
    if not number or not _kinds_for(requested_by):
        return ()
    sessions = _seen_by(requested_by) if among is None else among
    waiting = sessions.filter(_CONDITIONS[Attention.HELP])
    waiting = waiting.select_related("agent", "taken_over_by")
    return list(waiting.defer("metadata").order_by(*ChatSession.ATTENTION_ORDER)[:number])


def _seen_by(user: Any) -> QuerySet[ChatSession]:
    return sessions_inside(selectors.all_sessions(), user, purpose_of(user))


def _count_sessions(sessions: QuerySet[ChatSession], user: Any) -> dict[Attention, CappedCount]:
    kinds = _kinds_for(user)
    if not kinds:
        return {}
    columns = {
        f"of_{kind}": _CountOf(
            sessions.filter(condition_of(kind, user=user)).order_by().values("pk")[: CAP + 1],
            output_field=models.IntegerField(),
        )
        for kind in kinds
    }
    # Any row will do: each column is a query of its own.
    any_row = ChatSession.objects.using(sessions.db).order_by("pk").annotate(**columns)
    found = any_row.values(*columns).first() or dict.fromkeys(columns, 0)
    return {kind: _capped(found[f"of_{kind}"]) for kind in kinds}


def _kinds_for(user: Any) -> tuple[Attention, ...]:
    """Return which chats this user may know about."""
    if may_view(user):
        return tuple(kind for kind in Attention if kind is not Attention.JOBS)
    return _FOR_OPERATORS if may_operate(user) else ()


def _capped(number: int) -> CappedCount:
    return CappedCount(number=min(number, CAP), is_more=number > CAP)
