"""Looking up all sessions that are believed open: OSVI tells of none by itself.

For each account, threads that only speak HTTP ask for one customer after the other, and about what
OSVI does not list any more; the thread that called writes down what they bring. What was looked up
says when, so that a run that ended early need not be done again from the start.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar, cast

from django.db import InterfaceError, OperationalError, router
from django.db.models import Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from osvi_django.answers import Answer, RemoteSession
from osvi_django.client import OSVIClient
from osvi_django.exceptions import InvalidInput, OSVIError, OSVINotConfigured, not_a_close
from osvi_django.models import ChatAgent, ChatSession
from osvi_django.services.lanes import Line, ReplyAbout
from osvi_django.services.mirroring import store_active, unlisted
from osvi_django.services.pace import DOUBT, NOT_NOW, Trouble, named
from osvi_django.services.quiet import is_closed, log_untold
from osvi_django.services.steps import CloseRequest
from osvi_django.transactions import kind_of, persist, refuse_inside_transaction

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

# How often to look whether an account that was in trouble may be asked again.
_POLL: Final = 0.1  # seconds
# Sessions that are read at once.
_PAGE: Final = 500
# How long to wait for a database that went away.
_PATIENCE: Final = 20.0  # seconds


@dataclass(frozen=True, kw_only=True)
class SyncProgress:
    """How far it has come, in customers.

    ``total``: to look up when it began; ``failed``: an answer of OSVI was none that could be used;
    ``troubles``: by account, the code of what it was given up for; ``without_customer``: sessions
    that OSVI cannot be asked about, as their customer is not known here.
    """

    total: int = 0
    looked_up: int = 0
    failed: int = 0
    without_customer: int = 0
    troubles: Mapping[str, str] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """How many were asked for, and answered or not."""
        return self.looked_up + self.failed

    @property
    def left(self) -> int:
        """How many were not asked for, or not yet."""
        return max(0, self.total - self.done)


@dataclass(frozen=True, kw_only=True)
class LookUp:
    """A customer to ask for; ``pk`` and ``session_id`` are those of the first of its sessions."""

    pk: Any
    account: str
    session_id: str
    customer_id: str
    asked_at: datetime = field(default_factory=timezone.now)

    def ask(self, client: OSVIClient) -> Answer:
        """What the customer has open."""
        return client.send_active_sessions(self.customer_id)


@dataclass(kw_only=True, eq=False)
class Answered:
    """A look-up while OSVI is asked about what it did not list, one session at a time or more.

    ``told``: by their keys, whether these are closed.
    """

    look_up: LookUp
    remotes: Mapping[str, RemoteSession]
    to_ask: deque[ChatSession] = field(default_factory=deque)
    under_way: int = 0
    told: dict[int, bool] = field(default_factory=dict)
    is_failed: bool = False


@dataclass(frozen=True, kw_only=True)
class Question:
    """Whether a session that OSVI did not list is closed."""

    session: ChatSession
    answered: Answered

    @property
    def pk(self) -> Any:
        """The session's."""
        return self.session.pk

    @property
    def account(self) -> str:
        """The one whose token it takes."""
        return self.answered.look_up.account

    def ask(self, client: OSVIClient) -> bool:
        """Whether it is closed."""
        return is_closed(client, self.session)


_Asked = LookUp | Question


def sync_open(
    *,
    older_than: timedelta | None = None,
    stop: threading.Event | None = None,
    on_progress: Callable[[SyncProgress], None] | None = None,
    door: str = "code",
) -> SyncProgress:
    """Look up all sessions that are believed open, by customer; each customer once per account.

    ``older_than``: only those that were not looked up for so long. ``stop``, once set, ends it
    early; ``on_progress`` is called after each customer. An account in trouble is asked more
    slowly, and then no more. Raises ``InsideTransaction``, ``InvalidInput``, and the database's own
    errors where it stays away.
    """
    with not_a_close():
        refuse_inside_transaction(router.db_for_write(ChatSession))
    by = CloseRequest(requested_by=None, door=door, note="")
    report = on_progress or (lambda _progress: None)
    return _Run(_due(older_than), stop or threading.Event(), report, by).work()


