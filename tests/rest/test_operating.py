"""Tests of starting, synchronizing and operating sessions over REST."""

from __future__ import annotations

import json
from functools import partial
from urllib.parse import quote

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from osvi_django.models import ChatSession, CloseAttempt, CloseJob, SupportAction
from osvi_django.services.attempts.leases import Terms
from osvi_django.services.start_locks import start_lock
from osvi_django.testing import Drop, Junk, Status
from osvi_django.testing.calls import REPLY
from osvi_django.testing.factories import ChatAgentFactory, ChatSessionFactory, ClosedSessionFactory
from tests.helpers.datetimes import rest_datetime
from tests.helpers.sandbox import CallThenAnswer, mirror, script_next_starts

pytestmark = pytest.mark.django_db

BASE = "/api/osvi/sessions/"
SYNC = f"{BASE}sync/"
START = {"agent_uuid": "agent_a", "customer_id": "+4917"}
# The path and body of each action; each is sent to OSVI.
ACTIONS = {
    "takeover": ("support", {"command": "takeover"}),
    "end": ("support", {"command": "end"}),
    "tell": ("support", {"command": "tell", "message": "Be kind."}),
    "whisper": ("support", {"command": "whisper", "message": "Be kind."}),
    "message": ("support", {"message": "This is Sam."}),
    "context": ("context", {"context": "A regular."}),
    "inbound": ("messages", {"content": "Hello?"}),
}
# The actions with a text.
WITH_TEXT = ("tell", "whisper", "message", "context", "inbound")
# Values that look like booleans and are not.
NO_BOOLEANS = ("true", "no", 1, [], {})
# What an error has if OSVI answered, and if it is unknown what was done.
OF_OSVI = {"osvi_status", "osvi_reason", "next"}
# The path and body of each request that names a session.
REQUESTS = [*ACTIONS.values(), ("support", {"command": "close"})]


def url_of(session_id, what):
    return f"{BASE}{quote(session_id, safe='')}/{what}/"


def post(client, url, body):
    # Use Python's JSON: REST framework's cannot encode all of these values.
    return client.post(url, json.dumps(body), content_type="application/json")


def answer_with(data):
    """Return a fault with which OSVI answers this data."""
    body = json.dumps({"success": True, "data": data}).encode()
    return Junk(body=body, content_type="application/json", close=False)


def url_of_action(action):
    return f"http://testserver{BASE}{action.session.session_id}/actions/{action.pk}/"


def action_at(url):
    """Return the action at this address."""
    return SupportAction.objects.get(pk=url.rstrip("/").rpartition("/")[2])


def act(client, session, kind):
    """Send an action of this kind."""
    what, body = ACTIONS[kind]
    return post(client, url_of(session.session_id, what), body)


@pytest.fixture
def session(osvi_sandbox):
    """Create a session here and at OSVI, taken over in both."""
    session = mirror(osvi_sandbox, mode="support", summary="All is well.")
    osvi_sandbox.sessions[session.session_id].change(mode="support", active_human="Sam")
    return session


@pytest.fixture
def operator_without_view(client_with):
    """Return a client that may operate and not view sessions."""
    return client_with("operate_chatsession", name="blind")


