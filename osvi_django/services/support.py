"""Operating a session: take over, speak, guide the agent, hand back.

Each is written down before it is sent, and OSVI's answer as it came before it is read. What was
sent and not answered is not repeated by itself, nor by whoever does not know of it: a customer must
not be told a thing twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import Error, transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from osvi_django.answers import Answer, read_context, read_reply, read_support, storable
from osvi_django.client import OSVIClient
from osvi_django.conf import DEFAULTS, Account, account_aliases
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
from osvi_django.models import ChatAgent, ChatSession, SupportAction
from osvi_django.services import steps
from osvi_django.services.mirroring import exactly, mirror_session
from osvi_django.services.permissions import require_operate
from osvi_django.services.steps import CloseRequest, Status, User
from osvi_django.transactions import kind_of, persist, refuse_inside_transaction

logger = logging.getLogger(__name__)

Kind = SupportAction.Kind
Outcome = SupportAction.Outcome
Mode = ChatSession.Mode

# OSVI documents no limit; nobody reads more, and a slip of the clipboard is not sent.
TEXT_MAX_LENGTH: Final = 10_000
_ANSWER_MAX: Final = 100_000  # characters
# OSVI keeps so many.
_CONTEXT_KEPT: Final = 5
# No call takes so long.
_SURELY_OVER: Final = timedelta(days=2)
_CHUNK: Final = 1_000


@dataclass(frozen=True, kw_only=True)
class ActionResult:
    """What was done in a session; ``reply`` is what the agent said to it, if anything."""

    session: ChatSession
    action: SupportAction
    reply: str | None = None


@dataclass(frozen=True, kw_only=True)
class _News:
    """What an answer says: the agent's words, what changes here, and the context kept from now."""

    reply: str | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    context: list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class _Act:
    """One thing to do: how it is sent, and what its answer changes here."""

    kind: Kind
    send: Callable[[OSVIClient, ChatSession, str], Answer]
    read: Callable[[Answer, ChatSession], _News]
    field: str = "message"
    needs_text: bool = True
    needs_support: bool = False
    needs_customer: bool = False


def take_over(
    session: ChatSession, *, requested_by: User | None = None, door: str = "code"
) -> ActionResult:
    """Let people answer the customer; the agent falls silent.

    All of this module's functions that act on a session raise ``InsideTransaction``,
    ``NotAllowed``, ``InvalidInput``, ``SessionClosed``, ``WrongMode``, ``SessionNotFound`` and
    ``OSVINotConfigured`` before anything is sent, and then what the client raises.

    Those that take a text also raise ``SentBefore``, where the very same was sent last in the same
    way and is still under way, or nobody knows whether it arrived. ``again`` sends it all the same,
    and what arrived since may be repeated. Of two callers at the same moment one is refused; a text
    that was forgotten refuses nobody.
    """
    return _do(_TAKE_OVER, session, "", requested_by, door)


def hand_back(
    session: ChatSession, *, requested_by: User | None = None, door: str = "code"
) -> ActionResult:
    """Let the agent answer again."""
    return _do(_HAND_BACK, session, "", requested_by, door)


def tell(
    session: ChatSession,
    text: str,
    *,
    requested_by: User | None = None,
    door: str = "code",
    again: bool = False,
) -> ActionResult:
    """Guide the agent, and have it answer the customer at once; ``reply`` is what it said."""
    return _do(_TELL, session, text, requested_by, door, again=again)


def whisper(
    session: ChatSession,
    text: str,
    *,
    requested_by: User | None = None,
    door: str = "code",
    again: bool = False,
) -> ActionResult:
    """Guide the agent for when the customer writes next; nobody else sees it."""
    return _do(_WHISPER, session, text, requested_by, door, again=again)


def send_message(
    session: ChatSession,
    text: str,
    *,
    requested_by: User | None = None,
    door: str = "code",
    again: bool = False,
) -> ActionResult:
    """Write to the customer, after having taken over."""
    return _do(_MESSAGE, session, text, requested_by, door, again=again)


def inject_context(
    session: ChatSession,
    text: str,
    *,
    requested_by: User | None = None,
    door: str = "code",
    again: bool = False,
) -> ActionResult:
    """Add a fact to what the agent knows of this session; OSVI keeps the last five."""
    return _do(_CONTEXT, session, text, requested_by, door, again=again)


def receive_message(
    session: ChatSession,
    text: str,
    *,
    requested_by: User | None = None,
    door: str = "code",
    again: bool = False,
) -> ActionResult:
    """Hand over what the customer wrote; ``reply`` is what the agent answers, if it does."""
    return _do(_INBOUND, session, text, requested_by, door, again=again)


def context_of(session: ChatSession) -> list[str]:
    """What the agent was given to know, as far as is known here; empty where nothing is."""
    return _context_in(session.metadata)


