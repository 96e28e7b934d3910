"""Tests of paginated lists and of invalid query strings."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest

from osvi_django.models import ChatSession, CloseJob, CloseJobItem, SupportAction
from osvi_django.rest.pagination import KeysetPagination
from osvi_django.rest.urls import urlpatterns
from osvi_django.services.jobs import create_close_job
from osvi_django.testing.factories import ChatAgentFactory, ChatSessionFactory
from tests.helpers.datetimes import db_datetime

pytestmark = pytest.mark.django_db

SESSIONS = "/api/osvi/sessions/"
JOBS = "/api/osvi/close-jobs/"
NOON = db_datetime("2026-01-31T12:00:00Z")
MANY = 450


def walk(client, url, link="next"):
    """Return all pages from this URL on; fail if they do not end."""
    pages = []
    while url:
        page = client.get(url).json()
        pages.append(page)
        assert len(pages) <= 60, "the walk does not end"
        url = page[link]
    return pages


def keys(pages, name):
    return [row[name] for page in pages for row in page["results"]]


def cursor_of(page, link="next"):
    return parse_qs(urlsplit(page[link]).query)["cursor"][0]


def add_sessions(moments):
    agent = ChatAgentFactory()
    ChatSession.objects.bulk_create(
        ChatSession(session_id=f"s{number}", agent=agent, started_at=moment)
        for number, moment in enumerate(moments)
    )


class TestEqualTimes:
    @pytest.mark.parametrize("size", ["200", "113"])
    def test_sessions_with_equal_time_are_listed_once_in_both_directions(self, api, size):
        add_sessions([NOON] * MANY)
        pages = walk(api, f"{SESSIONS}?page_size={size}")
        assert keys(pages, "session_id") == [f"s{number}" for number in reversed(range(MANY))]
        back = walk(api, pages[-1]["previous"], "previous")
        assert keys([*reversed(back), pages[-1]], "session_id") == keys(pages, "session_id")

    def test_sessions_with_several_times_are_ordered(self, api):
        add_sessions(NOON + timedelta(microseconds=number // 7) for number in range(50))
        pages = walk(api, f"{SESSIONS}?page_size=4")
        assert keys(pages, "session_id") == [f"s{number}" for number in reversed(range(50))]

    def test_actions_with_equal_time_are_listed_once_in_both_directions(self, api):
        session = ChatSessionFactory()
        SupportAction.objects.bulk_create(
            SupportAction(session=session, kind="tell", started_at=NOON) for _number in range(MANY)
        )
        pages = walk(api, f"{SESSIONS}{session.session_id}/actions/?page_size=200")
        wanted = list(SupportAction.objects.order_by("pk").values_list("pk", flat=True))
        assert keys(pages, "id") == wanted
        back = walk(api, pages[-1]["previous"], "previous")
        assert keys([*reversed(back), pages[-1]], "id") == wanted

    def test_jobs_with_equal_time_are_listed_once(self, api, staff):
        CloseJob.objects.bulk_create(
            CloseJob(requested_by=staff, created_at=NOON) for _number in range(MANY)
        )
        pages = walk(api, f"{JOBS}?page_size=200")
        wanted = CloseJob.objects.order_by("-pk").values_list("pk", flat=True)
        assert keys(pages, "id") == list(wanted)

    def test_results_on_several_pages_are_listed_once(self, api, staff):
        job = CloseJob.objects.create(requested_by=staff)
        CloseJobItem.objects.bulk_create(
            CloseJobItem(job=job, requested_session_id=f"s{number}") for number in range(MANY)
        )
        pages = walk(api, f"{JOBS}{job.pk}/results/?page_size=200")
        assert keys(pages, "session_id") == [f"s{number}" for number in range(MANY)]

    def test_rows_added_or_deleted_between_pages_shift_no_others(self, api):
        add_sessions([NOON] * 6)
        first = api.get(SESSIONS, {"page_size": 2}).json()
        ChatSession.objects.filter(session_id__in=["s4", "s3"]).delete()
        ChatSessionFactory(session_id="new", started_at=NOON + timedelta(days=1))
        second = api.get(first["next"]).json()
        assert keys([second], "session_id") == ["s2", "s1"]

    def test_page_that_became_empty_links_back(self, api):
        add_sessions([NOON] * 4)
        first = api.get(SESSIONS, {"page_size": 2}).json()
        ChatSession.objects.filter(session_id__in=["s0", "s1"]).delete()
        second = api.get(first["next"]).json()
        assert (second["results"], second["next"]) == ([], None)
        assert keys([api.get(second["previous"]).json()], "session_id") == ["s3"]


def test_lists_with_invalid_page_size_return_400_with_name(api, staff):
    session, job = ChatSessionFactory(), create_close_job([], requested_by=staff, start=False)
    lists = [
        SESSIONS,
        f"{SESSIONS}{session.session_id}/actions/",
        JOBS,
        f"{JOBS}{job.pk}/results/",
    ]
    odd = ["0", "-1", "201", "x", "1.5", "1e2", "\u0661", "+5", "9" * 5000]
    answers = [api.get(lists[0], {"page_size": size}) for size in odd]
    answers += [api.get(url, {"page_size": "1000"}) for url in lists]
    assert {(each.status_code, each.json()["code"]) for each in answers} == {(400, "invalid")}
    details = {each.json()["detail"] for each in answers}
    assert details == {"page_size: Use a whole number from 1 to 200."}
    assert all(api.get(url, {"page_size": "200"}).status_code == 200 for url in lists)


class TestCursor:
    @pytest.fixture
    def page(self, api):
        """Return the first of several pages."""
        add_sessions([NOON] * 5)
        return api.get(SESSIONS, {"page_size": 2}).json()

    def test_cursor_changed_returns_400_with_name(self, api, page):
        cursor = cursor_of(page)
        for place in range(len(cursor)):
            changed = chr(ord(cursor[place]) ^ 1)
            odd = cursor[:place] + changed + cursor[place + 1 :]
            response = api.get(SESSIONS, {"cursor": odd})
            assert (response.status_code, response.json()["code"]) == (400, "invalid"), odd
            assert list(response.json()["errors"]) == ["cursor"]

    @pytest.mark.parametrize("odd", ["x", "cD1hYmM=", "cj0xJnA9MQ==", ":", "\x00", "é", "🎉" * 99])
    def test_cursor_invented_returns_400_with_name(self, api, page, odd):
        response = api.get(SESSIONS, {"cursor": odd})
        assert (response.status_code, list(response.json()["errors"])) == (400, ["cursor"])

    def test_cursor_of_another_list_returns_400(self, api, page):
        response = api.get(JOBS, {"cursor": cursor_of(page)})
        assert (response.status_code, list(response.json()["errors"])) == (400, ["cursor"])

    def test_next_link_keeps_filters(self, api, page):
        url = api.get(SESSIONS, {"page_size": 2, "status": "active"}).json()["next"]
        asked = parse_qs(urlsplit(url).query)
        assert (asked["status"], asked["page_size"]) == (["active"], ["2"])

    def test_page_in_browser_shows_links(self, api, page):
        html = api.get(f"{SESSIONS}?page_size=2", headers={"Accept": "text/html"}).content.decode()
        assert "cursor=" in html


@pytest.mark.parametrize("url", [SESSIONS, JOBS, "actions", "results"])
class TestQueryStrings:
    @pytest.fixture
    def ask(self, api, staff, url):
        """Request this list with a query string."""
        add_sessions([NOON] * 2)
        job = CloseJob.objects.create(requested_by=staff)
        places = {"actions": f"{SESSIONS}s0/actions/", "results": f"{JOBS}{job.pk}/results/"}
        return lambda query: api.get(f"{places.get(url, url)}?{query}")

    @pytest.mark.parametrize("key", ["cursor", "page_size", "format"])
    @pytest.mark.parametrize("query", ["{0}=", "{0}", "{0}=%20", "{0}=1&{0}=1", "{0}=&{0}=5"])
    def test_parameter_blank_or_repeated_returns_400_with_name(self, ask, key, query):
        response = ask(query.format(key))
        assert (response.status_code, list(response.json()["errors"])) == (400, [key])
        assert response.json()["detail"].startswith(f"{key}: ")


@pytest.mark.parametrize("key", ["customer_id", "status", "agent_uuid", "idle_since"])
@pytest.mark.parametrize(
    "query", ["{0}=", "{0}", "{0}=+", "{0}=active&{0}=open", "{0}=&{0}=active"]
)
def test_session_list_with_blank_or_repeated_filter_returns_400(api, key, query):
    ChatSessionFactory.create_batch(2)
    response = api.get(f"{SESSIONS}?{query.format(key)}")
    assert (response.status_code, list(response.json()["errors"])) == (400, [key])
    assert "results" not in response.json()


@pytest.mark.parametrize("query", ["outcome=", "outcome=closed&outcome=rejected"])
def test_results_with_blank_or_repeated_outcome_return_400(api, staff, query):
    job = CloseJob.objects.create(requested_by=staff)
    response = api.get(f"{JOBS}{job.pk}/results/?{query}")
    assert (response.status_code, list(response.json()["errors"])) == (400, ["outcome"])


def test_list_views_use_pagination_by_key():
    views = {pattern.callback.view_class for pattern in urlpatterns}
    lists = [view for view in views if hasattr(view, "pagination_class")]
    assert len(lists) == 4
    assert all(issubclass(view.pagination_class, KeysetPagination) for view in lists)
