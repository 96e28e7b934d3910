"""The steps that a close is made of, each committed before the next; whoever closes takes these.

One session is a batch of one: whoever closes many takes several through a step in one commit.

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
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partialmethod
from pathlib import Path
from typing import Any, Final, TypeVar

from django.contrib.auth import get_user_model
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.db import Error, InterfaceError, OperationalError, router
from django.db.models import F, QuerySet
from django.db.models.expressions import RawSQL
from django.db.models.functions import Coalesce, Now
from django.utils import timezone
from django.utils.translation import gettext as _

from osvi_django import spool
from osvi_django.answers import Answer, ClosedSession, read_closed, storable
from osvi_django.client import OSVIClient
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
    words_of,
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
from osvi_django.transactions import kind_of, persist

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_Key = TypeVar("_Key", bound=Hashable)
User = AbstractBaseUser | AnonymousUser
Kind = CloseAttempt.Kind
Outcome = CloseAttempt.Outcome
Status = ChatSession.Status
SummaryStatus = ChatSession.SummaryStatus

# What OSVI may answer where a session is closed; it does not document which.
NOT_FOUND: Final = 404
VALIDATION_FAILED: Final = 422
CLOSED_ALREADY: Final = frozenset({NOT_FOUND, 409, VALIDATION_FAILED})
# How long to wait for a database that went away while nothing is lost yet.
PATIENCE_BEFORE: Final = 2  # seconds
# How much to write in one statement: MariaDB takes 16 MB, quotes and escapes included.
_PACKET: Final = 1_000_000  # characters
# How long an answer may be in memory alone: what takes longer than a deadlock goes to the spool.
_IN_MEMORY: Final = 0.3  # seconds


@dataclass(frozen=True, kw_only=True)
class CloseRequest:
    """Who wants it, through which door, and why; checked once, whichever door it was."""

    requested_by: User | None
    door: str
    note: str

    def __post_init__(self) -> None:
        # The one way to set a field of a frozen dataclass.
        object.__setattr__(self, "door", _stripped("door", self.door, DOOR_MAX_LENGTH))
        object.__setattr__(self, "note", _stripped("note", self.note, NOTE_MAX_LENGTH))


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


@dataclass(frozen=True, kw_only=True)
class Closed:
    """OSVI has closed a session: what is to be stored.

    ``missing``: what to say where there is no summary; ``held``: the claim that must still hold the
    session, where it was not OSVI that said it is closed; ``only``: the statuses that it must be
    in, where no claim was made; ``told``: what becomes of the attempt.
    """

    session: ChatSession
    attempt: CloseAttempt | None
    text: str | None = field(repr=False)
    missing: SummaryStatus = SummaryStatus.NOT_PROVIDED
    held: uuid.UUID | None = None
    only: tuple[Status, ...] = ()
    told: dict[str, str] = field(default_factory=lambda: {"outcome": Outcome.CLOSED})


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A session was not closed, or nobody knows; ``held`` is the claim that holds it."""

    session: ChatSession
    attempt: CloseAttempt
    error: OSVIError | OSVINotConfigured
    held: uuid.UUID | None = None


def claim(session: ChatSession, request: CloseRequest, *, lease: float) -> CloseAttempt | None:
    """Take an open session and write the attempt down; None where somebody else was faster."""
    token = uuid.uuid4()

    def work() -> list[CloseAttempt]:
        return claim_all([session], request, token, lease=lease)

    claimed = persist(work, using=using(session), patience=PATIENCE_BEFORE)
    return claimed[0] if claimed else None


def claim_all(
    sessions: Sequence[ChatSession], request: CloseRequest, token: uuid.UUID, *, lease: float
) -> list[CloseAttempt]:
    """Take whichever of these is open, and write the attempts down; in the caller's transaction."""
    mine = rows(*sessions)
    # The order of the changes matters to MariaDB, which assigns from left to right.
    taken = take(mine, ChatSession.OPEN, token, lease=lease, status_before=F("status"))
    if taken == len(sessions):
        return _add_attempts(sessions, request, token, Kind.CLOSE)
    # Also those of a try before this, where the commit arrived and the word of it did not.
    keys = set(mine.filter(claim=token).values_list("pk", flat=True))
    ours = [session for session in sessions if session.pk in keys]
    return write_attempts(ours, request, token, Kind.CLOSE) if ours else []