class TestStart:
    def test_start_returns_201_and_session(self, operator, osvi_sandbox):
        known = {"input_fields": {"first_name": "Alex", "tags": [1, None]}, "context": ["A VIP."]}
        response = post(operator, BASE, START | known)
        session = ChatSession.objects.get()
        assert response.status_code == 201
        assert response.json() == {
            "session_id": session.session_id,
            "url": f"http://testserver{BASE}{session.session_id}/",
            "account": "default",
            "agent_uuid": "agent_a",
            "agent_name": None,
            "customer_id": "+4917",
            "status": "active",
            "mode": "ai",
            "help_requested": False,
            "help_requested_at": None,
            "active_human": None,
            "taken_over_by": None,
            "taken_over_at": None,
            "started_at": rest_datetime(session.started_at),
            "last_activity_at": rest_datetime(session.last_activity_at),
            "updated_at": rest_datetime(session.updated_at),
            "closed_at": None,
            "close_reason": None,
            "closed_by": None,
            "summary": None,
            "summary_status": "pending",
            "summary_source": None,
            "summarizer_error": None,
            **known,
        }
        assert response["Location"] == f"http://testserver{BASE}{session.session_id}/"
        assert operator.get(response["Location"]).json() == response.json()
        chat = osvi_sandbox.sessions[session.session_id]
        assert chat.input_fields == known["input_fields"]
        assert chat.context == known["context"]

    @pytest.mark.parametrize("odd", ["a/b", "ä ö?#%2F", "two\nlines", "emoji 😀"])
    def test_start_with_odd_id_returns_its_location(self, operator, osvi_sandbox, odd):
        answer = {"id": odd, "status": "active", "customer_id": "+4917"}
        script_next_starts(osvi_sandbox, answer_with(answer))
        response = post(operator, BASE, START)
        assert operator.get(response["Location"]).json()["session_id"] == odd

    @pytest.mark.parametrize(
        "answer",
        [{}, {"id": "x"}, {"id": "..", "status": "active"}, {"id": "x", "status": "active"}],
    )
    def test_start_with_unreadable_answer_returns_502(self, operator, osvi_sandbox, answer):
        script_next_starts(osvi_sandbox, answer_with(answer))
        response = post(operator, BASE, START)
        assert (response.status_code, response.json()["code"]) == (502, "bad_answer")
        assert not ChatSession.objects.exists()

    def test_sync_without_account_if_none_is_default_returns_400(
        self, operator, osvi_sandbox, settings
    ):
        settings.OSVI = {"bank": settings.OSVI["default"], "shop": {"API_TOKEN": "x"}}
        response = post(operator, f"{BASE}sync/", {"customer_id": "+1"})
        assert (response.status_code, response.json()["code"]) == (400, "invalid")
        assert "use one of bank, shop" in response.json()["detail"]
        named = post(operator, f"{BASE}sync/", {"customer_id": "+1", "account": "bank"})
        assert named.status_code == 200

    def test_start_with_account_uses_it(self, operator, osvi_sandbox, settings):
        settings.OSVI = settings.OSVI | {"emea": settings.OSVI["default"]}
        assert post(operator, BASE, START | {"account": "emea"}).json()["account"] == "emea"

    def test_start_with_known_agent_uses_its_account(self, operator, osvi_sandbox, settings):
        settings.OSVI = settings.OSVI | {"emea": settings.OSVI["default"]}
        ChatAgentFactory(account="emea", uuid="agent_a")
        assert post(operator, BASE, START).json()["account"] == "emea"
        named = post(operator, BASE, START | {"account": "default", "customer_id": "+2"})
        assert named.json()["account"] == "default"

    def test_start_without_view_permission_returns_few_fields(
        self, operator_without_view, osvi_sandbox
    ):
        response = post(operator_without_view, BASE, START)
        session_id = ChatSession.objects.get().session_id
        assert response.status_code == 201
        assert response.json() == {"session_id": session_id, "status": "active", "mode": "ai"}

    @pytest.mark.parametrize(
        ("more", "named"),
        [
            ({"agent_uuid": ""}, "agent_uuid"),
            ({"agent_uuid": 5}, "agent_uuid"),
            ({"agent_uuid": "x" * 256}, "agent_uuid"),
            ({"agent_uuid": "\ud800"}, "agent_uuid"),
            ({"customer_id": None}, "customer_id"),
            ({"customer_id": ["x"]}, "customer_id"),
            ({"customer_id": "a\x00"}, "customer_id"),
            ({"input_fields": []}, "input_fields"),
            ({"input_fields": "x"}, "input_fields"),
            ({"context": "x"}, "context"),
            ({"context": {}}, "context"),
            ({"account": ""}, "account"),
            ({"account": "\ud800"}, "account"),
            ({"account": "nobody's"}, "account"),
            ({"account": ["default"]}, "account"),
            ({"replace": "true"}, "replace"),
            ({"replace": 1}, "replace"),
        ],
        ids=repr,
    )
    def test_start_with_invalid_value_returns_400_with_name(
        self, operator, osvi_sandbox, more, named
    ):
        response = post(operator, BASE, START | more)
        assert (response.status_code, response.json()["code"]) == (400, "invalid")
        assert list(response.json()["errors"]) == [named]
        assert response.json()["detail"].startswith(f"{named}: ")
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize("missing", ["agent_uuid", "customer_id"])
    def test_start_with_missing_value_returns_400_with_name(self, operator, osvi_sandbox, missing):
        response = post(operator, BASE, {key: START[key] for key in START if key != missing})
        assert (response.status_code, list(response.json()["errors"])) == (400, [missing])

    @pytest.mark.parametrize("missing", ["agent_uuid", "customer_id"])
    def test_start_with_id_of_dots_returns_400_with_name(self, operator, osvi_sandbox, missing):
        response = post(operator, BASE, START | {missing: ".."})
        assert (response.status_code, response.json()["code"]) == (400, "invalid")
        assert response.json()["detail"].startswith(f"{missing}: This is not a valid id")
        assert osvi_sandbox.requests == []

    def test_start_with_invalid_context_names_each_text(self, operator, osvi_sandbox):
        answer = post(
            operator, BASE, START | {"context": ["a", " ", 5, None, "\ud800", "x" * 10_001]}
        )
        assert answer.status_code == 400
        assert list(answer.json()["errors"]["context"]) == ["1", "2", "3", "4", "5"]

    @pytest.mark.parametrize("opening", ["[", '{"a":'])
    @pytest.mark.parametrize("depth", [20, 500, 900])
    def test_start_with_deeply_nested_input_returns_400(
        self, operator, osvi_sandbox, opening, depth
    ):
        closing = "]" if opening == "[" else "}"
        nested = opening * depth + ("[]" if opening != "[" else "") + closing * depth
        raw = json.dumps(START)[:-1] + ', "input_fields": {"x": ' + nested + "}}"
        response = operator.post(BASE, raw, content_type="application/json")
        assert response.status_code == 400
        assert "nested too deeply" in response.json()["detail"]
        assert osvi_sandbox.requests == []

    def test_start_with_few_levels_of_input_succeeds(self, operator, osvi_sandbox):
        fields = {"a": [{"b": [{"c": [1, "two", None, True, 0.5]}]}]}
        assert post(operator, BASE, START | {"input_fields": fields}).status_code == 201

    def test_start_with_form_data_returns_415(self, operator, osvi_sandbox):
        for kind in ("multipart", "application/x-www-form-urlencoded"):
            data = START if kind == "multipart" else "agent_uuid=a&customer_id=b"
            asked = {"format": kind} if kind == "multipart" else {"content_type": kind}
            response = operator.post(BASE, data, **asked)
            assert (response.status_code, response.json()["code"]) == (
                415,
                "unsupported_media_type",
            )

    def test_options_list_fields_of_start(self, operator):
        asked = operator.options(BASE).json()["actions"]["POST"]
        assert list(asked) == [
            "agent_uuid",
            "customer_id",
            "input_fields",
            "context",
            "account",
            "replace",
            "note",
            "close_reason",
        ]

    def test_list_in_browser_is_html(self, operator):
        ChatSessionFactory()
        response = operator.get(BASE, headers={"Accept": "text/html"})
        assert (response.status_code, response["Content-Type"]) == (200, "text/html; charset=utf-8")


