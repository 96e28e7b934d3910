"""Tests of what comes before and after a session in its list, and of the way back to the list."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import parse_qsl, quote, urlsplit

import pytest
from django.contrib import admin
from django.urls import reverse
from django.utils import timezone
from django.utils.html import escape

from osvi_django.admin import ChatSessionAdmin
from osvi_django.models import ChatSession
from osvi_django.testing import Status
from osvi_django.testing.factories import ChatSessionFactory, ClosedSessionFactory
from tests.admin.session_urls import session_url

pytestmark = pytest.mark.django_db

LIST = reverse("admin:osvi_django_chatsession_changelist")


@pytest.fixture
def chats():
    """Create sessions of every kind, among them some with equal or missing times."""
    now = timezone.now()
    moments = [now - timedelta(days=days) for days in (9, 8, 8, 7)]
    for moment in moments:
        ChatSessionFactory(last_activity_at=moment, customer_id="+1")
    for moment in moments[:2]:
        ChatSessionFactory(last_activity_at=moment, help_requested=True, status="dormant")
    for moment in moments:
        ClosedSessionFactory(closed_at=moment, started_at=moment, customer_id="+2")
    ClosedSessionFactory(closed_at=None)
    ClosedSessionFactory(closed_at=None)


def from_list(session, query, name="change"):
    """Return the URL of a page of this session as the list with these filters has it."""
    url = session_url(session, name)
    return f"{url}?_changelist_filters={quote(query, safe='')}" if query else url


def neighbours(client, session, query=""):
    """Return the URLs of the sessions before and after, as its page shows them."""
    context = client.get(from_list(session, query)).context
    return context["previous_url"], context["next_url"]


def _query_of(url):
    return dict(parse_qsl(urlsplit(url).query))


class TestNeighbours:
    @pytest.mark.parametrize(
        "query",
        [
            "",
            "status=open",
            "status=closed",
            "attention=help",
            "quiet=7",
            "closed=30",
            "started=30",
            "o=1",
            "o=-1",
            "o=3",
            "o=-4",
            "q=%2B2",
            "p=1",
        ],
    )
    def test_pages_lead_through_the_whole_list(self, staff_client, chats, query):
        listed = [row.pk for row in staff_client.get(f"{LIST}?{query}").context["cl"].queryset]
        sessions = [ChatSession.objects.get(pk=pk) for pk in listed]
        assert len(sessions) > 1
        ends = ["", *(from_list(each, query) for each in sessions), ""]
        for place, session in enumerate(sessions, 1):
            found = neighbours(staff_client, session, query)
            assert found == (ends[place - 1], ends[place + 1])

    def test_neighbours_take_few_queries(self, staff_client, chats, django_assert_max_num_queries):
        model_admin = admin.site.get_model_admin(ChatSession)
        session = ChatSession.objects.filter(status="closed").order_by("closed_at").last()
        request = staff_client.get(from_list(session, "status=closed")).wsgi_request
        with django_assert_max_num_queries(9):  # with that for the agents of the filter
            assert model_admin.neighbours_of(request, session).next_url

    def test_page_with_invalid_filters_has_no_neighbours(self, staff_client, chats):
        session = ChatSession.objects.first()
        assert neighbours(staff_client, session, "status=odd") == ("", "")
        assert neighbours(staff_client, session, "agent__account__regex=x") == ("", "")

    @pytest.mark.parametrize(
        "ordering", [("agent__name", "-id"), ("customer_id",), ("session_id",)]
    )
    def test_page_with_order_by_other_tables_of_host_works(
        self, staff_client, chats, monkeypatch, ordering
    ):
        monkeypatch.setattr(ChatSessionAdmin, "ordering", ordering)
        found = neighbours(staff_client, ChatSession.objects.first())
        assert any(found) == ("agent__name" not in ordering)

    def test_page_for_user_who_may_not_list_has_no_neighbours(self, log_in, chats):
        session = ChatSession.objects.filter(status="active").first()
        client = log_in("close_chatsession")
        html = client.get(session_url(session, "close")).text
        assert "Close and next" not in html


class TestList:
    FILTERS = "status=open&quiet=1&q=%2B&p=0"

    def test_page_leads_back_to_its_list(self, staff_client, chats):
        session = ChatSession.objects.filter(status="active", customer_id="+1").first()
        html = staff_client.get(from_list(session, self.FILTERS)).text
        back = f"{LIST}?{self.FILTERS}".replace("&", "&amp;")
        assert html.count(f'href="{back}"') >= 1
        assert from_list(session, self.FILTERS, "close") in html

    def test_page_opened_elsewhere_leads_to_the_plain_list(self, staff_client, chats):
        html = staff_client.get(session_url(ChatSession.objects.first())).text
        assert f'href="{LIST}"' in html
        assert "_changelist_filters" not in html

    @pytest.mark.parametrize("name", ["close", "mark"])
    def test_confirmation_leads_back_with_the_filters(self, staff_client, name):
        session = ChatSessionFactory(status="unconfirmed")
        html = staff_client.get(from_list(session, self.FILTERS, name)).text
        assert f'href="{from_list(session, self.FILTERS)}&amp;_osvi_place=' in html
        back = f"{LIST}?{self.FILTERS}".replace("&", "&amp;")
        assert f'href="{back}"' in html


class TestLiveParts:
    FILTERS = "status=open&q=%2B"

    @pytest.mark.parametrize("query", [{}, {"answer": "1"}])
    def test_live_parts_keep_the_filters(self, staff_client, mirrored, query):
        session = mirrored(customer_id="+1")
        page = staff_client.get(from_list(session, self.FILTERS))
        live = page.context["live_url"]
        assert f'data-live="{escape(live)}"' in page.text
        state = staff_client.get(live, query_params=_query_of(live) | query).json()
        assert from_list(session, self.FILTERS, "close") in state["parts"]["actions"]

    def test_live_parts_after_take_over_keep_the_filters(self, log_in, mirrored):
        session = mirrored(customer_id="+1")
        client = log_in("view_chatsession", "close_chatsession", "operate_chatsession")
        desk = client.get(from_list(session, self.FILTERS)).context["desk_url"]
        response = client.post(
            desk, {"command": "takeover"}, headers={"X-OSVI-Script": "1"}, follow=True
        )
        state = response.json()
        assert state["taken_over_by"]
        assert from_list(session, self.FILTERS, "close") in state["parts"]["actions"]


class TestCloseAndNext:
    @pytest.fixture
    def three(self, mirrored):
        """Return three open sessions in the order of the list."""
        now = timezone.now()
        sessions = [mirrored(customer_id=f"+{number}") for number in range(3)]
        for number, session in enumerate(sessions):
            moment = now - timedelta(days=9 - number)
            ChatSession.objects.filter(pk=session.pk).update(last_activity_at=moment)
        return sessions

    def test_close_returns_to_page_whose_next_is_what_came_after(self, staff_client, three):
        page = staff_client.get(from_list(three[0], "status=open"))
        [url] = [way.url for way in page.context["ways"]]
        assert "Close and next" in staff_client.get(url).text
        response = staff_client.post(url, {"post": "yes"}, follow=True)
        assert "its summary is stored" in response.text
        assert response.context["next_url"] == from_list(three[1], "status=open")
        assert response.context["list_url"] == f"{LIST}?status=open"

    def test_close_and_next_leads_to_next_and_then_to_the_list(self, staff_client, three):
        data = {"post": "yes", "next": "yes"}
        url = from_list(three[1], "status=open", "close")
        response = staff_client.post(url, data, follow=True)
        assert response.redirect_chain[-1][0] == from_list(three[2], "status=open")
        assert "Chat of +1: The chat is closed" in response.text
        three[0].delete()
        url = from_list(three[2], "status=open", "close")
        assert "Close and next" not in staff_client.get(url).text
        response = staff_client.post(url, data)
        assert response["Location"] == f"{LIST}?status=open"

    def test_close_and_next_that_fails_stays(self, staff_client, three, osvi_sandbox):
        osvi_sandbox.script(three[0].session_id, *[Status(422, errors=["No."])] * 3)
        url = from_list(three[0], "status=open", "close")
        response = staff_client.post(url, {"post": "yes", "next": "yes"}, follow=True)
        assert response.redirect_chain[-1][0].startswith(session_url(three[0]))

    def test_mark_and_next_names_session_without_customer(self, staff_client, chats):
        session = ChatSessionFactory(
            status="unconfirmed", customer_id="", last_activity_at=timezone.now() - timedelta(99)
        )
        data = {"post": "yes", "note": "Seen there.", "next": "yes"}
        url = from_list(session, "status__exact=unconfirmed", "mark")
        response = staff_client.post(url, data, follow=True)
        assert response.redirect_chain[-1][0] == f"{LIST}?status__exact=unconfirmed"
        assert f"Chat {session}: The chat session is marked" in response.text


class TestPlace:
    """What comes after a session that has moved in its list, or has left it."""

    @pytest.fixture
    def client(self, log_in):
        return log_in(
            "view_chatsession", "close_chatsession", "operate_chatsession", "view_sessionsummary"
        )

    @pytest.fixture
    def four(self, mirrored):
        """Return four open sessions in the order of the list, of which two wait for a person."""
        now = timezone.now()
        ClosedSessionFactory(closed_at=now, last_activity_at=now - timedelta(days=99))
        sessions = [mirrored(customer_id=f"+{number}") for number in range(4)]
        for number, session in enumerate(sessions):
            moment = now - timedelta(days=9 - number)
            rows = ChatSession.objects.filter(pk=session.pk)
            rows.update(last_activity_at=moment, help_requested=number < 2)
        return sessions

    def act(self, client, session, query):
        """Take a session over, without the page's script; return its page after that."""
        desk = client.get(from_list(session, query)).context["desk_url"]
        response = client.post(desk, {"command": "takeover"}, follow=True)
        page = ChatSession.objects.get(pk=session.pk)
        assert page.taken_over_by is not None
        ChatSession.objects.filter(pk=session.pk).update(
            last_activity_at=timezone.now(), help_requested=False
        )
        return client.get(response.redirect_chain[-1][0])

    @pytest.mark.parametrize("query", ["", "status=open"])
    @pytest.mark.parametrize("number", range(4))
    def test_next_after_session_that_moved_is_what_came_after_it(self, client, four, query, number):
        page = self.act(client, four[number], query)
        assert page.context["next_url"] == from_list(four[(number + 1) % 4], query)

    @pytest.mark.parametrize(("number", "following"), [(3, 2), (2, 1), (1, 0), (0, 1)])
    def test_next_in_list_sorted_by_column_is_what_came_after_or_waits(
        self, client, four, number, following
    ):
        page = self.act(client, four[number], "o=-4")
        assert page.context["next_url"] == from_list(four[following], "o=-4")

    @pytest.mark.parametrize("number", range(2))
    def test_next_after_session_that_left_is_the_other_that_waits(self, client, four, number):
        page = self.act(client, four[number], "attention=help")
        assert page.context["next_url"] == from_list(four[1 - number], "attention=help")

    @pytest.mark.parametrize("number", range(4))
    def test_close_and_next_after_session_moved_leads_to_open_one(self, client, four, number):
        page = self.act(client, four[number], "")
        [close] = [way.url for way in page.context["ways"] if way.is_weighty]
        assert "Close and next" in client.get(close).text
        response = client.post(close, {"post": "yes", "next": "yes"})
        assert response["Location"] == session_url(four[(number + 1) % 4])

    def test_close_and_next_for_last_open_one_leads_to_first(self, client, four):
        close = from_list(four[3], "status=open", "close")
        assert "Close and next" in client.get(close).text
        response = client.post(close, {"post": "yes", "next": "yes"})
        assert response["Location"] == from_list(four[0], "status=open")

    def test_next_when_no_other_is_open_is_what_the_list_has(self, client, mirrored):
        closed = ClosedSessionFactory(closed_at=timezone.now())
        page = self.act(client, mirrored(), "")
        assert page.context["next_url"] == session_url(closed)

    def test_live_parts_keep_the_place(self, client, four):
        page = client.get(from_list(four[1], ""))
        ChatSession.objects.filter(pk=four[1].pk).update(last_activity_at=timezone.now())
        live = page.context["live_url"]
        state = client.get(live, query_params=_query_of(live) | {"answer": "1"}).json()
        place = _query_of(live)["_osvi_place"]
        assert quote(place, safe="~") in state["parts"]["actions"]

    @pytest.mark.parametrize(
        "place",
        [
            "x",
            "{pk}",
            "0~1~active~~",
            "{pk}~3~active~~",
            "{pk}~1~odd~~",
            "{pk}~1~active~yesterday~",
            "{pk}~1~active~2026-01-01T00:00:00~",
            "{pk}~1~active~0001-01-01T00:00:00+00:00~",
        ],
    )
    def test_page_with_invalid_place_has_that_of_the_list(self, client, four, place):
        query = {"_osvi_place": place.format(pk=four[0].pk)}
        response = client.get(session_url(four[0]), query_params=query)
        assert response.context["next_url"] == session_url(four[1])
