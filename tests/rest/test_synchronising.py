"""Test the filters, orders and fields of the list, and that a client of it misses no change."""

from __future__ import annotations

import itertools
import threading
from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.core.checks import run_checks
from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from osvi_django.exceptions import InvalidInput
from osvi_django.models import ChatSession, CloseJob
from osvi_django.services import SessionFilter
from osvi_django.services.jobs import create_close_job
from osvi_django.testing.factories import (
    ChatAgentFactory,
    ChatSessionFactory,
    ClosedSessionFactory,
)
from tests.helpers.database import call_after_queries
from tests.helpers.datetimes import db_datetime, rest_datetime

pytestmark = pytest.mark.django_db

SESSIONS = "/api/osvi/sessions/"
WRITERS = 4
CHANGES = 15  # of each writer
NAMES, SIDES = ("started", "closed", "updated"), ("after", "before")
ORDERS = ("started_at", "-updated_at", "closed_at", "-last_activity_at")
FIRST = "2026-01-01T12:00:00Z"
FUTURE = "2100-01-01T00:00:00Z"
TIMES = ("started_at", "updated_at", "closed_at", "last_activity_at")
DAYS = [db_datetime(f"2026-01-0{day}T12:00:00Z") for day in range(1, 6)]


@pytest.fixture(autouse=True)
def no_delay(settings):
    settings.OSVI_CHANGES_DELAY = 0.001


def ids(client, **query):
    answer = client.get(SESSIONS, query)
    assert answer.status_code == 200, answer.content
    return [row["session_id"] for row in answer.json()["results"]]


def problem_of(client, **query):
    answer = client.get(SESSIONS, query)
    assert answer.status_code == 400
    return answer.json()["errors"]


