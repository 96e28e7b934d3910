"""Remove what is older than the setting ``RETENTION`` allows.

Nothing that recovery, a running job or a delivery still needs is removed, nor anything of a session
that is not closed or that staff keep until a later day.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.db import router
from django.db.models import Exists, OuterRef, Q, QuerySet

from osvi_django.conf import RETENTION_KINDS, configured
from osvi_django.database import PATIENCE_BEFORE, persist
from osvi_django.exceptions import InvalidInput, translate
from osvi_django.models import ChatSession, CloseJob, CloseJobItem, DataExport, WebhookDelivery
from osvi_django.services import idempotency, selectors
from osvi_django.services.events import queue
from osvi_django.services.privacy import removals, texts
from osvi_django.services.privacy.history import entries_about
from osvi_django.services.privacy.periods import before_of_site, held, periods
from osvi_django.services.privacy.walking import SessionPurge
from osvi_django.services.support.journal import SURELY_OVER
from osvi_django.validation import checks_types

_CHUNK: Final = 1_000
NO_WORDS: Final = {"note": "", "goodbye": "", "selection": ""}


@dataclass(frozen=True, kw_only=True)
class Purged:
    """What a purge has removed of one kind in one batch; with ``dry_run``, what it would remove."""

    kind: str
    number: int


@checks_types
def purge_expired(
    *, only: Collection[str] = RETENTION_KINDS, dry_run: bool = False
) -> Iterator[Purged]:
    """Remove what is older than ``RETENTION`` allows; yield after each batch.

    Several may run at once, and each may be stopped. Raises ``OSVINotConfigured``, and
    ``InvalidInput`` if a kind is unknown.
    """
    if unknown := [each for each in only if each not in RETENTION_KINDS]:
        problem = translate("%(kind)s is not a kind of data: use one of %(known)s.")
        values = {"kind": unknown[0], "known": ", ".join(RETENTION_KINDS)}
        raise InvalidInput(problem % values, field="only")
    with configured():
        for kind in RETENTION_KINDS:
            before_of_site(kind)  # nothing is removed if a setting is wrong
    for kind in (each for each in RETENTION_KINDS if each in only):
        count, run = _PURGES[kind]
        numbers = iter([count()]) if dry_run else run()
        yield from (Purged(kind=kind, number=number) for number in numbers)


def _count_texts() -> int:
    old = (texts.old_texts(period) for period in periods("texts"))
    return sum(texts.with_texts(each).count() for each in old)


def _count_notes() -> int:
    return _NOTES.count() + _jobs_with_words().count()


def _remove_notes() -> Iterator[int]:
    yield from _NOTES.run()
    jobs = _jobs_with_words()
    for keys in _chunks(jobs):
        yield jobs.filter(pk__in=keys).update(**NO_WORDS)
    if (old := _old_sentences()) is not None:
        for keys in _chunks(old):
            old.filter(pk__in=keys).update(change_message="")


def _jobs_with_words() -> QuerySet[CloseJob]:
    return _old_jobs("notes").exclude(**NO_WORDS)


def _old_sentences() -> QuerySet[Any] | None:
    """Return entries of Django's own history whose sentences may quote a note."""
    entries, before = entries_about(ChatSession, CloseJob), before_of_site("notes")
    if entries is None or before is None:
        return None
    kept = selectors.all_sessions().filter(held()).values_list("pk", flat=True)
    held_keys = [str(key) for key in kept]
    return (
        entries.filter(action_time__lt=before)
        .exclude(object_id__in=held_keys)
        .exclude(change_message="")
    )


def _old_jobs(kind: str) -> QuerySet[CloseJob]:
    """Return the finished jobs that are older than all accounts allow, without held sessions."""
    before, alias = before_of_site(kind), router.db_for_write(CloseJob)
    jobs = CloseJob.objects.using(alias)
    if before is None:
        return jobs.none()
    items = CloseJobItem.objects.using(alias).filter(held("session__"), job=OuterRef("pk"))
    return jobs.filter(~Exists(items), finished_at__lt=before)


def _count_jobs() -> int:
    return _old_jobs("jobs").count()


def _delete_jobs() -> Iterator[int]:
    jobs = _old_jobs("jobs")
    last = 0
    while found := jobs.filter(pk__gt=last).order_by("pk").only("pk", "uuid").first():
        last = found.pk
        if not _is_to_be_announced(found):
            yield _delete_job(found)


def _is_to_be_announced(job: CloseJob) -> bool:
    pending = queue.all_deliveries(router.db_for_write(WebhookDelivery))
    return pending.filter(subject=str(job.uuid), state=WebhookDelivery.State.PENDING).exists()


def _delete_job(job: CloseJob) -> int:
    """Delete a job and its items: a job of a million in more than one transaction."""
    items = CloseJobItem.objects.using(router.db_for_write(CloseJob)).filter(job=job.pk)
    for keys in _chunks(items):
        items.filter(pk__in=keys).delete()
    rows = CloseJob.objects.using(items.db).filter(pk=job.pk)
    return min(1, persist(rows.delete, using=items.db, patience=PATIENCE_BEFORE)[0])


def _delete_events() -> Iterator[int]:
    return queue.purge(using=router.db_for_write(WebhookDelivery))


def _count_events() -> int:
    return queue.expired(using=router.db_for_write(WebhookDelivery)).count()


def _old_exports() -> QuerySet[DataExport]:
    """Return the lines of old exports, also of those whose process died before the end."""
    before = before_of_site("exports")
    exports = DataExport.objects.using(router.db_for_write(DataExport))
    if before is None:
        return exports.none()
    cut_off = Q(finished_at=None, started_at__lt=before - SURELY_OVER)
    return exports.filter(Q(finished_at__lt=before) | cut_off)


def _delete_exports() -> Iterator[int]:
    old = _old_exports()
    for keys in _chunks(old):
        yield old.filter(pk__in=keys).delete()[0]


def _chunks(rows: QuerySet[Any]) -> Iterator[list[int]]:
    """Yield the keys of rows that are changed so that they are no longer among them."""
    while keys := list(rows.order_by("pk").values_list("pk", flat=True)[:_CHUNK]):
        yield keys


_NOTES: Final = SessionPurge(kind="notes", has_any=removals.has_notes, remove=removals.remove_notes)
_OF_SESSIONS: Final = {
    "raw_answers": (removals.has_raw_answers, removals.remove_raw_answers),
    "metadata": (removals.has_metadata, removals.remove_metadata),
    "summaries": (removals.has_summary, removals.remove_summaries),
    "sessions": (removals.may_be_deleted, removals.delete_sessions),
}
_Purge = tuple[Callable[[], int], Callable[[], Iterator[int]]]


def _purge_of(kind: str) -> _Purge:
    has_any, remove = _OF_SESSIONS[kind]
    of_sessions = SessionPurge(kind=kind, has_any=has_any, remove=remove)
    return of_sessions.count, of_sessions.run


_PURGES: Final[Mapping[str, _Purge]] = {
    **{kind: _purge_of(kind) for kind in _OF_SESSIONS},
    "texts": (_count_texts, texts.redact_texts),
    "notes": (_count_notes, _remove_notes),
    "jobs": (_count_jobs, _delete_jobs),
    "events": (_count_events, _delete_events),
    "idempotency": (
        lambda: idempotency.expired_requests().count(),
        idempotency.expire_requests,
    ),
    "exports": (lambda: _old_exports().count(), _delete_exports),
}
