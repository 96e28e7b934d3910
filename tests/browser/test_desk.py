"""Tests of the desk in a real browser: without JavaScript, and live with two people."""

from __future__ import annotations

from urllib.parse import parse_qs, urljoin, urlsplit

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from osvi_django.models import ChatSession
from osvi_django.services import close_session
from osvi_django.services.support import hand_back, take_over
from osvi_django.testing import Drop, Status
from tests.browser.conftest import login_cookie
from tests.browser.steps import (
    BETWEEN_PAGES,
    IN_A_BROWSER,
    choose,
    css_property,
    fits_width,
    focused,
    follow,
    text_of,
    type_into,
    wait_for,
)
from tests.helpers.sandbox import mirror

pytestmark = IN_A_BROWSER

CUSTOMER = "+15551112222"
SESSIONS = "/admin/osvi_django/chatsession/"
TURN = ".osvi-turn-says"
NOTICE = "#osvi-notice"
LINES = "#osvi-lines"


@pytest.fixture(autouse=True)
def operates(staff, grant):
    """Let support staff operate sessions."""
    grant(staff, "operate_chatsession")


@pytest.fixture
def chat(osvi_sandbox, transactional_db):
    """Create a session that only OSVI knows."""
    return osvi_sandbox.add_session(customer_id=CUSTOMER)


@pytest.fixture
def session(osvi_sandbox, transactional_db):
    """Create a session that is known here."""
    return mirror(osvi_sandbox, customer_id=CUSTOMER)


@pytest.fixture
def page(live_server, session):
    """Return the URL of the session's page."""
    return f"{live_server.url}{SESSIONS}{session.pk}/change/"


@pytest.fixture
def look_at(browse, page):
    """Open the session's page as a person, with JavaScript."""

    def _look_at(user=None, **options):
        driver = browse(scripts=True, user=user, **options)
        driver.get(page)
        return driver

    return _look_at


def write(driver, reader, words):
    """Enter a text, choose who reads it, and send the form to the next page."""
    choose(driver, f"input[name=to][value={reader}]")
    driver.find_element(By.NAME, "text").send_keys(words)
    follow(driver, ".osvi-send button")


def send(driver, reader, words):
    """Enter a text, choose who reads it, and send it with the keyboard, on this page."""
    choose(driver, f"input[name=to][value={reader}]")
    type_into(driver, "#id_text", words, Keys.CONTROL + Keys.ENTER)


def text_typed(driver):
    """Return what is in the field for the text."""
    return driver.find_element(By.ID, "id_text").get_property("value")


def wait_until_typed(driver, words):
    """Wait until the field for the text has these words."""
    wait = WebDriverWait(driver, 60, ignored_exceptions=BETWEEN_PAGES)
    wait.until(lambda driver: text_typed(driver) == words)


def mark(driver):
    """Mark this page, so that it can be recognized later."""
    driver.execute_script("document.body.dataset.mark = 'the same page'")


def is_marked(driver):
    """Return whether the page is still the marked one."""
    return driver.execute_script("return document.body.dataset.mark") == "the same page"


def look_up(driver, live_server):
    """Look the customer up from the list, and open the session that is found."""
    driver.get(f"{live_server.url}{SESSIONS}lookup/")
    driver.find_element(By.NAME, "customer_id").send_keys(CUSTOMER)
    follow(driver, "#content input[type=submit]")
    follow(driver, ".osvi-known th a")


