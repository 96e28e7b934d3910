"""Tests of reviewing an unreliable answer and using it as the summary."""

from __future__ import annotations

import json

import pytest
from django.contrib.admin.models import LogEntry
from django.urls import reverse

from osvi_django.exceptions import OSVIBadAnswer
from osvi_django.models import ChatSession, CloseAttempt, SessionSummary
from osvi_django.services import close_session
from osvi_django.testing import Junk
from osvi_django.testing.factories import CloseAttemptFactory, SessionSummaryFactory
from tests.admin.session_urls import session_url

pytestmark = pytest.mark.django_db

INCOMPLETE_ANSWER = (
    '{"success": true, "data": {"session_id": "%s", "summary": "<b>Half</b> of a\\nsumm'
)


def review_url(attempt):
    """Return the URL of the review of this attempt's answer."""
    keys = [attempt.session_id, attempt.pk]
    return reverse("admin:osvi_django_chatsession_review", args=keys)


@pytest.fixture
def session(mirrored):
    """Create an unconfirmed session."""
    return mirrored(status="unconfirmed")


@pytest.fixture
def incomplete(session):
    """Create an attempt with an incomplete answer."""
    return CloseAttemptFactory(
        session=session,
        outcome="no_answer",
        error_code="unconfirmed",
        http_status=200,
        answer=INCOMPLETE_ANSWER % session.session_id,
        answer_incomplete=True,
    )


class TestReviewPage:
    @pytest.mark.parametrize("status", [500, 404, 302])
    def test_page_of_an_error_of_osvi_is_not_offered_for_review(
        self, staff_client, session, incomplete, status
    ):
        CloseAttempt.objects.update(http_status=status)
        ChatSession.objects.update(status="closed", summary_status="lost")
        page = staff_client.get(session_url(session)).text
        assert review_url(incomplete) not in page
        response = staff_client.get(review_url(incomplete), follow=True)
        assert "This attempt has no answer to review." in response.text

    def test_session_page_with_incomplete_answer_links_to_review(
        self, staff_client, session, incomplete
    ):
        html = staff_client.get(session_url(session)).text
        assert html.count(f'href="{review_url(incomplete)}"') >= 2
        assert "Incomplete answer" in html
        assert "Review OSVI" in html
        assert "Half" not in html

    def test_review_page_shows_escaped_answer_marked_as_incomplete(self, staff_client, incomplete):
        html = staff_client.get(review_url(incomplete)).text
        assert "&lt;b&gt;Half&lt;/b&gt; of a" in html
        assert "<b>Half</b>" not in html
        assert "The answer is incomplete" in html
        assert "names another chat session" not in html

    def test_review_page_with_answer_for_another_session_says_so(
        self, staff_client, mirrored, osvi_sandbox
    ):
        session = mirrored()
        data = {"session_id": "another", "summary": "Theirs."}
        body = json.dumps({"success": True, "data": data}).encode()
        osvi_sandbox.script(session.session_id, Junk(body, "application/json"))
        with pytest.raises(OSVIBadAnswer):
            close_session(session)
        html = staff_client.get(review_url(session.attempts.get())).text
        assert "The answer names another chat session" in html
        assert "The answer is incomplete" not in html
        assert "Theirs.</textarea>" in html

    def test_review_page_with_huge_answer_is_bounded(self, staff_client, incomplete):
        CloseAttempt.objects.update(answer="x" * 900_000)
        assert len(staff_client.get(review_url(incomplete)).content) < 200_000

    @pytest.mark.parametrize("codenames", [(), ("view_chatsession", "view_sessionsummary")])
    def test_review_page_without_close_permission_returns_403(
        self, log_in, session, incomplete, codenames
    ):
        client = log_in(*codenames)
        assert client.get(review_url(incomplete)).status_code == 403
        assert client.post(review_url(incomplete), {"post": "yes", "text": "x"}).status_code == 403
        if codenames:
            assert review_url(incomplete) not in client.get(session_url(session)).text

    @pytest.mark.parametrize(
        "fields", [{"outcome": "closed"}, {"http_status": None}, {"outcome": "rejected"}]
    )
    def test_review_page_without_answer_to_review_redirects(
        self, staff_client, session, incomplete, messages_of, fields
    ):
        CloseAttempt.objects.update(**fields)
        assert review_url(incomplete) not in staff_client.get(session_url(session)).text
        response = staff_client.get(review_url(incomplete), follow=True)
        assert messages_of(response) == [("warning", "This attempt has no answer to review.")]

    def test_review_page_with_attempt_of_another_session_redirects(
        self, staff_client, incomplete, mirrored
    ):
        other = mirrored()
        url = reverse("admin:osvi_django_chatsession_review", args=[other.pk, incomplete.pk])
        assert staff_client.get(url).status_code == 302
        gone = reverse("admin:osvi_django_chatsession_review", args=[999, incomplete.pk])
        assert staff_client.get(gone).status_code == 302

    @pytest.mark.parametrize("status", ["active", "closing"])
    def test_review_page_of_open_session_offers_no_form(
        self, staff_client, session, incomplete, status
    ):
        ChatSession.objects.update(status=status)
        html = staff_client.get(review_url(incomplete)).text
        assert "<textarea" not in html
        assert "You cannot use this answer" in html
        assert "Review OSVI" not in staff_client.get(session_url(session)).text


