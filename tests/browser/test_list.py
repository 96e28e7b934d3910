"""Tests of the list of sessions in a real browser: its width, and the filter by agent."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest
from django.utils import timezone
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from osvi_django.models import DataExport, Erasure
from osvi_django.testing.factories import ChatAgentFactory, ChatSessionFactory
from tests.browser.steps import (
    IN_A_BROWSER,
    choose,
    follow,
    is_absent,
    text_of,
    type_into,
    wait_for,
)

pytestmark = IN_A_BROWSER

ROWS = "#result_list tbody"
# How far the columns and one element of each row reach beyond the part of the list that is seen.
BEYOND = """
const list = document.getElementById("result_list").parentElement;
const edge = list.getBoundingClientRect().right;
const rights = [...document.querySelectorAll(arguments[0])].map(
    (each) => each.getBoundingClientRect().right
);
return Math.max(...rights) - edge;
"""
LINES = """
return Math.max(...[...document.querySelectorAll(arguments[0])].map(
    (each) => each.getBoundingClientRect().height / parseFloat(getComputedStyle(each).fontSize)
));
"""


@pytest.fixture
def page(live_server, django_user_model):
    """Return the URL of the list, with wide values in every column."""
    name = "maximiliane.hohenzollern-sigmaringen@support.example.com"
    kim = django_user_model.objects.create_user(name)
    agent = ChatAgentFactory(name="Night desk for returns")
    taken = {"mode": "support", "taken_over_by": kim}
    ChatSessionFactory(agent=agent, customer_id="+15551112222", help_requested=True, **taken)
    ChatSessionFactory(agent=agent, customer_id="+15551112223", status="unconfirmed")
    return f"{live_server.url}/admin/osvi_django/chatsession/"


@pytest.mark.parametrize("name", ["dataexport", "erasure"])
def test_list_of_history_fits_between_sidebar_and_filters(browse, admin_user, live_server, name):
    by = {"requested_by": admin_user, "via": "recovery", "finished_at": timezone.now()}
    selection = "closed, closed by me, closed: in the last 30 days, agent: Night desk"
    DataExport.objects.create(
        file_format="jsonl", rows=1234567, selection=selection, outcome="completed", **by
    )
    Erasure.objects.create(marker="a" * 64, account="international", state="unfinished", **by)
    driver = browse(1280, user=admin_user)
    driver.get(f"{live_server.url}/admin/osvi_django/{name}/")
    assert driver.execute_script(BEYOND, "#result_list td") <= 0


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_list_fits_between_sidebar_and_filters(browse, admin_user, page, dark):
    driver = browse(1280, dark=dark, user=admin_user)
    driver.get(page)
    assert driver.execute_script(BEYOND, "#result_list td") <= 0
    assert driver.execute_script(LINES, ".osvi-person") < 2


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_list_on_phone_shows_whole_status(browse, admin_user, page, dark):
    driver = browse(400, dark=dark, user=admin_user)
    driver.get(page)
    assert driver.execute_script(BEYOND, ".osvi-help-mark, .osvi-status") <= 0


@pytest.fixture
def agents():
    """Create two agents, each with a session of each mode."""
    found = [ChatAgentFactory(name=f"Maya {number}", uuid=f"uuid-{number}") for number in (1, 2)]
    for agent in found:
        for mode in ("ai", "support"):
            ChatSessionFactory(agent=agent, mode=mode, customer_id=f"{agent.name} {mode}")
    return found


def query_of(driver):
    """Return the query of the page that is shown."""
    return parse_qs(urlsplit(driver.current_url).query)


def test_agent_is_chosen_by_typing_and_cleared(browse, page, agents):
    driver = browse(scripts=True)
    driver.get(f"{page}?mode__exact=ai&o=-4")
    assert not driver.find_element(By.CSS_SELECTOR, ".osvi-find-agent").is_displayed()
    choose(driver, ".osvi-choose-agent .select2-selection")
    type_into(driver, ".select2-search__field", "maya 2")
    wait_for(driver, ".select2-results__option--highlighted", "Maya 2")
    type_into(driver, ".select2-search__field", Keys.ENTER)
    wait_for(driver, "#changelist-filter li.selected", "Maya 2")
    key = str(agents[1].pk)
    assert query_of(driver) == {"mode__exact": ["ai"], "o": ["-4"], "agent__id__exact": [key]}
    assert "Maya 2 ai" in text_of(driver, ROWS)
    assert "Maya 1" not in text_of(driver, ROWS)
    follow(driver, ".select2-selection__clear")
    wait_for(driver, ROWS, "Maya 1 ai")
    assert query_of(driver) == {"mode__exact": ["ai"], "o": ["-4"]}


def test_agent_is_found_without_javascript(browse, page, agents):
    driver = browse()
    driver.get(f"{page}?mode__exact=ai")
    assert not driver.find_element(By.CSS_SELECTOR, ".osvi-choose-agent").is_displayed()
    type_into(driver, ".osvi-find-agent input", "uuid")
    follow(driver, ".osvi-find-agent button")
    follow(driver, ".osvi-found li:last-child a")
    assert query_of(driver) == {"mode__exact": ["ai"], "agent__id__exact": [str(agents[1].pk)]}
    assert "Maya 2 ai" in text_of(driver, ROWS)


def test_agent_is_found_if_script_of_django_is_missing(browse, page, agents):
    driver = browse(scripts=True)
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*select2.full*"]})
    try:
        driver.get(page)
        assert driver.find_element(By.CSS_SELECTOR, ".osvi-find-agent").is_displayed()
        assert is_absent(driver, ".select2-container")
    finally:
        driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})


def test_start_page_after_logout_says_so_and_counts_no_longer(browse, admin_user, page):
    driver = browse(user=admin_user, scripts=True)
    driver.get(f"{page}chats/")
    title = driver.title
    assert title.startswith("(1) ")
    said = "#osvi-chats-logged-out"
    assert not driver.find_element(By.CSS_SELECTOR, said).is_displayed()
    cookie = driver.get_cookie("sessionid")
    driver.delete_cookie("sessionid")
    wait_for(driver, said, "You were logged out")
    assert driver.title == title.removeprefix("(1) ")
    assert not driver.find_element(By.ID, "osvi-chats-stale").is_displayed()
    driver.add_cookie(cookie)  # the user logs in again in another tab
    WebDriverWait(driver, 60).until(lambda driver: driver.title == title)
    assert not driver.find_element(By.CSS_SELECTOR, said).is_displayed()
    driver.delete_cookie("sessionid")
    wait_for(driver, said, "You were logged out")
    follow(driver, f"{said} a")
    assert "/login/" in driver.current_url
    assert driver.current_url.endswith("chats/")
