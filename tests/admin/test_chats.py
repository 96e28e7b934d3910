"""Tests of the start page, of its JSON, and of the block that a host can include."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest
from django.contrib import admin
from django.contrib.auth.models import AnonymousUser
from django.template import Context, Template
from django.test import RequestFactory
from django.urls import reverse
from django.utils import timezone

from osvi_django.models import ChatSession
from osvi_django.services import attention
from osvi_django.services.attention import Attention, count_attention, first_waiting
from osvi_django.testing.factories import ChatSessionFactory, ClosedSessionFactory
from tests.helpers.datetimes import db_datetime

pytestmark = pytest.mark.django_db

CHATS = reverse("admin:osvi_django_chatsession_chats")
COUNTS = reverse("admin:osvi_django_chatsession_counts")
LIST = reverse("admin:osvi_django_chatsession_changelist")
APP = "/admin/osvi_django/"


@pytest.fixture
def chats(staff, make_job):
    """Create one chat of each kind that needs a person, two who wait for one, and a job."""
    agent = ChatSessionFactory(taken_over_by=staff, mode="support").agent
    for hours, customer in ((1, "late"), (3, "early")):
        ChatSessionFactory(
            agent=agent,
            help_requested=True,
            help_requested_at=timezone.now() - timedelta(hours=hours),
            last_activity_at=timezone.now() - timedelta(hours=hours),
            customer_id=customer,
        )
    ChatSessionFactory(agent=agent, status="unconfirmed")
    ChatSessionFactory(agent=agent, is_close_refused=True)
    ChatSessionFactory(
        agent=agent, status="closing", lease_until=db_datetime("2026-01-01T00:00:00Z")
    )
    for status in ("not_provided", "lost", "pending"):
        ClosedSessionFactory(agent=agent, summary=None, summary_status=status)
    ClosedSessionFactory(agent=agent)
    make_job("running")
    make_job("completed")


ONE_EACH = dict.fromkeys((each.value for each in Attention), "1") | {"help": "2"}


class TestPage:
    def test_page_shows_counts_that_lead_to_lists_of_as_many(self, staff_client, chats):
        response = staff_client.get(CHATS)
        lines = response.context["lines"]
        assert {line.kind: str(line.count) for line in lines} == ONE_EACH
        for line in lines:
            listed = staff_client.get(line.url)
            assert listed.status_code == 200, line.url
            assert str(listed.context["cl"].result_count) == str(line.count), line.kind

    def test_page_shows_who_waits_longest_first(self, staff_client, chats):
        html = staff_client.get(CHATS).text
        assert "2 customers wait for a person." in html
        assert html.index("<bdi>early</bdi>") < html.index("<bdi>late</bdi>")
        assert "3 h ago" in html
        session = ChatSession.objects.get(customer_id="early")
        url = reverse("admin:osvi_django_chatsession_change", args=[session.pk])
        assert f'href="{url}?_changelist_filters=attention%3Dhelp"' in html
        assert 'data-waiting="2"' in html

    def test_page_with_more_who_wait_leads_to_all_of_them(self, staff_client, chats, monkeypatch):
        assert "more</a>" not in staff_client.get(CHATS).text
        monkeypatch.setattr("osvi_django.admin.chats.WAITING_SHOWN", 1)
        html = staff_client.get(CHATS).text
        assert f'<a href="{LIST}?attention=help">and 1 more</a>' in html
        assert "and 1 more</a>" in staff_client.get(COUNTS).json()["rows"]

    def test_page_in_first_minute_says_so_in_words(self, staff_client):
        ChatSessionFactory(help_requested=True, help_requested_at=timezone.now())
        html = staff_client.get(CHATS).text
        assert re.search(r"asked for a person <time[^>]*>less than a minute ago</time>", html)

    def test_page_says_that_customer_who_asked_before_may_wait_longer(self, staff_client):
        since = timezone.now() - timedelta(minutes=13, seconds=5)
        ChatSessionFactory(help_requested=True, last_activity_at=since)
        html = staff_client.get(CHATS).text
        assert re.search(r"asked for a person <time[^>]*>13 min ago</time> or earlier", html)

    def test_page_marks_who_has_taken_over(self, staff_client, staff, django_user_model):
        kim = django_user_model.objects.create_user("kim")
        for fields in (
            {"customer_id": "c0"},
            {"customer_id": "c1", "mode": "support", "taken_over_by": kim},
            {"customer_id": "c2", "mode": "support", "taken_over_by": staff},
            {"customer_id": "c3", "mode": "support", "active_human": "jo@example.com"},
            {"customer_id": "c4", "mode": "support"},
        ):
            ChatSessionFactory(help_requested=True, **fields)
        rows = staff_client.get(COUNTS).json()["rows"].split("<li>")
        taken = {
            re.search(r"<bdi>(.*?)</bdi>", row)[1]: re.findall(r'"osvi-taken">(.*?)<', row)
            for row in rows[1:]
        }
        assert taken == {
            "c0": [],
            "c1": ["taken over by kim"],
            "c2": ["taken over by you"],
            "c3": ["taken over by jo@example.com"],
            "c4": ["taken over by a colleague"],
        }

    def test_page_without_chats_says_that_nothing_waits(self, staff_client):
        html = staff_client.get(CHATS).text
        assert "No customer waits for a person." in html
        assert 'data-waiting=""' in html
        assert "osvi-count-some" not in html

    def test_page_takes_few_queries(self, staff_client, chats, django_assert_num_queries):
        # The login session, the user and their permissions (4), the counts of chats, that of jobs,
        # who waits; and the transaction of the request (2).
        with django_assert_num_queries(9):
            staff_client.get(CHATS)

    def test_counts_are_json_for_the_script(self, staff_client, chats):
        response = staff_client.get(COUNTS)
        state = response.json()
        assert state["counts"] == ONE_EACH
        assert state["waiting"] == "2"
        assert state["said"] == "2 customers wait for a person."
        assert "<bdi>early</bdi>" in state["rows"]
        assert "no-store" in response["Cache-Control"]
        ChatSession.objects.update(help_requested=False)
        state = staff_client.get(COUNTS).json()
        assert (state["waiting"], state["counts"]["help"]) == ("", "0")
        assert "<bdi>" not in state["rows"]

    def test_counts_beyond_cap_say_more(self, staff_client, chats, monkeypatch):
        monkeypatch.setattr(attention, "CAP", 1)
        state = staff_client.get(COUNTS).json()
        assert state["counts"]["help"] == "1+"
        assert state["counts"]["lost"] == "1"

    def test_host_narrows_counts_by_its_queryset(self, staff_client, chats, monkeypatch):
        mine = admin.site.get_model_admin(ChatSession)
        monkeypatch.setattr(
            type(mine), "get_queryset", lambda *_: ChatSession.objects.filter(customer_id="late")
        )
        state = staff_client.get(COUNTS).json()
        assert (state["waiting"], state["counts"]["lost"]) == ("1", "0")
        assert "early" not in state["rows"]


class TestPermissions:
    def test_page_for_viewer_has_no_jobs(self, log_in, chats):
        response = log_in("view_chatsession").get(CHATS)
        kinds = [line.kind for line in response.context["lines"]]
        assert kinds == [each for each in Attention if each is not Attention.JOBS]

    def test_page_for_operator_shows_who_waits_and_leads_to_desk(self, log_in, chats):
        client = log_in("operate_chatsession")
        response = client.get(CHATS)
        assert [(line.kind, line.url) for line in response.context["lines"]] == [
            (Attention.HELP, ""),
            (Attention.TAKEN_OVER, ""),
        ]
        session = ChatSession.objects.get(customer_id="early")
        url = reverse("admin:osvi_django_chatsession_desk", args=[session.pk])
        assert f'href="{url}"' in response.text
        assert client.get(url).status_code == 200

    def test_page_for_closer_shows_own_jobs_only(self, log_in, chats):
        response = log_in("close_chatsession").get(CHATS)
        [line] = response.context["lines"]
        assert (line.kind, line.count.number) == (Attention.JOBS, 0)
        assert "early" not in response.text

    def test_page_for_operator_says_how_many_more_wait(self, log_in, chats, monkeypatch):
        monkeypatch.setattr("osvi_django.admin.chats.WAITING_SHOWN", 1)
        html = log_in("operate_chatsession").get(CHATS).text
        assert '<p class="osvi-more">and 1 more</p>' in html

    def test_page_without_permission_is_refused(self, log_in):
        client = log_in("view_chatagent")
        assert client.get(CHATS).status_code == 403
        assert client.get(COUNTS).status_code == 403

    def test_functions_without_permission_return_nothing(self, chats):
        user = AnonymousUser()
        assert count_attention(requested_by=user) == {}
        assert first_waiting(5, requested_by=user) == ()

    def test_functions_without_queryset_count_all(self, staff, chats):
        assert count_attention(requested_by=staff)[Attention.HELP].number == 2
        assert len(first_waiting(1, requested_by=staff)) == 1


class TestBlock:
    def test_app_index_begins_with_the_numbers(self, staff_client, chats):
        html = staff_client.get(APP).text
        assert f'<a href="{CHATS}">Chats</a>' in html
        assert html.index("osvi-counts") < html.index(f'href="{LIST}"', html.index("osvi-counts"))
        assert '<strong data-osvi="help">2</strong>' in html

    def test_list_leads_to_the_start_page(self, staff_client):
        html = staff_client.get(LIST).text
        assert f'<a href="{CHATS}">Chats</a>' in html

    def test_documented_template_shows_numbers_on_index_alone(
        self, staff_client, chats, settings, tmp_path
    ):
        docs = Path(__file__).parents[2] / "docs/admin.md"
        [template] = re.findall(r"```django\n(.*?)```", docs.read_text(), re.DOTALL)
        (tmp_path / "admin").mkdir()
        (tmp_path / "admin/index.html").write_text(template)
        [engine] = settings.TEMPLATES
        settings.TEMPLATES = [{**engine, "DIRS": [tmp_path]}]
        for page, expected in (("/admin/", 1), (APP, 1), ("/admin/auth/", 0)):
            html = staff_client.get(page).text
            assert html.count('id="osvi-attention"') == expected, page

    @pytest.mark.parametrize("site", [None, "admin"])
    def test_tag_shows_numbers_on_page_of_host(self, staff, chats, site):
        request = RequestFactory().get("/")
        request.user = staff
        if site:
            request.current_app = site
        assert "osvi-counts" in _rendered(request=request)

    def test_tag_without_admin_request_or_permission_shows_nothing(self, django_user_model):
        request = RequestFactory().get("/")
        request.user = django_user_model.objects.create_user("jo")
        assert _rendered(request=request) == ""
        assert _rendered() == ""
        request.current_app = "elsewhere"
        assert _rendered(request=request) == ""

    def test_tag_of_site_that_is_not_configured_shows_nothing(self, settings, staff):
        settings.OSVI_SESSIONS_FOR = "tests.helpers.tenants.first_ten"
        request = RequestFactory().get("/")
        request.user = staff
        assert _rendered(request=request) == ""


def _rendered(**context):
    return Template("{% load osvi_django %}{% osvi_attention %}").render(Context(context)).strip()
