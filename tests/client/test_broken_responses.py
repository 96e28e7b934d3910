"""Test malformed answers, which are read only if they surely belong to this close."""

from __future__ import annotations

import json
import time

import pytest

from osvi_django.client.responses import (
    Answer,
    ClosedSession,
    is_same_id,
    names_another,
    read_closed,
)
from osvi_django.exceptions import OSVIBadAnswer, OSVIGatewayRefused, OSVINoAnswer, OSVIRejected
from tests.helpers.raw_server import RawServer, close_body, http_response

UUID = "4718a326-417b-4dda-90d0-21fd65a11cb8"
PLAIN = '{"success": true, "data": {"session_id": "s-1", "summary": "%s"}}'
GOOD = (PLAIN % "Fine.").encode()


def read(body, session_id="s-1", status=200, **options):
    body = body.encode() if isinstance(body, str) else body
    return read_closed(Answer(status=status, body=body, **options), session_id)


def json_of(**fields):
    return json.dumps(fields)


# Content


@pytest.mark.parametrize(
    ("body", "charset", "summary"),
    [
        ((PLAIN % "Größe").encode("latin-1"), "", "Größe"),
        ((PLAIN % "Größe").encode("latin-1"), "utf-8", "Größe"),
        ((PLAIN % "“Größe” — 5 €").encode("cp1252"), "", "“Größe” — 5 €"),
        ((PLAIN % "“Größe”").encode("cp1252"), "iso-8859-1", "“Größe”"),
        ((PLAIN % "Größe").encode(), "latin-1", "Größe"),
        ((PLAIN % "Größe").encode(), "no-such-charset", "Größe"),
        ((PLAIN % "Привет").encode("koi8-r"), "KOI8-R", "Привет"),
        ((PLAIN % "Привет").encode("cp1251"), '"windows-1251"', "Привет"),
        ((PLAIN % "東京の客").encode("shift_jis"), "shift_jis", "東京の客"),
        ((PLAIN % "Größe").encode("utf-16-le"), "utf-16le", "Größe"),
        ((PLAIN % "Größe").encode("utf-16"), "", "Größe"),
        ((PLAIN % "Größe \udcff!").encode(errors="surrogateescape"), "", "Größe \ufffd!"),
        ((PLAIN % "Größe \udcff!").encode(errors="surrogateescape"), "utf-8", "Größe \ufffd!"),
        ((PLAIN % "A \udcff byte").encode(errors="surrogateescape"), "", "A \ufffd byte"),
        ((PLAIN % "A \udcc3 byte").encode(errors="surrogateescape"), "ascii", "A Ã byte"),
        ((PLAIN % "A \udc81 byte").encode(errors="surrogateescape"), "ascii", "A \ufffd byte"),
        *((GOOD, odd, "Fine.") for odd in ("idna", "punycode", "utf-7", "undefined", "hex")),
        *((GOOD, odd, "Fine.") for odd in ("unicode_escape", "a" * 99, "os.path", "é", " ", "\0")),
    ],
    ids=repr,
)
def test_summary_in_any_charset_is_decoded(body, charset, summary):
    assert read(body, charset=charset).summary == summary


@pytest.mark.parametrize(
    ("words", "summary"),
    [
        ("a\nb\tc\r\nd", "a\nb\tc\r\nd"),
        ("a\x00b\x1bc", "a\ufffdb\x1bc"),
        (r"\ud83d half", "\ufffd half"),
        (r"He said \"5,\" and left,", 'He said "5," and left,'),
        (r"It\'s in C:\path \u12 \\ \u00e9\x", r"It\'s in C:\path \u12 \ é\x"),
    ],
)
def test_summary_with_raw_control_characters_is_read(words, summary):
    assert read(PLAIN % words).summary == summary


@pytest.mark.parametrize(
    "body",
    [
        GOOD + b",",
        GOOD + b"\x00",
        GOOD + b"\x00\x00\n\x00",
        GOOD + b"x",
        GOOD + b"}}",
        GOOD + b"<!-- 12 ms -->",
        GOOD + GOOD,
        GOOD + b"\n" + close_body("s-2", summary="Another's."),
        GOOD + b'{"x": ',
        b"\x00" + GOOD,
        b"\xef\xbb\xbf\xef\xbb\xbf" + GOOD,
        GOOD[:-2] + b",}}",
        GOOD[:-2] + b", }\n,\x00}",
        GOOD.replace(b'"data"', b'\x00"list": [1, 2,], "data"'),
        GOOD.replace(b'"data"', b'"number": ' + b"9" * 5000 + b', "data"'),
    ],
    ids=repr,
)
def test_answer_with_surplus_text_is_read(body):
    assert read(body) == ClosedSession(session_id="s-1", summary="Fine.")


