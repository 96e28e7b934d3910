"""Close jobs in the admin: confirm one, watch it, cancel it, and try again what failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

from django.contrib import admin, messages
from django.contrib.admin.utils import label_for_field, unquote
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db.models import Count, QuerySet
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
from django.urls import URLPattern, path, reverse
from django.utils.formats import date_format, localize
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.timezone import localtime
from django.utils.translation import gettext_lazy as _

from osvi_django.admin.doors import DoorFilter, DoorShown, label_of
from osvi_django.admin.forms import CloseJobForm
from osvi_django.admin.job_items import CloseJobItems
from osvi_django.admin.pagination import CappedPaginator
from osvi_django.admin.progress import FAILURES, OUTCOMES, state_of, took
from osvi_django.admin.rows import ReadOnlyRows, may_visit_sessions, url_of, write_history
from osvi_django.exceptions import InvalidInput, NotAllowed
from osvi_django.models import ChatSession, CloseJob, CloseJobItem
from osvi_django.services.jobs import (
    cancel_close_job,
    confirm_close_job,
    retry_close_job,
    retry_of,
    take_up,
)
from osvi_django.services.permissions import (
    may_close,
    may_view_all_jobs,
    require_job,
    visible_jobs,
)
from osvi_django.transactions import non_atomic

JobStatus = CloseJob.Status

FAILURES_SHOWN: Final = 50
_FAILURES: Final = "admin/osvi_django/closejob/failures.html"


class JobStatusFilter(admin.SimpleListFilter):
    """The status, without that of drafts, which are not listed."""

    title = _("status")
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [(each.value, each.label) for each in JobStatus if each != JobStatus.DRAFT]

    def queryset(self, request: HttpRequest, queryset: QuerySet[CloseJob]) -> QuerySet[CloseJob]:
        wanted = self.value()
        return queryset if wanted is None else queryset.filter(status=wanted)


class JobList(ChangeList):
    """The list of jobs without drafts, which are nothing yet but a page that asks."""

    def get_queryset(self, *args: Any, **kwargs: Any) -> QuerySet[CloseJob]:
        jobs: QuerySet[CloseJob] = super().get_queryset(*args, **kwargs)
        return jobs.exclude(status=JobStatus.DRAFT)


@admin.register(CloseJob)
class CloseJobAdmin(ReadOnlyRows, DoorShown, admin.ModelAdmin):  # type: ignore[type-arg]
    """Jobs begin in the list of sessions, or through another door; here they are watched.

    An admin site that has ``ChatSessionAdmin`` needs this one as well: *Close selected* leads here.
    """

    list_display = (
        "name_shown",
        "status_shown",
        "done_of_total",
        "failed",
        "unconfirmed",
        "requested_by",
        "created_at",
        "door_shown",
    )
    list_filter = (JobStatusFilter, DoorFilter)
    list_per_page = 50
    show_full_result_count = False
    paginator = CappedPaginator
    actions = None

    class Media:
        css = {"all": ("osvi_django/admin.css",)}

    def has_module_permission(self, request: HttpRequest) -> bool:
        """For those who may close sessions, and those who may see the jobs of others."""
        return self.has_view_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: CloseJob | None = None) -> bool:
        """Whether there is anything here for this user; ``get_queryset`` says which jobs."""
        return may_close(request.user) or may_view_all_jobs(request.user)

    def get_queryset(self, request: HttpRequest) -> QuerySet[CloseJob]:
        """The user's own jobs, and with the permission those of all others."""
        return visible_jobs(request.user).select_related("requested_by", "retry_of")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return JobList

    def get_urls(self) -> list[URLPattern]:
        """The admin's URLs and ours, all outside any transaction: a look may take a job up."""
        urls = [
            self._path("confirm", self.confirm_view),
            self._path("progress", self.progress_view),
            self._path("cancel", self.cancel_view),
            self._path("retry", self.retry_view),
            self._path("sessions", self.sessions_view),
            *super().get_urls(),
        ]
        for pattern in urls:
            pattern.callback = non_atomic(pattern.callback)
        return urls

    @admin.display(description=_("close job"), ordering="id")
    def name_shown(self, job: CloseJob) -> str:
        """How a job is called everywhere."""
        return str(job)

    @admin.display(description=_("status"), ordering="status")
    def status_shown(self, job: CloseJob) -> SafeString:
        """The status in its own colour."""
        return format_html(
            '<span class="osvi-status osvi-job-{}">{}</span>', job.status, job.get_status_display()
        )

    @admin.display(description=_("done"))
    def done_of_total(self, job: CloseJob) -> str:
        """How far it has come."""
        numbers = {"done": localize(job.done + job.cancelled), "total": localize(job.total)}
        return str(_("%(done)s of %(total)s") % numbers)

    def get_fieldsets(self, request: HttpRequest, obj: CloseJob | None = None) -> Any:
        """None: the page says all there is in its own way."""
        return ()

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """The page of a job, which keeps itself up to date; a draft has the one that asks."""
        job = self._looked_at(request, unquote(object_id))
        if job.status == JobStatus.DRAFT:
            return HttpResponseRedirect(url_of(self, "closejob_confirm", job))
        context = {**self._page_of(request, job), **(extra_context or {})}
        return super().change_view(request, object_id, form_url, context)

    def progress_view(self, request: HttpRequest, job_id: int) -> HttpResponseBase:
        """How far the job is, as JSON for the script on its page."""
        job = self._looked_at(request, job_id)
        state = state_of(job)
        failures = render_to_string(_FAILURES, self._failures_of(request, job, state), request)
        return JsonResponse({**state, "failures": failures})

    def sessions_view(self, request: HttpRequest, job_id: int) -> HttpResponseBase:
        """The sessions of the job, and what became of each."""
        job = self._find(request, job_id)
        sessions = CloseJobItems(job, self.admin_site, request.user)
        title = _("Chat sessions of close job %(id)s") % {"id": job.pk}
        context = {"title": title, "job": job, "job_opts": self.opts}
        return sessions.changelist_view(request, context)

    def confirm_view(self, request: HttpRequest, job_id: int) -> HttpResponseBase:
        """Ask whether to begin a draft (GET), and let it begin (POST)."""
        job = self._find_managed(request, job_id)
        form = CloseJobForm(request.POST if request.method == "POST" else None)
        if job.status == JobStatus.DRAFT and not form.is_valid():
            return self._question(request, job, form)
        if form.is_valid():
            self._confirm(request, job, form.cleaned_data["note"])
        return self._redirect_to(job)

    def cancel_view(self, request: HttpRequest, job_id: int) -> HttpResponseBase:
        """Stop a job (POST)."""
        job = self._find_managed(request, job_id)
        if request.method == "POST":
            self._cancel(request, job)
        return self._redirect_to(job)

    def retry_view(self, request: HttpRequest, job_id: int) -> HttpResponseBase:
        """Make a new job of what failed (POST), or lead to the one that was made of it."""
        job = self._find_managed(request, job_id)
        if request.method != "POST":
            return self._redirect_to(job)
        return self._redirect_to(self._retry(request, job))

    def _find(self, request: HttpRequest, job_id: int | str) -> CloseJob:
        """The job, where this user may see it. Raises ``Http404``, ``PermissionDenied``."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        job: CloseJob | None = self.get_object(request, str(job_id))
        if job is None:
            raise Http404
        return job

    def _find_managed(self, request: HttpRequest, job_id: int) -> CloseJob:
        """The job, where this user may decide about it. Raises as ``_find``."""
        job = self._find(request, job_id)
        with _refusal_as_403():
            require_job(request.user, job)
        return job

    def _looked_at(self, request: HttpRequest, job_id: int | str) -> CloseJob:
        """The job; if nobody works on it any more, a look at it lets it go on."""
        job = self._find(request, job_id)
        if not job.is_finished and take_up(job):
            job.refresh_from_db()
        return job

    def _confirm(self, request: HttpRequest, job: CloseJob, note: str) -> None:
        try:
            with _refusal_as_403():
                confirm_close_job(job, requested_by=request.user, note=note)
        except InvalidInput as error:  # somebody was quicker, or clicked twice
            self.message_user(request, str(error), messages.INFO)
        else:
            write_history(self, request, job, str(_("Confirmed.")))

    def _cancel(self, request: HttpRequest, job: CloseJob) -> None:
        with _refusal_as_403():
            job = cancel_close_job(job, requested_by=request.user)
        if job.status != JobStatus.CANCELLED:
            sentence = _("This close job was finished already: nothing was cancelled.")
            self.message_user(request, sentence, messages.INFO)
            return
        write_history(self, request, job, str(_("Cancelled.")))
        sentence = _("Nothing more of this close job is begun; what is under way comes to its end.")
        self.message_user(request, sentence, messages.SUCCESS)

    def _retry(self, request: HttpRequest, job: CloseJob) -> CloseJob:
        """The job that tries again what failed; the same one where there is nothing to try."""
        known = retry_of(job)
        try:
            with _refusal_as_403():
                retry = retry_close_job(job, requested_by=request.user, door="admin")
        except InvalidInput as error:
            self.message_user(request, str(error), messages.ERROR)
            return job
        if retry != known:
            sentence = _("Tried again what failed: %(job)s.") % {"job": retry}
            write_history(self, request, job, str(sentence))
        return retry

    def _page_of(self, request: HttpRequest, job: CloseJob) -> dict[str, Any]:
        """What the page of a job shows beside its facts."""
        state = state_of(job)
        retry = retry_of(job)
        manages = _may_manage(request.user, job)
        is_stopped = job.is_finished or job.status == JobStatus.CANCELLED
        return {
            "state": state,
            "facts": self._facts_of(job),
            "outcomes": [(each, state["texts"].get(each, "")) for each in OUTCOMES],
            **self._failures_of(request, job, state),
            "retry": retry and self._link_to(retry),
            "show_cancel": manages and not is_stopped,
            "show_retry": manages and job.is_finished and job.failed and not retry,
        }

    def _facts_of(self, job: CloseJob) -> list[tuple[str, Any]]:
        """Who wanted it, when and why; what is not so is left out."""
        facts = {
            "requested_by": job.requested_by,
            "door": label_of(job.door),
            "note": job.note,
            "retry_of": job.retry_of and self._link_to(job.retry_of),
            "created_at": _moment(job.created_at),
            "started_at": _moment(job.started_at),
            "finished_at": _end_of(job),
        }
        return [
            (capfirst(str(label_for_field(name, CloseJob))), fact)
            for name, fact in facts.items()
            if fact
        ]

    def _link_to(self, job: CloseJob) -> SafeString:
        return format_html('<a href="{}">{}</a>', url_of(self, "closejob_change", job), job)

    def _failures_of(
        self, request: HttpRequest, job: CloseJob, state: dict[str, Any]
    ) -> dict[str, Any]:
        """What the template of failures shows: the first that need somebody's attention."""
        number = sum(state["counts"][outcome] for outcome in FAILURES)
        items = CloseJobItems(job, self.admin_site, request.user)
        first = job.items.filter(outcome__in=FAILURES)[:FAILURES_SHOWN] if number else ()
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
        context = {
            **self.admin_site.each_context(request),
            "title": _("Close chat sessions"),
            "opts": self.opts,
            "media": self.media,
            "original": job,
            "form": form,
            "has_view_permission": True,
            "back": self._way_back(request),
            **_make_up_of(job),
        }
        request.current_app = self.admin_site.name
        template = "admin/osvi_django/closejob/confirmation.html"
        return TemplateResponse(request, template, context)

    def _way_back(self, request: HttpRequest) -> str:
        """The list that the sessions were chosen from, filtered as it was."""
        site = self.admin_site.name
        if not may_visit_sessions(self.admin_site, request.user):
            return reverse("admin:index", current_app=site)
        url = reverse("admin:osvi_django_chatsession_changelist", current_app=site)
        filters = request.GET.get("_changelist_filters", "")
        return f"{url}?{filters}" if filters else url

    def _redirect_to(self, job: CloseJob) -> HttpResponseRedirect:
        return HttpResponseRedirect(url_of(self, "closejob_change", job))

    def _path(self, name: str, view: Callable[..., HttpResponseBase]) -> URLPattern:
        return path(
            f"<int:job_id>/{name}/",
            self.admin_site.admin_view(view),
            name=f"{self.opts.app_label}_{self.opts.model_name}_{name}",
        )


def _failure(items: CloseJobItems, item: CloseJobItem) -> dict[str, Any]:
    return {
        "session": items.session_shown(item),
        "outcome": item.get_outcome_display(),
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
    return date_format(localtime(when), "DATETIME_FORMAT") if when else ""


def _end_of(job: CloseJob) -> str:
    """When it ended, and how long it took."""
    if time := took(job):
        return str(_("%(when)s, after %(time)s")) % {"when": _moment(job.finished_at), "time": time}
    return _moment(job.finished_at)


def _make_up_of(job: CloseJob) -> dict[str, int]:
    """How many sessions a draft has, and in which state they are now."""
    counted = job.items.order_by().values_list("session__status").annotate(Count("pk"))
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
