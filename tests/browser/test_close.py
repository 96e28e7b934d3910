"""The way of a member of the support staff, in a real browser and without JavaScript."""

from __future__ import annotations

import os
import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import staleness_of
from selenium.webdriver.support.wait import WebDriverWait

from osvi_django.models import ChatSession
from tests.mirroring import mirror

MISSING = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(
        bool(MISSING) and os.environ.get("CI") != "true",
        reason=f"a browser test needs {' and '.join(MISSING)} on the path",
    ),
]

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
WITHOUT_JAVASCRIPT = {"profile.managed_default_content_settings.javascript": 2}


@pytest.fixture
def browse(live_server, staff, client):
    """Open a browser of this width that a member of the support staff is logged in with."""
    opened = []

    def _browse(width=1280, *, dark=False):
        options = webdriver.ChromeOptions()
        for flag in FLAGS:
            options.add_argument(flag)
        options.add_experimental_option("prefs", WITHOUT_JAVASCRIPT)
        options.binary_location = shutil.which("chromium")
        driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
        opened.append(driver)
        driver.implicitly_wait(10)
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        client.force_login(staff)
        driver.get(f"{live_server.url}/admin/login/")
        cookie = client.cookies["sessionid"].value
        driver.add_cookie({"name": "sessionid", "value": cookie})
        return driver

    yield _browse
    for driver in opened:
        driver.quit()


@pytest.fixture
def session(osvi_sandbox, transactional_db):
    summary = "The customer asked for a refund.\n<script>document.title = 'oh'</script>"
    return mirror(osvi_sandbox, summary=summary)


def choose(driver, selector):
    driver.find_element(By.CSS_SELECTOR, selector).click()


def follow(driver, selector):
    """Click what leads to another page, and wait until it is there."""
    element = driver.find_element(By.CSS_SELECTOR, selector)
    element.click()
    WebDriverWait(driver, 20).until(staleness_of(element))


def text_of(driver, selector):
    return driver.find_element(By.CSS_SELECTOR, selector).text


def colour_of(driver, selector, name):
    return driver.find_element(By.CSS_SELECTOR, selector).value_of_css_property(name)


def test_from_the_list_to_the_summary(browse, live_server, session):
    driver = browse()
    driver.get(f"{live_server.url}/admin/osvi_django/chatsession/")
    follow(driver, "#result_list tbody th a")
    follow(driver, "a.osvi-close-link")
    driver.find_element(By.NAME, "note").send_keys("They said goodbye.")
    follow(driver, "#content input[type=submit]")
    assert text_of(driver, ".messagelist") == (
        "The chat session is closed and its summary is stored."
    )
    assert text_of(driver, ".osvi-summary") == session_summary()
    assert "They said goodbye." in text_of(driver, "#attempts-group")
    assert "osvi-close-link" not in driver.page_source


def session_summary():
    return ChatSession.objects.get().summary.text


def test_a_selection_from_the_list(browse, live_server, session):
    driver = browse()
    driver.get(f"{live_server.url}/admin/osvi_django/chatsession/")
    choose(driver, "input.action-select")
    choose(driver, "select[name=action] option[value=close_selected]")
    follow(driver, "button[name=index]")
    follow(driver, "#content input[type=submit]")
    assert text_of(driver, ".messagelist") == "1 chat session is closed."
    assert ChatSession.objects.get().status == "closed"


@pytest.mark.parametrize("page", ["close/", "change/"])
def test_on_a_phone_nothing_is_cut_off(browse, live_server, session, page):
    driver = browse(400)
    driver.get(f"{live_server.url}/admin/osvi_django/chatsession/{session.pk}/{page}")
    metrics = driver.execute_cdp_cmd("Page.getLayoutMetrics", {})
    assert metrics["cssContentSize"]["width"] <= 400


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
