"""The books: what the site has stored, beside what the sandbox wrote down, and who died when.

``check`` compares them. Whatever is neither right nor explained by a fault, a death or an outage
that is on record is a finding, and no campaign may have one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from chaos import timing
from chaos.clients import Told
from chaos.osvi import Ask
from chaos.plan import LIES, NO_FAULT, NO_SUMMARY, Plan
from chaos.processes import Death
from osvi_django.validation import storable

# An answer is read and committed within this, where the process lives and the database is there.
INSTANT = 0.8  # seconds
# What the clocks of two processes on one machine, and their rounding, may differ.
_ROUNDING = 0.01  # seconds
# The share of its timeout that a site has waited for at least when it hangs up.
_PATIENT = 0.9
_NOT_LOOKED_AT = frozenset({"unreachable", "throttled", "unauthorized", "not_configured"})
# What every event of a story begins with, or does not need.
_NOT_SHOWN = frozenset({"at", "until", "started_at", "session_id"})
_REFUSES_TO_TELL = frozenset({"without", 404, 409, 422})


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A row of the journal."""

    kind: str
    outcome: str
    started_at: float
    error_code: str = ""
    finished_at: float | None = None
    kept: bool = False
    """Whether it holds an answer."""
    via: str = "rest"


def attempt_of(row: Any) -> Attempt:
    """What the books hold of a row of the journal."""
    return Attempt(
        kind=row.kind,
        outcome=row.outcome,
        error_code=row.error_code,
        started_at=row.started_at.timestamp(),
        finished_at=row.finished_at.timestamp() if row.finished_at else None,
        kept=row.answered_at is not None,
        via=row.via,
    )


