"""The token stays home: no error, log, repr, crash page or stored answer shows it."""

from __future__ import annotations

import json
import secrets
import socket

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from osvi_django.client import OSVIClient
from osvi_django.client.transport import MAX_BODY
from osvi_django.exceptions import (
    OSVIBadAnswer,
    OSVIError,
    OSVINoAnswer,
    OSVINotConfigured,
    OSVIRejected,
    OSVIUnreachable,
)
from osvi_django.testing import Drop, Hang, Junk, Redirect, Status
from tests.helpers.raw_server import RawServer, http_response


@pytest.fixture
def token():
    return secrets.token_hex(8)


@pytest.fixture
def fails(close, everything_shown, token):
    """Close and fail with such an error, of which nothing shows the secret."""

    def _fails(url, error, secret="", **options):
        with pytest.raises(error) as caught:
            close(url, **{"token": token, **options})
        shown = everything_shown(caught.value)
        assert type(caught.value).__name__ in shown
        assert (secret or token) not in shown
        return caught.value

    return _fails


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Status(401, error="Invalid API token"), OSVIRejected),
        (Status(404), OSVIRejected),
        (Status(429, retry_after=1), OSVIRejected),
        (Status(500), OSVINoAnswer),
        (Drop(), OSVINoAnswer),
        (Drop(reset=True), OSVINoAnswer),
        (Hang(), OSVINoAnswer),
        (Junk(), OSVIBadAnswer),
        (Junk(b"no gzip", encoding="gzip"), OSVINoAnswer),
        (Redirect("http://127.0.0.1:1/"), OSVIBadAnswer),
    ],
    ids=lambda value: getattr(value, "__name__", None) or repr(value)[:40],
)
def test_no_failure_of_a_call_shows_it(osvi, token, fails, fault, error):
    osvi.token = token
    osvi.script("s-1", fault)
    raised = fails(osvi.url, error, read_timeout=0.2)
    assert raised.__cause__ is None
    assert raised.__context__ is None
    assert osvi.requests[0].headers["API-Token"] == token


def test_a_refused_connection_does_not_show_it(fails):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}"
    fails(url, OSVIUnreachable, deadline=5)


def test_a_certificate_error_does_not_show_it(fails, tls):
    with RawServer(context=tls) as server:
        fails(server.url, OSVIUnreachable)


@pytest.mark.parametrize(
    "odd", ["{}\n", "{}\r\nX: y", "{} ", "{}é", "{}\u4e2d", "{}\x00", "{}\ud83d", "{}\x7f"]
)
def test_a_token_that_cannot_be_sent_is_not_shown(osvi, token, fails, odd):
    raised = fails(osvi.url, OSVINotConfigured, token=odd.format(token))
    assert "a character that a token cannot have" in str(raised)
    assert osvi.requests == []


@pytest.mark.parametrize("odd", ["{}\n", "{}é", "a.dotted.path.to.{}", "a.{}.b"])
def test_nor_is_it_where_it_stands_in_the_settings(osvi, token, everything_shown, odd):
    account = {"API_TOKEN": odd.format(f"t{token}"), "BASE_URL": osvi.url}
    with override_settings(OSVI={"default": account}):
        with pytest.raises(OSVINotConfigured) as caught:
            OSVIClient.for_account().close_session("s-1", agent_uuid="agent_1")
        assert token not in everything_shown(caught.value)
    assert osvi.requests == []


@pytest.mark.parametrize(
    "options",
    [
        {"base_url": "http://api.osvi.ai"},
        {"close_with": "v2"},
        {"deadline": 0},
    ],
)
def test_a_client_that_cannot_be_made_does_not_show_it(token, fails, options):
    fails("https://api.osvi.ai", OSVINotConfigured, **options)


@pytest.mark.parametrize("kind", [KeyError, RuntimeError, ImproperlyConfigured, OSVINotConfigured])
def test_a_callable_that_fails_does_not_show_it(osvi, token, fails, everything_shown, kind):
    def vault():
        raise kind(f"Cannot renew {token}")

    raised = fails(osvi.url, OSVINotConfigured, token=vault)
    assert str(raised).endswith(f"its callable raised {kind.__name__}.")
    with override_settings(OSVI={"default": {"API_TOKEN": vault, "BASE_URL": osvi.url}}):
        with pytest.raises(OSVINotConfigured) as caught:
            OSVIClient.for_account().close_session("s-1", agent_uuid="agent_1")
        assert token not in everything_shown(caught.value)
    assert f"its callable raised {kind.__name__}." in str(caught.value)
    assert osvi.requests == []


def test_a_callable_that_returns_junk_does_not_show_it(osvi, token, fails):
    raised = fails(osvi.url, OSVINotConfigured, token=lambda: [token])
    assert "is not text" in str(raised)