class TestWithoutJavaScript:
    def test_desk_from_look_up_to_hand_back_shows_thread(self, browse, live_server, chat):
        driver = browse()
        look_up(driver, live_server)
        assert not driver.find_element(By.CSS_SELECTOR, "input[value=message]").is_enabled()
        follow(driver, "button[value=takeover]")
        write(driver, "message", "Hello, this is Sam.")
        assert text_of(driver, ".messagelist") == "Your message was sent to the customer."
        assert focused(driver).get_attribute("name") == "text"
        write(driver, "message", "Hello, this is Sam.")
        assert focused(driver).get_attribute("name") == "text"
        assert "You already sent this text" in text_of(driver, "#osvi-desk .errorlist")
        driver.find_element(By.NAME, "text").clear()
        write(driver, "tell", "Say goodbye.")
        driver.refresh()
        follow(driver, "button[value=end]")
        assert chat.mode == "ai"
        assert [author for author, _words in chat.messages] == ["operator", "guidance", "agent"]
        thread = text_of(driver, LINES)
        for words in ("Hello, this is Sam.", "sam instructed the agent", chat.messages[-1][1]):
            assert words in thread

    def test_unanswered_text_is_copied_back_and_sent_again_on_purpose(
        self, browse, page, session, osvi_sandbox
    ):
        driver = browse()
        driver.get(page)
        osvi_sandbox.script(session.session_id, Drop())
        write(driver, "tell", "Say hello.")
        assert "may or may not have been done" in text_of(driver, ".messagelist")
        assert text_typed(driver) == ""
        follow(driver, "button[value=copy]")
        assert "This text may have arrived." in text_of(driver, "#osvi-desk .errorlist")
        assert text_typed(driver) == "Say hello."
        assert text_of(driver, ".osvi-send button") == "Send again anyway"
        assert session.actions.count() == 1
        follow(driver, ".osvi-send button")
        assert "The agent has replied" in text_of(driver, ".messagelist")

    def test_text_into_chat_of_colleague_asks_and_is_kept(
        self, browse, page, session, staff, colleague
    ):
        take_over(session, requested_by=staff)
        driver = browse(user=colleague)
        driver.get(page)
        write(driver, "message", "Hello, this is Kim.")
        assert "sam took over" in text_of(driver, "#osvi-desk .errorlist")
        assert text_typed(driver) == "Hello, this is Kim."
        follow(driver, ".osvi-send button")
        assert text_of(driver, ".messagelist") == "Your message was sent to the customer."
        write(driver, "message", "And welcome.")
        assert text_of(driver, ".messagelist") == "Your message was sent to the customer."

    def test_form_after_logout_is_not_sent_and_says_so(self, browse, page, session, staff):
        driver = browse()
        driver.get(page)
        driver.find_element(By.NAME, "text").send_keys("Say hello.")
        driver.delete_cookie("sessionid")
        follow(driver, ".osvi-send button")
        assert "/login/" in driver.current_url
        driver.add_cookie(login_cookie(staff))
        [following] = parse_qs(urlsplit(driver.current_url).query)["next"]
        driver.get(urljoin(page, following))
        # The driver takes all that is there without JavaScript as hidden.
        said = driver.execute_script("return document.querySelector('.messagelist').innerText")
        assert "you were logged out. Without JavaScript, this page could not keep your" in said
        assert driver.current_url.startswith(page)
        assert text_typed(driver) == ""
        assert not session.actions.exists()

    def test_start_form_starts_session(self, browse, live_server, osvi_sandbox):
        driver = browse()
        driver.get(f"{live_server.url}{SESSIONS}start/")
        driver.find_element(By.NAME, "agent_uuid").send_keys("agent_new")
        driver.find_element(By.NAME, "customer_id").send_keys(CUSTOMER)
        follow(driver, "#content input[type=submit]")
        assert text_of(driver, ".messagelist") == "The chat session was started."
        [session] = osvi_sandbox.sessions.values()
        assert session.id in text_of(driver, "#content")

    def test_desk_pages_on_phone_fit_screen(self, browse, live_server, chat):
        driver = browse(400)
        look_up(driver, live_server)
        write(driver, "tell", "w" * 200)
        assert fits_width(driver, 400)
        write(driver, "tell", "w" * 200)
        assert fits_width(driver, 400)
        for page in ("start/", f"lookup/?customer_id=%2B{CUSTOMER[1:]}"):
            driver.get(f"{live_server.url}{SESSIONS}{page}")
            assert fits_width(driver, 400)

    def test_thread_in_dark_theme_changes_colours(self, browse, live_server, chat):
        shades = set()
        for dark in (False, True):
            driver = browse(dark=dark)
            look_up(driver, live_server)
            write(driver, "whisper", f"Dark is {dark}.")
            shades.add(css_property(driver, ".osvi-line blockquote", "background-color"))
        assert len(shades) == 2


