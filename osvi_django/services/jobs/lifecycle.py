"""Close many sessions as a job: created at once, run by a worker, observable in the meantime.

A job and its sessions are rows, and only these count: its worker, in a thread, a task queue or a
command, is given the job's key and may die. ``worker.py`` runs the job.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, Final

from django.db import router, transaction
from django.db.models import Q, QuerySet
from django.utils import timezone
from django.utils.text import Truncator
from django.utils.translation import gettext as _

from osvi_django import database
from osvi_django.conf import InvalidSetting, executor
from osvi_django.database import DatabaseNow, persist, refuse_inside_transaction
from osvi_django.exceptions import (
    InvalidInput,
    generic_messages,
)
from osvi_django.models import CloseJob, CloseJobItem
from osvi_django.redaction import hides
from osvi_django.services.attempts.close_rules import require_rules_of_any_account
from osvi_django.services.attempts.types import RequestOrigin, User
from osvi_django.services.jobs import store
from osvi_django.services.jobs.items import (
    WAITS_FOR_A_PERSON,
    ItemOutcome,
    chosen_sessions,
    insert_items,
    leave_out,
    new_items,
    refuse_by_rules,
    require_any_allowed,
    with_a_colleague,
)
from osvi_django.services.jobs.walking import (
    CHUNK,
    Wanted,
)
from osvi_django.services.jobs.worker import remove_not_closed
from osvi_django.services.permissions import requester_fields, require_job
from osvi_django.services.selectors import SessionFilter
from osvi_django.services.support.goodbye import checked_goodbye
from osvi_django.validation import checks_types, stripped

JobStatus = CloseJob.Status

logger = logging.getLogger(__name__)

SELECTION_MAX_LENGTH: Final = 500
# How long an unconfirmed draft is kept.
_DRAFT_LASTS: Final = timedelta(days=1)


@hides("note", "goodbye", "search")
@checks_types
def create_close_job(
    sessions: Wanted | SessionFilter,
    *,
    search: str | None = None,
    requested_by: User | None = None,
    via: str = "code",
    note: str = "",
    close_reason: str = "",
    goodbye: str = "",
    start: bool = True,
    draft: bool = False,
    retry_of: CloseJob | None = None,
    selection: str = "",
) -> CloseJob:
    """Create a job that closes ``sessions``: a queryset, a filter, or sessions and OSVI's ids.

    A filter is checked again when it is a session's turn, and a session that no longer matches is
    skipped. A filter by ``idle_since`` skips customers who wait for a person, unless its
    ``help_requested`` asks for them. ``search``: of those that a filter selects, only the ones that
    a search finds now.

    Each session is included once, in constant memory for a queryset. An unknown id, or a session
    that ``requested_by`` may not close, is in the job with that outcome; a session outside their
    access as an unknown id, now or when it is its turn. If ``start``, the executor
    is notified after the commit; a ``draft`` waits for ``confirm_close_job``. ``selection`` says
    for staff how the sessions were chosen.

    Sessions of an account whose rules ``note`` or ``close_reason`` breaks are not closed either,
    and if that holds for all of them, this raises ``InvalidInput``; if the rules of all accounts of
    this site refuse the request, also if no session is found. A draft is checked when it is
    confirmed.

    Each customer is sent the ``goodbye`` first, if there is one; see ``close_session``.

    May be called inside a transaction. Raises ``InvalidInput``, and ``NotAllowed`` if
    ``requested_by`` may close none of the sessions.
    """
    request = RequestOrigin(
        requested_by=requested_by, via=via, note=note, close_reason=close_reason
    )
    if isinstance(sessions, SessionFilter):
        sessions = sessions.for_closing()
    if not draft:
        require_rules_of_any_account(request)
    requester = requester_fields(requested_by)
    job = CloseJob(
        status=JobStatus.DRAFT if draft else JobStatus.QUEUED,
        **requester,
        has_requester=requester["requested_by"] is not None,
        via=via,
        note=request.note,
        close_reason=request.close_reason,
        goodbye=checked_goodbye(goodbye, requested_by),
        retry_of=retry_of,
        selection=_selection_of(sessions, search, selection),
        session_filter=_stored_filter(sessions, retry_of),
    )
    alias = router.db_for_write(CloseJob)
    with transaction.atomic(using=alias):
        chosen = chosen_sessions(sessions, requested_by, search)
        require_any_allowed(chosen, requested_by)
        job.save(using=alias)
        insert_items(job, new_items(job, chosen, requested_by))
        if not draft:
            refuse_by_rules(job, request)
            _enqueue(job, start=start)
    return job


@hides("note", "goodbye")
@checks_types
def confirm_close_job(
    job: CloseJob,
    *,
    requested_by: User | None = None,
    note: str = "",
    close_reason: str = "",
    goodbye: str = "",
    include_help_requested: bool = True,
    include_taken_over: bool = True,
) -> CloseJob:
    """Start a draft, with this note, reason and goodbye.

    The two flags say whether to close the sessions whose customers wait for a person, also if they
    ask for one later, and those that someone other than ``requested_by`` has taken over.

    Raises ``InvalidInput`` if it is no longer a draft, or if the rules of all its accounts refuse
    the note or the reason.
    """
    require_job(requested_by, job)
    request = RequestOrigin(
        requested_by=requested_by, via=job.via, note=note, close_reason=close_reason
    )
    require_rules_of_any_account(request)
    with transaction.atomic(using=router.db_for_write(CloseJob, instance=job)):
        drafts = store.rows(job).filter(status=JobStatus.DRAFT)
        texts = {
            "note": request.note,
            "close_reason": request.close_reason,
            "goodbye": checked_goodbye(goodbye, requested_by),
        }
        if not drafts.update(status=JobStatus.QUEUED, **texts):
            raise InvalidInput(_("This close job has already started."), field="job")
        if not include_help_requested:
            leave_out(job, ItemOutcome.HELP_REQUESTED, WAITS_FOR_A_PERSON)
            _spare_from_now_on(job)
        if not include_taken_over:
            leave_out(job, ItemOutcome.TAKEN_OVER, with_a_colleague(requested_by))
        refuse_by_rules(job, request)
        _enqueue(job, start=True)
    return store.find(job.pk)


@checks_types
def cancel_close_job(job: CloseJob, *, requested_by: User | None = None) -> CloseJob:
    """Cancel what has not been started; closes in progress finish. Ignore a finished job.

    Raises ``NotAllowed`` and ``InsideTransaction``.
    """
    require_job(requested_by, job)
    with generic_messages():
        refuse_inside_transaction(router.db_for_write(CloseJob, instance=job))

    def work() -> None:
        unfinished = store.rows(job).filter(finished_at=None)
        if unfinished.update(status=JobStatus.CANCELLED, paused_by="", resume_at=None):
            store.cancel_waiting(job)
            store.finish(job)

    alias = router.db_for_write(CloseJob, instance=job)
    persist(work, using=alias, patience=database.PATIENCE_BEFORE)
    cancelled = store.find(job.pk)
    remove_not_closed(cancelled)
    return cancelled


@checks_types
def retry_close_job(
    job: CloseJob,
    *,
    requested_by: User | None = None,
    via: str = "code",
    include_cancelled: bool = False,
    draft: bool = False,
) -> CloseJob:
    """Create a job from the items that failed safely: not closed, and not unconfirmed.

    An unconfirmed item whose session was found to be open since is among them. A ``draft`` waits
    for ``confirm_close_job``; one that ``requested_by`` has made before, with the same sessions, is
    returned again.

    Items whose sessions are not known here are not among them: no retry can close these. With
    ``include_cancelled`` it also has those that were not started when the job was cancelled.

    If the job was retried before, return that retry, unless it was cancelled, or there are items
    that it does not have and ``include_cancelled`` asks for them. Raises
    ``InvalidInput`` if no item can be retried or the job is not finished, and ``NotAllowed``.
    """
    require_job(requested_by, job)
    with transaction.atomic(using=router.db_for_write(CloseJob, instance=job)):
        if not store.lock_if_finished(job):
            problem = _(
                "This close job is not finished. You can retry the failed chats when it is."
            )
            raise InvalidInput(problem, field="job")
        made = retry_of(job)
        if made and not include_cancelled:
            return made
        failed = store.retryable_items(job, user=requested_by, include_cancelled=include_cancelled)
        if made and not failed.exists():
            return made
        if not failed.exists():
            problem = _("No chat of this close job can be retried.")
            raise InvalidInput(problem, field="job")
        if draft and (waits := _same_draft(job, failed, requested_by)):
            return waits
        ids = failed.values_list("requested_session_id", flat=True).iterator(CHUNK)
        return create_close_job(
            ids,
            requested_by=requested_by,
            via=via,
            note=job.note,
            close_reason=job.close_reason,
            goodbye=job.goodbye,
            selection=job.selection,
            retry_of=job,
            draft=draft,
        )


def retry_of(job: CloseJob) -> CloseJob | None:
    """Return the job that retries the failed items of this one, if there is one."""
    retries = _jobs().filter(retry_of=job).exclude(status__in=store.NOT_A_RETRY)
    return retries.order_by("pk").first()


def _same_draft(
    job: CloseJob, failed: QuerySet[CloseJobItem], user: User | None
) -> CloseJob | None:
    """Return this user's newest draft of a retry if it has just these items; None if not."""
    drafts = _jobs().filter(retry_of=job, status=JobStatus.DRAFT, **requester_fields(user))
    newest = drafts.order_by("-pk").first()
    if newest is None or newest.total != failed.count():
        return None
    asked = store.items(newest).values("requested_session_id")
    return None if failed.exclude(requested_session_id__in=asked).exists() else newest


