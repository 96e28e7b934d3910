"""Tests of deleting agents and sessions: related rows are counted and not read."""

from __future__ import annotations

import pytest
from django.contrib.admin import site
from django.test import RequestFactory
from django.urls import reverse

from osvi_django.admin import ChatSessionAdmin
from osvi_django.models import ChatAgent, ChatSession, CloseAttempt, SessionSummary
from osvi_django.testing.factories import ChatAgentFactory, ChatSessionFactory, CloseAttemptFactory
from tests.admin.session_urls import session_url

pytestmark = pytest.mark.django_db

AGENTS = reverse("admin:osvi_django_chatagent_changelist")


@pytest.fixture
def agent():
    """Create an agent with 500 sessions."""
    agent = ChatAgentFactory(name="Maya")
    rows = (ChatSession(session_id=f"s-{n}", agent=agent) for n in range(500))
    ChatSession.objects.bulk_create(rows)
    return agent


def test_delete_agent_with_sessions_keeps_agent_and_reads_no_session(
    admin_client, agent, django_assert_max_num_queries
):
    url = reverse("admin:osvi_django_chatagent_delete", args=[agent.pk])
    with django_assert_max_num_queries(10):
        html = admin_client.get(url).text
    assert "500 chat sessions" in html
    assert "s-17" not in html
    response = admin_client.post(url, {"post": "yes"})
    assert response["Location"] == url
    assert ChatAgent.objects.filter(pk=agent.pk).exists()


def test_delete_agent_without_sessions_deletes_it(admin_client):
    agent = ChatAgentFactory()
    url = reverse("admin:osvi_django_chatagent_delete", args=[agent.pk])
    assert "Are you sure" in admin_client.get(url).text
    assert admin_client.post(url, {"post": "yes"})["Location"] == AGENTS
    assert not ChatAgent.objects.exists()


def test_delete_agent_with_concurrent_session_keeps_agent(admin_client, monkeypatch, agent):
    monkeypatch.setattr("osvi_django.admin.deletion.reach_of", lambda rows: iter(()))
    url = reverse("admin:osvi_django_chatagent_delete", args=[agent.pk])
    assert admin_client.post(url, {"post": "yes"})["Location"] == url
    assert ChatAgent.objects.filter(pk=agent.pk).exists()


@pytest.mark.parametrize(
    ("number", "words"), [(2, "500 chat sessions"), (101, "You can delete 100 at a time.")]
)
def test_delete_selected_with_sessions_or_too_many_is_refused(admin_client, agent, number, words):
    ChatAgentFactory.create_batch(number - 1)
    keys = list(ChatAgent.objects.values_list("pk", flat=True))
    data = {"action": "delete_selected", "_selected_action": keys, "index": 0}
    html = admin_client.post(AGENTS, data).text
    assert words in html
    assert html.count('name="_selected_action"') == 0


def test_delete_session_if_host_allows_counts_related_rows(
    admin_client, admin_user, make_job, monkeypatch
):
    make_job("completed", closed=1)
    session = ChatSession.objects.get()
    SessionSummary.objects.create(session=session, text="Words")
    for _number in range(30):
        CloseAttemptFactory(session=session)
    monkeypatch.setattr(ChatSessionAdmin, "has_delete_permission", lambda *_args: True)
    url = session_url(session, "delete")
    html = admin_client.get(url).text
    assert "30 close attempts" in html
    assert "1 session summaries" in html
    admin_client.post(url, {"post": "yes"})
    assert not CloseAttempt.objects.exists()


def test_deleted_objects_without_permission_names_model(
    admin_client, admin_user, log_in, monkeypatch
):
    session = ChatSessionFactory()
    request = RequestFactory().get("/")
    request.user = admin_user
    admin = site.get_model_admin(ChatSession)
    _named, _counts, lacking, _protected = admin.get_deleted_objects([session], request)
    assert lacking == {"chat session"}
