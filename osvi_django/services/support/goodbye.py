"""Say goodbye before a close: take over, and write to the customer once.

A customer is sent the same goodbye at most once in a session, however often its close is tried, by
however many jobs and processes: the key of the message is made from both. A goodbye that was not
sent, or whose outcome is unknown, does not keep the session from being closed.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from osvi_django.exceptions import OSVIError, OSVINotConfigured, SentBefore
from osvi_django.models import ChatSession, CloseJobItem, SupportAction
from osvi_django.redaction import HiddenText, hides
from osvi_django.services.attempts.types import RequestOrigin, User
from osvi_django.services.permissions import require_operate
from osvi_django.services.support.actions import HAND_BACK, MESSAGE, TAKE_OVER, Mode
from osvi_django.services.support.journal import action_of_form
from osvi_django.services.support.sending import TEXT_MAX_LENGTH, ActionOptions, run_command
from osvi_django.validation import stripped

GoodbyeOutcome = CloseJobItem.Goodbye

logger = logging.getLogger(__name__)

_NAMESPACE: Final = uuid.UUID("6f1d2c1a-5d0e-4b64-9a53-2f4a35a1d7c0")


@hides("text")
def checked_goodbye(text: str, user: User | None) -> str:
    """Return a goodbye as it is sent; "" for none. Raises ``InvalidInput`` and ``NotAllowed``."""
    goodbye = stripped("goodbye", text, TEXT_MAX_LENGTH)
    if goodbye:
        require_operate(user)
    return HiddenText(goodbye)


class Goodbye:
    """What the customer of one session is sent before its close, and what became of it.

    ``can_wait``: whether the close is tried again later if nothing can be sent at all now.
    """

    def __init__(self, text: str, *, can_wait: bool = False) -> None:
        self.text = HiddenText(text)
        self.can_wait = can_wait
        self.outcome = ""
        self._took_over = False

    @property
    def has_begun(self) -> bool:
        """Return whether the session was taken over or written to."""
        return self._took_over or self.outcome != GoodbyeOutcome.NOT_SENT

    def say(self, session: ChatSession, request: RequestOrigin) -> None:
        """Take over an open session and write to its customer, unless that was done before.

        Raises an error of the whole account if this can wait.
        """
        self.recall(session)
        if self.outcome != GoodbyeOutcome.NOT_SENT or session.is_unverified:
            return
        try:
            self._say(session, request)
        except SentBefore as error:
            self.outcome = _outcome_of(error.action)
        except (OSVIError, OSVINotConfigured) as error:
            if self.can_wait and error.is_account_wide:
                raise
            is_unknown = error.was_sent is None and self._is_written(session)
            self.outcome = GoodbyeOutcome.UNKNOWN if is_unknown else GoodbyeOutcome.NOT_SENT
            logger.warning("no goodbye in session %r: %s", session.session_id, error.code)

    def recall(self, session: ChatSession) -> None:
        """Find out from the journal what became of an earlier one."""
        self.outcome = _outcome_of(action_of_form(session, self._key(session)))

    @contextmanager
    def before(self, session: ChatSession, request: RequestOrigin) -> Iterator[None]:
        """Say it, then run the block that closes; hand back if the session stays open."""
        self.say(session, request)
        try:
            yield
        except (OSVIError, OSVINotConfigured) as error:
            is_tried_later = self.can_wait and error.is_account_wide
            if self._took_over and session.is_open and not is_tried_later:
                self._hand_back(session, request)
            raise

    def _say(self, session: ChatSession, request: RequestOrigin) -> None:
        by = ActionOptions(requested_by=request.requested_by, via=request.via)
        if session.mode != Mode.SUPPORT:
            run_command(TAKE_OVER, session, **by)
            self._took_over = True
        by["form_key"] = self._key(session)
        run_command(MESSAGE, session, self.text, **by)
        self.outcome = GoodbyeOutcome.SENT

    def _hand_back(self, session: ChatSession, request: RequestOrigin) -> None:
        try:
            run_command(HAND_BACK, session, requested_by=request.requested_by, via=request.via)
        except (OSVIError, OSVINotConfigured) as error:
            names = (session.session_id, error.code)
            logger.warning("session %r is still taken over: %s", *names)

    def _is_written(self, session: ChatSession) -> bool:
        """Return whether the message itself was begun, and not only the take-over."""
        return action_of_form(session, self._key(session)) is not None

    def _key(self, session: ChatSession) -> uuid.UUID:
        return uuid.uuid5(_NAMESPACE, f"{session.pk}:{self.text}")


def _outcome_of(action: SupportAction | None) -> GoodbyeOutcome:
    if action is None:
        return GoodbyeOutcome.NOT_SENT
    if action.outcome == SupportAction.Outcome.DONE:
        return GoodbyeOutcome.SENT
    return GoodbyeOutcome.UNKNOWN
