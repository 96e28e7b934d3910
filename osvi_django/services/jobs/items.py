"""The items of a job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from django.db import router

from osvi_django.exceptions import (
    NotAllowed,
    SessionNotFound,
)
from osvi_django.models import ChatSession, CloseJob, CloseJobItem
from osvi_django.services.attempts.types import User
from osvi_django.services.jobs import store
from osvi_django.services.jobs.walking import (
    Chosen,
    FoundSession,
    Wanted,
    all_sessions,
    choose,
    chunks,
    walk,
)
from osvi_django.services.permissions import may_close
from osvi_django.services.selectors import SessionFilter, select_matching

ItemOutcome = CloseJobItem.Outcome


def chosen_sessions(sessions: Wanted | SessionFilter, user: User | None) -> Chosen:
    if isinstance(sessions, SessionFilter):
        return select_matching(sessions, requested_by=user)
    return choose(sessions)


def require_any_allowed(chosen: Chosen, user: User | None) -> None:
    """Raise ``NotAllowed`` if ``user`` may close none of these."""
    if user is None or may_close(user):
        return
    if not any(_allowed(chunk, user) for chunk in chunks(walk(chosen))):
        raise NotAllowed


def insert_items(job: CloseJob, items: Iterable[CloseJobItem]) -> None:
    """Insert the items in chunks, and count those that are finished from the start."""
    alias = router.db_for_write(CloseJob, instance=job)
    counts: Counter[str] = Counter()
    for chunk in chunks(items):
        CloseJobItem.objects.using(alias).bulk_create(chunk)
        counts.update(store.COUNTERS.get(item.outcome, "waiting") for item in chunk)
    job.total = counts.total()
    for name in set(store.COUNTERS.values()):
        setattr(job, name, counts[name])
    job.save(using=alias)


def new_items(job: CloseJob, chosen: Chosen, user: User | None) -> Iterator[CloseJobItem]:
    """Yield the items of a new job; some of them already have an outcome."""
    may_all = user is None or may_close(user)
    for chunk in chunks(walk(chosen)):
        allowed = None if may_all else _allowed(chunk, user)
        removed = _removed_since(chunk, job)
        for requested_session_id, found_key, account, _is_unverified in chunk:
            key = None if found_key in removed else found_key
            item = CloseJobItem(
                job=job, requested_session_id=requested_session_id, session_id=key, account=account
            )
            if allowed is not None and key not in allowed:
                item.outcome, item.error_code = ItemOutcome.NOT_ALLOWED, NotAllowed.code
            elif key is None:
                item.outcome, item.error_code = ItemOutcome.NOT_FOUND, SessionNotFound.code
            yield item


def _removed_since(chunk: Iterable[FoundSession], job: CloseJob) -> set[int]:
    """Return the unverified sessions that are removed, and keep the others until the commit.

    Another request for the same session that comes to nothing removes it.
    """
    keys = {key for _id, key, _account, is_unverified in chunk if key and is_unverified}
    if not keys:
        return set()
    sessions = ChatSession.objects.using(router.db_for_write(CloseJob, instance=job))
    rows = sessions.filter(pk__in=keys).order_by("pk").select_for_update()
    return keys - set(rows.values_list("pk", flat=True))


def _allowed(chunk: Iterable[FoundSession], user: User | None) -> set[int | None]:
    """Return the keys of the sessions that a user with object permissions may close."""
    keys = [key for _requested_id, key, _account, _is_unverified in chunk if key is not None]
    sessions = all_sessions().select_related("agent").filter(pk__in=keys)
    return {session.pk for session in sessions if may_close(user, session)}
