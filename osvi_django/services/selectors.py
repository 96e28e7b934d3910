"""Find sessions and their rows; define every filter of sessions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Final

from django.contrib.auth import get_user_model
from django.db import router
from django.db.models import (
    Prefetch,
    Q,
    QuerySet,
    prefetch_related_objects,
)
from django.utils.formats import date_format
from django.utils.timezone import is_aware, localtime
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from osvi_django.client.responses import (
    spellings,
)
from osvi_django.database import exact_match, in_utc, to_db_datetime
from osvi_django.exceptions import InvalidInput, NotAllowed, SessionNotFound
from osvi_django.models import (
    ChatAgent,
    ChatSession,
    CloseAttempt,
    CloseJob,
    CloseJobItem,
    SessionSummary,
)
from osvi_django.services.access import (
    Purpose,
    agents_inside,
    is_inside,
    is_narrowed,
    sessions_inside,
)
from osvi_django.services.permissions import may_view, visible_jobs
from osvi_django.validation import (
    CLOSE_REASON_MAX_LENGTH,
    AnyText,
    account_problem,
    checks_types,
    is_storable_id,
    require_fields,
    require_id,
    require_moment,
    require_year,
    stripped,
)

# Each pair of moments is about one column.
_RANGES: Final = {
    column: (f"{name}_after", f"{name}_before")
    for name, column in (
        ("started", "started_at"),
        ("closed", "closed_at"),
        ("updated", "updated_at"),
    )
}
_MOMENTS: Final = (*(name for pair in _RANGES.values() for name in pair), "idle_since")
_EXACT: Final = ("mode", "help_requested", "close_reason", "summary_status")
_CHOICES: Final = {
    "status": ChatSession.Status,
    "mode": ChatSession.Mode,
    "summary_status": ChatSession.SummaryStatus,
}
_IDS: Final = ("account", "agent_uuid", "customer_id", "closed_by")
_STATUSES: Final = dict(ChatSession.Status.choices)
# Each is a condition of its own in the query.
MAX_EXCLUDED: Final = 100
# No database has a larger key.
_MAX_KEY: Final = 2**63 - 1
# The first and the last year have moments that are out of range in another time zone.
MOMENT_YEARS: Final = range(2, 9_999)
NOT_CLOSED: Final = tuple(
    status for status in ChatSession.Status if status != ChatSession.Status.CLOSED
)


@dataclass(frozen=True, kw_only=True)
class SessionFilter:
    """The conditions on sessions; None means any, and an empty id is an error.

    ``status`` is one or several; by default all but closed. ``open``: whether OSVI has it open
    (active or dormant); ``account`` and ``agent_uuid``: whose agent it is. ``closed_by``: the name
    of the user who closed it; ``close_job``: the key of the job that it is in. ``idle_since``: no
    activity since then. Of each range, neither end belongs to it.
    ``mode``: who answers the customer; ``help_requested``: whether the customer waits for a person;
    ``exclude_agents``: the UUIDs of agents whose sessions do not match, none if it is empty;
    ``close_reason``: the one given with the close. Raises ``InvalidInput``.
    """

    status: Collection[str] | str | None = NOT_CLOSED
    agent_uuid: str | None = None
    customer_id: str | None = None
    started_before: datetime | None = None
    idle_since: datetime | None = None
    mode: str | None = None
    help_requested: bool | None = None
    exclude_agents: Collection[str] | str | None = None
    close_reason: str | None = None
    open: bool | None = None
    account: str | None = None
    summary_status: str | None = None
    closed_by: str | None = None
    close_job: int | None = None
    started_after: datetime | None = None
    closed_after: datetime | None = None
    closed_before: datetime | None = None
    updated_after: datetime | None = None
    updated_before: datetime | None = None

    def __post_init__(self) -> None:
        require_fields(self)
        if self.status is not None:
            status = (self.status,) if isinstance(self.status, str) else tuple(self.status)
            object.__setattr__(self, "status", status)
        self._require_known()
        if self.close_reason is not None:
            reason = stripped("close_reason", self.close_reason, CLOSE_REASON_MAX_LENGTH)
            object.__setattr__(self, "close_reason", reason)
        if self.exclude_agents is not None:
            object.__setattr__(self, "exclude_agents", _agents(self.exclude_agents) or None)
        for name in _IDS:
            if (value := getattr(self, name)) is not None:
                require_id(name, value)
        for name in _MOMENTS:
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, _as_stored(value, named=name))
        self._require_consistent()

    def _require_known(self) -> None:
        """Raise ``InvalidInput`` for a value that its field cannot have."""
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            named = value if name == "status" else (value,)
            if value is not None and not (named and all(each in choices.values for each in named)):
                raise _not_one_of(name, choices.values)
        if self.close_job is not None and not 0 < self.close_job <= _MAX_KEY:
            raise InvalidInput(
                _("close_job: this is not the id of a close job."), field="close_job"
            )

    def for_closing(self) -> SessionFilter:
        """Return the filter of a close: what only looks at how long it was quiet spares some.

        A close by ``idle_since`` leaves out the customers who wait for a person, unless
        ``help_requested`` asks for them.
        """
        if self.idle_since is None or self.help_requested is not None:
            return self
        return replace(self, help_requested=False)

    def condition(self) -> Q:
        """Return the condition for sessions that match."""
        return self._of_statuses("status") & self._other_conditions()

    def condition_before_a_close(self) -> Q:
        """Return the same for sessions that a close may hold: their previous status counts."""
        if self._statuses is None:
            return self.condition()
        claimed = (ChatSession.Status.CLOSING, ChatSession.Status.UNCONFIRMED)
        before = Q(status__in=claimed) & self._of_statuses("previous_status")
        return (self._of_statuses("status") | before) & self._other_conditions()

    def in_words(self) -> list[str]:
        """Return the conditions for staff to read; ids only as what they are."""
        words = [str(_STATUSES[status]) for status in self.status or ()]
        words += [
            text % {"when": _shown(moment)}
            for name, text in _moments_in_words().items()
            if (moment := getattr(self, name)) is not None
        ]
        if self.mode is not None:
            words.append(str(ChatSession.Mode(self.mode).label))
        if self.help_requested is not None:
            words.append(_("help requested") if self.help_requested else _("no help requested"))
        if self.agent_uuid is not None:
            words.append(_("of one agent"))
        if self.exclude_agents:
            number = len(self.exclude_agents)
            said = ngettext("not of %(number)d agent", "not of %(number)d agents", number)
            words.append(said % {"number": number})
        if self.customer_id is not None:
            words.append(_("of one customer"))
        if self.close_reason is not None:
            words.append(_("closed as %(reason)s") % {"reason": self.close_reason})
        return words + self._others_in_words()

    def _others_in_words(self) -> list[str]:
        label = self.summary_status and ChatSession.SummaryStatus(self.summary_status).label
        said = {
            _("of the account “%(value)s”"): self.account,
            _("summary: %(value)s"): label,
            _("closed by “%(value)s”"): self.closed_by,
            _("in close job %(value)s"): self.close_job,
            _("open") if self.open else _("not open"): self.open,
        }
        return [text % {"value": value} for text, value in said.items() if value is not None]

    def as_json(self) -> dict[str, Any]:
        """Return what a job stores of the filter, with times in UTC."""
        kept = {name: value for name, value in asdict(self).items() if value is not None}
        return kept | {name: in_utc(kept[name]).isoformat() for name in _MOMENTS if name in kept}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> SessionFilter:
        """Return the filter that ``as_json`` has stored."""
        moments = {name: datetime.fromisoformat(kept[name]) for name in _MOMENTS if name in kept}
        return cls(**{"status": None, **kept, **moments})

    @property
    def _statuses(self) -> tuple[str, ...] | None:
        """Return the statuses that match; None if all do."""
        known: tuple[str, ...] | None = None if self.status is None else tuple(self.status)
        if self.open is None:
            return known
        every = ChatSession.Status.values if known is None else known
        return tuple(each for each in every if (each in ChatSession.OPEN) == self.open)

    def _of_statuses(self, column: str) -> Q:
        statuses = self._statuses
        if statuses is None:
            return Q()
        # An equality is what the database can search and sort by one index.
        one = {column: statuses[0]} if len(statuses) == 1 else {f"{column}__in": statuses}
        return Q(**one)

    def _require_consistent(self) -> None:
        """Raise ``InvalidInput`` for what no session can match: the caller means something else."""
        for after, before in _RANGES.values():
            first, last = getattr(self, after), getattr(self, before)
            if first is not None and last is not None and first >= last:
                problem = _("%(after)s: It is not before %(before)s, so no session can match.")
                raise InvalidInput(problem % {"after": after, "before": before}, field=after)
        if self.status and self._statuses == ():
            problem = _("open: It contradicts status, so no session can match: leave one out.")
            raise InvalidInput(problem, field="open")

    def _other_conditions(self) -> Q:
        wanted = self._condition_on_agents()
        if self.customer_id is not None:
            wanted &= exact_match("customer_id", self.customer_id)
        if self.closed_by is not None:
            wanted &= _one_of("closed_by", _users_named(self.closed_by))
        if self.close_job is not None:
            items = CloseJobItem.objects.filter(job=self.close_job, session__isnull=False)
            wanted &= Q(pk__in=items.values("session"))
        for column, (after, before) in _RANGES.items():
            if (moment := getattr(self, after)) is not None:
                wanted &= Q(**{f"{column}__gt": moment})
            if (moment := getattr(self, before)) is not None:
                wanted &= Q(**{f"{column}__lt": moment})
        if self.idle_since is not None:
            wanted &= Q(last_activity_at__lt=self.idle_since)
        for name in _EXACT:
            if (value := getattr(self, name)) is not None:
                wanted &= Q(**{name: value})
        return wanted

    def _condition_on_agents(self) -> Q:
        """Return the condition by the agents' keys, which the database has statistics of.

        Joined by its UUID, a rare agent's sessions would be looked for among all of them.
        """
        wanted = Q()
        agents = ChatAgent.objects.using(router.db_for_write(ChatAgent))
        if self.agent_uuid is not None or self.account is not None:
            chosen = agents
            if self.agent_uuid is not None:
                chosen = chosen.filter(exact_match("uuid", self.agent_uuid))
            if self.account is not None:
                chosen = chosen.filter(exact_match("account", self.account))
            wanted &= _one_of("agent", list(chosen.values_list("pk", flat=True)))
        if self.exclude_agents:
            named = Q()
            for uuid in self.exclude_agents:
                named |= exact_match("uuid", uuid)
            wanted &= ~Q(agent__in=list(agents.filter(named).values_list("pk", flat=True)))
        return wanted


def _one_of(column: str, keys: Collection[Any]) -> Q:
    """Return the condition for one of these keys, as an equality if there is one."""
    return Q(**{column: next(iter(keys))}) if len(keys) == 1 else Q(**{f"{column}__in": keys})


def _users_named(name: str) -> list[Any]:
    """Return the keys of the users of this name, as REST shows it: one or none."""
    model = get_user_model()
    users = model._default_manager.using(router.db_for_write(ChatSession))  # noqa: SLF001  # documented
    named = users.filter(exact_match(model.USERNAME_FIELD, name))
    return list(named.values_list("pk", flat=True))


def _moments_in_words() -> dict[str, str]:
    return {
        "idle_since": _("quiet since %(when)s"),
        "started_after": _("started after %(when)s"),
        "started_before": _("started before %(when)s"),
        "closed_after": _("closed after %(when)s"),
        "closed_before": _("closed before %(when)s"),
        "updated_after": _("changed after %(when)s"),
        "updated_before": _("changed before %(when)s"),
    }


def select_matching(chosen: SessionFilter, *, requested_by: Any = None) -> QuerySet[ChatSession]:
    """Return the sessions to close that match, read from the database they are written to.

    Users may not filter by what they may not see: raises ``NotAllowed``. Those outside their access
    do not match. An agent, account, user or job that this site does not have is an error and never
    ignored, as the filter would mean other sessions than the caller does: raises ``InvalidInput``.
    """
    if requested_by is not None and not may_view(requested_by):
        raise NotAllowed(
            _("You do not have permission to see chat sessions, so give the ids of those to close.")
        )
    _require_known_agents(chosen, requested_by)
    _require_known_others(chosen, requested_by)
    seen = sessions_inside(all_sessions(), requested_by, Purpose.VIEW)
    return sessions_inside(seen, requested_by, Purpose.CLOSE).filter(chosen.condition())


def _require_known_agents(chosen: SessionFilter, user: Any) -> None:
    """Raise ``InvalidInput`` for an agent that this site does not have for this user."""
    named = [("exclude_agents", uuid) for uuid in chosen.exclude_agents or ()]
    if chosen.agent_uuid is not None:
        named.append(("agent_uuid", chosen.agent_uuid))
    if not named:
        return
    agents = ChatAgent.objects.using(router.db_for_write(ChatAgent))
    same = agents_inside(agents, user, Purpose.CLOSE).filter(
        uuid__in=[uuid for _field, uuid in named]
    )
    known = set(same.values_list("uuid", flat=True))
    for field, uuid in named:
        if uuid not in known:
            problem = _("%(field)s: this site has no agent “%(uuid)s”, so nothing was selected.")
            raise InvalidInput(problem % {"field": field, "uuid": uuid}, field=field)


def _require_known_others(chosen: SessionFilter, user: Any) -> None:
    """Raise ``InvalidInput`` for an account, a user or a job that this site does not have."""
    if chosen.account is not None and (problem := account_problem(chosen.account)):
        agents = ChatAgent.objects.using(router.db_for_write(ChatAgent))
        if not agents.filter(account=chosen.account).exists():
            raise InvalidInput(problem, field="account")
    # Whether a user exists is not for those who see a part of the site only.
    is_named = chosen.closed_by is not None and not is_narrowed(user)
    if is_named and not _users_named(str(chosen.closed_by)):
        problem = _("closed_by: this site has no user of this name, so nothing was selected.")
        raise InvalidInput(problem, field="closed_by")
    jobs = CloseJob.objects.all() if user is None else visible_jobs(user)
    if chosen.close_job is not None and not jobs.filter(pk=chosen.close_job).exists():
        problem = _("close_job: this site has no such close job, so nothing was selected.")
        raise InvalidInput(problem, field="close_job")


def _shown(moment: datetime) -> str:
    return date_format(localtime(moment) if is_aware(moment) else moment, "DATETIME_FORMAT")


def _agents(uuids: Collection[str] | str) -> tuple[str, ...]:
    """Return the ids of agents, each once. Raises ``InvalidInput``."""
    every = (uuids,) if isinstance(uuids, str) else uuids
    named = tuple(dict.fromkeys(require_id("exclude_agents", uuid) for uuid in every))
    if len(named) > MAX_EXCLUDED:
        problem = _("exclude_agents: these are too many agents: name at most %(limit)d.")
        raise InvalidInput(problem % {"limit": MAX_EXCLUDED}, field="exclude_agents")
    return named


def _not_one_of(field: str, known: Collection[str]) -> InvalidInput:
    problem = _("%(field)s is unknown: use one of %(known)s.")
    return InvalidInput(problem % {"field": field, "known": ", ".join(known)}, field=field)


def all_sessions() -> QuerySet[ChatSession]:
    """Return all sessions, read from the database they are written to."""
    return ChatSession.objects.using(router.db_for_write(ChatSession))


def _as_stored(moment: datetime, *, named: str) -> datetime:
    require_moment(named, moment)
    require_year(named, moment, MOMENT_YEARS)
    return to_db_datetime(moment)


def reload(session: ChatSession) -> None:
    """Reload a session from the database. Raises ``SessionNotFound``."""
    try:
        written = ChatSession.objects.using(using(session))
        # Join the agent, which is not possible if not all of the row was read.
        is_whole = not session.get_deferred_fields()
        session.refresh_from_db(
            from_queryset=written.select_related("agent") if is_whole else written
        )
    except ChatSession.DoesNotExist:
        raise SessionNotFound from None
    prefetch_related_objects([session], _agent_of(session))


def load_relations(session: ChatSession) -> None:
    """Load a session's agent and summary, if missing, from the database they are written to.

    A router may read them from a replica, which may not yet have what was written last.
    """
    summaries = SessionSummary.objects.using(using(session))
    prefetch_related_objects([session], _agent_of(session), Prefetch("summary", summaries))


def _agent_of(session: ChatSession) -> Prefetch[Any, Any, Any]:
    return Prefetch("agent", ChatAgent.objects.using(using(session)))


def rows(*sessions: ChatSession) -> QuerySet[ChatSession]:
    """Return the rows of one or more sessions as a queryset, to filter and update."""
    keys = [session.pk for session in sessions]
    return ChatSession.objects.using(using(sessions[0])).filter(pk__in=keys)


def attempts(session: ChatSession) -> QuerySet[CloseAttempt]:
    """Return the session's attempts."""
    return CloseAttempt.objects.using(using(session)).filter(session=session)


