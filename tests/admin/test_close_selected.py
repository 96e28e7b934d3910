"""Tests of closing selected sessions: selection, draft, confirmation and job."""

from __future__ import annotations

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.utils import timezone

from osvi_django.admin import ChatSessionAdmin
from osvi_django.exceptions import NotAllowed
from osvi_django.models import ChatSession, CloseAttempt, CloseJob
from osvi_django.services.jobs import create_close_job, run_close_job
from osvi_django.testing import Status
from osvi_django.testing.factories import (
    ChatAgentFactory,
    ChatSessionFactory,
    ClosedSessionFactory,
)

pytestmark = pytest.mark.django_db

LIST = "/admin/osvi_django/chatsession/"
JOBS = "/admin/osvi_django/closejob/"


@pytest.fixture
def draft(staff):
    """Create a draft of these sessions, as the list does."""
    return lambda *sessions: create_close_job(
        list(sessions), requested_by=staff, via="admin", draft=True
    )


def select(chosen, **fields):
    """Return the form that selects these sessions in the list."""
    keys = [session.pk for session in chosen]
    return {"action": "close_selected", "_selected_action": keys, **fields}


class TestSelection:
    def test_select_sessions_creates_draft_and_redirects_to_confirmation(
        self, staff_client, staff, job_url
    ):
        chosen = ChatSessionFactory.create_batch(2)
        ChatSessionFactory()
        response = staff_client.post(LIST, select(chosen))
        job = CloseJob.objects.get()
        assert response["Location"] == job_url("confirm", job)
        assert (job.status, job.via, job.requested_by) == ("draft", "admin", staff)
        asked = set(job.items.values_list("requested_session_id", flat=True))
        assert asked == {session.session_id for session in chosen}

    def test_select_with_list_filter_skips_others_and_links_back(self, staff_client, job_url):
        wanted = ChatSessionFactory(mode="support")
        chosen = [wanted, ChatSessionFactory()]
        response = staff_client.post(f"{LIST}?mode__exact=support&p=1", select(chosen), follow=True)
        assert CloseJob.objects.get().items.get().session == wanted
        assert (
            f'href="{LIST}?mode__exact=support&amp;p=1" role="button" class="closelink"'
            in response.text
        )

    def test_select_sessions_not_in_list_shows_warning(self, staff_client, messages_of):
        session = ClosedSessionFactory()
        url = f"{LIST}?status__exact=active"
        [(level, sentence)] = messages_of(staff_client.post(url, select([session]), follow=True))
        assert (level, sentence.startswith("None of the chat sessions")) == ("warning", True)
        assert not CloseJob.objects.exists()

    def test_select_without_permission_creates_no_job(self, log_in):
        client = log_in("view_chatsession", "change_chatsession", "view_closejob")
        session = ChatSessionFactory()
        assert "close_selected" not in client.get(LIST).text
        client.post(LIST, select([session]))
        assert not CloseJob.objects.exists()

    def test_select_refused_by_service_shows_error(self, log_in, messages_of, monkeypatch):
        # A subclass of a host may do so; the service still checks the permission.
        monkeypatch.setattr(ChatSessionAdmin, "has_close_permission", lambda *_args: True)
        client = log_in("view_chatsession")
        response = client.post(LIST, select([ChatSessionFactory()]), follow=True)
        assert messages_of(response) == [("error", str(NotAllowed()))]
        assert not CloseJob.objects.exists()

    def test_select_with_old_draft_deletes_it(self, staff_client, draft):
        forgotten = draft(ChatSessionFactory())
        CloseJob.objects.update(created_at=timezone.now() - timezone.timedelta(days=2))
        staff_client.post(LIST, select([ChatSessionFactory()]))
        assert not CloseJob.objects.filter(pk=forgotten.pk).exists()

    def test_select_across_thousands_costs_few_queries(
        self, staff_client, django_assert_max_num_queries
    ):
        agent = ChatAgentFactory()
        rows = (ChatSession(session_id=f"s-{number}", agent=agent) for number in range(2_400))
        ChatSession.objects.bulk_create(rows)
        first = ChatSession.objects.first()
        # SQLite inserts eighty rows at a time, other databases thousands.
        with django_assert_max_num_queries(60):
            response = staff_client.post(LIST, select([first], select_across="1"))
        job = CloseJob.objects.get()
        assert job.total == job.items.count() == 2_400
        with django_assert_max_num_queries(10):
            html = staff_client.get(response["Location"]).text
        assert "Close <strong>2400</strong> chat sessions?" in html
        assert html.count("<input") < 10
        with django_assert_max_num_queries(20):
            response = staff_client.post(response["Location"])
        with django_assert_max_num_queries(12):
            html = staff_client.get(response["Location"]).text
        assert "0 of 2400 done" in html
        assert first.session_id not in html


