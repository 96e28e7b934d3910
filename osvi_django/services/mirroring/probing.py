"""Find out whether a session that OSVI no longer lists is closed or only dormant.

OSVI has no call for this. Pausing comes nearest: it does not change a dormant session, and a closed
one refuses it. A session that is in fact active, because its customer is writing now or is known to
OSVI by another id, becomes dormant until the customer writes next.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from osvi_django import clock
from osvi_django.client import OSVIClient
from osvi_django.exceptions import CallError, OSVIError, OSVINotConfigured
from osvi_django.models import ChatSession
from osvi_django.services.attempts.remote_state import is_closed
from osvi_django.services.attempts.throttling import throttling

logger = logging.getLogger(__name__)

# After this no further session is probed: a user may be waiting for a page.
_TIME_LIMIT: Final = 20.0  # seconds


def probe_sessions(client: OSVIClient, sessions: Iterable[ChatSession]) -> dict[int, bool]:
    """Return, by their keys, whether these are closed, without those that OSVI did not answer."""
    probed: dict[int, bool] = {}
    ends_at = clock.monotonic() + _TIME_LIMIT
    for session in sessions:
        if clock.monotonic() > ends_at:
            break
        try:
            with throttling(client, session.agent.account):
                probed[session.pk] = is_closed(client, session)
        except (OSVIError, OSVINotConfigured) as error:
            log_unknown(session, error)
            if error.is_account_wide:
                break
    return probed


def log_unknown(session: ChatSession, error: CallError) -> None:
    """Log that a session stays as it is until OSVI answers."""
    names = (session.session_id, error.code)
    logger.warning("whether session %r is closed could not be asked: %s", *names)
