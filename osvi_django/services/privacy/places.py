"""Every column of every model of this app: what it holds of a customer, and what becomes of that.

An erasure and an export read this table and nothing else, and the page on privacy is compared with
it. A new column must be declared here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.db.models import Case, F, Model, QuerySet, Value, When
from django.utils import timezone

from osvi_django.database import exact_match
from osvi_django.models import (
    ChatAgent,
    ChatSession,
    CloseAttempt,
    CloseJob,
    CloseJobItem,
    DailyCount,
    DataExport,
    Erasure,
    IdempotentRequest,
    SessionSummary,
    StartLock,
    SupportAction,
    WebhookDelivery,
    WebhookReceiver,
)
from osvi_django.models.search_keys import compact_id, customer_key, reversed_text
from osvi_django.services import selectors
from osvi_django.services.privacy.counting import OTHER_REASON, reasons_of


@dataclass(frozen=True, kw_only=True)
class NewIds:
    """What replaces the ids of one session, and whose they were."""

    customer_id: str
    account: str
    marker: str
    session_id: str


@dataclass(frozen=True, kw_only=True)
class Becomes:
    """What becomes of a column: in words, and as a value for the rows about a session.

    Without a value, the rows are deleted, or looked through for the ids.
    """

    words: str
    value: Callable[[NewIds], Any] | None = None


def _known_reason(new: NewIds) -> Any:
    known = ["", *reasons_of(new.account)]
    is_known = When(close_reason__in=known, then=F("close_reason"))
    return Case(is_known, default=Value(OTHER_REASON))


def _key_of_another(new: NewIds) -> Any:
    is_customer = exact_match("requester_key", new.customer_id)
    return Case(When(is_customer, then=Value("")), default=F("requester_key"))


EMPTIED: Final = Becomes(words="emptied", value=lambda _new: "")
NULLED: Final = Becomes(words="emptied", value=lambda _new: None)
NO_DATA: Final = Becomes(words="emptied", value=lambda _new: {})
MARKED: Final = Becomes(words="replaced by a random marker", value=lambda new: new.marker)
NEW_ID: Final = Becomes(words="replaced by a random id", value=lambda new: new.session_id)
REASON: Final = Becomes(words="“other”, unless it is one of CLOSE_REASONS", value=_known_reason)
OWN_KEY: Final = Becomes(words="emptied if it is the customer's id", value=_key_of_another)
NOW: Final = Becomes(words="the moment of the erasure", value=lambda _new: timezone.now())
DELETED: Final = Becomes(words="its row is deleted")
MASKED: Final = Becomes(words="the ids in it are replaced")
HASHED: Final = Becomes(words="kept: a hash with a secret key, to repeat the erasure")

# What is personal, by model.
PERSONAL: Final[Mapping[type[Model], Mapping[str, Becomes]]] = {
    ChatSession: {
        "customer_id": MARKED,
        "customer_digits": Becomes(
            words="derived from the marker", value=lambda new: customer_key(new.marker)
        ),
        "session_id": NEW_ID,
        "session_key": Becomes(
            words="derived from the new id", value=lambda new: compact_id(new.session_id)
        ),
        "session_key_reversed": Becomes(
            words="derived from the new id",
            value=lambda new: reversed_text(compact_id(new.session_id)),
        ),
        "metadata": NO_DATA,
        "active_human": EMPTIED,
        "close_reason": REASON,
        "erased_at": NOW,
    },
    SessionSummary: {"text": DELETED},
    CloseAttempt: {
        "note": EMPTIED,
        "close_reason": REASON,
        "error_reason": EMPTIED,
        "answer": EMPTIED,
        "answer_bytes": NULLED,
        "answer_charset": EMPTIED,
        "requester_key": OWN_KEY,
    },
    SupportAction: {
        "text": EMPTIED,
        "reply": EMPTIED,
        "answer": EMPTIED,
        "error_reason": EMPTIED,
        "redacted_at": NOW,
        # That of a goodbye is made from the session and the text.
        "form_key": NULLED,
        "requester_key": OWN_KEY,
    },
    CloseJob: {
        "note": EMPTIED,
        "goodbye": EMPTIED,
        "selection": EMPTIED,
        "close_reason": REASON,
        "session_filter": MASKED,
        "requester_key": OWN_KEY,
    },
    CloseJobItem: {"requested_session_id": NEW_ID, "error_reason": EMPTIED},
    WebhookDelivery: {"subject": DELETED, "data": DELETED},
    IdempotentRequest: {"body": DELETED, "headers": DELETED},
    StartLock: {"key": DELETED},
    DataExport: {"selection": MASKED},
    Erasure: {"customer_hash": HASHED},
}

_REQUESTED: Final = ("requested_by", "requester_model", "via")
_REQUEST: Final = (*_REQUESTED, "error_code", "http_status", "started_at", "finished_at")
_CLAIM: Final = ("claim", "lease_until")
# What holds nothing of a customer: states, moments, counts, keys of rows, and who of staff it was.
NEUTRAL: Final[Mapping[type[Model], tuple[str, ...]]] = {
    ChatAgent: ("id", "account", "uuid", "number", "name", "is_unverified"),
    ChatSession: (
        *("id", "agent", "status", "previous_status", "mode", "help_requested"),
        *("help_requested_at", "help_waited_seconds", "taken_over_by", "taken_over_at"),
        *("summary_status", "summarizer_error", "summarized_at", "started_at", "closed_at"),
        *("closed_by", "closed_via", "close_seconds", "is_close_refused", "last_activity_at"),
        *("osvi_updated_at", "synced_at", "is_unverified", "keep_until", *_CLAIM),
        *("created_at", "updated_at", "attention_rank", "quiet_since"),
    ),
    SessionSummary: ("id", "session", "source", "received_at"),
    CloseAttempt: (
        *("id", "session", "kind", "reason", "claim", "outcome", "answer_incomplete"),
        *("answered_at", "osvi_seconds", *_REQUEST),
    ),
    SupportAction: ("id", "session", "kind", "outcome", *_REQUEST),
    CloseJob: (
        *("id", "uuid", "status", "has_requester", "retry_of", "total", "succeeded", "failed"),
        *("unconfirmed", "cancelled", "left_out", "paused_by", "created_at", "started_at"),
        *("finished_at", "resume_at", "running_since", "done_at_resume", "heartbeat_at"),
        *_REQUESTED,
    ),
    CloseJobItem: (
        *("id", "job", "session", "account", "outcome", "error_code", "goodbye", "attempt"),
        *_CLAIM,
    ),
    WebhookDelivery: (
        *("id", "event_id", "event", "receiver", "occurred_at", "state", "tries", "waits_since"),
        *("due_at", "http_status", "error_code", "finished_at", *_CLAIM),
    ),
    WebhookReceiver: (
        *("id", "key", "host", "disabled_at", "paused_until", "failures", "last_error"),
        "last_success_at",
    ),
    # The digests are of what a caller chose and sent, which nothing here is compared with.
    IdempotentRequest: ("id", "digest", "body_digest", "status_code", "created_at", *_CLAIM),
    StartLock: ("id", *_CLAIM),
    DataExport: (
        *("id", "file_format", "has_words", "rows", "outcome", "started_at", "finished_at"),
        *(*_REQUESTED, "requester_key"),
    ),
    DailyCount: (
        *("id", "key", "day", "account", "agent", "closed_by", "close_reason", "via"),
        *("summary_status", "number"),
    ),
    Erasure: (
        *("id", "marker", "account", "counts", "state", "started_at", "last_step_at"),
        "finished_at",
        *(*_REQUESTED, "requester_key"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of a model that are about a session; ``is_deleted``: or else they are changed."""

    model: type[Model]
    about: Callable[[ChatSession], QuerySet[Any]]
    is_deleted: bool = False

    @property
    def label(self) -> str:
        """Return the name of the place in counts and in exports."""
        return label_of(self.model)

    def erase(self, session: ChatSession, new: NewIds) -> int:
        """Delete or change the rows, in the caller's transaction; return how many."""
        rows = self.about(session).order_by()
        if self.is_deleted:
            return rows.delete()[0]
        personal = PERSONAL[self.model].items()
        values = {name: each.value(new) for name, each in personal if each.value is not None}
        return rows.update(**values)


