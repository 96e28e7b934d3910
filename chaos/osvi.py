"""The sandbox OSVI of a campaign: it follows the plans and records each close request."""

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

# One of this many requests that read the state of a session fails, too.
_READS_PER_FAULT = 6
_READ_FAULTS = ("drop", "status 503", "status 500", "junk", "status 401")


@dataclass(kw_only=True)
class CloseRequest:
    """A close request: when it came, from which process, its fault and its answer."""

    at: float
    fault: str
    pid: int | None = None
    """None if the process had ended before it was looked up."""
    found_closed: bool = False
    answered_at: float | None = None
    """When the last byte of an answer with a summary was sent."""
    summary: str | None = None


class PlannedOSVI(OSVISandbox):
    """An OSVI that follows a plan for each session and calls ``on_moment`` during each close."""

    def __init__(self, plans: list[Plan], owner_of: Callable[[int], int | None]) -> None:
        self._current = threading.local()
        self.plans = {plan.session_id: plan for plan in plans}
        self.owner_of = owner_of
        self.watched_requests: dict[str, list[CloseRequest]] = {
            plan.session_id: [] for plan in plans
        }
        self.on_moment: Callable[[Plan, str, CloseRequest], None] = (
            lambda plan, moment, close_request: None
        )
        self.plays_faults = True
        self._reads = 0
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
        """Return what the plan says about closing this thread's session again."""
        session_id = getattr(self._current, "session_id", None)
        plan = self.plans.get(session_id) if session_id else None
        return plan.when_closed if plan else "again"

    @when_closed.setter
    def when_closed(self, value: WhenClosed) -> None:
        """Ignore the value: the plans decide."""

    def record_request(self, request: ReceivedRequest, *, is_close: bool) -> Fault | None:
        """Record the close requests of planned sessions, and return their faults."""
        super().record_request(request, is_close=is_close)
        if not is_close or request.session_id not in self.plans:
            return self._read_fault()
        with self.lock:
            plan, close_requests = (
                self.plans[request.session_id],
                self.watched_requests[request.session_id],
            )
            names = plan.faults if self.plays_faults else ()
            fault = names[len(close_requests)] if len(close_requests) < len(names) else NO_FAULT
            close_request = CloseRequest(at=request.at.timestamp(), fault=fault)
            close_request.found_closed = self.sessions[plan.session_id].is_closed
            close_requests.append(close_request)
        return _PlannedFault(self, plan, close_request)

    def record_answer(self, answer: Answer) -> None:
        """Record when a summary was sent, too."""
        super().record_answer(answer)
        close_request = getattr(self._current, "close_request", None)
        if close_request is not None and answer.summary is not None:
            close_request.summary, close_request.answered_at = answer.summary, time.time()

    def set_current(self, plan: Plan | None, close_request: CloseRequest | None) -> None:
        """Set the plan and the close request that this thread answers."""
        self._current.session_id = plan.session_id if plan else None
        self._current.close_request = close_request

    def _latency(self, session: Any) -> float:
        """Report the moment between a close and its answer; no lock is held."""
        plan, close_request = self.plans[session.id], self._current.close_request
        self.on_moment(plan, "closed", close_request)
        return plan.latency if self.plays_faults else 0.0

    def _read_fault(self) -> Fault | None:
        with self.lock:
            self._reads += 1
            number, rest = divmod(self._reads, _READS_PER_FAULT)
        if rest or not self.plays_faults:
            return None
        name = _READ_FAULTS[number % len(_READ_FAULTS)]
        return FAULTS[name]


@dataclass(frozen=True)
class _PlannedFault(Fault):
    """The fault that a plan has for a close request, or none."""

    osvi: PlannedOSVI
    plan: Plan
    close_request: CloseRequest = field(compare=False)

    def play(self, exchange: Exchange) -> None:
        """Find the process that asks, answer it, and report each moment to the campaign."""
        self.osvi.set_current(self.plan, self.close_request)
        try:
            self._play(exchange)
        finally:
            self.osvi.set_current(None, None)

    def _play(self, exchange: Any) -> None:
        self.close_request.pid = self.osvi.owner_of(exchange.client_address[1])
        self.osvi.on_moment(self.plan, "asked", self.close_request)
        if self.close_request.fault == NO_FAULT:
            exchange.send(exchange.carry_out())
        else:
            FAULTS[self.close_request.fault].play(exchange)
        self.osvi.on_moment(self.plan, "answered", self.close_request)


def owner_of(port: int, pids: list[int]) -> int | None:
    """Return which of these processes owns the connection from a local port."""
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
