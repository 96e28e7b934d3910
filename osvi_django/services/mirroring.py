"""How a session that OSVI knows comes into this database, and is kept true there.

OSVI has no call that lists sessions. They come here by being started through this site, looked up
by customer, handed over by the host's own chat code, or closed by their ids.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, TypeGuard, TypeVar

from django.db import IntegrityError, OperationalError, router, transaction
from django.db.models import Exists, F, Model, OuterRef, ProtectedError, Q, QuerySet
from django.db.models.functions import Length
from django.db.models.lookups import Exact
from django.utils import timezone
from django.utils.translation import gettext as _

from osvi_django.answers import RemoteSession, StartedSession, read_session, read_start, storable
from osvi_django.client import OSVIClient
from osvi_django.conf import DEFAULT_ACCOUNT, InvalidSetting, account_aliases
from osvi_django.exceptions import (
    InvalidInput,
    OSVIBadAnswer,
    OSVINotConfigured,
    not_a_close,
)
from osvi_django.models import ID_MAX_LENGTH, ChatAgent, ChatSession, SupportAction
from osvi_django.services import steps
from osvi_django.services.permissions import require_operate
from osvi_django.services.quiet import ask_each
from osvi_django.services.steps import Closed, CloseRequest, Kind, Outcome, Status, User
from osvi_django.services.times import as_stored
from osvi_django.transactions import persist, refuse_inside_transaction

ActionKind = SupportAction.Kind
_Row = TypeVar("_Row", bound=Model)
_Told = TypeVar("_Told", RemoteSession, StartedSession)

# OSVI's clock is trusted so far ahead of ours: a date in the far future would outlast all news.
_AHEAD: Final = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class LookedUp:
    """What a customer has open, newest first, now that OSVI was asked.

    ``listed``: how many OSVI lists as active; ``quiet``: how many others it has not closed;
    ``untold``: of how many others it did not tell.
    """

    sessions: Sequence[ChatSession]
    listed: int
    quiet: int
    untold: int


def find_session(session_id: str) -> ChatSession | None:
    """The session of this id, with its agent and summary, or None. Any text is safe to ask for."""
    if not is_storable_id(session_id):
        return None
    found = ChatSession.objects.select_related("agent", "summary").filter(session_id=session_id)
    session = found.first()
    # MariaDB compares without regard to case and accents: another id is another session.
    return session if session and session.session_id == session_id else None


def mirror_by_id(session_id: str, *, agent_uuid: str, account: str, **first: Any) -> ChatSession:
    """Begin to mirror a session of which only the ids are known, and what a new row begins with.

    Raises ``InvalidInput`` where an id cannot be one. Safe when two processes do it at once.
    """
    _require_id("session_id", session_id)
    agent = _agent(agent_uuid, account)
    session = _get_or_insert(ChatSession, {"session_id": session_id}, agent=agent, **first)
    if session is None:
        raise _look_alike("session_id")
    return session


def mirror_session(
    payload: Mapping[str, Any] | RemoteSession,
    *,
    account: str = DEFAULT_ACCOUNT,
    agent_uuid: str = "",
) -> ChatSession:
    """Mirror a session object of Chat v1, as OSVI sent it: the one way in for what OSVI tells.

    News that is older than what is known changes nothing, and nothing opens a closed session again.
    Where the object says that OSVI has closed it, it is closed here too, without a summary.
    ``agent_uuid``: of its agent, which the object itself has only by number.

    Raises ``InvalidInput`` where it is no session object or another account's, and
    ``OSVINotConfigured`` where there is no such account. Safe when several processes do it at once,
    and inside a transaction.
    """
    _require_account(account)
    remote = payload if isinstance(payload, RemoteSession) else _read(payload, read_session)
    _require_ids(remote)
    known = find_session(remote.session_id)
    if known and known.agent.account != account:
        problem = _("account names another one than that of this session's agent.")
        raise InvalidInput(problem, field="account")
    by = CloseRequest(requested_by=None, door="code", note="")
    return _mirror(remote, account, agent_uuid, by)


def mirror_started(
    payload: Mapping[str, Any] | StartedSession,
    *,
    agent_uuid: str,
    customer_id: str | None = "",
    account: str | None = None,
) -> ChatSession:
    """Mirror a session that was started in the legacy dialect, by the ``data`` of OSVI's answer.

    That names neither the customer nor the account: where ``account`` is not named it is the one
    that knows the agent. Of a session that is here already it adds what was not known.
    Raises as ``mirror_session``, and is as safe.
    """
    started = payload if isinstance(payload, StartedSession) else _read(payload, read_start)
    customer_id = customer_id or ""
    if customer_id:
        _require_id("customer_id", customer_id)
    account = account_of(agent_uuid, account)
    session = mirror_by_id(
        started.session_id,
        agent_uuid=agent_uuid,
        account=account,
        customer_id=customer_id,
        started_at=as_stored(started.started_at or timezone.now()),
    )
    if customer_id:
        unknown = steps.rows(session).filter(customer_id="")
        unknown.update(customer_id=customer_id, updated_at=timezone.now())
    nameless = ChatAgent.objects.using(steps.using(session)).filter(pk=session.agent_id, name="")
    nameless.update(name=started.agent_name[:255])
    steps.reload(session)
    return session


def start_session(
    *,
    agent_uuid: str,
    customer_id: str,
    input_fields: Mapping[str, Any] | None = None,
    context: Sequence[str] | None = None,
    account: str | None = None,
    requested_by: User | None = None,
    door: str = "code",
) -> ChatSession:
    """Start a session at OSVI, mirror it, and write down who did.

    OSVI first closes what the customer has open with this agent, so that is closed here too,
    without a summary. Where ``account`` is not named it is the one that knows the agent, else
    ``"default"``. Raises ``NotAllowed``, ``InvalidInput``, ``InsideTransaction`` and what the
    client raises.
    """
    with not_a_close():
        refuse_inside_transaction(router.db_for_write(ChatSession))
        require_operate(requested_by)
        by = CloseRequest(requested_by=requested_by, door=door, note="")
        _require_id("agent_uuid", agent_uuid)
        _require_id("customer_id", customer_id)
        account = account_of(agent_uuid, account)
        client = OSVIClient.for_account(account)
        began = timezone.now()
        remote = client.create_session(
            agent_uuid=agent_uuid,
            customer_id=customer_id,
            input_fields=input_fields,
            context=context or (),
        )
    session = _mirror_told(remote, account=account, agent_uuid=agent_uuid, by=by)
    _write_start(session, context or (), by, began)
    _close_all_but_the_last(session, by, began)
    return session


def sync_customer(
    customer_id: str,
    *,
    account: str = DEFAULT_ACCOUNT,
    requested_by: User | None = None,
    door: str = "code",
) -> list[ChatSession]:
    """Mirror all that a customer has open at OSVI, and return what is open of theirs, newest first.

    What ``look_up_customer`` finds, which says more of it. Raises as ``start_session``.
    """
    found = look_up_customer(customer_id, account=account, requested_by=requested_by, door=door)
    return list(found.sessions)


def look_up_customer(
    customer_id: str,
    *,
    account: str = DEFAULT_ACCOUNT,
    requested_by: User | None = None,
    door: str = "code",
) -> LookedUp:
    """Mirror all that a customer has open at OSVI, and tell what OSVI lists from what it does not.

    An open session that OSVI does not list is closed here, without a summary, where OSVI lists a
    later one of the same agent or refuses to pause it. One that lets itself be paused has only gone
    quiet, is dormant here too, and closing it brings its summary. Where OSVI does not tell, it
    stays as it is. Raises as ``start_session``.
    """
    with not_a_close(asks_only=True):
        refuse_inside_transaction(router.db_for_write(ChatSession))
        require_operate(requested_by)
        by = CloseRequest(requested_by=requested_by, door=door, note="")
        _require_id("customer_id", customer_id)
        client = OSVIClient.for_account(account)
        asked_at = timezone.now()
        remotes = client.active_sessions(customer_id)
    told = ask_each(client, unlisted(customer_id, remotes, account=account, asked_at=asked_at))
    store_active(customer_id, remotes, account=account, asked_at=asked_at, told=told, by=by)
    ours = _of_customer(customer_id, account).filter(status__in=ChatSession.OPEN)
    return _looked_up(list(ours.order_by("-started_at", "-id")), remotes, told)


def unlisted(
    customer_id: str, remotes: Mapping[str, RemoteSession], *, account: str, asked_at: datetime
) -> list[ChatSession]:
    """Those of which OSVI is to be asked whether they are closed, as it did not list them.

    The longest not asked about come first. The arguments are ``store_active``'s.
    """
    gone = _gone(customer_id, remotes, account, asked_at)
    # Of one customer an agent has one active session at the most: of these it is known.
    followed = Q(status=Status.ACTIVE, agent__uuid__in=list(remotes))
    askable = gone.exclude(followed).exclude(agent__uuid=None).defer("metadata")
    return list(askable.order_by(F("synced_at").asc(nulls_first=True), "pk"))


def store_active(
    customer_id: str,
    remotes: Mapping[str, RemoteSession],
    *,
    account: str,
    asked_at: datetime,
    told: Mapping[int, bool],
    by: CloseRequest,
) -> list[ChatSession]:
    """Mirror what OSVI listed of a customer, by agents' UUIDs, when it was asked at ``asked_at``.

    ``told``: of those that it did not list, by their keys, whether they are closed; ``by``: who
    asked. Raises ``OSVIBadAnswer`` where one of what it listed cannot be a session.
    """
    found = [
        _mirror_told(remote, account=account, agent_uuid=agent_uuid, by=by)
        for agent_uuid, remote in remotes.items()
    ]
    gone = _gone(customer_id, remotes, account, asked_at)
    why = _("OSVI lists a later chat of the customer with this agent.")
    followed = gone.filter(status=Status.ACTIVE, agent__in={each.agent_id for each in found})
    _close_behind(list(followed), by, why)
    _store_told(gone, told, by)
    untold = gone.exclude(agent__uuid=None).exclude(pk__in=list(told))
    ours = _of_customer(customer_id, account).exclude(status=Status.CLOSED)
    ours.exclude(pk__in=list(untold.values_list("pk", flat=True))).update(synced_at=asked_at)
    return found


def _store_told(gone: QuerySet[ChatSession], told: Mapping[int, bool], by: CloseRequest) -> None:
    """Close what OSVI said is closed, and let go quiet what it said is not."""
    closed = {key for key, is_closed in told.items() if is_closed}
    why = _("OSVI does not list it as active any more, and refuses to pause what is closed.")
    _close_behind(list(gone.filter(pk__in=closed)), by, why)
    # Of an agent without a UUID OSVI cannot be asked.
    quiet = gone.filter(Q(pk__in=told.keys() - closed) | Q(agent__uuid=None), status=Status.ACTIVE)
    quiet.update(status=Status.DORMANT, updated_at=timezone.now())


def _gone(
    customer_id: str, remotes: Mapping[str, RemoteSession], account: str, asked_at: datetime
) -> QuerySet[ChatSession]:
    """Those that are open here and not listed, but for what has changed since OSVI was asked."""
    ours = _of_customer(customer_id, account)
    known = ours.filter(status__in=ChatSession.OPEN, updated_at__lt=asked_at)
    return known.exclude(session_id__in=[remote.session_id for remote in remotes.values()])


def _looked_up(
    sessions: Sequence[ChatSession],
    remotes: Mapping[str, RemoteSession],
    told: Mapping[int, bool],
) -> LookedUp:
    listed = {remote.session_id for remote in remotes.values()}
    others = [each for each in sessions if each.session_id not in listed]
    quiet = [
        each
        for each in others
        if each.status == Status.DORMANT and (each.pk in told or not each.agent.uuid)
    ]
    return LookedUp(
        sessions=sessions,
        listed=len(listed),
        quiet=len(quiet),
        untold=len(others) - len(quiet),
    )


def account_of(
    agent_uuid: str, account: str | None = None, *, otherwise: str = DEFAULT_ACCOUNT
) -> str:
    """The account whose token speaks for an agent: the one named, or the one that knows it here.

    An agent that no account knows is taken for one of ``otherwise``. Two accounts may each have one
    of the same UUID: raises ``InvalidInput`` where several have.
    """
    if account is not None:
        return account
    known = _accounts_with(agent_uuid)
    if len(known) > 1:
        raise _several(known)
    return known[0] if known else otherwise


def move_to_agent(session: ChatSession, *, agent_uuid: str, account: str) -> None:
    """Mirror a session as another agent's; raises ``InvalidInput`` where that cannot be one."""
    session.agent = _agent(agent_uuid, account)
    session.save(update_fields=["agent", "updated_at"])


