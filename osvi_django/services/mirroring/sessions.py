"""Mirror OSVI's sessions in this database and keep them up to date.

OSVI has no call that lists sessions. They get here when they are started through this site, looked
up by customer, passed in by the host's own chat code, or closed by their ids.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, TypeVar

from django.db import Error, IntegrityError, OperationalError, router, transaction
from django.db.models import (
    Case,
    F,
    ProtectedError,
    Q,
    RestrictedError,
    Value,
    When,
)
from django.db.models.functions import Greatest
from django.utils import timezone
from django.utils.translation import gettext as _

from osvi_django import database
from osvi_django.client.responses import (
    RemoteSession,
    StartedSession,
    read_session,
    read_start,
    spellings,
)
from osvi_django.conf import DEFAULT_ACCOUNT
from osvi_django.database import persist, safe_error_name, to_db_datetime
from osvi_django.exceptions import (
    InvalidInput,
    OSVIBadAnswer,
    SentBefore,
    SessionNotFound,
)
from osvi_django.models import (
    ChatAgent,
    ChatSession,
    CloseAttempt,
    CloseJob,
    CloseJobItem,
    SupportAction,
)
from osvi_django.models.search_keys import customer_columns
from osvi_django.redaction import hides
from osvi_django.services import selectors
from osvi_django.services.attempts import claims, notifications, settlement
from osvi_django.services.attempts.named_agents import ONLY_NAMED
from osvi_django.services.attempts.types import (
    AttemptKind,
    AttemptOutcome,
    RequestOrigin,
    Settlement,
    Status,
    SummaryStatus,
)
from osvi_django.services.events import outbox
from osvi_django.services.events.outbox import Event, fact_of
from osvi_django.services.mirroring.agents import (
    account_of,
    agent_for,
    agent_of,
    get_or_insert,
    look_alike,
)
from osvi_django.services.mirroring.remote_facts import RemoteFacts, facts_of, write_facts
from osvi_django.services.selectors import find_session
from osvi_django.validation import (
    checks_types,
    is_safe_id,
    require_account,
    require_id,
)

logger = logging.getLogger(__name__)
CloseReason = CloseAttempt.Reason
_Payload = TypeVar("_Payload", RemoteSession, StartedSession)
# OSVI's clock is trusted so far ahead of ours: a date in the far future would make all later data
# look old.
_MAX_CLOCK_SKEW: Final = timedelta(hours=1)
# Outcomes of attempts that certainly changed nothing.
_CHANGED_NOTHING: Final = (AttemptOutcome.NOT_SENT, AttemptOutcome.REJECTED)


def mirror_by_id(session_id: str, *, agent_uuid: str, account: str, **first: Any) -> ChatSession:
    """Mirror a session of which only the ids are known; ``first``: values of a new row.

    Raises ``InvalidInput`` if an id is not valid, or is not known here and not safe in a path. Safe
    when two processes do it at once.
    """
    require_id("session_id", session_id)
    if not is_safe_id(session_id) and not find_session(session_id):
        require_path_id(session_id)
    return _mirror_by_id(session_id, agent_uuid, account, first)


def require_path_id(session_id: str) -> None:
    """Raise ``InvalidInput`` if an id that is not known here is not safe in a path."""
    require_id("session_id", session_id)
    if not is_safe_id(session_id):
        problem = _(
            "session_id is not known on this site and has a character that is not safe in a URL, "
            "so OSVI was not called. Use the id exactly as OSVI gave it."
        )
        raise InvalidInput(problem, field="session_id")


def _mirror_by_id(
    session_id: str, agent_uuid: str, account: str, first: Mapping[str, Any]
) -> ChatSession:
    require_id("session_id", session_id)
    try:
        return _insert_by_id(session_id, agent_uuid, account, first)
    except IntegrityError:
        # The agent was removed since, with its only session.
        return _insert_by_id(session_id, agent_uuid, account, first)


def _insert_by_id(
    session_id: str, agent_uuid: str, account: str, first: Mapping[str, Any]
) -> ChatSession:
    agent = agent_for(agent_uuid, account, is_unverified=first.get("is_unverified", False))
    session = _get_or_insert_session(session_id, agent=agent, **first)
    if session is None:
        _require_exists(agent)
        raise look_alike("session_id")
    return session


def _require_exists(agent: ChatAgent) -> None:
    """Raise ``IntegrityError`` if the agent is gone: MariaDB's INSERT IGNORE ignores that too."""
    if not ChatAgent.objects.using(router.db_for_write(ChatAgent)).filter(pk=agent.pk).exists():
        raise IntegrityError


