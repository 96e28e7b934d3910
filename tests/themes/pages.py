"""Tests of the admin's pages; ``test_themes.py`` runs them once for each theme."""

from __future__ import annotations

import re
from html import unescape
from urllib.parse import urljoin, urlsplit

import pytest
from django.core import checks
from django.urls import reverse

from osvi_django.models import ChatSession, CloseJob
from osvi_django.services.jobs import run_close_job
from osvi_django.testing import Status
from osvi_django.testing.factories import CloseAttemptFactory, ClosedSessionFactory
from tests.themes.urls import SITES

pytestmark = pytest.mark.django_db

MODELS = {"proxies": ("themes_conversation", "themes_sweep")}
# Links that are not followed: sorted lists, facets, and Django's pages of users and groups.
SORTED = re.compile(r"[?&]o=|/auth/|/password_change/|_facets")
OURS = ("osvi_django_chatsession", "osvi_django_closejob")


def links_of(response):
    """Return the URLs that a page links to, without those of other hosts and of the logout."""
    found = re.findall(r'<a\b[^>]*?\bhref="([^"#]+)"', response.text)
    here = response.wsgi_request.get_full_path()
    absolute = {urljoin(here, unescape(link)) for link in found}
    return {link for link in absolute if not urlsplit(link).netloc and "logout" not in link}


@pytest.fixture(params=SITES)
def site(request):
    """Return the name of each admin site."""
    return request.param


@pytest.fixture
def url_to(site):
    """Return the URL of a page of a session or a job on this admin site."""

    def _url_to(name, *args):
        sessions, jobs = MODELS.get(site, OURS)
        name = name.replace("session_", f"{sessions}_").replace("job_", f"{jobs}_")
        return reverse(f"admin:{name}", args=args, current_app=site)

    return _url_to


@pytest.fixture
def open_page(admin_client):
    """Open a page and check that it is shown."""

    def _open(url):
        response = admin_client.get(url, follow=True)
        assert response.status_code == 200, url
        return response

    return _open


@pytest.fixture
def has_jobs(site):
    """Return whether this admin site has the page of jobs."""
    return site != "alone"


def test_checks_find_no_problem(settings):
    found = checks.run_checks(tags=["admin", "models", "templates", "urls"])
    assert [each for each in found if each.level >= checks.WARNING] == []


def test_pages_have_no_dead_links(site, url_to, open_page, mirrored, has_jobs, admin_user):
    """Follow every link, starting at the index."""
    mirrored(customer_id="c")
    CloseAttemptFactory(session=ClosedSessionFactory(), requested_by=admin_user)
    CloseAttemptFactory(session=mirrored(status="unconfirmed"))
    seen, left = set(), {url_to("index")}
    while left:
        url = left.pop()
        response = open_page(url)
        seen.add(url)
        inside = {link for link in links_of(response) if link.startswith(f"/{site}/")}
        left |= {link for link in inside if "&" not in link and not SORTED.search(link)} - seen
        assert len(seen) < 400
    session = ChatSession.objects.first()
    if site != "foreign":
        assert {url_to("session_lookup"), url_to("session_start")} <= seen
    for name in ("change", "close", "desk", "history"):
        assert url_to(f"session_{name}", session.pk) in seen


def test_session_page_operates_and_closes_session(
    url_to, open_page, admin_client, mirrored, osvi_sandbox
):
    session = mirrored(customer_id="c")
    page = open_page(url_to("session_change", session.pk))
    for name in ("close", "desk"):
        assert url_to(f"session_{name}", session.pk) in links_of(page)
    desk = open_page(url_to("session_desk", session.pk))
    assert f'action="{url_to("session_desk", session.pk)}"' in desk.text
    data = {"command": "takeover", "whisper": "Half a sentence"}
    response = admin_client.post(url_to("session_desk", session.pk), data, follow=True)
    assert response.status_code == 200
    assert "You have taken over" in response.text
    assert "Half a sentence</textarea>" in open_page(url_to("session_desk", session.pk)).text
    assert "You cannot undo this." in open_page(url_to("session_close", session.pk)).text
    data = {"post": "yes", "note": "They left."}
    response = admin_client.post(url_to("session_close", session.pk), data, follow=True)
    assert "its summary is stored" in response.text
    assert "The customer asked for a refund." in response.text
    assert "They left." in response.text
    assert url_to("session_close", session.pk) not in links_of(response)


