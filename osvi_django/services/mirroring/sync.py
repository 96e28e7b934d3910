"""Look up all sessions that are believed open, as OSVI does not report changes itself.

For each account, threads that only send HTTP requests look up one customer after another, and then
probe sessions that OSVI no longer lists; the calling thread stores the results. Each look-up stores
its time, so that a run that ended early need not start again from the beginning.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar, cast

from django.db import InterfaceError, OperationalError, router
from django.db.models import Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from osvi_django.client.pool import CallResult
from osvi_django.client.responses import Answer, RemoteSession
from osvi_django.client.threads import Pools
from osvi_django.client.throttle import is_account_wide, is_ambiguous, named
from osvi_django.database import persist, refuse_inside_transaction, safe_error_name
from osvi_django.exceptions import (
    CallError,
    InvalidInput,
    OSVIError,
    OSVINotConfigured,
    generic_messages,
)
from osvi_django.models import ChatAgent, ChatSession
from osvi_django.services import selectors
from osvi_django.services.attempts.types import RequestOrigin
from osvi_django.services.mirroring.customers import (
    apply_active_sessions,
    open_sessions_of,
    sessions_to_probe,
    store_unchanged,
    unlisted_if_unchanged,
)
from osvi_django.services.mirroring.probing import log_unknown
from osvi_django.services.mirroring.sync_pool import (
    AnsweredLookUp,
    LookUp,
    LookUpPool,
    Probe,
    SyncCall,
)
from osvi_django.validation import checks_types

_T = TypeVar("_T")

logger = logging.getLogger(__name__)

# How often to check whether an account with errors may be asked again.
_POLL: Final = 0.1  # seconds
# How long to wait for an unavailable database.
_RETRY_SECONDS: Final = 20.0  # seconds


@dataclass(frozen=True, kw_only=True)
class SyncProgress:
    """The progress of a sync, in customers.

    ``total``: to look up when it started; ``failed``: OSVI's answer could not be used;
    ``troubles``: by account, the code of the error that stopped it; ``without_customer``: sessions
    that OSVI cannot be asked about, as their customer is not known here.
    """

    total: int = 0
    looked_up: int = 0
    failed: int = 0
    without_customer: int = 0
    troubles: Mapping[str, str] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """Return how many were asked for, whether or not the answer could be used."""
        return self.looked_up + self.failed

    @property
    def left(self) -> int:
        """Return how many have not been asked for."""
        return max(0, self.total - self.done)


_NOTHING_DONE: Final = SyncProgress()
# How many sessions of which nothing has changed are written in one statement.
_WRITTEN_TOGETHER: Final = 100


@checks_types
def sync_open(
    *,
    older_than: timedelta | None = None,
    stop: threading.Event | None = None,
    on_progress: Callable[[SyncProgress], None] | None = None,
    via: str = "code",
) -> SyncProgress:
    """Look up all sessions that are believed open, by customer; each customer once per account.

    ``older_than``: only those that were not looked up for so long. ``stop``, once set, ends it
    early; ``on_progress`` is called after each customer. An account with errors is asked more
    slowly, and then no longer. Raises ``InsideTransaction``, ``InvalidInput``, and the database's
    own errors if it remains unavailable.
    """
    with generic_messages():
        refuse_inside_transaction(router.db_for_write(ChatSession))
    by = RequestOrigin(requested_by=None, via=via, note="")
    report = on_progress or (lambda _progress: None)
    choose = partial(_to_look_up, due=_due(older_than))
    begun = SyncProgress(without_customer=open_sessions().filter(customer_id="").count())
    run = SyncRun(choose, stop or threading.Event(), by, on_progress=report, progress=begun)
    return run.work(accounts_here())


class SyncRun:
    """One run over the sessions that ``choose`` returns for each account.

    ``may_probe``: whether OSVI is asked now about a session that it does not list; ``on_probe``:
    called with those that it is asked about; ``on_failure``: called with a look-up that failed;
    ``patience``: the most seconds for a call; ``is_repeated``: whether an earlier run has logged
    that the account has errors; ``threads``: those of several runs, so that each need not connect.
    """

    def __init__(
        self,
        choose: Callable[[str], QuerySet[ChatSession]],
        stop: threading.Event,
        by: RequestOrigin,
        *,
        on_progress: Callable[[SyncProgress], None] = lambda _progress: None,
        progress: SyncProgress = _NOTHING_DONE,
        may_probe: Callable[[ChatSession], bool] = lambda _session: True,
        on_probe: Callable[[Sequence[ChatSession]], object] = lambda _sessions: None,
        on_failure: Callable[[LookUp], object] = lambda _look_up: None,
        patience: float = float("inf"),
        is_repeated: bool = False,
        threads: Pools | None = None,
    ) -> None:
        self.by = by
        self.choose = choose
        self.stop = stop
        self.on_progress = on_progress
        self.progress = progress
        self.may_probe = may_probe
        self.on_probe = on_probe
        self.on_failure = on_failure
        self.patience = patience
        self.is_repeated = is_repeated
        self.threads = threads
        self.arrived: SimpleQueue[CallResult[SyncCall]] = SimpleQueue()
        self.pools: dict[str, LookUpPool] = {}
        self.is_database_unavailable = False
        self.unchanged: dict[int, datetime] = {}

    def work(self, accounts: Iterable[str]) -> SyncProgress:
        """Ask and store until nothing is left that can be asked."""
        for account in accounts:
            self._open_pool(account)
        try:
            while not self.stop.is_set() and any(pool.has_work for pool in self.pools.values()):
                for pool in self.pools.values():
                    pool.dispatch()
                self._collect(_POLL)
        except (OperationalError, InterfaceError):
            self.is_database_unavailable = True
            raise
        finally:
            self._shutdown()
        return self.progress

    def _open_pool(self, account: str) -> None:
        sessions = self.choose(account)
        number = sessions.order_by().values("customer_id").distinct().count()
        if not number:
            return
        self.progress = replace(self.progress, total=self.progress.total + number)
        try:
            self.pools[account] = LookUpPool(
                account, self.arrived, self.stop, sessions, self.patience, self.threads
            )
        except OSVINotConfigured as error:
            self._stop_account(account, error)

    def _shutdown(self) -> None:
        """Start nothing more, and store what still comes back."""
        for pool in self.pools.values():
            pool.stop_accepting()
        try:
            while any(pool.in_progress for pool in self.pools.values()):
                self._collect(_POLL)
        finally:
            for pool in self.pools.values():
                pool.shutdown()
        self._store_unfinished()
        self._store_unchanged()

    def _collect(self, seconds: float) -> None:
        try:
            reply = self.arrived.get(timeout=seconds)
        except Empty:
            return
        pool, about = self.pools[reply.subject.account], reply.subject
        pool.task_done()
        # Without a database nothing can be stored; the question can be asked again later.
        if self.is_database_unavailable:
            return
        if isinstance(about, Probe):
            self._complete_probe(pool, about, reply)
        else:
            self._complete_look_up(pool, about, reply)

    def _complete_look_up(
        self, pool: LookUpPool, look_up: LookUp, reply: CallResult[SyncCall]
    ) -> None:
        """Read what OSVI lists for a customer, and probe the sessions that it does not list."""
        if reply.found is None:  # it was not started
            pool.retries.append(look_up)
            return
        try:
            remotes = _remotes_of(pool, reply)
        except (OSVIError, OSVINotConfigured) as error:
            self._handle_error(pool, look_up, reply.sent_at, error)
            return
        pool.throttle.record_success(reply.sent_at)
        known = self._persist(
            look_up, partial(open_sessions_of, look_up.customer_id, look_up.account)
        )
        if known is None:
            return
        if self._is_unchanged(known, remotes):
            self._note_unchanged(known, look_up.asked_at)
            return
        find = partial(
            sessions_to_probe,
            look_up.customer_id,
            remotes,
            account=look_up.account,
            asked_at=look_up.asked_at,
        )
        unlisted = self._persist(look_up, find)
        if unlisted is None:
            return
        sessions = [each for each in unlisted if self.may_probe(each)]
        left = frozenset(each.pk for each in unlisted if each not in sessions)
        answered = AnsweredLookUp(look_up=look_up, remotes=remotes, left=left)
        if sessions:
            self.on_probe(sessions)
            pool.submit_probes(answered, *sessions)
        else:
            self._store(answered)

    def _is_unchanged(
        self, sessions: Sequence[ChatSession], remotes: Mapping[str, RemoteSession]
    ) -> bool:
        """Return whether nothing is to be stored or asked; most look-ups find that."""
        unlisted = unlisted_if_unchanged(sessions, remotes)
        return unlisted is not None and not any(self.may_probe(each) for each in unlisted)

    def _note_unchanged(self, sessions: Sequence[ChatSession], asked_at: datetime) -> None:
        self.unchanged |= {each.pk: asked_at for each in sessions}
        if len(self.unchanged) >= _WRITTEN_TOGETHER:
            self._store_unchanged()
        self._report(looked_up=self.progress.looked_up + 1)

    def _store_unchanged(self) -> None:
        """Store that these were looked up, all at the time of the first."""
        unchanged, self.unchanged = self.unchanged, {}
        if unchanged and not self.is_database_unavailable:
            work = partial(store_unchanged, list(unchanged), min(unchanged.values()))
            persist(work, using=router.db_for_write(ChatSession), patience=_RETRY_SECONDS)

    def _complete_probe(self, pool: LookUpPool, probe: Probe, reply: CallResult[SyncCall]) -> None:
        """Record what OSVI said about a session that it did not list."""
        answered, found = probe.answered, reply.found
        answered.in_progress -= 1
        if isinstance(found, bool):
            answered.probed[probe.pk] = found
            pool.throttle.record_success(reply.sent_at)
        elif found is None or is_account_wide(found):
            pool.submit_probes(answered, probe.session)
        else:
            answered.is_failed = True
            log_unknown(probe.session, cast("CallError", found))
        if is_account_wide(found):
            self._record_in_throttle(pool, reply.sent_at, found)
        if not answered.in_progress and not answered.to_probe:
            self._store(answered)

    def _store_unfinished(self) -> None:
        """Store the results of customers whose sessions were not all probed; skip the rest."""
        unfinished = [each for pool in self.pools.values() for each in pool.answered]
        while unfinished and not self.is_database_unavailable:
            self._store(unfinished.pop())

    def _store(self, answered: AnsweredLookUp) -> None:
        look_up = answered.look_up
        store = partial(
            apply_active_sessions,
            look_up.customer_id,
            answered.remotes,
            account=look_up.account,
            asked_at=look_up.asked_at,
            probed=answered.probed,
            by=self.by,
            left=answered.left,
        )
        if self._persist(look_up, store) is None:
            return
        if answered.is_failed:
            self.on_failure(look_up)
            self._report(failed=self.progress.failed + 1)
        elif not answered.to_probe:
            self._report(looked_up=self.progress.looked_up + 1)

    def _persist(self, look_up: LookUp, work: Callable[[], _T]) -> _T | None:
        """Return the result of one customer's work; None if it fails, as the others continue."""
        try:
            return persist(work, using=router.db_for_write(ChatSession), patience=_RETRY_SECONDS)
        except (OperationalError, InterfaceError):
            raise  # all of them need the database
        except Exception as error:  # noqa: BLE001  # one customer must not stop the others
            code = error.code if isinstance(error, OSVIError) else safe_error_name(error)
        self._fail(look_up, code)
        return None

    def _handle_error(
        self, pool: LookUpPool, look_up: LookUp, sent_at: float, error: CallError
    ) -> None:
        if is_account_wide(error):
            pool.retries.append(look_up)
        else:
            self._fail(look_up, error.code)
        self._record_in_throttle(pool, sent_at, error)

    def _record_in_throttle(self, pool: LookUpPool, sent_at: float, error: CallError) -> None:
        if is_account_wide(error) or is_ambiguous(error):
            pool.record_failure(sent_at, error)
        else:
            pool.throttle.record_success(sent_at)
        if pool.error is None and pool.throttle.is_open:
            pool.error = error
            self._stop_account(pool.account, error)

    def _stop_account(self, account: str, error: CallError) -> None:
        level = logging.DEBUG if self.is_repeated else logging.ERROR
        logger.log(level, "account %r is looked up no more: %s", account, named(error))
        troubles = {**self.progress.troubles, account: error.code}
        self._report(troubles=troubles)

    def _fail(self, look_up: LookUp, code: str) -> None:
        # Do not log the customer: it may be a telephone number.
        logger.warning("session %r could not be looked up: %s", look_up.session_id, code)
        self.on_failure(look_up)
        self._report(failed=self.progress.failed + 1)

    def _report(self, **changes: Any) -> None:
        self.progress = replace(self.progress, **changes)
        self.on_progress(self.progress)


