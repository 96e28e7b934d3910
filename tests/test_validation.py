"""One rule and one sentence for ids and for accounts, at every entry point."""

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
NO_ACCOUNT = 'OSVI has no account "nobody": use one of default.'


def said_by_service(act, *args, **options):
    with pytest.raises((InvalidInput, OSVINotConfigured)) as caught:
        act(*args, **options)
    return str(caught.value)


def said_by_command(*args):
    with pytest.raises(CommandError) as caught:
        call_command(*args, stdout=StringIO(), stderr=StringIO())
    assert caught.value.returncode == 2
    return str(caught.value)


@pytest.fixture
def said_by_rest(operator):
    def _said(path, body=None):
        url = f"/api/osvi/sessions/{path}"
        response = operator.get(url) if body is None else operator.post(url, body, format="json")
        assert response.status_code == 400, response.content
        return response.json()["detail"]

    return _said


@pytest.mark.parametrize("wrong", ["", ".", "..", "x" * 256, None, 5])
def test_id_that_cannot_be_sent_has_one_sentence(wrong):
    assert id_problem(wrong) == NOT_AN_ID


@pytest.mark.parametrize("odd", ["...", "a/b", " ", "x" * 255, "ü"])
def test_id_that_osvi_may_have_given_has_no_problem(odd):
    assert id_problem(odd) == ""


@pytest.mark.django_db
class TestIds:
    def test_id_in_python_is_refused_with_the_sentence(self, osvi_sandbox):
        calls = [
            (create_close_job, {"sessions": ["."]}, "session_ids: '.'"),
            (SessionFilter, {"agent_uuid": "."}, "agent_uuid"),
            (close_session_by_id, {"session_id": ".", "agent_uuid": "a"}, "session_id"),
            (start_session, {"agent_uuid": ".", "customer_id": "+1"}, "agent_uuid"),
            (look_up_customer, {"customer_id": "."}, "customer_id"),
        ]
        for act, options, named in calls:
            assert said_by_service(act, **options) == f"{named}: {NOT_AN_ID}"
        assert osvi_sandbox.requests == []

    def test_id_in_a_command_is_refused_with_the_sentence(self, osvi_sandbox):
        assert said_by_command("osvi_close", ".").endswith(NOT_AN_ID)
        assert said_by_command("osvi_close", "--agent", ".").endswith(NOT_AN_ID)
        assert said_by_command("osvi_sync", "--customer", ".").endswith(NOT_AN_ID)
        assert osvi_sandbox.requests == []

    def test_id_in_rest_is_refused_with_the_sentence(self, said_by_rest, osvi_sandbox):
        assert said_by_rest("close/", {"session_ids": ["."]}).endswith(NOT_AN_ID)
        assert said_by_rest("s-1/close/", {"agent_uuid": "."}) == f"agent_uuid: {NOT_AN_ID}"
        assert said_by_rest("sync/", {"customer_id": "."}) == f"customer_id: {NOT_AN_ID}"
        assert osvi_sandbox.requests == []


@pytest.mark.django_db
class TestAccounts:
    def test_account_in_python_is_refused_with_the_sentence(self, osvi_sandbox):
        ids = {"id": "s-1", "customer_id": "+1", "chat_agent_id": 1, "status": "active"}
        assert NO_ACCOUNT in said_by_service(mirror_session, ids, account="nobody")
        assert osvi_sandbox.requests == []

    def test_account_in_a_command_is_refused_with_the_sentence(self, osvi_sandbox):
        said = said_by_command("osvi_sync", "--customer", "+1", "--account", "nobody")
        assert said == NO_ACCOUNT
        assert osvi_sandbox.requests == []

    def test_account_in_rest_is_refused_with_the_sentence(self, said_by_rest, osvi_sandbox):
        start = {"agent_uuid": "a", "customer_id": "+1", "account": "nobody"}
        assert said_by_rest("", start) == f"account: {NO_ACCOUNT}"
        assert said_by_rest("sync/", {"customer_id": "+1", "account": "nobody"}).endswith(
            NO_ACCOUNT
        )
        assert osvi_sandbox.requests == []
