"""Tests of closing one session in a real browser."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.by import By

from osvi_django.models import ChatSession
from osvi_django.services.jobs import create_close_job
from osvi_django.testing import Hang
from tests.browser.steps import (
    IN_A_BROWSER,
    choose,
    css_property,
    fits_width,
    follow,
    text_of,
    type_into,
    wait_for,
)
from tests.helpers.sandbox import mirror

pytestmark = IN_A_BROWSER


@pytest.fixture
def session(osvi_sandbox, transactional_db):
    """Create a session whose summary contains a script."""
    summary = "The customer asked for a refund.\n<script>document.title = 'oh'</script>"
    return mirror(osvi_sandbox, summary=summary)


def test_close_from_list_shows_summary(browse, live_server, session):
    driver = browse()
    driver.get(f"{live_server.url}/admin/osvi_django/chatsession/")
    follow(driver, "#result_list tbody th a")
    follow(driver, "a.osvi-close-link")
    driver.find_element(By.NAME, "note").send_keys("They said goodbye.")
    follow(driver, "#content input[type=submit]")
    assert text_of(driver, ".messagelist") == "The chat is closed and its summary is stored."
    assert text_of(driver, ".osvi-summary") == ChatSession.objects.get().summary.text
    assert "They said goodbye." in text_of(driver, "#osvi-lines")
    assert "osvi-close-link" not in driver.page_source


@pytest.mark.parametrize("button", ["input.default", "button[name=next]"])
def test_close_counts_seconds_on_its_button_and_sends_once(
    browse, live_server, session, osvi_sandbox, button
):
    mirror(osvi_sandbox)  # the next in the list
    osvi_sandbox.script(session.session_id, Hang(4))
    driver = browse(scripts=True)
    page = f"{live_server.url}/admin/osvi_django/chatsession/{session.pk}/close/"
    driver.get(f"{page}?_changelist_filters=status%3Dopen")
    # The browser answers a test only when the next page is there, so the page notes what it shows.
    driver.execute_script(
        "const button = document.querySelector(arguments[0]);"
        "const text = button.tagName === 'INPUT' ? 'value' : 'textContent';"
        "const note = () => sessionStorage.setItem('seen', button[text]);"
        "setInterval(note, 50);"
        "setTimeout(() => { button.click(); button.click(); }, 200);",
        button,
    )
    wait_for(driver, ".messagelist", "OSVI did not answer")
    assert "Closing…" in driver.execute_script("return sessionStorage.getItem('seen')")
    assert session.attempts.count() == 1


def log_in(driver, staff):
    """Log in on the login page, with a password."""
    staff.set_password("secret")
    staff.save()
    type_into(driver, "#id_username", staff.username)
    type_into(driver, "#id_password", "secret")
    follow(driver, "[type=submit]")


def value_of(driver, name):
    """Return what is in a field."""
    return driver.find_element(By.NAME, name).get_property("value")


def test_close_after_logout_keeps_note_and_reason(browse, live_server, session, staff, settings):
    settings.OSVI["default"]["CLOSE_REASONS"] = ["Answered", "Spam"]
    driver = browse(scripts=True)
    page = f"{live_server.url}/admin/osvi_django/chatsession/{session.pk}/close/"
    driver.get(page)
    choose(driver, "option[value=Spam]")
    type_into(driver, "[name=note]", "They said goodbye.")
    driver.delete_cookie("sessionid")
    follow(driver, "#content input[type=submit]")
    assert "/login/" in driver.current_url
    log_in(driver, staff)
    wait_for(driver, ".messagelist", "Nothing was done: you were logged out.")
    assert (driver.current_url, ChatSession.objects.get().status) == (page, "active")
    for _time in range(2):
        assert value_of(driver, "note") == "They said goodbye."
        assert value_of(driver, "close_reason") == "Spam"
        driver.refresh()
    follow(driver, "#content input[type=submit]")
    wait_for(driver, ".messagelist", "The chat is closed and its summary is stored.")
    attempt = session.attempts.get()
    assert (attempt.note, attempt.close_reason) == ("They said goodbye.", "Spam")


def test_bulk_close_after_logout_keeps_what_was_typed(browse, live_server, session, staff, grant):
    grant(staff, "operate_chatsession")
    ChatSession.objects.update(help_requested=True)
    job = create_close_job([session], requested_by=staff, draft=True)
    driver = browse(scripts=True)
    driver.get(f"{live_server.url}/admin/osvi_django/closejob/{job.pk}/confirm/")
    choose(driver, "[name=include_help_requested]")
    type_into(driver, "[name=note]", "Tidy.")
    type_into(driver, "[name=goodbye]", "Goodbye!")
    driver.delete_cookie("sessionid")
    follow(driver, "#content input[type=submit]")
    log_in(driver, staff)
    wait_for(driver, ".messagelist", "Nothing was done: you were logged out.")
    assert [value_of(driver, name) for name in ("note", "goodbye")] == ["Tidy.", "Goodbye!"]
    assert driver.find_element(By.NAME, "include_help_requested").is_selected()


def test_note_of_earlier_visit_is_not_shown_again(browse, live_server, session):
    driver = browse(scripts=True)
    page = f"{live_server.url}/admin/osvi_django/chatsession/{session.pk}/close/"
    driver.get(page)
    type_into(driver, "[name=note]", "They said goodbye.")
    driver.get(f"{live_server.url}/admin/osvi_django/chatsession/")
    driver.get(page)
    assert value_of(driver, "note") == ""
    assert driver.execute_script("return sessionStorage.length") == 0


@pytest.mark.parametrize("page", ["close/", "change/"])
def test_pages_on_phone_fit_screen(browse, live_server, session, page):
    driver = browse(400)
    driver.get(f"{live_server.url}/admin/osvi_django/chatsession/{session.pk}/{page}")
    assert fits_width(driver, 400)


def test_close_page_in_dark_theme_changes_colours(browse, live_server, session):
    url = f"{live_server.url}/admin/osvi_django/chatsession/{session.pk}/close/"
    shades = {}
    for dark in (False, True):
        driver = browse(dark=dark)
        driver.get(url)
        shades[dark] = (
            css_property(driver, "body", "background-color"),
            css_property(driver, "#content p", "color"),
        )
    assert shades[False][0] != shades[True][0]
    assert shades[False][1] != shades[True][1]