def test_unconfirmed_session_is_settled(url_to, open_page, admin_client, mirrored):
    session = mirrored(status="unconfirmed")
    links = links_of(open_page(url_to("session_change", session.pk)))
    assert {url_to("session_close", session.pk), url_to("session_mark", session.pk)} <= links
    assert "How do you know" in open_page(url_to("session_mark", session.pk)).text
    data = {"action": "recover_selected", "_selected_action": [session.pk], "index": 0}
    response = admin_client.post(url_to("session_changelist"), data, follow=True)
    assert "Check with OSVI whether this chat session is closed?" in response.text
    data["post"] = "yes"
    response = admin_client.post(url_to("session_changelist"), data, follow=True)
    assert "Checked 1 chat: 1 " in response.text


def test_look_up_and_start_succeed(url_to, open_page, admin_client, osvi_sandbox):
    osvi_sandbox.add_session(customer_id="c")
    response = admin_client.post(url_to("session_lookup"), {"customer_id": "c"}, follow=True)
    assert "OSVI has 1 active chat" in response.text
    session = ChatSession.objects.get()
    assert url_to("session_change", session.pk) in links_of(response)
    data = {"customer_id": "d", "agent_uuid": ""}
    response = admin_client.post(url_to("session_start"), data, follow=True)
    assert "errorlist" in response.text
    data["agent_uuid"] = "agent_new"
    response = admin_client.post(url_to("session_start"), data, follow=True)
    assert "The chat session was started." in response.text


def test_close_selected_creates_job_that_closes_and_is_retried(
    url_to, open_page, admin_client, mirrored, osvi_sandbox, has_jobs
):
    sessions = [mirrored(), mirrored()]
    html = open_page(url_to("session_changelist")).text
    assert ("close_selected" in html) == has_jobs
    keys = [session.pk for session in sessions]
    data = {"action": "close_selected", "_selected_action": keys, "index": 0}
    response = admin_client.post(url_to("session_changelist"), data, follow=True)
    assert response.status_code == 200
    if not has_jobs:
        assert not CloseJob.objects.exists()
        return
    job = CloseJob.objects.get()
    assert response.redirect_chain[-1][0].startswith(url_to("job_confirm", job.pk))
    assert "Close <strong>2</strong> chat sessions?" in response.text
    assert url_to("session_changelist") in links_of(response)
    response = admin_client.post(url_to("job_confirm", job.pk), {"note": "Tidy."}, follow=True)
    assert "0 of 2 done" in response.text
    assert f'formaction="{url_to("job_cancel", job.pk)}"' in response.text
    osvi_sandbox.script(sessions[0].session_id, *[Status(422, errors=["No."])] * 3)
    run_close_job(job.pk)
    assert f"/{job.pk}/sessions/?outcome=failures" not in response.text
    response = open_page(url_to("job_change", job.pk))
    assert "2 of 2 done" in response.text
    assert f'formaction="{url_to("job_retry", job.pk)}"' in response.text
    assert url_to("session_change", sessions[0].pk) in links_of(response)
    progress = open_page(url_to("job_progress", job.pk)).json()
    assert url_to("session_change", sessions[0].pk) in progress["failures"]
    listed = open_page(url_to("job_sessions", job.pk))
    assert url_to("session_change", sessions[0].pk) in links_of(listed)
    response = admin_client.post(url_to("job_retry", job.pk), follow=True)
    assert CloseJob.objects.count() == 2
    assert "Stop this close job" in response.text
    response = admin_client.post(url_to("job_cancel", CloseJob.objects.first().pk), follow=True)
    assert "cancelled" in response.text
    assert url_to("job_change", job.pk) in links_of(open_page(url_to("job_changelist")))
