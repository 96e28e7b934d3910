"""Tests of looking up a customer and starting a session."""

from __future__ import annotations

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.test import Client
from django.urls import reverse

from osvi_django.admin import customers
from osvi_django.models import ChatAgent, ChatSession, CloseAttempt, SessionSummary, StartLock
from osvi_django.testing import Drop, Junk, Status
from osvi_django.testing.factories import (
    ChatAgentFactory,
    ChatSessionFactory,
    ClosedSessionFactory,
)
from tests.admin.session_urls import session_url
from tests.helpers.database import call_after_queries
from tests.helpers.sandbox import script_next_starts

pytestmark = pytest.mark.django_db

LIST = reverse("admin:osvi_django_chatsession_changelist")
LOOKUP = reverse("admin:osvi_django_chatsession_lookup")
START = reverse("admin:osvi_django_chatsession_start")
CUSTOMER = "+1555<b>&"


@pytest.fixture
def look_up(operator, osvi_sandbox):
    """Look up a customer."""
    return lambda customer=CUSTOMER, **more: operator.post(
        LOOKUP, {"customer_id": customer, **more}, follow=True
    )


@pytest.fixture
def start(operator, osvi_sandbox):
    """Start a session, with a new agent if none is named."""

    def _start(**fields):
        data = {"agent_uuid": "agent_new", "customer_id": CUSTOMER, **fields}
        return operator.post(START, data, follow=True)

    return _start


@pytest.fixture
def start_as_closer(log_in, osvi_sandbox):
    """Start a session as staff who may also close."""
    client = log_in("view_chatsession", "operate_chatsession", "close_chatsession")

    def _start(**fields):
        data = {"agent_uuid": "agent_new", "customer_id": CUSTOMER, **fields}
        return client.post(START, data, follow=True)

    return _start


@pytest.fixture
def two_accounts(settings, osvi_sandbox):
    """Configure a second account."""
    settings.OSVI["other"] = dict(settings.OSVI["default"])


class TestAccess:
    @pytest.mark.parametrize("url", [LOOKUP, START])
    @pytest.mark.parametrize("method", ["get", "post"])
    def test_pages_without_permission_return_403(self, log_in, osvi_sandbox, url, method):
        client = log_in("view_chatsession", "close_chatsession", "view_sessionsummary")
        assert getattr(client, method)(url, {"customer_id": "x"}).status_code == 403
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize("url", [LOOKUP, START])
    def test_post_without_csrf_token_returns_403(self, operator, url):
        strict = Client(enforce_csrf_checks=True)
        strict.force_login(get_user_model().objects.get())
        assert strict.post(url, {"customer_id": "x"}).status_code == 403

    @pytest.mark.parametrize("url", [LOOKUP, START])
    def test_pages_for_anonymous_user_redirect_to_login(self, client, url):
        assert client.get(url)["Location"].startswith(reverse("admin:login"))

    @pytest.mark.parametrize("permission", ["operate_chatsession", "close_chatsession"])
    def test_list_links_to_pages_only_with_permission(self, log_in, permission):
        html = log_in("view_chatsession", permission).get(LIST).text
        for url in (LOOKUP, START):
            assert (f'href="{url}"' in html) == (permission == "operate_chatsession")

    @pytest.mark.parametrize(
        ("url", "data"),
        [(LOOKUP, {"customer_id": "x"}), (START, {"customer_id": "x", "agent_uuid": "y"})],
    )
    def test_post_after_permission_is_removed_returns_403(
        self, log_in, allowed_once, osvi_sandbox, url, data
    ):
        client = log_in()
        allowed_once("operate_chatsession")
        assert client.post(url, data).status_code == 403
        assert osvi_sandbox.requests == []

    def test_pages_without_view_permission_link_to_page_without_sessions(self, log_in, mirrored):
        mirrored()
        client = log_in("operate_chatsession")
        for url in (LOOKUP, START):
            assert f'href="{LIST}"' in client.get(url).text
        assert "result_list" not in client.get(LIST).text


