"""How a session that OSVI knows comes into this database, and is kept true there.

OSVI has no call that lists sessions. They come here by being started through this site, looked up
by customer, handed over by the host's own chat code, or closed by their ids.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, TypeVar

from django.db import IntegrityError, OperationalError, router, transaction
from django.db.models import Model, ProtectedError, Q, QuerySet
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
    OSVIError,
    OSVINotConfigured,
    OSVIRejected,
    not_a_close,
)
from osvi_django.models import ID_MAX_LENGTH, ChatAgent, ChatSession
from osvi_django.services import steps
from osvi_django.services.permissions import require_operate
from osvi_django.services.steps import Closed, Status, User
from osvi_django.transactions import refuse_inside_transaction

_Row = TypeVar("_Row", bound=Model)
_Told = TypeVar("_Told", RemoteSession, StartedSession)

# OSVI's clock is trusted so far ahead of ours: a date in the far future would outlast all news.
_AHEAD: Final = timedelta(hours=1)


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
    _require_id("session_id", remote.session_id)
    if not is_storable_id(remote.customer_id):
        raise InvalidInput(_("The session object has no customer_id."), field="customer_id")
    try:
        return _mirror(remote, account, agent_uuid)
    except (IntegrityError, OperationalError):
        # Somebody has learnt the UUID of the agent, known by its number until now, or a deadlock
        # with whoever did was ended at our cost.
        return _mirror(remote, account, agent_uuid)


def mirror_started(
    payload: Mapping[str, Any] | StartedSession,
    *,
    agent_uuid: str,
    customer_id: str = "",
    account: str | None = None,
) -> ChatSession:
    """Mirror a session that was started in the legacy dialect, by the ``data`` of OSVI's answer.

    That names neither the customer nor the account: where ``account`` is not named it is the one
    that knows the agent. Of a session that is here already it adds what was not known.
    Raises as ``mirror_session``, and is as safe.
    """
    started = payload if isinstance(payload, StartedSession) else _read(payload, read_start)
    if customer_id:
        _require_id("customer_id", customer_id)
    account = account_of(agent_uuid, account)
    session = mirror_by_id(
        started.session_id,
        agent_uuid=agent_uuid,
        account=account,
        customer_id=customer_id,
        started_at=started.started_at or timezone.now(),
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
    account: str = DEFAULT_ACCOUNT,
    requested_by: User | None = None,
) -> ChatSession:
    """Start a session at OSVI and mirror it.

    OSVI first closes what the customer has open with this agent, so that is closed here too,
    without a summary. An agent that only another account knows is ``InvalidInput``: ``account_of``
    tells whose one is. Raises ``NotAllowed``, ``InsideTransaction`` and what the client raises.
    """
    with not_a_close():
        refuse_inside_transaction(router.db_for_write(ChatSession))
        require_operate(requested_by)
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
    session = _mirror_told(remote, account=account, agent_uuid=agent_uuid)
    earlier = _of_customer(customer_id, account).filter(agent=session.agent, created_at__lt=began)
    _close_behind(list(earlier.filter(status=Status.ACTIVE).exclude(pk=session.pk)))
    return session


def sync_customer(
    customer_id: str, *, account: str = DEFAULT_ACCOUNT, requested_by: User | None = None
) -> list[ChatSession]:
    """Mirror all that a customer has open at OSVI, and return it, with what is dormant.

    An active session that OSVI does not list any more is closed here, without a summary, where OSVI
    lists a later one of the same agent or refuses to pause it. Else it has only gone quiet, is
    dormant here too, and closing it brings its summary. Raises as ``start_session``.
    """
    with not_a_close(asks_only=True):
        refuse_inside_transaction(router.db_for_write(ChatSession))
        require_operate(requested_by)
        _require_id("customer_id", customer_id)
        client = OSVIClient.for_account(account)
        asked_at = timezone.now()
        remotes = client.active_sessions(customer_id)
    closed = find_closed(client, customer_id, remotes, account=account, asked_at=asked_at)
    store_active(customer_id, remotes, account=account, asked_at=asked_at, closed=closed)
    ours = _of_customer(customer_id, account).filter(status__in=ChatSession.OPEN)
    return list(ours.order_by("-started_at", "-id"))


def find_closed(
    client: OSVIClient,
    customer_id: str,
    remotes: Mapping[str, RemoteSession],
    *,
    account: str,
    asked_at: datetime,
) -> set[int]:
    """The keys of those that OSVI did not list because they are closed; OSVI is asked about each.

    The other arguments are ``store_active``'s.
    """
    listed = [remote.session_id for remote in remotes.values()]
    # Of one customer an agent has one active session at the most: of these it is known.
    gone = _active(customer_id, account, asked_at).exclude(session_id__in=listed)
    quiet = gone.exclude(agent__uuid__in=list(remotes))
    return {session.pk for session in quiet if _is_closed(client, session)}


def store_active(
    customer_id: str,
    remotes: Mapping[str, RemoteSession],
    *,
    account: str,
    asked_at: datetime,
    closed: Collection[int] = (),
) -> None:
    """Mirror what OSVI listed of a customer, by agents' UUIDs, when it was asked at ``asked_at``.

    ``closed`` are the keys of those that it said are closed. Raises ``OSVIBadAnswer`` where one of
    what it listed cannot be a session.
    """
    found = [
        _mirror_told(remote, account=account, agent_uuid=agent_uuid)
        for agent_uuid, remote in remotes.items()
    ]
    gone = _active(customer_id, account, asked_at).exclude(pk__in=[each.pk for each in found])
    followed = Q(agent__in={session.agent_id for session in found})
    _close_behind(list(gone.filter(followed | Q(pk__in=closed))))
    gone.update(status=Status.DORMANT, updated_at=timezone.now())
    ours = _of_customer(customer_id, account).exclude(status=Status.CLOSED)
    ours.update(synced_at=asked_at)


def _active(customer_id: str, account: str, asked_at: datetime) -> QuerySet[ChatSession]:
    """Those that are active here, but for what has changed since OSVI was asked."""
    ours = _of_customer(customer_id, account)
    return ours.filter(status=Status.ACTIVE, updated_at__lt=asked_at)


def _is_closed(client: OSVIClient, session: ChatSession) -> bool:
    """Whether a session that OSVI does not list is closed, and not only quiet.

    Pausing is the one call that changes nothing of a quiet session, and that a closed one refuses.
    """
    if not session.agent.uuid:
        return False
    try:
        client.pause_legacy_session(session.session_id, agent_uuid=session.agent.uuid)
    except OSVIRejected as error:
        # A 404 may mean a mistaken agent, or that the legacy calls are gone.
        return error.status in steps.CLOSED_ALREADY - {steps.NOT_FOUND}
    except (OSVIError, OSVINotConfigured):
        return False
    return False


def account_of(
    agent_uuid: str, account: str | None = None, *, otherwise: str = DEFAULT_ACCOUNT
) -> str:
    """The account whose token speaks for an agent: the one named, or the one that knows it here.

    An agent that no account knows is taken for one of ``otherwise``. Raises ``InvalidInput`` where
    only others than the one named know it, or several and no telling which.
    """
    known = _accounts_with(agent_uuid)
    if account is None:
        account = known[0] if len(known) == 1 else otherwise
    if known and account not in known:
        raise _other_account(account, known)
    return account


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


def is_storable_id(value: str) -> bool:
    """Whether the database can store, and find, this as an id."""
    return 0 < len(value) <= ID_MAX_LENGTH and storable(value) == value


def _mirror(remote: RemoteSession, account: str, agent_uuid: str) -> ChatSession:
    agent = _agent_of(remote, account, agent_uuid)
    session = _get_or_insert(
        ChatSession, {"session_id": remote.session_id}, agent=agent, **_told_first(remote)
    )
    if session is None:
        agents = ChatAgent.objects.using(router.db_for_write(ChatAgent))
        if not agents.filter(pk=agent.pk).exists():
            raise IntegrityError  # which MariaDB's INSERT IGNORE has ignored as well
        raise _look_alike("session_id")
    _bring_up_to_date(session, remote, agent)
    return session


def _mirror_told(remote: RemoteSession, *, account: str, agent_uuid: str) -> ChatSession:
    """Mirror what OSVI answered; where that cannot be done, it is not the caller's fault."""
    try:
        return mirror_session(remote, account=account, agent_uuid=agent_uuid)
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
        "started_at": remote.created_at or timezone.now(),
    }


