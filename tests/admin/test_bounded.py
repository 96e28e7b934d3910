"""No page grows with a table, and no nonsense in an address or a form is a 500."""

from __future__ import annotations

import pytest
from django.test import RequestFactory
from django.urls import reverse
from django.utils import timezone

from osvi_django.admin import ChatSessionAdmin, agent_choice, attempts
from osvi_django.models import (
    ChatAgent,
    ChatSession,
    CloseAttempt,
    CloseJob,
    SessionSummary,
    SupportAction,
)
from osvi_django.testing.factories import (
    ChatAgentFactory,
    ChatSessionFactory,
    CloseAttemptFactory,
    ClosedSessionFactory,
)

# The databases refuse some of this, and one inside a transaction of a test breaks the rest of it.
pytestmark = pytest.mark.django_db

LIST = reverse("admin:osvi_django_chatsession_changelist")
AGENTS = reverse("admin:osvi_django_chatagent_changelist")
JOBS = reverse("admin:osvi_django_closejob_changelist")
START = reverse("admin:osvi_django_chatsession_start")
FIND = reverse("admin:osvi_django_chatsession_agents")

NONSENSE = (
    "a%00b",
    "%ED%A0%80%FF",
    "9" * 20,
    "-" + "9" * 5_000,
    "word+" * 2_000,
    "NaN",
    "((((%F0%9F%98%80",
    "",
)

LIST_NAMES = """
q p o status__exact agent__id__exact id id__in session_id__startswith started_at__gte
started_at__year metadata__x claim _facets _to_field session_id__regex
"""


@pytest.fixture(autouse=True)
def nobody_runs_jobs(settings):
    settings.OSVI_EXECUTOR = None


@pytest.fixture
def rows(job_with):
    job = job_with("completed_with_errors", closed=1, rejected=1)
    session = ChatSession.objects.first()
    CloseAttemptFactory(session=session)
    return session, job


@pytest.fixture
def many_agents(monkeypatch):
    monkeypatch.setattr(agent_choice, "AGENTS_SHOWN", 3)
    return [ChatAgentFactory(name=f"Maya {number}", uuid=f"uuid-{number}") for number in range(5)]


def attempts_of(session):
    return reverse("admin:osvi_django_chatsession_attempts", args=[session.pk])


def page_of(session, name="change"):
    return reverse(f"admin:osvi_django_chatsession_{name}", args=[session.pk])


