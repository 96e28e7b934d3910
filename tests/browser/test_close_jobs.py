"""Tests of close jobs in a real browser, with JavaScript and without."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.by import By

from osvi_django.admin import ChatSessionAdmin
from osvi_django.models import ChatSession, CloseJob
from osvi_django.services.jobs import create_close_job, store
from osvi_django.testing import Status
from osvi_django.testing.factories import ChatAgentFactory, ChatSessionFactory
from tests.browser.steps import (
    IN_A_BROWSER,
    choose,
    css_property,
    fits_width,
    follow,
    text_of,
    wait_for,
)
from tests.helpers.sandbox import mirror

pytestmark = IN_A_BROWSER

STATUS = "#osvi-job [data-osvi=status]"
DONE = "#osvi-job [data-osvi=done]"
STALE = "#osvi-job-stale"
CHECK = "#osvi-job-actions input[value^='Check with OSVI']"


@pytest.fixture
def job(staff, settings):
    """Create a job of four sessions whose rows say that it is running."""
    settings.OSVI_EXECUTOR = None
    agent = ChatAgentFactory()
    sessions = ChatSessionFactory.create_batch(4, agent=agent)
    job = create_close_job(sessions, requested_by=staff, start=False)
    store.start(job)
    return job


@pytest.fixture
def page(live_server, job):
    """Return the URL of the job's page."""
    return f"{live_server.url}/admin/osvi_django/closejob/{job.pk}/change/"


def settle(job, outcome, number, **fields):
    """Give so many waiting items of the job this outcome."""
    keys = list(job.items.filter(outcome="waiting").values_list("pk", flat=True)[:number])
    job.items.filter(pk__in=keys).update(outcome=outcome, **fields)
    counter = store.COUNTERS[outcome]
    CloseJob.objects.update(**{counter: number})
    store.finish(job)


def test_close_all_from_list_shows_progress_and_retry(
    browse, live_server, osvi_sandbox, settings, monkeypatch
):
    settings.OSVI_EXECUTOR = "osvi_django.executors.thread"
    osvi_sandbox.latency = 0.5
    monkeypatch.setattr(ChatSessionAdmin, "list_per_page", 2)
    agent = ChatAgentFactory()
    sessions = [mirror(osvi_sandbox, agent=agent) for _number in range(5)]
    osvi_sandbox.script(sessions[0].session_id, Status(422, errors=["<b>No.</b>"]))
    driver = browse(scripts=True)
    driver.get(f"{live_server.url}/admin/osvi_django/chatsession/")
    choose(driver, "#action-toggle")
    choose(driver, ".actions .question a")
    choose(driver, "select[name=action] option[value=close_selected]")
    follow(driver, "button[name=index]")
    assert text_of(driver, "#content form p") == "Close 5 chat sessions?"
    driver.find_element(By.NAME, "note").send_keys("They said goodbye.")
    follow(driver, "#content input[type=submit]")
    wait_for(driver, STATUS, "finished, 1 needs attention")
    assert text_of(driver, DONE) == "5 of 5 done (100 %)"
    wait_for(driver, ".osvi-failures", "OSVI said: “<b>No.</b>”")
    assert ChatSession.objects.filter(status="closed").count() == 4
    follow(driver, "#content input[value^='Retry failed']")
    wait_for(driver, STATUS, "finished")
    assert text_of(driver, DONE) == "1 of 1 done (100 %)"


def test_close_selected_without_javascript_closes_session(
    browse, live_server, osvi_sandbox, settings
):
    settings.OSVI_EXECUTOR = "osvi_django.executors.immediate"
    mirror(osvi_sandbox)
    driver = browse()
    driver.get(f"{live_server.url}/admin/osvi_django/chatsession/")
    choose(driver, "input.action-select")
    choose(driver, "select[name=action] option[value=close_selected]")
    follow(driver, "button[name=index]")
    follow(driver, "#content input[type=submit]")
    assert text_of(driver, STATUS) == "finished"
    assert text_of(driver, DONE) == "1 of 1 done (100 %)"
    assert ChatSession.objects.get().status == "closed"


