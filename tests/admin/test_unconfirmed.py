"""Tests of unconfirmed sessions: try again, mark as closed, and recover selected."""

from __future__ import annotations

import pytest
from django.contrib.admin.models import LogEntry

from osvi_django.admin import ChatSessionAdmin
from osvi_django.models import ChatSession, CloseAttempt
from osvi_django.testing import Drop, Status
from osvi_django.testing.factories import ChatSessionFactory
from tests.admin.session_urls import session_url
from tests.helpers.sandbox import SUMMARY

pytestmark = pytest.mark.django_db

LIST = "/admin/osvi_django/chatsession/"


@pytest.fixture
def closed_at_osvi(unconfirmed):
    """Create an unconfirmed session that is closed at OSVI."""
    return unconfirmed(Drop(after_closing=True))


class TestPages:
    def test_page_unconfirmed_session_explains_status(self, staff_client, closed_at_osvi):
        html = staff_client.get(session_url(closed_at_osvi, "change")).text
        assert "osvi-status-unconfirmed" in html
        assert "We do not know whether this chat is closed: OSVI did not answer." in html
        assert "automatically. To check it now, press “Try again”, which cannot close it" in html

    def test_list_with_unconfirmed_filter_shows_session(self, staff_client, closed_at_osvi):
        ChatSessionFactory()
        response = staff_client.get(LIST, {"status__exact": "unconfirmed"})
        assert list(response.context["cl"].result_list) == [closed_at_osvi]


class TestTryAgain:
    def test_try_again_page_says_osvi_is_checked_first(
        self, staff_client, closed_at_osvi, osvi_sandbox
    ):
        html = staff_client.get(session_url(closed_at_osvi, "close")).text
        assert "We check first: if the chat is still open, we close it" in html
        assert 'value="Try again"' in html
        assert len(osvi_sandbox.requests) == 1

    @pytest.mark.parametrize("fault", [Drop(), Drop(after_closing=True)], ids=repr)
    def test_try_again_stores_summary(
        self, staff_client, unconfirmed, messages_of, osvi_sandbox, fault
    ):
        session = unconfirmed(fault)
        response = staff_client.post(session_url(session, "close"), {"post": "yes"}, follow=True)
        assert messages_of(response) == [
            ("success", "The chat is closed and its summary is stored.")
        ]
        assert ChatSession.objects.get().summary.text == SUMMARY
        assert osvi_sandbox.closes(session.session_id) == 1

    def test_try_again_with_lost_summary_says_so(
        self, staff_client, closed_at_osvi, messages_of, osvi_sandbox
    ):
        osvi_sandbox.when_closed = 409
        response = staff_client.post(
            session_url(closed_at_osvi, "close"), {"post": "yes"}, follow=True
        )
        assert messages_of(response) == [
            (
                "success",
                "The chat is closed, but its summary was lost: OSVI's answer did not reach us.",
            )
        ]
        assert "The summary was lost: OSVI closed the chat" in response.text

    def test_try_again_if_osvi_fails_sends_no_close(
        self, staff_client, closed_at_osvi, messages_of, osvi_sandbox
    ):
        osvi_sandbox.script(None, Status(500))
        response = staff_client.post(
            session_url(closed_at_osvi, "close"), {"post": "yes"}, follow=True
        )
        [(level, sentence)] = messages_of(response)
        assert level == "warning"
        assert sentence.startswith("OSVI did not answer, so it is still not known whether")
        assert "Nothing has changed here. Try again later." in sentence
        assert osvi_sandbox.close_requests(closed_at_osvi.session_id) == 1


