"""Tests of ``GET sessions/{session_id}/actions/``: the actions of a session."""

from __future__ import annotations

from base64 import b64encode
from datetime import timedelta
from urllib.parse import quote

import pytest
from rest_framework.test import APIClient

from osvi_django.models import SupportAction
from osvi_django.testing.factories import ChatSessionFactory
from tests.helpers.datetimes import db_datetime, rest_datetime

pytestmark = pytest.mark.django_db

NOON = db_datetime("2026-01-31T12:00:00Z")


def url_of(session_id):
    return f"/api/osvi/sessions/{quote(session_id, safe='')}/actions/"


def add_action(session, **fields):
    asked = {"kind": "tell", "text": "Be kind.", "reply": "Of course.", "outcome": "done"}
    return SupportAction.objects.create(session=session, **asked | fields)


@pytest.fixture
def session():
    """Create a session on this site."""
    return ChatSessionFactory()


def test_list_with_unknown_parameter_returns_400_with_name(api, session):
    response = api.get(url_of(session.session_id), {"kind": "tell"})
    assert (response.status_code, response.json()["code"]) == (400, "invalid")
    assert response.json()["detail"] == "kind: This name is unknown: use page_size, cursor."


def test_list_shows_all_fields_of_action(api, session, staff):
    action = add_action(
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
                "url": f"http://testserver{url_of(session.session_id)}{action.pk}/",
                "session": f"http://testserver/api/osvi/sessions/{session.session_id}/",
                "kind": "tell",
                "requested_by": "sam",
                "via": "rest",
                "text": "Be kind.",
                "reply": "Of course.",
                "outcome": "rejected",
                "error_code": "rejected",
                "error_reason": "Not today.",
                "started_at": rest_datetime(NOON),
                "finished_at": rest_datetime(NOON),
                "redacted_at": None,
            }
        ],
    }


def test_list_host_code_has_no_name_and_redacted_action_no_text(api, session):
    add_action(session, text="", reply="", redacted_at=NOON)
    [row] = api.get(url_of(session.session_id)).json()["results"]
    assert (row["requested_by"], row["via"]) == (None, "code")
    assert (row["text"], row["reply"]) == (None, None)
    assert row["redacted_at"] == rest_datetime(NOON)


def test_list_pages_are_ordered_by_time(api, session):
    moments = [NOON + timedelta(minutes=minutes) for minutes in (3, 1, 2, 1, 5)]
    made = [add_action(session, started_at=moment) for moment in moments]
    add_action(ChatSessionFactory())
    wanted = [made[place].pk for place in (1, 3, 2, 0, 4)]
    url, seen = f"{url_of(session.session_id)}?page_size=2", []
    while url:
        page = api.get(url).json()
        seen += [each["id"] for each in page["results"]]
        url, before = page["next"], page["previous"]
    assert seen == wanted
    assert [each["id"] for each in api.get(before).json()["results"]] == wanted[2:4]


def test_list_page_size_is_bounded(api, session):
    rows = (SupportAction(session=session, kind="tell") for _number in range(201))
    SupportAction.objects.bulk_create(rows)
    for asked, most in (({"page_size": "200"}, 200), ({}, 50)):
        page = api.get(url_of(session.session_id), asked).json()
        assert len(page["results"]) == most


@pytest.mark.parametrize("position", ["p=abc", "p=5", "p=%00", "p=2020-13-45T00:00"])
def test_list_with_invalid_cursor_returns_400(api, session, position):
    cursor = b64encode(position.encode()).decode()
    response = api.get(url_of(session.session_id), {"cursor": cursor})
    assert (response.status_code, list(response.json()["errors"])) == (400, ["cursor"])


@pytest.mark.parametrize("odd", ["unknown", "a\x00b", "x" * 256, "../.."])
def test_list_of_unknown_session_returns_404(api, odd):
    response = api.get(url_of(odd))
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


def test_other_methods_return_405(api, session):
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
def test_list_texts_require_permission_to_read(session, client_with, codenames, readable):
    add_action(session)
    client = client_with("view_chatsession", *codenames)
    [row] = client.get(url_of(session.session_id)).json()["results"]
    words = ("Be kind.", "Of course.") if readable else (None, None)
    assert (row["text"], row["reply"]) == words
    assert (row["kind"], row["outcome"]) == ("tell", "done")


@pytest.mark.parametrize("known", [True, False])
def test_list_without_view_permission_returns_403(session, client_with, known):
    url = url_of(session.session_id if known else "unknown")
    assert APIClient().get(url).status_code == 401
    for codenames in ([], ["operate_chatsession", "view_sessionsummary"]):
        response = client_with(*codenames).get(url)
        assert (response.status_code, response.json()["code"]) == (403, "permission_denied")


def test_list_with_many_actions_costs_same_queries(session, staff, django_assert_num_queries):
    for _more in range(2):
        for _number in range(10):
            add_action(session, requested_by=staff)
        client = APIClient()
        client.force_authenticate(type(staff).objects.get())
        # The caller's permissions (2), the session, and the rows.
        with django_assert_num_queries(4):
            assert len(client.get(url_of(session.session_id)).json()["results"]) >= 10
