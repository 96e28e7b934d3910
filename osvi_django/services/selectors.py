"""Find sessions and their rows; define every filter of sessions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import MAXYEAR, MINYEAR, datetime
from typing import Any, Final

from django.db import router
from django.db.models import (
    Prefetch,
    Q,
    QuerySet,
    prefetch_related_objects,
)
from django.utils.translation import gettext as _

from osvi_django.client.responses import (
    spellings,
)
from osvi_django.database import exact_match, in_utc, to_db_datetime
from osvi_django.exceptions import InvalidInput, NotAllowed, SessionNotFound
from osvi_django.models import (
    ChatAgent,
    ChatSession,
    CloseAttempt,
    SessionSummary,
)
from osvi_django.services.permissions import may_view
from osvi_django.validation import is_storable_id, require_id

_MOMENTS: Final = ("started_before", "idle_since")
NOT_CLOSED: Final = tuple(
    status for status in ChatSession.Status if status != ChatSession.Status.CLOSED
)


@dataclass(frozen=True, kw_only=True)
class SessionFilter:
    """The conditions on sessions; None means any, and an empty id is an error.

    ``status`` is one or several; by default all but closed. ``idle_since``: no activity since then.
    Raises ``InvalidInput``.
    """

    status: Collection[str] | str | None = NOT_CLOSED
    agent_uuid: str | None = None
    customer_id: str | None = None
    started_before: datetime | None = None
    idle_since: datetime | None = None

    def __post_init__(self) -> None:
        if self.status is not None:
            status = (self.status,) if isinstance(self.status, str) else tuple(self.status)
            object.__setattr__(self, "status", status)
        for name in ("agent_uuid", "customer_id"):
            if (value := getattr(self, name)) is not None:
                require_id(name, value)
        for name in _MOMENTS:
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, _as_stored(value, named=name))

    def condition(self) -> Q:
        """Return the condition for sessions that match."""
        wanted = Q() if self.status is None else Q(status__in=self.status)
        return wanted & self._other_conditions()

    def condition_before_a_close(self) -> Q:
        """Return the same for sessions that a close may hold: their previous status counts."""
        if self.status is None:
            return self.condition()
        claimed = (ChatSession.Status.CLOSING, ChatSession.Status.UNCONFIRMED)
        before = Q(status__in=claimed, previous_status__in=self.status)
        return (Q(status__in=self.status) | before) & self._other_conditions()

    def as_json(self) -> dict[str, Any]:
        """Return what a job stores of the filter, with times in UTC."""
        kept = {name: value for name, value in asdict(self).items() if value is not None}
        return kept | {name: in_utc(kept[name]).isoformat() for name in _MOMENTS if name in kept}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> SessionFilter:
        """Return the filter that ``as_json`` has stored."""
        moments = {name: datetime.fromisoformat(kept[name]) for name in _MOMENTS if name in kept}
        return cls(**{"status": None, **kept, **moments})

    def _other_conditions(self) -> Q:
        wanted = Q()
        if self.agent_uuid is not None:
            wanted &= exact_match("agent__uuid", self.agent_uuid)
        if self.customer_id is not None:
            wanted &= exact_match("customer_id", self.customer_id)
        if self.started_before is not None:
            wanted &= Q(started_at__lt=self.started_before)
        if self.idle_since is not None:
            wanted &= Q(last_activity_at__lt=self.idle_since)
        return wanted


def select_matching(chosen: SessionFilter, *, requested_by: Any = None) -> QuerySet[ChatSession]:
    """Return the sessions that match, read from the database they are written to.

    Users may not filter by what they may not see: raises ``NotAllowed``.
    """
    if requested_by is not None and not may_view(requested_by):
        raise NotAllowed(
            _("You do not have permission to see chat sessions, so give the ids of those to close.")
        )
    return ChatSession.objects.using(router.db_for_write(ChatSession)).filter(chosen.condition())


def _as_stored(moment: datetime, *, named: str) -> datetime:
    if moment.year in {MINYEAR, MAXYEAR}:  # in another time zone it may be out of range
        raise InvalidInput(
            _("%(named)s is too far in the past or future.") % {"named": named}, field=named
        )
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


def find_session(session_id: str) -> ChatSession | None:
    """Return the session of this id, with its agent and summary, or None.

    Any string is safe to pass. A UUID is found in lower and in upper case.
    """
    if not is_storable_id(session_id):
        return None
    # Read from the database it is written to: the caller acts on it next, or has just done so.
    written = ChatSession.objects.using(router.db_for_write(ChatSession))
    spelt = spellings(session_id)
    found = written.select_related("agent", "summary").filter(session_id__in=spelt)
    # MariaDB compares without regard to case and accents: another id is another session.
    by_id = {session.session_id: session for session in found}
    return next((by_id[each] for each in (session_id, *spelt) if each in by_id), None)