class TestFilters:
    @pytest.fixture(autouse=True)
    def rows(self, staff):
        first, second = (
            ChatAgentFactory(uuid="agent_1"),
            ChatAgentFactory(uuid="agent_2", account="b"),
        )
        rows = [
            ChatSessionFactory(session_id="s0", agent=first, status="active"),
            ChatSessionFactory(session_id="s1", agent=second, status="dormant"),
            ChatSessionFactory(session_id="s2", agent=first, status="unconfirmed"),
            ClosedSessionFactory(session_id="s3", agent=second, closed_by=staff),
            ClosedSessionFactory(session_id="s4", agent=second, summary_status="lost"),
        ]
        for day, row in zip(DAYS, rows, strict=True):
            closed_at = day if row.status == "closed" else None
            times = {"started_at": day, "closed_at": closed_at, "updated_at": day}
            ChatSession.objects.filter(pk=row.pk).update(**times)

    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ({"status": "active,dormant"}, "s1 s0"),
            ({"status": ["active", "dormant"]}, "s1 s0"),
            ({"status": ["active", "active,closed"]}, "s4 s3 s0"),
            ({"status": "closed"}, "s4 s3"),
            ({"open": "true"}, "s1 s0"),
            ({"open": "false"}, "s4 s3 s2"),
            ({"open": "true", "status": "dormant,closed"}, "s1"),
            ({"account": "b"}, "s4 s3 s1"),
            ({"account": "b", "agent_uuid": "agent_1"}, ""),
            ({"agent_uuid": "agent_1"}, "s2 s0"),
            ({"summary_status": "lost"}, "s4"),
            ({"closed_by": "nobody"}, ""),
            ({"started_after": "2026-01-03T12:00:00Z"}, "s4 s3"),
            (
                {"started_after": FIRST, "started_before": "2026-01-03T12:00:00Z"},
                "s1",
            ),
            ({"closed_after": "2026-01-04T12:00:00Z"}, "s4"),
            ({"closed_before": "2026-01-05T12:00:00Z"}, "s3"),
            ({"updated_after": "2026-01-02T12:00:00Z"}, "s2 s3 s4"),
            ({"updated_after": "2026-01-02T12:00:00Z", "ordering": "-started_at"}, "s4 s3 s2"),
            ({"updated_before": "2026-01-02T12:00:00Z"}, "s0"),
            ({"ordering": "started_at"}, "s0 s1 s2 s3 s4"),
            ({"ordering": "-updated_at"}, "s4 s3 s2 s1 s0"),
            ({"ordering": "closed_at"}, "s3 s4"),
            ({"ordering": "-closed_at"}, "s4 s3"),
        ],
    )
    def test_list_returns_sessions_that_match_in_order(self, api, query, found):
        assert ids(api, **query) == found.split()

    @pytest.mark.parametrize(
        ("query", "order"),
        [
            ({}, "-started_at"),
            ({"started_before": FUTURE}, "-started_at"),
            ({"updated_after": FIRST}, "updated_at"),
            ({"updated_before": FUTURE}, "-updated_at"),
            ({"closed_after": FIRST}, "-closed_at"),
            ({"closed_before": FUTURE}, "-closed_at"),
            ({"idle_since": FUTURE}, "-last_activity_at"),
        ],
    )
    def test_usual_order_is_that_of_the_time_that_is_filtered_by(self, api, query, order):
        for row, places in enumerate(itertools.permutations(range(4))):
            times = dict(zip(TIMES, (DAYS[place] for place in places), strict=True))
            session = ClosedSessionFactory(session_id=f"p{row}")
            ChatSession.objects.filter(pk=session.pk).update(**times)
        ChatSession.objects.exclude(session_id__startswith="p").delete()
        usual = ids(api, **query)
        assert usual == ids(api, **query, ordering=order)
        others = {f"{sign}{name}" for sign in ("", "-") for name in TIMES} - {order}
        assert all(usual != ids(api, **query, ordering=each) for each in others)

    def test_closed_by_is_the_name_that_is_shown(self, api, staff):
        (row,) = api.get(SESSIONS, {"closed_by": staff.get_username()}).json()["results"]
        assert (row["session_id"], row["closed_by"]) == ("s3", staff.get_username())

    @pytest.mark.parametrize("order", ORDERS)
    def test_pages_of_each_order_are_the_whole_list_once(self, api, order):
        ChatSession.objects.update(last_activity_at=DAYS[0])
        whole = ids(api, ordering=order)
        pages, url = [], f"{SESSIONS}?ordering={order}&page_size=2"
        while url:
            page = api.get(url).json()
            pages += [row["session_id"] for row in page["results"]]
            url = page["next"]
        assert pages == whole

    def test_cursor_of_another_order_is_refused(self, api):
        following = api.get(SESSIONS, {"page_size": 1}).json()["next"]
        assert api.get(f"{following}&ordering=updated_at").status_code == 400

    @pytest.mark.parametrize(
        ("query", "named", "said"),
        [
            ({"open": "false", "status": "active"}, "open", "contradicts"),
            (
                {"closed_after": "2026-01-02T00:00:00Z", "closed_before": "2026-01-02T00:00:00Z"},
                "closed_after",
                "is not before",
            ),
            ({"status": "active,"}, "status", "between two commas"),
            ({"status": ",active"}, "status", "between two commas"),
            ({"ordering": "customer_id"}, "ordering", "use one of -started_at"),
            ({"fields": "session_id,token"}, "fields", "'token' is unknown: use session_id"),
            ({"fields": "session_id,"}, "fields", "between two commas"),
            ({"fields": "session_id,,url"}, "fields", "use session_id, url"),
            (
                {"started_after": "0001-01-01T00:00:00+14:00"},
                "started_after",
                "use a year from 2 to 9998",
            ),
            (
                {"started_after": "0001-06-01T00:00:00Z"},
                "started_after",
                "use a year from 2 to 9998",
            ),
            ({"close_job": "x"}, "close_job", "not the id"),
            ({"close_job": "9" * 19}, "close_job", "not the id"),
            ({"close_job": "999999"}, "close_job", "no such close job"),
            ({"summary_status": "none"}, "summary_status", "use one of"),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, api, query, named, said):
        problems = problem_of(api, **query)
        assert said in problems[named][0]

    def test_close_job_lists_its_sessions_for_those_who_see_the_job(self, api, client_with, staff):
        job = create_close_job([ChatSession.objects.get(session_id="s1")], requested_by=staff)
        assert ids(api, close_job=job.pk) == ["s1"]
        other = client_with("view_chatsession", name="other")
        assert "close_job" in problem_of(other, close_job=job.pk)

    def test_bulk_close_takes_the_same_filters(self, api):
        wanted = {"status": ["active", "dormant"], "open": True, "account": "b"}
        wanted["started_after"] = "2026-01-01T00:00:00Z"
        answer = api.post("/api/osvi/sessions/close/", {"filter": wanted}, format="json")
        assert answer.status_code == 202
        (item,) = CloseJob.objects.get().items.all()
        assert item.session.session_id == "s1"

    @pytest.mark.parametrize(
        "wanted",
        [
            {"status": []},
            {"status": 5},
            {"updated_after": FIRST},
            {"close_job": True},
        ],
    )
    def test_bulk_close_refuses_what_it_cannot_use(self, api, wanted):
        answer = api.post("/api/osvi/sessions/close/", {"filter": wanted}, format="json")
        assert answer.status_code == 400

    @pytest.mark.parametrize(
        ("name", "value", "said"),
        [
            ("agent_uuid", "nope", "has no agent “nope”"),
            ("exclude_agents", ["nope"], "has no agent “nope”"),
            ("exclude_agents", [f"a{number}" for number in range(101)], "name at most 100"),
            ("account", "nope", 'This site has no account "nope": use one of default'),
            ("closed_by", "nope", "no user of this name"),
            ("close_job", 999_999, "no such close job"),
            ("open", False, "leave one out"),
            ("started_after", FUTURE, "not before started_before"),
            ("search", "!!!", "type a letter or a digit"),
        ],
    )
    def test_bulk_close_names_filter_once_and_where_it_was_sent(self, api, name, value, said):
        wanted = {"status": "active", "started_before": FIRST, name: value}
        body = api.post("/api/osvi/sessions/close/", {"filter": wanted}, format="json").json()
        ((problem,),) = body["errors"]["filter"].values()
        assert body["errors"] == {"filter": {name: [problem]}}
        assert body["detail"] == f"filter.{name}: {problem}"
        assert said in problem
        assert not problem.startswith(name)
        assert not CloseJob.objects.exists()


class TestWords:
    def test_filter_in_words_and_json_has_each_condition(self):
        ranges = {f"{name}_{side}": DAYS[side == "before"] for name in NAMES for side in SIDES}
        others = {"account": "b", "summary_status": "lost", "closed_by": "sam", "close_job": 7}
        chosen = SessionFilter(open=False, **others, **ranges)
        words = chosen.in_words()
        for said in ("not open", "account “b”", "summary: summary lost", "by “sam”", "job 7"):
            assert any(said in each for each in words), said
        for said in ("started after", "closed before", "changed after", "changed before"):
            assert any(each.startswith(said) for each in words), said
        assert SessionFilter.from_json(chosen.as_json()) == chosen
        assert "open" in SessionFilter(open=True, status=None).in_words()

    def test_filter_by_what_is_no_flag_is_refused(self):
        with pytest.raises(InvalidInput):
            SessionFilter(open="yes")


class TestResults:
    @pytest.mark.parametrize(("codename", "text"), [("view_sessionsummary", "Fine."), (None, None)])
    def test_results_have_summaries_for_those_who_may_read_them(
        self, client_with, staff, codename, text
    ):
        sessions = [ClosedSessionFactory(summary__text="Fine.") for _number in range(3)]
        sessions.append(ChatSessionFactory())
        job = create_close_job([*sessions, "unknown"], requested_by=staff)
        client = client_with("view_closejob", *filter(None, [codename]))
        answer = client.get(f"/api/osvi/close-jobs/{job.pk}/results/?expand=summary").json()
        rows = {row["session_id"]: row for row in answer["results"]}
        shown = [rows[each.session_id]["summary"] for each in sessions]
        assert shown == [text, text, text, None]
        first = rows[sessions[0].session_id]
        assert (first["summary_status"], first["summary_source"]) == ("stored", text and "osvi")
        assert rows["unknown"]["summary_status"] is rows["unknown"]["summary"] is None

    def test_results_with_summaries_take_no_more_queries(self, api, staff):
        jobs = [
            create_close_job(
                [ClosedSessionFactory() for _each in range(number)], requested_by=staff
            )
            for number in (1, 5)
        ]
        sent = []
        for job in jobs:
            with CaptureQueriesContext(connection) as queries:
                api.get(f"/api/osvi/close-jobs/{job.pk}/results/?expand=summary")
            sent.append(len(queries))
        assert sent[0] == sent[1]

    def test_results_are_expanded_by_summary_alone(self, api, staff):
        job = create_close_job([ChatSessionFactory()], requested_by=staff)
        assert api.get(f"/api/osvi/close-jobs/{job.pk}/results/?expand=x").status_code == 400


class TestFields:
    def test_fields_are_shown_alone(self, api):
        ClosedSessionFactory(session_id="s0", status="closed")
        (row,) = api.get(SESSIONS, {"fields": "status,session_id"}).json()["results"]
        assert row == {"session_id": "s0", "status": "closed"}

    @pytest.mark.parametrize(("fields", "is_read"), [("status", False), ("summary,context", True)])
    def test_texts_are_read_only_if_they_are_shown(self, api, fields, is_read):
        ClosedSessionFactory()
        read = []
        with call_after_queries(lambda sql, _params: read.append(sql) or False, None):
            api.get(SESSIONS, {"fields": fields})
        plain = [sql.replace("`", "").replace('"', "") for sql in read]
        (listed,) = [sql for sql in plain if " FROM osvi_django_chatsession" in sql]
        assert (".text" in listed, ".metadata" in listed) == (is_read, is_read)


class TestChanges:
    def test_change_is_withheld_until_it_is_old_enough(self, api, settings):
        settings.OSVI_CHANGES_DELAY = 3600
        session = ChatSessionFactory()
        assert ids(api, ordering="updated_at") == []
        assert ids(api, ordering="-updated_at") == [session.session_id]
        ChatSession.objects.update(updated_at=timezone.now() - timedelta(hours=2))
        assert ids(api, ordering="updated_at") == [session.session_id]

    def test_updated_at_of_last_row_is_where_to_go_on(self, api):
        ChatSessionFactory()
        (row,) = api.get(SESSIONS, {"ordering": "updated_at"}).json()["results"]
        later = ChatSessionFactory()
        assert ids(api, updated_after=row["updated_at"]) == [later.session_id]
        later.refresh_from_db()
        assert ids(api, updated_after=rest_datetime(later.updated_at)) == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(connection.vendor != "postgresql", reason="others do not say what is open")
def test_change_that_commits_after_a_later_one_is_not_missed(staff, django_user_model):
    first, second = ChatSessionFactory(), ChatSessionFactory()
    client = superuser_client()
    seen = client.get(SESSIONS, {"ordering": "updated_at"}).json()["results"][-1]["updated_at"]
    is_written, may_commit = threading.Event(), threading.Event()

    def write_slowly():
        with transaction.atomic():
            ChatSession.objects.filter(pk=first.pk).update(close_reason="early")
            is_written.set()
            assert may_commit.wait(60)
        connections.close_all()

    slow = threading.Thread(target=write_slowly)
    slow.start()
    assert is_written.wait(60)
    ChatSession.objects.filter(pk=second.pk).update(close_reason="late")
    held = ids(client, updated_after=seen)
    may_commit.set()
    slow.join()
    assert held == []
    assert ids(client, updated_after=seen) == [first.session_id, second.session_id]


@pytest.mark.django_db(transaction=True)
def test_client_that_follows_changes_of_many_writers_misses_none(settings):
    settings.OSVI_CHANGES_DELAY = 0.5
    keys = [ChatSessionFactory().pk for _number in range(8)]
    client, copy, url = superuser_client(), {}, f"{SESSIONS}?ordering=updated_at&page_size=3"

    def write(writer):
        for number in range(CHANGES):
            with transaction.atomic():
                rows = ChatSession.objects.filter(pk=keys[(writer + number) % len(keys)])
                rows.update(close_reason=f"{writer}-{number}")
        connections.close_all()

    threads = [threading.Thread(target=write, args=(each,)) for each in range(WRITERS)]
    for thread in threads:
        thread.start()
    # As the client in the documentation: several changes may have the same moment.
    start, position = url, None
    while True:
        is_over = not any(thread.is_alive() for thread in threads)
        page = client.get(url).json()
        for row in page["results"]:
            copy[row["session_id"]], position = row["close_reason"], row["updated_at"]
        url = page["next"] or (f"{start}&updated_after={position}" if position else start)
        newest = rest_datetime(ChatSession.objects.latest("updated_at").updated_at)
        if is_over and page["next"] is None and position == newest:
            break
    assert copy == dict(ChatSession.objects.values_list("session_id", "close_reason"))


def superuser_client():
    client = APIClient()
    user = get_user_model().objects.create_superuser("root", password=None)
    client.force_authenticate(user)
    return client


@pytest.mark.parametrize("delay", [-1, "5", None])
def test_delay_that_is_no_number_of_seconds_is_an_error_of_configuration(api, settings, delay):
    settings.OSVI_CHANGES_DELAY = delay
    answer = api.get(SESSIONS, {"ordering": "updated_at"})
    assert (answer.status_code, answer.json()["code"]) == (503, "not_configured")
    assert "osvi_django.E030" in {each.id for each in run_checks()}
