"""A database that is away, or has no connection left, is a 503 that says so."""

from __future__ import annotations

from base64 import b64encode

import pytest
from django.db import OperationalError
from rest_framework.test import APIClient

from tests.outside import refused

pytestmark = pytest.mark.django_db(transaction=True)
AWAY = OperationalError("too many connections for role a-secret")


def told(answer):
    assert "secret" not in answer.content.decode()
    body = answer.json()
    return answer.status_code, body["code"], body["retryable"], "Retry-After" in answer.headers


def test_a_list_can_be_read_again(api):
    with refused(lambda sql, _params: "osvi_django_chatsession" in sql, AWAY):
        assert told(api.get("/api/osvi/sessions/")) == (503, "database_away", True, True)


def test_a_close_that_was_not_begun_can_be_repeated(mirrored, osvi_sandbox):
    session = mirrored()
    api = APIClient(headers={"Authorization": f"Basic {b64encode(b'sam:secret').decode()}"})
    with refused(lambda sql, _params: "auth_user" in sql, AWAY):
        answer = api.post(f"/api/osvi/sessions/{session.session_id}/close/")
    assert told(answer) == (503, "database_away", True, True)
    assert osvi_sandbox.close_requests(session.session_id) == 0


def test_what_may_have_been_done_is_to_be_looked_at(api, mirrored):
    session = mirrored()
    with refused(lambda sql, _params: "osvi_django_closeattempt" in sql, AWAY):
        answer = api.post(f"/api/osvi/sessions/{session.session_id}/close/")
    assert told(answer) == (503, "database_away", False, False)