class TestMark:
    def test_mark_without_note_shows_error(self, staff_client, closed_at_osvi):
        html = staff_client.get(session_url(closed_at_osvi, "mark")).text
        assert "How do you know it is closed?" in html
        assert '<label for="id_note" class="required">' in html
        data = {"post": "yes", "note": " "}
        response = staff_client.post(session_url(closed_at_osvi, "mark"), data, follow=True)
        assert "This field is required." in response.text
        assert ChatSession.objects.get().status == "unconfirmed"

    def test_mark_with_note_closes_session_and_logs_it(
        self, staff_client, closed_at_osvi, messages_of, staff, osvi_sandbox
    ):
        data = {"post": "yes", "note": "Seen in the dashboard."}
        response = staff_client.post(session_url(closed_at_osvi, "mark"), data, follow=True)
        assert messages_of(response) == [
            ("success", "The chat session is marked as closed: Seen in the dashboard.")
        ]
        session = ChatSession.objects.get()
        assert (session.status, session.summary_status) == ("closed", "lost")
        attempt = session.attempts.first()
        assert (attempt.kind, attempt.requested_by) == (CloseAttempt.Kind.MARK, staff)
        assert "Seen in the dashboard." in LogEntry.objects.get().get_change_message()
        assert len(osvi_sandbox.requests) == 1

    def test_mark_open_session_shows_error(self, staff_client, mirrored, messages_of):
        data = {"post": "yes", "note": "Seen."}
        response = staff_client.post(session_url(mirrored(), "mark"), data, follow=True)
        [(level, sentence)] = messages_of(response)
        assert (level, "only if it is unconfirmed" in sentence) == ("error", True)
        assert ChatSession.objects.get().status == "active"

    def test_mark_session_that_osvi_refuses_to_close_succeeds(
        self, staff_client, mirrored, messages_of, osvi_sandbox
    ):
        session = mirrored(status="dormant")
        page, mark = session_url(session, "change"), session_url(session, "mark")
        assert mark not in staff_client.get(page).text
        osvi_sandbox.sessions[session.session_id].change(status="closed")
        osvi_sandbox.when_closed = 422
        staff_client.post(session_url(session, "close"), {"post": "yes"})
        html = staff_client.get(page).text
        assert f'href="{mark}?_osvi_place=' in html
        assert f'href="{session_url(session, "close")}?_osvi_place=' in html
        assert "OSVI would not close this chat (reason: “" in html
        assert "the summary will be lost" in staff_client.get(mark).text
        response = staff_client.post(mark, {"post": "yes", "note": "Seen."}, follow=True)
        assert messages_of(response) == [("success", "The chat session is marked as closed: Seen.")]
        session.refresh_from_db()
        assert (session.status, session.summary_status) == ("closed", "not_provided")

    def test_mark_without_permission_returns_403(
        self, client, django_user_model, grant, closed_at_osvi
    ):
        user = django_user_model.objects.create_user("jo", is_staff=True)
        client.force_login(grant(user, "view_chatsession"))
        url = session_url(closed_at_osvi, "mark")
        assert client.get(url).status_code == 403
        assert client.post(url, {"post": "yes", "note": "Seen."}).status_code == 403
        html = client.get(session_url(closed_at_osvi, "change")).text
        assert url not in html


