"""Tests of ``GET stats/``."""

from __future__ import annotations

import pytest

from osvi_django.testing.factories import (
    ChatAgentFactory,
    ChatSessionFactory,
    CloseAttemptFactory,
    ClosedSessionFactory,
)
from tests.helpers.datetimes import db_datetime

pytestmark = pytest.mark.django_db

STATS = "/api/osvi/stats/"
WEEK = {"first": "2026-03-09", "last": "2026-03-15"}


@pytest.fixture
def closes(staff):
    """Create closes in a week of March and in the one before, of two agents."""
    agent = ChatAgentFactory(uuid="agent_x", name="Night desk")
    for day in (3, 10, 11):
        ClosedSessionFactory(
            agent=agent,
            closed_at=db_datetime(f"2026-03-{day:02}T12:00Z"),
            closed_by=staff,
            closed_via="rest",
            close_reason="Solved",
            close_seconds=2.0,
            help_waited_seconds=60.0,
        )
    ClosedSessionFactory(closed_at=db_datetime("2026-03-12T12:00Z"))


def test_stats_of_range_are_compared_with_the_one_before(api, closes):
    body = api.get(STATS, {**WEEK, "top": 1}).json()
    assert body["first"] == "2026-03-09"
    assert (body["before_first"], body["before_last"]) == ("2026-03-02", "2026-03-08")
    assert body["closed"] == {"number": 3, "before": 1}
    assert body["agents"] == {
        "rows": [{"key": "agent_x", "label": "Night desk", "number": 2, "before": 1}],
        "others": {"kinds": 1, "number": 1, "before": 0},
    }
    assert body["people"]["rows"] == [{"key": "sam", "label": "sam", "number": 2, "before": 1}]
    assert body["vias"]["rows"][0]["key"] == "rest"
    assert body["outcomes"] == [
        {"key": "stored", "label": "summary stored", "number": 3, "before": 1}
    ]
    assert body["close_seconds"]["now"] == {
        "number": 2,
        "median": pytest.approx(2, rel=0.05),
        "p95": pytest.approx(2, rel=0.05),
    }
    assert body["help_waited_seconds"]["before"]["number"] == 1
    assert [step["number"] for step in body["steps"]] == [0, 1, 1, 1, 0, 0, 0]
    assert body["steps"][1]["outcomes"] == {"stored": 1}
    assert body["removed"] == 0


def test_stats_of_now_show_what_is_open_waits_and_failed(api):
    asked_at = db_datetime("2026-03-01T12:00Z")
    session = ChatSessionFactory(help_requested=True, help_requested_at=asked_at)
    for code in ("rejected", ""):
        CloseAttemptFactory(session=session, outcome="rejected", error_code=code)
    body = api.get(STATS).json()
    assert body["open"][0] == {"key": "active", "label": "active", "number": 1}
    waiting = body["waiting"]
    assert waiting["number"] == 1
    assert isinstance(waiting["longest_seconds"], int)
    assert waiting["by_time"][-1] == {"at_least": 86400, "less_than": None, "number": 1}
    reasons = {each["error_code"]: each["detail"] for each in body["failures"]}
    assert reasons[None] is None
    assert reasons["rejected"]
    assert session.session_id not in str(body)
    assert session.customer_id not in str(body)


def test_stats_without_chats_have_nulls(api):
    body = api.get(STATS).json()
    assert body["waiting"]["longest_seconds"] is None
    assert body["close_seconds"]["now"] == {"number": 0, "median": None, "p95": None}
    assert len(body["steps"]) == 30


@pytest.mark.parametrize(
    ("query", "field", "said"),
    [
        ({"first": "2026-02-30"}, "first", "YYYY-MM-DD"),
        ({"first": "2026-W01-1"}, "first", "YYYY-MM-DD"),
        ({"last": "20260301"}, "last", "YYYY-MM-DD"),
        ({"first": "2026-03-02", "last": "2026-03-01"}, "last", "choose a later day"),
        ({"first": "2010-01-01", "last": "2026-03-01"}, "first", "at most 3660 days"),
        ({"first": "1899-12-31"}, "first", "a year from 1900 to 2999"),
        ({"top": "0"}, "top", "greater than or equal to 1"),
        ({"agent": "x"}, "agent", "use first, last, top"),
    ],
)
def test_stats_of_invalid_range_are_refused(api, query, field, said):
    response = api.get(STATS, query)
    assert response.status_code == 400
    assert response.json()["code"] == "invalid"
    assert said in response.json()["errors"][field][0]
    assert field in response.json()["detail"]


def test_stats_need_permission_to_view(client_with, client):
    assert client_with("close_chatsession").get(STATS).status_code == 403
    assert client_with("view_chatsession").get(STATS).status_code == 200
    assert client.get(STATS).status_code in {401, 403}


def test_stats_take_same_number_of_queries_for_any_number(
    api, closes, django_assert_max_num_queries
):
    ClosedSessionFactory.create_batch(20)
    with django_assert_max_num_queries(24):
        api.get(STATS, WEEK)


def test_day_that_is_too_far_is_named(api):
    body = api.get("/api/osvi/stats/", {"first": "0001-01-01"}).json()
    said = "This is too far in the past or future: use a year from 1900 to 2999."
    assert (body["detail"], body["errors"]) == (f"first: {said}", {"first": [said]})
