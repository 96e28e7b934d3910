"""The sessions of one close job, as a list to filter, search and page through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _

from osvi_django.admin.badges import status_badge
from osvi_django.admin.bounded import BoundedAdmin, ConditionFilter
from osvi_django.admin.dashboard import with_dashboard
from osvi_django.admin.job_progress import OUTCOMES
from osvi_django.admin.messages import SINCE
from osvi_django.admin.mixins import ReadOnlyRows
from osvi_django.admin.pages import OwnPages, admin_of_sessions, url_to
from osvi_django.admin.pagination import CappedPaginator
from osvi_django.exceptions import message_for_code
from osvi_django.models import ChatSession, CloseJob, CloseJobItem
from osvi_django.services.jobs import store
from osvi_django.services.permissions import visible_items

ItemOutcome = CloseJobItem.Outcome
SessionStatus = ChatSession.Status

ANY_FAILURE: Final = "failures"
SETTLED: Final = "settled"
# While a session has one of these, the reason of an outcome still holds.
_HOLDS_WHILE: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(CloseJobItem.FAILED, ChatSession.OPEN),
    ItemOutcome.UNCONFIRMED: (SessionStatus.UNCONFIRMED,),
}


class OutcomeFilter(ConditionFilter):
    """Filter by one outcome, or by all that need attention now, or did and are settled."""

    title = _("outcome")
    parameter_name = "outcome"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterator[tuple[str, Any]]:
        yield ANY_FAILURE, _("needs attention")
        yield SETTLED, _("needed attention, settled since")
        yield from ((outcome.value, outcome.label) for outcome in OUTCOMES)

    def condition(self, value: str) -> Q:
        if value == ANY_FAILURE:
            return store.NEEDS_ATTENTION
        if value == SETTLED:
            return Q(outcome__in=CloseJobItem.TROUBLED) & store.SETTLED
        return Q(outcome=value)


class CloseJobItems(ReadOnlyRows, BoundedAdmin):
    """The list of one job's sessions; ``CloseJobAdmin`` makes one for each request.

    It is not registered: users who may see the job may see its sessions.
    """

    list_display = (
        "customer_shown",
        "agent_shown",
        "session_shown",
        "outcome",
        "status_now",
        "reason_shown",
    )
    list_display_links = None
    list_filter = (OutcomeFilter,)
    search_fields = ("requested_session_id__startswith",)
    search_help_text = _("Search by the beginning of a session id.")
    actions = None
    # Counting the whole table becomes slower with every row.
    show_full_result_count = False
    paginator = CappedPaginator

    class Media:
        css = {"all": ("osvi_django/admin.css",)}

    def __init__(self, job: CloseJob, job_admin: OwnPages, request: HttpRequest) -> None:
        super().__init__(CloseJobItem, job_admin.admin_site)
        self.job = job
        self.sessions = admin_of_sessions(self.admin_site, request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return True: the view of the job has checked the permission."""
        return True

    def get_queryset(self, request: HttpRequest) -> QuerySet[CloseJobItem]:
        """Return the sessions of this job that the user may see."""
        return visible_items(store.items_with_sessions(self.job), request.user)

    @admin.display(description=_("chat session"), ordering="requested_session_id")
    def session_shown(self, item: CloseJobItem) -> SafeString:
        """Return the id, as a link if the user may see the session."""
        if item.session_id is None or self.sessions is None:
            return format_html("<bdi>{}</bdi>", item.requested_session_id)
        url = url_to(self.sessions, "change", item.session_id)
        return format_html('<a href="{}"><bdi>{}</bdi></a>', url, item.requested_session_id)

    @admin.display(description=_("customer"))
    def customer_shown(self, item: CloseJobItem) -> SafeString | str:
        """Return the customer, if this site knows the session."""
        customer = item.session.customer_id if item.session else ""
        return format_html("<bdi>{}</bdi>", customer) if customer else ""

    @admin.display(description=_("agent"))
    def agent_shown(self, item: CloseJobItem) -> str:
        """Return the name of the agent, if this site knows the session."""
        return str(item.session.agent) if item.session else ""

    @admin.display(description=_("status now"))
    def status_now(self, item: CloseJobItem) -> SafeString | None:
        """Return the present status of the session, which may have been settled since."""
        return status_badge(item.session) if item.session else None

    @admin.display(description=_("reason"))
    def reason_shown(self, item: CloseJobItem) -> SafeString:
        """Return why it is not closed, if that still holds, and what became of the goodbye."""
        said = _reason_now(item)
        goodbye = capfirst(item.get_goodbye_display())
        words = " ".join(filter(None, (said, goodbye and f"{goodbye}.")))
        words = with_dashboard(words, item.session) if item.session else words
        return format_html('<span dir="auto">{}</span>', words) if words else SafeString()


def _reason_now(item: CloseJobItem) -> str:
    """Return the reason of an outcome, or what is known since if it no longer holds."""
    status: str = item.session.status if item.session else ""
    holds_while = _HOLDS_WHILE.get(item.outcome)
    if holds_while and status in SINCE and status not in holds_while:
        return str(SINCE[status])
    return message_for_code(item.error_code, item.error_reason)
