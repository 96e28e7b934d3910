"""Tests of ``close-jobs/``: list, show, cancel and retry jobs."""

from __future__ import annotations

from base64 import b64encode
from datetime import timedelta

import pytest
from django.db import transaction
from django.utils import timezone
from rest_framework.test import APIClient

from osvi_django.database import DatabaseNow
from osvi_django.models import CloseJob, CloseJobItem
from osvi_django.rest.output_serializers import JobSerializer
from osvi_django.services.jobs import create_close_job
from osvi_django.testing import Drop, Status
from osvi_django.testing.factories import ChatSessionFactory
from tests.helpers.sandbox import mirror

pytestmark = pytest.mark.django_db

LIST = "/api/osvi/close-jobs/"
READING = ("", "results/")
WRITING = ("cancel/", "retry/")
started = []


def url_of(job, ending=""):
    return f"{LIST}{job.pk}/{ending}"


def results_of(client, job, **query):
    response = client.get(url_of(job, "results/"), query)
    assert response.status_code == 200, response.content
    return response.json()["results"]


def record_start(job_id):
    started.append(job_id)


@pytest.fixture
def recording_executor(settings):
    """Use an executor that only records the jobs it should start."""
    settings.OSVI_EXECUTOR = f"{__name__}.record_start"
    started.clear()


class TestJob:
    def test_job_queued_shows_counts_and_retry_after(self, api, job):
        response = api.get(url_of(job))
        body = response.json()
        assert (response.status_code, response["Retry-After"]) == (200, "1")
        assert (body["id"], body["status"], body["note"]) == (job.pk, "queued", "Goodbye")
        assert (body["total"], body["done"], body["requested_by"]) == (3, 0, "sam")

    def test_job_finished_shows_counts_and_times(self, api, job, run):
        run(job)
        response = api.get(url_of(job))
        body = response.json()
        assert (body["status"], body["done"], body["succeeded"]) == ("completed", 3, 3)
        assert body["created_at"] <= body["started_at"] <= body["finished_at"]
        assert "Retry-After" not in response

    def test_job_with_failures_counts_each_kind(self, api, job, run, osvi_sandbox):
        refused, lost, _closed = job.items.all()
        osvi_sandbox.script(refused.requested_session_id, Status(403, errors=["No."]))
        osvi_sandbox.script(lost.requested_session_id, Drop())
        run(job)
        body = api.get(url_of(job)).json()
        counts = [body[name] for name in ("done", "succeeded", "failed", "unconfirmed")]
        assert (body["status"], counts) == ("completed_with_errors", [3, 1, 1, 1])

    def test_job_counters_say_in_schema_that_they_are_its_record(self):
        fields = JobSerializer().fields
        for name in ("succeeded", "failed", "unconfirmed", "left_out", "cancelled"):
            assert "does not change when one is settled later" in fields[name].help_text

    def test_job_paused_shows_reason_and_resume_time(self, api, job, run, osvi_sandbox):
        osvi_sandbox.token = "another"
        run(job)
        response = api.get(url_of(job))
        body = response.json()
        assert (body["status"], body["paused_by"]) == ("paused", "unauthorized")
        assert body["resume_at"] > timezone.now().isoformat()
        assert 5 < int(response["Retry-After"]) <= 30

    def test_job_after_pause_sends_short_retry_after(self, api, job):
        CloseJob.objects.update(
            status="paused",
            resume_at=timezone.now() - timedelta(hours=1),
            heartbeat_at=DatabaseNow(),
        )
        assert api.get(url_of(job))["Retry-After"] == "1"

    def test_job_of_host_code_has_no_name(self, client_with):
        job = create_close_job([ChatSessionFactory()])
        assert client_with("view_closejob").get(url_of(job)).json()["requested_by"] is None

    @pytest.mark.parametrize(
        "odd", ["0", "999", "-1", "x", "1.0", "1_0", "9" * 30, "9" * 5_000, "%00", "%FF", "a%2Fb"]
    )
    @pytest.mark.parametrize("ending", [*READING, *WRITING])
    def test_unknown_job_returns_404(self, api, odd, ending):
        method = api.post if ending in WRITING else api.get
        response = method(f"{LIST}{odd}/{ending}")
        assert response.status_code == 404
        if odd != "a%2Fb":  # not one of our URLs
            assert (response.json()["code"], response.json()["retryable"]) == ("not_found", False)

    def test_other_methods_return_405(self, api, job):
        refused = {
            "": (api.post, api.put, api.patch, api.delete),
            "results/": (api.post, api.delete),
            **dict.fromkeys(WRITING, (api.get, api.put, api.patch, api.delete)),
        }
        for ending, methods in refused.items():
            for method in methods:
                response = method(url_of(job, ending))
                assert response.status_code == 405
                assert response.json()["code"] == "method_not_allowed"
        assert api.post(LIST).status_code == 405

    def test_pages_in_browser_are_html(self, staff, job):
        client = APIClient(headers={"Accept": "text/html"})
        client.force_login(staff)
        for url in (LIST, url_of(job), url_of(job, "results/")):
            response = client.get(url)
            assert (response.status_code, response["Content-Type"][:9]) == (200, "text/html")


