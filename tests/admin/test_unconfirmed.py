"""Sessions of which nobody knows whether they are closed, and what staff can do about them."""

from __future__ import annotations

import pytest
from django.contrib.admin.models import LogEntry
from django.urls import reverse

from osvi_django.admin import ChatSessionAdmin
from osvi_django.models import ChatSession, CloseAttempt
from osvi_django.testing import Drop, Status
from osvi_django.testing.factories import ChatSessionFactory
from tests.mirroring import SUMMARY

pytestmark = pytest.mark.django_db

LIST = "/admin/osvi_django/chatsession/"


@pytest.fixture
def closed_there(unconfirmed):
    return unconfirmed(Drop(after_closing=True))


def url_of(name, session):
    return reverse(f"admin:osvi_django_chatsession_{name}", args=[session.pk])


class TestPages:
    def test_page_unconfirmed_session_explains_status(self, desk, closed_there):
        html = desk.get(url_of("change", closed_there)).content.decode()
        assert "osvi-status-unconfirmed" in html
        assert "We do not know whether this chat is closed: OSVI did not answer." in html
        assert "Press “Try again”: it checks first and cannot close twice." in html

    def test_list_with_unconfirmed_filter_shows_session(self, desk, closed_there):
        ChatSessionFactory()
        response = desk.get(LIST, {"status__exact": "unconfirmed"})
        assert list(response.context["cl"].result_list) == [closed_there]


class TestTryAgain:
    def test_try_again_page_says_osvi_is_checked_first(self, desk, closed_there, osvi_sandbox):
        html = desk.get(url_of("close", closed_there)).content.decode()
        assert "We check first: if the chat is still open, we close it" in html
        assert 'value="Try again"' in html
        assert len(osvi_sandbox.requests) == 1

    @pytest.mark.parametrize("fault", [Drop(), Drop(after_closing=True)], ids=repr)
    def test_try_again_stores_summary(self, desk, unconfirmed, told, osvi_sandbox, fault):
        session = unconfirmed(fault)
        response = desk.post(url_of("close", session), {"post": "yes"}, follow=True)
        assert told(response) == [("success", "The chat is closed and its summary is stored.")]
        assert ChatSession.objects.get().summary.text == SUMMARY
        assert osvi_sandbox.closes(session.session_id) == 1

    def test_try_again_with_lost_summary_says_so(self, desk, closed_there, told, osvi_sandbox):
        osvi_sandbox.when_closed = 409
        response = desk.post(url_of("close", closed_there), {"post": "yes"}, follow=True)
        assert told(response) == [
            (
                "success",
                "The chat is closed, but its summary was lost: OSVI's answer did not reach us.",
            )
        ]
        assert "The summary was lost: OSVI closed the chat" in response.content.decode()

    def test_try_again_if_osvi_fails_sends_no_close(self, desk, closed_there, told, osvi_sandbox):
        osvi_sandbox.script(None, Status(500))
        response = desk.post(url_of("close", closed_there), {"post": "yes"}, follow=True)
        [(level, sentence)] = told(response)
        assert (level, sentence.startswith("OSVI")) == ("warning", True)
        assert osvi_sandbox.close_requests(closed_there.session_id) == 1


class TestMark:
    def test_mark_without_note_shows_error(self, desk, closed_there):
        html = desk.get(url_of("mark", closed_there)).content.decode()
        assert "How do you know it is closed?" in html
        assert '<label for="id_note" class="required">' in html
        data = {"post": "yes", "note": " "}
        response = desk.post(url_of("mark", closed_there), data, follow=True)
        assert "This field is required." in response.content.decode()
        assert ChatSession.objects.get().status == "unconfirmed"

    def test_mark_with_note_closes_session_and_logs_it(
        self, desk, closed_there, told, staff, osvi_sandbox
    ):
        data = {"post": "yes", "note": "Seen in the dashboard."}
        response = desk.post(url_of("mark", closed_there), data, follow=True)
        assert told(response) == [
            ("success", "The chat session is marked as closed: Seen in the dashboard.")
        ]
        session = ChatSession.objects.get()
        assert (session.status, session.summary_status) == ("closed", "lost")
        attempt = session.attempts.first()
        assert (attempt.kind, attempt.requested_by) == (CloseAttempt.Kind.MARK, staff)
        assert "Seen in the dashboard." in LogEntry.objects.get().get_change_message()
        assert len(osvi_sandbox.requests) == 1

    def test_mark_open_session_shows_error(self, desk, mirrored, told):
        data = {"post": "yes", "note": "Seen."}
        response = desk.post(url_of("mark", mirrored()), data, follow=True)
        [(level, sentence)] = told(response)
        assert (level, "only if it is unconfirmed" in sentence) == ("error", True)
        assert ChatSession.objects.get().status == "active"

    def test_mark_session_that_osvi_refuses_to_close_succeeds(
        self, desk, mirrored, told, osvi_sandbox
    ):
        session = mirrored(status="dormant")
        page, mark = url_of("change", session), url_of("mark", session)
        assert mark not in desk.get(page).content.decode()
        osvi_sandbox.sessions[session.session_id].change(status="closed")
        osvi_sandbox.when_closed = 422
        desk.post(url_of("close", session), {"post": "yes"})
        html = desk.get(page).content.decode()
        assert f'href="{mark}"' in html
        assert f'href="{url_of("close", session)}"' in html
        assert "OSVI would not close this chat (reason: “" in html
        assert "the summary will be lost" in desk.get(mark).content.decode()
        response = desk.post(mark, {"post": "yes", "note": "Seen."}, follow=True)
        assert told(response) == [("success", "The chat session is marked as closed: Seen.")]
        session.refresh_from_db()
        assert (session.status, session.summary_status) == ("closed", "not_provided")

    def test_mark_without_permission_returns_403(
        self, client, django_user_model, grant, closed_there
    ):
        user = django_user_model.objects.create_user("jo", is_staff=True)
        client.force_login(grant(user, "view_chatsession"))
        url = url_of("mark", closed_there)
        assert client.get(url).status_code == 403
        assert client.post(url, {"post": "yes", "note": "Seen."}).status_code == 403
        html = client.get(url_of("change", closed_there)).content.decode()
        assert url not in html


