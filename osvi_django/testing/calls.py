"""The answers to the documented calls of OSVI: one table, one function per call."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from osvi_django.testing.account import Account, ReceivedRequest
from osvi_django.testing.answers import Answer, failure, success
from osvi_django.testing.faults import MISSING
from osvi_django.testing.sessions import SandboxSession

Fields = Mapping[str, Any]

REPLY = "Thank you, I have noted that. Is there anything else I can do for you?"
KINDS: dict[type, str] = {str: "a string", dict: "an object", list: "a list", int: "a number"}


class RefusedError(Exception):
    """A call that is answered with a failure."""

    def __init__(self, status: int, *errors: str) -> None:
        """Refuse with a status other than 401, in OSVI's envelope."""
        super().__init__(status)
        self.answer = failure(status, errors=errors)


@dataclass(frozen=True, kw_only=True)
class Route:
    """One documented call."""

    method: str
    path: re.Pattern[str]
    answer: Callable[[Account, Fields], Answer]
    required: Mapping[str, type] = field(default_factory=dict)
    optional: Mapping[str, type] = field(default_factory=dict)

    def check(self, fields: Fields) -> None:
        """Refuse fields that are missing or of another type."""
        errors = [f"{name} is required" for name in self.required if fields.get(name) in (None, "")]
        kinds = {**self.required, **self.optional}
        errors += [
            f"{name} must be {KINDS[kind]}"
            for name, kind in kinds.items()
            if not isinstance(fields.get(name, kind()), kind | None)
        ]
        if errors:
            raise RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, *errors)


def respond(account: Account, request: ReceivedRequest) -> Answer:
    """Carry out one request and return its answer; the caller holds the account's lock."""
    return answer_by(ROUTES, account, request, lambda: read_fields(request))


def answer_by(
    routes: Iterable[Route],
    account: Account,
    request: ReceivedRequest,
    read: Callable[[], dict[str, Any]],
) -> Answer:
    """Return the answer of one of these calls; ``read`` returns what its path does not name."""
    if request.headers.get("API-Token") != account.token:
        return failure(HTTPStatus.UNAUTHORIZED, error="Invalid API token")
    try:
        route, path_fields = find_route(routes, request.method, request.path)
        fields = {**read(), **path_fields}
        route.check(fields)
        return route.answer(account, fields)
    except RefusedError as refused:
        return refused.answer


def find_route(routes: Iterable[Route], method: str, path: str) -> tuple[Route, dict[str, str]]:
    """Return the call and what its path names."""
    for route in routes:
        match = route.path.fullmatch(path)
        if match and route.method == method:
            return route, {name: unquote(value) for name, value in match.groupdict().items()}
    raise RefusedError(HTTPStatus.NOT_FOUND, "Not found")


def read_fields(request: ReceivedRequest) -> dict[str, Any]:
    """Return the query of a GET, or the JSON object of any other request."""
    if request.method == "GET":
        return dict(request.query)
    if not isinstance(request.body, dict):
        raise RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, "The body must be a JSON object")
    return request.body


def named_session(path: str, body: Any) -> str | None:
    """Return the session id in the path or, if the call has it there, in the body."""
    match = SESSION_IN_PATH.match(path)
    if match:
        return unquote(match["id"])
    given = body if isinstance(body, dict) else {}
    named = given.get("chat_session_id") or given.get("session_id")
    return named if isinstance(named, str) else None


def is_close(path: str, body: Any) -> bool:
    """Return whether this request asks to close a session, in either dialect."""
    command = body.get("command") if isinstance(body, dict) else None
    return path.endswith("/close_session") or (path.endswith("/support") and command == "close")


def find_session(
    account: Account, session_id: str, agent_uuid: str | None = None
) -> SandboxSession:
    """Return the session; refuse with 404 if it is unknown or another agent's."""
    session = account.sessions.get(session_id)
    if session is None and account.knows_every_id:
        session = account.add_session(session_id, agent_uuid or "agent_demo")
    if session is None or agent_uuid not in (None, session.agent_uuid):
        raise RefusedError(HTTPStatus.NOT_FOUND, "Session not found")
    return session


def find_open(account: Account, session_id: str, agent_uuid: str | None = None) -> SandboxSession:
    """Return a session that is not closed; refuse a closed one with 422."""
    session = find_session(account, session_id, agent_uuid)
    if session.is_closed:
        raise RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, "Session is closed")
    return session