class TestConfirmationPage:
    def test_confirmation_page_counts_sessions_by_status(
        self, staff_client, draft, job_url, osvi_sandbox
    ):
        for status, number in {
            "active": 3,
            "dormant": 1,
            "unconfirmed": 2,
            "closing": 1,
            "closed": 1,
        }.items():
            ChatSessionFactory.create_batch(number, status=status)
        job = draft(*ChatSession.objects.all(), "not-known-here")
        html = staff_client.get(job_url("confirm", job)).text
        for expected in (
            "Close <strong>9</strong> chat sessions?",
            "4 are open.",
            "2 are unconfirmed: last time OSVI did not answer",
            "1 is already being closed by someone else.",
            "1 is already closed: nothing is sent for it.",
            "1 was deleted from this site.",
            '<label for="id_note">',
        ):
            assert expected in html
        assert osvi_sandbox.requests == []

    def test_confirmation_page_omits_empty_counts(self, staff_client, draft, job_url):
        html = staff_client.get(job_url("confirm", draft(ChatSessionFactory()))).text
        assert "Close <strong>1</strong> chat session?" in html
        assert "1 is open." in html
        for words in ("unconfirmed:", "being closed", "already closed", "any more"):
            assert words not in html

    def test_confirmation_page_opened_twice_changes_nothing(self, staff_client, draft, job_url):
        job = draft(ChatSessionFactory())
        assert staff_client.get(job_url("confirm", job)).text.count("Close <strong>1") == 1
        assert staff_client.get(job_url("confirm", job)).text.count("Close <strong>1") == 1
        job.refresh_from_db()
        assert job.status == "draft"

    def test_draft_page_redirects_to_confirmation(self, staff_client, draft, job_url):
        job = draft(ChatSessionFactory())
        assert staff_client.get(job_url("change", job))["Location"] == job_url("confirm", job)

    def test_confirmation_page_without_view_permission_links_to_index(
        self, log_in, job_url, django_user_model
    ):
        client = log_in("close_chatsession")
        user = django_user_model.objects.get()
        job = create_close_job([ChatSessionFactory()], requested_by=user, draft=True)
        assert (
            'href="/admin/" role="button" class="closelink"'
            in client.get(job_url("confirm", job)).text
        )

    def test_confirm_with_long_note_shows_error_and_keeps_note(self, staff_client, draft, job_url):
        job = draft(ChatSessionFactory())
        note = "<long> " * 200
        html = staff_client.post(job_url("confirm", job), {"note": note}, follow=True).text
        assert "at most 1000 characters" in html
        assert "&lt;long&gt; &lt;long&gt;" in html
        assert CloseJob.objects.get().status == "draft"


class TestConfirm:
    @pytest.mark.django_db(transaction=True)
    @pytest.mark.usefixtures("immediate_executor")
    def test_confirm_selection_closes_sessions_and_stores_summaries(
        self, staff_client, mirrored, staff, settings, osvi_sandbox
    ):
        assert settings.DATABASES["default"]["ATOMIC_REQUESTS"]
        chosen = [mirrored(), mirrored(), mirrored(), ClosedSessionFactory()]
        spared = mirrored()
        osvi_sandbox.script(chosen[2].session_id, Status(422, errors=["<i>No.</i>"]))
        question = staff_client.post(LIST, select(chosen))["Location"]
        response = staff_client.post(question, {"note": " Tidy. "}, follow=True)
        job = CloseJob.objects.get()
        assert response.redirect_chain == [(f"{JOBS}{job.pk}/change/", 302)]
        assert (job.status, job.succeeded, job.failed) == ("completed_with_errors", 3, 1)
        assert "4 of 4 done (100 %)" in response.text
        assert "OSVI said: “&lt;i&gt;No.&lt;/i&gt;”" in response.text
        for attempt in CloseAttempt.objects.all():
            assert (attempt.requested_by, attempt.via, attempt.note) == (staff, "admin", "Tidy.")
        assert ChatSession.objects.filter(summary__text__startswith="The customer").count() == 2
        spared.refresh_from_db()
        assert spared.status == "active"

    def test_confirm_draft_queues_job_and_logs_it(self, staff_client, draft, job_url, staff):
        job = draft(ChatSessionFactory())
        response = staff_client.post(job_url("confirm", job), {"note": "Tidy."})
        assert response["Location"] == job_url("change", job)
        job.refresh_from_db()
        assert (job.status, job.note) == ("queued", "Tidy.")
        assert "Tidy." in staff_client.get(job_url("change", job)).text
        entry = LogEntry.objects.get()
        assert (entry.user, entry.get_change_message()) == (staff, "Confirmed.")
        assert "Confirmed." in staff_client.get(job_url("history", job)).text

    def test_confirm_started_job_redirects_to_job(self, staff_client, draft, job_url, mirrored):
        job = draft(mirrored())
        for send in (staff_client.post, staff_client.post, staff_client.get):
            assert send(job_url("confirm", job))["Location"] == job_url("change", job)
        run_close_job(job.pk)
        assert staff_client.get(job_url("confirm", job))["Location"] == job_url("change", job)
        assert CloseAttempt.objects.count() == 1

    def test_confirm_twice_says_job_has_started(self, staff_client, draft, job_url, messages_of):
        job = draft(ChatSessionFactory())
        staff_client.post(job_url("confirm", job))
        response = staff_client.post(job_url("confirm", job), follow=True)
        assert messages_of(response) == [("info", "This close job has already started.")]
        assert LogEntry.objects.count() == 1

    def test_actions_without_csrf_token_return_403(self, staff, draft, job_url):
        strict = Client(enforce_csrf_checks=True)
        strict.force_login(staff)
        job = draft(ChatSessionFactory())
        for name in ("confirm", "cancel", "retry"):
            assert strict.post(job_url(name, job)).status_code == 403
        job.refresh_from_db()
        assert job.status == "draft"

    def test_pages_for_anonymous_user_redirect_to_login(self, client, draft, job_url):
        job = draft(ChatSessionFactory())
        for name in ("change", "progress", "sessions", "confirm", "cancel", "retry"):
            assert client.post(job_url(name, job))["Location"].startswith("/admin/login/")

    @pytest.mark.parametrize("name", ["confirm", "cancel", "retry"])
    def test_actions_after_permission_is_removed_return_403(
        self, log_in, draft, job_url, allowed_once, name
    ):
        job, client = draft(ChatSessionFactory()), log_in()
        # The page checks once, its queryset once and the view twice; the service check fails.
        allowed_once(*["close_chatsession", "view_closejob"] * 2)
        assert client.post(job_url(name, job)).status_code == 403
        job.refresh_from_db()
        assert job.status == "draft"
