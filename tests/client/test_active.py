"""Asking which session is open: ``GET /v1/chat/session/active``."""

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
def test_the_open_session_of_a_customer_is_found(osvi, ask, customer_id):
    osvi.add_session("s-1", agent_uuid="agent_1", customer_id=customer_id)
    found = ask(osvi.url, customer_id)
    assert (found.session_id, found.status, found.customer_id) == ("s-1", "active", customer_id)
    (request,) = osvi.requests
    assert (request.method, request.path) == ("GET", "/v1/chat/session/active")
    query = {"customer_id": customer_id, "agent_uuid": "agent_1"}
    assert request.query == query
    assert request.raw == b""


def test_no_open_session_is_none(osvi, ask):
    assert ask(osvi.url) is None


def test_a_closed_one_is_none_that_is_open(ask):
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
def test_anything_else_is_an_error(ask, reply, error):
    with RawServer(reply) as server, pytest.raises(error):
        ask(server.url)
    assert len(server.calls) == 1


def test_what_cannot_be_sent_is_refused_first(osvi, ask):
    with pytest.raises(InvalidInput) as caught:
        ask(osvi.url, "\ud83d")
    assert caught.value.field == "customer_id"
    assert osvi.requests == []


def test_our_log_does_not_name_the_customer(osvi, ask, caplog):
    caplog.set_level("DEBUG", logger="osvi_django.client")
    ask(osvi.url, "+15551112222")
    assert "GET /v1/chat/session/active: 404" in caplog.text
    assert "5551112222" not in "".join(
        record.getMessage() for record in caplog.records if record.name == "osvi_django.client"
    )


@pytest.mark.parametrize("path", ["", "/"])
def test_a_404_to_the_list_means_none(path):
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
def test_a_404_that_may_come_from_elsewhere_means_nothing(path, fault, error):
    with OSVISandbox() as osvi:
        osvi.script(None, fault)
        client = OSVIClient(token=osvi.token, base_url=osvi.url + path)
        with pytest.raises(error):
            client.active_session_ids("+1555")


def test_the_list_is_of_all_agents():
    with OSVISandbox() as osvi:
        client = OSVIClient(token=osvi.token, base_url=osvi.url)
        assert client.active_session_ids("+1555") == frozenset()
        chats = [osvi.add_session(agent_uuid=uuid, customer_id="+1555") for uuid in ("a", "b")]
        assert client.active_session_ids("+1555") == {chat.id for chat in chats}