@dataclass(frozen=True, kw_only=True)
class Page:
    """All that is known of one session."""

    plan: Plan
    status: str
    summary_status: str
    text: str | None
    """The stored summary."""
    osvi_status: str
    osvi_closes: int
    asks: tuple[Ask, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    """Oldest first."""
    told: tuple[Told, ...] = ()
    touched_at: float = 0.0
    """When the row was last written."""

    @property
    def handed_out(self) -> list[Ask]:
        """The requests whose answer had a summary in it, and was written to its last byte."""
        return [ask for ask in self.asks if readable(ask.summary)]

    def attempt_of(self, ask: Ask) -> Attempt | None:
        """The attempt that a request belongs to: the last that was begun before it."""
        begun = [each for each in self.attempts if each.started_at <= ask.at + _ROUNDING]
        return begun[-1] if begun else None


@dataclass(frozen=True, kw_only=True)
class Books:
    """A whole campaign."""

    pages: tuple[Page, ...]
    deaths: tuple[Death, ...] = ()
    outages: tuple[tuple[float, float], ...] = ()
    deaths_of: dict[int, list[float]] = field(init=False)

    def __post_init__(self) -> None:
        found: dict[int, list[float]] = {}
        for death in self.deaths:
            found.setdefault(death.pid, []).append(death.at)
        object.__setattr__(self, "deaths_of", found)

    def died(self, pid: int | None, since: float, until: float) -> bool:
        """Whether a process ended in that time; nobody is left of one that nobody could find."""
        if pid is None:
            return any(since - INSTANT <= death.at <= until for death in self.deaths)
        return any(since - _ROUNDING <= at <= until for at in self.deaths_of.get(pid, ()))


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that must not be."""

    page: Page
    rule: str
    sentence: str


def readable(summary: str | None) -> str | None:
    """The summary as it is to be stored; None where there is nothing to be read in it."""
    return storable(summary or "").strip() or None


def check(books: Books) -> list[Finding]:
    """All that is wrong with the books."""
    return [
        Finding(page=page, rule=name, sentence=sentence)
        for page in books.pages
        for name, rule in RULES.items()
        for sentence in rule(page, books)
    ]


def into_killed(ask: Ask, page: Page, books: Books) -> bool:
    """Whether an answer went to a process that was killed before it could keep it."""
    attempt = page.attempt_of(ask)
    if ask.answered_at is None or (attempt is not None and attempt.kept):
        return False
    return books.died(ask.pid, ask.at, ask.answered_at + INSTANT)


def too_late(ask: Ask, page: Page) -> bool:
    """Whether no answer was written until the site had rightly hung up, as its journal shows."""
    attempt = page.attempt_of(ask)
    if attempt is None or attempt.kept or attempt.finished_at is None:
        return False
    waited = min(attempt.finished_at, ask.answered_at or attempt.finished_at) - ask.at
    came_before = ask.answered_at is not None and ask.answered_at < attempt.finished_at - _ROUNDING
    return waited >= _PATIENT * timing.READ_TIMEOUT and not came_before


def lost_by_us(page: Page, books: Books) -> bool:
    """Whether a summary that was handed out is not stored, and no death explains it."""
    if page.text is not None or not page.handed_out:
        return False
    excused = (into_killed(ask, page, books) or too_late(ask, page) for ask in page.handed_out)
    return not all(excused)


def closed_twice(page: Page, books: Books) -> bool:
    """Whether OSVI closed it twice, or was asked blindly to close what was closed."""
    return page.osvi_closes > 1 or any(_is_blind(ask, page) for ask in page.asks)


def _is_blind(ask: Ask, page: Page) -> bool:
    attempt = page.attempt_of(ask)
    if not ask.found_closed or attempt is None or attempt.kind == "reclose":
        return False
    earlier = page.asks[: page.asks.index(ask)]
    return not any(each.fault in LIES for each in earlier)


def _no_summary_is_lost(page: Page, books: Books) -> Iterator[str]:
    if lost_by_us(page, books):
        yield "OSVI's summary was written to the socket and is not stored"


def _nothing_is_closed_twice(page: Page, books: Books) -> Iterator[str]:
    if page.osvi_closes > 1:
        yield f"OSVI closed it {page.osvi_closes} times"
    if any(_is_blind(ask, page) for ask in page.asks):
        yield "OSVI was asked to close what it had closed, and not by a fetch"


def _requests_have_attempts(page: Page, books: Books) -> Iterator[str]:
    asked = [each for each in page.attempts if each.kind not in {"mark", "mirrored"}]
    sent = [each for each in asked if each.outcome != "not_sent"]
    if len(page.asks) > len(sent):
        yield f"{len(page.asks)} close requests came of {len(sent)} attempts"
    fetches = [
        each for each in sent if each.kind == "reclose" and each.error_code not in _NOT_LOOKED_AT
    ]
    if len(fetches) > 1:
        yield f"its summary was fetched {len(fetches)} times"


def _nothing_is_left(page: Page, books: Books) -> Iterator[str]:
    if page.status == "closing":
        yield "it is still being closed"
    if page.status == "unconfirmed" and page.plan.customer_id:
        yield "it is unconfirmed, although OSVI can be asked"
    for attempt in page.attempts:
        if attempt.outcome in {"started", "answered"}:
            yield f"an attempt is still {attempt.outcome}"


def _text_is_osvis(page: Page, books: Books) -> Iterator[str]:
    if (page.summary_status == "stored") != (page.text is not None):
        yield f"its summary is {page.summary_status}, and there is {page.text!r}"
    if page.text is not None and page.text not in map(readable, _summaries(page)):
        yield f"the stored summary is not OSVI's: {page.text!r}"
    for told in page.told:
        if told.summary is not None and told.summary != page.text:
            yield f"somebody was shown {told.summary!r}"


def _summaries(page: Page) -> list[str | None]:
    return [ask.summary for ask in page.asks]


def _states_agree(page: Page, books: Books) -> Iterator[str]:
    if page.status == "closed" and page.osvi_status != "closed":
        yield f"it is closed here and {page.osvi_status} at OSVI"
    if page.status in {"active", "dormant"} and not _cannot_be_told(page):
        yield f"it is {page.status} here after all, and {page.osvi_status} at OSVI"


def _cannot_be_told(page: Page) -> bool:
    """Whether the site was told that nothing was done, and has no way to learn better."""
    lied_to = any(ask.fault in LIES for ask in page.asks)
    # Of a dormant session OSVI may not tell that it is open, and a 422 may mean anything.
    unclear = page.plan.status == "dormant" and page.plan.when_closed == 422
    denied = page.plan.when_closed in (404, 409, 422)
    return lied_to and denied and (unclear or not page.plan.customer_id)


def _a_missing_summary_is_explained(page: Page, books: Books) -> Iterator[str]:
    if page.status != "closed" or page.text is not None:
        return
    if page.summary_status == "not_provided" and not _was_not_provided(page):
        yield "it is said that OSVI provided no summary, which it did or was not asked for"
    if page.summary_status == "lost" and not _may_be_lost(page, books):
        yield "its summary is said to be lost, and nothing explains that"
    if page.summary_status not in {"not_provided", "lost"}:
        yield f"it is closed and its summary is {page.summary_status}"


def _was_not_provided(page: Page) -> bool:
    return any(ask.fault in NO_SUMMARY | LIES for ask in page.asks)


def _may_be_lost(page: Page, books: Books) -> bool:
    """Whether the fetch could not bring it, or something came between."""
    if page.plan.when_closed in _REFUSES_TO_TELL or _was_not_provided(page):
        return True
    fetches = [each for each in page.attempts if each.kind == "reclose"]
    return bool(fetches) and any(_was_disturbed(each, page, books) for each in fetches)


def _was_disturbed(fetch: Attempt, page: Page, books: Books) -> bool:
    asks = [ask for ask in page.asks if page.attempt_of(ask) is fetch]
    if not asks:
        until = (fetch.finished_at or fetch.started_at) + INSTANT
        recoveries = (death.at for death in books.deaths if "recovery" in death.why)
        return any(fetch.started_at <= at <= until for at in recoveries)
    return any(
        ask.fault != NO_FAULT
        or too_late(ask, page)
        or books.died(ask.pid, ask.at, (ask.answered_at or ask.at) + INSTANT)
        for ask in asks
    )


def _one_is_told_that_it_changed(page: Page, books: Books) -> Iterator[str]:
    changed = [told for told in page.told if told.changed]
    if len(changed) > 1:
        yield f"{len(changed)} callers were told that they closed it"


def _no_page_breaks(page: Page, books: Books) -> Iterator[str]:
    for told in page.told:
        away = any(
            begin - INSTANT <= told.until and told.at <= end + INSTANT
            for begin, end in books.outages
        )
        if told.status == 500 and not away:
            yield f"the {told.via} answered 500 while the database was there"


RULES: dict[str, Callable[[Page, Books], Iterator[str]]] = {
    "no summary is lost": _no_summary_is_lost,
    "nothing is closed twice": _nothing_is_closed_twice,
    "each request has its attempt": _requests_have_attempts,
    "nothing is left on the way": _nothing_is_left,
    "each text is OSVI's": _text_is_osvis,
    "both say the same": _states_agree,
    "a missing summary is explained": _a_missing_summary_is_explained,
    "one caller closed it": _one_is_told_that_it_changed,
    "no page breaks": _no_page_breaks,
}


def story(page: Page, books: Books) -> str:
    """Everything that happened to one session, in order."""
    plan = page.plan
    events: list[tuple[float, str]] = [
        (attempt.started_at, f"attempt {_values(attempt)}") for attempt in page.attempts
    ]
    events += [(ask.at, f"OSVI is asked {_values(ask)}") for ask in page.asks]
    events += [(told.at, f"a client {_values(told)}") for told in page.told]
    if page.touched_at:
        events.append((page.touched_at, "its row is written for the last time"))
    if events:
        first, last = min(events)[0] - 1, max(events)[0] + 10
        pids = {ask.pid for ask in page.asks}
        deaths = (
            death
            for death in books.deaths
            if first <= death.at <= last and (death.pid in pids or "recovery" in death.why)
        )
        events += [(death.at, f"{death.pid} ends: {death.why}") for death in deaths]
        outages = (each for each in books.outages if first <= each[1] and each[0] <= last)
        events += [(begin, f"the database is away until {_clock(end)}") for begin, end in outages]
    ends = f"here {page.status}, {page.summary_status}, {page.text!r}"
    lines = [f"{plan}", f"  {ends}; at OSVI {page.osvi_status}, closed {page.osvi_closes} times"]
    return "\n".join(lines + [f"  {_clock(at)} {event}" for at, event in sorted(events)])


def _values(thing: Any) -> str:
    shown = vars(thing).items()
    return " ".join(
        f"{name}={_clock(value) if name.endswith('_at') and value else value!r}"
        for name, value in shown
        if name not in _NOT_SHOWN and value not in (None, "", False)
    )


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S.%f")[:-3]