class TestTwoPeople:
    def test_second_person_sees_what_first_one_does_without_reload(
        self, look_at, colleague, session
    ):
        sam, kim = look_at(), look_at(colleague)
        for driver in (sam, kim):
            mark(driver)
        choose(sam, "button[value=takeover]")
        wait_for(sam, TURN, "You took over")
        wait_for(kim, TURN, "sam took over less than a minute ago.")
        send(sam, "message", "Hello, this is Sam.")
        wait_for(sam, NOTICE, "Your message was sent to the customer.")
        wait_for(kim, LINES, "Hello, this is Sam.")
        assert focused(sam).get_attribute("id") == "id_text"
        assert text_typed(sam) == ""
        assert (is_marked(sam), is_marked(kim)) == (True, True)

    def test_take_over_from_colleague_asks_first(self, look_at, colleague, session):
        sam = look_at()
        choose(sam, "button[value=takeover]")
        wait_for(sam, TURN, "You took over")
        kim = look_at(colleague)
        choose(kim, ".osvi-turn button[value=takeover]")
        wait_for(kim, "#osvi-desk .errorlist", "If you take over, sam no longer has this chat.")
        session.refresh_from_db()
        assert session.taken_over_by.username == "sam"
        choose(kim, ".osvi-composer button[value=takeover]")
        wait_for(kim, TURN, "You took over")
        wait_for(sam, TURN, "kim took over less than a minute ago.")

    def test_hand_back_of_chat_of_colleague_asks_first(self, look_at, colleague, session):
        take_over(session, requested_by=colleague)
        driver = look_at()
        choose(driver, ".osvi-turn button[value=end]")
        wait_for(driver, "#osvi-desk .errorlist", "and kim no longer has this chat.")
        session.refresh_from_db()
        assert session.mode == "support"
        choose(driver, ".osvi-composer button[value=end]")
        wait_for(driver, TURN, "The AI agent answers the customer.")

    def test_text_into_chat_of_colleague_asks_once_for_each_take_over(
        self, look_at, colleague, session
    ):
        sam, kim = look_at(), look_at(colleague)
        choose(sam, "button[value=takeover]")
        wait_for(kim, TURN, "sam took over")
        send(kim, "message", "Hello, this is Kim.")
        wait_for(kim, "#osvi-desk .errorlist", "sam took over")
        assert text_of(kim, ".osvi-send button") == "Send anyway"
        choose(kim, ".osvi-send button")
        wait_for(kim, NOTICE, "Your message was sent to the customer.")
        send(kim, "message", "And welcome.")
        wait_for(kim, LINES, "And welcome.")
        assert session.actions.filter(kind="message").count() == 2

    def test_text_after_colleague_has_written_asks_first(self, look_at, colleague, session):
        sam, kim = look_at(), look_at(colleague)
        # The page of the second person is no longer kept up to date.
        kim.execute_script("document.getElementById('osvi-session').dataset.live = '/nowhere/'")
        send(sam, "tell", "Say hello.")
        wait_for(sam, NOTICE, "The agent has replied")
        send(kim, "tell", "Say goodbye.")
        wait_for(kim, "#osvi-desk .errorlist", "sam has written since this page was shown.")
        wait_for(kim, LINES, "Say hello.")
        assert text_typed(kim) == "Say goodbye."
        assert text_of(kim, ".osvi-send button") == "Send anyway"
        choose(kim, ".osvi-send button")
        wait_for(kim, NOTICE, "The agent has replied")
        assert session.actions.filter(kind="tell", outcome="done").count() == 2

    def test_title_counts_lines_of_others_until_page_is_seen(self, look_at, session):
        driver = look_at()
        title = driver.title
        first = driver.current_window_handle
        driver.switch_to.new_window("tab")
        session.actions.create(kind="inbound", text="Is anybody there?", outcome="done")
        driver.switch_to.window(first)
        driver.execute_script("Object.defineProperty(document, 'hasFocus', {value: () => false})")
        session.actions.create(kind="inbound", text="Hello?", outcome="done")
        wait = WebDriverWait(driver, 60)
        wait.until(lambda driver: driver.title.startswith("("))
        wait_for(driver, LINES, "Hello?")
        driver.execute_script("window.dispatchEvent(new Event('focus'))")
        assert driver.title == title

    def test_flag_raised_at_osvi_is_shown(self, look_at, session, osvi_sandbox, settings):
        settings.OSVI["default"]["LIVE_INTERVAL"] = 1
        driver = look_at()
        osvi_sandbox.sessions[session.session_id].change(help_requested=True)
        wait_for(driver, ".osvi-help", "The customer needs a person.")


