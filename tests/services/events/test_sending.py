"""One post to a receiver: to a checked address only, and limited in time and size."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time

import pytest

from osvi_django.conf import Webhook
from osvi_django.network import refusals
from osvi_django.services.events import addresses, sending
from osvi_django.services.events.addresses import is_public
from osvi_django.services.events.sending import Outcome, Sender
from tests.helpers.certificates import make_certificate
from tests.helpers.processes import free_port
from tests.helpers.raw_server import RawServer, chunked_response, http_response
from tests.services.events.conftest import SECRET

OK = http_response(b"thanks")
REAL = socket.getaddrinfo


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("tls"), "IP:127.0.0.1,DNS:crm.invalid")


@pytest.fixture
def tls(certificate, monkeypatch):
    """Return the context of a server whose certificate is trusted here."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    return context


@pytest.fixture
def resolve(monkeypatch):
    """Have a host name resolve to each of these lists of addresses in turn."""
    asked = []

    def _resolve(*answers):
        left = list(answers)

        def getaddrinfo(host, port, *args, **named):
            asked.append(host)
            found = left.pop(0) if len(left) > 1 else left[0]
            return [entry for each in found for entry in REAL(each, port, *args, **named)]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    return _resolve


@pytest.fixture
def slow_look_ups(monkeypatch):
    """Have no host name resolve before the end of the test."""
    is_over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_named: is_over.wait(30) and [])
    yield
    is_over.set()


def receiver_at(url, **options):
    """Return a receiver as the settings describe it."""
    return Webhook(0, {"URL": url, "SECRETS": [SECRET], "ALLOW_PRIVATE": True, **options})


def post(url, *, times=1, **options):
    """Post so many times on one connection, if it is kept; return the last outcome."""
    with Sender(receiver_at(url, **options)) as sender:
        return [sender.post(b"{}", {"webhook-id": "msg_1"}) for _number in range(times)][-1]


class TestAnswers:
    @pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
    def test_post_answered_2xx_is_delivered(self, status):
        with RawServer(http_response(status=status)) as server:
            assert post(server.url) == Outcome(status=status)
        (call,) = server.calls
        assert (call.line, call.body) == ("POST / HTTP/1.1", b"{}")

    @pytest.mark.parametrize(
        ("status", "code", "about_receiver"),
        [
            (101, "refused", False),
            (304, "redirect", False),
            (400, "refused", False),
            (404, "refused", False),
            (410, "gone", False),
            (429, "refused", True),
            (500, "refused", True),
            (503, "refused", True),
        ],
    )
    def test_post_answered_otherwise_is_not_delivered(self, status, code, about_receiver):
        with RawServer(http_response(status=status)) as server:
            outcome = post(server.url)
        assert (outcome.code, outcome.status) == (code, status)
        assert outcome.is_about_receiver == about_receiver

    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    def test_redirect_is_not_followed(self, status):
        with RawServer() as elsewhere:
            there = http_response(status=status, headers=[("Location", elsewhere.url)])
            with RawServer(there) as server:
                assert post(server.url).code == "redirect"
            assert elsewhere.connections == 0

    @pytest.mark.parametrize(
        "reply",
        [
            b"",
            b"nonsense\r\n\r\n",
            b"HTTP/1.1 abc OK\r\n\r\n",
            b"HTTP/1.1 200" + 70_000 * b" " + b"\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n" + 200 * b"X: y\r\n" + b"\r\n",
        ],
    )
    def test_post_answered_with_nonsense_is_not_delivered(self, reply):
        def answer(call):
            call.send(reply)
            call.hang_up()

        with RawServer(answer) as server:
            assert post(server.url) == Outcome(code="no_answer")

    def test_reset_connection_is_no_answer(self):
        with RawServer(lambda call: call.reset()) as server:
            outcome = post(server.url)
        assert (outcome.code, outcome.is_about_receiver) == ("no_answer", True)

    @pytest.mark.parametrize(
        "reply",
        [
            http_response(b"half", length=10),
            chunked_response(b"half", end=b"nonsense"),
            http_response(200_000 * b"x"),
            http_response(b"bye", headers=[("Connection", "close")]),
        ],
    )
    def test_odd_body_after_2xx_is_delivered_and_its_connection_not_used_again(self, reply):
        def answer(call):
            call.send(reply)
            call.hang_up()

        with RawServer(answer, OK) as server:
            assert post(server.url, times=2) == Outcome(status=200)
        assert server.connections == 2

    def test_connection_is_used_again(self):
        with RawServer(OK, chunked_response(b"a", b"b"), OK) as server:
            assert post(server.url, times=3) == Outcome(status=200)
        assert server.connections == 1

    def test_connection_that_the_receiver_has_closed_is_made_again(self):
        def answer_and_close(call):
            call.send(OK)
            call.hang_up()

        with RawServer(answer_and_close, OK) as server:
            assert post(server.url, times=2) == Outcome(status=200)
        assert server.connections == 2

    def test_target_has_path_and_query(self):
        with RawServer(OK) as server:
            post(f"{server.url}/hook/a?key=b")
            post(f"{server.url}?key=b")
        assert [call.target for call in server.calls] == ["/hook/a?key=b", "/?key=b"]


