"""``Idempotency-Key``: a repeated request does its work once."""

from __future__ import annotations

import threading
import uuid
from datetime import timedelta

import pytest
from django.core.checks import run_checks
from django.core.management import call_command
from django.db import connection
from rest_framework.test import APIClient

from osvi_django.conf import InvalidSetting, longest_retention
from osvi_django.database import DatabaseNow
from osvi_django.models import CloseAttempt, CloseJob, IdempotentRequest, SupportAction
from osvi_django.testing.faults import Drop, Status
from tests.helpers.sandbox import mirror
from tests.services.helpers import run_at_once

pytestmark = pytest.mark.django_db

SESSIONS = "/api/osvi/sessions/"
KEY = "8e03978e-40d5-43e8-bc93-6894a57f9324"


def post(client, path, body=None, key=KEY):
    headers = {} if key is None else {"Idempotency-Key": key}
    return client.post(f"{SESSIONS}{path}", body or {}, format="json", headers=headers)


def answer_of(response):
    """Return what a client sees of an answer, but for its being a replay."""
    return response.status_code, response.json(), response.get("Location")


class TestReplay:
    def test_repeated_close_returns_first_answer(self, api, session, osvi_sandbox):
        path = f"{session.session_id}/close/"
        first, second = post(api, path), post(api, path)
        assert answer_of(second) == answer_of(first)
        assert second.json()["changed"] is True
        assert [each.get("Idempotency-Replayed") for each in (first, second)] == [None, "true"]
        assert CloseAttempt.objects.count() == 1

    def test_repeated_bulk_close_creates_one_job(self, api, session):
        body = {"session_ids": [session.session_id]}
        first, second = post(api, "close/", body), post(api, "close", body)
        assert answer_of(second) == answer_of(first)
        assert (second.status_code, second["Retry-After"]) == (202, "1")
        assert CloseJob.objects.count() == 1

    def test_repeated_text_is_sent_once(self, operator, session):
        path = f"{session.session_id}/context/"
        for _time in range(2):
            assert post(operator, path, {"context": "A regular."}).status_code == 200
        assert SupportAction.objects.count() == 1

    def test_request_without_key_stores_nothing(self, api, session):
        assert post(api, f"{session.session_id}/close/", key=None).status_code == 200
        assert not IdempotentRequest.objects.exists()


class TestOtherRequests:
    def test_key_is_of_one_user(self, api, client_with, session):
        path = f"{session.session_id}/close/"
        assert post(api, path).json()["changed"] is True
        assert post(client_with("close_chatsession"), path).json()["changed"] is False

    def test_key_is_of_one_path(self, api, osvi_sandbox):
        paths = [f"{mirror(osvi_sandbox).session_id}/close/" for _number in range(2)]
        assert [post(api, path).json()["changed"] for path in paths] == [True, True]

    def test_other_body_with_same_key_returns_422(self, api, session):
        path = f"{session.session_id}/close/"
        post(api, path, {"note": "one"})
        response = post(api, path, {"note": "two"})
        assert (response.status_code, response.json()["code"]) == (422, "idempotency_key_reused")
        assert response.json()["retryable"] is False

    @pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "ä"])
    def test_key_that_cannot_be_used_returns_400(self, api, session, osvi_sandbox, key):
        response = post(api, f"{session.session_id}/close/", key=key)
        assert (response.status_code, list(response.json()["errors"])) == (400, ["Idempotency-Key"])
        assert osvi_sandbox.requests == []


class TestFailures:
    def test_refused_request_is_worked_on_again(self, api, session, osvi_sandbox):
        osvi_sandbox.script(session.session_id, Status(403, errors=["No."]))
        path = f"{session.session_id}/close/"
        assert post(api, path).status_code == 502
        again = post(api, path)
        assert (again.status_code, again.json()["changed"]) == (200, True)
        assert "Idempotency-Replayed" not in again

    def test_unconfirmed_request_is_worked_on_again(self, api, session, osvi_sandbox):
        osvi_sandbox.script(session.session_id, Drop(after_closing=True))
        path = f"{session.session_id}/close/"
        assert post(api, path).status_code == 504
        assert post(api, path).json()["status"] == "closed"

    def test_invalid_body_may_be_corrected_with_same_key(self, api, session):
        path = f"{session.session_id}/close/"
        assert post(api, path, {"note": 5}).status_code == 400
        assert post(api, path, {"note": "five"}).status_code == 200

    def test_request_that_meets_a_bug_is_worked_on_again(self, api, session):
        body = {"session_ids": [session.session_id]}
        with pytest.raises(ZeroDivisionError), connection.execute_wrapper(fail_at_jobs):
            post(api, "close/", body)
        assert not IdempotentRequest.objects.exists()
        assert post(api, "close/", body).status_code == 202


