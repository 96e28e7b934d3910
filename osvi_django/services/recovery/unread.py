"""Answers that arrived but were not read: in the journal, and in the spool."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from django.db import router
from django.utils.translation import gettext as _

from osvi_django import spool
from osvi_django.client.responses import Answer
from osvi_django.conf import Account, account_aliases, configured, default_spool_dir
from osvi_django.exceptions import (
    CloseInProgress,
    OSVIError,
    OSVINoAnswer,
    OSVINotConfigured,
)
from osvi_django.models import ChatSession, CloseAttempt
from osvi_django.services import selectors
from osvi_django.services.attempts import (
    claims,
    error_policy,
    kept_answers,
    raw_answers,
    settlement,
    spooling,
    types,
)
from osvi_django.services.attempts.interpret import Interpretation, interpret
from osvi_django.services.attempts.types import (
    AttemptKind,
    AttemptOutcome,
    Status,
    SummaryStatus,
)

logger = logging.getLogger(__name__)
_UNREAD: Final = (AttemptOutcome.STARTED, AttemptOutcome.ANSWERED, AttemptOutcome.NO_ANSWER)


class Settled(StrEnum):
    """The result of the recovery of a session."""

    STORED = "stored"  # closed, its summary stored
    NOT_PROVIDED = "not_provided"  # closed, and OSVI had no summary
    LOST = "lost"  # closed, its summary lost
    REOPENED = "reopened"  # OSVI still has it open
    ALREADY_SETTLED = "already_settled"  # its status was known, so there was nothing to ask
    UNCHANGED = "unchanged"  # as it was: ``detail`` says why
    FAILED = "failed"  # an error of ours: see the log


@dataclass(frozen=True, kw_only=True)
class RecoveryResult:
    """The result of recovery for one session; ``detail`` is a sentence for the caller.

    ``error``: why OSVI could not be asked, if the session was left as it is for that reason.
    """

    session: ChatSession
    settled: Settled
    detail: str = ""
    error: OSVIError | OSVINotConfigured | None = None


@dataclass(frozen=True, kw_only=True)
class LeftInSpool:
    """A file, or a whole spool, that could not be stored in the database.

    ``detail``: why, as a sentence; ``is_ours``: whether it is known to belong to this database.
    """

    path: Path
    detail: str
    is_ours: bool


def read_stored_answers(session: ChatSession, token: uuid.UUID) -> RecoveryResult | None:
    """Settle by an answer that arrived but was not read; return None if none settles it."""
    recovered = [found for path in _spooled(session) for found in _recover_file(path, token)]
    if settled := [found for found in recovered if found.settled is not Settled.UNCHANGED]:
        return settled[0]
    if read := kept_answers.find_summary(session):
        return settle_as_closed(session, read.attempt, read.text)
    for attempt in selectors.attempts(session).filter(outcome=AttemptOutcome.ANSWERED):
        if found := _settle_by_answer(session, attempt, kept_answers.answer_of(attempt), token):
            return found
    if read := kept_answers.find_close(session):
        return settle_as_closed(session, read.attempt, None)
    return None


def _spooled(session: ChatSession) -> list[Path]:
    """Return the files of one session."""
    paths: list[Path] = []
    for directory in spooling.spool_dirs(session.agent.account):
        try:
            paths += [each for each in spool.waiting(directory) if _is_of(each, session)]
        except OSError:
            logger.exception("the spool of session %r cannot be read", session.session_id)
    return paths


def _is_of(path: Path, session: ChatSession) -> bool:
    return path.name.startswith(f"{session.pk}-")


def _settle_by_answer(
    session: ChatSession, attempt: CloseAttempt, answer: Answer, token: uuid.UUID
) -> RecoveryResult | None:
    """Settle by an answer that was stored and not read; return None if it settles nothing."""
    return settle_by(interpret(answer, session=session, attempt=attempt, claim_token=token))


def settle_as_closed(
    session: ChatSession, attempt: CloseAttempt, summary: str | None
) -> RecoveryResult:
    """Settle by an answer that was read again and says that the session is closed."""
    fetched = attempt.kind == AttemptKind.RECLOSE
    missing = SummaryStatus.LOST if fetched else SummaryStatus.NOT_PROVIDED
    return settle_closed(
        types.Settlement(
            session=session,
            attempt=attempt,
            text=summary,
            summary_status_if_none=missing,
            attempt_fields=types.CLOSED_FIELDS,
        )
    )


def settle_by(interpreted: Interpretation) -> RecoveryResult | None:
    """Store what a reply says about a session; return None if OSVI must be asked about it."""
    if isinstance(interpreted, types.Settlement):
        return None if _needs_proof(interpreted) else settle_closed(interpreted)
    if isinstance(interpreted, types.Failure) and interpreted.is_open:
        settlement.settle_failed(interpreted)
        detail = _("OSVI refused to close this chat session, so it is open here again.")
        return RecoveryResult(session=interpreted.session, settled=Settled.REOPENED, detail=detail)
    claims.finish_attempts([(interpreted.attempt, error_policy.error_fields(interpreted.error))])
    return None


def _needs_proof(interpreted: types.Settlement) -> bool:
    """Return whether OSVI must be asked before this is stored, and finish its attempt if so."""
    if interpreted.needs_proof and interpreted.attempt is not None:
        claims.finish_attempts([(interpreted.attempt, interpreted.attempt_fields)])
    return interpreted.needs_proof


def settle_closed(interpreted: types.Settlement) -> RecoveryResult:
    """Store that a session is closed, and return what the database then says about it."""
    settlement.settle(interpreted)
    return result_of(interpreted.session)


def result_of(session: ChatSession) -> RecoveryResult:
    """Return what the database says about a session settled by us or by another process."""
    selectors.reload(session)
    if session.status != Status.CLOSED:
        return left_unchanged(session, str(CloseInProgress.message))
    return RecoveryResult(session=session, settled=Settled(session.summary_status))


def left_unchanged(session: ChatSession, detail: str) -> RecoveryResult:
    return RecoveryResult(session=session, settled=Settled.UNCHANGED, detail=detail)


def recover_spools(on_left: Callable[[LeftInSpool], object]) -> Iterator[RecoveryResult]:
    chosen = _spool_dirs()

    def report(left: LeftInSpool) -> None:
        # Besides the chosen ones there is the default one, which other sites may have chosen too.
        if left.is_ours or left.path in chosen or left.path.parent in chosen:
            on_left(left)

    for directory in dict.fromkeys([*chosen, default_spool_dir()]):
        yield from _recover_spool(directory, report)


def _recover_spool(
    directory: Path, on_left: Callable[[LeftInSpool], object]
) -> Iterator[RecoveryResult]:
    try:
        paths = list(spool.waiting(directory))
    except OSError as error:
        logger.exception("the spool %r cannot be read", str(directory))
        on_left(LeftInSpool(path=directory, detail=_unreadable(error), is_ours=False))
        return
    for path in paths:
        yield from _recover_file(path, on_left=on_left)


def _spool_dirs() -> list[Path]:
    """Return the spools of all accounts, each once."""
    with configured():
        return list(dict.fromkeys(Account(alias).spool_dir for alias in account_aliases()))


def _recover_file(
    path: Path,
    token: uuid.UUID | None = None,
    on_left: Callable[[LeftInSpool], object] = lambda _left: None,
) -> Iterator[RecoveryResult]:
    """Store the answer in a file; ``token`` is the claim that holds the session now."""
    attempt = None
    try:
        answer = spool.read(path)
        attempt = _attempt_of(answer)
        if attempt is None:
            logger.warning("the answer in %r belongs to no attempt here", str(path))
            detail = _("It does not belong to any attempt in this database.")
            on_left(LeftInSpool(path=path, detail=detail, is_ours=False))
            return
        if attempt.outcome in _UNREAD:
            yield _store_spooled(attempt, answer, token)
        path.unlink(missing_ok=True)
    except FileNotFoundError:
        return  # another recovery was faster
    except Exception as error:  # one bad file must not stop the others
        logger.exception("the answer in %r could not be stored, and is kept there", str(path))
        is_ours = attempt is not None
        on_left(LeftInSpool(path=path, detail=_unreadable(error), is_ours=is_ours))


def _unreadable(error: Exception) -> str:
    # The error's text may quote what is in the file.
    return _("It could not be read and stored (%(kind)s).") % {"kind": type(error).__name__}


def _attempt_of(answer: spool.SpooledAnswer) -> CloseAttempt | None:
    alias = router.db_for_write(CloseAttempt)
    known = CloseAttempt.objects.using(alias).select_related("session__agent")
    return known.filter(session=answer.session, claim=answer.claim).first()


def _store_spooled(
    attempt: CloseAttempt, spooled: spool.SpooledAnswer, token: uuid.UUID | None
) -> RecoveryResult:
    """Store an answer from the spool, and settle its session by it."""
    session = attempt.session
    answer = Answer(
        status=spooled.status,
        body=spooled.body,
        truncated=spooled.truncated,
        incomplete=spooled.incomplete,
        charset=spooled.charset,
        seconds=spooled.seconds,
    )
    raw_answers.store_answer(attempt, answer)
    found = _settle_by_answer(session, attempt, answer, token or attempt.claim)
    if found is None:
        # It settled nothing, and its closer has given up: OSVI is asked next.
        ours = selectors.rows(session).filter(claim=attempt.claim)
        claims.release(ours, status=Status.UNCONFIRMED)
        found = left_unchanged(session, str(OSVINoAnswer.message))
    return found
