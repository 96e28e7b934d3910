"""The steps that a close is made of, each committed before the next; whoever closes takes these.

::

    claim    the session is ours alone, and the attempt is written down
    send     OSVI is asked, with no transaction open
    keep     the raw answer is stored before anybody reads it
    settle   the session is closed and its summary stored, or it goes back to what it was

A process that dies in between leaves a claim whose lease runs out, and a journal that says how far
it came. A database that goes away in between is waited for; where it stays away, the answer goes to
the spool.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partialmethod
from pathlib import Path
from typing import Any, Final

from django.contrib.auth import get_user_model
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.db import Error, router
from django.db.models import F, QuerySet
from django.db.models.functions import Coalesce, Now
from django.utils import timezone
from django.utils.translation import gettext as _

from osvi_django import spool
from osvi_django.client import Answer, ClosedSession, OSVIClient, read_closed, storable
from osvi_django.conf import DEFAULTS, Account, InvalidSetting
from osvi_django.exceptions import (
    AnswerNotStored,
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
from osvi_django.signals import session_close_failed, session_closed
from osvi_django.transactions import persist

logger = logging.getLogger(__name__)

User = AbstractBaseUser | AnonymousUser
Kind = CloseAttempt.Kind
Outcome = CloseAttempt.Outcome
Status = ChatSession.Status
SummaryStatus = ChatSession.SummaryStatus

# How long to wait for a database that went away while nothing is lost yet.
PATIENCE_BEFORE: Final = 2  # seconds
# How long an answer may be in memory alone: what takes longer than a deadlock goes to the spool.
_IN_MEMORY: Final = 0.3  # seconds


@dataclass(frozen=True, kw_only=True)
class CloseRequest:
    """Who wants it, through which door, and why; checked once, whichever door it was."""

    requested_by: User | None
    door: str
    note: str

    def __post_init__(self) -> None:
        _require_length("door", self.door, DOOR_MAX_LENGTH)
        _require_length("note", self.note, NOTE_MAX_LENGTH)


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


class DatabaseNow(Now):
    """The database's clock in UTC: a lease must not end early because some host's clock is off."""

    # NOW() is local time there, an hour off at a change of summer time.
    as_mysql = partialmethod(Now.as_sql, template="UTC_TIMESTAMP(6)")


def prepare(account: str) -> tuple[OSVIClient, float]:
    """The client of an account, and for how many seconds to claim what it closes.

    Raises ``OSVINotConfigured``.
    """
    client = OSVIClient.for_account(account)
    try:
        return client, Account(account).lease
    except InvalidSetting as error:
        problem = str(error)
    raise OSVINotConfigured(problem)


def claim(session: ChatSession, request: CloseRequest, *, lease: float) -> CloseAttempt | None:
    """Take an open session and write the attempt down; None where somebody else was faster."""
    token = uuid.uuid4()

    def work() -> CloseAttempt | None:
        # The order matters to MariaDB, which assigns from left to right.
        if not take(session, ChatSession.OPEN, token, lease=lease, status_before=F("status")):
            return None
        return write_attempt(session, request, token, Kind.CLOSE)

    return persist(work, using=using(session), patience=PATIENCE_BEFORE)


def take(
    session: ChatSession,
    statuses: tuple[Status, ...],
    token: uuid.UUID,
    *,
    lease: float,
    **changes: Any,
) -> bool:
    """Claim a session in one of ``statuses`` for ``lease`` seconds; whether it is ours now."""
    taken = rows(session).filter(status__in=statuses)
    lease_until = DatabaseNow() + timedelta(seconds=lease)
    changes |= {"status": Status.CLOSING, "claim": token, "lease_until": lease_until}
    if taken.update(**changes, updated_at=timezone.now()):
        return True
    # Ours all the same, where the commit arrived and the word of it did not.
    return rows(session).filter(claim=token).exists()


def write_attempt(
    session: ChatSession, request: CloseRequest, token: uuid.UUID, kind: Kind
) -> CloseAttempt:
    """Write down who is about to ask OSVI for what."""
    attempt, _created = CloseAttempt.objects.using(using(session)).get_or_create(
        claim=token,
        defaults={
            "session": session,
            "kind": kind,
            "requested_by": _as_row(request.requested_by),
            "door": request.door,
            "note": storable(request.note),
        },
    )
    return attempt


def send(
    client: OSVIClient, session: ChatSession, attempt: CloseAttempt, *, dialect: str = ""
) -> ClosedSession:
    """Ask OSVI to close, keep whatever it answers, and only then read that.

    Raises what the client raises, and ``AnswerNotStored`` where only the spool could keep it.
    """
    answer = client.send_close(session.session_id, agent_uuid=session.agent.uuid, dialect=dialect)
    keep(session, attempt, answer)
    return read_closed(answer, session.session_id)


def keep(session: ChatSession, attempt: CloseAttempt, answer: Answer) -> None:
    """Store the answer before anybody reads it: whatever goes wrong from here on, it is there."""
    text = answer.text.encode()[:ANSWER_MAX_BYTES].decode(errors="ignore")
    changes = {"answer": text, "http_status": answer.status, "answered_at": timezone.now()}

    def work() -> None:
        update_attempt(attempt, outcome=Outcome.ANSWERED, **changes)

    if _is_kept(work, session, attempt, patience=_IN_MEMORY):
        return
    # Whoever waits for long may be killed meanwhile, and must not have the only copy.
    path = _put_in_spool(session, attempt, answer)
    if _is_kept(work, session, attempt, patience=_patience(session)):
        if path is not None:
            path.unlink(missing_ok=True)
        return
    if path is None:
        ids = (session.session_id, attempt.pk)
        logger.critical("the answer for session %r, attempt %s, is lost", *ids)
    raise OSVINoAnswer() if path is None else AnswerNotStored(attempt=attempt)


def still_open(client: OSVIClient, session: ChatSession) -> bool | None:
    """Whether OSVI has this very session open; None where there is no customer to ask by.

    Raises what the client raises.
    """
    if not session.customer_id:
        return None
    active = client.active_session(session.customer_id, agent_uuid=session.agent.uuid)
    return active is not None and active.session_id == session.session_id


def surely_not_open(client: OSVIClient, session: ChatSession) -> bool:
    """Whether OSVI tells what its customer has open with any agent, and this is not among it.

    A mistaken agent or address is answered 404, like a customer who has nothing open: only a list
    tells these apart. Raises what the client raises.
    """
    return session.session_id not in client.active_session_ids(session.customer_id)


def settle_closed(
    session: ChatSession,
    attempt: CloseAttempt | None,
    *,
    text: str | None,
    missing: SummaryStatus = SummaryStatus.NOT_PROVIDED,
    held: uuid.UUID | None = None,
    **changes: Any,
) -> CloseResult:
    """Close the session here, store its summary, and tell of it.

    ``missing``: what to say where there is no summary; ``held``: the claim that must still hold it,
    where it was not OSVI that said it is closed; ``changes``: what becomes of the attempt.
    Raises ``AnswerNotStored`` where the database stays away: the answer is kept, in the attempt.
    """

    def work() -> bool:
        if not _end(rows(session), held):
            return False
        if attempt is not None:
            update_attempt(attempt, finished_at=timezone.now(), **changes)
        summary_status = SummaryStatus.STORED if _store_summary(session, text) else missing
        rows(session).update(summary_status=summary_status)
        return True

    changed = _persist_answer(session, attempt, work)
    result = closed_result(session, changed=changed, attempt=attempt)
    if changed:
        logger.info("session %r is closed: %s", session.session_id, session.summary_status)
        session_closed.send_robust(
            ChatSession, session=session, summary=result.summary, attempt=attempt
        )
    return result


def settle_failed(
    session: ChatSession,
    attempt: CloseAttempt,
    error: OSVIError | OSVINotConfigured,
    *,
    held: uuid.UUID | None = None,
) -> None:
    """Let go of a session that was not closed, or of which nobody knows, and tell of it."""
    error.attempt = attempt
    _outcome, reopens = policy(error)

    def work() -> None:
        ours = rows(session).filter(claim=held or attempt.claim)
        release(ours, status=F("status_before") if reopens else Status.UNCONFIRMED)
        update_attempt(attempt, finished_at=timezone.now(), **told_of(error))
        reload(session)

    try:
        persist(work, using=using(session), patience=_patience(session))
    except Error:
        # The lease runs out, and recovery asks OSVI: what is raised is still what happened.
        logger.exception("the end of attempt %s could not be written", attempt.pk)
        return
    names = (session.session_id, attempt.pk, error.code)
    logger.warning("session %r not closed by attempt %s: %s", *names)
    session_close_failed.send_robust(ChatSession, session=session, error=error, attempt=attempt)


def policy(error: OSVIError | OSVINotConfigured) -> tuple[Outcome, bool]:
    """What an attempt that ended so is called, and whether the session is open again."""
    if isinstance(error, OSVIRejected):
        return Outcome.REJECTED, True
    if isinstance(error, OSVIBadAnswer):
        return Outcome.BAD_ANSWER, False
    if isinstance(error, OSVINoAnswer):
        return Outcome.NO_ANSWER, False
    return Outcome.NOT_SENT, True


def told_of(error: OSVIError | OSVINotConfigured) -> dict[str, str]:
    """What the journal says of an error."""
    outcome, _reopens = policy(error)
    reason = getattr(error, "reason", "")
    return {"outcome": outcome, "error_code": error.code, "error_reason": reason}


def end_lease(session: ChatSession) -> None:
    """Let go of a session whose closer did not come back: what it did, nobody here knows."""
    over = rows(session).filter(status=Status.CLOSING, lease_until__lt=DatabaseNow())
    # A look before the write: on MariaDB the crowd that lost the claim would deadlock its winner.
    dead = [claim for claim in over.values_list("claim", flat=True) if claim]
    if not dead:
        return

    def work() -> None:
        release(over.filter(claim__in=dead), status=Status.UNCONFIRMED)
        # An attempt that was answered stays so: its answer is still to be read.
        attempts(session).filter(claim__in=dead, outcome=Outcome.STARTED).update(
            outcome=Outcome.NO_ANSWER, error_code=OSVINoAnswer.code, finished_at=timezone.now()
        )

    persist(work, using=using(session), patience=PATIENCE_BEFORE)


def release(sessions: QuerySet[ChatSession], **changes: Any) -> int:
    """Change sessions and let go of them; how many there were."""
    return sessions.update(claim=None, lease_until=None, updated_at=timezone.now(), **changes)


def update_attempt(attempt: CloseAttempt, **changes: Any) -> None:
    """Change an attempt in the database and in the hands of whoever asked for it."""
    alias = router.db_for_write(CloseAttempt, instance=attempt)
    if not CloseAttempt.objects.using(alias).filter(pk=attempt.pk).update(**changes):
        logger.critical("attempt %s was deleted while OSVI was asked", attempt.pk)
    for name, value in changes.items():
        setattr(attempt, name, value)


def closed_result(
    session: ChatSession, *, changed: bool = False, attempt: CloseAttempt | None = None
) -> CloseResult:
    """The session as it is stored, with its summary."""
    reload(session)
    summary = SessionSummary.objects.using(using(session)).filter(session=session).first()
    return CloseResult(session=session, summary=summary, changed=changed, attempt=attempt)


def reload(session: ChatSession) -> None:
    """Read a session anew. Raises ``SessionNotFound``."""
    try:
        session.refresh_from_db(using=using(session))
    except ChatSession.DoesNotExist:
        raise SessionNotFound from None


def rows(session: ChatSession) -> QuerySet[ChatSession]:
    """The session's row, as something to filter and update."""
    return ChatSession.objects.using(using(session)).filter(pk=session.pk)


