"""Close jobs in the admin: confirm, watch, cancel and retry them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
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
from django.utils.text import Truncator, capfirst
from django.utils.timezone import is_aware, localtime
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from osvi_django import clock
from osvi_django.admin.bounded import ConditionFilter, before, is_key
from osvi_django.admin.deletion import redirect_to_itself
from osvi_django.admin.forms import CloseJobForm
from osvi_django.admin.job_items import CloseJobItems
from osvi_django.admin.job_progress import (
    OUTCOMES,
    duration_of,
    selection_text,
    settled_text,
    state_of,
    status_style,
    status_text,
)
from osvi_django.admin.kept import Kept, drop, keep, posted, take
from osvi_django.admin.messages import message_for_selection
from osvi_django.admin.mixins import ReadOnlyRows, write_history
from osvi_django.admin.options import Names
from osvi_django.admin.pages import (
    OwnPages,
    Way,
    admin_of_sessions,
    is_after_login,
    posted_context,
    url_to,
)
from osvi_django.admin.pagination import CappedPaginator
from osvi_django.admin.sources import REQUESTED_BY, WHERE, RequestColumns, ViaFilter, label_of
from osvi_django.database import non_atomic
from osvi_django.exceptions import InvalidInput, NotAllowed, OSVIError, OSVINotConfigured
from osvi_django.models import ChatSession, CloseJob, CloseJobItem
from osvi_django.services.access import Purpose, sessions_inside
from osvi_django.services.jobs import (
    cancel_close_job,
    confirm_close_job,
    resume_stalled,
    retry_close_job,
    retry_of,
    store,
)
from osvi_django.services.jobs.items import WAITS_FOR_A_PERSON, with_a_colleague
from osvi_django.services.jobs.lifecycle import delete_stale_drafts
from osvi_django.services.permissions import (
    CLOSE,
    VIEW_JOB,
    may_close,
    may_operate,
    may_view_all_jobs,
    require_job,
    visible_items,
    visible_jobs,
)
from osvi_django.services.recovery import Settled, recover_session

JobStatus = CloseJob.Status
ItemOutcome = CloseJobItem.Outcome

FAILURES_SHOWN: Final = 50
CHECK_SECONDS: Final = 20
_SOME_LEFT: Final = _("OSVI is slow: some chats are left. Press “Check with OSVI” again.")
_RETRIED: Final = _("Retried the failed chats: %(job)s.")
_RETRIED_REST: Final = _("Closing the rest: %(job)s.")
_FAILURES: Final = "admin/osvi_django/closejob/failures.html"
_ACTIONS: Final = "admin/osvi_django/closejob/actions.html"

UNFINISHED: Final = "unfinished"
# What staff call the fields of a job.
_LABELS: Final = {"requested_by": REQUESTED_BY, "via": WHERE}


class JobStatusFilter(ConditionFilter):
    """Filter by status, without drafts, which are not listed."""

    title = _("status")
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        states = [(each.value, each.label) for each in JobStatus if each != JobStatus.DRAFT]
        # What needed attention at the end of a job may be settled since.
        labels = {JobStatus.COMPLETED_WITH_ERRORS.value: _("finished, not all closed")}
        named = [(value, labels.get(value, label)) for value, label in states]
        return [(UNFINISHED, _("not finished")), *named]

    def condition(self, value: str) -> Q:
        if value == UNFINISHED:
            return Q(status__in=CloseJob.UNFINISHED)
        return Q(status=value)


class JobChangeList(ChangeList):
    """The list of jobs without drafts, which are not confirmed."""

    def get_queryset(self, *args: Any, **kwargs: Any) -> QuerySet[CloseJob]:
        jobs: QuerySet[CloseJob] = super().get_queryset(*args, **kwargs)
        return jobs.exclude(status=JobStatus.DRAFT)

    def get_results(self, request: HttpRequest) -> None:
        """Count what needs attention now for all jobs of the page at once."""
        super().get_results(request)
        jobs = list(self.result_list)
        counts = store.count_needing_attention(jobs)
        for job in jobs:
            job.needs_attention = counts.get(job.pk, 0)


@admin.register(CloseJob)
class CloseJobAdmin(ReadOnlyRows, RequestColumns, OwnPages):
    """Show close jobs. They start in the list of sessions or via another entry point.

    An admin site offers *Close selected* in its list of sessions if it has this one as well.
    """

    list_display: Names = (
        "name_shown",
        "status_shown",
        "done_of_total",
        "outcome_shown",
        "requested_by_shown",
        "why_shown",
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

    def permissions_for(self, page: str) -> Sequence[str]:
        """Return the permissions of which each one opens a page."""
        return (CLOSE,) if page in {"confirm", "cancel", "retry"} else (CLOSE, VIEW_JOB)

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
            self._path("<int:job_id>/check", self.check_view),
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
        attention = _attention_of(job)
        style, words = status_style(job, attention), status_text(job, attention)
        return format_html('<span class="osvi-status osvi-job-{}">{}</span>', style, words)

    @admin.display(description=_("outcome in the job"), ordering="failed")
    def outcome_shown(self, job: CloseJob) -> str:
        """Return how many were not closed, and why, whatever became of them since."""
        outcomes = (
            (job.failed, _("%(number)s failed")),
            (job.unconfirmed, _("%(number)s unconfirmed")),
            (job.cancelled, _("%(number)s not closed")),
        )
        return ", ".join(
            str(words) % {"number": localize(each)} for each, words in outcomes if each
        )

    @admin.display(description=_("why"))
    def why_shown(self, job: CloseJob) -> SafeString | str:
        """Return the reason and the first words of the note."""
        why = ": ".join(filter(None, (job.close_reason, job.note)))
        return format_html('<span dir="auto">{}</span>', Truncator(why).chars(60)) if why else ""

    @admin.display(description=_("done"))
    def done_of_total(self, job: CloseJob) -> str:
        """Return the progress of the job, without what it did not start because it was stopped."""
        numbers = {"done": localize(job.done), "total": localize(job.total)}
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
        context = {
            **self._failures_of(request, job, state),
            **self._actions_of(request, job),
        }
        failures = render_to_string(_FAILURES, context, request)
        actions = render_to_string(_ACTIONS, context, request)
        return JsonResponse({**state, "failures": failures, "actions": actions})

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
            if is_after_login(request):
                return self._return_after_login(request, page)
            form, kept = self._form(request, job), take(request, page)
            return self._question(request, job, kept.fill(form), kept)
        form = self._form(request, job, posted(request))
        if form.is_valid():
            self._confirm(request, job, form)
            drop(request, page)
        elif job.status == JobStatus.DRAFT:
            keep(request, page, form)
            return redirect_to_itself(request)
        return self._redirect_to(job)

    def cancel_view(self, request: HttpRequest, job_id: int) -> HttpResponseBase:
        """Ask whether to stop a job (GET), and stop it (POST)."""
        job = self._find_managed(request, job_id)
        if request.method == "POST":
            self._cancel(request, job)
        elif not _is_stopped(job):
            title, left = (
                _("Stop close job"),
                store.items(job).filter(outcome=ItemOutcome.WAITING).count(),
            )
            template = "closejob/cancel_confirmation.html"
            return self._page(request, template, title=title, original=job, left=left)
        return self._redirect_to(job)

    def check_view(self, request: HttpRequest, job_id: int) -> HttpResponseBase:
        """Ask OSVI about the unconfirmed sessions of a job (POST), for a limited time.

        The next request continues after the last one, so that one that OSVI does not answer for
        does not keep the others waiting.
        """
        job = self._find(request, job_id)
        if request.method != "POST":
            return self._redirect_to(job)
        after = request.POST.get("after", "")
        first = int(after) if is_key(after) else 0
        sessions = _one_by_one(job, request.user, after=first)
        last, left = self._check(request, sessions, ends_at=_check_until())
        if not left:
            return self._redirect_to(job)
        return HttpResponseRedirect(f"{self.url_to('change', job.pk)}?after={last}")

    def retry_view(self, request: HttpRequest, job_id: int) -> HttpResponseBase:
        """Create a job that retries the failed sessions (POST), or redirect to an existing one.

        The rest of a job is a draft first: no user has confirmed yet that these are closed now.
        """
        job = self._find_managed(request, job_id)
        if request.method != "POST":
            return self._redirect_to(job)
        include_cancelled = request.POST.get("rest") == "yes"
        return self._redirect_to(self._retry(request, job, include_cancelled=include_cancelled))

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

    def _confirm(self, request: HttpRequest, job: CloseJob, form: CloseJobForm) -> None:
        """Start a draft, unless it was started before."""
        try:
            with _refusal_as_403():
                confirm_close_job(job, requested_by=request.user, **form.options)
        except InvalidInput as error:
            # A colleague was faster, or it was a double click.
            self.message_user(request, str(error), messages.INFO)
        else:
            write_history(self, request, job, str(_("Confirmed.")))
            if job.retry_of:
                write_history(self, request, job.retry_of, str(_RETRIED_REST) % {"job": job})

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

    def _form(
        self, request: HttpRequest, job: CloseJob, data: dict[str, str] | None = None
    ) -> CloseJobForm:
        may_write = may_operate(request.user)
        words = {name: getattr(job, name) for name in ("close_reason", "note", "goodbye")}
        return CloseJobForm(data, accounts=store.accounts(job), may_write=may_write, initial=words)

    def _check(
        self, request: HttpRequest, sessions: Iterator[ChatSession], *, ends_at: float
    ) -> tuple[int, bool]:
        """Check sessions one after the other; return the last key, and whether some are left."""
        settled: Counter[Settled] = Counter()
        last, left = 0, False
        for session in sessions:
            if clock.monotonic() > ends_at:
                left = True
                break
            last = session.pk
            settled[self._check_one(request, session)] += 1
        self._say_checked(request, settled, left=left)
        return last, left

    def _check_one(self, request: HttpRequest, session: ChatSession) -> Settled:
        try:
            with _refusal_as_403():
                return recover_session(session, requested_by=request.user, via="admin").settled
        except (OSVIError, OSVINotConfigured):  # the page of the session says why
            return Settled.UNCHANGED

    def _say_checked(self, request: HttpRequest, settled: Counter[Settled], *, left: bool) -> None:
        unchanged = settled.pop(Settled.UNCHANGED, 0)
        if settled:
            self.message_user(request, message_for_selection(settled), messages.SUCCESS)
        if unchanged:
            sentence = ngettext(
                "OSVI did not say whether %(number)d chat is closed. It is checked again later.",
                "OSVI did not say whether %(number)d chats are closed. They are checked again "
                "later.",
                unchanged,
            )
            self.message_user(request, sentence % {"number": unchanged}, messages.WARNING)
        if left:
            self.message_user(request, _SOME_LEFT, messages.WARNING)

    def _retry(self, request: HttpRequest, job: CloseJob, *, include_cancelled: bool) -> CloseJob:
        """Return the job that retries the failed sessions, or this job if there are none."""
        known = retry_of(job)
        delete_stale_drafts()
        try:
            with _refusal_as_403():
                retry = retry_close_job(
                    job,
                    requested_by=request.user,
                    via="admin",
                    include_cancelled=include_cancelled,
                    draft=include_cancelled,
                )
        except InvalidInput as error:
            self.message_user(request, str(error), messages.ERROR)
            return job
        if retry != known and not include_cancelled:
            write_history(self, request, job, str(_RETRIED) % {"job": retry})
        return retry

    def _page_of(self, request: HttpRequest, job: CloseJob) -> dict[str, Any]:
        """Return the context of the page of a job."""
        state = state_of(job)
        retry = retry_of(job) if job.is_finished else None
        return {
            "title": job,
            "original": job,
            "ways": [Way(label=_("History"), url=self.url_to("history", job.pk))],
            "state": state,
            "status_style": status_style(job, state["attention"]),
            "facts": self._facts_of(job),
            "outcomes": [(each, state["texts"].get(each, "")) for each in OUTCOMES],
            **self._failures_of(request, job, state),
            "retry": retry and self._link_to(retry),
            "has_unconfirmed": job.is_finished and state["counts"][ItemOutcome.UNCONFIRMED],
            "show_cancel": _may_manage(request.user, job) and not _is_stopped(job),
            **self._actions_of(request, job, retry),
            "after": request.GET.get("after", ""),
        }

    def _actions_of(
        self, request: HttpRequest, job: CloseJob, retry: CloseJob | None = None
    ) -> dict[str, Any]:
        """Return the context of the buttons: how many chats each is for; 0 for no button."""
        manages = job.is_finished and _may_manage(request.user, job)
        user = request.user
        is_open_again = bool(manages and job.unconfirmed and _is_open_again(job, retry, user))
        has_rest = manages and (is_cancelled(job) or (retry and is_open_again))
        rest = _rest_of(job, user) if has_rest else 0
        may_retry = manages and (job.failed or is_open_again) and not (retry or rest)
        retryable = store.retryable_items(job, user=user).count() if may_retry else 0
        return {
            "rest": rest,
            "retryable": retryable,
            "closes_again": is_open_again and not is_cancelled(job),
            "checkable": self._checkable(request, job),
        }

    def _checkable(self, request: HttpRequest, job: CloseJob) -> int:
        """Return how many sessions of a job this user may check with OSVI now."""
        if not job.unconfirmed or not may_close(request.user):
            return 0
        return _to_check(job, request.user).count()

    def _facts_of(self, job: CloseJob) -> list[tuple[str, Any]]:
        """Return who requested it, when and why, without empty values."""
        facts = {
            "requested_by": job.requested_by or job.requester,
            "via": label_of(job.via),
            "selection": selection_text(job),
            "close_reason": job.close_reason,
            "note": job.note,
            "goodbye": job.goodbye,
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
        number = state["attention"]
        items = CloseJobItems(job, self, request)
        troubled = visible_items(store.items_needing_attention(job), request.user)
        first = troubled[:FAILURES_SHOWN] if number else ()
        return {
            "opts": self.opts,
            "job": job,
            "failures": [_failure(items, item) for item in first],
            "number_of_failures": number,
            "more_failures": max(0, number - FAILURES_SHOWN),
            "settled": settled_text(state),
        }

    def _question(
        self, request: HttpRequest, job: CloseJob, form: CloseJobForm, kept: Kept
    ) -> TemplateResponse:
        return self._page(
            request,
            "closejob/confirmation.html",
            title=_("Close chat sessions"),
            original=job,
            form=form,
            back=self._back_from(request, job),
            selection=selection_text(job),
            rest_of=job.retry_of and self._link_to(job.retry_of),
            **_counts_by_status(job),
            **_counts_of_spared(job, request.user),
            **posted_context(request, kept),
        )

    def _back_from(self, request: HttpRequest, job: CloseJob) -> str:
        """Return the URL of the job whose rest this one has, or of the list of sessions."""
        if job.retry_of:
            return self.url_to("change", job.retry_of.pk)
        return self._way_back(request)

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


def _attention_of(job: CloseJob) -> int:
    """Return how many of its chats need attention now, as the list has counted them."""
    known: int | None = getattr(job, "needs_attention", None)
    return store.count_needing_attention([job]).get(job.pk, 0) if known is None else known


def _failure(items: CloseJobItems, item: CloseJobItem) -> dict[str, Any]:
    return {
        "session": items.session_shown(item),
        "customer": items.customer_shown(item),
        "agent": items.agent_shown(item),
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


def _is_stopped(job: CloseJob) -> bool:
    return job.is_finished or is_cancelled(job)


def is_cancelled(job: CloseJob) -> bool:
    """Return whether nothing more of a job is started."""
    return bool(job.status == JobStatus.CANCELLED)


def _is_open_again(job: CloseJob, retry: CloseJob | None, user: Any) -> bool:
    """Return whether a chat that was unconfirmed is open by now, and is in no later job."""
    left = store.retryable_items(job, user=user, include_cancelled=retry is not None)
    return left.filter(outcome=ItemOutcome.UNCONFIRMED).exists()


def _rest_of(job: CloseJob, user: Any) -> int:
    return store.retryable_items(job, user=user, include_cancelled=True).count()


def _to_check(job: CloseJob, user: Any, *, after: int = 0) -> QuerySet[ChatSession]:
    """Return the unconfirmed sessions of a job that this user may settle."""
    return sessions_inside(store.unconfirmed_sessions(job, after=after), user, Purpose.CLOSE)


def _one_by_one(job: CloseJob, user: Any, *, after: int) -> Iterator[ChatSession]:
    """Yield the unconfirmed sessions, without a cursor that would stay open beyond commits."""
    while (session := _to_check(job, user, after=after).first()) is not None:
        after = session.pk
        yield session


def _check_until() -> float:
    """Return until when one page may ask OSVI: many web servers stop it after 30 seconds."""
    return clock.monotonic() + CHECK_SECONDS


def _counts_of_spared(job: CloseJob, user: Any) -> dict[str, int]:
    """Return how many of a draft wait for a person, and how many a colleague has."""
    sessions = store.sessions_waiting(job)
    return {
        "waiting_for_help": sessions.filter(WAITS_FOR_A_PERSON).count(),
        "with_colleague": sessions.filter(with_a_colleague(user)).count(),
    }


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