class TestLimits:
    def test_answer_that_drips_ends_in_time(self, monkeypatch):
        monkeypatch.setattr(sending, "TOTAL_TIMEOUT", 0.5)
        with RawServer(lambda call: call.drip(100 * b"HTTP/1.1 200 OK", 0.05)) as server:
            began = time.monotonic()
            assert post(server.url) == Outcome(code="timeout")
        assert time.monotonic() - began < 5

    def test_tls_that_drips_ends_in_time(self, monkeypatch):
        monkeypatch.setattr(sending, "TOTAL_TIMEOUT", 0.5)

        class Silent(RawServer):
            def converse(self, sock):
                self.stopping.wait(5)

        with Silent() as server:
            url = server.url.replace("http:", "https:")
            assert post(url) == Outcome(code="timeout")

    def test_silent_receiver_is_a_timeout(self, monkeypatch):
        monkeypatch.setattr(sending, "READ_TIMEOUT", 0.2)
        with RawServer(lambda call: call.pause()) as server:
            assert post(server.url) == Outcome(code="timeout")

    def test_endless_answer_is_not_read_to_its_end(self):
        def pour(call):
            call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 900000000\r\n\r\n")
            call.pour(100_000 * b"x")

        with RawServer(pour) as server:
            began = time.monotonic()
            assert post(server.url) == Outcome(status=200)
        assert time.monotonic() - began < 5

    def test_time_that_is_over_before_connecting_is_a_timeout(self, monkeypatch):
        guard = sending._Guard()
        monkeypatch.setattr(time, "clock_gettime", lambda _which: 1e12)
        with pytest.raises(TimeoutError):
            guard.remaining()

    def test_connection_to_closed_port_is_not_made(self):
        assert post(f"http://127.0.0.1:{free_port()}/") == Outcome(code="not_connected")


class TestEncryption:
    def test_certificate_must_be_that_of_the_host(self, tls, resolve):
        resolve(["127.0.0.1"])
        with RawServer(OK, context=tls) as server:
            port = server.port
            assert post(f"https://crm.invalid:{port}/hook", times=2) == Outcome(status=200)
            assert post(f"https://127.0.0.1:{port}/") == Outcome(status=200)
            assert post(f"https://other.invalid:{port}/") == Outcome(code="certificate_refused")
        assert server.calls[0].headers["host"] == f"crm.invalid:{port}"
        assert server.connections == 3

    def test_unknown_certificate_is_refused(self, tls, monkeypatch):
        monkeypatch.delenv("REQUESTS_CA_BUNDLE")
        with RawServer(OK, context=tls) as server:
            assert post(server.url) == Outcome(code="certificate_refused")

    def test_certificates_may_be_in_a_folder(self, tls, monkeypatch, tmp_path):
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
        with RawServer(OK, context=tls) as server:
            assert post(server.url) == Outcome(code="certificate_refused")

    def test_missing_certificates_are_not_delivered_to(self, tls, monkeypatch):
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere.pem")
        with RawServer(OK, context=tls) as server:
            assert post(server.url) == Outcome(code="no_answer")

    def test_host_header_is_without_the_default_port(self, resolve):
        connection = sending._Connection(receiver_at("https://crm.invalid/"))
        assert (connection.port, connection.default_port) == (443, 443)
        assert sending._Connection(receiver_at("http://crm.invalid/")).port == 80


