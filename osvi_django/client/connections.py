"""Connections to OSVI: limited in time, and kept only after one complete answer."""

from __future__ import annotations

import io
import logging
import os
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from http.client import HTTPException
from http.client import HTTPResponse as PlainResponse
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Final, cast

import requests
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH, select_proxy
from urllib3 import (
    HTTPConnectionPool,
    HTTPSConnectionPool,
    PoolManager,
    Retry,
)
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    MaxRetryError,
    NewConnectionError,
)

from osvi_django import __version__, clock, network
from osvi_django.conf import (
    is_loopback,
)
from osvi_django.exceptions import (
    OSVINotConfigured,
)
from osvi_django.exceptions import translate as _
from osvi_django.redaction import HiddenBytes, HiddenText

with suppress(ImportError):
    import socks  # PySocks, which only SOCKS proxies need

MAX_INTERIM: Final = 100  # informational answers before the real one
_SOCKS_PORT: Final = 1080
_TOKEN_HEADER: Final = b"API-Token: [API token]\r\n"
# What OSVI and its gateways answer. After any other status a connection is not used again.
_USUAL: Final = frozenset({200, 201, 400, 401, 403, 404, 409, 422, 429, 500, 503})
# Statuses after which HTTP has no body, whatever the headers say.
_WITHOUT_BODY: Final = frozenset({101, 204, 304})
ACTIVE_PATH: Final = "/v1/chat/session/active?"
_QUERY = re.compile(r"\?\S*")
# Probe a silent peer: after how many seconds, at which interval, and how many times.
_KEEPALIVE: Final = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4))
        if hasattr(socket, name)
    ),
]
_NO_CERTIFICATES: Final = (
    "No certificates were found at the path in REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE, or in the "
    "package certifi."
)
_NO_PYSOCKS: Final = (
    "The environment sets a SOCKS proxy for OSVI, which needs another package: pip install "
    '"requests[socks]".'
)
_NO_PROXY: Final = (
    'The proxy in HTTPS_PROXY or ALL_PROXY cannot be used: write it like "http://host:port" or '
    '"socks5h://host:port".'
)

# Retry only what was surely not sent: a connection that could not be made.
RETRY = Retry(
    total=2,
    connect=2,
    read=0,
    redirect=0,
    status=0,
    other=0,
    backoff_factor=0.1,
    respect_retry_after_header=False,  # it would repeat a GET
)


class NetworkRefused(OSVINotConfigured):
    """This process may call its own machine only; nothing was sent, and the session is as it was.

    The pytest plugin and the environment variable ``OSVI_LOOPBACK_ONLY`` set that limit.
    """

    def __init__(self, host: str, how_to_allow: str) -> None:
        super().__init__(host, how_to_allow)
        self.host = host
        self.how_to_allow = how_to_allow

    def __str__(self) -> str:
        sentence = _(
            "A call to %(host)s was refused and nothing was sent: this process may only call its "
            "own machine."
        )
        return f"{sentence % {'host': self.host}} {self.how_to_allow}"


class NotSetUp(requests.RequestException):
    """This machine is not set up to make a connection; the text is for its operators."""


class _WithoutCustomers(logging.Filter):
    """Removes the query, which names a customer, from what urllib3 logs about our calls."""

    def filter(self, record: logging.LogRecord) -> bool:
        args = record.args if isinstance(record.args, tuple) else ()
        if any(ACTIVE_PATH in str(each) for each in args):
            record.args = tuple(_without_query(each) for each in args)
        return True


def _without_query(argument: object) -> object:
    return _QUERY.sub("?...", argument) if isinstance(argument, str) else argument


for _name in ("urllib3.connectionpool", "urllib3.util.retry"):
    logging.getLogger(_name).addFilter(_WithoutCustomers())


class _Session(requests.Session):
    """A session of requests that never follows a redirect, nor reads ahead for one."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None: requests would send the token along, and read the body without a limit."""


