"""Decide what an answer or an error says about a session: the only place that does so.

These functions read nothing and send nothing. The single close, the worker of a job and recovery
call them, store what they return, and ask OSVI if they return a check.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from osvi_django.client.responses import Answer, read_closed
from osvi_django.exceptions import CallError, OSVIError, OSVIRejected
from osvi_django.models import ChatSession, CloseAttempt
from osvi_django.services.attempts.error_policy import (
    error_fields,
    may_be_sent_later,
    reopens,
)
from osvi_django.services.attempts.remote_state import error_about, may_be_closed_already
from osvi_django.services.attempts.types import (
    CLOSED_FIELDS,
    AttemptKind,
    Failure,
    Settlement,
    SummaryStatus,
)


@dataclass(frozen=True, kw_only=True)
class NeedsCheck:
    """OSVI refused, perhaps because the session is closed: check that before storing anything."""

    session: ChatSession
    attempt: CloseAttempt
    error: OSVIRejected


@dataclass(frozen=True, kw_only=True)
class RemoteClose:
    """A session that OSVI closed without us; ``text`` is a summary from an earlier answer."""

    text: str | None = field(repr=False)
    summary_status_if_none: SummaryStatus


Interpretation = Settlement | Failure | NeedsCheck


def interpret(
    reply: Answer | CallError,
    *,
    session: ChatSession,
    attempt: CloseAttempt,
    claim_token: uuid.UUID | None = None,
) -> Interpretation:
    """Return what a reply to a close says about its session.

    ``claim_token`` is the claim of recovery on the session; None means that of the attempt itself.
    """
    if not isinstance(reply, Answer):
        return _interpret_error(reply, session, attempt, claim_token)
    try:
        closed = read_closed(reply, session.session_id)
    except OSVIError as error:
        return _interpret_error(error, session, attempt, claim_token)
    is_second = attempt.kind == AttemptKind.RECLOSE
    return Settlement(
        session=session,
        attempt=attempt,
        text=closed.summary,
        summary_status_if_none=SummaryStatus.LOST if is_second else SummaryStatus.NOT_PROVIDED,
        attempt_fields=CLOSED_FIELDS,
    )


def interpret_check(check: NeedsCheck, remote: RemoteClose | None) -> Settlement | Failure:
    """Return what to store after a check; ``remote`` is None if OSVI has not closed the session."""
    if remote is None:
        return _failure(check.error, check.session, check.attempt, None)
    return Settlement(
        session=check.session,
        attempt=check.attempt,
        text=remote.text,
        summary_status_if_none=remote.summary_status_if_none,
        claim_token=check.attempt.claim,
        attempt_fields=error_fields(check.error),
    )


def _interpret_error(
    error: CallError, session: ChatSession, attempt: CloseAttempt, claim_token: uuid.UUID | None
) -> Interpretation:
    if attempt.kind == AttemptKind.RECLOSE:
        return _interpret_second(error, session, attempt, claim_token)
    # The status before a claim of recovery says nothing about the session now.
    is_dormant = claim_token is None and session.status == ChatSession.Status.DORMANT
    if may_be_closed_already(error, is_dormant=is_dormant):
        return NeedsCheck(session=session, attempt=attempt, error=error)
    return _failure(error, session, attempt, claim_token)


def _interpret_second(
    error: CallError, session: ChatSession, attempt: CloseAttempt, claim_token: uuid.UUID | None
) -> Interpretation:
    """Return what an error of the second close says: the summary is lost if OSVI had closed it."""
    if may_be_sent_later(error):
        return Failure(
            session=session,
            attempt=attempt,
            error=error,
            claim_token=claim_token,
            is_open=False,
        )
    return Settlement(
        session=session,
        attempt=attempt,
        text=None,
        summary_status_if_none=SummaryStatus.LOST,
        claim_token=claim_token,
        needs_proof=True,
        attempt_fields=error_fields(error),
    )


def _failure(
    error: CallError, session: ChatSession, attempt: CloseAttempt, claim_token: uuid.UUID | None
) -> Failure:
    return Failure(
        session=session,
        attempt=attempt,
        error=error_about(session, error),
        claim_token=claim_token,
        is_open=reopens(error),
    )