def chosen(driver):
    """Return who is chosen to read the text."""
    script = "return [...document.querySelectorAll('[name=to]:checked')].map(each => each.value)"
    return driver.execute_script(script)


def stop_looking(driver):
    """Let a page no longer be kept up to date."""
    driver.execute_script("document.getElementById('osvi-session').dataset.live = '/nowhere/'")


class TestReaders:
    @pytest.fixture
    def sam(self, look_at):
        """Open the page of a chat, take it over, and type a text for the customer."""
        driver = look_at()
        choose(driver, "button[value=takeover]")
        wait_for(driver, TURN, "You took over")
        assert chosen(driver) == ["message"]
        type_into(driver, "#id_text", "Your order is late.")
        return driver

    def has_refused(self, driver, session):
        """Return whether the text is kept and sent to none, with a request to choose."""
        type_into(driver, "#id_text", Keys.CONTROL + Keys.ENTER)
        wait_for(driver, "#osvi-desk .errorlist", "Choose who gets this text:")
        assert (text_typed(driver), chosen(driver)) == ("Your order is late.", [])
        assert text_of(driver, ".osvi-send button") == "Send"
        return not session.actions.exclude(kind__in=["takeover", "end"]).exists()

    def test_text_for_customer_after_colleague_hands_back_is_for_none(
        self, sam, session, colleague
    ):
        session.refresh_from_db()
        hand_back(session, requested_by=colleague)
        wait_for(sam, NOTICE, "Choose who gets your text")
        assert chosen(sam) == []
        assert self.has_refused(sam, session)
        sam.refresh()
        wait_until_typed(sam, "Your order is late.")
        assert chosen(sam) == []
        take_over(session, requested_by=colleague)
        wait_for(sam, TURN, "kim took over")
        assert chosen(sam) == []

    def test_text_for_customer_after_own_hand_back_is_for_none(self, sam, session):
        choose(sam, "button[value=end]")
        wait_for(sam, ".osvi-composer", "Choose who gets your text")
        assert self.has_refused(sam, session)

    def test_text_for_customer_from_page_not_up_to_date_is_for_none(self, sam, session, colleague):
        stop_looking(sam)
        session.refresh_from_db()
        hand_back(session, requested_by=colleague)
        type_into(sam, "#id_text", Keys.CONTROL + Keys.ENTER)
        wait_for(sam, "#osvi-desk .errorlist", "only after you take over")
        assert self.has_refused(sam, session)

    def test_draft_for_customer_that_is_no_longer_possible_is_for_none(
        self, sam, session, colleague
    ):
        stop_looking(sam)
        session.refresh_from_db()
        hand_back(session, requested_by=colleague)
        sam.refresh()
        wait_for(sam, NOTICE, "Choose who gets your text")
        assert self.has_refused(sam, session)

    @pytest.mark.parametrize(("words", "reader"), [("", "message"), ("They are new.", "tell")])
    def test_take_over_moves_only_empty_text_to_customer(self, look_at, words, reader):
        driver = look_at()
        type_into(driver, "#id_text", words)
        choose(driver, "button[value=takeover]")
        wait_for(driver, TURN, "You took over")
        assert (text_typed(driver), chosen(driver)) == (words, [reader])

    def test_choice_of_readers_outlives_take_over_by_colleague(self, look_at, session, colleague):
        driver = look_at()
        choose(driver, "input[name=to][value=whisper]")
        take_over(session, requested_by=colleague)
        wait_for(driver, TURN, "kim took over")
        assert chosen(driver) == ["whisper"]


def go_offline(driver, *, offline):
    """Cut a browser off from all servers, or connect it again."""
    driver.execute_cdp_cmd("Network.enable", {})
    conditions = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": offline, **conditions})


