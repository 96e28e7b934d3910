"""Close many sessions: jobs, their items, and the worker that runs them."""

from osvi_django.services.jobs.lifecycle import (
    cancel_close_job,
    confirm_close_job,
    create_close_job,
    due_jobs,
    resume_stalled,
    retry_close_job,
    retry_of,
)
from osvi_django.services.jobs.progress import Progress, pause_reason, progress_of
from osvi_django.services.jobs.worker import run_close_job

__all__ = [
    "Progress",
    "cancel_close_job",
    "confirm_close_job",
    "create_close_job",
    "due_jobs",
    "pause_reason",
    "progress_of",
    "resume_stalled",
    "retry_close_job",
    "retry_of",
    "run_close_job",
]
