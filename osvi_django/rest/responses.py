"""Responses of several views."""

from __future__ import annotations

import math
from typing import Any

from django.utils import timezone
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response

from osvi_django.models import CloseJob
from osvi_django.rest.links import job_url
from osvi_django.rest.output_serializers import JobSerializer
from osvi_django.services.closing import LOOK_AGAIN_AFTER


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
    pause = (job.resume_at - timezone.now()).total_seconds() if job.resume_at else 0
    return str(max(math.ceil(pause), LOOK_AGAIN_AFTER))
