"""Post one event to a receiver: to an address that was checked, limited in time and size.

The standard library sends it, and not requests or urllib3: both write URLs into their logs, and
look a host up themselves when they connect.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPConnection, HTTPException, HTTPResponse
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

from osvi_django import __version__, clock
from osvi_django.client.connections import (
    NetworkRefused,
    require_allowed,
    trusted_certificates,
)
from osvi_django.client.transport import retry_after_of
from osvi_django.conf import Webhook
from osvi_django.redaction import hides
from osvi_django.services.events.addresses import (
    Address,
    AddressRefused,
    NoAddress,
    addresses_of,
)

CONNECT_TIMEOUT: Final = 5.0  # seconds
READ_TIMEOUT: Final = 10.0  # seconds without any data
# For all of it: connecting, sending, and an answer that drips in.
TOTAL_TIMEOUT: Final = 15.0  # seconds
# Of the body of an answer, which is not used.
MAX_ANSWER: Final = 65_536  # bytes
_HEADERS: Final = {
    "content-type": "application/json",
    "user-agent": f"osvi-django/{__version__}",
}
_GONE: Final = 410
# The code of an event whose body could not be made, because of an error of ours.
NOT_WRITTEN: Final = "not_written"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a try ended: ``code`` is "" if the receiver has the event; ``status``: of its answer."""

    code: str = ""
    status: int | None = None
    retry_after: float | None = None

    @property
    def is_delivered(self) -> bool:
        """Return whether the receiver has it."""
        return not self.code

    @property
    def is_gone(self) -> bool:
        """Return whether the receiver wants no more events."""
        return self.status == _GONE

    @property
    def is_about_receiver(self) -> bool:
        """Return whether other events would end like this now."""
        if self.status is None:
            return self.code not in {"", NOT_WRITTEN}
        return self.status == 429 or self.status >= 500


class Sender:
    """Posts events to one receiver, one after the other, on one connection if it is kept open."""

    def __init__(self, receiver: Webhook) -> None:
        self._receiver = receiver
        self._connection: _Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    @hides("body", "headers")
    def post(self, body: bytes, headers: dict[str, str]) -> Outcome:
        """Post a body, and return how that ended; never raises what the network does."""
        is_reused = self._connection is not None
        outcome = self._try(body, headers)
        # The receiver may have closed an idle connection at the same moment.
        return self._try(body, headers) if is_reused and outcome.code == "no_answer" else outcome

    def _try(self, body: bytes, headers: dict[str, str]) -> Outcome:
        connection = self._connection = self._connection or _Connection(self._receiver)
        with _Guard() as guard:
            outcome = _exchange(connection, body, headers, guard)
        if outcome.status is None or not connection.may_be_reused:
            self._close()
        return outcome

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


@hides("body", "headers")
def _exchange(
    connection: _Connection, body: bytes, headers: dict[str, str], guard: _Guard
) -> Outcome:
    try:
        return connection.exchange(body, headers, guard)
    except NetworkRefused:
        return Outcome(code="not_allowed_here")
    except AddressRefused:
        return Outcome(code="address_refused")
    except NoAddress:
        return Outcome(code="no_address")
    except TimeoutError:
        return Outcome(code="timeout")
    except (OSError, HTTPException) as error:
        return Outcome(code="timeout" if guard.is_over else _code_of(error))


def _code_of(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "certificate_refused"
    return "not_connected" if isinstance(error, _NotConnected) else "no_answer"


class _NotConnected(OSError):
    """No address of a receiver accepts connections."""


class _Guard:
    """Ends a connection when the time is over, whatever it waits for."""

    def __init__(self) -> None:
        self.is_over = False
        self._ends_at = clock.monotonic() + TOTAL_TIMEOUT
        self._timer = threading.Timer(TOTAL_TIMEOUT, self._end)
        self._timer.daemon = True
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        self._release()

    def watch(self, sock: socket.socket) -> None:
        """Watch a connection from now on: by a duplicate, as TLS takes the socket itself over."""
        self._release()
        with self._lock:
            self._sock = socket.socket(fileno=os.dup(sock.fileno()))

    def remaining(self) -> float:
        """Return the seconds that are left. Raises ``TimeoutError``."""
        seconds = self._ends_at - clock.monotonic()
        if seconds <= 0:
            raise TimeoutError
        return seconds

    def _end(self) -> None:
        with self._lock, suppress(OSError):
            self.is_over = True
            if self._sock is not None:
                self._sock.shutdown(socket.SHUT_RDWR)

    def _release(self) -> None:
        with self._lock:
            if self._sock is not None:
                self._sock.close()
            self._sock = None


class _Connection(HTTPConnection):
    """A connection to an address that was looked up once, and checked."""

    def __init__(self, receiver: Webhook) -> None:
        parts = urlsplit(receiver.url)
        self._is_encrypted = parts.scheme == "https"
        self.default_port = 443 if self._is_encrypted else 80  # the Host header is without it
        super().__init__(receiver.host, parts.port or self.default_port, timeout=READ_TIMEOUT)
        self._receiver = receiver
        self._target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
        self._guard = _Guard()
        self.may_be_reused = False

    def exchange(self, body: bytes, headers: dict[str, str], guard: _Guard) -> Outcome:
        """Send a body, and return what was answered."""
        self._guard, self.may_be_reused = guard, False
        if self.sock is not None:
            guard.watch(self.sock)
        self.request("POST", self._target, body=body, headers={**_HEADERS, **headers})
        response = self.getresponse()
        # Whatever follows: the receiver has said how it is.
        with suppress(OSError, HTTPException):
            self.may_be_reused = _drain(response) and self.sock is not None
        return _outcome_of(response)

    def connect(self) -> None:
        """Connect to one of the checked addresses; the certificate must be that of the host."""
        require_allowed(self.host)
        addresses = addresses_of(
            self.host,
            self.port,
            allow_private=self._receiver.allow_private,
            is_encrypted=self._is_encrypted,
        )
        plain = self._connected(addresses)
        self._guard.watch(plain)
        plain.settimeout(READ_TIMEOUT)
        self.sock = self._encrypted(plain) if self._is_encrypted else plain

    def _connected(self, addresses: list[Address]) -> socket.socket:
        for address in addresses:
            require_allowed(address.ip)
            sock = socket.socket(address.family, socket.SOCK_STREAM)
            try:
                sock.settimeout(min(CONNECT_TIMEOUT, self._guard.remaining()))
                sock.connect(address.sockaddr)
            except OSError:
                sock.close()
            else:
                return sock
        raise _NotConnected

    def _encrypted(self, plain: socket.socket) -> ssl.SSLSocket:
        try:
            context = _context(trusted_certificates())
            return context.wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise


def _drain(response: HTTPResponse) -> bool:
    """Read the rest of an answer; return whether that was all, so that another can follow."""
    response.read(MAX_ANSWER)
    is_whole = response.isclosed() or not response.read(1)
    return is_whole and not response.will_close


def _outcome_of(response: HTTPResponse) -> Outcome:
    status = response.status
    if 200 <= status < 300:
        return Outcome(status=status)
    code = "gone" if status == _GONE else "redirect" if 300 <= status < 400 else "refused"
    wait = retry_after_of(response.headers.get("Retry-After"))
    return Outcome(code=code, status=status, retry_after=wait)


@lru_cache(maxsize=2)
def _context(certificates: str) -> ssl.SSLContext:
    is_folder = os.path.isdir(certificates)  # noqa: PTH112  # what the setting means by it
    if is_folder:
        return ssl.create_default_context(capath=certificates)
    return ssl.create_default_context(cafile=certificates)
