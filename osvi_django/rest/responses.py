"""Responses of several views."""

from __future__ import annotations

import math
import time
from typing import Any, Final

from django.db import router
from django.utils import timezone
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response

from osvi_django import clock
from osvi_django.models import CloseJob
from osvi_django.rest.links import job_url
from osvi_django.rest.output_serializers import JobSerializer
from osvi_django.services.closing import LOOK_AGAIN_AFTER

# Sessions that are closed in a moment.
SMALL_JOB: Final = 10
_LOOK_EVERY: Final = 0.2  # seconds


def finished_after(job: CloseJob, seconds: float) -> bool:
    """Wait for a job, for so many seconds at most; return whether it is finished, and reload it."""
    ends_at = clock.monotonic() + seconds
    written = CloseJob.objects.using(router.db_for_write(CloseJob, instance=job)).filter(pk=job.pk)
    while not written.filter(finished_at__isnull=False).exists() and clock.monotonic() < ends_at:
        time.sleep(min(_LOOK_EVERY, max(0.0, ends_at - clock.monotonic())))
    job.refresh_from_db(from_queryset=written)
    return job.is_finished


def accepted(job: CloseJob, request: Request) -> Response:
    """Return a 202 with the job, its URL, and when to check again."""
    headers = {
        "Location": job_url("close-job", job, request),
        "Retry-After": seconds_to_next_look(job),
    }
    return Response(job_body(job, request), status.HTTP_202_ACCEPTED, headers=headers)


def job_body(job: CloseJob, request: Request) -> dict[str, Any]:
    return JobSerializer(job, context={"request": request}).data


def seconds_to_next_look(job: CloseJob) -> str:
    """Return the seconds until there may be something new."""
    if job.is_finished:
        return "0"
    usual = LOOK_AGAIN_AFTER if job.total > SMALL_JOB else 1
    pause = (job.resume_at - timezone.now()).total_seconds() if job.resume_at else 0
    return str(max(math.ceil(pause), usual))
