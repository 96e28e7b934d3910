"""Summaries that this site writes itself if OSVI provides none.

The setting ``SUMMARIZER`` names the host's function. It is called after the close is committed and
outside every transaction. Whatever it does, the session stays closed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from django.db import Error
from django.db.models import Q
from django.utils import timezone

from osvi_django import database
from osvi_django.conf import Account, InvalidSetting, account_aliases
from osvi_django.database import (
    persist,
    refuse_inside_transaction,
    release_connections,
    safe_error_name,
)
from osvi_django.display import plain
from osvi_django.exceptions import generic_messages
from osvi_django.models import ChatSession, SessionSummary
from osvi_django.redaction import hides
from osvi_django.services import selectors
from osvi_django.services.attempts import types
from osvi_django.services.attempts.notifications import notify_summarized
from osvi_django.services.attempts.types import CloseResult, Status, SummaryStatus
from osvi_django.services.events import outbox
from osvi_django.services.events.outbox import Event, fact_of
from osvi_django.validation import checks_types, storable

logger = logging.getLogger(__name__)

_CHUNK: Final = 200
_ERROR_LENGTH: Final = 100


@dataclass(frozen=True, kw_only=True)
class Summarized:
    """What the host's function did for one session: ``summary``, or an ``error`` by class name."""

    session: ChatSession
    summary: SessionSummary | None = None
    error: str = ""


@checks_types
def summarize(session: ChatSession) -> Summarized | None:
    """Write the summary of a closed session that has none; return None if there is nothing to do.

    Never raises what the host's function or the database raises: that is logged by its class name,
    and shown with the session if possible. Raises ``InsideTransaction``.
    """
    with generic_messages():
        refuse_inside_transaction(selectors.using(session))
    if session.status != Status.CLOSED or not may_be_written(session):
        return None
    try:
        write = Account(session.agent.account).summarizer
        return _store(session, _written(write, session)) if write is not None else None
    except Exception as error:  # noqa: BLE001  # the host's own code, and a close that is done
        return _failed(session, error)


def may_be_written(session: ChatSession) -> bool:
    """Return whether a session has had no summary, and its customer is not erased."""
    return session.summary_status not in ChatSession.HAD_SUMMARY and session.erased_at is None


def summarize_by_key(key: int) -> None:
    """Summarize the session with this key, in a thread whose result is not awaited."""
    sessions = selectors.all_sessions()
    for session in sessions.select_related("agent").filter(pk=key):
        summarize(session)


def with_own_summary(result: CloseResult) -> CloseResult:
    """Return the result of a close, with this site's own summary if OSVI wrote none."""
    written = summarize(result.session)
    return replace(result, summary=written.summary) if written and written.summary else result


def has_summarizer(account: str) -> bool:
    """Return whether this site writes summaries; ``summarize`` reports an invalid setting."""
    try:
        return Account(account).summarizer is not None
    except InvalidSetting:
        return True


def summarize_missing(*, again: bool = False) -> Iterator[Summarized]:
    """Summarize all closed sessions of accounts that have a summarizer, oldest first.

    May be stopped and started again. Sessions whose summarizer failed are tried again; with
    ``again``, so are those for which it returned nothing.
    """
    sessions = selectors.all_sessions().select_related("agent")
    missing = Q(status=Status.CLOSED, erased_at=None) & ~Q(
        summary_status__in=ChatSession.HAD_SUMMARY
    )
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
        logger.exception("account %s has no summarizer that can be used", plain(alias))
        return False


def _written(write: Callable[[ChatSession], object], session: ChatSession) -> str:
    """Return what the host's function writes, which may take as long as a language model."""
    release_connections()
    text = write(session)
    if text is not None and not isinstance(text, str):
        raise TypeError("A summarizer returns a text or None.")
    return storable(text or "").strip()


@hides("text")
def _store(session: ChatSession, text: str) -> Summarized:
    """Store a text if there still is none: OSVI's own may have been stored since."""
    alias = selectors.using(session)

    def work() -> bool:
        status = {"summary_status": SummaryStatus.STORED} if text else {}
        # The UPDATE comes first, and locks the session's row.
        now = timezone.now()
        selectors.rows(session).update(summarizer_error="", summarized_at=now, **status)
        summaries = SessionSummary.objects.using(alias)
        if not text or summaries.filter(session=session).exists():
            return False
        source = SessionSummary.Source.HOST
        summaries.create(session=session, text=text, source=source)
        outbox.write([fact_of(Event.SUMMARIZED, session)], using=alias)
        return True

    if persist(work, using=alias, patience=database.PATIENCE_BEFORE):
        notify_summarized(session)
    return Summarized(session=session, summary=types.closed_result(session).summary)


def _failed(session: ChatSession, error: Exception) -> Summarized:
    # The error's text may quote the conversation.
    kind = safe_error_name(error)[:_ERROR_LENGTH]
    logger.error("the summarizer failed for session %r: %s", session.session_id, kind)
    failed = {"summarizer_error": kind, "summarized_at": None}
    session.summarizer_error, session.summarized_at = kind, None
    with suppress(Error):
        selectors.rows(session).update(**failed)
    return Summarized(session=session, error=kind)
