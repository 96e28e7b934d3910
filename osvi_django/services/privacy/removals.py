"""What each kind of data of a session is, and how it is removed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from django.db import transaction
from django.db.models import (
    CharField,
    Exists,
    OuterRef,
    ProtectedError,
    Q,
    QuerySet,
    RestrictedError,
    Value,
)
from django.db.models.functions import Cast, Concat
from django.utils import timezone

from osvi_django.models import (
    ChatSession,
    CloseAttempt,
    CloseJobItem,
    SessionSummary,
    SupportAction,
    WebhookDelivery,
)
from osvi_django.services.attempts.kept_answers import UNREAD
from osvi_django.services.events.queue import all_deliveries
from osvi_django.services.privacy.counting import add_to_counts
from osvi_django.services.privacy.history import rename_entries
from osvi_django.services.privacy.spooled import spooled_sessions
from osvi_django.services.support.journal import SURELY_OVER

logger = logging.getLogger(__name__)
SummaryStatus = ChatSession.SummaryStatus
AttemptOutcome = CloseAttempt.Outcome

_HAS_ANSWER: Final = ~Q(answer="") | Q(answer_bytes__isnull=False) | ~Q(error_reason="")
NO_ANSWER: Final[dict[str, Any]] = {
    "answer": "",
    "answer_bytes": None,
    "answer_charset": "",
    "error_reason": "",
}
_NO_REPLY: Final = {"answer": "", "error_reason": ""}
REMOVED_ID: Final = "removed-"


def attempts_of(keys: Sequence[int], using: str) -> QuerySet[CloseAttempt]:
    """Return the attempts to close these sessions."""
    return CloseAttempt.objects.using(using).filter(session__in=keys).order_by()


def actions_of_all(keys: Sequence[int], using: str) -> QuerySet[SupportAction]:
    """Return the support actions in these sessions."""
    return SupportAction.objects.using(using).filter(session__in=keys).order_by()


def has_raw_answers(using: str) -> Q:
    """Return the condition for sessions with raw answers that need not be read again."""
    mine = CloseAttempt.objects.using(using).filter(_HAS_ANSWER, session=OuterRef("pk"))
    replies = SupportAction.objects.using(using).filter(session=OuterRef("pk"))
    has_reply = Exists(replies.exclude(answer="", error_reason=""))
    read = Exists(mine.exclude(outcome__in=UNREAD))
    return Q(read) | Q(has_reply) | Q(Exists(mine), summary_status__in=ChatSession.HAD_SUMMARY)


def remove_raw_answers(keys: Sequence[int], using: str) -> int:
    """Remove raw answers, except one that may have the only copy of a summary."""
    sessions = ChatSession.objects.using(using).filter(pk__in=keys)
    had_summary = sessions.filter(summary_status__in=ChatSession.HAD_SUMMARY)
    settled = list(had_summary.values_list("pk", flat=True))
    attempts_of(settled, using).update(**NO_ANSWER)
    attempts_of(keys, using).exclude(outcome__in=UNREAD).update(**NO_ANSWER)
    actions_of_all(keys, using).update(**_NO_REPLY)
    return len(keys)


def has_metadata(_using: str) -> Q:
    """Return the condition for sessions with metadata."""
    return ~Q(metadata={})


def remove_metadata(keys: Sequence[int], using: str) -> int:
    """Remove what OSVI knows of sessions beside what has a column of its own."""
    return ChatSession.objects.using(using).filter(pk__in=keys).update(metadata={})


def has_notes(using: str) -> Q:
    """Return the condition for sessions that were closed with a note."""
    mine = CloseAttempt.objects.using(using).filter(session=OuterRef("pk")).exclude(note="")
    return Q(Exists(mine))


def remove_notes(keys: Sequence[int], using: str) -> int:
    """Remove the notes of attempts."""
    attempts_of(keys, using).update(note="")
    return len(keys)


def has_summary(using: str) -> Q:
    """Return the condition for sessions with a summary, or an answer that may have it."""
    mine = CloseAttempt.objects.using(using).filter(_HAS_ANSWER, session=OuterRef("pk"))
    return Q(summary__isnull=False) | Q(Exists(mine))


def remove_summaries(keys: Sequence[int], using: str) -> int:
    """Remove summaries, with the raw answers that they were read from or may be read from."""
    sessions = ChatSession.objects.using(using).filter(pk__in=keys)
    sessions.filter(summary_status=SummaryStatus.STORED).update(
        summary_status=SummaryStatus.REMOVED
    )
    SessionSummary.objects.using(using).filter(session__in=keys).delete()
    attempts_of(keys, using).update(**NO_ANSWER)
    return len(keys)


def may_be_deleted(using: str) -> Q:
    """Return the condition for sessions that neither recovery nor a delivery or a job needs."""
    items = CloseJobItem.objects.using(using).filter(session=OuterRef("pk"))
    unfinished = (CloseJobItem.Outcome.WAITING, CloseJobItem.Outcome.CLOSING)
    pending = all_deliveries(using).filter(
        subject=OuterRef("session_id"), state=WebhookDelivery.State.PENDING
    )
    attempts = CloseAttempt.objects.using(using).filter(
        session=OuterRef("pk"),
        outcome__in=(AttemptOutcome.STARTED, AttemptOutcome.ANSWERED),
        started_at__gt=timezone.now() - SURELY_OVER,
    )
    is_needed = Exists(items.filter(outcome__in=unfinished)) | Exists(pending) | Exists(attempts)
    return ~Q(is_needed)


def delete_sessions(keys: Sequence[int], using: str) -> int:
    """Delete sessions with all that belongs to them, and count them."""
    waiting = spooled_sessions()
    free = [key for key in keys if key not in waiting]
    try:
        with transaction.atomic(using=using):
            return _delete(free, using)
    except (ProtectedError, RestrictedError):
        # Rows of the host's own refer to some of them, which stay.
        return sum(_delete_one(key, using) for key in free)


def _delete_one(key: int, using: str) -> int:
    try:
        with transaction.atomic(using=using):
            return _delete([key], using)
    except (ProtectedError, RestrictedError) as error:
        logger.warning("a session is not deleted for its age: %s", type(error).__name__)
        return 0


def _delete(keys: Sequence[int], using: str) -> int:
    add_to_counts(keys, using)
    sessions = ChatSession.objects.using(using).filter(pk__in=keys)
    ids = list(sessions.values_list("session_id", flat=True))
    _detach_items(keys, using)
    all_deliveries(using).filter(subject__in=ids).delete()
    # Each by itself: Django would read all of their rows first.
    SessionSummary.objects.using(using).filter(session__in=keys).delete()
    actions_of_all(keys, using).delete()
    attempts_of(keys, using).delete()
    deleted = sessions.delete()[1].get(ChatSession._meta.label, 0)  # noqa: SLF001  # documented
    rename_entries(keys, REMOVED_ID)
    return deleted


def _detach_items(keys: Sequence[int], using: str) -> None:
    """Keep the items of jobs, with their outcomes, but not the ids of the sessions."""
    items = CloseJobItem.objects.using(using).filter(session__in=keys)
    marker = Concat(Value(REMOVED_ID), Cast("pk", CharField()))
    items.update(session=None, attempt=None, error_reason="", requested_session_id=marker)
