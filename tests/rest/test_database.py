"""Tests of REST when the database is away or has no free connection."""

from __future__ import annotations

import sqlite3
from base64 import b64encode

import pytest
from django.db import OperationalError, ProgrammingError
from rest_framework.test import APIClient

from tests.helpers.database import raise_on_queries

pytestmark = pytest.mark.django_db(transaction=True)
AWAY = OperationalError("too many connections for role a-secret")


def error_of(answer):
    """Return status, code, whether it may be retried, and whether Retry-After is set."""
    assert "secret" not in answer.content.decode()
    body = answer.json()
    return answer.status_code, body["code"], body["retryable"], "Retry-After" in answer.headers


def test_list_if_database_is_away_returns_retryable_503(api):
    with raise_on_queries(lambda sql, _params: "osvi_django_chatsession" in sql, AWAY):
        assert error_of(api.get("/api/osvi/sessions/")) == (503, "database_away", True, True)


def test_close_if_database_is_away_before_start_is_retryable(mirrored, osvi_sandbox):
    session = mirrored()
    api = APIClient(headers={"Authorization": f"Basic {b64encode(b'sam:secret').decode()}"})
    with raise_on_queries(lambda sql, _params: "auth_user" in sql, AWAY):
        answer = api.post(f"/api/osvi/sessions/{session.session_id}/close/")
    assert error_of(answer) == (503, "database_away", True, True)
    assert osvi_sandbox.close_requests(session.session_id) == 0


def test_close_if_database_is_away_after_start_is_not_retryable(api, mirrored):
    session = mirrored()
    with raise_on_queries(lambda sql, _params: "osvi_django_closeattempt" in sql, AWAY):
        answer = api.post(f"/api/osvi/sessions/{session.session_id}/close/")
    assert error_of(answer) == (503, "database_away", False, False)


@pytest.mark.parametrize("missing", ["no such table: x", "no such column: x"])
def test_list_without_tables_is_not_retryable_and_logs_what_is_missing(api, caplog, missing):
    error = OperationalError(missing)
    error.__cause__ = sqlite3.OperationalError(missing)
    with raise_on_queries(lambda sql, _params: "osvi_django_chatsession" in sql, error):
        answer = api.get("/api/osvi/sessions/")
    assert error_of(answer) == (503, "database_away", False, False)
    assert f"for a request: OperationalError: {missing.partition(':')[0]}" in caplog.text


def test_list_without_tables_on_servers_is_no_bug(api):
    """PostgreSQL and MariaDB have another class of errors for it."""
    error = ProgrammingError("relation a-secret does not exist")
    error.__cause__ = Exception(1146, "a-secret")
    with raise_on_queries(lambda sql, _params: "osvi_django_chatsession" in sql, error):
        answer = api.get("/api/osvi/sessions/")
    assert error_of(answer) == (503, "database_away", False, False)
