"""An id that is a UUID means one session, in whichever case it is told or asked for."""

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
    """A session that is known here in one of the cases."""
    return mirror(osvi_sandbox, session_id=request.param, customer_id="+1", summary="Fine.")


def test_list_with_an_id_in_another_case_makes_no_second_session(session, osvi_sandbox):
    osvi_sandbox.sessions[session.session_id].id = session.session_id.swapcase()
    found = look_up_customer("+1")
    assert (found.listed, found.dormant, found.unknown) == (1, 0, 0)
    assert [each.pk for each in found.sessions] == [session.pk]
    row = ChatSession.objects.get()
    assert (row.session_id, row.status, row.attempts.count()) == (session.session_id, "active", 0)


@pytest.mark.parametrize("change", [str.swapcase, str.title])
def test_what_a_host_mirrors_in_another_case_is_the_same_session(session, osvi_sandbox, change):
    told = change(session.session_id)
    remote = osvi_sandbox.sessions[session.session_id].as_json()
    assert mirror_session({**remote, "id": told}).pk == session.pk
    assert mirror_started({"session_id": told}, agent_uuid=session.agent.uuid).pk == session.pk
    assert ChatSession.objects.count() == 1


def test_first_word_of_an_id_in_mixed_case_is_found_by_the_next_in_any(osvi_sandbox):
    remote = osvi_sandbox.add_session(LOWER, "agent_1").as_json()
    for told in (MIXED, UPPER, LOWER, MIXED.swapcase()):
        mirror_session({**remote, "id": told})
    assert ChatSession.objects.get().session_id == LOWER


def test_rest_finds_and_closes_a_session_by_its_id_in_another_case(api, session):
    url = f"/api/osvi/sessions/{session.session_id.swapcase()}/"
    assert api.get(url).json()["session_id"] == session.session_id
    response = api.post(f"{url}close/", format="json")
    assert (response.status_code, response.json()["session_id"]) == (200, session.session_id)
    assert ChatSession.objects.get().summary.text == "Fine."


def test_close_by_an_id_in_another_case_makes_no_second_session(session):
    agent = session.agent.uuid
    result = close_session_by_id(session.session_id.swapcase(), agent_uuid=agent)
    assert (result.session.pk, result.summary.text) == (session.pk, "Fine.")
    assert (ChatSession.objects.count(), ChatAgent.objects.count()) == (1, 1)


def test_command_closes_a_session_by_its_id_in_another_case(session, osvi_sandbox):
    call_command("osvi_close", session.session_id.swapcase())
    assert ChatSession.objects.get().status == "closed"
    assert osvi_sandbox.closes(session.session_id) == 1


def test_job_has_a_session_once_that_is_named_in_both_cases(session):
    job = create_close_job([UPPER, LOWER, "4718a326-unknown"], start=False)
    items = job.items.order_by("pk").values_list("requested_session_id", "session_id", "outcome")
    assert list(items) == [(UPPER, session.pk, "waiting"), ("4718a326-unknown", None, "not_found")]


def test_ids_that_are_no_uuids_are_others_in_another_case(api, osvi_sandbox):
    mirror(osvi_sandbox, session_id="s-1")
    assert api.get("/api/osvi/sessions/S-1/").status_code == 404
