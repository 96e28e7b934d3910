"""Tests of the pages of agents: the list, and adding and changing agents."""

from __future__ import annotations

import pytest
from django.urls import reverse

from osvi_django.models import ChatAgent
from osvi_django.testing.factories import ChatAgentFactory, ChatSessionFactory

pytestmark = pytest.mark.django_db

LIST = reverse("admin:osvi_django_chatagent_changelist")
ADD = reverse("admin:osvi_django_chatagent_add")


def agent_url(agent):
    """Return the URL of the page of this agent."""
    return reverse("admin:osvi_django_chatagent_change", args=[agent.pk])


def errors_of(response):
    """Return the errors of the form on this page, by field."""
    return response.context["adminform"].form.errors


@pytest.fixture
def agent_without_uuid():
    """Create an agent with only a number."""
    return ChatAgentFactory(uuid=None, number=42, name="")


def test_list_agent_without_name_shows_number(admin_client, agent_without_uuid):
    html = admin_client.get(LIST).text
    assert "Agent 42" in html
    assert '<td class="field-number">42</td>' in html
    assert admin_client.get(LIST, {"q": "x"}).status_code == 200


def test_change_agent_without_uuid_stores_uuid(admin_client, agent_without_uuid):
    admin_client.post(
        agent_url(agent_without_uuid), {"uuid": "agent_1", "name": "Maya", "number": 7}
    )
    agent_without_uuid.refresh_from_db()
    assert (agent_without_uuid.uuid, agent_without_uuid.number, agent_without_uuid.name) == (
        "agent_1",
        42,
        "Maya",
    )


def test_change_agent_without_uuid_stores_name(admin_client, agent_without_uuid):
    admin_client.post(agent_url(agent_without_uuid), {"uuid": "", "name": "Maya"})
    agent_without_uuid.refresh_from_db()
    assert (agent_without_uuid.uuid, agent_without_uuid.name) == (None, "Maya")


def test_change_agent_with_uuid_keeps_uuid_and_account(admin_client):
    agent = ChatAgentFactory(uuid="agent_1")
    admin_client.post(agent_url(agent), {"uuid": "agent_2", "account": "other", "name": "Maya"})
    agent.refresh_from_db()
    assert (agent.uuid, agent.account, agent.name) == ("agent_1", "default", "Maya")


def test_change_to_uuid_of_another_agent_shows_error(admin_client, agent_without_uuid):
    ChatAgentFactory(uuid="agent_1")
    response = admin_client.post(agent_url(agent_without_uuid), {"uuid": "agent_1", "name": ""})
    assert "Another agent on this site has this UUID." in errors_of(response)["uuid"][0]
    ChatAgent.objects.filter(uuid="agent_1").update(account="other")
    assert admin_client.post(agent_url(agent_without_uuid), {"uuid": "agent_1"}).status_code == 302


def test_add_agent_with_missing_or_used_uuid_shows_error(admin_client):
    response = admin_client.post(ADD, {"account": "default", "uuid": " ", "name": "Maya"})
    assert errors_of(response) == {"uuid": ["Enter the agent's UUID."]}
    admin_client.post(ADD, {"account": "default", "uuid": "agent_1", "name": "Maya"})
    assert ChatAgent.objects.get().uuid == "agent_1"
    response = admin_client.post(ADD, {"account": "default", "uuid": "agent_1"})
    assert "Another agent on this site has this UUID." in errors_of(response)["uuid"][0]


def test_add_agent_without_account_shows_error(admin_client):
    assert "account" in errors_of(admin_client.post(ADD, {"account": "", "uuid": "agent_1"}))


def test_close_agent_without_uuid_says_where_to_add_it(
    admin_client, agent_without_uuid, osvi_sandbox
):
    session = ChatSessionFactory(agent=agent_without_uuid)
    close = reverse("admin:osvi_django_chatsession_close", args=[session.pk])
    html = admin_client.post(close, {"post": "yes"}, follow=True).text
    assert "Add it under Chat agents, or ask your administrator." in html
    assert osvi_sandbox.requests == []


def test_change_agent_stores_name_and_keeps_ids(admin_client):
    agent = ChatAgentFactory(uuid="agent_1", name="")
    admin_client.post(
        agent_url(agent), {"name": "Night desk", "uuid": "agent_2", "account": "other"}
    )
    agent.refresh_from_db()
    assert (agent.name, agent.uuid, agent.account) == ("Night desk", "agent_1", "default")
    html = admin_client.get(LIST).text
    assert "Night desk" in html


def test_add_agent_stores_uuid(admin_client):
    admin_client.post(ADD, {"name": "", "uuid": "agent_3", "account": "default"})
    html = admin_client.get(LIST).text
    assert "agent_3" in html
