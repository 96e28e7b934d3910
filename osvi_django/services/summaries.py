"""Summaries that this site writes itself, where OSVI provides none.

The setting ``SUMMARIZER`` names the host's function. It is called after the close is committed and
outside every transaction, and whatever it does, the session stays closed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from django.db import Error, router
from django.db.models import Q
from django.utils import timezone

from osvi_django.answers import storable
from osvi_django.conf import Account, InvalidSetting, account_aliases
from osvi_django.exceptions import not_a_close
from osvi_django.models import ChatSession, SessionSummary
from osvi_django.services import steps
from osvi_django.services.steps import CloseResult, Status, SummaryStatus
from osvi_django.transactions import kind_of, persist, refuse_inside_transaction

logger = logging.getLogger(__name__)

_CHUNK: Final = 200
_ERROR_LENGTH: Final = 100


@dataclass(frozen=True, kw_only=True)
class Summarized:
    """What the host's function did for one session: ``summary``, or ``error`` with its kind."""

    session: ChatSession
    summary: SessionSummary | None = None
    error: str = ""


def summarize(session: ChatSession) -> Summarized | None:
    """Have this site write the summary of a closed session that has none; None: nothing to do.

    Never raises what the host's function or the database raises: that is logged, by its kind, and
    shown with the session where that is possible. Raises ``InsideTransaction``.
    """
    with not_a_close():
        refuse_inside_transaction(steps.using(session))
    if session.status != Status.CLOSED or session.summary_status == SummaryStatus.STORED:
        return None
    try:
        write = Account(session.agent.account).summarizer
        text = write(session) if write is not None else None
        if text is not None and not isinstance(text, str):
            raise TypeError("A summarizer returns a text or None.")
        return _store(session, storable(text or "").strip()) if write is not None else None
    except Exception as error:  # noqa: BLE001  # the host's own code, and a close that is done
        return _failed(session, error)


def summarize_by_key(key: int) -> None:
    """Do so for the session of this key, in a thread that nobody waits for."""
    sessions = ChatSession.objects.using(router.db_for_write(ChatSession))
    for session in sessions.select_related("agent").filter(pk=key):
        summarize(session)


def with_own_summary(result: CloseResult) -> CloseResult:
    """The result of a close, with what this site's summarizer writes where OSVI wrote nothing."""
    written = summarize(result.session)
    return replace(result, summary=written.summary) if written and written.summary else result


def has_summarizer(account: str) -> bool:
    """Whether this site is to write summaries; of a setting that is wrong ``summarize`` tells."""
    try:
        return Account(account).summarizer is not None
    except InvalidSetting:
        return True


def summarize_missing(*, again: bool = False) -> Iterator[Summarized]:
    """Do so for all closed sessions of accounts that have a summarizer, the oldest first.

    May be stopped and begun anew; what failed is tried again, and with ``again`` also that of which
    the summarizer had nothing to say.
    """
    sessions = ChatSession.objects.using(router.db_for_write(ChatSession)).select_related("agent")
    missing = Q(status=Status.CLOSED) & ~Q(summary_status=SummaryStatus.STORED)
    if not again:
        missing &= Q(summarized_at=None)
    wanted = sessions.filter(missing, agent__account__in=_accounts()).order_by("pk")
    last = 0
    while page := list(wanted.filter(pk__gt=last)[:_CHUNK]):
        for session in page:
            if found := summarize(session):
                yield found
        last = page[-1].pk


def _accounts() -> list[str]:
    return [alias for alias in account_aliases() if _can_write(alias)]


def _can_write(alias: str) -> bool:
    try:
        return Account(alias).summarizer is not None
    except InvalidSetting:
        logger.exception("account %s has no summarizer that can be used", alias)
        return False


def _store(session: ChatSession, text: str) -> Summarized:
    """Store a text where there still is none: OSVI's own may have come meanwhile."""
    alias = steps.using(session)

    def work() -> None:
        status = {"summary_status": SummaryStatus.STORED} if text else {}
        # The UPDATE comes first, and locks the session's row.
        now = timezone.now()
        steps.rows(session).update(summarizer_error="", summarized_at=now, updated_at=now, **status)
        summaries = SessionSummary.objects.using(alias)
        if text and not summaries.filter(session=session).exists():
            source = SessionSummary.Source.HOST
            summaries.create(session=session, text=text, source=source)

    persist(work, using=alias, patience=steps.PATIENCE_BEFORE)
    return Summarized(session=session, summary=steps.closed_result(session).summary)


def _failed(session: ChatSession, error: Exception) -> Summarized:
    # Its words may quote the conversation.
    kind = kind_of(error)[:_ERROR_LENGTH]
    logger.error("the summarizer failed for session %r: %s", session.session_id, kind)
    failed = {"summarizer_error": kind, "summarized_at": None}
    session.summarizer_error, session.summarized_at = kind, None
    with suppress(Error):
        steps.rows(session).update(**failed, updated_at=timezone.now())
    return Summarized(session=session, error=kind)