class TestRecoverSelected:
    def select(self, *chosen, **fields):
        return {
            "action": "recover_selected",
            "_selected_action": [session.pk for session in chosen],
            **fields,
        }

    def test_recover_selected_asks_for_confirmation(
        self, staff_client, closed_at_osvi, osvi_sandbox
    ):
        html = staff_client.post(LIST, self.select(closed_at_osvi, index=0), follow=True).text
        assert "Check with OSVI whether this chat session is closed?" in html
        assert 'name="action" value="recover_selected"' in html
        assert 'name="note"' not in html
        assert len(osvi_sandbox.requests) == 1

    def test_recover_selected_settles_sessions_and_reports_others(
        self, staff_client, unconfirmed, mirrored, messages_of
    ):
        lost, never = unconfirmed(Drop(after_closing=True)), unconfirmed(Drop())
        active = mirrored()
        chosen = self.select(lost, never, active, post="yes")
        left, counted = messages_of(staff_client.post(LIST, chosen, follow=True))
        assert left[0] == "warning"
        about = f"Chat of {active.customer_id}: "
        assert left[1].startswith(f"{about}Nothing to check: this chat's status is known.")
        assert counted == ("success", "Checked 2 chats: 1 closed with summary, 1 open again.")
        states = ChatSession.objects.in_bulk()
        assert (states[lost.pk].status, states[never.pk].status) == ("closed", "active")
        said = {entry.get_change_message() for entry in LogEntry.objects.all()}
        assert said == {
            "OSVI had closed this chat. Its summary is stored now.",
            "This chat is still open. You can close it again.",
        }

    def test_recover_selected_with_more_than_twenty_is_refused(
        self, staff_client, messages_of, osvi_sandbox
    ):
        chosen = ChatSessionFactory.create_batch(21)
        for fields in ({"index": 0}, {"post": "yes"}):
            [(level, sentence)] = messages_of(
                staff_client.post(LIST, self.select(*chosen, **fields), follow=True)
            )
            assert (level, "You can check 20" in sentence) == ("error", True)
        assert osvi_sandbox.requests == []

    def test_recover_selected_with_twenty_is_accepted(self, staff_client, messages_of):
        chosen = ChatSessionFactory.create_batch(20)
        response = staff_client.post(LIST, self.select(*chosen, post="yes"), follow=True)
        assert [level for level, _sentence in messages_of(response)] == ["warning"] * 20

    def test_recover_selected_after_time_limit_reports_unchecked(
        self, staff_client, unconfirmed, messages_of, monkeypatch
    ):
        monkeypatch.setattr(ChatSessionAdmin, "selection_seconds", -1)
        chosen = [unconfirmed(Drop()), unconfirmed(Drop())]
        [(level, sentence)] = messages_of(
            staff_client.post(LIST, self.select(*chosen, post="yes"), follow=True)
        )
        assert (level, "2 chats were not checked" in sentence) == ("warning", True)

    def test_recover_selected_sessions_not_in_list_shows_warning(
        self, staff_client, closed_at_osvi, messages_of
    ):
        url = f"{LIST}?status__exact=active"
        response = staff_client.post(url, self.select(closed_at_osvi, index=0), follow=True)
        [(level, sentence)] = messages_of(response)
        assert (level, sentence.startswith("None of the chat sessions")) == ("warning", True)

    def test_recover_selected_confirmed_twice_shows_what_was_found(
        self, staff_client, closed_at_osvi, messages_of, osvi_sandbox
    ):
        url, data = f"{LIST}?attention=unconfirmed", self.select(closed_at_osvi, post="yes")
        staff_client.post(url, data)
        number = len(osvi_sandbox.requests)
        first, second = messages_of(staff_client.post(url, data, follow=True))
        assert first == ("success", "Checked 1 chat: 1 closed with summary.")
        assert second[1].endswith("It is closed. Summary: stored.")
        assert len(osvi_sandbox.requests) == number

    def test_recover_selected_confirmation_costs_few_queries(
        self, staff_client, django_assert_max_num_queries
    ):
        chosen = ChatSessionFactory.create_batch(20)
        # The user and their permissions (4), the list (4), the selection, the login session (3).
        with django_assert_max_num_queries(12):
            response = staff_client.post(LIST, self.select(*chosen, index=0))
        with django_assert_max_num_queries(8):
            staff_client.get(response["Location"])

    @pytest.mark.django_db(transaction=True)
    def test_recover_selected_with_atomic_requests_succeeds(
        self, staff_client, closed_at_osvi, messages_of, settings
    ):
        assert settings.DATABASES["default"]["ATOMIC_REQUESTS"]
        response = staff_client.post(LIST, self.select(closed_at_osvi, post="yes"), follow=True)
        assert messages_of(response) == [("success", "Checked 1 chat: 1 closed with summary.")]
        assert ChatSession.objects.get().summary.text == SUMMARY
