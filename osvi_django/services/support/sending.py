"""Run one support command: check it, write the action, send it, store the answer."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypedDict, Unpack

from django.db import IntegrityError
from django.utils import timezone
from django.utils.translation import gettext as _

from osvi_django import clock, database
from osvi_django.client import OSVIClient
from osvi_django.database import persist, refuse_inside_transaction, to_db_datetime
from osvi_django.exceptions import (
    InvalidInput,
    OSVIError,
    OSVINotConfigured,
    SentBefore,
    SessionClosed,
    TakeOverChanged,
    WrongMode,
    generic_messages,
)
from osvi_django.models import ChatSession, SupportAction
from osvi_django.redaction import HiddenText, hides
from osvi_django.services import selectors
from osvi_django.services.attempts import claims
from osvi_django.services.attempts.clients import client_of
from osvi_django.services.attempts.sync_limit import waiting_slot
from osvi_django.services.attempts.throttling import throttling
from osvi_django.services.attempts.types import RequestOrigin, Status, User
from osvi_django.services.permissions import requester_fields, require_operate
from osvi_django.services.support.actions import (
    ActionOutcome,
    ActionResult,
    Mode,
    SupportCommand,
)
from osvi_django.services.support.journal import change_action, fail_action, store_answer
from osvi_django.services.support.mirroring import (
    apply_change,
    follow_answer,
    is_contested,
    mirror_from_osvi,
)
from osvi_django.services.support.repeats import (
    is_written,
    refuse_same_form,
    refuse_same_text,
)
from osvi_django.validation import checks_types, require_moment, uuid_or_none

# OSVI documents no limit. A longer text would not be read, and was probably pasted by mistake.
TEXT_MAX_LENGTH: Final = 10_000


class ActionOptions(TypedDict, total=False):
    """The keywords of every function that acts on a session."""

    requested_by: User | None
    via: str
    form_key: uuid.UUID | None


class TextOptions(ActionOptions, total=False):
    """The keywords of those that take a text; ``resend``: also if it was sent before."""

    resend: bool


class ExpectedState(TypedDict, total=False):
    """What the caller expects; ``taken_over_at``: of the take-over that is known, or None."""

    taken_over_at: datetime | None


class HandBackOptions(ActionOptions, ExpectedState, total=False):
    """The keywords of a hand back."""


@dataclass(frozen=True, kw_only=True)
class ActionRequest(RequestOrigin):
    """Who asks and via what, and whether to send a text that was sent before."""

    note: str = field(default="", repr=False)
    resend: bool
    form_key: uuid.UUID | None

    def __post_init__(self) -> None:
        super().__post_init__()
        # The only way to set a field of a frozen dataclass.
        object.__setattr__(self, "form_key", uuid_or_none("form_key", self.form_key))


@hides("text")
@checks_types
def run_command(
    command: SupportCommand,
    session: ChatSession,
    text: str = "",
    *,
    requested_by: User | None = None,
    via: str = "code",
    resend: bool = False,
    form_key: uuid.UUID | None = None,
    **expected: Unpack[ExpectedState],
) -> ActionResult:
    """Run a command in a session; ``service.py`` says what is raised."""
    request = ActionRequest(requested_by=requested_by, via=via, resend=resend, form_key=form_key)
    with generic_messages():
        refuse_inside_transaction(selectors.using(session))
    require_operate(requested_by, session)
    text = _checked_text(command, text)
    selectors.reload(session)
    _require_state(command, session)
    _require_same_take_over(session, **expected)
    client = client_of(session.agent.account)
    with waiting_slot(request.via), throttling(client, session.agent.account) as throttle:
        action = _write_action(command, session, text, request)
        sent_at = clock.monotonic()
        result = _carry_out(command, client, action, text)
        throttle.record_success(sent_at)
        return result


def _require_same_take_over(session: ChatSession, **expected: Unpack[ExpectedState]) -> None:
    """Raise ``TakeOverChanged`` if the take-over is not the one that the caller knows."""
    if "taken_over_at" not in expected:
        return
    known = expected["taken_over_at"]
    if known is not None:
        require_moment("taken_over_at", known)
    if session.taken_over_at == (known and to_db_datetime(known)):
        return
    is_over = session.mode == Mode.AI
    raise TakeOverChanged(TakeOverChanged.handed_back if is_over else "")


@hides("text")
def _checked_text(command: SupportCommand, text: str) -> str:
    text = HiddenText(text.strip())
    if command.needs_text and not text:
        problem = _("%(field)s is required.")
        raise InvalidInput(problem % {"field": command.field}, field=command.field)
    if len(text) > TEXT_MAX_LENGTH:
        problem = _("The text is too long: use at most %(length)d characters.")
        raise InvalidInput(problem % {"length": TEXT_MAX_LENGTH}, field=command.field)
    return text


def _require_state(command: SupportCommand, session: ChatSession) -> None:
    """Raise what OSVI would refuse anyway, in plain words and without asking it."""
    claims.require_known_status(session)
    if session.status == Status.UNCONFIRMED:
        raise SessionClosed(SessionClosed.unconfirmed)
    if not session.is_open:
        raise SessionClosed
    if command.needs_support and session.mode != Mode.SUPPORT:
        raise WrongMode
    if command.needs_customer and not (session.customer_id and session.agent.uuid):
        problem = _(
            "Nothing was sent: this site does not know the customer_id or the agent of this chat "
            "session. Look up the customer first."
        )
        raise InvalidInput(problem, field="customer_id")


@hides("text")
def _write_action(
    command: SupportCommand, session: ChatSession, text: str, request: ActionRequest
) -> SupportAction:
    """Write the action before it is sent, unless it may have been sent before."""
    action = SupportAction(
        session=session,
        kind=command.kind,
        **requester_fields(request.requested_by),
        via=request.via,
        text=text,
        form_key=request.form_key,
    )
    try:
        _insert(action, resend=request.resend)
    except SentBefore:
        refuse_same_form(action)
        raise
    except IntegrityError:
        refuse_same_form(action)
        selectors.reload(session)  # it may have been deleted
        raise
    return action


def _insert(action: SupportAction, *, resend: bool) -> None:
    alias = selectors.using(action.session)

    def work() -> None:
        if is_written(action):
            return
        if action.text and not resend:
            refuse_same_text(action)
        # Not an UPDATE: the key from an earlier try may be another action's by now.
        action.pk = None
        action.save(using=alias, force_insert=True)

    persist(work, using=alias, patience=database.PATIENCE_BEFORE)


def _is_known_open(session: ChatSession) -> bool:
    """Return whether more is known of a session than its ids, and that it is open."""
    return session.is_open and session.osvi_updated_at is not None


@hides("text")
def _carry_out(
    command: SupportCommand, client: OSVIClient, action: SupportAction, text: str
) -> ActionResult:
    session, began = action.session, timezone.now()
    try:
        with generic_messages():
            answer = command.send(client, session, text)
            store_answer(action, answer)
            change = command.read(answer, session)
        is_other = follow_answer(action, change, answer)
    except (OSVIError, OSVINotConfigured) as error:
        fail_action(action, error)
        raise
    is_unknown = is_other and not _is_known_open(action.session)
    is_doubtful = apply_change(action, change, began) or is_unknown
    reply, now = change.reply or "", timezone.now()
    change_action(action, reply=reply, outcome=ActionOutcome.DONE, finished_at=now)
    if is_doubtful or (command.sets_mode and is_contested(action)):
        mirror_from_osvi(client, action)
    return ActionResult(
        session=action.session, action=action, reply=change.reply, is_other_session=is_other
    )
