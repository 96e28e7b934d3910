"""Test that the HTTP mocking libraries of hosts intercept each call."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pook
import pytest
import requests_mock
import responses
import vcr
from vcr.errors import CannotOverwriteExistingCassetteException

from osvi_django.client.connections import NetworkRefused
from osvi_django.exceptions import OSVIError
from osvi_django.models import ChatSession
from osvi_django.services import close_session
from osvi_django.testing import OSVISandbox
from osvi_django.testing.factories import ChatSessionFactory
from tests.helpers.raw_server import RawServer, close_response

REAL = "https://api.osvi.ai"
SUMMARY = "The customer asked for a refund."
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def session(settings):
    settings.OSVI = {"default": {"API_TOKEN": "token-of-the-host"}}
    return ChatSessionFactory(session_id="s-1", agent__uuid="agent_1", customer_id="+15551112222")


def answer(**data):
    return {"success": True, "data": {"session_id": "s-1", **data}}


@contextmanager
def with_responses(method, path, body):
    with responses.RequestsMock() as mock:
        mock.add(method, REAL + path, json=body)
        yield


@contextmanager
def with_requests_mock(method, path, body):
    with requests_mock.Mocker() as mock:
        mock.request(method, REAL + path, json=body)
        yield


@contextmanager
def with_pook(method, path, body):
    with pook.use():
        mock = pook.mock(REAL + path, method=method, response_status=200, response_json=body)
        yield
        assert mock.calls == 1


@pytest.fixture(params=["responses", "requests_mock", "pook", "vcrpy"])
def mocked(request, tmp_path):
    """Mock one call to OSVI with one of the libraries."""

    @contextmanager
    def record(method, path, body):
        interaction = {
            "request": {"method": method, "uri": REAL + path, "body": "", "headers": {}},
            "response": {
                "status": {"code": 200, "message": "OK"},
                "headers": {"Content-Type": ["application/json"]},
                "body": {"string": json.dumps(body)},
            },
        }
        cassette = tmp_path / "cassette.json"
        cassette.write_text(json.dumps({"version": 1, "interactions": [interaction]}))
        options = {"record_mode": "none", "serializer": "json"}
        with vcr.use_cassette(str(cassette), **options) as played:
            yield
        assert played.play_count == 1

    ways = {
        "responses": with_responses,
        "requests_mock": with_requests_mock,
        "pook": with_pook,
        "vcrpy": record,
    }
    return ways[request.param]


def test_close_by_service_is_intercepted_by_mock(mocked, session):
    with mocked("POST", "/chat_sessions/s-1/close_session", answer(summary=SUMMARY)):
        result = close_session(session)
    assert result.summary.text == SUMMARY


def test_close_over_rest_is_intercepted_by_mock(mocked, session, api):
    with mocked("POST", "/chat_sessions/s-1/close_session", answer(summary=SUMMARY)):
        response = api.post("/api/osvi/sessions/s-1/close/", {}, format="json")
    assert (response.status_code, response.data["summary"]) == (200, SUMMARY)


def test_close_with_v1_call_is_intercepted_by_mock(mocked, session, settings):
    settings.OSVI["default"]["CLOSE_WITH"] = "v1"
    told = answer(state="ok", command="close")
    with mocked("POST", "/v1/chat/session/s-1/support", told):
        close_session(session)
    session.refresh_from_db()
    assert session.status == ChatSession.Status.CLOSED


@pytest.fixture
def server(settings):
    """Run a real server at the configured URL, and check that nothing reaches it."""
    with RawServer(close_response(summary="From the real server.")) as running:
        settings.OSVI = {"default": {"API_TOKEN": "token-of-the-host", "BASE_URL": running.url}}
        yield running
    assert running.connections == 0


def test_vcrpy_without_recording_sends_nothing(session, server, tmp_path):
    cassette = vcr.use_cassette(str(tmp_path / "empty.yaml"), record_mode="none")
    with cassette, pytest.raises(CannotOverwriteExistingCassetteException):
        close_session(session)


def test_vcrpy_without_recording_sends_nothing_on_reused_connection(session, tmp_path, settings):
    other = ChatSessionFactory(session_id="s-2", agent=session.agent)
    with RawServer(close_response("s-1"), close_response("s-2")) as running:
        settings.OSVI = {"default": {"API_TOKEN": "token-of-the-host", "BASE_URL": running.url}}
        close_session(session)
        cassette = vcr.use_cassette(str(tmp_path / "empty.yaml"), record_mode="none")
        with cassette, pytest.raises(CannotOverwriteExistingCassetteException):
            close_session(other)
        assert len(running.calls) == 1


def test_vcrpy_records_and_replays_answers_of_sandbox(session, tmp_path, settings, mirrored):
    with OSVISandbox() as osvi:
        settings.OSVI = {"default": {"API_TOKEN": osvi.token, "BASE_URL": osvi.url}}
        osvi.add_session(session_id="s-1", agent_uuid="agent_1", summary=SUMMARY)
        with vcr.use_cassette(str(tmp_path / "new.yaml")) as recorded:
            assert close_session(session).summary.text == SUMMARY
        assert len(recorded) == 1
        session.summary.delete()
        ChatSession.objects.update(status=ChatSession.Status.ACTIVE)
        with vcr.use_cassette(str(tmp_path / "new.yaml"), record_mode="none"):
            assert close_session(session).summary.text == SUMMARY
        assert osvi.close_requests("s-1") == 1
        other = ChatSessionFactory(session_id="s-2", agent=session.agent)
        osvi.add_session(session_id="s-2", agent_uuid="agent_1", summary="Not recorded.")
        assert close_session(other).summary.text == "Not recorded."


def test_vcrpy_that_records_cannot_reach_other_machines(session, tmp_path):
    with vcr.use_cassette(str(tmp_path / "new.yaml")), pytest.raises(NetworkRefused):
        close_session(session)
    session.refresh_from_db()
    assert session.status == ChatSession.Status.ACTIVE


def responses_with_passthrough():
    mock = responses.RequestsMock()
    mock.add_passthru(REAL)
    return mock


@pytest.mark.parametrize(
    "mock",
    [
        responses_with_passthrough,
        lambda: requests_mock.Mocker(real_http=True),
        lambda: pook.use(network=True),
    ],
    ids=["responses", "requests_mock", "pook"],
)
def test_mock_with_passthrough_cannot_reach_other_machines(session, mock):
    with mock(), pytest.raises(NetworkRefused):
        close_session(session)
    session.refresh_from_db()
    assert session.status == ChatSession.Status.ACTIVE


@pytest.mark.parametrize(
    ("mock", "error"),
    [
        (responses.RequestsMock, OSVIError),
        (requests_mock.Mocker, requests_mock.NoMockAddress),
        (pook.use, pook.exceptions.PookNoMatches),
    ],
    ids=["responses", "requests_mock", "pook"],
)
def test_mock_without_answer_sends_nothing(session, server, mock, error):
    with mock(), pytest.raises(error):
        close_session(session)
