"""Close jobs over REST: create, show, cancel and retry them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.db import router
from django.db.models import Max, Min, QuerySet
from django.http import Http404
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as _lazy
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.generics import get_object_or_404
from rest_framework.request import Request
from rest_framework.response import Response

from osvi_django.exceptions import InvalidInput
from osvi_django.models import ChatSession, CloseJob, CloseJobItem
from osvi_django.rest.errors import problem_of
from osvi_django.rest.fields import current_limit
from osvi_django.rest.input_serializers import (
    BulkCloseSerializer,
    EmptySerializer,
    PageSerializer,
    ResultFilterSerializer,
    RetrySerializer,
)
from osvi_django.rest.output_serializers import (
    JobSerializer,
    ResultSerializer,
    ResultWithSummarySerializer,
)
from osvi_django.rest.pagination import KeysetPagination, NewestFirst
from osvi_django.rest.parsing import validated_body, validated_query
from osvi_django.rest.preferences import preferences_of
from osvi_django.rest.responses import accepted, finished_after, job_body, seconds_to_next_look
from osvi_django.rest.views.base import (
    JOB_SCOPE,
    OSVIAPIView,
    OSVIListView,
    SummariesListView,
)
from osvi_django.services.jobs import (
    cancel_close_job,
    create_close_job,
    resume_stalled,
    retry_close_job,
    store,
)
from osvi_django.services.jobs.items import matching_sessions
from osvi_django.services.permissions import require_close, visible_items, visible_jobs
from osvi_django.services.selectors import SessionFilter


class BulkCloseView(OSVIAPIView):
    """``POST sessions/close/`` with ``session_ids`` or ``filter``, and ``note``."""

    description = _lazy(
        "Create a job that closes many chat sessions, named by their ids or chosen by a filter."
    )
    post_scope = JOB_SCOPE

    def post(self, request: Request, **kwargs: Any) -> Response:
        """Create the job: 202, the job, and its URL."""
        wanted = self._wanted(request)
        ids, chosen = wanted.pop("session_ids", None), wanted.pop("filter", None)
        if not ids:
            wanted["search"] = chosen.pop("search", None)
        sessions = ids or self._selected(request, wanted["search"], chosen)
        job = create_close_job(sessions, requested_by=request.user, via="rest", **wanted)
        preferred = preferences_of(request)
        if preferred.wait and finished_after(job, preferred.wait):
            return preferred.note_applied(Response(job_body(job, request)))
        return preferred.note_applied(accepted(job, request))

    def _wanted(self, request: Request) -> dict[str, Any]:
        try:
            return validated_body(BulkCloseSerializer, request)
        except ValidationError:
            # Without a usable body there is no session for which they may have been allowed it.
            require_close(request.user)
            raise

    def _selected(
        self, request: Request, search: str | None, wanted: dict[str, Any]
    ) -> SessionFilter:
        limit = current_limit()
        with _errors_of_filter():
            chosen = SessionFilter(**wanted).for_closing()
            sessions = matching_sessions(chosen, request.user, search)
        if sessions.order_by()[: limit + 1].count() > limit:
            problem = _(
                "The filter matches more than %(limit)d chat sessions, the maximum per request."
            )
            raise ValidationError({"filter": [problem % {"limit": limit}]})
        return chosen


@contextmanager
def _errors_of_filter() -> Iterator[None]:
    """Name the field of an error as a caller has sent it: inside of ``filter``."""
    try:
        yield
    except InvalidInput as error:
        raise ValidationError({"filter": {error.field: [problem_of(error)]}}) from None


class JobListView(OSVIListView[CloseJob]):
    """``GET close-jobs/``: the jobs that the caller may see, newest first."""

    description = _lazy("List the close jobs that you may see, newest first.")
    pagination_class = NewestFirst
    serializer_class = JobSerializer
    query_serializer = PageSerializer

    def get_queryset(self) -> QuerySet[CloseJob]:
        """Return the caller's jobs, or all jobs if the caller may see them."""
        return _jobs_for(self.request)


