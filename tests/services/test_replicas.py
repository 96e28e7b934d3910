"""Test that reads after a write use the primary database, and not a replica that lags behind."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connections
from django.urls import reverse
from django.utils import timezone
from rest_framework.test import APIClient

from osvi_django.database import DatabaseNow
from osvi_django.models import ChatAgent, ChatSession, CloseJob, SessionSummary, SupportAction
from osvi_django.services import close_session, close_session_by_id
from osvi_django.services.jobs import (
    cancel_close_job,
    confirm_close_job,
    create_close_job,
    retry_close_job,
    run_close_job,
)
from osvi_django.services.privacy.texts import redact_texts
from osvi_django.services.recovery import recover_session
from osvi_django.services.selectors import find_session
from osvi_django.services.starting import start_session
from osvi_django.services.support import take_over, tell
from osvi_django.testing import Drop, Status

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "replica"])

API = "/api/osvi/"
LIST = reverse("admin:osvi_django_chatsession_changelist")
START = reverse("admin:osvi_django_chatsession_start")
CODENAMES = (
    "view_chatsession",
    "close_chatsession",
    "operate_chatsession",
    "view_sessionsummary",
    "view_chatagent",
    "add_chatagent",
    "change_chatagent",
)


class ReplicaRouter:
    """Read this package's models from the replica, as in Django's documentation."""

    def db_for_read(self, model, **_hints):
        return "replica" if model._meta.app_label == "osvi_django" else "default"

    def db_for_write(self, model, **_hints):
        return "default"

    def allow_relation(self, *_rows, **_hints):
        return True


@pytest.fixture(scope="module", autouse=True)
def replica(django_db_setup, django_db_blocker, tmp_path_factory):
    """Create a second database with all tables, which stays empty."""
    configured = {
        **connections["default"].settings_dict,
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(tmp_path_factory.mktemp("replica") / "replica.sqlite3"),
        "OPTIONS": {},
    }
    connections.databases["replica"] = configured
    with django_db_blocker.unblock():
        call_command("migrate", database="replica", verbosity=0)
        yield
        connections["replica"].close()
    del connections["replica"]
    del connections.databases["replica"]


@pytest.fixture(autouse=True)
def use_replica(settings, osvi_sandbox):
    """Route reads to the replica, and run jobs immediately."""
    settings.DATABASE_ROUTERS = [f"{__name__}.ReplicaRouter"]
    settings.OSVI_EXECUTOR = "osvi_django.executors.immediate"


@pytest.fixture
def user(transactional_db, grant):
    return grant(get_user_model().objects.create_user("kim", is_staff=True), *CODENAMES)


@pytest.fixture
def api(user):
    client = APIClient()
    client.force_authenticate(user)
    return client


@pytest.fixture
def desk(client, user):
    client.force_login(user)
    return client


@pytest.fixture
def start_sessions(osvi_sandbox):
    """Return a function that starts sessions, each with a new agent."""

    def _start_sessions(number=1):
        return [
            start_session(agent_uuid=f"agent_{each}", customer_id=f"+1555000{each}")
            for each in range(number)
        ]

    return _start_sessions


def on_primary(model):
    return model.objects.using("default")


class TestServices:
    def test_close_session_of_new_agent_reads_primary(self, start_sessions):
        (session,) = start_sessions()
        assert not ChatSession.objects.exists()  # the replica has nothing
        assert find_session(session.session_id).agent.uuid == "agent_0"
        result = close_session(session)
        assert result.summary.text == result.session.summary.text
        again = close_session_by_id(session.session_id, agent_uuid="agent_0")
        assert (again.changed, again.summary) == (False, result.summary)

    def test_close_by_id_with_unknown_id_reads_primary(self, osvi_sandbox):
        chat = osvi_sandbox.add_session(agent_uuid="agent_new", summary="Hello.")
        assert close_session_by_id(chat.id, agent_uuid="agent_new").summary.text == "Hello."

    def test_recover_session_reads_primary(self, start_sessions, osvi_sandbox):
        (session,) = start_sessions()
        osvi_sandbox.script(session.session_id, Drop(after_closing=True))
        with pytest.raises(Exception, match="answer") as caught:
            close_session(session)
        assert caught.value.attempt.session == session
        assert recover_session(session).settled.value == "stored"
        assert close_session(session).summary is not None

    def test_support_actions_read_primary(self, start_sessions):
        (session,) = start_sessions()
        assert take_over(session).session.mode == "support"
        assert tell(session, "Offer a refund.").reply

    def test_redact_texts_reads_primary(self, start_sessions):
        (session,) = start_sessions()
        tell(session, "Offer a refund.")
        long_ago = timezone.now() - timedelta(days=91)
        on_primary(SupportAction).update(started_at=long_ago, finished_at=long_ago)
        assert sum(redact_texts()) == 1
        assert sum(redact_texts()) == 0

    def test_close_job_with_queryset_reads_primary(self, start_sessions, osvi_sandbox):
        sessions = start_sessions(3)
        osvi_sandbox.script(sessions[0].session_id, Status(403))
        draft = create_close_job(ChatSession.objects.all(), draft=True)
        assert draft.total == 3
        job = run_close_job(confirm_close_job(draft).uuid)
        assert (job.succeeded, job.failed) == (2, 1)
        retry = retry_close_job(job)
        assert run_close_job(retry.pk).succeeded == 1
        assert cancel_close_job(job).status == "completed_with_errors"


class TestREST:
    def test_rest_start_returns_location_of_new_session(self, api):
        body = {"agent_uuid": "agent_new", "customer_id": "+15551112222"}
        response = api.post(f"{API}sessions/", body, format="json")
        assert response.status_code == 201, response.content
        found = api.get(response["Location"])
        assert (found.status_code, found.json()) == (200, response.json())

    def test_rest_close_returns_summary(self, api, start_sessions):
        (session,) = start_sessions()
        url = f"{API}sessions/{session.session_id}/"
        closed = api.post(f"{url}close/").json()
        assert (closed["summary_status"], bool(closed["summary"])) == ("stored", True)
        again = api.post(f"{url}close/").json()
        assert (again["changed"], again["summary"]) == (False, closed["summary"])
        assert api.get(url).json()["summary"] == closed["summary"]

    def test_rest_close_error_returns_url_of_attempt(self, api, start_sessions, osvi_sandbox):
        (session,) = start_sessions()
        url = f"{API}sessions/{session.session_id}/close/"
        osvi_sandbox.script(session.session_id, Drop())
        for _time in range(2):
            response = api.post(url)
            assert response.status_code == 504
            assert api.get(response.json()["attempt"]).status_code == 200
            osvi_sandbox.script(None, Status(500))  # OSVI does not say whether it is open
        on_primary(ChatSession).update(
            status="closing", claim="1" * 32, lease_until=DatabaseNow() + timedelta(hours=1)
        )
        response = api.post(url)
        assert (response.status_code, response.json()["code"]) == (409, "close_in_progress")

    def test_rest_actions_after_command_lists_it(self, api, start_sessions):
        (session,) = start_sessions()
        url = f"{API}sessions/{session.session_id}/"
        assert api.post(f"{url}support/", {"command": "takeover"}, format="json").status_code == 200
        kinds = [each["kind"] for each in api.get(f"{url}actions/").json()["results"]]
        assert kinds == ["start", "takeover"]

    def test_rest_async_close_returns_url_of_finished_job(self, api, start_sessions):
        (session,) = start_sessions()
        url = f"{API}sessions/{session.session_id}/close/"
        response = api.post(url, headers={"Prefer": "respond-async"})
        assert response.status_code == 202
        job = api.get(response["Location"]).json()
        assert (job["status"], job["requested_by"]) == ("completed", "kim")
        assert api.get(job["results"]).json()["results"][0]["outcome"] == "closed"

    def test_rest_bulk_close_by_ids_and_by_filter_completes(self, api, start_sessions):
        first, *others = start_sessions(3)
        for body in ({"session_ids": [first.session_id]}, {"filter": {"status": "active"}}):
            response = api.post(f"{API}sessions/close/", body, format="json")
            assert response.status_code == 202, response.content
            assert api.get(response["Location"]).json()["status"] == "completed"
        assert on_primary(SessionSummary).count() == 1 + len(others)
        assert len(api.get(f"{API}close-jobs/").json()["results"]) == 2


class TestAdmin:
    def test_admin_start_shows_new_session(self, desk):
        form = {"agent_uuid": "agent_new", "customer_id": "+15551112222", "input_fields": "{}"}
        response = desk.post(START, form, follow=True)
        assert response.status_code == 200, response.redirect_chain
        assert on_primary(ChatSession).get().session_id in response.text

    def test_admin_close_shows_summary(self, desk, start_sessions):
        (session,) = start_sessions()
        url = reverse("admin:osvi_django_chatsession_close", args=[session.pk])
        response = desk.post(url, {"post": "yes", "note": ""}, follow=True)
        assert response.status_code == 200
        assert on_primary(SessionSummary).get().text.splitlines()[0] in response.text
        shown = [line.did for line in response.context["timeline"].lines]
        assert "closed the chat" in shown, shown

    def test_admin_close_selected_shows_job(self, desk, start_sessions):
        keys = [session.pk for session in start_sessions(2)]
        chosen = {"action": "close_selected", "_selected_action": keys}
        question = desk.post(LIST, chosen)
        assert question.status_code == 302, question.text
        response = desk.post(question["Location"], {"note": "Tidy."}, follow=True)
        assert response.status_code == 200
        assert on_primary(CloseJob).get().succeeded == 2
        job = reverse("admin:osvi_django_closejob_change", args=[on_primary(CloseJob).get().pk])
        assert "completed" in desk.get(job).text

    def test_admin_desk_shows_new_action(self, desk, start_sessions):
        (session,) = start_sessions()
        url = reverse("admin:osvi_django_chatsession_desk", args=[session.pk])
        assert desk.get(url).status_code == 200
        tell(session, "Offer a refund.")
        assert "Offer a refund." in desk.get(url).text

    def test_admin_add_agent_shows_agent_and_refuses_duplicate(self, desk):
        url = reverse("admin:osvi_django_chatagent_add")
        form = {"account": "default", "uuid": "agent_new", "name": "Ava", "_continue": "1"}
        response = desk.post(url, form, follow=True)
        assert response.status_code == 200
        assert on_primary(ChatAgent).get().uuid in response.text
        twice = desk.post(url, form, follow=True)
        assert "Another agent on this site has this UUID" in twice.text
