"""What happens to each session: plans, drawn from one seed before the campaign starts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal

from osvi_django.testing import (
    MISSING,
    Drip,
    Drop,
    Fault,
    Hang,
    Junk,
    OddSummary,
    Redirect,
    Status,
)
from osvi_django.testing.account import WhenClosed

EntryPoint = Literal["rest", "admin"]
OutageMoment = Literal["before", "closed", "answered"]
Moment = Literal["asked", "closed", "answered", "anytime", "master"]

NO_FAULT = "none"
_SECONDS = 2.5  # longer than a whole call may take
_STATUSES = (401, 404, 409, 422, 429, 500, 502, 503, 504)
_NOWHERE = "http://127.0.0.1:9/"
# After these the site takes the session for open.
_REFUSALS = frozenset({401, 404, 409, 422, 429, 503})

FAULTS: dict[str, Fault] = {
    "drop": Drop(),
    "drop, closed": Drop(after_closing=True),
    "reset": Drop(reset=True),
    "reset, closed": Drop(after_closing=True, reset=True),
    "hang": Hang(_SECONDS, after_closing=False),
    "hang, closed": Hang(_SECONDS),
    "drip, a little": Drip("body", 0.002),
    "drip, too slow": Drip("body", 0.05),
    "drip, headers": Drip("headers", 0.05),
    "drip, not closed": Drip("body", 0.05, close=False),
    "junk": Junk(close=False),
    "junk, closed": Junk(b'{"success": tr', "application/json", close=True),
    **{f"status {code}": Status(code) for code in _STATUSES},
    **{f"status {code}, closed": Status(code, close=True) for code in _STATUSES},
    "summary null": OddSummary(None),
    "summary empty": OddSummary(""),
    "summary missing": OddSummary(MISSING),
    "summary a number": OddSummary(42),
    "summary a list": OddSummary(["The customer", "left."]),
    "summary with U+0000": OddSummary("The customer\x00left; the agent said good-bye."),
    "redirect": Redirect(_NOWHERE),
    "redirect, closed": Redirect(_NOWHERE, code=307, close=True),
}
# OSVI answers that there is no summary.
NO_SUMMARY = frozenset({"summary null", "summary empty", "summary missing"})
# OSVI refuses the close, although it has closed the session.
FALSE_REFUSALS = frozenset(f"status {code}, closed" for code in _REFUSALS)


@dataclass(frozen=True, kw_only=True)
class Kill:
    """A SIGKILL, ``delay`` seconds after a moment of the close."""

    moment: Moment
    delay: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Outage:
    """A stop of the database: before a close, before OSVI's answer, or right after it."""

    moment: OutageMoment
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan of one session; each close request gets the next of the ``faults``."""

    number: int
    session_id: str
    customer_id: str
    status: str
    summary: str
    when_closed: WhenClosed
    latency: float
    faults: tuple[str, ...]
    entry_points: tuple[EntryPoint, ...]
    kill: Kill | None = None
    outage: Outage | None = None


def draw(seed: int, *, closes: int, kills: int, outages: int, patience: float) -> list[Plan]:
    """Return the plans of a campaign.

    If there are enough sessions, every fault occurs. Every fourth outage is longer than
    ``patience``.
    """
    random = Random(seed)  # noqa: S311 - a script, not a secret
    numbers = list(range(closes))
    killed = dict(zip(random.sample(numbers, min(kills, closes)), _kills(random), strict=False))
    stopped = random.sample(numbers[closes // 10 :], min(outages, closes))
    lengths = dict(zip(stopped, _outages(random, patience), strict=False))
    faults = _faults(random, closes)
    return [
        _plan(random, number, faults[number], killed.get(number), lengths.get(number))
        for number in numbers
    ]


def _plan(
    random: Random, number: int, fault: str, kill: Kill | None, outage: Outage | None
) -> Plan:
    if kill or outage:
        # A fault could keep the close from reaching this moment, so only a few have one.
        fault = fault if random.random() < 0.2 else NO_FAULT
    if outage and outage.moment != "before" and random.random() < 0.5:
        # The process has the answer, and no database to store it in.
        kill = Kill(moment="answered", delay=min(1.0, outage.seconds / 2))
        fault = NO_FAULT
    again = random.choice(sorted(FAULTS)) if random.random() < 0.12 else NO_FAULT
    return Plan(
        number=number,
        session_id=f"{random.getrandbits(64):016x}-{number}",
        customer_id="" if random.random() < 0.03 else f"+1555{number:07d}",
        status="dormant" if random.random() < 0.1 else "active",
        summary=f"Conversation {number}: the customer was helped. ✓ ü",
        when_closed=random.choice(("again", "again", "again", "without", 404, 409, 422)),
        latency=random.choice((0.0, random.uniform(0, 0.4))),
        faults=(fault, again),
        entry_points=tuple(_entry_points(random)),
        kill=kill,
        outage=outage,
    )


def _entry_points(random: Random) -> Iterator[EntryPoint]:
    """Return the entry points that close a session: often two or three at once."""
    for _ in range(random.choice((1, 1, 2, 2, 3))):
        yield "admin" if random.random() < 0.3 else "rest"


def _faults(random: Random, closes: int) -> list[str]:
    """Return a fault for each session; half of them have none, and the others share all faults."""
    names = sorted(FAULTS)
    random.shuffle(names)
    drawn = [names[index % len(names)] for index in range(closes // 2)]
    drawn += [NO_FAULT] * (closes - len(drawn))
    random.shuffle(drawn)
    return drawn


def _kills(random: Random) -> Iterator[Kill]:
    """Yield kills at every moment, and one of the master in twenty."""
    moments: tuple[Moment, ...] = ("asked", "closed", "answered", "answered", "anytime")
    number = 0
    while True:
        number += 1
        if number % 20 == 5:
            yield Kill(moment="master")
            continue
        moment = random.choice(moments)
        longest = {"answered": 0.012, "anytime": 0.3}.get(moment, 0.0)
        yield Kill(moment=moment, delay=random.uniform(0, longest))


def _outages(random: Random, patience: float) -> Iterator[Outage]:
    """Yield short outages, and every fourth one longer than the service waits."""
    moments: tuple[OutageMoment, ...] = ("before", "closed", "answered")
    number = 0
    while True:
        number += 1
        seconds = patience + 4 if number % 4 == 0 else random.uniform(0.5, 4)
        yield Outage(moment=moments[number % 3], seconds=seconds)
