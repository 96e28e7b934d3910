"""Test how staff search the list of sessions."""

from __future__ import annotations

import pytest
from django.contrib.admin import AdminSite
from django.test import RequestFactory

from osvi_django.admin import ChatSessionAdmin
from osvi_django.models import ChatSession
from osvi_django.testing.factories import (
    ChatAgentFactory,
    ChatSessionFactory,
    CloseAttemptFactory,
    ClosedSessionFactory,
)

pytestmark = pytest.mark.django_db

LIST = "/admin/osvi_django/chatsession/"
LOOK_UP = "/admin/osvi_django/chatsession/lookup/"


def listed(client, text, **query):
    """Return the ids of the sessions that are listed for a search."""
    response = client.get(LIST, {"q": text, **query})
    assert response.status_code == 200
    return [session.session_id for session in response.context["cl"].result_list]


class TestSearch:
    @pytest.mark.parametrize(
        "text", ["(555) 111-2222", "2222", "6513270e…", "c0ffee", "expensive invo", "goodbye"]
    )
    def test_search_finds_session(self, staff_client, text):
        session = ClosedSessionFactory(
            session_id="6513270e-b2a1-4f3c-9d8e-77aa10c0ffee",
            customer_id="+15551112222",
            summary__text="The invoice was too expensive.",
        )
        CloseAttemptFactory(session=session, note="Said goodbye")
        ClosedSessionFactory.create_batch(2)
        assert listed(staff_client, text) == [session.session_id]

    def test_search_without_text_lists_all(self, staff_client):
        ChatSessionFactory.create_batch(2)
        assert len(listed(staff_client, "")) == 2
        assert "osvi-searched" not in staff_client.get(LIST, {"q": ""}).text

    def test_search_of_user_without_permission_leaves_out_summaries(self, log_in):
        ClosedSessionFactory(summary__text="The invoice was too expensive.")
        client = log_in("view_chatsession")
        response = client.get(LIST, {"q": "invoice"})
        assert not response.context["cl"].result_list
        assert "in its summary" not in response.text
        assert "these words in a note." in response.text

    def test_search_with_filter_lists_matches_of_both(self, staff_client):
        agent = ChatAgentFactory()
        wanted = ChatSessionFactory(customer_id="+15551112222", agent=agent)
        ChatSessionFactory(customer_id="+15551112222")
        assert listed(staff_client, "2222", agent__id__exact=agent.pk) == [wanted.session_id]
        assert listed(staff_client, "2222", status__exact="closed") == []

    def test_search_hidden_by_filter_says_so(self, staff_client):
        ChatSessionFactory(customer_id="+15551112222")
        html = staff_client.get(LIST, {"q": "2222", "status__exact": "closed"}).text
        assert "The chats that match are not in this list" in html

    def test_search_form_says_what_can_be_typed(self, staff_client):
        assert (
            "a phone number in any writing, or its last four digits" in staff_client.get(LIST).text
        )

    def test_action_on_all_matches_acts_on_these_alone(self, staff_client):
        wanted = ChatSessionFactory.create_batch(3, customer_id="+15551112222")
        ChatSessionFactory()
        response = staff_client.post(
            f"{LIST}?q=2222",
            {
                "action": "close_selected",
                "select_across": "1",
                "_selected_action": [wanted[0].pk],
            },
        )
        assert response.status_code in {200, 302}
        html = (
            staff_client.get(response["Location"]).text
            if response.status_code == 302
            else response.text
        )
        assert "3" in html

    def test_search_of_hosts_own_fields_is_djangos(self, staff, rf):
        class HostAdmin(ChatSessionAdmin):
            search_fields = ("agent__name",)

        session = ChatSessionFactory(agent__name="Night desk")
        ChatSessionFactory(customer_id="Night desk")
        request = RequestFactory().get(LIST, {"q": "night desk"})
        request.user = staff
        model_admin = HostAdmin(ChatSession, AdminSite())
        rows, _many = model_admin.get_search_results(request, ChatSession.objects.all(), "night")
        assert list(rows) == [session]
        changelist = model_admin.get_changelist_instance(request)
        assert (list(changelist.result_list), changelist.searched) == ([session], None)


class TestNothingFound:
    def test_list_says_what_was_searched(self, staff_client):
        html = staff_client.get(LIST, {"q": "+1 555 111 2222"}).text
        sentence = (
            "No chat has a phone number ending in 15551112222, a customer whose id begins with "
            "“+1 555 111 2222”, these words in its summary or these words in a note."
        )
        assert sentence in html

    def test_operator_is_offered_to_look_up_at_osvi(self, log_in):
        client = log_in("view_chatsession", "operate_chatsession")
        html = client.get(LIST, {"q": "+1 (555) 111-2222"}).text
        assert "Look up “<bdi>+15551112222</bdi>” at OSVI" in html
        url = f"{LOOK_UP}?customer_id=%2B15551112222&amp;account=default"
        assert f'href="{url}"' in html
        assert 'value="+15551112222"' in client.get(url.replace("&amp;", "&")).text

    def test_operator_of_other_accounts_is_offered_to_look_up_there(self, operator, settings):
        settings.OSVI = {"berlin": settings.OSVI["default"]}
        html = operator.get(LIST, {"q": "maya"}).text
        assert f'href="{LOOK_UP}?customer_id=maya&amp;account=berlin"' in html

    def test_user_who_may_not_operate_is_offered_nothing(self, staff_client):
        assert "at OSVI</a>" not in staff_client.get(LIST, {"q": "2222"}).text

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("x" * 256, "This text is too long to search for: use at most 255 characters."),
            ("%_'\"\\|&!:*()<>", "There is nothing to search for: type a letter or a digit."),
            ("👋", "There is nothing to search for: type a letter or a digit."),
            ("a b c d e f g h i j k l m", "This has too many words to search for"),
        ],
    )
    def test_text_that_cannot_be_searched_is_explained(self, operator, text, sentence):
        ChatSessionFactory()
        html = operator.get(LIST, {"q": text}).text
        assert sentence in html
        assert listed(operator, text) == []

    def test_null_character_is_refused_by_djangos_form(self, operator):
        assert "Null characters are not allowed." in operator.get(LIST, {"q": "\x00"}).text

    def test_capped_search_says_so(self, staff_client):
        agent = ChatAgentFactory()
        ChatSession.objects.bulk_create(
            ChatSession(session_id=f"s-{number}", agent=agent, customer_id="+15551112222")
            for number in range(1_001)
        )
        response = staff_client.get(LIST, {"q": "+1555"})
        assert response.context["cl"].result_count == 1_000
        assert "More than 1000 chats match, and only so many are listed." in response.text