def forget_texts() -> int:
    """Remove the texts that are older than the setting ``KEEP_TEXTS``; of how many actions.

    Added context is removed from its session as well. Who did what and when stays, and whatever
    OSVI has told by itself. Raises ``InvalidSetting``.
    """
    configured = {alias: Account(alias).keep_texts for alias in account_aliases()}
    # Also of accounts that are in the settings no more: nobody else would forget these.
    known = {*configured, *ChatAgent.objects.values_list("account", flat=True).distinct()}
    kept = {account: configured.get(account, DEFAULTS["KEEP_TEXTS"]) for account in known}
    return sum(_forget(account, days) for account, days in kept.items() if days is not None)


def _forget(account: str, days: float) -> int:
    now = timezone.now()
    old = SupportAction.objects.filter(forgotten_at=None, started_at__lt=now - timedelta(days=days))
    # What is under way is still to be written; of what died on the way that is not so.
    over = Q(finished_at__isnull=False) | Q(started_at__lt=now - _SURELY_OVER)
    mine = old.filter(over, session__agent__account=account).values_list("pk", flat=True)
    forgotten = 0
    while keys := list(mine[:_CHUNK]):
        _forget_contexts(keys)
        actions = SupportAction.objects.filter(pk__in=keys)
        forgotten += actions.exclude(text="", reply="", answer="").count()
        actions.update(text="", reply="", answer="", forgotten_at=now)
    return forgotten


def _forget_contexts(keys: Sequence[int]) -> None:
    """Remove what these actions added to sessions, while the texts to know it by are still here."""
    added = _contexts().filter(pk__in=keys).order_by()
    for session in ChatSession.objects.filter(pk__in=added.values("session")).only("pk"):
        _forget_context(session, keys)


def _forget_context(session: ChatSession, keys: Sequence[int]) -> None:
    alias = steps.using(session)
    mine = steps.rows(session)
    with transaction.atomic(using=alias):
        _hold(session)
        metadata = mine.values_list("metadata", flat=True).first()
        known = _context_in(metadata)
        added = _contexts().using(alias).filter(session=session, text__in=known)
        gone = set(added.filter(pk__in=keys).values_list("text", flat=True))
        gone -= set(added.exclude(pk__in=keys).values_list("text", flat=True))
        if gone.intersection(known):
            left = [each for each in known if each not in gone]
            mine.update(metadata=_with_context(metadata, left))


def _contexts() -> QuerySet[SupportAction]:
    """The actions by whose texts sessions have context, as long as they have them."""
    outcomes = (*SupportAction.UNKNOWN, Outcome.DONE)
    actions = SupportAction.objects.filter(kind=Kind.CONTEXT, outcome__in=outcomes)
    return actions.filter(forgotten_at=None)


def _do(
    act: _Act,
    session: ChatSession,
    text: str,
    requested_by: User | None,
    door: str,
    *,
    again: bool = False,
) -> ActionResult:
    with not_a_close():
        refuse_inside_transaction(steps.using(session))
    require_operate(requested_by, session)
    request = CloseRequest(requested_by=requested_by, door=door, note="")
    text = _checked(act, text)
    steps.reload(session)
    _require_state(act, session)
    client = OSVIClient.for_account(session.agent.account)
    action = _write_down(act, session, text, request, again=again)
    began = timezone.now()
    try:
        with not_a_close():
            answer = act.send(client, session, text)
            _keep(action, answer)
            news = act.read(answer, session)
    except (OSVIError, OSVINotConfigured) as error:
        _end(action, _outcome_of(error), error)
        raise
    _change_session(session, news, began)
    _change(action, reply=news.reply or "", outcome=Outcome.DONE, finished_at=timezone.now())
    if "mode" in news.changes and _is_contested(action):
        _ask_whose_turn_it_is(client, session)
    return ActionResult(session=session, action=action, reply=news.reply)


def _checked(act: _Act, text: str) -> str:
    text = text.strip() if isinstance(text, str) else ""
    if act.needs_text and not text:
        problem = _("%(field)s is missing: write what is to be said.")
        raise InvalidInput(problem % {"field": act.field}, field=act.field)
    if len(text) > TEXT_MAX_LENGTH:
        problem = _("%(field)s is too long: use at most %(length)d characters.")
        told = {"field": act.field, "length": TEXT_MAX_LENGTH}
        raise InvalidInput(problem % told, field=act.field)
    return storable(text)