class TestSync:
    def test_sync_returns_open_sessions_and_closes_replaced_one(self, operator, osvi_sandbox):
        theirs = [
            osvi_sandbox.add_session(agent_uuid=f"agent_{n}", customer_id="+4917") for n in range(2)
        ]
        # The agent has a later chat with this customer, so this one is closed.
        gone = ChatSessionFactory(customer_id="+4917", agent__uuid="agent_0")
        quiet = mirror(osvi_sandbox, customer_id="+4917", status="dormant")
        other = ChatSessionFactory(customer_id="+4918")
        response = post(operator, SYNC, {"customer_id": "+4917"})
        assert response.status_code == 200
        found = response.json()["results"]
        wanted = {each.id for each in theirs} | {quiet.session_id}
        assert {each["session_id"] for each in found} == wanted
        assert found[0] == operator.get(f"{BASE}{found[0]['session_id']}/").json()
        statuses = dict(ChatSession.objects.values_list("session_id", "status"))
        assert (statuses[gone.session_id], statuses[other.session_id]) == ("closed", "active")
        assert (gone.attempts.get().kind, gone.attempts.get().via) == ("mirrored", "rest")
        address = f"{BASE}{gone.session_id}/attempts/{gone.attempts.get().pk}/"
        answer = operator.get(address).json()
        assert (answer["reason"], answer["note"]) == ("later_chat", None)
        assert (
            answer["reason_display"] == "OSVI lists a later chat of this customer with this agent."
        )

    def test_sync_customer_without_sessions_returns_empty_list(self, operator, osvi_sandbox):
        response = post(operator, SYNC, {"customer_id": "+49", "account": "default"})
        assert (response.status_code, response.json()) == (200, {"results": []})

    def test_sync_without_view_permission_returns_few_fields(
        self, operator_without_view, osvi_sandbox
    ):
        chat = osvi_sandbox.add_session(customer_id="+49", mode="support")
        assert post(operator_without_view, SYNC, {"customer_id": "+49"}).json() == {
            "results": [{"session_id": chat.id, "status": "active", "mode": "support"}]
        }

    @pytest.mark.parametrize(
        ("body", "named"),
        [
            ({}, "customer_id"),
            ({"customer_id": ""}, "customer_id"),
            ({"customer_id": 4917}, "customer_id"),
            ({"customer_id": "\x00"}, "customer_id"),
            ({"customer_id": "x", "account": "nobody's"}, "account"),
            ({"customer_id": "x", "agent_uuid": "y"}, "agent_uuid"),
            ({"customer_id": "  "}, "customer_id"),
        ],
        ids=repr,
    )
    def test_sync_with_invalid_value_returns_400_with_name(
        self, operator, osvi_sandbox, body, named
    ):
        response = post(operator, SYNC, body)
        assert (response.status_code, response.json()["code"]) == (400, "invalid")
        assert list(response.json()["errors"]) == [named]
        assert osvi_sandbox.requests == []

    def test_sync_with_many_sessions_costs_same_queries(self, staff, grant, osvi_sandbox):
        spent = []
        grant(staff, "operate_chatsession")
        for _more in range(2):
            for _number in range(10):
                mirror(osvi_sandbox, customer_id="+49", status="dormant")
            client = APIClient()
            client.force_authenticate(type(staff).objects.get())
            with CaptureQueriesContext(connection) as queries:
                assert len(post(client, SYNC, {"customer_id": "+49"}).json()["results"]) >= 10
            spent.append(len(queries))
        assert spent[0] == spent[1] < 15


