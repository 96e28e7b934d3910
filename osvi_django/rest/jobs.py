"""Closing many over REST: a job is made, looked at, cancelled and tried again."""

from __future__ import annotations

import math
from typing import Any

from django.db import router
from django.db.models import Max, Min, QuerySet
from django.http import Http404
from django.utils import timezone
from django.utils.translation import gettext as _
from rest_framework import status
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.generics import ListAPIView, get_object_or_404
from rest_framework.parsers import JSONParser
from rest_framework.request import Request
from rest_framework.response import Response

from osvi_django.models import ChatSession, CloseJob, CloseJobItem
from osvi_django.rest.errors import OwnView
from osvi_django.rest.incoming import asked, asked_by_address
from osvi_django.rest.pagination import ByKey, NewestByKey
from osvi_django.rest.permissions import MayAsk
from osvi_django.rest.serializers import (
    BulkCloseSerializer,
    JobSerializer,
    NothingSerializer,
    QuerySerializer,
    ResultFilterSerializer,
    ResultSerializer,
    current_limit,
    job_url,
)
from osvi_django.services import ledger
from osvi_django.services.closing import LOOK_AGAIN_AFTER
from osvi_django.services.jobs import (
    cancel_close_job,
    create_close_job,
    retry_close_job,
    take_up,
)
from osvi_django.services.permissions import visible_jobs
from osvi_django.services.selection import select_sessions


class BulkCloseView(OwnView):
    """``POST sessions/close/`` with ``session_ids`` or ``filter``, and ``note``."""

    permission_classes = (MayAsk,)
    # A form has no lists and objects of its own, and whatever it has instead could be misread.
    parser_classes = (JSONParser,)

    def post(self, request: Request, **kwargs: Any) -> Response:
        """Make the job: 202, what it is, and where to look at it."""
        wanted = asked(BulkCloseSerializer, request)
        ids, note = wanted.get("session_ids"), wanted.get("note", "")
        sessions = ids or self._selected(request, **wanted["filter"])
        job = create_close_job(sessions, requested_by=request.user, door="rest", note=note)
        return accepted(job, request)

    def _selected(self, request: Request, **wanted: Any) -> QuerySet[ChatSession]:
        if "status" in wanted:
            wanted["statuses"] = [wanted.pop("status")]
        sessions = select_sessions(**wanted, requested_by=request.user)
        limit = current_limit()
        if sessions.order_by()[: limit + 1].count() > limit:
            problem = _("These are more than %(limit)d chat sessions, the most at a time.")
            raise ValidationError({"filter": [problem % {"limit": limit}]})
        return sessions


class JobListView(OwnView, ListAPIView[CloseJob]):
    """``GET close-jobs/``: the newest first, those that the caller may see."""

    permission_classes = (MayAsk,)
    pagination_class = NewestByKey
    serializer_class = JobSerializer
    filter_backends = ()

    def get_queryset(self) -> QuerySet[CloseJob]:
        """The caller's jobs, or everybody's; a 400 where the query string asks for more."""
        asked_by_address(QuerySerializer, self.request)
        return _jobs_for(self.request)


class JobView(OwnView):
    """``GET close-jobs/{id}/``: how far it has come."""

    permission_classes = (MayAsk,)

    def get(self, request: Request, pk: str, **kwargs: Any) -> Response:
        """The job; what a process left that is gone goes on."""
        job = _job_for(request, pk)
        response = Response(_body_of(job, request))
        if not job.is_finished:
            take_up(job)
            response["Retry-After"] = _look_again_in(job)
        return response


class JobResultsView(OwnView, ListAPIView[CloseJobItem]):
    """``GET close-jobs/{id}/results/``: what became of each session, by ``outcome``."""

    permission_classes = (MayAsk,)
    pagination_class = ByKey
    serializer_class = ResultSerializer
    filter_backends = ()

    def get_queryset(self) -> QuerySet[CloseJobItem]:
        """The sessions that the query string asks for; a 400 where it asks for nonsense."""
        wanted = asked_by_address(ResultFilterSerializer, self.request)
        items = ledger.items(_job_for(self.request, self.kwargs["pk"]))
        return items.filter(pk__range=_ends(items), **wanted)


class JobCancelView(OwnView):
    """``POST close-jobs/{id}/cancel/``."""

    permission_classes = (MayAsk,)

    def post(self, request: Request, pk: str, **kwargs: Any) -> Response:
        """Begin nothing more of it: 200 and the job, which may have been finished before."""
        asked(NothingSerializer, request)
        job = cancel_close_job(_job_for(request, pk), requested_by=request.user)
        return Response(_body_of(job, request))


class JobRetryView(OwnView):
    """``POST close-jobs/{id}/retry/``."""

    permission_classes = (MayAsk,)

    def post(self, request: Request, pk: str, **kwargs: Any) -> Response:
        """Make a job of what failed: 202, what it is, and where to look at it."""
        asked(NothingSerializer, request)
        job = retry_close_job(_job_for(request, pk), requested_by=request.user, door="rest")
        return accepted(job, request)


def accepted(job: CloseJob, request: Request) -> Response:
    """202: the job, where it is to be seen, and when it is worth a look."""
    headers = {
        "Location": job_url("close-job", job, request),
        "Retry-After": _look_again_in(job),
    }
    return Response(_body_of(job, request), status.HTTP_202_ACCEPTED, headers=headers)


def _jobs_for(request: Request) -> QuerySet[CloseJob]:
    # Read where it is written: the address of a new job must be good at once.
    jobs = visible_jobs(request.user).using(router.db_for_write(CloseJob))
    return jobs.exclude(status=CloseJob.Status.DRAFT).select_related("requested_by")


def _job_for(request: Request, pk: str) -> CloseJob:
    try:
        return get_object_or_404(_jobs_for(request), pk=pk)
    except Http404:
        raise NotFound(_("There is no such close job here.")) from None


def _ends(items: QuerySet[CloseJobItem]) -> tuple[int, int]:
    """The first and the last key of a job's items; zeros where it has none.

    Databases find a page by walking along the keys of all jobs: not before its job's, nor beyond.
    """
    # One after the other, as SQLite finds both at once only by looking at each.
    first, last = (items.order_by().aggregate(end=end("pk"))["end"] for end in (Min, Max))
    return first or 0, last or 0


def _body_of(job: CloseJob, request: Request) -> dict[str, Any]:
    return JobSerializer(job, context={"request": request}).data


def _look_again_in(job: CloseJob) -> str:
    """In how many seconds there may be something new."""
    if job.is_finished:
        return "0"
    pause = (job.resume_at - timezone.now()).total_seconds() if job.resume_at else 0
    return str(max(math.ceil(pause), LOOK_AGAIN_AFTER))
