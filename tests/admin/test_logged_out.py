"""Tests of the forms that are sent after the login has expired."""

from __future__ import annotations

import html as markup
import re
from urllib.parse import parse_qs, urlsplit

import pytest
from django.urls import reverse

from osvi_django.exceptions import OSVIBadAnswer
from osvi_django.models import CloseJob, DataExport, Erasure
from osvi_django.services import close_session
from osvi_django.services.jobs import create_close_job
from osvi_django.testing import Junk
from tests.admin.session_urls import session_url

pytestmark = pytest.mark.django_db

SAID = "Nothing was done: you were logged out. If your browser has kept what you typed"
FILTERS = "_changelist_filters=status%3Dopen"
PAGES = ["close", "mark", "review", "start", "confirm", "keep", "erase", "export"]


@pytest.fixture
def staff(staff, grant):
    """Let support staff operate sessions, too."""
    return grant(staff, "operate_chatsession", "erase_customer", "export_chatsession")


@pytest.fixture
def url_of(mirrored, osvi_sandbox, staff, job_url):
    """Return the URL of a page with a form, by the name of its view."""

    def _url_of(name):
        if name in {"start", "export"}:
            return reverse(f"admin:osvi_django_chatsession_{name}")
        if name == "confirm":
            job = create_close_job([mirrored()], requested_by=staff, draft=True)
            return job_url("confirm", job)
        session = mirrored(customer_id="+15551112222")
        if name in {"mark", "review"}:
            osvi_sandbox.script(session.session_id, Junk(b"<h1>Summary</h1>"))
            with pytest.raises(OSVIBadAnswer):
                close_session(session)
        if name == "review":
            keys = [session.pk, session.attempts.get().pk]
            return reverse("admin:osvi_django_chatsession_review", args=keys)
        return session_url(session, name)

    return _url_of


def action_of(response):
    """Return the URL to which the form of a page is sent."""
    [action] = re.findall(r'<form method="post" action="([^"]+)" data-osvi-typed', response.text)
    return markup.unescape(action)


@pytest.mark.parametrize("query", ["", f"?{FILTERS}"])
@pytest.mark.parametrize("name", PAGES)
def test_form_after_logout_says_that_nothing_was_done(
    staff_client, staff, url_of, osvi_sandbox, messages_of, name, query
):
    page = f"{url_of(name)}{query}"
    asked = len(osvi_sandbox.requests)
    action = action_of(staff_client.get(page))
    staff_client.logout()
    response = staff_client.post(action, {"post": "yes", "note": "Seen."})
    [following] = parse_qs(urlsplit(response["Location"]).query)["next"]
    staff_client.force_login(staff)
    response = staff_client.get(following, follow=True)
    assert response.redirect_chain == [(page, 302)]
    [(level, sentence)] = messages_of(response)
    assert (level, sentence.startswith(SAID)) == ("warning", True)
    assert " data-osvi-restore>" in response.text or " data-osvi-restore " in response.text
    assert "data-osvi-restore" not in staff_client.get(page).text
    assert len(osvi_sandbox.requests) == asked
    assert not CloseJob.objects.exclude(status="draft").exists()
    assert not DataExport.objects.exists()
    assert not Erasure.objects.exists()


@pytest.mark.parametrize("name", ["mark", "review", "start", "confirm"])
def test_invalid_form_leads_back_to_its_page_without_that_message(
    staff_client, url_of, messages_of, name
):
    page = url_of(name)
    action = action_of(staff_client.get(page))
    response = staff_client.post(action, {"post": "yes", "note": "x" * 1001}, follow=True)
    assert response.redirect_chain == [(page, 302)]
    assert messages_of(response) == []
    assert "data-osvi-restore" not in response.text


def test_form_after_logout_keeps_what_this_site_has_kept(staff_client, url_of):
    page = url_of("mark")
    action = action_of(staff_client.get(page))
    staff_client.post(action, {"post": "yes", "note": "x" * 1001})
    response = staff_client.get(action, follow=True)
    assert "x" * 1001 in response.text


def test_form_of_chat_closed_meanwhile_says_so(staff_client, mirrored, messages_of):
    session = mirrored()
    action = action_of(staff_client.get(session_url(session, "close")))
    session.status = "closed"
    session.save()
    response = staff_client.get(action, follow=True)
    [(level, sentence)] = messages_of(response)
    assert (level, "already closed. Nothing was sent." in sentence) == ("info", True)
