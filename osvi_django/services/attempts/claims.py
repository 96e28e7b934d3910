"""Claims on sessions, and the journal of the attempts made under them."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from django.db import router
from django.db.models import F, QuerySet
from django.utils import timezone

from osvi_django.client import OSVIClient
from osvi_django.conf import Account, configured
from osvi_django.database import (
    PATIENCE_BEFORE,
    DatabaseNow,
    grouped,
    persist,
)
from osvi_django.exceptions import OSVINoAnswer, UnknownStatus
from osvi_django.models import ChatSession, CloseAttempt
from osvi_django.services.attempts import leases
from osvi_django.services.attempts.clients import client_of
from osvi_django.services.attempts.leases import ClaimedRow, Terms
from osvi_django.services.attempts.spooling import try_spool
from osvi_django.services.attempts.types import AttemptKind, AttemptOutcome, RequestOrigin, Status
from osvi_django.services.permissions import requester_fields
from osvi_django.services.selectors import attempts, last_attempt, rows, using

logger = logging.getLogger(__name__)


def prepare(account: str) -> tuple[OSVIClient, Terms]:
    """Return the client of an account, and the terms of claims on its sessions.

    Raises ``OSVINotConfigured``.
    """
    client = client_of(account)
    try_spool(account)
    with configured():
        return client, leases.terms_of(Account(account), router.db_for_write(ChatSession))


def claim(
    session: ChatSession,
    request: RequestOrigin,
    *,
    lease: Terms,
    token: uuid.UUID | None = None,
) -> CloseAttempt | None:
    """Claim an open session and write the attempt; return None if another caller was faster.

    ``token``: the claim, if the caller needs to know it before.
    """
    token = token or uuid.uuid4()

    def work() -> list[CloseAttempt]:
        return claim_all([session], request, token, lease=lease)

    with leases.claiming(token):
        claimed = persist(work, using=using(session), patience=PATIENCE_BEFORE)
    return claimed[0] if claimed else None


def claim_all(
    sessions: Sequence[ChatSession], request: RequestOrigin, token: uuid.UUID, *, lease: Terms
) -> list[CloseAttempt]:
    """Claim the open ones of these sessions and write attempts, in the caller's transaction."""
    candidates = rows(*sessions)
    seconds = leases.start_renewing([claimed_row(session, token) for session in sessions], lease)
    # The order of the changes matters to MariaDB, which assigns from left to right.
    number = acquire_lease(
        candidates, ChatSession.OPEN, token, lease=seconds, previous_status=F("status")
    )
    if number == len(sessions):
        return _add_attempts(sessions, request, token, AttemptKind.CLOSE)
    # Includes rows claimed by an earlier try whose commit succeeded without our learning of it.
    keys = set(candidates.filter(claim=token).values_list("pk", flat=True))
    claimed = [session for session in sessions if session.pk in keys]
    leases.stop_renewing(
        claimed_row(session, token) for session in sessions if session.pk not in keys
    )
    return write_attempts(claimed, request, token, AttemptKind.CLOSE) if claimed else []


def claimed_row(session: ChatSession, claim: uuid.UUID) -> ClaimedRow:
    """Return the row of a session as a claim holds it."""
    return ClaimedRow(table=ChatSession, using=using(session), pk=session.pk, claim=claim)


def acquire_lease(
    sessions: QuerySet[ChatSession],
    statuses: tuple[Status, ...],
    token: uuid.UUID,
    *,
    lease: float,
    **changes: Any,
) -> int:
    """Claim sessions in one of ``statuses`` for ``lease`` seconds; return how many were claimed."""
    lease_until = DatabaseNow() + timedelta(seconds=lease)
    changes |= {"status": Status.CLOSING, "claim": token, "lease_until": lease_until}
    return sessions.filter(status__in=statuses).update(**changes)


def write_attempts(
    sessions: Sequence[ChatSession], request: RequestOrigin, token: uuid.UUID, kind: AttemptKind
) -> list[CloseAttempt]:
    """Write who asks OSVI for what, unless an earlier try has done so."""
    journal = CloseAttempt.objects.using(using(sessions[0]))
    written = {each.session_id: each for each in journal.filter(session__in=sessions, claim=token)}
    missing = [each for each in sessions if each.pk not in written]
    return [*written.values(), *_add_attempts(missing, request, token, kind)]