class TestInvalidInput:
    @pytest.mark.parametrize("value", NONSENSE, ids=lambda value: value[:12])
    def test_list_query_with_nonsense_is_no_server_error(self, admin_client, rows, value):
        session, job = rows
        items = reverse("admin:osvi_django_closejob_sessions", args=[job.pk])
        for url, names in (
            (LIST, LIST_NAMES),
            (AGENTS, "q p account number__gt"),
            (JOBS, "status via total__lt created_at__date"),
            (items, "q outcome id"),
            (attempts_of(session), "p outcome"),
        ):
            for name in names.split():
                response = admin_client.get(f"{url}?{name}={value}&{name}={value}")
                assert response.status_code in {200, 302, 400}, (url, name)

    @pytest.mark.parametrize("value", NONSENSE, ids=lambda value: value[:12])
    def test_page_query_with_nonsense_is_no_server_error(self, admin_client, rows, value):
        session, job = rows
        confirm = reverse("admin:osvi_django_closejob_confirm", args=[job.pk])
        complete = reverse("admin:autocomplete")
        of_agents = "app_label=osvi_django&model_name=chatsession&field_name=agent"
        for url in (
            f"{FIND}?agent={value}&_changelist_filters={value}",
            f"{reverse('admin:osvi_django_chatsession_lookup')}?customer_id={value}&account={value}",
            f"{START}?agent={value}",
            f"{page_of(session, 'thread')}?before={value}",
            f"{page_of(session)}?_changelist_filters={value}&_to_field={value}",
            f"{page_of(session, 'close')}?_changelist_filters={value}",
            f"{confirm}?_changelist_filters={value}",
            f"{complete}?{of_agents}&term={value}",
            f"{complete}?{of_agents}&page={value}",
        ):
            assert admin_client.get(url).status_code < 500, url

    @pytest.mark.parametrize("value", [each for each in NONSENSE if each])
    @pytest.mark.parametrize(
        "name", ["change", "close", "mark", "desk", "attempts", "thread", "history", "delete"]
    )
    def test_object_id_with_nonsense_is_no_server_error(self, admin_client, value, name):
        url = f"{LIST}{value}/{name}/"
        for send in (admin_client.get, admin_client.post):
            assert send(url, follow=True).status_code in {200, 400, 403, 404}

    @pytest.mark.parametrize("value", NONSENSE, ids=lambda value: value[:12])
    def test_selection_with_nonsense_creates_no_draft(self, admin_client, rows, told, value):
        for url in (LIST, AGENTS):
            for action in ("close_selected", "recover_selected", "delete_selected", value):
                for extra in ("index=0", f"post=yes&select_across={value}"):
                    body = f"action={action}&_selected_action={value}&{extra}"
                    response = admin_client.post(
                        url, body, content_type="application/x-www-form-urlencoded"
                    )
                    assert response.status_code in {200, 302}
        assert not CloseJob.objects.filter(status="draft").exists()

    def test_selection_outside_list_shows_error(self, admin_client, rows, told):
        data = {"action": "close_selected", "_selected_action": "x", "index": 0}
        response = admin_client.post(LIST, data, follow=True)
        assert told(response) == [("error", "Your selection is not in this list.")]

    def test_post_without_action_redirects_to_list(self, admin_client):
        url = f"{LIST}?status__exact=active"
        assert admin_client.post(url, {"x": "y"})["Location"] == url

    def test_list_error_of_host_is_raised(self, admin_client, monkeypatch):
        def broken(_paginator):
            raise ValueError("a bug of the host")

        monkeypatch.setattr(ChatSessionAdmin.paginator, "count", property(broken))
        with pytest.raises(ValueError, match="a bug"):
            admin_client.get(LIST)

    @pytest.mark.django_db(transaction=True)
    def test_list_query_refused_by_database_redirects_to_list(self, admin_client):
        response = admin_client.get(f"{LIST}?session_id__startswith=a%00b&customer_id=%00")
        assert response.status_code in {200, 302}
        response = admin_client.get(f"{LIST}?started_at__year=99999999")
        assert response["Location"] == f"{LIST}?e=1"


class TestAgentChoice:
    def test_filter_with_many_agents_links_to_search(self, admin_client, many_agents):
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

    def test_filter_with_two_thousand_agents_keeps_pages_small(self, admin_client):
        agents = [ChatAgent(name=f"Agent {n}", uuid=f"agent-{n}") for n in range(2_000)]
        ChatAgent.objects.bulk_create(agents)
        ChatSessionFactory(agent=ChatAgent.objects.first())
        response = admin_client.get(LIST, {"_facets": "True"})
        assert response.status_code == 200
        for url in (LIST, START, AGENTS, FIND):
            assert len(admin_client.get(url).content) < 150_000

    def test_filter_with_few_agents_shows_counts(self, admin_client):
        ChatSessionFactory(agent__name="Maya")
        assert "Maya (1)" in admin_client.get(LIST, {"_facets": "True"}).text

    def test_search_without_view_permission_returns_403(self, log_in):
        assert log_in("close_chatsession").get(FIND).status_code == 403

    def test_start_with_many_agents_uses_autocomplete(
        self, admin_client, many_agents, osvi_sandbox
    ):
        html = admin_client.get(START).text
        assert "admin-autocomplete" in html
        assert "Maya" not in html
        data = {"agent": many_agents[2].pk, "customer_id": "c"}
        admin_client.post(START, data)
        assert ChatSession.objects.get().agent == many_agents[2]

    @pytest.mark.parametrize("text", ["maya 2", "uuid-2"])
    def test_start_without_autocomplete_finds_agent_by_name_or_uuid(
        self, log_in, many_agents, osvi_sandbox, text
    ):
        client = log_in("operate_chatsession")
        html = client.get(START).text
        assert "admin-autocomplete" not in html
        assert "Name or UUID of the agent" in html
        client.post(START, {"agent_uuid": text, "customer_id": "c"})
        assert ChatSession.objects.get().agent == many_agents[2]

    def test_start_with_name_of_several_agents_asks_for_uuid(
        self, admin_client, many_agents, osvi_sandbox
    ):
        ChatAgent.objects.update(name="Maya")
        data = {"agent_uuid": "maya", "customer_id": "c"}
        html = admin_client.post(START, data, follow=True).text
        assert "Several agents have this name. Enter the UUID of one: uuid-0 (default)," in html
        assert osvi_sandbox.requests == []

    def test_start_with_invalid_agent_key_shows_error(
        self, admin_client, many_agents, osvi_sandbox
    ):
        data = {"agent": "x", "customer_id": "c"}
        response = admin_client.post(START, data, follow=True)
        assert response.context["form"].errors["agent"]

    def test_agent_list_account_filter_offers_configured_accounts(self, admin_client, settings):
        settings.OSVI = {name: {"API_TOKEN": "t"} for name in ("default", "other")}
        ChatAgentFactory(name="Maya", account="other")
        ChatAgentFactory(name="Kim")
        html = admin_client.get(AGENTS, {"account": "other", "_facets": "True"}).text
        assert ("Maya" in html, "Kim" in html) == (True, False)
        assert "other (1)" in html


