"""Tests of closing one session in a real browser without JavaScript."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.by import By

from osvi_django.models import ChatSession
from tests.browser.steps import IN_A_BROWSER, css_property, fits_width, follow, text_of
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
    assert "They said goodbye." in text_of(driver, "#attempts-group")
    assert "osvi-close-link" not in driver.page_source


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