class TestLookUp:
    def test_look_up_unknown_way_to_write_number_offers_known_customers(self, look_up):
        for number in ("+8880000004", "+18880000004", "+18880000005"):
            ChatSessionFactory(agent__account="default", customer_id=number)
        ChatSessionFactory(agent__account="other", customer_id="8880000004")
        ChatSessionFactory.create_batch(2, agent__account="default", customer_id="888-000-0004")
        response = look_up("(888) 000-0004")
        assert "Known here with these digits:" in response.text
        known = {name for name, _link in response.context["alike"]}
        assert known == {"+8880000004", "+18880000004", "888-000-0004"}
        assert len(response.context["alike"]) == 3
        _name, link = response.context["alike"][0]
        assert response.client.get(link).context["rows"]

    def test_look_up_unknown_id_offers_nothing(self, look_up):
        ChatSessionFactory(agent__account="default", customer_id="+8880000004")
        assert "Known here" not in look_up("somebody").text

    def test_look_up_shows_open_and_closed_sessions(self, look_up, messages_of, osvi_sandbox):
        closed = ClosedSessionFactory(customer_id=CUSTOMER)
        another = ChatSessionFactory(customer_id="another")
        there = osvi_sandbox.add_session(customer_id=CUSTOMER)
        response = look_up(f" {CUSTOMER} ")
        [(url, status)] = response.redirect_chain
        assert (url.partition("?")[0], status) == (LOOKUP, 302)
        assert messages_of(response) == [("success", "OSVI has 1 active chat for this customer.")]
        html = response.text
        assert f'<a href="{session_url(ChatSession.objects.get(session_id=there.id))}">' in html
        assert f'<a href="{session_url(closed)}">' in html
        assert another.session_id not in html
        assert CUSTOMER not in html
        assert "Chat sessions of <bdi>+1555&lt;b&gt;&amp;" in html

    def test_look_up_explains_pause_and_changes_nothing_else(
        self, operator, look_up, osvi_sandbox, mirrored
    ):
        html = operator.get(LOOKUP).text
        assert "we briefly pause them at OSVI" in html
        assert "Nothing at OSVI is changed" not in html
        there = osvi_sandbox.add_session(customer_id=CUSTOMER)
        gone = mirrored(customer_id=CUSTOMER, status="dormant")
        look_up()
        assert there.status == "active"
        assert osvi_sandbox.sessions[gone.session_id].status == "dormant"
        [asked, paused] = osvi_sandbox.requests
        assert (asked.method, paused.session_id) == ("GET", gone.session_id)
        assert paused.path.endswith("/pause_session")

    def test_look_up_without_sessions_says_so(self, look_up, messages_of):
        response = look_up()
        assert messages_of(response) == [("info", "OSVI has no active chat for this customer.")]
        assert "No chats found for" in response.text

    @pytest.mark.parametrize(
        ("listed", "quiet", "unknown", "level", "words"),
        [
            (0, 1, 0, "success", "no active chat for this customer. 1 more chat is still open"),
            (2, 2, 0, "success", "2 active chats for this customer. 2 more chats are still open"),
            (1, 0, 1, "warning", "OSVI did not say whether 1 other chat is closed."),
            (0, 1, 2, "warning", "OSVI did not say whether 2 other chats are closed."),
        ],
    )
    def test_look_up_message_counts_active_open_and_unknown_chats(
        self, look_up, messages_of, osvi_sandbox, mirrored, listed, quiet, unknown, level, words
    ):
        for number in range(listed):
            osvi_sandbox.add_session(customer_id=CUSTOMER, agent_uuid=f"agent_{number}")
        for _number in range(quiet):
            mirrored(customer_id=CUSTOMER, status="dormant")
        for _number in range(unknown):
            session = mirrored(customer_id=CUSTOMER, status="dormant")
            osvi_sandbox.script(session.session_id, Drop())
        [(said_level, said)] = messages_of(look_up())
        assert (said_level, words in said) == (level, True)

    def test_look_up_session_closed_at_osvi_stores_reason_and_user(
        self, operator, look_up, osvi_sandbox, mirrored
    ):
        session = mirrored(customer_id=CUSTOMER, status="dormant")
        osvi_sandbox.sessions[session.session_id].change(status="closed")
        look_up()
        html = operator.get(session_url(session)).text
        assert "found that OSVI has closed the chat" in html
        assert "OSVI no longer lists it as active" in html
        attempt = CloseAttempt.objects.get()
        assert (str(attempt.requested_by), attempt.via) == ("jo", "admin")

    def test_look_up_by_get_sends_nothing(self, operator, osvi_sandbox):
        session = ChatSessionFactory(customer_id=CUSTOMER)
        html = operator.get(LOOKUP, {"customer_id": CUSTOMER}).text
        assert session.session_id in html
        assert 'value="+1555&lt;b&gt;&amp;"' in html
        assert "osvi-known" not in operator.get(LOOKUP).text
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize("customer", ["", "a\0b", "x" * 256, "."])
    def test_look_up_with_invalid_id_shows_field_error(self, look_up, osvi_sandbox, customer):
        response = look_up(customer)
        assert [status for _url, status in response.redirect_chain] == [302]
        assert len(response.context["form"].errors["customer_id"]) == 1
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize(
        ("fault", "words"),
        [
            (Status(401, error="No."), "OSVI refused this site&#x27;s API token"),
            (Status(422, errors=["<i>No.</i>"]), "OSVI said: “&lt;i&gt;No.&lt;/i&gt;”"),
            (Status(429), "OSVI is busy"),
            (Drop(), "OSVI did not answer. Nothing has changed there."),
            (Junk(), "this page shows only what was known before"),
        ],
        ids=repr,
    )
    def test_look_up_osvi_error_shows_message_and_known_sessions(
        self, look_up, osvi_sandbox, fault, words
    ):
        session = ChatSessionFactory(customer_id=CUSTOMER)
        osvi_sandbox.script(None, fault)
        response = look_up()
        assert [status for _url, status in response.redirect_chain] == [302]
        assert words in response.text
        assert session.session_id in response.text

    @pytest.mark.parametrize(
        ("setting", "value", "words"),
        [
            ("BASE_URL", "http://127.0.0.1:1", "OSVI could not be reached"),
            ("API_TOKEN", "", "OSVI is not set up on this site"),
        ],
    )
    def test_look_up_unreachable_or_not_set_up_shows_message(
        self, look_up, settings, setting, value, words
    ):
        settings.OSVI["default"][setting] = value
        assert words in look_up().text

    def test_look_up_without_settings_shows_message(self, look_up, settings):
        del settings.OSVI
        assert "OSVI is not set up on this site" in look_up().text

    def test_look_up_with_several_accounts_requires_account(
        self, operator, look_up, two_accounts, osvi_sandbox
    ):
        assert "OSVI account" in operator.get(LOOKUP).text
        assert look_up().context["form"].errors["account"]
        assert look_up(account="third").context["form"].errors["account"]
        assert osvi_sandbox.requests == []
        osvi_sandbox.add_session(customer_id=CUSTOMER)
        response = look_up(account="other")
        assert "OSVI has 1 active chat" in response.text
        assert ChatAgent.objects.get().account == "other"
        # The same id in another account is another customer.
        html = operator.get(LOOKUP, {"customer_id": CUSTOMER, "account": "default"}).text
        assert "No chats found for" in html

    @pytest.mark.parametrize(("number", "is_cut"), [(2, False), (3, True)])
    def test_look_up_beyond_limit_says_older_are_not_shown(
        self, operator, monkeypatch, number, is_cut
    ):
        monkeypatch.setattr(customers, "SESSIONS_SHOWN", 2)
        ChatSessionFactory.create_batch(number, customer_id=CUSTOMER)
        html = operator.get(LOOKUP, {"customer_id": CUSTOMER}).text
        assert html.count('<th scope="row">') == 2
        assert ("Older entries are not shown." in html) == is_cut

    def test_look_up_with_many_sessions_costs_same_queries(
        self, operator, django_assert_max_num_queries
    ):
        ChatSessionFactory(customer_id=CUSTOMER)
        with django_assert_max_num_queries(10) as few:
            operator.get(LOOKUP, {"customer_id": CUSTOMER})
        ChatSessionFactory.create_batch(10, customer_id=CUSTOMER)
        with django_assert_max_num_queries(len(few)):
            operator.get(LOOKUP, {"customer_id": CUSTOMER})

    def test_look_up_without_view_permission_links_to_desks(self, log_in):
        session = ChatSessionFactory(customer_id=CUSTOMER)
        client = log_in("operate_chatsession")
        html = client.get(LOOKUP, {"customer_id": CUSTOMER}).text
        assert reverse("admin:osvi_django_chatsession_desk", args=[session.pk]) in html
        assert session_url(session) not in html