def resume_stalled(job: CloseJob) -> bool:
    """Pass a stalled job to the executor, if there is one; return whether it was passed on."""
    with suppress(InvalidSetting):  # the error is in the log
        if executor() is None:
            return False
    if not _unattended().filter(pk=job.pk).update(heartbeat_at=DatabaseNow()):
        return False
    _notify_executor(job)
    return True


@checks_types
def due_jobs(*, join: bool = False) -> list[CloseJob]:
    """Return jobs that are waiting or stalled, or whose pause is over, oldest first.

    ``join``: include those that another worker is running now.
    """
    statuses = [JobStatus.QUEUED, JobStatus.RUNNING] if join else [JobStatus.QUEUED]
    waits = _jobs().filter(status__in=statuses)
    return list((waits | _unattended()).order_by("pk"))


def jobs_with_heartbeat() -> list[CloseJob]:
    """Return unfinished jobs that a worker runs, or ran until it died a moment ago."""
    begun = _jobs().filter(status__in=(JobStatus.RUNNING, JobStatus.CANCELLED), finished_at=None)
    return list(begun.filter(heartbeat_at__gte=store.stalled_before()).order_by("pk"))


def delete_stale_drafts() -> None:
    """Delete drafts that were not confirmed in time."""
    oldest = timezone.now() - _DRAFT_LASTS
    _jobs().filter(status=JobStatus.DRAFT, created_at__lt=oldest).delete()


