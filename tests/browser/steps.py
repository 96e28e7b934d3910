"""Steps in a browser: click, follow links, wait, and read what is shown."""

from __future__ import annotations

import os
import shutil

import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import staleness_of
from selenium.webdriver.support.wait import WebDriverWait

MISSING = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
# The marks of every module of browser tests.
IN_A_BROWSER = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(
        bool(MISSING) and os.environ.get("CI") != "true",
        reason=f"a browser test needs {' and '.join(MISSING)} on the path",
    ),
]

# While one page replaces another, the driver raises several errors for missing elements.
BETWEEN_PAGES = (WebDriverException,)


def choose(driver, selector):
    """Click an element of this page."""
    driver.find_element(By.CSS_SELECTOR, selector).click()


def follow(driver, selector):
    """Click a link or button, and wait until this page has been replaced."""
    element = driver.find_element(By.CSS_SELECTOR, selector)
    element.click()
    WebDriverWait(driver, 60, ignored_exceptions=BETWEEN_PAGES).until(staleness_of(element))


def text_of(driver, selector):
    """Return the visible text of an element."""
    return driver.find_element(By.CSS_SELECTOR, selector).text


def is_absent(driver, selector):
    """Return whether a page has no such element, without waiting for one."""
    driver.implicitly_wait(0)
    try:
        return driver.find_elements(By.CSS_SELECTOR, selector) == []
    finally:
        driver.implicitly_wait(10)


def type_into(driver, selector, *words):
    """Click a field of this page and type into it; keys are typed too."""
    field = driver.find_element(By.CSS_SELECTOR, selector)
    field.click()
    field.send_keys(*words)


def focused(driver):
    """Return the element that has the focus."""
    return driver.switch_to.active_element


def press(driver, *keys):
    """Press keys, wherever the focus is."""
    ActionChains(driver).send_keys(*keys).perform()


def css_property(driver, selector, name):
    """Return a CSS property of an element."""
    return driver.find_element(By.CSS_SELECTOR, selector).value_of_css_property(name)


def wait_for(driver, selector, words, seconds=60):
    """Wait until an element contains these words, on this page or the next."""

    def contains_words(driver):
        found = driver.find_elements(By.CSS_SELECTOR, selector)
        return any(words in element.text for element in found)

    WebDriverWait(driver, seconds, ignored_exceptions=BETWEEN_PAGES).until(contains_words)


def fits_width(driver, width):
    """Return whether the page fits into this width."""
    metrics = driver.execute_cdp_cmd("Page.getLayoutMetrics", {})
    return metrics["cssContentSize"]["width"] <= width
