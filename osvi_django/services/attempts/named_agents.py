"""Agents that only a caller has named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from django.db.models import QuerySet

from osvi_django.conf import Account, configured
from osvi_django.database import grouped
from osvi_django.exceptions import OSVINotConfigured
from osvi_django.models import ChatAgent
from osvi_django.services.attempts.types import AttemptKind, Settlement
from osvi_django.services.selectors import rows, using

# What a row has that nothing but a request to close it has named.
ONLY_NAMED: Final[dict[str, Any]] = {
    "is_unverified": True,
    "customer_id": "",
    "osvi_updated_at": None,
    "synced_at": None,
}
# Recovery names the agent to OSVI whatever the dialect; these do not.
_WITHOUT_AGENT: Final = (AttemptKind.CLOSE, AttemptKind.MARK)


def set_aside_named_agents(closed: Sequence[Settlement]) -> None:
    """Store that an agent is unknown if OSVI closed a session without comparing who was named.

    The call ``v1`` does not name the agent. In the caller's transaction.
    """
    named = [each.session for each in closed if _is_agent_only_named(each)]
    for account, sessions in grouped(named, lambda each: each.agent.account):
        if _names_agent(account):
            continue
        agent = _unknown_agent(account, using=using(sessions[0]))
        rows(*sessions).filter(**ONLY_NAMED).update(agent=agent)
        for session in sessions:
            session.agent = agent


def _is_agent_only_named(settlement: Settlement) -> bool:
    session, attempt = settlement.session, settlement.attempt
    is_only_named = all(getattr(session, name) == value for name, value in ONLY_NAMED.items())
    return is_only_named and attempt is not None and attempt.kind in _WITHOUT_AGENT


def _names_agent(account: str) -> bool:
    """Return whether a close of this account names the agent to OSVI."""
    try:
        with configured():
            return Account(account).close_with == "legacy"
    except OSVINotConfigured:  # it must not lose an answer that has arrived
        return False


def _unknown_agent(account: str, *, using: str) -> ChatAgent:
    """Return the row that stands for the unknown agents of an account, inserted if needed."""
    agents: QuerySet[ChatAgent] = ChatAgent.objects.using(using)
    # Two processes may insert it at once; both then use the first.
    unknown = agents.filter(account=account, uuid=None, number=None).order_by("pk")
    return unknown.first() or agents.create(account=account)
