"""Closing one chat session, so that its summary cannot get lost.

The close is a remote act that cannot be taken back, and its answer may be handed out only once. So
it is taken in steps, each committed before the next::

    claim    the session is ours alone, and the attempt is written down
    send     OSVI is asked, with no transaction open
    keep     the raw answer is stored before anybody reads it
    settle   the session is closed and its summary stored, or it goes back to what it was

A process that dies in between leaves a claim whose lease runs out, and a journal that says how far
it came.
"""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.db import router, transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext as _

from osvi_django.client import Answer, ClosedSession, OSVIClient, read_closed, storable
from osvi_django.conf import DEFAULT_ACCOUNT, Account
from osvi_django.exceptions import (
    CloseInProgress,
    InvalidInput,
    OSVIBadAnswer,
    OSVIError,
    OSVINoAnswer,
    OSVINotConfigured,
    OSVIRejected,
    SessionNotFound,
)
from osvi_django.models import (
    ANSWER_MAX_BYTES,
    DOOR_MAX_LENGTH,
    NOTE_MAX_LENGTH,
    ChatSession,
    CloseAttempt,
    SessionSummary,
)
from osvi_django.services.mirroring import find_session, mirror_by_id
from osvi_django.services.permissions import require_close
from osvi_django.signals import session_close_failed, session_closed
from osvi_django.transactions import refuse_inside_transaction

logger = logging.getLogger(__name__)

User = AbstractBaseUser | AnonymousUser
Outcome = CloseAttempt.Outcome
Status = ChatSession.Status
SummaryStatus = ChatSession.SummaryStatus

# How soon it is worth looking again at a close that is under way: an AI writes for seconds.
LOOK_AGAIN_AFTER: Final = 5  # seconds


@dataclass(frozen=True, kw_only=True)
class CloseResult:
    """A session that is closed.

    ``summary`` is None where OSVI sent none, ``session.summary_status`` says why; ``changed`` is
    False and ``attempt`` None where it was closed already and nobody was asked.
    """

    session: ChatSession
    summary: SessionSummary | None
    changed: bool
    attempt: CloseAttempt | None


@dataclass(frozen=True, kw_only=True)
class CloseRequest:
    """Who wants it, through which door, and why; checked once, whichever door it was."""

    requested_by: User | None
    door: str
    note: str

    def __post_init__(self) -> None:
        _require_length("door", self.door, DOOR_MAX_LENGTH)
        _require_length("note", self.note, NOTE_MAX_LENGTH)


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
    refuse_inside_transaction(_using(session))
    require_close(requested_by, session)
    request = CloseRequest(requested_by=requested_by, door=door, note=note.strip())
    _reload(session)
    if session.status == Status.CLOSED:
        return _unchanged(session)
    client, lease = _prepare(session.agent.account)
    attempt = _claim(session, request, lease)
    if attempt is None:
        return _not_claimed(session)
    return _carry_out(client, session, attempt)


def close_session_by_id(
    session_id: str,
    *,
    agent_uuid: str = "",
    account: str = DEFAULT_ACCOUNT,
    requested_by: User | None = None,
    door: str = "code",
    note: str = "",
) -> CloseResult:
    """Close a session by OSVI's own id, also one that this database has not met.

    That takes ``agent_uuid``; ``account`` is the one that the agent belongs to. Of a session that
    is known here the agent is known too, and a different one is an error.
    Raises what ``close_session`` raises.
    """
    refuse_inside_transaction(router.db_for_write(ChatSession))
    session = find_session(session_id)
    if session is None:
        require_close(requested_by)
        session = _meet(session_id, agent_uuid=agent_uuid, account=account)
    elif agent_uuid not in {"", session.agent.uuid}:
        problem = _("agent_uuid names another agent than the one that this session belongs to.")
        raise InvalidInput(problem, field="agent_uuid")
    return close_session(session, requested_by=requested_by, door=door, note=note)


def _require_length(field: str, value: str, length: int) -> None:
    if len(value) > length:
        problem = _("%(field)s is too long: use at most %(length)d characters.")
        raise InvalidInput(problem % {"field": field, "length": length}, field=field)


