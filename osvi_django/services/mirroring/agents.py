"""Find the agent that a session belongs to, or insert it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeVar

from django.db import IntegrityError, OperationalError, router, transaction
from django.db.models import (
    Exists,
    Model,
    OuterRef,
    ProtectedError,
    Q,
    QuerySet,
)
from django.utils.translation import gettext as _

from osvi_django.client.responses import (
    RemoteSession,
)
from osvi_django.conf import DEFAULT_ACCOUNT, account_aliases, configured
from osvi_django.exceptions import (
    InvalidInput,
)
from osvi_django.models import (
    ChatAgent,
    ChatSession,
)
from osvi_django.services.access import Purpose, agents_inside, require_agent
from osvi_django.services.attempts.types import (
    Status,
    User,
)
from osvi_django.services.selectors import find_session
from osvi_django.validation import (
    is_storable_id,
    require_account,
    require_id,
)

_Row = TypeVar("_Row", bound=Model)


def account_of(
    agent_uuid: str,
    account: str | None = None,
    *,
    otherwise: str = DEFAULT_ACCOUNT,
    by: User | None = None,
    purpose: Purpose = Purpose.OPERATE,
) -> str:
    """Return the account of an agent: the one named, or the one that knows the agent here.

    An agent that no account knows belongs to ``otherwise``. Two accounts may each have an agent of
    the same UUID: raises ``InvalidInput`` if several have that the setting ``OSVI`` still has. If
    it has none of them, one is returned, and using it raises ``OSVINotConfigured``. Raises
    ``InvalidInput`` also for an agent outside the access of ``by``.
    """
    require_agent(agent_uuid, by, purpose, account=account)
    if account is not None:
        return account
    known = _usable(_accounts_with(agent_uuid, by, purpose))
    if len(known) > 1:
        raise _several(known)
    return known[0] if known else otherwise


def move_to_agent(session: ChatSession, *, agent_uuid: str, account: str) -> None:
    """Mirror a session as another agent's. Raises ``InvalidInput`` if that agent is not valid."""
    session.agent = agent_for(agent_uuid, account)
    session.save(update_fields=["agent"])


def agent_of(remote: RemoteSession, account: str, agent_uuid: str) -> ChatAgent:
    """Return the agent of a session object: by its UUID if known, else by OSVI's number."""
    if agent_uuid:
        agent = agent_for(agent_uuid, account)
        return _store_number(agent, remote.agent_number)
    known = find_session(remote.session_id)
    if known and (remote.agent_number is None or not known.agent.is_unknown):
        return known.agent
    if remote.agent_number is None:
        problem = _("The session object has no chat_agent_id: give its agent in agent_uuid.")
        raise InvalidInput(problem, field="agent_uuid")
    by_number = get_or_insert(ChatAgent, {"account": account, "number": remote.agent_number})
    if by_number is None:
        raise look_alike("account")
    return by_number


def _store_number(agent: ChatAgent, number: int | None) -> ChatAgent:
    """Store OSVI's number of an agent; sessions mirrored by number alone become this agent's."""
    if number is None or agent.number == number:
        return agent
    alias = router.db_for_write(ChatAgent)
    agents = ChatAgent.objects.using(alias).filter(account=agent.account)
    # Two processes may store it at once; one of them then has nothing left to do.
    with (
        suppress(IntegrityError, OperationalError, ProtectedError),
        transaction.atomic(using=alias),
    ):
        for nameless in agents.filter(number=number, uuid=None):
            ChatSession.objects.using(alias).filter(agent=nameless).update(agent=agent)
            nameless.delete()
        agents.filter(pk=agent.pk).update(number=number)
        agent.number = number
    return agent


def _accounts_with(agent_uuid: str, by: User | None, purpose: Purpose) -> list[str]:
    """Return accounts that know an agent; if none do, those that only a caller has named."""
    if not is_storable_id(agent_uuid):
        return []
    sessions = ChatSession.objects.filter(agent=OuterRef("pk"))
    only_named = Q(customer_id="", status=Status.ACTIVE)
    is_only_named = Exists(sessions.filter(only_named)) & ~Exists(sessions.exclude(only_named))
    agents = ChatAgent.objects.using(router.db_for_write(ChatAgent)).filter(uuid=agent_uuid)
    # MariaDB compares without regard to case and accents.
    inside = agents_inside(agents, by, purpose)
    found: QuerySet[Any] = inside.annotate(is_only_named=is_only_named)
    same = [each for each in found if each.uuid == agent_uuid]
    known = [
        each for each in same if each.number is not None or each.name or not each.is_only_named
    ]
    return sorted(each.account for each in known or same)


def _usable(known: Sequence[str]) -> Sequence[str]:
    """Return those of several accounts that are configured; the first of them if none is."""
    if len(known) < 2:
        return known
    with configured():
        aliases = account_aliases()
    return [each for each in known if each in aliases] or known[:1]


def _several(known: Sequence[str]) -> InvalidInput:
    problem = _(
        "Several accounts have an agent with this agent_uuid, so nothing was sent. Give one of "
        "them in account: %(known)s."
    )
    names = ", ".join(f"“{each}”" for each in known)
    return InvalidInput(problem % {"known": names}, field="account")


def agent_for(agent_uuid: str, account: str, *, is_unverified: bool = False) -> ChatAgent:
    """Return the agent; ``is_unverified`` applies to a new one."""
    require_account(account)
    require_id("agent_uuid", agent_uuid)
    ids = {"account": account, "uuid": agent_uuid}
    agent = get_or_insert(ChatAgent, ids, is_unverified=is_unverified)
    if agent is None:
        raise look_alike("agent_uuid")
    return agent


def get_or_insert(model: type[_Row], ids: dict[str, Any], **others: Any) -> _Row | None:
    """Do as ``get_or_create``, without its rollback: MariaDB's racing inserts deadlock over that.

    Return None if the database takes another row's id for the same one, as MariaDB ignores case and
    accents: no session is better than a wrong one.
    """
    rows: QuerySet[_Row] = QuerySet(model, using=router.db_for_write(model))
    if not rows.filter(**ids).exists():
        rows.bulk_create([model(**ids, **others)], ignore_conflicts=True)
    same = (row for row in rows.filter(**ids) if all(getattr(row, key) == ids[key] for key in ids))
    return next(same, None)


def look_alike(field: str) -> InvalidInput:
    problem = _("%(field)s differs from a stored one only in case, accents or spaces.")
    return InvalidInput(problem % {"field": field}, field=field)
