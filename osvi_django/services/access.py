"""Which sessions and agents a user may see and act on: only here the host's functions are asked.

They are the settings ``OSVI_SESSIONS_FOR`` and ``OSVI_AGENTS_FOR``. Without them all is open to
everybody who has the permission, and no query has a condition more. If a function fails, nothing
is shown or done.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from enum import StrEnum
from typing import Any, TypeVar

from django.db import InterfaceError, OperationalError, models, router
from django.db.models import Q, QuerySet
from django.utils.translation import gettext as _

from osvi_django.conf import access_function, configured
from osvi_django.exceptions import InvalidInput, OSVINotConfigured
from osvi_django.models import ChatAgent, ChatSession

logger = logging.getLogger(__name__)
_Row = TypeVar("_Row", bound=models.Model)


class Purpose(StrEnum):
    """What a user wants to do with sessions or agents, as the host's functions get it."""

    VIEW = "view"
    VIEW_SUMMARY = "view_summary"
    CLOSE = "close"
    OPERATE = "operate"
    EXPORT = "export"
    ERASE = "erase"


def allowed_sessions(user: Any, purpose: Purpose, *, using: str) -> QuerySet[ChatSession] | None:
    """Return the keys of the sessions inside a user's access, for a subquery; None for all.

    ``using``: the alias of the database of the query that it is a part of. A user who is None is
    the host's own code. Raises ``OSVINotConfigured``.
    """
    return _allowed("OSVI_SESSIONS_FOR", ChatSession, user, purpose, using)


def allowed_agents(user: Any, purpose: Purpose, *, using: str) -> QuerySet[ChatAgent] | None:
    """Return the same for agents."""
    return _allowed("OSVI_AGENTS_FOR", ChatAgent, user, purpose, using)


def sessions_inside(
    sessions: QuerySet[ChatSession], user: Any, purpose: Purpose
) -> QuerySet[ChatSession]:
    """Return those of these sessions that are inside a user's access."""
    allowed = allowed_sessions(user, purpose, using=sessions.db)
    return sessions if allowed is None else sessions.filter(pk__in=allowed)


def agents_inside(agents: QuerySet[ChatAgent], user: Any, purpose: Purpose) -> QuerySet[ChatAgent]:
    """Return those of these agents that are inside a user's access."""
    allowed = allowed_agents(user, purpose, using=agents.db)
    return agents if allowed is None else agents.filter(pk__in=allowed)


def condition_inside(user: Any, purpose: Purpose, *, path: str, using: str) -> Q:
    """Return the condition for rows whose session is inside; ``path``: leads to the session."""
    allowed = allowed_sessions(user, purpose, using=using)
    return Q() if allowed is None else Q(**{f"{path}__in": allowed})


def keys_inside(keys: Collection[int], user: Any, purpose: Purpose) -> set[int]:
    """Return those of these keys of sessions that are inside a user's access, in one query."""
    using = router.db_for_write(ChatSession)
    allowed = allowed_sessions(user, purpose, using=using) if keys else None
    if allowed is None:
        return set(keys)
    sessions = ChatSession.objects.using(using).filter(pk__in=keys).filter(pk__in=allowed)
    return set(sessions.order_by().values_list("pk", flat=True))


def is_inside(session: ChatSession, user: Any, purpose: Purpose) -> bool:
    """Return whether a session is inside a user's access."""
    return bool(keys_inside([session.pk], user, purpose))


def is_narrowed(user: Any, *, by: str = "OSVI_SESSIONS_FOR") -> bool:
    """Return whether the host narrows what this user may see; None is its own code."""
    with configured():
        return user is not None and access_function(by) is not None


def require_agent(agent_uuid: str, user: Any, purpose: Purpose, *, account: str | None) -> None:
    """Raise ``InvalidInput`` if an agent is outside a user's access, or is not known.

    ``account``: only of this one, unless it is None.
    """
    using = router.db_for_write(ChatAgent)
    allowed = allowed_agents(user, purpose, using=using)
    if allowed is None:
        return
    same = ChatAgent.objects.using(using).filter(uuid=agent_uuid, pk__in=allowed)
    if account is not None:
        same = same.filter(account=account)
    # MariaDB compares without regard to case and accents.
    if agent_uuid not in same.values_list("uuid", flat=True):
        raise InvalidInput(_("This site has no such agent for you."), field="agent_uuid")


def _allowed(
    setting: str, model: type[_Row], user: Any, purpose: Purpose, using: str
) -> QuerySet[_Row] | None:
    if user is None:
        return None
    with configured():
        function = access_function(setting)
    if function is None:
        return None
    try:
        allowed = function(user, purpose)
    except (OperationalError, InterfaceError):  # the database is unavailable
        raise
    except Exception as error:  # the host's own code
        logger.exception("%s failed, so nothing is shown or done", setting)
        problem = f"the function of {setting} raised {type(error).__name__}."
        raise OSVINotConfigured(problem) from error
    if not isinstance(allowed, QuerySet) or not issubclass(allowed.model, model):
        raise _unusable(setting, f"must return a QuerySet of {model.__name__}.")
    return _keys(setting, allowed, using)


def _keys(setting: str, allowed: QuerySet[_Row], using: str) -> QuerySet[_Row]:
    try:
        keys: Any = allowed.using(using).order_by().values("pk")
    except TypeError:  # Django's error about a slice
        raise _unusable(setting, "must return a QuerySet without a slice.") from None
    return keys  # type: ignore[no-any-return]  # rows of values are the keys of rows


def _unusable(setting: str, problem: str) -> OSVINotConfigured:
    logger.error("the function of %s %s Nothing is shown or done.", setting, problem)
    return OSVINotConfigured(f"the function of {setting} {problem}")