def test_job_page_with_javascript_updates_and_reloads_at_end(browse, page, job):
    driver = browse(scripts=True)
    driver.get(page)
    assert text_of(driver, DONE) == "0 of 4 done (0 %)"
    driver.execute_script("document.body.dataset.mark = 'the same page'")
    settle(job, "closed", 2)
    wait_for(driver, DONE, "2 of 4 done (50 %)")
    assert text_of(driver, ".osvi-outcomes") == "2 closed\n2 waiting"
    assert driver.find_element(By.ID, "osvi-progress").get_property("value") == 2
    CloseJob.objects.update(status="paused", paused_by="unreachable")
    wait_for(driver, "#osvi-job [role=status]", "OSVI cannot be reached.")
    assert css_property(driver, STATUS, "font-weight") == "700"
    settle(job, "rejected", 1, error_code="rejected", error_reason="<b>No.</b>")
    wait_for(driver, ".osvi-failures", "OSVI said: “<b>No.</b>”")
    assert driver.execute_script("return document.body.dataset.mark") == "the same page"
    settle(job, "rejected", 1, error_code="rejected", error_reason="Nor this.")
    wait_for(driver, ".osvi-failures", "OSVI said: “Nor this.”")
    assert driver.execute_script("return document.body.dataset.mark") is None


def test_running_job_page_brings_check_button_without_reload(browse, page, job, osvi_sandbox):
    driver = browse(scripts=True)
    driver.get(page)
    driver.execute_script("document.body.dataset.mark = 'the same page'")
    assert not driver.find_elements(By.CSS_SELECTOR, CHECK)
    lost = mirror(osvi_sandbox, status="unconfirmed")
    job.items.filter(pk=job.items.first().pk).update(
        session=lost, requested_session_id=lost.session_id
    )
    settle(job, "unconfirmed", 1, error_code="unconfirmed")
    wait_for(driver, ".osvi-failures", "OSVI may have closed this chat session")
    button = driver.find_element(By.CSS_SELECTOR, CHECK)
    assert button.get_property("value") == "Check with OSVI (1)"
    assert driver.execute_script("return document.body.dataset.mark") == "the same page"
    # The button stays in place while nothing changes, so that it can be pressed.
    driver.execute_script("arguments[0].focus()", button)
    settle(job, "closed", 1)
    wait_for(driver, DONE, "2 of 4 done (50 %)")
    assert driver.switch_to.active_element == button
    follow(driver, CHECK)
    assert "Checked 1 chat: 1 open again." in text_of(driver, ".messagelist")


def test_running_job_page_without_javascript_brings_check_button_by_reload(browse, page, job):
    driver = browse()
    driver.get(page)
    ChatSession.objects.update(status="unconfirmed")
    settle(job, "unconfirmed", 1, error_code="unconfirmed")
    wait_for(driver, ".osvi-failures", "OSVI may have closed this chat session")
    assert driver.find_elements(By.CSS_SELECTOR, CHECK)


def test_job_page_after_logout_marks_numbers_as_old(browse, page, job):
    driver = browse(scripts=True)
    driver.get(page)
    assert not driver.find_element(By.CSS_SELECTOR, STALE).is_displayed()
    cookie = driver.get_cookie("sessionid")
    driver.delete_cookie("sessionid")
    wait_for(driver, STALE, "numbers are old")
    driver.add_cookie(cookie)  # the user logs in again in another tab
    settle(job, "closed", 1)
    wait_for(driver, DONE, "1 of 4 done")
    assert not driver.find_element(By.CSS_SELECTOR, STALE).is_displayed()


def test_job_page_without_javascript_reloads(browse, page, job):
    driver = browse()
    driver.get(page)
    assert text_of(driver, DONE) == "0 of 4 done (0 %)"
    settle(job, "closed", 4)
    wait_for(driver, STATUS, "finished")
    assert text_of(driver, DONE) == "4 of 4 done (100 %)"


def test_checkboxes_of_confirmation_stand_beside_their_labels(browse, live_server, staff):
    sessions = ChatSessionFactory.create_batch(2, help_requested=True, agent=ChatAgentFactory())
    draft = create_close_job(sessions, requested_by=staff, draft=True)
    for width in (1280, 400):
        driver = browse(width)
        driver.get(f"{live_server.url}/admin/osvi_django/closejob/{draft.pk}/confirm/")
        box, label = (
            driver.find_element(By.CSS_SELECTOR, f".osvi-check {each}").rect
            for each in ("input", "label")
        )
        assert label["y"] < box["y"] + box["height"]
        assert box["y"] < label["y"] + label["height"]


@pytest.mark.parametrize("name", ["change/", "sessions/"])
def test_job_pages_on_phone_fit_screen(browse, page, job, name):
    settle(job, "rejected", 2, error_code="unauthorized", error_reason="w" * 200)
    driver = browse(400)
    driver.get(page.replace("change/", name))
    assert fits_width(driver, 400)


def test_job_page_in_dark_theme_changes_colours(browse, page):
    shades = set()
    for dark in (False, True):
        driver = browse(dark=dark)
        driver.get(page)
        shades.add(
            (
                css_property(driver, STATUS, "color"),
                css_property(driver, "progress", "accent-color"),
            )
        )
    assert len(shades) == 2