def take(
    sessions: QuerySet[ChatSession],
    statuses: tuple[Status, ...],
    token: uuid.UUID,
    *,
    lease: float,
    **changes: Any,
) -> int:
    """Claim for ``lease`` seconds those in one of ``statuses``; how many there were."""
    lease_until = DatabaseNow() + timedelta(seconds=lease)
    changes |= {"status": Status.CLOSING, "claim": token, "lease_until": lease_until}
    return sessions.filter(status__in=statuses).update(**changes, updated_at=timezone.now())


def write_attempts(
    sessions: Sequence[ChatSession], request: CloseRequest, token: uuid.UUID, kind: Kind
) -> list[CloseAttempt]:
    """Write down who is about to ask OSVI for what, where a try before this has not done so."""
    journal = CloseAttempt.objects.using(using(sessions[0]))
    written = {each.session_id: each for each in journal.filter(session__in=sessions, claim=token)}
    missing = [each for each in sessions if each.pk not in written]
    return [*written.values(), *_add_attempts(missing, request, token, kind)]


def _add_attempts(
    sessions: Sequence[ChatSession], request: CloseRequest, token: uuid.UUID, kind: Kind
) -> list[CloseAttempt]:
    facts: dict[str, Any] = {
        "claim": token,
        "kind": kind,
        "requested_by": as_row(request.requested_by),
        "door": request.door,
        "note": storable(request.note),
    }
    fresh = [CloseAttempt(session=each, **facts) for each in sessions]
    return CloseAttempt.objects.using(using(sessions[0])).bulk_create(fresh) if fresh else []


def send(
    client: OSVIClient, session: ChatSession, attempt: CloseAttempt, *, dialect: str = ""
) -> ClosedSession:
    """Ask OSVI to close, keep whatever it answers, and only then read that.

    Raises what the client raises, and ``AnswerNotStored`` where only the spool could keep it.
    """
    answer = client.send_close(
        session.session_id, agent_uuid=session.agent.uuid or "", dialect=dialect
    )
    keep(attempt, answer)
    return read_closed(answer, session.session_id)


def keep(attempt: CloseAttempt, answer: Answer) -> None:
    """Store the answer before anybody reads it: whatever goes wrong from here on, it is there.

    Raises ``AnswerNotStored`` where only the spool has it, ``OSVINoAnswer`` where it is lost.
    """
    for error in keep_all([(attempt, answer)]).values():
        raise error


def keep_all(answered: Sequence[tuple[CloseAttempt, Answer]]) -> dict[int, OSVINoAnswer]:
    """Store these answers in one commit; by attempt, the error where one could not be stored."""
    try:
        return _keep_together(answered)
    except Error as error:
        logger.error("%s answers cannot be stored together: %s", len(answered), kind_of(error))
    # One of them may be what the database cannot take.
    errors: dict[int, OSVINoAnswer] = {}
    for each in answered:
        errors |= _keep_alone(each)
    return errors


def still_open(client: OSVIClient, session: ChatSession) -> bool | None:
    """Whether OSVI has this very session open; None where there is no customer to ask by.

    Raises what the client raises.
    """
    if not session.customer_id:
        return None
    if not session.agent.uuid:
        return session.session_id in client.active_session_ids(session.customer_id)
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
    **told: str,
) -> CloseResult:
    """Close the session here, store its summary, and tell of it; the arguments are ``Closed``'s.

    Raises ``AnswerNotStored`` where the database stays away: the answer is kept, in the attempt.
    """
    end = Closed(session=session, attempt=attempt, text=text, missing=missing, held=held, told=told)
    return settle(end)


def settle(end: Closed) -> CloseResult:
    """Close the session here, store its summary, and tell of it.

    Raises ``AnswerNotStored`` where the database stays away: the answer is kept, in the attempt.
    """
    session = end.session
    try:
        changed = persist(
            lambda: bool(write_closed([end])), using=using(session), patience=_patience(session)
        )
    except Error as error:
        ids = (session.session_id, kind_of(error))
        logger.error("the answer for session %r waits for recovery: %s", *ids)
        raise AnswerNotStored(attempt=end.attempt) from None
    result = closed_result(session, changed=changed, attempt=end.attempt)
    if changed:
        _tell_closed(end, result.summary)
    return result