def _require_state(act: _Act, session: ChatSession) -> None:
    """What OSVI would refuse anyway, in plain words and without asking it."""
    if session.status in {Status.CLOSED, Status.CLOSING}:
        raise SessionClosed
    if act.needs_support and session.mode != Mode.SUPPORT:
        raise WrongMode
    if act.needs_customer and not (session.customer_id and session.agent.uuid):
        problem = _(
            "The customer_id or the agent of this chat session is not known here, so nothing was "
            "sent: look the customer up first."
        )
        raise InvalidInput(problem, field="customer_id")


def _write_down(
    act: _Act, session: ChatSession, text: str, request: CloseRequest, *, again: bool
) -> SupportAction:
    action = SupportAction(
        session=session,
        kind=act.kind,
        requested_by=steps.as_row(request.requested_by),
        door=request.door,
        text=text,
    )
    alias = steps.using(session)

    def work() -> None:
        if text and not again:
            _refuse_sent_before(action)
        action.save(using=alias)

    persist(work, using=alias, patience=steps.PATIENCE_BEFORE)
    return action


def _refuse_sent_before(action: SupportAction) -> None:
    """Raise ``SentBefore`` where nobody knows what became of the same; in the caller's transaction.

    Whoever comes at the same moment waits here, and then finds what was written down.
    """
    _hold(action.session)
    last = _sent_last(action)
    if last is not None and last.outcome in SupportAction.UNKNOWN:
        error = SentBefore()
        error.action = last
        raise error


def _hold(session: ChatSession) -> None:
    """Keep others from writing to a session until the caller's transaction ends.

    By an UPDATE that changes nothing: SQLite lets no reader of a transaction become its writer.
    """
    steps.rows(session).update(active_human=F("active_human"))


def _sent_last(action: SupportAction) -> SupportAction | None:
    """What said the very same in this session the last time that it was sent, or may have been."""
    actions = SupportAction.objects.using(steps.using(action.session)).defer("answer")
    alike = actions.filter(exactly("text", action.text), session=action.session, kind=action.kind)
    # Itself it may be, where the commit of a try before this arrived and the word of it did not.
    sent = alike.filter(outcome__in=(*SupportAction.UNKNOWN, Outcome.DONE)).exclude(pk=action.pk)
    return sent.order_by("-started_at", "-id").first()


def _keep(action: SupportAction, answer: Answer) -> None:
    """Store what OSVI answered before anybody reads it."""
    _change(action, http_status=answer.status, answer=answer.text[:_ANSWER_MAX])


def _change_session(session: ChatSession, news: _News, began: datetime) -> None:
    """Mirror what was done; OSVI has acted, so that what goes wrong here is only logged."""
    alias = steps.using(session)

    def work() -> None:
        _write_news(session, news, began)
        steps.reload(session)

    try:
        if news.changes or news.context is not None:
            persist(work, using=alias, patience=steps.PATIENCE_BEFORE)
    except (Error, SessionNotFound) as error:
        told = (session.session_id, kind_of(error))
        logger.error("what was done in session %r could not be mirrored: %s", *told)


def _write_news(session: ChatSession, news: _News, began: datetime) -> None:
    """Write it into what is stored by now, which may be newer than ``session``."""
    # The UPDATE comes first: SQLite lets no reader of a transaction become its writer.
    changed = _rows_for(session, news.changes).update(**news.changes, updated_at=timezone.now())
    if not changed:
        return
    mine = steps.rows(session)
    # What OSVI said before this, and arrives later, is old.
    older = Q(osvi_updated_at=None) | Q(osvi_updated_at__lt=began)
    mine.filter(older).update(osvi_updated_at=began)
    if news.context is not None:
        _write_context(session, news.context)


def _write_context(session: ChatSession, told: list[str]) -> None:
    """Write what OSVI keeps, unless whoever added more was faster."""
    metadata = steps.rows(session).values_list("metadata", flat=True).get()
    stored = _context_in(metadata)
    if stored == context_of(session) or not _goes_on_from(told, stored):
        steps.rows(session).update(metadata=_with_context(metadata, told))


def _goes_on_from(told: list[str], stored: list[str]) -> bool:
    """Whether what is stored is what was told, and something added to it."""
    added = (stored[-number:] for number in range(1, len(stored)))
    return any([*told, *more][-_CONTEXT_KEPT:] == stored for more in added)


def _context_in(metadata: Any) -> list[str]:
    known = _object(_object(metadata).get("metadata")).get("context")
    return [each for each in known if isinstance(each, str)] if isinstance(known, list) else []


def _with_context(metadata: Any, context: list[str]) -> dict[str, Any]:
    metadata = _object(metadata)
    return {**metadata, "metadata": {**_object(metadata.get("metadata")), "context": context}}


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_contested(action: SupportAction) -> bool:
    """Whether others changed who answers meanwhile: only OSVI knows who of them came last."""
    others = SupportAction.objects.using(steps.using(action.session)).exclude(pk=action.pk)
    theirs = others.filter(session=action.session, kind__in=(Kind.TAKE_OVER, Kind.HAND_BACK))
    since = action.started_at
    under_way = Q(finished_at=None, started_at__gt=since - _SURELY_OVER)
    return theirs.filter(under_way | Q(finished_at__gte=since)).exists()


