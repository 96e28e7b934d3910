"""Raw answers: stored before they are parsed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from django.db import Error, InterfaceError, OperationalError
from django.db.models import FloatField
from django.db.models.expressions import RawSQL
from django.db.models.functions import Cast
from django.utils import timezone

from osvi_django import spool
from osvi_django.client import OSVIClient
from osvi_django.client.responses import Answer
from osvi_django.database import (
    grouped,
    packets,
    persist,
    safe_error_name,
    seconds_to_retry,
)
from osvi_django.exceptions import (
    AnswerNotStored,
    CloseInProgress,
    OSVINoAnswer,
)
from osvi_django.models import ChatSession, CloseAttempt
from osvi_django.redaction import HiddenText
from osvi_django.services.attempts import leases
from osvi_django.services.attempts.claims import claimed_row, leave_to_recovery, update_attempts
from osvi_django.services.attempts.leases import ClaimedRow
from osvi_django.services.attempts.spooling import spool_dirs
from osvi_django.services.attempts.types import AttemptOutcome
from osvi_django.services.selectors import using
from osvi_django.validation import (
    ANSWER_MAX_BYTES,
    CHARSET_MAX_LENGTH,
    storable,
)

logger = logging.getLogger(__name__)
# How long an answer may be in memory only; if storing takes longer than a deadlock lasts, it goes
# to the spool.
_IN_MEMORY: Final = 0.3  # seconds


def send(
    client: OSVIClient, session: ChatSession, attempt: CloseAttempt, *, dialect: str = ""
) -> Answer:
    """Ask OSVI to close, and store any answer before returning it to be parsed.

    Raises what the client raises; ``AnswerNotStored`` if only the spool could store the answer;
    ``CloseInProgress``, with nothing sent, if the claim may no longer be ours.
    """
    answer = client.send_close(
        session.session_id,
        agent_uuid=session.agent.uuid or "",
        dialect=dialect,
        send_by=_send_by(claimed_row(session, attempt.claim)),
    )
    store_answer(attempt, answer)
    return answer


def _send_by(row: ClaimedRow) -> float:
    """Return until when the close may be sent. Raises ``CloseInProgress`` if others hold it."""
    send_by = leases.send_by(row)
    # A process that was suspended for a while may have lost it.
    if send_by is None and leases.renew(row):
        send_by = leases.send_by(row)
    if send_by is None:
        raise CloseInProgress
    return send_by


def store_answer(attempt: CloseAttempt, answer: Answer) -> None:
    """Store the answer before it is parsed, so that no later error can lose it.

    Raises ``AnswerNotStored`` if only the spool has it, ``OSVINoAnswer`` if it is lost.
    """
    for error in store_answers([(attempt, answer)]).values():
        raise error


def store_answers(
    answered: Sequence[tuple[CloseAttempt, Answer]], *, is_database_unavailable: bool = False
) -> dict[int, OSVINoAnswer]:
    """Store these answers in one commit; return, by attempt, the errors of those not stored.

    ``is_database_unavailable``: it was the last time, so they go to the spool at once.
    """
    try:
        return _store_together(answered, is_database_unavailable=is_database_unavailable)
    except Error as error:
        logger.error(
            "%s answers cannot be stored together: %s", len(answered), safe_error_name(error)
        )
    # One of them may be something that the database cannot store.
    errors: dict[int, OSVINoAnswer] = {}
    for each in answered:
        errors |= _store_one(each)
    return errors


def _store_together(
    answered: Sequence[tuple[CloseAttempt, Answer]], *, is_database_unavailable: bool = False
) -> dict[int, OSVINoAnswer]:
    """Store answers, in the spool if the database is unavailable; raise its other errors."""
    alias = using(answered[0][0].session)

    def work() -> None:
        _write_answers(answered)

    try:
        persist(work, using=alias, patience=_IN_MEMORY)
    except (OperationalError, InterfaceError) as error:
        logger.error("%s answers cannot be stored now: %s", len(answered), safe_error_name(error))
    else:
        return {}
    # A process that waits for long may be killed, and must not have the only copies.
    paths = {attempt.pk: _put_in_spool(attempt, answer) for attempt, answer in answered}
    patience = max(seconds_to_retry(attempt.session.agent.account) for attempt, _answer in answered)
    try:
        persist(work, using=alias, patience=0 if is_database_unavailable else patience)
    except (OperationalError, InterfaceError) as error:
        logger.error("%s answers could not be stored: %s", len(answered), safe_error_name(error))
        return {
            attempt.pk: _not_stored(attempt, paths[attempt.pk]) for attempt, _answer in answered
        }
    for path in filter(None, paths.values()):
        spool.remove(path)
    return {}


def _store_one(answered: tuple[CloseAttempt, Answer]) -> dict[int, OSVINoAnswer]:
    attempt, answer = answered
    try:
        return _store_together([answered])
    except Error as error:
        logger.error(
            "the answer of attempt %s cannot be stored: %s", attempt.pk, safe_error_name(error)
        )
    return {attempt.pk: _not_stored(attempt, _put_in_spool(attempt, answer))}


def _write_answers(answered: Sequence[tuple[CloseAttempt, Answer]]) -> None:
    """Store these answers in one UPDATE per kind: bulk_update takes far more processor time."""
    for (status, incomplete), alike in grouped(answered, lambda each: _arrival_of(each[1])):
        kept = [((attempt, answer.seconds), _cut(answer.text)) for attempt, answer in alike]
        for packet in packets(kept):
            _write_texts(packet, http_status=status, answer_incomplete=incomplete)
    for attempt, answer in answered:
        if answer.text.encode() != answer.body:
            _write_bytes(attempt, answer)


def _arrival_of(answer: Answer) -> tuple[int, bool]:
    """Return the status of an answer, and whether it is incomplete."""
    is_cut = answer.truncated or len(answer.body) > ANSWER_MAX_BYTES
    return answer.status, answer.incomplete or is_cut


def _write_bytes(attempt: CloseAttempt, answer: Answer) -> None:
    """Store the bytes if the text does not have all of them, for a better parser to read."""
    charset = storable(answer.charset)[:CHARSET_MAX_LENGTH]
    body = answer.body[:ANSWER_MAX_BYTES]
    update_attempts([attempt], answer_bytes=body, answer_charset=charset)


def _cut(text: str) -> str:
    return HiddenText(text.encode()[:ANSWER_MAX_BYTES].decode(errors="ignore"))


def _write_texts(
    kept: Sequence[tuple[tuple[CloseAttempt, float | None], str]], **changes: Any
) -> None:
    texts = _by_attempt((attempt, text) for (attempt, _seconds), text in kept)
    changes |= {"outcome": AttemptOutcome.ANSWERED, "answered_at": timezone.now()}
    # A text would be the type of a column of nulls.
    changes["osvi_seconds"] = Cast(_by_attempt(times for times, _text in kept), FloatField())
    update_attempts([attempt for (attempt, _seconds), _text in kept], **changes, answer=texts)
    for (attempt, seconds), text in kept:
        attempt.answer, attempt.osvi_seconds = text, seconds


def _by_attempt(values: Iterable[tuple[CloseAttempt, Any]]) -> RawSQL:
    """Return the expression of a value for each attempt.

    Nothing received from OSVI is in the SQL text: these are parameters.
    """
    given = [each for attempt, value in values for each in (attempt.pk, value)]
    return RawSQL(f"CASE id {'WHEN %s THEN %s ' * (len(given) // 2)}END", given)  # noqa: S611


def _not_stored(attempt: CloseAttempt, path: Path | None) -> OSVINoAnswer:
    leave_to_recovery([attempt])
    if path is not None:
        return AnswerNotStored(attempt=attempt)
    ids = (attempt.session.session_id, attempt.pk)
    logger.critical("the answer for session %r, attempt %s, is lost", *ids)
    return OSVINoAnswer()


def _put_in_spool(attempt: CloseAttempt, answer: Answer) -> Path | None:
    """Store an answer in a file; return None if even that fails."""
    session = attempt.session
    spooled = spool.SpooledAnswer(
        session=session.pk,
        attempt=attempt.pk,
        claim=str(attempt.claim),
        status=answer.status,
        body=answer.body,
        truncated=answer.truncated,
        incomplete=answer.incomplete,
        charset=answer.charset,
        seconds=answer.seconds,
    )
    return spool.put_anywhere(spool_dirs(session.agent.account), spooled)
