"""The public API: every entry point (admin, REST, command, task, Python) calls these functions.

Import from here. Anything that is not in ``__all__`` may change in any version.
"""

from __future__ import annotations

from osvi_django.services.attempts.types import CloseResult
from osvi_django.services.by_id import close_session_by_id, create_close_job_by_id
from osvi_django.services.closing import close_again, close_session
from osvi_django.services.jobs.lifecycle import (
    cancel_close_job,
    confirm_close_job,
    create_close_job,
    due_jobs,
    retry_close_job,
)
from osvi_django.services.jobs.progress import Progress, progress_of
from osvi_django.services.jobs.worker import run_close_job
from osvi_django.services.mirroring.customers import LookedUp, look_up_customer, sync_customer
from osvi_django.services.mirroring.sessions import mirror_session, mirror_started
from osvi_django.services.mirroring.sync import SyncProgress, sync_open
from osvi_django.services.recovery.reviewing import take_reviewed_summary
from osvi_django.services.recovery.service import (
    mark_closed,
    recover_all,
    recover_session,
    reread_all,
)
from osvi_django.services.recovery.unread import RecoveryResult, Settled
from osvi_django.services.selectors import SessionFilter, find_session
from osvi_django.services.starting import start_session
from osvi_django.services.summaries import Summarized, summarize
from osvi_django.services.support.actions import ActionResult
from osvi_django.services.support.context import context_of
from osvi_django.services.support.journal import actions_of
from osvi_django.services.support.retention import forget_texts
from osvi_django.services.support.service import (
    hand_back,
    inject_context,
    receive_message,
    send_message,
    take_over,
    tell,
    whisper,
)

__all__ = [
    "ActionResult",
    "CloseResult",
    "LookedUp",
    "Progress",
    "RecoveryResult",
    "SessionFilter",
    "Settled",
    "Summarized",
    "SyncProgress",
    "actions_of",
    "cancel_close_job",
    "close_again",
    "close_session",
    "close_session_by_id",
    "confirm_close_job",
    "context_of",
    "create_close_job",
    "create_close_job_by_id",
    "due_jobs",
    "find_session",
    "forget_texts",
    "hand_back",
    "inject_context",
    "look_up_customer",
    "mark_closed",
    "mirror_session",
    "mirror_started",
    "progress_of",
    "receive_message",
    "recover_all",
    "recover_session",
    "reread_all",
    "retry_close_job",
    "run_close_job",
    "send_message",
    "start_session",
    "summarize",
    "sync_customer",
    "sync_open",
    "take_over",
    "take_reviewed_summary",
    "tell",
    "whisper",
]
