"""The sessions of one close job, as a list to filter, search and page through."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from django.contrib import admin
from django.contrib.admin.sites import AdminSite
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from osvi_django.admin.pagination import CappedPaginator
from osvi_django.admin.progress import FAILURES, OUTCOMES
from osvi_django.admin.rows import ReadOnlyRows, may_visit_sessions
from osvi_django.exceptions import describe
from osvi_django.models import CloseJob, CloseJobItem

ANY_FAILURE: Final = "failures"


class OutcomeFilter(admin.SimpleListFilter):
    """One outcome, or whatever needs somebody's attention."""

    title = _("outcome")
    parameter_name = "outcome"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterator[tuple[str, Any]]:
        yield ANY_FAILURE, _("failed or unconfirmed")
        yield from ((outcome.value, outcome.label) for outcome in OUTCOMES)

    def queryset(
        self, request: HttpRequest, queryset: QuerySet[CloseJobItem]
    ) -> QuerySet[CloseJobItem]:
        wanted = self.value()
        if wanted is None:
            return queryset
        return queryset.filter(outcome__in=FAILURES if wanted == ANY_FAILURE else (wanted,))


class CloseJobItems(ReadOnlyRows, admin.ModelAdmin):  # type: ignore[type-arg]
    """The list of one job's sessions; ``CloseJobAdmin`` makes one for each request.

    It is registered nowhere: whoever may see the job may see what became of each of its sessions.
    """

    list_display = ("session_shown", "outcome", "reason_shown")
    list_display_links = None
    list_filter = (OutcomeFilter,)
    search_fields = ("asked_id__startswith",)
    search_help_text = _("A session id, or how it begins.")
    actions = None
    show_full_result_count = False
    paginator = CappedPaginator

    class Media:
        css = {"all": ("osvi_django/admin.css",)}

    def __init__(self, job: CloseJob, site: AdminSite, user: Any) -> None:
        super().__init__(CloseJobItem, site)
        self.job = job
        self.has_links = may_visit_sessions(site, user)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whoever was let to the job may see these."""
        return True

    def get_queryset(self, request: HttpRequest) -> QuerySet[CloseJobItem]:
        """Those of the job alone."""
        return self.job.items.all()

    @admin.display(description=_("chat session"), ordering="asked_id")
    def session_shown(self, item: CloseJobItem) -> str | SafeString:
        """The id, as a link for those who may see the session."""
        if item.session_id is None or not self.has_links:
            return item.asked_id
        name = "admin:osvi_django_chatsession_change"
        url = reverse(name, args=[item.session_id], current_app=self.admin_site.name)
        return format_html('<a href="{}">{}</a>', url, item.asked_id)

    @admin.display(description=_("reason"))
    def reason_shown(self, item: CloseJobItem) -> str:
        """Why it is not closed, in a plain sentence."""
        return describe(item.error_code, item.error_reason)
