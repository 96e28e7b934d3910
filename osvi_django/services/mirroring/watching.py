"""Keep all open sessions up to date, for as long as a process runs.

OSVI does not notify anybody. Each customer with an open session is looked up again and again: after
the period that the caller sets, or earlier if one of the sessions has moved lately or its customer
waits for a person. Each account has a thread, so that one with errors does not delay the others.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final, TypeVar

from django.db import InterfaceError, OperationalError, close_old_connections, connections, router
from django.db.models import F, Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from osvi_django import clock
from osvi_django.client.threads import Pools
from osvi_django.conf import MAX_SECONDS
from osvi_django.contexts import ThreadContext
from osvi_django.database import refuse_inside_transaction, safe_error_name
from osvi_django.exceptions import InvalidInput, generic_messages
from osvi_django.models import ChatSession
from osvi_django.services.attempts.types import RequestOrigin, Status
from osvi_django.services.mirroring.sync import SyncRun, accounts_here, open_sessions
from osvi_django.services.mirroring.sync_pool import LookUp
from osvi_django.validation import checks_types

logger = logging.getLogger(__name__)

DATABASE: Final = "database"
UNEXPECTED: Final = "unexpected"
# A session that moved within the first of these is looked up after that part of the period; one
# that did not move within any of them after the whole period.
_LIVELY: Final = ((timedelta(minutes=10), 4), (timedelta(hours=1), 2))
# How many sessions a run takes of each kind, so that the others do not wait for long.
_RUN: Final = 200
# How often to look for what is due, and for new accounts.
_LOOK_EVERY: Final = 1.0  # seconds
_NEW_ACCOUNTS_EVERY: Final = 2.0  # seconds
# After this, an answer about the present is no longer worth waiting for.
_PATIENCE: Final = 15.0  # seconds
# How often to ask whether a dormant session is closed, which takes a call of its own.
_PROBE_DORMANT_EVERY: Final = 900.0  # seconds
# After errors: doubled each time.
_FIRST_PAUSE: Final = 1.0  # seconds
_LONGEST_PAUSE: Final = 60.0  # seconds


@dataclass(frozen=True, kw_only=True)
class WatchTrouble:
    """Something that keeps sessions from being looked up, or has stopped to do so.

    ``account``: which one, or "" for all; ``code``: that of the error, ``"database"`` or
    ``"unexpected"``, and "" when it is over; ``detail``: the kind of a database error.
    """

    account: str
    code: str
    detail: str = ""


_Key = TypeVar("_Key")
OnTrouble = Callable[[WatchTrouble], object]


@checks_types
def watch_open(
    *,
    seconds: float = 30.0,
    stop: threading.Event,
    on_trouble: OnTrouble | None = None,
    via: str = "code",
) -> None:
    """Look up all open sessions again and again, until ``stop`` is set.

    ``seconds``: after how long each is looked up again, at the latest; what has moved lately, up to
    four times as often. No more calls run at once than ``CONCURRENCY`` allows. Errors of OSVI and
    of the database are waited out; ``on_trouble`` is called once when they begin and when they are
    over, from any thread. Raises ``InsideTransaction`` and ``InvalidInput``.
    """
    with generic_messages():
        refuse_inside_transaction(router.db_for_write(ChatSession))
    if not 0 < seconds <= MAX_SECONDS:
        raise InvalidInput(_("seconds must be above 0, and at most a day."), field="seconds")
    by = RequestOrigin(requested_by=None, via=via, note="")
    _Watch(seconds, stop, _Troubles(on_trouble or (lambda _trouble: None)), by).work()


class _Troubles:
    """What keeps each account from being looked up; each change is reported once."""

    def __init__(self, report: OnTrouble) -> None:
        self._report = report
        self._codes: dict[str, str] = {}
        self._lock = threading.Lock()

    def is_known(self, account: str) -> bool:
        """Return whether this account has errors already."""
        return bool(self._codes.get(account))

    def set(self, account: str, code: str, detail: str = "") -> None:
        """Store what an account has; "" if it has nothing. The database is that of all accounts."""
        with self._lock:
            names = [account] if code else [account, ""]
            account = "" if code == DATABASE else account
            changed = [account] if code else names
            for name in changed:
                if self._codes.get(name, "") != code:
                    self._codes[name] = code
                    self._report(WatchTrouble(account=name, code=code, detail=detail))


class _Watch:
    """The threads of one watch, each for an account."""

    def __init__(
        self, seconds: float, stop: threading.Event, troubles: _Troubles, by: RequestOrigin
    ) -> None:
        self._new = partial(_AccountWatch, seconds=seconds, stop=stop, troubles=troubles, by=by)
        self._stop = stop
        self._troubles = troubles
        self._threads: dict[str, threading.Thread] = {}

    def work(self) -> None:
        try:
            while not self._stop.is_set():
                self._start_new_accounts()
                self._stop.wait(_NEW_ACCOUNTS_EVERY if self._threads else _LOOK_EVERY)
        finally:
            self._stop.set()
            for thread in self._threads.values():
                thread.join()

    def _start_new_accounts(self) -> None:
        close_old_connections()
        try:
            found = accounts_here()
        except (OperationalError, InterfaceError) as error:
            self._troubles.set("", DATABASE, safe_error_name(error))
            return
        for account in found:
            if account not in self._threads:
                context, watch = ThreadContext(), self._new(account)
                thread = threading.Thread(
                    target=context.run, args=(watch.work,), name=f"osvi-watch-{account}"
                )
                self._threads[account] = thread
                thread.start()


class _AccountWatch:
    """One account: a short run over what is due, and then the next."""

    def __init__(
        self,
        account: str,
        *,
        seconds: float,
        stop: threading.Event,
        troubles: _Troubles,
        by: RequestOrigin,
    ) -> None:
        self._account = account
        self._seconds = seconds
        self._stop = stop
        self._troubles = troubles
        self._by = by
        # When a customer whose look-up failed, and a dormant session, may be asked about again.
        self._not_before: dict[str, float] = {}
        self._probe_after: dict[int, float] = {}
        self._pause = 0.0
        self._threads = Pools()

    def work(self) -> None:
        """Look up what is due, until the watch is stopped."""
        try:
            while not self._stop.is_set():
                self._run_safely()
                self._stop.wait(self._pause or min(_LOOK_EVERY, self._seconds / 8))
        finally:
            self._threads.end()
            connections.close_all()

    def _run_safely(self) -> None:
        close_old_connections()
        try:
            code, detail = self._run(), ""
        except (OperationalError, InterfaceError) as error:
            code, detail = DATABASE, safe_error_name(error)
        except Exception:  # a daemon outlives an error of ours
            logger.exception("the open sessions of account %r were not looked up", self._account)
            code, detail = UNEXPECTED, ""
        if code:
            self._pause = min(max(2 * self._pause, _FIRST_PAUSE), _LONGEST_PAUSE)
        else:
            self._pause = 0.0
        self._troubles.set(self._account, code, detail)

    def _run(self) -> str:
        """Look up what is due now; return the code of the error that stopped this, or ""."""
        keys = list(self._due())
        if not keys:
            return ""
        run = SyncRun(
            partial(_with_keys, keys),
            self._stop,
            self._by,
            may_probe=self._may_probe,
            on_probe=self._remember_probes,
            on_failure=self._wait_with,
            patience=_PATIENCE,
            is_repeated=self._troubles.is_known(self._account),
            threads=self._threads,
        )
        return run.work([self._account]).troubles.get(self._account, "")

    def _due(self) -> Iterator[int]:
        """Yield the keys of sessions to look up now, a part of them from each kind."""
        now, seconds = timezone.now(), timedelta(seconds=self._seconds)
        mine = open_sessions().filter(agent__account=self._account).exclude(customer_id="")
        mine = mine.exclude(customer_id__in=self._waiting())
        before = Q()
        for period, times in _LIVELY:
            has_moved = Q(last_activity_at__gt=now - period) | Q(help_requested=True)
            yield from _longest_ago(mine.filter(before & has_moved), now - seconds / times)
            before &= Q(last_activity_at__lte=now - period, help_requested=False)
        yield from _longest_ago(mine.filter(before), now - seconds)

    def _waiting(self) -> list[str]:
        """Return the customers whose look-up has just failed."""
        self._not_before = _in_future(self._not_before)
        self._probe_after = _in_future(self._probe_after)
        return list(self._not_before)

    def _wait_with(self, look_up: LookUp) -> None:
        self._not_before[look_up.customer_id] = clock.monotonic() + self._seconds

    def _may_probe(self, session: ChatSession) -> bool:
        """Return whether to ask OSVI now whether a session that it does not list is closed."""
        return session.status != Status.DORMANT or session.pk not in self._probe_after

    def _remember_probes(self, sessions: Sequence[ChatSession]) -> None:
        later = clock.monotonic() + _PROBE_DORMANT_EVERY
        self._probe_after |= dict.fromkeys((each.pk for each in sessions), later)


def _in_future(moments: dict[_Key, float]) -> dict[_Key, float]:
    now = clock.monotonic()
    return {key: at for key, at in moments.items() if at > now}


def _longest_ago(sessions: QuerySet[ChatSession], due: object) -> Iterator[int]:
    """Yield the keys of those that were not looked up since ``due``, the longest ago first."""
    old = sessions.filter(Q(synced_at=None) | Q(synced_at__lte=due))
    ordered = old.order_by(F("synced_at").asc(nulls_first=True), "pk")
    yield from ordered.values_list("pk", flat=True)[:_RUN]


def _with_keys(keys: list[int], _account: str) -> QuerySet[ChatSession]:
    chosen = open_sessions().filter(pk__in=keys).order_by("pk")
    return chosen.only("session_id", "customer_id")
