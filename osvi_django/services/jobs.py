"""Closing many sessions as a job: made in one go, run by whoever is there, looked at meanwhile.

A job and its sessions are rows, and these alone are the truth: whoever runs it, a thread, a task
queue or a command, is told its key and may die. ``engine.py`` runs it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import Final, TypeVar

from django.db import router, transaction
from django.db.models import Count, Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as _lazy

from osvi_django.answers import storable
from osvi_django.conf import InvalidSetting, executor
from osvi_django.exceptions import (
    InvalidInput,
    NotAllowed,
    OSVIBadAnswer,
    OSVINoAnswer,
    OSVIThrottled,
    OSVIUnauthorized,
    OSVIUnreachable,
    SessionNotFound,
    describe,
    not_a_close,
)
from osvi_django.models import ChatSession, CloseJob, CloseJobItem
from osvi_django.services import ledger, steps
from osvi_django.services.engine import run_close_job
from osvi_django.services.mirroring import is_storable_id
from osvi_django.services.permissions import may_close, require_job
from osvi_django.services.steps import CloseRequest, DatabaseNow, User
from osvi_django.transactions import persist, refuse_inside_transaction

__all__ = [
    "Progress",
    "cancel_close_job",
    "confirm_close_job",
    "create_close_job",
    "due_jobs",
    "progress_of",
    "retry_close_job",
    "retry_of",
    "run_close_job",
    "take_up",
    "trouble_of",
]

logger = logging.getLogger(__name__)

Outcome = CloseJobItem.Outcome
JobStatus = CloseJob.Status
Wanted = Iterable[ChatSession] | Iterable[str] | Iterable[ChatSession | str]
_Found = tuple[str, int | None, str]
_T = TypeVar("_T")

# How many sessions are read and written at a time, however many a job has.
_CHUNK: Final = 500
# How long a job that nobody confirms is kept.
_DRAFT_LASTS: Final = timedelta(days=1)
# Without a sign of life for so long, nobody is said to be at work; the clocks may differ a little.
_UNSEEN: Final = timedelta(seconds=3 * ledger.SIGN_OF_LIFE)
# What errors say is about one session, and asks to try again: a job does so by itself.
_PAUSED_BY: Final = {
    OSVIUnreachable.code: _lazy("OSVI cannot be reached."),
    OSVIThrottled.code: _lazy("OSVI is busy and takes no more just now."),
    OSVINoAnswer.code: _lazy("OSVI does not answer."),
    OSVIBadAnswer.code: _lazy("OSVI's answers make no sense just now."),
    OSVIUnauthorized.code: _lazy(
        "OSVI refuses this site's API token. Ask whoever runs this site to check the token."
    ),
}


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a job has come: how many of each outcome, sessions a second, seconds still to go.

    The last two are None where nothing can be said yet, or any more.
    """

    counts: dict[str, int]
    per_second: float | None
    seconds_left: float | None


def create_close_job(
    sessions: Wanted,
    *,
    requested_by: User | None = None,
    door: str = "code",
    note: str = "",
    start: bool = True,
    draft: bool = False,
    retry_of: CloseJob | None = None,
) -> CloseJob:
    """Make a job that closes ``sessions``: a queryset, or sessions and OSVI's ids of sessions.

    Each comes once, in constant memory for a queryset. An id that is not known here and a session
    that ``requested_by`` may not close are in the job with just that outcome. The executor is told
    after the commit, where ``start``; a ``draft`` waits for ``confirm_close_job``.

    May be called inside a transaction. Raises ``InvalidInput``, and ``NotAllowed`` where
    ``requested_by`` may close none of them.
    """
    request = CloseRequest(requested_by=requested_by, door=door, note=note)
    job = CloseJob(
        status=JobStatus.DRAFT if draft else JobStatus.QUEUED,
        requested_by=steps.as_row(requested_by),
        for_somebody=steps.as_row(requested_by) is not None,
        door=door,
        note=storable(request.note),
        retry_of=retry_of,
    )
    wanted = _require_one(sessions, requested_by)
    alias = router.db_for_write(CloseJob)
    with transaction.atomic(using=alias):
        job.save(using=alias)
        _fill(job, _items_of(job, wanted, requested_by))
        if not draft:
            _enqueue(job, start=start)
    return job


def confirm_close_job(
    job: CloseJob, *, requested_by: User | None = None, note: str = ""
) -> CloseJob:
    """Let a draft begin, with this note. Raises ``InvalidInput`` where it is none any more."""
    require_job(requested_by, job)
    request = CloseRequest(requested_by=requested_by, door=job.door, note=note)
    with transaction.atomic(using=router.db_for_write(CloseJob, instance=job)):
        drafts = ledger.rows(job).filter(status=JobStatus.DRAFT)
        if not drafts.update(status=JobStatus.QUEUED, note=storable(request.note)):
            raise InvalidInput(_("This close job has begun already."), field="job")
        _enqueue(job, start=True)
    return ledger.find(job.pk)