class ThreadState(threading.local):
    """One thread's connections, and the state of its current call."""

    def __init__(self) -> None:
        self.ends_at = 0.0
        self.host = ""
        self.idle_timeout = 0.0
        self.send_by = 0.0
        self.token = HiddenText()
        # None: something other than a connection of ours has the request, and may have sent it.
        self.sent: bool | None = False
        self.connection: _Bounded | None = None
        self.response: _BoundedResponse | None = None
        self._pid = os.getpid()
        self._session = _new_session()

    def begin(self, ends_at: float, host: str, idle_timeout: float) -> None:
        """Start a call to ``host`` that must end by ``ends_at`` of the monotonic clock."""
        self.ends_at = ends_at
        self.host = host
        self.idle_timeout = idle_timeout
        self.sent = False

    def end(self, *, is_whole: bool) -> None:
        """End a call. Keep its connection only if exactly one complete answer was read from it."""
        self.token = HiddenText()
        connection, response = self.connection, self.response
        self.connection = self.response = None
        if connection is None:
            return
        if is_whole and response is not None and response.is_spent:
            connection.idle_since = clock.monotonic()
            connection.has_answered = True
        else:
            connection.close()

    @property
    def is_reused(self) -> bool:
        """Return whether the call was sent on a connection that has answered another one before."""
        return self.connection is not None and self.connection.has_answered

    def require_allowed(self, through: str) -> None:
        """Raise ``NetworkRefused`` if the host, or its proxy, must not be called.

        Only a real connection checks this: a mock reaches no host.
        """
        require_allowed(self.host)
        require_allowed(through)

    def remaining(self) -> float:
        """Return the seconds until the deadline. Raises ``TimeoutError`` if it is over."""
        seconds = self.ends_at - clock.monotonic()
        if seconds <= 0:
            raise TimeoutError("The deadline of the call is over.")
        return seconds

    def with_token(self, data: Any) -> Any:
        """Return the data to send, with the token in place of its placeholder."""
        if type(data) is not bytes:
            return data
        return HiddenBytes(
            data.replace(_TOKEN_HEADER, b"API-Token: %b\r\n" % self.token.encode(), 1)
        )

    def require_time_to_send(self) -> None:
        """Raise ``TimeoutError`` if nothing was sent yet and it is too late for that."""
        if not self.sent and clock.monotonic() > self.send_by:
            raise TimeoutError("The time to send the call is over.")

    def session(self, url: str) -> requests.Session:
        """Return this thread's session: requests is not thread-safe, and a fork shares sockets."""
        if self._pid != os.getpid():
            self._pid, self._session = os.getpid(), _new_session()
        # A plain http address is on this machine, and must not go through a proxy elsewhere.
        self._session.trust_env = url.lower().startswith("https:")
        return self._session


def trusted_certificates() -> str:
    """Return where the certificates are that requests trusts."""
    named = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    return named or DEFAULT_CA_BUNDLE_PATH


def require_allowed(host: str) -> None:
    """Raise ``NetworkRefused`` if this process may not call a host."""
    how_to_allow = network.how_to_allow()
    # A name that ends in .invalid leads nowhere, by RFC 6761: tests of an outage use it.
    if how_to_allow is None or is_loopback(host) or host.endswith(".invalid"):
        return
    error = NetworkRefused(host, how_to_allow)
    network.refusals.append(error)
    raise error


def _new_session() -> requests.Session:
    session = _Session()
    session.headers["User-Agent"] = f"osvi-django/{__version__}"
    session.headers["Accept"] = "application/json"
    # A session serves all accounts of its thread: no cookie of one may reach another.
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    for prefix in ("https://", "http://"):
        session.mount(prefix, _BoundedAdapter(max_retries=RETRY))
    return session


class _BoundedFile(io.RawIOBase):
    """Reads a socket, never past the deadline: a timeout alone restarts with every byte."""

    def __init__(self, sock: socket.socket, file: Any) -> None:
        self._sock = sock
        self._file: io.RawIOBase = file
        self._silence = sock.gettimeout() or float("inf")
        self.is_over = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self.is_over:
            return 0
        self._sock.settimeout(min(self._silence, thread_state.remaining()))
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Reader(io.BufferedReader):
    """Reads an answer, and detects at its end whether more than that has arrived."""

    def __init__(self, file: _BoundedFile) -> None:
        super().__init__(file)
        self._bounded = file
        self.has_rest = False

    def read1(self, size: int = -1, /) -> bytes:
        return HiddenBytes(super().read1(size))

    def close(self) -> None:
        self._bounded.is_over = True  # so that peeking sees only data that has arrived
        self.has_rest = bool(self.peek(1))
        super().close()


@dataclass(frozen=True)
class _BoundedSocket:
    """The part of a socket that an answer needs: a file to read from."""

    sock: socket.socket

    def makefile(self, mode: str) -> _Reader:
        return _Reader(_BoundedFile(self.sock, self.sock.makefile("rb", buffering=0)))