def remove_unknown(
    session: ChatSession,
    attempt: CloseAttempt | None = None,
    *,
    job: CloseJob | None = None,
) -> bool:
    """Remove an unverified session that was not closed, and return whether it was removed.

    It stays if it has become known since, or if anything was done in it, may have been, or is still
    to be done: the last of several callers removes it. Its attempts are removed in the same
    transaction, and its agent if only this session needed it. ``attempt`` is the one that claims
    the session; without one, the session must be open and unclaimed. ``job`` is the one that closes
    it.
    """
    alias = selectors.using(session)
    claim = attempt.claim if attempt else None
    statuses = (Status.CLOSING,) if attempt else ChatSession.OPEN

    def work() -> bool:
        # The UPDATE comes first: another caller waits here, and then finds nothing.
        candidates = selectors.rows(session).filter(claim=claim, status__in=statuses, **ONLY_NAMED)
        if not candidates.update(claim=claim) or _is_used(session, attempt, job):
            return False
        candidates.delete()
        agents = ChatAgent.objects.using(alias).filter(pk=session.agent_id, is_unverified=True)
        agents.filter(number=None, sessions=None, name="").delete()
        return True

    try:
        return persist(work, using=alias, patience=database.PATIENCE_BEFORE)
    except (Error, ProtectedError, RestrictedError) as error:
        logger.warning("session %r is kept: %s", session.session_id, safe_error_name(error))
        return False


def _is_used(session: ChatSession, attempt: CloseAttempt | None, job: CloseJob | None) -> bool:
    """Return whether anything but requests without effect refers to a session."""
    alias = selectors.using(session)
    tried = selectors.attempts(session).exclude(
        kind=AttemptKind.CLOSE, outcome__in=_CHANGED_NOTHING
    )
    items = CloseJobItem.objects.using(alias).filter(session=session)
    actions = SupportAction.objects.using(alias).filter(session=session)
    if attempt is not None:
        tried = tried.exclude(pk=attempt.pk)
    if job is not None:
        items = items.exclude(job=job)
    return (
        tried.exists()
        or items.exclude(outcome__in=CloseJobItem.NOT_CLOSED).exists()
        or actions.exclude(outcome__in=SupportAction.NOT_DONE).exists()
    )


@hides("payload")
@checks_types
def mirror_session(
    payload: Mapping[str, Any] | RemoteSession,
    *,
    account: str | None = None,
    agent_uuid: str = "",
) -> ChatSession:
    """Mirror a session object of Chat v1, as OSVI sent it: the only way in for OSVI's data.

    Data that is older than what is stored changes nothing, and nothing reopens a closed session. If
    the object says that OSVI has closed the session, it is closed here too, without a summary.
    ``agent_uuid``: of its agent, which the object names only by number. If ``account`` is not
    named, it is the one that knows the agent or the session, else ``"default"``.

    Raises ``InvalidInput`` if it is not a session object or is another account's, and
    ``OSVINotConfigured`` if there is no such account. Safe when several processes do it at once,
    and inside a transaction.
    """
    remote = payload if isinstance(payload, RemoteSession) else _read(payload, read_session)
    _require_ids(remote)
    known = find_session(remote.session_id)
    own = known.agent.account if known else DEFAULT_ACCOUNT
    account = account_of(agent_uuid, account, otherwise=own)
    require_account(account)
    if known and known.agent.account != account:
        problem = _("account is not the account of this session's agent.")
        raise InvalidInput(problem, field="account")
    by = RequestOrigin(requested_by=None, via="code", note="")
    return _mirror(remote, account, agent_uuid, by)


