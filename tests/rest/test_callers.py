"""Callers that are not users of the site, such as stateless tokens, follow their own jobs."""

from __future__ import annotations

import pytest
from rest_framework.test import APIClient

from osvi_django.services.jobs import run_close_job
from osvi_django.testing import Status
from tests.callers import IDS, TokenUser
from tests.mirroring import mirror

pytestmark = pytest.mark.django_db

CLOSE = "/api/osvi/sessions/close/"


def client_of(caller):
    client = APIClient()
    client.force_authenticate(caller)
    return client


@pytest.mark.parametrize("key", IDS, ids=repr)
@pytest.mark.parametrize("headers", [{}, {"Prefer": "respond-async"}], ids=["bulk", "async"])
def test_a_token_follows_the_address_that_it_was_given(osvi_sandbox, key, headers):
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
def test_a_user_of_the_same_number_does_not_see_a_tokens_job(osvi_sandbox, somebody, staff, ending):
    session = mirror(osvi_sandbox)
    token = client_of(TokenUser(staff.pk))
    made = token.post(CLOSE, {"session_ids": [session.session_id]}, format="json")
    user = client_of(staff)
    ask = user.post if ending in {"cancel/", "retry/"} else user.get
    assert ask(f"{made['Location']}{ending}").status_code == 404
    assert user.get("/api/osvi/close-jobs/").json()["results"] == []
    theirs = user.post(CLOSE, {"session_ids": [session.session_id]}, format="json")
    assert token.get(theirs["Location"]).status_code == 404
