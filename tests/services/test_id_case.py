"""Test that a UUID in lower and in upper case is the same session id."""

from __future__ import annotations

import pytest
from django.core.management import call_command

from osvi_django.models import ChatAgent, ChatSession
from osvi_django.services import close_session_by_id
from osvi_django.services.jobs import create_close_job
from osvi_django.services.mirroring import look_up_customer, mirror_session, mirror_started
from tests.helpers.sandbox import mirror

pytestmark = pytest.mark.django_db

LOWER = "4718a326-417b-4dda-90d0-21fd65a11cb8"
UPPER = LOWER.upper()
MIXED = LOWER.title()


@pytest.fixture(params=[LOWER, UPPER])
def session(request, osvi_sandbox):
    """Create a session with an id in lower or upper case."""
    return mirror(osvi_sandbox, session_id=request.param, customer_id="+1", summary="Fine.")


def test_sync_with_id_in_other_case_updates_known_session(session, osvi_sandbox):
    osvi_sandbox.sessions[session.session_id].id = session.session_id.swapcase()
    found = look_up_customer("+1")
    assert (found.listed, found.dormant, found.unknown) == (1, 0, 0)
    assert [each.pk for each in found.sessions] == [session.pk]
    row = ChatSession.objects.get()
    assert (row.session_id, row.status, row.attempts.count()) == (session.session_id, "active", 0)


@pytest.mark.parametrize("change", [str.swapcase, str.title])
def test_mirror_session_with_id_in_other_case_updates_known_session(session, osvi_sandbox, change):
    spelled = change(session.session_id)
    remote = osvi_sandbox.sessions[session.session_id].as_json()
    assert mirror_session({**remote, "id": spelled}).pk == session.pk
    assert mirror_started({"session_id": spelled}, agent_uuid=session.agent.uuid).pk == session.pk
    assert ChatSession.objects.count() == 1


def test_mirror_session_with_id_in_mixed_case_has_one_session(osvi_sandbox):
    remote = osvi_sandbox.add_session(LOWER, "agent_1").as_json()
    for spelled in (MIXED, UPPER, LOWER, MIXED.swapcase()):
        mirror_session({**remote, "id": spelled})
    assert ChatSession.objects.get().session_id == LOWER


def test_rest_with_id_in_other_case_finds_and_closes_session(api, session):
    url = f"/api/osvi/sessions/{session.session_id.swapcase()}/"
    assert api.get(url).json()["session_id"] == session.session_id
    response = api.post(f"{url}close/", format="json")
    assert (response.status_code, response.json()["session_id"]) == (200, session.session_id)
    assert ChatSession.objects.get().summary.text == "Fine."


def test_close_by_id_with_id_in_other_case_closes_known_session(session):
    agent = session.agent.uuid
    result = close_session_by_id(session.session_id.swapcase(), agent_uuid=agent)
    assert (result.session.pk, result.summary.text) == (session.pk, "Fine.")
    assert (ChatSession.objects.count(), ChatAgent.objects.count()) == (1, 1)


def test_close_command_with_id_in_other_case_closes_known_session(session, osvi_sandbox):
    call_command("osvi_close", session.session_id.swapcase())
    assert ChatSession.objects.get().status == "closed"
    assert osvi_sandbox.closes(session.session_id) == 1


def test_create_job_with_id_in_both_cases_has_one_item(session):
    job = create_close_job([UPPER, LOWER, "4718a326-unknown"], start=False)
    items = job.items.order_by("pk").values_list("requested_session_id", "session_id", "outcome")
    assert list(items) == [(UPPER, session.pk, "waiting"), ("4718a326-unknown", None, "not_found")]


def test_rest_with_other_id_than_uuid_in_other_case_returns_404(api, osvi_sandbox):
    mirror(osvi_sandbox, session_id="s-1")
    assert api.get("/api/osvi/sessions/S-1/").status_code == 404
