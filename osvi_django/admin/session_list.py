"""The list of chat sessions in the admin: its columns and its order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final

from django.contrib import admin
from django.contrib.admin.views.main import ORDER_VAR, ChangeList
from django.db.models import Prefetch, QuerySet
from django.db.models.functions import Left
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext_lazy as _

from osvi_django.admin.agent_choice import AgentFilter, AgentViews
from osvi_django.admin.badges import help_mark, status_badge
from osvi_django.admin.bounded import before
from osvi_django.admin.chats import ChatsViews
from osvi_django.admin.link_filter import LinkFilter
from osvi_django.admin.moments import ago
from osvi_django.admin.options import Names
from osvi_django.admin.pages import Way, WaysFilter
from osvi_django.admin.pagination import CappedPaginator
from osvi_django.admin.reason_filter import CloseReasonFilter
from osvi_django.admin.session_filters import (
    LIST_TEMPLATE,
    AttentionFilter,
    ClosedByFilter,
    ClosedFilter,
    DaysFilter,
    QuietFilter,
    StartedFilter,
    StatusFilter,
    SummaryFilter,
    TakenOverFilter,
    kept_filters,
)
from osvi_django.models import ChatAgent, ChatSession, SessionSummary
from osvi_django.services.permissions import may_read_summary, readable_summaries

SUMMARY_CHARACTERS: Final = 80
ID_CHARACTERS: Final = 9
# The whole order of an index, by the column that it begins with.
_INDEXED: Final[dict[str, tuple[str, ...]]] = {
    "customer_id": ("customer_id", "-started_at", "-id"),
    "status": ("status", "-started_at", "-id"),
    "mode": ("mode", "-started_at", "-id"),
    "summary_status": ("summary_status", "-started_at", "-id"),
    "last_activity_at": ("last_activity_at", "id"),
    "started_at": ("started_at", "id"),
    "closed_at": ("closed_at", "id"),
}


class SessionChangeList(ChangeList):
    """The list of sessions, which reads only the fields that it shows."""

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        """Return an order that an index has: that of the filters, or of the chosen column."""
        ordering = list(super().get_ordering(request, queryset))
        if self.params.get(ORDER_VAR):
            return indexed_order(ordering)
        if tuple(self.model_admin.get_ordering(request)) == ChatSession.ATTENTION_ORDER:
            used = (each for each in self.filter_specs if getattr(each, "is_used", False))
            orders = (getattr(each, "order", ()) for each in used)
            return list(next(filter(None, orders), ordering))
        return ordering

    def get_ordering_field_columns(self) -> dict[int, Any]:
        """Return the column that the list is sorted by, for its header."""
        columns = super().get_ordering_field_columns()
        return dict(list(columns.items())[:1])

    def get_results(self, request: HttpRequest) -> None:
        # Django does not count what no filter has applied.
        self.has_active_filters |= any(isinstance(each, LinkFilter) for each in self.filter_specs)
        if "metadata" not in self.list_display:
            self.queryset = self.queryset.defer("metadata")
        # Joined, they would be read for each row that is sorted.
        agents = ChatAgent.objects.using(self.queryset.db)
        self.queryset = self.queryset.prefetch_related(Prefetch("agent", agents))
        if "taken_over_shown" in self.list_display:
            self.queryset = self.queryset.prefetch_related("taken_over_by")
        if "summary_words" in self.list_display:
            texts = SessionSummary.objects.using(self.queryset.db).defer("text")
            texts = texts.annotate(start=Left("text", 2 * SUMMARY_CHARACTERS))
            self.queryset = self.queryset.prefetch_related(Prefetch("summary", texts))
        super().get_results(request)
        if "summary_words" in self.list_display:
            self._withhold_summaries(request)

    def _withhold_summaries(self, request: HttpRequest) -> None:
        """Note which of the summaries of this page the user may not read, all at once.

        The host's backends may ask the database for each: not for chats without a summary.
        """
        rows = [each for each in self.result_list if getattr(each, "summary", None) is not None]
        readable = readable_summaries(request.user, rows)
        for each in rows:
            each.is_summary_withheld = each.pk not in readable


class SessionListViews(ChatsViews, AgentViews):
    """The list of ``ChatSessionAdmin``."""

    list_display: Names = (
        "customer_shown",
        "agent",
        "status_shown",
        "changed_shown",
        "taken_over_shown",
        "summary_words",
    )
    list_filter: ClassVar[Names] = (
        AttentionFilter,
        StatusFilter,
        QuietFilter,
        TakenOverFilter,
        SummaryFilter,
        ClosedByFilter,
        ClosedFilter,
        StartedFilter,
        "mode",
        AgentFilter,
        CloseReasonFilter,
    )
    list_select_related: ClassVar = ()
    list_per_page = 50
    ordering: ClassVar[Names | None] = ChatSession.ATTENTION_ORDER
    # Counting the whole table becomes slower with every row.
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    paginator = CappedPaginator
    # By name, so that a proxy of the model has it too.
    change_list_template = LIST_TEMPLATE

    @admin.display(description=_("customer"), ordering="customer_id")
    def customer_shown(self, session: ChatSession) -> SafeString:
        """Return the customer, and in small the start of the session's id."""
        customer = session.customer_id or _("unknown customer")
        return format_html(
            '<bdi class="osvi-customer">{}</bdi><small class="osvi-id">{}</small>',
            customer,
            self.session_id_shown(session),
        )

    @admin.display(description=_("session id"), ordering="session_id")
    def session_id_shown(self, session: ChatSession) -> SafeString:
        """Return the start of the id, with the whole id as a tooltip."""
        short = Truncator(session.session_id).chars(ID_CHARACTERS)
        return format_html('<bdi title="{}">{}</bdi>', session.session_id, short)

    @admin.display(description=_("status"), ordering="status")
    def status_shown(self, session: ChatSession) -> SafeString:
        """Return the status in its own colour, and whether the customer waits for a person."""
        return format_html("{} {}", status_badge(session), help_mark(session))

    @admin.display(description=_("last change"), ordering="last_activity_at")
    def changed_shown(self, session: ChatSession) -> SafeString:
        """Return how long ago the chat last changed, with the time as a tooltip."""
        return ago(session.last_activity_at)

    @admin.display(description=_("taken over by"))
    def taken_over_shown(self, session: ChatSession) -> SafeString | str:
        """Return the user who has taken over here, or the person that OSVI names."""
        who = str(session.taken_over_by or session.active_human or "")
        return (
            format_html('<span class="osvi-person" dir="auto" title="{0}">{0}</span>', who)
            if who
            else ""
        )

    @admin.display(description=_("summary"))
    def summary_words(self, session: ChatSession) -> SafeString:
        """Return the summary's first words, or why there is none."""
        if getattr(session, "is_summary_withheld", False):
            return format_html('<span class="osvi-none">{}</span>', _("not readable for you"))
        summary = getattr(session, "summary", None)
        if summary is None:
            return format_html('<span class="osvi-none">{}</span>', _none_of(session))
        # The list reads no more of it than this.
        start = getattr(summary, "start", None) or summary.text
        return format_html('<span dir="auto">{}</span>', Truncator(start).chars(SUMMARY_CHARACTERS))

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return before(super().get_changelist(request, **kwargs), SessionChangeList)

    def get_list_display(self, request: HttpRequest) -> Names:
        """Return the columns, without the summary if the user may not read it."""
        if may_read_summary(request.user):
            return self.list_display
        return tuple(name for name in self.list_display if name != "summary_words")

    def get_sortable_by(self, request: HttpRequest) -> Any:
        """Return all columns but the agent: sorting by another table would sort all sessions."""
        names = super().get_sortable_by(request)
        if self.sortable_by is not None:
            return names
        return [name for name in names if name != "agent"]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the list, with links to look up and start sessions."""
        context = {
            "ways": self.ways_of_list(request),
            "range_parameters": self._kept_by_ranges(request),
            **(extra_context or {}),
        }
        return super().changelist_view(request, context)

    def get_list_filter(self, request: HttpRequest) -> Any:
        """Return the filters; with a host's own list template, they include the links."""
        filters = (*super().get_list_filter(request), LinkFilter)
        is_ours = self.change_list_template == LIST_TEMPLATE
        return filters if is_ours else (*filters, WaysFilter)

    def ways_of_list(self, request: HttpRequest) -> list[Way]:
        """Return the links from the list that the user may follow."""
        operates = self.has_operate_permission(request)
        ways = []
        if operates or self.has_view_permission(request):
            ways.append(Way(label=_("Chats"), url=self.url_to("chats")))
        if operates:
            ways.append(Way(label=_("Look up a customer"), url=self.url_to("lookup")))
            ways.append(Way(label=_("Start a chat session"), url=self.url_to("start")))
        return ways

    def _kept_by_ranges(self, request: HttpRequest) -> list[tuple[str, Any]]:
        """Return what the form of the ranges sends again: the other filters and the search."""
        filters = (each for each in self.get_list_filter(request) if _is_range(each))
        ranges = [f"{each.parameter_name}_{end}" for each in filters for end in ("from", "until")]
        return kept_filters(request, ranges)


def indexed_order(ordering: Sequence[Any]) -> list[Any]:
    """Return the order of the index that begins with the same column; the same if there is none.

    By two columns all rows would have to be sorted, so the second is left out.
    """
    first = ordering[0] if isinstance(ordering[0], str) else ""
    order = _INDEXED.get(first.removeprefix("-"))
    if order is None:
        return list(ordering)
    return [_reverse(each) for each in order] if first.startswith("-") else list(order)


def _reverse(field: str) -> str:
    return field[1:] if field.startswith("-") else f"-{field}"


def _is_range(each: Any) -> bool:
    return isinstance(each, type) and issubclass(each, DaysFilter)


def _none_of(session: ChatSession) -> str:
    return session.get_summary_status_display()