def exactly(field: str, value: str) -> Q:
    """Equal in every character.

    The equality finds it by the index, and on MariaDB finds what differs in case, accents or spaces
    at its end as well: only the very same is meant. ``contains`` is LIKE BINARY there, and what
    contains a text and is as long is that text.
    """
    same = Q(**{field: value, f"{field}__contains": value})
    return same & Q(Exact(Length(field), len(value)))


def is_storable_id(value: object) -> TypeGuard[str]:
    """Whether the database can store, and find, this as an id."""
    return isinstance(value, str) and 0 < len(value) <= ID_MAX_LENGTH and storable(value) == value


def _mirror(remote: RemoteSession, account: str, agent_uuid: str, by: CloseRequest) -> ChatSession:
    """Mirror a session object whose account is beyond doubt; raises ``InvalidInput``."""
    try:
        return _mirror_once(remote, account, agent_uuid, by)
    except (IntegrityError, OperationalError):
        # Somebody has learnt the UUID of the agent, known by its number until now, or a deadlock
        # with whoever did was ended at our cost.
        return _mirror_once(remote, account, agent_uuid, by)


def _mirror_once(
    remote: RemoteSession, account: str, agent_uuid: str, by: CloseRequest
) -> ChatSession:
    agent = _agent_of(remote, account, agent_uuid)
    session = _get_or_insert(
        ChatSession, {"session_id": remote.session_id}, agent=agent, **_told_first(remote)
    )
    if session is None:
        agents = ChatAgent.objects.using(router.db_for_write(ChatAgent))
        if not agents.filter(pk=agent.pk).exists():
            raise IntegrityError  # which MariaDB's INSERT IGNORE has ignored as well
        raise _look_alike("session_id")
    _bring_up_to_date(session, remote, agent, by)
    return session