class TestReview:
    def test_review_with_text_stores_summary(
        self, staff_client, staff, session, incomplete, messages_of, osvi_sandbox
    ):
        typed = {"post": "yes", "text": "Half of a\r\nsummary.", "note": "Asked them."}
        response = staff_client.post(review_url(incomplete), typed)
        assert response.status_code == 302
        response = staff_client.get(response.url)
        assert messages_of(response) == [
            ("success", "The text is stored as the summary of this chat.")
        ]
        html = response.text
        assert "Half of a<br>summary." in html
        assert "Taken by a colleague from an unreliable answer of OSVI" in html
        summary = SessionSummary.objects.get()
        assert (summary.text, summary.source) == ("Half of a\nsummary.", "reviewed")
        session.refresh_from_db()
        assert (session.status, session.summary_status) == ("closed", "stored")
        attempt = session.attempts.filter(kind="review").get()
        assert (attempt.requested_by, attempt.via, attempt.note) == (staff, "admin", "Asked them.")
        assert LogEntry.objects.get().user == staff
        assert osvi_sandbox.requests == []
        # Staff may correct it.
        html = staff_client.get(review_url(incomplete)).text
        assert "Use this text as the summary" in html

    def test_review_reloaded_page_stores_nothing_again(self, staff_client, incomplete):
        response = staff_client.post(
            review_url(incomplete), {"post": "yes", "text": "x"}, follow=True
        )
        assert response.redirect_chain
        assert CloseAttempt.objects.filter(kind="review").count() == 1

    @pytest.mark.parametrize("typed", [{"post": "yes", "text": " "}, {"text": "x", "note": "y"}])
    def test_review_without_text_or_confirmation_stores_nothing(
        self, staff_client, incomplete, typed
    ):
        response = staff_client.post(review_url(incomplete), typed)
        assert (response.status_code, response.url) == (302, review_url(incomplete))
        assert staff_client.get(review_url(incomplete)).status_code == 200
        assert not SessionSummary.objects.exists()

    def test_review_after_summary_from_osvi_keeps_that_summary(
        self, staff_client, session, incomplete, messages_of
    ):
        SessionSummaryFactory(session=session, text="OSVI's.")
        ChatSession.objects.update(status="closed", summary_status="stored")
        response = staff_client.post(
            review_url(incomplete), {"post": "yes", "text": "Mine."}, follow=True
        )
        [(level, sentence)] = messages_of(response)
        assert (level, "own summary" in sentence) == ("error", True)
        assert SessionSummary.objects.get().text == "OSVI's."

    def test_review_after_permission_is_removed_returns_403(self, log_in, allowed_once, incomplete):
        client = log_in("view_chatsession")
        allowed_once("close_chatsession")
        response = client.post(review_url(incomplete), {"post": "yes", "text": "x"})
        assert response.status_code == 403
        assert not SessionSummary.objects.exists()

    @pytest.mark.django_db(transaction=True)
    def test_review_with_atomic_requests_stores_summary(self, staff_client, incomplete, settings):
        assert settings.DATABASES["default"]["ATOMIC_REQUESTS"]
        staff_client.post(review_url(incomplete), {"post": "yes", "text": "x"})
        assert SessionSummary.objects.get().text == "x"
