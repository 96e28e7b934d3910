"""Walk every REST endpoint with two tenants: another's ids are answered as unknown ones are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import quote

import pytest
from django.http import HttpResponse

from osvi_django.models import ChatSession
from osvi_django.rest.urls import urlpatterns
from osvi_django.services.jobs import create_close_job
from osvi_django.testing.factories import (
    CloseAttemptFactory,
    ClosedSessionFactory,
    SupportActionFactory,
)
from tests.access.matrix import CASES, filled
from tests.helpers import tenants as functions

pytestmark = pytest.mark.django_db(transaction=True)

BASE = "/api/osvi/"
DOCS = Path(__file__).parents[2] / "docs" / "access.md"
UNKNOWN = {
    "session": "00000000-0000-4000-8000-000000000000",
    "job": "999999",
    "agent": "agent_of_nobody",
    "customer": "+4930000000",
    "attempt": 999999,
    "action": 999999,
}


@pytest.fixture
def others(chats, bob):
    """Create rows of all kinds for tenant B; return their ids by the names of the matrix."""
    chat = chats.b
    attempt = CloseAttemptFactory(session=chat, note="The note of B.", outcome="rejected")
    action = SupportActionFactory(session=chat, text="The words of B.")
    ClosedSessionFactory(
        agent=chat.agent, customer_id=chat.customer_id, summary__text="The summary of B."
    )
    job = create_close_job([chat], requested_by=bob, note="The job of B.")
    return {
        "session": chat.session_id,
        "job": job.pk,
        "agent": chat.agent.uuid,
        "customer": chat.customer_id,
        "attempt": attempt.pk,
        "action": action.pk,
    }


def secrets_of(tenant):
    """Return what a user of another tenant must never read."""
    sessions = ChatSession.objects.filter(agent__name__startswith=tenant)
    ids = [each.session_id for each in sessions] + [each.customer_id for each in sessions]
    return {*ids, f"{tenant} one", f"The summary of {tenant}", f"The words of {tenant}"}


def answer(client, case, ids):
    address = BASE + filled(case.path, ids)
    if case.query:
        name, _is, value = filled(case.query, ids).partition("=")
        address += f"?{name}={quote(value)}"
    call = getattr(client, case.method)
    if case.method != "get":
        return call(address, filled(case.body, ids), "json")
    response = call(address)
    return HttpResponse(response.getvalue()) if response.streaming else response


def without(ids, response):
    """Return the status and body of an answer, with what was asked and what is new left out."""
    text = response.content.decode()
    for name in sorted(ids, key=lambda name: -len(str(ids[name]))):
        if len(str(ids[name])) > 6:
            text = text.replace(quote(str(ids[name])), name).replace(str(ids[name]), name)
    text = re.sub(r'"id": ?\d+|close-jobs/\d+|"\w+_at": ?"[^"]*"', "_", text)
    return response.status_code, text, response.get("Retry-After")


def test_every_url_has_a_case():
    assert {each.name for each in urlpatterns if each.name} == {case.name for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case} is {case.status}")
def test_ids_of_other_tenant_are_answered_as_unknown(
    case, ann, chats, others, api_of, osvi_sandbox
):
    client = api_of(ann)
    unknown = answer(client, case, UNKNOWN)
    found = answer(client, case, others)
    assert found.status_code == case.status, found.content
    assert without(others, found) == without(UNKNOWN, unknown)
    asked = {str(each) for each in others.values()}
    text = found.content.decode()
    assert [each for each in secrets_of("B") if each in text and each not in asked] == []
    assert ChatSession.objects.get(pk=chats.b.pk).status == "active"


def test_documentation_has_every_case():
    documented = DOCS.read_text(encoding="utf-8")
    assert [str(case) for case in CASES if f"| `{case}` | {case.status} |" not in documented] == []


def test_own_chats_are_shown_and_counted(ann, chats, others, api_of):
    body = api_of(ann).get(f"{BASE}sessions/").json()
    assert [each["session_id"] for each in body["results"]] == [chats.a.session_id]
    assert api_of(ann).get(f"{BASE}sessions/{chats.a.session_id}/").status_code == 200


def test_id_with_slash_outside_is_as_a_path_that_does_not_exist(ann, chats, api_of, client):
    ChatSession.objects.filter(pk=chats.b.pk).update(session_id="b/1")
    ChatSession.objects.filter(pk=chats.a.pk).update(session_id="a/1")
    answers = [api_of(ann).get(f"{BASE}sessions/{each}/") for each in ("b/1", "x/1", "a/1")]
    assert [each.status_code for each in answers] == [404, 404, 200]
    assert answers[0].content == answers[1].content
    # Without a login, nothing is said of any id.
    anonymous = [client.get(f"{BASE}sessions/{each}/") for each in ("b/1", "x/1", "a/1")]
    assert {(each.status_code, each.content) for each in anonymous} == {(401, anonymous[0].content)}


def test_results_of_own_job_leave_out_what_is_outside_by_now(ann, chats, api_of):
    job = create_close_job([chats.a.session_id, "unknown"], requested_by=ann)
    address = f"{BASE}close-jobs/{job.pk}/results/"
    assert len(api_of(ann).get(address).json()["results"]) == 2
    ann.first_name = "B"
    ann.save()
    (left,) = api_of(ann).get(address).json()["results"]
    assert left["session_id"] == "unknown"


def test_results_for_user_who_may_only_close_are_those_to_close(user_of, chats, api_of, settings):
    user = user_of("A", "close_chatsession")
    settings.OSVI_SESSIONS_FOR = functions.only_close
    job = create_close_job([chats.a], requested_by=user)
    body = api_of(user).get(f"{BASE}close-jobs/{job.pk}/results/").json()
    assert len(body["results"]) == 1


def test_answer_is_not_replayed_once_the_access_is_withdrawn(ann, chats, api_of):
    address = f"{BASE}sessions/{chats.a.session_id}/close/"
    key = {"HTTP_IDEMPOTENCY_KEY": "k1"}
    first = api_of(ann).post(address, {}, "json", **key)
    again = api_of(ann).post(address, {}, "json", **key)
    assert (first.status_code, again["Idempotency-Replayed"]) == (200, "true")
    ann.first_name = "B"
    ann.save()
    assert api_of(ann).post(address, {}, "json", **key).status_code == 404


def test_close_without_waiting_is_accepted_as_of_an_unknown_session(ann, chats, api_of):
    bodies = []
    for session_id in (chats.b.session_id, UNKNOWN["session"]):
        response = api_of(ann).post(
            f"{BASE}sessions/{session_id}/close/",
            {"agent_uuid": "agent_of_a"},
            "json",
            HTTP_PREFER="respond-async",
        )
        assert response.status_code == 202
        bodies.append(set(response.json()))
    assert bodies[0] == bodies[1]


def test_message_that_osvi_puts_outside_names_the_chat_that_was_asked(
    ann, chats, api_of, osvi_sandbox, settings, mirrored
):
    other = mirrored(agent=chats.a.agent, customer_id=chats.a.customer_id)
    osvi_sandbox.script_inbound(chats.a.session_id, session_id=other.session_id)
    settings.OSVI_SESSIONS_FOR = lambda _user, _purpose: ChatSession.objects.exclude(pk=other.pk)
    address = f"{BASE}sessions/{chats.a.session_id}/messages/"
    body = api_of(ann).post(address, {"content": "Hi"}, "json").json()
    assert body["is_other_session"]
    assert body["session_id"] == chats.a.session_id
    assert other.session_id not in json.dumps(body)


def test_summary_outside_is_null_in_list_and_detail(ann, chats, api_of, settings):
    closed = ClosedSessionFactory(agent=chats.a.agent, summary__text="Secret.")

    def no_summaries(user, purpose):
        sessions = functions.sessions_for(user, purpose)
        return sessions.none() if purpose == "view_summary" else sessions

    assert "Secret." in api_of(ann).get(f"{BASE}sessions/").content.decode()
    settings.OSVI_SESSIONS_FOR = no_summaries
    for path in ("sessions/", f"sessions/{closed.session_id}/"):
        assert "Secret." not in api_of(ann).get(BASE + path).content.decode()


def test_list_asks_for_the_summaries_of_a_page_at_once(
    ann, chats, api_of, django_assert_max_num_queries
):
    for _number in range(5):
        ClosedSessionFactory(agent=chats.a.agent)
    functions.seen_purposes.clear()
    with django_assert_max_num_queries(6):
        assert len(api_of(ann).get(f"{BASE}sessions/").json()["results"]) == 6
    assert functions.seen_purposes == ["view", "view_summary"]


@pytest.mark.parametrize("name", ["nothing", "broken"])
def test_unusable_function_is_503_that_says_so(ann, chats, api_of, settings, name):
    settings.OSVI_SESSIONS_FOR = f"tests.helpers.tenants.{name}"
    for path in ("sessions/", f"sessions/{chats.a.session_id}/", "close-jobs/"):
        response = api_of(ann).get(BASE + path)
        assert (response.status_code, response.json()["code"]) == (503, "not_configured")
        assert "OSVI_SESSIONS_FOR" in response.json()["detail"]
