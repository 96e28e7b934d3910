"""The list of sessions: find them, read their first words, and close a selection."""

from __future__ import annotations

import pytest
from django.contrib.admin.models import LogEntry
from django.urls import reverse

from osvi_django.admin import ChatSessionAdmin
from osvi_django.models import ChatSession, CloseAttempt
from osvi_django.testing import Status
from osvi_django.testing.factories import (
    ChatAgentFactory,
    ChatSessionFactory,
    ClosedSessionFactory,
)

pytestmark = pytest.mark.django_db

LIST = "/admin/osvi_django/chatsession/"


def ids_listed(response):
    return [session.session_id for session in response.context["cl"].result_list]


class TestList:
    def test_it_shows_what_staff_look_for(self, desk):
        session = ClosedSessionFactory(summary__text="Refund <b>given</b>. " + "More of it. " * 20)
        html = desk.get(LIST).content.decode()
        for expected in (session.session_id, session.customer_id, str(session.agent), "closed"):
            assert expected in html
        assert "Refund &lt;b&gt;given&lt;/b&gt;. More of it." in html
        assert "More of it. " * 20 not in html

    def test_newest_first(self, desk):
        old = ChatSessionFactory(started_at="2026-01-01T00:00Z")
        new = ChatSessionFactory(started_at="2026-01-02T00:00Z")
        assert ids_listed(desk.get(LIST)) == [new.session_id, old.session_id]

    def test_words_of_summaries_are_for_those_who_may_read_them(
        self, client, django_user_model, grant
    ):
        user = django_user_model.objects.create_user("jo", is_staff=True)
        client.force_login(grant(user, "view_chatsession"))
        ClosedSessionFactory(summary__text="Confidential words.")
        assert "Confidential" not in client.get(LIST).content.decode()

    def test_the_cost_does_not_grow_with_the_rows(self, desk, django_assert_num_queries):
        # Who is asking and what they may (4), then agents to filter by, the count, and the rows.
        for _ in range(2):
            ClosedSessionFactory.create_batch(20)
            with django_assert_num_queries(7):
                desk.get(LIST)

    @pytest.mark.parametrize(
        "query",
        ["status__exact=dormant", "mode__exact=support", "agent__id__exact={agent}", "q={id}"],
    )
    def test_it_is_filtered_and_searched(self, desk, query):
        agent = ChatAgentFactory()
        wanted = ChatSessionFactory(
            status="dormant", mode="support", agent=agent, session_id="wanted-1"
        )
        ChatSessionFactory.create_batch(2)
        response = desk.get(f"{LIST}?{query.format(agent=agent.pk, id='wanted')}")
        assert ids_listed(response) == [wanted.session_id]

    def test_a_customer_is_found_by_how_the_number_begins(self, desk):
        wanted = ChatSessionFactory(customer_id="+4917012345")
        ChatSessionFactory()
        assert ids_listed(desk.get(LIST, {"q": "+49170"})) == [wanted.session_id]

    def test_counting_ends_somewhere_and_that_is_said(self, desk, monkeypatch):
        monkeypatch.setattr(ChatSessionAdmin.paginator, "cap", 3)
        ChatSessionFactory.create_batch(5)
        html = desk.get(LIST).content.decode()
        assert "Only the first 3 are listed" in html
        monkeypatch.setattr(ChatSessionAdmin.paginator, "cap", 6)
        assert "Only the first" not in desk.get(LIST).content.decode()


