"""Test failures before a connection exists: nothing was sent."""

from __future__ import annotations

import resource
import socket
import struct
from contextlib import contextmanager

import pytest
import requests
import requests_mock
import responses

from osvi_django.exceptions import OSVINoAnswer, OSVINotConfigured, OSVIUnreachable
from tests.helpers.raw_server import RawServer, close_response

TIME_LIMIT = 1.5  # seconds: a deadline of 0.5 and room for a busy machine


@pytest.fixture
def trusted_certificate(certificate, monkeypatch):
    """Trust the certificate of the test servers."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))


# Certificates


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_missing_certificate_bundle_raises_not_configured(close, tls, monkeypatch, name):
    for each in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, "/no/such/bundle.pem")
    with RawServer(context=tls) as server, pytest.raises(OSVINotConfigured) as caught:
        close(server.url)
    assert "No certificates were found at the path in REQUESTS_CA_BUNDLE" in str(caught.value)
    assert server.connections == 0


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 99])
def test_invalid_certificate_bundle_raises_unreachable(close, tls, monkeypatch, tmp_path, content):
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(content)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    with RawServer(context=tls) as server, pytest.raises(OSVIUnreachable):
        close(server.url)
    assert server.calls == []


def test_empty_certificate_directory_raises_unreachable(close, tls, monkeypatch, tmp_path):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
    with RawServer(context=tls) as server, pytest.raises(OSVIUnreachable):
        close(server.url)
    assert server.calls == []


# Limits of this machine


@contextmanager
def open_file_limit():
    """Limit this process to its first three files, so that it can open no more.

    A higher limit could be undercut when old connections are closed or collected as garbage.
    """
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_too_many_open_files_raise_unreachable(close):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with open_file_limit(), pytest.raises(OSVIUnreachable):
            close(url, deadline=5)


# Proxies


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
@pytest.mark.parametrize(
    "proxy",
    [
        "http://",
        "http://[",
        "http://:@",
        "http://proxy:99999",
        "http://proxy:port",
        "ftp://proxy:21",
        "gopher://proxy",
        "socks9://127.0.0.1:1080",
        "socks://127.0.0.1:1080",
        "http://\x80",
        "://",
    ],
)
def test_invalid_proxy_raises_not_configured_or_unreachable(close, monkeypatch, name, proxy):
    monkeypatch.setenv(name, proxy)
    monkeypatch.setenv("NO_PROXY", "nothing.invalid")
    with pytest.raises((OSVINotConfigured, OSVIUnreachable)):
        close("https://127.0.0.1:1", deadline=5)


def test_error_of_invalid_proxy_does_not_contain_password(close, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "ftp://me:secret@proxy:21")
    monkeypatch.setenv("NO_PROXY", "nothing.invalid")
    with pytest.raises(OSVINotConfigured) as caught:
        close("https://127.0.0.1:1")
    assert "The proxy in HTTPS_PROXY or ALL_PROXY cannot be used" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.osvi_allow_network
@pytest.mark.parametrize("proxy", ["http://a..b:80", "socks5h://a..b:1080", "socks5h://.:1080"])
def test_proxy_with_invalid_host_raises_unreachable(close, monkeypatch, proxy):
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    monkeypatch.setenv("NO_PROXY", "nothing.invalid")
    with pytest.raises(OSVIUnreachable):
        close("https://127.0.0.1:1", deadline=5)


def test_socks_proxy_without_pysocks_raises_error_with_pip_command(close, monkeypatch):
    def lacks(*args, **kwargs):
        # As requests behaves without PySocks.
        raise requests.exceptions.InvalidSchema("Missing dependencies for SOCKS support.")

    monkeypatch.setattr(requests.adapters, "SOCKSProxyManager", lacks)
    monkeypatch.setenv("HTTPS_PROXY", "socks5h://me:secret@127.0.0.1:1080")
    monkeypatch.setenv("NO_PROXY", "nothing.invalid")
    with pytest.raises(OSVINotConfigured) as caught:
        close("https://127.0.0.1:1")
    assert 'pip install "requests[socks]"' in str(caught.value)
    assert "secret" not in str(caught.value)


# SOCKS


def read(file, number):
    """Return this many bytes; raise ``ConnectionAbortedError`` if the client disconnected."""
    data = file.read(number)
    if len(data) < number:
        raise ConnectionAbortedError
    return data


class SocksProxy(RawServer):
    """Run a SOCKS proxy of version 4, 4a or 5 that passes each connection to ``target``."""

    target = None
    password = b""
    status = 0
    before = staticmethod(lambda call: None)

    def converse(self, sock):
        self.asked = []
        with sock.makefile("rb", buffering=0) as file:
            is_5 = read(file, 1) == b"\5"
            answer = self._version_5(sock, file) if is_5 else self._version_4(file)
        self.before(sock)
        sock.sendall(answer)
        if not self.status:
            with self.target.context.wrap_socket(sock, server_side=True) as tls_sock:
                self.shut_down_at_exit(tls_sock)
                self.target.converse(tls_sock)

    def _version_5(self, sock, file):
        methods = read(file, read(file, 1)[0])
        method = b"\2" if self.password else b"\0"
        assert method in methods
        sock.sendall(b"\5" + method)
        if self.password:
            read(file, 1)
            _user, password = read(file, read(file, 1)[0]), read(file, read(file, 1)[0])
            sock.sendall(b"\1" + (b"\0" if password == self.password else b"\1"))
            if password != self.password:
                raise ConnectionAbortedError
        _version, _command, _reserved, kind = read(file, 4)
        host = read(file, 4 if kind == 1 else read(file, 1)[0])
        self.asked.append((kind, host, struct.unpack(">H", read(file, 2))[0]))
        return bytes([5, self.status, 0, 1]) + bytes(6)

    def _version_4(self, file):
        _command, port, address = read(file, 1), read(file, 2), read(file, 4)
        while read(file, 1) != b"\0":
            pass
        host = b""
        if address[:3] == bytes(3):
            while (byte := read(file, 1)) != b"\0":
                host += byte
        self.asked.append((4, host, struct.unpack(">H", port)[0]))
        return bytes([0, 91 if self.status else 90]) + bytes(6)


@pytest.fixture
def socks(monkeypatch, trusted_certificate, tls):
    """Run a SOCKS proxy named in the environment, in front of a server with these replies."""
    monkeypatch.setenv("NO_PROXY", "nothing.invalid")
    with SocksProxy() as proxy:
        proxy.target = RawServer(context=tls)
        proxy.target.stopping = proxy.stopping

        def _socks(*replies, scheme="socks5h", login=""):
            proxy.target.replies = list(replies) or proxy.target.replies
            monkeypatch.setenv("HTTPS_PROXY", f"{scheme}://{login}127.0.0.1:{proxy.port}")
            return proxy

        yield _socks


@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "socks4", "socks4a", "SOCKS5H"])
def test_call_through_socks_proxy_is_answered(close, socks, scheme):
    proxy = socks(scheme=scheme)
    for _each in range(3):
        assert close("https://localhost:7", deadline=5).summary == "Fine."
    assert (proxy.connections, len(proxy.target.calls)) == (1, 3)
    ((_kind, host, port),) = proxy.asked
    assert port == 7
    assert (b"localhost" in host) == (scheme.lower() in {"socks5h", "socks4a"})


@pytest.mark.parametrize(("login", "error"), [("me:right@", None), ("me:wrong@", OSVIUnreachable)])
def test_socks_proxy_with_password_accepts_right_password_only(close, socks, login, error):
    proxy = socks(login=login)
    proxy.password = b"right"
    if error is None:
        assert close("https://localhost:7", deadline=5).summary == "Fine."
    else:
        with pytest.raises(error):
            close("https://localhost:7", deadline=5)


@pytest.mark.parametrize("scheme", ["socks5h", "socks4"])
def test_socks_proxy_that_refuses_raises_unreachable(close, socks, scheme):
    proxy = socks(scheme=scheme)
    proxy.status = 5
    with pytest.raises(OSVIUnreachable):
        close("https://127.0.0.1:7", deadline=5)
    assert proxy.target.calls == []


def test_socks_proxy_not_running_raises_unreachable(close, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    monkeypatch.setenv("HTTPS_PROXY", f"socks5h://127.0.0.1:{port}")
    monkeypatch.setenv("NO_PROXY", "nothing.invalid")
    with pytest.raises(OSVIUnreachable):
        close("https://127.0.0.1:7", deadline=5)


def test_silent_socks_proxy_ends_at_connect_timeout(close, socks, takes_at_most):
    proxy = socks()
    proxy.before = lambda sock: proxy.stopping.wait(5)
    with takes_at_most(TIME_LIMIT), pytest.raises(OSVIUnreachable):
        close("https://127.0.0.1:7", connect_timeout=0.1, deadline=3)


def test_slow_socks_proxy_ends_at_deadline(close, socks, takes_at_most):
    proxy = socks()

    def drip(sock):
        sock.sendall(b"\5\0\0\3\xff")
        while not proxy.stopping.wait(0.03):
            sock.sendall(b"a")

    proxy.before = drip
    with takes_at_most(TIME_LIMIT), pytest.raises(OSVIUnreachable):
        close("https://127.0.0.1:7", deadline=0.4)


def test_slow_answer_through_socks_proxy_ends_at_deadline(close, socks, takes_at_most):
    def drip(call):
        call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n")
        call.drip(b"A" * 150)

    socks(close_response(), drip)
    assert close("https://127.0.0.1:7", deadline=5).summary == "Fine."
    with takes_at_most(TIME_LIMIT), pytest.raises(OSVINoAnswer):
        close("https://127.0.0.1:7", deadline=0.4)


# Errors of mocks


MOCKED = "https://api.osvi.ai/chat_sessions/s-1/close_session"


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (requests.ConnectionError("Connection aborted."), OSVINoAnswer),
        (requests.ReadTimeout(), OSVINoAnswer),
        (requests.exceptions.ChunkedEncodingError(), OSVINoAnswer),
        (OSError("Odd."), OSVINoAnswer),
        (requests.ConnectTimeout(), OSVIUnreachable),
        (ValueError("A bug of the mock."), ValueError),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
@pytest.mark.parametrize("library", ["responses", "requests_mock"])
def test_error_of_mock_counts_as_sent_unless_it_is_connect_timeout(close, raised, error, library):
    if library == "responses":
        with responses.RequestsMock() as mock:
            mock.post(MOCKED, body=raised)
            with pytest.raises(error):
                close("https://api.osvi.ai")
    else:
        with requests_mock.Mocker() as mock:
            mock.post(MOCKED, exc=raised)
            with pytest.raises(error):
                close("https://api.osvi.ai")


def test_error_of_mock_after_unreachable_call_counts_as_sent(close):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(OSVIUnreachable):
        close(f"http://127.0.0.1:{port}", deadline=5)
    with responses.RequestsMock() as mock:
        mock.post(MOCKED, body=requests.ConnectionError())
        with pytest.raises(OSVINoAnswer):
            close("https://api.osvi.ai")
