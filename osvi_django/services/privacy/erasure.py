"""Erase one customer: each chat in a transaction of its own, so that it can be repeated.

What ``places.py`` declares personal is deleted, emptied or replaced; what is counted, and the
journal of who of staff did what, stays. If the process dies, the same call goes on where it was:
what is erased is not found again, and the journal row says that it is not finished.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any, Final

from django.db import router
from django.db.models import F, Q, QuerySet
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as _lazy

from osvi_django import spool
from osvi_django.database import DatabaseNow, exact_match, refuse_inside_transaction
from osvi_django.exceptions import (
    CustomerBusy,
    CustomerChatsOpen,
    CustomerKept,
    InsideTransaction,
    InvalidInput,
    OSVIError,
)
from osvi_django.models import (
    ChatAgent,
    ChatSession,
    CloseAttempt,
    CloseJob,
    CloseJobItem,
    Erasure,
    WebhookDelivery,
)
from osvi_django.redaction import HiddenText, hides
from osvi_django.services import selectors
from osvi_django.services.access import Purpose, is_narrowed, sessions_inside
from osvi_django.services.attempts.types import User
from osvi_django.services.permissions import require_erase
from osvi_django.services.privacy import journal
from osvi_django.services.privacy.hashing import new_marker
from osvi_django.services.privacy.history import HISTORY, count_entries, redact_entries
from osvi_django.services.privacy.login_sessions import drop_from_logins
from osvi_django.services.privacy.mentions import Mentions
from osvi_django.services.privacy.periods import held
from osvi_django.services.privacy.places import OF_SESSION, NewIds
from osvi_django.services.privacy.spooled import files_of
from osvi_django.services.start_locks import erasure_lock, is_being_erased
from osvi_django.services.support.journal import SURELY_OVER, actions_of
from osvi_django.validation import (
    VIA_MAX_LENGTH,
    account_problem,
    checks_types,
    require_customer,
    stripped,
)

logger = logging.getLogger(__name__)
Status = ChatSession.Status
SummaryStatus = ChatSession.SummaryStatus

KEPT_BY_OSVI: Final[Promise | str] = _lazy(
    "OSVI keeps its own copy of these chats, with all messages, and has no call that erases it. "
    "Ask OSVI to erase the customer there, too."
)
NOTHING_FOUND: Final[Promise | str] = _lazy(
    "This site has nothing of a customer with this id. If that is a surprise, compare the id with "
    "the one that the chats show: each character counts, such as the + of a phone number."
)
ERASED_BEFORE: Final[Promise | str] = _lazy(
    "This customer is erased already, and this site has nothing more of them. OSVI keeps its own "
    "copy of the chats: ask OSVI to erase the customer there, too."
)
SPOOL: Final = "spool"
LOGINS: Final = "logins"
# How many chats that are in the way are named.
_NAMED: Final = 20


@dataclass(frozen=True, kw_only=True)
class Obstacle:
    """Why a customer cannot be erased now; ``session``: because of which chat, if it is one."""

    error: OSVIError
    session: ChatSession | None = None


@dataclass(frozen=True, kw_only=True)
class ErasureResult:
    """What was erased, or with ``dry_run`` would be: how many rows and files of each place.

    ``marker``: what the customer's id was replaced by; ``obstacle``: why it cannot be erased now;
    ``obstacles``: the first of all that is in the way, with the chats; ``was_erased``: whether the
    customer had been erased before; ``notice``: what OSVI keeps, or that nothing was found, for
    people.
    """

    marker: str
    counts: Mapping[str, int]
    dry_run: bool
    obstacles: tuple[Obstacle, ...] = ()
    was_erased: bool = False

    @property
    def obstacle(self) -> OSVIError | None:
        """Return the first thing that is in the way, or None."""
        return self.obstacles[0].error if self.obstacles else None

    @property
    def notice(self) -> str:
        """Return the sentence for people."""
        if self.counts or self.obstacles:
            return str(KEPT_BY_OSVI)
        return str(ERASED_BEFORE if self.was_erased else NOTHING_FOUND)


@hides("customer_id")
@checks_types
def erase_customer(
    customer_id: str,
    *,
    account: str | None = None,
    requested_by: User | None = None,
    via: str = "code",
    dry_run: bool = False,
) -> ErasureResult:
    """Erase what this site stores of a customer, of one account or of all.

    May be repeated; a call that was broken off goes on. ``dry_run`` counts only, and names the
    obstacle in place of raising it. Raises ``InsideTransaction``, ``NotAllowed``, ``InvalidInput``,
    ``CustomerBusy``, ``CustomerChatsOpen`` and ``CustomerKept``.
    """
    require_erase(requested_by)
    require_customer(customer_id)
    via = stripped("via", via, VIA_MAX_LENGTH)
    sessions = sessions_of(customer_id, account=account)
    sessions = sessions_inside(sessions, requested_by, Purpose.ERASE)
    _refuse_erased(sessions)
    is_part = is_narrowed(requested_by)
    # What was erased outside their access is nothing for a user to know.
    was_erased = not is_part and journal.is_erased(customer_id)
    work = Work(customer_id, account=account, sessions=sessions, is_narrowed=is_part)
    if dry_run:
        return work.planned(was_erased=was_erased)
    with work.allowed():
        erasure = journal.begun(
            customer_id, account=account, is_narrowed=is_part, requested_by=requested_by, via=via
        )
        result = work.finished(erasure, was_erased=was_erased)
        if not (result.counts or is_part):
            standing = journal.join_earlier(erasure, customer_id)
            result = replace(result, marker=standing.marker)
    return result


@hides("customer_id")
def erase_again(
    customer_id: str,
    line: journal.Line,
    *,
    account: str | None,
    requested_by: User | None,
    via: str,
    dry_run: bool,
) -> ErasureResult:
    """Repeat an erasure: erase the chats that were there when it ended, and none that began since.

    Raises what ``erase_customer`` raises.
    """
    every = sessions_of(customer_id, account=account)
    old = every.filter(Q(started_at__lt=line.until) | Q(created_at__lt=line.until))
    is_part = is_narrowed(requested_by)
    sessions = sessions_inside(old, requested_by, Purpose.ERASE)
    # What has only the customer's id may be about a chat that began since.
    has_newer = every.exclude(pk__in=old.order_by().values("pk")).exists()
    work = Work(customer_id, account=account, sessions=sessions, is_narrowed=is_part or has_newer)
    if dry_run:
        return work.planned()
    with work.allowed():
        request: Any = {"requested_by": requested_by, "via": via}
        if is_part:
            erasure = journal.begun(customer_id, account=account, is_narrowed=True, **request)
            return work.finished(erasure)
        erasure = journal.begun_again(line, customer_id, **request)
        return work.finished(erasure, at=line.until)


def sessions_of(customer_id: str, *, account: str | None = None) -> QuerySet[ChatSession]:
    """Return the sessions of a customer, of one account or of all. Raises ``InvalidInput``."""
    theirs = selectors.all_sessions().filter(exact_match("customer_id", customer_id))
    if account is not None:
        _require_account(account)
        theirs = theirs.filter(agent__account=account)
    return theirs.select_related("agent").order_by("pk")


def _require_account(account: str) -> None:
    """Raise ``InvalidInput`` for an account that is neither in the settings nor has agents here.

    Nothing would be found in it, which looks as if all were erased.
    """
    agents = ChatAgent.objects.using(router.db_for_write(ChatAgent))
    problem = account_problem(account)
    if problem and not agents.filter(exact_match("account", account)).exists():
        raise InvalidInput(problem, field="account")


def _refuse_erased(sessions: QuerySet[ChatSession]) -> None:
    """Raise ``InvalidInput`` for the marker of a customer whose chats are erased already."""
    if sessions.exclude(erased_at=None).exists():
        problem = _("customer_id: this customer is erased already, so nothing was erased.")
        raise InvalidInput(problem, field="customer_id")


def _refusal(sentence: str, obstacle: OSVIError) -> OSVIError:
    """Return the obstacle as an error that also says what was erased."""
    return type(obstacle)(sentence % {"why": obstacle})


def _refuse_inside_transaction(using: str) -> None:
    try:
        refuse_inside_transaction(using)
    except InsideTransaction:
        problem = _(
            "A customer cannot be erased inside a database transaction, because a rollback would "
            "bring back rows without their files. Nothing was erased."
        )
        raise InsideTransaction(problem) from None


class Work:
    """One call: what is there of the customer, whether it may go, and how it goes."""

    def __init__(
        self,
        customer_id: str,
        *,
        account: str | None,
        sessions: QuerySet[ChatSession],
        is_narrowed: bool,
    ) -> None:
        self.customer_id = HiddenText(customer_id)
        self.account = account
        self.sessions = sessions
        self.is_narrowed = is_narrowed

    def count(self) -> dict[str, int]:
        """Return how many rows and files there are in each place."""
        found: Counter[str] = Counter()
        names = self._named("")
        for session in self.sessions.iterator():
            found.update({each.label: each.about(session).count() for each in OF_SESSION})
            found[SPOOL] += len(files_of(session))
            found[HISTORY] += count_entries(session)
        found.update(names.mentions.count())
        found[LOGINS] = drop_from_logins(names.is_about, dry_run=True)
        return dict(sorted((+found).items()))

    def obstacles(self) -> Iterator[Obstacle]:
        """Yield why the customer cannot be erased now, by chat; nothing if all may go."""
        if self._named("").mentions.is_being_started():
            yield Obstacle(error=CustomerBusy())
        for session in self.sessions.iterator():
            if (found := obstacle_of(session)) is not None:
                yield Obstacle(error=found, session=session)

    def planned(self, *, was_erased: bool = False) -> ErasureResult:
        """Return what would be erased, and what is in the way of that."""
        found = list(islice(self.obstacles(), _NAMED))
        if is_being_erased(self.customer_id):
            found.insert(0, Obstacle(error=CustomerBusy(CustomerBusy.being_erased)))
        return ErasureResult(
            marker="",
            counts=self.count(),
            dry_run=True,
            obstacles=tuple(found),
            was_erased=was_erased,
        )

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Be the only erasure of the customer in the block. Raises what is in the way of it."""
        _refuse_inside_transaction(self.sessions.db)
        with erasure_lock(self.customer_id):
            if (obstacle := next(self.obstacles(), None)) is not None:
                raise _refusal(_("Nothing was erased. %(why)s"), obstacle.error)
            yield

    def finished(
        self, erasure: Erasure, *, at: datetime | None = None, was_erased: bool = False
    ) -> ErasureResult:
        """Erase, and write to the journal that it is finished, at this moment or now."""
        with journal.ending(erasure):
            self.erase(erasure)
            counts = journal.finish(erasure, at=at)
        # Nothing that names the customer is logged.
        logger.info("erasure %s is finished: %s", erasure.pk, counts)
        return ErasureResult(
            marker=erasure.marker, counts=counts, dry_run=False, was_erased=was_erased
        )

    def erase(self, erasure: Erasure) -> None:
        """Erase, and write to the journal how much."""
        names, using = self._named(erasure.marker), self.sessions.db
        # Before the sessions, by whose ids these are found, and again for what came meanwhile.
        _erase_named(names, erasure, using)
        for session in self.sessions.iterator():
            journal.count_step(erasure, partial(_erase_session, session, erasure), using=using)
        _erase_named(names, erasure, using)

    def _named(self, marker: str) -> _Named:
        pairs = list(self.sessions.values_list("pk", "session_id"))
        mentions = Mentions(
            self.customer_id,
            [each for _pk, each in pairs],
            account=self.account,
            marker=marker,
            is_narrowed=self.is_narrowed,
        )
        return _Named(mentions=mentions, pages=tuple(f":{pk}" for pk, _each in pairs))