class TestSupport:
    def test_take_over_returns_session_and_action(self, operator, staff, osvi_sandbox):
        session = mirror(osvi_sandbox)
        response = act(operator, session, "takeover")
        action = SupportAction.objects.get()
        assert response.status_code == 200
        seen = operator.get(f"{BASE}{session.session_id}/").json()
        assert response.json() == seen | {"reply": None, "action": url_of_action(action)}
        assert (seen["mode"], seen["active_human"]) == ("support", "Support operator")
        assert (action.kind, action.requested_by, action.via) == ("takeover", staff, "rest")
        assert (action.outcome, action.text) == ("done", "")

    def test_hand_back_returns_mode_ai(self, operator, session):
        body = act(operator, session, "end").json()
        assert (body["mode"], body["active_human"], body["reply"]) == ("ai", None, None)

    @pytest.mark.parametrize(
        ("kind", "author", "reply"),
        [("tell", "guidance", REPLY), ("whisper", "guidance", None), ("message", "operator", None)],
    )
    def test_text_is_sent_and_stored(self, operator, session, osvi_sandbox, kind, author, reply):
        response = act(operator, session, kind)
        assert (response.status_code, response.json()["reply"]) == (200, reply)
        action = action_at(response.json()["action"])
        said = ACTIONS[kind][1]["message"]
        assert (action.kind, action.text, action.outcome) == (kind, said, "done")
        assert (author, said) in osvi_sandbox.sessions[session.session_id].messages

    @pytest.mark.parametrize("command", ["end", "close"])
    def test_command_without_text_accepts_blank_message(self, operator, session, command):
        url = url_of(session.session_id, "support")
        body = {"command": command, "message": " ", "resend": False}
        assert post(operator, url, body).status_code == 200

    def test_message_with_spaces_is_stripped(self, operator, session):
        post(operator, url_of(session.session_id, "support"), {"message": "\n Hello. "})
        assert SupportAction.objects.get().text == "Hello."

    def test_message_before_take_over_returns_409(self, operator, osvi_sandbox):
        response = act(operator, mirror(osvi_sandbox), "message")
        assert (response.status_code, response.json()["code"]) == (409, "wrong_mode")
        assert response.json()["detail"].endswith("Take over first.")
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize(
        ("body", "named"),
        [
            ({}, "message"),
            ({"message": ""}, "message"),
            ({"message": None}, "message"),
            ({"message": 5}, "message"),
            ({"message": ["x"]}, "message"),
            ({"message": "x" * 10_001}, "message"),
            ({"message": "a\x00b"}, "message"),
            ({"message": "\ud800"}, "message"),
            ({"command": "tell"}, "message"),
            ({"command": "whisper", "message": " \n"}, "message"),
            ({"command": "takeover", "taken_over_at": "2026-01-31T12:00:00Z"}, "taken_over_at"),
            ({"command": "end", "message": "x"}, "message"),
            ({"command": "close", "message": "x"}, "message"),
            ({"command": "tell", "message": "x", "note": "y"}, "note"),
            ({"message": "x", "note": "y"}, "note"),
            ({"message": "x", "agent_uuid": "y"}, "agent_uuid"),
            ({"command": "close", "note": "x" * 1001}, "note"),
            ({"command": "close", "agent_uuid": ""}, "agent_uuid"),
            *(({"message": "x", "resend": odd}, "resend") for odd in NO_BOOLEANS),
            ({"command": "end", "resend": True}, "resend"),
            ({"command": "close", "resend": True}, "resend"),
            ({"command": "explode"}, "command"),
            ({"command": "\ud800"}, "command"),
            ({"command": "", "message": "x"}, "command"),
            ({"command": ["takeover"]}, "command"),
            ({"command": {}}, "command"),
            ({"comand": "close", "message": "x"}, "comand"),
            ([], "non_field_errors"),
            ("takeover", "non_field_errors"),
            (None, "non_field_errors"),
        ],
        ids=repr,
    )
    def test_support_with_invalid_value_returns_400_with_name(
        self, operator, session, osvi_sandbox, body, named
    ):
        response = post(operator, url_of(session.session_id, "support"), body)
        assert (response.status_code, response.json()["code"]) == (400, "invalid")
        assert list(response.json()["errors"]) == [named]
        assert osvi_sandbox.requests == []
        assert not SupportAction.objects.exists()


class TestClose:
    """The command ``close`` is the same as ``.../close/``."""

    def close(self, client, session_id, **more):
        return post(client, url_of(session_id, "support"), {"command": "close", **more})

    def test_close_command_returns_same_as_close(self, operator, session, staff, osvi_sandbox):
        response = self.close(operator, session.session_id, note="bye")
        assert (response.status_code, response.json()["changed"]) == (200, True)
        assert response.json()["summary"] == "All is well."
        attempt = CloseAttempt.objects.get()
        assert (attempt.requested_by, attempt.via, attempt.note) == (staff, "rest", "bye")
        again = operator.post(url_of(session.session_id, "close")).json()
        assert again == response.json() | {"changed": False}
        assert self.close(operator, session.session_id).json() == again
        assert osvi_sandbox.close_requests(session.session_id) == 1
        assert not SupportAction.objects.exists()

    def test_close_command_requires_only_close_permission(
        self, session, client_with, operator_without_view
    ):
        refused = self.close(operator_without_view, session.session_id)
        assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")
        closer = client_with("close_chatsession")
        assert self.close(closer, session.session_id).json()["changed"] is True

    def test_close_command_unknown_session_with_agent_closes_it(self, operator, osvi_sandbox):
        chat = osvi_sandbox.add_session(agent_uuid="agent_new", summary="Hello.")
        assert self.close(operator, chat.id).status_code == 404
        response = self.close(operator, chat.id, agent_uuid="agent_new")
        assert (response.status_code, response.json()["summary"]) == (200, "Hello.")

    def test_close_command_without_answer_links_to_attempt(self, operator, session, osvi_sandbox):
        osvi_sandbox.script(session.session_id, Drop())
        body = self.close(operator, session.session_id).json()
        assert (body["code"], "action" in body) == ("unconfirmed", False)
        assert operator.get(body["attempt"]).json()["outcome"] == "no_answer"

    def test_close_command_async_returns_job(self, operator, session, osvi_sandbox):
        response = operator.post(
            url_of(session.session_id, "support"),
            {"command": "close", "note": "bye"},
            format="json",
            headers={"Prefer": "respond-async"},
        )
        assert (response.status_code, response["Preference-Applied"]) == (202, "respond-async")
        assert CloseJob.objects.get().note == "bye"
        assert osvi_sandbox.requests == []


