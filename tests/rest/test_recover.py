"""Tests of ``POST sessions/{session_id}/recover/`` and of the attempts that errors link to."""

from __future__ import annotations

from datetime import timedelta

import pytest
from rest_framework.test import APIClient

from osvi_django.database import DatabaseNow
from osvi_django.models import ChatSession
from osvi_django.testing import Drop, Status
from osvi_django.testing.factories import (
    ChatSessionFactory,
    CloseAttemptFactory,
    ClosedSessionFactory,
)

pytestmark = pytest.mark.django_db

BASE = "/api/osvi/sessions/"


@pytest.fixture
def lost(unconfirmed):
    """Create a session that OSVI has closed and whose answer was lost."""
    return unconfirmed(Drop(after_closing=True), summary="All is well.")


def recover(client, session):
    return client.post(f"{BASE}{session.session_id}/recover/")


class TestRecover:
    def test_recover_returns_session_and_settlement(self, api, lost, staff):
        response = recover(api, lost)
        body = response.json()
        assert response.status_code == 200
        assert (body["settled"], body["detail"]) == ("stored", None)
        assert (body["status"], body["summary"]) == ("closed", "All is well.")
        fetch = ChatSession.objects.get().attempts.first()
        assert (fetch.requested_by, fetch.via) == (staff, "rest")

    def test_recover_if_osvi_fails_returns_unchanged(self, api, lost, osvi_sandbox):
        osvi_sandbox.script(None, Status(500))
        body = recover(api, lost).json()
        assert (body["settled"], body["status"]) == ("unchanged", "unconfirmed")
        assert body["detail"].startswith("OSVI did not answer, so it is still not known")
        assert body["error_code"] == "unconfirmed"
        assert body["error_reason"] == "Internal Server Error"
        assert body["next"] == f"http://testserver{BASE}{lost.session_id}/recover/"

    def test_recover_closed_session_returns_already_settled(self, api, osvi_sandbox):
        body = recover(api, ClosedSessionFactory()).json()
        assert (body["settled"], body["next"]) == ("already_settled", None)
        assert body["detail"] == "Nothing to check: this chat's status is known."
        assert osvi_sandbox.requests == []

    def test_recover_with_unknown_field_returns_400(self, api, lost, osvi_sandbox):
        asked = len(osvi_sandbox.requests)
        response = api.post(f"{BASE}{lost.session_id}/recover/", {"again": True}, format="json")
        assert (response.status_code, response.json()["code"]) == (400, "invalid")
        assert response.json()["detail"] == "again: This name is unknown: leave it out."
        assert len(osvi_sandbox.requests) == asked

    def test_recover_without_view_permission_hides_fields(self, lost, client_with):
        assert recover(client_with("close_chatsession"), lost).json() == {
            "session_id": lost.session_id,
            "status": "closed",
            "mode": "ai",
            "summary": None,
            "summary_status": "stored",
            "settled": "stored",
            "detail": None,
            "error_code": None,
            "error_reason": None,
            "next": None,
        }

    def test_recover_in_progress_returns_409(self, api, lost):
        ChatSession.objects.update(status="closing", lease_until=DatabaseNow() + timedelta(hours=1))
        response = recover(api, lost)
        assert (response.status_code, response.json()["code"]) == (409, "close_in_progress")
        assert "attempt" in response.json()

    def test_recover_unknown_session_returns_404(self, api):
        assert recover(api, ChatSession(session_id="unknown")).status_code == 404

    @pytest.mark.parametrize("known", [True, False])
    def test_recover_without_permission_returns_403(self, lost, django_user_model, grant, known):
        client = APIClient()
        user = django_user_model.objects.create_user("jo")
        client.force_authenticate(grant(user, "view_chatsession"))
        session = lost if known else ChatSession(session_id="unknown")
        assert recover(client, session).status_code == 403

    def test_recover_anonymous_returns_401(self, lost):
        assert recover(APIClient(), lost).status_code == 401

    @pytest.mark.django_db(transaction=True)
    def test_recover_with_atomic_requests_succeeds(self, api, lost, settings):
        assert settings.DATABASES["default"]["ATOMIC_REQUESTS"]
        assert recover(api, lost).json()["settled"] == "stored"


class TestAttempt:
    def test_attempt_omits_raw_answer(self, api, staff):
        attempt = CloseAttemptFactory(requested_by=staff, note="bye", answer="secret words")
        response = api.get(f"{BASE}{attempt.session.session_id}/attempts/{attempt.pk}/")
        body = response.json()
        assert (body["session_id"], body["requested_by"]) == (attempt.session.session_id, "sam")
        assert (body["kind"], body["outcome"], body["note"]) == ("close", "started", "bye")
        assert "secret" not in response.content.decode()

    def test_attempt_of_host_code_has_no_name(self, api):
        attempt = CloseAttemptFactory()
        url = f"{BASE}{attempt.session.session_id}/attempts/{attempt.pk}/"
        assert api.get(url).json()["requested_by"] is None

    @pytest.mark.parametrize(
        ("of", "detail"),
        [
            ("another", "This chat session has no such attempt."),
            ("unknown", "This site has no such chat session."),
        ],
    )
    def test_attempt_of_another_session_returns_404(self, api, of, detail):
        ChatSessionFactory(session_id="another")
        response = api.get(f"{BASE}{of}/attempts/{CloseAttemptFactory().pk}/")
        assert (response.status_code, response.json()["code"]) == (404, "not_found")
        assert response.json()["detail"] == detail

    @pytest.mark.parametrize("odd", [0, 10**30])
    def test_unknown_attempt_returns_404_with_detail(self, api, odd):
        response = api.get(f"{BASE}{ChatSessionFactory().session_id}/attempts/{odd}/")
        assert response.status_code == 404
        assert response.json() == {
            "detail": "This chat session has no such attempt.",
            "code": "not_found",
            "retryable": False,
        }

    def test_attempt_without_view_permission_returns_403(self, django_user_model, grant):
        client = APIClient()
        user = django_user_model.objects.create_user("jo")
        client.force_authenticate(grant(user, "close_chatsession"))
        attempt = CloseAttemptFactory()
        url = f"{BASE}{attempt.session.session_id}/attempts/{attempt.pk}/"
        assert client.get(url).status_code == 403