@dataclass(frozen=True, kw_only=True)
class _Named:
    """What names the customer: texts with one of the ids, and the pages of the sessions."""

    mentions: Mentions
    pages: tuple[str, ...]

    def is_about(self, page: str, kept: str) -> bool:
        """Return whether what is kept for a page of the admin is about the customer."""
        return page.endswith(self.pages) or self.mentions.are_in(f"{page} {kept}")


def _erase_named(names: _Named, erasure: Erasure, using: str) -> None:
    """Erase what names the customer without belonging to a session."""

    def from_logins() -> dict[str, int]:
        return {LOGINS: drop_from_logins(names.is_about)}

    for work in (names.mentions.erase, from_logins):
        journal.count_step(erasure, work, using=using)


def _erase_session(session: ChatSession, erasure: Erasure) -> Counter[str]:
    """Erase a session and all about it; return how much that was."""
    counts: Counter[str] = Counter()
    # The UPDATE comes first and locks the row: nothing is begun in it before the commit.
    selectors.rows(session).update(claim=F("claim"))
    selectors.reload(session)
    if session.erased_at is not None:  # by a try whose commit succeeded without our learning of it
        return counts
    if (obstacle := obstacle_of(session)) is not None:
        raise _refusal(_("Not all of it was erased. %(why)s"), obstacle)
    new = NewIds(
        customer_id=session.customer_id,
        account=session.agent.account,
        marker=erasure.marker,
        session_id=new_marker(),
    )
    files = files_of(session)
    for path in files:
        spool.remove(path)
    counts[SPOOL] += len(files)
    counts[HISTORY] += redact_entries(session, new.session_id)
    for each in OF_SESSION:
        counts[each.label] += each.erase(session, new)
    stored = selectors.rows(session).filter(summary_status=SummaryStatus.STORED)
    stored.update(summary_status=SummaryStatus.REMOVED)
    return counts


