"""Close one chat session without losing its summary.

A close is a remote operation that cannot be undone, and its answer may be sent only once: it is
stored in the committed steps of the package ``attempts``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from django.db.models import BooleanField, ExpressionWrapper, Q, QuerySet

from osvi_django import clock
from osvi_django.client import OSVIClient
from osvi_django.client.responses import Answer
from osvi_django.database import refuse_inside_transaction
from osvi_django.exceptions import (
    AnswerNotStored,
    CloseInProgress,
    OSVIError,
    OSVINoAnswer,
    OSVINotConfigured,
)
from osvi_django.models import ChatSession, CloseAttempt
from osvi_django.redaction import hides
from osvi_django.services import selectors
from osvi_django.services.attempts import (
    claims,
    leases,
    notifications,
    raw_answers,
    settlement,
    types,
)
from osvi_django.services.attempts.error_policy import may_be_sent_later
from osvi_django.services.attempts.interpret import NeedsCheck, interpret, interpret_check
from osvi_django.services.attempts.remote_state import is_closed_already
from osvi_django.services.attempts.sync_limit import waiting_slot
from osvi_django.services.attempts.throttling import throttling
from osvi_django.services.attempts.types import (
    CloseResult,
    RequestOrigin,
    Status,
    User,
)
from osvi_django.services.permissions import require_close
from osvi_django.services.recovery.service import recover_session
from osvi_django.services.recovery.unread import RecoveryResult, Settled
from osvi_django.services.summaries import with_own_summary

# When to check a close in progress again: the AI writes for some seconds.
LOOK_AGAIN_AFTER: Final = 5  # seconds

Remove = Callable[[ChatSession, CloseAttempt], bool]


@hides("note")
def close_session(
    session: ChatSession,
    *,
    requested_by: User | None = None,
    via: str = "code",
    note: str = "",
) -> CloseResult:
    """Close ``session`` at OSVI and store its summary; a closed one is returned as it is.

    ``requested_by`` must have the permission ``osvi_django.close_chatsession``; None is the host's
    own code, which may do anything. ``session`` is reloaded from the database, before and after.

    If the session is unconfirmed, or its closer has died, OSVI is asked first whether it is still
    open: a close is never sent a second time blindly. ``changed`` is also true if OSVI says that it
    is closed already, as that settles it.

    Raises ``InsideTransaction``, ``NotAllowed``, ``InvalidInput``, ``SessionNotFound`` or
    ``OSVINotConfigured`` before anything is sent; ``CloseInProgress`` while another caller closes
    the session; ``UnknownStatus``, ``OSVIUnreachable``, or ``OSVIRejected`` and its subclasses,
    after which it is as it was; ``OSVIBadAnswer`` or ``OSVINoAnswer``, after which it is
    ``unconfirmed``.
    """
    if not isinstance(session, ChatSession):
        raise TypeError(
            "close_session needs a ChatSession. To close by id, use close_session_by_id."
        )
    return close(session, requested_by=requested_by, via=via, note=note)


# Kept as a separate name for code about a session whose first close was not answered.
close_again = close_session


@hides("note")
def close(
    session: ChatSession,
    *,
    requested_by: User | None,
    via: str,
    note: str,
    remove: Remove | None = None,
    writes_summary: bool = True,
) -> CloseResult:
    """Do what ``close_session`` does, with options that only this package may use.

    ``remove``: removes an unverified session that was not closed, with the claim on it, instead of
    storing that it was not closed; it returns whether it was removed. ``writes_summary``: whether
    this site's own summary is written now, or by the caller later.
    """
    refuse_inside_transaction(selectors.using(session))
    require_close(requested_by, session)
    request = RequestOrigin(requested_by=requested_by, via=via, note=note)
    selectors.reload(session)
    if session.status == Status.CLOSED:
        return types.closed_result(session)
    if session.is_open:
        result = _close_open(session, request, remove)
    else:
        result = _verify_and_close(session, request)
    return with_own_summary(result) if writes_summary and result.changed else result


def _verify_and_close(session: ChatSession, request: RequestOrigin) -> CloseResult:
    """Ask OSVI whether an unconfirmed session is open, and close it if so.

    Raises the error that OSVI's answer means, and ``OSVINoAnswer`` if it did not say.
    """
    claims.prepare(session.agent.account)
    claims.expire_lease(session)
    selectors.reload(session)
    if session.status != Status.UNCONFIRMED:
        return _result_of_another(session)
    with waiting_slot(request.via):
        found = recover_session(session, requested_by=request.requested_by, via=request.via)
        if found.settled is Settled.UNCHANGED and session.status == Status.UNCONFIRMED:
            raise _still_unconfirmed(found)
        if session.status != Status.CLOSED:
            return _close_open(session, request, None)
    is_found_closed = found.settled in {Settled.STORED, Settled.NOT_PROVIDED, Settled.LOST}
    return replace(types.closed_result(session), changed=is_found_closed)


def _still_unconfirmed(found: RecoveryResult) -> OSVIError | OSVINotConfigured:
    """Return what to raise: an error of the whole account is not reported as this session's."""
    if found.error is not None and may_be_sent_later(found.error):
        return found.error
    return OSVINoAnswer(found.detail, attempt=selectors.last_attempt(found.session))