def _ask_whose_turn_it_is(client: OSVIClient, session: ChatSession) -> None:
    """Mirror what OSVI tells of a session; a look-up does the same where it does not tell now."""
    agent = session.agent
    try:
        remote = client.active_session(session.customer_id, agent_uuid=agent.uuid or "")
        if remote is not None and remote.session_id == session.session_id:
            mirror_session(remote, account=agent.account)
            steps.reload(session)
    except (OSVIError, OSVINotConfigured, Error) as error:
        told = (session.session_id, kind_of(error))
        logger.warning("whose turn it is in session %r is not known: %s", *told)


def _rows_for(session: ChatSession, changes: dict[str, Any]) -> QuerySet[ChatSession]:
    rows = steps.rows(session).exclude(status=Status.CLOSED)
    # Whoever closes it by now holds it by its status.
    return rows.filter(status=session.status) if "status" in changes else rows


def _end(action: SupportAction, outcome: Outcome, error: OSVIError | OSVINotConfigured) -> None:
    error.action = action
    told = {"error_code": error.code, "error_reason": words_of(error)}
    logger.warning("action %s of session %s: %s", action.pk, action.session_id, error.code)
    _change(action, outcome=outcome, finished_at=timezone.now(), **told)


def _change(action: SupportAction, **changes: Any) -> None:
    """Change an action, also in the database; OSVI has acted, so its absence is only logged."""
    for name, value in changes.items():
        setattr(action, name, value)
    alias = steps.using(action.session)
    mine = SupportAction.objects.using(alias).filter(pk=action.pk)
    try:
        persist(lambda: mine.update(**changes), using=alias, patience=steps.PATIENCE_BEFORE)
    except Error as error:
        logger.error("action %s could not be written: %s", action.pk, kind_of(error))


def _outcome_of(error: OSVIError | OSVINotConfigured) -> Outcome:
    outcome, _reopens = steps.policy(error)
    return Outcome(outcome.value)


def _command(name: str) -> Callable[[OSVIClient, ChatSession, str], Answer]:
    def send(client: OSVIClient, session: ChatSession, text: str) -> Answer:
        return client.send_support(session.session_id, command=name, message=text)

    return send


def _send_context(client: OSVIClient, session: ChatSession, text: str) -> Answer:
    return client.send_context(session.session_id, text)


def _send_inbound(client: OSVIClient, session: ChatSession, text: str) -> Answer:
    return client.send_inbound(
        agent_uuid=session.agent.uuid or "",
        customer_id=session.customer_id,
        content=text,
        session_id=session.session_id,
    )


def _nothing_changes(answer: Answer, session: ChatSession) -> _News:
    return _News(reply=read_support(answer, session.session_id).reply)


def _taken_over(answer: Answer, session: ChatSession) -> _News:
    told = read_support(answer, session.session_id)
    who = told.active_human[:255]
    return _News(changes={"mode": Mode.SUPPORT, "active_human": who, "help_requested": False})


def _handed_back(answer: Answer, session: ChatSession) -> _News:
    read_support(answer, session.session_id)
    return _News(changes={"mode": Mode.AI, "active_human": ""})


def _context_added(answer: Answer, session: ChatSession) -> _News:
    return _News(context=list(read_context(answer))[-_CONTEXT_KEPT:])


def _received(answer: Answer, session: ChatSession) -> _News:
    # The customer has woken it.
    changes = {"status": Status.ACTIVE} if session.status == Status.DORMANT else {}
    return _News(reply=read_reply(answer, session.session_id).text, changes=changes)


_TAKE_OVER: Final = _Act(
    kind=Kind.TAKE_OVER, send=_command("takeover"), read=_taken_over, needs_text=False
)
_HAND_BACK: Final = _Act(
    kind=Kind.HAND_BACK, send=_command("end"), read=_handed_back, needs_text=False
)
_TELL: Final = _Act(kind=Kind.TELL, send=_command("tell"), read=_nothing_changes)
_WHISPER: Final = _Act(kind=Kind.WHISPER, send=_command("whisper"), read=_nothing_changes)
_MESSAGE: Final = _Act(
    kind=Kind.MESSAGE, send=_command(""), read=_nothing_changes, needs_support=True
)
_CONTEXT: Final = _Act(kind=Kind.CONTEXT, send=_send_context, read=_context_added, field="context")
_INBOUND: Final = _Act(
    kind=Kind.INBOUND, send=_send_inbound, read=_received, field="content", needs_customer=True
)
