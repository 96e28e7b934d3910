"""The wire: OSVI's chat API over HTTP, and the only file that imports ``requests``.

It knows no models and needs no database, so it works in a bare Python shell::

    client = OSVIClient(token="...")
    print(client.close_session("4718a326-...", agent_uuid="agent_IsZ3...").summary)

Every call passes one funnel, ``OSVIClient._send``: the token is set at the last moment, redirects
are refused, and time and size are bounded whatever the server does. What comes back is first an
``Answer``, as it came, so that a caller can put it away before anybody reads it; ``read_closed``
then checks it and makes a dataclass of it. No dictionary of the wire leaves this file.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPException, HTTPResponse
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import requests
from django.core.exceptions import ImproperlyConfigured
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager, Retry
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError, InvalidHeader

from osvi_django import __version__
from osvi_django.answers import (
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
    storable,
)
from osvi_django.conf import (
    DEFAULT_ACCOUNT,
    DEFAULTS,
    DIALECTS,
    Account,
    InvalidSetting,
    base_url_problem,
    seconds_problem,
    token_problem,
)
from osvi_django.exceptions import (
    InvalidInput,
    OSVIError,
    OSVINoAnswer,
    OSVINotConfigured,
    OSVIUnreachable,
)
from osvi_django.exceptions import translate as _

logger = logging.getLogger(__name__)

MAX_BODY: Final = 2_000_000  # bytes, decoded
MAX_RETRY_AFTER: Final = 21_600  # seconds: urllib3 believes no more either
MAX_DEPTH: Final = 20  # levels of what is sent along with a start
_CHUNK: Final = 65_536  # bytes
_ACTIVE_PATH: Final = "/v1/chat/session/active?"
_QUERY = re.compile(r"\?\S*")
_CLOSE_PATHS: Final = {
    "legacy": "/chat_sessions/{id}/close_session",
    "v1": "/v1/chat/session/{id}/support",
}
# A message alone is somebody's to the customer; ``close`` is a call of its own.
_COMMANDS: Final = frozenset({"", "takeover", "tell", "whisper", "end"})
_NEED_A_MESSAGE: Final = frozenset({"", "tell", "whisper"})

# Only what surely was not sent is tried again: a connection that never came about.
_RETRY = Retry(
    total=2,
    connect=2,
    read=0,
    redirect=0,
    status=0,
    other=0,
    backoff_factor=0.1,
    respect_retry_after_header=False,  # it would repeat a GET
)


class OSVIClient:
    """One OSVI account's chat API. Cheap to make; connections are kept per thread, not per client.

    ``token``: the API token or a callable that returns it, asked anew for each call.
    ``connect_timeout``, ``read_timeout`` and ``deadline`` are seconds; the deadline is for a whole
    call, name resolution apart, which only the system's resolver bounds.
    Raises ``OSVINotConfigured`` where a value cannot be used.
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
    ) -> None:
        self._read_token = _reader(token)
        del token  # tracebacks show the locals of their frames
        self.base_url = base_url
        self.close_with = close_with
        if problem := base_url_problem(base_url):
            raise OSVINotConfigured(f"base_url {problem}.")
        if close_with not in DIALECTS:
            raise OSVINotConfigured('close_with is neither "legacy" nor "v1".')
        for seconds in (connect_timeout, read_timeout, deadline):
            if problem := seconds_problem(seconds):
                raise OSVINotConfigured(f"A timeout {problem}.")
        self.base_url = base_url.rstrip("/")
        self.connect_timeout = connect_timeout
        self.read_timeout = read_timeout
        self.deadline = deadline

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r}, close_with={self.close_with!r})"

    @classmethod
    def for_account(cls, alias: str = DEFAULT_ACCOUNT) -> OSVIClient:
        """The client of ``settings.OSVI[alias]``. Raises ``OSVINotConfigured``."""
        account = Account(alias)
        try:
            return cls(
                token=lambda: account.api_token,
                base_url=account.base_url,
                close_with=account.close_with,
                connect_timeout=account.connect_timeout,
                read_timeout=account.read_timeout,
                deadline=account.deadline,
            )
        except ImproperlyConfigured as error:
            problem = str(error)
        raise OSVINotConfigured(problem)

    def close_session(self, session_id: str, *, agent_uuid: str = "") -> ClosedSession:
        """Close a session for good and return OSVI's summary of it.

        Raises ``OSVIUnreachable`` (nothing was sent), ``OSVIRejected`` and its kinds (OSVI said
        no), ``OSVIBadAnswer`` and ``OSVINoAnswer`` (it may be closed), ``InvalidInput``,
        ``OSVINotConfigured``.
        """
        return read_closed(self.send_close(session_id, agent_uuid=agent_uuid), session_id)

    def send_close(self, session_id: str, *, agent_uuid: str = "", dialect: str = "") -> Answer:
        """Send the close and return whatever was answered, unread; ``read_closed`` reads it.

        The legacy call needs ``agent_uuid`` (the vendor's "End Chat Session" page); v1 does not.
        ``dialect`` is the client's own where none is named.
        """
        dialect = dialect or self.close_with
        path = _CLOSE_PATHS[dialect].format(id=_quoted(session_id))
        if dialect == "v1":
            return self._send("POST", path, {"command": "close"})
        if not agent_uuid:
            problem = _("agent_uuid is missing: name the agent that the session belongs to.")
            raise InvalidInput(problem, field="agent_uuid")
        return self._send("POST", path, {"agent_uuid": agent_uuid})

    def create_session(
        self,
        *,
        agent_uuid: str,
        customer_id: str,
        input_fields: Mapping[str, Any] | None = None,
        context: Sequence[str] = (),
    ) -> RemoteSession:
        """Start a session; OSVI first closes what the customer has open with this agent.

        ``input_fields``: what the agent shall know of the customer, as JSON takes it; ``context``:
        texts, of which OSVI keeps the last five. Raises what ``close_session`` raises.
        """
        payload: dict[str, Any] = {
            "agent_uuid": _required("agent_uuid", agent_uuid),
            "customer_id": _required("customer_id", customer_id),
        }
        if input_fields:
            payload["input_fields"] = _json_object("input_fields", input_fields)
        if context:
            payload["context"] = _texts("context", context)
        return read_created(self._send("POST", "/v1/chat/session", payload))

    def active_session(self, customer_id: str, *, agent_uuid: str) -> RemoteSession | None:
        """The session that a customer has open with an agent, or None.

        Raises what ``close_session`` raises; nothing is changed by asking.
        """
        return read_active(self._send_active(customer_id, agent_uuid=storable(agent_uuid)))

    def active_sessions(self, customer_id: str) -> dict[str, RemoteSession]:
        """All sessions that a customer has open, by the UUIDs of the agents.

        Raises what ``close_session`` raises; nothing is changed by asking.
        """
        return self.read_active_sessions(self.send_active_sessions(customer_id))

    def send_active_sessions(self, customer_id: str) -> Answer:
        """Ask what a customer has open; ``read_active_sessions`` reads the answer."""
        return self._send_active(customer_id)

    def read_active_sessions(self, answer: Answer) -> dict[str, RemoteSession]:
        """The sessions in an answer to ``send_active_sessions``, by the UUIDs of the agents."""
        return {} if self._says_surely_none(answer) else read_all_active(answer)

    def active_session_ids(self, customer_id: str) -> frozenset[str]:
        """The ids of all sessions that a customer has open, with whichever agent.

        Raises what ``close_session`` raises; nothing is changed by asking.
        """
        answer = self._send_active(customer_id)
        return frozenset() if self._says_surely_none(answer) else read_active_ids(answer)

    def inbound(
        self, *, agent_uuid: str, customer_id: str, content: str, session_id: str = ""
    ) -> Reply:
        """Hand over what a customer wrote, and return what the agent answers.

        Without ``session_id`` it goes to what the customer has open with this agent, or begins a
        session. Raises what ``close_session`` raises.
        """
        answer = self.send_inbound(
            agent_uuid=agent_uuid, customer_id=customer_id, content=content, session_id=session_id
        )
        return read_reply(answer, session_id)

    def send_inbound(
        self, *, agent_uuid: str, customer_id: str, content: str, session_id: str = ""
    ) -> Answer:
        """Send a customer's message and return the answer unread; ``read_reply`` reads it."""
        payload = {
            "agent_uuid": _required("agent_uuid", agent_uuid),
            "customer_id": _required("customer_id", customer_id),
            "content": _required("content", content),
        }
        if session_id:
            payload["session_id"] = _required("session_id", session_id)
        return self._send("POST", "/v1/chat/inbound", payload)

    def inject_context(self, session_id: str, context: str) -> tuple[str, ...]:
        """Add to what the agent knows of a session, and return all that OSVI keeps of it.

        Raises what ``close_session`` raises.
        """
        return read_context(self.send_context(session_id, context))

    def send_context(self, session_id: str, context: str) -> Answer:
        """Add to a session's context and return the answer unread; ``read_context`` reads it."""
        path = f"/v1/chat/session/{_quoted(session_id)}/inject_context"
        return self._send("POST", path, {"context": _required("context", context)})

    def support(self, session_id: str, *, command: str = "", message: str = "") -> SupportAnswer:
        """Give a support command: ``takeover``, ``tell``, ``whisper`` or ``end``.

        A ``message`` without a command goes to the customer. ``close_session`` closes. Raises what
        that raises.
        """
        answer = self.send_support(session_id, command=command, message=message)
        return read_support(answer, session_id)

    def send_support(self, session_id: str, *, command: str = "", message: str = "") -> Answer:
        """Give a support command and return the answer unread; ``read_support`` reads it."""
        if command not in _COMMANDS:
            known = ", ".join(sorted(filter(None, _COMMANDS)))
            problem = _("command is not known: use one of %(known)s.") % {"known": known}
            raise InvalidInput(problem, field="command")
        payload = {"command": command} if command else {}
        if message or command in _NEED_A_MESSAGE:
            payload["message"] = _required("message", message)
        path = f"/v1/chat/session/{_quoted(session_id)}/support"
        return self._send("POST", path, payload)

    def start_legacy_session(self, *, agent_uuid: str, person_name: str = "") -> StartedSession:
        """Start a session in the legacy dialect. Raises what ``close_session`` raises."""
        payload: dict[str, Any] = {"agent_uuid": _required("agent_uuid", agent_uuid)}
        if person_name:
            payload["metadata"] = {"person_name": _required("person_name", person_name)}
        return read_started(self._send("POST", "/chat_sessions", payload))

    def send_legacy_message(self, session_id: str, *, agent_uuid: str, message: str) -> Reply:
        """Send a customer's message in the legacy dialect, and return what the agent answers.

        Raises what ``close_session`` raises.
        """
        payload = {
            "agent_uuid": _required("agent_uuid", agent_uuid),
            "chat_session_id": _required("session_id", session_id),
            "message": _required("message", message),
        }
        return read_reply(self._send("POST", "/chat_messages/send_message", payload), session_id)

    def pause_legacy_session(self, session_id: str, *, agent_uuid: str) -> None:
        """Let a session rest, in the legacy dialect. Raises what ``close_session`` raises."""
        path = f"/chat_sessions/{_quoted(session_id)}/pause_session"
        read_paused(self._send("POST", path, {"agent_uuid": _required("agent_uuid", agent_uuid)}))

    def _says_surely_none(self, answer: Answer) -> bool:
        # Below a mistaken path of the base URL all is answered 404; without a path it means: none.
        return says_none(answer) and not urlsplit(self.base_url).path

    def _send_active(self, customer_id: str, **agent: str) -> Answer:
        if not isinstance(customer_id, str) or storable(customer_id) != customer_id:
            raise _no_id("customer_id")
        query = {"customer_id": customer_id, **agent}
        return self._send("GET", _ACTIVE_PATH + urlencode(query))

    def _send(self, method: str, path: str, payload: dict[str, Any] | None = None) -> Answer:
        """The one funnel that every call passes."""
        started = time.monotonic()
        _wire.begin(started + self.deadline)
        auth = self._auth()
        error: OSVIError | None = None
        try:
            answer = self._exchange(method, self.base_url + path, payload, auth)
        except (requests.RequestException, HTTPError, HTTPException, OSError) as exc:
            error = _not_answered(exc)
            outcome = f"{error.code} ({_names(exc)})"
        else:
            outcome = str(answer.status)
        # A query has the customer in it.
        call = (method, path.partition("?")[0], outcome, time.monotonic() - started)
        logger.info("%s %s: %s in %.2f s", *call)
        if error is None:
            return answer
        # Out here nothing of requests' error, which carries the token, hangs on ours.
        raise error

    def _exchange(
        self, method: str, url: str, payload: dict[str, Any] | None, auth: _TokenAuth
    ) -> Answer:
        with self._ask(method, url, payload, auth) as response:
            body, truncated = _read_body(response)
            return Answer(
                status=response.status_code,
                # First scrubbed, then cut: the cut may go through the middle of a token.
                body=auth.scrub(body)[:MAX_BODY],
                truncated=truncated,
                retry_after=_retry_after(response.headers.get("Retry-After")),
            )

    def _ask(
        self, method: str, url: str, payload: dict[str, Any] | None, auth: _TokenAuth
    ) -> requests.Response:
        session = _wire.session(url)
        request = requests.Request(method, url, headers=session.headers, json=payload, auth=auth)
        # Prepared without the session: what it would merge in costs a tenth of the call's CPU.
        prepared = request.prepare()
        # Proxies and authorities to trust, where the environment names them.
        told = session.merge_environment_settings(prepared.url, {}, True, None, None)
        timeout = (self.connect_timeout, self.read_timeout)
        return session.send(prepared, timeout=timeout, allow_redirects=False, **told)

    def _auth(self) -> _TokenAuth:
        try:
            token = self._read_token()
        except InvalidSetting as error:
            problem = str(error)
        except Exception as exc:  # noqa: BLE001  # the host's own code, and it may quote the token
            problem = f"The API token could not be read: its callable raised {type(exc).__name__}."
        else:
            if not token_problem(token):
                return _TokenAuth(token)
            problem = f"The API token {token_problem(token)}."
            del token
        # Out here, so that nothing of the callable's error hangs on ours.
        raise OSVINotConfigured(problem)


