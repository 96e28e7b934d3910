"""Tests of the list of sessions: columns, filters, search and permissions."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from osvi_django.admin import ChatSessionAdmin
from osvi_django.testing.factories import (
    ChatAgentFactory,
    ChatSessionFactory,
    ClosedSessionFactory,
)
from tests.helpers.datetimes import db_datetime

pytestmark = pytest.mark.django_db

LIST = "/admin/osvi_django/chatsession/"


def ids_listed(response):
    """Return the ids of the sessions on this page of the list."""
    return [session.session_id for session in response.context["cl"].result_list]


class TestList:
    def test_list_shows_session_and_start_of_summary(self, staff_client):
        session = ClosedSessionFactory(summary__text="Refund <b>given</b>. " + "More of it. " * 20)
        html = staff_client.get(LIST).text
        for expected in (session.session_id, session.customer_id, str(session.agent), "closed"):
            assert expected in html
        assert "Refund &lt;b&gt;given&lt;/b&gt;. More of it." in html
        assert "More of it. " * 20 not in html

    def test_list_title_is_chat_sessions(self, staff_client):
        assert "<h1>Chat sessions</h1>" in staff_client.get(LIST).text

    def test_list_begins_with_who_waits_and_what_is_longest_quiet(self, staff_client):
        moments = [db_datetime(f"2026-01-0{day}T00:00:00Z") for day in range(1, 8)]
        closed = [
            ClosedSessionFactory(closed_at=moment, last_activity_at=moment)
            for moment in moments[:2]
        ]
        quiet = [ChatSessionFactory(last_activity_at=moment) for moment in moments[2:4]]
        waiting = [
            ChatSessionFactory(last_activity_at=moment, help_requested=True)
            for moment in moments[4:6]
        ]
        wanted = [*waiting, *quiet, *reversed(closed)]
        assert ids_listed(staff_client.get(LIST)) == [each.session_id for each in wanted]

    def test_list_without_summary_permission_hides_summaries(
        self, client, django_user_model, grant
    ):
        user = django_user_model.objects.create_user("jo", is_staff=True)
        client.force_login(grant(user, "view_chatsession"))
        ClosedSessionFactory(summary__text="Confidential words.")
        assert "Confidential" not in client.get(LIST).text

    def test_list_with_many_sessions_costs_same_queries(
        self, staff_client, django_assert_num_queries
    ):
        # The user and their permissions (4), the count, the rows, their agents and summaries.
        for _ in range(2):
            ClosedSessionFactory.create_batch(10)
            ChatSessionFactory.create_batch(10)  # without summaries
            with django_assert_num_queries(8):
                staff_client.get(LIST)

    @pytest.mark.parametrize(
        "query",
        ["status__exact=dormant", "mode__exact=support", "agent__id__exact={agent}", "q={id}"],
    )
    def test_list_with_filter_or_search_shows_matches(self, staff_client, query):
        agent = ChatAgentFactory()
        wanted = ChatSessionFactory(
            status="dormant", mode="support", agent=agent, session_id="wanted-1"
        )
        ChatSessionFactory.create_batch(2)
        response = staff_client.get(f"{LIST}?{query.format(agent=agent.pk, id='wanted')}")
        assert ids_listed(response) == [wanted.session_id]

    def test_list_search_matches_start_of_customer_id(self, staff_client):
        wanted = ChatSessionFactory(customer_id="+4917012345")
        ChatSessionFactory()
        response = staff_client.get(LIST, {"q": "+49170"})
        assert ids_listed(response) == [wanted.session_id]

    def test_list_beyond_cap_says_only_first_are_listed(self, staff_client, monkeypatch):
        monkeypatch.setattr(ChatSessionAdmin.paginator, "cap", 3)
        ChatSessionFactory.create_batch(5)
        html = staff_client.get(LIST).text
        assert "Only the first 3 are listed" in html
        assert "“Select all” also selects the others." in html
        monkeypatch.setattr(ChatSessionAdmin.paginator, "cap", 6)
        assert "Only the first" not in staff_client.get(LIST).text

    def test_list_is_not_sortable_by_agent_unless_host_says_so(self, staff_client, monkeypatch):
        ChatSessionFactory()
        html = staff_client.get(LIST).text
        assert 'class="sortable column-customer_shown' in html
        assert 'class="column-agent' in html
        monkeypatch.setattr(ChatSessionAdmin, "sortable_by", ("agent",))  # as a host may set it
        html = staff_client.get(LIST).text
        assert 'class="column-customer_shown' in html
        assert 'class="sortable column-agent' in html


@pytest.mark.parametrize(
    ("passed", "shown"),
    [
        (timedelta(seconds=20), "now"),
        (timedelta(minutes=5), "5 min ago"),
        (timedelta(hours=30), "30 h ago"),
        (timedelta(days=3), "3 d ago"),
    ],
)
def test_session_list_says_how_long_ago_a_chat_changed(staff_client, passed, shown):
    ChatSessionFactory(last_activity_at=timezone.now() - passed)
    assert shown in staff_client.get(LIST).text
