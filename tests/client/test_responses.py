"""Test how answers of OSVI become results and errors."""

from __future__ import annotations

import contextlib
import json
import time
from email.utils import formatdate

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from osvi_django.client.responses import Answer, ClosedSession, read_closed
from osvi_django.client.transport import MAX_RETRY_AFTER
from osvi_django.exceptions import (
    MAX_REASON,
    OSVIBadAnswer,
    OSVIError,
    OSVINoAnswer,
    OSVIRejected,
    OSVIThrottled,
    OSVIUnauthorized,
    OSVIUnknown,
)
from osvi_django.testing import OddSummary, Status
from tests.helpers.raw_server import RawServer, close_body, close_response, http_response

GOOD = close_body(summary="Fine.")


def error_of_close(close, reply):
    with RawServer(reply) as server, pytest.raises(OSVIError) as caught:
        close(server.url, deadline=5)
    return caught.value


# Refusals


@pytest.mark.parametrize("body", [None, b"", b"<html>"])
def test_close_answered_401_raises_unauthorized(osvi, close, body):
    osvi.script("s-1", Status(401, error="Invalid API token", body=body))
    with pytest.raises(OSVIUnauthorized) as caught:
        close(osvi.url)
    assert caught.value.status == 401
    assert caught.value.reason == ("" if body is not None else "Invalid API token")


def test_close_with_wrong_token_raises_unauthorized(osvi, close):
    with pytest.raises(OSVIUnauthorized):
        close(osvi.url, token="another-token-16")


@pytest.mark.parametrize("status", [400, 402, 403, 404, 405, 409, 410, 418, 422, 451, 499])
def test_close_answered_other_4xx_raises_rejected(osvi, close, status):
    osvi.script("s-1", Status(status, errors=("Not like this",)))
    with pytest.raises(OSVIRejected) as caught:
        close(osvi.url)
    assert type(caught.value) is (OSVIUnknown if status == 404 else OSVIRejected)
    assert (caught.value.status, caught.value.reason) == (status, "Not like this")


def test_rejected_without_reason_uses_http_status_as_reason(close):
    error = error_of_close(close, http_response(b'{"success": false}', status=409))
    assert (type(error), error.reason) == (OSVIRejected, "HTTP 409")


def test_close_answered_200_without_success_raises_rejected(close):
    error = error_of_close(
        close, http_response(b'{"success": false, "errors": ["Closing is switched off"]}')
    )
    assert (type(error), error.reason) == (OSVIRejected, "Closing is switched off")


@pytest.mark.parametrize("status", [201, 202, 299])
def test_close_answered_other_2xx_without_success_raises_bad_answer(close, status):
    assert isinstance(
        error_of_close(close, http_response(b'{"success": false}', status=status)), OSVIBadAnswer
    )


def test_close_answered_429_raises_throttled_with_retry_after(osvi, close):
    osvi.script("s-1", Status(429, retry_after=7, errors=("Slow down",)))
    with pytest.raises(OSVIThrottled) as caught:
        close(osvi.url)
    error = caught.value
    assert (error.status, error.retry_after, error.reason) == (429, 7, "Slow down")


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (http_response(status=429), OSVIThrottled),
        (http_response(status=503, headers=[("Retry-After", "3")]), OSVIThrottled),
        (http_response(b'{"success": false}', status=503), OSVIThrottled),
        (http_response(status=503), OSVINoAnswer),
        (http_response(b"<html>Backend unavailable", status=503), OSVINoAnswer),
        (http_response(b'{"success": true}', status=503), OSVINoAnswer),
        (http_response(status=503, headers=[("Retry-After", "soon")]), OSVINoAnswer),
        (http_response(GOOD, status=500), OSVINoAnswer),
        (http_response(b'{"success": false, "errors": ["x"]}', status=500), OSVINoAnswer),
        (http_response(status=502), OSVINoAnswer),
        (http_response(status=504, headers=[("Retry-After", "3")]), OSVINoAnswer),
        (http_response(status=599), OSVINoAnswer),
        (http_response(status=999), OSVINoAnswer),
    ],
)
def test_close_answered_5xx_raises_no_answer_unless_osvi_is_busy(close, reply, kind):
    assert type(error_of_close(close, reply)) is kind


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        ("  9 ", 9),
        ("99999999999", MAX_RETRY_AFTER),
        ("9" * 4000, MAX_RETRY_AFTER),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_RETRY_AFTER),
        ("", None),
        (" ", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("1e3", None),
        ("nan", None),
        ("inf", None),
        ("5, 10", None),
        ("9" * 5000, None),
        ("Wed, 99 Foo 2015 07:28:00 GMT", None),
        ("Wed, 21 Oct 99999999999999999999 07:28:00 GMT", None),
        ("Wed, 31 Feb 2015 99:99:99 +9999", 0),
        ("\xff\x80", None),
    ],
)
def test_retry_after_header_is_read_as_seconds_or_ignored(make_client, header, seconds):
    reply = b"HTTP/1.1 429 X\r\nContent-Length: 0\r\nRetry-After: %s\r\n\r\n"
    with RawServer(reply % header.encode("latin-1")) as server:
        answer = make_client(server.url).send_close("s-1", agent_uuid="agent_1")
    assert answer.retry_after == seconds


def test_retry_after_with_future_date_is_converted_to_seconds(close):
    date = formatdate(time.time() + 100, usegmt=True)
    error = error_of_close(close, http_response(status=429, headers=[("Retry-After", date)]))
    assert 95 < error.retry_after <= 100


