"""The public API: every entry point (admin, REST, command, task, Python) calls these functions.

Import from here. Anything that is not in ``__all__`` may change in any version.
"""

from __future__ import annotations

from osvi_django.services.access import Purpose
from osvi_django.services.asynchronous import (
    acancel_close_job,
    aclose_session,
    aclose_session_by_id,
    aconfirm_close_job,
    acontext_of,
    acreate_close_job,
    acreate_close_job_by_id,
    afigures,
    afind_session,
    ahand_back,
    ainject_context,
    alook_up_customer,
    amark_closed,
    amirror_session,
    amirror_started,
    aprogress_of,
    areceive_message,
    arecover_session,
    aretry_close_job,
    asearch_sessions,
    asend_events_again,
    asend_message,
    astart_session,
    asummarize,
    aswitch_on_receiver,
    atake_over,
    atake_reviewed_summary,
    atell,
    awhisper,
)
from osvi_django.services.attempts.types import CloseResult
from osvi_django.services.by_id import close_session_by_id, create_close_job_by_id
from osvi_django.services.closing import close_again, close_session
from osvi_django.services.events.control import send_events_again, switch_on_receiver
from osvi_django.services.events.delivery import deliver_events
from osvi_django.services.export import Export, export_sessions
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
from osvi_django.services.mirroring.watching import WatchTrouble, watch_open
from osvi_django.services.privacy.erasure import ErasureResult, erase_customer
from osvi_django.services.privacy.exporting import export_customer
from osvi_django.services.privacy.keeping import keep_session
from osvi_django.services.privacy.replaying import ReplayedErasure, replay_erasures
from osvi_django.services.privacy.retention import Purged, purge_expired
from osvi_django.services.recovery.reviewing import take_reviewed_summary
from osvi_django.services.recovery.service import (
    mark_closed,
    recover_all,
    recover_session,
    reread_all,
)
from osvi_django.services.recovery.unread import RecoveryResult, Settled
from osvi_django.services.search import SearchResult, search_sessions
from osvi_django.services.selectors import SessionFilter, find_session
from osvi_django.services.starting import start_session
from osvi_django.services.statistics import (
    DateRange,
    Figures,
    Share,
    Shares,
    Step,
    Times,
    figures,
)
from osvi_django.services.summaries import Summarized, summarize
from osvi_django.services.support.actions import ActionResult
from osvi_django.services.support.context import context_of
from osvi_django.services.support.journal import actions_of
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
    "DateRange",
    "ErasureResult",
    "Export",
    "Figures",
    "LookedUp",
    "Progress",
    "Purged",
    "Purpose",
    "RecoveryResult",
    "ReplayedErasure",
    "SearchResult",
    "SessionFilter",
    "Settled",
    "Share",
    "Shares",
    "Step",
    "Summarized",
    "SyncProgress",
    "Times",
    "WatchTrouble",
    "acancel_close_job",
    "aclose_session",
    "aclose_session_by_id",
    "aconfirm_close_job",
    "acontext_of",
    "acreate_close_job",
    "acreate_close_job_by_id",
    "actions_of",
    "afigures",
    "afind_session",
    "ahand_back",
    "ainject_context",
    "alook_up_customer",
    "amark_closed",
    "amirror_session",
    "amirror_started",
    "aprogress_of",
    "areceive_message",
    "arecover_session",
    "aretry_close_job",
    "asearch_sessions",
    "asend_events_again",
    "asend_message",
    "astart_session",
    "asummarize",
    "aswitch_on_receiver",
    "atake_over",
    "atake_reviewed_summary",
    "atell",
    "awhisper",
    "cancel_close_job",
    "close_again",
    "close_session",
    "close_session_by_id",
    "confirm_close_job",
    "context_of",
    "create_close_job",
    "create_close_job_by_id",
    "deliver_events",
    "due_jobs",
    "erase_customer",
    "export_customer",
    "export_sessions",
    "figures",
    "find_session",
    "hand_back",
    "inject_context",
    "keep_session",
    "look_up_customer",
    "mark_closed",
    "mirror_session",
    "mirror_started",
    "progress_of",
    "purge_expired",
    "receive_message",
    "recover_all",
    "recover_session",
    "replay_erasures",
    "reread_all",
    "retry_close_job",
    "run_close_job",
    "search_sessions",
    "send_events_again",
    "send_message",
    "start_session",
    "summarize",
    "switch_on_receiver",
    "sync_customer",
    "sync_open",
    "take_over",
    "take_reviewed_summary",
    "tell",
    "watch_open",
    "whisper",
]
