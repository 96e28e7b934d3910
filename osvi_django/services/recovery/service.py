"""Settle sessions that may or may not be closed.

A session is settled like this:

1. An answer that arrived but was not read, in the journal or the spool, is read now. So is one that
could not be read when it came, by the rules of this version. 2. Otherwise OSVI is asked whether it
has the session open: if so, it is reopened here. If the customer is not known here, OSVI is asked
to pause the session, which it refuses if the session is closed. 3. Otherwise one
more close can do no harm, and may return the summary again. It is sent once, and a summary is
stored. If it is refused or not answered, OSVI is asked to pause the session, unless it was asked
before: it lists no dormant sessions, and these are reopened. A closed one has lost its summary.
4. If OSVI does not say, or not now, everything stays as it is, and the result says so.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from django.db import router
from django.db.models import F, Q, QuerySet
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as _lazy

from osvi_django import database
from osvi_django.client import OSVIClient
from osvi_django.client.responses import Answer
from osvi_django.database import persist, refuse_inside_transaction
from osvi_django.exceptions import (
    AnswerNotStored,
    CallError,
    CloseInProgress,
    InvalidInput,
    OSVIBadAnswer,
    OSVIError,
    OSVINoAnswer,
    OSVINotConfigured,
    OSVIRejected,
)
from osvi_django.models import ChatSession, CloseAttempt
from osvi_django.redaction import hides
from osvi_django.services import selectors
from osvi_django.services.attempts import (
    claims,
    leases,
    raw_answers,
    remote_state,
    settlement,
    types,
)
from osvi_django.services.attempts.close_rules import require_close_rules
from osvi_django.services.attempts.error_policy import codes_to_send_later
from osvi_django.services.attempts.interpret import Interpretation, interpret
from osvi_django.services.attempts.leases import Terms
from osvi_django.services.attempts.settlement import missing_summary_status
from osvi_django.services.attempts.sync_limit import waiting_slot
from osvi_django.services.attempts.throttling import throttling
from osvi_django.services.attempts.types import (
    AttemptKind,
    AttemptOutcome,
    CloseResult,
    RequestOrigin,
    Status,
    SummaryStatus,
    User,
)
from osvi_django.services.permissions import require_close
from osvi_django.services.recovery import reviewing
from osvi_django.services.recovery.unread import (
    LeftInSpool,
    RecoveryResult,
    Settled,
    left_unchanged,
    read_stored_answers,
    recover_spools,
    result_of,
    settle_by,
)
from osvi_django.services.summaries import with_own_summary
from osvi_django.validation import checks_types

logger = logging.getLogger(__name__)
_NOTHING_TO_ASK_BY: Final = _lazy(
    "OSVI cannot be asked about this chat session, because neither its customer nor its agent's "
    "UUID is known here. Add the UUID under Chat agents, or look the customer up. Or see in OSVI's "
    "dashboard whether it is closed, and mark it as closed here."
)
_NOT_LISTED: Final = _lazy(
    "OSVI does not list this chat session as active. It cannot be asked whether the chat is closed "
    "or only quiet, because the agent's UUID is not known here. Add it under Chat agents. Or see "
    "in OSVI's dashboard whether the chat is closed, and mark it as closed here."
)
_STILL_OPEN: Final = _lazy("OSVI has not closed this chat session, so it is open here again.")
_UNKNOWN_TO_OSVI: Final = _lazy(
    "OSVI does not know this chat session under this id and agent. Check both. If OSVI's dashboard "
    "shows it as closed, or does not show it at all, mark it as closed here."
)
# By the error of the question whether a session is closed. What the errors say by default is about
# a close; the others say that nothing was done, which is true of a question as well.
_NOT_SAID: Final[dict[type[Exception], Promise]] = {
    OSVINoAnswer: _lazy(
        "OSVI did not answer, so it is still not known whether this chat session is closed. "
        "Nothing has changed here. Try again later."
    ),
    OSVIBadAnswer: _lazy(
        "OSVI's answer was unreadable, so it is still not known whether this chat session is "
        "closed. Nothing has changed here. Try again later."
    ),
    OSVIRejected: _lazy(
        "OSVI refused to say whether this chat session is closed. Nothing has changed here. Try "
        "again later."
    ),
}
_MARKING: Final = Terms(seconds=30, longest=30, is_renewed=False)  # OSVI is not asked


@checks_types
def recover_session(
    session: ChatSession, *, requested_by: User | None = None, via: str = "code"
) -> RecoveryResult:
    """Find out whether an unconfirmed session is closed, and settle it.

    A session whose closer died counts as unconfirmed as soon as its lease is over; any other is
    left as it is. Raises ``InsideTransaction``, ``NotAllowed``, ``SessionNotFound``,
    ``OSVINotConfigured``, ``UnknownStatus``, and ``CloseInProgress`` while another caller is
    settling it.
    """
    refuse_inside_transaction(selectors.using(session))
    require_close(requested_by, session)
    selectors.reload(session)
    client, lease = claims.prepare(session.agent.account)
    claims.expire_lease(session)
    token = uuid.uuid4()
    if not _claim(session, token, lease):
        return _nothing_to_settle(session)
    request = RequestOrigin(requested_by=requested_by, via=via, note="")
    try:
        with leases.renewing(claims.claimed_row(session, token)), waiting_slot(via):
            return _settle(client, session, token, request)
    finally:
        # A session that was not settled is as unconfirmed as before.
        claims.release(selectors.rows(session).filter(claim=token), status=Status.UNCONFIRMED)
        selectors.reload(session)


@hides("note")
@checks_types
def mark_closed(
    session: ChatSession,
    *,
    requested_by: User | None = None,
    via: str = "code",
    note: str,
    close_reason: str = "",
) -> CloseResult:
    """Mark a session as closed because a user states in ``note`` that it is closed at OSVI.

    It must be unconfirmed, or open with its last close refused by OSVI. Raises ``InvalidInput`` if
    it is neither, if an answer is found that says otherwise, and without a note.
    """
    refuse_inside_transaction(selectors.using(session))
    require_close(requested_by, session)
    request = RequestOrigin(
        requested_by=requested_by, via=via, note=note, close_reason=close_reason
    )
    if not request.note:
        raise InvalidInput(
            _("note is required: say how you know that the chat is closed."), field="note"
        )
    require_close_rules(request, session.agent.account)
    claims.expire_lease(session)
    token = uuid.uuid4()
    is_lost = _claim(session, token, _MARKING)
    if not is_lost and not _claim_refused(session, token):
        selectors.reload(session)
        problem = _(
            "You can mark a chat session as closed only if it is unconfirmed or if OSVI refused "
            "to close it."
        )
        raise InvalidInput(problem, field="status")
    with leases.renewing(claims.claimed_row(session, token)):
        marked = _settle_by_statement(session, token, request, is_lost=is_lost)
    return with_own_summary(marked)


def _settle_by_statement(
    session: ChatSession, token: uuid.UUID, request: RequestOrigin, *, is_lost: bool
) -> CloseResult:
    # Any answer that arrived is better than a person's statement.
    if found := read_stored_answers(session, token):
        if found.settled is Settled.REOPENED:
            problem = _("OSVI's answer was found: OSVI did not close this chat. It is still open.")
            raise InvalidInput(problem, field="status")
        return types.closed_result(session, changed=True)
    (attempt,) = claims.write_attempts([session], request, token, AttemptKind.MARK)
    missing = SummaryStatus.LOST if is_lost else missing_summary_status(session)
    return settlement.settle(
        types.Settlement(
            session=session,
            attempt=attempt,
            text=None,
            summary_status_if_none=missing,
            claim_token=token,
        )
    )


def is_refused(session: ChatSession) -> bool:
    """Return whether it is open, and OSVI refused the last attempt to close it."""
    return session.is_open and session.is_close_refused


@checks_types
def recover_all(
    *, on_left: Callable[[LeftInSpool], object] = lambda _left: None
) -> Iterator[RecoveryResult]:
    """Settle all that can be settled, one session after the other, each on its own.

    ``on_left`` is called with each spool file that could not be stored in the database, and each
    spool that cannot be read. Any number of these may run at once. An error in one session never
    stops the others.
    """
    yield from recover_spools(on_left)
    alias = router.db_for_write(ChatSession)
    dead = Q(leases.expired(), status=Status.CLOSING)
    lost = ChatSession.objects.using(alias).filter(dead | Q(status=Status.UNCONFIRMED))
    for session in reviewing.by_key(lost.defer("metadata")):
        yield _recover_safely(session)


def reread_all() -> Iterator[RecoveryResult]:
    """Read the stored answers of all sessions without a summary again, by the current rules.

    OSVI is not asked. Yields the sessions whose summary is stored now, and those that failed.
    """
    for session in reviewing.without_summary():
        yield from _reread_safely(session)


def _reread_safely(session: ChatSession) -> Iterator[RecoveryResult]:
    try:
        if reviewing.store_summary(session):
            yield RecoveryResult(session=session, settled=Settled.STORED)
    except Exception as error:  # one bad row must not stop the others
        logger.exception("the answers of session %r could not be read", session.session_id)
        detail = type(error).__name__
        yield RecoveryResult(session=session, settled=Settled.FAILED, detail=detail)


def _recover_safely(session: ChatSession) -> RecoveryResult:
    try:
        return recover_session(session, via="recovery")
    except (OSVIError, OSVINotConfigured) as error:
        return RecoveryResult(session=session, settled=Settled.UNCHANGED, detail=str(error))
    except Exception as error:  # one bad row must not stop the sweep
        logger.exception("session %r could not be checked", session.session_id)
        detail = type(error).__name__
        return RecoveryResult(session=session, settled=Settled.FAILED, detail=detail)


def _claim(session: ChatSession, token: uuid.UUID, lease: Terms) -> bool:
    def acquire(row: QuerySet[ChatSession], seconds: float) -> int:
        return claims.acquire_lease(row, (Status.UNCONFIRMED,), token, lease=seconds)

    return _persist_claim(session, token, lease, acquire)


def _claim_refused(session: ChatSession, token: uuid.UUID) -> bool:
    def acquire(row: QuerySet[ChatSession], seconds: float) -> int:
        before = {"previous_status": F("status")}
        refused = row.filter(is_close_refused=True)
        return claims.acquire_lease(refused, ChatSession.OPEN, token, lease=seconds, **before)

    return _persist_claim(session, token, _MARKING, acquire)


def _persist_claim(
    session: ChatSession,
    token: uuid.UUID,
    lease: Terms,
    acquire: Callable[[QuerySet[ChatSession], float], int],
) -> bool:
    def work() -> bool:
        row = selectors.rows(session)
        seconds = leases.start_renewing([claims.claimed_row(session, token)], lease)
        # Includes a claim of an earlier try whose commit succeeded without our learning of it.
        return bool(acquire(row, seconds)) or row.filter(claim=token).exists()

    with leases.claiming(token):
        is_claimed = persist(
            work, using=selectors.using(session), patience=database.PATIENCE_BEFORE
        )
    if not is_claimed:
        leases.stop_renewing([claims.claimed_row(session, token)])
    return is_claimed


def _nothing_to_settle(session: ChatSession) -> RecoveryResult:
    selectors.reload(session)
    claims.require_known_status(session)
    if session.status in {Status.CLOSING, Status.UNCONFIRMED}:
        raise CloseInProgress(attempt=selectors.last_attempt(session))
    detail = _("Nothing to check: this chat's status is known.")
    return RecoveryResult(session=session, settled=Settled.ALREADY_SETTLED, detail=detail)


def _settle(
    client: OSVIClient, session: ChatSession, token: uuid.UUID, request: RequestOrigin
) -> RecoveryResult:
    if found := read_stored_answers(session, token):
        return found
    try:
        with throttling(client, session.agent.account):
            is_open = remote_state.is_listed_open(client, session)
    except (OSVIError, OSVINotConfigured) as error:
        return _not_said(session, error)
    if is_open is None:
        return _settle_by_pausing(client, session, token, request)
    if is_open:
        return _reopen(session, token, Status.ACTIVE)
    if not session.agent.uuid:
        return left_unchanged(session, str(_NOT_LISTED))
    return _reclose(client, session, token, request)


def _settle_by_pausing(
    client: OSVIClient, session: ChatSession, token: uuid.UUID, request: RequestOrigin
) -> RecoveryResult:
    """Settle a session without a customer, so that OSVI cannot be asked for a list."""
    if _was_only_refused(session):
        # As if its closer had lived to store the refusal.
        return _reopen(session, token, F("previous_status"), is_close_refused=True)
    if not session.agent.uuid:
        return left_unchanged(session, str(_NOTHING_TO_ASK_BY))
    try:
        with throttling(client, session.agent.account):
            is_closed = remote_state.is_closed_by_id(client, session)
    except (OSVIError, OSVINotConfigured) as error:
        return _not_said(session, error)
    if is_closed is None:
        return left_unchanged(session, str(_UNKNOWN_TO_OSVI))
    if is_closed:
        return _reclose(client, session, token, request, is_proven=True)
    return _reopen(session, token, Status.DORMANT)


def _not_said(session: ChatSession, error: CallError) -> RecoveryResult:
    """Return that OSVI did not say whether a session is closed, and why."""
    if type(error) in _NOT_SAID and not any(error.args):
        error.args = (_NOT_SAID[type(error)],)
    return replace(left_unchanged(session, str(error)), error=error)


def _reopen(
    session: ChatSession, token: uuid.UUID, status: Status | F, *, is_close_refused: bool = False
) -> RecoveryResult:
    claimed = selectors.rows(session).filter(claim=token)
    claims.release(claimed, status=status, is_close_refused=is_close_refused)
    return RecoveryResult(session=session, settled=Settled.REOPENED, detail=str(_STILL_OPEN))


def _was_only_refused(session: ChatSession) -> bool:
    """Return whether OSVI refused to close it, and no attempt may have closed it."""
    unsent = (AttemptOutcome.NOT_SENT, AttemptOutcome.REJECTED)
    tried = selectors.attempts(session)
    is_refused = tried.filter(kind=AttemptKind.CLOSE, outcome=AttemptOutcome.REJECTED).exists()
    return is_refused and not tried.exclude(outcome__in=unsent).exists()


def _reclose(
    client: OSVIClient,
    session: ChatSession,
    token: uuid.UUID,
    request: RequestOrigin,
    *,
    is_proven: bool = False,
) -> RecoveryResult:
    """Close a session once more for its summary; never again, whatever the result.

    ``is_proven``: OSVI has said that it is closed. It does not list dormant sessions either, so if
    it refuses this close, or does not answer, it is asked.
    """
    if not _was_reclosed(session) and (found := _fetch_summary(client, session, token, request)):
        return found
    return _settle_lost(client, session, token, is_proven=is_proven)


def _settle_lost(
    client: OSVIClient, session: ChatSession, token: uuid.UUID, *, is_proven: bool
) -> RecoveryResult:
    """Settle a session whose summary cannot be fetched, if it is closed at OSVI."""
    try:
        with throttling(client, session.agent.account):
            is_closed = is_proven or remote_state.is_closed(client, session)
    except (OSVIError, OSVINotConfigured) as error:
        return _not_said(session, error)
    if not is_closed:
        return _reopen(session, token, Status.DORMANT)
    settlement.settle(
        types.Settlement(
            session=session,
            attempt=None,
            text=None,
            summary_status_if_none=SummaryStatus.LOST,
            claim_token=token,
        )
    )
    return result_of(session)


def _fetch_summary(
    client: OSVIClient, session: ChatSession, token: uuid.UUID, request: RequestOrigin
) -> RecoveryResult | None:
    """Close a session once more; return None if that was refused, or not answered."""
    interpreted = None
    try:
        with throttling(client, session.agent.account):
            interpreted = _send_reclose(client, session, token, request)
            if not isinstance(interpreted, types.Settlement):
                raise interpreted.error  # so that a request of OSVI to wait is known here
    except AnswerNotStored as error:
        return left_unchanged(session, str(error))
    except (OSVIError, OSVINotConfigured) as error:
        found = settle_by(interpreted) if interpreted else None
        return found or replace(left_unchanged(session, str(error)), error=error)
    return settle_by(interpreted)


def _send_reclose(
    client: OSVIClient, session: ChatSession, token: uuid.UUID, request: RequestOrigin
) -> Interpretation:
    """Return what OSVI's reply to one more close says. Raises ``AnswerNotStored``."""
    attempt = _write_reclose(session, token, request)
    reply: Answer | OSVIError | OSVINotConfigured
    try:
        # The only close documented to return the summary, whichever dialect the account uses.
        reply = raw_answers.send(client, session, attempt, dialect="legacy")
    except AnswerNotStored:
        raise
    except (OSVIError, OSVINotConfigured) as error:
        reply = error
    return interpret(reply, session=session, attempt=attempt, claim_token=token)


def _write_reclose(session: ChatSession, token: uuid.UUID, request: RequestOrigin) -> CloseAttempt:
    def work() -> CloseAttempt:
        (attempt,) = claims.write_attempts([session], request, token, AttemptKind.RECLOSE)
        return attempt

    return persist(work, using=selectors.using(session), patience=database.PATIENCE_BEFORE)


def _was_reclosed(session: ChatSession) -> bool:
    fetches = selectors.attempts(session).filter(kind=AttemptKind.RECLOSE)
    return fetches.exclude(error_code__in=codes_to_send_later()).exists()
