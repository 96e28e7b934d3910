"""Test what each fault of the sandbox sends, and what it does to the session."""

import gzip
import http.client
import json
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from osvi_django.testing import MISSING, Drip, Drop, Hang, Junk, OddSummary, Redirect, Status
from tests.helpers.waiting import wait_until
from tests.testing.test_sandbox import send_close


def read_until_silent(sock):
    try:
        while True:
            yield sock.recv(8192)
    except TimeoutError:
        return


class TestScript:
    def test_script_plays_faults_in_order_and_then_answers_normally(self, osvi, client, chat):
        osvi.script(chat.id, Status(429), Status(503))
        osvi.script(chat.id, Status(500))
        statuses = [client.close(chat).status_code for _ in range(4)]
        assert statuses == [429, 503, 500, 200]
        assert (osvi.closes(chat.id), osvi.close_requests(chat.id)) == (1, 4)

    def test_script_for_one_session_does_not_affect_others(self, osvi, client, chat):
        osvi.script(chat.id, Status(500))
        assert client.close(osvi.add_session()).status_code == 200
        assert client.close(chat).status_code == 500

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("/chat_messages/send_message", {"chat_session_id": "s-1", "message": "Hi"}),
            ("/chat_sessions/s-1/pause_session", {}),
            ("/chat_sessions/s-1/close_session", {}),
            ("/v1/chat/inbound", {"session_id": "s-1", "customer_id": "+1", "content": "Hi"}),
            ("/v1/chat/session/s-1/inject_context", {"context": "a"}),
            ("/v1/chat/session/s-1/support", {"command": "takeover"}),
        ],
    )
    def test_script_for_session_applies_to_any_call_that_names_it(self, osvi, client, path, body):
        chat = osvi.add_session("s-1", customer_id="+1")
        before = chat.as_json()
        osvi.script("s-1", Status(503))
        body = {"agent_uuid": chat.agent_uuid, **body}
        assert client.post(path, **body).status_code == 503
        assert (chat.as_json(), chat.messages) == (before, [])
        assert client.post(path, **body).status_code == 200

    def test_script_for_none_applies_to_calls_without_session(self, osvi, client, chat):
        osvi.script(None, Status(500))
        query = {"customer_id": chat.customer_id, "agent_uuid": chat.agent_uuid}
        assert client.close(osvi.add_session()).status_code == 200
        assert client.get("/v1/chat/session/active", **query).status_code == 500
        assert client.get("/v1/chat/session/active", **query).status_code == 200

    def test_close_with_wrong_token_and_closing_fault_closes_nothing(self, osvi, client, chat):
        osvi.script(chat.id, Status(500, close=True))
        assert client.close(chat, token="wrong-token-1234").status_code == 500
        assert chat.status == "active"


class TestStatus:
    @pytest.mark.parametrize(
        ("fault", "body"),
        [
            (Status(500), {"success": False, "errors": ["Internal Server Error"]}),
            (Status(599), {"success": False, "errors": ["599"]}),
            (Status(401, error="Bad"), {"success": False, "error": "Bad"}),
            (Status(422, errors=("a", "b")), {"success": False, "errors": ["a", "b"]}),
            (Status(200), {"success": True, "data": {}}),
            (Status(200, error="No"), {"success": False, "error": "No"}),
        ],
    )
    def test_status_answers_with_envelope_of_osvi(self, osvi, client, chat, fault, body):
        osvi.script(chat.id, fault)
        answer = client.close(chat)
        assert (answer.status_code, answer.json()) == (fault.code, body)
        assert "Retry-After" not in answer.headers
        assert (chat.status, osvi.answered_summaries) == ("active", {})

    def test_status_with_body_answers_with_raw_body(self, osvi, client, chat):
        osvi.script(chat.id, Status(502, body=b"<html>Bad gateway"))
        assert client.close(chat).content == b"<html>Bad gateway"

    @pytest.mark.parametrize("code", [204, 304])
    def test_status_without_body_keeps_connection(self, osvi, chat, code):
        osvi.script(chat.id, Status(code))
        connection = http.client.HTTPConnection("127.0.0.1", osvi.port, timeout=5)
        for status in (code, 200):
            send_close(connection, osvi, chat)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == status
        connection.close()

    @pytest.mark.parametrize("value", [3, "Wed, 21 Oct 2026 07:28:00 GMT", "soon"])
    def test_status_with_retry_after_sends_header(self, osvi, client, chat, value):
        osvi.script(chat.id, Status(429, retry_after=value))
        assert client.close(chat).headers["Retry-After"] == str(value)

    def test_status_with_close_closes_session_first(self, osvi, client, chat):
        osvi.script(chat.id, Status(500, close=True))
        assert client.close(chat).status_code == 500
        assert (chat.status, osvi.closes(chat.id), osvi.answered_summaries) == ("closed", 1, {})