def _bring_up_to_date(session: ChatSession, remote: RemoteSession, agent: ChatAgent) -> None:
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
        news["started_at"] = remote.created_at

    with transaction.atomic(using=alias):
        rows = steps.rows(session).filter(not_newer)
        rows.exclude(status=Status.CLOSED).update(**news)
        if remote.status in ChatSession.OPEN:
            # One that is being closed, or of which nobody knows, is not ours to judge here.
            rows.filter(status__in=ChatSession.OPEN).update(status=remote.status)
    steps.reload(session)
    if remote.status == Status.CLOSED and session.is_open:
        _close_behind([session])
        steps.reload(session)


def _moment_of(remote: RemoteSession) -> datetime:
    """How old the news is; where nobody can say, it is as if it came just now."""
    now = timezone.now()
    told = remote.updated_at
    return told if told is not None and told < now + _AHEAD else now


def _close_behind(sessions: Sequence[ChatSession]) -> None:
    """Close here what OSVI closed without us, where it is still open here."""
    if not sessions:
        return
    alias = steps.using(sessions[0])
    ends = [
        Closed(session=each, attempt=None, text=None, only=ChatSession.OPEN) for each in sessions
    ]
    with transaction.atomic(using=alias):
        closed = steps.write_closed(ends)
    # The caller may have a transaction open, and nobody is to hear of what is rolled back.
    transaction.on_commit(partial(steps.tell_closed, closed), using=alias)


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
        if known.agent.account != account:
            problem = _("account names another one than that of this session's agent.")
            raise InvalidInput(problem, field="account")
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
    """The accounts that know an agent."""
    if not isinstance(agent_uuid, str) or not is_storable_id(agent_uuid):
        return []
    agents = ChatAgent.objects.using(router.db_for_write(ChatAgent)).filter(uuid=agent_uuid)
    # MariaDB compares without regard to case and accents.
    return sorted(agent.account for agent in agents if agent.uuid == agent_uuid)


def _other_account(account: str, known: Sequence[str]) -> InvalidInput:
    problem = _(
        "The agent in agent_uuid does not belong to the account “%(account)s”, so nothing was "
        "sent: name its own in account, %(known)s."
    )
    names = ", ".join(f"“{each}”" for each in known)
    return InvalidInput(problem % {"account": account, "known": names}, field="account")


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
        problem = "" if known else f'OSVI has no account "{account}".'
    if problem:
        raise OSVINotConfigured(problem)


def _require_id(field: str, value: str) -> None:
    # URLs lose the segments "." and ".." on their way, quoted or not.
    if not isinstance(value, str) or not is_storable_id(value) or value in {".", ".."}:
        problem = _("%(field)s is not an id that OSVI gave: use 1 to %(length)d characters.")
        raise InvalidInput(problem % {"field": field, "length": ID_MAX_LENGTH}, field=field)


def _look_alike(field: str) -> InvalidInput:
    problem = _("%(field)s differs from one that is here only in case, accents or spaces.")
    return InvalidInput(problem % {"field": field}, field=field)
