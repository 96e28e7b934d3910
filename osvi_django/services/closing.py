"""Closing one chat session, so that its summary cannot get lost.

The close is a remote act that cannot be taken back, and its answer may be handed out only once: it
is taken in the committed steps of ``steps.py``.
"""

from __future__ import annotations

from typing import Final, TypeGuard

from django.db import router
from django.utils.translation import gettext as _

from osvi_django.client import OSVIClient
from osvi_django.exceptions import (
    AnswerNotStored,
    CloseInProgress,
    InvalidInput,
    OSVIError,
    OSVINoAnswer,
    OSVINotConfigured,
    OSVIRejected,
    SessionNotFound,
)
from osvi_django.models import ChatSession, CloseAttempt
from osvi_django.services import steps
from osvi_django.services.mirroring import (
    account_of,
    find_session,
    mirror_by_id,
    move_to_agent,
)
from osvi_django.services.permissions import require_close
from osvi_django.services.steps import (
    CloseRequest,
    CloseResult,
    Outcome,
    Status,
    SummaryStatus,
    User,
)
from osvi_django.services.summaries import with_own_summary
from osvi_django.transactions import refuse_inside_transaction

# How soon it is worth looking again at a close that is under way: an AI writes for seconds.
LOOK_AGAIN_AFTER: Final = 5  # seconds


def close_session(
    session: ChatSession,
    *,
    requested_by: User | None = None,
    door: str = "code",
    note: str = "",
) -> CloseResult:
    """Close ``session`` at OSVI and keep its summary; a closed one is returned as it is.

    ``requested_by`` must have the permission ``osvi_django.close_chatsession``; None is the host's
    own code, which may do anything. ``session`` is read anew from the database, before and after.

    Raises ``InsideTransaction``, ``NotAllowed``, ``InvalidInput``, ``SessionNotFound`` or
    ``OSVINotConfigured`` before anything is sent; ``CloseInProgress`` while somebody else closes
    it; ``OSVIUnreachable`` and ``OSVIRejected`` with its kinds, after which it is as it was;
    ``OSVIBadAnswer`` and ``OSVINoAnswer``, after which it is ``unconfirmed``.
    """
    result = close_at_osvi(session, requested_by=requested_by, door=door, note=note)
    return with_own_summary(result) if result.changed else result


def close_at_osvi(
    session: ChatSession, *, requested_by: User | None, door: str, note: str
) -> CloseResult:
    """The same, without the summary that this site may write of it."""
    refuse_inside_transaction(steps.using(session))
    require_close(requested_by, session)
    request = CloseRequest(requested_by=requested_by, door=door, note=note)
    steps.reload(session)
    if session.status == Status.CLOSED:
        return steps.closed_result(session)
    client, lease = steps.prepare(session.agent.account)
    attempt = steps.claim(session, request, lease=lease)
    if attempt is None:
        return _not_claimed(session)
    return _carry_out(client, session, attempt)


def close_session_by_id(
    session_id: str,
    *,
    agent_uuid: str = "",
    account: str | None = None,
    requested_by: User | None = None,
    door: str = "code",
    note: str = "",
) -> CloseResult:
    """Close a session by OSVI's own id, also one that this database has not met.

    That takes ``agent_uuid``; ``account`` is the one that the agent belongs to, by default the one
    that knows it, and "default" for a new agent. Of a session that is known here both are known
    too, and different ones are an error. Raises what ``close_session`` raises.
    """
    refuse_inside_transaction(router.db_for_write(ChatSession))
    session = session_to_close(
        session_id, agent_uuid=agent_uuid, account=account, requested_by=requested_by
    )
    return close_session(session, requested_by=requested_by, door=door, note=note)


def session_to_close(
    session_id: str,
    *,
    agent_uuid: str = "",
    account: str | None = None,
    requested_by: User | None = None,
) -> ChatSession:
    """The session of this id, mirrored from now on where this database has not met it.

    Raises ``NotAllowed``, ``SessionNotFound`` or ``InvalidInput``, as ``close_session_by_id`` does.
    """
    session = find_session(session_id)
    require_close(requested_by, session)
    if session is None:
        return _meet(session_id, agent_uuid=agent_uuid, account=account)
    is_same = agent_uuid in {"", session.agent.uuid}
    if not is_same or account not in {None, session.agent.account}:
        _correct_agent(session, agent_uuid=agent_uuid, account=account)
    return session