class TestResume:
    @pytest.fixture(autouse=True)
    def _recording_executor(self, recording_executor):
        """Record each job that would be started."""

    @pytest.fixture
    def stalled(self, job):
        """Return a running job whose worker has died."""
        CloseJob.objects.update(status="running", heartbeat_at=DatabaseNow() - timedelta(hours=1))
        return job

    def test_get_stalled_job_starts_it_once(self, api, stalled):
        for _time in range(2):
            assert api.get(url_of(stalled)).json()["status"] == "running"
        assert started == [str(stalled.uuid)]

    def test_get_working_job_starts_nothing(self, api, job):
        CloseJob.objects.update(status="running", heartbeat_at=DatabaseNow())
        api.get(url_of(job))
        assert started == []

    def test_get_finished_job_starts_nothing(self, api, stalled):
        CloseJob.objects.update(status="completed", finished_at=timezone.now())
        api.get(url_of(stalled))
        assert started == []

    def test_get_job_of_others_starts_nothing(self, client_with, stalled):
        assert client_with("view_chatsession").get(url_of(stalled)).status_code == 404
        assert started == []

    @pytest.mark.django_db(transaction=True)
    def test_get_stalled_job_with_atomic_requests_runs_it(self, api, stalled, settings):
        assert settings.DATABASES["default"]["ATOMIC_REQUESTS"]
        settings.OSVI_EXECUTOR = "osvi_django.executors.immediate"
        api.get(url_of(stalled))
        assert api.get(url_of(stalled)).json()["status"] == "completed"


