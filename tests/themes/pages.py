"""Tests of the admin's pages; ``test_themes.py`` runs them once for each theme."""

from __future__ import annotations

import json
import re

import pytest
from django.conf import settings
from django.core import checks
from django.urls import reverse
from selenium.webdriver.support.ui import Select

from osvi_django.models import ChatSession, CloseJob
from osvi_django.services.jobs import run_close_job
from osvi_django.testing import Status
from osvi_django.testing.factories import CloseAttemptFactory, ClosedSessionFactory
from tests.browser.conftest import browse, started_browsers
from tests.browser.steps import IN_A_BROWSER, choose, wait_for
from tests.helpers.admin_pages import fill_site, links_of, pages_of
from tests.themes.urls import SITES

__all__ = ("browse", "started_browsers")  # fixtures

pytestmark = pytest.mark.django_db

MODELS = {"proxies": ("themes_conversation", "themes_sweep")}
# Links that are not followed: Django's pages of users and groups, and sorted lists. The filters are
# the same with each theme.
QUERIES = "[?&]o=|_facets|&" if settings.THEME == "plain" else "[?]"
UNFOLLOWED = re.compile(rf"{QUERIES}|/auth/|/password_change/")
OURS = ("osvi_django_chatsession", "osvi_django_closejob")


# What cannot be read or clicked of ours: cut, covered, pale or tiny, or a link like any other text.
FAULTS = """
const light = (colour) => {
    const [red, green, blue] = colour.match(/[\\d.]+/g).map(Number).map((each) => each / 255).map(
        (each) => (each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4)
    );
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
};
const faultsOfButton = (button) => {
    const style = getComputedStyle(button);
    const [dark, bright] = [light(style.color), light(style.backgroundColor)].sort((a, b) => a - b);
    button.scrollIntoView({block: "center", behavior: "instant"});
    const box = button.getBoundingClientRect();
    const there = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
    return [
        button.scrollWidth > button.clientWidth + 1 && "cut",
        !button.contains(there) && "covered",
        style.backgroundImage === "none" && (bright + 0.05) / (dark + 0.05) < 4.5 && "pale",
    ];
};
const faultsOfText = (text) => [parseFloat(getComputedStyle(text).fontSize) < 10 && "tiny"];
const faultsOfLink = (link) => {
    const [style, around] = [link, link.parentElement].map((each) => getComputedStyle(each));
    const isUnderlined = style.textDecorationLine.includes("underline");
    return [!isUnderlined && style.color === around.color && "no link"];
};
const ours = ":is(.osvi-page, .osvi-session, .osvi-back)";
const buttons = `.osvi-button, ${ours} :is(.closelink, [type=submit]:not([name]))`;
const links = `${ours} a:not([role=button], .osvi-action, .object-tools a, h2 a)`;
const check = (selector, faultsOf) => [...document.querySelectorAll(selector)]
    .filter((each) => each.checkVisibility() && each.textContent + (each.value || ""))
    .flatMap((each) => faultsOf(each).filter(Boolean).map(
        (fault) => `${fault}: ${each.outerHTML.slice(0, 200)}`
    ));
return [
    ...check(buttons, faultsOfButton),
    ...check(`${ours} *`, faultsOfText),
    ...check(links, faultsOfLink),
];
"""
TITLED = ("figures", "export", "chats", "close", "start", "keep", "erase", "recover")
# How many headings have the title of the window.
TITLES = """
const title = document.title.replace(/^\\(\\d+\\)/, "").split("|")[0].trim();
return [...document.querySelectorAll("h1, .app-content-header h3")]
    .filter((each) => each.checkVisibility() && each.textContent.trim() === title).length;
"""
# These themes change the look of the admin.
LOOKS = ("plain", "unfold", "jazzmin", "grappelli", "admin_interface")

# How a site is put together has nothing to do with its theme, unless templates or classes meet.
EXAMINED = SITES if settings.THEME == "plain" else ("own", "foreign")