def attempts(session: ChatSession) -> QuerySet[CloseAttempt]:
    """The session's journal."""
    return CloseAttempt.objects.using(using(session)).filter(session=session)


def using(session: ChatSession) -> str:
    """The database that a session is written to."""
    return router.db_for_write(ChatSession, instance=session)


def _patience(session: ChatSession) -> float:
    """How long to wait for a database that went away while an answer is in hand, in seconds."""
    try:
        return Account(session.agent.account).database_patience
    except InvalidSetting:
        # What is in hand is worth more than the setting.
        return float(DEFAULTS["DATABASE_PATIENCE"])


def _end(sessions: QuerySet[ChatSession], held: uuid.UUID | None) -> int:
    """The UPDATE comes first: SQLite lets no reader of a transaction become its writer."""
    ours = sessions.filter(claim=held) if held else sessions
    return release(ours, status=Status.CLOSED, closed_at=Coalesce("closed_at", timezone.now()))


def _store_summary(session: ChatSession, text: str | None) -> bool:
    """Store ``text`` where there is one, and say whether the session has a summary now."""
    summaries = SessionSummary.objects.using(using(session))
    if text is None:
        return summaries.filter(session=session).exists()
    written = {
        "text": text,
        "source": SessionSummary.Source.OSVI,
        "received_at": timezone.now(),
    }
    summaries.update_or_create(session=session, defaults=written)
    return True