def write_closed(ends: Sequence[Closed]) -> list[Closed]:
    """Close sessions and store their summaries, in the caller's transaction; those that were so."""
    # The UPDATE comes first: SQLite lets no reader of a transaction become its writer.
    with_text = _end(
        [end for end in ends if end.text is not None], summary_status=SummaryStatus.STORED
    )
    without = _end([end for end in ends if end.text is None])
    _store_summaries(with_text)
    _say_missing(without)
    closed = with_text + without
    end_attempts([(end.attempt, end.told) for end in closed if end.attempt is not None])
    return closed


def tell_closed(ends: Sequence[Closed]) -> None:
    """Tell whoever listens, after the commit, of sessions that were closed together."""
    listened = session_closed.has_listeners(ChatSession)
    for end in ends:
        if not listened:
            logger.info("session %r is closed", end.session.session_id)
            continue
        with _untold(end.session):
            _tell_closed(end, closed_result(end.session).summary)


def settle_failed(
    session: ChatSession,
    attempt: CloseAttempt,
    error: OSVIError | OSVINotConfigured,
    *,
    held: uuid.UUID | None = None,
) -> None:
    """Let go of a session that was not closed, or of which nobody knows, and tell of it."""
    error.attempt = attempt
    failure = Failed(session=session, attempt=attempt, error=error, held=held)

    def work() -> None:
        write_failed([failure])
        reload(session)

    try:
        persist(work, using=using(session), patience=_patience(session))
    except Error as caught:
        # The lease runs out, and recovery asks OSVI: what is raised is still what happened.
        ids = (attempt.pk, kind_of(caught))
        logger.error("the end of attempt %s could not be written: %s", *ids)
        return
    tell_failed([failure])


def write_failed(failures: Sequence[Failed]) -> None:
    """Let go of sessions that were not closed, in the caller's transaction."""
    for reopens, alike in _alike(failures, lambda each: policy(each.error)[1]):
        claims = {each.held or each.attempt.claim for each in alike}
        ours = rows(*(each.session for each in alike)).filter(claim__in=claims)
        release(ours, status=F("status_before") if reopens else Status.UNCONFIRMED)
    end_attempts([(each.attempt, told_of(each.error)) for each in failures])


def tell_failed(failures: Sequence[Failed]) -> None:
    """Tell whoever listens, after the commit, of sessions that were not closed."""
    listened = session_close_failed.has_listeners(ChatSession)
    for each in failures:
        names = (each.session.session_id, each.attempt.pk, each.error.code)
        logger.warning("session %r not closed by attempt %s: %s", *names)
        if not listened:
            continue
        with _untold(each.session):
            reload(each.session)
            session_close_failed.send_robust(
                ChatSession, session=each.session, error=each.error, attempt=each.attempt
            )


def give_back(attempts: Sequence[CloseAttempt]) -> None:
    """Undo claims of which nothing was sent, in the caller's transaction."""
    claims = {attempt.claim for attempt in attempts}
    ours = rows(*(attempt.session for attempt in attempts)).filter(claim__in=claims)
    release(ours, status=F("status_before"))
    _journal(attempts).delete()


def end_attempts(ended: Iterable[tuple[CloseAttempt, dict[str, str]]]) -> None:
    """Write down how attempts ended: one UPDATE for all that ended alike."""
    for told, alike in _alike(ended, lambda each: tuple(sorted(each[1].items()))):
        attempts = [attempt for attempt, _told in alike]
        update_attempts(attempts, finished_at=timezone.now(), **dict(told))


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
    return {"outcome": outcome, "error_code": error.code, "error_reason": words_of(error)}


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


def update_attempts(attempts: Collection[CloseAttempt], **changes: Any) -> None:
    """Change attempts in the database and in the hands of whoever asked for them."""
    journal = _journal(attempts)
    if journal.update(**changes) < len(attempts):
        _say_deleted(attempts)
    for attempt in attempts:
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


