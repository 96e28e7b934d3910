"""Close one chat session without losing its summary.

A close is a remote operation that cannot be undone, and its answer may be sent only once: it is
stored in the committed steps of the package ``attempts``.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import nullcontext
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
from osvi_django.services.attempts.close_rules import require_close_rules
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
from osvi_django.services.support.goodbye import Goodbye, checked_goodbye
from osvi_django.validation import checks_types

# When to check a close in progress again: the AI writes for some seconds.
LOOK_AGAIN_AFTER: Final = 5  # seconds

Remove = Callable[[ChatSession, CloseAttempt], bool]


@hides("note", "goodbye")
@checks_types
def close_session(
    session: ChatSession,
    *,
    requested_by: User | None = None,
    via: str = "code",
    note: str = "",
    close_reason: str = "",
    goodbye: str = "",
) -> CloseResult:
    """Close ``session`` at OSVI and store its summary; a closed one is returned as it is.

    ``requested_by`` must have the permission ``osvi_django.close_chatsession``; None is the host's
    own code, which may do anything. ``session`` is reloaded from the database, before and after.
    The settings of its account may limit ``close_reason`` to a list, and require a ``note``.

    ``goodbye`` is sent to the customer of an open session first: the chat is taken over for it,
    which requires the permission to operate. The same goodbye is sent once in a session, and if it
    cannot be sent, the session is closed without it; the result says so.

    If the session is unconfirmed, or its closer has died, OSVI is asked first whether it is still
    open: a close is never sent a second time blindly. ``changed`` is also true if OSVI says that it
    is closed already, as that settles it.

    Raises ``InsideTransaction``, ``NotAllowed``, ``InvalidInput``, ``SessionNotFound`` or
    ``OSVINotConfigured`` before anything is sent; ``CloseInProgress`` while another caller closes
    the session; ``UnknownStatus``, ``OSVIUnreachable``, or ``OSVIRejected`` and its subclasses,
    after which it is as it was; ``OSVIBadAnswer`` or ``OSVINoAnswer``, after which it is
    ``unconfirmed``.
    """
    request = RequestOrigin(
        requested_by=requested_by, via=via, note=note, close_reason=close_reason
    )
    text = checked_goodbye(goodbye, requested_by)
    return close(session, request, goodbye=Goodbye(text) if text else None)


# Kept as a separate name for code about a session whose first close was not answered.
close_again = close_session


def close(
    session: ChatSession,
    request: RequestOrigin,
    *,
    remove: Remove | None = None,
    writes_summary: bool = True,
    is_asked_now: bool = True,
    goodbye: Goodbye | None = None,
    token: uuid.UUID | None = None,
) -> CloseResult:
    """Do what ``close_session`` does, with options that only this package may use.

    ``remove``: removes an unverified session that was not closed, with the claim on it, instead of
    storing that it was not closed; it returns whether it was removed. ``writes_summary``: whether
    this site's own summary is written now, or by the caller later. ``is_asked_now``: whether the
    account's rules hold for the request, or were checked when its job was made. ``token``: the
    claim on an open session, if the caller needs to know it.
    """
    refuse_inside_transaction(selectors.using(session))
    require_close(request.requested_by, session)
    selectors.reload(session)
    if session.status == Status.CLOSED:
        return types.closed_result(session)
    if is_asked_now:
        require_close_rules(request, session.agent.account)
    if not session.is_open:
        if goodbye is not None:  # it may be closed, so nothing is written to it now
            goodbye.recall(session)
        result = _verify_and_close(session, request)
    else:
        with goodbye.before(session, request) if goodbye else nullcontext():
            result = _close_open(session, request, remove, token)
    if goodbye is not None:
        result = replace(result, goodbye=goodbye.outcome)
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
            return _close_open(session, request, None, None)
    is_found_closed = found.settled in {Settled.STORED, Settled.NOT_PROVIDED, Settled.LOST}
    return replace(types.closed_result(session), changed=is_found_closed)


def _still_unconfirmed(found: RecoveryResult) -> OSVIError | OSVINotConfigured:
    """Return what to raise: an error of the whole account is not reported as this session's."""
    if found.error is not None and may_be_sent_later(found.error):
        return found.error
    return OSVINoAnswer(found.detail, attempt=selectors.last_attempt(found.session))


def _close_open(
    session: ChatSession, request: RequestOrigin, remove: Remove | None, token: uuid.UUID | None
) -> CloseResult:
    client, lease = claims.prepare(session.agent.account)
    with waiting_slot(request.via), throttling(client, session.agent.account) as throttle:
        attempt = claims.claim(session, request, lease=lease, token=token)
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