def _close_open(session: ChatSession, request: RequestOrigin, remove: Remove | None) -> CloseResult:
    client, lease = claims.prepare(session.agent.account)
    with waiting_slot(request.via), throttling(client, session.agent.account) as throttle:
        attempt = claims.claim(session, request, lease=lease)
        if attempt is None:
            claims.expire_lease(session)
            selectors.reload(session)
            return _result_of_another(session)
        with leases.renewing(claims.claimed_row(session, attempt.claim)):
            sent_at = clock.monotonic()
            result = _carry_out(client, session, attempt, remove)
            throttle.record_success(sent_at)
            return result


def require_closable(session: ChatSession) -> None:
    """Raise what ``close_session`` raises about a session before OSVI is asked."""
    if session.status == Status.CLOSED:
        return
    claims.require_known_status(session)
    claims.prepare(session.agent.account)
    if session.status == Status.CLOSING:
        claims.expire_lease(session)
        selectors.reload(session)
    if session.status == Status.CLOSING:
        attempt = selectors.last_attempt(session)
        raise CloseInProgress(attempt=attempt, retry_after=LOOK_AGAIN_AFTER)


def with_lease_expired(sessions: QuerySet[ChatSession]) -> QuerySet[ChatSession]:
    """Annotate ``lease_expired``: whether the session is being closed, and its closer has died."""
    over = Q(leases.expired(), status=Status.CLOSING)
    return sessions.annotate(lease_expired=ExpressionWrapper(over, output_field=BooleanField()))


def is_unconfirmed(session: ChatSession) -> bool:
    """Return whether ``close_session`` asks OSVI first; for one from ``with_lease_expired``."""
    return session.status == Status.UNCONFIRMED or getattr(session, "lease_expired", False)


def _carry_out(
    client: OSVIClient, session: ChatSession, attempt: CloseAttempt, remove: Remove | None
) -> CloseResult:
    interpreted = interpret(_send(client, session, attempt), session=session, attempt=attempt)
    if isinstance(interpreted, NeedsCheck):
        is_closed = is_closed_already(client, session, interpreted.error)
        interpreted = interpret_check(
            interpreted, settlement.remote_close_of(session) if is_closed else None
        )
    if isinstance(interpreted, types.Settlement):
        return settlement.settle(interpreted)
    _settle_failed(interpreted, remove)
    raise interpreted.error


def _send(
    client: OSVIClient, session: ChatSession, attempt: CloseAttempt
) -> Answer | OSVIError | OSVINotConfigured:
    """Return the stored answer, or the error; raise ``AnswerNotStored``, left to recovery."""
    try:
        return raw_answers.send(client, session, attempt)
    except AnswerNotStored:
        raise
    except (OSVIError, OSVINotConfigured) as error:
        return error


def _settle_failed(failure: types.Failure, remove: Remove | None) -> None:
    session, attempt, error = failure.session, failure.attempt, failure.error
    if remove is not None and failure.is_open and remove(session, attempt):
        notifications.notify_removed(session, attempt, error)
        return
    settlement.settle_failed(failure)


def _result_of_another(session: ChatSession) -> CloseResult:
    """Return a session that another caller has closed, or raise why it could not be claimed."""
    if session.status == Status.CLOSED:
        return types.closed_result(session)
    attempt = selectors.last_attempt(session)
    if session.status == Status.UNCONFIRMED:
        raise OSVINoAnswer(attempt=attempt)
    claims.require_known_status(session)
    raise CloseInProgress(attempt=attempt, retry_after=LOOK_AGAIN_AFTER)
