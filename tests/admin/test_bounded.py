"""Tests of bounded pages: large tables and invalid input must not break them."""

from __future__ import annotations

import pytest
from django.contrib.admin import site
from django.urls import reverse
from django.utils import timezone

from osvi_django.admin import ChatSessionAdmin, attempts
from osvi_django.models import (
    ChatSession,
    CloseJob,
    SupportAction,
)
from osvi_django.testing.factories import (
    ChatSessionFactory,
    CloseAttemptFactory,
    ClosedSessionFactory,
)
from tests.admin.session_urls import session_url

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


@pytest.fixture
def rows(make_job):
    """Create a session with an attempt, and a finished job."""
    job = make_job("completed_with_errors", closed=1, rejected=1)
    session = ChatSession.objects.first()
    CloseAttemptFactory(session=session)
    return session, job


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
            (session_url(session, "attempts"), "p outcome"),
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
            f"{session_url(session, 'thread')}?before={value}",
            f"{session_url(session)}?_changelist_filters={value}&_to_field={value}",
            f"{session_url(session, 'close')}?_changelist_filters={value}",
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
    def test_selection_with_nonsense_creates_no_draft(self, admin_client, rows, messages_of, value):
        for url in (LIST, AGENTS):
            for action in ("close_selected", "recover_selected", "delete_selected", value):
                for extra in ("index=0", f"post=yes&select_across={value}"):
                    body = f"action={action}&_selected_action={value}&{extra}"
                    response = admin_client.post(
                        url, body, content_type="application/x-www-form-urlencoded"
                    )
                    assert response.status_code in {200, 302}
        assert not CloseJob.objects.filter(status="draft").exists()

    def test_selection_outside_list_shows_error(self, admin_client, rows, messages_of):
        data = {"action": "close_selected", "_selected_action": "x", "index": 0}
        response = admin_client.post(LIST, data, follow=True)
        assert messages_of(response) == [("error", "Your selection is not in this list.")]

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


def test_list_with_foreign_template_shows_links_among_filters(admin_client, monkeypatch):
    ours = site.get_model_admin(ChatSession)
    monkeypatch.setattr(ours, "change_list_template", "admin/change_list.html", raising=False)
    html = admin_client.get(LIST).text
    assert f'<a href="{START}">Start a chat session</a>' in html


class TestPages:
    def test_attempts_page_with_many_attempts_is_paginated(self, admin_client, monkeypatch):
        monkeypatch.setattr(attempts, "ATTEMPTS_SHOWN", 3)
        session = ChatSessionFactory()
        assert session_url(session, "attempts") not in admin_client.get(session_url(session)).text
        for number in range(60):
            CloseAttemptFactory(session=session, note=f"Note {number}.", answer="secret words")
        CloseAttemptFactory(note="Of another session.")
        html = admin_client.get(session_url(session)).text
        assert html.count("Note ") == 50
        assert f'href="{session_url(session, "attempts")}"' in html
        response = admin_client.get(session_url(session, "attempts"))
        assert response.text.count("Note ") == 50
        assert (
            admin_client.get(session_url(session, "attempts"), {"p": 2}).text.count("Note ") == 10
        )
        for text in (html, response.text):
            assert "secret words" not in text
            assert "Of another session." not in text
        assert f'href="{session_url(session)}?_osvi_place=' in response.text

    def test_session_page_with_many_attempts_costs_same_queries(
        self, admin_client, django_assert_max_num_queries
    ):
        session = ChatSessionFactory()
        CloseAttemptFactory.create_batch(21, session=session)
        admin_client.get(session_url(session))  # caches the content types
        with django_assert_max_num_queries(26) as few:  # six for the neighbours
            admin_client.get(session_url(session))
        CloseAttemptFactory.create_batch(50, session=session)
        with django_assert_max_num_queries(len(few)):
            admin_client.get(session_url(session))

    @pytest.mark.parametrize("name", ["attempts", "thread"])
    def test_attempts_and_thread_without_view_permission_return_403(self, log_in, name):
        session = ChatSessionFactory()
        assert log_in("close_chatsession").get(session_url(session, name)).status_code == 403
        client = log_in("operate_chatsession", name="kim")
        assert client.get(session_url(session, name)).status_code == 200

    def test_thread_page_with_many_actions_is_paginated(self, admin_client, log_in):
        session = ChatSessionFactory()
        now = timezone.now()
        actions = [
            SupportAction(session=session, kind="message", text=f"[{n}]", started_at=now)
            for n in range(120)
        ]
        SupportAction.objects.bulk_create(actions)
        url, seen = session_url(session), []
        while url:
            html = admin_client.get(url).text
            seen = [n for n in range(120) if f'<blockquote dir="auto">[{n}]<' in html] + seen
            link = html.partition("thread/?before=")[2].partition('"')[0]
            url = link and f"{session_url(session, 'thread')}?before={link}"
        assert seen == list(range(120))
        other = session_url(ChatSessionFactory(), "thread")
        assert admin_client.get(other, {"before": actions[0].pk or 1}).status_code == 200
        client = log_in("view_chatsession")
        html = client.get(session_url(session, "thread")).text
        assert "[0]" not in html
        assert f'href="{session_url(session, "thread")}?before=' in (
            client.get(session_url(session)).text
        )

    def test_list_with_large_rows_reads_only_shown_columns(
        self, admin_client, django_assert_max_num_queries
    ):
        session = ClosedSessionFactory(metadata={"x": "y" * 1_000_000}, summary__text="w" * 500_000)
        with django_assert_max_num_queries(12) as queries:
            response = admin_client.get(LIST)
        [row] = response.context["cl"].result_list
        assert "metadata" in row.get_deferred_fields()
        assert len(row.summary.start) < 1_000
        assert "text" in row.summary.get_deferred_fields()
        asked = " ".join(query["sql"] for query in queries)
        assert "metadata" not in asked
        assert "ww…" in response.text
        assert session.pk == row.pk

    def test_list_with_columns_of_host_reads_all_columns(self, admin_client, monkeypatch):
        ClosedSessionFactory()
        monkeypatch.setattr(ChatSessionAdmin, "list_display", ("session_id", "metadata"))
        [row] = admin_client.get(LIST).context["cl"].result_list
        assert row.get_deferred_fields() == set()
        assert not hasattr(row.summary, "start")


def test_summary_words_outside_list_returns_text(admin_user):
    session = ClosedSessionFactory(summary__text="Words of it.")
    assert site.get_model_admin(ChatSession).summary_words(session) == (
        '<span dir="auto">Words of it.</span>'
    )
