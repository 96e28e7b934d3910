"""How a session that OSVI knows comes into this database."""

from __future__ import annotations

from typing import Any, TypeVar

from django.db import router
from django.db.models import Model, QuerySet
from django.utils.translation import gettext as _

from osvi_django.answers import storable
from osvi_django.exceptions import InvalidInput
from osvi_django.models import ID_MAX_LENGTH, ChatAgent, ChatSession

_Row = TypeVar("_Row", bound=Model)


def find_session(session_id: str) -> ChatSession | None:
    """The session of this id, with its agent and summary, or None. Any text is safe to ask for."""
    if not is_storable_id(session_id):
        return None
    found = ChatSession.objects.select_related("agent", "summary").filter(session_id=session_id)
    session = found.first()
    # MariaDB compares without regard to case and accents: another id is another session.
    return session if session and session.session_id == session_id else None


def mirror_by_id(session_id: str, *, agent_uuid: str, account: str) -> ChatSession:
    """Begin to mirror a session of which only the ids are known.

    Raises ``InvalidInput`` where an id cannot be one. Safe when two processes do it at once.
    """
    _require_id("session_id", session_id)
    agent = _agent(agent_uuid, account)
    session = _get_or_insert(ChatSession, {"session_id": session_id}, agent=agent)
    if session is None:
        raise _look_alike("session_id")
    return session


def move_to_agent(session: ChatSession, *, agent_uuid: str, account: str) -> None:
    """Mirror a session as another agent's; raises ``InvalidInput`` where that cannot be one."""
    session.agent = _agent(agent_uuid, account)
    session.save(update_fields=["agent", "updated_at"])


def _agent(agent_uuid: str, account: str) -> ChatAgent:
    _require_id("agent_uuid", agent_uuid)
    agent = _get_or_insert(ChatAgent, {"account": account, "uuid": agent_uuid})
    if agent is None:
        raise _look_alike("agent_uuid")
    return agent


def _get_or_insert(model: type[_Row], ids: dict[str, str], **others: Any) -> _Row | None:
    """``get_or_create`` without its roll-back, over which MariaDB's racing inserts deadlock.

    None where the database takes another row's id for the same one, as MariaDB does without regard
    to case and accents: rather nothing than another session.
    """
    rows: QuerySet[_Row] = QuerySet(model, using=router.db_for_write(model))
    if not rows.filter(**ids).exists():
        rows.bulk_create([model(**ids, **others)], ignore_conflicts=True)
    same = (row for row in rows.filter(**ids) if all(getattr(row, key) == ids[key] for key in ids))
    return next(same, None)


def _require_id(field: str, value: str) -> None:
    # URLs lose the segments "." and ".." on their way, quoted or not.
    if not is_storable_id(value) or value in {".", ".."}:
        problem = _("%(field)s is not an id that OSVI gave: use 1 to %(length)d characters.")
        raise InvalidInput(problem % {"field": field, "length": ID_MAX_LENGTH}, field=field)


def _look_alike(field: str) -> InvalidInput:
    problem = _("%(field)s differs from one that is here only in case, accents or spaces.")
    return InvalidInput(problem % {"field": field}, field=field)


def is_storable_id(value: str) -> bool:
    """Whether the database can store, and find, this as an id."""
    return 0 < len(value) <= ID_MAX_LENGTH and storable(value) == value