def last_attempt(session: ChatSession) -> CloseAttempt | None:
    """Return the newest attempt to close a session, with this session."""
    attempt = attempts(session).first()
    if attempt is not None:
        attempt.session = session
    return attempt


def using(session: ChatSession) -> str:
    """Return the alias of the database that a session is written to."""
    return router.db_for_write(ChatSession, instance=session)


@checks_types
def find_session(session_id: AnyText) -> ChatSession | None:
    """Return the session of this id, with its agent and summary, or None.

    Any string is safe to pass. A UUID is found in lower and in upper case. Raises ``InvalidInput``
    if ``session_id`` is not a text.
    """
    if not is_storable_id(session_id):
        return None
    # Read from the database it is written to: the caller acts on it next, or has just done so.
    written = all_sessions()
    spelt = spellings(session_id)
    found = written.select_related("agent", "summary").filter(session_id__in=spelt)
    # MariaDB compares without regard to case and accents: another id is another session.
    by_id = {session.session_id: session for session in found}
    return next((by_id[each] for each in (session_id, *spelt) if each in by_id), None)


def find_session_for(user: Any, session_id: str, purpose: Purpose) -> ChatSession | None:
    """Return the session of this id; None also if it is outside the access of ``user``."""
    session = find_session(session_id)
    return session if session is None or is_inside(session, user, purpose) else None
