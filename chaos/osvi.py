"""The sandbox OSVI of a campaign: it plays the plans, and writes down who asked and got what."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos.plan import FAULTS, NO_FAULT, Plan
from osvi_django.testing import Fault, OSVISandbox
from osvi_django.testing.account import ReceivedRequest, WhenClosed
from osvi_django.testing.answers import Answer
from osvi_django.testing.faults import Exchange

# Questions whether a session is open go wrong now and then, too.
_QUESTIONS_PER_FAULT = 6
_QUESTION_FAULTS = ("drop", "status 503", "status 500", "junk", "status 401")


@dataclass(kw_only=True)
class Ask:
    """One close request: when it came, from which process, what it met and what it got."""

    at: float
    fault: str
    pid: int | None = None
    """None where the process was gone before anybody could look."""
    found_closed: bool = False
    answered_at: float | None = None
    """When the last byte of an answer with a summary was written."""
    summary: str | None = None


class PlannedOSVI(OSVISandbox):
    """Plays a plan for each session. ``on_moment`` is called in the middle of a close."""

    def __init__(self, plans: list[Plan], owner_of: Callable[[int], int | None]) -> None:
        self._now_closing = threading.local()
        self.plans = {plan.session_id: plan for plan in plans}
        self.owner_of = owner_of
        self.asks: dict[str, list[Ask]] = {plan.session_id: [] for plan in plans}
        self.on_moment: Callable[[Plan, str, Ask], None] = lambda plan, moment, ask: None
        self.plays = True
        self._questions = 0
        super().__init__(latency=self._latency)
        for plan in plans:
            self.add_session(
                plan.session_id,
                customer_id=plan.customer_id or f"unknown-{plan.number}",
                summary=plan.summary,
                status=plan.status,
            )

    @property
    def when_closed(self) -> WhenClosed:
        """Each session has a habit of its own."""
        session_id = getattr(self._now_closing, "session_id", None)
        plan = self.plans.get(session_id)
        return plan.when_closed if plan else "again"

    @when_closed.setter
    def when_closed(self, value: WhenClosed) -> None:
        """The plans say it."""

    def record_request(self, request: ReceivedRequest, *, is_close: bool) -> Fault | None:
        """The close requests of planned sessions are watched, whatever fault they meet."""
        super().record_request(request, is_close=is_close)
        if not is_close or request.session_id not in self.plans:
            return self._question_fault()
        with self.lock:
            plan, asks = self.plans[request.session_id], self.asks[request.session_id]
            names = plan.faults if self.plays else ()
            fault = names[len(asks)] if len(asks) < len(names) else NO_FAULT
            ask = Ask(at=request.at.timestamp(), fault=fault)
            ask.found_closed = self.sessions[plan.session_id].is_closed
            asks.append(ask)
        return _Watched(self, plan, ask)

    def record_answer(self, answer: Answer) -> None:
        """Note when it was answered, too."""
        super().record_answer(answer)
        ask = getattr(self._now_closing, "ask", None)
        if ask is not None and answer.summary is not None:
            ask.summary, ask.answered_at = answer.summary, time.time()

    def watch(self, plan: Plan | None, ask: Ask | None) -> None:
        """Say whose request this thread works on."""
        self._now_closing.session_id = plan.session_id if plan else None
        self._now_closing.ask = ask

    def _latency(self, session: Any) -> float:
        """Called between the close and its answer, with no lock held."""
        plan, ask = self.plans[session.id], self._now_closing.ask
        self.on_moment(plan, "closed", ask)
        return plan.latency if self.plays else 0.0

    def _question_fault(self) -> Fault | None:
        with self.lock:
            self._questions += 1
            number, rest = divmod(self._questions, _QUESTIONS_PER_FAULT)
        if rest or not self.plays:
            return None
        name = _QUESTION_FAULTS[number % len(_QUESTION_FAULTS)]
        return FAULTS[name]


@dataclass(frozen=True)
class _Watched(Fault):
    """A close request, with what is planned for it."""

    osvi: PlannedOSVI
    plan: Plan
    ask: Ask = field(compare=False)

    def play(self, exchange: Exchange) -> None:
        """Find out who asks, play the fault or none, and let the campaign strike in between."""
        self.osvi.watch(self.plan, self.ask)
        try:
            self._play(exchange)
        finally:
            self.osvi.watch(None, None)

    def _play(self, exchange: Any) -> None:
        self.ask.pid = self.osvi.owner_of(exchange.client_address[1])
        self.osvi.on_moment(self.plan, "asked", self.ask)
        if self.ask.fault == NO_FAULT:
            exchange.send(exchange.carry_out())
        else:
            FAULTS[self.ask.fault].play(exchange)
        self.osvi.on_moment(self.plan, "answered", self.ask)


def owner_of(port: int, pids: list[int]) -> int | None:
    """Which of these processes has the connection that comes from a port of this machine."""
    inode = _inode(port)
    if inode is None:
        return None
    link = f"socket:[{inode}]"
    return next((pid for pid in pids if link in _open_files(pid)), None)


def _inode(port: int) -> str | None:
    suffix = f":{port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        columns = line.split()
        if columns[1].endswith(suffix):
            return columns[9]
    return None


def _open_files(pid: int) -> set[str]:
    found = set()
    try:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            found.add(_target(link))
    except OSError:
        return found
    return found


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""