@pytest.mark.parametrize(
    "junk",
    [
        b")]}',\n",
        b")]}'",
        b"\xef\xbb\xbf)]}',\n\xef\xbb\xbf",
        b"for(;;);",
        b"while(1);",
        b"OK\n",
        b"1f4\r\n",
        b'<br />\n<b>Warning</b>: "x" in a.php on line [3]\n\n',
        b"[27-Nov-2026] PHP Notice: x\n \n",
    ],
    ids=repr,
)
def test_answer_after_junk_is_read(junk):
    assert read(junk + GOOD) == ClosedSession(session_id="s-1", summary="Fine.")
    assert read(junk + b"[" + GOOD[:-2] + b",}}]").summary == "Fine."
    with pytest.raises(OSVIBadAnswer, match="a different chat session"):
        read(junk + GOOD, session_id="s-2")


def test_answer_without_id_after_stray_line_raises_bad_answer():
    unnamed = json_of(success=True, data={"summary": "Fine."})
    assert read(")]}',\n" + unnamed).summary == "Fine."
    with pytest.raises(OSVIBadAnswer):
        read("OK\n" + unnamed)


@pytest.mark.parametrize("success", [True, "true", "True", " TRUE ", 1, "1", "yes", "ok"])
def test_success_in_any_spelling_returns_closed_session(success):
    assert read(json_of(success=success, data={"session_id": "s-1"})).summary is None
    assert read(json_of(success=success, data={"summary": "Fine."})).summary == "Fine."


@pytest.mark.parametrize("success", [False, "false", "False", 0, "0", "no"])
@pytest.mark.parametrize("inside", [False, True])
def test_failure_in_any_spelling_raises_rejected(success, inside):
    data = {"session_id": "s-1", "summary": "Fine."}
    no = {"success": success, "errors": ["Not now"]}
    body = json_of(success=True, data=data | no) if inside else json_of(**no, data=data)
    with pytest.raises(OSVIRejected, match="Not now"):
        read(body)


@pytest.mark.parametrize("error", [{"error": "Not now"}, {"errors": ["Not now"]}])
def test_error_without_success_raises_rejected(error):
    with pytest.raises(OSVIRejected, match="Not now"):
        read(json_of(**error, session_id="s-1", summary="Fine."))


def test_success_with_empty_error_returns_closed_session():
    data = {"session_id": "s-1", "summary": "Fine.", "error": None}
    assert read(json_of(success=True, error="", errors=[], data=data)).summary == "Fine."


@pytest.mark.parametrize(
    "fields",
    [
        {"data": {"session_id": "s-1", "summary": "Fine."}},
        {"success": None, "data": {"session_id": "s-1", "summary": "Fine."}},
        {"session_id": "s-1", "summary": "Fine."},
        {"success": True, "session_id": "s-1", "summary": "Fine."},
        {"success": True, "data": None, "session_id": "s-1", "summary": "Fine."},
        {"success": True, "data": {"data": {"session_id": "s-1", "summary": "Fine."}}},
        {"success": True, "data": {"session_id": "s-1", "data": {"summary": "Fine."}}},
        {"success": True, "data": {"success": True, "data": {"id": "s-1", "summary": "Fine."}}},
        {"success": True, "data": {"id": "s-1", "summary": "Fine.", "status": "closed"}},
        {"success": True, "id": 99, "data": {"session_id": "s-1", "summary": "Fine."}},
        {"success": True, "data": {"id": 99, "session_id": "s-1", "summary": "Fine."}},
        {"success": True, "data": {"session_id": None, "summary": "Fine."}},
        {"success": True, "data": {"sessionId": "s-1", "summary": "Fine."}},
        {"success": True, "data": {"session": {"id": "s-1", "summary": "Fine."}}},
        {"success": True, "data": {"session": {"id": "s-1"}, "summary": "Fine."}},
        {"success": True, "data": {"session": "s-1", "id": "x", "summary": "Fine."}},
        {"success": True, "data": {"session_id": "s-1", "session": {"id": 7, "summary": "Fine."}}},
        {"success": True, "data": {"session_id": "s-1", "summary": "Fine.", "data": "x"}},
        {"success": True, "data": [{"session_id": "s-1", "summary": "Fine."}]},
        {"success": True, "data": [{"id": "s-1", "summary": "Fine."}]},
        {"success": True, "data": {"session": [{"id": "s-1"}], "summary": "Fine."}},
    ],
    ids=repr,
)
def test_fields_at_any_level_are_read(fields):
    assert read(json_of(**fields)).summary == "Fine."


