"""Reasons and required notes in the admin: forms, lists and history."""

from __future__ import annotations

import pytest

from osvi_django.models import ChatSession, CloseJob
from osvi_django.services import create_close_job, run_close_job
from osvi_django.testing.factories import ChatAgentFactory, ChatSessionFactory

pytestmark = pytest.mark.django_db

LIST = "/admin/osvi_django/chatsession/"
REASONS = ["Answered", "No reply"]


@pytest.fixture(autouse=True)
def rules(settings, osvi_sandbox):
    """Give the default account two reasons, and require a note."""
    settings.OSVI["default"] |= {"CLOSE_REASONS": REASONS, "NOTE_REQUIRED": True}


def test_close_offers_the_reasons_and_requires_the_note(staff_client, mirrored):
    session = mirrored()
    url = f"{LIST}{session.pk}/close/"
    html = staff_client.get(url).text
    assert '<option value="No reply">No reply</option>' in html
    assert "Note (optional)" not in html
    html = staff_client.post(url, {"post": "yes", "close_reason": "Bored"}, follow=True).text
    assert "This field is required." in html
    assert "Bored is not one of the available choices." in html
    staff_client.post(url, {"post": "yes", "close_reason": "No reply", "note": "Tidy"})
    session.refresh_from_db()
    assert (session.status, session.close_reason) == ("closed", "No reply")
    html = staff_client.get(f"{LIST}{session.pk}/change/").text
    assert "<p>No reply</p>" in html
    assert "Tidy" in html


def test_line_breaks_of_note_are_counted_once_as_browsers_do(staff_client, mirrored):
    session = mirrored()
    note = "\r\n".join(["Seen this"] * 100) + "!"
    typed = {"post": "yes", "close_reason": "No reply", "note": note}
    staff_client.post(f"{LIST}{session.pk}/close/", typed)
    assert session.attempts.get().note == note.replace("\r\n", "\n")
    assert len(session.attempts.get().note) == 1000


def test_close_without_rules_offers_no_reason(staff_client, mirrored, settings):
    settings.OSVI["default"] |= {"CLOSE_REASONS": [], "NOTE_REQUIRED": False}
    html = staff_client.get(f"{LIST}{mirrored().pk}/close/").text
    assert "Note (optional)" in html
    assert "close_reason" not in html


def test_close_with_rules_that_cannot_be_used_says_so(staff_client, mirrored, settings):
    settings.OSVI["default"]["CLOSE_REASONS"] = "Answered"
    url = f"{LIST}{mirrored().pk}/close/"
    assert "close_reason" not in staff_client.get(url).text
    html = staff_client.post(url, {"post": "yes", "note": "Tidy"}, follow=True).text
    assert "CLOSE_REASONS" in html
    assert staff_client.get(LIST).status_code == 200


class TestJob:
    def test_confirmation_offers_the_reasons_of_its_accounts(
        self, staff_client, staff, mirrored, job_url, settings
    ):
        here = settings.OSVI["default"]
        settings.OSVI |= {"other": {**here, "CLOSE_REASONS": ["Moved"], "NOTE_REQUIRED": False}}
        chosen = [mirrored(), mirrored(agent=ChatAgentFactory(account="other"))]
        job = create_close_job(chosen, requested_by=staff, via="admin", draft=True)
        html = staff_client.get(job_url("confirm", job)).text
        for reason in (*REASONS, "Moved"):
            assert f'<option value="{reason}">' in html
        staff_client.post(job_url("confirm", job), {"close_reason": "Moved", "note": "n"})
        run_close_job(job.pk)
        assert ChatSession.objects.get(status="closed").close_reason == "Moved"
        html = staff_client.get(job_url("change", job)).text
        assert '<dt>Reason for closing</dt><dd dir="auto">Moved</dd>' in html
        assert "close_reason is not one of the reasons for closing" in html

    def test_confirmation_refused_by_the_rules_shows_the_form_again(
        self, staff_client, staff, mirrored, job_url, settings
    ):
        job = create_close_job([mirrored()], requested_by=staff, via="admin", draft=True)
        url = job_url("confirm", job)
        here = settings.OSVI["default"]
        settings.OSVI = {"default": {**here, "CLOSE_REASONS": []}, "other": here}
        # The form knows only what the accounts allow now, so it is the service that refuses.
        other = ChatSessionFactory(agent=ChatAgentFactory(account="other"))
        job.items.create(requested_session_id=other.session_id, session=other, account="other")
        job.items.exclude(session=other).delete()
        ChatAgentFactory(account="default")
        html = staff_client.post(url, {"close_reason": "", "note": ""}, follow=True).text
        assert "This field is required." in html
        assert CloseJob.objects.get().status == "draft"


class TestFilter:
    def test_list_is_filtered_by_reason(self, staff_client):
        one = ChatSessionFactory(status="closed", close_reason="Answered")
        other = ChatSessionFactory(status="closed", close_reason="No reply")
        html = staff_client.get(f"{LIST}?close_reason=Answered").text
        assert "reason for closing" in html.lower()
        assert f"{LIST}{one.pk}/change/" in html
        assert f"{LIST}{other.pk}/change/" not in html

    def test_attempts_are_filtered_by_reason(self, staff_client, mirrored):
        session = mirrored()
        url = f"{LIST}{session.pk}/close/"
        staff_client.post(url, {"post": "yes", "close_reason": "No reply", "note": "Tidy"})
        attempts = f"{LIST}{session.pk}/attempts/?close_reason="
        assert "No reply: Tidy" in staff_client.get(f"{attempts}No+reply").text
        assert "No reply: Tidy" not in staff_client.get(f"{attempts}Answered").text
