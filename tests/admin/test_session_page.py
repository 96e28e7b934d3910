"""Tests of the page of a session, its buttons, and closing it."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.db.models.signals import pre_save
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from osvi_django.database import DatabaseNow
from osvi_django.models import ChatSession, CloseAttempt, SupportAction
from osvi_django.services import close_session
from osvi_django.testing import Drop, OddSummary, Status
from osvi_django.testing.factories import (
    ChatSessionFactory,
    CloseAttemptFactory,
    ClosedSessionFactory,
)
from tests.admin.session_urls import session_url
from tests.helpers.sandbox import SUMMARY

pytestmark = pytest.mark.django_db


def close_url(session):
    """Return the URL at which this session is closed."""
    return session_url(session, "close")


class TestFacts:
    def test_page_summary_keeps_lines_and_is_escaped(self, staff_client):
        session = ClosedSessionFactory(summary__text=SUMMARY)
        html = staff_client.get(session_url(session)).text
        assert "asked for a refund.<br>The agent &lt;b&gt;gave&lt;/b&gt; it." in html

    def test_page_offers_no_form_fields(self, staff_client):
        response = staff_client.get(session_url(ClosedSessionFactory()))
        assert response.context["adminform"].form.fields == {}
        assert "_save" not in response.text
        assert "Back to the list" in response.text

    def test_page_links_to_agent_only_with_permission(self, staff_client, admin_user, staff):
        session = ChatSessionFactory(agent__name="Maya")
        CloseAttemptFactory(session=session, requested_by=staff)
        way = reverse("admin:osvi_django_chatagent_change", args=[session.agent_id])
        html = staff_client.get(session_url(session)).text.partition('id="content"')[2]
        assert ("Maya" in html, "sam" in html) == (True, True)
        assert way not in html
        assert "/auth/user/" not in html
        staff_client.force_login(admin_user)
        assert way in staff_client.get(session_url(session)).text

    def test_edit_add_and_delete_by_superuser_return_403(self, admin_client):
        session = ChatSessionFactory()
        for action, expected in (("add", 403), ("delete", 403), ("change", 403)):
            args = [] if action == "add" else [session.pk]
            url = reverse(f"admin:osvi_django_chatsession_{action}", args=args)
            assert admin_client.post(url, {"status": "closed"}).status_code == expected
        session.refresh_from_db()
        assert session.status == "active"

    def test_page_attempt_of_host_code_has_no_requester(self, staff_client, mirrored):
        session = mirrored()
        close_session(session)
        html = staff_client.get(session_url(session)).text
        assert re.search(r"<strong[^>]*>This site</strong> closed the chat", html)
        assert not re.search(r">\s*None\s*<", html)

    def test_page_lists_attempts_without_raw_answer(self, staff_client, staff):
        session = ChatSessionFactory()
        CloseAttemptFactory(
            session=session,
            requested_by=staff,
            note="They left.",
            outcome=CloseAttempt.Outcome.REJECTED,
            error_reason="Not <now>",
            answer="the raw answer",
        )
        html = staff_client.get(session_url(session)).text
        for expected in ("They left.", "refused by OSVI", "Not &lt;now&gt;", "sam"):
            assert expected in html
        assert "the raw answer" not in html

    @pytest.mark.parametrize(
        ("status", "words"),
        [
            ("unconfirmed", "We do not know whether this chat is closed: OSVI did not answer."),
            ("closing", "is being closed."),
        ],
    )
    def test_page_unconfirmed_or_closing_session_explains_status(self, staff_client, status, words):
        html = staff_client.get(session_url(ChatSessionFactory(status=status))).text
        assert words in html

    @pytest.mark.parametrize(
        ("summary_status", "words"),
        [
            ("not_provided", "OSVI sent no summary"),
            ("lost", "The summary was lost: OSVI closed the chat"),
        ],
    )
    def test_page_without_summary_shows_reason(self, staff_client, summary_status, words):
        session = ChatSessionFactory(status="closed", summary_status=summary_status)
        assert words in staff_client.get(session_url(session)).text

    def test_page_with_summary_by_host_says_so(self, staff_client):
        words = "Written by this site, because OSVI sent no summary."
        theirs = ClosedSessionFactory()
        assert words not in staff_client.get(session_url(theirs)).text
        ours = ClosedSessionFactory(summary__source="host")
        assert words in staff_client.get(session_url(ours)).text

    def test_page_with_failed_summarizer_shows_error(self, staff_client):
        session = ChatSessionFactory(
            status="closed", summary_status="not_provided", summarizer_error="Odd<Error>"
        )
        html = staff_client.get(session_url(session)).text
        assert "OSVI sent no summary" in html
        assert "This site&#x27;s own summary failed: Odd&lt;Error&gt;" in html

    def test_page_with_summary_due_from_host_says_so(self, staff_client, settings):
        settings.OSVI = {"default": {"API_TOKEN": "t", "SUMMARIZER": lambda _session: None}}
        owed = ChatSessionFactory(status="closed", summary_status="not_provided")
        assert "This site will write one" in staff_client.get(session_url(owed)).text
        asked = ChatSessionFactory(
            status="closed", summary_status="not_provided", summarized_at=timezone.now()
        )
        for session in (asked, ChatSessionFactory()):
            assert "This site will write one" not in staff_client.get(session_url(session)).text

    def test_page_with_unreadable_answer_does_not_say_no_answer(self, staff_client):
        session = ChatSessionFactory(status="unconfirmed")
        CloseAttemptFactory(session=session, outcome="bad_answer", error_code="bad_answer")
        html = staff_client.get(session_url(session)).text
        assert "answer was unreadable, so we do not know whether this chat is closed." in html
        assert "automatically. To check it now, press “Try again”, which cannot close it" in html
        assert "did not answer" not in html
        assert "press “Review" not in html

    def test_page_without_close_permission_names_no_button(self, log_in):
        session = ChatSessionFactory(status="unconfirmed")
        html = log_in("view_chatsession").get(session_url(session)).text
        assert "We do not know whether this chat is closed: OSVI did not answer." in html
        assert "Try again" not in html

    def test_page_with_review_button_names_it(self, staff_client, mirrored, osvi_sandbox):
        session = mirrored()
        osvi_sandbox.script(session.session_id, OddSummary(42))
        html = staff_client.post(close_url(session), {"post": "yes"}, follow=True).text
        assert ("press “Review OSVI&#x27;s answer”" in html) == (
            ">Review OSVI&#x27;s answer<" in html
        )
        assert ">Review OSVI&#x27;s answer<" in html

    def test_page_before_close_is_confirmed_says_no_summary_yet(self, staff_client):
        html = staff_client.get(session_url(ChatSessionFactory(status="unconfirmed"))).text
        assert "no summary yet" in html

    def test_page_without_summary_permission_hides_summary(self, log_in):
        client = log_in("view_chatsession")
        session = ClosedSessionFactory(summary__text="Confidential words.")
        CloseAttemptFactory(session=session, answer="Confidential words.")
        html = client.get(session_url(session)).text
        assert "Confidential" not in html
        assert "You do not have permission to read summaries." in html

    def test_page_of_unknown_session_redirects(self, staff_client):
        response = staff_client.get(
            reverse("admin:osvi_django_chatsession_change", args=["x"]), follow=True
        )
        assert response.status_code == 200


class TestButtons:
    @pytest.mark.parametrize("status", ChatSession.Status.values)
    def test_buttons_match_status_of_session(self, staff_client, status):
        later = DatabaseNow() + timedelta(minutes=1)
        session = ChatSessionFactory(status=status, lease_until=later)
        html = staff_client.get(session_url(session)).text
        assert ("Close chat session" in html) == (status in {"active", "dormant"})
        assert ("Try again" in html) == (status == "unconfirmed")
        assert ("Mark as closed" in html) == (status == "unconfirmed")

    @pytest.mark.parametrize("lease_until", [DatabaseNow() - timedelta(minutes=1), None])
    def test_try_again_button_after_lease_expired_is_shown(self, staff_client, lease_until):
        session = ChatSessionFactory(status="closing", lease_until=lease_until)
        html = staff_client.get(session_url(session)).text
        assert "Try again" in html
        assert "We do not know whether this chat is closed" in html

    def test_close_button_without_permission_is_hidden(self, log_in):
        session = ChatSessionFactory()
        html = log_in("view_chatsession").get(session_url(session)).text
        assert close_url(session) not in html


class TestConfirmation:
    @pytest.mark.parametrize(
        ("account", "words"),
        [
            ({}, "OSVI writes the summary now"),
            ({"CLOSE_WITH": "v1"}, "only if OSVI already has one"),
            ({"CLOSE_WITH": "v1", "SUMMARIZER": "some.function"}, "this site writes one now"),
            ({"CLOSE_WITH": "v3"}, "OSVI writes the summary now"),
        ],
    )
    def test_confirmation_says_where_summary_comes_from(
        self, staff_client, mirrored, settings, account, words
    ):
        session = mirrored()
        settings.OSVI["default"] |= account
        assert words in staff_client.get(close_url(session)).text

    def test_confirmation_by_get_sends_nothing(self, staff_client, mirrored, osvi_sandbox):
        session = mirrored()
        html = staff_client.get(close_url(session)).text
        for expected in (session.session_id, session.customer_id, str(session.agent)):
            assert expected in html
        assert 'name="post" value="yes"' in html
        assert '<label for="id_note">' in html
        assert session_url(session) in html
        assert osvi_sandbox.requests == []
        assert ChatSession.objects.get().status == "active"

    def test_post_without_confirmation_asks_again(self, staff_client, mirrored, osvi_sandbox):
        session = mirrored()
        response = staff_client.post(close_url(session), {"note": "x"}, follow=True)
        assert 'name="post" value="yes"' in response.text
        assert osvi_sandbox.requests == []

    def test_post_with_long_note_shows_error_and_keeps_note(
        self, staff_client, mirrored, osvi_sandbox
    ):
        note = "long " * 300
        data = {"post": "yes", "note": note}
        response = staff_client.post(close_url(mirrored()), data, follow=True)
        html = response.text
        assert "at most 1000 characters" in html
        assert note.strip() in html
        assert osvi_sandbox.requests == []

    def test_post_without_csrf_token_returns_403(self, staff, mirrored):
        strict = Client(enforce_csrf_checks=True)
        strict.force_login(staff)
        assert strict.post(close_url(mirrored()), {"post": "yes"}).status_code == 403

    def test_post_by_anonymous_user_redirects_to_login(self, client, mirrored):
        response = client.post(close_url(mirrored()), {"post": "yes"})
        assert response["Location"].startswith(reverse("admin:login"))

    @pytest.mark.parametrize("method", ["get", "post"])
    def test_close_without_permission_returns_403(self, log_in, mirrored, osvi_sandbox, method):
        client = log_in("view_chatsession", "change_chatsession")
        assert getattr(client, method)(close_url(mirrored()), {"post": "yes"}).status_code == 403
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize("key", ["999999", "x", "_00"])
    def test_close_unknown_session_shows_warning(self, staff_client, messages_of, key):
        url = reverse("admin:osvi_django_chatsession_close", args=[key])
        [(level, sentence)] = messages_of(staff_client.post(url, {"post": "yes"}, follow=True))
        assert level == "warning"
        assert "There is no chat session" in sentence

    @pytest.mark.parametrize("name", ["close", "mark"])
    def test_confirmation_for_closed_session_redirects(
        self, staff_client, messages_of, osvi_sandbox, name
    ):
        session = ClosedSessionFactory()
        url = reverse(f"admin:osvi_django_chatsession_{name}", args=[session.pk])
        response = staff_client.get(url, follow=True)
        assert response.redirect_chain == [(session_url(session), 302)]
        assert messages_of(response) == [
            ("info", "This chat session is already closed. Nothing was sent.")
        ]
        assert osvi_sandbox.requests == []


class TestClose:
    def close(self, client, session, note=""):
        url = close_url(session)
        return client.post(url, {"post": "yes", "note": note}, follow=True)

    def test_close_redirects_to_page_with_message(self, staff_client, mirrored, messages_of):
        session = mirrored()
        response = self.close(staff_client, session, "They left.")
        assert response.redirect_chain == [(session_url(session), 302)]
        assert messages_of(response) == [
            ("success", "The chat is closed and its summary is stored.")
        ]
        assert "asked for a refund.<br>" in response.text

    def test_close_attempt_stores_user_via_and_note(self, staff_client, mirrored, staff):
        self.close(staff_client, mirrored(), "They left.")
        attempt = CloseAttempt.objects.get()
        assert (attempt.requested_by, attempt.via) == (staff, "admin")
        assert attempt.note == "They left."

    @pytest.mark.parametrize(
        ("via", "label"),
        [("rest", "API"), ("code", "this site&#x27;s own code"), ("kiosk", "kiosk")],
    )
    def test_page_attempt_via_shows_label_for_staff(self, staff_client, mirrored, via, label):
        session = mirrored()
        close_session(session, via=via)
        html = staff_client.get(session_url(session)).text
        assert f'<span class="osvi-via">{label}</span>' in html

    def test_close_is_logged_in_history(self, staff_client, mirrored, staff):
        session = mirrored()
        self.close(staff_client, session)
        entry = LogEntry.objects.get()
        assert (entry.user, entry.object_id) == (staff, str(session.pk))
        assert "its summary is stored" in entry.get_change_message()
        history = reverse("admin:osvi_django_chatsession_history", args=[session.pk])
        assert "its summary is stored" in staff_client.get(history).text

    def test_history_without_entries_links_to_page_of_session(self, staff_client):
        session = ChatSessionFactory()
        history = reverse("admin:osvi_django_chatsession_history", args=[session.pk])
        html = staff_client.get(history).text
        assert "have a change history" not in html
        assert f'<a href="{session_url(session)}">See the page of this chat session.</a>' in html

    def test_close_if_log_fails_shows_success(
        self, staff_client, mirrored, messages_of, settings, caplog
    ):
        def broken(**named):
            raise RuntimeError("no history today")

        pre_save.connect(broken, sender=LogEntry)
        try:
            response = self.close(staff_client, mirrored())
        finally:
            pre_save.disconnect(broken, sender=LogEntry)
        assert messages_of(response)[0][0] == "success"
        assert ChatSession.objects.get().summary.text == SUMMARY
        assert "no history today" in caplog.text

    def test_close_without_summary_says_so(self, staff_client, mirrored, messages_of, osvi_sandbox):
        session = mirrored()
        osvi_sandbox.script(session.session_id, OddSummary(None))
        [(level, sentence)] = messages_of(self.close(staff_client, session))
        assert (level, "no summary" in sentence) == ("success", True)

    def test_close_twice_sends_once(self, staff_client, mirrored, messages_of, osvi_sandbox):
        session = mirrored()
        self.close(staff_client, session)
        [(level, sentence)] = messages_of(self.close(staff_client, session))
        assert (level, "already closed" in sentence) == ("info", True)
        assert osvi_sandbox.close_requests(session.session_id) == 1

    def test_close_in_progress_shows_warning(self, staff_client, mirrored, messages_of):
        session = mirrored()
        later = DatabaseNow() + timedelta(minutes=1)
        ChatSession.objects.update(status="closing", lease_until=later)
        [(level, sentence)] = messages_of(self.close(staff_client, session))
        assert (level, "is being closed" in sentence) == ("warning", True)
        assert not LogEntry.objects.exists()

    @pytest.mark.parametrize(
        ("fault", "level", "words"),
        [
            (Status(401, error="<i>Invalid</i>"), "error", "refused this site's API token"),
            (Status(422, errors=["<i>No.</i>"]), "error", "OSVI said: “<i>No.</i>”"),
            (Status(429, retry_after=3), "error", "OSVI is busy"),
            (Status(500), "warning", "Press “Try again”: it checks first"),
            (Drop(after_closing=True), "warning", "OSVI did not answer. Press “Try again”"),
            (
                OddSummary(42),
                "error",
                "was unreadable, so we do not know whether this chat is closed",
            ),
        ],
        ids=repr,
    )
    def test_close_osvi_error_shows_message(
        self, staff_client, mirrored, messages_of, osvi_sandbox, fault, level, words
    ):
        session = mirrored()
        osvi_sandbox.script(session.session_id, fault)
        response = self.close(staff_client, session)
        assert response.status_code == 200
        [(said_level, sentence)] = messages_of(response)
        assert said_level == level
        assert words in sentence
        assert "<i>" not in response.text
        assert words.split(" “")[0] in LogEntry.objects.get().get_change_message()

    def test_close_osvi_unreachable_shows_error(
        self, staff_client, mirrored, messages_of, settings
    ):
        settings.OSVI["default"]["BASE_URL"] = "http://127.0.0.1:1"
        [(level, sentence)] = messages_of(self.close(staff_client, mirrored()))
        assert level == "error"
        assert sentence.startswith("OSVI could not be reached. Nothing was sent")

    def test_close_with_broken_setting_shows_error(
        self, staff_client, mirrored, messages_of, settings
    ):
        session = mirrored()
        settings.OSVI["default"]["API_TOKEN"] = ""
        [(level, sentence)] = messages_of(self.close(staff_client, session))
        assert level == "error"
        assert 'OSVI["default"]["API_TOKEN"] is empty' in sentence

    def test_close_without_view_permission_redirects_to_index(self, log_in, mirrored, messages_of):
        response = self.close(log_in("close_chatsession"), mirrored())
        assert response.redirect_chain == [(reverse("admin:index"), 302)]
        assert ChatSession.objects.get().status == "closed"

    def test_close_denied_by_service_returns_403(
        self, staff_client, mirrored, settings, osvi_sandbox
    ):
        # The view is allowed and the service is not: it checks the permission itself.
        settings.AUTHENTICATION_BACKENDS = [f"{__name__}.{AllowsCloseOnce.__name__}"]
        AllowsCloseOnce.checks = 0
        session = mirrored()
        staff_client.force_login(staff_user(), backend=settings.AUTHENTICATION_BACKENDS[0])
        assert staff_client.post(close_url(session), {"post": "yes"}).status_code == 403
        assert osvi_sandbox.requests == []


class AllowsCloseOnce:
    """A backend that allows the close at the first check only."""

    checks = 0

    def authenticate(self, request):
        return None

    def get_user(self, pk):
        return staff_user()

    def has_perm(self, user, permission, obj=None):
        if permission.endswith("close_chatsession"):
            type(self).checks += 1
            return self.checks == 1
        return True


def staff_user():
    """Return the support staff."""
    return get_user_model().objects.get(username="sam")


def test_page_with_inline_of_host_shows_its_rows(staff_client, monkeypatch):
    class ActionInline(admin.TabularInline):
        model = SupportAction

        def has_view_permission(self, request, obj=None):
            return True

    ours = admin.site.get_model_admin(ChatSession)
    monkeypatch.setattr(ours, "inlines", (*ours.inlines, ActionInline))
    session = ChatSessionFactory()
    SupportAction.objects.create(session=session, kind="whisper", text="Offer 10%")
    assert "Offer 10%" in staff_client.get(session_url(session)).text


@pytest.mark.django_db(transaction=True)
def test_close_with_atomic_requests_succeeds(staff_client, mirrored, messages_of, settings):
    assert settings.DATABASES["default"]["ATOMIC_REQUESTS"]
    session = mirrored()
    response = staff_client.post(close_url(session), {"post": "yes"}, follow=True)
    assert messages_of(response)[0][0] == "success"
    assert ChatSession.objects.get().summary.text == SUMMARY


@pytest.mark.parametrize("mode", ["ai", "support"])
def test_close_page_warns_if_somebody_waits_or_has_the_chat(staff_client, mode):
    session = ChatSessionFactory(help_requested=True, mode=mode, active_human="Kim")
    html = staff_client.get(session_url(session, "close")).text
    assert "The customer waits for a person." in html
    assert ("Kim has taken over." in html) == (mode == "support")