def _mirror_told(
    remote: RemoteSession, *, account: str, agent_uuid: str, by: CloseRequest
) -> ChatSession:
    """Mirror what OSVI answered; where that cannot be done, it is not the caller's fault.

    OSVI tells an account of no session but its own: one that was another's has moved.
    """
    try:
        _require_ids(remote)
        return _mirror(remote, account, agent_uuid, by)
    except InvalidInput as error:
        field = error.field
    raise OSVIBadAnswer(OSVIBadAnswer.lacking % {"field": field})


def _read(payload: Mapping[str, Any], read: Callable[[Mapping[str, Any]], _Told]) -> _Told:
    if not isinstance(payload, Mapping):
        raise InvalidInput(_("payload is no object that OSVI answered."), field="payload")
    try:
        return read(payload)
    except OSVIBadAnswer as error:
        problem = str(error)
    raise InvalidInput(problem, field="payload")


def _told_first(remote: RemoteSession) -> dict[str, Any]:
    """What a new row begins with; ``_bring_up_to_date`` has the rest."""
    return {
        "customer_id": remote.customer_id,
        "started_at": as_stored(remote.created_at or timezone.now()),
    }


def _bring_up_to_date(
    session: ChatSession, remote: RemoteSession, agent: ChatAgent, by: CloseRequest
) -> None:
    """Write down what OSVI told, unless something newer is known."""
    alias = steps.using(session)
    moment = _moment_of(remote)
    not_newer = Q(osvi_updated_at__isnull=True) | Q(osvi_updated_at__lte=moment)
    news = {
        "agent": agent,
        "customer_id": remote.customer_id,
        "mode": remote.mode if remote.mode in ChatSession.Mode else ChatSession.Mode.AI,
        "help_requested": remote.help_requested,
        "active_human": remote.active_human[:255],
        "metadata": remote.payload,
        "osvi_updated_at": moment,
        "updated_at": timezone.now(),
    }
    if remote.created_at:
        news["started_at"] = as_stored(remote.created_at)

    with transaction.atomic(using=alias):
        rows = steps.rows(session).filter(not_newer)
        rows.exclude(status=Status.CLOSED).update(**news)
        if remote.status in ChatSession.OPEN:
            # One that is being closed, or of which nobody knows, is not ours to judge here.
            rows.filter(status__in=ChatSession.OPEN).update(status=remote.status)
    steps.reload(session)
    if remote.status == Status.CLOSED and session.is_open:
        _close_behind([session], by, _("OSVI said so."))
        steps.reload(session)


