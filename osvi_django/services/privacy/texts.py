"""Redact people's texts after the period that the host sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from osvi_django.models import ChatSession, SupportAction
from osvi_django.services import selectors
from osvi_django.services.mirroring.sessions import context_in
from osvi_django.services.privacy.periods import Period, held, periods
from osvi_django.services.support.actions import ActionKind, ActionOutcome
from osvi_django.services.support.context import with_context
from osvi_django.services.support.journal import SURELY_OVER, all_actions, lock_session

_CHUNK: Final = 1_000


def redact_texts() -> Iterator[int]:
    """Remove old texts of support actions; yield of how many actions at a time.

    Added context is removed from its session as well. What is kept: who did what and when, and
    everything that OSVI sent of its own accord. Raises ``InvalidSetting``.
    """
    for period in periods("texts"):
        yield from _redact(old_texts(period))


def old_texts(period: Period) -> QuerySet[SupportAction]:
    """Return the actions whose texts are older than a period, and whose session is not held."""
    # Read from the database they are written to: a removed text must not be found again.
    old = all_actions().filter(redacted_at=None, started_at__lt=period.before)
    # Unfinished actions are still to be written, unless they are so old that their process died.
    over = Q(finished_at__isnull=False) | Q(started_at__lt=timezone.now() - SURELY_OVER)
    mine = old.filter(over, session__agent__account=period.account)
    return mine.exclude(held("session__"))


def with_texts(actions: QuerySet[SupportAction]) -> QuerySet[SupportAction]:
    """Return those of the actions that have anything to redact."""
    return actions.exclude(text="", reply="", answer="")


def _redact(old: QuerySet[SupportAction]) -> Iterator[int]:
    while keys := list(old.values_list("pk", flat=True)[:_CHUNK]):
        _redact_contexts(keys)
        actions = all_actions().filter(pk__in=keys)
        redacted = with_texts(actions).count()
        nothing = {"text": "", "reply": "", "answer": "", "error_reason": ""}
        actions.update(**nothing, redacted_at=timezone.now())
        yield redacted


def _redact_contexts(keys: Sequence[int]) -> None:
    """Remove what these actions added to sessions, while their texts are here to find it by."""
    added = _contexts().filter(pk__in=keys).order_by()
    sessions = selectors.all_sessions()
    for session in sessions.filter(pk__in=added.values("session")).only("pk"):
        _redact_context(session, keys)


def _redact_context(session: ChatSession, keys: Sequence[int]) -> None:
    alias = selectors.using(session)
    mine = selectors.rows(session)
    with transaction.atomic(using=alias):
        lock_session(session)
        metadata = mine.values_list("metadata", flat=True).first()
        known = context_in(metadata)
        added = _contexts().using(alias).filter(session=session, text__in=known)
        gone = set(added.filter(pk__in=keys).values_list("text", flat=True))
        gone -= set(added.exclude(pk__in=keys).values_list("text", flat=True))
        if gone.intersection(known):
            left = [each for each in known if each not in gone]
            mine.update(metadata=with_context(metadata, left))


def _contexts() -> QuerySet[SupportAction]:
    """Return the actions whose texts are the context of sessions, while they have texts."""
    outcomes = (*SupportAction.UNKNOWN, ActionOutcome.DONE)
    actions = all_actions().filter(kind=ActionKind.CONTEXT, outcome__in=outcomes)
    return actions.filter(redacted_at=None)