def close(account: Account, session: SandboxSession, data: Fields, *, tells: bool) -> Answer:
    """Close a session; ``when_closed`` says how a second close is answered."""
    again = session.is_closed
    if again and isinstance(account.when_closed, int):
        raise RefusedError(account.when_closed, "Session is already closed")
    if not again:
        account.close(session)
    tells = tells and not (again and account.when_closed == "without")
    return success({**data, "summary": session.summary} if tells else data, closing=session)


def turn(session: SandboxSession, author: str, text: str) -> str | None:
    """Add one turn of the conversation; the agent says nothing while a human has taken over."""
    session.say(author, text)
    if session.mode == "support":
        return None
    session.say("agent", REPLY)
    return REPLY


# Legacy


def legacy(account: Account, data: dict[str, Any]) -> dict[str, Any]:
    """Return ``data`` as the legacy calls have it."""
    return {"success": True, **data} if account.inner_success else data


def legacy_create(account: Account, fields: Fields) -> Answer:
    """``POST /chat_sessions``."""
    name = (fields.get("metadata") or {}).get("person_name")
    inputs = {"first_name": name} if name else {}
    session = account.add_session(agent_uuid=fields["agent_uuid"], input_fields=inputs)
    data = {
        "session_id": session.id,
        "agent_name": session.agent_name,
        "started_at": session.started_at,
        "welcome_message": "Hello! How can I help you today?",
    }
    return success(legacy(account, data))


def legacy_send(account: Account, fields: Fields) -> Answer:
    """``POST /chat_messages/send_message``."""
    session = find_open(account, fields["chat_session_id"], fields["agent_uuid"])
    data: dict[str, Any] = {
        "session_id": session.id,
        "response": turn(session, "customer", fields["message"]),
        "tool_calls": [],
        "tool_results": [],
        "current_state": session.current_state,
    }
    return success(legacy(account, data))


def legacy_pause(account: Account, fields: Fields) -> Answer:
    """``POST /chat_sessions/{id}/pause_session``."""
    session = find_open(account, fields["id"], fields["agent_uuid"])
    session.change(status="dormant")
    return success(legacy(account, {"session_id": session.id, "message": "Session paused"}))


def legacy_close(account: Account, fields: Fields) -> Answer:
    """``POST /chat_sessions/{id}/close_session``."""
    session = find_session(account, fields["id"], fields["agent_uuid"])
    return close(account, session, legacy(account, {"session_id": session.id}), tells=True)


# Chat v1


def v1_create(account: Account, fields: Fields) -> Answer:
    """``POST /v1/chat/session``."""
    for earlier in account.open_sessions(fields["customer_id"]):
        if earlier.status == "active" and earlier.agent_uuid == fields["agent_uuid"]:
            account.close(earlier)
    session = account.add_session(
        agent_uuid=fields["agent_uuid"],
        customer_id=fields["customer_id"],
        input_fields=dict(fields.get("input_fields") or {}),
    )
    session.inject(*(fields.get("context") or []))
    return success(session.as_json())


def v1_active(account: Account, fields: Fields) -> Answer:
    """``GET /v1/chat/session/active``."""
    found = {s.agent_uuid: s.as_json() for s in account.open_sessions(fields["customer_id"])}
    agent_uuid = fields.get("agent_uuid")
    if agent_uuid is None:
        return success(found)
    if agent_uuid not in found:
        raise RefusedError(HTTPStatus.NOT_FOUND, "No active session")
    return success(found[agent_uuid])


def v1_inbound(account: Account, fields: Fields) -> Answer:
    """``POST /v1/chat/inbound``."""
    scripted = account.next_inbound(fields.get("session_id") or "")
    session = account.sessions.get(scripted.get("session_id", "")) or addressed(account, fields)
    facts = {name: scripted[name] for name in ("mode", "help_requested") if name in scripted}
    session.change(**{name: value for name, value in facts.items() if value is not MISSING})
    data = {
        "session_id": session.id,
        "reply": turn(session, "customer", fields["content"]),
        "state": "default",
        "mode": session.mode,
        "help_requested": session.help_requested,
        **scripted,
    }
    return success({name: value for name, value in data.items() if value is not MISSING})


def addressed(account: Account, fields: Fields) -> SandboxSession:
    """Return the session that was named, the customer's active one, or a new one."""
    if fields.get("session_id"):
        return find_open(account, fields["session_id"], fields["agent_uuid"])
    agent_uuid, customer_id = fields["agent_uuid"], fields["customer_id"]
    mine = [s for s in account.open_sessions(customer_id) if s.agent_uuid == agent_uuid]
    return mine[-1] if mine else account.add_session(agent_uuid=agent_uuid, customer_id=customer_id)


