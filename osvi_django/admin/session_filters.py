"""The filters of the list of sessions. Each has a condition and an order that an index holds."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator
from datetime import date, datetime, time, timedelta
from typing import Any, ClassVar, Final

from django.conf import settings
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ERROR_FLAG, PAGE_VAR, ChangeList
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext_lazy as _

from osvi_django.admin.bounded import ConditionFilter
from osvi_django.models import ChatSession
from osvi_django.services.attention import Attention, condition_of

Rank = ChatSession.AttentionRank
Status = ChatSession.Status
SummaryStatus = ChatSession.SummaryStatus

LIST_TEMPLATE: Final = "admin/osvi_django/chatsession/change_list.html"
RANGE_FORM: Final = "osvi-ranges"
NEWEST_CLOSED: Final = ("-closed_at", "-id")
NEWEST_STARTED: Final = ("-started_at", "-id")
_IS_OPEN: Final = Q(attention_rank__lt=Rank.CLOSED)


class SessionListFilter(ConditionFilter):
    """A filter by choices with names of our own; any other value is invalid."""

    labels: ClassVar[dict[str, Any]] = {}

    def __init__(self, request: HttpRequest, params: Any, model: Any, model_admin: Any) -> None:
        """Store the user, by whom some of these filter."""
        self.user = request.user
        super().__init__(request, params, model, model_admin)

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return list(self.labels.items())

    def condition(self, value: str) -> Q:
        if value not in self.labels:
            raise ValueError(value)
        return self.condition_for(value)

    @abstractmethod
    def condition_for(self, value: str) -> Q:
        """Return the condition of one of the choices."""


class AttentionFilter(SessionListFilter):
    """Filter by why a chat needs a person."""

    title = _("needs attention")
    parameter_name = "attention"
    labels: ClassVar = {
        kind.value: kind.label
        for kind in (Attention.HELP, Attention.UNCONFIRMED, Attention.REFUSED, Attention.CLOSING)
    }

    def condition_for(self, value: str) -> Q:
        return condition_of(Attention(value), user=self.user)


class StatusFilter(SessionListFilter):
    """Filter by status, or by whether a chat is open."""

    title = _("status")
    parameter_name = "status"
    labels: ClassVar = {"open": _("open (active or dormant)"), **dict(Status.choices)}

    def condition_for(self, value: str) -> Q:
        if value == "open":
            return Q(status__in=ChatSession.OPEN) & _IS_OPEN
        rank = Q(attention_rank=Rank.CLOSED) if value == Status.CLOSED else _IS_OPEN
        return Q(status=value) & rank


class TakenOverFilter(SessionListFilter):
    """Filter by who has taken over through this site."""

    title = _("taken over by")
    parameter_name = "taken_over"
    labels: ClassVar = {"me": _("me"), "anybody": _("anybody here")}

    def condition_for(self, value: str) -> Q:
        if value == "me":
            return condition_of(Attention.TAKEN_OVER, user=self.user)
        return Q(taken_over_by__isnull=False)


class QuietFilter(SessionListFilter):
    """Filter the open chats by how long nothing has happened in them."""

    title = _("quiet for")
    parameter_name = "quiet"
    labels: ClassVar = {
        "1": _("1 day or longer"),
        "7": _("7 days or longer"),
        "30": _("30 days or longer"),
    }

    def condition_for(self, value: str) -> Q:
        since = timezone.now() - timedelta(days=int(value))
        return _IS_OPEN & Q(quiet_since__lt=since)


class SummaryFilter(SessionListFilter):
    """Filter by whether there is a summary, and if not, why."""

    title = _("summary")
    parameter_name = "summary"
    labels: ClassVar = {
        SummaryStatus.STORED.value: _("stored"),
        SummaryStatus.NOT_PROVIDED.value: _("missing: OSVI sent none"),
        SummaryStatus.LOST.value: _("missing: lost"),
        SummaryStatus.PENDING.value: _("missing: not written yet"),
        SummaryStatus.REMOVED.value: _("removed"),
    }

    def condition_for(self, value: str) -> Q:
        # A chat that is open has no summary to miss.
        return Q(summary_status=value, attention_rank=Rank.CLOSED)


class ClosedByFilter(SessionListFilter):
    """Filter by who closed a chat through this site."""

    title = _("closed by")
    parameter_name = "closed_by"
    order: ClassVar = NEWEST_CLOSED
    labels: ClassVar = {"me": _("me"), "anybody": _("anybody here")}

    def condition_for(self, value: str) -> Q:
        # The other conditions name what each index holds.
        who = Q(closed_by=self.user.pk) if value == "me" else Q(closed_by__isnull=False)
        return who & Q(closed_at__isnull=False)


class DaysFilter(SessionListFilter):
    """Filter by the day of a moment: some choices, and a range of dates in a form."""

    template = "admin/osvi_django/chatsession/days_filter.html"
    column: ClassVar[str]
    form_id = RANGE_FORM
    labels: ClassVar = {
        "0": _("today"),
        "7": _("in the last 7 days"),
        "30": _("in the last 30 days"),
    }

    def __init__(self, request: HttpRequest, params: Any, model: Any, model_admin: Any) -> None:
        """Store the dates of the range; the form for it is part of our own template."""
        self.dates = {
            name: params.pop(name, [""])[-1].strip() for name in self.expected_parameters()[1:]
        }
        self.has_form = getattr(model_admin, "change_list_template", "") == LIST_TEMPLATE
        super().__init__(request, params, model, model_admin)

    def expected_parameters(self) -> list[Any]:
        """Return the parameters: of a choice, and of the first and last day of a range."""
        name = str(self.parameter_name)
        return [name, f"{name}_from", f"{name}_until"]

    @property
    def is_range(self) -> bool:
        """Return whether a range of dates is given. It replaces a choice."""
        return any(self.dates.values())

    @property
    def is_used(self) -> bool:
        return self.is_range or super().is_used

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """Return what the inputs of the form are."""
        labels = (_("From"), _("Until"))
        pairs = zip(labels, self.dates.items(), strict=True)
        return [{"label": label, "name": name, "value": value} for label, (name, value) in pairs]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if not self.is_range:
            return super().queryset(request, queryset)
        try:
            return queryset.filter(self._in_range())
        except (ValueError, OverflowError) as error:
            raise IncorrectLookupParameters(error) from error

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        """Yield the choices, and the range if one is given."""
        names = [*self.expected_parameters(), PAGE_VAR]
        yield {
            "selected": not self.is_used,
            "query_string": changelist.get_query_string(remove=names),
            "display": _("All"),
        }
        for value, label in self.lookup_choices:
            yield {
                "selected": not self.is_range and self.value() == str(value),
                "query_string": changelist.get_query_string({names[0]: value}, names[1:]),
                "display": label,
            }
        if self.is_range:
            yield {
                "selected": True,
                "query_string": changelist.get_query_string(remove=[names[0], PAGE_VAR]),
                "display": self._range_shown(),
            }

    def condition_for(self, value: str) -> Q:
        today = timezone.localdate() if settings.USE_TZ else datetime.now().date()  # noqa: DTZ005
        return Q(**{f"{self.column}__gte": _midnight(today - timedelta(days=int(value)))})

    def _in_range(self) -> Q:
        first, last = (date.fromisoformat(day) if day else None for day in self.dates.values())
        chosen = Q(**{f"{self.column}__isnull": False})
        if first is not None:
            chosen &= Q(**{f"{self.column}__gte": _midnight(first)})
        if last is not None:
            chosen &= Q(**{f"{self.column}__lt": _midnight(last + timedelta(days=1))})
        return chosen

    def _range_shown(self) -> str:
        first, last = (
            date_format(date.fromisoformat(day), "SHORT_DATE_FORMAT") if day else "…"
            for day in self.dates.values()
        )
        return f"{first} \N{EN DASH} {last}"


class ClosedFilter(DaysFilter):
    """Filter by when a chat was closed."""

    title = _("closed")
    parameter_name = "closed"
    column = "closed_at"
    order: ClassVar = NEWEST_CLOSED


class StartedFilter(DaysFilter):
    """Filter by when a chat was started."""

    title = _("started")
    parameter_name = "started"
    column = "started_at"
    order: ClassVar = NEWEST_STARTED


def kept_filters(request: HttpRequest, left_out: Collection[str]) -> list[tuple[str, Any]]:
    """Return what the form of a filter sends again: the other filters, the search and the order."""
    dropped = {*left_out, PAGE_VAR, ERROR_FLAG}
    return [(name, value) for name, value in request.GET.items() if name not in dropped]


def _midnight(day: date) -> datetime:
    """Return when a day begins, as the database has it."""
    begins = datetime.combine(day, time())
    return timezone.make_aware(begins) if settings.USE_TZ else begins
