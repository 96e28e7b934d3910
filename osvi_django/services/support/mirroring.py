"""Mirror what an action has changed in its session at OSVI."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime
from typing import Any

from django.db import Error
from django.db.models import Q, QuerySet
from django.utils import timezone

from osvi_django import database
from osvi_django.client import OSVIClient
from osvi_django.client.responses import Answer, is_same_id
from osvi_django.database import in_utc, persist, safe_error_name
from osvi_django.exceptions import (
    InvalidInput,
    OSVIBadAnswer,
    OSVIError,
    OSVINotConfigured,
    SessionNotFound,
)
from osvi_django.models import ChatSession, SupportAction
from osvi_django.models.changes import ChangeMoment
from osvi_django.models.search_keys import customer_columns
from osvi_django.services import selectors
from osvi_django.services.attempts.throttling import throttling
from osvi_django.services.attempts.types import RequestOrigin, Status
from osvi_django.services.mirroring.remote_facts import Mode, RemoteFacts, write_facts
from osvi_django.services.mirroring.sessions import mirror_by_id, mirror_remote
from osvi_django.services.support.actions import COMMANDS, StateChange
from osvi_django.services.support.context import write_context
from osvi_django.services.support.journal import (
    SURELY_OVER,
    actions_beside,
    change_action,
    stored_text,
)

logger = logging.getLogger(__name__)


def follow_answer(action: SupportAction, change: StateChange, answer: Answer) -> bool:
    """Move an action to the session that OSVI put it into; return whether that is another one.

    That is another session of the same customer with the same agent, or OSVI's answer is not about
    this action: then ``OSVIBadAnswer`` is raised.
    """
    session = action.session
    if is_same_id(change.session_id, session.session_id):
        return False
    try:
        other = _mirror_other(session, change.session_id)
    except (InvalidInput, SessionNotFound):
        raise OSVIBadAnswer(OSVIBadAnswer.another, status=answer.status) from None
    except Error as error:
        values = (change.session_id, session.session_id, safe_error_name(error))
        logger.error("session %r, which got a message to %r, is not mirrored: %s", *values)
        return True
    logger.info("a message to session %r went to %r", session.session_id, other.session_id)
    change_action(action, session=other, answer=stored_text(answer))
    return True


def _mirror_other(session: ChatSession, session_id: str) -> ChatSession:
    """Return another session of this customer and agent. Raise ``InvalidInput`` if it is not."""
    agent, customer_id = session.agent, session.customer_id
    other = mirror_by_id(
        session_id, agent_uuid=agent.uuid or "", account=agent.account, customer_id=customer_id
    )
    if not other.customer_id:
        unknown = selectors.rows(other).filter(customer_id="")
        unknown.update(**customer_columns(customer_id))
    selectors.reload(other)
    is_same_agent = other.agent_id == agent.pk or other.agent.uuid is None
    if not is_same_agent or other.customer_id != customer_id:
        raise InvalidInput(field="session_id")
    return other


def apply_change(action: SupportAction, change: StateChange, began: datetime) -> bool:
    """Mirror what was done; OSVI has acted, so errors here are only logged.

    Return whether OSVI must be asked how the session is now.
    """
    session = action.session
    alias = selectors.using(session)

    def work() -> bool:
        is_doubtful = _write_change(action, change, began)
        selectors.reload(session)
        return is_doubtful

    try:
        return persist(work, using=alias, patience=database.PATIENCE_BEFORE)
    except (Error, SessionNotFound) as error:
        values = (session.session_id, safe_error_name(error))
        logger.error("what was done in session %r could not be mirrored: %s", *values)
        return False


def _write_change(action: SupportAction, change: StateChange, began: datetime) -> bool:
    """Write the changes to the stored row, which may be newer than the action's session."""
    session, now = action.session, timezone.now()
    rows = selectors.rows(session).exclude(status=Status.CLOSED)
    # The UPDATE comes first: in SQLite, a transaction that has read cannot start to write.
    if not rows.update(last_activity_at=now):
        return False
    stored = rows.get()
    if change.is_awake:
        # If it is being closed by now, its status holds the claim.
        rows.filter(status=Status.DORMANT).update(status=Status.ACTIVE)
    if change.is_report:
        return _write_report(stored, change.facts, rows, began)
    taken: dict[str, Any] = {}
    if change.facts.mode == Mode.SUPPORT:
        taken = {"taken_over_by": action.requested_by, "taken_over_at": now}
    if write_facts(stored, change.facts, rows, **taken) or change.context is not None:
        _outdate(rows, began)
    if change.context is not None:
        write_context(session, change.context)
    # OSVI does not document whether a takeover clears the flag.
    return stored.help_requested and change.facts.help_requested is False


def _write_report(
    stored: ChatSession, facts: RemoteFacts, rows: QuerySet[ChatSession], began: datetime
) -> bool:
    """Write what OSVI noticed, unless something newer is stored; return whether that is so."""
    if not facts.differ_from(stored):
        return False
    older, now = rows.filter(_older_than(began)), ChangeMoment()
    if not write_facts(stored, facts, older, updated_at=now):
        return True
    _outdate(rows, began)
    return False


def _outdate(rows: QuerySet[ChatSession], began: datetime) -> None:
    """Let anything that OSVI said before this, and that arrives later, be old."""
    rows.filter(_older_than(began)).update(osvi_updated_at=began)


def _older_than(moment: datetime) -> Q:
    return Q(osvi_updated_at=None) | Q(osvi_updated_at__lt=moment)


def is_contested(action: SupportAction) -> bool:
    """Return whether others have changed who answers since this action began."""
    kinds = [kind for kind, command in COMMANDS.items() if command.sets_mode]
    others = actions_beside(action.session).filter(session=action.session, kind__in=kinds)
    since = action.started_at
    in_progress = Q(finished_at=None, started_at__gt=since - SURELY_OVER)
    return others.exclude(pk=action.pk).filter(in_progress | Q(finished_at__gte=since)).exists()


def mirror_from_osvi(client: OSVIClient, action: SupportAction) -> None:
    """Mirror OSVI's state of a session; if OSVI does not answer now, a later look-up does it."""
    session, asked_at = action.session, timezone.now()
    agent = session.agent
    by = RequestOrigin(requested_by=None, via=action.via, note="")
    try:
        with throttling(client, agent.account):
            remote = client.active_session(session.customer_id, agent_uuid=agent.uuid or "")
        if remote is not None and is_same_id(remote.session_id, session.session_id):
            # What it says is true since OSVI was asked, by whichever clock the action was timed.
            moment = in_utc(asked_at)
            changed_at = max(remote.updated_at or moment, moment)
            remote = replace(remote, updated_at=changed_at)
            mirror_remote(remote, account=agent.account, agent_uuid="", by=by, asked_at=asked_at)
            selectors.reload(session)
    except (OSVIError, OSVINotConfigured, Error) as error:
        values = (session.session_id, safe_error_name(error))
        logger.warning("whose turn it is in session %r is not known: %s", *values)
