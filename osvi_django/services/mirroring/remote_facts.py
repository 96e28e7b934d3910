"""What OSVI says about who answers a customer, and whether the customer asks for a person.

Every place where OSVI says it (an answer to a message or a command, a look-up, a start, a session
object from the host's own code) is written by ``write_facts``, which sends the signal.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from osvi_django.client.responses import RemoteSession
from osvi_django.models import ChatSession
from osvi_django.redaction import HiddenText
from osvi_django.services.attempts.help_waits import help_waited
from osvi_django.services.attempts.notifications import notify_help_requested, notify_taken_over
from osvi_django.services.attempts.types import Status
from osvi_django.services.events import outbox
from osvi_django.services.events.outbox import Event, fact_of

logger = logging.getLogger(__name__)
Mode = ChatSession.Mode
# The longest name that the column holds.
_NAME_MAX_LENGTH = 255


@dataclass(frozen=True, kw_only=True)
class RemoteFacts:
    """What an answer says; None is what it does not say."""

    mode: str | None = None
    help_requested: bool | None = None
    active_human: str | None = field(default=None, repr=False)

    def changes(self) -> dict[str, Any]:
        """Return the values to write, apart from a raised flag."""
        changes: dict[str, Any] = {}
        if self.mode in Mode:
            changes["mode"] = self.mode
        if self.mode == Mode.AI:
            changes |= {"active_human": "", "taken_over_by": None, "taken_over_at": None}
        if self.active_human is not None:
            changes["active_human"] = HiddenText(self.active_human[:_NAME_MAX_LENGTH])
        if self.help_requested is False:
            changes |= {"help_requested": False, "help_requested_at": None}
        return changes

    @property
    def ends_wait(self) -> bool:
        """Return whether a customer who waited for a person does not wait any more."""
        return self.mode == Mode.SUPPORT or self.help_requested is False

    def differ_from(self, session: ChatSession) -> bool:
        """Return whether they would change who answers, or the flag, of this session."""
        mode = self.mode if self.mode in Mode else session.mode
        flag = session.help_requested if self.help_requested is None else self.help_requested
        if flag and not session.help_requested:
            flag = not self._is_leftover(session)
        return (mode, flag) != (session.mode, session.help_requested)

    def raise_flag_of(self, session: ChatSession) -> bool:
        """Return whether they may raise the flag of this session."""
        return bool(self.help_requested) and not self._is_leftover(session)

    def _is_leftover(self, session: ChatSession) -> bool:
        """Return whether the flag is of a request that people have taken over already.

        OSVI does not document that a takeover clears it. It is a new request only if OSVI's last
        session object was without it.
        """
        is_kept = session.mode == Mode.SUPPORT and self.mode == Mode.SUPPORT
        last = session.metadata if isinstance(session.metadata, dict) else {}
        return is_kept and last.get("help_requested") is True


def facts_of(remote: RemoteSession) -> RemoteFacts:
    """Return what a session object says; a field that it lacks says nothing."""

    def says(name: str) -> bool:
        return not remote.payload or remote.payload.get(name) is not None

    mode = remote.mode if remote.mode in Mode else Mode.AI
    return RemoteFacts(
        mode=mode if says("mode") else None,
        help_requested=remote.help_requested if says("help_requested") else None,
        active_human=remote.active_human,
    )


def write_facts(
    session: ChatSession, facts: RemoteFacts, rows: QuerySet[ChatSession], **others: Any
) -> int:
    """Write what OSVI said, with other changes, into the row of a session if it is in ``rows``.

    ``session`` is as it was last read. A closed one is not changed. Of all that raise the flag one
    changes the row, and sends the signal after the commit; so it is with a take-over. Returns how
    many rows were changed.
    """
    open_rows = rows.exclude(status=Status.CLOSED)
    raised = 0
    with transaction.atomic(using=rows.db):
        if facts.raise_flag_of(session):
            raised = open_rows.filter(help_requested=False).update(
                help_requested=True, help_requested_at=timezone.now()
            )
            if raised:
                send = partial(notify_help_requested, session)
                transaction.on_commit(send, using=rows.db)
                outbox.write([fact_of(Event.HELP_REQUESTED, session)], using=rows.db)
        changes = {**facts.changes(), **others}
        # If somebody has taken over a chat whose flag is new, it is not known how long that took.
        if facts.ends_wait and not raised:
            # The order matters to MariaDB, which assigns from left to right.
            changes = {"help_waited_seconds": help_waited(timezone.now()), **changes}
        return _write_changes(session, changes, open_rows) if changes else 0


def _write_changes(
    session: ChatSession, changes: dict[str, Any], rows: QuerySet[ChatSession]
) -> int:
    """Write changes, in the caller's transaction, and announce a take-over that is among them."""
    is_known = session.mode == Mode.SUPPORT and "taken_over_at" not in changes
    if changes.get("mode") != Mode.SUPPORT or is_known:
        return rows.update(**changes)
    # Of several that find out that others have taken over, one changes the mode.
    before = rows if "taken_over_at" in changes else rows.filter(mode=Mode.AI)
    if not before.update(**changes):
        return rows.update(**changes)
    transaction.on_commit(partial(notify_taken_over, session), using=rows.db)
    outbox.write([fact_of(Event.TAKEN_OVER, session)], using=rows.db)
    return 1
