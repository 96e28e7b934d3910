"""The records of a campaign: what the site has stored, what OSVI recorded, and what was killed.

``check`` compares them. A finding is a difference that no recorded fault, death of a process or
outage explains. A campaign with a finding has failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from chaos import timing
from chaos.clients import ClientResponse
from chaos.osvi import CloseRequest
from chaos.plan import FALSE_REFUSALS, NO_FAULT, NO_SUMMARY, Plan
from chaos.processes import Death
from osvi_django.validation import storable

# A process that runs stores an answer within this time if the database is available.
STORE_TIME = 0.8  # seconds
# How much the times of two processes on one machine may differ, with rounding.
_ROUNDING = 0.01  # seconds
# The share of its timeout that a site waits at least before it ends the connection.
_MIN_WAIT = 0.9
# Errors of fetches that OSVI did not carry out.
_NOT_CARRIED_OUT = frozenset({"unreachable", "busy_at_osvi", "unauthorized", "not_configured"})
# Fields that each event of a history starts with, or does not need.
_NOT_SHOWN = frozenset({"at", "until", "started_at", "session_id"})
# Values of ``when_closed`` for which OSVI returns a summary only once.
_RETURNS_NO_SUMMARY = frozenset({"without", 404, 409, 422})


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """An attempt of the journal."""

    kind: str
    outcome: str
    started_at: float
    error_code: str = ""
    finished_at: float | None = None
    has_answer: bool = False
    """Whether OSVI's answer is stored in it."""
    via: str = "rest"


def read_attempt(row: Any) -> Attempt:
    """Return the attempt that a row of the journal describes."""
    return Attempt(
        kind=row.kind,
        outcome=row.outcome,
        error_code=row.error_code,
        started_at=row.started_at.timestamp(),
        finished_at=row.finished_at.timestamp() if row.finished_at else None,
        has_answer=row.answered_at is not None,
        via=row.via,
    )


