"""Test that each call reads its own answer, and no part of another one."""

from __future__ import annotations

import gc
import ssl
import threading
import time

import pytest

from osvi_django.client import OSVIClient
from osvi_django.client.connections import MAX_INTERIM
from osvi_django.exceptions import OSVIBadAnswer, OSVIError, OSVINoAnswer
from tests.helpers.raw_server import (
    RawServer,
    chunked_response,
    close_body,
    close_response,
    http_response,
)

PROCESSING = b"HTTP/1.1 102 Processing\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nX: y\r\n\r\n"
OTHER = close_response("s-9", "Somebody else's.")
OWN = close_response("s-1", "Own.")


def in_pieces(*pieces, pause=0.03):
    def play(call):
        for piece in pieces:
            call.send(piece)
            call.pause(pause)

    return play


def raw(head, body=b""):
    return b"HTTP/1.1 %s\r\n\r\n" % head + body


@pytest.fixture
def close_twice(make_client):
    """Close two sessions in a row; return the summary or error of each, and the server."""

    def _close_twice(*replies, pause=0.1, **options):
        with RawServer(*replies) as server:
            client = make_client(server.url, **{"deadline": 2, **options})
            ends = []
            for session_id in ("s-1", "s-2"):
                try:
                    summary = client.close_session(session_id, agent_uuid="a").summary
                except OSVIError as error:
                    ends.append(type(error))
                else:
                    ends.append(summary)
                time.sleep(pause)
        return ends, server

    return _close_twice


# Informational responses

INTERIM = {
    "102": PROCESSING + OWN,
    "103": HINTS + OWN,
    "100": b"HTTP/1.1 100 Continue\r\n\r\n" + OWN,
    "unknown": b"HTTP/1.1 199 Odd\r\nContent-Length: 7\r\n\r\n" + OWN,
    "several": (PROCESSING + HINTS + b"HTTP/1.1 100 C\r\n\r\n") * 3 + OWN,
    "that says close": b"HTTP/1.1 103 X\r\nConnection: close\r\n\r\n" + OWN,
    "that says chunked": b"HTTP/1.1 103 X\r\nTransfer-Encoding: chunked\r\n\r\n" + OWN,
    "http 1.0": b"HTTP/1.0 102 X\r\n\r\n" + OWN,
    "packet of its own": in_pieces(PROCESSING, OWN),
    "split": in_pieces(PROCESSING[:9], PROCESSING[9:24], PROCESSING[24:] + OWN[:20], OWN[20:]),
    "before chunks": HINTS + chunked_response(close_body(summary="Own.")),
}


@pytest.mark.parametrize("reply", INTERIM.values(), ids=INTERIM)
def test_informational_response_before_answer_is_skipped(close_twice, reply):
    ends, server = close_twice(reply, close_response("s-2", "Two."))
    assert ends == ["Own.", "Two."]
    assert (server.connections, len(server.calls)) == (1, 2)


@pytest.mark.parametrize("reply", [PROCESSING, HINTS, PROCESSING * 3], ids=["102", "103", "many"])
def test_informational_response_before_hang_up_raises_no_answer(close_twice, reply):
    def play(call):
        call.send(reply)
        call.hang_up()

    ends, server = close_twice(play, close_response("s-2", "Two."))
    assert ends == [OSVINoAnswer, "Two."]
    assert len(server.calls) == 2


def test_informational_response_before_silence_raises_no_answer(close_twice):
    ends, server = close_twice(PROCESSING, close_response("s-2", "Two."), read_timeout=1)
    assert ends == [OSVINoAnswer, "Two."]
    assert server.connections == 2


def test_endless_informational_responses_raise_no_answer(close_twice):
    ends, server = close_twice(HINTS * (MAX_INTERIM + 1) + OWN, close_response("s-2", "Two."))
    assert ends == [OSVINoAnswer, "Two."]
    assert server.connections == 2