class TestCloseSelected:
    def select(self, chosen, **fields):
        return {
            "action": "close_selected",
            "_selected_action": [session.pk for session in chosen],
            **fields,
        }

    def test_it_asks_first(self, desk, mirrored, osvi_sandbox):
        chosen = [mirrored(), mirrored()]
        html = desk.post(LIST, self.select(chosen, index=0)).content.decode()
        assert "Close these 2 chat sessions?" in html
        for session in chosen:
            assert session.session_id in html
            assert f'name="_selected_action" value="{session.pk}"' in html
        assert osvi_sandbox.requests == []

    def test_it_closes_them_and_counts(self, desk, mirrored, told, staff):
        chosen = [mirrored(), mirrored(), ClosedSessionFactory()]
        spared = mirrored()
        response = desk.post(LIST, self.select(chosen, post="yes", note="tidy"), follow=True)
        assert told(response) == [("success", "3 chat sessions are closed.")]
        spared.refresh_from_db()
        assert spared.status == "active"
        for attempt in CloseAttempt.objects.all():
            assert (attempt.requested_by, attempt.door, attempt.note) == (staff, "admin", "tidy")
        assert CloseAttempt.objects.count() == 2
        assert ChatSession.objects.filter(summary__text__startswith="The customer").count() == 2
        assert LogEntry.objects.count() == 2

    def test_each_failure_is_reported_and_stops_nothing(self, desk, mirrored, told, osvi_sandbox):
        chosen = [mirrored(), mirrored(), mirrored()]
        osvi_sandbox.script(chosen[1].session_id, Status(422, errors=["No."]))
        response = desk.post(LIST, self.select(chosen, post="yes"), follow=True)
        failed, counted = told(response)
        assert failed[0] == "error"
        assert failed[1].startswith(f"{chosen[1].session_id}: OSVI refused")
        assert counted == ("success", "2 chat sessions are closed.")

    def test_where_all_fail_nothing_is_counted(self, desk, mirrored, told, osvi_sandbox):
        session = mirrored()
        osvi_sandbox.script(session.session_id, Status(404))
        [(level, _)] = told(desk.post(LIST, self.select([session], post="yes"), follow=True))
        assert level == "error"

    def test_more_than_twenty_are_refused_in_words(self, desk, told, osvi_sandbox):
        chosen = ChatSessionFactory.create_batch(21)
        for fields in ({"index": 0}, {"post": "yes"}):
            [(level, sentence)] = told(desk.post(LIST, self.select(chosen, **fields), follow=True))
            assert (level, "At most 20" in sentence) == ("error", True)
        assert osvi_sandbox.requests == []

    def test_twenty_are_not_too_many(self, desk, mirrored, told):
        chosen = [mirrored() for _ in range(20)]
        response = desk.post(LIST, self.select(chosen, post="yes"), follow=True)
        assert told(response) == [("success", "20 chat sessions are closed.")]

    def test_a_page_that_takes_long_stops_in_time_and_says_so(
        self, desk, mirrored, told, osvi_sandbox, monkeypatch
    ):
        monkeypatch.setattr(ChatSessionAdmin, "selection_seconds", 0.2)
        osvi_sandbox.latency = 0.3
        chosen = [mirrored() for _ in range(3)]
        response = desk.post(LIST, self.select(chosen, post="yes"), follow=True)
        stopped, counted = told(response)
        assert stopped[0] == "warning"
        assert stopped[1].startswith("2 chat sessions were not begun")
        assert counted == ("success", "1 chat session is closed.")
        assert len(osvi_sandbox.requests) == 1

    def test_where_none_is_left_in_the_list_that_is_said(self, desk, mirrored, told):
        session = mirrored()
        ChatSession.objects.update(status="closed")
        url = f"{LIST}?status__exact=active"
        [(level, sentence)] = told(desk.post(url, self.select([session], post="yes"), follow=True))
        assert (level, sentence.startswith("None of the chat sessions")) == ("warning", True)

    def test_a_note_that_is_too_long_is_asked_for_again(self, desk, mirrored, osvi_sandbox):
        fields = self.select([mirrored()], post="yes", note="x" * 1001)
        assert "at most 1000 characters" in desk.post(LIST, fields).content.decode()
        assert osvi_sandbox.requests == []

    def test_without_the_permission_there_is_no_such_action(
        self, client, django_user_model, grant, mirrored, osvi_sandbox
    ):
        user = django_user_model.objects.create_user("jo", is_staff=True)
        client.force_login(grant(user, "view_chatsession", "change_chatsession"))
        session = mirrored()
        assert "close_selected" not in client.get(LIST).content.decode()
        client.post(LIST, self.select([session], post="yes"))
        assert osvi_sandbox.requests == []

    def test_the_queries_do_not_grow_on_the_way_to_the_question(
        self, desk, django_assert_max_num_queries
    ):
        chosen = ChatSessionFactory.create_batch(20)
        with django_assert_max_num_queries(8):
            desk.post(LIST, self.select(chosen, index=0))

    @pytest.mark.django_db(transaction=True)
    def test_hosts_with_atomic_requests_can_close(self, desk, mirrored, told, settings):
        assert settings.DATABASES["default"]["ATOMIC_REQUESTS"]
        chosen = [mirrored(), mirrored()]
        response = desk.post(LIST, self.select(chosen, post="yes"), follow=True)
        assert told(response) == [("success", "2 chat sessions are closed.")]
        assert list(ChatSession.objects.values_list("status", flat=True)) == ["closed"] * 2


class TestAgents:
    def test_staff_name_them_and_their_ids_stay(self, admin_client):
        agent = ChatAgentFactory(uuid="agent_1", name="")
        url = reverse("admin:osvi_django_chatagent_change", args=[agent.pk])
        admin_client.post(url, {"name": "Night desk", "uuid": "agent_2", "account": "other"})
        agent.refresh_from_db()
        assert (agent.name, agent.uuid, agent.account) == ("Night desk", "agent_1", "default")
        html = admin_client.get(reverse("admin:osvi_django_chatagent_changelist")).content.decode()
        assert "Night desk" in html

    def test_they_are_added_with_their_ids(self, admin_client):
        url = reverse("admin:osvi_django_chatagent_add")
        admin_client.post(url, {"name": "", "uuid": "agent_3", "account": "default"})
        html = admin_client.get(reverse("admin:osvi_django_chatagent_changelist")).content.decode()
        assert "agent_3" in html
