"""One OSVI account of the sandbox: its sessions, behaviour, faults and records."""

from __future__ import annotations

import threading
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.message import Message
from itertools import count, cycle, islice
from typing import Any, Literal

from osvi_django.testing.answers import Answer
from osvi_django.testing.conversations import CONVERSATIONS, Conversation
from osvi_django.testing.faults import Fault
from osvi_django.testing.sessions import SandboxSession, now

WhenClosed = Literal["again", "without", 404, 409, 422]
Latency = float | Callable[[SandboxSession], float]

DEFAULT_SUMMARY = (
    "The user asked about business hours. "
    "The agent confirmed hours are Monday to Friday, 9 AM to 6 PM."
)


@dataclass(frozen=True, kw_only=True)
class ReceivedRequest:
    """One request as it arrived."""

    method: str
    path: str
    """Without the query, quoted as it was sent."""
    query: Mapping[str, str]
    headers: Message
    """Looked up without regard to case; an absent one is None."""
    body: Any
    """The parsed JSON; None where there was none or it could not be parsed."""
    raw: bytes
    session_id: str | None
    """The session that the path or the body names."""
    at: datetime


class Account:
    """The state behind the sandbox. ``lock`` guards it; its methods take it themselves."""

    def __init__(self, *, token: str, latency: Latency) -> None:
        """Start with no sessions and the behaviour that OSVI documents."""
        self.lock = threading.RLock()
        self.token = token
        self.latency: Latency = latency
        """Seconds before a close is answered, or a callable that is given the session."""
        self.when_closed: WhenClosed = "again"
        """What closing a closed session answers: 200 with or without summary, or that status."""
        self.v1_summary = False
        """Whether Chat v1's ``close`` returns the summary, as the legacy call does."""
        self.dormant_counts_as_active = False
        """Whether ``GET /v1/chat/session/active`` also finds dormant sessions."""
        self.inner_success = False
        """Whether legacy answers carry a second ``success`` inside ``data``, as older ones did."""
        self.switched_off: set[tuple[str, str]] = set()
        """Pairs of agent UUID and support command that the dashboard switched off."""
        self.knows_every_id = False
        """Whether a session that is asked for exists: it is added, with the agent that is named."""
        self.takeover_ends_help = True
        """Whether a takeover also clears ``help_requested``, which OSVI does not document."""
        self.voice_agents: list[dict[str, Any]] = []
        """What ``GET /v1/active_agents`` answers."""
        self.sessions: dict[str, SandboxSession] = {}
        self.requests: list[ReceivedRequest] = []
        """Every request that arrived, oldest first."""
        self._answered: dict[str, str] = {}
        self._faults: defaultdict[str | None, deque[Fault]] = defaultdict(deque)
        self._inbound: defaultdict[str, deque[dict[str, Any]]] = defaultdict(deque)
        self._closes: Counter[str] = Counter()
        self._close_requests: Counter[str] = Counter()
        self._numbers = count()
        self._agent_numbers: dict[str, int] = {}
        self._seeds = zip(count(), cycle(CONVERSATIONS), strict=False)

    def add_session(
        self,
        session_id: str | None = None,
        agent_uuid: str = "agent_demo",
        customer_id: str | None = None,
        summary: str | None = DEFAULT_SUMMARY,
        **fields: Any,
    ) -> SandboxSession:
        """Add a session, with a new id and customer if none is given.

        ``fields`` are those of ``SandboxSession``: ``status``, ``mode``, ``context`` and so on.
        """
        session = SandboxSession(
            id=str(uuid.uuid4()) if session_id is None else session_id,
            agent_uuid=agent_uuid,
            customer_id=f"+1555{next(self._numbers):07d}" if customer_id is None else customer_id,
            summary=summary,
            **{"chat_agent_id": self._number_of(agent_uuid), **fields},
        )
        with self.lock:
            if session.id in self.sessions:
                raise ValueError(f"The sandbox has a session {session.id} already.")
            self.sessions[session.id] = session
        return session

    def _number_of(self, agent_uuid: str) -> int:
        """Return OSVI's number of an agent: that of OSVI's example for the first one."""
        with self.lock:
            return self._agent_numbers.setdefault(agent_uuid, 42 + len(self._agent_numbers))

    def seed(self, number: int = len(CONVERSATIONS)) -> list[SandboxSession]:
        """Add ``number`` realistic conversations, the same ids and customers in every sandbox."""
        with self.lock:
            return [self._add(index, talk) for index, talk in islice(self._seeds, number)]

    def _add(self, index: int, talk: Conversation) -> SandboxSession:
        first_time = index < len(CONVERSATIONS)
        started = now() - timedelta(minutes=7 * index + 3)
        return self.add_session(
            session_id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"https://osvi.example/{index}")),
            agent_uuid=talk.agent.uuid,
            agent_name=talk.agent.name,
            customer_id=talk.customer_id if first_time else f"+1556{index:07d}",
            summary=talk.summary,
            status=talk.status,
            input_fields={"first_name": talk.first_name},
            messages=list(zip(cycle(("customer", "agent")), talk.lines, strict=False)),
            created_at=started,
            updated_at=started + timedelta(minutes=2),
        )

    @property
    def answered_summaries(self) -> dict[str, str]:
        """Return the summaries whose answers were sent completely, by session id."""
        with self.lock:  # waits for an answer whose last byte was sent but is not recorded yet
            return dict(self._answered)

    def close(self, session: SandboxSession) -> None:
        """Close an open session and count it, because a request asked for it."""
        with self.lock:
            session.change(status="closed")
            self._closes[session.id] += 1

    def open_sessions(self, customer_id: str) -> list[SandboxSession]:
        """Return the customer's active sessions, oldest first."""
        statuses = {"active", "dormant"} if self.dormant_counts_as_active else {"active"}
        mine = [item for item in self.sessions.values() if item.customer_id == customer_id]
        return sorted((s for s in mine if s.status in statuses), key=lambda s: s.created_at)

    def script(self, session_id: str | None, *faults: Fault) -> None:
        """Queue faults: each request that names the session takes the next, then none are left.

        None stands for the requests that name no session, such as ``GET /v1/chat/session/active``.
        """
        with self.lock:
            self._faults[session_id].extend(faults)

    def request_help(self, session_id: str) -> SandboxSession:
        """Flag the session: its customer asks for a person."""
        with self.lock:
            session = self.sessions[session_id]
            session.change(help_requested=True)
        return session

    def customer_writes(self, session_id: str, text: str) -> SandboxSession:
        """Add what the customer wrote elsewhere, such as by text message; the agent is silent."""
        with self.lock:
            session = self.sessions[session_id]
            session.say("customer", text)
        return session

    def script_inbound(self, session_id: str, /, **fields: Any) -> None:
        """Say what the answer to the next message to this session has in these fields.

        Another ``session_id`` of this sandbox gets the message and answers it; ``mode`` and
        ``help_requested`` are set in the session that answers; ``MISSING`` leaves a field out.
        """
        with self.lock:
            self._inbound[session_id].append(fields)

    def next_inbound(self, session_id: str) -> dict[str, Any]:
        """Return what ``script_inbound`` said about the next message, and forget it."""
        scripted = self._inbound.get(session_id)
        return scripted.popleft() if scripted else {}

    def closes(self, session_id: str) -> int:
        """Return how many times the session moved to closed by a request."""
        return self._closes[session_id]

    def close_requests(self, session_id: str) -> int:
        """Return how many close requests arrived for the session, legacy and Chat v1."""
        return self._close_requests[session_id]

    def record_request(self, request: ReceivedRequest, *, is_close: bool) -> Fault | None:
        """Record a request and return the fault for it."""
        with self.lock:
            self.requests.append(request)
            if is_close and request.session_id is not None:
                self._close_requests[request.session_id] += 1
            waiting = self._faults.get(request.session_id)
            return waiting.popleft() if waiting else None

    def record_answer(self, answer: Answer) -> None:
        """Record the summary that was sent, if any."""
        if answer.closing is not None and answer.summary is not None:
            self._answered[answer.closing.id] = answer.summary

    def latency_of(self, session: SandboxSession) -> float:
        """Return the seconds before the close of this session is answered."""
        return self.latency(session) if callable(self.latency) else self.latency
