"""Sessions of a job of which nobody knows whether they are closed: OSVI is asked first.

They are those that were unconfirmed before, and those whose process has died. Each takes several
calls with commits in between, so that each is settled in a thread that has its own connection.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from functools import partial

from django.db import Error

from osvi_django.exceptions import CloseInProgress, OSVIError, OSVINoAnswer, OSVINotConfigured
from osvi_django.models import ChatSession, CloseJobItem
from osvi_django.services.crew import Crew
from osvi_django.services.lanes import Lane
from osvi_django.services.pace import Trouble
from osvi_django.services.recovery import close_again_at_osvi
from osvi_django.services.steps import CloseRequest, CloseResult
from osvi_django.services.verdicts import Outcome, Verdict, as_tried, verdict_of
from osvi_django.transactions import kind_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was found out about one; without a ``verdict``, somebody else has it just now.

    ``sent_at``: when OSVI was asked, in seconds of the monotonic clock; ``was_asked``: whether it
    was, as without a customer it cannot be. ``bare``: the session, closed now without a summary.
    """

    item: CloseJobItem
    verdict: Verdict | None
    sent_at: float
    error: Trouble | None = None
    was_asked: bool = True
    bare: ChatSession | None = None


class Finders(Crew[Found]):
    """Closes them for one run of a job."""

    def __init__(self, using: str) -> None:
        super().__init__("osvi-finder", using)

    def find_out(
        self, lane: Lane, item: CloseJobItem, session: ChatSession, request: CloseRequest
    ) -> None:
        """Ask OSVI whether it is open, and close it if so."""
        self.do(partial(self._find_out, lane, item, session, request))

    def _find_out(
        self, lane: Lane, item: CloseJobItem, session: ChatSession, request: CloseRequest
    ) -> Found:
        with lane.pace.slot:
            found = Found(item=item, verdict=None, sent_at=time.monotonic())
            try:
                result = self._close(session, request)
            except CloseInProgress:
                return found
            except Error as error:  # whatever OSVI has answered by then is in the journal or spool
                about = (session.session_id, kind_of(error))
                logger.error("session %r is looked at again: %s", *about)
                return found
            except (OSVIError, OSVINotConfigured) as error:
                asked = bool(session.customer_id)
                return replace(found, verdict=verdict_of(error), error=error, was_asked=asked)
        if result is None:
            unconfirmed = Verdict(outcome=Outcome.UNCONFIRMED, code=OSVINoAnswer.code)
            return replace(found, verdict=unconfirmed)
        verdict = Verdict(outcome=Outcome.CLOSED if result.changed else Outcome.ALREADY_CLOSED)
        bare = session if result.changed and result.summary is None else None
        return replace(found, verdict=as_tried(item, verdict), bare=bare)

    def _close(self, session: ChatSession, request: CloseRequest) -> CloseResult | None:
        """Close it; None where a bug was in the way."""
        asker, door, note = request.requested_by, request.door, request.note
        try:
            return close_again_at_osvi(session, requested_by=asker, door=door, note=note)
        except (OSVIError, OSVINotConfigured, Error):
            raise
        except Exception:  # a bug over one session must not keep the job from its end
            logger.exception("session %r could not be closed", session.session_id)
            return None