def fail_at_jobs(execute, sql, params, many, context):
    """Be a bug below the view."""
    if sql.startswith("INSERT") and "closejob" in sql:
        raise ZeroDivisionError
    return execute(sql, params, many, context)


def leave_running(client, path):
    """Leave the row of a request whose process still works on it, or has died."""
    post(client, path)
    lease = DatabaseNow() + timedelta(minutes=1)
    answer = {"status_code": None, "body": "", "headers": {}}
    IdempotentRequest.objects.update(**answer, claim=uuid.uuid4(), lease_until=lease)


class TestAtTheSameTime:
    def test_second_request_while_first_runs_returns_409(self, api, session, osvi_sandbox):
        path = f"{session.session_id}/close/"
        leave_running(api, path)
        asked = len(osvi_sandbox.requests)
        response = post(api, path)
        assert (response.status_code, response.json()["code"]) == (409, "request_in_progress")
        assert (response.json()["retryable"], response["Retry-After"]) == (True, "1")
        assert len(osvi_sandbox.requests) == asked

    def test_request_of_dead_process_is_worked_on_again(self, api, session):
        path = f"{session.session_id}/close/"
        leave_running(api, path)
        IdempotentRequest.objects.update(lease_until=DatabaseNow() - timedelta(seconds=1))
        assert post(api, path).json()["changed"] is False
        assert post(api, path)["Idempotency-Replayed"] == "true"

    @pytest.mark.django_db(transaction=True)
    def test_many_requests_at_once_do_work_once(self, staff, osvi_sandbox):
        ids = [mirror(osvi_sandbox).session_id for _number in range(3)]
        answers, start = [], threading.Barrier(5)

        def ask():
            client = APIClient()
            client.force_authenticate(staff)
            start.wait()
            answers.append(post(client, "close/", {"session_ids": ids}))
            connection.close()

        run_at_once(ask, 5)
        assert {each.status_code for each in answers} <= {202, 409}
        made = {each.json()["id"] for each in answers if each.status_code == 202}
        assert made == {CloseJob.objects.get().pk}


class TestExpiry:
    def age(self, hours):
        IdempotentRequest.objects.update(created_at=DatabaseNow() - timedelta(hours=hours))

    def test_answer_is_replayed_for_a_day(self, api, session):
        path = f"{session.session_id}/close/"
        post(api, path)
        self.age(23)
        assert post(api, path)["Idempotency-Replayed"] == "true"
        self.age(25)
        response = post(api, path)
        assert (response.json()["changed"], "Idempotency-Replayed" in response) == (False, False)

    def test_new_request_removes_expired_ones(self, api, session):
        path = f"{session.session_id}/close/"
        for number in range(3):
            post(api, path, key=f"old-{number}")
        self.age(25)
        post(api, path)
        assert IdempotentRequest.objects.count() == 1

    def test_purge_removes_expired_ones(self, api, session, settings, capsys):
        settings.OSVI["default"]["RETENTION"] = {"idempotency": 1 / 12}
        path = f"{session.session_id}/close/"
        post(api, path, key="old")
        self.age(3)
        post(api, path, key="old")
        call_command("osvi_purge")
        assert IdempotentRequest.objects.count() == 1
        self.age(3)
        call_command("osvi_purge")
        assert not IdempotentRequest.objects.exists()
        assert "1 idempotency" in capsys.readouterr().out

    @pytest.mark.parametrize("days", [0, -1, "1", True, float("nan")])
    def test_period_that_cannot_be_used_is_refused(self, api, session, settings, days):
        settings.OSVI["default"]["RETENTION"] = {"idempotency": days}
        with pytest.raises(InvalidSetting, match="idempotency"):
            longest_retention("idempotency")
        assert "osvi_django.E015" in {each.id for each in run_checks()}
        response = post(api, f"{session.session_id}/close/")
        assert (response.status_code, response.json()["code"]) == (503, "not_configured")

    def test_answers_are_kept_forever_if_the_settings_say_so(self, api, session, settings):
        settings.OSVI["default"]["RETENTION"] = {"idempotency": None}
        post(api, f"{session.session_id}/close/")
        self.age(100_000)
        call_command("osvi_purge")
        assert IdempotentRequest.objects.exists()


def test_row_is_named_by_its_digest(api, session):
    post(api, f"{session.session_id}/close/")
    row = IdempotentRequest.objects.get()
    assert str(row) == row.digest
