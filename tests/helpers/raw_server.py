"""A server that sends whatever bytes a test gives it, over real sockets on this machine."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

LINGER_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, zero seconds


def http_response(body=b"", *, status=200, headers=(), length=None):
    """Return the bytes of an HTTP response with a Content-Length."""
    lines = [
        f"HTTP/1.1 {status} Whatever",
        f"Content-Length: {len(body) if length is None else length}",
    ]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked_response(*chunks, end=b"0\r\n\r\n", headers=()):
    """Return the bytes of an HTTP response in chunks."""
    lines = ["HTTP/1.1 200 OK", "Transfer-Encoding: chunked"]
    lines += [f"{name}: {value}" for name, value in headers]
    head = "\r\n".join([*lines, "", ""]).encode()
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + end


def close_body(session_id="s-1", **data):
    """Return the body of the response to a successful close."""
    return json.dumps({"success": True, "data": {"session_id": session_id, **data}}).encode()


def close_response(session_id="s-1", summary="Fine.", **options):
    """Return the bytes of the HTTP response to a successful close."""
    return http_response(close_body(session_id, summary=summary), **options)


@dataclass
class Call:
    """Hold one request as it arrived, and the connection to answer it on."""

    server: RawServer = field(repr=False)
    sock: socket.socket = field(repr=False)
    line: str
    headers: dict
    body: bytes

    @property
    def target(self):
        return self.line.split(" ")[1]

    def send(self, data):
        self.sock.sendall(data)

    def drip(self, data, interval=0.03):
        """Send a byte at a time, until the client disconnects or the server stops."""
        for place in range(len(data)):
            self.send(data[place : place + 1])
            self.pause(interval)

    def pour(self, data, seconds=5):
        """Send the same data repeatedly, until the client disconnects or the server stops."""
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at and not self.server.stopping.is_set():
            self.send(data)

    def pause(self, seconds=5):
        if self.server.stopping.wait(seconds):
            raise ConnectionAbortedError

    def hang_up(self):
        raise ConnectionAbortedError

    def reset(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        raise ConnectionAbortedError


class RawServer:
    """Answer each request with the next of ``replies``, and repeat the last one.

    A reply is bytes or a callable that is given the ``Call``. ``context`` makes it talk TLS.
    """

    def __init__(self, *replies, context=None):
        self.replies = list(replies) or [close_response()]
        self.context = context
        self.calls = []
        self.connections = 0
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._socks = set()
        self._threads = []

    def __enter__(self):
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        scheme = "https" if self.context else "http"
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self._spawn(self._accept)
        return self

    def __exit__(self, *error):
        self.stopping.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for sock in self._socks:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def converse(self, sock):
        """Read and answer requests until the client stops; tests may override this."""
        with sock.makefile("rb") as file:
            while call := self._read(sock, file):
                with self._lock:
                    self.calls.append(call)
                    reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
                reply(call) if callable(reply) else call.send(reply)

    def shut_down_at_exit(self, sock):
        """Have the exit end this connection: wrapping a socket leaves the plain one without it."""
        with self._lock:
            self._socks.add(sock)

    def _spawn(self, target, *args):
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self):
        while not self.stopping.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self.connections += 1
                self._socks.add(sock)
            self._spawn(self._serve, sock)

    def _serve(self, plain):
        sock = plain
        try:
            if self.context:
                sock = self.context.wrap_socket(plain, server_side=True)
                self.shut_down_at_exit(sock)
            self.converse(sock)
        except (OSError, ssl.SSLError):
            pass  # the client disconnected, or the test wants no answer
        finally:
            with self._lock:
                self._socks -= {plain, sock}
                sock.close()
                plain.close()

    def _read(self, sock, file):
        line = file.readline().decode("latin-1").strip()
        if not line:
            return None
        headers = {}
        while field_line := file.readline().decode("latin-1").strip():
            name, _, value = field_line.partition(":")
            headers[name.lower()] = value.strip()
        body = file.read(int(headers.get("content-length", 0)))
        return Call(server=self, sock=sock, line=line, headers=headers, body=body)
