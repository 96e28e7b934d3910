"""Signals about sessions, sent after the commit."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from django.db import Error
from django.dispatch import Signal

from osvi_django.database import (
    safe_error_name,
)
from osvi_django.exceptions import (
    OSVIError,
    OSVINotConfigured,
    SessionNotFound,
)
from osvi_django.models import ChatSession, CloseAttempt, SessionSummary
from osvi_django.services.attempts.remote_state import error_about_removed
from osvi_django.services.attempts.types import Failure, Settlement, closed_result
from osvi_django.services.selectors import reload
from osvi_django.signals import (
    help_requested,
    session_close_failed,
    session_closed,
    session_summarized,
    session_taken_over,
)

logger = logging.getLogger(__name__)


def notify_closed(settlements: Sequence[Settlement]) -> None:
    """Send the signal, after the commit, for sessions that were closed together."""
    listened = session_closed.has_listeners(ChatSession)
    for settlement in settlements:
        if not listened:
            logger.info("session %r is closed", settlement.session.session_id)
            continue
        with _skip_unreadable(settlement.session):
            send_closed(settlement, closed_result(settlement.session).summary)


def notify_failed(failures: Sequence[Failure]) -> None:
    """Send the signal, after the commit, for sessions that were not closed."""
    listened = session_close_failed.has_listeners(ChatSession)
    for each in failures:
        _log_failure(each.session, each.attempt, each.error)
        if not listened:
            continue
        with _skip_unreadable(each.session):
            reload(each.session)
            session_close_failed.send_robust(
                ChatSession, session=each.session, error=each.error, attempt=each.attempt
            )


def notify_removed(
    session: ChatSession, attempt: CloseAttempt, error: OSVIError | OSVINotConfigured
) -> None:
    """Send the signal, after the commit, for a session that was not closed and was removed.

    It is sent as it was last read: there is no row to read it from.
    """
    error = error_about_removed(error)
    _log_failure(session, attempt, error)
    session_close_failed.send_robust(ChatSession, session=session, error=error, attempt=attempt)


def notify_help_requested(session: ChatSession) -> None:
    """Send the signal, after the commit, for a session whose customer asks for a person."""
    logger.info("the customer of session %r asks for a person", session.session_id)
    _send(help_requested, session)


def notify_taken_over(session: ChatSession) -> None:
    """Send the signal, after the commit, for a session in which people answer from now on."""
    logger.info("session %r is taken over", session.session_id)
    _send(session_taken_over, session)


def notify_summarized(session: ChatSession) -> None:
    """Send the signal, after the commit, for a closed session that has a summary now."""
    logger.info("session %r has a summary", session.session_id)
    if session_summarized.has_listeners(ChatSession):
        with _skip_unreadable(session):
            summary = closed_result(session).summary
            session_summarized.send_robust(ChatSession, session=session, summary=summary)


def _send(signal: Signal, session: ChatSession) -> None:
    if not signal.has_listeners(ChatSession):
        return
    with _skip_unreadable(session):
        reload(session)
        signal.send_robust(ChatSession, session=session)


def _log_failure(
    session: ChatSession, attempt: CloseAttempt, error: OSVIError | OSVINotConfigured
) -> None:
    names = (session.session_id, attempt.pk, error.code)
    logger.warning("session %r not closed by attempt %s: %s", *names)


@contextmanager
def _skip_unreadable(session: ChatSession) -> Iterator[None]:
    """Log a session that can no longer be read: its signal is lost, and nothing else."""
    try:
        yield
    except (SessionNotFound, Error) as error:
        logger.warning(
            "the signal for session %r was not sent: %s", session.session_id, safe_error_name(error)
        )


def send_closed(settlement: Settlement, summary: SessionSummary | None) -> None:
    session = settlement.session
    logger.info("session %r is closed: %s", session.session_id, session.summary_status)
    session_closed.send_robust(
        ChatSession, session=session, summary=summary, attempt=settlement.attempt
    )