def cancel_close_job(job: CloseJob, *, requested_by: User | None = None) -> CloseJob:
    """Stop what has not been begun; what is under way comes to its end. A finished job stays so.

    Raises ``NotAllowed`` and ``InsideTransaction``.
    """
    require_job(requested_by, job)
    with not_a_close():
        refuse_inside_transaction(router.db_for_write(CloseJob, instance=job))

    def work() -> None:
        unfinished = ledger.rows(job).filter(finished_at=None)
        if unfinished.update(status=JobStatus.CANCELLED, paused_by="", resume_at=None):
            ledger.cancel_waiting(job)
            ledger.finish(job)

    alias = router.db_for_write(CloseJob, instance=job)
    persist(work, using=alias, patience=steps.PATIENCE_BEFORE)
    return ledger.find(job.pk)


def retry_close_job(
    job: CloseJob, *, requested_by: User | None = None, door: str = "code"
) -> CloseJob:
    """Make a new job of what failed safely: nothing was closed, and nothing is in doubt.

    Where that was done before, it is the job of that time, unless that was cancelled.
    Raises ``InvalidInput`` where nothing failed so, or the job is not finished, and ``NotAllowed``.
    """
    require_job(requested_by, job)
    with transaction.atomic(using=router.db_for_write(CloseJob, instance=job)):
        if not ledger.hold_finished(job):
            problem = _("This close job is not finished: try again what failed when it is.")
            raise InvalidInput(problem, field="job")
        if made := retry_of(job):
            return made
        failed = ledger.items(job).filter(outcome__in=CloseJobItem.FAILED)
        if not failed.exists():
            problem = _("Nothing in this close job failed in a way that can be tried again.")
            raise InvalidInput(problem, field="job")
        ids = failed.values_list("asked_id", flat=True).iterator(_CHUNK)
        return create_close_job(
            ids, requested_by=requested_by, door=door, note=job.note, retry_of=job
        )


def retry_of(job: CloseJob) -> CloseJob | None:
    """The job in which what failed in this one is tried again."""
    retries = _jobs().filter(retry_of=job).exclude(status=JobStatus.CANCELLED)
    return retries.order_by("pk").first()


def take_up(job: CloseJob) -> bool:
    """Tell the executor, where there is one, of a job that nobody runs any more; whether it was."""
    with suppress(InvalidSetting):  # which the log has then
        if executor() is None:
            return False
    if not _unattended().filter(pk=job.pk).update(seen_at=DatabaseNow()):
        return False
    _tell_executor(job.pk)
    return True


def due_jobs(*, join: bool = False) -> list[CloseJob]:
    """The jobs that wait, were abandoned, or whose pause is over, the oldest first.

    ``join``: those as well that somebody runs just now.
    """
    statuses = [JobStatus.QUEUED, JobStatus.RUNNING] if join else [JobStatus.QUEUED]
    waits = _jobs().filter(status__in=statuses)
    return list((waits | _unattended()).order_by("pk"))


def progress_of(job: CloseJob) -> Progress:
    """How far a job has come just now."""
    outcomes = ledger.items(job).order_by().values_list("outcome").annotate(Count("pk"))
    rate = _rate(job)
    left = (job.total - job.done - job.cancelled) / rate if rate else None
    return Progress(counts=dict(outcomes), per_second=rate, seconds_left=left)


def is_left_alone(job: CloseJob) -> bool:
    """Whether nobody is at work on a job just now that waits for no better time."""
    if job.is_finished or job.status == JobStatus.DRAFT:
        return False
    since = job.resume_at if job.status == JobStatus.PAUSED else job.seen_at
    return since is not None and timezone.now() - since > _UNSEEN


def trouble_of(job: CloseJob) -> str:
    """What a paused job waits for to be over, in a sentence or two; "" for any other."""
    return str(_PAUSED_BY.get(job.paused_by) or describe(job.paused_by))


def discard_drafts() -> None:
    """Forget jobs that nobody confirmed."""
    forgotten = timezone.now() - _DRAFT_LASTS
    _jobs().filter(status=JobStatus.DRAFT, created_at__lt=forgotten).delete()


def _rate(job: CloseJob) -> float | None:
    if job.running_since is None or job.status != JobStatus.RUNNING or is_left_alone(job):
        return None
    seconds = (timezone.now() - job.running_since).total_seconds()
    done = job.done - job.done_before
    return done / seconds if seconds > 0 and done else None


def _require_one(sessions: Wanted, user: User | None) -> Wanted:
    """Refuse somebody who may close none of these, before anything is written; these, once more."""
    if isinstance(sessions, str) or not isinstance(sessions, Iterable):  # a text is one of letters
        raise InvalidInput(_("session_ids is no list: put the ids in one."), field="session_ids")
    if user is None or may_close(user):
        return sessions
    wanted = sessions if isinstance(sessions, QuerySet) else list(sessions)
    if not any(_allowed(chunk, user) for chunk in _chunks(_found(wanted))):
        raise NotAllowed
    return wanted