# Session ids


@pytest.mark.parametrize(
    ("named", "session_id"),
    [
        ("s-1", "s-1"),
        (" s-1\n", "s-1"),
        (7, "7"),
        (UUID.upper(), UUID),
        (UUID, UUID.upper()),
        (UUID.replace("-", ""), UUID),
        (f" {UUID.upper()} ", UUID),
    ],
)
def test_session_id_in_other_spelling_is_accepted(named, session_id):
    assert is_same_id(named, session_id)
    body = json_of(success=True, data={"session_id": named, "summary": "Fine."})
    found = read(body, session_id)
    assert (found.session_id, found.summary) == (session_id, "Fine.")


@pytest.mark.parametrize(
    ("named", "session_id"),
    [
        ("s-2", "s-1"),
        ("S-1", "s-1"),
        ("s-1", "s-1 "),
        (1, "True"),
        (True, "1"),
        (True, "True"),
        (1.0, "1.0"),
        (7, "07"),
        (["s-1"], "s-1"),
        ({"id": "s-1"}, "s-1"),
        (UUID[:-1] + "9", UUID),
        (UUID, "s-1"),
    ],
)
@pytest.mark.parametrize("key", ["session_id", "chat_session_id", "SessionId", "id"])
def test_different_session_id_raises_bad_answer(named, session_id, key):
    answer = Answer(
        status=200,
        body=json_of(success=True, data={key: named, "summary": "Fine."}).encode(),
    )
    with pytest.raises(OSVIBadAnswer, match="a different chat session"):
        read_closed(answer, session_id)
    assert names_another(answer, session_id)


@pytest.mark.parametrize(
    "body",
    [
        json_of(success=True, session_id="s-2", data={"session_id": "s-1", "summary": "Fine."}),
        json_of(success=True, data={"session_id": "s-1", "data": {"session_id": "s-2"}}),
        json_of(success=True, data={"session_id": "s-1", "chat_session_id": "s-2"}),
        json_of(success=True, data={"session_id": "s-1", "sessionId": "s-2", "summary": "x"}),
        json_of(success=True, data={"session": {"id": "s-2"}, "summary": "x"}),
        json_of(success=True, data={"session": {"id": 7}, "summary": "x"}),
        json_of(success=True, data={"session": "s-2", "summary": "x"}),
        json_of(success=True, data={"session": ["s-2"], "summary": "x"}),
        json_of(success=True, session={"id": "s-2"}, data={"session_id": "s-1", "summary": "x"}),
        json_of(success=True, data={"session_id": "s-1", "session": {"status": "active"}}),
        '{"success": true, "data": {"sessionId": "s-2", "sessionId": "s-1", "summary": "x"}}',
        '{"success": true, "data": {"session_id": "s-2", "session_id": "s-1", "summary": "x"}}',
        '{"success": true, "data": {"session_id": "s-1", "summary": "x", "summary": "y"}}',
        '{"success": false, "success": true, "data": {"session_id": "s-1", "summary": "x"}}',
        '{"success": true, "data": {"summary": "x"}, "data": {"session_id": "s-1"}}',
        json_of(success=True, data={"session_id": "s-1", "summary": "x", "data": {"summary": "y"}}),
        json_of(success=True, data={"session_id": "s-1", "summary": "x", "data": {"summary": 1}}),
        json_of(success=True, data={"session_id": "s-1", "status": "active"}),
        json_of(success=True, data={"session_id": "s-1", "command": "takeover", "state": "ok"}),
        json_of(success=True, data=[{"session_id": "s-2", "summary": "x"}]),
        json_of(success=True, data=[{"id": "s-2", "summary": "x"}]),
        json_of(success=True, data=[{"session_id": "s-1", "summary": "x"}, {}]),
        json_of(success=True, data={"session": [{"id": "s-2"}], "summary": "x"}),
        json_of(data={"session_id": "s-1"}),
        json_of(data={"summary": "Fine."}),
        json_of(summary="Fine."),
        json_of(success="maybe", data={"summary": "Fine."}),
        # An answer without an id is accepted only if nothing else is odd.
        json_of(success=True, data={"summary": "Fine."}) + "{}",
        # Both objects are answers, and only the second has the summary.
        json_of(success=True, data={"session_id": "s-1"}) + GOOD.decode(),
        "x" + GOOD.decode(),
        "{}\n" + GOOD.decode(),
        "x {\n" + GOOD.decode(),
        "x\n" * 10 + GOOD.decode(),
        '["x", {}]\n' + GOOD.decode(),
        f"[{GOOD.decode()}, {GOOD.decode()}]",
        '{"success": true, "data": {"session_id": "s-1", "summary": "Half of',
        '{"success": true, "data": {"session_id": "s-1", "summary": "Half of" ',
    ],
)
def test_ambiguous_answer_raises_bad_answer(body):
    with pytest.raises(OSVIBadAnswer):
        read(body)


