"""Whether a session that OSVI does not list any more is closed, or has only gone quiet.

OSVI has no call that tells. Pausing comes nearest: it changes nothing of a quiet session, and a
closed one refuses it. One that is active all the same, as its customer writes just now or is known
to OSVI by another id, is quiet from then on, until the customer writes next.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Final

from osvi_django.client import OSVIClient
from osvi_django.exceptions import OSVIError, OSVINotConfigured, OSVIRejected
from osvi_django.models import ChatSession
from osvi_django.services import steps
from osvi_django.services.pace import NOT_NOW, Trouble

logger = logging.getLogger(__name__)

# No further one is asked about after this: somebody may be waiting for a page.
_PATIENCE: Final = 20.0  # seconds


def is_closed(client: OSVIClient, session: ChatSession) -> bool:
    """Whether one that OSVI has just not listed is closed; else it is dormant, now if not before.

    OSVI is asked, and the database is not. Raises what the client raises where OSVI does not tell.
    """
    try:
        client.pause_legacy_session(session.session_id, agent_uuid=session.agent.uuid or "")
    except OSVIRejected as error:
        if error.status not in steps.CLOSED_ALREADY or _is_nobodys(error):
            raise
        return True
    return False


def _is_nobodys(error: OSVIRejected) -> bool:
    """Whether it is a 404 without a word of OSVI's: a mistaken address, or a call that is gone."""
    return error.status == steps.NOT_FOUND and error.reason == f"HTTP {error.status}"


def ask_each(client: OSVIClient, sessions: Iterable[ChatSession]) -> dict[int, bool]:
    """By their keys, whether these are closed, without those of which OSVI did not tell."""
    told: dict[int, bool] = {}
    ends_at = time.monotonic() + _PATIENCE
    for session in sessions:
        if time.monotonic() > ends_at:
            break
        try:
            told[session.pk] = is_closed(client, session)
        except (OSVIError, OSVINotConfigured) as error:
            log_untold(session, error)
            if isinstance(error, NOT_NOW):
                break
    return told


def log_untold(session: ChatSession, error: Trouble) -> None:
    """Say that a session stays as it is until OSVI tells."""
    told = (session.session_id, error.code)
    logger.warning("whether session %r is closed could not be asked: %s", *told)