class _BoundedResponse(PlainResponse):
    """Limits the time to read headers and body, and skips informational answers."""

    fp: _Reader

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(_BoundedSocket(sock), *args, **kwargs)  # type: ignore[arg-type]
        self._reader = self.fp
        self._is_regular = False

    @property
    def is_spent(self) -> bool:
        """Return whether this was one usual answer, read completely and with nothing after it."""
        return self._is_regular and self.isclosed() and not self._reader.has_rest

    def begin(self) -> None:
        thread_state.response = self
        for _each in range(MAX_INTERIM):
            super().begin()
            if not 100 <= self.status < 200 or self.status == HTTPStatus.SWITCHING_PROTOCOLS:
                break
            self.headers = self.msg = None  # type: ignore[assignment]  # it begins once more
        else:
            raise HTTPException("Too many informational answers.")
        self._check_framing()
        # urllib3 logs headers that it cannot parse, word for word, and the token may be in them.
        self.msg.defects.clear()
        self.msg.set_payload("")

    def _check_framing(self) -> None:
        """Check whether the end of this answer is certain."""
        lengths = self.msg.get_all("Content-Length", [])
        codings = [each.lower() for each in self.msg.get_all("Transfer-Encoding", [])]
        is_bounded = (codings == ["chunked"] and not lengths) or (
            not codings and len(lengths) == 1 and _is_length(lengths[0])
        )
        is_clean = not (self.msg.defects or self.msg.get_payload())
        is_usual = self.status in _USUAL and self.version == 11
        self._is_regular = is_bounded and is_clean and is_usual
        if len(lengths) > 1 and not codings:
            self._use_longest(lengths)

    def _use_longest(self, lengths: list[str]) -> None:
        """Read up to the longest of several lengths, so that no part of the answer is lost."""
        longest = max((int(each) for each in lengths if _is_length(each)), default=None)
        del self.msg["Content-Length"]
        if longest is not None:
            self.msg["Content-Length"] = str(longest)
        if self.status not in _WITHOUT_BODY:
            self.length = longest
        self.will_close = True


def _is_length(header: str) -> bool:
    return header.isascii() and header.isdigit() and len(header) <= 18


class _TimelyOptions(list[Any]):
    """Set on a socket before it connects: none of a host's many addresses is tried too late."""

    def __iter__(self) -> Iterator[Any]:
        thread_state.remaining()
        return super().__iter__()


