"""The attempts and the time line of a session, in pages."""

from __future__ import annotations

from typing import Any, Final

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.urls import URLPattern
from django.utils.translation import gettext_lazy as _

from osvi_django.admin.base import OSVIViews
from osvi_django.admin.bounded import BoundedAdmin
from osvi_django.admin.jobs import CloseJobAdmin
from osvi_django.admin.mixins import ReadOnlyRows
from osvi_django.admin.pages import Way, admin_of
from osvi_django.admin.pagination import CappedPaginator
from osvi_django.admin.reason_filter import CloseReasonFilter
from osvi_django.admin.sources import REQUESTED_BY, ViaColumn, requester_of
from osvi_django.admin.timeline import Viewer, timeline_of
from osvi_django.models import ChatSession, CloseAttempt, CloseJob
from osvi_django.services.access import is_narrowed
from osvi_django.services.permissions import (
    is_requester,
    may_close,
    may_operate,
    may_read_summary,
    may_view_all_jobs,
)
from osvi_django.services.selectors import attempts

ATTEMPTS_SHOWN: Final = 20


def without_answers(journal: QuerySet[CloseAttempt]) -> QuerySet[CloseAttempt]:
    """Return these without their raw answers, each of which may be a megabyte.

    These also hold what only readers of summaries may see.
    """
    return journal.select_related("requested_by").defer("answer", "answer_bytes")


class AttemptColumns(ViaColumn):
    """The columns of an attempt."""

    columns = (
        "started_at",
        "kind",
        "requested_by_shown",
        "via_shown",
        "outcome",
        "error_reason",
        "note_shown",
    )

    @admin.display(description=REQUESTED_BY)
    def requested_by_shown(self, attempt: CloseAttempt) -> str:
        """Return the name of the user or other caller; inlines would show None as that word."""
        return requester_of(attempt)

    @admin.display(description=_("note"), ordering="note")
    def note_shown(self, attempt: CloseAttempt) -> str:
        """Return the reason and the note, or why OSVI closed it without being asked to."""
        given = ": ".join(filter(None, (attempt.close_reason, attempt.note)))
        return given or attempt.get_reason_display()


class CloseAttempts(ReadOnlyRows, AttemptColumns, BoundedAdmin):
    """The list of one session's attempts; ``ChatSessionAdmin`` makes one for each request.

    It is not registered: users who may see the session may see its attempts.
    """

    list_display = AttemptColumns.columns
    list_display_links = None
    list_filter = (CloseReasonFilter,)
    list_per_page = 50
    actions = None
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    paginator = CappedPaginator
    change_list_template = "admin/osvi_django/session_rows.html"

    class Media:
        css = {"all": ("osvi_django/admin.css",)}

    def __init__(self, session: ChatSession, site: admin.AdminSite) -> None:
        super().__init__(CloseAttempt, site)
        self.session = session

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return True: the page of the session shows these, and has checked the permission."""
        return True

    def get_queryset(self, request: HttpRequest) -> QuerySet[CloseAttempt]:
        """Return the attempts of this session only."""
        return without_answers(attempts(self.session))


class HistoryViews(OSVIViews):
    """The pages of ``ChatSessionAdmin`` for data that is too long for the page of a session."""

    def own_urls(self) -> list[URLPattern]:
        """Return the URLs of these pages and of the base classes."""
        return [
            self._path("<path:object_id>/attempts", self.attempts_view),
            self._path("<path:object_id>/thread", self.thread_view),
            *super().own_urls(),
        ]

    def attempts_view(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """List all attempts to close a session."""
        session = self._seen(request, object_id)
        if session is None:
            return self._redirect_not_found(request, object_id)
        context = {
            "title": _("Attempts to close %(session)s") % {"session": session},
            "original": session,
            "opts": self.opts,
            "back": self._page_after(request, session),
        }
        return CloseAttempts(session, self.admin_site).changelist_view(request, context)

    def thread_view(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Show the time line of a session before the line that ``before`` names."""
        session = self._seen(request, object_id)
        if session is None:
            return self._redirect_not_found(request, object_id)
        before = request.GET.get("before", "")
        viewer = self.viewer_of(request, session)
        return self._page(
            request,
            "chatsession/thread_page.html",
            title=_("History of %(session)s") % {"session": session},
            original=session,
            timeline=timeline_of(session, viewer, before=before),
            back=self._page_after(request, session),
        )

    def viewer_of(self, request: HttpRequest, session: ChatSession) -> Viewer:
        """Return who looks at a session, and what they may see of its time line."""
        user = request.user

        def job_url(job: CloseJob) -> str:
            is_seen = jobs and (sees_all_jobs or is_requester(user, job))
            return jobs.url_to("change", job.pk) if jobs and is_seen else ""

        def answer_url(attempt: CloseAttempt) -> str:
            return self.url_to("review", session.pk, attempt.pk) if closes else ""

        jobs = admin_of(self.admin_site, CloseJob, CloseJobAdmin)
        sees_all_jobs = may_view_all_jobs(user) and not is_narrowed(user)
        closes = may_close(user, session)
        is_readable = may_operate(user, session) or may_read_summary(user, session)
        return Viewer(user=user, is_readable=is_readable, job_url=job_url, answer_url=answer_url)

    def way_to_attempts(self, session: ChatSession) -> list[Way]:
        """Return the link to all attempts, if the page of the session does not have all of them."""
        if not attempts(session).order_by()[ATTEMPTS_SHOWN : ATTEMPTS_SHOWN + 1].exists():
            return []
        return [
            Way(label=_("All attempts to close this chat"), url=self.url_to("attempts", session.pk))
        ]

    def _seen(self, request: HttpRequest, object_id: str) -> ChatSession | None:
        """Return the session, if it exists and this user may see or operate it."""
        session: ChatSession | None = self.get_object(request, unquote(object_id))
        if self.has_view_permission(request, session):
            return session
        if self.has_operate_permission(request, session):
            return session
        raise PermissionDenied
