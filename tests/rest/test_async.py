"""Tests of ``POST sessions/{session_id}/close/`` with ``Prefer: respond-async`` (RFC 7240)."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import quote

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from osvi_django.models import ChatSession, CloseJob
from osvi_django.services.jobs import cancel_close_job
from osvi_django.testing import Drop, Status
from osvi_django.testing.factories import ChatSessionFactory, ClosedSessionFactory
from tests.helpers.sandbox import mirror

pytestmark = pytest.mark.django_db

ASYNC = "respond-async"


def close(client, session_id, body=None, prefer=ASYNC, **headers):
    return client.post(
        f"/api/osvi/sessions/{quote(session_id, safe='')}/close/",
        body or {},
        format="json",
        headers={"Prefer": prefer} if prefer is not None else {},
    )


def test_close_async_returns_202_and_job(api, session, osvi_sandbox, run):
    response = close(api, session.session_id, {"note": "done"})
    body = response.json()
    assert (response.status_code, response["Preference-Applied"]) == (202, "respond-async")
    assert response["Location"] == f"http://testserver/api/osvi/close-jobs/{body['id']}/"
    assert response["Retry-After"] == "1"
    assert (body["status"], body["total"], body["note"]) == ("queued", 1, "done")
    assert (body["requested_by"], body["via"]) == ("sam", "rest")
    assert osvi_sandbox.requests == []
    run(body)
    assert api.get(response["Location"]).json()["status"] == "completed"
    assert ChatSession.objects.get().summary.text == "All is well."


@pytest.mark.parametrize(
    "prefer",
    [
        "respond-async",
        "Respond-Async",
        "RESPOND-ASYNC",
        "respond-async, wait=0",
        "wait=0, respond-async",
        "wait=1 ,\trespond-async ; foo=bar",
        "respond-async, wait=x, wait=9",
        'foo="a, b", respond-async',
        'respond-async=""',
        "respond-async=",
        ",,respond-async",
    ],
)
def test_close_with_async_among_preferences_returns_202(api, session, prefer):
    assert close(api, session.session_id, prefer=prefer).status_code == 202


@pytest.mark.parametrize(
    "prefer",
    [
        None,
        "",
        "wait=10",
        "respond-asynchronously",
        "respond async",
        'foo="bar, respond-async"',
        "foo=respond-async",
        "foo; respond-async",
        "respond-async=false",
        'foo="respond-async',
        "ä\xff",
    ],
)
def test_close_with_other_preferences_returns_200(api, session, prefer):
    response = close(api, session.session_id, prefer=prefer)
    assert (response.status_code, response.json()["summary"]) == (200, "All is well.")
    assert "Preference-Applied" not in response
    assert not CloseJob.objects.exists()


@pytest.mark.django_db(transaction=True)
class TestWait:
    """The caller waits for the job for a while, as with ``wait=20``."""

    WAITS = "respond-async, wait=20"

    @pytest.fixture(autouse=True)
    def executor(self, settings):
        settings.OSVI_EXECUTOR = "osvi_django.executors.immediate"

    def test_close_finished_in_time_returns_200_and_session(self, api, session):
        response = close(api, session.session_id, prefer=self.WAITS)
        body = response.json()
        assert (response.status_code, response["Preference-Applied"]) == (200, self.WAITS)
        assert (body["summary"], body["changed"], body["goodbye"]) == ("All is well.", True, None)

    def test_close_that_fails_in_time_returns_its_error(self, api, session, osvi_sandbox):
        osvi_sandbox.script(session.session_id, Status(403, errors=["Not yours."]))
        body = close(api, session.session_id, prefer=self.WAITS)
        assert (body.status_code, body.json()["code"]) == (502, "rejected")
        assert body.json()["detail"].endswith("OSVI said: “Not yours.”")
        assert api.get(body.json()["attempt"]).json()["error_code"] == "rejected"

    @pytest.mark.parametrize(("status", "code"), [(404, "not_found"), (422, "rejected")])
    def test_close_of_unknown_session_that_fails_returns_its_error(
        self, api, osvi_sandbox, status, code
    ):
        osvi_sandbox.script("unknown", Status(status, errors=["No."]))
        response = close(api, "unknown", {"agent_uuid": "agent_1"}, prefer=self.WAITS)
        assert response.json()["code"] == code
        assert response.json()["detail"].endswith("OSVI said: “No.”")
        assert not ChatSession.objects.exists()

    def test_close_not_finished_in_time_returns_202(self, api, session, settings):
        settings.OSVI_EXECUTOR = None
        response = close(api, session.session_id, prefer="respond-async, wait=1")
        assert (response.status_code, response.json()["status"]) == (202, "queued")
        assert response["Preference-Applied"] == "respond-async, wait=1"

    def test_close_cancelled_meanwhile_returns_202_and_job(self, api, session, settings):
        settings.OSVI_EXECUTOR = f"{__name__}.cancel"
        response = close(api, session.session_id, prefer=self.WAITS)
        assert (response.status_code, response.json()["status"]) == (202, "cancelled")

    def test_bulk_close_finished_in_time_returns_200_and_job(self, api, session):
        response = api.post(
            "/api/osvi/sessions/close/",
            {"session_ids": [session.session_id]},
            format="json",
            headers={"Prefer": "wait=20"},
        )
        assert (response.status_code, response.json()["status"]) == (200, "completed")
        assert response["Preference-Applied"] == "wait=20"


def cancel(job_uuid):
    """Cancel the job instead of running it."""
    cancel_close_job(CloseJob.objects.get(uuid=job_uuid))


def test_close_async_unknown_session_with_agent_mirrors_it(api, osvi_sandbox, run):
    chat = osvi_sandbox.add_session(agent_uuid="agent_new", summary="Hello.")
    body = close(api, chat.id, {"agent_uuid": "agent_new"}).json()
    session = ChatSession.objects.get()
    assert (session.session_id, session.agent.uuid, session.status) == (
        chat.id,
        "agent_new",
        "active",
    )
    assert run(body).succeeded == 1
    assert ChatSession.objects.get().summary.text == "Hello."


def test_close_async_closed_session_returns_job(api, run):
    body = close(api, ClosedSessionFactory().session_id).json()
    run(body)
    assert api.get(body["results"]).json()["results"][0]["outcome"] == "already_closed"


def test_close_async_unconfirmed_session_asks_osvi_first(api, run, unconfirmed, osvi_sandbox):
    session = unconfirmed(Drop(after_closing=True))
    response = close(api, session.session_id)
    assert response.status_code == 202
    run(response.json())
    session.refresh_from_db()
    assert (session.status, osvi_sandbox.closes(session.session_id)) == ("closed", 1)


class TestErrors:
    """Errors found before OSVI is asked are the same for each preference."""

    def test_close_async_in_progress_returns_same_409(self, api, osvi_sandbox):
        lease_until = timezone.now() + timedelta(hours=1)
        session = ChatSessionFactory(status="closing", lease_until=lease_until)
        waited, queued = (close(api, session.session_id, prefer=each) for each in (None, ASYNC))
        assert queued.status_code == waited.status_code == 409
        assert queued.json() == waited.json()
        assert not CloseJob.objects.exists()

    def test_close_async_without_settings_returns_same_503(self, api, settings):
        session = ChatSessionFactory()
        settings.OSVI = {}
        waited, queued = (close(api, session.session_id, prefer=each) for each in (None, ASYNC))
        assert queued.status_code == waited.status_code == 503
        assert queued.json() == waited.json()
        # A closed session needs no settings.
        assert close(api, ClosedSessionFactory().session_id).status_code == 202

    @pytest.mark.parametrize(
        ("session_id", "body", "status"),
        [
            ("unknown", {}, 404),
            ("a\x00b", {}, 404),
            ("a\x00b", {"agent_uuid": "x"}, 400),
            ("..", {"agent_uuid": "x"}, 400),
            ("x", {"agent_uuid": "another"}, 400),
            ("x", {"agent_uuid": ""}, 400),
            ("x", {"note": "x" * 1001}, 400),
            ("x", [1], 400),
        ],
    )
    def test_close_async_with_invalid_input_returns_same_error(
        self, api, osvi_sandbox, session_id, body, status
    ):
        mirror(osvi_sandbox, session_id="x")
        patient = close(api, session_id, body, prefer=None)
        response = close(api, session_id, body)
        assert (response.status_code, response.json()) == (status, patient.json())
        assert "Preference-Applied" not in response

    @pytest.mark.parametrize("session_id", ["x", "unknown"])
    def test_close_async_without_permission_returns_same_403(self, client_with, session_id):
        ChatSessionFactory(session_id="x")
        client = client_with("view_chatsession")
        response = close(client, session_id, {"agent_uuid": "new"})
        assert response.status_code == 403
        assert response.json() == close(client, session_id, {}, prefer=None).json()
        assert ChatSession.objects.count() == 1
        assert not CloseJob.objects.exists()

    def test_close_async_anonymous_returns_401(self):
        assert close(APIClient(), "x").status_code == 401

    @pytest.mark.parametrize("prefer", [None, "respond-async"])
    def test_close_with_deeply_nested_body_returns_400(self, api, session, prefer):
        response = api.post(
            f"/api/osvi/sessions/{session.session_id}/close/",
            b"[" * 200_000,
            content_type="application/json",
            headers={"Prefer": prefer} if prefer else {},
        )
        assert (response.status_code, response.json()["code"]) == (400, "parse_error")


@pytest.mark.django_db(transaction=True)
def test_close_async_with_atomic_requests_runs_job(api, session, settings):
    assert settings.DATABASES["default"]["ATOMIC_REQUESTS"]
    settings.OSVI_EXECUTOR = "osvi_django.executors.immediate"
    response = close(api, session.session_id)
    assert api.get(response["Location"]).json()["succeeded"] == 1


@pytest.mark.urls("tests.rest.tenant_urls")
def test_close_async_below_prefix_links_below_prefix(api, session):
    url = f"/acme/chats/sessions/{session.session_id}/close/"
    response = api.post(url, headers={"Prefer": "respond-async"})
    job = response.json()["id"]
    assert response["Location"] == f"http://testserver/acme/chats/close-jobs/{job}/"