def _persist_answer(
    session: ChatSession, attempt: CloseAttempt | None, work: Callable[[], bool]
) -> bool:
    try:
        return persist(work, using=using(session), patience=_patience(session))
    except Error:
        logger.exception("the answer for session %r waits for recovery", session.session_id)
    raise AnswerNotStored(attempt=attempt)


def _is_kept(
    work: Callable[[], None], session: ChatSession, attempt: CloseAttempt, *, patience: float
) -> bool:
    try:
        persist(work, using=using(session), patience=patience)
    except Error:
        logger.exception("the answer of attempt %s cannot be stored just now", attempt.pk)
        return False
    return True


def _put_in_spool(session: ChatSession, attempt: CloseAttempt, answer: Answer) -> Path | None:
    """Keep an answer in a file; None where even that fails."""
    spooled = spool.SpooledAnswer(
        session=session.pk,
        attempt=attempt.pk,
        claim=str(attempt.claim),
        status=answer.status,
        body=answer.body,
        truncated=answer.truncated,
    )
    try:
        return spool.put(Account(session.agent.account).spool_dir, spooled)
    except (OSError, InvalidSetting):
        logger.exception("the answer of attempt %s cannot be put in the spool", attempt.pk)
        return None


def _as_row(user: User | None) -> Any:
    """Who the journal names: a host's services may act for somebody who is no row of a table."""
    return user if isinstance(user, get_user_model()) and user.pk else None


def _require_length(name: str, value: str, length: int) -> None:
    if len(value) > length:
        problem = _("%(field)s is too long: use at most %(length)d characters.")
        raise InvalidInput(problem % {"field": name, "length": length}, field=name)