@hides("payload", "customer_id")
@checks_types
def mirror_started(
    payload: Mapping[str, Any] | StartedSession,
    *,
    agent_uuid: str,
    customer_id: str | None = "",
    account: str | None = None,
) -> ChatSession:
    """Mirror a session started in the legacy dialect, from the ``data`` of OSVI's answer.

    That names neither the customer nor the account: if ``account`` is not named, it is the one that
    knows the agent. For a session that is already here, it adds what was not known. Raises the same
    as ``mirror_session``, and is as safe.
    """
    started = payload if isinstance(payload, StartedSession) else _read(payload, read_start)
    customer_id = customer_id or ""
    if customer_id:
        require_id("customer_id", customer_id)
    account = account_of(agent_uuid, account)
    first = {
        "customer_id": customer_id,
        "started_at": to_db_datetime(started.started_at or timezone.now()),
    }
    try:
        return _mirror_started_once(started, agent_uuid, account, first)
    except SessionNotFound:  # another caller's close was refused, and has removed the session
        return _mirror_started_once(started, agent_uuid, account, first)


def _mirror_started_once(
    started: StartedSession, agent_uuid: str, account: str, first: Mapping[str, Any]
) -> ChatSession:
    session = _mirror_by_id(started.session_id, agent_uuid, account, first)
    if started.started_at:  # it may have been stored by its id alone, with the time of that
        only_seen = selectors.rows(session).filter(osvi_updated_at=None)
        only_seen.update(started_at=first["started_at"])
    unknown = selectors.rows(session).filter(customer_id="")
    if customer_id := first["customer_id"]:
        unknown.update(**customer_columns(customer_id))
    else:  # that it is more than an id, which OSVI may not know
        unknown.filter(synced_at=None).update(synced_at=timezone.now())
    nameless = ChatAgent.objects.using(selectors.using(session)).filter(
        pk=session.agent_id, name=""
    )
    nameless.update(name=started.agent_name[:255])
    selectors.reload(session)
    return session


def refuse_form_sent_before(form_key: uuid.UUID | None) -> None:
    """Raise ``SentBefore`` if something was done by the form with this key."""
    actions = SupportAction.objects.using(router.db_for_write(SupportAction))
    if form_key is not None and actions.filter(form_key=form_key).exists():
        raise SentBefore(SentBefore.same_form)


def ids_of(remotes: Mapping[str, RemoteSession]) -> set[str]:
    """Return the ids of these, in each spelling in which they may be stored here."""
    return {each for remote in remotes.values() for each in spellings(remote.session_id)}


def _mirror(
    remote: RemoteSession,
    account: str,
    agent_uuid: str,
    by: RequestOrigin,
    asked_at: datetime | None = None,
) -> ChatSession:
    """Mirror a session object whose account is certain. Raises ``InvalidInput``.

    ``asked_at``: when OSVI was asked for it, if that is known.
    """
    try:
        return _mirror_once(remote, account, agent_uuid, by, asked_at)
    except (IntegrityError, OperationalError, SessionNotFound):
        # Another process has stored the UUID of an agent known only by number until now, or a
        # deadlock with it was resolved against us, or a refused close has removed the session.
        return _mirror_once(remote, account, agent_uuid, by, asked_at)


def _mirror_once(
    remote: RemoteSession,
    account: str,
    agent_uuid: str,
    by: RequestOrigin,
    asked_at: datetime | None,
) -> ChatSession:
    agent = agent_of(remote, account, agent_uuid)
    session = _get_or_insert_session(remote.session_id, agent=agent, **_first_values(remote))
    if session is None:
        _require_exists(agent)
        raise look_alike("session_id")
    _update_session(session, remote, agent, by, asked_at)
    return session


def mirror_remote(
    remote: RemoteSession,
    *,
    account: str,
    agent_uuid: str,
    by: RequestOrigin,
    asked_at: datetime | None = None,
) -> ChatSession:
    """Mirror what OSVI answered; if that fails, it is not reported as the caller's error.

    OSVI returns to an account only its own sessions: one that was another account's has moved.
    """
    try:
        _require_ids(remote)
        return _mirror(remote, account, agent_uuid, by, asked_at)
    except InvalidInput as error:
        field = error.field
    raise OSVIBadAnswer(OSVIBadAnswer.missing_field_message % {"field": field})


def _read(payload: Mapping[str, Any], read: Callable[[Mapping[str, Any]], _Payload]) -> _Payload:
    if not isinstance(payload, Mapping):
        raise InvalidInput(_("payload is not a session object from OSVI."), field="payload")
    try:
        return read(payload)
    except OSVIBadAnswer as error:
        problem = str(error)
    raise InvalidInput(problem, field="payload")


