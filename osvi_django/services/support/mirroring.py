"""Mirror what an action has changed in its session at OSVI."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import Error
from django.db.models import Q, QuerySet
from django.utils import timezone

from osvi_django import database
from osvi_django.client import OSVIClient
from osvi_django.client.responses import is_same_id
from osvi_django.database import persist, safe_error_name
from osvi_django.exceptions import OSVIError, OSVINotConfigured, SessionNotFound
from osvi_django.models import ChatSession, SupportAction
from osvi_django.services import selectors
from osvi_django.services.attempts.throttling import throttling
from osvi_django.services.attempts.types import Status
from osvi_django.services.mirroring.sessions import mirror_session
from osvi_django.services.support.actions import COMMANDS, StateChange
from osvi_django.services.support.context import write_context
from osvi_django.services.support.journal import SURELY_OVER, actions_beside

logger = logging.getLogger(__name__)


def apply_change(session: ChatSession, change: StateChange, began: datetime) -> None:
    """Mirror what was done; OSVI has acted, so errors here are only logged."""
    alias = selectors.using(session)

    def work() -> None:
        _write_change(session, change, began)
        selectors.reload(session)

    try:
        persist(work, using=alias, patience=database.PATIENCE_BEFORE)
    except (Error, SessionNotFound) as error:
        values = (session.session_id, safe_error_name(error))
        logger.error("what was done in session %r could not be mirrored: %s", *values)


def settle_mode(client: OSVIClient, action: SupportAction) -> None:
    """Ask OSVI who answers now if others have changed that too: only OSVI knows who was last."""
    if _is_contested(action):
        _mirror_from_osvi(client, action.session)


def _write_change(session: ChatSession, change: StateChange, began: datetime) -> None:
    """Write the changes to the stored row, which may be newer than ``session``."""
    # The UPDATE comes first: in SQLite, a transaction that has read cannot start to write.
    now = timezone.now()
    changes = {**change.changes, "last_activity_at": now, "updated_at": now}
    changed = _rows_for(session, change.changes).update(**changes)
    if not changed or not (change.changes or change.context is not None):
        return
    # Anything that OSVI said before this and that arrives later is old.
    older = Q(osvi_updated_at=None) | Q(osvi_updated_at__lt=began)
    selectors.rows(session).filter(older).update(osvi_updated_at=began)
    if change.context is not None:
        write_context(session, change.context)


def _rows_for(session: ChatSession, changes: Mapping[str, Any]) -> QuerySet[ChatSession]:
    rows = selectors.rows(session).exclude(status=Status.CLOSED)
    # If it is being closed by now, its status holds the claim.
    return rows.filter(status=session.status) if "status" in changes else rows


def _is_contested(action: SupportAction) -> bool:
    """Return whether others have changed who answers since this action began."""
    kinds = [kind for kind, command in COMMANDS.items() if command.sets_mode]
    others = actions_beside(action.session).filter(session=action.session, kind__in=kinds)
    since = action.started_at
    in_progress = Q(finished_at=None, started_at__gt=since - SURELY_OVER)
    return others.exclude(pk=action.pk).filter(in_progress | Q(finished_at__gte=since)).exists()


def _mirror_from_osvi(client: OSVIClient, session: ChatSession) -> None:
    """Mirror OSVI's state of a session; if OSVI does not answer now, a later look-up does it."""
    agent = session.agent
    try:
        with throttling(client, agent.account):
            remote = client.active_session(session.customer_id, agent_uuid=agent.uuid or "")
        if remote is not None and is_same_id(remote.session_id, session.session_id):
            mirror_session(remote, account=agent.account)
            selectors.reload(session)
    except (OSVIError, OSVINotConfigured, Error) as error:
        values = (session.session_id, safe_error_name(error))
        logger.warning("whose turn it is in session %r is not known: %s", *values)
