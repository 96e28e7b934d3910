"""Test the transport: redirects, deadlines, size limits, retries, connections and proxies."""

from __future__ import annotations

import contextlib
import gc
import gzip
import os
import socket
import threading
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osvi_django.client import OSVIClient
from osvi_django.client.transport import MAX_BODY
from osvi_django.exceptions import (
    OSVIBadAnswer,
    OSVIError,
    OSVIGatewayRefused,
    OSVINoAnswer,
    OSVIThrottled,
    OSVIUnreachable,
)
from osvi_django.testing import Hang, Redirect
from tests.client.conftest import TOKEN
from tests.helpers.raw_server import (
    RawServer,
    chunked_response,
    close_body,
    close_response,
    http_response,
)

REDIRECTS = [301, 302, 303, 307, 308]
TIME_LIMIT = 1.2  # seconds: a deadline of 0.5 and room for a busy machine
DRIP = b"A" * 150  # takes about five seconds if not ended earlier
GZIP = ("Content-Encoding", "gzip")


def gzip_bomb(size, rounds=1):
    """Return zero bytes of this size, compressed with gzip."""
    data = b""
    for _ in range(rounds):
        packer = zlib.compressobj(9, wbits=31)
        plain = [data] if data else (bytes(1_000_000) for _ in range(size // 1_000_000))
        data = b"".join([*(packer.compress(part) for part in plain), packer.flush()])
    return data


@contextlib.contextmanager
def memory_stays_below(limit):
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit


# Redirects


@pytest.mark.parametrize("status", REDIRECTS)
def test_redirect_to_other_host_raises_bad_answer_and_sends_nothing_there(osvi, close, status):
    with RawServer() as elsewhere:
        osvi.script("s-1", Redirect(f"{elsewhere.url}/chat_sessions/s-1/close_session", status))
        with pytest.raises(OSVIBadAnswer) as caught:
            close(osvi.url)
        assert elsewhere.connections == 0
    assert caught.value.status == status
    assert len(osvi.requests) == 1


@pytest.mark.parametrize("status", REDIRECTS)
def test_redirect_to_same_host_is_not_followed(osvi, close, status):
    osvi.add_session("s-1", agent_uuid="agent_1")
    osvi.script("s-1", Redirect("/chat_sessions/s-1/close_session", status))
    with pytest.raises(OSVIBadAnswer):
        close(osvi.url)
    assert len(osvi.requests) == 1


@pytest.mark.parametrize("status", [300, 304, 305, 306, 399])
def test_other_3xx_raises_bad_answer(close, status):
    with RawServer(http_response(status=status)) as server, pytest.raises(OSVIBadAnswer):
        close(server.url)


def test_redirect_with_body_of_success_raises_bad_answer(close):
    reply = close_response(status=302, headers=[("Location", "/")])
    with RawServer(reply) as server, pytest.raises(OSVIBadAnswer):
        close(server.url)


@pytest.mark.parametrize(
    "location",
    [
        "",
        "//",
        "http://",
        "http://[",
        "http://[::1",
        "http://a:b:c/",
        "http://127.0.0.1:99999/",
        "http://\xe9..x/",
        "http://" + "a" * 300,
        "javascript:alert(1)",
        "\x80\xff",
        "%",
        "x" * 9000,
    ],
)
def test_redirect_with_junk_location_raises_bad_answer(close, location):
    reply = b"HTTP/1.1 307 X\r\nContent-Length: 0\r\nLocation: %s\r\n\r\n" % location.encode(
        "latin-1"
    )
    with RawServer(reply) as server, pytest.raises(OSVIBadAnswer):
        close(server.url)


def test_redirect_with_gzip_bomb_stays_within_memory_limit(close):
    headers = [("Location", "/elsewhere"), GZIP]
    reply = http_response(gzip_bomb(100_000_000), status=302, headers=headers)
    with RawServer(reply) as server, memory_stays_below(12_000_000), pytest.raises(OSVIBadAnswer):
        close(server.url, deadline=5)


def test_redirect_with_endless_body_ends_at_deadline(close, takes_at_most):
    def drip(call):
        call.send(b"HTTP/1.1 302 X\r\nLocation: /\r\nContent-Length: 99999\r\n\r\n")
        call.drip(DRIP)

    with RawServer(drip) as server, takes_at_most(TIME_LIMIT), pytest.raises(OSVINoAnswer):
        close(server.url, deadline=0.5)


# Deadlines


def drip_headers(call):
    call.drip(b"HTTP/1.1 200 OK\r\nX-Slow: " + DRIP)


def drip_status_line(call):
    call.drip(close_response())


def drip_body(call):
    call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n")
    call.drip(DRIP)


def drip_until_the_end(call):
    call.send(b"HTTP/1.0 200 OK\r\n\r\n")
    call.drip(DRIP)


def drip_one_chunk(call):
    call.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2710\r\n")
    call.drip(DRIP)


def drip_chunks(call):
    call.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    call.drip(b"1\r\nA\r\n" * 30)


def drip_trailers(call):
    call.send(chunked_response(close_body(), end=b"0\r\n"))
    call.drip(b"X: y\r\n" * 30)


def drip_gzip(call):
    call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\nContent-Encoding: gzip\r\n\r\n")
    call.drip(gzip.compress(b"", 0)[:10] + b"\x00\x00\x00\xff\xff" * 30)


def endless_interim_responses(call):
    call.pour(b"HTTP/1.1 100 Continue\r\n\r\n" * 50)


def endless_trailers(call):
    call.send(chunked_response(close_body(), end=b"0\r\n"))
    call.pour(b"X: y\r\n" * 500)


def endless_empty_gzip_members(call):
    call.send(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n")
    call.pour(gzip.compress(b"") * 100)


ENDLESS = [
    drip_status_line,
    drip_headers,
    drip_body,
    drip_until_the_end,
    drip_one_chunk,
    drip_chunks,
    drip_trailers,
    drip_gzip,
    endless_interim_responses,
    endless_trailers,
]


@pytest.mark.parametrize("endless", ENDLESS)
def test_endless_answer_ends_at_deadline(close, takes_at_most, endless):
    with RawServer(endless) as server, takes_at_most(TIME_LIMIT), pytest.raises(OSVINoAnswer):
        close(server.url, deadline=0.4)
    assert len(server.calls) == 1


def test_endless_empty_gzip_members_end_at_size_limit(close, takes_at_most):
    with (
        RawServer(endless_empty_gzip_members) as server,
        takes_at_most(2 * TIME_LIMIT),
        pytest.raises(OSVIBadAnswer),
    ):
        close(server.url, deadline=5)


@pytest.mark.parametrize("endless", [drip_headers, drip_body, drip_chunks])
def test_endless_answer_on_reused_connection_ends_at_deadline(close, takes_at_most, endless):
    with RawServer(close_response(), endless) as server:
        close(server.url)
        with takes_at_most(TIME_LIMIT), pytest.raises(OSVINoAnswer):
            close(server.url, deadline=0.4)
    assert (server.connections, len(server.calls)) == (1, 2)


@pytest.mark.parametrize("endless", [drip_headers, drip_body])
def test_endless_answer_over_tls_ends_at_deadline(
    close, takes_at_most, endless, tls, certificate, monkeypatch
):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    server = RawServer(endless, context=tls)
    with server, takes_at_most(TIME_LIMIT), pytest.raises(OSVINoAnswer):
        close(server.url, deadline=0.4)
    assert len(server.calls) == 1


def test_deadline_of_one_call_does_not_affect_next_call(close):
    with RawServer(drip_body, close_response()) as server:
        with pytest.raises(OSVINoAnswer):
            close(server.url, deadline=0.2)
        assert close(server.url, deadline=5).summary == "Fine."


def test_silent_server_ends_at_read_timeout(osvi, close, takes_at_most):
    osvi.add_session("s-1", agent_uuid="agent_1")
    osvi.script("s-1", Hang())
    with takes_at_most(TIME_LIMIT), pytest.raises(OSVINoAnswer):
        close(osvi.url, read_timeout=0.2, deadline=30)
    assert osvi.closes("s-1") == 1


def test_server_silent_within_body_ends_at_read_timeout(close, takes_at_most):
    def begin(call):
        call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{")
        call.pause()

    with RawServer(begin) as server, takes_at_most(TIME_LIMIT), pytest.raises(OSVINoAnswer):
        close(server.url, read_timeout=0.2, deadline=30)


@pytest.fixture
def unanswering_url():
    """Return a URL where connecting never ends, as behind a firewall that drops packets."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(64):
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0.05)
            try:
                filler.connect(listener.getsockname())
            except TimeoutError:
                break
        else:
            pytest.skip("this system accepts without a limit")
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_connecting_ends_at_connect_timeout(close, takes_at_most, unanswering_url):
    with takes_at_most(TIME_LIMIT), pytest.raises(OSVIUnreachable):
        close(unanswering_url, connect_timeout=0.1, deadline=30)


def test_connecting_ends_at_deadline(close, takes_at_most, unanswering_url):
    with takes_at_most(TIME_LIMIT), pytest.raises(OSVIUnreachable):
        close(unanswering_url, connect_timeout=30, deadline=0.3)


def test_connecting_to_host_with_many_addresses_ends_at_deadline(
    close, takes_at_most, unanswering_url, monkeypatch
):
    resolve = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: resolve(*args, **kwargs) * 9)
    with takes_at_most(TIME_LIMIT), pytest.raises(OSVIUnreachable):
        close(unanswering_url, connect_timeout=0.3, deadline=0.4)


def test_request_after_deadline_is_not_sent(close, monkeypatch):
    """No timeout limits a slow resolver, and the lease may have expired when it returns."""
    resolve = socket.getaddrinfo

    def dawdle(*args, **kwargs):
        threading.Event().wait(0.3)
        return resolve(*args, **kwargs)

    with RawServer() as server:
        monkeypatch.setattr(socket, "getaddrinfo", dawdle)
        with pytest.raises(OSVIUnreachable):
            close(server.url, deadline=0.2)
    assert server.calls == []


def test_request_to_server_that_does_not_read_ends_at_deadline(make_client, takes_at_most):
    class Deaf(RawServer):
        def converse(self, sock):
            self.stopping.wait(60)

    with Deaf() as server, takes_at_most(2 + TIME_LIMIT), pytest.raises(OSVINoAnswer):
        make_client(server.url, deadline=2).close_session("s-1", agent_uuid="a" * 20_000_000)


def test_request_to_server_that_stopped_reading_ends_at_deadline(make_client, takes_at_most):
    read_once = threading.Event()

    class Deaf(RawServer):
        def converse(self, sock):
            with sock.makefile("rb") as file:
                self._read(sock, file)
                sock.sendall(close_response())
                read_once.set()
                self.stopping.wait(60)

    with Deaf() as server:
        client = make_client(server.url, connect_timeout=30, deadline=2)
        client.close_session("s-1", agent_uuid="agent_1")
        assert read_once.wait(5)
        with takes_at_most(2 + TIME_LIMIT), pytest.raises(OSVINoAnswer):
            client.close_session("s-1", agent_uuid="a" * 20_000_000)
    assert server.connections == 1


# Size


def test_body_of_maximum_size_is_read(close):
    body = close_body(summary="Fine.")
    with RawServer(http_response(body.ljust(MAX_BODY))) as server:
        assert close(server.url, deadline=5).summary == "Fine."


def test_body_over_maximum_size_is_truncated_and_raises_bad_answer(make_client):
    body = close_body(summary="Fine.").ljust(MAX_BODY + 200_000)
    with RawServer(http_response(body)) as server:
        client = make_client(server.url, deadline=5)
        answer = client.send_close("s-1", agent_uuid="agent_1")
        with pytest.raises(OSVIBadAnswer):
            client.close_session("s-1", agent_uuid="agent_1")
    assert answer.truncated
    assert answer.body == body[:MAX_BODY]
    assert server.connections == 2  # a connection with unread bytes is not reused


@pytest.mark.parametrize(("status", "error"), [(404, OSVIGatewayRefused), (500, OSVINoAnswer)])
def test_error_status_with_truncated_body_raises_error_of_status(close, status, error):
    with (
        RawServer(http_response(b" " * (MAX_BODY + 9), status=status)) as server,
        pytest.raises(error),
    ):
        close(server.url, deadline=5)


def test_endless_body_is_truncated_within_memory_limit(close):
    def pour(call):
        call.send(b"HTTP/1.1 200 OK\r\n\r\n")
        call.pour(b" " * 100_000)

    with RawServer(pour) as server, memory_stays_below(12_000_000), pytest.raises(OSVIBadAnswer):
        close(server.url, deadline=5)


@pytest.mark.parametrize(
    ("encoding", "rounds"), [("gzip", 1), ("x-gzip", 1), ("deflate", 1), ("gzip, gzip", 2)]
)
def test_gzip_bomb_is_truncated_within_memory_limit(close, encoding, rounds):
    reply = http_response(gzip_bomb(100_000_000, rounds), headers=[("Content-Encoding", encoding)])
    if encoding == "deflate":
        packed = zlib.compress(bytes(50_000_000))
        reply = http_response(packed, headers=[("Content-Encoding", encoding)])
    with RawServer(reply) as server, memory_stays_below(12_000_000), pytest.raises(OSVIBadAnswer):
        close(server.url, deadline=5)


def test_gzip_answer_is_read(close):
    with RawServer(
        http_response(gzip.compress(close_body(summary="Fine.")), headers=[GZIP])
    ) as server:
        assert close(server.url).summary == "Fine."


@pytest.mark.parametrize(
    "headers", [[("X-Many", "y")] * 200, [("X-Long", "y" * 100_000)]], ids=["many", "long"]
)
def test_too_many_or_too_long_headers_raise_no_answer(close, headers):
    with RawServer(close_response(headers=headers)) as server, pytest.raises(OSVINoAnswer):
        close(server.url)


# Retries


@pytest.fixture
def connected_addresses(monkeypatch):
    """Record the addresses of new connections."""
    seen = []
    connect = socket.socket.connect

    def _connect(self, address):
        seen.append(address)
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", _connect)
    return seen


def test_refused_connection_is_tried_three_times(close, connected_addresses):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(OSVIUnreachable) as caught:
        close(f"http://127.0.0.1:{port}", deadline=5)
    assert connected_addresses == [("127.0.0.1", port)] * 3
    assert caught.value.retryable


def test_server_available_at_third_try_receives_one_request(close, monkeypatch):
    refused = []
    connect = socket.socket.connect

    def _connect(self, address):
        if len(refused) < 2:
            refused.append(address)
            raise ConnectionRefusedError
        return connect(self, address)

    with RawServer() as server:
        monkeypatch.setattr(socket.socket, "connect", _connect)
        assert close(server.url, deadline=5).summary == "Fine."
    assert len(server.calls) == 1


def test_unknown_host_name_raises_unreachable(close, monkeypatch):
    def fail(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(OSVIUnreachable):
        close("https://osvi.invalid", deadline=5)


@pytest.mark.parametrize(
    "host", ["*.invalid", ".invalid", "a..invalid", "a" * 64 + ".invalid", "%"]
)
def test_invalid_host_name_raises_unreachable(close, host):
    with pytest.raises(OSVIUnreachable):
        close(f"https://{host}")


def test_server_without_tls_raises_unreachable(close):
    class Plain(RawServer):
        def converse(self, sock):
            sock.recv(9999)
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with Plain() as server, pytest.raises(OSVIUnreachable):
        close(server.url.replace("http:", "https:"))
    assert server.connections == 1


def test_server_that_ends_handshake_raises_unreachable(close):
    class Gone(RawServer):
        def converse(self, sock):
            sock.recv(9999)

    with Gone() as server, pytest.raises(OSVIUnreachable):
        close(server.url.replace("http:", "https:"))


def test_slow_handshake_ends_at_deadline(close, takes_at_most):
    class Slow(RawServer):
        def converse(self, sock):
            sock.sendall(b"\x16\x03\x03\x40\x00")
            while not self.stopping.wait(0.03):
                sock.sendall(b"A")

    with Slow() as server, takes_at_most(TIME_LIMIT), pytest.raises(OSVIUnreachable):
        close(server.url.replace("http:", "https:"), deadline=0.4)


def test_untrusted_certificate_raises_unreachable(close, tls):
    with RawServer(context=tls) as server, pytest.raises(OSVIUnreachable):
        close(server.url)
    assert server.calls == []


def test_trusted_certificate_is_accepted(close, tls, certificate, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    with RawServer(context=tls) as server:
        assert close(server.url).summary == "Fine."


@pytest.mark.parametrize("end", ["hang_up", "reset"])
def test_dropped_request_raises_no_answer_without_retry(close, end):
    with RawServer(lambda call: getattr(call, end)()) as server, pytest.raises(OSVINoAnswer):
        close(server.url)
    assert (server.connections, len(server.calls)) == (1, 1)


@pytest.mark.parametrize("end", ["hang_up", "reset"])
def test_dropped_request_on_reused_connection_raises_without_retry(close, end):
    with RawServer(close_response(), lambda call: getattr(call, end)()) as server:
        close(server.url)
        with pytest.raises(OSVINoAnswer):
            close(server.url)
    assert (server.connections, len(server.calls)) == (1, 2)


def test_connection_ended_while_idle_is_replaced(close):
    ended = threading.Event()

    def answer_and_end(call):
        call.send(close_response())
        call.sock.shutdown(socket.SHUT_RDWR)
        ended.set()

    with RawServer(answer_and_end, close_response()) as server:
        close(server.url)
        assert ended.wait(5)
        assert close(server.url).summary == "Fine."
    assert (server.connections, len(server.calls)) == (2, 2)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_busy_server_receives_one_request(make_client, method, status):
    with RawServer(http_response(status=status, headers=[("Retry-After", "1")])) as server:
        answer = make_client(server.url)._transport.send(method, "/", {})
    assert (answer.status, answer.retry_after) == (status, 1)
    assert len(server.calls) == 1


def test_busy_server_raises_throttled_without_waiting(close, takes_at_most):
    reply = http_response(status=429, headers=[("Retry-After", "30")])
    with RawServer(reply) as server, takes_at_most(TIME_LIMIT), pytest.raises(OSVIThrottled):
        close(server.url)
    assert len(server.calls) == 1


# Broken answers


@pytest.mark.parametrize(
    "reply",
    [
        http_response(close_body(), length=999),
        chunked_response(close_body(), end=b""),
        chunked_response(close_body(), end=b"ZZ\r\n\r\n"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"",
        b"\r\n",
        http_response(b"no gzip", headers=[GZIP]),
        http_response(b"x", headers=[("Content-Encoding", ", ".join(["gzip"] * 9))]),
    ],
)
def test_broken_answer_raises_no_answer(close, reply):
    def send(call):
        call.send(reply)
        call.hang_up()

    with RawServer(send) as server, pytest.raises(OSVINoAnswer):
        close(server.url)
    assert len(server.calls) == 1


def test_answer_that_ends_within_headers_raises_error(close):
    def begin(call):
        call.send(b"HTTP/1.1 200 OK\r\nContent-Len")
        call.hang_up()

    with RawServer(begin) as server, pytest.raises((OSVINoAnswer, OSVIBadAnswer)):
        close(server.url)


def test_reset_within_body_raises_no_answer(close):
    def begin(call):
        call.send(http_response(close_body(), length=999))
        call.reset()

    with RawServer(begin) as server, pytest.raises(OSVINoAnswer):
        close(server.url)


headers = st.sampled_from(
    b"Content-Encoding Content-Length Transfer-Encoding Retry-After Set-Cookie Location "
    b"Content-Type Connection X".split()
)
values = st.binary(max_size=20) | st.sampled_from(
    [b"gzip", b"deflate", b"chunked", b"identity", b"5", b"-1", b"99999999999999999999", b"a=b; c"]
)
answers = st.builds(
    lambda status, fields, body: (
        b"HTTP/1.1 %s\r\n%s\r\n%s"
        % (status, b"".join(b"%s: %s\r\n" % field for field in fields), body)
    ),
    st.sampled_from([b"200 OK", b"302 X", b"404", b"500 X", b"204 X", b"999 X", b"101 X"])
    | st.binary(max_size=9),
    st.lists(st.tuples(headers, values), max_size=4),
    st.binary(max_size=50) | st.just(close_body()) | st.just(gzip.compress(close_body())),
)


def test_close_with_random_answer_returns_or_raises_osvi_error():
    class Random(RawServer):
        def converse(self, sock):
            with sock.makefile("rb") as file:
                self._read(sock, file)
            sock.sendall(self.replies[0])

    with Random() as server:
        client = OSVIClient(token=TOKEN, base_url=server.url, deadline=5)

        @settings(max_examples=300, deadline=None)
        @given(st.binary(max_size=60) | answers)
        def check(reply):
            server.replies = [reply]
            with contextlib.suppress(OSVIError):
                client.close_session("s-1", agent_uuid="agent_1")

        check()


# Connections


@pytest.mark.parametrize(
    "reply",
    [
        close_response(),
        chunked_response(close_body()),
        http_response(gzip.compress(close_body()), headers=[GZIP]),
        http_response(b'{"success": false}', status=404),
        http_response(b"junk"),
    ],
    ids=["length", "chunks", "gzip", "refusal", "junk"],
)
def test_thread_reuses_its_connection(make_client, reply):
    with RawServer(reply) as server:
        for _ in range(3):  # a client each: connections are kept per thread
            make_client(server.url).send_close("s-1", agent_uuid="agent_1")
    assert (server.connections, len(server.calls)) == (1, 3)


def in_thread(target):
    results = []
    thread = threading.Thread(target=lambda: results.append(target()))
    thread.start()
    thread.join(5)
    return results[0]


def test_each_thread_uses_own_connection_and_closes_it(close):
    with RawServer() as server:
        close(server.url)
        assert in_thread(lambda: close(server.url).summary) == "Fine."
        close(server.url)
        gc.collect()  # a socket left open causes a warning, which is an error
    assert (server.connections, len(server.calls)) == (2, 3)


def test_deadline_of_one_thread_does_not_affect_other_threads(close):
    with RawServer(drip_body, close_response()) as server:
        waiting = threading.Event()

        def drip(call):
            waiting.set()
            drip_body(call)

        server.replies[0] = drip
        errors = []

        def slow():
            try:
                close(server.url, deadline=0.3)
            except OSVINoAnswer as error:
                errors.append(error)

        thread = threading.Thread(target=slow)
        thread.start()
        assert waiting.wait(5)
        assert close(server.url, deadline=30).summary == "Fine."
        thread.join(5)
    assert len(errors) == 1


def test_forked_process_does_not_use_connection_of_parent(close):
    with RawServer() as server:
        close(server.url)
        child = os.fork()
        if not child:
            code = 1
            with contextlib.suppress(BaseException):
                close(server.url)
                close(server.url)
                code = 0
            os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        close(server.url)
    assert (server.connections, len(server.calls)) == (2, 4)


def test_changed_process_id_starts_new_connection(close, monkeypatch):
    """Run the code for a fork in this process, as coverage does not measure the child."""
    with RawServer() as server:
        close(server.url)
        monkeypatch.setattr(os, "getpid", lambda: -1)
        close(server.url)
        close(server.url)
    assert (server.connections, len(server.calls)) == (2, 3)


@pytest.mark.parametrize("domain", ["", "; Domain=127.0.0.1", "; Path=/; Max-Age=99"])
def test_received_cookie_is_not_sent_back(close, domain):
    cookie = ("Set-Cookie", f"account=one{domain}")
    with RawServer(close_response(headers=[cookie])) as server:
        close(server.url, token="one-token-123456")
        close(server.url, token="two-token-123456")
    assert [call.headers["api-token"][:3] for call in server.calls] == ["one", "two"]
    assert not any("cookie" in call.headers for call in server.calls)


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_request_to_loopback_address_uses_no_proxy(close, monkeypatch, name):
    with RawServer() as server, RawServer() as proxy:
        monkeypatch.setenv(name, proxy.url)
        close(server.url)
    assert (len(server.calls), proxy.connections) == (1, 0)


@pytest.fixture
def netrc(tmp_path, monkeypatch):
    path = tmp_path / "netrc"
    path.write_text("default login someone password secret\n")
    monkeypatch.setenv("NETRC", str(path))


def test_netrc_password_is_not_sent(close, netrc):
    with RawServer() as server:
        close(server.url)
    assert "authorization" not in server.calls[0].headers


def test_netrc_password_is_not_sent_over_tls(close, netrc, tls, certificate, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    with RawServer(context=tls) as server:
        close(server.url)
    assert "authorization" not in server.calls[0].headers


# Proxies for https


class Proxy(RawServer):
    """Answer CONNECT with ``replies`` and then pass the connection to ``target``."""

    target = None

    def converse(self, sock):
        with sock.makefile("rb", buffering=0) as file:
            call = self._read(sock, file)
        self.calls.append(call)
        reply = self.replies[0]
        if callable(reply):
            reply(call)
        call.send(reply)
        if self.target:
            tls_sock = self.target.context.wrap_socket(sock, server_side=True)
            with tls_sock:
                self.target.converse(tls_sock)


ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


@pytest.fixture
def use_proxy(monkeypatch):
    """Send https calls through this proxy."""

    def _through(proxy):
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "nothing.invalid")

    return _through


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 403 Forbidden\r\n\r\n",
        b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
        b"HTTP/1.1 502 Bad Gateway\r\n\r\n",
        b"junk\r\n\r\n",
        b"",
        ESTABLISHED,  # and then it ends the TLS handshake
    ],
)
def test_proxy_that_refuses_tunnel_raises_unreachable_without_token(close, use_proxy, reply):
    with Proxy(reply) as proxy:
        use_proxy(proxy)
        with pytest.raises(OSVIUnreachable):
            close("https://127.0.0.1:1", deadline=5)
    assert all("api-token" not in call.headers for call in proxy.calls)
    assert proxy.calls


def test_slow_proxy_ends_at_deadline(close, use_proxy, takes_at_most):
    with Proxy(lambda call: call.drip(b"HTTP/1.1 200 " + DRIP)) as proxy:
        use_proxy(proxy)
        with takes_at_most(TIME_LIMIT), pytest.raises(OSVIUnreachable):
            close("https://127.0.0.1:1", deadline=0.4)


@pytest.mark.parametrize("scheme", ["https", "HTTPS"])
def test_call_through_proxy_is_answered_and_ends_at_deadline(
    close, use_proxy, takes_at_most, tls, certificate, monkeypatch, scheme
):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    with Proxy(ESTABLISHED) as proxy:
        use_proxy(proxy)
        proxy.target = RawServer(close_response(), drip_body, context=tls)
        proxy.target.stopping = proxy.stopping
        assert close(f"{scheme}://127.0.0.1:1").summary == "Fine."
        with takes_at_most(TIME_LIMIT), pytest.raises(OSVINoAnswer):
            close(f"{scheme}://127.0.0.1:1", deadline=0.4)
    assert len(proxy.target.calls) == 2
    assert [call.line.split()[0] for call in proxy.calls] == ["CONNECT"]
