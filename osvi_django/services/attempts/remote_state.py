"""What OSVI's answers say about a session that is not closed here."""

from __future__ import annotations

from typing import Final, TypeGuard

from django.utils.translation import gettext_lazy as _lazy

from osvi_django.client import OSVIClient
from osvi_django.client.responses import is_same_id
from osvi_django.exceptions import (
    CallError,
    OSVIError,
    OSVINotConfigured,
    OSVIRejected,
    OSVIUnknown,
    SessionNotFound,
)
from osvi_django.models import ChatSession
from osvi_django.services.access import is_narrowed
from osvi_django.services.attempts.types import User

# What OSVI may answer if a session is closed; it does not document which.
NOT_FOUND: Final = 404
VALIDATION_FAILED: Final = 422
CLOSED_ALREADY: Final = frozenset({NOT_FOUND, 409, VALIDATION_FAILED})

# If nothing but its ids is known, OSVI's own message says less than what to do.
_UNKNOWN: Final = _lazy(
    "OSVI does not know a chat session with this id and agent, so nothing was closed. Check both. "
    "If OSVI's dashboard shows it as closed, mark it as closed here."
)
_UNKNOWN_EITHER: Final = _lazy(
    "OSVI does not know this chat session either, so nothing was closed. Check session_id, and "
    "that agent_uuid and account name the agent that it belongs to. If OSVI's dashboard shows it "
    "as closed, there is nothing left to do."
)


def is_not_found(error: Exception) -> TypeGuard[OSVIRejected]:
    """Return whether OSVI said that it has no such session."""
    return isinstance(error, OSVIRejected) and error.status == NOT_FOUND


def error_about(session: ChatSession, error: CallError) -> CallError:
    """Return the error of a close, which says more if OSVI does not know the session's ids."""
    if not is_not_found(error) or session.customer_id:
        return error
    return OSVIUnknown(_UNKNOWN, status=error.status, reason=error.reason)


def error_about_removed(error: CallError) -> CallError:
    """Return the error of a close whose session is not kept here; OSVI may not know it either."""
    if not is_not_found(error):
        return error
    return error_about_unknown(reason=error.reason)


def error_about_unknown(*, reason: str = "") -> SessionNotFound:
    """Return the error about a session that neither this site nor OSVI knows."""
    return SessionNotFound(_UNKNOWN_EITHER, reason=reason)


def reason_of_unknown(error: OSVIRejected, user: User | None) -> str:
    """Return what OSVI said of an id that it does not know; "" if the user's access is narrowed.

    Its words would tell that id from one of a session outside the access.
    """
    return "" if is_narrowed(user) else error.reason


def may_be_closed_already(error: Exception, *, is_dormant: bool) -> TypeGuard[OSVIRejected]:
    """Return whether OSVI may have refused because there is nothing left to close."""
    if not isinstance(error, OSVIRejected) or error.status not in CLOSED_ALREADY:
        return False
    # A 422 may mean anything, and the check of a dormant session may be refused for the same.
    return not is_dormant or error.status != VALIDATION_FAILED


def is_closed_already(client: OSVIClient, session: ChatSession, error: OSVIRejected) -> bool:
    """Return whether the session is closed already, by asking OSVI and not the database.

    No refusal is documented to mean this, and OSVI lists only active sessions: one that it does not
    list is closed only if OSVI knows it by these ids and does not pause it either.
    """
    try:
        if is_listed_open(client, session) is not False:
            return False
        # If the address is wrong, every answer is a 404.
        if error.status == NOT_FOUND and not is_absent_everywhere(client, session):
            return False
        return is_closed_by_id(client, session) is True
    except (OSVIError, OSVINotConfigured):
        return False


def is_listed_open(client: OSVIClient, session: ChatSession) -> bool | None:
    """Return whether OSVI lists this session as open; None if its customer is not known.

    Raises what the client raises.
    """
    if not session.customer_id:
        return None
    if not session.agent.uuid:
        return _is_listed(client, session)
    active = client.active_session(session.customer_id, agent_uuid=session.agent.uuid)
    return active is not None and is_same_id(active.session_id, session.session_id)


def is_absent_everywhere(client: OSVIClient, session: ChatSession) -> bool:
    """Return whether OSVI lists the customer's open sessions with any agent, but not this one.

    A wrong agent or address is answered 404, as is a customer who has nothing open: only a list
    tells these apart. Raises what the client raises.
    """
    return not _is_listed(client, session)


def _is_listed(client: OSVIClient, session: ChatSession) -> bool:
    listed = client.active_session_ids(session.customer_id)
    return any(is_same_id(each, session.session_id) for each in listed)


def is_closed(client: OSVIClient, session: ChatSession) -> bool:
    """Return whether a session that OSVI no longer lists is closed; otherwise it is now dormant.

    Asks OSVI and not the database. Raises what the client raises if OSVI does not say.
    """
    return is_closed_by_id(client, session) is not False


def is_closed_by_id(client: OSVIClient, session: ChatSession) -> bool | None:
    """Return whether a session is closed, by pausing it; None if OSVI has none with these ids.

    OSVI does not say which id a 404 is about: the agent may be the wrong one. Raises what the
    client raises if OSVI does not say.
    """
    try:
        client.pause_legacy_session(session.session_id, agent_uuid=session.agent.uuid or "")
    except OSVIRejected as error:
        if error.status not in CLOSED_ALREADY or _has_no_reason(error):
            raise
        return None if error.status == NOT_FOUND else True
    return False


def _has_no_reason(error: OSVIRejected) -> bool:
    """Return whether it is a 404 without OSVI's text: a wrong address, or a removed endpoint."""
    return error.status == NOT_FOUND and error.reason == f"HTTP {error.status}"