def _meet(session_id: str, *, agent_uuid: str, account: str) -> ChatSession:
    if not agent_uuid:
        raise SessionNotFound(
            _(
                "There is no such chat session here. To close one that only OSVI knows, "
                "name its agent in agent_uuid."
            )
        )
    return mirror_by_id(session_id, agent_uuid=agent_uuid, account=account)


def _prepare(account: str) -> tuple[OSVIClient, float]:
    """The client of an account, and for how many seconds to claim what it closes."""
    return OSVIClient.for_account(account), Account(account).lease


def _claim(session: ChatSession, request: CloseRequest, lease: float) -> CloseAttempt | None:
    """Take the session and write the attempt down; None where somebody else was faster."""
    claim = uuid.uuid4()
    with transaction.atomic(using=_using(session), durable=True):
        taken = _rows(session).filter(status__in=ChatSession.OPEN)
        # The order matters to MariaDB, which assigns from left to right.
        claimed = taken.update(
            status_before=F("status"),
            status=Status.CLOSING,
            claim=claim,
            lease_until=DatabaseNow() + timedelta(seconds=lease),
            updated_at=timezone.now(),
        )
        return _write_attempt(session, request, claim) if claimed else None


def _write_attempt(session: ChatSession, request: CloseRequest, claim: uuid.UUID) -> CloseAttempt:
    return CloseAttempt.objects.using(_using(session)).create(
        session=session,
        requested_by=request.requested_by,  # type: ignore[misc]  # of the host's user model
        door=request.door,
        note=storable(request.note),
        claim=claim,
    )


def _carry_out(client: OSVIClient, session: ChatSession, attempt: CloseAttempt) -> CloseResult:
    try:
        answer = client.send_close(session.session_id, agent_uuid=session.agent.uuid)
        _keep(attempt, answer)
        closed = read_closed(answer, session.session_id)
    except (OSVIError, OSVINotConfigured) as error:
        _settle_failed(session, attempt, error)
        raise
    return _settle_closed(session, attempt, closed)


def _keep(attempt: CloseAttempt, answer: Answer) -> None:
    """Store the answer before anybody reads it: whatever goes wrong from here on, it is there."""
    text = answer.text.encode()[:ANSWER_MAX_BYTES].decode(errors="ignore")
    _update_attempt(
        attempt,
        outcome=Outcome.ANSWERED,
        answer=text,
        http_status=answer.status,
        answered_at=timezone.now(),
    )


def _settle_closed(
    session: ChatSession, attempt: CloseAttempt, closed: ClosedSession
) -> CloseResult:
    with transaction.atomic(using=_using(session), durable=True):
        # The UPDATE comes first: SQLite lets no reader of a transaction become its writer.
        _update_attempt(attempt, outcome=Outcome.CLOSED, finished_at=timezone.now())
        has_summary = _store_summary(session, closed.summary)
        _release(
            _rows(session),
            status=Status.CLOSED,
            closed_at=timezone.now(),
            summary_status=SummaryStatus.STORED if has_summary else SummaryStatus.NOT_PROVIDED,
        )
    _reload(session)
    result = CloseResult(session=session, summary=_summary(session), changed=True, attempt=attempt)
    logger.info("session %r closed by attempt %s", session.session_id, attempt.pk)
    session_closed.send_robust(
        ChatSession, session=session, summary=result.summary, attempt=attempt
    )
    return result


def _store_summary(session: ChatSession, text: str | None) -> bool:
    """Store ``text`` where there is one, and say whether the session has a summary now."""
    summaries = SessionSummary.objects.using(_using(session))
    if text is None:
        return summaries.filter(session=session).exists()
    written = {
        "text": text,
        "source": SessionSummary.Source.OSVI,
        "received_at": timezone.now(),
    }
    summaries.update_or_create(session=session, defaults=written)
    return True