class _LookUps(Line[_Asked]):
    """The customers of one account."""

    def __init__(
        self,
        account: str,
        arrived: SimpleQueue[ReplyAbout[_Asked]],
        stop: threading.Event,
        sessions: QuerySet[ChatSession],
    ) -> None:
        super().__init__(account, arrived, stop)
        self.again: deque[LookUp] = deque()
        self.answered: deque[Answered] = deque()
        self.error: Trouble | None = None
        self._sessions = sessions
        self._last = 0
        self._read_ahead: deque[LookUp] = deque()
        self._is_read = False

    @property
    def goes_on(self) -> bool:
        """Whether something is under way, or still to be asked."""
        if self.under_way:
            return True
        waits = self.answered or self.again or self._read_ahead or not self._is_read
        return self.error is None and bool(waits)

    def hand_out(self) -> None:
        """Give the threads as much as they can take just now."""
        room = self.room if self.error is None else 0
        while room > 0 and (each := self._next()) is not None:
            room -= 1
            asked = replace(each, asked_at=timezone.now()) if isinstance(each, LookUp) else each
            self.ask(asked, partial(asked.ask, self.client))

    def ask_about(self, answered: Answered, *sessions: ChatSession) -> None:
        """Have these asked about, before any further customer."""
        answered.to_ask.extend(sessions)
        if answered not in self.answered:
            self.answered.append(answered)

    def _next(self) -> _Asked | None:
        if self.answered:
            return self._next_question(self.answered[0])
        if self.again:
            return self.again.popleft()
        while not self._read_ahead and not self._is_read:
            self._read_page()
        return self._read_ahead.popleft() if self._read_ahead else None

    def _next_question(self, answered: Answered) -> Question:
        session = answered.to_ask.popleft()
        answered.under_way += 1
        if not answered.to_ask:
            self.answered.popleft()
        return Question(session=session, answered=answered)

    def _read_page(self) -> None:
        page = list(self._sessions.filter(pk__gt=self._last)[:_PAGE])
        self._is_read = len(page) < _PAGE
        self._last = page[-1].pk if page else self._last
        first = _first_of_each(self._sessions, {each.customer_id for each in page})
        self._read_ahead.extend(
            LookUp(
                pk=each.pk,
                account=self.account,
                session_id=each.session_id,
                customer_id=each.customer_id,
            )
            for each in page
            if first.get(each.customer_id) == each.pk
        )