@dataclass(frozen=True, kw_only=True)
class SessionRecord:
    """Everything that is known about one session."""

    plan: Plan
    status: str
    summary_status: str
    text: str | None
    """The stored summary."""
    osvi_status: str
    osvi_closes: int
    close_requests: tuple[CloseRequest, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    """Oldest first."""
    responses: tuple[ClientResponse, ...] = ()
    updated_at: float = 0.0
    """When the session's row was last written."""

    @property
    def requests_with_summary(self) -> list[CloseRequest]:
        """Return the requests to which OSVI sent a whole answer with a summary."""
        return [request for request in self.close_requests if storable_summary(request.summary)]

    def attempt_for(self, request: CloseRequest) -> Attempt | None:
        """Return the attempt of a request: the last one that started before it."""
        earlier = [each for each in self.attempts if each.started_at <= request.at + _ROUNDING]
        return earlier[-1] if earlier else None


@dataclass(frozen=True, kw_only=True)
class Records:
    """The records of a whole campaign."""

    sessions: tuple[SessionRecord, ...]
    deaths: tuple[Death, ...] = ()
    outages: tuple[tuple[float, float], ...] = ()
    times_by_pid: dict[int, list[float]] = field(init=False)

    def __post_init__(self) -> None:
        found: dict[int, list[float]] = {}
        for death in self.deaths:
            found.setdefault(death.pid, []).append(death.at)
        object.__setattr__(self, "times_by_pid", found)

    def has_ended(self, pid: int | None, since: float, until: float) -> bool:
        """Return whether a process ended in this time.

        The ``pid`` is None if the process ended before it was looked up: then any process counts.
        """
        if pid is None:
            return any(since - STORE_TIME <= death.at <= until for death in self.deaths)
        return any(since - _ROUNDING <= at <= until for at in self.times_by_pid.get(pid, ()))


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that must not happen, and did."""

    session: SessionRecord
    rule: str
    problem: str


def storable_summary(summary: str | None) -> str | None:
    """Return a summary as the site stores it; None if it has no text."""
    return storable(summary or "").strip() or None


def check(records: Records) -> list[Finding]:
    """Return all findings in the records."""
    return [
        Finding(session=session, rule=name, problem=problem)
        for session in records.sessions
        for name, rule in RULES.items()
        for problem in rule(session, records)
    ]


def went_to_killed_process(request: CloseRequest, session: SessionRecord, records: Records) -> bool:
    """Return whether an answer went to a process that was killed before it could store it."""
    attempt = session.attempt_for(request)
    if request.answered_at is None or (attempt is not None and attempt.has_answer):
        return False
    return records.has_ended(request.pid, request.at, request.answered_at + STORE_TIME)


def came_too_late(request: CloseRequest, session: SessionRecord) -> bool:
    """Return whether OSVI answered only after the site had waited for its whole timeout."""
    attempt = session.attempt_for(request)
    if attempt is None or attempt.has_answer or attempt.finished_at is None:
        return False
    waited = min(attempt.finished_at, request.answered_at or attempt.finished_at) - request.at
    came_before = (
        request.answered_at is not None and request.answered_at < attempt.finished_at - _ROUNDING
    )
    return waited >= _MIN_WAIT * timing.READ_TIMEOUT and not came_before


def is_lost_by_us(session: SessionRecord, records: Records) -> bool:
    """Return whether a summary that OSVI sent is not stored, and no fault explains it."""
    if session.text is not None or not session.requests_with_summary:
        return False
    excused = (
        went_to_killed_process(request, session, records) or came_too_late(request, session)
        for request in session.requests_with_summary
    )
    return not all(excused)


def is_closed_twice(session: SessionRecord, records: Records) -> bool:
    """Return whether OSVI closed a session twice, or got another close that is not a fetch."""
    return session.osvi_closes > 1 or any(
        _repeats_close(request, session) for request in session.close_requests
    )


def _repeats_close(request: CloseRequest, session: SessionRecord) -> bool:
    attempt = session.attempt_for(request)
    if not request.found_closed or attempt is None or attempt.kind == "reclose":
        return False
    earlier = session.close_requests[: session.close_requests.index(request)]
    return not any(each.fault in FALSE_REFUSALS for each in earlier)


def _check_summary_stored(session: SessionRecord, records: Records) -> Iterator[str]:
    if is_lost_by_us(session, records):
        yield "OSVI sent the summary, and it is not stored"


def _check_closed_once(session: SessionRecord, records: Records) -> Iterator[str]:
    if session.osvi_closes > 1:
        yield f"OSVI closed it {session.osvi_closes} times"
    if any(_repeats_close(request, session) for request in session.close_requests):
        yield "OSVI got a close for a session that it had closed, and not to fetch the summary"


def _check_requests(session: SessionRecord, records: Records) -> Iterator[str]:
    own = [each for each in session.attempts if each.kind not in {"mark", "mirrored"}]
    sent = [each for each in own if each.outcome != "not_sent"]
    if len(session.close_requests) > len(sent):
        yield f"{len(session.close_requests)} close requests belong to {len(sent)} attempts"
    fetches = [
        each for each in sent if each.kind == "reclose" and each.error_code not in _NOT_CARRIED_OUT
    ]
    if len(fetches) > 1:
        yield f"its summary was fetched {len(fetches)} times"


def _check_settled(session: SessionRecord, records: Records) -> Iterator[str]:
    if session.status == "closing":
        yield "it is still being closed"
    if session.status == "unconfirmed" and session.plan.customer_id:
        yield "it is unconfirmed, although OSVI can be asked for its state"
    for attempt in session.attempts:
        if attempt.outcome in {"started", "answered"}:
            yield f"an attempt is still {attempt.outcome}"


def _check_text(session: SessionRecord, records: Records) -> Iterator[str]:
    if (session.summary_status == "stored") != (session.text is not None):
        yield f"its summary is {session.summary_status}, and the stored text is {session.text!r}"
    if session.text is not None and session.text not in map(storable_summary, _summaries(session)):
        yield f"the stored summary is not OSVI's: {session.text!r}"
    for response in session.responses:
        if response.summary is not None and response.summary != session.text:
            yield f"a client was shown {response.summary!r}"


def _summaries(session: SessionRecord) -> list[str | None]:
    return [request.summary for request in session.close_requests]


def _check_state(session: SessionRecord, records: Records) -> Iterator[str]:
    if session.status == "closed" and session.osvi_status != "closed":
        yield f"it is closed here and {session.osvi_status} at OSVI"
    if session.status in {"active", "dormant"} and not _cannot_know_state(session):
        yield f"it is {session.status} here at the end, and {session.osvi_status} at OSVI"


def _cannot_know_state(session: SessionRecord) -> bool:
    """Return whether OSVI denied a close that it had done, and the site cannot find out."""
    was_misled = any(request.fault in FALSE_REFUSALS for request in session.close_requests)
    # OSVI may leave dormant sessions out of its list of open ones, and a 422 may mean anything.
    unclear = session.plan.status == "dormant" and session.plan.when_closed == 422
    refuses_again = session.plan.when_closed in (404, 409, 422)
    return was_misled and refuses_again and (unclear or not session.plan.customer_id)


def _check_missing_summary(session: SessionRecord, records: Records) -> Iterator[str]:
    if session.status != "closed" or session.text is not None:
        return
    if session.summary_status == "not_provided" and not _was_not_provided(session):
        yield "its summary is not_provided, but OSVI provided it or was not asked"
    if session.summary_status == "lost" and not _may_be_lost(session, records):
        yield "its summary is lost, and nothing explains that"
    if session.summary_status not in {"not_provided", "lost"}:
        yield f"it is closed and its summary is {session.summary_status}"


def _was_not_provided(session: SessionRecord) -> bool:
    return any(request.fault in NO_SUMMARY | FALSE_REFUSALS for request in session.close_requests)


def _may_be_lost(session: SessionRecord, records: Records) -> bool:
    """Return whether OSVI does not return the summary again, or a fault hit a fetch."""
    if session.plan.when_closed in _RETURNS_NO_SUMMARY or _was_not_provided(session):
        return True
    fetches = [each for each in session.attempts if each.kind == "reclose"]
    return bool(fetches) and any(_was_disturbed(each, session, records) for each in fetches)


def _was_disturbed(fetch: Attempt, session: SessionRecord, records: Records) -> bool:
    close_requests = [
        request for request in session.close_requests if session.attempt_for(request) is fetch
    ]
    if not close_requests:
        until = (fetch.finished_at or fetch.started_at) + STORE_TIME
        recoveries = (death.at for death in records.deaths if "recovery" in death.reason)
        return any(fetch.started_at <= at <= until for at in recoveries)
    return any(
        request.fault != NO_FAULT
        or came_too_late(request, session)
        or records.has_ended(
            request.pid, request.at, (request.answered_at or request.at) + STORE_TIME
        )
        for request in close_requests
    )


def _check_one_closer(session: SessionRecord, records: Records) -> Iterator[str]:
    changed = [response for response in session.responses if response.changed]
    if len(changed) > 1:
        yield f"{len(changed)} callers got the answer that they closed it"


def _check_no_error_page(session: SessionRecord, records: Records) -> Iterator[str]:
    for response in session.responses:
        is_outage = any(
            begin - STORE_TIME <= response.until and response.at <= end + STORE_TIME
            for begin, end in records.outages
        )
        if response.status == 500 and not is_outage:
            yield f"the {response.via} answered 500 while the database was available"


RULES: dict[str, Callable[[SessionRecord, Records], Iterator[str]]] = {
    "no summary is lost": _check_summary_stored,
    "nothing is closed twice": _check_closed_once,
    "each request has its attempt": _check_requests,
    "nothing is left unsettled": _check_settled,
    "each text is OSVI's": _check_text,
    "both states agree": _check_state,
    "a missing summary is explained": _check_missing_summary,
    "one caller closed it": _check_one_closer,
    "no page fails": _check_no_error_page,
}


def history(session: SessionRecord, records: Records) -> str:
    """Return everything that happened to one session, in order."""
    plan = session.plan
    events: list[tuple[float, str]] = [
        (attempt.started_at, f"attempt {_fields(attempt)}") for attempt in session.attempts
    ]
    events += [
        (request.at, f"OSVI receives {_fields(request)}") for request in session.close_requests
    ]
    events += [
        (response.at, f"a client gets {_fields(response)}") for response in session.responses
    ]
    if session.updated_at:
        events.append((session.updated_at, "its row is last written"))
    if events:
        first, last = min(events)[0] - 1, max(events)[0] + 10
        pids = {request.pid for request in session.close_requests}
        deaths = (
            death
            for death in records.deaths
            if first <= death.at <= last and (death.pid in pids or "recovery" in death.reason)
        )
        events += [(death.at, f"{death.pid} ends: {death.reason}") for death in deaths]
        outages = (each for each in records.outages if first <= each[1] and each[0] <= last)
        events += [
            (begin, f"the database is stopped until {_clock(end)}") for begin, end in outages
        ]
    state = f"here {session.status}, {session.summary_status}, {session.text!r}"
    lines = [
        f"{plan}",
        f"  {state}; at OSVI {session.osvi_status}, closed {session.osvi_closes} times",
    ]
    return "\n".join(lines + [f"  {_clock(at)} {event}" for at, event in sorted(events)])


def _fields(thing: Any) -> str:
    shown = vars(thing).items()
    return " ".join(
        f"{name}={_clock(value) if name.endswith('_at') and value else value!r}"
        for name, value in shown
        if name not in _NOT_SHOWN and value not in (None, "", False)
    )


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S.%f")[:-3]