class TestContext:
    def test_context_returns_all_facts_that_osvi_keeps(self, operator, session, osvi_sandbox):
        for number in range(7):
            url = url_of(session.session_id, "context")
            response = post(operator, url, {"context": f"fact {number}"})
        kept = [f"fact {number}" for number in range(2, 7)]
        seen = operator.get(f"{BASE}{session.session_id}/").json()
        action = url_of_action(SupportAction.objects.last())
        assert response.status_code == 200
        assert response.json() == seen | {"reply": None, "action": action, "context": kept}
        assert osvi_sandbox.sessions[session.session_id].context == kept

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize("known", [{}, {"metadata": ["x"]}, {"metadata": {"context": "x"}}])
    def test_context_of_session_closed_meanwhile_returns_empty_list(
        self, operator, session, osvi_sandbox, known
    ):
        close = partial(ChatSession.objects.update, status="closed", metadata=known)
        osvi_sandbox.script(session.session_id, CallThenAnswer(close))
        body = act(operator, session, "context").json()
        assert (body["status"], body["context"]) == ("closed", [])

    @pytest.mark.parametrize(
        "context", [None, "", " ", 5, ["x"], {"a": 1}, "x" * 10_001, "\x00", "\ud800"], ids=repr
    )
    def test_context_with_invalid_value_returns_400_with_name(
        self, operator, session, osvi_sandbox, context
    ):
        response = post(operator, url_of(session.session_id, "context"), {"context": context})
        assert (response.status_code, list(response.json()["errors"])) == (400, ["context"])
        assert osvi_sandbox.requests == []


class TestMessages:
    def test_customer_message_returns_reply_of_agent(self, operator, osvi_sandbox):
        session = mirror(osvi_sandbox, status="dormant")
        response = act(operator, session, "inbound")
        body = response.json()
        assert (response.status_code, body["reply"], body["status"]) == (200, REPLY, "active")
        action = action_at(body["action"])
        assert (action.kind, action.text, action.reply) == ("inbound", "Hello?", REPLY)

    def test_customer_message_after_take_over_has_no_reply(self, operator, session, osvi_sandbox):
        assert act(operator, session, "inbound").json()["reply"] is None
        assert ("customer", "Hello?") in osvi_sandbox.sessions[session.session_id].messages

    @pytest.mark.parametrize(
        "content", [None, "", " ", 5, True, ["x"], "x" * 10_001, "\x00", "\ud800"], ids=repr
    )
    def test_customer_message_with_invalid_content_returns_400(
        self, operator, session, osvi_sandbox, content
    ):
        response = post(operator, url_of(session.session_id, "messages"), {"content": content})
        assert (response.status_code, list(response.json()["errors"])) == (400, ["content"])
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize("body", [{}, {"message": "x"}, {"content": "x", "session_id": "y"}])
    def test_customer_message_with_unknown_field_returns_400(
        self, operator, session, osvi_sandbox, body
    ):
        response = post(operator, url_of(session.session_id, "messages"), body)
        assert (response.status_code, response.json()["code"]) == (400, "invalid")

    def test_customer_message_without_customer_returns_400(self, operator, osvi_sandbox):
        session = ChatSessionFactory(customer_id="")
        response = act(operator, session, "inbound")
        assert (response.status_code, response.json()["code"]) == (400, "invalid")
        assert "customer_id" in response.json()["detail"]
        assert osvi_sandbox.requests == []


class TestSentBefore:
    @pytest.fixture(params=WITH_TEXT)
    def kind(self, request):
        return request.param

    @pytest.fixture
    def first(self, operator, session, osvi_sandbox, kind):
        """Send an action that OSVI does not answer; return its address."""
        osvi_sandbox.script(session.session_id, Drop())
        body = act(operator, session, kind).json()
        assert body["code"] == "unconfirmed"
        return body["action"]

    def resend(self, client, session, kind, resend):
        what, body = ACTIONS[kind]
        return post(client, url_of(session.session_id, what), body | {"resend": resend})

    def test_same_text_again_returns_409(self, operator, session, osvi_sandbox, kind, first):
        for response in (
            act(operator, session, kind),
            self.resend(operator, session, kind, resend=False),
        ):
            body = response.json()
            assert (response.status_code, "Retry-After" in response) == (409, False)
            assert set(body) == {"detail", "code", "retryable", "action"}
            assert (body["code"], body["retryable"]) == ("sent_before", False)
            assert body["detail"].startswith("This text was already sent")
            assert body["detail"].endswith('If the text is missing, send it with "resend": true.')
            assert body["action"] == first
        assert len(osvi_sandbox.requests) == 1

    def test_same_text_with_resend_is_sent(self, operator, session, osvi_sandbox, kind, first):
        response = self.resend(operator, session, kind, resend=True)
        assert (response.status_code, response.json()["action"] != first) == (200, True)
        assert len(osvi_sandbox.requests) == 2

    @pytest.mark.parametrize("odd", NO_BOOLEANS, ids=repr)
    def test_resend_with_invalid_value_returns_400(
        self, operator, session, osvi_sandbox, kind, odd
    ):
        response = self.resend(operator, session, kind, resend=odd)
        assert (response.status_code, list(response.json()["errors"])) == (400, ["resend"])
        assert osvi_sandbox.requests == []


