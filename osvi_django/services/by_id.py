"""Close a session by OSVI's id, even if it is not in this database."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from django.db import Error, router
from django.utils.translation import gettext as _

from osvi_django.conf import Account, account_aliases
from osvi_django.database import refuse_inside_transaction
from osvi_django.exceptions import (
    CloseInProgress,
    InvalidInput,
    OSVIError,
    OSVINotConfigured,
    OSVIRejected,
    SessionNotFound,
)
from osvi_django.models import ChatSession, CloseJob
from osvi_django.redaction import hides
from osvi_django.services import selectors
from osvi_django.services.access import Purpose, is_inside, is_narrowed, require_agent
from osvi_django.services.attempts.remote_state import (
    error_about_unknown,
    is_not_found,
    reason_of_unknown,
)
from osvi_django.services.attempts.types import AttemptOutcome, CloseResult, RequestOrigin, User
from osvi_django.services.closing import (
    LOOK_AGAIN_AFTER,
    close,
    require_closable,
)
from osvi_django.services.jobs.lifecycle import create_close_job
from osvi_django.services.mirroring.agents import account_of, move_to_agent
from osvi_django.services.mirroring.sessions import (
    mirror_by_id,
    remove_unknown,
    require_path_id,
)
from osvi_django.services.permissions import require_close
from osvi_django.services.selectors import find_session
from osvi_django.services.support.goodbye import Goodbye, checked_goodbye
from osvi_django.validation import AnyText, checks_types, require_account, require_id

logger = logging.getLogger(__name__)


@hides("note", "goodbye")
@checks_types
def close_session_by_id(
    session_id: AnyText,
    *,
    agent_uuid: str = "",
    account: str | None = None,
    requested_by: User | None = None,
    via: str = "code",
    note: str = "",
    close_reason: str = "",
    goodbye: str = "",
) -> CloseResult:
    """Close a session by OSVI's id, even if it is not in this database.

    A new session requires ``agent_uuid``. ``account`` is the one that the agent belongs to; by
    default the one that knows the agent, and "default" for a new agent. For a known session both
    are stored, and different values are an error.

    Raises what ``close_session`` raises, and ``SessionNotFound`` if OSVI does not know the session
    either. If a new session was not closed, for any reason, nothing is left of it here.
    """
    refuse_inside_transaction(router.db_for_write(ChatSession))
    # Before a row is created: this raises for texts that cannot be used.
    request = RequestOrigin(
        requested_by=requested_by, via=via, note=note, close_reason=close_reason
    )
    text = checked_goodbye(goodbye, requested_by)
    session = session_to_close(
        session_id, agent_uuid=agent_uuid, account=account, requested_by=requested_by
    )
    if session is None:
        raise error_about_unknown()
    remove = remove_unknown if session.is_unverified else None
    try:
        with _remove_on_error(session, remove):
            farewell = Goodbye(text) if text else None
            return close(session, request, remove=remove, goodbye=farewell)
    except SessionNotFound:
        if not agent_uuid or session.customer_id:
            raise
        # Another caller, whose close was refused in the meantime, had it removed.
        raise CloseInProgress(retry_after=LOOK_AGAIN_AFTER) from None
    except OSVIRejected as error:
        if not session.is_unverified or not is_not_found(error):
            raise
        unknown = error_about_unknown(reason=reason_of_unknown(error, requested_by))
    logger.warning("session %r is not known at OSVI, and is not kept here", session_id)
    raise unknown


@hides("note", "goodbye")
@checks_types
def create_close_job_by_id(
    session_id: AnyText,
    *,
    agent_uuid: str = "",
    account: str | None = None,
    requested_by: User | None = None,
    via: str = "code",
    note: str = "",
    close_reason: str = "",
    goodbye: str = "",
) -> CloseJob:
    """Create a job that does what ``close_session_by_id`` does.

    If a new session is not closed, the job says why, and nothing else is left of it. Raises what
    ``close_session_by_id`` raises before OSVI is asked.
    """
    refuse_inside_transaction(router.db_for_write(ChatSession))
    # Before a row is created: this raises for texts that cannot be used.
    RequestOrigin(requested_by=requested_by, via=via, note=note, close_reason=close_reason)
    goodbye = checked_goodbye(goodbye, requested_by)
    session = session_to_close(
        session_id, agent_uuid=agent_uuid, account=account, requested_by=requested_by
    )
    create = partial(
        create_close_job,
        requested_by=requested_by,
        via=via,
        note=note,
        close_reason=close_reason,
        goodbye=goodbye,
    )
    if session is None:
        return create([session_id])
    remove = remove_unknown if session.is_unverified else None
    with _remove_on_error(session, remove):
        require_closable(session)
        return create([session])


@contextmanager
def _remove_on_error(
    session: ChatSession, remove: Callable[[ChatSession], bool] | None
) -> Iterator[None]:
    """Call ``remove`` with the session if the block fails before the close starts."""
    try:
        yield
    except (OSVIError, OSVINotConfigured, Error):
        if remove is not None:
            remove(session)
        raise


def session_to_close(
    session_id: str,
    *,
    agent_uuid: str = "",
    account: str | None = None,
    requested_by: User | None = None,
) -> ChatSession | None:
    """Return the session of this id, mirrored first if it is not in this database.

    None if it is outside the access of ``requested_by``, which must look as if OSVI does not know
    it: OSVI is not asked, as it might close it. Raises ``NotAllowed``, ``SessionNotFound`` or
    ``InvalidInput``, as ``close_session_by_id`` does.
    """
    known = find_session(session_id)
    is_outside = known is not None and not is_inside(known, requested_by, Purpose.CLOSE)
    session = None if is_outside else known
    require_close(requested_by, session)
    if session is None:
        return _mirror_unknown(session_id, agent_uuid, account, requested_by, is_outside=is_outside)
    if session.agent.is_unknown and not session.is_open:
        agent_uuid = ""  # OSVI has not compared it, so it is not compared here either
    is_same = agent_uuid in {"", session.agent.uuid}
    if not is_same or account not in {None, session.agent.account}:
        _reassign_agent(session, agent_uuid=agent_uuid, account=account, by=requested_by)
    return session


def _mirror_unknown(
    session_id: str,
    agent_uuid: str,
    account: str | None,
    requested_by: User | None,
    *,
    is_outside: bool,
) -> ChatSession | None:
    if not agent_uuid:
        raise SessionNotFound(
            _(
                "This site has no such chat session. To close one that only OSVI knows, give its "
                "agent in agent_uuid."
            )
        )
    account = account_of(agent_uuid, account, by=requested_by, purpose=Purpose.CLOSE)
    if not is_outside and not _is_agent_unchecked(account, requested_by):
        return mirror_by_id(session_id, agent_uuid=agent_uuid, account=account, is_unverified=True)
    require_account(account)
    require_id("agent_uuid", agent_uuid)
    require_path_id(session_id)
    return None


def _is_agent_unchecked(account: str, user: User | None) -> bool:
    """Return whether OSVI would close a session of an agent outside a user's access.

    The call ``v1`` does not name the agent, so OSVI does not compare it.
    """
    narrowed = any(is_narrowed(user, by=each) for each in ("OSVI_SESSIONS_FOR", "OSVI_AGENTS_FOR"))
    return narrowed and account in account_aliases() and Account(account).close_with == "v1"


def _reassign_agent(
    session: ChatSession, *, agent_uuid: str, account: str | None, by: User | None
) -> None:
    """Change the agent of a session if only a caller has named its agent so far.

    If only OSVI's number of the agent is known, the UUID is added to it.
    """
    own = session.agent
    if agent_uuid:
        require_agent(agent_uuid, by, Purpose.CLOSE, account=account)
    if agent_uuid and own.uuid is None and session.is_open and account in {None, own.account}:
        move_to_agent(session, agent_uuid=agent_uuid, account=own.account)
        return
    is_only_named = (
        session.is_open and not session.customer_id and not _has_confirmed_attempt(session)
    )
    if agent_uuid and is_only_named:
        account = account_of(agent_uuid, account, otherwise=own.account)
        move_to_agent(session, agent_uuid=agent_uuid, account=account)
        return
    if agent_uuid in {"", session.agent.uuid}:
        problem = _("account is not the account of this session's agent: leave it out.")
        raise InvalidInput(problem, field="account")
    problem = _("agent_uuid is not the agent that this session belongs to.")
    raise InvalidInput(problem, field="agent_uuid")


def _has_confirmed_attempt(session: ChatSession) -> bool:
    """Return whether a close of it was, or may have been, answered with more than a refusal."""
    refused = (AttemptOutcome.NOT_SENT, AttemptOutcome.REJECTED)
    tried = selectors.attempts(session)
    return not tried.exists() or tried.exclude(outcome__in=refused).exists()