def test_repeated_equal_fields_are_read():
    body = '{"success": true, "success": true, "data": {"session_id": "s-1", "summary": "x"}}'
    assert read(body).summary == "x"
    assert (
        read(body.replace('"summary"', '"summary": "x", "x": 1, "x": 2, "summary"')).summary == "x"
    )


# Incomplete answers


def test_incomplete_answer_with_complete_object_is_read():
    assert read(GOOD, incomplete=True).summary == "Fine."
    assert read(GOOD + b"\x1f\x8b", incomplete=True).summary == "Fine."


@pytest.mark.parametrize("status", [200, 201, 400, 404, 409, 422])
@pytest.mark.parametrize("body", [GOOD[:-1], GOOD[:40], b"", b'{"success": false, "errors": ["No'])
def test_incomplete_answer_with_partial_object_raises_no_answer(body, status):
    with pytest.raises(OSVINoAnswer) as caught:
        read(body, status=status, incomplete=True)
    assert caught.value.status == status


@pytest.mark.parametrize("data", [{"summary": "Fine."}, {"session_id": "s-1"}])
def test_incomplete_answer_without_id_or_summary_raises_no_answer(data):
    with pytest.raises(OSVINoAnswer):
        read(json_of(success=True, data=data), incomplete=True)


def test_incomplete_answer_with_complete_refusal_raises_rejected():
    with pytest.raises(OSVIRejected, match="No"):
        read(json_of(success=False, errors=["No"]), status=422, incomplete=True)


def test_truncated_answer_raises_bad_answer():
    with pytest.raises(OSVIBadAnswer):
        read(GOOD, truncated=True)


# Answers of a gateway


@pytest.mark.parametrize("status", [400, 403, 404, 405, 407, 408, 409, 413, 418, 422, 451, 499])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Blocked</html>",
        b"{}",
        b"[]",
        b'"no"',
        b'{"message": "Forbidden"}',
        b'{"detail": "Not Found"}',
        b'{"error": "forbidden"}',
        b'{"success": null, "errors": ["x"]}',
    ],
)
def test_4xx_without_envelope_of_osvi_raises_gateway_refused(close, status, body):
    with (
        RawServer(http_response(body, status=status)) as server,
        pytest.raises(OSVIGatewayRefused) as found,
    ):
        close(server.url)
    error = found.value
    assert (error.status, error.reason, error.retryable) == (status, "", True)
    assert f"(HTTP {status})" in str(error)
    assert not isinstance(error, OSVIRejected)


@pytest.mark.parametrize("success", [False, "false", 0])
def test_4xx_with_envelope_of_osvi_raises_rejected(success):
    with pytest.raises(OSVIRejected, match="No"):
        read(json_of(success=success, errors=["No"]), status=403)


# Time


@pytest.mark.parametrize(
    "body",
    [
        '{"a": "' + r"\"" * 500_000,
        '{"a": "' + "\\" * 1_000_001,
        '{"a": [' + ", " * 900_000,
        '"' * 1_000_000,
        "," + " " * 1_900_000,
        "x\n" + " " * 1_900_000,
        "\n".join(["x" * 999] * 1_900),
        "x\n)" + "\n" * 1_900_000 + "[",
    ],
    ids=lambda body: body[:12],
)
def test_hostile_body_is_read_in_bounded_time(body):
    began = time.thread_time()  # processor time, as other processes may run too
    with pytest.raises(OSVIBadAnswer):
        read(body)
    assert time.thread_time() - began < 5


def test_envelope_in_array_of_one_returns_summary():
    body = b'[{"success": true, "data": {"session_id": "s-1", "summary": "All is well."}}]'
    assert read_closed(Answer(status=200, body=body), "s-1").summary == "All is well."


def test_envelope_in_array_of_several_raises_bad_answer():
    body = b'[{"success": true, "data": {"session_id": "s-1", "summary": "All is well."}}, {}]'
    with pytest.raises(OSVIBadAnswer):
        read_closed(Answer(status=200, body=body), "s-1")
