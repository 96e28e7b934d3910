"""Tests of the desk in a real browser without JavaScript."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.by import By

from tests.browser.steps import IN_A_BROWSER, css_property, fits_width, follow, text_of

pytestmark = IN_A_BROWSER

CUSTOMER = "+15551112222"
SESSIONS = "/admin/osvi_django/chatsession/"


@pytest.fixture
def browse(browse, staff, grant):
    """Open a browser as support staff who may operate sessions."""
    grant(staff, "operate_chatsession")
    return browse


@pytest.fixture
def chat(osvi_sandbox, transactional_db):
    """Create a session that only OSVI knows."""
    return osvi_sandbox.add_session(customer_id=CUSTOMER)


def write(driver, name, words):
    """Enter a text into a form of the desk and send it."""
    driver.find_element(By.NAME, name).send_keys(words)
    follow(driver, f"button[value={name}]")


def look_up(driver, live_server):
    """Look the customer up from the list, and open the session that is found."""
    driver.get(f"{live_server.url}{SESSIONS}")
    follow(driver, ".object-tools a[href$='lookup/']")
    driver.find_element(By.NAME, "customer_id").send_keys(CUSTOMER)
    follow(driver, "#content input[type=submit]")
    follow(driver, ".osvi-known th a")


def test_desk_from_look_up_to_hand_back_shows_thread(browse, live_server, chat):
    driver = browse()
    look_up(driver, live_server)
    assert driver.find_elements(By.NAME, "message") == []
    follow(driver, "button[value=takeover]")
    write(driver, "message", "Hello, this is Sam.")
    assert text_of(driver, ".messagelist") == "Your message was sent to the customer."
    write(driver, "message", "Hello, this is Sam.")
    assert driver.switch_to.active_element.get_attribute("name") == "message"
    assert "You already sent this text" in text_of(driver, ".osvi-command .errorlist")
    follow(driver, ".closelink")
    write(driver, "tell", "Say goodbye.")
    follow(driver, "button[value=end]")
    assert chat.mode == "ai"
    assert [author for author, _words in chat.messages] == ["operator", "guidance", "agent"]
    thread = text_of(driver, ".osvi-thread")
    for words in ("Hello, this is Sam.", "sam instructed the agent", chat.messages[-1][1]):
        assert words in thread


def test_start_form_starts_session(browse, live_server, osvi_sandbox):
    driver = browse()
    driver.get(f"{live_server.url}{SESSIONS}start/")
    driver.find_element(By.NAME, "agent_uuid").send_keys("agent_new")
    driver.find_element(By.NAME, "customer_id").send_keys(CUSTOMER)
    follow(driver, "#content input[type=submit]")
    assert text_of(driver, ".messagelist") == "The chat session was started."
    [session] = osvi_sandbox.sessions.values()
    assert session.id in text_of(driver, "#content")


def test_desk_pages_on_phone_fit_screen(browse, live_server, chat):
    driver = browse(400)
    look_up(driver, live_server)
    write(driver, "tell", "w" * 200)
    assert fits_width(driver, 400)
    write(driver, "tell", "w" * 200)
    assert fits_width(driver, 400)
    for page in ("start/", f"lookup/?customer_id=%2B{CUSTOMER[1:]}"):
        driver.get(f"{live_server.url}{SESSIONS}{page}")
        assert fits_width(driver, 400)


def test_thread_in_dark_theme_changes_colours(browse, live_server, chat):
    shades = set()
    for dark in (False, True):
        driver = browse(dark=dark)
        look_up(driver, live_server)
        write(driver, "whisper", f"Dark is {dark}.")
        shades.add(css_property(driver, ".osvi-line blockquote", "background-color"))
    assert len(shades) == 2
