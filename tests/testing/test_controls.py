"""Test the calls of the sandbox's own, as a developer makes them with curl."""

from __future__ import annotations

import pytest
import requests

from osvi_django.exceptions import OSVINoAnswer, OSVIThrottled
from osvi_django.services import close_session, recover_session, sync_customer
from tests.helpers.sandbox import mirror


@pytest.fixture
def control(osvi_sandbox):
    """Return what sends such a call about a session."""

    def _control(session_id, call, token=osvi_sandbox.token, **sent):
        return requests.post(
            f"{osvi_sandbox.url}/sandbox/{session_id}/{call}",
            headers={"API-Token": token},
            timeout=10,
            **sent,
        )

    return _control


@pytest.mark.django_db
class TestControls:
    @pytest.fixture
    def session(self, osvi_sandbox):
        return mirror(osvi_sandbox, summary="Fine.")

    def test_customer_who_asks_for_a_person_is_seen_by_the_site(self, control, session):
        answer = control(session.session_id, "request_help")
        assert (answer.status_code, answer.json()["data"]["help_requested"]) == (200, True)
        sync_customer(session.customer_id)
        session.refresh_from_db()
        assert session.help_requested

    def test_customer_who_writes_is_in_the_conversation(self, control, session, osvi_sandbox):
        at_osvi = osvi_sandbox.sessions[session.session_id]
        at_osvi.change(status="dormant")
        answer = control(session.session_id, "customer_writes", json={"text": "Hello?"})
        assert answer.json()["data"]["status"] == "active"
        assert at_osvi.messages[-1] == ("customer", "Hello?")

    def test_next_call_fails_with_the_status_and_does_nothing(self, control, session):
        assert control(session.session_id, "fail", json={"status": 429}).status_code == 200
        with pytest.raises(OSVIThrottled):
            close_session(session)
        assert session.is_open

    def test_next_call_is_done_but_not_answered(self, control, session):
        control(session.session_id, "fail")
        with pytest.raises(OSVINoAnswer):
            close_session(session)
        recover_session(session)
        assert session.status == "closed"

    def test_controls_are_no_requests_to_osvi(self, control, session, osvi_sandbox):
        control(session.session_id, "request_help")
        assert osvi_sandbox.requests == []


@pytest.mark.parametrize(
    ("call", "sent", "status"),
    [
        ("request_help", {"token": "wrong"}, 401),
        ("dance", {}, 404),
        ("customer_writes", {}, 422),
        ("customer_writes", {"json": {"text": 5}}, 422),
        ("fail", {"json": {"status": "429"}}, 422),
        ("fail", {"json": {"status": 200}}, 422),
        ("fail", {"json": {"status": 600}}, 422),
    ],
)
def test_control_that_cannot_be_carried_out_is_refused(osvi_sandbox, control, call, sent, status):
    chat = osvi_sandbox.add_session()
    assert control(chat.id, call, **sent).status_code == status


def test_control_of_unknown_session_is_refused(osvi_sandbox, control):
    assert control("unknown", "request_help").status_code == 404


@pytest.mark.parametrize("body", [["x"], "x", 5])
def test_control_with_a_body_that_is_no_object_is_refused(osvi_sandbox, control, body):
    chat = osvi_sandbox.add_session()
    assert control(chat.id, "fail", json=body).status_code == 422