def v1_inject_context(account: Account, fields: Fields) -> Answer:
    """``POST /v1/chat/session/{id}/inject_context``."""
    session = find_open(account, fields["id"])
    session.inject(fields["context"])
    return success({"session_id": session.id, "context": list(session.context)})


def v1_support(account: Account, fields: Fields) -> Answer:
    """``POST /v1/chat/session/{id}/support``."""
    command = fields.get("command")
    session = find_session(account, fields["id"])
    if command not in COMMANDS or not (command or fields.get("message")):
        raise RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, "command is not valid")
    if (session.agent_uuid, command) in account.switched_off:
        raise RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, f"command {command} is switched off")
    if command == "close":
        return close(account, session, support_data(session, command), tells=account.v1_summary)
    if command == "takeover" and account.takeover_ends_help:
        session.help_requested = False
    more = COMMANDS[command](find_open(account, session.id), fields.get("message") or "")
    return success({**support_data(session, command), **more})


def support_data(session: SandboxSession, command: str | None) -> dict[str, Any]:
    """Return what every support answer has."""
    return {"state": "ok", "session_id": session.id, "command": command}


def takeover(session: SandboxSession, message: str) -> dict[str, Any]:
    """Let a human answer; a message is context for it."""
    if message:
        session.messages.append(("guidance", message))
    session.change(mode="support", active_human="Support operator")
    return {"active_human": session.active_human}


def tell(session: SandboxSession, message: str) -> dict[str, Any]:
    """Instruct the agent, which answers at once."""
    if not message:
        raise RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, "message is required")
    session.say("guidance", message)
    session.say("agent", REPLY)
    return {"reply": REPLY}


def whisper(session: SandboxSession, message: str) -> dict[str, Any]:
    """Guide the agent's next turn."""
    session.say("guidance", message)
    return {}


def end(session: SandboxSession, message: str) -> dict[str, Any]:
    """Hand back to the agent."""
    session.change(mode="ai", active_human=None)
    return {}


def operator_message(session: SandboxSession, message: str) -> dict[str, Any]:
    """Write to the customer, which is allowed only after a takeover."""
    if session.mode != "support":
        raise RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, "The session is not in support mode")
    session.say("operator", message)
    return {}


def active_agents(account: Account, fields: Fields) -> Answer:
    """``GET /v1/active_agents``, the one answer without an envelope."""
    return Answer(payload=account.voice_agents)


# ``close`` is separate: it is answered for closed sessions too.
COMMANDS: dict[str | None, Callable[[SandboxSession, str], dict[str, Any]]] = {
    "takeover": takeover,
    "tell": tell,
    "whisper": whisper,
    "end": end,
    "close": lambda session, message: {},
    None: operator_message,
}

SESSION_IN_PATH = re.compile(
    r"/(?:chat_sessions|v1/chat/session)/(?P<id>[^/]+)"
    r"/(?:pause_session|close_session|inject_context|support)"
)


def route(
    method: str,
    path: str,
    answer: Callable[[Account, Fields], Answer],
    required: Mapping[str, type],
    **optional: type,
) -> Route:
    """Return a row of the table; ``{id}`` in its path matches one quoted segment."""
    pattern = re.compile(re.escape(path).replace(r"\{id\}", "(?P<id>[^/]+)"))
    return Route(method=method, path=pattern, answer=answer, required=required, optional=optional)


AGENT = {"agent_uuid": str}
CUSTOMER = {"customer_id": str}
ROUTES = (
    route("POST", "/chat_sessions", legacy_create, AGENT, metadata=dict),
    route(
        "POST",
        "/chat_messages/send_message",
        legacy_send,
        {**AGENT, "chat_session_id": str, "message": str},
    ),
    route("POST", "/chat_sessions/{id}/pause_session", legacy_pause, AGENT),
    route("POST", "/chat_sessions/{id}/close_session", legacy_close, AGENT),
    route(
        "POST",
        "/v1/chat/session",
        v1_create,
        {**AGENT, **CUSTOMER},
        input_fields=dict,
        context=list,
    ),
    route("GET", "/v1/chat/session/active", v1_active, CUSTOMER, agent_uuid=str),
    route(
        "POST",
        "/v1/chat/inbound",
        v1_inbound,
        {**AGENT, **CUSTOMER, "content": str},
        session_id=str,
    ),
    route("POST", "/v1/chat/session/{id}/inject_context", v1_inject_context, {"context": str}),
    route("POST", "/v1/chat/session/{id}/support", v1_support, {}, command=str, message=str),
    route("GET", "/v1/active_agents", active_agents, {}),
)
