"""The columns of an export, and the queries that read them.

Their names are those of the REST API. The last column is the summary, as it may be longer than a
cell of a spreadsheet.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

from django.contrib.auth import get_user_model
from django.db.models import Case, OuterRef, QuerySet, Subquery, When
from django.db.models.expressions import Combinable

from osvi_django.models import ChatSession, CloseAttempt, SessionSummary

# No field has these names.
_NOTE: Final = "osvi_export_note"
_SOURCE: Final = "osvi_export_source"
_SUMMARY: Final = "osvi_export_summary"


class Kind(Enum):
    """What a column holds."""

    TEXT = auto()
    """Something that a person may have written."""
    SHARED = auto()
    """The same, but of many sessions, such as the name of their agent."""
    CODE = auto()
    """One of our own words, or of a setting of this site."""
    TIME = auto()
    NUMBER = auto()


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: its name, and where its values are."""

    name: str
    path: str
    kind: Kind = Kind.TEXT
    # Whether only those may read it who may read what was said.
    is_words: bool = False


def columns_of(*, has_words: bool) -> list[Column]:
    """Return the columns of a file, without those that its reader may not see."""
    return [each for each in _all() if has_words or not each.is_words]


def read_columns(
    sessions: QuerySet[ChatSession],
    columns: list[Column],
    *,
    readable: QuerySet[ChatSession] | None = None,
) -> QuerySet[Any, Any]:
    """Return a query for the key and the columns of each session, in the order of the keys.

    ``readable``: the keys of the sessions whose words may be read; None for all.
    """
    asked = {each.path: each for each in columns}
    found = {name: value for name, value in _looked_up(sessions.db).items() if name in asked}
    if readable is not None:
        found = {
            name: _only_of(readable, value) if asked[name].is_words else value
            for name, value in found.items()
        }
    plain = sessions.select_related(None).prefetch_related(None)
    rows = plain.annotate(**found).order_by("pk")
    return rows.values_list("pk", *(each.path for each in columns))


def _only_of(readable: QuerySet[ChatSession], value: Combinable) -> Case:
    return Case(When(pk__in=readable, then=value))


def _looked_up(using: str) -> dict[str, Combinable]:
    """Return what is looked up for each session of a page.

    Joined, PostgreSQL would read all summaries from the first one on, for each page.
    """
    summaries = SessionSummary.objects.using(using).filter(session=OuterRef("pk"))
    attempts = CloseAttempt.objects.using(using).filter(session=OuterRef("pk"))
    closed = attempts.filter(outcome=CloseAttempt.Outcome.CLOSED)
    # A review only chooses the text of a summary.
    by = closed.exclude(kind=CloseAttempt.Kind.REVIEW).order_by("-started_at", "-id")
    return {
        _NOTE: Subquery(by.values("note")[:1]),
        _SOURCE: Subquery(summaries.values("source")[:1]),
        _SUMMARY: Subquery(summaries.values("text")[:1]),
    }


def _all() -> list[Column]:
    user = get_user_model()
    return [
        Column(name="session_id", path="session_id"),
        Column(name="account", path="agent__account", kind=Kind.SHARED),
        Column(name="agent_uuid", path="agent__uuid", kind=Kind.SHARED),
        Column(name="agent_name", path="agent__name", kind=Kind.SHARED),
        Column(name="customer_id", path="customer_id"),
        Column(name="status", path="status", kind=Kind.CODE),
        Column(name="mode", path="mode", kind=Kind.CODE),
        Column(name="started_at", path="started_at", kind=Kind.TIME),
        Column(name="closed_at", path="closed_at", kind=Kind.TIME),
        Column(name="closed_by", path=f"closed_by__{user.USERNAME_FIELD}", kind=Kind.SHARED),
        Column(name="closed_via", path="closed_via", kind=Kind.CODE),
        Column(name="close_seconds", path="close_seconds", kind=Kind.NUMBER),
        Column(name="close_reason", path="close_reason", kind=Kind.SHARED),
        Column(name="note", path=_NOTE, is_words=True),
        Column(name="summary_status", path="summary_status", kind=Kind.CODE),
        Column(name="summary_source", path=_SOURCE, kind=Kind.CODE),
        Column(name="summarizer_error", path="summarizer_error"),
        Column(name="summary", path=_SUMMARY, is_words=True),
    ]
