"""How a session that OSVI knows comes into this database."""

from __future__ import annotations

from osvi_django.client import storable
from osvi_django.exceptions import InvalidInput
from osvi_django.models import ID_MAX_LENGTH, ChatAgent, ChatSession


def find_session(session_id: str) -> ChatSession | None:
    """The session of this id, with its agent and summary, or None. Any text is safe to ask for."""
    if not _is_storable_id(session_id):
        return None
    found = ChatSession.objects.select_related("agent", "summary").filter(session_id=session_id)
    session = found.first()
    # MariaDB compares without regard to case and accents: another id is another session.
    return session if session and session.session_id == session_id else None


def mirror_by_id(session_id: str, *, agent_uuid: str, account: str) -> ChatSession:
    """Begin to mirror a session of which only the ids are known.

    Raises ``InvalidInput`` where an id cannot be one. Safe when two processes do it at once.
    """
    for field, value in (("session_id", session_id), ("agent_uuid", agent_uuid)):
        if not _is_storable_id(value):
            problem = f"{field} must be text of 1 to {ID_MAX_LENGTH} characters, without U+0000."
            raise InvalidInput(problem, field=field)
    agent, _ = ChatAgent.objects.get_or_create(account=account, uuid=agent_uuid)
    session, _ = ChatSession.objects.get_or_create(session_id=session_id, defaults={"agent": agent})
    return session


def _is_storable_id(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= ID_MAX_LENGTH and storable(value) == value