def test_list_with_foreign_template_shows_links_among_filters(admin_client, monkeypatch):
    ours = reverse_admin(ChatSession)
    monkeypatch.setattr(ours, "change_list_template", "admin/change_list.html", raising=False)
    html = admin_client.get(LIST).text
    assert f'<a href="{START}">Start a chat session</a>' in html


class TestDeletion:
    @pytest.fixture
    def agent(self):
        agent = ChatAgentFactory(name="Maya")
        rows = (ChatSession(session_id=f"s-{n}", agent=agent) for n in range(500))
        ChatSession.objects.bulk_create(rows)
        return agent

    def test_delete_agent_with_sessions_keeps_agent_and_reads_no_session(
        self, admin_client, agent, django_assert_max_num_queries
    ):
        url = reverse("admin:osvi_django_chatagent_delete", args=[agent.pk])
        with django_assert_max_num_queries(10):
            html = admin_client.get(url).text
        assert "500 chat sessions" in html
        assert "s-17" not in html
        response = admin_client.post(url, {"post": "yes"})
        assert response["Location"] == url
        assert ChatAgent.objects.filter(pk=agent.pk).exists()

    def test_delete_agent_without_sessions_deletes_it(self, admin_client):
        agent = ChatAgentFactory()
        url = reverse("admin:osvi_django_chatagent_delete", args=[agent.pk])
        assert "Are you sure" in admin_client.get(url).text
        assert admin_client.post(url, {"post": "yes"})["Location"] == AGENTS
        assert not ChatAgent.objects.exists()

    def test_delete_agent_with_concurrent_session_keeps_agent(
        self, admin_client, monkeypatch, agent
    ):
        monkeypatch.setattr("osvi_django.admin.deletion.reach_of", lambda rows: iter(()))
        url = reverse("admin:osvi_django_chatagent_delete", args=[agent.pk])
        assert admin_client.post(url, {"post": "yes"})["Location"] == url
        assert ChatAgent.objects.filter(pk=agent.pk).exists()

    @pytest.mark.parametrize(
        ("number", "words"), [(2, "500 chat sessions"), (101, "You can delete 100 at a time.")]
    )
    def test_delete_selected_with_sessions_or_too_many_is_refused(
        self, admin_client, agent, number, words
    ):
        ChatAgentFactory.create_batch(number - 1)
        keys = list(ChatAgent.objects.values_list("pk", flat=True))
        data = {"action": "delete_selected", "_selected_action": keys, "index": 0}
        html = admin_client.post(AGENTS, data).text
        assert words in html
        assert html.count('name="_selected_action"') == 0

    def test_delete_session_if_host_allows_counts_related_rows(
        self, admin_client, admin_user, job_with, monkeypatch
    ):
        job_with("completed", closed=1)
        session = ChatSession.objects.get()
        SessionSummary.objects.create(session=session, text="Words")
        for _number in range(30):
            CloseAttemptFactory(session=session)
        monkeypatch.setattr(ChatSessionAdmin, "has_delete_permission", lambda *_args: True)
        url = page_of(session, "delete")
        html = admin_client.get(url).text
        assert "30 close attempts" in html
        assert "1 session summaries" in html
        admin_client.post(url, {"post": "yes"})
        assert not CloseAttempt.objects.exists()

    def test_deleted_objects_without_permission_names_model(
        self, admin_client, admin_user, log_in, monkeypatch
    ):
        session = ChatSessionFactory()
        request = RequestFactory().get("/")
        request.user = admin_user
        admin = reverse_admin(ChatSession)
        _named, _counts, lacking, _protected = admin.get_deleted_objects([session], request)
        assert lacking == {"chat session"}