def test_protocol_switch_raises_bad_answer_and_ends_connection(close_twice):
    reply = raw(b"101 Switching\r\nUpgrade: h2c\r\nConnection: upgrade", OWN)
    ends, server = close_twice(reply, close_response("s-2", "Two."))
    assert ends == [OSVIBadAnswer, "Two."]
    assert server.connections == 2


# A connection is reused only after one complete, regular answer

OWN_BODY = close_body(summary="Own.")
LENGTH = b"Content-Length: %d" % len(OWN_BODY)
ODD_BUT_READ = {
    "rest": OWN + b"HTTP/1.1 200",
    "one byte": OWN + b"\n",
    "second answer": OWN + OTHER,
    "second answer after chunks": chunked_response(OWN_BODY) + OTHER,
    "second answer in a packet of its own": in_pieces(OWN, OTHER),
    "second answer soon": in_pieces(OWN, OTHER, pause=0.05),
    "equal lengths": raw(b"200 X\r\n%s\r\n%s" % (LENGTH, LENGTH), OWN_BODY),
    "length and chunks": chunked_response(OWN_BODY, headers=[("Content-Length", "9")]),
    "chunked twice": chunked_response(OWN_BODY, headers=[("Transfer-Encoding", "chunked")]),
    "length with a sign": raw(b"200 X\r\nContent-Length: +%d" % len(OWN_BODY), OWN_BODY),
    "identity": raw(b"200 X\r\nTransfer-Encoding: identity\r\n" + LENGTH, OWN_BODY),
    "line that is no header": raw(b"200 X\r\n%s\r\njunk" % LENGTH, OWN_BODY),
    "says close": close_response(summary="Own.", headers=[("Connection", "close")]),
    "http 1.0": b"HTTP/1.0" + OWN[8:],
    "http 1.0 that stays": b"HTTP/1.0"
    + close_response(headers=[("Connection", "keep-alive")], summary="Own.")[8:],
    "odd status": close_response(summary="Own.", status=299),
}


@pytest.mark.parametrize("reply", ODD_BUT_READ.values(), ids=ODD_BUT_READ)
def test_odd_answer_is_read_and_connection_is_not_reused(close_twice, reply):
    ends, server = close_twice(reply, close_response("s-2", "Two."))
    assert ends == ["Own.", "Two."]
    assert (server.connections, len(server.calls)) == (2, 2)


@pytest.mark.parametrize("first", [0, 5])
def test_different_content_lengths_keep_all_received_bytes(make_client, first):
    reply = raw(b"200 X\r\nContent-Length: %d\r\n%s" % (first, LENGTH), OWN_BODY)
    with RawServer(reply, close_response("s-2", "Two.")) as server:
        client = make_client(server.url)
        answer = client.send_close("s-1", agent_uuid="a")
        assert client.close_session("s-2", agent_uuid="a").summary == "Two."
    assert answer.body == OWN_BODY
    assert server.connections == 2


@pytest.mark.parametrize("lengths", [("x", "y"), ("9", "-1"), ("7, 7", "0")])
def test_invalid_content_lengths_do_not_affect_next_call(close_twice, lengths):
    def play(call):
        call.send(http_response(OWN_BODY, headers=[("Content-Length", each) for each in lengths]))
        call.hang_up()

    ends, server = close_twice(play, close_response("s-2", "Two."))
    assert ends[1] == "Two."
    assert server.connections == 2


def test_content_lengths_without_a_number_read_to_the_end(close_twice):
    def play(call):
        call.send(raw(b"200 X\r\nContent-Length: x\r\nContent-Length: -7", OWN_BODY))
        call.hang_up()

    ends, server = close_twice(play, close_response("s-2", "Two."))
    assert ends == ["Own.", "Two."]
    assert server.connections == 2