def _reader(token: str | Callable[[], str]) -> Callable[[], str]:
    return token if callable(token) else lambda: token


def _required(name: str, text: str) -> str:
    """A text that can be sent, and stored by whoever gets it."""
    if not isinstance(text, str) or not text.strip() or storable(text) != text:
        problem = _(
            "%(field)s is missing, or has a character that cannot be sent: give a text without "
            "U+0000 and halves of surrogate pairs."
        )
        raise InvalidInput(problem % {"field": name}, field=name)
    return text


def _no_id(name: str) -> InvalidInput:
    problem = _("%(field)s is not an id that can be sent: use the one that OSVI gave.")
    return InvalidInput(problem % {"field": name}, field=name)


def _json_object(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """An object that can be sent: NaN, a date or a set cannot."""
    try:
        plain = dict(value)
        json.dumps(plain, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        problem = _("%(field)s has something that JSON does not: use texts, numbers, lists.")
        raise InvalidInput(problem % {"field": name}, field=name) from None
    if _is_deep(plain, MAX_DEPTH):
        problem = _("%(field)s is nested deeper than %(levels)d levels: use fewer.")
        told = {"field": name, "levels": MAX_DEPTH}
        raise InvalidInput(problem % told, field=name)
    return plain


def _is_deep(value: object, levels: int) -> bool:
    """Whether it is nested deeper: whoever encodes it later may have less room on its stack."""
    inner = value.values() if isinstance(value, dict) else value
    if not isinstance(inner, Iterable) or isinstance(inner, str):
        return False
    return levels == 0 or any(_is_deep(each, levels - 1) for each in inner)


def _texts(name: str, values: Sequence[str]) -> list[str]:
    """Texts that can be sent; one alone would be taken for its characters."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        problem = _("%(field)s is no list: put the texts in one.") % {"field": name}
        raise InvalidInput(problem, field=name)
    return [_required(name, each) for each in values]


def _quoted(session_id: str) -> str:
    """The id as one segment of a path, whatever it is made of."""
    # URLs lose these two segments on their way, quoted or not.
    is_text = isinstance(session_id, str) and storable(session_id) == session_id
    if not is_text or session_id in {"", ".", ".."}:
        raise _no_id("session_id")
    return quote(session_id, safe="")


def _read_body(response: requests.Response) -> tuple[bytes, bool]:
    """The decoded body, hardly more than ``MAX_BODY`` of it, and whether there was more."""
    body = bytearray()
    # read1 returns what is there, so the cap is looked at however the body is dealt out or packed.
    while len(body) <= MAX_BODY and (chunk := response.raw.read1(_CHUNK, decode_content=True)):
        body += chunk
    return bytes(body), len(body) > MAX_BODY


def _retry_after(header: str | None) -> float | None:
    """Seconds to wait, from a ``Retry-After`` in seconds or as a date; None where it is neither."""
    if header is None:
        return None
    try:
        seconds = _RETRY.parse_retry_after(header)
    except (InvalidHeader, ValueError, OverflowError):
        return None
    return float(min(seconds, MAX_RETRY_AFTER))


def _not_answered(exc: Exception) -> OSVIError:
    """Our own error for a failure of the wire: was anything sent?"""
    sent = _wire.sent
    if sent is None:
        # It never came to a connection of ours: a fake transport, or requests refused the URL.
        sent = not isinstance(exc, (requests.ConnectTimeout, ValueError))
    return OSVINoAnswer() if sent else OSVIUnreachable()


def _names(exc: BaseException) -> str:
    """The kinds of an error and of what it hides; their texts may quote what must not be logged."""
    inner = exc.args[0] if exc.args and isinstance(exc.args[0], BaseException) else None
    inner = inner or getattr(exc, "reason", None)
    name = type(exc).__name__
    return f"{name}: {_names(inner)}" if isinstance(inner, BaseException) else name


class _TokenAuth(AuthBase):
    """Sets the token on a request at the last moment, and wipes it from what is answered."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["API-Token"] = self._token
        return request

    def scrub(self, body: bytes) -> bytes:
        """``body`` without the token, should a server quote it: answers are stored."""
        # A very short one would be found in innocent words.
        return _written(self._token).sub(b"[API token]", body) if len(self._token) >= 8 else body


@lru_cache(maxsize=16)  # tokens; each call has one, and it is nearly always the one before
def _written(token: str) -> re.Pattern[bytes]:
    """A token in a body, however it is written there."""
    # JSON has three ways of writing a character: as it is, after a backslash, and as a number.
    quoted = (rf"(?:\\?{re.escape(each)}|(?i:\\u{ord(each):04x}))" for each in token)
    return re.compile("".join(quoted).encode())


class _WithoutCustomers(logging.Filter):
    """Cuts the query, which names a customer, from what urllib3 logs of our calls."""

    def filter(self, record: logging.LogRecord) -> bool:
        args = record.args if isinstance(record.args, tuple) else ()
        if any(_ACTIVE_PATH in str(each) for each in args):
            record.args = tuple(_without_query(each) for each in args)
        return True


def _without_query(argument: object) -> object:
    return _QUERY.sub("?...", argument) if isinstance(argument, str) else argument


for _name in ("urllib3.connectionpool", "urllib3.util.retry"):
    logging.getLogger(_name).addFilter(_WithoutCustomers())


class _Session(requests.Session):
    """A session of requests that never follows, nor reads ahead for, a redirect."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """No target: requests would send the token along, and read the body without any bound."""


class _Wire(threading.local):
    """One thread's connections, and how far its call of this moment has come."""

    def __init__(self) -> None:
        self.ends_at = 0.0
        self.sent: bool | None = None
        self._pid = os.getpid()
        self._session = _new_session()

    def begin(self, ends_at: float) -> None:
        """Begin a call that must be over at ``ends_at``, in seconds of the monotonic clock."""
        self.ends_at = ends_at
        self.sent = None

    def remaining(self) -> float:
        """Seconds until the deadline. Raises ``TimeoutError`` where it is over."""
        seconds = self.ends_at - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("The deadline of the call is over.")
        return seconds

    def session(self, url: str) -> requests.Session:
        """This thread's session: requests promises no thread-safety, and a fork shares sockets."""
        if self._pid != os.getpid():
            self._pid, self._session = os.getpid(), _new_session()
        # A plain http address is on this machine, and must not be asked of a proxy elsewhere.
        self._session.trust_env = url.lower().startswith("https:")
        return self._session


def _new_session() -> requests.Session:
    session = _Session()
    session.headers["User-Agent"] = f"osvi-django/{__version__}"
    session.headers["Accept"] = "application/json"
    # A session serves all accounts of its thread: no cookie of one may reach another.
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    for prefix in ("https://", "http://"):
        session.mount(prefix, _BoundedAdapter(max_retries=_RETRY))
    return session


class _BoundedFile(io.RawIOBase):
    """Reads a socket and never past the deadline: a timeout alone starts anew with every byte."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._file = sock.makefile("rb", buffering=0)
        self._silence = sock.gettimeout() or float("inf")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(min(self._silence, _wire.remaining()))
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


@dataclass(frozen=True)
class _BoundedSocket:
    """As much of a socket as an ``HTTPResponse`` asks for: a file to read from."""

    sock: socket.socket

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_BoundedFile(self.sock))


class _BoundedResponse(HTTPResponse):
    """Bounds the reading of headers and body alike."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(_BoundedSocket(sock), *args, **kwargs)  # type: ignore[arg-type]

    def begin(self) -> None:
        super().begin()
        # urllib3 logs, word for word, what of the headers it cannot parse: the token may be there.
        self.msg.defects.clear()
        self.msg.set_payload("")


class _TimelyOptions(list[Any]):
    """Set on a socket before it connects: of a host's many addresses, none is tried too late."""

    def __iter__(self) -> Iterator[Any]:
        _wire.remaining()
        return super().__iter__()


class _Bounded(HTTPConnection):
    """Bounds connecting as well, and keeps in mind whether anything of the request was sent."""

    response_class = _BoundedResponse

    def connect(self) -> None:
        _wire.sent = False
        try:
            self.timeout = min(self.timeout or float("inf"), _wire.remaining())
        except TimeoutError as exc:
            raise ConnectTimeoutError(self, str(exc)) from exc
        self.socket_options = _TimelyOptions(self.socket_options or ())
        try:
            super().connect()
        finally:
            # Asking a proxy for a tunnel was sending too, but nothing of the request.
            _wire.sent = False

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        _wire.sent = bool(_wire.sent)
        # Resolving a name has no bound: whoever comes too late must not begin.
        self.sock.settimeout(min(self.timeout or float("inf"), _wire.remaining()))
        _wire.sent = True
        super().send(data)


class _BoundedHTTPS(_Bounded, HTTPSConnection):
    """The same with TLS."""


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _Bounded


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _BoundedHTTPS


class _BoundedAdapter(HTTPAdapter):
    """An adapter whose connections, through a proxy or not, are the bounded ones."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        _bound(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        return _bound(super().proxy_manager_for(*args, **kwargs))


def _bound(manager: PoolManager) -> PoolManager:
    manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
    return manager


_wire = _Wire()
