"""Operate a session: take over, write, guide the agent, hand back.

Each action is written before it is sent, and OSVI's raw answer before it is parsed. An action that
was sent and not answered is not repeated automatically, nor by a caller who does not know about it:
a customer must not receive a message twice.
"""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import Error, IntegrityError, router
from django.db.models import F, Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from osvi_django import clock, database
from osvi_django.client import OSVIClient
from osvi_django.client.responses import (
    Answer,
    is_same_id,
    names_another,
)
from osvi_django.database import exact_match, persist, refuse_inside_transaction, safe_error_name
from osvi_django.exceptions import (
    InvalidInput,
    OSVIError,
    OSVINotConfigured,
    SentBefore,
    SessionClosed,
    SessionNotFound,
    WrongMode,
    not_a_close,
    words_of,
)
from osvi_django.models import ChatSession, SupportAction
from osvi_django.redaction import HiddenText, hides
from osvi_django.services import selectors
from osvi_django.services.attempts import claims, error_policy
from osvi_django.services.attempts.clients import client_of
from osvi_django.services.attempts.heeding import heeding
from osvi_django.services.attempts.sync_limit import waiting
from osvi_django.services.attempts.types import RequestOrigin, Status, User
from osvi_django.services.mirroring.sessions import mirror_session
from osvi_django.services.permissions import require_operate, who
from osvi_django.services.support.actions import (
    CONTEXT,
    HAND_BACK,
    INBOUND,
    MESSAGE,
    TAKE_OVER,
    TELL,
    WHISPER,
    ActionKind,
    ActionOutcome,
    Mode,
    StateChange,
    SupportCommand,
)
from osvi_django.services.support.context import write_context
from osvi_django.validation import storable

logger = logging.getLogger(__name__)

# OSVI documents no limit. A longer text would not be read, and was probably pasted by mistake.
TEXT_MAX_LENGTH: Final = 10_000
_ANSWER_MAX: Final = 100_000  # characters
# No call takes so long.
SURELY_OVER: Final = timedelta(days=2)


@dataclass(frozen=True, kw_only=True)
class ActionResult:
    """What was done in a session; ``reply`` is what the agent said to it, if anything."""

    session: ChatSession
    action: SupportAction
    reply: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Asked(RequestOrigin):
    """Who asks and via what; ``resend``: whether to send a text that was sent before."""

    note: str = ""
    resend: bool = False
    form_key: uuid.UUID | None = None


def take_over(
    session: ChatSession,
    *,
    requested_by: User | None = None,
    via: str = "code",
    form_key: uuid.UUID | None = None,
) -> ActionResult:
    """Let people answer the customer; the agent stops answering.

    All functions of this module that act on a session raise ``InsideTransaction``, ``NotAllowed``,
    ``InvalidInput``, ``SessionClosed``, ``UnknownStatus``, ``WrongMode``, ``SessionNotFound``,
    ``Busy`` and ``OSVINotConfigured`` before anything is sent, and then what the client raises.

    Those that take a text also raise ``SentBefore`` if the same text was the last one sent in the
    same way and is still being sent, or it is unknown whether it arrived. ``resend`` sends it
    anyway; a text that did arrive is then repeated. Of two callers at the same moment one is
    refused; a redacted text does not refuse any.

    Of all calls with the same ``form_key``, a UUID of the form or the task that asks, one is sent.
    The others raise ``SentBefore``, even with ``resend``; its ``action`` is the one that was sent,
    or None if that is of another session. An action that was not done, because OSVI was not reached
    or refused it, can be sent with the same key again.
    """
    asked = _Asked(requested_by=requested_by, via=via, form_key=form_key)
    return _do(TAKE_OVER, session, "", asked)


def hand_back(
    session: ChatSession,
    *,
    requested_by: User | None = None,
    via: str = "code",
    form_key: uuid.UUID | None = None,
) -> ActionResult:
    """Let the agent answer again."""
    asked = _Asked(requested_by=requested_by, via=via, form_key=form_key)
    return _do(HAND_BACK, session, "", asked)


