"""Staff look at an answer that cannot be trusted, and take the summary from it."""

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

pytestmark = pytest.mark.django_db

HALF = '{"success": true, "data": {"session_id": "%s", "summary": "<b>Half</b> of a\\nsumm'


def url_of(attempt):
    keys = [attempt.session_id, attempt.pk]
    return reverse("admin:osvi_django_chatsession_review", args=keys)


def page_of(session):
    return reverse("admin:osvi_django_chatsession_change", args=[session.pk])


@pytest.fixture
def session(mirrored):
    return mirrored(status="unconfirmed")


@pytest.fixture
def half(session):
    """An attempt with half an answer."""
    return CloseAttemptFactory(
        session=session,
        outcome="no_answer",
        error_code="unconfirmed",
        http_status=200,
        answer=HALF % session.session_id,
        answer_incomplete=True,
    )


class TestReviewPage:
    def test_session_page_with_incomplete_answer_links_to_review(self, desk, session, half):
        html = desk.get(page_of(session)).content.decode()
        assert html.count(f'href="{url_of(half)}"') >= 2
        assert "Incomplete answer" in html
        assert "Review OSVI" in html
        assert "Half" not in html

    def test_review_page_shows_escaped_answer_marked_as_incomplete(self, desk, half):
        html = desk.get(url_of(half)).content.decode()
        assert "&lt;b&gt;Half&lt;/b&gt; of a" in html
        assert "<b>Half</b>" not in html
        assert "The answer is incomplete" in html
        assert "names another chat session" not in html

    def test_review_page_with_answer_for_another_session_says_so(
        self, desk, mirrored, osvi_sandbox
    ):
        session = mirrored()
        told = {"session_id": "another", "summary": "Theirs."}
        body = json.dumps({"success": True, "data": told}).encode()
        osvi_sandbox.script(session.session_id, Junk(body, "application/json"))
        with pytest.raises(OSVIBadAnswer):
            close_session(session)
        html = desk.get(url_of(session.attempts.get())).content.decode()
        assert "The answer names another chat session" in html
        assert "The answer is incomplete" not in html
        assert "Theirs.</textarea>" in html

    def test_review_page_with_huge_answer_is_bounded(self, desk, half):
        CloseAttempt.objects.update(answer="x" * 900_000)
        assert len(desk.get(url_of(half)).content) < 200_000

    @pytest.mark.parametrize("codenames", [(), ("view_chatsession", "view_sessionsummary")])
    def test_review_page_without_close_permission_returns_403(
        self, log_in, session, half, codenames
    ):
        client = log_in(*codenames)
        assert client.get(url_of(half)).status_code == 403
        assert client.post(url_of(half), {"post": "yes", "text": "x"}).status_code == 403
        if codenames:
            assert url_of(half) not in client.get(page_of(session)).content.decode()

    @pytest.mark.parametrize(
        "fields", [{"outcome": "closed"}, {"http_status": None}, {"outcome": "rejected"}]
    )
    def test_review_page_without_answer_to_review_redirects(
        self, desk, session, half, told, fields
    ):
        CloseAttempt.objects.update(**fields)
        assert url_of(half) not in desk.get(page_of(session)).content.decode()
        response = desk.get(url_of(half), follow=True)
        assert told(response) == [("warning", "This attempt has no answer to review.")]

    def test_review_page_with_attempt_of_another_session_redirects(self, desk, half, mirrored):
        other = mirrored()
        url = reverse("admin:osvi_django_chatsession_review", args=[other.pk, half.pk])
        assert desk.get(url).status_code == 302
        gone = reverse("admin:osvi_django_chatsession_review", args=[999, half.pk])
        assert desk.get(gone).status_code == 302

    @pytest.mark.parametrize("status", ["active", "closing"])
    def test_review_page_of_open_session_offers_no_form(self, desk, session, half, status):
        ChatSession.objects.update(status=status)
        html = desk.get(url_of(half)).content.decode()
        assert "<textarea" not in html
        assert "You cannot use this answer" in html
        assert "Review OSVI" not in desk.get(page_of(session)).content.decode()


class TestReview:
    def test_review_with_text_stores_summary(self, desk, staff, session, half, told, osvi_sandbox):
        typed = {"post": "yes", "text": "Half of a\r\nsummary.", "note": "Asked them."}
        response = desk.post(url_of(half), typed)
        assert response.status_code == 302
        response = desk.get(response.url)
        assert told(response) == [("success", "The text is stored as the summary of this chat.")]
        html = response.content.decode()
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
        # Staff may put it right.
        html = desk.get(url_of(half)).content.decode()
        assert "Use this text as the summary" in html

    def test_review_reloaded_page_stores_nothing_again(self, desk, half):
        response = desk.post(url_of(half), {"post": "yes", "text": "x"}, follow=True)
        assert response.redirect_chain
        assert CloseAttempt.objects.filter(kind="review").count() == 1

    @pytest.mark.parametrize("typed", [{"post": "yes", "text": " "}, {"text": "x", "note": "y"}])
    def test_review_without_text_or_confirmation_stores_nothing(self, desk, half, typed):
        response = desk.post(url_of(half), typed)
        assert (response.status_code, response.url) == (302, url_of(half))
        assert desk.get(url_of(half)).status_code == 200
        assert not SessionSummary.objects.exists()

    def test_review_after_summary_from_osvi_keeps_that_summary(self, desk, session, half, told):
        SessionSummaryFactory(session=session, text="OSVI's.")
        ChatSession.objects.update(status="closed", summary_status="stored")
        response = desk.post(url_of(half), {"post": "yes", "text": "Mine."}, follow=True)
        [(level, sentence)] = told(response)
        assert (level, "own summary" in sentence) == ("error", True)
        assert SessionSummary.objects.get().text == "OSVI's."

    def test_review_after_permission_is_removed_returns_403(self, log_in, allowed_once, half):
        client = log_in("view_chatsession")
        allowed_once("close_chatsession")
        response = client.post(url_of(half), {"post": "yes", "text": "x"})
        assert response.status_code == 403
        assert not SessionSummary.objects.exists()

    @pytest.mark.django_db(transaction=True)
    def test_review_with_atomic_requests_stores_summary(self, desk, half, settings):
        assert settings.DATABASES["default"]["ATOMIC_REQUESTS"]
        desk.post(url_of(half), {"post": "yes", "text": "x"})
        assert SessionSummary.objects.get().text == "x"