class _Bounded(HTTPConnection):
    """Limits the time to connect as well, and records whether anything of the request was sent."""

    response_class = _BoundedResponse
    idle_since = float("inf")
    has_answered = False

    def __init__(self, *args: Any, _socks_options: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._socks_options = _socks_options

    @property
    def is_connected(self) -> bool:
        """Return whether it can be used again: open, not idle for long, nothing received since."""
        if self.sock is None or clock.monotonic() - self.idle_since > thread_state.idle_timeout:
            return False
        # A TLS record may hold more than was asked for, which a check of the socket does not show.
        pending = getattr(self.sock, "pending", None)
        return super().is_connected and not (pending and pending())

    def connect(self) -> None:
        self.has_answered = False
        thread_state.sent = False
        thread_state.require_allowed(self.host)
        try:
            self.timeout = min(self.timeout or float("inf"), thread_state.remaining())
        except TimeoutError as exc:
            raise ConnectTimeoutError(self, str(exc)) from exc
        self.socket_options = _TimelyOptions([*HTTPConnection.default_socket_options, *_KEEPALIVE])
        try:
            super().connect()
        finally:
            # Asking a proxy for a tunnel sent data too, but nothing of the request.
            thread_state.sent = False

    def _new_conn(self) -> socket.socket:
        if self._socks_options is None:
            return super()._new_conn()
        try:
            return self._connect_by_socks(**self._socks_options)
        except OSError as exc:
            raise NewConnectionError(self, f"The SOCKS proxy failed: {type(exc).__name__}") from exc

    def _connect_by_socks(
        self, *, proxy_host: str, proxy_port: int | None, **options: Any
    ) -> socket.socket:
        """Return a socket connected by a SOCKS proxy; urllib3's own way has no deadline."""
        host, port = proxy_host.strip("[]"), proxy_port or _SOCKS_PORT
        failure = OSError("The SOCKS proxy has no address.")
        for family, *_other, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            sock = _timely(socks.socksocket)(family)
            try:
                self._dial(sock, (address[0], port), **options)
            except OSError as exc:
                failure = exc
                sock.close()
            else:
                return cast("socket.socket", sock)
        raise failure

    def _dial(
        self,
        sock: Any,
        proxy: tuple[Any, int],
        *,
        socks_version: int,
        rdns: bool,
        username: str | None,
        password: str | None,
    ) -> None:
        sock.set_proxy(socks_version, *proxy, rdns, username, password)
        for option in self.socket_options or ():
            sock.setsockopt(*option)
        sock.settimeout(self.timeout)
        sock.connect((self.host, self.port))

    def send(self, data: Any) -> None:
        thread_state.connection = self
        if self.sock is None:
            self.connect()
        thread_state.require_allowed(self.host)  # it may have connected before that was refused
        thread_state.sent = bool(thread_state.sent)
        # Resolving a name is not limited: if it took too long, do not begin.
        self.sock.settimeout(min(self.timeout or float("inf"), thread_state.remaining()))
        thread_state.require_time_to_send()
        thread_state.sent = True
        super().send(thread_state.with_token(data))


class _TimelyReads:
    """Reads what a SOCKS proxy says, and never past the deadline."""

    def makefile(self, mode: str, *args: Any, **kwargs: Any) -> Any:
        file = super().makefile(mode, *args, **kwargs)  # type: ignore[misc]  # a socket's
        return _BoundedFile(self, file) if mode == "rb" else file  # type: ignore[arg-type]


@lru_cache(maxsize=1)
def _timely(kind: Any) -> Any:
    return type("TimelySocket", (_TimelyReads, kind), {})


class _BoundedHTTPS(_Bounded, HTTPSConnection):
    """The same with TLS."""


class _HTTPPool(HTTPConnectionPool):
    @property
    def ConnectionCls(self) -> Any:  # type: ignore[override]  # noqa: N802
        return _connection_class(HTTPConnectionPool, _Bounded)


class _HTTPSPool(HTTPSConnectionPool):
    @property
    def ConnectionCls(self) -> Any:  # type: ignore[override]  # noqa: N802
        return _connection_class(HTTPSConnectionPool, _BoundedHTTPS)


def _connection_class(pool: Any, ours: Any) -> Any:
    """Return our connection class, or the one that vcrpy puts in place of urllib3's in tests."""
    in_place = pool.ConnectionCls
    return _recorder(in_place, ours) if hasattr(in_place, "_baseclass") else ours


@lru_cache(maxsize=16)  # a recorder identifies its connections by their class
def _recorder(mock: Any, ours: Any) -> Any:
    """Return a class whose real connections, if it makes any, are ours."""
    return type(mock.__name__, (mock,), {"_baseclass": ours})


class _BoundedAdapter(HTTPAdapter):
    """An adapter whose connections, through a proxy or not, are limited in time."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        _bound(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        return _bound(super().proxy_manager_for(*args, **kwargs))

    def get_connection_with_tls_context(
        self,
        request: requests.PreparedRequest,
        verify: Any,
        proxies: Mapping[str, str] | None = None,
        cert: Any = None,
    ) -> Any:
        # The first step of a real transport; a mock does not come here.
        thread_state.sent = False
        if not select_proxy(request.url or "", proxies):
            return super().get_connection_with_tls_context(request, verify, proxies, cert)
        try:
            return super().get_connection_with_tls_context(request, verify, proxies, cert)
        except Exception as exc:  # noqa: BLE001  # requests and urllib3 raise several kinds
            lacks_pysocks = isinstance(exc, requests.exceptions.InvalidSchema)
            problem = _NO_PYSOCKS if lacks_pysocks else _NO_PROXY
        raise NotSetUp(problem)

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        try:
            super().cert_verify(conn, url, verify, cert)  # type: ignore[no-untyped-call]
        except OSError:
            raise NotSetUp(_NO_CERTIFICATES) from None

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().send(request, *args, **kwargs)
        except requests.RequestException as error:
            _drop_query(error)
            raise

    def add_headers(self, request: requests.PreparedRequest, **kwargs: Any) -> None:
        # The last step before urllib3, which may be a mock's.
        thread_state.sent = None


def _drop_query(error: requests.RequestException) -> None:
    """Remove the customer from the address in an error's text, which spans show."""
    cause = error.args[0] if error.args else None
    if isinstance(cause, MaxRetryError):
        cause.url = (cause.url or "").partition("?")[0]
        kind = type(cause.reason).__name__
        cause.args = (f"{cause.pool}: {cause.url} failed with {kind}",)


def _bound(manager: PoolManager) -> PoolManager:
    manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
    return manager


thread_state = ThreadState()