class TestDrop:
    @pytest.mark.parametrize(("after_closing", "status"), [(False, "active"), (True, "closed")])
    def test_drop_ends_connection_without_answer(self, osvi, chat, after_closing, status):
        osvi.script(chat.id, Drop(after_closing=after_closing))
        connection = http.client.HTTPConnection("127.0.0.1", osvi.port, timeout=5)
        send_close(connection, osvi, chat)
        with pytest.raises(http.client.RemoteDisconnected):
            connection.getresponse()
        connection.close()
        assert (chat.status, osvi.answered_summaries) == (status, {})

    def test_drop_with_reset_resets_connection(self, osvi, chat):
        osvi.script(chat.id, Drop(reset=True))
        connection = http.client.HTTPConnection("127.0.0.1", osvi.port, timeout=5)
        send_close(connection, osvi, chat)
        with pytest.raises(ConnectionResetError) as caught:
            connection.getresponse()
        connection.close()
        assert not isinstance(caught.value, http.client.RemoteDisconnected)


class TestHang:
    @pytest.mark.parametrize(("after_closing", "status"), [(False, "active"), (True, "closed")])
    def test_hang_sends_nothing_until_client_times_out(
        self, osvi, client, chat, after_closing, status
    ):
        osvi.script(chat.id, Hang(after_closing=after_closing))
        with pytest.raises(requests.ReadTimeout):
            client.close(chat, timeout=0.1)
        assert (chat.status, osvi.answered_summaries) == (status, {})

    def test_hang_with_seconds_ends_without_answer(self, osvi, client, chat):
        osvi.script(chat.id, Hang(seconds=0.1))
        started = time.monotonic()
        with pytest.raises(requests.ConnectionError, match="without response"):
            client.close(chat)
        assert time.monotonic() - started >= 0.1


class TestDrip:
    @pytest.mark.parametrize("part", ["body", "headers"])
    def test_drip_sends_correct_answer_slowly(self, osvi, client, chat, part):
        osvi.script(chat.id, Drip(part, interval=0.001))
        started = time.monotonic()
        answer = client.close(chat)
        assert time.monotonic() - started > 0.08
        assert answer.json()["data"] == {"session_id": chat.id, "summary": chat.summary}
        assert osvi.answered_summaries == {chat.id: chat.summary}

    @pytest.mark.parametrize(("part", "first"), [("headers", b"H"), ("body", None)])
    def test_drip_of_part_sends_only_that_part_slowly(self, osvi, chat, part, first):
        osvi.script(chat.id, Drip(part, interval=60))
        connection = http.client.HTTPConnection("127.0.0.1", osvi.port, timeout=0.2)
        send_close(connection, osvi, chat)
        wait_until(lambda: osvi.closes(chat.id))
        seen = b"".join(read_until_silent(connection.sock))
        connection.close()
        assert seen == first or (first is None and seen.endswith(b"\r\n\r\n{"))
        assert osvi.answered_summaries == {}

    def test_drip_does_not_exceed_read_timeout_of_client(self, osvi, client, chat):
        osvi.script(chat.id, Drip(interval=0.02))
        started = time.monotonic()
        assert client.close(chat, timeout=1).ok
        assert time.monotonic() - started > 1

    def test_drip_without_close_leaves_session_open(self, osvi, client, chat):
        osvi.script(chat.id, Drip(interval=0.001, close=False))
        answer = client.close(chat)
        assert (answer.status_code, chat.status) == (503, "active")

    def test_drip_ends_when_client_disconnects(self, osvi, chat, monkeypatch):
        osvi.script(chat.id, Drip(interval=0.01))
        ended = []
        monkeypatch.setattr(osvi._server, "handle_error", lambda *args: ended.append(args))
        connection = http.client.HTTPConnection("127.0.0.1", osvi.port, timeout=5)
        send_close(connection, osvi, chat)
        wait_until(lambda: osvi.closes(chat.id))
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        wait_until(lambda: ended)
        assert osvi.answered_summaries == {}

    def test_drip_ends_when_sandbox_stops(self, osvi, client, chat):
        osvi.script(chat.id, Drip(interval=60))
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(client.close, chat)
            wait_until(lambda: osvi.closes(chat.id))
            started = time.monotonic()
            osvi.stop()
            assert isinstance(answer.exception(timeout=5), requests.RequestException)
        assert time.monotonic() - started < 10


