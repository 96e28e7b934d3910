"""Fixtures of the tests in a real browser."""

from __future__ import annotations

import shutil

import pytest
from selenium import webdriver
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


@pytest.fixture
def browse(live_server, staff, client):
    """Open a browser that is logged in as support staff."""
    opened = []

    def _browse(width=1280, *, dark=False, scripts=False):
        options = webdriver.ChromeOptions()
        for flag in FLAGS:
            options.add_argument(flag)
        if not scripts:
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