def _add_attempts(
    sessions: Sequence[ChatSession], request: RequestOrigin, token: uuid.UUID, kind: AttemptKind
) -> list[CloseAttempt]:
    facts: dict[str, Any] = {
        "claim": token,
        "kind": kind,
        **requester_fields(request.requested_by),
        "via": request.via,
        "note": request.note,
        "close_reason": request.close_reason,
    }
    fresh = [CloseAttempt(session=each, **facts) for each in sessions]
    return CloseAttempt.objects.using(using(sessions[0])).bulk_create(fresh) if fresh else []


def undo_claims(attempts: Sequence[CloseAttempt]) -> None:
    """Undo claims under which nothing was sent, in the caller's transaction."""
    leave_to_recovery(attempts)
    claims = {attempt.claim for attempt in attempts}
    claimed = rows(*(attempt.session for attempt in attempts)).filter(claim__in=claims)
    release(claimed, status=F("previous_status"))
    _journal(attempts).delete()


def finish_attempts(finished: Iterable[tuple[CloseAttempt, Mapping[str, str]]]) -> None:
    """Write how attempts finished: one UPDATE for all that finished alike."""
    for fields, alike in grouped(finished, lambda each: tuple(sorted(each[1].items()))):
        attempts = [attempt for attempt, _fields in alike]
        update_attempts(attempts, finished_at=timezone.now(), **dict(fields))


def expire_lease(session: ChatSession) -> None:
    """Release a session whose closer has died; it is unconfirmed, as it may be closed."""
    over = rows(session).filter(leases.expired(), status=Status.CLOSING)
    # Read before writing: on MariaDB, the many callers that lost the claim would otherwise deadlock
    # with the winner.
    dead = list(over.values_list("claim", flat=True))
    if not dead:
        return
    claim: Any = dead[0]  # None if another program wrote the status

    def work() -> None:
        release(over.filter(claim=claim), status=Status.UNCONFIRMED)
        # An attempt that was answered stays so: its answer is still to be read.
        attempts(session).filter(claim=claim, outcome=AttemptOutcome.STARTED).update(
            outcome=AttemptOutcome.NO_ANSWER,
            error_code=OSVINoAnswer.code,
            finished_at=timezone.now(),
        )

    persist(work, using=using(session), patience=PATIENCE_BEFORE)


def release(sessions: QuerySet[ChatSession], **changes: Any) -> int:
    """Change sessions and release their claims; return how many were changed."""
    return sessions.update(claim=None, lease_until=None, **changes)


def update_attempts(attempts: Collection[CloseAttempt], **changes: Any) -> None:
    """Change attempts in the database and in the caller's objects."""
    journal = _journal(attempts)
    if journal.update(**changes) < len(attempts):
        _log_deleted(attempts)
    for attempt in attempts:
        for name, value in changes.items():
            setattr(attempt, name, value)


def require_known_status(session: ChatSession) -> None:
    """Raise ``UnknownStatus`` if another version or program wrote the session's status.

    Waiting for such a session would never end: only what wrote the status knows what it means.
    """
    if session.status not in Status:
        raise UnknownStatus(attempt=last_attempt(session))


def _journal(attempts: Collection[CloseAttempt]) -> QuerySet[CloseAttempt]:
    """Return the rows of attempts as a queryset, to filter and update."""
    keys = [attempt.pk for attempt in attempts]
    alias = router.db_for_write(CloseAttempt, instance=next(iter(attempts)))
    return CloseAttempt.objects.using(alias).filter(pk__in=keys)


def _log_deleted(attempts: Collection[CloseAttempt]) -> None:
    there = set(_journal(attempts).values_list("pk", flat=True))
    for attempt in attempts:
        if attempt.pk not in there:
            logger.critical("attempt %s was deleted while OSVI was asked", attempt.pk)


def stop_renewing(claims: Iterable[tuple[ChatSession, uuid.UUID | None]]) -> None:
    """Stop renewing what is being settled: if that fails, recovery should get it soon."""
    leases.stop_renewing(
        claimed_row(session, claim) for session, claim in claims if claim is not None
    )


def leave_to_recovery(attempts: Iterable[CloseAttempt]) -> None:
    """Leave sessions to recovery, which claims them when their leases are over."""
    stop_renewing((attempt.session, attempt.claim) for attempt in attempts)