@pytest.fixture(params=EXAMINED)
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
        left |= {link for link in inside if not UNFOLLOWED.search(link)} - seen
        assert len(seen) < 400
    session = ChatSession.objects.first()
    if site != "foreign":
        assert {url_to("session_lookup"), url_to("session_start")} <= seen
    # A host's own template of the page has a link to the desk, and ours the desk itself.
    for name in ("change", "close", "history", *(("desk",) if site == "foreign" else ())):
        assert url_to(f"session_{name}", session.pk) in seen


def test_every_page_is_shown_in_frame_of_theme(site, open_page, osvi_sandbox, admin_user):
    filled = fill_site(osvi_sandbox, admin_user)
    names = pages_of(SITES[site], filled)
    assert len(names) > 12
    for url in names.values():
        response = open_page(url)
        assert response.redirect_chain == [], url
        assert "/password_change/" in response.text, url  # the theme's own frame


def test_session_page_operates_and_closes_session(
    url_to, open_page, admin_client, mirrored, osvi_sandbox
):
    session = mirrored(customer_id="c")
    page = open_page(url_to("session_change", session.pk))
    assert url_to("session_close", session.pk) in links_of(page)
    form = f'action="{url_to("session_desk", session.pk)}'
    assert form in page.text or url_to("session_desk", session.pk) in links_of(page)
    assert form in open_page(url_to("session_desk", session.pk)).text
    data = {"command": "takeover", "text": "Half a sentence"}
    response = admin_client.post(url_to("session_desk", session.pk), data, follow=True)
    assert response.status_code == 200
    assert "You have taken over" in response.text
    assert "Half a sentence</textarea>" in open_page(url_to("session_desk", session.pk)).text
    assert "You cannot undo this." in open_page(url_to("session_close", session.pk)).text
    data = {"post": "yes", "note": "They left."}
    response = admin_client.post(url_to("session_close", session.pk), data, follow=True)
    assert "its summary is stored" in response.text
    assert "The customer asked for a refund." in response.text
    assert "They left." in open_page(url_to("session_thread", session.pk)).text
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
    assert f'action="{url_to("job_cancel", job.pk)}"' in response.text
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


@pytest.mark.skipif(settings.THEME not in LOOKS, reason="it looks like another one")
@pytest.mark.parametrize("site", ["own"], indirect=True)
class TestLook:
    pytestmark = IN_A_BROWSER

    @pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
    def test_pages_of_ours_can_be_read(
        self, site, dark, browse, live_server, admin_user, osvi_sandbox
    ):
        pages = pages_of(SITES[site], fill_site(osvi_sandbox, admin_user))
        driver = browse(scripts=True, dark=dark, user=admin_user)
        found = {}
        for name, page in pages.items():
            driver.get(f"{live_server.url}{page}")
            faults = driver.execute_script(FAULTS)
            written = [entry["message"] for entry in driver.get_log("browser")]
            faults += [each for each in written if "Uncaught" in each]
            if faults:
                found[name] = faults
        assert found == {}, json.dumps(found, indent=1)

    def test_each_page_of_ours_shows_its_title_once(
        self, site, browse, live_server, admin_user, osvi_sandbox
    ):
        pages = pages_of(SITES[site], fill_site(osvi_sandbox, admin_user))
        driver = browse(scripts=True, user=admin_user)
        for name, page in pages.items():
            if name.rpartition("_")[2] in TITLED:
                driver.get(f"{live_server.url}{page}")
                assert driver.execute_script(TITLES) == 1, page

    def test_action_runs_on_ticked_chats(self, site, browse, live_server, admin_user, mirrored):
        session = mirrored()
        driver = browse(scripts=True, user=admin_user)
        driver.get(f"{live_server.url}{reverse('admin:osvi_django_chatsession_changelist')}")
        choose(driver, f"input.action-select[value='{session.pk}']")
        Select(driver.find_element("name", "action")).select_by_value("export_selected")
        choose(driver, "button[name='index']")
        wait_for(driver, "body", "1 chat: ticked in the list")