@hides("text")
def tell(
    session: ChatSession,
    text: str,
    *,
    requested_by: User | None = None,
    via: str = "code",
    resend: bool = False,
    form_key: uuid.UUID | None = None,
) -> ActionResult:
    """Guide the agent, and have it answer the customer at once; ``reply`` is its answer."""
    asked = _Asked(requested_by=requested_by, via=via, resend=resend, form_key=form_key)
    return _do(TELL, session, text, asked)


@hides("text")
def whisper(
    session: ChatSession,
    text: str,
    *,
    requested_by: User | None = None,
    via: str = "code",
    resend: bool = False,
    form_key: uuid.UUID | None = None,
) -> ActionResult:
    """Guide the agent for the customer's next message; only the agent sees this."""
    asked = _Asked(requested_by=requested_by, via=via, resend=resend, form_key=form_key)
    return _do(WHISPER, session, text, asked)


@hides("text")
def send_message(
    session: ChatSession,
    text: str,
    *,
    requested_by: User | None = None,
    via: str = "code",
    resend: bool = False,
    form_key: uuid.UUID | None = None,
) -> ActionResult:
    """Write to the customer, after having taken over."""
    asked = _Asked(requested_by=requested_by, via=via, resend=resend, form_key=form_key)
    return _do(MESSAGE, session, text, asked)


@hides("text")
def inject_context(
    session: ChatSession,
    text: str,
    *,
    requested_by: User | None = None,
    via: str = "code",
    resend: bool = False,
    form_key: uuid.UUID | None = None,
) -> ActionResult:
    """Add a fact to what the agent knows of this session; OSVI keeps the last five."""
    asked = _Asked(requested_by=requested_by, via=via, resend=resend, form_key=form_key)
    return _do(CONTEXT, session, text, asked)


@hides("text")
def receive_message(
    session: ChatSession,
    text: str,
    *,
    requested_by: User | None = None,
    via: str = "code",
    resend: bool = False,
    form_key: uuid.UUID | None = None,
) -> ActionResult:
    """Pass on what the customer wrote; ``reply`` is the agent's answer, if it gives one."""
    asked = _Asked(requested_by=requested_by, via=via, resend=resend, form_key=form_key)
    return _do(INBOUND, session, text, asked)


def actions_of(session: ChatSession) -> QuerySet[SupportAction]:
    """Return what was done in a session, read from the database it is written to."""
    return all_actions().filter(session=session)


def action_of_form(session: ChatSession, form_key: uuid.UUID | None) -> SupportAction | None:
    """Return the action of the form with this key in a session, done or in progress."""
    if form_key is None:
        return None
    return actions_of(session).filter(form_key=form_key).defer("answer").first()


def all_actions() -> QuerySet[SupportAction]:
    return SupportAction.objects.using(router.db_for_write(SupportAction))


def _do(act: SupportCommand, session: ChatSession, text: str, asked: _Asked) -> ActionResult:
    with not_a_close():
        refuse_inside_transaction(selectors.using(session))
    require_operate(asked.requested_by, session)
    text = _checked(act, text)
    selectors.reload(session)
    _require_state(act, session)
    client = client_of(session.agent.account)
    with waiting(asked.via), heeding(client, session.agent.account) as throttle:
        action = _write_down(act, session, text, asked)
        sent_at = clock.monotonic()
        result = _carry_out(act, client, action, text)
        throttle.record_success(sent_at)
        return result


@hides("text")
def _carry_out(
    act: SupportCommand, client: OSVIClient, action: SupportAction, text: str
) -> ActionResult:
    session, began = action.session, timezone.now()
    try:
        with not_a_close():
            answer = act.send(client, session, text)
            _keep(action, answer)
            news = act.read(answer, session)
    except (OSVIError, OSVINotConfigured) as error:
        _end(action, _outcome_of(error), error)
        raise
    _change_session(session, news, began)
    _change(action, reply=news.reply or "", outcome=ActionOutcome.DONE, finished_at=timezone.now())
    if "mode" in news.changes and _is_contested(action):
        _ask_whose_turn_it_is(client, session)
    return ActionResult(session=session, action=action, reply=news.reply)


