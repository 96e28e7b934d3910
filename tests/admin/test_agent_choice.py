"""Tests of choosing an agent: filters, the page that finds agents, and the start form."""

from __future__ import annotations

import pytest
from django.urls import reverse

from osvi_django.admin import agent_choice
from osvi_django.models import ChatAgent, ChatSession
from osvi_django.testing.factories import ChatAgentFactory, ChatSessionFactory

pytestmark = pytest.mark.django_db

LIST = reverse("admin:osvi_django_chatsession_changelist")
AGENTS = reverse("admin:osvi_django_chatagent_changelist")
START = reverse("admin:osvi_django_chatsession_start")
FIND = reverse("admin:osvi_django_chatsession_agents")


@pytest.fixture
def many_agents(monkeypatch):
    """Create more agents than a list of choices shows."""
    monkeypatch.setattr(agent_choice, "AGENTS_SHOWN", 3)
    return [ChatAgentFactory(name=f"Maya {number}", uuid=f"uuid-{number}") for number in range(5)]


def test_filter_with_many_agents_links_to_search(admin_client, many_agents):
    session = ChatSessionFactory(agent=many_agents[4])
    ChatSessionFactory(agent=many_agents[3])
    html = admin_client.get(LIST, {"_facets": "True", "mode__exact": "ai"}).text
    assert "Maya 0" not in html
    assert FIND in html
    html = admin_client.get(FIND, {"_changelist_filters": "mode__exact=ai&p=3"}).text
    assert html.count("Maya") == 3
    assert "There are more" in html
    html = admin_client.get(
        FIND, {"agent": "uuid-4", "_changelist_filters": "mode__exact=ai&p=3"}
    ).text
    url = f"{LIST}?mode__exact=ai&agent__id__exact={many_agents[4].pk}"
    assert f'href="{url.replace("&", "&amp;")}"' in html
    response = admin_client.get(f"{url}&_facets=True")
    assert [each.pk for each in response.context["cl"].result_list] == [session.pk]
    assert "Maya 4</a>" in admin_client.get(url).text
    assert "No agent has this name" in admin_client.get(FIND, {"agent": "Zoe"}).text


def test_filter_with_two_thousand_agents_keeps_pages_small(admin_client):
    agents = [ChatAgent(name=f"Agent {n}", uuid=f"agent-{n}") for n in range(2_000)]
    ChatAgent.objects.bulk_create(agents)
    ChatSessionFactory(agent=ChatAgent.objects.first())
    response = admin_client.get(LIST, {"_facets": "True"})
    assert response.status_code == 200
    for url in (LIST, START, AGENTS, FIND):
        assert len(admin_client.get(url).content) < 150_000


def test_filter_with_few_agents_shows_counts(admin_client):
    ChatSessionFactory(agent__name="Maya")
    assert "Maya (1)" in admin_client.get(LIST, {"_facets": "True"}).text


def test_search_without_view_permission_returns_403(log_in):
    assert log_in("close_chatsession").get(FIND).status_code == 403


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