def rows(*sessions: ChatSession) -> QuerySet[ChatSession]:
    """The rows of one or more sessions, as something to filter and update."""
    keys = [session.pk for session in sessions]
    return ChatSession.objects.using(using(sessions[0])).filter(pk__in=keys)


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


def _end(ends: Sequence[Closed], **changes: Any) -> list[Closed]:
    """Close the sessions of ``ends``; those that were there and, where it matters, still held."""
    changes |= {"status": Status.CLOSED, "closed_at": Coalesce("closed_at", timezone.now())}
    free = [end for end in ends if end.held is None and not end.only]
    if free and release(_rows_of(free), **changes) < len(free):
        there = set(_rows_of(free).values_list("pk", flat=True))
        free = [end for end in free if end.session.pk in there]
    bound = [end for end in ends if end.held is not None or end.only]
    return free + [end for end in bound if release(_still(end), **changes)]


def _still(end: Closed) -> QuerySet[ChatSession]:
    """The row of the session, where it is as it must be."""
    row = rows(end.session).filter(status__in=end.only) if end.only else rows(end.session)
    return row if end.held is None else row.filter(claim=end.held)


def _store_summaries(ends: Sequence[Closed]) -> None:
    """Store the texts; the sessions' rows are locked by now, so nobody else is at it."""
    stored = _stored_summaries(ends)
    fresh = []
    for end in ends:
        written = {
            "text": end.text,
            "source": SessionSummary.Source.OSVI,
            "received_at": timezone.now(),
        }
        if end.session.pk in stored:
            _summaries_of([end]).update(**written)
        else:
            fresh.append(SessionSummary(session=end.session, **written))
    for packet in _packets((each, each.text) for each in fresh):
        summaries = SessionSummary.objects.using(using(ends[0].session))
        summaries.bulk_create(each for each, _text in packet)


def _say_missing(ends: Sequence[Closed]) -> None:
    """Say why there is no summary, where an earlier one is not there all the same."""
    stored = _stored_summaries(ends)

    def status_of(end: Closed) -> SummaryStatus:
        return SummaryStatus.STORED if end.session.pk in stored else end.missing

    for status, alike in _alike(ends, status_of):
        _rows_of(alike).update(summary_status=status)


def _stored_summaries(ends: Sequence[Closed]) -> set[int]:
    """The keys of the sessions that have a summary."""
    return set(_summaries_of(ends).values_list("session_id", flat=True)) if ends else set()


def _summaries_of(ends: Sequence[Closed]) -> QuerySet[SessionSummary]:
    keys = [end.session.pk for end in ends]
    return SessionSummary.objects.using(using(ends[0].session)).filter(session__in=keys)


def _rows_of(ends: Sequence[Closed]) -> QuerySet[ChatSession]:
    return rows(*(end.session for end in ends))


@contextmanager
def _untold(session: ChatSession) -> Iterator[None]:
    """Where a session cannot be read any more, nobody is told of it, and nothing else is lost."""
    try:
        yield
    except (SessionNotFound, Error) as error:
        logger.warning("nobody is told of session %r: %s", session.session_id, kind_of(error))


def _tell_closed(end: Closed, summary: SessionSummary | None) -> None:
    session = end.session
    logger.info("session %r is closed: %s", session.session_id, session.summary_status)
    session_closed.send_robust(ChatSession, session=session, summary=summary, attempt=end.attempt)


def _journal(attempts: Collection[CloseAttempt]) -> QuerySet[CloseAttempt]:
    """The rows of attempts, as something to filter and update."""
    keys = [attempt.pk for attempt in attempts]
    alias = router.db_for_write(CloseAttempt, instance=next(iter(attempts)))
    return CloseAttempt.objects.using(alias).filter(pk__in=keys)


def _say_deleted(attempts: Collection[CloseAttempt]) -> None:
    there = set(_journal(attempts).values_list("pk", flat=True))
    for attempt in attempts:
        if attempt.pk not in there:
            logger.critical("attempt %s was deleted while OSVI was asked", attempt.pk)


