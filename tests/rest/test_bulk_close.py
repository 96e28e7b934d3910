"""Tests of ``POST sessions/close/``: close many sessions by their ids or by a filter."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from unittest.mock import ANY

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from osvi_django.models import ChatSession, CloseJob, CloseJobItem
from osvi_django.testing.factories import (
    ChatAgentFactory,
    ChatSessionFactory,
    ClosedSessionFactory,
)
from tests.helpers.datetimes import db_datetime
from tests.helpers.sandbox import mirror

pytestmark = pytest.mark.django_db

URL = "/api/osvi/sessions/close/"
JOBS = "http://testserver/api/osvi/close-jobs/"


def post(client, **body):
    return client.post(URL, body, format="json")


def requested_ids(response):
    """Return the session ids in the job of this response."""
    assert response.status_code == 202, response.content
    items = CloseJobItem.objects.filter(job=response.json()["id"])
    return set(items.values_list("requested_session_id", flat=True))


class TestById:
    def test_close_by_ids_returns_202_and_job(self, api, staff, osvi_sandbox, run):
        sessions = [mirror(osvi_sandbox, summary="Fine.") for _number in range(2)]
        ids = [session.session_id for session in sessions]
        response = post(api, session_ids=ids, note="Spring cleaning")
        body = response.json()
        url = f"{JOBS}{body['id']}/"
        assert (response.status_code, response["Location"], response["Retry-After"]) == (
            202,
            url,
            "1",
        )
        assert body == {
            "id": ANY,
            "url": url,
            "status": "queued",
            "total": 2,
            "done": 0,
            "succeeded": 0,
            "failed": 0,
            "unconfirmed": 0,
            "left_out": 0,
            "cancelled": 0,
            "requested_by": "sam",
            "via": "rest",
            "created_at": ANY,
            "started_at": None,
            "finished_at": None,
            "note": "Spring cleaning",
            "close_reason": None,
            "goodbye": None,
            "paused_by": None,
            "resume_at": None,
            "results": f"{url}results/",
        }
        assert osvi_sandbox.requests == []
        assert CloseJob.objects.get().via == "rest"
        run(body)
        seen = api.get(url).json()
        assert (seen["status"], seen["done"], seen["succeeded"]) == ("completed", 2, 2)
        attempt = sessions[0].attempts.get()
        assert (attempt.requested_by, attempt.via, attempt.note) == (
            staff,
            "rest",
            "Spring cleaning",
        )

    def test_close_with_unknown_ids_reports_them_in_results(self, api, run):
        known = ClosedSessionFactory()
        body = post(api, session_ids=["nobody's", known.session_id, "sessions/close"]).json()
        assert (body["total"], body["failed"]) == (3, 2)
        run(body)
        results = api.get(body["results"]).json()["results"]
        assert {each["session_id"]: (each["outcome"], each["error_code"]) for each in results} == {
            "nobody's": ("not_found", "not_found"),
            known.session_id: ("already_closed", None),
            "sessions/close": ("not_found", "not_found"),
        }
        assert results[0]["detail"] == "This site has no such chat session."
        assert results[1]["detail"] is None

    def test_close_with_only_unknown_ids_returns_finished_job(self, api):
        response = post(api, session_ids=["nobody's"])
        assert (response.status_code, response["Retry-After"]) == (202, "0")
        assert response.json()["status"] == "completed_with_errors"

    def test_close_with_repeated_ids_counts_each_once(self, api):
        known = ChatSessionFactory().session_id
        assert post(api, session_ids=[known, "x", known, "x"]).json()["total"] == 2

    def test_close_with_odd_ids_keeps_them_unchanged(self, api):
        odd = [" x", "x ", "0", "a/b", "ä😀", "two\nlines", "x" * 255, "null"]
        assert requested_ids(post(api, session_ids=odd)) == set(odd)

    def test_close_with_similar_ids_finds_no_session(self, api):
        ChatSessionFactory(session_id="abc")
        response = post(api, session_ids=["ABC", "abc ", "äbc"])
        assert response.json()["failed"] == 3
        assert response.json()["status"] == "completed_with_errors"


class TestByFilter:
    def test_filter_selects_sessions_that_match_all_values(self, api):
        agent = ChatAgentFactory(uuid="agent_x")
        old, new = db_datetime("2026-01-01T00:00:00Z"), db_datetime("2026-02-01T00:00:00Z")
        wanted = {"agent": agent, "customer_id": "+49", "status": "dormant", "started_at": old}
        session = ChatSessionFactory(**wanted)
        for other in (
            {"agent": ChatAgentFactory()},
            {"customer_id": "+50"},
            {"status": "active"},
            {"started_at": new},
        ):
            ChatSessionFactory(**wanted | other)
        response = post(
            api,
            filter={
                "status": "dormant",
                "agent_uuid": "agent_x",
                "customer_id": "+49",
                "started_before": "2026-02-01T00:00:00Z",
            },
        )
        assert requested_ids(response) == {session.session_id}

    @pytest.mark.parametrize("key", ["agent_uuid", "customer_id", "started_before"])
    def test_filter_without_status_skips_closed_sessions(self, api, key):
        agent = ChatAgentFactory(uuid="agent_x")
        wanted = {
            "agent": agent,
            "customer_id": "+49",
            "started_at": db_datetime("2026-01-01T00:00:00Z"),
        }
        sessions = {
            status: ChatSessionFactory(status=status, **wanted).session_id
            for status in ChatSession.Status.values
        }
        values = {
            "agent_uuid": "agent_x",
            "customer_id": "+49",
            "started_before": "2026-01-01T01:00:01+01:00",
        }
        closed = sessions.pop("closed")
        assert requested_ids(post(api, filter={key: values[key]})) == set(sessions.values())
        both = {key: values[key], "status": "closed"}
        assert requested_ids(post(api, filter=both)) == {closed}

    def test_filter_without_matches_returns_completed_job(self, api):
        response = post(api, filter={"customer_id": "nobody"})
        assert (response.status_code, response["Retry-After"]) == (202, "0")
        assert (response.json()["status"], response.json()["total"]) == ("completed", 0)

    def test_filter_by_agent_matches_all_accounts(self, api):
        agents = [ChatAgentFactory(uuid="x", account=account) for account in ("default", "emea")]
        sessions = {ChatSessionFactory(agent=agent).session_id for agent in agents}
        assert requested_ids(post(api, filter={"agent_uuid": "x"})) == sessions

    @pytest.mark.parametrize(
        "wanted", ["kunde", "Kunde", "künde", "kunde ", "%", "k_nde", "\\", "'"]
    )
    def test_filter_with_similar_ids_matches_exactly(self, api, wanted):
        alikes = [
            *("kunde", "Kunde", "KUNDE", "künde", "kunde ", " kunde", "kunde\u200b", "kundee"),
            *("%", "k_nde", "\\", "'", "\\%", "kun\u200bde"),
        ]
        sessions = {}
        for number, alike in enumerate(alikes):
            # An account for each agent: MariaDB treats some of these UUIDs as equal.
            agent = ChatAgentFactory(uuid=alike, account=f"account {number}")
            session = ChatSessionFactory(customer_id=alike, agent=agent)
            sessions[alike] = session.session_id
        for key in ("customer_id", "agent_uuid"):
            assert requested_ids(post(api, filter={key: wanted})) == {sessions[wanted]}

    def test_filter_with_many_matches_costs_same_queries(self, staff):
        spent = []
        for number in (1, 20):
            ChatSessionFactory.create_batch(number, customer_id="+49")
            client = APIClient()
            client.force_authenticate(type(staff).objects.get())
            with CaptureQueriesContext(connection) as queries:
                assert post(client, filter={"customer_id": "+49"}).status_code == 202
            spent.append(len(queries))
        assert spent[0] == spent[1] < 20


class TestLimit:
    @pytest.fixture(autouse=True)
    def at_most_three(self, settings):
        settings.OSVI_BULK_LIMIT = 3

    @pytest.mark.parametrize("by", ["session_ids", "filter"])
    def test_close_above_limit_returns_400(self, api, by):
        sessions = ChatSessionFactory.create_batch(3, customer_id="+49")
        for status in (202, 400):
            ids = [session.session_id for session in sessions]
            wanted = ids if by == "session_ids" else {"customer_id": "+49"}
            response = post(api, **{by: wanted})
            assert (response.status_code, CloseJob.objects.count()) == (status, 1)
            sessions.append(ChatSessionFactory(customer_id="+49"))
        body = response.json()
        assert (body["code"], list(body["errors"])) == ("invalid", [by])
        assert body["detail"].startswith(f"{by}: ")
        assert " 3 " in body["detail"]

    def test_close_with_invalid_limit_setting_returns_503(self, api, settings):
        settings.OSVI_BULK_LIMIT = "many"
        for wanted in ({"session_ids": ["x"]}, {"filter": {"customer_id": "x"}}):
            response = post(api, **wanted)
            assert (response.status_code, response.json()["code"]) == (503, "not_configured")
            assert "OSVI_BULK_LIMIT" in response.json()["detail"]


class TestInput:
    @pytest.mark.parametrize(
        ("body", "errors", "named"),
        [
            ({}, ["non_field_errors"], "Give either session_ids or filter."),
            ({"note": "x"}, ["non_field_errors"], "either"),
            (
                {"session_ids": ["x"], "filter": {"status": "active"}},
                ["non_field_errors"],
                "Give either session_ids or filter, not both.",
            ),
            ({"session_ids": ["x"], "filter": {}}, ["non_field_errors"], "not both"),
            ({"session_ids": [], "filter": None}, ["non_field_errors"], "not both"),
            ({"session_ids": []}, ["session_ids"], "session_ids: "),
            ({"session_ids": None}, ["session_ids"], "session_ids: "),
            ({"session_ids": "x"}, ["session_ids"], "session_ids: "),
            ({"session_ids": {"a": 1}}, ["session_ids"], "session_ids: "),
            ({"session_ids": ["x", ""]}, ["session_ids"], "session_ids[1]: "),
            ({"session_ids": ["x", "a\x00b"]}, ["session_ids"], "session_ids[1]: "),
            ({"session_ids": ["x" * 256]}, ["session_ids"], "session_ids[0]: "),
            ({"session_ids": ["\ud800"]}, ["session_ids"], "session_ids[0]: "),
            ({"session_ids": ["x", "y", 5]}, ["session_ids"], "session_ids[2]: "),
            ({"session_ids": [True]}, ["session_ids"], "session_ids[0]: "),
            ({"session_ids": [None]}, ["session_ids"], "session_ids[0]: "),
            ({"session_ids": [["x"]]}, ["session_ids"], "session_ids[0]: "),
            ({"session_ids": ["x"], "notes": "y"}, ["notes"], "notes: This name is unknown"),
            ({"session_id": ["x"]}, ["session_id"], "session_id: This name is unknown"),
            ({"ids": 1, "\ud800": 2}, ["ids", r"\ud800"], r"\ud800: This name is unknown"),
            ({"session_ids": ["x"], "note": "x" * 1001}, ["note"], "note: "),
            ({"session_ids": ["x"], "note": "a\x00b"}, ["note"], "note: "),
            ({"session_ids": ["x"], "note": "\ud800"}, ["note"], "note: "),
            ({"filter": {}}, ["filter"], "filter: Give at least one of status, agent_uuid, "),
            ({"filter": {"exclude_agents": []}}, ["filter"], "filter: Give at least one of "),
            ({"filter": None}, ["filter"], "filter: "),
            ({"filter": []}, ["filter"], "filter: "),
            ({"filter": "status"}, ["filter"], "filter: "),
            ({"filter": {"stauts": "active"}}, ["filter"], "filter.stauts: This name"),
            (
                {"filter": {"status": "active", "agent": "x"}},
                ["filter"],
                "filter.agent: This name is unknown: use status, agent_uuid, ",
            ),
            ({"filter": {"status": "open"}}, ["filter"], "filter.status: This is not a status"),
            ({"filter": {"status": "\ud800"}}, ["filter"], "filter.status: "),
            ({"filter": {"status": []}}, ["filter"], "filter.status: "),
            ({"filter": {"status": ["active", 1]}}, ["filter"], "filter.status: "),
            ({"filter": {"status": ""}}, ["filter"], "filter.status: "),
            ({"filter": {"status": None}}, ["filter"], "filter.status: "),
            ({"filter": {"agent_uuid": ""}}, ["filter"], "filter.agent_uuid: "),
            ({"filter": {"agent_uuid": 5}}, ["filter"], "filter.agent_uuid: "),
            ({"filter": {"customer_id": ""}}, ["filter"], "filter.customer_id: "),
            ({"filter": {"customer_id": None}}, ["filter"], "filter.customer_id: "),
            ({"filter": {"customer_id": "a\x00"}}, ["filter"], "filter.customer_id: "),
            ({"filter": {"started_before": "2026-01-01T00:00"}}, ["filter"], "no offset"),
            ({"filter": {"started_before": "2026-01-01"}}, ["filter"], "no offset"),
            ({"filter": {"started_before": "yesterday"}}, ["filter"], "filter.started_before: "),
            ({"filter": {"started_before": 5}}, ["filter"], "filter.started_before: "),
            ({"filter": {"started_before": ""}}, ["filter"], "filter.started_before: "),
            ({"filter": {"started_before": [1]}}, ["filter"], "filter.started_before: "),
            (
                {"filter": {"started_before": "9999-12-31T23:59:59-14:00"}},
                ["filter"],
                "filter.started_before: ",
            ),
            (
                {"filter": {"started_before": "0001-01-01T00:00:00+14:00"}},
                ["filter"],
                "filter.started_before: ",
            ),
            ([1, 2], ["non_field_errors"], "dictionary"),
            ("text", ["non_field_errors"], "dictionary"),
            (None, ["non_field_errors"], ""),
        ],
    )
    def test_close_with_invalid_body_returns_400_with_name(self, api, body, errors, named):
        ChatSessionFactory(session_id="x")
        # Use Python's JSON: REST framework's cannot encode all of these values.
        response = api.post(URL, json.dumps(body), content_type="application/json")
        answer = response.json()
        assert response.status_code == 400
        assert (answer["code"], answer["retryable"]) == ("invalid", False)
        assert list(answer["errors"]) == errors
        assert named in answer["detail"]
        assert not CloseJob.objects.exists()

    def test_close_with_thousands_of_errors_names_a_few(self, api):
        body = post(api, session_ids=[""] * 5_000).json()
        assert len(body["errors"]["session_ids"]) == 20
        assert body["detail"].count("session_ids[") == 10
        unknown = post(api, **{f"unknown{n}": 1 for n in range(99)}).json()["errors"]
        assert list(unknown) == [f"unknown{n}" for n in range(5)]

    @pytest.mark.parametrize("year", ["0001", "9999"])
    def test_filter_with_time_out_of_range_returns_400(self, api, year):
        response = post(api, filter={"started_before": f"{year}-06-30T00:00:00Z"})
        assert (response.status_code, response.json()["code"]) == (400, "invalid")
        said = "This is too far in the past or future: use a year from 2 to 9998."
        assert response.json()["detail"] == f"filter.started_before: {said}"

    def test_filter_without_time_zones_converts_time(self, api, settings):
        settings.USE_TZ = False
        settings.TIME_ZONE = "America/New_York"
        session = ChatSessionFactory(started_at=datetime(2026, 1, 1, 12))  # noqa: DTZ001
        for moment, found in (("17:00:00Z", set()), ("17:00:01Z", {session.session_id})):
            assert (
                requested_ids(post(api, filter={"started_before": f"2026-01-01T{moment}"})) == found
            )

    @pytest.mark.parametrize(
        ("raw", "content_type", "status", "code"),
        [
            (b"{", "application/json", 400, "parse_error"),
            (b"", "application/json", 400, "invalid"),
            (b"\xff\xfe", "application/json", 400, "parse_error"),
            (b'{"note": NaN}', "application/json", 400, "parse_error"),
            (b'{"note": ' + b"1" * 5_000 + b"}", "application/json", 400, "parse_error"),
            (b"[" * 200_000, "application/json", 400, "parse_error"),
            (b'{"filter":' * 100_000, "application/json", 400, "parse_error"),
            (b"session_ids=x", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
            (b"x", "text/plain", 415, "unsupported_media_type"),
            (b"x", "multipart/form-data; boundary=x", 415, "unsupported_media_type"),
        ],
    )
    def test_close_with_unreadable_body_returns_error(self, api, raw, content_type, status, code):
        response = api.post(URL, raw, content_type=content_type)
        assert (response.status_code, response.json()["code"]) == (status, code)
        assert response.json()["retryable"] is False

    @pytest.mark.parametrize("depth", range(400, 1_000, 30))
    @pytest.mark.parametrize("field", ["status", "agent_uuid", "started_before"])
    def test_close_with_nested_body_returns_400(self, api, depth, field):
        raw = '{"filter": {"%s": %s"x"%s}}' % (field, "[" * depth, "]" * depth)  # noqa: UP031
        response = api.post(URL, raw, content_type="application/json")
        assert response.status_code == 400
        assert response.json()["code"] in {"invalid", "parse_error"}

    def test_other_methods_return_405(self, api):
        for method in (api.get, api.put, api.patch, api.delete):
            response = method(URL)
            assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")


class TestPermission:
    WANTED = ({"session_ids": ["x"]}, {"filter": {"customer_id": "x"}})

    @pytest.fixture(autouse=True)
    def session(self):
        return ChatSessionFactory(session_id="x", customer_id="x")

    @pytest.mark.parametrize("wanted", WANTED)
    def test_close_anonymous_returns_401(self, wanted):
        response = post(APIClient(), **wanted)
        assert (response.status_code, response.json()["code"]) == (401, "not_authenticated")

    @pytest.mark.parametrize("wanted", WANTED)
    def test_close_without_close_permission_returns_403(self, client_with, wanted):
        response = post(client_with("view_chatsession", "view_closejob"), **wanted)
        assert response.status_code == 403
        assert set(response.json()) == {"detail", "code", "retryable"}
        assert response.json()["code"] == "permission_denied"
        assert not CloseJob.objects.exists()

    def test_filter_without_view_permission_returns_403(self, client_with):
        client = client_with("close_chatsession")
        response = post(client, filter={"customer_id": "x"})
        assert (response.status_code, response.json()["code"]) == (403, "permission_denied")
        assert "give the ids" in response.json()["detail"]
        assert post(client, session_ids=["x"]).status_code == 202

    def test_filter_above_limit_without_view_permission_returns_403(self, client_with, settings):
        settings.OSVI_BULK_LIMIT = 1
        ChatSessionFactory.create_batch(2, customer_id="x")
        assert (
            post(client_with("close_chatsession"), filter={"customer_id": "x"}).status_code == 403
        )

    def test_close_with_session_cookie_requires_csrf_token(self, staff):
        client = APIClient(enforce_csrf_checks=True)
        client.force_login(staff)
        assert post(client, session_ids=["x"]).status_code == 403


@pytest.mark.django_db(transaction=True)
class TestExecutor:
    def test_close_with_atomic_requests_runs_job(self, api, osvi_sandbox, settings):
        assert settings.DATABASES["default"]["ATOMIC_REQUESTS"]
        settings.OSVI_EXECUTOR = "osvi_django.executors.immediate"
        session = mirror(osvi_sandbox, summary="Fine.", customer_id="+49")
        response = post(api, filter={"customer_id": "+49", "status": "active"})
        assert api.get(response["Location"]).json()["status"] == "completed"
        assert ChatSession.objects.get(pk=session.pk).summary.text == "Fine."

    def test_close_if_executor_fails_returns_queued_job(self, api, settings, caplog):
        settings.OSVI_EXECUTOR = f"{__name__}.failing_executor"
        response = post(api, session_ids=[ChatSessionFactory().session_id])
        assert (response.status_code, response.json()["status"]) == (202, "queued")
        assert "could not be started" in caplog.text


def failing_executor(job_id):
    assert not connection.in_atomic_block
    raise RuntimeError("out of order")


@pytest.mark.urls("tests.rest.tenant_urls")
def test_close_below_prefix_links_below_prefix(api):
    response = api.post("/acme/chats/sessions/close/", {"session_ids": ["x"]}, format="json")
    url = f"http://testserver/acme/chats/close-jobs/{response.json()['id']}/"
    assert (response["Location"], response.json()["results"]) == (url, f"{url}results/")
    assert api.get(url).status_code == 200


class TestFilterOfWhoAnswers:
    def test_filter_by_mode_help_and_agents_selects_those(self, client_with, chats_of):
        client = client_with("view_chatsession", "close_chatsession")
        wanted, excluded = chats_of(mode="support"), chats_of(mode="support")
        chats_of(mode="ai"), chats_of(mode="support", help_requested=True)
        chosen = {
            "mode": "support",
            "help_requested": False,
            "exclude_agents": [excluded.agent.uuid],
        }
        made = client.post(URL, {"filter": chosen}, format="json")
        assert made.status_code == 202, made.data
        assert [each.session for each in CloseJob.objects.get().items.all()] == [wanted]

    @pytest.mark.parametrize(
        "chosen",
        [{"mode": "human"}, {"help_requested": "yes"}, {"exclude_agents": ["x", 1]}],
    )
    def test_invalid_value_names_its_field(self, client_with, chosen):
        client = client_with("view_chatsession", "close_chatsession")
        refused = client.post(URL, {"filter": chosen}, format="json")
        assert refused.status_code == 400
        assert next(iter(chosen)) in refused.data["errors"]["filter"]

    def test_idle_close_leaves_out_who_waits_for_a_person(self, client_with, chats_of):
        client = client_with("view_chatsession", "close_chatsession")
        quiet = chats_of(last_activity_at=timezone.now() - timedelta(days=8))
        chats_of(last_activity_at=timezone.now() - timedelta(days=8), help_requested=True)
        chosen = {"idle_since": (timezone.now() - timedelta(days=7)).isoformat()}
        client.post(URL, {"filter": chosen}, format="json")
        assert [each.session for each in CloseJob.objects.get().items.all()] == [quiet]


@pytest.fixture
def chats_of():
    """Return a function that creates a session, with an agent of its own."""
    return lambda **fields: ChatSessionFactory(agent=ChatAgentFactory(), **fields)
