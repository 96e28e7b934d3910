"""Test that the sandbox answers as OSVI does, in both dialects, and records requests."""

import http.client
import json
import logging
import socket
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import requests
import yaml
from jsonschema import Draft202012Validator

from osvi_django import testing
from osvi_django.testing import MISSING, Fault, Hang, OSVISandbox, Status
from osvi_django.testing.conversations import CONVERSATIONS
from tests.helpers.waiting import wait_until

VENDOR_PAGE = Path(__file__).parent.parent / "vendor" / "end_chat_session.yaml"
STOP_TIME_LIMIT = 10  # seconds, much less than the minute for which connections hang
SESSION_KEYS = {
    "id", "chat_agent_id", "account_id", "customer_id", "mode", "help_requested", "status",
    "current_state", "metadata", "active_human", "created_at", "updated_at",
}  # fmt: skip


def vendor_schema(status):
    """Return the vendor's schema of a close answer, with every property required."""
    page = yaml.safe_load(VENDOR_PAGE.read_text())
    operation = page["paths"]["/chat_sessions/{id}/close_session"]["post"]
    schema = operation["responses"][status]["content"]["application/json"]["schema"]
    if "$ref" in schema:
        schema = page["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return strict(schema)


def strict(schema):
    if schema["type"] != "object":
        return schema
    properties = {name: strict(value) for name, value in schema["properties"].items()}
    whole = {"required": list(properties), "additionalProperties": False}
    return {**schema, **whole, "properties": properties}


def assert_valid(answer, status):
    assert answer.status_code == int(status)
    Draft202012Validator(vendor_schema(status)).validate(answer.json())


def assert_refused(answer, status, *errors):
    """Check for an error in OSVI's envelope, with any status but 401."""
    assert (answer.status_code, answer.json()) == (
        status,
        {"success": False, "errors": list(errors)},
    )


def data_of(answer):
    assert answer.status_code == 200
    envelope = answer.json()
    assert set(envelope) == {"success", "data"}
    assert envelope["success"] is True
    return envelope["data"]


class TestLegacyClose:
    def test_close_answers_as_vendor_page_documents(self, client, chat):
        answer = client.close(chat)

        assert_valid(answer, "200")
        assert data_of(answer) == {"session_id": chat.id, "summary": chat.summary}
        assert answer.headers["Content-Type"].startswith("application/json")
        assert chat.status == "closed"

    def test_vendor_schema_rejects_summary_of_wrong_type(self, osvi, client):
        chat = osvi.add_session(summary=None)
        errors = Draft202012Validator(vendor_schema("200")).iter_errors(client.close(chat).json())
        assert [list(error.path) for error in errors] == [["data", "summary"]]

    @pytest.mark.parametrize("token", ["wrong-token-1234", "sandbox-token-1"])
    def test_close_with_wrong_token_answers_401_and_closes_nothing(self, osvi, client, chat, token):
        answer = client.close(chat, token=token)

        assert_valid(answer, "401")
        assert answer.json() == {"success": False, "error": "Invalid API token"}
        assert (chat.status, osvi.closes(chat.id), osvi.close_requests(chat.id)) == ("active", 0, 1)

    def test_call_without_token_answers_401(self, osvi):
        answer = requests.get(f"{osvi.url}/v1/active_agents", timeout=5)
        assert_valid(answer, "401")

    def test_close_of_unknown_session_answers_404(self, client):
        answer = client.post("/chat_sessions/nobody/close_session", agent_uuid="agent_demo")
        assert_refused(answer, 404, "Session not found")

    def test_close_of_any_session_closes_it_if_every_id_is_known(self, osvi, client):
        osvi.knows_every_id = True
        answer = client.post("/chat_sessions/any/close_session", agent_uuid="agent_demo")
        assert data_of(answer)["session_id"] == "any"
        assert osvi.sessions["any"].status == "closed"

    def test_close_with_other_agent_answers_404(self, client, chat):
        answer = client.post(f"/chat_sessions/{chat.id}/close_session", agent_uuid="agent_other")
        assert_refused(answer, 404, "Session not found")
        assert chat.status == "active"

    def test_close_with_quoted_session_id_closes_session(self, osvi, client):
        chat = osvi.add_session("a/b ?ü")
        answer = client.post(
            "/chat_sessions/a%2Fb%20%3F%C3%BC/close_session", agent_uuid=chat.agent_uuid
        )
        assert data_of(answer)["session_id"] == "a/b ?ü"
        assert osvi.requests[-1].path == "/chat_sessions/a%2Fb%20%3F%C3%BC/close_session"

    def test_legacy_answers_with_inner_success_contain_second_success(self, osvi, client, chat):
        osvi.inner_success = True
        agent = {"agent_uuid": chat.agent_uuid}
        message = {"chat_session_id": chat.id, "message": "Hi", **agent}
        answers = [
            client.post("/chat_sessions", **agent),
            client.post("/chat_messages/send_message", **message),
            client.post(f"/chat_sessions/{chat.id}/pause_session", **agent),
            client.close(chat),
        ]
        assert [data_of(answer)["success"] for answer in answers] == [True] * 4

    @pytest.mark.parametrize(
        ("summary"), ["Ünïcode 😊 日本", "line\nline", "\u0000", "\ud800 alone", "x" * 300_000]
    )
    def test_close_with_any_summary_answers_unchanged_text(self, osvi, client, summary):
        chat = osvi.add_session(summary=summary)
        assert json.loads(client.close(chat).content)["data"]["summary"] == summary
        assert osvi.answered_summaries == {chat.id: summary}


class TestRepeatedClose:
    @pytest.fixture(autouse=True)
    def closed(self, client, chat):
        client.close(chat)

    def test_repeated_close_by_default_returns_summary_again(self, osvi, client, chat):
        assert data_of(client.close(chat))["summary"] == chat.summary
        assert (osvi.closes(chat.id), osvi.close_requests(chat.id)) == (1, 2)

    def test_close_of_reopened_session_closes_it_again(self, osvi, client, chat):
        chat.status = "active"
        client.close(chat)
        assert osvi.closes(chat.id) == 2

    def test_repeated_close_set_to_without_returns_no_summary(self, osvi, client, chat):
        osvi.when_closed = "without"
        assert data_of(client.close(chat)) == {"session_id": chat.id}
        assert osvi.answered_summaries == {chat.id: chat.summary}

    @pytest.mark.parametrize("status", [404, 409, 422])
    def test_repeated_close_set_to_status_is_refused(self, osvi, client, chat, status):
        osvi.when_closed = status
        assert_refused(client.close(chat), status, "Session is already closed")
        assert_refused(client.support(chat, command="close"), status, "Session is already closed")
        assert osvi.close_requests(chat.id) == 3


class TestOtherLegacyCalls:
    def test_create_with_metadata_returns_started_session(self, osvi, client):
        data = data_of(
            client.post("/chat_sessions", agent_uuid="agent_x", metadata={"person_name": "Alex"})
        )

        assert set(data) == {"session_id", "agent_name", "started_at", "welcome_message"}
        session = osvi.sessions[data["session_id"]]
        assert (session.agent_uuid, session.input_fields) == ("agent_x", {"first_name": "Alex"})
        started = datetime.fromisoformat(data["started_at"])
        assert started.replace(tzinfo=UTC) == session.created_at
        assert started.tzinfo is None

    def test_create_without_metadata_stores_no_input_fields(self, osvi, client):
        data = data_of(client.post("/chat_sessions", agent_uuid="agent_x"))
        assert osvi.sessions[data["session_id"]].input_fields == {}

    def test_message_to_dormant_session_is_answered_and_activates_it(self, osvi, client):
        chat = osvi.add_session(status="dormant")
        data = data_of(
            client.post(
                "/chat_messages/send_message",
                agent_uuid=chat.agent_uuid,
                chat_session_id=chat.id,
                message="Hello?",
            )
        )

        keys = {"session_id", "response", "tool_calls", "tool_results", "current_state"}
        assert set(data) == keys
        assert chat.status == "active"
        assert chat.messages == [("customer", "Hello?"), ("agent", data["response"])]
        assert osvi.requests[-1].session_id == chat.id

    def test_pause_of_active_session_makes_it_dormant(self, client, chat):
        path = f"/chat_sessions/{chat.id}/pause_session"
        data = data_of(client.post(path, agent_uuid=chat.agent_uuid))
        assert set(data) == {"session_id", "message"}
        assert chat.status == "dormant"

    def test_message_to_closed_session_answers_422(self, osvi, client):
        chat = osvi.add_session(status="closed")
        answer = client.post(
            "/chat_messages/send_message",
            agent_uuid=chat.agent_uuid,
            chat_session_id=chat.id,
            message="Hello?",
        )
        assert_refused(answer, 422, "Session is closed")


class TestV1Sessions:
    def test_create_returns_session_object(self, osvi, client):
        data = data_of(
            client.post(
                "/v1/chat/session",
                agent_uuid="agent_x",
                customer_id="+15551112222",
                input_fields={"first_name": "Alex"},
                context=[str(number) for number in range(7)],
            )
        )

        assert set(data) == SESSION_KEYS
        assert data["metadata"] == {
            "input_fields": {"first_name": "Alex"},
            "state_fields": {},
            "context": ["2", "3", "4", "5", "6"],
        }
        assert (data["status"], data["mode"], data["help_requested"]) == ("active", "ai", False)
        assert (data["active_human"], data["current_state"]) == (None, None)
        assert data["customer_id"] == "+15551112222"
        assert osvi.sessions[data["id"]].agent_uuid == "agent_x"
        assert data["created_at"].endswith("Z")
        assert datetime.fromisoformat(data["created_at"]) == osvi.sessions[data["id"]].created_at

    def test_create_closes_active_session_of_same_customer_and_agent(self, osvi, client):
        one = osvi.add_session(agent_uuid="agent_x", customer_id="+1")
        others_agent = osvi.add_session(agent_uuid="agent_y", customer_id="+1")
        others = osvi.add_session(agent_uuid="agent_x", customer_id="+2")
        client.post("/v1/chat/session", agent_uuid="agent_x", customer_id="+1")

        assert (one.status, osvi.closes(one.id)) == ("closed", 1)
        assert (others_agent.status, others.status) == ("active", "active")

    def test_active_with_agent_returns_session(self, osvi, client):
        chat = osvi.add_session(customer_id="+1555", mode="support")
        data = data_of(client.get("/v1/chat/session/active", customer_id="+1555",
                                  agent_uuid=chat.agent_uuid))  # fmt: skip
        assert data == chat.as_json()
        assert (data["id"], data["mode"]) == (chat.id, "support")
        assert osvi.requests[-1].query == {"customer_id": "+1555", "agent_uuid": chat.agent_uuid}

    def test_active_without_agent_returns_sessions_by_agent(self, osvi, client):
        one = osvi.add_session(agent_uuid="agent_x", customer_id="+1")
        two = osvi.add_session(agent_uuid="agent_y", customer_id="+1")
        osvi.add_session(agent_uuid="agent_z", customer_id="+2")
        data = data_of(client.get("/v1/chat/session/active", customer_id="+1"))
        assert {agent: item["id"] for agent, item in data.items()} == {
            "agent_x": one.id,
            "agent_y": two.id,
        }

    def test_active_with_several_sessions_returns_newest(self, osvi, client):
        started = datetime(2026, 6, 4, 11, 40, tzinfo=UTC)
        for session_id, day in (("middle", 2), ("newest", 3), ("oldest", 1)):
            osvi.add_session(session_id, customer_id="+1", created_at=started.replace(day=day))
        query = {"customer_id": "+1", "agent_uuid": "agent_demo"}
        assert data_of(client.get("/v1/chat/session/active", **query))["id"] == "newest"

    def test_times_of_session_are_in_utc(self, osvi):
        started = datetime(2026, 6, 4, 11, 40, 25, 690486, tzinfo=timezone(timedelta(hours=2)))
        shown = osvi.add_session(created_at=started, updated_at=started).as_json()
        assert shown["created_at"] == shown["updated_at"] == "2026-06-04T09:40:25.690486Z"

    @pytest.mark.parametrize("status", ["closed", "dormant"])
    def test_active_without_active_session_answers_404(self, osvi, client, status):
        chat = osvi.add_session(status=status)
        query = {"customer_id": chat.customer_id, "agent_uuid": chat.agent_uuid}
        assert_refused(client.get("/v1/chat/session/active", **query), 404, "No active session")

    def test_active_when_dormant_counts_as_active_returns_dormant_session(self, osvi, client):
        osvi.dormant_counts_as_active = True
        chat = osvi.add_session(status="dormant")
        query = {"customer_id": chat.customer_id, "agent_uuid": chat.agent_uuid}
        assert data_of(client.get("/v1/chat/session/active", **query))["status"] == "dormant"
        client.post("/v1/chat/session", **query)
        assert chat.status == "dormant"

    def test_active_agents_returns_bare_array(self, osvi, client):
        osvi.voice_agents = [{"agent_uuid": "voice_x", "name": "Ada"}]
        assert client.get("/v1/active_agents").json() == [{"agent_uuid": "voice_x", "name": "Ada"}]


class TestV1Conversation:
    def inbound(self, client, chat, **more):
        body = {"agent_uuid": chat.agent_uuid, "customer_id": chat.customer_id, "content": "Hi"}
        return client.post("/v1/chat/inbound", **body, **more)

    def test_inbound_without_session_id_goes_to_active_session(self, client, chat):
        data = data_of(self.inbound(client, chat))
        assert data["session_id"] == chat.id
        assert chat.messages == [("customer", "Hi"), ("agent", data["reply"])]

    def test_inbound_with_session_id_goes_to_that_session(self, osvi, client, chat):
        named = osvi.add_session(customer_id=chat.customer_id, status="dormant")
        assert data_of(self.inbound(client, chat, session_id=named.id))["session_id"] == named.id
        assert osvi.requests[-1].session_id == named.id

    def test_inbound_without_active_session_creates_session(self, osvi, client, chat):
        osvi.add_session(agent_uuid="agent_other", customer_id=chat.customer_id)
        client.close(chat)
        fresh = osvi.sessions[data_of(self.inbound(client, chat))["session_id"]]
        assert fresh is not chat
        assert (fresh.agent_uuid, fresh.customer_id) == (chat.agent_uuid, chat.customer_id)

    def test_inbound_in_support_mode_returns_no_reply(self, osvi, client):
        chat = osvi.add_session(mode="support")
        assert data_of(self.inbound(client, chat))["reply"] is None

    def test_inbound_answers_state_mode_and_help(self, osvi, client, chat):
        osvi.request_help(chat.id)
        data = data_of(self.inbound(client, chat))
        assert set(data) == {"session_id", "reply", "state", "mode", "help_requested"}
        assert (data["state"], data["mode"], data["help_requested"]) == ("default", "ai", True)

    def test_scripted_inbound_sets_facts_once(self, osvi, client, chat):
        osvi.script_inbound(chat.id, help_requested=True, mode=MISSING)
        first = data_of(self.inbound(client, chat, session_id=chat.id))
        second = data_of(self.inbound(client, chat, session_id=chat.id))
        assert (first["help_requested"], "mode" in first, chat.mode) == (True, False, "ai")
        assert (second["help_requested"], second["mode"]) == (True, "ai")

    def test_scripted_inbound_goes_to_other_session(self, osvi, client, chat):
        other = osvi.add_session(customer_id=chat.customer_id)
        osvi.script_inbound(chat.id, session_id=other.id, help_requested=True)
        data = data_of(self.inbound(client, chat, session_id=chat.id))
        assert (data["session_id"], data["help_requested"]) == (other.id, True)
        assert (chat.messages, other.messages[0]) == ([], ("customer", "Hi"))
        assert (chat.help_requested, other.help_requested) == (False, True)

    def test_customer_writes_adds_line_and_wakes_session(self, osvi):
        chat = osvi.add_session(status="dormant")
        osvi.customer_writes(chat.id, "Still there?")
        assert (chat.messages, chat.status) == ([("customer", "Still there?")], "active")

    def test_inject_context_keeps_last_five_texts(self, osvi, client):
        chat = osvi.add_session(context=list("abcde"))
        data = data_of(client.post(f"/v1/chat/session/{chat.id}/inject_context", context="f"))
        assert data == {"session_id": chat.id, "context": list("bcdef")}

    def test_inject_context_with_empty_text_answers_422(self, client, chat):
        answer = client.post(f"/v1/chat/session/{chat.id}/inject_context", context="")
        assert_refused(answer, 422, "context is required")


class TestV1Support:
    def test_close_by_default_returns_no_summary(self, osvi, client, chat):
        data = data_of(client.support(chat, command="close"))
        assert data == {"state": "ok", "session_id": chat.id, "command": "close"}
        assert (chat.status, osvi.closes(chat.id)) == ("closed", 1)
        assert (osvi.close_requests(chat.id), osvi.answered_summaries) == (1, {})

    def test_close_with_v1_summary_returns_summary(self, osvi, client, chat):
        osvi.v1_summary = True
        assert data_of(client.support(chat, command="close"))["summary"] == chat.summary
        assert osvi.answered_summaries == {chat.id: chat.summary}

    def test_takeover_and_end_change_mode(self, client, chat):
        data = data_of(client.support(chat, command="takeover"))
        assert (data["state"], data["command"]) == ("ok", "takeover")
        assert (chat.mode, chat.active_human) == ("support", data["active_human"])
        assert data["active_human"]

        assert "active_human" not in data_of(client.support(chat, command="end"))
        assert (chat.mode, chat.active_human) == ("ai", None)

    def test_takeover_keeps_message_and_ends_help(self, osvi, client, chat):
        osvi.request_help(chat.id)
        client.support(chat, command="takeover", message="Sam takes care of this.")
        assert chat.messages == [("guidance", "Sam takes care of this.")]
        assert chat.help_requested is False

    def test_takeover_without_end_of_help_keeps_flag(self, osvi, client, chat):
        osvi.takeover_ends_help = False
        osvi.request_help(chat.id)
        client.support(chat, command="takeover")
        assert (chat.mode, chat.help_requested) == ("support", True)

    def test_tell_returns_reply_of_agent(self, client, chat):
        data = data_of(client.support(chat, command="tell", message="Offer 10 %."))
        assert chat.messages == [("guidance", "Offer 10 %."), ("agent", data["reply"])]

    def test_tell_without_message_answers_422(self, client, chat):
        assert_refused(client.support(chat, command="tell"), 422, "message is required")

    def test_whisper_returns_no_reply(self, client, chat):
        assert "reply" not in data_of(client.support(chat, command="whisper", message="Be kind."))
        assert chat.messages == [("guidance", "Be kind.")]

    def test_message_of_operator_outside_support_mode_answers_422(self, client, chat):
        refused = client.support(chat, message="Hello, Ines here.")
        assert_refused(refused, 422, "The session is not in support mode")
        chat.mode = "support"
        assert data_of(client.support(chat, message="Hello, Ines here."))["command"] is None
        assert chat.messages == [("operator", "Hello, Ines here.")]

    @pytest.mark.parametrize("body", [{}, {"message": ""}, {"command": "explode"}])
    def test_support_with_unknown_command_answers_422(self, client, chat, body):
        assert_refused(client.support(chat, **body), 422, "command is not valid")

    def test_command_switched_off_for_agent_answers_422(self, osvi, client, chat):
        osvi.switched_off.add((chat.agent_uuid, "close"))
        answer = client.support(chat, command="close")
        assert_refused(answer, 422, "command close is switched off")
        assert chat.status == "active"
        assert data_of(client.support(chat, command="takeover"))
        assert osvi.close_requests(chat.id) == 1

    def test_command_to_closed_session_answers_422(self, osvi, client):
        chat = osvi.add_session(status="closed")
        assert_refused(client.support(chat, command="takeover"), 422, "Session is closed")


class TestInvalidRequests:
    @pytest.mark.parametrize(
        ("path", "missing"),
        [
            ("/chat_sessions", ["agent_uuid"]),
            ("/chat_messages/send_message", ["agent_uuid", "chat_session_id", "message"]),
            ("/chat_sessions/x/pause_session", ["agent_uuid"]),
            ("/chat_sessions/x/close_session", ["agent_uuid"]),
            ("/v1/chat/session", ["agent_uuid", "customer_id"]),
            ("/v1/chat/inbound", ["agent_uuid", "customer_id", "content"]),
            ("/v1/chat/session/x/inject_context", ["context"]),
        ],
    )
    def test_call_with_missing_fields_answers_422_and_names_each(self, client, path, missing):
        assert_refused(client.post(path), 422, *[f"{name} is required" for name in missing])

    def test_active_without_customer_answers_422(self, client):
        answer = client.get("/v1/chat/session/active")
        assert_refused(answer, 422, "customer_id is required")

    @pytest.mark.parametrize(
        ("path", "body", "error"),
        [
            ("/chat_sessions", {"agent_uuid": 42}, "agent_uuid must be a string"),
            ("/chat_sessions", {"metadata": "Alex"}, "metadata must be an object"),
            ("/v1/chat/session", {"context": "now"}, "context must be a list"),
            ("/v1/chat/session", {"input_fields": []}, "input_fields must be an object"),
            ("/v1/chat/session/x/support", {"command": ["close"]}, "command must be a string"),
        ],
    )
    def test_call_with_field_of_wrong_type_answers_422_and_names_it(
        self, client, path, body, error
    ):
        answer = client.post(path, **{"agent_uuid": "agent_x", "customer_id": "+1", **body})
        assert_refused(answer, 422, error)

    @pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"close"', b"\xff\xfe{}"])
    def test_call_with_body_that_is_no_json_object_answers_422(self, osvi, client, raw):
        answer = client.request("POST", "/chat_sessions/x/close_session", data=raw)
        assert_refused(answer, 422, "The body must be a JSON object")
        assert osvi.requests[-1].raw == raw

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("POST", "/"),
            ("POST", "/chat_sessions/x/close_session/"),
            ("POST", "/chat_sessions/x/y/close_session"),
            ("GET", "/chat_sessions/x/close_session"),
            ("POST", "/v1/active_agents"),
            ("DELETE", "/chat_sessions"),
            ("PUT", "/chat_sessions"),
            ("PATCH", "/chat_sessions"),
        ],
    )
    def test_unknown_call_answers_404(self, client, method, path):
        assert_refused(client.request(method, path, json={"agent_uuid": "x"}), 404, "Not found")


