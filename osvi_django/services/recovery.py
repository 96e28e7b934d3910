"""Bringing home what was lost on the way: sessions of which nobody knows whether they are closed.

A session is settled like this:

1. An answer that arrived and was not read, in the journal or the spool, is read now.
2. Else OSVI is asked whether it has the session open: if so, it is open here again.
3. Else it is closed, so that one more close can do no harm, and may bring the summary once more.
   It is sent once: a summary is stored, and anything else means that the summary is lost.
4. Where OSVI cannot tell, or not just now, everything stays as it is, and that is said.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from django.db import router
from django.db.models import F, OuterRef, Q, QuerySet, Subquery
from django.utils.translation import gettext as _

from osvi_django import spool
from osvi_django.answers import Answer, read_closed
from osvi_django.client import OSVIClient
from osvi_django.conf import Account, InvalidSetting, account_aliases
from osvi_django.exceptions import (
    AnswerNotStored,
    CloseInProgress,
    InvalidInput,
    OSVIError,
    OSVINoAnswer,
    OSVINotConfigured,
    OSVIRejected,
    OSVIThrottled,
    OSVIUnauthorized,
    OSVIUnreachable,
)
from osvi_django.models import ANSWER_MAX_BYTES, ChatSession, CloseAttempt
from osvi_django.services import steps
from osvi_django.services.closing import close_at_osvi, why_none
from osvi_django.services.permissions import require_close
from osvi_django.services.steps import (
    CloseRequest,
    CloseResult,
    DatabaseNow,
    Kind,
    Outcome,
    Status,
    SummaryStatus,
    User,
)
from osvi_django.services.summaries import with_own_summary
from osvi_django.transactions import persist, refuse_inside_transaction

logger = logging.getLogger(__name__)

# After these the vendor has not looked at the request: it may be sent again another time.
_NOT_LOOKED_AT: Final = (OSVINotConfigured, OSVIThrottled, OSVIUnauthorized, OSVIUnreachable)
_NOT_LOOKED_AT_CODES: Final = tuple(error.code for error in _NOT_LOOKED_AT)
_UNREAD: Final = (Outcome.STARTED, Outcome.ANSWERED, Outcome.NO_ANSWER)
_MARKING_LEASE: Final = 60  # seconds: nobody is asked


class Settled(StrEnum):
    """What became of a session that was looked into."""

    STORED = "stored"  # closed, its summary stored
    NOT_PROVIDED = "not_provided"  # closed, and OSVI had no summary
    LOST = "lost"  # closed, its summary lost
    REOPENED = "reopened"  # OSVI still has it open
    LEFT = "left"  # as it was: ``detail`` says why
    FAILED = "failed"  # an error of ours: the log has it


@dataclass(frozen=True, kw_only=True)
class RecoveryResult:
    """What was found out about one session; ``detail`` is a sentence for whoever asked.

    ``error``: why OSVI could not be asked, where it was left as it is for that.
    """

    session: ChatSession
    settled: Settled
    detail: str = ""
    error: OSVIError | OSVINotConfigured | None = None


def recover_session(
    session: ChatSession, *, requested_by: User | None = None, door: str = "code"
) -> RecoveryResult:
    """Find out whether an unconfirmed session is closed, and settle it.

    One whose closer died counts as unconfirmed as soon as its lease is over; any other is left as
    it is. Raises ``InsideTransaction``, ``NotAllowed``, ``SessionNotFound``, ``OSVINotConfigured``,
    and ``CloseInProgress`` while somebody else is at it.
    """
    refuse_inside_transaction(steps.using(session))
    require_close(requested_by, session)
    steps.reload(session)
    client, lease = steps.prepare(session.agent.account)
    steps.end_lease(session)
    token = uuid.uuid4()
    if not _take(session, token, lease):
        return _nothing_to_settle(session)
    request = CloseRequest(requested_by=requested_by, door=door, note="")
    try:
        return _settle(client, session, token, request)
    finally:
        # Whatever was not settled is as unconfirmed as it was.
        steps.release(steps.rows(session).filter(claim=token), status=Status.UNCONFIRMED)
        steps.reload(session)


def close_again(
    session: ChatSession,
    *,
    requested_by: User | None = None,
    door: str = "code",
    note: str = "",
) -> CloseResult:
    """Try again to close an unconfirmed session: OSVI is asked first whether it still is open.

    Raises what ``close_session`` raises, ``OSVINoAnswer`` where OSVI could not tell.
    """
    result = close_again_at_osvi(session, requested_by=requested_by, door=door, note=note)
    return with_own_summary(result) if result.changed else result


def close_again_at_osvi(
    session: ChatSession, *, requested_by: User | None, door: str, note: str
) -> CloseResult:
    """The same, without the summary that this site may write of it."""
    found = recover_session(session, requested_by=requested_by, door=door)
    if found.settled is Settled.LEFT and session.status == Status.UNCONFIRMED:
        # What is trouble of the whole account is not told as that of this session.
        raise found.error if isinstance(found.error, _NOT_LOOKED_AT) else OSVINoAnswer(found.detail)
    result = close_at_osvi(session, requested_by=requested_by, door=door, note=note)
    is_found_closed = found.settled in {Settled.STORED, Settled.NOT_PROVIDED, Settled.LOST}
    return replace(result, changed=True) if is_found_closed else result


def mark_closed(
    session: ChatSession, *, requested_by: User | None = None, door: str = "code", note: str
) -> CloseResult:
    """Take somebody's word, given in ``note``, that a session is closed at OSVI.

    It must be unconfirmed, or open and OSVI have refused the last try to close it. Raises
    ``InvalidInput`` where it is neither, where an answer is found that says otherwise, and without
    a note.
    """
    refuse_inside_transaction(steps.using(session))
    require_close(requested_by, session)
    request = CloseRequest(requested_by=requested_by, door=door, note=note)
    if not request.note:
        raise InvalidInput(_("note is missing: say how you know that it is closed."), field="note")
    steps.end_lease(session)
    token = uuid.uuid4()
    is_lost = _take(session, token, _MARKING_LEASE)
    if not is_lost and not _take_refused(session, token):
        steps.reload(session)
        problem = _(
            "Only a chat session that is unconfirmed, or that OSVI has refused to close, can be "
            "marked as closed."
        )
        raise InvalidInput(problem, field="status")
    # Whatever arrived is better than anybody's word.
    if found := _read_what_arrived(session, token):
        if found.settled is Settled.REOPENED:
            problem = _("OSVI's answer has been found: it refused to close it, so it is open.")
            raise InvalidInput(problem, field="status")
        return with_own_summary(steps.closed_result(session, changed=True))
    (attempt,) = steps.write_attempts([session], request, token, Kind.MARK)
    marked = steps.settle_closed(
        session,
        attempt,
        text=None,
        missing=SummaryStatus.LOST if is_lost else why_none(session),
        held=token,
        outcome=Outcome.CLOSED,
    )
    return with_own_summary(marked)


def is_refused(session: ChatSession) -> bool:
    """Whether it is open, and OSVI refused the last try to close it."""
    return session.is_open and _refused_of(steps.rows(session)).exists()


def recover_all() -> Iterator[RecoveryResult]:
    """Settle all that can be settled, one session after the other, each on its own.

    Any number of these may run at once. An error over one session never stops the others.
    """
    yield from _recover_spools()
    alias = router.db_for_write(ChatSession)
    dead = Q(status=Status.CLOSING, lease_until__lt=DatabaseNow())
    lost = ChatSession.objects.using(alias).filter(dead | Q(status=Status.UNCONFIRMED))
    for session in list(lost.defer("metadata").order_by("pk")):
        yield _recover_safely(session)


def _recover_safely(session: ChatSession) -> RecoveryResult:
    try:
        return recover_session(session, door="recovery")
    except (OSVIError, OSVINotConfigured) as error:
        return RecoveryResult(session=session, settled=Settled.LEFT, detail=str(error))
    except Exception as error:  # one bad row must not stop the sweep
        logger.exception("session %r could not be looked into", session.session_id)
        detail = type(error).__name__
        return RecoveryResult(session=session, settled=Settled.FAILED, detail=detail)


def _take(session: ChatSession, token: uuid.UUID, lease: float) -> bool:
    return _persist_take(
        session, token, lambda mine: steps.take(mine, (Status.UNCONFIRMED,), token, lease=lease)
    )


def _take_refused(session: ChatSession, token: uuid.UUID) -> bool:
    def take(mine: QuerySet[ChatSession]) -> int:
        before = {"status_before": F("status")}
        return steps.take(
            _refused_of(mine), ChatSession.OPEN, token, lease=_MARKING_LEASE, **before
        )

    return _persist_take(session, token, take)


def _persist_take(
    session: ChatSession, token: uuid.UUID, take: Callable[[QuerySet[ChatSession]], int]
) -> bool:
    def work() -> bool:
        mine = steps.rows(session)
        # Also by a try before this, where the commit arrived and the word of it did not.
        return bool(take(mine)) or mine.filter(claim=token).exists()

    return persist(work, using=steps.using(session), patience=steps.PATIENCE_BEFORE)


def _refused_of(sessions: QuerySet[ChatSession]) -> QuerySet[ChatSession]:
    """Of these, the open ones of which OSVI has refused the newest attempt, and not unseen."""
    newest = CloseAttempt.objects.filter(session=OuterRef("pk")).order_by("-started_at", "-id")
    last_code = Subquery(newest.values("error_code")[:1])
    open_ones = sessions.filter(status__in=ChatSession.OPEN)
    return open_ones.annotate(last_code=last_code).filter(last_code=OSVIRejected.code)


def _nothing_to_settle(session: ChatSession) -> RecoveryResult:
    steps.reload(session)
    if session.status in {Status.CLOSING, Status.UNCONFIRMED}:
        raise CloseInProgress(attempt=steps.attempts(session).first())
    return _left(session, _("This chat session is not unconfirmed: there is nothing to settle."))


def _settle(
    client: OSVIClient, session: ChatSession, token: uuid.UUID, request: CloseRequest
) -> RecoveryResult:
    if found := _read_what_arrived(session, token):
        return found
    try:
        is_open = steps.still_open(client, session)
    except (OSVIError, OSVINotConfigured) as error:
        return replace(_left(session, str(error)), error=error)
    if is_open is None:
        return _left(session, _("OSVI is asked by customer, and this session's is not known here."))
    if is_open:
        steps.release(steps.rows(session).filter(claim=token), status=Status.ACTIVE)
        return RecoveryResult(session=session, settled=Settled.REOPENED)
    return _fetch(client, session, token, request)


def _read_what_arrived(session: ChatSession, token: uuid.UUID) -> RecoveryResult | None:
    """Settle by an answer that is here and was not read; None where none settles it."""
    brought = [found for path in _spooled(session) for found in _recover_file(path, token)]
    if settled := [found for found in brought if found.settled is not Settled.LEFT]:
        return settled[0]
    for attempt in steps.attempts(session).filter(outcome=Outcome.ANSWERED):
        if found := _read_kept(session, attempt, _kept(attempt), token):
            return found
    return None


def _spooled(session: ChatSession) -> list[Path]:
    """The files of one session."""
    try:
        directory = Account(session.agent.account).spool_dir
        return [path for path in spool.waiting(directory) if path.name.startswith(f"{session.pk}-")]
    except (OSError, InvalidSetting):
        logger.exception("the spool of session %r cannot be read", session.session_id)
        return []


def _kept(attempt: CloseAttempt) -> Answer:
    """The answer that the journal holds."""
    body = attempt.answer.encode()
    # Where it was cut, it was at a whole character, of four bytes at the most.
    cut = len(body) > ANSWER_MAX_BYTES - 4
    return Answer(status=attempt.http_status or 0, body=body, truncated=cut)


def _read_kept(
    session: ChatSession, attempt: CloseAttempt, answer: Answer, token: uuid.UUID
) -> RecoveryResult | None:
    """Settle by an answer that was kept and not read; None where it settles nothing."""
    try:
        closed = read_closed(answer, session.session_id)
    except OSVIError as error:
        return _refused(session, attempt, error, token)
    return _closed(session, attempt, closed.summary)


def _closed(session: ChatSession, attempt: CloseAttempt, summary: str | None) -> RecoveryResult:
    fetched = attempt.kind == Kind.FETCH
    missing = SummaryStatus.LOST if fetched else SummaryStatus.NOT_PROVIDED
    steps.settle_closed(session, attempt, text=summary, missing=missing, outcome=Outcome.CLOSED)
    return _as_stored(session)


def _refused(
    session: ChatSession,
    attempt: CloseAttempt,
    error: OSVIError | OSVINotConfigured,
    token: uuid.UUID,
) -> RecoveryResult | None:
    """What a refusal, or an answer that makes no sense, says of the session; None: nothing."""
    _outcome, reopens = steps.policy(error)
    told = steps.told_of(error)
    if attempt.kind == Kind.FETCH and error.code not in _NOT_LOOKED_AT_CODES:
        steps.settle_closed(
            session, attempt, text=None, missing=SummaryStatus.LOST, held=token, **told
        )
        return _as_stored(session)
    gone = getattr(error, "status", None) in steps.CLOSED_ALREADY
    if attempt.kind == Kind.CLOSE and reopens and not gone:
        steps.settle_failed(session, attempt, error, held=token)
        return RecoveryResult(session=session, settled=Settled.REOPENED)
    steps.end_attempts([(attempt, told)])
    return None


def _fetch(
    client: OSVIClient, session: ChatSession, token: uuid.UUID, request: CloseRequest
) -> RecoveryResult:
    """Close what is closed once more, for its summary; only once, whatever comes of it."""
    if _was_fetched(session):
        steps.settle_closed(session, None, text=None, missing=SummaryStatus.LOST, held=token)
        return _as_stored(session)
    attempt = _write_fetch(session, token, request)
    try:
        # The one close that is documented to answer with the summary, whatever the account uses.
        closed = steps.send(client, session, attempt, dialect="legacy")
    except AnswerNotStored as error:
        return _left(session, str(error))
    except (OSVIError, OSVINotConfigured) as error:
        return _refused(session, attempt, error, token) or _left(session, str(error))
    return _closed(session, attempt, closed.summary)


def _write_fetch(session: ChatSession, token: uuid.UUID, request: CloseRequest) -> CloseAttempt:
    def work() -> CloseAttempt:
        (attempt,) = steps.write_attempts([session], request, token, Kind.FETCH)
        return attempt

    return persist(work, using=steps.using(session), patience=steps.PATIENCE_BEFORE)


def _was_fetched(session: ChatSession) -> bool:
    fetches = steps.attempts(session).filter(kind=Kind.FETCH)
    return fetches.exclude(error_code__in=_NOT_LOOKED_AT_CODES).exists()


def _as_stored(session: ChatSession) -> RecoveryResult:
    """What the database says of a session that was settled, by us or by somebody faster."""
    steps.reload(session)
    if session.status != Status.CLOSED:
        return _left(session, str(CloseInProgress.message))
    return RecoveryResult(session=session, settled=Settled(session.summary_status))


def _left(session: ChatSession, detail: str) -> RecoveryResult:
    return RecoveryResult(session=session, settled=Settled.LEFT, detail=detail)


def _recover_spools() -> Iterator[RecoveryResult]:
    for directory in _spool_dirs():
        try:
            paths = list(spool.waiting(directory))
        except OSError:
            logger.exception("the spool %s cannot be read", directory)
            continue
        for path in paths:
            yield from _recover_file(path)


def _spool_dirs() -> list[Path]:
    """The spools of all accounts, each once."""
    try:
        return list(dict.fromkeys(Account(alias).spool_dir for alias in account_aliases()))
    except InvalidSetting as error:
        raise OSVINotConfigured(str(error)) from None


def _recover_file(path: Path, token: uuid.UUID | None = None) -> Iterator[RecoveryResult]:
    """Bring home the answer in a file; ``token`` is the claim of whoever holds the session now."""
    try:
        answer = spool.read(path)
        attempt = _attempt_of(answer)
        if attempt is None:
            logger.warning("the answer in %s belongs to no attempt here", path)
            return
        if attempt.outcome in _UNREAD:
            yield _bring_home(attempt, answer, token)
        path.unlink(missing_ok=True)
    except FileNotFoundError:
        return  # another recovery was faster
    except Exception:  # one bad file must not stop the sweep
        logger.exception("the answer in %s stays there", path)


def _attempt_of(answer: spool.SpooledAnswer) -> CloseAttempt | None:
    alias = router.db_for_write(CloseAttempt)
    known = CloseAttempt.objects.using(alias).select_related("session__agent")
    return known.filter(session=answer.session, claim=answer.claim).first()


def _bring_home(
    attempt: CloseAttempt, spooled: spool.SpooledAnswer, token: uuid.UUID | None
) -> RecoveryResult:
    """Store an answer from the spool, and settle its session by it."""
    session = attempt.session
    answer = Answer(status=spooled.status, body=spooled.body, truncated=spooled.truncated)
    steps.keep(attempt, answer)
    found = _read_kept(session, attempt, answer, token or attempt.claim)
    if found is None:
        # It settled nothing, and its closer has given up: OSVI is asked next.
        ours = steps.rows(session).filter(claim=attempt.claim)
        steps.release(ours, status=Status.UNCONFIRMED)
        found = _left(session, str(OSVINoAnswer.message))
    return found
