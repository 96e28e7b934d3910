"""Tests of callers that are not users of this site, such as stateless tokens."""

from __future__ import annotations

import pytest
from rest_framework.test import APIClient

from osvi_django.models import CloseJob
from osvi_django.services.jobs import run_close_job
from osvi_django.testing import Status
from tests.helpers.callers import CALLER_IDS, TokenUser
from tests.helpers.sandbox import mirror

pytestmark = pytest.mark.django_db

CLOSE = "/api/osvi/sessions/close/"


def client_of(caller):
    """Return a REST client of this caller."""
    client = APIClient()
    client.force_authenticate(caller)
    return client


@pytest.mark.parametrize("key", CALLER_IDS, ids=repr)
@pytest.mark.parametrize("headers", [{}, {"Prefer": "respond-async"}], ids=["bulk", "async"])
def test_token_caller_follows_location_and_retries_job(osvi_sandbox, key, headers):
    session = mirror(osvi_sandbox)
    client = client_of(TokenUser(key))
    url = f"/api/osvi/sessions/{session.session_id}/close/" if headers else CLOSE
    body = {} if headers else {"session_ids": [session.session_id]}
    made = client.post(url, body, format="json", headers=headers)
    assert made.status_code == 202
    osvi_sandbox.script(session.session_id, Status(422))
    run_close_job(made.json()["id"])
    there = made["Location"]
    assert client.get(there).json()["failed"] == 1
    assert client.get(f"{there}results/").json()["results"][0]["outcome"] == "rejected"
    assert client.post(f"{there}cancel/").status_code == 200
    again = client.post(f"{there}retry/")
    assert again.status_code == 202
    assert client.get(again["Location"]).status_code == 200


@pytest.mark.parametrize("ending", ["", "results/", "cancel/", "retry/"])
def test_user_with_same_number_as_token_caller_gets_404(osvi_sandbox, client_with, staff, ending):
    session = mirror(osvi_sandbox)
    token = client_of(TokenUser(staff.pk))
    made = token.post(CLOSE, {"session_ids": [session.session_id]}, format="json")
    user = client_of(staff)
    ask = user.post if ending in {"cancel/", "retry/"} else user.get
    assert ask(f"{made['Location']}{ending}").status_code == 404
    assert user.get("/api/osvi/close-jobs/").json()["results"] == []
    theirs = user.post(CLOSE, {"session_ids": [session.session_id]}, format="json")
    assert token.get(theirs["Location"]).status_code == 404


@pytest.mark.parametrize("number", CALLER_IDS)
def test_token_caller_sees_own_job_and_no_other_caller_does(mirrored, number):
    ids = [each.session_id for each in (mirrored(), mirrored())]
    client = client_of(TokenUser(number))
    made = client.post("/api/osvi/sessions/close/", {"session_ids": ids}, format="json")
    assert made.status_code == 202, made.content
    run_close_job(CloseJob.objects.get().pk)
    job = client.get(made["Location"]).json()
    assert (job["status"], job["succeeded"]) == ("completed", 2)
    assert job["requested_by"].startswith("TokenUser ")
    results = client.get(job["results"]).json()["results"]
    assert [each["outcome"] for each in results] == ["closed", "closed"]
    assert len(client.get("/api/osvi/close-jobs/").json()["results"]) == 1
    other = client_of(TokenUser("svc-other"))
    assert other.get(made["Location"]).status_code == 404
    assert other.get("/api/osvi/close-jobs/").json()["results"] == []


def test_token_caller_finds_job_of_async_close(mirrored):
    client = client_of(TokenUser("svc-1"))
    url = f"/api/osvi/sessions/{mirrored().session_id}/close/"
    made = client.post(url, {}, format="json", headers={"Prefer": "respond-async"})
    assert (made.status_code, client.get(made["Location"]).status_code) == (202, 200)