class TestStart:
    def test_start_page_shows_warning_and_sends_nothing(self, operator, osvi_sandbox):
        known = ChatAgentFactory(name="<Maya>")
        ChatAgentFactory(uuid=None, number=42, name="Nameless")
        html = operator.get(START).text
        assert (
            "If the customer already has an open chat with this agent, no new chat is started"
            in html
        )
        assert "Close it first and start" not in html  # it requires the permission to close
        assert f'<option value="{known.pk}">&lt;Maya&gt;</option>' in html
        assert "Nameless" not in html
        assert osvi_sandbox.requests == []

    def test_start_with_new_agent_starts_session(self, start, messages_of, osvi_sandbox):
        response = start(name_0="first_name", value_0="Al<ex>", context=" One \r\n\r\n Two \r\n")
        session = ChatSession.objects.get()
        assert response.redirect_chain == [(session_url(session), 302)]
        assert messages_of(response) == [("success", "The chat session was started.")]
        there = osvi_sandbox.sessions[session.session_id]
        assert (there.agent_uuid, there.customer_id) == ("agent_new", CUSTOMER)
        assert there.input_fields == {"first_name": "Al<ex>"}
        assert there.context == ["One", "Two"]
        assert LogEntry.objects.get().get_change_message() == "The chat session was started."

    def test_start_with_listed_agent_uses_its_account(self, start, osvi_sandbox, two_accounts):
        agent = ChatAgentFactory(account="other", name="Maya")
        response = start(agent=agent.pk, agent_uuid="", account="default")
        session = ChatSession.objects.get()
        assert session.agent == agent
        assert response.redirect_chain == [(session_url(session), 302)]

    def test_start_page_with_several_accounts_shows_account_of_agent(self, operator, two_accounts):
        ChatAgentFactory(account="other", name="Maya")
        html = operator.get(START).text
        assert "Maya (other)" in html
        assert "The account of the agent whose UUID you entered." in html

    def test_start_with_open_chat_is_refused_and_links_to_it(
        self, start, messages_of, osvi_sandbox
    ):
        start()
        response = start(context="Keep <me>", replace="on")
        session = ChatSession.objects.get()
        assert response.redirect_chain == [(START, 302)]
        html = response.text
        assert f"The customer already has the chat {session} open with this agent" in html
        assert f'<a href="{session_url(session)}">Open the existing chat <bdi>{session}' in html
        assert "Close it first and start" not in html  # this user may not close
        assert "Keep &lt;me&gt;</textarea>" in html
        assert not osvi_sandbox.sessions[session.session_id].is_closed

    def test_start_while_another_is_being_started_is_refused_without_link(
        self, start, messages_of, osvi_sandbox
    ):
        def is_lock(sql, _params):
            return sql.startswith("INSERT") and StartLock._meta.db_table in sql

        # The other start ends, and with it the lock that this one waits for.
        with call_after_queries(is_lock, StartLock.objects.all().delete):
            response = start()
        assert "is being started," in response.text
        assert messages_of(response) == []
        assert osvi_sandbox.requests == []

    def test_start_with_replace_closes_open_chat_first(self, start_as_closer, osvi_sandbox):
        start_as_closer()
        first = ChatSession.objects.get()
        offered = start_as_closer()
        assert "Close it first and start" in offered.text
        start_as_closer(replace="on")
        assert ChatSession.objects.count() == 2
        attempt = CloseAttempt.objects.get()
        assert (attempt.session, attempt.kind, attempt.via) == (first, "close", "admin")
        assert str(attempt.requested_by) == "jo"
        assert first.attempts.get().session.summary.text == attempt.session.summary.text
        assert SessionSummary.objects.get().text == osvi_sandbox.sessions[first.session_id].summary

    @pytest.mark.parametrize("fault", [Drop(), Status(422), Junk()], ids=repr)
    def test_start_with_replace_if_close_fails_starts_nothing(
        self, start_as_closer, osvi_sandbox, fault
    ):
        start_as_closer()
        first = ChatSession.objects.get()
        osvi_sandbox.script(first.session_id, fault)
        response = start_as_closer(replace="on", context="Keep <me>")
        assert response.redirect_chain == [(START, 302)]
        assert "Keep &lt;me&gt;</textarea>" in response.text
        assert ChatSession.objects.count() == len(osvi_sandbox.sessions) == 1

    @pytest.mark.parametrize("fault", [Drop(), Junk(), Status(500)], ids=repr)
    def test_start_if_open_chats_are_unknown_starts_nothing(self, start, osvi_sandbox, fault):
        osvi_sandbox.script(None, fault)
        response = start(context="Keep <me>")
        assert response.redirect_chain == [(START, 302)]
        assert "so no chat was started. Try again in a moment." in response.text
        assert [each.method for each in osvi_sandbox.requests] == ["GET"]

    def test_start_shows_user_in_thread(self, operator, start):
        start()
        html = operator.get(session_url(ChatSession.objects.get())).text
        assert '<strong dir="auto">jo</strong> started the chat' in html
        action = ChatSession.objects.get().actions.get()
        assert (str(action.requested_by), action.via) == ("jo", "admin")

    @pytest.mark.parametrize("is_chosen", [True, False])
    def test_start_with_both_or_no_agent_shows_error(self, start, osvi_sandbox, is_chosen):
        chosen = {"agent": ChatAgentFactory().pk} if is_chosen else {"agent_uuid": ""}
        response = start(**chosen, name_0="a", value_0="1", context="Keep <me>")
        assert response.context["form"].errors["agent"] == [
            "Choose an agent from the list, or enter the UUID of another agent."
        ]
        assert "Keep &lt;me&gt;</textarea>" in response.text
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize(
        ("rows", "field", "problem"),
        [
            ({"value_1": "Alex"}, "name_1", "Enter a name for this value."),
            (
                {"name_0": "a", "value_0": "1", "name_4": "a", "value_4": "2"},
                "name_4",
                "There is another row with this name.",
            ),
        ],
    )
    def test_start_with_invalid_rows_shows_error(self, start, osvi_sandbox, rows, field, problem):
        response = start(**rows)
        assert response.context["form"].errors[field] == [problem]
        assert osvi_sandbox.requests == []

    def test_start_with_more_rows_keeps_what_was_typed(self, operator, start, osvi_sandbox):
        html = start(name_4="tier", value_4="Gold", add_row="yes").text
        assert 'name="name_9"' in html
        assert 'value="Gold"' in html
        assert "errorlist" not in html
        start(rows="10", name_9="tier", value_9="Gold")
        assert osvi_sandbox.sessions[ChatSession.objects.get().session_id].input_fields == {
            "tier": "Gold"
        }

    def test_start_offers_a_limited_number_of_rows(self, start):
        html = start(rows="999", add_row="yes").text
        assert ('name="name_49"' in html, 'name="name_50"' in html) == (True, False)

    def test_start_asks_whether_to_close_the_open_chat_first(
        self, start_as_closer, osvi_sandbox, settings
    ):
        rules = {"CLOSE_REASONS": ["Answered"], "NOTE_REQUIRED": True}
        settings.OSVI["default"] |= rules
        start_as_closer()
        first = ChatSession.objects.get()
        html = start_as_closer().text
        assert "Close it first and start" in html
        assert '<option value="Answered">' in html
        asked = {"replace": "on", "open_chat": str(first.pk)}
        html = start_as_closer(**asked).text
        assert "note is required" in html
        assert "Close it first and start" in html
        start_as_closer(**asked, note="New topic", close_reason="Answered")
        first.refresh_from_db()
        assert (first.status, first.close_reason) == ("closed", "Answered")
        assert ChatSession.objects.count() == 2

    def test_start_with_invalid_agent_uuid_shows_error(self, start, osvi_sandbox):
        assert start(agent_uuid="..").context["form"].errors["agent_uuid"]
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize(
        ("fault", "words"),
        [
            (Status(401, error="No."), "OSVI refused this site&#x27;s API token"),
            (Status(422, errors=["<i>No.</i>"]), "OSVI said: “&lt;i&gt;No.&lt;/i&gt;”"),
            (Status(503), "OSVI is busy"),
        ],
        ids=repr,
    )
    def test_start_refused_by_osvi_shows_message_and_keeps_input(
        self, start, osvi_sandbox, fault, words
    ):
        osvi_sandbox.script(None, fault)
        response = start(context="Keep <me>")
        assert response.redirect_chain == [(START, 302)]
        assert words in response.text
        assert "Keep &lt;me&gt;</textarea>" in response.text
        assert not ChatSession.objects.exists()

    @pytest.mark.parametrize("fault", [Drop(after_closing=True), Junk()], ids=repr)
    def test_start_without_answer_redirects_to_look_up(
        self, start, look_up, messages_of, osvi_sandbox, fault
    ):
        script_next_starts(osvi_sandbox, fault)
        response = start()
        assert response.redirect_chain[0][0].startswith(f"{LOOKUP}?customer_id=%2B1555")
        [(level, sentence)] = messages_of(response)
        assert level == "warning"
        assert "Look up the customer here" in sentence
        assert "OSVI has 1 active chat" in look_up().text

    @pytest.mark.parametrize(
        ("setting", "value", "words"),
        [
            ("BASE_URL", "http://127.0.0.1:1", "OSVI could not be reached"),
            ("API_TOKEN", "", "OSVI is not set up on this site"),
        ],
    )
    def test_start_unreachable_or_not_set_up_shows_message(
        self, start, settings, setting, value, words
    ):
        settings.OSVI["default"][setting] = value
        assert words in start().text

    def test_start_without_view_permission_redirects_to_desk(self, log_in, osvi_sandbox):
        client = log_in("operate_chatsession")
        response = client.post(START, {"agent_uuid": "a", "customer_id": "c"})
        session = ChatSession.objects.get()
        assert response["Location"] == reverse(
            "admin:osvi_django_chatsession_desk", args=[session.pk]
        )


@pytest.mark.django_db(transaction=True)
def test_look_up_and_start_with_atomic_requests_succeed(start, look_up, settings):
    assert settings.DATABASES["default"]["ATOMIC_REQUESTS"]
    start()
    assert "OSVI has 1 active chat" in look_up().text