def _moment_of(remote: RemoteSession) -> datetime:
    """How old the news is; where nobody can say, it is as if it came just now."""
    now = timezone.now()
    told = as_stored(remote.updated_at or now)
    return told if told < now + _AHEAD else now


def _close_behind(sessions: Sequence[ChatSession], by: CloseRequest, why: str) -> None:
    """Close here what OSVI closed without us, where it is still open; ``by``: who has learnt it."""
    if not sessions:
        return
    alias = steps.using(sessions[0])
    ends = [
        Closed(session=each, attempt=None, text=None, only=ChatSession.OPEN) for each in sessions
    ]
    with transaction.atomic(using=alias):
        closed = _journaled(steps.write_closed(ends), replace(by, note=why))
    # The caller may have a transaction open, and nobody is to hear of what is rolled back.
    transaction.on_commit(partial(steps.tell_closed, closed), using=alias)


def _journaled(ends: Sequence[Closed], request: CloseRequest) -> list[Closed]:
    """Write down why these are closed, each in an attempt that nobody had to make."""
    sessions = [end.session for end in ends]
    token = uuid.uuid4()
    attempts = steps.write_attempts(sessions, request, token, Kind.MIRRORED) if sessions else []
    steps.end_attempts((attempt, {"outcome": Outcome.CLOSED}) for attempt in attempts)
    of = {attempt.session_id: attempt for attempt in attempts}
    return [replace(end, attempt=of[end.session.pk]) for end in ends]


