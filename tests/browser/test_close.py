"""The way of a member of the support staff, in a real browser and without JavaScript."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.by import By

from osvi_django.models import ChatSession
from tests.browser.steps import IN_A_BROWSER, colour_of, follow, is_as_wide_as, text_of
from tests.mirroring import mirror

pytestmark = IN_A_BROWSER


@pytest.fixture
def session(osvi_sandbox, transactional_db):
    summary = "The customer asked for a refund.\n<script>document.title = 'oh'</script>"
    return mirror(osvi_sandbox, summary=summary)


def test_from_the_list_to_the_summary(browse, live_server, session):
    driver = browse()
    driver.get(f"{live_server.url}/admin/osvi_django/chatsession/")
    follow(driver, "#result_list tbody th a")
    follow(driver, "a.osvi-close-link")
    driver.find_element(By.NAME, "note").send_keys("They said goodbye.")
    follow(driver, "#content input[type=submit]")
    assert text_of(driver, ".messagelist") == "The chat is closed and its summary is stored."
    assert text_of(driver, ".osvi-summary") == session_summary()
    assert "They said goodbye." in text_of(driver, "#attempts-group")
    assert "osvi-close-link" not in driver.page_source


def session_summary():
    return ChatSession.objects.get().summary.text


@pytest.mark.parametrize("page", ["close/", "change/"])
def test_on_a_phone_nothing_is_cut_off(browse, live_server, session, page):
    driver = browse(400)
    driver.get(f"{live_server.url}/admin/osvi_django/chatsession/{session.pk}/{page}")
    assert is_as_wide_as(driver, 400)


def test_the_dark_theme_is_dark(browse, live_server, session):
    url = f"{live_server.url}/admin/osvi_django/chatsession/{session.pk}/close/"
    shades = {}
    for dark in (False, True):
        driver = browse(dark=dark)
        driver.get(url)
        shades[dark] = (
            colour_of(driver, "body", "background-color"),
            colour_of(driver, "#content p", "color"),
        )
    assert shades[False][0] != shades[True][0]
    assert shades[False][1] != shades[True][1]