BROKEN = {
    "204 with a body": http_response(close_body("s-9"), status=204),
    "304 with a body": http_response(close_body("s-9"), status=304),
    "204 with two lengths": raw(b"204 X\r\n%s\r\nContent-Length: 5" % LENGTH, OWN_BODY),
    "205 with an answer behind it": http_response(status=205) + OTHER,
    "404 with an answer behind it": http_response(b"{}", status=404) + OTHER,
    "302": http_response(b"", status=302, headers=[("Location", "/")]),
    "408": http_response(b"", status=408),
    "shorter than declared": in_pieces(http_response(OWN_BODY, length=len(OWN_BODY) + 5)),
    "longer than declared": http_response(OWN_BODY, length=len(OWN_BODY) - 5),
    "chunk shorter than declared": raw(
        b"200 X\r\nTransfer-Encoding: chunked", b"999\r\n" + OWN_BODY + b"\r\n0\r\n\r\n"
    ),
    "negative chunk": raw(b"200 X\r\nTransfer-Encoding: chunked", b"-5\r\n" + OWN_BODY),
    "two codings": raw(b"200 X\r\nTransfer-Encoding: gzip, chunked", b"1\r\n{\r\n0\r\n\r\n"),
    "garbage": b"garbage\r\n\r\n" + OTHER,
    "empty line first": b"\r\n" + OWN,
}


@pytest.mark.parametrize("reply", BROKEN.values(), ids=BROKEN)
def test_broken_answer_does_not_affect_next_call(close_twice, reply):
    ends, server = close_twice(reply, close_response("s-2", "Two."), read_timeout=1)
    assert isinstance(ends[0], type) or ends[0] == "Own."  # the complete summary may have arrived
    assert ends[1] == "Two."
    assert (server.connections, len(server.calls)) == (2, 2)


def test_late_second_answer_is_noticed_before_next_call(close_twice):
    def play(call):
        call.send(OWN)
        call.pause(0.05)
        call.send(OTHER)

    ends, server = close_twice(play, close_response("s-2", "Two."), pause=0.3)
    assert ends == ["Own.", "Two."]
    assert server.connections == 2


def test_surplus_bytes_in_tls_record_are_noticed_before_next_call(
    close_twice, tls, certificate, monkeypatch
):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    big = close_response("s-1", "Own.".ljust(10_000))
    with RawServer(big + OTHER.ljust(6000), close_response("s-2", "Two."), context=tls) as server:
        client = close_client(server)
        assert client.close_session("s-1", agent_uuid="a").summary == "Own."
        assert client.close_session("s-2", agent_uuid="a").summary == "Two."
    assert server.connections == 2


def test_regular_answers_over_tls_reuse_connection(tls, certificate, monkeypatch):
    tls.maximum_version = ssl.TLSVersion.TLSv1_2  # a ticket of TLS 1.3 may come at any time
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    with RawServer(context=tls) as server:
        client = close_client(server)
        for _each in range(3):
            assert client.close_session("s-1", agent_uuid="a").summary == "Fine."
    assert server.connections == 1


def close_client(server):
    return OSVIClient(token="sandbox-token-16", base_url=server.url, deadline=5)