class JobView(OSVIAPIView):
    """``GET close-jobs/{id}/``: the progress of a job."""

    description = _lazy("Show the progress of a close job.")

    def get(self, request: Request, pk: str, **kwargs: Any) -> Response:
        """Return the job, and resume it if it has stalled."""
        job = _job_for(request, pk)
        response = Response(job_body(job, request))
        if not job.is_finished:
            resume_stalled(job)
            response["Retry-After"] = seconds_to_next_look(job)
        return response


class JobResultsView(SummariesListView[CloseJobItem]):
    """``GET close-jobs/{id}/results/``: its sessions, filtered by ``outcome``."""

    description = _lazy("List the chat sessions of a close job, with the outcome of each.")
    pagination_class = KeysetPagination
    serializer_class = ResultSerializer
    query_serializer = ResultFilterSerializer

    def get_queryset(self) -> QuerySet[CloseJobItem]:
        """Return the sessions that match the query string."""
        wanted = validated_query(ResultFilterSerializer, self.request)
        job = _job_for(self.request, self.kwargs["pk"])
        items = visible_items(store.items_with_sessions(job), self.request.user)
        if wanted.pop("expand", None):
            items = items.select_related("session__summary")
        return items.filter(pk__range=_ends(items), **wanted)

    def sessions_on(self, page: Sequence[Any]) -> Sequence[ChatSession]:
        """Return the sessions whose summaries a page shows, if the caller asks for them."""
        if self.get_serializer_class() is ResultSerializer:
            return ()
        return [each.session for each in page if each.session is not None]

    def get_serializer_class(self) -> type[ResultSerializer]:
        """Return the serializer of the results, with summaries if the caller asks for them."""
        is_expanded = "expand" in self.request.query_params
        return ResultWithSummarySerializer if is_expanded else ResultSerializer


class JobCancelView(OSVIAPIView):
    """``POST close-jobs/{id}/cancel/``."""

    description = _lazy("Cancel a close job: no more chat sessions are started.")
    post_scope = JOB_SCOPE

    def post(self, request: Request, pk: str, **kwargs: Any) -> Response:
        """Cancel the job: 200 and the job, which may already have been finished."""
        validated_body(EmptySerializer, request)
        job = cancel_close_job(_job_for(request, pk), requested_by=request.user)
        return Response(job_body(job, request))


class JobRetryView(OSVIAPIView):
    """``POST close-jobs/{id}/retry/``."""

    description = _lazy("Create a close job for the chat sessions that can safely be tried again.")
    post_scope = JOB_SCOPE

    def post(self, request: Request, pk: str, **kwargs: Any) -> Response:
        """Create a job of the failed sessions: 202 and the new job."""
        wanted = validated_body(RetrySerializer, request)
        job = _job_for(request, pk)
        retry = retry_close_job(job, requested_by=request.user, via="rest", **wanted)
        return accepted(retry, request)


def _jobs_for(request: Request) -> QuerySet[CloseJob]:
    # Read from the database it is written to: the URL of a new job must work at once.
    jobs = visible_jobs(request.user).using(router.db_for_write(CloseJob))
    return jobs.exclude(status=CloseJob.Status.DRAFT).select_related("requested_by")


def _job_for(request: Request, pk: str) -> CloseJob:
    try:
        return get_object_or_404(_jobs_for(request), pk=pk)
    except Http404:
        raise NotFound(_("This site has no such close job.")) from None


def _ends(items: QuerySet[CloseJobItem]) -> tuple[int, int]:
    """Return the first and the last key of a job's items; zeros if it has none.

    They keep databases from reading the keys of other jobs to find a page.
    """
    # One after the other, as SQLite finds both at once only by reading each row.
    first, last = (items.order_by().aggregate(end=end("pk"))["end"] for end in (Min, Max))
    return first or 0, last or 0