def obstacle_of(session: ChatSession) -> OSVIError | None:
    """Return why a session cannot be erased now; None if nothing is in the way."""
    if session.status in ChatSession.OPEN or session.status == Status.UNCONFIRMED:
        return CustomerChatsOpen()
    if session.status != Status.CLOSED or any(each.exists() for each in _running(session)):
        return CustomerBusy()
    is_kept = selectors.rows(session).filter(held()).exists()
    return CustomerKept() if is_kept else None


def _running(session: ChatSession) -> Iterator[QuerySet[Any]]:
    """Yield what somebody is doing with a closed session, unless it is so old that it is over."""
    young = timezone.now() - SURELY_OVER
    unfinished = (CloseAttempt.Outcome.STARTED, CloseAttempt.Outcome.ANSWERED)
    yield selectors.attempts(session).filter(outcome__in=unfinished, started_at__gt=young)
    yield actions_of(session).filter(finished_at=None, started_at__gt=young)
    alias = selectors.using(session)
    items = CloseJobItem.objects.using(alias).filter(session=session.pk, job__finished_at=None)
    yield items.exclude(job__status=CloseJob.Status.DRAFT)
    sent = WebhookDelivery.objects.using(alias).filter(subject=session.session_id)
    yield sent.filter(claim__isnull=False, lease_until__gt=DatabaseNow())
