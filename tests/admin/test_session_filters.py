"""Tests of the filters of the list of sessions, and of its order."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from osvi_django.admin import ChatSessionAdmin
from osvi_django.database import to_db_datetime
from osvi_django.models import ChatSession
from osvi_django.testing.factories import ChatSessionFactory, ClosedSessionFactory
from tests.helpers.datetimes import db_datetime

pytestmark = pytest.mark.django_db

LIST = "/admin/osvi_django/chatsession/"


def now():
    """Return the present as the database has it."""
    return to_db_datetime(datetime.now(UTC))


def days_ago(days):
    """Return the moment so many days ago, as the database has it."""
    return now() - timedelta(days=days, minutes=1)


@pytest.fixture
def listed(staff_client):
    """Return which of the named sessions a filter shows, in order."""

    def _listed(query, **named):
        names = {session.pk: name for name, session in named.items()}
        response = staff_client.get(f"{LIST}?{query}")
        assert response.status_code == 200, response["Location"]
        return [names[session.pk] for session in response.context["cl"].result_list]

    return _listed


class TestStates:
    @pytest.fixture
    def named(self, staff):
        """Create a session of each state."""
        return {
            "help": ChatSessionFactory(help_requested=True, last_activity_at=days_ago(9)),
            "mine": ChatSessionFactory(
                taken_over_by=staff, mode="support", last_activity_at=days_ago(8)
            ),
            "dormant": ChatSessionFactory(status="dormant", last_activity_at=days_ago(7.5)),
            "unconfirmed": ChatSessionFactory(status="unconfirmed", last_activity_at=days_ago(6)),
            "refused": ChatSessionFactory(is_close_refused=True, last_activity_at=days_ago(5)),
            "stuck": ChatSessionFactory(
                status="closing", lease_until=days_ago(3), last_activity_at=days_ago(4)
            ),
            "closing": ChatSessionFactory(
                status="closing",
                lease_until=now() + timedelta(days=1),
                last_activity_at=days_ago(3),
            ),
            "fresh": ChatSessionFactory(),
            "stored": ClosedSessionFactory(closed_by=staff, closed_at=days_ago(1)),
            "empty": ClosedSessionFactory(
                summary=None, summary_status="not_provided", closed_at=days_ago(8)
            ),
            "lost": ClosedSessionFactory(
                summary=None, summary_status="lost", closed_at=days_ago(40)
            ),
        }

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("attention=help", "help"),
            ("attention=unconfirmed", "unconfirmed"),
            ("attention=refused", "refused"),
            ("attention=closing", "stuck"),
            ("status=open", "help mine dormant refused fresh"),
            ("status=dormant", "dormant"),
            ("status=closing", "stuck closing"),
            ("status=closed", "stored empty lost"),
            ("status__exact=dormant", "dormant"),
            ("quiet=7", "help mine dormant"),
            ("quiet=1", "help mine dormant unconfirmed refused stuck closing"),
            ("quiet=30", ""),
            ("taken_over=me", "mine"),
            ("taken_over=anybody", "mine"),
            ("summary=stored", "stored"),
            ("summary=not_provided", "empty"),
            ("summary=lost", "lost"),
            ("summary=pending", ""),
            ("closed_by=me", "stored"),
            ("closed_by=anybody", "stored"),
            ("closed=0", ""),
            ("closed=7", "stored"),
            ("closed=30", "stored empty"),
            ("mode__exact=support", "mine"),
            ("status=open&quiet=7&mode__exact=ai", "help dormant"),
        ],
    )
    def test_list_with_filter_shows_matches_in_order(self, listed, named, query, expected):
        assert listed(query, **named) == expected.split()

    def test_list_offers_customers_who_wait_in_one_filter(self, staff_client):
        html = staff_client.get(LIST).text
        assert html.count("customer waits for a person") == 1
        assert "?help=" not in html

    def test_list_with_filter_of_another_user_shows_none(self, listed, named, django_user_model):
        other = django_user_model.objects.create_user("other")
        ChatSession.objects.update(taken_over_by=other, closed_by=other)
        assert listed("taken_over=me", **named) == []
        assert listed("closed_by=me", **named) == []


class TestDays:
    @pytest.fixture
    def named(self):
        """Create a session for each of three days."""
        moments = [db_datetime(f"2026-03-0{day}T12:00:00Z") for day in (1, 2, 3)]
        return {
            f"day{number}": ClosedSessionFactory(closed_at=moment, started_at=moment)
            for number, moment in enumerate(moments, 1)
        }

    @pytest.mark.parametrize("name", ["closed", "started"])
    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("{name}_from=2026-03-02", "day3 day2"),
            ("{name}_until=2026-03-02", "day2 day1"),
            ("{name}_from=2026-03-02&{name}_until=2026-03-02", "day2"),
            ("{name}_from=&{name}_until=", "day3 day2 day1"),
            ("{name}=0&{name}_from=2026-03-03", "day3"),  # the range replaces the choice
            ("{name}=30", ""),
        ],
    )
    def test_list_with_range_shows_days_newest_first(self, listed, named, name, query, expected):
        assert listed(query.format(name=name), **named) == expected.split()

    def test_list_with_range_marks_it_and_keeps_other_filters(self, staff_client, named):
        query = "status=closed&closed=7&closed_from=2026-03-02&started_until=&q=%2B&p=0"
        html = staff_client.get(f"{LIST}?{query}").text
        form = re.search(r'<form id="osvi-ranges" method="get">(.*?)</form>', html).group(1)
        kept = re.findall(r'name="([^"]*)" value="([^"]*)"', form)
        assert kept == [("status", "closed"), ("closed", "7"), ("q", "+")]
        assert 'name="closed_from" value="2026-03-02" form="osvi-ranges"' in html
        assert "03/02/2026 \N{EN DASH} …" in html
        [chosen] = re.findall(r'<a href="([^"]*)">03/02/2026', html)
        assert "closed=7" not in chosen

    @pytest.mark.parametrize(
        "query",
        [
            "closed_from=yesterday",
            "started_until=9999-12-31",
            "closed_until=2026-02-30",
            "closed=x",
            "started=12",
            "status=odd",
            "attention=odd",
            "taken_over=you",
            "closed_by=you",
            "quiet=2",
            "summary=odd",
        ],
    )
    def test_list_with_invalid_value_redirects_as_django_does(self, staff_client, query):
        response = staff_client.get(f"{LIST}?{query}")
        assert response.status_code == 302
        assert response["Location"].endswith("?e=1")

    def test_list_with_template_of_host_has_no_date_inputs(self, staff_client, monkeypatch):
        monkeypatch.setattr(ChatSessionAdmin, "change_list_template", "admin/change_list.html")
        html = staff_client.get(f"{LIST}?closed_from=2026-03-02").text
        assert 'type="date"' not in html
        assert "in the last 7 days" in html


class TestOrder:
    @pytest.mark.parametrize(
        ("query", "order"),
        [
            ("", " ".join(ChatSession.ATTENTION_ORDER)),
            ("status=open", " ".join(ChatSession.ATTENTION_ORDER)),
            ("closed=7", "-closed_at -id"),
            ("started=7", "-started_at -id"),
            ("closed_by=me&started=7", "-closed_at -id"),
            ("close_reason=Spam", "-closed_at -id"),
            ("o=1", "customer_id -started_at -id"),
            ("o=-1", "-customer_id started_at id"),
            ("o=3", "status -started_at -id"),
            ("o=-4", "-last_activity_at -id"),
            ("o=-4&started=7", "-last_activity_at -id"),
            ("o=3.1", "status -started_at -id"),  # by two columns, all would be sorted
        ],
    )
    def test_list_is_ordered_as_an_index_is(self, staff_client, settings, query, order):
        settings.OSVI = {"default": {**settings.OSVI["default"], "CLOSE_REASONS": ["Spam"]}}
        now = to_db_datetime(datetime.now(UTC))
        staff = staff_client.get(LIST).wsgi_request.user
        ClosedSessionFactory(closed_at=now, closed_by=staff, close_reason="Spam")
        ChatSessionFactory()
        with CaptureQueriesContext(connection) as queries:
            staff_client.get(f"{LIST}?{query}")
        rows = next(each["sql"] for each in queries if "previous_status" in each["sql"])
        found = re.sub(r'["`]|osvi_django_chatsession["`]?\.', "", rows).partition(" ORDER BY ")[2]
        wanted = [f"{each[1:]} DESC" if each[0] == "-" else f"{each} ASC" for each in order.split()]
        assert found == ", ".join(wanted)

    def test_list_with_order_of_host_keeps_it(self, staff_client, monkeypatch):
        monkeypatch.setattr(ChatSessionAdmin, "ordering", ("customer_id",))
        for customer in ("c", "a", "b"):
            ChatSessionFactory(customer_id=customer)
        rows = staff_client.get(f"{LIST}?started=7").context["cl"].result_list
        assert [row.customer_id for row in rows] == ["a", "b", "c"]
