"""Close jobs in the admin: confirm, watch, cancel and retry them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, ClassVar, Final

from django.contrib import admin, messages
from django.contrib.admin.utils import label_for_field, unquote
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db import router
from django.db.models import Count, Q, QuerySet
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseRedirect,
    JsonResponse,
)
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import URLPattern
from django.utils.formats import date_format, localize
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.timezone import is_aware, localtime
from django.utils.translation import gettext_lazy as _

from osvi_django.admin.bounded import ConditionFilter, before
from osvi_django.admin.deletion import redirect_to_itself
from osvi_django.admin.forms import CloseJobForm
from osvi_django.admin.job_items import CloseJobItems
from osvi_django.admin.job_progress import FAILURES, OUTCOMES, duration_of, state_of, status_text
from osvi_django.admin.kept import drop, keep, posted, take
from osvi_django.admin.mixins import ReadOnlyRows, write_history
from osvi_django.admin.options import Names
from osvi_django.admin.pages import (
    OwnPages,
    Way,
    admin_of_sessions,
    url_to,
)
from osvi_django.admin.pagination import CappedPaginator
from osvi_django.admin.sources import NOT_A_USER, WHERE, ViaColumn, ViaFilter, label_of
from osvi_django.database import non_atomic
from osvi_django.exceptions import InvalidInput, NotAllowed
from osvi_django.models import ChatSession, CloseJob, CloseJobItem
from osvi_django.services.jobs import (
    cancel_close_job,
    confirm_close_job,
    resume_stalled,
    retry_close_job,
    retry_of,
    store,
)
from osvi_django.services.permissions import (
    may_close,
    may_view_all_jobs,
    require_job,
    visible_jobs,
)

JobStatus = CloseJob.Status
ItemOutcome = CloseJobItem.Outcome

FAILURES_SHOWN: Final = 50
_FAILURES: Final = "admin/osvi_django/closejob/failures.html"

REQUESTED_BY: Final = _("requested by")
# What staff call the fields of a job.
_LABELS: Final = {"requested_by": REQUESTED_BY, "via": WHERE}


class JobStatusFilter(ConditionFilter):
    """Filter by status, without drafts, which are not listed."""

    title = _("status")
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [(each.value, each.label) for each in JobStatus if each != JobStatus.DRAFT]

    def condition(self, value: str) -> Q:
        return Q(status=value)


class JobChangeList(ChangeList):
    """The list of jobs without drafts, which are not confirmed."""

    def get_queryset(self, *args: Any, **kwargs: Any) -> QuerySet[CloseJob]:
        jobs: QuerySet[CloseJob] = super().get_queryset(*args, **kwargs)
        return jobs.exclude(status=JobStatus.DRAFT)


@admin.register(CloseJob)
class CloseJobAdmin(ReadOnlyRows, ViaColumn, OwnPages):
    """Show close jobs. They start in the list of sessions or via another entry point.

    An admin site offers *Close selected* in its list of sessions if it has this one as well.
    """

    list_display: Names = (
        "name_shown",
        "status_shown",
        "done_of_total",
        "failed",
        "unconfirmed",
        "requested_by_shown",
        "created_at",
        "via_shown",
    )
    list_filter: ClassVar[Names] = (JobStatusFilter, ViaFilter)
    list_per_page = 50
    show_full_result_count = False
    paginator = CappedPaginator
    actions: Names | None = None
    change_list_template = "admin/osvi_django/closejob/change_list.html"

    class Media:
        css = {"all": ("osvi_django/admin.css",)}

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may close sessions or see the jobs of others."""
        return self.has_view_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: CloseJob | None = None) -> bool:
        """Return whether the user may see any job; ``get_queryset`` says which."""
        return may_close(request.user) or may_view_all_jobs(request.user)

    def get_queryset(self, request: HttpRequest) -> QuerySet[CloseJob]:
        """Return the user's own jobs, or all jobs if the user has the permission."""
        visible, rows = visible_jobs(request.user), super().get_queryset(request)
        # For a proxy model, the rows must be of its own class.
        is_ours = self.model is CloseJob
        jobs = visible if is_ours else rows.filter(pk__in=visible.values("pk"))
        return jobs.select_related("requested_by", "retry_of")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return before(super().get_changelist(request, **kwargs), JobChangeList)

    def own_urls(self) -> list[URLPattern]:
        """Return the URLs of the pages about one job."""
        return [
            self._path("<int:job_id>/confirm", self.confirm_view),
            self._path("<int:job_id>/progress", self.progress_view),
            self._path("<int:job_id>/cancel", self.cancel_view),
            self._path("<int:job_id>/retry", self.retry_view),
            self._path("<int:job_id>/sessions", self.sessions_view),
            *super().own_urls(),
        ]

    def get_urls(self) -> list[URLPattern]:
        """Return the admin's URLs and ours, all outside any transaction: a view may resume jobs."""
        urls = super().get_urls()
        for pattern in urls:
            pattern.callback = non_atomic(pattern.callback)
        return urls

    @admin.display(description=_("close job"), ordering="id")
    def name_shown(self, job: CloseJob) -> str:
        """Return the name of a job."""
        return str(job)

    @admin.display(description=_("status"), ordering="status")
    def status_shown(self, job: CloseJob) -> SafeString:
        """Return the status in its own colour."""
        return format_html(
            '<span class="osvi-status osvi-job-{}">{}</span>', job.status, status_text(job)
        )

    @admin.display(description=REQUESTED_BY, ordering="requested_by")
    def requested_by_shown(self, job: CloseJob) -> str:
        """Return the name of the user or other caller."""
        return str(job.requested_by or job.requester or NOT_A_USER)

    @admin.display(description=_("done"))
    def done_of_total(self, job: CloseJob) -> str:
        """Return the progress of the job."""
        numbers = {"done": localize(job.done + job.cancelled), "total": localize(job.total)}
        return str(_("%(done)s of %(total)s") % numbers)

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show the page of a job, which updates itself; redirect a draft to its confirmation."""
        job = self._find_and_resume(request, unquote(object_id))
        if request.method == "POST":
            raise PermissionDenied  # a job is never edited by hand
        if job.status == JobStatus.DRAFT:
            return HttpResponseRedirect(self.url_to("confirm", job.pk))
        context = {**self._page_of(request, job), **(extra_context or {})}
        return self._page(request, "closejob/job.html", **context)

    def progress_view(self, request: HttpRequest, job_id: int) -> HttpResponseBase:
        """Return the progress as JSON for the script on the page."""
        job = self._find_and_resume(request, job_id)
        state = state_of(job)
        request.current_app = self.admin_site.name
        failures = render_to_string(_FAILURES, self._failures_of(request, job, state), request)
        return JsonResponse({**state, "failures": failures})

    def sessions_view(self, request: HttpRequest, job_id: int) -> HttpResponseBase:
        """Show the sessions of the job and their outcomes."""
        job = self._find(request, job_id)
        sessions = CloseJobItems(job, self, request)
        title = _("Chat sessions of close job %(id)s") % {"id": job.pk}
        context = {"title": title, "job": job, "original": job, "opts": self.opts}
        return sessions.changelist_view(request, context)

    def confirm_view(self, request: HttpRequest, job_id: int) -> HttpResponseBase:
        """Ask whether to start a draft (GET), and start it (POST)."""
        job = self._find_managed(request, job_id)
        page = f"{self.opts.label_lower}:confirm:{job.pk}"
        if request.method != "POST":
            if job.status != JobStatus.DRAFT:
                return self._redirect_to(job)
            return self._question(request, job, take(request, page).fill(CloseJobForm()))
        form = CloseJobForm(posted(request))
        if form.is_valid():
            drop(request, page)
            self._confirm(request, job, form.cleaned_data["note"])
        elif job.status == JobStatus.DRAFT:
            keep(request, page, form)
            return redirect_to_itself(request)
        return self._redirect_to(job)

    def cancel_view(self, request: HttpRequest, job_id: int) -> HttpResponseBase:
        """Cancel a job (POST)."""
        job = self._find_managed(request, job_id)
        if request.method == "POST":
            self._cancel(request, job)
        return self._redirect_to(job)

    def retry_view(self, request: HttpRequest, job_id: int) -> HttpResponseBase:
        """Create a job that retries the failed sessions (POST), or redirect to an existing one."""
        job = self._find_managed(request, job_id)
        if request.method != "POST":
            return self._redirect_to(job)
        return self._redirect_to(self._retry(request, job))

    def _find(self, request: HttpRequest, job_id: int | str) -> CloseJob:
        """Return the job if this user may see it. Raise ``Http404`` or ``PermissionDenied``."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        job: CloseJob | None = self.get_object(request, str(job_id))
        if job is None:
            raise Http404
        return job

    def _find_managed(self, request: HttpRequest, job_id: int) -> CloseJob:
        """Return the job if this user may decide about it. Raise the same as ``_find``."""
        job = self._find(request, job_id)
        with _refusal_as_403():
            require_job(request.user, job)
        return job

    def _find_and_resume(self, request: HttpRequest, job_id: int | str) -> CloseJob:
        """Return the job, and resume it if it has stalled."""
        job = self._find(request, job_id)
        if not job.is_finished and resume_stalled(job):
            job.refresh_from_db(using=router.db_for_write(CloseJob))
        return job

    def _confirm(self, request: HttpRequest, job: CloseJob, note: str) -> None:
        try:
            with _refusal_as_403():
                confirm_close_job(job, requested_by=request.user, note=note)
        except InvalidInput as error:  # a colleague was faster, or it was a double click
            self.message_user(request, str(error), messages.INFO)
        else:
            write_history(self, request, job, str(_("Confirmed.")))

    def _cancel(self, request: HttpRequest, job: CloseJob) -> None:
        with _refusal_as_403():
            job = cancel_close_job(job, requested_by=request.user)
        if job.status != JobStatus.CANCELLED:
            sentence = _("This close job was already finished. Nothing was stopped.")
            self.message_user(request, sentence, messages.INFO)
            return
        write_history(self, request, job, str(_("Stopped.")))
        sentence = _("Stopped. Chats that were already being closed will finish.")
        self.message_user(request, sentence, messages.SUCCESS)

    def _retry(self, request: HttpRequest, job: CloseJob) -> CloseJob:
        """Return the job that retries the failed sessions, or this job if there are none."""
        known = retry_of(job)
        try:
            with _refusal_as_403():
                retry = retry_close_job(job, requested_by=request.user, via="admin")
        except InvalidInput as error:
            self.message_user(request, str(error), messages.ERROR)
            return job
        if retry != known:
            sentence = _("Retried the failed chats: %(job)s.") % {"job": retry}
            write_history(self, request, job, str(sentence))
        return retry

    def _page_of(self, request: HttpRequest, job: CloseJob) -> dict[str, Any]:
        """Return the context of the page of a job."""
        state = state_of(job)
        retry = retry_of(job)
        manages = _may_manage(request.user, job)
        is_stopped = job.is_finished or job.status == JobStatus.CANCELLED
        may_retry = manages and job.is_finished and job.failed and not retry
        return {
            "title": str(job),
            "original": job,
            "ways": [Way(label=_("History"), url=self.url_to("history", job.pk))],
            "state": state,
            "facts": self._facts_of(job),
            "outcomes": [(each, state["texts"].get(each, "")) for each in OUTCOMES],
            **self._failures_of(request, job, state),
            "retry": retry and self._link_to(retry),
            "has_unconfirmed": job.is_finished and state["counts"][ItemOutcome.UNCONFIRMED],
            "show_cancel": manages and not is_stopped,
            "retryable": store.retryable_items(job).count() if may_retry else 0,
        }

    def _facts_of(self, job: CloseJob) -> list[tuple[str, Any]]:
        """Return who requested it, when and why, without empty values."""
        facts = {
            "requested_by": job.requested_by or job.requester,
            "via": label_of(job.via),
            "note": job.note,
            "retry_of": job.retry_of and self._link_to(job.retry_of),
            "created_at": _moment(job.created_at),
            "started_at": _moment(job.started_at),
            "finished_at": _end_of(job),
        }
        return [
            (capfirst(str(_LABELS.get(name) or label_for_field(name, CloseJob))), fact)
            for name, fact in facts.items()
            if fact
        ]

    def _link_to(self, job: CloseJob) -> SafeString:
        return format_html('<a href="{}">{}</a>', self.url_to("change", job.pk), job)

    def _failures_of(
        self, request: HttpRequest, job: CloseJob, state: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the context of the failures: the first sessions that need attention."""
        number = sum(state["counts"][outcome] for outcome in FAILURES)
        items = CloseJobItems(job, self, request)
        failed = store.items_with_sessions(job).filter(outcome__in=FAILURES)
        first = failed[:FAILURES_SHOWN] if number else ()
        return {
            "opts": self.opts,
            "job": job,
            "failures": [_failure(items, item) for item in first],
            "number_of_failures": number,
            "more_failures": max(0, number - FAILURES_SHOWN),
        }

    def _question(
        self, request: HttpRequest, job: CloseJob, form: CloseJobForm
    ) -> TemplateResponse:
        return self._page(
            request,
            "closejob/confirmation.html",
            title=_("Close chat sessions"),
            original=job,
            form=form,
            back=self._way_back(request),
            **_counts_by_status(job),
        )

    def _way_back(self, request: HttpRequest) -> str:
        """Return the URL of the list that the sessions were selected in, with its filters."""
        sessions = admin_of_sessions(self.admin_site, request)
        if sessions is None:
            return self.url_of_index()
        url = url_to(sessions, "changelist")
        filters = request.GET.get("_changelist_filters", "")
        return f"{url}?{filters}" if filters else url

    def _redirect_to(self, job: CloseJob) -> HttpResponseRedirect:
        return HttpResponseRedirect(self.url_to("change", job.pk))


def _failure(items: CloseJobItems, item: CloseJobItem) -> dict[str, Any]:
    return {
        "session": items.session_shown(item),
        "outcome": item.get_outcome_display(),
        "status_now": items.status_now(item) or "",
        "reason": items.reason_shown(item),
    }


@contextmanager
def _refusal_as_403() -> Iterator[None]:
    try:
        yield
    except NotAllowed as error:
        raise PermissionDenied(str(error)) from error


def _may_manage(user: Any, job: CloseJob) -> bool:
    try:
        require_job(user, job)
    except NotAllowed:
        return False
    return True


def _moment(when: datetime | None) -> str:
    if when is None:
        return ""
    return date_format(localtime(when) if is_aware(when) else when, "DATETIME_FORMAT")


def _end_of(job: CloseJob) -> str:
    """Return when it ended, and how long it took."""
    if time := duration_of(job):
        return str(_("%(when)s, after %(time)s")) % {"when": _moment(job.finished_at), "time": time}
    return _moment(job.finished_at)


def _counts_by_status(job: CloseJob) -> dict[str, int]:
    """Return how many sessions a draft has, by their current state."""
    counted = store.items(job).order_by().values_list("session__status").annotate(Count("pk"))
    states: dict[str | None, int] = dict(counted)
    is_open = sum(states.get(status, 0) for status in ChatSession.OPEN)
    return {
        "total": sum(states.values()),
        "open": is_open,
        "unconfirmed": states.get(ChatSession.Status.UNCONFIRMED, 0),
        "closing": states.get(ChatSession.Status.CLOSING, 0),
        "closed": states.get(ChatSession.Status.CLOSED, 0),
        "gone": states.get(None, 0),
    }