def _remotes_of(pool: LookUpPool, reply: CallResult[SyncCall]) -> dict[str, RemoteSession]:
    """Return what a customer has open; raise the error if OSVI answered with one."""
    if isinstance(reply.found, OSVIError | OSVINotConfigured):
        raise reply.found
    customer_id = cast("LookUp", reply.subject).customer_id
    return pool.client.read_active_sessions(cast("Answer", reply.found), customer_id)


def _due(older_than: timedelta | None) -> datetime:
    """Return the time since which a session must not have been looked up."""
    period = older_than or timedelta()
    try:
        if period >= timedelta():
            return timezone.now() - period
    except OverflowError:
        pass
    problem = _("older_than must be a positive duration.")
    raise InvalidInput(problem, field="older_than")


def open_sessions() -> QuerySet[ChatSession]:
    """Return the sessions that are believed open, from the database they are written to."""
    sessions = selectors.all_sessions()
    return sessions.filter(status__in=ChatSession.OPEN)


def accounts_here() -> list[str]:
    """Return the accounts that have agents here."""
    agents = ChatAgent.objects.using(router.db_for_write(ChatAgent)).order_by("account")
    return list(agents.values_list("account", flat=True).distinct())


def _to_look_up(account: str, *, due: datetime) -> QuerySet[ChatSession]:
    old = Q(synced_at=None) | Q(synced_at__lt=due)
    wanted = open_sessions().filter(old, agent__account=account).exclude(customer_id="")
    return wanted.order_by("pk").only("session_id", "customer_id")
