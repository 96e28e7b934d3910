"""The items of a job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from django.db import router
from django.db.models import F, Q, QuerySet
from django.utils.translation import gettext as _

from osvi_django.exceptions import InvalidInput, NotAllowed, SessionNotFound
from osvi_django.models import ChatSession, CloseJob, CloseJobItem
from osvi_django.services import selectors
from osvi_django.services.access import Purpose, keys_inside
from osvi_django.services.attempts.close_rules import close_refusal
from osvi_django.services.attempts.types import RequestOrigin, User
from osvi_django.services.jobs import store
from osvi_django.services.jobs.walking import (
    Chosen,
    FoundSession,
    Wanted,
    choose,
    chunks,
    walk,
)
from osvi_django.services.permissions import CLOSE, is_permitted, may_close, requester_fields
from osvi_django.services.search import FOUND_MAX, search_sessions
from osvi_django.services.selectors import SessionFilter, select_matching

ItemOutcome = CloseJobItem.Outcome

_NOT_CLOSED: Final = ~Q(status=ChatSession.Status.CLOSED)
# The sessions that a bulk close of staff leaves out unless it is asked for them.
WAITS_FOR_A_PERSON: Final = _NOT_CLOSED & Q(help_requested=True)


def chosen_sessions(
    sessions: Wanted | SessionFilter, user: User | None, search: str | None = None
) -> Chosen:
    if isinstance(sessions, SessionFilter):
        return matching_sessions(sessions, user, search)
    if search is not None:
        problem = _("search can be combined with a filter only.")
        raise InvalidInput(problem, field="search")
    return choose(sessions)


def matching_sessions(
    chosen: SessionFilter, user: User | None, search: str | None = None
) -> QuerySet[ChatSession]:
    """Return the sessions to close that a filter selects, of those that a search finds, if given.

    Raises the same as ``select_matching``, and ``InvalidInput`` if a text cannot be searched for,
    or finds more sessions than a search returns: some that are meant would be left out.
    """
    matching = select_matching(chosen, requested_by=user)
    if search is None:
        return matching
    found = search_sessions(search, requested_by=user)
    if not found.kinds or (found.is_capped and len(found.keys) >= FOUND_MAX):
        raise InvalidInput(found.notice, field="search")
    return matching.filter(found.condition)


def require_any_allowed(chosen: Chosen, user: User | None) -> None:
    """Raise ``NotAllowed`` if ``user`` may close none of these."""
    if user is None or may_close(user):
        return
    inside = (_inside(chunk, user) for chunk in chunks(walk(chosen)))
    if not any(_allowed(keys, user) for keys in inside):
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


def with_a_colleague(user: User | None) -> Q:
    """Return the condition for sessions that someone other than this user has taken over."""
    taken_over = _NOT_CLOSED & Q(mode=ChatSession.Mode.SUPPORT)
    key = requester_fields(user)["requested_by"]
    return taken_over if key is None else taken_over & ~Q(taken_over_by=key.pk)


def leave_out(job: CloseJob, outcome: ItemOutcome, spared: Q) -> None:
    """Settle the waiting items of sessions that are spared, in the caller's transaction."""
    sessions = selectors.all_sessions().filter(spared).values("pk")
    waiting = store.items(job).filter(outcome=ItemOutcome.WAITING, session__in=sessions)
    if number := waiting.update(outcome=outcome):
        store.rows(job).update(left_out=F("left_out") + number)


def refuse_by_rules(job: CloseJob, request: RequestOrigin) -> None:
    """Settle the waiting items of accounts whose rules refuse the request.

    In the caller's transaction. Raises ``InvalidInput`` if no other items are left.
    """
    waiting = store.items(job).filter(outcome=ItemOutcome.WAITING)
    accounts = sorted(waiting.order_by().values_list("account", flat=True).distinct())
    refusals = {each: error for each in accounts if (error := close_refusal(request, each))}
    if refusals and len(refusals) == len(accounts):
        raise refusals[accounts[0]]
    for account, error in refusals.items():
        store.refuse_waiting(job, account, error)


def new_items(job: CloseJob, chosen: Chosen, user: User | None) -> Iterator[CloseJobItem]:
    """Yield the items of a new job; some of them already have an outcome."""
    may_all = user is None or may_close(user)
    for chunk in chunks(walk(chosen)):
        inside = _inside(chunk, user)
        allowed = None if may_all else _allowed(inside, user)
        removed = _removed_since(chunk, job)
        for requested_session_id, found_key, account, _is_unverified in chunk:
            is_outside = found_key is not None and found_key not in inside
            # What is outside the access of the user is like what this site does not have.
            key = None if is_outside or found_key in removed else found_key
            item = CloseJobItem(
                job=job,
                requested_session_id=requested_session_id,
                session_id=key,
                account="" if is_outside else account,
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


def _inside(chunk: Iterable[FoundSession], user: User | None) -> set[int]:
    """Return the keys of the sessions that are inside the access of a user."""
    keys = [key for _requested_id, key, _account, _is_unverified in chunk if key is not None]
    return keys_inside(keys, user, Purpose.CLOSE)


def _allowed(keys: Collection[int], user: User | None) -> set[int | None]:
    """Return the keys of those sessions that a user with object permissions may close."""
    sessions = selectors.all_sessions().select_related("agent").filter(pk__in=keys)
    return {session.pk for session in sessions if is_permitted(user, CLOSE, session)}
