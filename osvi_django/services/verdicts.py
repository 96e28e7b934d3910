"""What becomes of a session in a job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from osvi_django.exceptions import NotAllowed, SessionNotFound, words_of
from osvi_django.models import CloseAttempt, CloseJobItem
from osvi_django.services.pace import DOUBT, NOT_NOW, Trouble

Outcome = CloseJobItem.Outcome

_OUTCOMES: Final = {
    NOT_NOW: Outcome.WAITING,
    DOUBT: Outcome.UNCONFIRMED,
    (SessionNotFound,): Outcome.NOT_FOUND,
    (NotAllowed,): Outcome.NOT_ALLOWED,
}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What becomes of an item; ``code`` and ``reason`` are those of an error, if there is one."""

    outcome: Outcome
    code: str = ""
    reason: str = ""


def verdict_of(error: Trouble) -> Verdict:
    """What an error means: it waits for better times, or has come to this end."""
    kinds = (outcome for kinds, outcome in _OUTCOMES.items() if isinstance(error, kinds))
    outcome = next(kinds, Outcome.REJECTED)
    if outcome == Outcome.WAITING:
        return Verdict(outcome=outcome)
    return Verdict(outcome=outcome, code=error.code, reason=words_of(error))


def as_tried(item: CloseJobItem, verdict: Verdict) -> Verdict:
    """A session that was found closed may be so by the try that this job made before."""
    tried = item.attempt is not None and item.attempt.outcome == CloseAttempt.Outcome.CLOSED
    if tried and verdict.outcome == Outcome.ALREADY_CLOSED:
        return Verdict(outcome=Outcome.CLOSED)
    return verdict
