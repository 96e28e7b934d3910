"""What is older than the settings of an account allow, and is not held for longer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import router
from django.db.models import Q, QuerySet
from django.utils import timezone

from osvi_django.conf import DEFAULT_RETENTION, Account, account_aliases, longest_retention
from osvi_django.database import site_date
from osvi_django.models import ChatAgent, ChatSession
from osvi_django.services import selectors


@dataclass(frozen=True, kw_only=True)
class Period:
    """The data of an account that is older than ``before`` is removed."""

    account: str
    before: datetime

    @property
    def agents(self) -> QuerySet[ChatAgent, int]:
        """Return the keys of the agents of the account: a lock of sessions locks no agents."""
        return _agents().filter(account=self.account).values_list("pk", flat=True)


def periods(kind: str) -> Iterator[Period]:
    """Yield the accounts that remove this kind of data. Raises ``InvalidSetting``."""
    configured = {alias: Account(alias).retention for alias in account_aliases()}
    # Includes accounts that are no longer in the settings: otherwise their data would stay.
    used = _agents().order_by("account").values_list("account", flat=True).distinct()
    for account in sorted({*configured, *used}):
        days = configured.get(account, DEFAULT_RETENTION)[kind]
        if days is not None:
            yield Period(account=account, before=timezone.now() - timedelta(days=days))


def before_of_site(kind: str) -> datetime | None:
    """Return before when rows that may be about several accounts are removed; None: never."""
    days = longest_retention(kind)
    return None if days is None else timezone.now() - timedelta(days=days)


def held(prefix: str = "") -> Q:
    """Return the condition for sessions that staff want to keep for longer."""
    return Q(**{f"{prefix}keep_until__gte": site_date(timezone.now())})


def old_sessions(period: Period) -> QuerySet[ChatSession]:
    """Return the closed sessions of an account that are older than a period, and not held."""
    closed = selectors.all_sessions().filter(
        status=ChatSession.Status.CLOSED, closed_at__lt=period.before, agent__in=period.agents
    )
    return closed.exclude(held())


def _agents() -> QuerySet[ChatAgent]:
    return ChatAgent.objects.using(router.db_for_write(ChatAgent))