class TestErrors:
    @pytest.mark.parametrize(
        ("fault", "status", "code", "retryable"),
        [
            (Status(401, error="Invalid API token"), 502, "unauthorized", False),
            (Status(404, errors=["Session not found"]), 502, "unknown_at_osvi", False),
            (Status(422, errors=["command tell is switched off"]), 502, "rejected", False),
            (Status(429, retry_after=7), 503, "busy_at_osvi", True),
            (Status(503, retry_after=7), 503, "busy_at_osvi", True),
            (Status(500), 504, "unconfirmed", False),
            (Drop(), 504, "unconfirmed", False),
            (Junk(), 502, "bad_answer", False),
        ],
        ids=repr,
    )
    @pytest.mark.parametrize("kind", ACTIONS)
    def test_action_osvi_error_returns_matching_status(
        self, operator, session, osvi_sandbox, kind, fault, status, code, retryable
    ):
        osvi_sandbox.script(session.session_id, fault)
        response = act(operator, session, kind)
        body = response.json()
        assert response.status_code == status
        assert set(body) - OF_OSVI == {"detail", "code", "retryable", "action"}
        assert (body["code"], body["retryable"]) == (code, retryable)
        in_doubt = code in {"unconfirmed", "bad_answer"}
        assert body.get("next") == (body["action"] if in_doubt else None)
        assert "clos" not in body["detail"]
        assert response.get("Retry-After") == ("7" if retryable else None)
        [action] = operator.get(url_of(session.session_id, "actions")).json()["results"]
        assert (action["url"], action["kind"]) == (body["action"], kind)
        assert operator.get(body["action"]).json() == action
        assert action["error_code"] == code

    @pytest.mark.parametrize(
        ("fault", "status", "code"),
        [
            (Status(401), 502, "unauthorized"),
            (Status(422, errors=["No such agent"]), 502, "rejected"),
            (Status(429), 503, "busy_at_osvi"),
            (Status(500), 504, "unconfirmed"),
            (Drop(after_closing=True), 504, "unconfirmed"),
            (Junk(), 502, "bad_answer"),
        ],
        ids=repr,
    )
    @pytest.mark.parametrize(("url", "asked"), [(BASE, START), (SYNC, {"customer_id": "+49"})])
    def test_start_or_sync_osvi_error_returns_matching_status(
        self, operator, osvi_sandbox, url, asked, fault, status, code
    ):
        osvi_sandbox.script(None, fault)
        response = post(operator, url, asked)
        assert (response.status_code, response.json()["code"]) == (status, code)
        assert set(response.json()) - OF_OSVI == {"detail", "code", "retryable"}
        assert [each.method for each in osvi_sandbox.requests] == ["GET"]
        assert "clos" not in response.json()["detail"]
        assert not ChatSession.objects.exists()

    @pytest.mark.parametrize(
        ("fault", "status", "code"),
        [
            (Status(422, errors=["No such agent"]), 502, "rejected"),
            (Status(500), 504, "unconfirmed"),
            (Drop(after_closing=True), 504, "unconfirmed"),
            (Junk(), 502, "bad_answer"),
        ],
        ids=repr,
    )
    def test_start_osvi_error_after_question_returns_matching_status(
        self, operator, osvi_sandbox, fault, status, code
    ):
        script_next_starts(osvi_sandbox, fault)
        response = post(operator, BASE, START)
        assert (response.status_code, response.json()["code"]) == (status, code)
        assert not ChatSession.objects.exists()

    @pytest.mark.parametrize("kind", [*ACTIONS, "start", "sync"])
    def test_action_osvi_unreachable_returns_503(self, operator, session, settings, kind):
        settings.OSVI["default"]["BASE_URL"] = "http://127.0.0.1:1"
        response = self.ask(operator, session, kind)
        assert (response.status_code, response["Retry-After"]) == (503, "10")
        assert (response.json()["code"], response.json()["retryable"]) == ("unreachable", True)
        assert "clos" not in response.json()["detail"]

    @pytest.mark.parametrize("kind", [*ACTIONS, "start", "sync"])
    @pytest.mark.parametrize("broken", [{}, None, {"default": {"API_TOKEN": "x" * 16}}])
    def test_action_not_configured_returns_503(self, operator, session, settings, kind, broken):
        settings.OSVI = broken and {"default": broken["default"] | {"BASE_URL": "ftp://x"}}
        response = self.ask(operator, session, kind)
        assert (response.status_code, response.json()["code"]) == (503, "not_configured")
        assert "clos" not in response.json()["detail"]

    @pytest.mark.parametrize("kind", [*ACTIONS, "start", "sync"])
    def test_action_inside_transaction_returns_503(self, operator, session, osvi_sandbox, kind):
        with transaction.atomic():
            response = self.ask(operator, session, kind)
        assert (response.status_code, response.json()["code"]) == (503, "inside_transaction")
        assert "close" not in response.json()["detail"]
        assert osvi_sandbox.requests == []

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize("kind", [*ACTIONS, "start", "sync"])
    def test_action_with_atomic_requests_succeeds(self, operator, session, settings, kind):
        assert settings.DATABASES["default"]["ATOMIC_REQUESTS"]
        assert self.ask(operator, session, kind).status_code in {200, 201}

    @pytest.mark.parametrize("status", ["closed", "closing", "unconfirmed"])
    @pytest.mark.parametrize("kind", ACTIONS)
    def test_action_in_closed_session_returns_409(self, operator, osvi_sandbox, kind, status):
        session = ClosedSessionFactory(status=status, mode="support")
        response = act(operator, session, kind)
        assert (response.status_code, response.json()["code"]) == (409, "session_closed")
        assert osvi_sandbox.requests == []
        assert not SupportAction.objects.exists()

    def ask(self, client, session, kind):
        if kind in ACTIONS:
            return act(client, session, kind)
        return post(client, BASE, START) if kind == "start" else post(client, SYNC, SYNC_BODY)


