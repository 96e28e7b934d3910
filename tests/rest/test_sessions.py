"""Tests of ``GET sessions/`` and ``GET sessions/{session_id}/``."""

from __future__ import annotations

from base64 import b64encode

import pytest
from rest_framework.test import APIClient

from osvi_django.testing.factories import (
    ChatAgentFactory,
    ChatSessionFactory,
    ClosedSessionFactory,
)
from tests.helpers.datetimes import db_datetime

pytestmark = pytest.mark.django_db

LIST = "/api/osvi/sessions/"


def ids(response):
    return [session["session_id"] for session in response.json()["results"]]


class TestList:
    def test_list_pages_are_newest_first(self, api):
        days = [db_datetime(f"2026-01-{day:02}T00:00:00Z") for day in range(1, 8)]
        sessions = [ChatSessionFactory(started_at=day) for day in days]
        newest_first = [session.session_id for session in reversed(sessions)]
        first = api.get(LIST, {"page_size": 5})
        assert ids(first) == newest_first[:5]
        second = api.get(first.json()["next"])
        assert ids(second) == newest_first[5:]
        assert second.json()["next"] is None
        assert ids(api.get(second.json()["previous"])) == newest_first[:5]

    def test_list_sessions_with_equal_time_are_listed_once(self, api):
        ChatSessionFactory.create_batch(7, started_at=db_datetime("2026-01-01T00:00:00Z"))
        first = api.get(LIST, {"page_size": 4})
        listed = ids(first) + ids(api.get(first.json()["next"]))
        assert len(set(listed)) == 7

    def test_list_with_filter_shows_matches(self, api):
        agent = ChatAgentFactory(uuid="agent_x")
        wanted = ChatSessionFactory(agent=agent, status="dormant", customer_id="+4917")
        ChatSessionFactory.create_batch(2)
        wanted.started_at = wanted.last_activity_at = db_datetime("2020-01-01T00:00:00Z")
        wanted.save()
        queries = [{"agent_uuid": "agent_x"}, {"status": "dormant"}, {"customer_id": "+4917"}]
        queries += [{name: "2020-01-03T00:00:00Z"} for name in ("started_before", "idle_since")]
        for query in queries:
            assert ids(api.get(LIST, query)) == [wanted.session_id]
        assert ids(api.get(LIST, {"agent_uuid": "agent_x", "status": "active"})) == []
        beside = {"agent_uuid": "agent_x", "page_size": 1, "format": "json"}
        assert ids(api.get(LIST, beside)) == [wanted.session_id]

    @pytest.mark.parametrize(
        ("query", "named"),
        [
            ({"status": "open"}, "status"),
            ({"customer_id": ".."}, "customer_id"),
            ({"started_before": "2026-01-01T00:00"}, "started_before"),
            ({"idle_since": "yesterday"}, "idle_since"),
            ({"agent_uuid": "a\x00"}, "agent_uuid"),
            ({"customer_id": "x" * 256}, "customer_id"),
        ],
    )
    def test_list_with_invalid_filter_returns_400_with_name(self, api, query, named):
        response = api.get(LIST, query)
        assert (response.status_code, response.json()["code"]) == (400, "invalid")
        assert response.json()["detail"].startswith(f"{named}: ")
        assert list(response.json()["errors"]) == [named]

    @pytest.mark.parametrize(
        ("query", "detail"),
        [
            (
                {"agentuuid": "x"},
                "ordering, fields, page_size, cursor.",
            ),
            ({"agent": "x"}, "agent: This name is unknown: use status, agent_uuid, "),
            ({"csrfmiddlewaretoken": "x"}, "csrfmiddlewaretoken: This name is unknown: "),
        ],
    )
    def test_list_with_unknown_parameter_returns_400_with_name(self, api, query, detail):
        ChatSessionFactory()
        response = api.get(LIST, query)
        assert (response.status_code, response.json()["code"]) == (400, "invalid")
        assert detail in response.json()["detail"]
        assert list(response.json()["errors"]) == list(query)

    @pytest.mark.parametrize("text", ["(555) 111-2222", "6513270e…", "EXPENSIVE invoice"])
    def test_list_with_search_shows_matches(self, api, text):
        wanted = ClosedSessionFactory(
            session_id="6513270e-b2a1-4f3c-9d8e-77aa10c0ffee",
            customer_id="+15551112222",
            summary__text="The invoice was too expensive.",
        )
        ClosedSessionFactory.create_batch(2)
        response = api.get(LIST, {"search": text})
        assert ids(response) == [wanted.session_id]
        assert (response.json()["search"]["is_capped"], response.json()["search"]["notice"]) == (
            False,
            None,
        )
        assert ids(api.get(LIST, {"search": text, "status": "active"})) == []

    def test_list_with_search_says_what_was_searched(self, api, client_with):
        ClosedSessionFactory(summary__text="The invoice was too expensive.")
        searched = api.get(LIST, {"search": "2222"}).json()["search"]["searched"]
        assert searched == ["phone", "customer", "session", "summary", "note"]
        response = client_with("view_chatsession").get(LIST, {"search": "invoice"})
        assert ids(response) == []
        assert response.json()["search"]["searched"] == ["customer", "session", "note"]
        assert "search" not in api.get(LIST).json()

    @pytest.mark.parametrize("text", ["x" * 500, "a\x00", "%_", "👋", "'\"&|!:*()<>\\"])
    def test_list_with_text_that_cannot_be_searched_is_empty_and_explained(self, api, text):
        ChatSessionFactory()
        response = api.get(LIST, {"search": text})
        assert (response.status_code, ids(response)) == (200, [])
        assert response.json()["search"]["searched"] == []
        assert response.json()["search"]["notice"].endswith(".")

    def test_list_with_search_is_paginated(self, api):
        ChatSessionFactory.create_batch(3, customer_id="+15551112222")
        ChatSessionFactory()
        first = api.get(LIST, {"search": "2222", "page_size": 2})
        second = api.get(first.json()["next"])
        assert (len(ids(first)), len(ids(second))) == (2, 1)
        assert second.json()["search"]["searched"][0] == "phone"

    def test_list_without_format_override_rejects_format(self, api, settings):
        settings.REST_FRAMEWORK = {"URL_FORMAT_OVERRIDE": None}
        assert api.get(LIST, {"format": "json"}).status_code == 400
        assert api.get(LIST).status_code == 200

    @pytest.mark.parametrize(
        "position",
        [
            None,
            "p=abc",
            "p=%00",
            "p=2020-13-45T00:00",
            "p=9999-12-31T23:59:59.999999-12:00",
            "p=0001-01-01T00:00:00%2B14:00",
        ],
    )
    def test_list_with_invalid_cursor_returns_400(self, api, position):
        cursor = "junk" if position is None else b64encode(position.encode()).decode()
        response = api.get(LIST, {"cursor": cursor})
        assert (response.status_code, list(response.json()["errors"])) == (400, ["cursor"])

    def test_list_page_size_is_bounded(self, api):
        ChatSessionFactory.create_batch(201)
        assert len(ids(api.get(LIST, {"page_size": 200}))) == 200
        assert len(ids(api.get(LIST))) == 50

    def test_list_with_many_sessions_costs_same_queries(self, staff, django_assert_num_queries):
        for _ in range(2):
            ClosedSessionFactory.create_batch(10)
            client = APIClient()
            # A new user object each time: it caches its permissions.
            client.force_authenticate(type(staff).objects.get())
            # The caller's permissions (2), and the rows.
            with django_assert_num_queries(3):
                assert len(ids(client.get(LIST))) >= 10