class TestResults:
    def test_results_show_outcome_of_each_session(self, api, job, run, osvi_sandbox):
        refused, lost, closed = job.items.all()
        osvi_sandbox.script(refused.requested_session_id, Status(403, errors=["Not yours."]))
        osvi_sandbox.script(lost.requested_session_id, Drop())
        assert {each["outcome"] for each in results_of(api, job)} == {"waiting"}
        run(job)
        results = {each.pop("session_id"): each for each in results_of(api, job)}

        def links(item):
            item.refresh_from_db()
            url = f"http://testserver/api/osvi/sessions/{item.requested_session_id}/"
            return {"session": url, "attempt": f"{url}attempts/{item.attempt_id}/"}

        assert results == {
            refused.requested_session_id: {
                **links(refused),
                "outcome": "rejected",
                "session_status": "active",
                "error_code": "rejected",
                "error_reason": "Not yours.",
                "detail": (
                    "OSVI did not close this chat session. It is still open. OSVI said: “Not "
                    "yours.”"
                ),
                "goodbye": None,
            },
            lost.requested_session_id: {
                **links(lost),
                "outcome": "unconfirmed",
                "session_status": "unconfirmed",
                "error_code": "unconfirmed",
                "error_reason": None,
                "detail": results[lost.requested_session_id]["detail"],
                "goodbye": None,
            },
            closed.requested_session_id: {
                **links(closed),
                "outcome": "closed",
                "session_status": "closed",
                "error_code": None,
                "error_reason": None,
                "detail": None,
                "goodbye": None,
            },
        }
        assert results[lost.requested_session_id]["detail"].startswith(
            "OSVI may have closed this chat session"
        )
        assert "All is well." not in api.get(url_of(job, "results/")).content.decode()

    def test_results_of_settled_session_show_outcome_and_status_now(
        self, api, job, run, osvi_sandbox
    ):
        lost = job.items.all()[0]
        osvi_sandbox.script(lost.requested_session_id, Drop())
        run(job)
        recovered = api.post(f"/api/osvi/sessions/{lost.requested_session_id}/recover/")
        assert recovered.json()["status"] == "active"
        (result,) = results_of(api, job, outcome="unconfirmed")
        assert result["session_id"] == lost.requested_session_id
        assert result["session_status"] == "active"

    def test_results_of_unknown_session_have_no_status(self, api, staff):
        (result,) = results_of(api, create_close_job(["x"], requested_by=staff))
        assert (result["outcome"], result["session_status"]) == ("not_found", None)
        assert (result["session"], result["attempt"]) == (None, None)

    def test_results_without_close_permission_say_not_allowed(self, api, job, run, staff):
        staff.user_permissions.clear()
        run(job)
        assert {(each["outcome"], each["error_code"]) for each in results_of(api, job)} == {
            ("not_allowed", "permission_denied")
        }

    @pytest.mark.parametrize("outcome", CloseJobItem.Outcome.values)
    def test_results_with_outcome_filter_show_matches(self, api, job, outcome):
        chosen = job.items.all()[1]
        CloseJobItem.objects.update(outcome="waiting" if outcome != "waiting" else "closed")
        CloseJobItem.objects.filter(pk=chosen.pk).update(outcome=outcome)
        assert [each["session_id"] for each in results_of(api, job, outcome=outcome)] == [
            chosen.requested_session_id
        ]

    @pytest.mark.parametrize("outcome", ["lost", "a\x00", "\ud800"])
    def test_results_with_unknown_outcome_return_400(self, api, job, outcome):
        response = api.get(url_of(job, "results/"), {"outcome": outcome.encode("utf-8", "replace")})
        assert (response.status_code, response.json()["code"]) == (400, "invalid")
        assert list(response.json()["errors"]) == ["outcome"]
        assert "use one of waiting, closing, closed" in response.json()["detail"]

    def test_results_pages_keep_order_of_request(self, api):
        ids = [f"unknown {number}" for number in (3, 1, 2, 5, 4)]
        body = api.post("/api/osvi/sessions/close/", {"session_ids": ids}, format="json").json()
        create_close_job(["another"])
        url, listed, pages = f"{body['results']}?page_size=2&outcome=not_found", [], 0
        while url:
            page = api.get(url).json()
            listed += [each["session_id"] for each in page["results"]]
            url, pages = page["next"], pages + 1
        assert (listed, pages) == (ids, 3)
        assert len(api.get(page["previous"]).json()["results"]) == 2

    @pytest.mark.parametrize("position", ["abc", "-1", "1.5", "\uff19", "9" * 19, "2026-01-01", ""])
    @pytest.mark.parametrize("ending", ["", "results/"])
    def test_lists_with_invalid_cursor_return_400(self, api, job, position, ending):
        cursor = b64encode(f"p={position}".encode()).decode()
        url = url_of(job, ending) if ending else LIST
        response = api.get(url, {"cursor": cursor})
        assert (response.status_code, list(response.json()["errors"])) == (400, ["cursor"])

    def test_results_of_empty_job_are_empty(self, api, staff):
        assert results_of(api, create_close_job([], requested_by=staff)) == []

    def test_results_page_size_is_bounded(self, api, staff):
        job = create_close_job([f"x{number}" for number in range(201)], requested_by=staff)
        assert len(results_of(api, job, page_size=200)) == 200
        assert len(results_of(api, job)) == 50

    def test_results_with_many_items_cost_same_queries(self, staff, django_assert_num_queries):
        for number in (1, 30):
            ids = [f"x{each}" for each in range(number)]
            job = create_close_job([*ids, ChatSessionFactory()], requested_by=staff)
            client = APIClient()
            client.force_authenticate(type(staff).objects.get())
            # The caller's permissions (2), the job, its first and
            # last row, and the rows of the page.
            with django_assert_num_queries(6):
                assert len(results_of(client, job)) == number + 1


