"""Test whose session it is after a close that names the agent of an unknown session."""

from __future__ import annotations

import pytest

from osvi_django.exceptions import InvalidInput, OSVINoAnswer
from osvi_django.models import ChatAgent, ChatSession
from osvi_django.services import close_session_by_id, mirror_session
from osvi_django.services.by_id import create_close_job_by_id
from osvi_django.services.jobs import run_close_job
from osvi_django.services.recovery import mark_closed, recover_session
from osvi_django.signals import session_closed
from osvi_django.testing import Drop
from osvi_django.testing.factories import ChatAgentFactory
from tests.services.helpers import session_object

pytestmark = pytest.mark.django_db


@pytest.fixture
def at_osvi(osvi_sandbox, settings):
    """Create a session at OSVI only, whose account closes with v1."""
    settings.OSVI["default"]["CLOSE_WITH"] = "v1"
    settings.OSVI_EXECUTOR = None
    osvi_sandbox.add_session(session_id="s-1", agent_uuid="agent_1")
    return osvi_sandbox


def close(agent_uuid="agent_of_nobody", **named):
    return close_session_by_id("s-1", agent_uuid=agent_uuid, **named)


def agents():
    """Return account, UUID and number of the agent of each session."""
    found = ChatSession.objects.values_list("agent__account", "agent__uuid", "agent__number")
    return list(found)


UNKNOWN = [("default", None, None)]


def test_close_by_id_with_v1_stores_unknown_agent(at_osvi):
    result = close()
    assert result.session.status == "closed"
    assert agents() == UNKNOWN
    assert str(result.session.agent) == "Unknown agent"


def test_close_by_id_with_v1_in_other_account_names_account_of_unknown_agent(at_osvi, settings):
    settings.OSVI["outlet"] = {**settings.OSVI["default"]}
    result = close(account="outlet")
    assert agents() == [("outlet", None, None)]
    assert str(result.session.agent) == "Unknown agent (outlet)"


def test_close_job_by_id_with_v1_stores_unknown_agent(at_osvi):
    job = run_close_job(create_close_job_by_id("s-1", agent_uuid="agent_of_nobody").pk)
    assert job.items.get().outcome == "closed"
    assert agents() == UNKNOWN


def test_rest_close_with_v1_returns_null_agent(api, at_osvi):
    body = {"agent_uuid": "agent_of_nobody"}
    response = api.post("/api/osvi/sessions/s-1/close/", body, format="json")
    assert response.status_code == 200
    assert (response.json()["status"], response.json()["agent_uuid"]) == ("closed", None)


def test_close_by_id_with_v1_sends_signal_with_unknown_agent(at_osvi):
    heard = []

    def hear(session, **_named):
        heard.append(session.agent.uuid)

    session_closed.connect(hear)
    try:
        close()
    finally:
        session_closed.disconnect(hear)
    assert heard == [None]


def test_close_by_id_with_v1_again_returns_stored_result(at_osvi):
    close()
    again = close()
    assert (again.session.status, again.changed) == ("closed", False)
    assert at_osvi.close_requests("s-1") == 1
    with pytest.raises(InvalidInput) as caught:
        close(account="outlet")
    assert caught.value.field == "account"


def test_close_by_id_with_v1_of_several_keeps_one_unknown_agent(at_osvi):
    at_osvi.add_session(session_id="s-2", agent_uuid="agent_2")
    close()
    close_session_by_id("s-2", agent_uuid="agent_of_nobody")
    assert agents() == UNKNOWN * 2
    assert ChatAgent.objects.filter(uuid=None).count() == 1


def test_close_by_id_with_legacy_keeps_agent_that_osvi_compared(at_osvi, settings):
    settings.OSVI["default"]["CLOSE_WITH"] = "legacy"
    close("agent_1")
    assert agents() == [("default", "agent_1", None)]


def test_close_by_id_with_v1_keeps_agent_that_osvi_told(at_osvi):
    mirror_session(session_object(), agent_uuid="agent_1")
    close("agent_1")
    assert agents() == [("default", "agent_1", 42)]


def test_close_by_id_with_v1_keeps_agent_known_to_this_site_out_of_unknown_session(at_osvi):
    """An agent that exists may still not be the one of this session."""
    agent = ChatAgentFactory(uuid="agent_2")
    close("agent_2")
    assert agents() == UNKNOWN
    assert ChatAgent.objects.filter(pk=agent.pk).exists()


def test_mark_closed_with_v1_stores_unknown_agent(at_osvi):
    at_osvi.script("s-1", Drop())
    with pytest.raises(OSVINoAnswer):
        close()
    assert agents() == [("default", "agent_of_nobody", None)]  # what recovery asks OSVI by
    mark_closed(ChatSession.objects.get(), note="So says OSVI's dashboard.")
    assert agents() == UNKNOWN


def test_recovery_with_v1_keeps_agent_that_osvi_compared(at_osvi):
    at_osvi.script("s-1", Drop(after_closing=True))
    with pytest.raises(OSVINoAnswer):
        close("agent_1")
    recover_session(ChatSession.objects.get())
    assert ChatSession.objects.get().status == "closed"
    assert agents() == [("default", "agent_1", None)]


def test_mirror_session_of_unknown_agent_stores_the_one_that_osvi_names(at_osvi):
    close()
    mirror_session(session_object(status="closed"))
    assert agents() == [("default", None, 42)]


def test_mirror_session_without_agent_keeps_unknown_agent(at_osvi):
    close()
    mirror_session(session_object(status="closed", chat_agent_id=None))
    assert agents() == UNKNOWN


def test_close_by_id_with_v1_when_account_is_removed_meanwhile_stores_unknown_agent(
    at_osvi, settings
):
    at_osvi.script("s-1", Drop())
    with pytest.raises(OSVINoAnswer):
        close()
    settings.OSVI["default"]["CLOSE_WITH"] = "v9"
    mark_closed(ChatSession.objects.get(), note="So says OSVI's dashboard.")
    assert agents() == UNKNOWN