def test_odd_answers_to_several_threads_are_never_mixed_up(make_client):
    """Answer each call correctly, with odd bytes around the answer."""
    oddities = [b"%s", PROCESSING + b"%s", HINTS * 2 + b"%s", b"%s" + OTHER, b"%s\r\n", b"%s" * 2]

    def play(call):
        session_id = call.target.split("/")[2]
        number = int(session_id.rpartition("-")[2])
        answer = close_response(session_id, f"Of {session_id}.")
        odd = oddities[number % len(oddities)]
        call.send(odd.replace(b"%s", answer))

    wrong = []

    def work(name, url):
        client = make_client(url, deadline=9, read_timeout=9)
        for number in range(30):
            session_id = f"{name}-{number}"
            found = client.close_session(session_id, agent_uuid="a")
            if found.summary != f"Of {session_id}.":
                wrong.append((session_id, found.summary))

    with RawServer(play) as server:
        threads = [threading.Thread(target=work, args=(f"t{n}", server.url)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        gc.collect()
    assert len(server.calls) == 120
    assert wrong == []


# Answers without a session id

UNNAMED = http_response(b'{"success": true, "data": {"summary": "Whose?"}}')


def test_answer_without_id_on_reused_connection_raises_no_answer(close_twice):
    """The answer may belong to the first call and have arrived during the second."""
    ends, server = close_twice(close_response("s-1", "Own."), UNNAMED)
    assert ends == ["Own.", OSVINoAnswer]
    assert len(server.calls) == 2


def test_answer_without_id_in_other_encoding_on_reused_connection_raises(close_twice):
    text = '{\n "success": true, "data": {"summary": "Whose?"}}'
    for coding in ("utf-16", "cp037"):
        body = text.encode(coding)
        typed = [("Content-Type", f"application/json; charset={coding}")]
        ends, _server = close_twice(
            close_response("s-1", "Own."), http_response(body, headers=typed)
        )
        assert ends == ["Own.", OSVINoAnswer]


def test_html_page_on_reused_connection_raises_bad_answer(close_twice):
    page = http_response(b"<html><style>p {color: red}</style>")
    ends, server = close_twice(close_response("s-1", "Own."), page)
    assert ends == ["Own.", OSVIBadAnswer]
    assert server.connections == 1


def test_answers_without_ids_on_new_connections_are_read(close_twice):
    ends, _server = close_twice(UNNAMED, UNNAMED)
    assert ends == ["Whose?", "Whose?"]


def test_answer_of_earlier_call_fails_one_call_and_ends_connection(make_client):
    """Reject an answer for another session without waiting for our own.

    Our own answer may never come, and the caller would wait until the deadline. As it may still
    come, no other call may use this connection.
    """
    last = {}

    def play(call):
        """Answer each call with the answer to the previous call on its connection."""
        session_id = call.target.split("/")[2]
        answered = last.get(call.sock, session_id)
        call.send(close_response(answered, f"Of {answered}."))
        last[call.sock] = session_id

    ends = []
    with RawServer(play) as server:
        client = make_client(server.url, deadline=2)
        for session_id in ("s-1", "s-2", "s-3", "s-4"):
            try:
                ends.append(client.close_session(session_id, agent_uuid="a").summary)
            except OSVIBadAnswer as error:
                ends.append(str(error) == OSVIBadAnswer.another)
    assert ends == ["Of s-1.", True, "Of s-3.", True]
    assert (server.connections, len(server.calls)) == (2, 4)


ACTS = {
    "tell": lambda client: client.support("s-2", command="tell", message="Hello."),
    "context": lambda client: client.inject_context("s-2", "x"),
    "pause": lambda client: client.pause_legacy_session("s-2", agent_uuid="a"),
    "message": lambda client: client.send_legacy_message("s-2", agent_uuid="a", message="Hello."),
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_call_answered_for_other_session_ends_connection(make_client, act):
    with RawServer(
        close_response("s-1"), close_response("s-1"), close_response("s-3", "Three.")
    ) as server:
        client = make_client(server.url, deadline=2)
        client.close_session("s-1", agent_uuid="a")
        with pytest.raises(OSVIBadAnswer, match="a different chat session"):
            act(client)
        assert client.close_session("s-3", agent_uuid="a").summary == "Three."
    assert server.connections == 2


def test_reply_without_id_on_reused_connection_raises_no_answer(make_client):
    reply = http_response(b'{"success": true, "data": {"reply": "Whose?", "state": "ok"}}')
    own = close_response("s-1", "Own.")
    with RawServer(own, reply, own, reply) as server:
        client = make_client(server.url, deadline=2)
        client.close_session("s-1", agent_uuid="a")
        with pytest.raises(OSVINoAnswer):
            client.support("s-2", command="tell", message="Hello.")
        client.close_session("s-1", agent_uuid="a")
        with pytest.raises(OSVINoAnswer):
            client.inbound(agent_uuid="a", customer_id="+1", content="Hi.", session_id="s-2")