class TestAddresses:
    @pytest.mark.parametrize(
        ("address", "public"),
        [
            ("8.8.8.8", True),
            ("2606:4700::1111", True),
            ("::ffff:8.8.8.8", True),
            ("127.0.0.1", False),
            ("10.1.2.3", False),
            ("172.16.0.1", False),
            ("192.168.1.1", False),
            ("169.254.169.254", False),
            ("100.64.0.1", False),
            ("0.0.0.0", False),
            ("224.0.0.1", False),
            ("240.0.0.1", False),
            ("255.255.255.255", False),
            ("::1", False),
            ("::", False),
            ("fe80::1%eth0", False),
            ("fc00::1", False),
            ("fec0::1", False),
            ("ff02::1", False),
            ("::ffff:127.0.0.1", False),
            ("::ffff:169.254.169.254", False),
            ("2002:7f00:1::", False),
            ("64:ff9b::7f00:1", False),
        ],
    )
    def test_address_is_public_only_in_the_internet(self, address, public):
        assert is_public(address) == public

    @pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1", "192.168.0.1"])
    def test_private_address_is_refused_unless_allowed(self, resolve, address):
        resolve([address])
        refused = post("https://crm.invalid/", ALLOW_PRIVATE=False)
        assert refused == Outcome(code="address_refused")
        assert refused.is_about_receiver

    def test_http_is_for_private_addresses_only(self, resolve):
        resolve(["8.8.8.8"])
        assert post("http://crm.invalid/") == Outcome(code="address_refused")

    def test_host_is_looked_up_once_and_connected_where_it_was_checked(self, resolve):
        """The name server says another address to whoever asks a second time."""
        with RawServer(OK) as server, RawServer() as inside:
            asked = resolve(["127.0.0.1"], ["127.0.0.2"])
            assert post(f"http://crm.invalid:{server.port}/") == Outcome(status=200)
            assert asked == ["crm.invalid"]
            assert inside.connections == 0

    def test_private_address_beside_a_public_one_is_not_used(self, resolve):
        resolve(["127.0.0.1", "8.8.8.8"])
        known = addresses.addresses_of("crm.invalid", 443, allow_private=False, is_encrypted=True)
        assert [each.ip for each in known] == ["8.8.8.8"]

    def test_next_address_is_used_if_the_first_does_not_answer(self, resolve):
        with RawServer(OK) as server:
            resolve(["127.0.0.9", "127.0.0.1"])
            assert post(f"http://crm.invalid:{server.port}/") == Outcome(status=200)

    @pytest.mark.parametrize("error", [socket.gaierror, UnicodeError])
    def test_unknown_host_has_no_address(self, monkeypatch, error):
        def fail(*_args, **_named):
            raise error

        monkeypatch.setattr(socket, "getaddrinfo", fail)
        assert post("https://crm.invalid/") == Outcome(code="no_address")

    def test_slow_name_server_is_not_waited_for(self, slow_look_ups, monkeypatch):
        monkeypatch.setattr(addresses, "LOOK_UP_TIMEOUT", 0.1)
        assert post("https://crm.invalid/") == Outcome(code="no_address")

    def test_look_up_that_takes_all_the_time_is_a_timeout(self, resolve, monkeypatch):
        monkeypatch.setattr(sending, "TOTAL_TIMEOUT", 0.05)
        resolve(["127.0.0.1"])
        quick = socket.getaddrinfo

        def getaddrinfo(*args, **named):
            time.sleep(0.5)
            return quick(*args, **named)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        assert post("https://crm.invalid/") == Outcome(code="timeout")


class TestLimitOfTests:
    """The plugin lets tests call this machine only."""

    def test_other_host_is_neither_looked_up_nor_called(self, resolve):
        asked = resolve(["8.8.8.8"])
        assert post("https://crm.example/") == Outcome(code="not_allowed_here")
        assert asked == []
        assert len(refusals) == 1
        refusals.clear()

    def test_name_of_this_machine_that_leads_elsewhere_is_not_called(self, resolve):
        resolve(["8.8.8.8"])
        assert post("https://localhost/") == Outcome(code="not_allowed_here")
        refusals.clear()


def test_nothing_is_logged_about_a_post(caplog, tls):
    caplog.set_level(logging.DEBUG)
    with RawServer(http_response(headers=[("bad header", "x")]), context=tls) as server:
        post(f"{server.url}/very-secret")
    assert "very-secret" not in caplog.text