class TestRecording:
    def test_request_is_recorded_as_received(self, osvi, client, chat):
        client.request(
            "POST",
            f"/chat_sessions/{chat.id}/close_session?trace=1",
            data=b'{"agent_uuid":  "agent_demo"}',
            headers={"X-Request-Id": "r-1"},
        )

        (request,) = osvi.requests
        assert (request.method, request.session_id) == ("POST", chat.id)
        assert request.path == f"/chat_sessions/{chat.id}/close_session"
        assert request.query == {"trace": "1"}
        assert request.raw == b'{"agent_uuid":  "agent_demo"}'
        assert request.body == {"agent_uuid": "agent_demo"}
        assert request.headers["x-request-ID"] == "r-1"
        assert request.headers["X-Absent"] is None
        assert 0 <= (datetime.now(UTC) - request.at).total_seconds() < 5

    @pytest.mark.parametrize("body", [["a"], {"session_id": 42}, {}])
    def test_request_without_session_is_recorded_with_none(self, osvi, client, body):
        client.request("POST", "/v1/chat/inbound", json=body)
        assert osvi.requests[-1].session_id is None

    def test_close_changes_updated_at_and_status_of_session(self, client, chat):
        before = chat.updated_at
        client.close(chat)
        assert chat.updated_at > before
        assert chat.as_json()["status"] == "closed"

    def test_answer_is_recorded_before_client_can_read_it(self, osvi):
        chats = [osvi.add_session(summary=f"Summary {n}") for n in range(100)]
        connection = http.client.HTTPConnection("127.0.0.1", osvi.port, timeout=5)
        for chat in chats:
            post_close(connection, osvi, chat)
            assert osvi.answered_summaries[chat.id] == chat.summary
        connection.close()

    def test_answer_not_received_by_client_is_not_recorded(self, osvi):
        chat = osvi.add_session(summary="x" * 10_000_000)
        connection = http.client.HTTPConnection("127.0.0.1", osvi.port, timeout=5)
        send_close(connection, osvi, chat)
        wait_until(lambda: osvi.closes(chat.id))
        connection.close()
        osvi.stop()
        assert osvi.answered_summaries == {}

    def test_log_contains_only_ids_and_nothing_is_printed(self, osvi, client, caplog, capfd):
        caplog.set_level(logging.DEBUG, logger="osvi_django.sandbox")
        chat = osvi.add_session(customer_id="+15557654321", summary="A secret matter")
        osvi.script(chat.id, Status(500))
        client.close(chat)
        client.close(chat)
        client.get("/v1/chat/session/active", customer_id=chat.customer_id)
        osvi.stop()

        assert f"Session {chat.id} was answered 200" in caplog.messages
        assert f"Session {chat.id} meets Status" in caplog.messages
        for private in (chat.customer_id[1:], "secret", osvi.token):
            assert private not in caplog.text
        assert capfd.readouterr() == ("", "")

    def test_invalid_http_request_prints_nothing(self, osvi, capfd):
        with socket.create_connection(("127.0.0.1", osvi.port), timeout=5) as connection:
            connection.sendall(b"POST /chat_sessions/x/close_session HTTP/9.9\r\n\r\n")
            assert b"505" in connection.recv(8192)
        osvi.stop()
        assert capfd.readouterr() == ("", "")


