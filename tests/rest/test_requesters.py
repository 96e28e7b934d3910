"""Callers that are not users of this site, over REST: they find what they asked for."""

from __future__ import annotations

import pytest
from rest_framework.test import APIClient

from osvi_django.models import CloseJob
from osvi_django.services.jobs import run_close_job
from tests.callers import IDS, TokenUser

pytestmark = pytest.mark.django_db


@pytest.fixture
def client_of():
    """A REST client of any caller."""

    def _client_of(caller):
        client = APIClient()
        client.force_authenticate(caller)
        return client

    return _client_of


@pytest.mark.parametrize("number", IDS)
def test_caller_follows_the_location_of_its_job(mirrored, client_of, number, settings):
    settings.OSVI_EXECUTOR = None
    ids = [each.session_id for each in (mirrored(), mirrored())]
    client = client_of(TokenUser(number))
    made = client.post("/api/osvi/sessions/close/", {"session_ids": ids}, format="json")
    assert made.status_code == 202, made.content
    run_close_job(CloseJob.objects.get().pk)
    job = client.get(made["Location"]).json()
    assert (job["status"], job["succeeded"]) == ("completed", 2)
    assert job["created_by"].startswith("TokenUser ")
    results = client.get(job["results"]).json()["results"]
    assert [each["outcome"] for each in results] == ["closed", "closed"]
    assert len(client.get("/api/osvi/close-jobs/").json()["results"]) == 1
    other = client_of(TokenUser("svc-other"))
    assert other.get(made["Location"]).status_code == 404
    assert other.get("/api/osvi/close-jobs/").json()["results"] == []


def test_result_of_an_asynchronous_close_is_found(mirrored, client_of, settings):
    settings.OSVI_EXECUTOR = None
    client = client_of(TokenUser("svc-1"))
    url = f"/api/osvi/sessions/{mirrored().session_id}/close/"
    made = client.post(url, {}, format="json", headers={"Prefer": "respond-async"})
    assert (made.status_code, client.get(made["Location"]).status_code) == (202, 200)
