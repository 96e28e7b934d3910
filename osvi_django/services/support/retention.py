"""Redact people's texts after the period that the host sets."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from django.db import router, transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from osvi_django.conf import DEFAULTS, Account, account_aliases
from osvi_django.models import ChatAgent, ChatSession, SupportAction
from osvi_django.services import selectors
from osvi_django.services.mirroring.sessions import context_in
from osvi_django.services.support.actions import ActionKind, ActionOutcome
from osvi_django.services.support.context import with_context
from osvi_django.services.support.journal import SURELY_OVER, all_actions, lock_session

_CHUNK: Final = 1_000


def forget_texts() -> int:
    """Remove texts older than the setting ``TEXT_RETENTION_DAYS``; return how many actions' texts.

    Added context is removed from its session as well. What is kept: who did what and when, and
    everything that OSVI sent of its own accord. Raises ``InvalidSetting``.
    """
    configured = {alias: Account(alias).text_retention_days for alias in account_aliases()}
    # Includes accounts that are no longer in the settings: otherwise their texts would stay.
    known = {*configured, *_all_accounts()}
    kept = {account: configured.get(account, DEFAULTS["TEXT_RETENTION_DAYS"]) for account in known}
    return sum(_forget(account, days) for account, days in kept.items() if days is not None)


def _all_accounts() -> QuerySet[ChatAgent, str]:
    agents = ChatAgent.objects.using(router.db_for_write(ChatAgent))
    return agents.values_list("account", flat=True).distinct()


def _forget(account: str, days: float) -> int:
    now = timezone.now()
    # Read from the database they are written to: a removed text must not be found again.
    old = all_actions().filter(redacted_at=None, started_at__lt=now - timedelta(days=days))
    # Unfinished actions are still to be written, unless they are so old that their process died.
    over = Q(finished_at__isnull=False) | Q(started_at__lt=now - SURELY_OVER)
    mine = old.filter(over, session__agent__account=account).values_list("pk", flat=True)
    forgotten = 0
    while keys := list(mine[:_CHUNK]):
        _forget_contexts(keys)
        actions = all_actions().filter(pk__in=keys)
        forgotten += actions.exclude(text="", reply="", answer="").count()
        actions.update(text="", reply="", answer="", redacted_at=now)
    return forgotten


def _forget_contexts(keys: Sequence[int]) -> None:
    """Remove what these actions added to sessions, while their texts are here to find it by."""
    added = _contexts().filter(pk__in=keys).order_by()
    sessions = ChatSession.objects.using(router.db_for_write(ChatSession))
    for session in sessions.filter(pk__in=added.values("session")).only("pk"):
        _forget_context(session, keys)


def _forget_context(session: ChatSession, keys: Sequence[int]) -> None:
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
