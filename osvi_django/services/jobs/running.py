"""What the parts of a worker share: a job that this process runs, and its leased items."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from django.db import Error, InterfaceError, OperationalError, router

from osvi_django import clock
from osvi_django.client.threads import Arrivals, Pools
from osvi_django.database import persist, safe_error_name
from osvi_django.exceptions import (
    NotAllowed,
    OSVINotConfigured,
    SessionNotFound,
    UnknownStatus,
)
from osvi_django.models import ChatSession, CloseJob, CloseJobItem
from osvi_django.redaction import HiddenText
from osvi_django.services.access import Purpose, keys_inside
from osvi_django.services.attempts import claims
from osvi_django.services.attempts.error_policy import ItemOutcome, ItemResult, item_result
from osvi_django.services.attempts.types import RequestOrigin, Status
from osvi_django.services.jobs import store
from osvi_django.services.jobs.background import SummaryThreads, ThreadSlots
from osvi_django.services.jobs.close_pool import ClosePools, CloseReply
from osvi_django.services.jobs.filters import still_matching, still_spared
from osvi_django.services.permissions import CLOSE, is_permitted, requester_for

_T = TypeVar("_T")

logger = logging.getLogger(__name__)

# How long to wait for an unavailable database.
DATABASE_RETRY_SECONDS: Final = 20.0


class Patience:
    """The time to wait for an unavailable database, shared by the jobs of one thread."""

    def __init__(self) -> None:
        self.is_database_unavailable = False

    def persist(self, work: Callable[[], _T], *, using: str) -> _T:
        """Call ``database.persist``, without waiting if the last wait was in vain."""
        patience = 0.0 if self.is_database_unavailable else DATABASE_RETRY_SECONDS
        try:
            done = persist(work, using=using, patience=patience)
        except (OperationalError, InterfaceError):
            self.is_database_unavailable = True
            raise
        self.is_database_unavailable = False
        return done


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What the jobs of one thread share.

    ``signal``: set when there is something to do for one of them; ``slots``: for threads that use
    the database; ``sharers``: the number of jobs.
    """

    signal: threading.Event
    pools: Pools
    slots: ThreadSlots
    patience: Patience
    sharers: Callable[[], int]


class RunningJob:
    """One job, as this process runs it.

    ``items``: those that it holds, by their attempts; ``on_progress``: called after each commit of
    results; ``heartbeat_at``: when the heartbeat was last written.
    """

    def __init__(
        self,
        job: CloseJob,
        stop: threading.Event,
        on_progress: Callable[[CloseJob], None] | None,
        shared: Shared | None,
    ) -> None:
        self.job = job
        self.on_progress = on_progress
        self.using = router.db_for_write(CloseJob, instance=job)
        self.signal = shared.signal if shared else threading.Event()
        self.slots = shared.slots if shared else None
        self.patience = shared.patience if shared else None
        self.arrived: Arrivals[CloseReply] = Arrivals(self.signal)
        self.pools = ClosePools(self.arrived, stop, shared.pools if shared else None)
        self.summaries = SummaryThreads(self.using, self.signal, self.slots)
        self.items: dict[int, CloseJobItem] = {}
        self.heartbeat_at = clock.monotonic()
        self.use_requester_of(job)

    def use_requester_of(self, job: CloseJob) -> None:
        """Close on behalf of the user of this job, with the user's current permissions."""
        self.origin = RequestOrigin(
            requested_by=requester_for(job),
            via=job.via,
            note=HiddenText(job.note),
            close_reason=job.close_reason,
        )
        self.requester_read_at = clock.monotonic()

    def refresh_requester(self) -> None:
        """Read the user and their permissions again."""
        self.use_requester_of(store.find(self.job.pk))

    def persist(self, work: Callable[[], _T]) -> _T:
        """Run work in its own transaction, and retry it if the database was unavailable."""
        if self.patience is not None:
            return self.patience.persist(work, using=self.using)
        return persist(work, using=self.using, patience=DATABASE_RETRY_SECONDS)

    def try_persist(self, item: CloseJobItem, work: Callable[[], None]) -> bool:
        """Store the outcome of an item; return False if that failed, so that its lease runs out."""
        try:
            self.persist(work)
        except Error as error:
            names = (item.pk, self.job.pk, safe_error_name(error))
            logger.error("the end of item %s of job %s cannot be stored: %s", *names)
            return False
        return True

    def report(self) -> None:
        """Call ``on_progress`` with the job as it is now."""
        if self.on_progress is not None:
            self.on_progress(store.find(self.job.pk))

    def matching(self, items: Iterable[CloseJobItem]) -> set[int] | None:
        """Return the keys of sessions that still match the job's filter; None if it has none."""
        kept = self.job.session_filter
        if kept is None:
            return None
        held = [(item, item.session) for item in items if item.session]
        unchanged = [session for item, session in held if not item.goodbye]
        written_to = [session for item, session in held if item.goodbye]
        matching = still_matching(kept, unchanged) if unchanged else set()
        if written_to:
            matching |= {each.pk for each in written_to} - still_spared(kept, written_to)
        return matching

    def outside(self, items: Iterable[CloseJobItem]) -> dict[int, ItemResult]:
        """Return, by session, the results of items that the user of the job may no longer reach.

        They are as if they did not exist. If the host's function fails, none is closed.
        """
        keys = [item.session_id for item in items if item.session_id is not None]
        user = self.origin.requested_by
        try:
            inside = keys_inside(keys, user, Purpose.CLOSE)
        except OSVINotConfigured as error:
            return dict.fromkeys(keys, ItemResult(outcome=ItemOutcome.NOT_SENT, code=error.code))
        return dict.fromkeys(set(keys) - inside, item_result(SessionNotFound()))

    def resolve_locally(
        self,
        item: CloseJobItem,
        matching: set[int] | None,
        outside: Mapping[int, ItemResult],
    ) -> ItemResult | None:
        """Return the result of an item that needs no close or may not have one; else None."""
        session = item.session
        if session is None:
            return item_result(SessionNotFound())
        if session.pk in outside:
            return outside[session.pk]
        user = self.origin.requested_by
        if self.job.has_requester and not is_permitted(user, CLOSE, session):
            return item_result(NotAllowed())
        if session.status == Status.CLOSED:
            return ItemResult(outcome=ItemOutcome.ALREADY_CLOSED)
        if matching is not None and session.pk not in matching:
            return ItemResult(outcome=ItemOutcome.NO_LONGER_MATCHES)
        if session.status not in ChatSession.Status:
            return item_result(UnknownStatus())
        return None

    def release_all(self) -> None:
        """Release the items that an error has kept from being stored, for other workers."""
        items, self.items = list(self.items.values()), {}
        store.stop_renewing(self.job, items)
        claims.stop_renewing((item.session, item.claim) for item in items if item.session)