class TestDrafts:
    def test_draft_is_kept_after_reload_until_it_is_sent(self, look_at, session):
        driver = look_at()
        choose(driver, "input[name=to][value=whisper]")
        type_into(driver, "#id_text", "They are new.")
        driver.refresh()
        wait_for(driver, NOTICE, "This is the text that you had not sent yet.")
        assert text_typed(driver) == "They are new."
        assert text_of(driver, ".osvi-send button") == "Save hint for the next reply"
        type_into(driver, "#id_text", Keys.CONTROL + Keys.ENTER)
        wait_for(driver, NOTICE, "The agent will use this in its next reply.")
        driver.refresh()
        assert text_typed(driver) == ""
        assert session.actions.get().text == "They are new."

    def test_draft_of_another_tab_is_neither_shown_nor_removed(self, look_at, session, page):
        driver = look_at()
        type_into(driver, "#id_text", "They are new.")
        first = driver.current_window_handle
        driver.switch_to.new_window("tab")
        driver.get(page)
        assert text_typed(driver) == ""
        type_into(driver, "#id_text", "Wait", *[Keys.BACKSPACE] * 4)
        driver.refresh()
        assert text_typed(driver) == ""
        driver.close()
        driver.switch_to.window(first)
        driver.refresh()
        wait_until_typed(driver, "They are new.")

    def test_refused_text_that_is_removed_does_not_come_back(self, look_at, session, osvi_sandbox):
        driver = look_at()
        osvi_sandbox.script(session.session_id, Status(422, errors=["Off."]))
        send(driver, "tell", "Wait")
        wait_for(driver, "#osvi-desk .errorlist", "Off.")
        driver.refresh()
        wait_until_typed(driver, "Wait")
        type_into(driver, "#id_text", *[Keys.BACKSPACE] * 4)
        driver.refresh()
        assert text_typed(driver) == ""

    def test_draft_that_was_sent_without_answer_to_page_is_removed(self, look_at, session):
        driver = look_at()
        driver.execute_script(
            "const fetched = window.fetch;"
            "const lose = () => { throw new TypeError('The answer is lost.'); };"
            "window.fetch = (url, how) => "
            "    how.method === 'POST' ? fetched(url, how).then(lose) : fetched(url, how);"
        )
        send(driver, "whisper", "They are new.")
        wait_for(driver, NOTICE, "it is not known whether your text was sent")
        assert text_typed(driver) == "They are new."
        driver.refresh()
        assert text_typed(driver) == ""

    def test_draft_is_kept_after_logout(self, look_at, session, page, staff):
        driver = look_at()
        driver.delete_cookie("sessionid")
        send(driver, "whisper", "They are new.")
        wait_for(driver, NOTICE, "Nothing was sent: you were logged out.")
        assert text_typed(driver) == "They are new."
        staff.set_password("secret")
        staff.save()
        follow(driver, f"{NOTICE} a")
        type_into(driver, "#id_username", staff.username)
        type_into(driver, "#id_password", "secret")
        follow(driver, "[type=submit]")
        wait_for(driver, ".messagelist", "Nothing was sent: you were logged out.")
        assert "JavaScript" not in text_of(driver, ".messagelist")
        wait_until_typed(driver, "They are new.")
        assert not session.actions.exists()

    def test_draft_of_another_user_is_not_shown(self, look_at, page, colleague):
        driver = look_at()
        type_into(driver, "#id_text", "They are new.")
        driver.add_cookie(login_cookie(colleague))
        driver.get(page)
        assert text_typed(driver) == ""

    def test_text_that_was_not_answered_can_be_sent_again(
        self, look_at, session, osvi_sandbox, page
    ):
        driver = look_at()
        osvi_sandbox.script(session.session_id, Drop())
        send(driver, "tell", "Say hello.")
        wait_for(driver, NOTICE, "OSVI did not answer")
        assert text_typed(driver) == ""
        choose(driver, "button[value=copy]")
        wait_for(driver, "#osvi-desk .errorlist", "This text may have arrived.")
        assert text_typed(driver) == "Say hello."
        choose(driver, ".osvi-send button")
        wait_for(driver, NOTICE, "The agent has replied")

    def test_message_that_names_dashboard_links_to_it(
        self, look_at, session, osvi_sandbox, settings
    ):
        settings.OSVI["default"]["DASHBOARD_URL"] = "https://osvi.example/c/{session_id}"
        driver = look_at()
        osvi_sandbox.script(session.session_id, Drop())
        send(driver, "tell", "Say hello.")
        wait_for(driver, f"{NOTICE} a", "OSVI's dashboard")
        link = driver.find_element(By.CSS_SELECTOR, f"{NOTICE} a")
        assert link.get_attribute("href") == f"https://osvi.example/c/{session.session_id}"

    def test_text_that_was_not_answered_asks_if_typed_again(self, look_at, session, osvi_sandbox):
        driver = look_at()
        osvi_sandbox.script(session.session_id, Drop())
        send(driver, "tell", "Say hello.")
        wait_for(driver, NOTICE, "OSVI did not answer")
        send(driver, "tell", "Say hello.")
        wait_for(driver, "#osvi-desk .errorlist", "You already sent this text.")
        assert text_of(driver, ".osvi-send button") == "Send again anyway"
        type_into(driver, "#id_text", Keys.CONTROL + Keys.ENTER)
        wait_for(driver, NOTICE, "The agent has replied")

    def test_text_that_this_site_did_not_answer_is_kept(self, look_at, session):
        driver = look_at()
        go_offline(driver, offline=True)
        try:
            send(driver, "tell", "Say hello.")
            wait_for(driver, NOTICE, "This site did not answer")
            assert text_typed(driver) == "Say hello."
        finally:
            go_offline(driver, offline=False)


