"""What an error means for an attempt, its session and its job item: the only such table.

All of it is derived from the attributes of each error class: see ``exceptions.py``. The request of
a class without them may have been sent, so its session is unconfirmed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final

from osvi_django.exceptions import (
    CallError,
    NotAllowed,
    OSVIBadAnswer,
    OSVIError,
    OSVINotConfigured,
    SessionNotFound,
    error_reason,
)
from osvi_django.models import CloseAttempt, CloseJobItem
from osvi_django.services.attempts.types import AttemptOutcome

ItemOutcome = CloseJobItem.Outcome

ErrorClass = type[OSVIError] | type[OSVINotConfigured]

# Errors that have their own outcome, shown to staff by name.
_NAMED: Final[dict[ErrorClass, ItemOutcome]] = {
    SessionNotFound: ItemOutcome.NOT_FOUND,
    NotAllowed: ItemOutcome.NOT_ALLOWED,
}


def attempt_outcome(error: CallError) -> AttemptOutcome:
    """Return the outcome of an attempt that ended with this error."""
    if error.was_sent is False:
        return AttemptOutcome.NOT_SENT
    if error.was_sent:
        return AttemptOutcome.REJECTED
    is_answered = isinstance(error, OSVIBadAnswer)
    return AttemptOutcome.BAD_ANSWER if is_answered else AttemptOutcome.NO_ANSWER


def reopens(error: CallError) -> bool:
    """Return whether the session is as it was before, because OSVI has surely not closed it."""
    return error.was_sent is not None


def item_outcome(error: CallError) -> ItemOutcome:
    """Return the outcome of a job item; WAITING if the error is of the whole account."""
    if not reopens(error):
        return ItemOutcome.UNCONFIRMED
    if error.is_account_wide:
        return ItemOutcome.WAITING
    names = (name for kind, name in _NAMED.items() if isinstance(error, kind))
    return next(names, ItemOutcome.REJECTED if error.was_sent else ItemOutcome.NOT_SENT)


def may_be_sent_later(error: CallError | ErrorClass) -> bool:
    """Return whether the request may be sent later because OSVI has not decided about it."""
    return error.is_account_wide or (error.retryable and error.was_sent is False)


def error_fields(error: CallError) -> dict[str, str]:
    """Return the fields of the journal that describe an error."""
    outcome, reason = attempt_outcome(error), error_reason(error)
    return {"outcome": outcome, "error_code": error.code, "error_reason": reason}


def error_classes() -> list[ErrorClass]:
    """Return all error classes, including those of the host's own code."""
    return list(chain(_with_subclasses(OSVIError), _with_subclasses(OSVINotConfigured)))


def codes_to_send_later() -> list[str]:
    """Return the codes of attempts of requests that OSVI has not decided about."""
    return sorted({kind.code for kind in error_classes() if may_be_sent_later(kind)})


def _with_subclasses(kind: ErrorClass) -> Iterator[ErrorClass]:
    yield kind
    for each in kind.__subclasses__():
        yield from _with_subclasses(each)


@dataclass(frozen=True, kw_only=True)
class ItemResult:
    """The result of an item; ``code`` and ``reason`` are those of an error, if there is one.

    ``goodbye``: what became of what its customer was sent first, "" if nothing was asked for.
    """

    outcome: ItemOutcome
    code: str = ""
    reason: str = ""
    goodbye: str = ""


def item_result(error: CallError) -> ItemResult:
    """Return the result of an item whose close ended with this error."""
    outcome = item_outcome(error)
    if outcome == ItemOutcome.WAITING:
        return ItemResult(outcome=outcome)
    return ItemResult(outcome=outcome, code=error.code, reason=error_reason(error))


def credit_own_attempt(item: CloseJobItem, result: ItemResult) -> ItemResult:
    """Return the result as this job's own if an earlier attempt of it closed the session."""
    tried = item.attempt is not None and item.attempt.outcome == CloseAttempt.Outcome.CLOSED
    if tried and result.outcome == ItemOutcome.ALREADY_CLOSED:
        return replace(result, outcome=ItemOutcome.CLOSED)
    return result


class Refusals:
    """What gateways refused in one run: one session alone, or several in a row."""

    def __init__(self) -> None:
        self._refused: dict[int, int] = {}
        self._successes: Counter[str] = Counter()

    def record_refusal(self, account: str, item: int, *, is_last: Callable[[], bool]) -> bool:
        """Record that an item was refused; return whether it is the only one refused.

        It is if it was refused before without others in between, or if there are no others.
        """
        before, now = self._refused.get(item), self._successes[account]
        self._refused[item] = now
        return before is not None and (before < now or is_last())

    def note_success(self, account: str) -> None:
        """Record that a call was not refused."""
        self._successes[account] += 1