def _spare_from_now_on(job: CloseJob) -> None:
    """Leave out customers who ask for a person before it is their turn."""
    kept = job.session_filter
    chosen = SessionFilter.from_json(kept) if kept else SessionFilter(status=None)
    spares = replace(chosen, help_requested=False).as_json()
    store.rows(job).update(session_filter=spares)


def _selection_of(sessions: Wanted | SessionFilter, search: str | None, selection: str) -> str:
    """Return for staff how sessions were chosen; a search is not repeated and has a name only."""
    if selection or search is None or not isinstance(sessions, SessionFilter):
        return stripped("selection", selection, SELECTION_MAX_LENGTH)
    words = ", ".join([*sessions.in_words(), _("found by a search")])
    return Truncator(words).chars(SELECTION_MAX_LENGTH)


def _stored_filter(
    sessions: Wanted | SessionFilter, retry_of: CloseJob | None
) -> dict[str, Any] | None:
    """Return the filter to store with a job; a retry keeps the filter of the original job."""
    if isinstance(sessions, SessionFilter):
        return sessions.as_json()
    return retry_of.session_filter if retry_of else None


def _enqueue(job: CloseJob, *, start: bool) -> None:
    """Queue a job for a worker; finish it at once if there is nothing to do in it."""
    alias = router.db_for_write(CloseJob, instance=job)
    store.heartbeat(job)
    if not store.finish(job) and start:
        transaction.on_commit(partial(_notify_executor, job), using=alias)
    written = CloseJob.objects.using(alias).select_related("requested_by")
    job.refresh_from_db(from_queryset=written)


def _notify_executor(job: CloseJob) -> None:
    """Pass a job to the executor; if that fails, the job waits and can be resumed later."""
    try:
        run = executor()
        if run is not None:
            run(str(job.uuid))
    except Exception:
        logger.exception("close job %s could not be started, and waits", job.pk)


def _unattended() -> QuerySet[CloseJob]:
    """Return jobs that are due but that no worker runs."""
    started = (
        _jobs()
        .filter(finished_at=None, heartbeat_at__lt=store.stalled_before())
        .exclude(status=JobStatus.DRAFT)
    )
    return started.filter(~Q(status=JobStatus.PAUSED) | Q(resume_at__lt=timezone.now()))


def _jobs() -> QuerySet[CloseJob]:
    return CloseJob.objects.using(router.db_for_write(CloseJob))