class TestRecoverSelected:
    def select(self, *chosen, **fields):
        return {
            "action": "recover_selected",
            "_selected_action": [session.pk for session in chosen],
            **fields,
        }

    def test_recover_selected_asks_for_confirmation(self, desk, closed_there, osvi_sandbox):
        html = desk.post(LIST, self.select(closed_there, index=0), follow=True).text
        assert "Check with OSVI whether this chat session is closed?" in html
        assert 'name="action" value="recover_selected"' in html
        assert 'name="note"' not in html
        assert len(osvi_sandbox.requests) == 1

    def test_recover_selected_settles_sessions_and_reports_others(
        self, desk, unconfirmed, mirrored, told
    ):
        lost, never = unconfirmed(Drop(after_closing=True)), unconfirmed(Drop())
        active = mirrored()
        chosen = self.select(lost, never, active, post="yes")
        left, counted = told(desk.post(LIST, chosen, follow=True))
        assert left[0] == "warning"
        assert left[1].startswith(f"{active}: Nothing to check: this chat's status is known.")
        assert counted == ("success", "Checked 2 chats: 1 closed with summary, 1 open again.")
        states = ChatSession.objects.in_bulk()
        assert (states[lost.pk].status, states[never.pk].status) == ("closed", "active")
        said = {entry.get_change_message() for entry in LogEntry.objects.all()}
        assert said == {
            "OSVI had closed this chat. Its summary is stored now.",
            "This chat is still open. You can close it again.",
        }

    def test_recover_selected_with_more_than_twenty_is_refused(self, desk, told, osvi_sandbox):
        chosen = ChatSessionFactory.create_batch(21)
        for fields in ({"index": 0}, {"post": "yes"}):
            [(level, sentence)] = told(desk.post(LIST, self.select(*chosen, **fields), follow=True))
            assert (level, "You can check 20" in sentence) == ("error", True)
        assert osvi_sandbox.requests == []

    def test_recover_selected_with_twenty_is_accepted(self, desk, told):
        chosen = ChatSessionFactory.create_batch(20)
        response = desk.post(LIST, self.select(*chosen, post="yes"), follow=True)
        assert [level for level, _sentence in told(response)] == ["warning"] * 20

    def test_recover_selected_after_time_limit_reports_unchecked(
        self, desk, unconfirmed, told, monkeypatch
    ):
        monkeypatch.setattr(ChatSessionAdmin, "selection_seconds", -1)
        chosen = [unconfirmed(Drop()), unconfirmed(Drop())]
        [(level, sentence)] = told(desk.post(LIST, self.select(*chosen, post="yes"), follow=True))
        assert (level, "2 chats were not checked" in sentence) == ("warning", True)

    def test_recover_selected_sessions_not_in_list_shows_warning(self, desk, closed_there, told):
        url = f"{LIST}?status__exact=active"
        response = desk.post(url, self.select(closed_there, post="yes"), follow=True)
        [(level, sentence)] = told(response)
        assert (level, sentence.startswith("None of the chat sessions")) == ("warning", True)

    def test_recover_selected_confirmation_costs_few_queries(
        self, desk, django_assert_max_num_queries
    ):
        chosen = ChatSessionFactory.create_batch(20)
        # Who is asking and what they may (4), the selection, and their own session's row.
        with django_assert_max_num_queries(11):
            response = desk.post(LIST, self.select(*chosen, index=0))
        with django_assert_max_num_queries(8):
            desk.get(response["Location"])

    @pytest.mark.django_db(transaction=True)
    def test_recover_selected_with_atomic_requests_succeeds(
        self, desk, closed_there, told, settings
    ):
        assert settings.DATABASES["default"]["ATOMIC_REQUESTS"]
        response = desk.post(LIST, self.select(closed_there, post="yes"), follow=True)
        assert told(response) == [("success", "Checked 1 chat: 1 closed with summary.")]
        assert ChatSession.objects.get().summary.text == SUMMARY