def _meet(session_id: str, *, agent_uuid: str, account: str | None) -> ChatSession:
    if not agent_uuid:
        raise SessionNotFound(
            _(
                "There is no such chat session here. To close one that only OSVI knows, "
                "name its agent in agent_uuid."
            )
        )
    account = account_of(agent_uuid, account)
    return mirror_by_id(session_id, agent_uuid=agent_uuid, account=account)


def _correct_agent(session: ChatSession, *, agent_uuid: str, account: str | None) -> None:
    """Take another agent for a session of which nothing but what a caller said is known.

    Where only OSVI's number of the agent is known, its UUID is what was missing.
    """
    own = session.agent
    if agent_uuid and own.uuid is None and session.is_open and account in {None, own.account}:
        move_to_agent(session, agent_uuid=agent_uuid, account=own.account)
        return
    is_hearsay = session.is_open and not session.customer_id and not _was_ever_heard_of(session)
    if agent_uuid and is_hearsay:
        account = account_of(agent_uuid, account, otherwise=session.agent.account)
        move_to_agent(session, agent_uuid=agent_uuid, account=account)
        return
    if agent_uuid in {"", session.agent.uuid}:
        problem = _("account names another one than that of this session's agent: leave it out.")
        raise InvalidInput(problem, field="account")
    problem = _("agent_uuid names another agent than the one that this session belongs to.")
    raise InvalidInput(problem, field="agent_uuid")


def _was_ever_heard_of(session: ChatSession) -> bool:
    """Whether a close of it was ever answered with anything but a refusal, or may have been."""
    refused = (Outcome.NOT_SENT, Outcome.REJECTED)
    tried = steps.attempts(session)
    return not tried.exists() or tried.exclude(outcome__in=refused).exists()


def require_closable(session: ChatSession) -> None:
    """Raise what ``close_session`` raises of a session before OSVI is asked."""
    if session.status == Status.CLOSED:
        return
    steps.prepare(session.agent.account)
    if session.status in {Status.CLOSING, Status.UNCONFIRMED}:
        _not_claimed(session)


def _carry_out(client: OSVIClient, session: ChatSession, attempt: CloseAttempt) -> CloseResult:
    try:
        closed = steps.send(client, session, attempt)
    except AnswerNotStored:
        raise  # its session is left to recovery
    except (OSVIError, OSVINotConfigured) as error:
        if is_worth_a_look(error, session) and is_closed_already(client, session, error):
            return steps.settle(closed_already(session, attempt, error))
        steps.settle_failed(session, attempt, error)
        raise
    return steps.settle_closed(session, attempt, text=closed.summary, outcome=Outcome.CLOSED)


def _not_claimed(session: ChatSession) -> CloseResult:
    """Why the session could not be claimed: closed by now, under way, or nobody knows."""
    steps.end_lease(session)
    steps.reload(session)
    if session.status == Status.CLOSED:
        return steps.closed_result(session)
    attempt = steps.attempts(session).first()
    if session.status == Status.UNCONFIRMED:
        raise OSVINoAnswer(attempt=attempt)
    raise CloseInProgress(attempt=attempt, retry_after=LOOK_AGAIN_AFTER)


def is_worth_a_look(error: Exception, session: ChatSession) -> TypeGuard[OSVIRejected]:
    """Whether OSVI may have refused because there is nothing left to close."""
    if not isinstance(error, OSVIRejected) or error.status not in steps.CLOSED_ALREADY:
        return False
    # OSVI may not count a dormant session as active, and a 422 may mean anything.
    return session.status != Status.DORMANT or error.status != steps.VALIDATION_FAILED


def is_closed_already(client: OSVIClient, session: ChatSession, error: OSVIRejected) -> bool:
    """Whether there is nothing left to close; OSVI is asked, and the database is not."""
    try:
        gone = steps.still_open(client, session) is False
        # Where the address is mistaken, all is answered 404.
        return gone and (error.status != steps.NOT_FOUND or steps.surely_not_open(client, session))
    except (OSVIError, OSVINotConfigured):
        return False


def closed_already(
    session: ChatSession, attempt: CloseAttempt, error: OSVIRejected
) -> steps.Closed:
    """Closed behind our back."""
    return steps.Closed(
        session=session,
        attempt=attempt,
        text=None,
        missing=why_none(session),
        held=attempt.claim,
        told=steps.told_of(error) | {"outcome": Outcome.REJECTED},
    )


def why_none(session: ChatSession) -> SummaryStatus:
    """Why one that was closed behind our back has no summary: a close of ours may have had it."""
    unanswered = steps.attempts(session).filter(outcome__in=(Outcome.NO_ANSWER, Outcome.BAD_ANSWER))
    return SummaryStatus.LOST if unanswered.exists() else SummaryStatus.NOT_PROVIDED