def _fill(job: CloseJob, items: Iterable[CloseJobItem]) -> None:
    """Write the items, a chunk at a time, and count those that have come to an end at once."""
    alias = router.db_for_write(CloseJob, instance=job)
    counts: Counter[str] = Counter()
    for chunk in _chunks(items):
        CloseJobItem.objects.using(alias).bulk_create(chunk)
        counts.update(ledger.COUNTERS.get(item.outcome, "waiting") for item in chunk)
    job.total = counts.total()
    for name in set(ledger.COUNTERS.values()):
        setattr(job, name, counts[name])
    job.save(using=alias)


def _items_of(job: CloseJob, sessions: Wanted, user: User | None) -> Iterator[CloseJobItem]:
    """The items of a job as they begin, and as some of them end."""
    may_all = user is None or may_close(user)
    for chunk in _chunks(_found(sessions)):
        allowed = None if may_all else _allowed(chunk, user)
        for asked_id, key, account in chunk:
            item = CloseJobItem(job=job, asked_id=asked_id, session_id=key, account=account)
            if allowed is not None and key not in allowed:
                item.outcome, item.error_code = Outcome.NOT_ALLOWED, NotAllowed.code
            elif key is None:
                item.outcome, item.error_code = Outcome.NOT_FOUND, SessionNotFound.code
            yield item


def _allowed(chunk: Iterable[_Found], user: User | None) -> set[int | None]:
    """The keys of those sessions that somebody with permissions on single ones may close."""
    keys = [key for _asked_id, key, _account in chunk if key is not None]
    sessions = _sessions().select_related("agent").filter(pk__in=keys)
    return {session.pk for session in sessions if may_close(user, session)}


def _found(sessions: Wanted) -> Iterator[_Found]:
    """Each session once: its id, and its key and account; no key where it is not known here."""
    if isinstance(sessions, QuerySet) and not _is_sliced(sessions):
        yield from _by_key(sessions)
        return
    seen: set[str] = set()
    for chunk in _chunks(sessions):
        fresh = dict.fromkeys(each for each in map(_id_of, chunk) if each not in seen)
        seen.update(fresh)
        # MariaDB finds ids that differ in case as well: only the very same is the same.
        known = {found[0]: found for found in _facts(_sessions().filter(session_id__in=fresh))}
        yield from (known.get(each, (each, None, "")) for each in fresh)


def _by_key(sessions: QuerySet[ChatSession]) -> Iterator[_Found]:
    """In the order of the keys, each once, a page at a time: not all are in memory."""
    last = None
    ordered = sessions.order_by("pk")
    while page := list(_facts(ordered if last is None else ordered.filter(pk__gt=last))[:_CHUNK]):
        for found in page:
            if found[1] != last:
                yield found
            last = found[1]


def _facts(sessions: QuerySet[ChatSession]) -> QuerySet[ChatSession, _Found]:
    return sessions.values_list("session_id", "pk", "agent__account")


def _is_sliced(sessions: QuerySet[ChatSession]) -> bool:
    try:
        sessions.order_by("pk")
    except TypeError:
        return True
    return False


def _id_of(wanted: ChatSession | str) -> str:
    asked_id = wanted.session_id if isinstance(wanted, ChatSession) else wanted
    if not is_storable_id(asked_id):
        problem = _("session_ids has something that is not an id that OSVI gave: %(id)r.")
        raise InvalidInput(problem % {"id": asked_id}, field="session_ids")
    return asked_id


def _chunks(wanted: Iterable[_T]) -> Iterator[list[_T]]:
    rest = iter(wanted)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk


def _enqueue(job: CloseJob, *, start: bool) -> None:
    """Let a job wait for whoever runs it; one in which nothing is to be done ends at once."""
    alias = router.db_for_write(CloseJob, instance=job)
    ledger.say_alive(job)
    if not ledger.finish(job) and start:
        transaction.on_commit(partial(_tell_executor, job.pk), using=alias)
    job.refresh_from_db(using=alias)


def _tell_executor(job_id: int) -> None:
    """Tell whoever is to run it; where that fails the job waits, and can be taken up later."""
    try:
        run = executor()
        if run is not None:
            run(job_id)
    except Exception:
        logger.exception("close job %s could not be started, and waits", job_id)


def _unattended() -> QuerySet[CloseJob]:
    """Jobs that nobody runs, though it would be time."""
    begun = (
        _jobs()
        .filter(finished_at=None, seen_at__lt=ledger.silence())
        .exclude(status=JobStatus.DRAFT)
    )
    return begun.filter(~Q(status=JobStatus.PAUSED) | Q(resume_at__lt=timezone.now()))


def _jobs() -> QuerySet[CloseJob]:
    return CloseJob.objects.using(router.db_for_write(CloseJob))


def _sessions() -> QuerySet[ChatSession]:
    return ChatSession.objects.using(router.db_for_write(ChatSession))
