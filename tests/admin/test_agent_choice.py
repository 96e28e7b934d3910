"""Tests of choosing an agent: filters, the page that finds agents, and the start form."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from django.contrib import admin
from django.contrib.admin import ModelAdmin
from django.template.response import TemplateResponse
from django.urls import reverse

from osvi_django.admin import ChatSessionAdmin, agent_choice
from osvi_django.admin.agent_choice import AgentFilter
from osvi_django.models import ChatAgent, ChatSession
from osvi_django.testing.factories import ChatAgentFactory, ChatSessionFactory

pytestmark = pytest.mark.django_db

LIST = reverse("admin:osvi_django_chatsession_changelist")
AGENTS = reverse("admin:osvi_django_chatagent_changelist")
START = reverse("admin:osvi_django_chatsession_start")
FIND = reverse("admin:osvi_django_chatsession_agents")
SEARCH = reverse("admin:osvi_django_chatsession_search")


@pytest.fixture
def many_agents(monkeypatch):
    """Create more agents than a list of choices shows."""
    monkeypatch.setattr(agent_choice, "AGENTS_SHOWN", 3)
    return [ChatAgentFactory(name=f"Maya {number}", uuid=f"uuid-{number}") for number in range(5)]


def form_of(html, name):
    """Return where a form of the list leads to, and what it sends again."""
    action, inside = re.search(rf'<form id="{name}" method="get"(.*?)>(.*?)</form>', html).groups()
    return action, re.findall(r'name="([^"]*)" value="([^"]*)"', inside)


def found_by(client, **query):
    """Return the names that the script is given, and whether there are more."""
    answer = client.get(SEARCH, query).json()
    return [each["text"] for each in answer["results"]], answer["pagination"]["more"]


class TestFilter:
    def test_filter_offers_field_and_form_that_keep_the_rest(self, admin_client, many_agents):
        query = {"mode__exact": "ai", "q": "c", "o": "-4", "p": "0", "agent__id__exact": ""}
        html = admin_client.get(LIST, query).text
        assert "Maya" not in html
        kept = [("mode__exact", "ai"), ("q", "c"), ("o", "-4")]
        assert form_of(html, "osvi-choose-agent") == ("", kept)
        filters = [("_changelist_filters", "mode__exact=ai&amp;q=c&amp;o=-4")]
        assert form_of(html, "osvi-find-agent") == (f' action="{FIND}"', filters)
        select = re.search(r'<select name="agent__id__exact".*?>', html)[0]
        assert f'data-ajax--url="{SEARCH}"' in select
        assert 'form="osvi-choose-agent"' in select
        assert 'name="agent" maxlength="255" form="osvi-find-agent"' in html
        assert html.count("select2.full") == html.count("jquery.init.js") == 1

    def test_filter_shows_chosen_agent_and_its_sessions(self, admin_client, many_agents):
        session = ChatSessionFactory(agent=many_agents[4])
        ChatSessionFactory(agent=many_agents[3])
        response = admin_client.get(LIST, {"agent__id__exact": many_agents[4].pk})
        assert [each.pk for each in response.context["cl"].result_list] == [session.pk]
        assert "Maya 4</a>" in response.text
        assert f'<option value="{many_agents[4].pk}" selected>Maya 4</option>' in response.text

    def test_filter_with_template_of_host_links_to_page(
        self, admin_client, many_agents, monkeypatch
    ):
        monkeypatch.setattr(ChatSessionAdmin, "change_list_template", "admin/change_list.html")
        html = admin_client.get(LIST, {"mode__exact": "ai", "p": "0"}).text
        assert f'href="{FIND}?_changelist_filters=mode__exact%3Dai"' in html
        assert "osvi-choose-agent" not in html

    def test_filter_of_another_admin_finds_no_agents(self, rf, many_agents):
        plain = ModelAdmin(ChatSession, admin.site)
        found = AgentFilter(rf.get("/"), {}, ChatSession, plain)
        assert (found.has_form, found.has_output()) == (False, True)
        changelist = SimpleNamespace(add_facets=False, get_query_string=lambda *_a, **_k: "?")
        assert [each["display"] for each in found.choices(changelist)] == ["All"]

    def test_page_of_action_of_host_is_shown_as_it_is(self, admin_client, monkeypatch):
        def ask(_admin, request, _rows):
            return TemplateResponse(request, "registration/logged_out.html")

        monkeypatch.setattr(ChatSessionAdmin, "actions", [ask])
        data = {"action": "ask", "_selected_action": [ChatSessionFactory().pk], "index": 0}
        assert admin_client.post(LIST, data).status_code == 200

    def test_filter_shows_no_counts(self, admin_client, many_agents):
        """Counting each choice would read all sessions."""
        query = {"_facets": "True", "agent__id__exact": many_agents[0].pk}
        assert "Maya 0</a>" in admin_client.get(LIST, query).text

    def test_filter_with_invalid_key_redirects_as_django_does(self, admin_client):
        response = admin_client.get(LIST, {"agent__id__exact": "x"})
        assert response["Location"].endswith("?e=1")

    def test_filter_with_key_that_no_row_can_have_is_no_error(self, admin_client):
        ChatSessionFactory()
        response = admin_client.get(LIST, {"agent__id__exact": "9" * 30}, follow=True)
        assert response.status_code == 200

    def test_pages_with_ten_thousand_agents_stay_small(
        self, admin_client, django_assert_max_num_queries
    ):
        agents = [ChatAgent(name=f"Agent {n}", uuid=f"agent-{n}") for n in range(10_000)]
        ChatAgent.objects.bulk_create(agents, batch_size=1_000)
        agent = ChatAgent.objects.first()
        ChatSessionFactory(agent=agent)
        for url in (LIST, f"{LIST}?agent__id__exact={agent.pk}", START, AGENTS, FIND, SEARCH):
            with django_assert_max_num_queries(14):
                response = admin_client.get(url)
            assert response.status_code == 200
            assert len(response.content) < 150_000, url


class TestPage:
    def test_page_lists_agents_with_links_that_keep_the_filters(self, admin_client, many_agents):
        kept = {"_changelist_filters": "mode__exact=ai&p=3&agent__id__exact=1"}
        html = admin_client.get(FIND, kept).text
        assert html.count("Maya") == 3
        assert "There are more" in html
        url = f"{LIST}?mode__exact=ai&agent__id__exact={many_agents[0].pk}"
        assert f'href="{url.replace("&", "&amp;")}"' in html
        assert "No agent has this name" in admin_client.get(FIND, {"agent": "Zoe"}).text

    def test_page_with_one_match_leads_to_its_list(self, admin_client, many_agents):
        query = {"agent": "uuid-4", "_changelist_filters": "mode__exact=ai&p=3"}
        response = admin_client.get(FIND, query)
        assert response["Location"] == (
            f"{LIST}?mode__exact=ai&agent__id__exact={many_agents[4].pk}"
        )

    def test_page_without_view_permission_returns_403(self, log_in):
        assert log_in("close_chatsession").get(FIND).status_code == 403


class TestSearch:
    def test_search_finds_pages_of_agents_by_name_or_uuid(self, admin_client, many_agents):
        assert found_by(admin_client) == (["Maya 0", "Maya 1", "Maya 2"], True)
        assert found_by(admin_client, page="2") == (["Maya 3", "Maya 4"], False)
        assert found_by(admin_client, term="maya 2") == (["Maya 2"], False)
        assert found_by(admin_client, term="UUID-3") == (["Maya 3"], False)
        assert found_by(admin_client, term="\0") == ([], False)

    @pytest.mark.parametrize("page", ["0", "x", "-1", "\u0663"])
    def test_search_with_invalid_page_returns_first(self, admin_client, many_agents, page):
        assert found_by(admin_client, page=page)[0][0] == "Maya 0"

    def test_search_beyond_last_page_returns_that(self, admin_client, many_agents, monkeypatch):
        monkeypatch.setattr(agent_choice, "PAGES_SHOWN", 1)
        assert found_by(admin_client, page="9" * 18) == (["Maya 0", "Maya 1", "Maya 2"], False)

    def test_search_needs_permission_to_view_sessions_alone(self, log_in, many_agents):
        assert found_by(log_in("view_chatsession"), term="4") == (["Maya 4"], False)
        for name in ("close_chatsession", "operate_chatsession"):
            assert log_in(name, name=name).get(SEARCH).status_code == 403


def test_start_with_many_agents_uses_autocomplete(admin_client, many_agents, osvi_sandbox):
    html = admin_client.get(START).text
    assert "admin-autocomplete" in html
    assert "Maya" not in html
    data = {"agent": many_agents[2].pk, "customer_id": "c"}
    admin_client.post(START, data)
    assert ChatSession.objects.get().agent == many_agents[2]


@pytest.mark.parametrize("text", ["maya 2", "uuid-2"])
def test_start_without_autocomplete_finds_agent_by_name_or_uuid(
    log_in, many_agents, osvi_sandbox, text
):
    client = log_in("operate_chatsession")
    html = client.get(START).text
    assert "admin-autocomplete" not in html
    assert "Name or UUID of the agent" in html
    client.post(START, {"agent_uuid": text, "customer_id": "c"})
    assert ChatSession.objects.get().agent == many_agents[2]


def test_start_with_name_of_several_agents_asks_for_uuid(admin_client, many_agents, osvi_sandbox):
    ChatAgent.objects.update(name="Maya")
    data = {"agent_uuid": "maya", "customer_id": "c"}
    html = admin_client.post(START, data, follow=True).text
    assert "Several agents have this name. Enter the UUID of one: uuid-0 (default)," in html
    assert osvi_sandbox.requests == []


def test_start_with_invalid_agent_key_shows_error(admin_client, many_agents, osvi_sandbox):
    data = {"agent": "x", "customer_id": "c"}
    response = admin_client.post(START, data, follow=True)
    assert response.context["form"].errors["agent"]


def test_agent_list_account_filter_offers_configured_accounts(admin_client, settings):
    settings.OSVI = {name: {"API_TOKEN": "t"} for name in ("default", "other")}
    ChatAgentFactory(name="Maya", account="other")
    ChatAgentFactory(name="Kim")
    html = admin_client.get(AGENTS, {"account": "other", "_facets": "True"}).text
    assert ("Maya" in html, "Kim" in html) == (True, False)
    assert "other (1)" in html
