"""Test that every entry point refuses invalid ids and accounts with the same sentence."""

from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from osvi_django.exceptions import InvalidInput, OSVINotConfigured
from osvi_django.services import (
    SessionFilter,
    close_session_by_id,
    create_close_job,
    look_up_customer,
    mirror_session,
    start_session,
)
from osvi_django.validation import id_problem

NOT_AN_ID = "This is not a valid id: use a text of 1 to 255 characters, other than “.” and “..”."
NO_ACCOUNT = 'This site has no account "nobody": use one of default.'


def error_of_service(act, *args, **options):
    with pytest.raises((InvalidInput, OSVINotConfigured)) as caught:
        act(*args, **options)
    return str(caught.value)


def error_of_command(*args):
    with pytest.raises(CommandError) as caught:
        call_command(*args, stdout=StringIO(), stderr=StringIO())
    assert caught.value.returncode == 2
    return str(caught.value)


@pytest.fixture
def error_of_rest(operator):
    def _said(path, body=None):
        url = f"/api/osvi/sessions/{path}"
        response = operator.get(url) if body is None else operator.post(url, body, format="json")
        assert response.status_code == 400, response.content
        return response.json()["detail"]

    return _said


@pytest.mark.parametrize("wrong", ["", ".", "..", "x" * 256, None, 5])
def test_id_problem_of_invalid_id_returns_sentence(wrong):
    assert id_problem(wrong) == NOT_AN_ID


@pytest.mark.parametrize("odd", ["...", "a/b", " ", "x" * 255, "ü"])
def test_id_problem_of_odd_valid_id_is_empty(odd):
    assert id_problem(odd) == ""


@pytest.mark.django_db
class TestIds:
    def test_invalid_id_in_python_raises_error_with_sentence(self, osvi_sandbox):
        calls = [
            (create_close_job, {"sessions": ["."]}, "session_ids: '.'"),
            (SessionFilter, {"agent_uuid": "."}, "agent_uuid"),
            (close_session_by_id, {"session_id": ".", "agent_uuid": "a"}, "session_id"),
            (start_session, {"agent_uuid": ".", "customer_id": "+1"}, "agent_uuid"),
            (look_up_customer, {"customer_id": "."}, "customer_id"),
        ]
        for act, options, named in calls:
            assert error_of_service(act, **options) == f"{named}: {NOT_AN_ID}"
        assert osvi_sandbox.requests == []

    def test_invalid_id_in_command_raises_error_with_sentence(self, osvi_sandbox):
        assert error_of_command("osvi_close", ".").endswith(NOT_AN_ID)
        assert error_of_command("osvi_close", "--agent", ".").endswith(NOT_AN_ID)
        assert error_of_command("osvi_sync", "--customer", ".").endswith(NOT_AN_ID)
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize(
        ("path", "body", "start"),
        [
            ("close/", {"session_ids": ["."]}, "session_ids"),
            ("s-1/close/", {"agent_uuid": "."}, "agent_uuid: "),
            ("sync/", {"customer_id": "."}, "customer_id: "),
        ],
    )
    def test_invalid_id_in_rest_answers_400_with_sentence(
        self, error_of_rest, osvi_sandbox, path, body, start
    ):
        said = error_of_rest(path, body)
        assert (said.startswith(start), said.endswith(NOT_AN_ID)) == (True, True)
        assert osvi_sandbox.requests == []


@pytest.mark.django_db
class TestAccounts:
    def test_unknown_account_in_python_raises_error_with_sentence(self, osvi_sandbox):
        ids = {"id": "s-1", "customer_id": "+1", "chat_agent_id": 1, "status": "active"}
        assert NO_ACCOUNT in error_of_service(mirror_session, ids, account="nobody")
        assert osvi_sandbox.requests == []

    def test_unknown_account_in_command_raises_error_with_sentence(self, osvi_sandbox):
        said = error_of_command("osvi_sync", "--customer", "+1", "--account", "nobody")
        assert said == NO_ACCOUNT
        assert osvi_sandbox.requests == []

    def test_unknown_account_in_rest_answers_400_with_sentence(self, error_of_rest, osvi_sandbox):
        start = {"agent_uuid": "a", "customer_id": "+1", "account": "nobody"}
        assert error_of_rest("", start) == f"account: {NO_ACCOUNT}"
        assert error_of_rest("sync/", {"customer_id": "+1", "account": "nobody"}).endswith(
            NO_ACCOUNT
        )
        assert osvi_sandbox.requests == []
