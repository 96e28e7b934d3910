"""A sandbox OSVI: a real HTTP server on this machine that answers as the OSVI chat API does.

It speaks both dialects, legacy and Chat v1, keeps its state in memory only, and plays
the faults that it is given for a session::

    with OSVISandbox() as osvi:
        chat = osvi.add_session(summary="The customer asked for a refund.")
        osvi.script(chat.id, Status(429, retry_after=3))
        ...  # point OSVI["default"]["BASE_URL"] at osvi.url, close twice: throttled, then closed
        assert osvi.closes(chat.id) == 1
"""

from __future__ import annotations

import json
import logging
import socket
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from types import TracebackType
from typing import Any, Literal, Self, cast
from urllib.parse import parse_qsl

from osvi_django.display import plain
from osvi_django.testing.account import Account, Latency, ReceivedRequest
from osvi_django.testing.answers import Answer
from osvi_django.testing.calls import is_close, named_session, respond
from osvi_django.testing.controls import control, is_control
from osvi_django.testing.sessions import now

logger = logging.getLogger("osvi_django.sandbox")

GRACE = 0.4  # seconds that stop() waits for open connections to end
POLL_INTERVAL = 0.01  # seconds in which the accepting thread notices that it is to stop
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, zero seconds

Address = tuple[str, int]


class OSVISandbox(Account):
    """A sandbox OSVI, as a context manager or with ``start()`` and ``stop()``.

    ``latency`` is in seconds, or a callable that is given the session. Port 0 takes a free port.
    A sandbox that was stopped can be started again, at the same address and with its sessions.
    """

    def __init__(
        self,
        *,
        token: str = "sandbox-token-16",  # noqa: S107 - opens nothing but this sandbox
        latency: Latency = 0.0,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        """Store the address for ``start()``; nothing is bound yet."""
        super().__init__(token=token, latency=latency)
        self.host = host
        self.port = port
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        """Return the base URL, known from the first start on."""
        if not self.port:
            raise RuntimeError("The sandbox has no address before it is started.")
        return f"http://{self.host}:{self.port}"

    def start(self) -> Self:
        """Bind the port (``OSError`` if it is taken) and serve from a new thread."""
        if self._server is None:
            self._server = _Server(self, (self.host, self.port))
            self.port = self._server.server_port
            self._server.serve()
        return self

    def stop(self) -> None:
        """Stop at once: hanging requests end without an answer, new ones are refused."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()


class _Server(ThreadingHTTPServer):
    """Accepts connections, a thread each, and knows which are open."""

    request_queue_size = 1024  # hundreds of clients may connect in one moment

    def __init__(self, sandbox: OSVISandbox, address: Address) -> None:
        self.sandbox = sandbox
        self.stopping = threading.Event()
        self._connections: set[socket.socket] = set()
        self._changed = threading.Condition()
        self._thread = threading.Thread(
            target=self.serve_forever, args=(POLL_INTERVAL,), name="osvi-sandbox", daemon=True
        )
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's own looks up a name that is not needed in DNS
        self.server_name, self.server_port = cast("Address", self.server_address)

    def serve(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.stopping.set()
        self.shutdown()
        self.server_close()
        with self._changed:
            for connection in self._connections:
                _silence(connection)
            self._changed.wait_for(lambda: not self._connections, timeout=GRACE)
        self._thread.join()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._changed:
            self._connections.discard(request)
            self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that disconnects is normal here; any other error should be seen, such as one that
        # a ``latency`` callable raises.
        error = sys.exception()
        level = logging.DEBUG if isinstance(error, OSError) else logging.ERROR
        logger.log(
            level,
            "A connection ended with %s",
            type(error).__name__,
            exc_info=level > logging.DEBUG,
        )


class _Handler(BaseHTTPRequestHandler):
    """One connection: reads requests, writes answers; the ``Exchange`` that faults act on."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise a dripping byte waits for the one before it
    server: _Server

    def do_POST(self) -> None:
        """Read one request and answer it, or play the fault that is queued for it."""
        self.request_seen = request = self._receive()
        if is_control(request.path):
            with self.server.sandbox.lock:
                answer = control(self.server.sandbox, request)
            self.send(answer)
            return
        closing = is_close(request.path, request.body)
        fault = self.server.sandbox.record_request(request, is_close=closing)
        if fault is None:
            self.send(self.carry_out())
        else:
            logger.debug("Session %s meets %s", plain(request.session_id), type(fault).__name__)
            fault.play(self)

    do_GET = do_PUT = do_PATCH = do_DELETE = do_POST  # noqa: N815 - the base class's names

    def carry_out(self) -> Answer:
        """Carry out the request, under the lock, and let the latency of a close pass."""
        with self.server.sandbox.lock:
            answer = respond(self.server.sandbox, self.request_seen)
        if answer.closing is not None:
            self.pause(self.server.sandbox.latency_of(answer.closing))
        return answer

    def send(
        self,
        answer: Answer,
        *,
        drip: Literal["body", "headers"] | None = None,
        interval: float = 0.0,
    ) -> None:
        """Write an answer; the part named by ``drip`` takes ``interval`` seconds a byte."""
        head, body = answer.encode()
        self._write(head, interval if drip == "headers" else 0.0)
        self._write(body[:-1], interval if drip == "body" else 0.0)
        # One step: the answer counts as recorded exactly when a client can have read it.
        with self.server.sandbox.lock:
            self.wfile.write(body[-1:])
            self.server.sandbox.record_answer(answer)
        session_id = plain(self.request_seen.session_id)
        logger.debug("Session %s was answered %s", session_id, answer.status)

    def pause(self, seconds: float) -> None:
        """Wait; raises ConnectionAbortedError as soon as the sandbox stops."""
        if seconds > 0 and self.server.stopping.wait(seconds):
            raise ConnectionAbortedError("The sandbox stops.")

    def hang_up(self, *, reset: bool = False) -> None:
        """End the connection without an answer, with a TCP reset or an orderly end."""
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            socket.close(self.connection.detach())  # at once: the server's own way sends FIN first

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Log nothing: the base class would print paths, which contain customer ids."""

    def _receive(self) -> ReceivedRequest:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path, _, query = self.path.partition("?")
        body = _parse(raw)
        return ReceivedRequest(
            method=self.command,
            path=path,
            query=dict(parse_qsl(query)),
            headers=self.headers,
            body=body,
            raw=raw,
            session_id=named_session(path, body),
            at=now(),
        )

    def _write(self, data: bytes, interval: float) -> None:
        if not interval:
            self.wfile.write(data)
            return
        for place in range(len(data)):
            self.wfile.write(data[place : place + 1])
            self.pause(interval)


def _parse(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _silence(connection: socket.socket) -> None:
    """Wake the thread that reads from or writes to this connection."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        logger.debug("A connection was gone before the sandbox stopped")