def _keep_together(answered: Sequence[tuple[CloseAttempt, Answer]]) -> dict[int, OSVINoAnswer]:
    """Store answers, in the spool where the database is away; raises what is no absence."""
    alias = using(answered[0][0].session)

    def work() -> None:
        _write_answers(answered)

    try:
        persist(work, using=alias, patience=_IN_MEMORY)
    except (OperationalError, InterfaceError) as error:
        logger.error("%s answers cannot be stored just now: %s", len(answered), kind_of(error))
    else:
        return {}
    # Whoever waits for long may be killed meanwhile, and must not have the only copies.
    paths = {attempt.pk: _put_in_spool(attempt, answer) for attempt, answer in answered}
    patience = max(_patience(attempt.session) for attempt, _answer in answered)
    try:
        persist(work, using=alias, patience=patience)
    except (OperationalError, InterfaceError) as error:
        logger.error("%s answers could not be stored: %s", len(answered), kind_of(error))
        return {attempt.pk: _not_kept(attempt, paths[attempt.pk]) for attempt, _answer in answered}
    for path in filter(None, paths.values()):
        path.unlink(missing_ok=True)
    return {}


def _keep_alone(answered: tuple[CloseAttempt, Answer]) -> dict[int, OSVINoAnswer]:
    attempt, answer = answered
    try:
        return _keep_together([answered])
    except Error as error:
        logger.error("the answer of attempt %s cannot be stored: %s", attempt.pk, kind_of(error))
    return {attempt.pk: _not_kept(attempt, _put_in_spool(attempt, answer))}


def _write_answers(answered: Sequence[tuple[CloseAttempt, Answer]]) -> None:
    """One UPDATE for all that came with one status: bulk_update takes the processor far longer."""
    for status, alike in _alike(answered, lambda each: each[1].status):
        kept = [(attempt, _cut(answer.text)) for attempt, answer in alike]
        for packet in _packets(kept):
            _write_texts(packet, http_status=status)


def _cut(text: str) -> str:
    return text.encode()[:ANSWER_MAX_BYTES].decode(errors="ignore")


def _write_texts(kept: Sequence[tuple[CloseAttempt, str]], **changes: Any) -> None:
    values = [value for attempt, text in kept for value in (attempt.pk, text)]
    # Nothing of what came over the wire is in the SQL: these are parameters.
    texts = RawSQL(f"CASE id {'WHEN %s THEN %s ' * len(kept)}END", values)  # noqa: S611
    changes |= {"outcome": Outcome.ANSWERED, "answered_at": timezone.now()}
    update_attempts([attempt for attempt, _text in kept], **changes, answer=texts)
    for attempt, text in kept:
        attempt.answer = text


def _alike(items: Iterable[_T], key: Callable[[_T], _Key]) -> Iterable[tuple[_Key, list[_T]]]:
    """Parted by what a key says of each, as one statement writes all that are alike."""
    parts: dict[_Key, list[_T]] = {}
    for each in items:
        parts.setdefault(key(each), []).append(each)
    return parts.items()


def _packets(texts: Iterable[tuple[_T, str]]) -> Iterator[list[tuple[_T, str]]]:
    """Parted so that each part can be written in one statement."""
    packet: list[tuple[_T, str]] = []
    size = 0
    for each in texts:
        size += len(each[1])
        if packet and size > _PACKET:
            yield packet
            packet, size = [], len(each[1])
        packet.append(each)
    if packet:
        yield packet


def _not_kept(attempt: CloseAttempt, path: Path | None) -> OSVINoAnswer:
    if path is not None:
        return AnswerNotStored(attempt=attempt)
    ids = (attempt.session.session_id, attempt.pk)
    logger.critical("the answer for session %r, attempt %s, is lost", *ids)
    return OSVINoAnswer()


def _put_in_spool(attempt: CloseAttempt, answer: Answer) -> Path | None:
    """Keep an answer in a file; None where even that fails."""
    session = attempt.session
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


def as_row(user: User | None) -> Any:
    """Who the journal names: a host's services may act for somebody who is no row of a table."""
    return user if isinstance(user, get_user_model()) and user.pk else None


def _stripped(name: str, value: str, length: int) -> str:
    if not isinstance(value, str):
        raise InvalidInput(_("%(field)s is not a text.") % {"field": name}, field=name)
    if len(value.strip()) > length:
        problem = _("%(field)s is too long: use at most %(length)d characters.")
        raise InvalidInput(problem % {"field": name, "length": length}, field=name)
    return value.strip()
