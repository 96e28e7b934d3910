"""Test the call that returns a customer's open session: ``GET /v1/chat/session/active``."""

from __future__ import annotations

import json

import pytest

from osvi_django.client import OSVIClient
from osvi_django.exceptions import (
    InvalidInput,
    OSVIBadAnswer,
    OSVIGatewayRefused,
    OSVINoAnswer,
    OSVIRejected,
    OSVIThrottled,
    OSVIUnauthorized,
)
from osvi_django.testing import OSVISandbox, Status
from tests.helpers.raw_server import RawServer, http_response


@pytest.fixture
def ask(make_client):
    def _ask(url, customer_id="+1 555", **options):
        return make_client(url, **options).active_session(customer_id, agent_uuid="agent_1")

    return _ask


def session(**data):
    return http_response(json.dumps({"success": True, "data": {"id": "s-1", **data}}).encode())


@pytest.mark.parametrize("customer_id", ["+1 555", "a&b=c#d/e?f", "%2B", "été \U0001f600"])
def test_active_session_of_customer_with_open_session_returns_it(osvi, ask, customer_id):
    osvi.add_session("s-1", agent_uuid="agent_1", customer_id=customer_id)
    found = ask(osvi.url, customer_id)
    assert (found.session_id, found.status, found.customer_id) == ("s-1", "active", customer_id)
    (request,) = osvi.requests
    assert (request.method, request.path) == ("GET", "/v1/chat/session/active")
    query = {"customer_id": customer_id, "agent_uuid": "agent_1"}
    assert request.query == query
    assert request.raw == b""


def test_active_session_of_customer_without_open_session_returns_none(osvi, ask):
    assert ask(osvi.url) is None


def test_active_session_answered_with_closed_session_returns_none(ask):
    with RawServer(session(status="closed")) as server:
        assert ask(server.url) is None


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (http_response(b"<html>Not found", status=404), OSVIGatewayRefused),
        (http_response(b'{"success": false}', status=401), OSVIUnauthorized),
        (http_response(status=429), OSVIThrottled),
        (http_response(status=500), OSVINoAnswer),
        (http_response(b"{}"), OSVIBadAnswer),
        (http_response(b"[]"), OSVIBadAnswer),
        (session(), OSVIBadAnswer),
        (session(status=None), OSVIBadAnswer),
        (session(status="active", id=7), OSVIBadAnswer),
        (http_response(status=302, headers=[("Location", "/")]), OSVIBadAnswer),
    ],
)
def test_active_session_with_bad_answer_raises_error_without_retry(ask, reply, error):
    with RawServer(reply) as server, pytest.raises(error):
        ask(server.url)
    assert len(server.calls) == 1


def test_active_session_with_unsendable_customer_raises_invalid_input(osvi, ask):
    with pytest.raises(InvalidInput) as caught:
        ask(osvi.url, "\ud83d")
    assert caught.value.field == "customer_id"
    assert osvi.requests == []


def test_log_of_active_session_does_not_contain_customer(osvi, ask, caplog):
    caplog.set_level("DEBUG", logger="osvi_django.client")
    ask(osvi.url, "+15551112222")
    assert "GET /v1/chat/session/active: 404" in caplog.text
    assert "5551112222" not in "".join(
        record.getMessage() for record in caplog.records if record.name == "osvi_django.client"
    )


@pytest.mark.parametrize("path", ["", "/"])
def test_active_session_ids_answered_404_by_osvi_returns_empty_set(path):
    with OSVISandbox() as osvi:
        osvi.script(None, Status(404, errors=["Not found"]))
        client = OSVIClient(token=osvi.token, base_url=osvi.url + path)
        assert client.active_session_ids("+1555") == frozenset()


@pytest.mark.parametrize(
    ("path", "fault", "error"),
    [
        ("/api", Status(404, errors=["Not found"]), OSVIRejected),
        ("", Status(404, body=b"<h1>404</h1>"), OSVIGatewayRefused),
    ],
)
def test_active_session_ids_answered_404_by_another_server_raises_error(path, fault, error):
    with OSVISandbox() as osvi:
        osvi.script(None, fault)
        client = OSVIClient(token=osvi.token, base_url=osvi.url + path)
        with pytest.raises(error):
            client.active_session_ids("+1555")


def test_active_session_ids_contains_sessions_of_all_agents():
    with OSVISandbox() as osvi:
        client = OSVIClient(token=osvi.token, base_url=osvi.url)
        assert client.active_session_ids("+1555") == frozenset()
        chats = [osvi.add_session(agent_uuid=uuid, customer_id="+1555") for uuid in ("a", "b")]
        assert client.active_session_ids("+1555") == {chat.id for chat in chats}