SYNC_BODY = {"customer_id": "+4917"}


class TestAddresses:
    @pytest.mark.parametrize("place", REQUESTS, ids=repr)
    @pytest.mark.parametrize("odd", ["unknown", "a\x00b", "x" * 256, "../..", "sync"])
    def test_unknown_session_returns_404(self, operator, osvi_sandbox, place, odd):
        response = post(operator, url_of(odd, place[0]), place[1])
        assert (response.status_code, response.json()["code"]) == (404, "not_found")
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize("odd", ["a/b", "a/support", "ä ö?#%2F", "emoji 😀", "two\nlines"])
    @pytest.mark.parametrize("kind", ACTIONS)
    def test_action_with_odd_id_succeeds(self, operator, osvi_sandbox, odd, kind):
        session = mirror(osvi_sandbox, session_id=odd, mode="support")
        osvi_sandbox.sessions[odd].change(mode="support")
        assert act(operator, session, kind).json()["session_id"] == odd

    @pytest.mark.parametrize("what", ["support", "context", "messages", "sync"])
    def test_other_methods_return_405(self, operator, session, what):
        url = SYNC if what == "sync" else url_of(session.session_id, what)
        for method in (operator.get, operator.put, operator.patch, operator.delete):
            response = method(url)
            assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")

    @pytest.mark.parametrize(
        ("raw", "content_type", "status", "code"),
        [
            (b"{", "application/json", 400, "parse_error"),
            (b"\xff", "application/json", 400, "parse_error"),
            (b"[" * 100_000, "application/json", 400, "parse_error"),
            (b'{"content": NaN}', "application/json", 400, "parse_error"),
            (b"x", "text/plain", 415, "unsupported_media_type"),
            (b"content=x", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        ],
    )
    @pytest.mark.parametrize("what", ["support", "context", "messages", "sync", ""])
    def test_post_with_unreadable_body_returns_error(
        self, operator, osvi_sandbox, session, what, raw, content_type, status, code
    ):
        url = {"sync": SYNC, "": BASE}.get(what) or url_of(session.session_id, what)
        response = operator.post(url, raw, content_type=content_type)
        assert (response.status_code, response.json()["code"]) == (status, code)
        assert osvi_sandbox.requests == []

    @pytest.mark.urls("tests.rest.tenant_urls")
    def test_start_below_prefix_links_below_prefix(self, operator, osvi_sandbox):
        sessions = "/acme/chats/sessions/"
        location = post(operator, sessions, START)["Location"]
        assert location.startswith(f"http://testserver{sessions}")
        assert post(operator, f"{location}context/", {"context": "x"}).status_code == 200
        done = operator.get(f"{location}actions/").json()["results"]
        assert [each["kind"] for each in done] == ["start", "context"]


class TestPermission:
    ASKED = [
        (url_of("{id}", what).replace("%7B", "{").replace("%7D", "}"), body)
        for what, body in ACTIONS.values()
    ] + [(BASE, START), (SYNC, SYNC_BODY)]

    @pytest.mark.parametrize(("url", "body"), ASKED)
    def test_action_anonymous_returns_401(self, session, osvi_sandbox, url, body):
        response = post(APIClient(), url.format(id=session.session_id), body)
        assert (response.status_code, response.json()["code"]) == (401, "not_authenticated")
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize("known", [True, False])
    @pytest.mark.parametrize(("url", "body"), ASKED)
    def test_action_without_permission_returns_403(
        self, session, osvi_sandbox, client_with, url, body, known
    ):
        client = client_with("view_chatsession", "close_chatsession", "view_sessionsummary")
        response = post(client, url.format(id=session.session_id if known else "unknown"), body)
        assert response.status_code == 403
        assert response.json() == {
            "detail": "You do not have permission to operate chat sessions.",
            "code": "permission_denied",
            "retryable": False,
        }
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize("url", [BASE, SYNC])
    def test_start_or_sync_without_permission_hides_accounts(self, osvi_sandbox, client_with, url):
        asked = (START if url == BASE else SYNC_BODY) | {"account": "nobody's"}
        assert post(client_with(), url, asked).status_code == 403

    @pytest.mark.parametrize("kind", ACTIONS)
    def test_action_without_view_permission_returns_few_fields(
        self, session, operator_without_view, kind
    ):
        response = act(operator_without_view, session, kind)
        assert response.status_code == 200
        assert response.json() == {
            "session_id": session.session_id,
            "status": "active",
            "mode": "ai" if kind == "end" else "support",
            "reply": REPLY if kind == "tell" else None,
            **({"is_other_session": False} if kind == "inbound" else {}),
        }

    def test_lists_without_view_permission_return_403(self, session, operator_without_view):
        for url in (BASE, url_of(session.session_id, "actions")):
            assert operator_without_view.get(url).status_code == 403

    def test_action_with_session_cookie_requires_csrf_token(
        self, session, staff, grant, osvi_sandbox
    ):
        client = APIClient(enforce_csrf_checks=True)
        client.force_login(grant(staff, "operate_chatsession"))
        assert act(client, session, "tell").status_code == 403
        assert osvi_sandbox.requests == []


class TestCost:
    @pytest.mark.parametrize("kind", ACTIONS)
    def test_action_after_many_actions_costs_same_queries(self, session, staff, grant, kind):
        grant(staff, "operate_chatsession")
        spent = []
        for number in (0, 30):
            for _before in range(number):
                SupportAction.objects.create(session=session, kind="tell", text="x")
            client = APIClient()
            client.force_authenticate(type(staff).objects.get())
            ChatSession.objects.update(mode="support")
            with CaptureQueriesContext(connection) as queries:
                assert act(client, session, kind).status_code == 200
            spent.append(len(queries))
        assert spent[0] == spent[1] < 35


class TestStartWithOpenChat:
    @pytest.fixture
    def old(self, osvi_sandbox):
        """Create an open session of the customer and agent of START."""
        return mirror(
            osvi_sandbox, agent__uuid="agent_a", customer_id="+4917", summary="Said before."
        )

    def test_start_with_open_chat_returns_409_and_its_url(self, operator, old, osvi_sandbox):
        response = post(operator, BASE, START)
        assert response.status_code == 409
        body = response.json()
        assert (body["code"], body["retryable"]) == ("already_open", False)
        assert body["session_id"] == old.session_id
        assert old.session_id in body["detail"]
        assert operator.get(body["session"]).json()["session_id"] == old.session_id
        assert not osvi_sandbox.sessions[old.session_id].is_closed

    def test_start_with_replace_false_returns_409(self, operator, old):
        assert post(operator, BASE, START | {"replace": False}).status_code == 409

    def test_start_with_replace_closes_open_chat_first(self, operator, old, osvi_sandbox, staff):
        response = post(operator, BASE, START | {"replace": True})
        assert response.status_code == 201
        assert response.json()["session_id"] != old.session_id
        seen = operator.get(f"{BASE}{old.session_id}/").json()
        assert (seen["status"], seen["summary"]) == ("closed", "Said before.")
        attempt = old.attempts.get()
        assert (attempt.kind, attempt.via, attempt.requested_by) == ("close", "rest", staff)

    def test_start_with_replace_without_close_permission_returns_403(
        self, operator_without_view, old, osvi_sandbox
    ):
        response = post(operator_without_view, BASE, START | {"replace": True})
        assert (response.status_code, response.json()["code"]) == (403, "permission_denied")
        assert not osvi_sandbox.sessions[old.session_id].is_closed
        assert len(osvi_sandbox.sessions) == 1

    def test_start_with_replace_if_close_fails_returns_close_error(
        self, operator, old, osvi_sandbox
    ):
        osvi_sandbox.script(old.session_id, Drop())
        response = post(operator, BASE, START | {"replace": True})
        assert (response.status_code, response.json()["code"]) == (504, "unconfirmed")
        assert operator.get(response.json()["attempt"]).json()["outcome"] == "no_answer"
        assert len(osvi_sandbox.sessions) == 1

    def test_start_during_another_start_returns_409_without_session(self, operator, osvi_sandbox):
        with start_lock("default", "agent_a", "+4917", terms=Terms(seconds=60, longest=60)):
            response = post(operator, BASE, START)
        assert response.status_code == 409
        assert set(response.json()) == {"detail", "code", "retryable"}
        assert response.json()["code"] == "already_open"


@pytest.mark.django_db
class TestIdsInBodies:
    """An error names the id that is wrong."""

    @pytest.mark.parametrize(
        ("customer", "words"),
        [
            ("", "customer_id: This field is required."),
            ("x" * 256, "customer_id: This is not a valid id: use a text of 1 to 255 "),
            ("a\0b", "customer_id: This is not a valid id: it contains U+0000 or half of "),
        ],
        ids=["empty", "long", "nul"],
    )
    def test_invalid_customer_id_is_named(self, operator, osvi_sandbox, customer, words):
        for path in ("sessions/sync/", "sessions/"):
            body = {"customer_id": customer}
            response = operator.post(f"/api/osvi/{path}", body, format="json")
            assert response.status_code == 400
            assert words in response.json()["detail"]
        assert osvi_sandbox.requests == []

    def test_invalid_session_id_in_url_is_named(self, api, osvi_sandbox):
        body = {"agent_uuid": "agent_1"}
        response = api.post("/api/osvi/sessions/a%00b/close/", body, format="json")
        assert response.status_code == 400
        assert response.json()["detail"].startswith("session_id: This is not a valid id")
        assert "U+0000" in response.json()["detail"]

    def test_unknown_fields_are_named(self, operator):
        body = {"customer_id": "+1", "unknown": 1, "u2": 2}
        answer = operator.post("/api/osvi/sessions/sync/", body, format="json").json()["detail"]
        problem = "This name is unknown: use customer_id, account."
        assert answer == f"unknown: {problem} u2: {problem}"
