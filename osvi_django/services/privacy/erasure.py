"""Erase one customer: each chat in a transaction of its own, so that it can be repeated.

What ``places.py`` declares personal is deleted, emptied or replaced; what is counted, and the
journal of who of staff did what, stays. If the process dies, the same call goes on where it was:
what is erased is not found again, and the journal row says that it is not finished.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from django.db import Error, router
from django.db.models import F, QuerySet
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as _lazy

from osvi_django import spool
from osvi_django.database import (
    PATIENCE_BEFORE,
    DatabaseNow,
    exact_match,
    persist,
    refuse_inside_transaction,
)
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
from osvi_django.services.permissions import requester_fields, require_erase
from osvi_django.services.privacy.hashing import customer_hash, customer_hashes, new_marker
from osvi_django.services.privacy.history import HISTORY, count_entries, redact_entries
from osvi_django.services.privacy.login_sessions import drop_from_logins
from osvi_django.services.privacy.mentions import Mentions
from osvi_django.services.privacy.periods import held
from osvi_django.services.privacy.places import OF_SESSION, NewIds
from osvi_django.services.privacy.spooled import files_of
from osvi_django.services.support.journal import SURELY_OVER, actions_of
from osvi_django.validation import (
    VIA_MAX_LENGTH,
    account_problem,
    checks_types,
    require_id,
    stripped,
)

logger = logging.getLogger(__name__)
Status = ChatSession.Status
State = Erasure.State
SummaryStatus = ChatSession.SummaryStatus

KEPT_BY_OSVI: Final[Promise | str] = _lazy(
    "OSVI keeps its own copy of these chats, with all messages, and has no call that erases it. "
    "Ask OSVI to erase the customer there, too."
)
NOTHING_FOUND: Final[Promise | str] = _lazy(
    "This site has nothing of a customer with this id. If that is a surprise, compare the id with "
    "the one that the chats show: each character counts, such as the + of a phone number."
)
SPOOL: Final = "spool"
LOGINS: Final = "logins"


@dataclass(frozen=True, kw_only=True)
class ErasureResult:
    """What was erased, or with ``dry_run`` would be: how many rows and files of each place.

    ``marker``: what the customer's id was replaced by; ``obstacle``: why it cannot be erased now;
    ``notice``: what OSVI keeps, or that nothing was found, for people.
    """

    marker: str
    counts: Mapping[str, int]
    dry_run: bool
    obstacle: OSVIError | None = None

    @property
    def notice(self) -> str:
        """Return the sentence for people."""
        return str(KEPT_BY_OSVI if self.counts or self.obstacle else NOTHING_FOUND)


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
    require_id("customer_id", customer_id)
    via = stripped("via", via, VIA_MAX_LENGTH)
    sessions = sessions_of(customer_id, account=account)
    sessions = sessions_inside(sessions, requested_by, Purpose.ERASE)
    _refuse_erased(sessions)
    work = _Work(
        customer_id, account=account, sessions=sessions, is_narrowed=is_narrowed(requested_by)
    )
    if dry_run:
        return ErasureResult(marker="", counts=work.count(), dry_run=True, obstacle=work.obstacle())
    _refuse_inside_transaction(sessions.db)
    if (obstacle := work.obstacle()) is not None:
        raise _refusal(_("Nothing was erased. %(why)s"), obstacle)
    erasure = _begun(customer_id, account=account, requested_by=requested_by, via=via)
    with _ending(erasure):
        counts = work.erase(erasure)
    # Nothing that names the customer is logged.
    logger.info("erasure %s is finished: %s", erasure.pk, counts)
    return ErasureResult(marker=erasure.marker, counts=counts, dry_run=False)


@contextmanager
def _ending(erasure: Erasure) -> Iterator[None]:
    """Write to the journal that an erasure is not finished if the block raises an error."""
    try:
        yield
    except BaseException:
        with suppress(Error):  # the original error is what counts
            ended = {"state": State.UNFINISHED, "finished_at": timezone.now()}
            _row_of(erasure).exclude(state=State.DONE).update(**ended)
        raise


def _row_of(erasure: Erasure) -> QuerySet[Erasure]:
    return Erasure.objects.using(router.db_for_write(Erasure)).filter(pk=erasure.pk)


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


def _begun(
    customer_id: str, *, account: str | None, requested_by: User | None, via: str
) -> Erasure:
    """Return the journal row of an erasure that was broken off, or else a new one."""
    erasures = Erasure.objects.using(router.db_for_write(Erasure))
    hashes = list(customer_hashes(customer_id))
    same = erasures.filter(customer_hash__in=hashes, account=account or "")
    if (found := same.exclude(state=State.DONE).first()) is not None:
        begun = {"state": State.RUNNING, "last_step_at": timezone.now(), "finished_at": None}
        erasures.filter(pk=found.pk).update(**begun)
        return found
    return erasures.create(
        marker=new_marker(),
        # Only a part of the customer's chats is erased, so this must not be repeated for all.
        customer_hash="" if is_narrowed(requested_by) else customer_hash(customer_id),
        account=account or "",
        via=via,
        **requester_fields(requested_by),
    )


class _Work:
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
        return dict(+found)

    def obstacle(self) -> OSVIError | None:
        """Return why the customer cannot be erased now; None if nothing is in the way."""
        if self._named("").mentions.is_being_started():
            return CustomerBusy()
        for session in self.sessions.iterator():
            if (found := obstacle_of(session)) is not None:
                return found
        return None

    def erase(self, erasure: Erasure) -> dict[str, int]:
        """Erase, and write to the journal how much; return that."""
        counts = Counter(erasure.counts)
        names = self._named(erasure.marker)
        # Before the sessions, by whose ids these are found, and again for what came meanwhile.
        counts.update(self._erase_named(names, self.sessions.db))
        for session in self.sessions.iterator():
            work = partial(_erase_session, session, erasure, Counter(counts))
            counts = persist(work, using=self.sessions.db, patience=PATIENCE_BEFORE)
        counts.update(self._erase_named(names, self.sessions.db))
        ended = {"state": State.DONE, "finished_at": timezone.now()}
        _row_of(erasure).update(counts=dict(+counts), last_step_at=timezone.now(), **ended)
        return dict(+counts)

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

    def _erase_named(self, names: _Named, using: str) -> Counter[str]:
        found = persist(names.mentions.erase, using=using, patience=PATIENCE_BEFORE)
        found[LOGINS] += drop_from_logins(names.is_about)
        return found


@dataclass(frozen=True, kw_only=True)
class _Named:
    """What names the customer: texts with one of the ids, and the pages of the sessions."""

    mentions: Mentions
    pages: tuple[str, ...]

    def is_about(self, page: str, kept: str) -> bool:
        """Return whether what is kept for a page of the admin is about the customer."""
        return page.endswith(self.pages) or self.mentions.are_in(f"{page} {kept}")


def _erase_session(session: ChatSession, erasure: Erasure, counts: Counter[str]) -> Counter[str]:
    """Erase a session and all about it; return all that has been erased by now."""
    # The UPDATE comes first and locks the row: nothing is begun in it before the commit.
    selectors.rows(session).update(claim=F("claim"))
    selectors.reload(session)
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
    rows = Erasure.objects.using(selectors.using(session)).filter(pk=erasure.pk)
    rows.update(counts=dict(+counts), last_step_at=timezone.now())
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
