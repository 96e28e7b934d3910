"""Every page of ours in a real browser: accessible, within a strict policy, and on a phone."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from django.contrib import admin
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from osvi_django.testing.factories import ChatAgentFactory
from tests.browser.steps import IN_A_BROWSER, fits_width, focused, press, wait_for
from tests.helpers.admin_pages import fill_site, pages_of
from tests.helpers.sandbox import mirror

pytestmark = IN_A_BROWSER

# All between the header and the footer, but not the theme's side bar.
CONTENT = ["#content"]
# What Django draws there: its search, its inlines, and the autocomplete of its own fields.
OF_DJANGO = [
    "#changelist-search",
    "section.osvi-thread",
    ".inline-group thead",
    ".select2-container",
]
# The rules of WCAG, and what axe calls best practices.
RUN_AXE = """
const [ours, others, done] = arguments;
const there = (selector) => document.querySelector(selector);
axe.run(
    {include: ours.filter(there), exclude: others.filter(there)},
    {resultTypes: ["violations"]},
).then(
    (results) => done(results.violations.flatMap((violation) => violation.nodes.map(
        (node) => `${violation.id}: ${node.html} (${violation.help})`
    ))),
    (error) => done([String(error)]),
);
"""


@pytest.fixture
def pages(osvi_sandbox, admin_user, transactional_db):
    """Create rows of every kind, and return the URL of each page by its name."""
    return pages_of(admin.site, fill_site(osvi_sandbox, admin_user))


@pytest.fixture(scope="module")
def axe():
    """Return the source of axe-core."""
    if sys.version_info < (3, 12):
        pytest.skip("axe-selenium-python with a recent axe-core needs Python 3.12")
    package = importlib.util.find_spec("axe_selenium_python")
    file = Path(package.origin).parent / "node_modules/axe-core/axe.min.js"
    return file.read_text(encoding="utf-8")


def violations_of(driver, axe):
    """Return what axe finds in our part of the page."""
    driver.execute_script(axe)
    return driver.execute_async_script(RUN_AXE, CONTENT, OF_DJANGO)


def complaints_of(driver):
    """Return what the browser wrote to its console."""
    written = [entry["message"] for entry in driver.get_log("browser")]
    return [each for each in written if "/favicon.ico" not in each]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_pages_are_accessible(browse, live_server, admin_user, pages, axe, dark):
    driver = browse(scripts=True, dark=dark, user=admin_user)
    driver.set_script_timeout(60)
    found = {}
    for name, page in pages.items():
        driver.get(f"{live_server.url}{page}")
        if violations := violations_of(driver, axe):
            found[name] = violations
    assert found == {}, json.dumps(found, indent=1)


def test_pages_keep_policy_and_fit_phone(browse, live_server, admin_user, pages):
    driver = browse(400, scripts=True, user=admin_user)
    found = {}
    for name, page in pages.items():
        driver.get(f"{live_server.url}{page}")
        problems = complaints_of(driver)
        if not fits_width(driver, 400):
            problems.append("It is wider than the screen.")
        if problems:
            found[name] = problems
    assert found == {}, json.dumps(found, indent=1)


def reached_by_tab(driver, selector, *, limit=80):
    """Press Tab until this element of our part has the focus, and return whether it is visible."""
    wanted = driver.find_element(By.CSS_SELECTOR, selector)
    for _ in range(limit):
        press(driver, Keys.TAB)
        if focused(driver) == wanted:
            return bool(wanted.is_displayed())
    return False


def test_chat_is_looked_up_and_closed_with_keyboard_alone(
    browse, live_server, admin_user, osvi_sandbox, transactional_db
):
    session = mirror(osvi_sandbox, agent=ChatAgentFactory(name="Night desk"))
    driver = browse(user=admin_user)
    driver.get(f"{live_server.url}/admin/osvi_django/chatsession/")
    assert reached_by_tab(driver, ".osvi-ways a[href*='lookup/']")
    press(driver, Keys.ENTER)
    assert reached_by_tab(driver, "[name=customer_id]")
    press(driver, session.customer_id, Keys.ENTER)
    assert reached_by_tab(driver, f".osvi-known a[href*='/{session.pk}/']")
    press(driver, Keys.ENTER)
    assert reached_by_tab(driver, "#content a.osvi-close-link")
    press(driver, Keys.ENTER)
    assert reached_by_tab(driver, "#content form [type=submit]")
    press(driver, Keys.ENTER)
    wait_for(driver, ".messagelist", "The chat is closed")