def reverse_admin(model):
    from django.contrib.admin import site  # noqa: PLC0415

    return site.get_model_admin(model)


class TestPages:
    def test_attempts_page_with_many_attempts_is_paginated(self, admin_client, monkeypatch):
        monkeypatch.setattr(attempts, "ATTEMPTS_SHOWN", 3)
        session = ChatSessionFactory()
        assert attempts_of(session) not in admin_client.get(page_of(session)).text
        for number in range(60):
            CloseAttemptFactory(session=session, note=f"Note {number}.", answer="secret words")
        CloseAttemptFactory(note="Of another session.")
        html = admin_client.get(page_of(session)).text
        assert html.count("Note ") == 3
        assert f'href="{attempts_of(session)}"' in html
        response = admin_client.get(attempts_of(session))
        assert response.text.count("Note ") == 50
        assert admin_client.get(attempts_of(session), {"p": 2}).text.count("Note ") == 10
        for text in (html, response.text):
            assert "secret words" not in text
            assert "Of another session." not in text
        assert f'href="{page_of(session)}"' in response.text

    def test_session_page_with_many_attempts_costs_same_queries(
        self, admin_client, django_assert_max_num_queries
    ):
        session = ChatSessionFactory()
        CloseAttemptFactory.create_batch(21, session=session)
        admin_client.get(page_of(session))  # content types are read once in a process
        with django_assert_max_num_queries(18) as few:
            admin_client.get(page_of(session))
        CloseAttemptFactory.create_batch(50, session=session)
        with django_assert_max_num_queries(len(few)):
            admin_client.get(page_of(session))

    @pytest.mark.parametrize("name", ["attempts", "thread"])
    def test_attempts_and_thread_without_view_permission_return_403(self, log_in, name):
        session = ChatSessionFactory()
        assert log_in("close_chatsession").get(page_of(session, name)).status_code == 403
        client = log_in("operate_chatsession", name="kim")
        assert client.get(page_of(session, name)).status_code == 200

    def test_thread_page_with_many_actions_is_paginated(self, admin_client, log_in):
        session = ChatSessionFactory()
        now = timezone.now()
        actions = [
            SupportAction(session=session, kind="message", text=f"[{n}]", started_at=now)
            for n in range(120)
        ]
        SupportAction.objects.bulk_create(actions)
        url, seen = page_of(session), []
        while url:
            html = admin_client.get(url).text
            seen = [n for n in range(120) if f"<blockquote>[{n}]<" in html] + seen
            link = html.partition("thread/?before=")[2].partition('"')[0]
            url = link and f"{page_of(session, 'thread')}?before={link}"
        assert seen == list(range(120))
        other = page_of(ChatSessionFactory(), "thread")
        assert admin_client.get(other, {"before": actions[0].pk or 1}).status_code == 200
        client = log_in("view_chatsession")
        html = client.get(page_of(session, "thread")).text
        assert "[0]" not in html
        assert f'href="{page_of(session, "thread")}"' in client.get(page_of(session)).text

    def test_list_with_large_rows_reads_only_shown_columns(
        self, admin_client, django_assert_max_num_queries
    ):
        session = ClosedSessionFactory(metadata={"x": "y" * 1_000_000}, summary__text="w" * 500_000)
        with django_assert_max_num_queries(12) as queries:
            response = admin_client.get(LIST)
        [row] = response.context["cl"].result_list
        assert "metadata" in row.get_deferred_fields()
        assert len(row.summary_start) < 1_000
        asked = " ".join(query["sql"] for query in queries)
        assert "metadata" not in asked
        assert "ww…" in response.text
        assert session.pk == row.pk

    def test_list_with_columns_of_host_reads_all_columns(self, admin_client, monkeypatch):
        ClosedSessionFactory()
        monkeypatch.setattr(ChatSessionAdmin, "list_display", ("session_id", "metadata"))
        [row] = admin_client.get(LIST).context["cl"].result_list
        assert row.get_deferred_fields() == set()
        assert not hasattr(row, "summary_start")


def test_summary_words_outside_list_returns_text(admin_user):
    session = ClosedSessionFactory(summary__text="Words of it.")
    assert reverse_admin(ChatSession).summary_words(session) == "Words of it."