# Reasons given by OSVI


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"error": "One"}, "One"),
        ({"errors": ["One", "two"]}, "One two"),
        ({"error": "One", "errors": ["two"]}, "One two"),
        ({"error": " a \n\tb\r\n "}, "a b"),
        ({"errors": [None, 1, ["x"], {"a": 1}, "text", True]}, "text"),
        ({"errors": {"field": ["x"]}}, "HTTP 422"),
        ({"errors": "text"}, "HTTP 422"),
        ({"error": ["x"]}, "HTTP 422"),
        ({"error": None, "errors": None}, "HTTP 422"),
        ({"error": "", "errors": []}, "HTTP 422"),
        ({"error": "\x1b[31mred\x1b[0m\x07\x7f\x9b"}, "[31mred [0m"),
        ({"error": "a\x00b\ud83d"}, "a\ufffdb\ufffd"),
        ({"error": "\u202egnp.exe\u2066"}, "gnp.exe"),
        ({"error": "Größe, नमस्ते \U0001f600"}, "Größe, नमस्ते \U0001f600"),
        ({"error": "x" * 1000}, "x" * MAX_REASON),
    ],
)
def test_reason_of_rejected_is_short_plain_text(close, said, reason):
    body = json.dumps({"success": False, **said}).encode()
    assert error_of_close(close, http_response(body, status=422)).reason == reason


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(error=json_values, errors=json_values | st.lists(st.text()), status=st.integers(400, 499))
def test_reason_of_any_error_body_is_short_and_storable(error, errors, status):
    body = json.dumps({"success": False, "error": error, "errors": errors}).encode()
    with pytest.raises(OSVIRejected) as caught:
        read_closed(Answer(status=status, body=body), "s-1")
    reason = caught.value.reason
    assert len(reason) <= MAX_REASON
    reason.encode()
    assert not any(ord(each) < 32 or 127 <= ord(each) < 160 for each in reason)


# Junk


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"\x00",
        b"OK",
        b"<html>fine</html>",
        b"null",
        b"true",
        b"[]",
        b"[" + GOOD + b", {}]",
        b'"text"',
        b"{}",
        b'{"success": true}',
        b'{"success": true, "data": null}',
        b'{"success": true, "data": []}',
        b'{"success": true, "data": "s-1"}',
        b'{"success": true, "data": {}}',
        b'{"success": null, "data": {"session_id": "s-1"}}',
        b'{"data": {"session_id": "s-1"}}',
        GOOD[:-1],
        GOOD[:20],
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"success": true, "data": {"session_id": "s-1", "summary": ' + b"9" * 5000 + b"}}",
        "😀".encode("utf-16")[:5],
        b"\xef\xbb\xbf",
        close_body("s-2"),
        close_body("S-1"),
        close_body(None),
        close_body(1),
        close_body(["s-1"]),
        *(close_body(summary=odd) for odd in (1, 0, True, False, ["x"], {"text": "x"}, 1.5)),
        close_body(summary=float("nan")),
        close_body(summary=float("inf")),
    ],
    ids=lambda body: repr(body[:40]),
)
def test_close_answered_with_junk_raises_bad_answer(close, body):
    error = error_of_close(close, http_response(body))
    assert type(error) is OSVIBadAnswer
    assert error.status == 200
    assert not error.retryable


@pytest.mark.parametrize("odd", [1, ["x"], {"a": 1}, False])
def test_close_answered_with_summary_of_wrong_type_raises_bad_answer(osvi, close, odd):
    osvi.add_session("s-1", agent_uuid="agent_1")
    osvi.script("s-1", OddSummary(odd))
    with pytest.raises(OSVIBadAnswer):
        close(osvi.url)


def test_close_answered_204_raises_bad_answer(close):
    error = error_of_close(close, b"HTTP/1.1 204 No Content\r\n\r\n")
    assert (type(error), error.status) == (OSVIBadAnswer, 204)


@pytest.mark.parametrize(
    "body",
    [
        GOOD,
        b"\xef\xbb\xbf" + GOOD,
        GOOD.decode().encode("utf-16"),
        b" \r\n" + GOOD + b"\n",
        close_body(summary="Fine.", success=True, more=[1, {"x": None}], odd=float("nan")),
    ],
    ids=["plain", "with a mark", "utf-16", "spaces", "more of it"],
)
def test_close_answered_with_readable_variant_returns_summary(close, body):
    with RawServer(http_response(body)) as server:
        assert close(server.url) == ClosedSession(session_id="s-1", summary="Fine.")


@pytest.mark.parametrize("kind", ["text/plain", "text/html; charset=latin-1", "nonsense/;;=", ""])
def test_close_with_any_content_type_returns_summary(close, kind):
    with RawServer(close_response(summary="Größe", headers=[("Content-Type", kind)])) as server:
        assert close(server.url).summary == "Größe"


@settings(max_examples=300)
@given(
    status=st.integers(-1, 1000),
    body=st.binary(max_size=200)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.builds(
        lambda success, data: json.dumps({"success": success, "data": data}).encode(),
        st.booleans() | json_values,
        json_values | st.fixed_dictionaries({"session_id": st.just("s-1"), "summary": json_values}),
    ),
    truncated=st.booleans(),
    retry_after=st.none() | st.floats(0, 1000),
)
@example(status=200, body=GOOD, truncated=True, retry_after=None)
@example(status=150, body=GOOD, truncated=False, retry_after=None)
def test_read_closed_with_any_answer_returns_session_or_raises_osvi_error(
    status, body, truncated, retry_after
):
    answer = Answer(status=status, body=body, truncated=truncated, retry_after=retry_after)
    answer.text.encode()
    with contextlib.suppress(OSVIError):
        result = read_closed(answer, "s-1")
        assert isinstance(result, ClosedSession)
        assert not truncated
        assert 200 <= status < 300
        assert result.summary is None or result.summary.strip().encode()