def send_close(connection, osvi, chat):
    body = json.dumps({"agent_uuid": chat.agent_uuid})
    path = f"/chat_sessions/{chat.id}/close_session"
    connection.request("POST", path, body, {"API-Token": osvi.token})


def post_close(connection, osvi, chat):
    send_close(connection, osvi, chat)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


class TestSessions:
    def test_add_session_creates_unique_id_and_customer(self, osvi):
        one, two = osvi.add_session(), osvi.add_session()
        assert uuid.UUID(one.id) != uuid.UUID(two.id)
        assert one.customer_id != two.customer_id
        assert osvi.sessions == {one.id: one, two.id: two}

    def test_add_session_with_existing_id_raises_value_error(self, osvi, chat):
        with pytest.raises(ValueError, match=chat.id):
            osvi.add_session(chat.id)
        assert osvi.sessions == {chat.id: chat}

    def test_seed_creates_same_realistic_sessions_each_time(self, osvi):
        sessions = osvi.seed()
        assert len(sessions) == len(CONVERSATIONS) == 24
        assert len({chat.agent_uuid for chat in sessions}) == 3
        assert {chat.status for chat in sessions} == {"active", "dormant"}
        assert sessions[0].messages[:2] == [
            ("customer", "Hi, when are you open?"),
            ("agent", "We are open Monday to Friday, 9 AM to 6 PM."),
        ]
        talk = CONVERSATIONS[0]
        assert (sessions[0].agent_name, sessions[0].summary) == (talk.agent.name, talk.summary)
        assert sessions[0].input_fields == {"first_name": talk.first_name}
        assert sessions[0].created_at - sessions[9].created_at > timedelta(hours=1)
        assert sessions[0].created_at < sessions[0].updated_at < datetime.now(UTC)
        assert [chat.id for chat in OSVISandbox().seed(24)] == [chat.id for chat in sessions]

    def test_seed_called_again_continues_with_new_customers(self, osvi):
        sessions = osvi.seed(20) + osvi.seed(30)
        assert len(osvi.sessions) == len(sessions) == 50
        assert len({chat.customer_id for chat in sessions}) == 50
        assert sessions[24].summary == sessions[0].summary

    def test_seeded_summaries_contain_newlines_html_and_emoji(self):
        summaries = [talk.summary for talk in CONVERSATIONS]
        assert any("\n" in text for text in summaries)
        assert any("<b>" in text and "&" in text for text in summaries)
        assert any(max(text) > "\U0001f000" for text in summaries)
        assert len(set(summaries)) == len({talk.customer_id for talk in CONVERSATIONS}) == 24


