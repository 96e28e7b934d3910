"""The table of a campaign's results, in Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from chaos.records import (
    Records,
    SessionRecord,
    check,
    is_closed_twice,
    is_lost_by_us,
    went_to_killed_process,
)

_COLUMNS = (
    "what went wrong",
    "sessions",
    "times",
    "summaries answered",
    "stored",
    "into a killed process",
    "which OSVI returns again",
    "and which are stored",
    "lost by us",
    "closed twice",
)


def report(records: Records, *, command: str, seconds: float) -> str:
    """Return the table and the numbers above it."""
    kinds = Counter(
        death.reason for death in records.deaths if not death.reason.startswith("gunicorn")
    )
    kills = ", ".join(f"{number} {reason}" for reason, number in sorted(kinds.items()))
    outages = ", ".join(f"{end - begin:.1f}" for begin, end in records.outages)
    states = Counter(f"{session.status}, {session.summary_status}" for session in records.sessions)
    ended = ", ".join(f"{number} {state}" for state, number in states.most_common())
    close_requests = sum(len(session.close_requests) for session in records.sessions)
    responses = sum(len(session.responses) for session in records.sessions)
    sessions = len(records.sessions)
    lines = [
        "",
        f"`python -m chaos.campaign {command}`: {seconds:.0f} s",
        "",
        f"- {responses} client requests for {sessions} sessions, {close_requests} requests to OSVI",
        f"- {sum(kinds.values())} kills: {kills or 'none'}",
        f"- {len(records.outages)} outages of the database, in seconds: {outages or 'none'}",
        f"- the sessions ended: {ended}",
        f"- unexplained: {len(check(records))}",
        "",
        _line(_COLUMNS),
        "| --- |" + " ---: |" * (len(_COLUMNS) - 1),
        *_rows(records),
        "",
    ]
    return "\n".join(lines)


def _rows(records: Records) -> Iterator[str]:
    faults = sorted(
        {request.fault for session in records.sessions for request in session.close_requests}
    )
    for fault in faults:
        sessions = [
            session
            for session in records.sessions
            if any(request.fault == fault for request in session.close_requests)
        ]
        times = sum(
            request.fault == fault for session in sessions for request in session.close_requests
        )
        yield _row(f"OSVI: {fault}", sessions, times, records)
    for moment in ("asked", "closed", "answered", "anytime", "master"):
        yield from _chosen(f"kill: {moment}", records, _killed(moment))
    for moment in ("before", "closed", "answered"):
        yield from _chosen(f"database stopped: {moment}", records, _stopped(moment))
    yield _row("**all**", list(records.sessions), None, records)


def _killed(moment: str) -> Callable[[SessionRecord], bool]:
    return lambda session: session.plan.kill is not None and session.plan.kill.moment == moment


def _stopped(moment: str) -> Callable[[SessionRecord], bool]:
    return lambda session: session.plan.outage is not None and session.plan.outage.moment == moment


def _chosen(
    name: str, records: Records, is_chosen: Callable[[SessionRecord], bool]
) -> Iterator[str]:
    sessions = [session for session in records.sessions if is_chosen(session)]
    if sessions:
        yield _row(name, sessions, len(sessions), records)


def _row(name: str, sessions: list[SessionRecord], times: int | None, records: Records) -> str:
    answered = [session for session in sessions if session.requests_with_summary]
    killed = [
        session
        for session in answered
        if any(
            went_to_killed_process(request, session, records)
            for request in session.requests_with_summary
        )
    ]
    numbers = (
        len(sessions),
        "" if times is None else times,
        len(answered),
        sum(session.text is not None for session in answered),
        len(killed),
        sum(session.plan.when_closed == "again" for session in killed),
        sum(session.text is not None for session in killed),
        sum(is_lost_by_us(session, records) for session in sessions),
        sum(is_closed_twice(session, records) for session in sessions),
    )
    return _line((name, *numbers))


def _line(cells: tuple[object, ...]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