class _Run:
    def __init__(
        self,
        due: datetime,
        stop: threading.Event,
        on_progress: Callable[[SyncProgress], None],
        by: CloseRequest,
    ) -> None:
        self.by = by
        self.due = due
        self.stop = stop
        self.on_progress = on_progress
        self.progress = SyncProgress(without_customer=_open().filter(customer_id="").count())
        self.arrived: SimpleQueue[ReplyAbout[_Asked]] = SimpleQueue()
        self.lines: dict[str, _LookUps] = {}
        self.is_away = False

    def work(self) -> SyncProgress:
        """Ask and store until nothing is left that can be asked."""
        accounts = ChatAgent.objects.using(router.db_for_write(ChatAgent)).order_by("account")
        for account in accounts.values_list("account", flat=True).distinct():
            self._open_line(account)
        try:
            while not self.stop.is_set() and any(line.goes_on for line in self.lines.values()):
                for line in self.lines.values():
                    line.hand_out()
                self._collect(_POLL)
        except (OperationalError, InterfaceError):
            self.is_away = True
            raise
        finally:
            self._bring_home()
        return self.progress

    def _open_line(self, account: str) -> None:
        sessions = _to_look_up(account, self.due)
        number = sessions.order_by().values("customer_id").distinct().count()
        if not number:
            return
        self.progress = replace(self.progress, total=self.progress.total + number)
        try:
            self.lines[account] = _LookUps(account, self.arrived, self.stop, sessions)
        except OSVINotConfigured as error:
            self._give_up(account, error)

    def _bring_home(self) -> None:
        """Begin nothing more, and store what still comes back."""
        for line in self.lines.values():
            line.halt()
        try:
            while any(line.under_way for line in self.lines.values()):
                self._collect(_POLL)
        finally:
            for line in self.lines.values():
                line.end()
        self._store_unfinished()

    def _collect(self, seconds: float) -> None:
        try:
            reply = self.arrived.get(timeout=seconds)
        except Empty:
            return
        line, about = self.lines[reply.attempt.account], reply.attempt
        line.collected()
        # Without a database there is nothing to be done with it; a question may be asked again.
        if self.is_away:
            return
        if isinstance(about, Question):
            self._hear(line, about, reply)
        else:
            self._read(line, about, reply)

    def _read(self, line: _LookUps, look_up: LookUp, reply: ReplyAbout[_Asked]) -> None:
        """Read what OSVI lists of a customer, and have it asked about what it does not."""
        if reply.found is None:  # it was not begun
            line.again.append(look_up)
            return
        try:
            remotes = _remotes_of(line, reply)
        except (OSVIError, OSVINotConfigured) as error:
            self._judge(line, look_up, reply.sent_at, error)
            return
        line.pace.went_well(reply.sent_at)
        find = partial(
            unlisted,
            look_up.customer_id,
            remotes,
            account=look_up.account,
            asked_at=look_up.asked_at,
        )
        sessions = self._persist(look_up, find)
        if sessions is None:
            return
        answered = Answered(look_up=look_up, remotes=remotes)
        if sessions:
            line.ask_about(answered, *sessions)
        else:
            self._store(answered)

    def _hear(self, line: _LookUps, question: Question, reply: ReplyAbout[_Asked]) -> None:
        """Take what OSVI said of a session that it did not list."""
        answered, found = question.answered, reply.found
        answered.under_way -= 1
        if isinstance(found, bool):
            answered.told[question.pk] = found
            line.pace.went_well(reply.sent_at)
        elif found is None or isinstance(found, NOT_NOW):
            line.ask_about(answered, question.session)
        else:
            answered.is_failed = True
            log_untold(question.session, cast("Trouble", found))
        if isinstance(found, NOT_NOW):
            self._tell_line(line, reply.sent_at, found)
        if not answered.under_way and not answered.to_ask:
            self._store(answered)

    def _store_unfinished(self) -> None:
        """Store what is known of customers about whom not all was asked; they are left."""
        unfinished = [each for line in self.lines.values() for each in line.answered]
        while unfinished and not self.is_away:
            self._store(unfinished.pop())

    def _store(self, answered: Answered) -> None:
        look_up = answered.look_up
        store = partial(
            store_active,
            look_up.customer_id,
            answered.remotes,
            account=look_up.account,
            asked_at=look_up.asked_at,
            told=answered.told,
            by=self.by,
        )
        if self._persist(look_up, store) is None:
            return
        if answered.is_failed:
            self._report(failed=self.progress.failed + 1)
        elif not answered.to_ask:
            self._report(looked_up=self.progress.looked_up + 1)

    def _persist(self, look_up: LookUp, work: Callable[[], _T]) -> _T | None:
        """What the work of one customer comes to; None where it fails, as the others go on."""
        try:
            return persist(work, using=router.db_for_write(ChatSession), patience=_PATIENCE)
        except (OperationalError, InterfaceError):
            raise  # all of them need the database
        except Exception as error:  # noqa: BLE001  # one customer must not stop the others
            code = error.code if isinstance(error, OSVIError) else kind_of(error)
        self._fail(look_up, code)
        return None

    def _judge(self, line: _LookUps, look_up: LookUp, sent_at: float, error: Trouble) -> None:
        if isinstance(error, NOT_NOW):
            line.again.append(look_up)
        else:
            self._fail(look_up, error.code)
        self._tell_line(line, sent_at, error)

    def _tell_line(self, line: _LookUps, sent_at: float, error: Trouble) -> None:
        if isinstance(error, (*NOT_NOW, *DOUBT)):
            line.went_wrong(sent_at, error)
        else:
            line.pace.went_well(sent_at)
        if line.error is None and line.pace.is_given_up:
            line.error = error
            self._give_up(line.account, error)

    def _give_up(self, account: str, error: Trouble) -> None:
        logger.error("account %r is looked up no more: %s", account, named(error))
        troubles = {**self.progress.troubles, account: error.code}
        self._report(troubles=troubles)

    def _fail(self, look_up: LookUp, code: str) -> None:
        # The customer may be a telephone number.
        logger.warning("session %r could not be looked up: %s", look_up.session_id, code)
        self._report(failed=self.progress.failed + 1)

    def _report(self, **changes: Any) -> None:
        self.progress = replace(self.progress, **changes)
        self.on_progress(self.progress)


def _remotes_of(line: _LookUps, reply: ReplyAbout[_Asked]) -> dict[str, RemoteSession]:
    """What a customer has open; raises what OSVI answered instead."""
    if isinstance(reply.found, OSVIError | OSVINotConfigured):
        raise reply.found
    return line.client.read_active_sessions(cast("Answer", reply.found))


def _due(older_than: timedelta | None) -> datetime:
    """The moment since which nobody may have looked."""
    period = older_than or timedelta()
    try:
        if period >= timedelta():
            return timezone.now() - period
    except OverflowError:
        pass
    problem = _("older_than is no time that lies behind us.")
    raise InvalidInput(problem, field="older_than")


def _open() -> QuerySet[ChatSession]:
    sessions = ChatSession.objects.using(router.db_for_write(ChatSession))
    return sessions.filter(status__in=ChatSession.OPEN)


def _to_look_up(account: str, due: datetime) -> QuerySet[ChatSession]:
    old = Q(synced_at=None) | Q(synced_at__lt=due)
    wanted = _open().filter(old, agent__account=account).exclude(customer_id="")
    return wanted.order_by("pk").only("session_id", "customer_id")


def _first_of_each(sessions: QuerySet[ChatSession], customers: Collection[str]) -> dict[str, int]:
    """By customer, the first of these sessions: each is asked for once, whatever comes of it.

    Told apart here, as MariaDB compares without regard to case.
    """
    theirs = sessions.filter(customer_id__in=customers).order_by("-pk")
    return dict(theirs.values_list("customer_id", "pk"))