def _first_values(remote: RemoteSession) -> dict[str, Any]:
    """Return the first values of a new row; ``_update_session`` sets the rest."""
    return {
        "customer_id": remote.customer_id,
        "started_at": to_db_datetime(remote.created_at or timezone.now()),
        "last_activity_at": min(_moment_of(remote), timezone.now()),
    }


def _update_session(
    session: ChatSession,
    remote: RemoteSession,
    agent: ChatAgent,
    by: RequestOrigin,
    asked_at: datetime | None,
) -> None:
    """Store what OSVI sent, unless something newer is stored."""
    alias = selectors.using(session)
    moment, facts = _moment_of(remote), facts_of(remote)
    not_newer = Q(osvi_updated_at__isnull=True) | Q(osvi_updated_at__lte=moment)
    changes = {
        "agent": agent,
        **customer_columns(remote.customer_id),
        "metadata": remote.payload,
        "osvi_updated_at": moment,
    }
    if remote.created_at:
        changes["started_at"] = to_db_datetime(remote.created_at)
    if active_at := _active_at(session, remote, facts):
        changes["last_activity_at"] = Greatest("last_activity_at", Value(active_at))

    with transaction.atomic(using=alias):
        rows = selectors.rows(session).filter(not_newer)
        if remote.status == Status.ACTIVE and session.status == Status.CLOSED:
            _reopen_marked(session, asked_at or remote.updated_at, by)
        # Of several that see a session for the first time, one writes that.
        new = rows.filter(osvi_updated_at=None)
        is_new = session.osvi_updated_at is None and write_facts(session, facts, new, **changes)
        if not is_new:
            write_facts(session, facts, rows, **changes)
        elif remote.status in ChatSession.OPEN:
            outbox.write([fact_of(Event.SESSION_STARTED, session)], using=alias)
        if session.status == Status.CLOSED:  # of which nothing else is changed
            unknown = {"agent__uuid": None, "agent__number": None}
            selectors.rows(session).filter(**unknown).update(agent=agent)
        if remote.status in ChatSession.OPEN:
            # The status of a session that is closing or unconfirmed is not decided here.
            rows.filter(status__in=ChatSession.OPEN).update(status=remote.status)
    selectors.reload(session)
    if remote.status == Status.CLOSED and session.is_open:
        record_remote_closes([session], by, CloseReason.SAID_SO)
        selectors.reload(session)


def _reopen_marked(session: ChatSession, known_at: datetime | None, by: RequestOrigin) -> None:
    """Open a session again that only a person has marked as closed, and that OSVI has open.

    ``known_at``: when it was open at OSVI. In the caller's transaction.
    """
    if known_at is None:
        return
    moment = to_db_datetime(known_at)
    closed = selectors.rows(session).filter(status=Status.CLOSED, closed_at__lt=moment)
    # The UPDATE comes first: in SQLite, a transaction that has read cannot start to write.
    if not closed.update(status=F("status")) or not _is_only_marked(session):
        return
    closed.update(
        status=Status.ACTIVE,
        closed_at=None,
        closed_by=None,
        closed_via="",
        close_seconds=None,
        close_reason="",
        is_close_refused=False,
        summary_status=Case(
            When(summary_status=SummaryStatus.STORED, then=F("summary_status")),
            default=Value(SummaryStatus.PENDING),
        ),
    )
    (attempt,) = claims.write_attempts([session], by, uuid.uuid4(), AttemptKind.REOPENED)
    claims.finish_attempts([(attempt, {"outcome": AttemptOutcome.REOPENED})])
    logger.warning("session %r was marked as closed, and is open at OSVI", session.session_id)


def _is_only_marked(session: ChatSession) -> bool:
    """Return whether nothing but the statement of a person says that it is closed."""
    tried = selectors.attempts(session)
    last = tried.order_by("-started_at", "-id").first()
    closes = tried.filter(outcome=AttemptOutcome.CLOSED).exclude(kind=AttemptKind.MARK)
    is_marked = last is not None and last.kind == AttemptKind.MARK
    return is_marked and not closes.exists()


