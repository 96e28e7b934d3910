"""Steps in a browser, as somebody takes them, and what there is to see."""

from __future__ import annotations

import os
import shutil

import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import staleness_of
from selenium.webdriver.support.wait import WebDriverWait

MISSING = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
# What every module of browser tests is marked with.
IN_A_BROWSER = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(
        bool(MISSING) and os.environ.get("CI") != "true",
        reason=f"a browser test needs {' and '.join(MISSING)} on the path",
    ),
]

# While one page goes and the next comes, the driver has several names for what it cannot find.
BETWEEN_PAGES = (WebDriverException,)


def choose(driver, selector):
    driver.find_element(By.CSS_SELECTOR, selector).click()


def follow(driver, selector):
    """Click what leads to another page, and wait until it is there."""
    element = driver.find_element(By.CSS_SELECTOR, selector)
    element.click()
    WebDriverWait(driver, 20, ignored_exceptions=BETWEEN_PAGES).until(staleness_of(element))


def text_of(driver, selector):
    return driver.find_element(By.CSS_SELECTOR, selector).text


def colour_of(driver, selector, name):
    return driver.find_element(By.CSS_SELECTOR, selector).value_of_css_property(name)


def wait_for(driver, selector, words, seconds=20):
    """Wait until it reads so, on this page or the one that follows."""

    def reads_so(driver):
        found = driver.find_elements(By.CSS_SELECTOR, selector)
        return any(words in element.text for element in found)

    WebDriverWait(driver, seconds, ignored_exceptions=BETWEEN_PAGES).until(reads_so)


def is_as_wide_as(driver, width):
    """Whether nothing of the page is wider than that."""
    metrics = driver.execute_cdp_cmd("Page.getLayoutMetrics", {})
    return metrics["cssContentSize"]["width"] <= width
