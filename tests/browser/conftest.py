"""Fixtures of the tests in a real browser."""

from __future__ import annotations

import shutil
from collections import defaultdict

import pytest
from django.test import Client
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service

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
IMPLICIT_WAIT = 10


def _start(*, scripts):
    """Start a browser."""
    options = webdriver.ChromeOptions()
    for flag in FLAGS:
        options.add_argument(flag)
    if not scripts:
        options.add_experimental_option("prefs", WITHOUT_JAVASCRIPT)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.binary_location = shutil.which("chromium")
    return webdriver.Chrome(options, Service(shutil.which("chromedriver")))


def _set_screen(driver, width, *, dark):
    """Set the width of the screen, and whether its user prefers dark colours."""
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def _forget(driver, url):
    """Leave the site, and remove all that the browser stored for it."""
    [only] = driver.window_handles
    driver.switch_to.window(only)
    driver.get("about:blank")
    driver.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": url, "storageTypes": "all"})
    driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
    driver.get_log("browser")


@pytest.fixture(scope="session")
def started_browsers():
    """Return the browsers that no test uses, without scripts and with; starting one is slow."""
    free = defaultdict(list)
    yield free
    for drivers in free.values():
        for driver in drivers:
            driver.quit()


@pytest.fixture
def browse(live_server, staff, started_browsers):
    """Open a browser that is logged in as support staff, or as another user.

    Each call opens another browser, so two calls are two people at their desks.
    """
    used = []

    def _browse(width=1280, *, dark=False, scripts=False, user=None):
        free = started_browsers[scripts]
        driver = free.pop() if free else _start(scripts=scripts)
        used.append((scripts, driver))
        driver.implicitly_wait(IMPLICIT_WAIT)
        _set_screen(driver, width, dark=dark)
        driver.get(f"{live_server.url}/admin/login/")
        driver.add_cookie(login_cookie(user or staff))
        return driver

    yield _browse
    refused = [each for _, driver in used for each in refused_by_policy(driver)]
    for scripts, driver in used:
        try:
            _forget(driver, live_server.url)
        except (WebDriverException, ValueError):  # it hangs, or has several windows
            driver.quit()
        else:
            started_browsers[scripts].append(driver)
    assert refused == []


@pytest.fixture
def colleague(db, django_user_model, grant):
    """Create a second member of the support staff, who may do all that the first one may."""
    user = django_user_model.objects.create_user("kim", is_staff=True)
    return grant(
        user,
        "view_chatsession",
        "close_chatsession",
        "operate_chatsession",
        "view_sessionsummary",
    )


def refused_by_policy(driver):
    """Return what the browser did not load or run because of the Content-Security-Policy."""
    try:
        written = [entry["message"] for entry in driver.get_log("browser")]
    except WebDriverException:  # it hangs, which the test itself reports
        return []
    return [each for each in written if "Content Security Policy" in each]


def login_cookie(user):
    """Return the cookie with which a browser is logged in as this user."""
    client = Client()
    client.force_login(user)
    return {"name": "sessionid", "value": client.cookies["sessionid"].value}
