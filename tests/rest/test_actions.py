"""``GET sessions/{session_id}/actions/``: what was said and done in a session."""

from __future__ import annotations

from base64 import b64encode
from datetime import timedelta
from urllib.parse import quote

import pytest
from rest_framework.test import APIClient

from osvi_django.models import SupportAction
from osvi_django.testing.factories import ChatSessionFactory
from tests.moments import shown, stored

pytestmark = pytest.mark.django_db

NOON = stored("2026-01-31T12:00:00Z")


def url_of(session_id):
    return f"/api/osvi/sessions/{quote(session_id, safe='')}/actions/"


def add(session, **fields):
    asked = {"kind": "tell", "text": "Be kind.", "reply": "Of course.", "outcome": "done"}
    return SupportAction.objects.create(session=session, **asked | fields)


@pytest.fixture
def session():
    return ChatSessionFactory()


def test_what_would_be_ignored_is_a_400_that_names_it(api, session):
    response = api.get(url_of(session.session_id), {"kind": "tell"})
    assert (response.status_code, response.json()["code"]) == (400, "invalid")
    assert response.json()["detail"] == "'kind' is unknown: use page_size, cursor."


def test_what_each_of_them_tells(api, session, staff):
    action = add(
        session,
        requested_by=staff,
        via="rest",
        started_at=NOON,
        finished_at=NOON,
        answer="secret",
        outcome="rejected",
        error_code="rejected",
        error_reason="Not today.",
    )
    response = api.get(url_of(session.session_id))
    assert response.status_code == 200
    assert response.json() == {
        "next": None,
        "previous": None,
        "results": [
            {
                "id": action.pk,
                "kind": "tell",
                "requested_by": "sam",
                "via": "rest",
                "text": "Be kind.",
                "reply": "Of course.",
                "outcome": "rejected",
                "error_code": "rejected",
                "error_reason": "Not today.",
                "started_at": shown(NOON),
                "finished_at": shown(NOON),
                "redacted_at": None,
            }
        ],
    }


def test_the_hosts_own_code_has_no_name_and_what_is_forgotten_no_words(api, session):
    add(session, text="", reply="", redacted_at=NOON)
    [told] = api.get(url_of(session.session_id)).json()["results"]
    assert (told["requested_by"], told["via"]) == (None, "code")
    assert (told["text"], told["reply"]) == ("", "")
    assert told["redacted_at"] == shown(NOON)


def test_in_the_order_of_time_page_by_page(api, session):
    moments = [NOON + timedelta(minutes=minutes) for minutes in (3, 1, 2, 1, 5)]
    made = [add(session, started_at=moment) for moment in moments]
    add(ChatSessionFactory())
    wanted = [made[place].pk for place in (1, 3, 2, 0, 4)]
    url, seen = f"{url_of(session.session_id)}?page_size=2", []
    while url:
        page = api.get(url).json()
        seen += [each["id"] for each in page["results"]]
        url, before = page["next"], page["previous"]
    assert seen == wanted
    assert [each["id"] for each in api.get(before).json()["results"]] == wanted[2:4]


def test_a_page_has_an_end(api, session):
    SupportAction.objects.bulk_create(SupportAction(session=session) for _number in range(201))
    for asked, most in (({"page_size": "200"}, 200), ({}, 50)):
        told = api.get(url_of(session.session_id), asked).json()
        assert len(told["results"]) == most


@pytest.mark.parametrize("position", ["p=abc", "p=5", "p=%00", "p=2020-13-45T00:00"])
def test_a_cursor_that_makes_no_sense_is_a_400(api, session, position):
    cursor = b64encode(position.encode()).decode()
    response = api.get(url_of(session.session_id), {"cursor": cursor})
    assert (response.status_code, list(response.json()["errors"])) == (400, ["cursor"])


@pytest.mark.parametrize("odd", ["unknown", "a\x00b", "x" * 256, "../.."])
def test_of_a_session_that_is_not_here(api, odd):
    response = api.get(url_of(odd))
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


def test_other_methods(api, session):
    for method in (api.post, api.put, api.patch, api.delete):
        assert method(url_of(session.session_id)).status_code == 405


@pytest.mark.parametrize(
    ("codenames", "readable"),
    [
        ([], False),
        (["close_chatsession"], False),
        (["view_sessionsummary"], True),
        (["operate_chatsession"], True),
    ],
)
def test_words_are_for_those_who_may_read_conversations(session, somebody, codenames, readable):
    add(session)
    client = somebody("view_chatsession", *codenames)
    [told] = client.get(url_of(session.session_id)).json()["results"]
    words = ("Be kind.", "Of course.") if readable else (None, None)
    assert (told["text"], told["reply"]) == words
    assert (told["kind"], told["outcome"]) == ("tell", "done")


@pytest.mark.parametrize("known", [True, False])
def test_it_takes_the_permission_to_view(session, somebody, known):
    url = url_of(session.session_id if known else "unknown")
    assert APIClient().get(url).status_code == 401
    for codenames in ([], ["operate_chatsession", "view_sessionsummary"]):
        response = somebody(*codenames).get(url)
        assert (response.status_code, response.json()["code"]) == (403, "permission_denied")


def test_the_queries_do_not_grow_with_the_rows(session, staff, django_assert_num_queries):
    for _more in range(2):
        for _number in range(10):
            add(session, requested_by=staff)
        client = APIClient()
        client.force_authenticate(type(staff).objects.get())
        # What the caller may (2), the session, and all rows.
        with django_assert_num_queries(4):
            assert len(client.get(url_of(session.session_id)).json()["results"]) >= 10
