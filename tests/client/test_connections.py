"""Test idle connections: they are not reused, kept alive, and their end is noticed."""

from __future__ import annotations

import socket
import threading
import time

import pytest
from django.test import override_settings

from osvi_django.client import OSVIClient
from osvi_django.conf import DEFAULTS
from osvi_django.exceptions import OSVINotConfigured
from tests.client.conftest import TOKEN
from tests.helpers.raw_server import LINGER_RESET, RawServer, close_response, http_response

ONE, TWO = close_response("s-1", "One."), close_response("s-2", "Two.")


def close(client, session_id):
    return client.close_session(session_id, agent_uuid="agent_1").summary


def test_connection_idle_too_long_is_not_reused_for_close(make_client):
    with RawServer(ONE, TWO) as server:
        client = make_client(server.url, idle_timeout=0.1)
        assert close(client, "s-1") == "One."
        time.sleep(0.2)
        assert close(client, "s-2") == "Two."
    assert server.connections == 2


def test_connection_idle_too_long_is_not_reused_for_look_up(make_client):
    with RawServer(ONE, http_response(b'{"success": true, "data": {}}')) as server:
        client = make_client(server.url, idle_timeout=0.1)
        close(client, "s-1")
        time.sleep(0.2)
        assert client.active_sessions("customer-1") == {}
    assert server.connections == 2


def test_connection_idle_briefly_is_reused(make_client):
    with RawServer(ONE, TWO) as server:
        client = make_client(server.url, idle_timeout=5)
        close(client, "s-1")
        time.sleep(0.2)
        close(client, "s-2")
    assert server.connections == 1


def test_connection_waiting_for_slow_answer_does_not_count_as_idle(make_client):
    def ponder(call):
        call.pause(1.5)
        call.send(ONE)

    with RawServer(ponder, TWO) as server:
        client = make_client(server.url, idle_timeout=1)
        close(client, "s-1")
        close(client, "s-2")
    assert server.connections == 1


def test_idle_timeout_setting_limits_reuse_of_connection():
    with RawServer(ONE, TWO) as server:
        account = {"API_TOKEN": TOKEN, "BASE_URL": server.url, "IDLE_TIMEOUT": 0.1}
        with override_settings(OSVI={"default": account}):
            close(OSVIClient.for_account(), "s-1")
            time.sleep(0.2)
            close(OSVIClient.for_account(), "s-2")
    assert server.connections == 2


def test_idle_timeout_default_is_30_seconds():
    assert DEFAULTS["IDLE_TIMEOUT"] == 30
    assert OSVIClient(token=TOKEN).idle_timeout == 30


def test_idle_timeout_of_zero_raises_not_configured():
    with pytest.raises(OSVINotConfigured):
        OSVIClient(token=TOKEN, idle_timeout=0)


@pytest.fixture
def socket_options(monkeypatch):
    """Record the keepalive options of each new connection."""
    found = []
    connect = socket.socket.connect

    def _connect(self, address):
        names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
        options = {
            name: self.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names
        }
        options["on"] = self.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        options["no delay"] = self.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        found.append(options)
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", _connect)
    return found


def test_connection_uses_tcp_keepalive_shorter_than_read_timeout(make_client, socket_options):
    with RawServer(ONE) as server:
        close(make_client(server.url), "s-1")
    (options,) = socket_options
    assert options["on"]
    assert options["no delay"]
    # A peer that is gone is noticed before the default READ_TIMEOUT is over.
    silence = options["TCP_KEEPIDLE"] + options["TCP_KEEPINTVL"] * options["TCP_KEEPCNT"]
    assert silence < DEFAULTS["READ_TIMEOUT"]


class ClosingServer(RawServer):
    """Read one request without a file, so that closing the socket closes the connection."""

    def converse(self, sock):
        if self.connections > 1:
            super().converse(sock)
            return
        sock.recv(65_536)
        sock.sendall(ONE)
        time.sleep(0.05)
        self.end(sock)
        self.ended.set()
        self.stopping.wait(2)

    def end(self, sock):
        if self.kind == "half":
            sock.shutdown(socket.SHUT_WR)
        elif self.kind == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
            sock.close()
        else:
            sock.close()


@pytest.mark.parametrize("kind", ["half", "reset", "close"])
def test_connection_ended_while_idle_is_replaced_before_sending(make_client, kind):
    server = ClosingServer(TWO)
    server.kind, server.ended = kind, threading.Event()
    with server:
        client = make_client(server.url)
        assert close(client, "s-1") == "One."
        assert server.ended.wait(5)
        time.sleep(0.05)
        assert close(client, "s-2") == "Two."
    assert (server.connections, len(server.calls)) == (2, 1)
