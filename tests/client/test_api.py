"""Test every call except the close, in both dialects: requests, answers and invalid input."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from types import MappingProxyType

import pytest
from django.utils import translation

from osvi_django.client.responses import (
    RemoteSession,
    Reply,
    StartedSession,
    SupportAnswer,
    read_session,
)
from osvi_django.exceptions import (
    InvalidInput,
    OSVIBadAnswer,
    OSVIGatewayRefused,
    OSVINoAnswer,
    OSVIRejected,
    OSVIThrottled,
    OSVIUnauthorized,
    OSVIUnreachable,
)
from tests.client.conftest import TOKEN
from tests.helpers.raw_server import RawServer, http_response

VENDORS = {
    "id": "s-1",
    "chat_agent_id": 42,
    "account_id": 7,
    "customer_id": "+1 5",
    "mode": "ai",
    "help_requested": False,
    "status": "active",
    "current_state": None,
    "metadata": {"input_fields": {"first_name": "Alex"}, "state_fields": {}, "context": ["..."]},
    "active_human": None,
    "created_at": "2026-06-04T11:40:25.690486Z",
    "updated_at": "2026-06-04T11:40:25.690486Z",
}
MOMENT = datetime(2026, 6, 4, 11, 40, 25, 690486, tzinfo=UTC)
STARTED = {"session_id": "s-1", "agent_name": "Maya", "started_at": "2026-06-04T11:40:25.690486"}
STARTED["welcome_message"] = "Hello!"
SUPPORT = "/v1/chat/session/s%2F1/support"

# The call, the request line, the request body, the data of the answer, and the result.
CALLS = {
    "create": (
        lambda client: client.create_session(
            agent_uuid="a",
            customer_id="+1 5",
            input_fields={"first_name": "Zoë"},
            context=["x", "y"],
        ),
        "POST /v1/chat/session",
        {
            "agent_uuid": "a",
            "customer_id": "+1 5",
            "input_fields": {"first_name": "Zoë"},
            "context": ["x", "y"],
        },
        VENDORS,
        read_session(VENDORS),
    ),
    "create plainly": (
        lambda client: client.create_session(agent_uuid="a", customer_id="+1 5"),
        "POST /v1/chat/session",
        {"agent_uuid": "a", "customer_id": "+1 5"},
        VENDORS,
        read_session(VENDORS),
    ),
    "active": (
        lambda client: client.active_session("+1 5", agent_uuid="a"),
        "GET /v1/chat/session/active?customer_id=%2B1+5&agent_uuid=a",
        None,
        VENDORS,
        read_session(VENDORS),
    ),
    "all active": (
        lambda client: client.active_sessions("+1 5"),
        "GET /v1/chat/session/active?customer_id=%2B1+5",
        None,
        {"a": VENDORS, "b": {**VENDORS, "status": "closed"}},
        {"a": read_session(VENDORS)},
    ),
    "inbound": (
        lambda client: client.inbound(
            agent_uuid="a", customer_id="+1", content="Hi", session_id="s-1"
        ),
        "POST /v1/chat/inbound",
        {"agent_uuid": "a", "customer_id": "+1", "content": "Hi", "session_id": "s-1"},
        {"session_id": "s-1", "reply": "Hello"},
        Reply(session_id="s-1", text="Hello"),
    ),
    "inbound to whatever is open": (
        lambda client: client.inbound(agent_uuid="a", customer_id="+1", content="Hi"),
        "POST /v1/chat/inbound",
        {"agent_uuid": "a", "customer_id": "+1", "content": "Hi"},
        {"session_id": "s-9", "reply": None},
        Reply(session_id="s-9", text=None),
    ),
    "context": (
        lambda client: client.inject_context("s/1", "He is a guest."),
        "POST /v1/chat/session/s%2F1/inject_context",
        {"context": "He is a guest."},
        {"session_id": "s/1", "context": ["x", 7, "a\x00"]},
        ("x", "a\ufffd"),
    ),
    "takeover": (
        lambda client: client.support("s/1", command="takeover"),
        f"POST {SUPPORT}",
        {"command": "takeover"},
        {"state": "ok", "session_id": "s/1", "active_human": {"name": "Sam", "age": float("inf")}},
        SupportAnswer(session_id="s/1", active_human='{"name": "Sam", "age": "inf"}'),
    ),
    "takeover by somebody": (
        lambda client: client.support("s/1", command="takeover"),
        f"POST {SUPPORT}",
        {"command": "takeover"},
        {"active_human": "Sam"},
        SupportAnswer(session_id="s/1", active_human="Sam"),
    ),
    "tell": (
        lambda client: client.support("s/1", command="tell", message="Offer 10%"),
        f"POST {SUPPORT}",
        {"command": "tell", "message": "Offer 10%"},
        {"reply": "We offer 10%."},
        SupportAnswer(session_id="s/1", reply="We offer 10%."),
    ),
    "whisper": (
        lambda client: client.support("s/1", command="whisper", message="Be kind"),
        f"POST {SUPPORT}",
        {"command": "whisper", "message": "Be kind"},
        {"state": "ok"},
        SupportAnswer(session_id="s/1"),
    ),
    "end": (
        lambda client: client.support("s/1", command="end"),
        f"POST {SUPPORT}",
        {"command": "end"},
        {"state": "ok"},
        SupportAnswer(session_id="s/1"),
    ),
    "message": (
        lambda client: client.support("s/1", message="I am Sam."),
        f"POST {SUPPORT}",
        {"message": "I am Sam."},
        {"state": "ok"},
        SupportAnswer(session_id="s/1"),
    ),
    "legacy start": (
        lambda client: client.start_legacy_session(agent_uuid="a", person_name="Alex"),
        "POST /chat_sessions",
        {"agent_uuid": "a", "metadata": {"person_name": "Alex"}},
        STARTED,
        StartedSession(
            session_id="s-1", agent_name="Maya", started_at=MOMENT, welcome_message="Hello!"
        ),
    ),
    "legacy start plainly": (
        lambda client: client.start_legacy_session(agent_uuid="a"),
        "POST /chat_sessions",
        {"agent_uuid": "a"},
        {"success": True, "session_id": "s-1"},
        StartedSession(session_id="s-1"),
    ),
    "legacy message": (
        lambda client: client.send_legacy_message("s-1", agent_uuid="a", message="Hi"),
        "POST /chat_messages/send_message",
        {"agent_uuid": "a", "chat_session_id": "s-1", "message": "Hi"},
        {"response": "Hello", "tool_calls": [], "tool_results": [], "current_state": None},
        Reply(session_id="s-1", text="Hello"),
    ),
    "legacy pause": (
        lambda client: client.pause_legacy_session("s/1", agent_uuid="a"),
        "POST /chat_sessions/s%2F1/pause_session",
        {"agent_uuid": "a"},
        {"session_id": "s/1", "message": "Session paused"},
        None,
    ),
}


def success_response(data):
    return http_response(json.dumps({"success": True, "data": data}).encode())


@pytest.fixture(params=CALLS)
def call(request):
    return CALLS[request.param]


def test_call_sends_documented_request_and_returns_parsed_answer(call, make_client):
    ask, target, body, data, expected = call
    # The vendor may add fields at any time.
    with RawServer(
        success_response({**data} | ({} if "b" in data else {"added": {"x": [1]}}))
    ) as server:
        found = ask(make_client(server.url))
    [sent] = server.calls
    assert sent.line == f"{target} HTTP/1.1"
    assert sent.headers["api-token"] == TOKEN
    assert sent.body == (b"" if body is None else json.dumps(body).encode())
    if isinstance(found, RemoteSession):
        assert found.payload.pop("added") == {"x": [1]}
    assert found == expected


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (http_response(b'{"success": false, "error": "no"}', status=401), OSVIUnauthorized),
        (http_response(b'{"success": false, "errors": ["no"]}', status=422), OSVIRejected),
        (http_response(b"<h1>Not found</h1>", status=404), OSVIGatewayRefused),
        (http_response(status=429, headers=[("Retry-After", "3")]), OSVIThrottled),
        (http_response(status=503, headers=[("Retry-After", "3")]), OSVIThrottled),
        (http_response(status=500), OSVINoAnswer),
        (http_response(status=302, headers=[("Location", "/")]), OSVIBadAnswer),
        (http_response(b"[]"), OSVIBadAnswer),
        (http_response(b"{}"), OSVIBadAnswer),
        (http_response(b'{"success": true, "data": []}'), OSVIBadAnswer),
        (lambda call: call.reset(), OSVINoAnswer),
        (lambda call: call.hang_up(), OSVINoAnswer),
    ],
)
def test_call_with_failed_answer_raises_error_without_retry(call, make_client, reply, error):
    with RawServer(reply) as server, pytest.raises(error) as caught:
        call[0](make_client(server.url))
    assert type(caught.value) is error
    assert len(server.calls) == 1


def test_call_that_cannot_connect_raises_retryable_unreachable(call, make_client):
    with RawServer() as server:
        url = server.url
    with pytest.raises(OSVIUnreachable) as caught:
        call[0](make_client(url))
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("name", "data", "field"),
    [
        *(("create", {**VENDORS, "id": value}, "id") for value in (None, "", 7, "a\x00", "\ud83d")),
        ("create", {**VENDORS, "status": None}, "status"),
        ("create", {**VENDORS, "mode": 1}, "mode"),
        ("create", {**VENDORS, "customer_id": 1555}, "customer_id"),
        ("create", {**VENDORS, "customer_id": {}}, "customer_id"),
        ("create", {**VENDORS, "customer_id": "a\x00"}, "customer_id"),
        *(("create", {**VENDORS, "chat_agent_id": x}, "chat_agent_id") for x in (True, "42", 4.2)),
        *(("create", {**VENDORS, "chat_agent_id": x}, "chat_agent_id") for x in (-1, 2**63)),
        ("create", {**VENDORS, "help_requested": "no"}, "help_requested"),
        *(
            ("create", {**VENDORS, "updated_at": value}, "updated_at")
            for value in (
                7,
                "yesterday",
                "2026-13-01T00:00:00Z",
                "0001-01-01T00:00:00+14:00",
                "0900-01-01T00:00:00Z",
                "9999-12-31T23:59:59Z",
                "2026-01-01T00:00:00+99:99",
            )
        ),
        ("active", {"status": "active"}, "id"),
        ("all active", {"a": VENDORS, "b": "closed"}, "b"),
        ("all active", {"a": {"id": "s-1"}}, "status"),
        ("inbound", {"session_id": 7}, "session_id"),
        ("inbound", {"reply": ["Hello"]}, "reply"),
        ("inbound to whatever is open", {"reply": "Hello"}, "session_id"),
        ("context", {"session_id": "s/1"}, "context"),
        ("context", {"context": "x"}, "context"),
        ("tell", {"reply": 7}, "reply"),
        ("legacy start", {}, "session_id"),
        ("legacy start", {**STARTED, "agent_name": 7}, "agent_name"),
        ("legacy start", {**STARTED, "started_at": "soon"}, "started_at"),
        ("legacy message", {"response": 7}, "response"),
    ],
)
def test_answer_with_missing_or_mistyped_field_raises_error_with_its_name(
    make_client, name, data, field
):
    with RawServer(success_response(data)) as server, pytest.raises(OSVIBadAnswer) as caught:
        CALLS[name][0](make_client(server.url))
    assert f"“{field}”" in str(caught.value)
    assert caught.value.status == 200


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda c: c.create_session(agent_uuid="", customer_id="+1"), "agent_uuid"),
        (lambda c: c.create_session(agent_uuid="a", customer_id=" "), "customer_id"),
        (lambda c: c.create_session(agent_uuid="a", customer_id=None), "customer_id"),
        *(
            (
                lambda c, x=x: c.create_session(agent_uuid="a", customer_id="+1", input_fields=x),
                "input_fields",
            )
            for x in ({"x": float("nan")}, {"x": {1}}, [1], "abc", {(1, 2): 3})
        ),
        (lambda c: c.create_session(agent_uuid="a", customer_id="+1", context="abc"), "context"),
        (lambda c: c.create_session(agent_uuid="a", customer_id="+1", context=[""]), "context"),
        (lambda c: c.active_session("a\x00", agent_uuid="a"), "customer_id"),
        (lambda c: c.active_sessions(None), "customer_id"),
        (lambda c: c.inbound(agent_uuid="a", customer_id="+1", content=""), "content"),
        (lambda c: c.inbound(agent_uuid="", customer_id="+1", content="x"), "agent_uuid"),
        (lambda c: c.inbound(agent_uuid="a", customer_id="", content="x"), "customer_id"),
        (
            lambda c: c.inbound(agent_uuid="a", customer_id="+1", content="x", session_id="\ud83d"),
            "session_id",
        ),
        (lambda c: c.inject_context("s-1", "\ud83d"), "context"),
        *(
            (lambda c, x=x: c.inject_context(x, "y"), "session_id")
            for x in ("", ".", "..", None, 7)
        ),
        (lambda c: c.support("s-1"), "message"),
        (lambda c: c.support("s-1", command="tell"), "message"),
        (lambda c: c.support("s-1", command="whisper", message=" "), "message"),
        (lambda c: c.support("s-1", command="close"), "command"),
        (lambda c: c.support("\x00", command="end"), "session_id"),
        (lambda c: c.start_legacy_session(agent_uuid=""), "agent_uuid"),
        (lambda c: c.start_legacy_session(agent_uuid="a", person_name="\x00"), "person_name"),
        (lambda c: c.send_legacy_message("", agent_uuid="a", message="x"), "session_id"),
        (lambda c: c.send_legacy_message("s", agent_uuid="", message="x"), "agent_uuid"),
        (lambda c: c.send_legacy_message("s", agent_uuid="a", message=""), "message"),
        (lambda c: c.pause_legacy_session("s", agent_uuid=""), "agent_uuid"),
        (lambda c: c.pause_legacy_session("..", agent_uuid="a"), "session_id"),
    ],
)
def test_unsendable_argument_raises_invalid_input_with_its_name(osvi, make_client, call, field):
    with pytest.raises(InvalidInput) as caught:
        call(make_client(osvi.url))
    assert caught.value.field == field
    assert osvi.requests == []


def test_create_session_with_any_mapping_sends_input_fields(osvi, make_client):
    fields = MappingProxyType({"first_name": "Alex", "visits": 3})
    make_client(osvi.url).create_session(agent_uuid="a", customer_id="+1", input_fields=fields)
    [request] = osvi.requests
    assert request.body["input_fields"] == {"first_name": "Alex", "visits": 3}


def test_conversation_in_both_dialects_succeeds_on_sandbox(osvi, make_client):
    client = make_client(osvi.url)
    started = client.start_legacy_session(agent_uuid="a", person_name="Alex")
    assert client.send_legacy_message(started.session_id, agent_uuid="a", message="Hi").text
    client.pause_legacy_session(started.session_id, agent_uuid="a")
    assert osvi.sessions[started.session_id].status == "dormant"
    remote = client.create_session(agent_uuid="a", customer_id="+1", context=list("abcdef"))
    assert osvi.sessions[remote.session_id].context == list("bcdef")
    assert client.active_session("+1", agent_uuid="a") == remote
    assert client.active_sessions("+1") == {"a": remote}
    assert client.inject_context(remote.session_id, "g") == tuple("cdefg")
    assert client.support(remote.session_id, command="takeover").active_human == "Support operator"
    said = client.inbound(
        agent_uuid="a", customer_id="+1", content="Hi", session_id=remote.session_id
    )
    assert (said.session_id, said.text) == (remote.session_id, None)
    assert (said.mode, said.help_requested) == ("support", False)
    client.support(remote.session_id, message="I am Sam.")
    client.support(remote.session_id, command="end")
    assert client.support(remote.session_id, command="tell", message="x").reply
    client.support(remote.session_id, command="whisper", message="x")
    osvi.switched_off.add(("a", "whisper"))
    with pytest.raises(OSVIRejected, match="command whisper is switched off"):
        client.support(remote.session_id, command="whisper", message="x")


def test_active_sessions_with_wrong_base_url_raises_rejected(osvi, make_client):
    with pytest.raises(OSVIRejected):
        make_client(f"{osvi.url}/api").active_sessions("+1")
    assert make_client(osvi.url).active_sessions("+1") == {}
    with RawServer(http_response(b'{"success": false}', status=404)) as server:
        assert make_client(server.url).active_sessions("+1") == {}


def test_payload_of_session_with_odd_values_is_storable_json():
    deep = {}
    for _level in range(900):
        deep = {"x": [deep]}
    told = {
        "nan": float("nan"),
        "inf": [float("-inf"), 1.5],
        "nul\x00": ("a\x00", "\ud83d"),
        "big": [2**70, 10**5000, -(2**63), True],
        "kind": datetime(2026, 1, 1, tzinfo=UTC),
        "deep": deep,
    }
    payload = read_session({**VENDORS, "metadata": told}).payload["metadata"]
    json.dumps(payload, allow_nan=False).encode()
    assert payload["nan"] == "nan"
    assert payload["inf"] == ["-inf", 1.5]
    assert payload["nul\ufffd"] == ["a\ufffd", "\ufffd"]
    assert payload["big"] == [hex(2**70), hex(10**5000), -(2**63), True]
    assert payload["kind"] == "2026-01-01 00:00:00+00:00"
    assert json.dumps(payload["deep"]).count("{") < 20


def test_repr_of_results_contains_no_text():
    told = [
        read_session(VENDORS),
        Reply(session_id="s", text="secret"),
        SupportAnswer(session_id="s", reply="secret"),
        StartedSession(session_id="s", welcome_message="secret"),
    ]
    assert "secret" not in repr(told)
    assert "Alex" not in repr(told)


def test_deeply_nested_input_fields_raise_invalid_input(osvi, make_client):
    deep: dict[str, object] = {}
    for _level in range(30):
        deep = {"x": [deep]}
    with pytest.raises(InvalidInput, match="nested deeper") as caught:
        make_client(osvi.url).create_session(
            agent_uuid="a", customer_id="+1", input_fields={"first_name": "Zoë", "x": deep}
        )
    assert (caught.value.field, osvi.requests) == ("input_fields", [])


SENTENCES = (
    "agent_uuid is required: give the agent that the session belongs to.",
    (
        "This is not a valid id: it contains U+0000 or half of a surrogate pair, which cannot "
        "be stored."
    ),
    "command is not known: use one of %(known)s.",
    ("This is not a valid id: use a text of 1 to %(length)d characters, other than “.” and “..”."),
    (
        "%(field)s is missing or contains a character that cannot be sent (NUL or an unpaired "
        "surrogate)."
    ),
    "%(field)s contains a value that JSON does not have: use texts, numbers and lists.",
    "%(field)s is nested deeper than %(levels)d levels: use fewer.",
    "%(field)s must be a list of texts.",
)


@pytest.fixture
def german(monkeypatch):
    """Translate these sentences, and activate the translation for one test."""
    catalogue = translation.trans_real.translation("de")
    for text in SENTENCES:
        monkeypatch.setitem(catalogue._catalog._catalogs[0], text, f"Ach, {text}")
    with translation.override("de"):
        yield


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda client: client.close_session("s"), "agent_uuid"),
        (lambda client: client.close_session("..", agent_uuid="a"), "session_id"),
        (lambda client: client.active_sessions("\x00"), "customer_id"),
        (lambda client: client.support("s", command="explode"), "command"),
        (lambda client: client.support("s", command="tell"), "message"),
        (lambda client: create(client, input_fields={"x": {1}}), "input_fields"),
        (lambda client: create(client, input_fields=nested(30)), "input_fields"),
        (lambda client: create(client, context="text"), "context"),
        (lambda client: create(client, context=["a", ""]), "context"),
    ],
)
def test_invalid_input_in_other_language_is_translated(osvi, make_client, german, call, field):
    with pytest.raises(InvalidInput) as caught:
        call(make_client(osvi.url))
    assert (caught.value.field, osvi.requests) == (field, [])
    said = str(caught.value)
    assert (field in said, "Ach, " in said) == (True, True)


def create(client, **what):
    return client.create_session(agent_uuid="a", customer_id="+1", **what)


def nested(levels):
    return {"x": nested(levels - 1)} if levels else {}
