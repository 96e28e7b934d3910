"""OSVI's chat API: one method per call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from osvi_django.client.connections import ACTIVE_PATH
from osvi_django.client.responses import (
    Answer,
    ClosedSession,
    RemoteSession,
    Reply,
    StartedSession,
    SupportAnswer,
    read_active,
    read_active_ids,
    read_all_active,
    read_closed,
    read_context,
    read_created,
    read_paused,
    read_reply,
    read_started,
    read_support,
    says_none,
)
from osvi_django.client.transport import Transport, reader_of
from osvi_django.client.validation import quoted_id, required_text, start_payload
from osvi_django.conf import (
    DEFAULT_ACCOUNT,
    DEFAULTS,
    DIALECTS,
    Account,
    base_url_problem,
    configured,
    seconds_problem,
)
from osvi_django.exceptions import (
    InvalidInput,
    OSVINotConfigured,
)
from osvi_django.exceptions import translate as _
from osvi_django.redaction import hides
from osvi_django.validation import require_id, storable

_CLOSE_PATHS: Final = {
    "legacy": "/chat_sessions/{id}/close_session",
    "v1": "/v1/chat/session/{id}/support",
}
# Without a command, a message goes to the customer; ``close`` is a separate call.
_COMMANDS: Final = frozenset({"", "takeover", "tell", "whisper", "end"})
_NEED_A_MESSAGE: Final = frozenset({"", "tell", "whisper"})


class OSVIClient:
    """One OSVI account's chat API. Cheap to create: connections are kept per thread.

    ``token``: the API token or a callable that returns it, called again for each request.
    ``connect_timeout``, ``read_timeout`` and ``deadline`` are seconds; the deadline is for a whole
    call except name resolution, which only the system's resolver limits. A connection that was idle
    for more than ``idle_timeout`` seconds is not used again. ``before_call`` is called before each
    call, once everything needed for the call is available. Raises ``OSVINotConfigured`` if a value
    cannot be used.
    """

    def __init__(
        self,
        *,
        token: str | Callable[[], str],
        base_url: str = DEFAULTS["BASE_URL"],
        close_with: str = DEFAULTS["CLOSE_WITH"],
        connect_timeout: float = DEFAULTS["CONNECT_TIMEOUT"],
        read_timeout: float = DEFAULTS["READ_TIMEOUT"],
        deadline: float = DEFAULTS["DEADLINE"],
        idle_timeout: float = DEFAULTS["IDLE_TIMEOUT"],
        before_call: Callable[[], object] | None = None,
    ) -> None:
        read_token = reader_of(token)
        del token  # tracebacks show the local variables of their frames
        self.base_url = base_url
        self.close_with = close_with
        if problem := base_url_problem(base_url):
            raise OSVINotConfigured(f"base_url {problem}.")
        if close_with not in DIALECTS:
            raise OSVINotConfigured('close_with is neither "legacy" nor "v1".')
        for seconds in (connect_timeout, read_timeout, deadline, idle_timeout):
            if problem := seconds_problem(seconds):
                raise OSVINotConfigured(f"A timeout {problem}.")
        self.base_url = base_url.rstrip("/")
        self.connect_timeout = connect_timeout
        self.read_timeout = read_timeout
        self.deadline = deadline
        self.idle_timeout = idle_timeout
        self._transport = Transport(
            read_token=read_token,
            base_url=self.base_url,
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            deadline=deadline,
            idle_timeout=idle_timeout,
            before_call=before_call,
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r}, close_with={self.close_with!r})"

    @classmethod
    def for_account(
        cls,
        alias: str = DEFAULT_ACCOUNT,
        *,
        before_call: Callable[[], object] | None = None,
        patience: float = float("inf"),
    ) -> OSVIClient:
        """Return the client of ``settings.OSVI[alias]``. Raises ``OSVINotConfigured``.

        ``patience``: the most seconds for a call, if the settings allow more.
        """
        account = Account(alias)
        with configured():
            return cls(
                token=lambda: account.api_token,
                base_url=account.base_url,
                close_with=account.close_with,
                connect_timeout=min(account.connect_timeout, patience),
                read_timeout=min(account.read_timeout, patience),
                deadline=min(account.deadline, patience),
                idle_timeout=account.idle_timeout,
                before_call=before_call,
            )

    def close_session(self, session_id: str, *, agent_uuid: str = "") -> ClosedSession:
        """Close a session permanently and return OSVI's summary of it.

        Raises ``OSVIUnreachable`` (nothing was sent), ``OSVIRejected`` and its subclasses (OSVI
        refused), ``OSVIBadAnswer`` and ``OSVINoAnswer`` (it may be closed), ``InvalidInput``,
        ``OSVINotConfigured``.
        """
        return read_closed(self.send_close(session_id, agent_uuid=agent_uuid), session_id)

    def send_close(
        self,
        session_id: str,
        *,
        agent_uuid: str = "",
        dialect: str = "",
        send_by: float = float("inf"),
    ) -> Answer:
        """Send the close and return the raw answer; ``read_closed`` reads it.

        The legacy call needs ``agent_uuid`` (OSVI's "End Chat Session" page); v1 does not.
        ``dialect`` is the client's own if none is named. After ``send_by``, a moment of the
        monotonic clock, it is not sent, and ``OSVIUnreachable`` is raised.
        """
        dialect = dialect or self.close_with
        path = _CLOSE_PATHS[dialect].format(id=quoted_id(session_id))
        if dialect == "v1":
            return self._transport.send("POST", path, {"command": "close"}, send_by, of=session_id)
        if not agent_uuid:
            problem = _("agent_uuid is required: give the agent that the session belongs to.")
            raise InvalidInput(problem, field="agent_uuid")
        return self._transport.send(
            "POST", path, {"agent_uuid": agent_uuid}, send_by, of=session_id
        )

    @hides("customer_id", "input_fields", "context")
    def create_session(
        self,
        *,
        agent_uuid: str,
        customer_id: str,
        input_fields: Mapping[str, Any] | None = None,
        context: Sequence[str] = (),
    ) -> RemoteSession:
        """Start a session; OSVI first closes what the customer has open with this agent.

        ``input_fields``: what the agent should know about the customer, as JSON; ``context``:
        texts, of which OSVI keeps the last five. Raises the same as ``close_session``.
        """
        payload = start_payload(
            agent_uuid=agent_uuid,
            customer_id=customer_id,
            input_fields=input_fields,
            context=context,
        )
        return read_created(self._transport.send("POST", "/v1/chat/session", payload), customer_id)

    @hides("customer_id")
    def active_session(self, customer_id: str, *, agent_uuid: str) -> RemoteSession | None:
        """Return the session that a customer has open with an agent, or None.

        Raises the same as ``close_session``; asking changes nothing.
        """
        answer = self._send_active(customer_id, agent_uuid=storable(agent_uuid))
        return read_active(answer, customer_id)

    @hides("customer_id")
    def active_sessions(self, customer_id: str) -> dict[str, RemoteSession]:
        """Return all sessions that a customer has open, by agent UUID.

        Raises the same as ``close_session``; asking changes nothing.
        """
        return self.read_active_sessions(self.send_active_sessions(customer_id), customer_id)

    @hides("customer_id")
    def send_active_sessions(self, customer_id: str) -> Answer:
        """Ask what a customer has open; ``read_active_sessions`` reads the answer."""
        return self._send_active(customer_id)

    def read_active_sessions(
        self, answer: Answer, customer_id: str = ""
    ) -> dict[str, RemoteSession]:
        """Return the sessions in an answer to ``send_active_sessions``, by agent UUID."""
        return {} if self._says_surely_none(answer) else read_all_active(answer, customer_id)

    @hides("customer_id")
    def active_session_ids(self, customer_id: str) -> frozenset[str]:
        """Return the ids of all sessions that a customer has open, with any agent.

        Raises the same as ``close_session``; asking changes nothing.
        """
        answer = self._send_active(customer_id)
        if self._says_surely_none(answer):
            return frozenset()
        return read_active_ids(answer, customer_id)

    @hides("customer_id", "content")
    def inbound(
        self, *, agent_uuid: str, customer_id: str, content: str, session_id: str = ""
    ) -> Reply:
        """Send what a customer wrote, and return the agent's answer.

        Without ``session_id`` it goes to the open session of the customer with this agent, or
        starts one. Raises the same as ``close_session``.
        """
        answer = self.send_inbound(
            agent_uuid=agent_uuid, customer_id=customer_id, content=content, session_id=session_id
        )
        return read_reply(answer, session_id)

    @hides("customer_id", "content")
    def send_inbound(
        self, *, agent_uuid: str, customer_id: str, content: str, session_id: str = ""
    ) -> Answer:
        """Send a customer's message and return the raw answer; ``read_reply`` reads it."""
        payload = {
            "agent_uuid": required_text("agent_uuid", agent_uuid),
            "customer_id": required_text("customer_id", customer_id),
            "content": required_text("content", content),
        }
        if session_id:
            payload["session_id"] = required_text("session_id", session_id)
        return self._transport.send("POST", "/v1/chat/inbound", payload, of=session_id)

    @hides("context")
    def inject_context(self, session_id: str, context: str) -> tuple[str, ...]:
        """Add to what the agent knows of a session, and return all that OSVI keeps of it.

        Raises the same as ``close_session``.
        """
        return read_context(self.send_context(session_id, context), session_id)

    @hides("context")
    def send_context(self, session_id: str, context: str) -> Answer:
        """Add to a session's context and return the raw answer; ``read_context`` reads it."""
        path = f"/v1/chat/session/{quoted_id(session_id)}/inject_context"
        return self._transport.send(
            "POST", path, {"context": required_text("context", context)}, of=session_id
        )

    @hides("message")
    def support(self, session_id: str, *, command: str = "", message: str = "") -> SupportAnswer:
        """Send a support command: ``takeover``, ``tell``, ``whisper`` or ``end``.

        A ``message`` without a command goes to the customer. To close, use ``close_session``, whose
        errors this raises too.
        """
        answer = self.send_support(session_id, command=command, message=message)
        return read_support(answer, session_id)

    @hides("message")
    def send_support(self, session_id: str, *, command: str = "", message: str = "") -> Answer:
        """Send a support command and return the raw answer; ``read_support`` reads it."""
        if command not in _COMMANDS:
            known = ", ".join(sorted(filter(None, _COMMANDS)))
            problem = _("command is not known: use one of %(known)s.") % {"known": known}
            raise InvalidInput(problem, field="command")
        payload = {"command": command} if command else {}
        if message or command in _NEED_A_MESSAGE:
            payload["message"] = required_text("message", message)
        path = f"/v1/chat/session/{quoted_id(session_id)}/support"
        return self._transport.send("POST", path, payload, of=session_id)

    @hides("person_name")
    def start_legacy_session(self, *, agent_uuid: str, person_name: str = "") -> StartedSession:
        """Start a session in the legacy dialect. Raises the same as ``close_session``."""
        payload: dict[str, Any] = {"agent_uuid": required_text("agent_uuid", agent_uuid)}
        if person_name:
            payload["metadata"] = {"person_name": required_text("person_name", person_name)}
        return read_started(self._transport.send("POST", "/chat_sessions", payload))

    @hides("message")
    def send_legacy_message(self, session_id: str, *, agent_uuid: str, message: str) -> Reply:
        """Send a customer's message in the legacy dialect, and return the agent's answer.

        Raises the same as ``close_session``.
        """
        payload = {
            "agent_uuid": required_text("agent_uuid", agent_uuid),
            "chat_session_id": required_text("session_id", session_id),
            "message": required_text("message", message),
        }
        answer = self._transport.send("POST", "/chat_messages/send_message", payload, of=session_id)
        return read_reply(answer, session_id, may_differ=False)

    def pause_legacy_session(self, session_id: str, *, agent_uuid: str) -> None:
        """Pause a session, in the legacy dialect. Raises the same as ``close_session``."""
        path = f"/chat_sessions/{quoted_id(session_id)}/pause_session"
        payload = {"agent_uuid": required_text("agent_uuid", agent_uuid)}
        read_paused(self._transport.send("POST", path, payload, of=session_id), session_id)

    def _says_surely_none(self, answer: Answer) -> bool:
        # Below a wrong path in the base URL every answer is 404; without a path, 404 means none.
        return says_none(answer) and not urlsplit(self.base_url).path

    @hides("customer_id")
    def _send_active(self, customer_id: str, **agent: str) -> Answer:
        query = {"customer_id": require_id("customer_id", customer_id), **agent}
        return self._transport.send("GET", ACTIVE_PATH + urlencode(query))
