"""Operating a session in a real browser, without JavaScript."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.by import By

from tests.browser.steps import IN_A_BROWSER, colour_of, follow, is_as_wide_as, text_of

pytestmark = IN_A_BROWSER

CUSTOMER = "+15551112222"
SESSIONS = "/admin/osvi_django/chatsession/"


@pytest.fixture
def browse(browse, staff, grant):
    grant(staff, "operate_chatsession")
    return browse


@pytest.fixture
def there(osvi_sandbox, transactional_db):
    """A session that only OSVI knows."""
    return osvi_sandbox.add_session(customer_id=CUSTOMER)


def write(driver, name, words):
    driver.find_element(By.NAME, name).send_keys(words)
    follow(driver, f"button[value={name}]")


def look_up(driver, live_server):
    driver.get(f"{live_server.url}{SESSIONS}")
    follow(driver, ".object-tools a[href$='lookup/']")
    driver.find_element(By.NAME, "customer_id").send_keys(CUSTOMER)
    follow(driver, "#content input[type=submit]")
    follow(driver, ".osvi-known th a")


def test_from_a_customers_name_to_a_word_with_them(browse, live_server, there):
    driver = browse()
    look_up(driver, live_server)
    assert driver.find_elements(By.NAME, "message") == []
    follow(driver, "button[value=takeover]")
    write(driver, "message", "Hello, this is Sam.")
    assert text_of(driver, ".messagelist") == "Your message was sent to the customer."
    write(driver, "message", "Hello, this is Sam.")
    assert driver.switch_to.active_element.get_attribute("name") == "message"
    assert "You already sent this text" in text_of(driver, ".osvi-words .errorlist")
    follow(driver, ".closelink")
    write(driver, "tell", "Say goodbye.")
    follow(driver, "button[value=end]")
    assert there.mode == "ai"
    assert [author for author, _words in there.messages] == ["operator", "guidance", "agent"]
    thread = text_of(driver, ".osvi-thread")
    for words in ("Hello, this is Sam.", "sam instructed the agent", there.messages[-1][1]):
        assert words in thread


def test_a_session_is_started(browse, live_server, osvi_sandbox):
    driver = browse()
    driver.get(f"{live_server.url}{SESSIONS}start/")
    driver.find_element(By.NAME, "agent_uuid").send_keys("agent_new")
    driver.find_element(By.NAME, "customer_id").send_keys(CUSTOMER)
    follow(driver, "#content input[type=submit]")
    assert text_of(driver, ".messagelist") == "The chat session was started."
    [session] = osvi_sandbox.sessions.values()
    assert session.id in text_of(driver, "#content")


def test_on_a_phone_nothing_is_cut_off(browse, live_server, there):
    driver = browse(400)
    look_up(driver, live_server)
    write(driver, "tell", "w" * 200)
    assert is_as_wide_as(driver, 400)
    write(driver, "tell", "w" * 200)
    assert is_as_wide_as(driver, 400)
    for page in ("start/", f"lookup/?customer_id=%2B{CUSTOMER[1:]}"):
        driver.get(f"{live_server.url}{SESSIONS}{page}")
        assert is_as_wide_as(driver, 400)


def test_the_dark_theme_is_dark(browse, live_server, there):
    shades = set()
    for dark in (False, True):
        driver = browse(dark=dark)
        look_up(driver, live_server)
        write(driver, "whisper", f"Dark is {dark}.")
        shades.add(colour_of(driver, ".osvi-line blockquote", "background-color"))
    assert len(shades) == 2
