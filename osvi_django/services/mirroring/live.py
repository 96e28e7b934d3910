"""Keep an open session up to date while somebody looks at it.

Their pages ask this site every few seconds. OSVI is asked at most once in the ``LIVE_INTERVAL`` of
the account, however many look, and never for longer than a few seconds: an answer that is late is
no loss, and a web server's threads are. A look-up that failed is not repeated earlier either, but
the session counts as looked up only if OSVI has listed it.
"""

from __future__ import annotations

import logging
import os
import threading
from datetime import timedelta
from typing import Final

from django.db import DatabaseError
from django.db.models import Q
from django.utils import timezone

from osvi_django.client.responses import is_same_id
from osvi_django.conf import Account, configured
from osvi_django.database import DatabaseNow, refuse_inside_transaction, safe_error_name
from osvi_django.exceptions import OSVIError, OSVINotConfigured
from osvi_django.models import ChatSession
from osvi_django.services import selectors
from osvi_django.services.attempts.clients import client_of
from osvi_django.services.attempts.leases import expired
from osvi_django.services.attempts.throttling import throttling
from osvi_django.services.mirroring.sessions import mirror_session

logger = logging.getLogger(__name__)

_PATIENCE: Final = 4.0  # seconds
# How many threads of a process may wait for these answers. The others leave it to a later request.
_ASKING_AT_ONCE: Final = 2


class _Slots:
    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start empty: a forked child has none of its parent's threads."""
        self.free = threading.BoundedSemaphore(_ASKING_AT_ONCE)


def refresh_watched(session: ChatSession) -> bool:
    """Ask OSVI about a session that somebody looks at, if it is time; return whether it was asked.

    What OSVI answers is mirrored, and ``session`` itself is not changed. Errors of OSVI are only
    logged: the page then shows what is known here. Raises ``InsideTransaction``.
    """
    refuse_inside_transaction(selectors.using(session))
    if not (session.is_open and session.customer_id and session.agent.uuid):
        return False
    free = _slots.free
    if not free.acquire(blocking=False):
        return False
    try:
        return _is_due(session) and _ask(session)
    except (OSVIError, OSVINotConfigured, DatabaseError) as error:
        values = (session.session_id, safe_error_name(error))
        logger.warning("watched session %r could not be looked up: %s", *values)
        return False
    finally:
        free.release()


def _is_due(session: ChatSession) -> bool:
    """Return whether it is this caller who asks now: of several, one changes the row."""
    with configured():
        interval = Account(session.agent.account).live_interval
    if not interval:
        return False
    period = timedelta(seconds=interval)
    due = Q(synced_at=None) | Q(synced_at__lte=timezone.now() - period)
    rows = selectors.rows(session).filter(due, expired(), status__in=ChatSession.OPEN)
    # An open session has no claim, so its lease is free for this: a failure must not ask again.
    return bool(rows.update(lease_until=DatabaseNow() + period))


def _ask(session: ChatSession) -> bool:
    agent, asked_at = session.agent, timezone.now()
    client = client_of(agent.account, patience=_PATIENCE)
    with throttling(client, agent.account):
        remote = client.active_session(session.customer_id, agent_uuid=agent.uuid or "")
    # None is no news: the session may be dormant. Whether it is closed is found out by a look-up.
    if remote is not None:
        mirror_session(remote, account=agent.account, agent_uuid=agent.uuid or "")
        if is_same_id(remote.session_id, session.session_id):
            selectors.rows(session).update(synced_at=asked_at)
    return True


_slots = _Slots()
os.register_at_fork(after_in_child=_slots.reset)
