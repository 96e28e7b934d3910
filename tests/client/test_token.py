"""Test that no error, log, repr, crash page or stored answer shows the token."""

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
def close_fails(close, everything_shown, token):
    """Close, expect this error, and check that nothing shows the secret."""

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
def test_error_of_failed_call_does_not_contain_token(osvi, token, close_fails, fault, error):
    osvi.token = token
    osvi.script("s-1", fault)
    raised = close_fails(osvi.url, error, read_timeout=1)
    assert raised.__cause__ is None
    assert raised.__context__ is None
    assert osvi.requests[0].headers["API-Token"] == token


def test_error_of_refused_connection_does_not_contain_token(close_fails):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}"
    close_fails(url, OSVIUnreachable, deadline=5)


def test_certificate_error_does_not_contain_token(close_fails, tls):
    with RawServer(context=tls) as server:
        close_fails(server.url, OSVIUnreachable)


@pytest.mark.parametrize(
    "odd", ["{}\n", "{}\r\nX: y", "{} ", "{}é", "{}\u4e2d", "{}\x00", "{}\ud83d", "{}\x7f"]
)
def test_error_of_unsendable_token_does_not_contain_token(osvi, token, close_fails, odd):
    raised = close_fails(osvi.url, OSVINotConfigured, token=odd.format(token))
    assert "a character that a token cannot have" in str(raised)
    assert osvi.requests == []


@pytest.mark.parametrize("odd", ["{}\n", "{}é", "a.dotted.path.to.{}", "a.{}.b"])
def test_error_of_unusable_token_in_settings_does_not_contain_token(
    osvi, token, everything_shown, odd
):
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
def test_error_of_unusable_client_option_does_not_contain_token(token, close_fails, options):
    close_fails("https://api.osvi.ai", OSVINotConfigured, **options)


@pytest.mark.parametrize("kind", [KeyError, RuntimeError, ImproperlyConfigured, OSVINotConfigured])
def test_error_of_failing_token_callable_does_not_contain_token(
    osvi, token, close_fails, everything_shown, kind
):
    def vault():
        raise kind(f"Cannot renew {token}")

    raised = close_fails(osvi.url, OSVINotConfigured, token=vault)
    assert str(raised).endswith(f"its callable raised {kind.__name__}.")
    with override_settings(OSVI={"default": {"API_TOKEN": vault, "BASE_URL": osvi.url}}):
        with pytest.raises(OSVINotConfigured) as caught:
            OSVIClient.for_account().close_session("s-1", agent_uuid="agent_1")
        assert token not in everything_shown(caught.value)
    assert f"its callable raised {kind.__name__}." in str(caught.value)
    assert osvi.requests == []


def test_error_of_token_callable_returning_junk_does_not_contain_token(osvi, token, close_fails):
    raised = close_fails(osvi.url, OSVINotConfigured, token=lambda: [token])
    assert "is not text" in str(raised)


def test_reason_that_quotes_token_is_scrubbed(osvi, token, close_fails):
    osvi.script("s-1", Status(422, errors=(f"No such token: {token}!",)))
    raised = close_fails(osvi.url, OSVIRejected)
    assert raised.reason == "No such token: [API token]!"


def test_unparsable_headers_that_quote_token_are_not_logged(token, close_fails):
    reply = b"HTTP/1.1 401 X\r\nContent-Length: 0\r\nno such token %s\r\n\r\n" % token.encode()
    with RawServer(reply) as server:
        close_fails(server.url, OSVIRejected)


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
def test_body_that_quotes_token_in_any_spelling_is_scrubbed(make_client, token, quote):
    body = b'{"success": false, "error": %s, "more": %s}' % (quote.encode(), quote.encode())
    with RawServer(http_response(body, status=422)) as server:
        answer = make_client(server.url, token=token).send_close("s-1", agent_uuid="agent_1")
    assert answer.body == b'{"success": false, "error": "[API token]", "more": "[API token]"}'


def test_body_with_similar_text_or_short_token_is_not_scrubbed(make_client):
    with RawServer(http_response(b"axcxexgxixkxmxox short")) as server:
        client = make_client(server.url, token="a.c.e.g.i.k.m.o.")
        assert client.send_close("s-1", agent_uuid="x").body == b"axcxexgxixkxmxox short"
        client = make_client(server.url, token="short")  # too short to distinguish from other text
        assert client.send_close("s-1", agent_uuid="x").body == b"axcxexgxixkxmxox short"


def test_truncated_body_contains_no_part_of_token(make_client, token):
    body = (b" " * (MAX_BODY - 9) + token.encode()).ljust(MAX_BODY + 200_000)
    with RawServer(http_response(body)) as server:
        client = make_client(server.url, token=token, deadline=5)
        answer = client.send_close("s-1", agent_uuid="agent_1")
    assert answer.truncated
    assert answer.body.strip() == b"[API token]"[:9]


def test_body_full_of_tokens_stays_within_maximum_size(make_client):
    with RawServer(http_response(b"8 chars!" * 200_000)) as server:
        client = make_client(server.url, token="8_chars!", deadline=5)
        assert len(client.send_close("s-1", agent_uuid="x").body) == 1_600_000
    with RawServer(http_response(b"8_chars!" * 200_000)) as server:
        client = make_client(server.url, token="8_chars!", deadline=5)
        assert len(client.send_close("s-1", agent_uuid="x").body) == MAX_BODY


def test_successful_close_does_not_show_token(osvi, token, make_client, caplog, everything_shown):
    osvi.token = token
    osvi.add_session("s-1", agent_uuid="agent_1")
    client = make_client(osvi.url, token=token)
    answer = client.send_close("s-1", agent_uuid="agent_1")
    shown = f"{client!r}{client!s}{answer!r}{answer.text}{vars(answer)}"
    shown += "".join(f"{vars(record)}" for record in caplog.records)
    assert caplog.records
    assert token not in shown


def test_log_of_call_contains_path_and_outcome_but_no_summary(osvi, close, caplog):
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


def test_log_of_unreachable_contains_names_of_nested_errors(close, caplog):
    caplog.set_level("INFO", logger="osvi_django")
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}"
    with pytest.raises(OSVIUnreachable):
        close(url, deadline=5)
    assert "unreachable (ConnectionError: MaxRetryError: NewConnectionError)" in caplog.text