def _settle_failed(
    session: ChatSession, attempt: CloseAttempt, error: OSVIError | OSVINotConfigured
) -> None:
    error.attempt = attempt
    outcome, reopens = _policy(error)
    with transaction.atomic(using=_using(session), durable=True):
        _release(
            _rows(session).filter(claim=attempt.claim),
            status=F("status_before") if reopens else Status.UNCONFIRMED,
        )
        _update_attempt(
            attempt,
            outcome=outcome,
            error_code=error.code,
            error_reason=getattr(error, "reason", ""),
            finished_at=timezone.now(),
        )
    _reload(session)
    logger.warning(
        "session %r not closed by attempt %s: %s", session.session_id, attempt.pk, error.code
    )
    session_close_failed.send_robust(ChatSession, session=session, error=error, attempt=attempt)


def _policy(error: OSVIError | OSVINotConfigured) -> tuple[str, bool]:
    """What an attempt that ended so is called, and whether the session is open again."""
    if isinstance(error, OSVIRejected):
        return Outcome.REJECTED, True
    if isinstance(error, OSVIBadAnswer):
        return Outcome.BAD_ANSWER, False
    if isinstance(error, OSVINoAnswer):
        return Outcome.NO_ANSWER, False
    return Outcome.NOT_SENT, True


def _not_claimed(session: ChatSession) -> CloseResult:
    """Why the session could not be claimed: closed by now, under way, or nobody knows."""
    _end_lease(session)
    _reload(session)
    if session.status == Status.CLOSED:
        return _unchanged(session)
    if session.status == Status.UNCONFIRMED:
        raise OSVINoAnswer
    raise CloseInProgress(retry_after=LOOK_AGAIN_AFTER)


def _end_lease(session: ChatSession) -> None:
    """Let go of a session whose closer did not come back: what it did, nobody here knows."""
    over = _rows(session).filter(status=Status.CLOSING, lease_until__lt=DatabaseNow())
    # A look before the write: on MariaDB the crowd that lost the claim would deadlock its winner.
    if not over.exists():
        return
    with transaction.atomic(using=_using(session), durable=True):
        if _release(over, status=Status.UNCONFIRMED):
            # An attempt that was answered stays so: its answer is still to be read.
            started = CloseAttempt.objects.using(_using(session)).filter(
                session=session, outcome=Outcome.STARTED
            )
            started.update(
                outcome=Outcome.NO_ANSWER,
                error_code=OSVINoAnswer.code,
                finished_at=timezone.now(),
            )


def _unchanged(session: ChatSession) -> CloseResult:
    return CloseResult(session=session, summary=_summary(session), changed=False, attempt=None)


def _release(sessions: QuerySet[ChatSession], **changes: Any) -> int:
    """Change sessions and let go of them; how many there were."""
    return sessions.update(claim=None, lease_until=None, updated_at=timezone.now(), **changes)


def _update_attempt(attempt: CloseAttempt, **changes: Any) -> None:
    """Change an attempt in the database and in the hands of whoever asked for it."""
    using = router.db_for_write(CloseAttempt, instance=attempt)
    CloseAttempt.objects.using(using).filter(pk=attempt.pk).update(**changes)
    for name, value in changes.items():
        setattr(attempt, name, value)


def _reload(session: ChatSession) -> None:
    known = ChatSession.objects.select_related("agent")
    try:
        session.refresh_from_db(using=_using(session), from_queryset=known)
    except ChatSession.DoesNotExist:
        raise SessionNotFound from None


def _rows(session: ChatSession) -> QuerySet[ChatSession]:
    return ChatSession.objects.using(_using(session)).filter(pk=session.pk)


def _summary(session: ChatSession) -> SessionSummary | None:
    return SessionSummary.objects.using(_using(session)).filter(session=session).first()


def _using(session: ChatSession) -> str:
    return router.db_for_write(ChatSession, instance=session)


class DatabaseNow(Now):
    """The database's clock in UTC: a lease must not end early because some host's clock is off."""

    def as_mysql(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        """``NOW()`` is local time there, an hour off at a change of summer time."""
        return self.as_sql(compiler, connection, template="UTC_TIMESTAMP(6)", **extra)
