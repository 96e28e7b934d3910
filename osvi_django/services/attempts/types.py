"""The types of one attempt to close a session."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser

from osvi_django.exceptions import (
    OSVIError,
    OSVINotConfigured,
)
from osvi_django.models import ChatSession, CloseAttempt, SessionSummary
from osvi_django.services.permissions import Requester
from osvi_django.services.selectors import load_relations, reload
from osvi_django.validation import (
    CLOSE_REASON_MAX_LENGTH,
    NOTE_MAX_LENGTH,
    VIA_MAX_LENGTH,
    stripped,
)

User = AbstractBaseUser | AnonymousUser | Requester
AttemptKind = CloseAttempt.Kind
AttemptOutcome = CloseAttempt.Outcome
Status = ChatSession.Status
SummaryStatus = ChatSession.SummaryStatus

# What is written to an attempt whose answer says that the session is closed.
CLOSED_FIELDS: Final[Mapping[str, str]] = {
    "outcome": AttemptOutcome.CLOSED.value,
    "error_code": "",
    "error_reason": "",
}


@dataclass(frozen=True, kw_only=True)
class RequestOrigin:
    """Who asks, via which entry point, and why; validated once for all entry points."""

    requested_by: User | None
    via: str
    note: str = field(repr=False)
    close_reason: str = ""

    def __post_init__(self) -> None:
        # The only way to set a field of a frozen dataclass.
        object.__setattr__(self, "via", stripped("via", self.via, VIA_MAX_LENGTH))
        object.__setattr__(self, "note", stripped("note", self.note, NOTE_MAX_LENGTH))
        reason = stripped("close_reason", self.close_reason, CLOSE_REASON_MAX_LENGTH)
        object.__setattr__(self, "close_reason", reason)


@dataclass(frozen=True, kw_only=True)
class CloseResult:
    """A session that is closed.

    ``summary`` is None if OSVI sent none; ``session.summary_status`` says why. ``changed`` is False
    and ``attempt`` None if the session was closed already and OSVI was not asked. ``goodbye`` is
    ``"sent"``, ``"not_sent"`` or ``"unknown"`` if the customer was to be sent something first.
    """

    session: ChatSession
    summary: SessionSummary | None
    changed: bool
    attempt: CloseAttempt | None
    goodbye: str = ""


@dataclass(frozen=True, kw_only=True)
class Settlement:
    """A session is closed at OSVI: what to store about it.

    ``summary_status_if_none``: what to store if there is no summary; ``claim_token``: the claim
    that must still hold the session, unless OSVI itself said that it is closed; ``needs_proof``:
    OSVI did not say so, and must be asked before this is stored;
    ``allowed_statuses``: those that it must be in if no claim was made; ``attempt_fields``: what to
    write to the attempt; ``source``: who wrote the summary.
    """

    session: ChatSession
    attempt: CloseAttempt | None
    text: str | None = field(repr=False)
    source: SessionSummary.Source = SessionSummary.Source.OSVI
    summary_status_if_none: SummaryStatus = SummaryStatus.NOT_PROVIDED
    claim_token: uuid.UUID | None = None
    allowed_statuses: tuple[Status, ...] = ()
    needs_proof: bool = False
    attempt_fields: Mapping[str, str] = field(
        default_factory=lambda: {"outcome": AttemptOutcome.CLOSED}
    )


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A session was not closed, or may have been.

    ``is_open``: whether it is as it was before; if not, it is unconfirmed. ``claim_token``: the
    claim that holds the session, if it is not that of the attempt.
    """

    session: ChatSession
    attempt: CloseAttempt
    error: OSVIError | OSVINotConfigured
    is_open: bool
    claim_token: uuid.UUID | None = None


def closed_result(
    session: ChatSession, *, changed: bool = False, attempt: CloseAttempt | None = None
) -> CloseResult:
    """Return the session as it is stored, with its summary."""
    reload(session)
    load_relations(session)
    summary = getattr(session, "summary", None)
    return CloseResult(session=session, summary=summary, changed=changed, attempt=attempt)


def claim_of(attempt: CloseAttempt | None) -> uuid.UUID | None:
    return None if attempt is None else attempt.claim