class TestLatency:
    def test_latency_applies_only_to_accepted_closes(self, osvi, client, chat):
        osvi.latency = 60
        client.get("/v1/active_agents", timeout=10)
        client.close(chat, token="wrong-token-1234", timeout=10)
        osvi.latency = 0.2
        started = time.monotonic()
        client.close(chat)
        assert time.monotonic() - started >= 0.2

    def test_latency_callable_sets_latency_per_session(self, osvi, client):
        slow, quick = osvi.add_session(summary="slow"), osvi.add_session(summary="quick")
        osvi.latency = lambda session: 2 if session is slow else 0
        took = {}
        for chat in (slow, quick):
            started = time.monotonic()
            client.close(chat)
            took[chat.summary] = time.monotonic() - started
        assert took["quick"] < 2 <= took["slow"]

    def test_latency_callable_that_raises_is_logged(self, osvi, client, chat, caplog):
        osvi.latency = lambda session: 1 / 0
        with pytest.raises(requests.ConnectionError):
            client.close(chat)
        osvi.stop()
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "ZeroDivisionError" in caplog.text


class TestServer:
    def test_server_keeps_connection_for_several_requests(self, osvi):
        connection = http.client.HTTPConnection("127.0.0.1", osvi.port, timeout=5)
        connection.connect()
        ours = connection.sock
        for chat in (osvi.add_session(), osvi.add_session()):
            status, body = post_close(connection, osvi, chat)
            assert (status, body["data"]["session_id"]) == (200, chat.id)
        assert connection.sock is ours
        connection.close()

    def test_server_answers_200_concurrent_clients(self, osvi):
        osvi.latency = 0.05
        ready = threading.Barrier(200)

        def close(chat):
            ready.wait(timeout=5)
            connection = http.client.HTTPConnection("127.0.0.1", osvi.port, timeout=5)
            try:
                return post_close(connection, osvi, chat)[0]
            finally:
                connection.close()

        chats = [osvi.add_session() for _ in range(200)]
        with ThreadPoolExecutor(200) as pool:
            assert set(pool.map(close, chats)) == {200}
        assert all(osvi.closes(chat.id) == 1 for chat in chats)
        assert len(osvi.answered_summaries) == 200

    def test_concurrent_closes_of_one_session_close_it_once(self, osvi, client, chat, monkeypatch):
        def close_slowly(session):
            time.sleep(0.05)
            OSVISandbox.close(osvi, session)

        monkeypatch.setattr(osvi, "close", close_slowly)
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda _: client.close(chat).status_code, range(20)))
        assert answers == [200] * 20
        assert (osvi.closes(chat.id), osvi.close_requests(chat.id)) == (1, 20)

    def test_stop_with_hanging_connections_is_quick(self, osvi):
        chats = [osvi.add_session() for _ in range(20)]
        connections = []
        for chat in chats:
            osvi.script(chat.id, Hang(seconds=60))
            connection = http.client.HTTPConnection("127.0.0.1", osvi.port, timeout=5)
            send_close(connection, osvi, chat)
            connections.append(connection)
        wait_until(lambda: all(osvi.closes(chat.id) for chat in chats))

        started = time.monotonic()
        osvi.stop()
        assert time.monotonic() - started < STOP_TIME_LIMIT
        for connection in connections:
            with pytest.raises(http.client.RemoteDisconnected):
                connection.getresponse()
            connection.close()

    def test_stop_ends_slow_close_without_answer(self, osvi, client, chat):
        osvi.latency = 60
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(client.close, chat)
            wait_until(lambda: osvi.closes(chat.id))
            osvi.stop()
            assert isinstance(answer.exception(timeout=5), requests.ConnectionError)
        assert osvi.answered_summaries == {}

    def test_start_after_stop_uses_same_address(self, osvi, client, chat):
        before = osvi.url
        osvi.stop()
        osvi.stop()
        with pytest.raises(requests.ConnectionError, match="refused"):
            client.close(chat)
        assert osvi.start() is osvi.start()
        assert osvi.url == before
        assert client.close(chat).status_code == 200

    def test_stop_ends_idle_connections_and_threads(self):
        before = set(threading.enumerate())
        with OSVISandbox() as osvi:
            connection = http.client.HTTPConnection("127.0.0.1", osvi.port, timeout=5)
            post_close(connection, osvi, osvi.add_session())
            assert len(set(threading.enumerate()) - before) == 2
            started = time.monotonic()
        assert time.monotonic() - started < STOP_TIME_LIMIT
        assert connection.sock.recv(1) == b""
        connection.close()
        wait_until(lambda: set(threading.enumerate()) <= before)

    def test_stop_waits_for_requests_in_progress(self, osvi, client, chat):
        ended = []

        class SlowToEnd(Fault):
            def play(self, exchange):
                try:
                    exchange.pause(60)
                finally:
                    time.sleep(0.1)
                    ended.append(chat.id)

        osvi.script(chat.id, SlowToEnd())
        with ThreadPoolExecutor(1) as pool:
            pool.submit(client.close, chat)
            wait_until(lambda: osvi.requests)
            osvi.stop()
            assert ended == [chat.id]

    def test_server_answers_without_nagle_delay(self, osvi):
        """Without TCP_NODELAY, the second write of an answer waits 40 ms for an acknowledgement."""
        connection = http.client.HTTPConnection("127.0.0.1", osvi.port, timeout=5)
        took = []
        for _ in range(20):
            started = time.monotonic()
            post_close(connection, osvi, osvi.add_session())
            took.append(time.monotonic() - started)
        assert min(took) < 0.03
        connection.close()

    def test_start_does_not_resolve_host_name(self, monkeypatch):
        def ask(name=""):
            raise AssertionError(name)

        monkeypatch.setattr(socket, "getfqdn", ask)
        with OSVISandbox() as osvi:
            assert osvi.port

    def test_stop_with_connection_already_closed_is_quick(self, osvi, monkeypatch, client):
        """Close the client's end between the listing of connections and the stop."""

        def gone(self, how):
            raise OSError("not connected")

        idle = socket.create_connection(("127.0.0.1", osvi.port))
        client.get("/v1/active_agents")
        monkeypatch.setattr(socket.socket, "shutdown", gone)
        started = time.monotonic()
        osvi.stop()
        idle.close()
        assert time.monotonic() - started < STOP_TIME_LIMIT

    def test_url_before_start_raises_runtime_error(self):
        with pytest.raises(RuntimeError, match="started"):
            _ = OSVISandbox().url

    def test_start_with_port_in_use_raises_os_error(self, osvi):
        with pytest.raises(OSError, match="in use"):
            OSVISandbox(port=osvi.port).start()


class TestPackage:
    def test_all_contains_only_existing_names(self):
        assert set(testing.__all__) <= set(vars(testing))

    def test_import_loads_neither_django_nor_factory_boy_nor_requests(self):
        code = (
            "import sys, osvi_django.testing, osvi_django.testing.plugin as plugin\n"
            "assert plugin.osvi_sandbox\n"
            "sys.exit(bool({'django', 'factory', 'requests'} & set(sys.modules)))"
        )
        assert subprocess.run([sys.executable, "-c", code]).returncode == 0