def _write_start(
    session: ChatSession, context: Sequence[str], by: CloseRequest, began: datetime
) -> None:
    """Write down who started it and what the agent was given to know, as if that came after."""
    said = [(ActionKind.START, ""), *((ActionKind.CONTEXT, storable(each)) for each in context)]
    actions = [
        SupportAction(
            session=session,
            kind=kind,
            text=text,
            requested_by=steps.as_row(by.requested_by),
            door=by.door,
            outcome=SupportAction.Outcome.DONE,
            started_at=began,
            finished_at=timezone.now(),
        )
        for kind, text in said
    ]
    journal = SupportAction.objects.using(steps.using(session))
    persist(lambda: journal.bulk_create(actions), using=journal.db, patience=steps.PATIENCE_BEFORE)


def _close_all_but_the_last(session: ChatSession, by: CloseRequest, began: datetime) -> None:
    """Close here what OSVI closed for a later chat of the customer with this agent.

    That is what was here before, and where several were started at once, as by a second click, all
    but the one that OSVI started last: ``session`` may be one of those.
    """
    rivals = _of_customer(session.customer_id, session.agent.account)
    rivals = rivals.filter(agent=session.agent, status=Status.ACTIVE).exclude(pk=session.pk)
    followed = list(rivals.filter(Q(created_at__lt=began) | Q(started_at__lt=session.started_at)))
    if rivals.filter(created_at__gte=began, started_at__gt=session.started_at).exists():
        followed.append(session)
    why = _("OSVI closed it when the customer's next chat with this agent was started.")
    for each in followed:  # one at a time, as two who lock several may wait for each other
        _close_behind([each], by, why)
    if session in followed:
        steps.reload(session)


def _of_customer(customer_id: str, account: str) -> QuerySet[ChatSession]:
    alias = router.db_for_write(ChatSession)
    ours = ChatSession.objects.using(alias).select_related("agent", "summary")
    return ours.filter(exactly("customer_id", customer_id), agent__account=account)


def _agent_of(remote: RemoteSession, account: str, agent_uuid: str) -> ChatAgent:
    """The agent of a session object: by its UUID where that is known, else by OSVI's number."""
    if agent_uuid:
        agent = _agent(agent_uuid, account)
        return _learn_number(agent, remote.agent_number)
    if known := find_session(remote.session_id):
        return known.agent
    if remote.agent_number is None:
        problem = _("The session object has no chat_agent_id: name its agent in agent_uuid.")
        raise InvalidInput(problem, field="agent_uuid")
    by_number = _get_or_insert(ChatAgent, {"account": account, "number": remote.agent_number})
    if by_number is None:
        raise _look_alike("account")
    return by_number