@hides("text")
def _checked(act: SupportCommand, text: str) -> str:
    text = HiddenText(text.strip() if isinstance(text, str) else "")
    if act.needs_text and not text:
        problem = _("%(field)s is required.")
        raise InvalidInput(problem % {"field": act.field}, field=act.field)
    if len(text) > TEXT_MAX_LENGTH:
        problem = _("%(field)s is too long: use at most %(length)d characters.")
        told = {"field": act.field, "length": TEXT_MAX_LENGTH}
        raise InvalidInput(problem % told, field=act.field)
    return storable(text)


def _require_state(act: SupportCommand, session: ChatSession) -> None:
    """Raise what OSVI would refuse anyway, in plain words and without asking it."""
    claims.require_known_status(session)
    if session.status in {Status.CLOSED, Status.CLOSING}:
        raise SessionClosed
    if act.needs_support and session.mode != Mode.SUPPORT:
        raise WrongMode
    if act.needs_customer and not (session.customer_id and session.agent.uuid):
        problem = _(
            "Nothing was sent: this site does not know the customer_id or the agent of this chat "
            "session. Look up the customer first."
        )
        raise InvalidInput(problem, field="customer_id")


def _write_down(
    act: SupportCommand, session: ChatSession, text: str, asked: _Asked
) -> SupportAction:
    action = SupportAction(
        session=session,
        kind=act.kind,
        **who(asked.requested_by),
        via=asked.via,
        text=text,
        form_key=asked.form_key,
    )
    alias = selectors.using(session)

    def work() -> None:
        if _is_written(action):
            return
        if text and not asked.resend:
            _refuse_sent_before(action)
        # Not an UPDATE: the key from an earlier try may be another action's by now.
        action.pk = None
        action.save(using=alias, force_insert=True)

    try:
        persist(work, using=alias, patience=database.PATIENCE_BEFORE)
    except SentBefore:
        _refuse_form_sent_before(action)
        raise
    except IntegrityError:
        _refuse_form_sent_before(action)
        selectors.reload(session)  # it may have been deleted
        raise
    return action


def _is_written(action: SupportAction) -> bool:
    """Return whether an earlier try was committed without our learning of it."""
    if action.pk is None:
        return False
    lock_session(action.session)
    actions = SupportAction.objects.using(selectors.using(action.session))
    # On SQLite, the key of a row that is rolled back is given to the next one.
    return actions.filter(pk=action.pk, started_at=action.started_at).exists()


def _refuse_form_sent_before(action: SupportAction) -> None:
    """Raise ``SentBefore`` if another action has the key of this one, which is not written."""
    if action.form_key is None:
        return
    actions = SupportAction.objects.using(selectors.using(action.session))
    if (first := actions.filter(form_key=action.form_key).first()) is not None:
        error = SentBefore(SentBefore.same_form)
        error.action = first if first.session_id == action.session_id else None
        raise error from None


def _refuse_sent_before(action: SupportAction) -> None:
    """Raise ``SentBefore`` if the outcome of the same text is unknown.

    In the caller's transaction. A concurrent caller waits here, and then finds what was written.
    """
    lock_session(action.session)
    last = _sent_last(action)
    if last is not None and last.outcome in SupportAction.UNKNOWN:
        error = SentBefore()
        error.action = last
        raise error


def lock_session(session: ChatSession) -> None:
    """Keep others from writing to a session until the caller's transaction ends.

    By an UPDATE that changes nothing: in SQLite, a transaction that has read cannot start to write.
    """
    selectors.rows(session).update(active_human=F("active_human"))


def _sent_last(action: SupportAction) -> SupportAction | None:
    """Return the last action with the same text in this session that was or may have been sent."""
    actions = SupportAction.objects.using(selectors.using(action.session)).defer("answer")
    alike = actions.filter(
        exact_match("text", action.text), session=action.session, kind=action.kind
    )
    sent = alike.filter(outcome__in=(*SupportAction.UNKNOWN, ActionOutcome.DONE))
    return sent.order_by("-started_at", "-id").first()


def _keep(action: SupportAction, answer: Answer) -> None:
    """Store OSVI's answer before it is parsed, but nothing about another session."""
    is_anothers = names_another(answer, action.session.session_id)
    text = "" if is_anothers else HiddenText(answer.text[:_ANSWER_MAX])
    _change(action, http_status=answer.status, answer=text)