class TestList:
    def test_list_pages_are_newest_first(self, api, staff):
        keys = [create_close_job(["x"], requested_by=staff).pk for _number in range(7)]
        first = api.get(LIST, {"page_size": 5}).json()
        assert [each["id"] for each in first["results"]] == keys[:1:-1]
        second = api.get(first["next"]).json()
        assert [each["id"] for each in second["results"]] == keys[1::-1]
        assert second["next"] is None
        assert len(api.get(second["previous"]).json()["results"]) == 5

    def test_lists_with_unknown_parameter_return_400_with_name(self, api, job):
        for url in (LIST, url_of(job, "results/")):
            response = api.get(url, {"status": "running", "page_size": 1})
            assert (response.status_code, response.json()["code"]) == (400, "invalid")
            assert "status: This name is unknown" in response.json()["detail"]

    def test_list_shows_same_fields_as_job(self, api, job):
        assert api.get(LIST).json()["results"] == [api.get(url_of(job)).json()]

    def test_list_with_many_jobs_costs_same_queries(self, staff, django_assert_num_queries):
        for _time in range(2):
            for _number in range(10):
                create_close_job(["x"], requested_by=staff)
            client = APIClient()
            client.force_authenticate(type(staff).objects.get())
            # The caller's permissions (2), and the rows.
            with django_assert_num_queries(3):
                assert len(client.get(LIST).json()["results"]) >= 10


class TestPermission:
    @pytest.mark.parametrize("ending", [*READING, *WRITING])
    def test_jobs_anonymous_return_401(self, job, ending):
        client = APIClient()
        method = client.post if ending in WRITING else client.get
        assert method(url_of(job, ending)).status_code == 401
        assert client.get(LIST).status_code == 401

    @pytest.mark.parametrize("ending", [*READING, *WRITING])
    @pytest.mark.parametrize("may", [(), ("view_chatsession", "close_chatsession")])
    def test_job_of_others_returns_404(self, client_with, job, ending, may):
        client = client_with(*may)
        method = client.post if ending in WRITING else client.get
        response = method(url_of(job, ending))
        assert (response.status_code, response.json()["code"]) == (404, "not_found")
        assert client.get(LIST).json()["results"] == []
        job.refresh_from_db()
        assert job.status == "queued"

    def test_job_of_others_with_view_permission_is_shown(self, client_with, job):
        client = client_with("view_closejob")
        assert client.get(url_of(job)).json()["id"] == job.pk
        assert len(results_of(client, job)) == 3
        assert [each["id"] for each in client.get(LIST).json()["results"]] == [job.pk]

    @pytest.mark.parametrize("ending", WRITING)
    def test_actions_with_view_permission_only_return_403(self, client_with, job, run, ending):
        response = client_with("view_closejob").post(url_of(job, ending))
        assert (response.status_code, response.json()["code"]) == (403, "permission_denied")
        assert response.json().keys() == {"detail", "code", "retryable"}
        assert client_with("close_chatsession").post(url_of(job, "cancel/")).status_code == 200

    @pytest.mark.parametrize("ending", [*READING, *WRITING])
    def test_draft_job_returns_404(self, api, staff, grant, ending):
        grant(staff, "view_closejob")
        draft = create_close_job([ChatSessionFactory()], requested_by=staff, draft=True)
        method = api.post if ending in WRITING else api.get
        assert method(url_of(draft, ending)).status_code == 404
        assert api.get(LIST).json()["results"] == []
        draft.refresh_from_db()
        assert draft.status == "draft"