def test_page_of_session_that_is_being_closed_shows_its_end(look_at, session, page):
    ChatSession.objects.update(status="closing")
    driver = look_at()
    wait_for(driver, ".osvi-status", "being closed")
    ChatSession.objects.update(status="active")
    close_session(session)
    wait_for(driver, "#osvi-summary", "The customer asked for a refund.")


def test_text_is_kept_if_chat_is_closed_meanwhile(look_at, session):
    driver = look_at()
    type_into(driver, "#id_text", "Half a sentence")
    close_session(session)
    wait_for(driver, "#osvi-changed", "The status of this chat has changed.")
    assert text_typed(driver) == "Half a sentence"
    assert text_of(driver, NOTICE) == ""
    follow(driver, "#osvi-changed a")
    wait_for(driver, "#osvi-draft", "What you typed")
    assert value_of_draft(driver) == "Half a sentence"
    choose(driver, "#osvi-draft .osvi-copy")
    wait_for(driver, "#osvi-draft .osvi-copied", "Copied")
    driver.refresh()
    assert value_of_draft(driver) == "Half a sentence"
    choose(driver, "#osvi-draft-remove")
    assert not driver.find_element(By.ID, "osvi-draft").is_displayed()
    driver.refresh()
    assert not driver.find_element(By.ID, "osvi-draft").is_displayed()


def value_of_draft(driver):
    """Return the text that the page of a chat shows that is no longer open."""
    return driver.find_element(By.ID, "osvi-draft-text").get_property("value")


def test_text_in_chat_that_is_open_again_is_in_its_form(look_at, session):
    driver = look_at()
    type_into(driver, "#id_text", "Half a sentence")
    ChatSession.objects.update(status="unconfirmed")
    driver.refresh()
    assert value_of_draft(driver) == "Half a sentence"
    ChatSession.objects.update(status="active")
    driver.refresh()
    wait_until_typed(driver, "Half a sentence")


def test_summary_can_be_copied(look_at, session):
    close_session(session)
    driver = look_at()
    choose(driver, ".osvi-copy")
    wait_for(driver, ".osvi-copied", "Copied")


@pytest.mark.parametrize("dark", [False, True])
def test_live_desk_on_phone_fits_screen(look_at, session, dark):
    driver = look_at(width=400, dark=dark)
    send(driver, "tell", "w" * 200)
    wait_for(driver, NOTICE, "The agent has replied")
    assert fits_width(driver, 400)