def _change_session(session: ChatSession, news: StateChange, began: datetime) -> None:
    """Mirror what was done; OSVI has acted, so errors here are only logged."""
    alias = selectors.using(session)

    def work() -> None:
        _write_news(session, news, began)
        selectors.reload(session)

    try:
        persist(work, using=alias, patience=database.PATIENCE_BEFORE)
    except (Error, SessionNotFound) as error:
        told = (session.session_id, safe_error_name(error))
        logger.error("what was done in session %r could not be mirrored: %s", *told)


def _write_news(session: ChatSession, news: StateChange, began: datetime) -> None:
    """Write the changes to the stored row, which may be newer than ``session``."""
    # The UPDATE comes first: in SQLite, a transaction that has read cannot start to write.
    now = timezone.now()
    changes = {**news.changes, "last_activity_at": now, "updated_at": now}
    changed = _rows_for(session, news.changes).update(**changes)
    if not changed or not (news.changes or news.context is not None):
        return
    mine = selectors.rows(session)
    # Anything that OSVI said before this and that arrives later is old.
    older = Q(osvi_updated_at=None) | Q(osvi_updated_at__lt=began)
    mine.filter(older).update(osvi_updated_at=began)
    if news.context is not None:
        write_context(session, news.context)


def _is_contested(action: SupportAction) -> bool:
    """Return whether others have changed who answers: only OSVI knows which change was last."""
    others = SupportAction.objects.using(selectors.using(action.session)).exclude(pk=action.pk)
    theirs = others.filter(
        session=action.session, kind__in=(ActionKind.TAKE_OVER, ActionKind.HAND_BACK)
    )
    since = action.started_at
    under_way = Q(finished_at=None, started_at__gt=since - SURELY_OVER)
    return theirs.filter(under_way | Q(finished_at__gte=since)).exists()


def _ask_whose_turn_it_is(client: OSVIClient, session: ChatSession) -> None:
    """Mirror OSVI's state of a session; if OSVI does not answer now, a later look-up does it."""
    agent = session.agent
    try:
        with heeding(client, agent.account):
            remote = client.active_session(session.customer_id, agent_uuid=agent.uuid or "")
        if remote is not None and is_same_id(remote.session_id, session.session_id):
            mirror_session(remote, account=agent.account)
            selectors.reload(session)
    except (OSVIError, OSVINotConfigured, Error) as error:
        told = (session.session_id, safe_error_name(error))
        logger.warning("whose turn it is in session %r is not known: %s", *told)


def _rows_for(session: ChatSession, changes: dict[str, Any]) -> QuerySet[ChatSession]:
    rows = selectors.rows(session).exclude(status=Status.CLOSED)
    # If it is being closed by now, its status holds the claim.
    return rows.filter(status=session.status) if "status" in changes else rows


def _end(
    action: SupportAction, outcome: ActionOutcome, error: OSVIError | OSVINotConfigured
) -> None:
    error.action = action
    told: dict[str, Any] = {"error_code": error.code, "error_reason": words_of(error)}
    if outcome not in SupportAction.UNKNOWN:
        told["form_key"] = None  # nothing was done, so the same form may be sent again
    logger.warning("action %s of session %s: %s", action.pk, action.session_id, error.code)
    _change(action, outcome=outcome, finished_at=timezone.now(), **told)


def _change(action: SupportAction, **changes: Any) -> None:
    """Change an action in memory and in the database, and only log if that is unavailable."""
    for name, value in changes.items():
        setattr(action, name, value)
    alias = selectors.using(action.session)
    mine = SupportAction.objects.using(alias).filter(pk=action.pk)
    try:
        persist(lambda: mine.update(**changes), using=alias, patience=database.PATIENCE_BEFORE)
    except Error as error:
        logger.error("action %s could not be written: %s", action.pk, safe_error_name(error))


def _outcome_of(error: OSVIError | OSVINotConfigured) -> ActionOutcome:
    return ActionOutcome(error_policy.attempt_outcome(error).value)