class TestDetail:
    def test_detail_shows_session_and_summary(self, api):
        session = ClosedSessionFactory()
        body = api.get(f"{LIST}{session.session_id}/").json()
        assert (body["session_id"], body["status"]) == (session.session_id, "closed")
        assert (body["summary"], body["summary_status"]) == (session.summary.text, "stored")

    @pytest.mark.parametrize("source", ["osvi", "host"])
    def test_detail_summary_source_requires_summary_permission(self, api, client_with, source):
        session = ClosedSessionFactory(summary__source=source)
        url = f"{LIST}{session.session_id}/"
        assert api.get(url).json()["summary_source"] == source
        assert client_with("view_chatsession").get(url).json()["summary_source"] is None

    def test_detail_with_failed_summarizer_shows_error(self, api):
        failed = ClosedSessionFactory(
            summary=None, summary_status="lost", summarizer_error="ValueError"
        )
        body = api.get(f"{LIST}{failed.session_id}/").json()
        assert (body["summary_source"], body["summarizer_error"]) == (None, "ValueError")

    def test_detail_of_open_session_has_no_summary_yet(self, api):
        body = api.get(f"{LIST}{ChatSessionFactory().session_id}/").json()
        assert (body["summary"], body["summary_status"]) == (None, "pending")

    @pytest.mark.parametrize("odd", ["unknown", "a%00b", "x" * 256, "%FF", "a/b", "..%2F.."])
    def test_detail_of_unknown_session_returns_404(self, api, odd):
        response = api.get(f"{LIST}{odd}/")
        assert (response.status_code, response.json()["code"]) == (404, "not_found")
        assert response.json()["retryable"] is False


class TestPermission:
    @pytest.mark.parametrize("path", ["", "{id}/"])
    def test_sessions_anonymous_return_401(self, path):
        url = LIST + path.format(id=ChatSessionFactory().session_id)
        assert APIClient().get(url).status_code == 401

    @pytest.mark.parametrize("path", ["", "{id}/", "unknown/"])
    def test_sessions_without_permission_return_403(self, client_with, path):
        url = LIST + path.format(id=ChatSessionFactory().session_id)
        response = client_with("close_chatsession", "view_sessionsummary").get(url)
        assert (response.status_code, response.json()["code"]) == (403, "permission_denied")

    def test_summary_without_permission_is_null(self, client_with):
        client, session = client_with("view_chatsession"), ClosedSessionFactory()
        listed = client.get(LIST).json()["results"][0]
        assert (listed["summary"], listed["summary_status"]) == (None, "stored")
        assert client.get(f"{LIST}{session.session_id}/").json()["summary"] is None