class TestJunk:
    def test_junk_by_default_is_html_page_with_status_200(self, osvi, client, chat):
        osvi.script(chat.id, Junk())
        answer = client.close(chat)
        assert (answer.status_code, answer.content) == (200, b"<html>")
        assert answer.headers["Content-Type"] == "text/html"
        assert (chat.status, osvi.answered_summaries) == ("closed", {})

    def test_junk_with_encoding_sets_header_without_encoding_body(self, osvi, client, chat):
        osvi.script(chat.id, Junk(gzip.compress(b"x" * 1000), encoding="gzip"))
        assert client.close(chat).content == b"x" * 1000
        osvi.script(chat.id, Junk(b"plain", encoding="gzip", close=False))
        with pytest.raises(requests.exceptions.ContentDecodingError):
            client.close(chat)

    def test_junk_without_close_leaves_session_open(self, osvi, client, chat):
        osvi.script(chat.id, Junk(status=502, close=False))
        assert client.close(chat).status_code == 502
        assert chat.status == "active"


class TestRedirect:
    @pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
    def test_redirect_sends_location_and_leaves_session_open(self, osvi, client, chat, code):
        osvi.script(chat.id, Redirect("http://127.0.0.1:9/", code=code))
        answer = client.close(chat)
        assert (answer.status_code, answer.headers["Location"]) == (code, "http://127.0.0.1:9/")
        assert chat.status == "active"

    def test_redirect_with_close_closes_session_first(self, osvi, client, chat):
        osvi.script(chat.id, Redirect("/elsewhere", close=True))
        assert client.close(chat).status_code == 302
        assert chat.status == "closed"


class TestOddSummary:
    @pytest.mark.parametrize("value", [None, 42, "", ["a"], {"text": "a"}, True])
    def test_odd_summary_sends_value_as_summary(self, osvi, client, chat, value):
        osvi.script(chat.id, OddSummary(value))
        data = client.close(chat).json()["data"]
        assert data == {"session_id": chat.id, "summary": value}
        assert (chat.status, osvi.answered_summaries) == ("closed", {})

    def test_odd_summary_missing_sends_no_summary_key(self, osvi, client, chat):
        osvi.script(chat.id, OddSummary(MISSING))
        assert client.close(chat).json()["data"] == {"session_id": chat.id}

    def test_odd_summary_text_is_recorded_as_answered(self, osvi, client, chat):
        osvi.script(chat.id, OddSummary("a\u0000b"))
        client.close(chat)
        assert osvi.answered_summaries == {chat.id: "a\u0000b"}

    def test_odd_summary_with_lone_surrogate_is_sent_unchanged(self, osvi, client, chat):
        osvi.script(chat.id, OddSummary("a\ud800"))
        assert json.loads(client.close(chat).content)["data"]["summary"] == "a\ud800"

    def test_odd_summary_does_not_change_refusal(self, osvi, client, chat):
        osvi.script(chat.id, OddSummary(42))
        answer = client.close(chat, token="wrong-token-1234")
        assert answer.json() == {"success": False, "error": "Invalid API token"}