class TestCancel:
    def test_cancel_waiting_job_stops_it(self, api, job, run, osvi_sandbox):
        response = api.post(url_of(job, "cancel/"))
        body = response.json()
        assert (response.status_code, body["status"]) == (200, "cancelled")
        assert (body["total"], body["done"], body["cancelled"]) == (3, 0, 3)
        assert body["finished_at"]
        run(job)
        assert osvi_sandbox.requests == []
        assert {each["outcome"] for each in results_of(api, job)} == {"cancelled"}

    def test_cancel_finished_job_changes_nothing(self, api, job, run):
        run(job)
        response = api.post(url_of(job, "cancel/"))
        assert (response.status_code, response.json()["status"]) == (200, "completed")

    @pytest.mark.parametrize("ending", ["cancel/", "retry/"])
    def test_actions_with_unknown_field_return_400(self, api, job, ending):
        response = api.post(url_of(job, ending), {"whatever": 1}, format="json")
        assert (response.status_code, response.json()["code"]) == (400, "invalid")
        assert "whatever: " in response.json()["detail"]
        job.refresh_from_db()
        assert job.status == "queued"

    @pytest.mark.django_db(transaction=True)
    def test_cancel_with_atomic_requests_succeeds(self, api, job, settings):
        assert settings.DATABASES["default"]["ATOMIC_REQUESTS"]
        assert api.post(url_of(job, "cancel/")).json()["status"] == "cancelled"


class TestRetry:
    def test_retry_creates_job_of_safe_failures(self, api, job, run, osvi_sandbox, staff):
        refused, lost, _closed = job.items.all()
        osvi_sandbox.script(refused.requested_session_id, Status(403))
        osvi_sandbox.script(lost.requested_session_id, Drop())
        run(job)
        response = api.post(url_of(job, "retry/"))
        body = response.json()
        url = f"http://testserver{LIST}{body['id']}/"
        assert (response.status_code, response["Location"]) == (202, url)
        assert response["Retry-After"] == "1"
        assert (body["total"], body["note"], body["requested_by"]) == (1, "Goodbye", "sam")
        new = CloseJob.objects.get(pk=body["id"])
        assert (new.retry_of, new.via) == (job, "rest")
        run(body)
        assert api.get(url).json()["status"] == "completed"
        assert [each["session_id"] for each in results_of(api, new)] == [
            refused.requested_session_id
        ]

    def test_retry_without_safe_failures_returns_400(self, api, job, run):
        run(job)
        response = api.post(url_of(job, "retry/"))
        assert (response.status_code, response.json()["code"]) == (400, "invalid")
        assert "retried" in response.json()["detail"]
        assert CloseJob.objects.count() == 1

    def test_retry_of_unknown_ids_returns_400(self, api, staff):
        job = create_close_job(["x", "y"], requested_by=staff)
        response = api.post(url_of(job, "retry/"))
        assert (response.status_code, response.json()["code"]) == (400, "invalid")
        assert CloseJob.objects.count() == 1

    def test_retry_created_by_another_user_is_readable(
        self, api, client_with, job, run, osvi_sandbox
    ):
        osvi_sandbox.script(job.items.first().requested_session_id, Status(403))
        run(job)
        client = client_with("view_closejob", "close_chatsession")
        made = client.post(url_of(job, "retry/"))
        assert made.json()["requested_by"] == "jo"
        assert api.post(url_of(job, "retry/"))["Location"] == made["Location"]
        assert api.get(made["Location"]).json() == made.json()
        assert api.post(f"{made['Location']}cancel/").status_code == 403


@pytest.mark.parametrize("ending", WRITING)
def test_actions_with_session_cookie_require_csrf_token(staff, job, ending):
    client = APIClient(enforce_csrf_checks=True)
    client.force_login(staff)
    assert client.post(url_of(job, ending)).status_code == 403


def test_close_inside_transaction_starts_job_after_commit(
    api, osvi_sandbox, recording_executor, django_capture_on_commit_callbacks
):
    session = mirror(osvi_sandbox)
    with django_capture_on_commit_callbacks(execute=True) as callbacks, transaction.atomic():
        response = api.post(
            "/api/osvi/sessions/close/", {"session_ids": [session.session_id]}, format="json"
        )
        assert (response.status_code, started) == (202, [])
    assert len(callbacks) == 1
    assert started == [str(CloseJob.objects.get(pk=response.json()["id"]).uuid)]