def _learn_number(agent: ChatAgent, number: int | None) -> ChatAgent:
    """Keep OSVI's number of an agent; what was mirrored by that alone becomes this agent's."""
    if number is None or agent.number == number:
        return agent
    alias = router.db_for_write(ChatAgent)
    agents = ChatAgent.objects.using(alias).filter(account=agent.account)
    # Two processes may learn it at once, and then one of them has nothing left to do.
    with (
        suppress(IntegrityError, OperationalError, ProtectedError),
        transaction.atomic(using=alias),
    ):
        for nameless in agents.filter(number=number, uuid=None):
            ChatSession.objects.using(alias).filter(agent=nameless).update(agent=agent)
            nameless.delete()
        agents.filter(pk=agent.pk).update(number=number)
        agent.number = number
    return agent


def _accounts_with(agent_uuid: str) -> list[str]:
    """The accounts that know an agent; those that only a caller said it is of, if no other does."""
    if not is_storable_id(agent_uuid):
        return []
    sessions = ChatSession.objects.filter(agent=OuterRef("pk"))
    hearsay = Q(customer_id="", status=Status.ACTIVE)
    is_hearsay = Exists(sessions.filter(hearsay)) & ~Exists(sessions.exclude(hearsay))
    agents = ChatAgent.objects.using(router.db_for_write(ChatAgent)).filter(uuid=agent_uuid)
    # MariaDB compares without regard to case and accents.
    same = [each for each in agents.annotate(is_hearsay=is_hearsay) if each.uuid == agent_uuid]
    known = [each for each in same if each.number is not None or each.name or not each.is_hearsay]
    return sorted(each.account for each in known or same)


def _several(known: Sequence[str]) -> InvalidInput:
    problem = _(
        "Several accounts have an agent of this agent_uuid, so nothing was sent: name one of them "
        "in account, %(known)s."
    )
    names = ", ".join(f"“{each}”" for each in known)
    return InvalidInput(problem % {"known": names}, field="account")


def _agent(agent_uuid: str, account: str) -> ChatAgent:
    _require_account(account)
    _require_id("agent_uuid", agent_uuid)
    agent = _get_or_insert(ChatAgent, {"account": account, "uuid": agent_uuid})
    if agent is None:
        raise _look_alike("agent_uuid")
    return agent


def _get_or_insert(model: type[_Row], ids: dict[str, Any], **others: Any) -> _Row | None:
    """``get_or_create`` without its roll-back, over which MariaDB's racing inserts deadlock.

    None where the database takes another row's id for the same one, as MariaDB does without regard
    to case and accents: rather nothing than another session.
    """
    rows: QuerySet[_Row] = QuerySet(model, using=router.db_for_write(model))
    if not rows.filter(**ids).exists():
        rows.bulk_create([model(**ids, **others)], ignore_conflicts=True)
    same = (row for row in rows.filter(**ids) if all(getattr(row, key) == ids[key] for key in ids))
    return next(same, None)


def _require_account(account: str) -> None:
    try:
        known = account in account_aliases()
    except InvalidSetting as error:
        problem = str(error)
    else:
        unknown = _('OSVI has no account "%(account)s".') % {"account": account}
        problem = "" if known else unknown
    if problem:
        raise OSVINotConfigured(problem)


def _require_ids(remote: RemoteSession) -> None:
    _require_id("session_id", remote.session_id)
    if not is_storable_id(remote.customer_id):
        raise InvalidInput(_("The session object has no customer_id."), field="customer_id")


def _require_id(field: str, value: str) -> None:
    # URLs lose the segments "." and ".." on their way, quoted or not.
    if not is_storable_id(value) or value in {".", ".."}:
        problem = _("%(field)s is not an id that OSVI gave: use 1 to %(length)d characters.")
        raise InvalidInput(problem % {"field": field, "length": ID_MAX_LENGTH}, field=field)


def _look_alike(field: str) -> InvalidInput:
    problem = _("%(field)s differs from one that is here only in case, accents or spaces.")
    return InvalidInput(problem % {"field": field}, field=field)