def test_a_refusal_that_quotes_it_is_scrubbed(osvi, token, fails):
    osvi.script("s-1", Status(422, errors=(f"No such token: {token}!",)))
    raised = fails(osvi.url, OSVIRejected)
    assert raised.reason == "No such token: [API token]!"


def test_headers_that_quote_it_and_cannot_be_parsed_are_not_logged(token, fails):
    reply = b"HTTP/1.1 401 X\r\nContent-Length: 0\r\nno such token %s\r\n\r\n" % token.encode()
    with RawServer(reply) as server:
        fails(server.url, OSVIRejected)


@pytest.mark.parametrize(
    ("token", "quote"),
    [
        ("0123456789abcdef", json.dumps("0123456789abcdef")),
        ('ab"cd\\ef/0123456', json.dumps('ab"cd\\ef/0123456')),
        ("ab/cd+ef/012345=", '"ab\\/cd+ef\\/012345="'),
        ("a<b>c&d/01234567", '"a\\u003cb\\u003Ec\\u0026d/01234567"'),
        (
            "0123456789abcdef",
            '"' + "".join(f"\\u{ord(each):04x}" for each in "0123456789abcdef") + '"',
        ),
        ("a.c.e.g.i.k.m.o.", '"a.c.e.g.i.k.m.o."'),
    ],
)
def test_a_body_that_quotes_it_is_scrubbed_however_it_is_written(make_client, token, quote):
    body = b'{"success": false, "error": %s, "more": %s}' % (quote.encode(), quote.encode())
    with RawServer(http_response(body, status=422)) as server:
        answer = make_client(server.url, token=token).send_close("s-1", agent_uuid="agent_1")
    assert answer.body == b'{"success": false, "error": "[API token]", "more": "[API token]"}'


def test_only_the_token_itself_is_scrubbed(make_client):
    with RawServer(http_response(b"axcxexgxixkxmxox short")) as server:
        client = make_client(server.url, token="a.c.e.g.i.k.m.o.")
        assert client.send_close("s-1", agent_uuid="x").body == b"axcxexgxixkxmxox short"
        client = make_client(server.url, token="short")  # too short to tell from innocent words
        assert client.send_close("s-1", agent_uuid="x").body == b"axcxexgxixkxmxox short"


def test_the_cut_of_a_long_body_leaves_no_part_of_it(make_client, token):
    body = (b" " * (MAX_BODY - 9) + token.encode()).ljust(MAX_BODY + 200_000)
    with RawServer(http_response(body)) as server:
        client = make_client(server.url, token=token, deadline=5)
        answer = client.send_close("s-1", agent_uuid="agent_1")
    assert answer.truncated
    assert answer.body.strip() == b"[API token]"[:9]


def test_a_body_full_of_it_stays_below_the_cap(make_client):
    with RawServer(http_response(b"8 chars!" * 200_000)) as server:
        client = make_client(server.url, token="8_chars!", deadline=5)
        assert len(client.send_close("s-1", agent_uuid="x").body) == 1_600_000
    with RawServer(http_response(b"8_chars!" * 200_000)) as server:
        client = make_client(server.url, token="8_chars!", deadline=5)
        assert len(client.send_close("s-1", agent_uuid="x").body) == MAX_BODY


def test_success_does_not_show_it_either(osvi, token, make_client, caplog, everything_shown):
    osvi.token = token
    osvi.add_session("s-1", agent_uuid="agent_1")
    client = make_client(osvi.url, token=token)
    answer = client.send_close("s-1", agent_uuid="agent_1")
    shown = f"{client!r}{client!s}{answer!r}{answer.text}{vars(answer)}"
    shown += "".join(f"{vars(record)}" for record in caplog.records)
    assert caplog.records
    assert token not in shown


def test_the_log_names_the_call_and_its_outcome(osvi, close, caplog):
    caplog.set_level("INFO", logger="osvi_django")
    osvi.add_session("s-1", agent_uuid="agent_1", summary="Wanted a refund.")
    osvi.script("s-1", Drop())
    with pytest.raises(OSVIError):
        close(osvi.url)
    close(osvi.url)
    dropped, answered = [r.getMessage() for r in caplog.records if r.name == "osvi_django.client"]
    assert dropped.startswith("POST /chat_sessions/s-1/close_session: unconfirmed (ConnectionError")
    assert answered.startswith("POST /chat_sessions/s-1/close_session: 200 in 0.")
    assert "refund" not in caplog.text


def test_a_name_of_an_error_of_the_wire_is_logged_with_what_it_hides(close, caplog):
    caplog.set_level("INFO", logger="osvi_django")
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}"
    with pytest.raises(OSVIUnreachable):
        close(url, deadline=5)
    assert "unreachable (ConnectionError: MaxRetryError: NewConnectionError)" in caplog.text