def is_as_stored(session: ChatSession, remote: RemoteSession) -> bool:
    """Return whether mirroring what OSVI sent would change nothing."""
    if remote.updated_at is None or remote.status != session.status:
        return False
    facts = facts_of(remote)
    names = {"customer_id": remote.customer_id, **facts.changes()}
    return (
        to_db_datetime(remote.updated_at) == session.osvi_updated_at
        and session.agent.number == remote.agent_number
        and session.metadata == remote.payload
        and session.active_human == names["active_human"]
        and session.customer_id == names["customer_id"]
        and not facts.differ_from(session)
    )


def _active_at(session: ChatSession, remote: RemoteSession, facts: RemoteFacts) -> datetime | None:
    """Return when what OSVI sent happened in a session; None if nothing in it is new."""
    now = timezone.now()
    said_at = to_db_datetime(remote.updated_at) if remote.updated_at else None
    if said_at and said_at < now + _MAX_CLOCK_SKEW and said_at != session.osvi_updated_at:
        return min(said_at, now)
    return now if session.metadata and _is_changed(session, remote, facts) else None


def _is_changed(session: ChatSession, remote: RemoteSession, facts: RemoteFacts) -> bool:
    """Return whether OSVI's values differ from ours; becoming dormant is not activity."""
    awoke = session.status == Status.DORMANT and remote.status == Status.ACTIVE
    added = set(context_in(remote.payload)) - set(context_in(session.metadata))
    changes = {"customer_id": remote.customer_id, **facts.changes()}
    names = ("active_human", "customer_id")
    is_other = any(getattr(session, name) != changes[name] for name in names)
    return awoke or bool(added) or is_other or facts.differ_from(session)


def context_in(metadata: Any) -> list[str]:
    """Return the context in the metadata of a session object."""
    known = _inner(metadata).get("context")
    return [each for each in known if isinstance(each, str)] if isinstance(known, list) else []


def input_fields_in(metadata: Any) -> dict[str, Any] | None:
    """Return what the session was started with, as in its session object; None if unknown."""
    known = _inner(metadata).get("input_fields")
    return known if isinstance(known, dict) else None


def _inner(metadata: Any) -> dict[str, Any]:
    """Return the metadata that OSVI keeps within a session object."""
    inner = metadata.get("metadata") if isinstance(metadata, dict) else None
    return inner if isinstance(inner, dict) else {}


def _moment_of(remote: RemoteSession) -> datetime:
    """Return the time of the data; now if it has none or an implausible one."""
    now = timezone.now()
    sent_at = to_db_datetime(remote.updated_at or now)
    return sent_at if sent_at < now + _MAX_CLOCK_SKEW else now


def record_remote_closes(
    sessions: Sequence[ChatSession], by: RequestOrigin, reason: CloseReason
) -> None:
    """Close sessions here that OSVI closed without us, if still open; ``by``: who found out."""
    if not sessions:
        return
    alias = selectors.using(sessions[0])
    ends = [
        Settlement(session=each, attempt=None, text=None, allowed_statuses=ChatSession.OPEN)
        for each in sessions
    ]
    with transaction.atomic(using=alias):
        closed = _journaled(settlement.write_closed(ends), by, reason)
    # The caller may have a transaction open, and no signal may be sent if it is rolled back.
    transaction.on_commit(partial(notifications.notify_closed, closed), using=alias)


def _journaled(
    ends: Sequence[Settlement], request: RequestOrigin, reason: CloseReason
) -> list[Settlement]:
    """Write why these are closed, each in an attempt that sent nothing."""
    sessions = [end.session for end in ends]
    token = uuid.uuid4()
    attempts = (
        claims.write_attempts(sessions, request, token, AttemptKind.MIRRORED) if sessions else []
    )
    ended = {"outcome": AttemptOutcome.CLOSED, "reason": reason}
    claims.finish_attempts((attempt, ended) for attempt in attempts)
    of = {attempt.session_id: attempt for attempt in attempts}
    return [replace(end, attempt=of[end.session.pk]) for end in ends]


def _get_or_insert_session(session_id: str, **first: Any) -> ChatSession | None:
    """Return the session of an id, in whichever case; None if another id collides with it."""
    if known := find_session(session_id):
        return known
    inserted = get_or_insert(ChatSession, {"session_id": spellings(session_id)[0]}, **first)
    # If the database ignores case, another process may have inserted the other spelling.
    return inserted or find_session(session_id)


def _require_ids(remote: RemoteSession) -> None:
    require_id("session_id", remote.session_id)
    require_id("customer_id", remote.customer_id)