def label_of(model: type[Model]) -> str:
    """Return the name of a model for programs."""
    return str(model._meta.model_name)  # noqa: SLF001  # it is documented


def _belonging_to_session(model: type[Model], *, is_deleted: bool = False) -> Rows:
    """Return the place of a model whose rows name their session."""
    return Rows(
        model=model,
        about=lambda session: _of(model, session, session=session.pk),
        is_deleted=is_deleted,
    )


def _of(model: type[Any], of: ChatSession, /, **conditions: Any) -> QuerySet[Any]:
    rows: QuerySet[Any] = model.objects.using(selectors.using(of))
    return rows.filter(**conditions)


def _jobs_with(session: ChatSession) -> QuerySet[Any]:
    items = _of(CloseJobItem, session, session=session.pk)
    # As keys, because MariaDB changes no table that it reads in the same statement.
    return _of(CloseJob, session, pk__in=set(items.values_list("job", flat=True)))


# In the order in which they are erased: a session last, as the others are found by it.
OF_SESSION: Final = (
    _belonging_to_session(SessionSummary, is_deleted=True),
    Rows(
        model=WebhookDelivery,
        about=lambda session: _of(WebhookDelivery, session, subject=session.session_id),
        is_deleted=True,
    ),
    Rows(model=CloseJob, about=_jobs_with),
    _belonging_to_session(CloseJobItem),
    _belonging_to_session(SupportAction),
    _belonging_to_session(CloseAttempt),
    Rows(model=ChatSession, about=lambda session: _of(ChatSession, session, pk=session.pk)),
)
