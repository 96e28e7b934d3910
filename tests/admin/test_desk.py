"""Tests of the desk of a session: its forms, its thread, and the permissions."""

from __future__ import annotations

import html as markup
import re
from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from osvi_django.models import ChatSession, SupportAction
from osvi_django.testing import Drop, Junk, Status
from osvi_django.testing.factories import ChatSessionFactory
from tests.admin.session_urls import desk_url, session_url
from tests.helpers.database import call_after_queries

pytestmark = pytest.mark.django_db

WORDS = {
    "message": "Hello <b>there</b>.",
    "tell": "Say <i>sorry</i>.",
    "whisper": "They are <u>new</u>.",
    "context": "Order <s>12</s>.",
}


def commands(osvi):
    """Return the name and the body of each request to OSVI."""
    return [
        (request.body.get("command") or request.path.rpartition("/")[2], request.body)
        for request in osvi.requests
    ]


def chosen_in(html):
    """Return who is chosen on a page to read the text."""
    return re.findall(r'name="to" value="(\w+)"[^>]*checked', html)


@pytest.fixture
def act(operator):
    """Submit a form of the desk, and follow the redirect."""

    def _act(session, name, text="", **more):
        data = {"command": name, "text": text, **more}
        if name in WORDS:
            data = {"command": "send", "to": name, "text": text, **more}
        return operator.post(desk_url(session), data, follow=True)

    return _act


@pytest.fixture
def jo(operator):
    """Return the user who operates."""
    return get_user_model().objects.get(username="jo")


@pytest.fixture
def add_action():
    """Create an action of a session."""

    def _add_action(session, kind="message", **fields):
        fields = {"outcome": "done", "finished_at": timezone.now(), **fields}
        return SupportAction.objects.create(session=session, kind=kind, **fields)

    return _add_action


class TestActions:
    def test_take_over_offers_to_write_to_customer(self, act, mirrored):
        for text, chosen in (("", "message"), ("They are new.", "tell")):
            html = act(mirrored(), "takeover", text, to="tell").text
            assert chosen_in(html) == [chosen]

    @pytest.mark.parametrize(("text", "chosen"), [("", ["tell"]), ("Your order is late.", [])])
    def test_hand_back_never_gives_text_for_customer_to_agent(
        self, act, mirrored, osvi_sandbox, text, chosen
    ):
        session = mirrored()
        act(session, "takeover")
        html = act(session, "end", text, to="message").text
        assert chosen_in(html) == chosen
        assert ('role="alert" class="osvi-unchosen"' in html) == bool(text)
        assert f"{text}</textarea>" in html
        html = act(session, "send", text or "Hello", to="").text
        assert "Choose who gets this text" in html
        assert [name for name, _body in commands(osvi_sandbox)] == ["takeover", "end"]

    def test_form_of_chat_opened_from_list_keeps_its_filters(self, operator, mirrored):
        session = mirrored()
        page = f"{session_url(session)}?_changelist_filters=status%3Dopen"
        [url] = set(re.findall(r'action="([^"]*/desk/[^"]*)"', operator.get(page).text))
        url = markup.unescape(url)
        assert url.count("?") == 1
        operator.logout()
        assert operator.post(url, {"command": "send", "to": "tell", "text": "x"}).status_code == 302
        operator.force_login(get_user_model().objects.get(username="jo"))
        response = operator.get(url, follow=True)
        assert "Nothing was sent: you were logged out" in response.text
        assert response.redirect_chain[-1][0].startswith(page)

    def test_take_over_and_hand_back_change_mode(self, act, mirrored, messages_of, osvi_sandbox):
        session = mirrored()
        response = act(session, "takeover")
        assert response.redirect_chain == [(session_url(session), 302)]
        assert messages_of(response) == [
            (
                "success",
                "You have taken over. The AI agent does not reply on its own until you hand back.",
            )
        ]
        html = response.text
        assert "You took over less than a minute ago." in html
        assert "Hand back" in html
        response = act(session, "end")
        assert messages_of(response)[0][1].startswith("You have handed back")
        assert "The AI agent answers the customer." in response.text
        assert [name for name, _body in commands(osvi_sandbox)] == ["takeover", "end"]

    @pytest.mark.parametrize(
        ("name", "sentence"),
        [
            ("message", "Your message was sent to the customer."),
            ("tell", "The agent has replied to the customer. See its reply below."),
            ("whisper", "The agent will use this in its next reply."),
            ("context", "The fact was added. The agent knows it from now on."),
        ],
    )
    def test_action_with_text_sends_and_stores_it(
        self, act, mirrored, messages_of, osvi_sandbox, jo, name, sentence
    ):
        session = mirrored(mode="support", taken_over_by=jo)
        osvi_sandbox.sessions[session.session_id].mode = "support"
        response = act(session, name, f"  {WORDS[name]}\r\nSo.  ")
        assert response.redirect_chain == [(session_url(session), 302)]
        assert messages_of(response) == [("success", sentence)]
        [(_command, body)] = commands(osvi_sandbox)
        assert body["context" if name == "context" else "message"] == f"{WORDS[name]}\nSo."
        action = SupportAction.objects.get()
        assert (action.requested_by.username, action.via) == ("jo", "admin")
        html = response.text
        assert WORDS[name] not in html
        assert "So." in html
        assert ("Thank you, I have noted that." in html) == (name == "tell")

    def test_tell_without_reply_says_so(self, act, mirrored, messages_of, osvi_sandbox):
        session = mirrored()
        body = b'{"success": true, "data": {"state": "ok", "session_id": "%s"}}'
        answer = body.replace(b"%s", session.session_id.encode())
        osvi_sandbox.script(session.session_id, Junk(answer, "application/json"))
        [(_level, sentence)] = messages_of(act(session, "tell", "Say hello."))
        assert sentence == "The agent received your instruction, but OSVI did not return its reply."

    def test_take_over_keeps_typed_text(self, act, mirrored, messages_of):
        response = act(mirrored(), "takeover", text="Half a <sentence")
        assert messages_of(response)[0][0] == "success"
        assert "Half a &lt;sentence</textarea>" in response.text
        assert ChatSession.objects.get().mode == "support"

    def test_context_shows_last_five_facts(self, act, mirrored):
        session = mirrored()
        for number in range(6):
            html = act(session, "context", f"Fact <{number}>").text
        facts = html[html.index("osvi-context") :].partition("</ul>")[0]
        assert "Fact &lt;0&gt;" not in facts
        assert "Fact &lt;5&gt;" in facts


class TestRefusals:
    @pytest.mark.parametrize("name", ["tell", "whisper", "context"])
    @pytest.mark.parametrize(
        ("fault", "words"),
        [
            (Status(422, errors=["<i>Off.</i>"]), "OSVI said: “&lt;i&gt;Off.&lt;/i&gt;”"),
            (Status(401, error="No."), "OSVI refused this site&#x27;s API token"),
            (Status(429), "OSVI is busy"),
        ],
        ids=repr,
    )
    def test_action_refused_by_osvi_shows_error_and_keeps_text(
        self, act, mirrored, osvi_sandbox, name, fault, words
    ):
        session = mirrored()
        osvi_sandbox.script(session.session_id, fault)
        response = act(session, name, WORDS[name])
        assert response.redirect_chain == [(session_url(session), 302)]
        [error] = response.context["desk"].errors["text"]
        html = response.text
        assert words in html
        assert error
        assert WORDS[name].replace("<", "&lt;").replace(">", "&gt;") + "</textarea>" in html
        assert "autofocus" in html

    def test_take_over_refused_by_osvi_shows_error_above_form(self, act, mirrored, osvi_sandbox):
        session = mirrored()
        osvi_sandbox.switched_off.add((session.agent.uuid, "takeover"))
        response = act(session, "takeover", text="Wait")
        [error] = response.context["desk"].non_field_errors()
        assert error == (
            "OSVI refused the request. Nothing has changed. OSVI said: “command takeover is "
            "switched off”"
        )
        assert "Wait</textarea>" in response.text

    def test_message_before_take_over_is_refused(self, act, mirrored, osvi_sandbox):
        html = act(mirrored(), "message", "Hello").text
        assert "you can write to the customer only after you take over." in html
        assert "Hello</textarea>" in html
        assert "Take over to write to the customer yourself." in html
        assert chosen_in(html) == []
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize("to", [None, "", "close"])
    def test_text_without_readers_is_refused_and_none_are_chosen(
        self, operator, mirrored, osvi_sandbox, to
    ):
        session = mirrored()
        data = {"command": "send", "text": "Say hello.", **({} if to is None else {"to": to})}
        response = operator.post(desk_url(session), data, follow=True)
        [error] = response.context["desk"].errors["to"]
        assert error.startswith("Choose who gets this text:")
        assert "Say hello.</textarea>" in response.text
        assert chosen_in(response.text) == []
        assert chosen_in(operator.get(session_url(session)).text) == []
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize(
        ("status", "reason"),
        [
            ("closed", "This chat session is closed or is being closed, so nothing was sent."),
            ("unconfirmed", "This chat session may be closed already, so nothing was sent."),
        ],
    )
    def test_action_in_session_not_open_is_refused(
        self, act, mirrored, osvi_sandbox, status, reason
    ):
        session = mirrored()
        ChatSession.objects.update(status=status)
        html = act(session, "tell", "Say hello.").text
        assert reason in html
        assert "Say hello.</textarea>" in html
        assert "so nothing can be sent now" in html
        for offered in ("Take over", "Send instruction", "The AI agent", 'name="to"'):
            assert offered not in html
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize("text", ["", "  \r\n ", None])
    def test_action_without_text_shows_error(self, act, mirrored, osvi_sandbox, text):
        response = act(mirrored(), "tell", **({} if text is None else {"text": text}))
        assert response.context["desk"].errors == {"text": ["Enter a text first."]}
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize(
        ("text", "words"), [("a\0b", "Null characters"), ("x" * 10_001, "at most 10000")]
    )
    def test_action_with_invalid_text_shows_error(self, act, mirrored, osvi_sandbox, text, words):
        response = act(mirrored(), "whisper", text)
        [error] = response.context["desk"].errors["text"]
        assert words in error
        assert osvi_sandbox.requests == []

    def test_action_if_osvi_is_unreachable_shows_error(self, act, mirrored, settings):
        settings.OSVI["default"]["BASE_URL"] = "http://127.0.0.1:1"
        html = act(mirrored(), "tell", "Say hello.").text
        assert "OSVI could not be reached. Nothing was sent." in html
        assert "Say hello.</textarea>" in html

    def test_action_with_broken_setting_shows_error(self, act, mirrored, settings):
        session = mirrored()
        settings.OSVI["default"]["API_TOKEN"] = ""
        assert "OSVI is not set up on this site" in act(session, "takeover").text

    @pytest.mark.parametrize("name", ["", "close", "receive"])
    def test_unknown_action_does_nothing_and_says_so(
        self, act, mirrored, messages_of, osvi_sandbox, name
    ):
        response = act(mirrored(), name, text="Wait")
        [(level, sentence)] = messages_of(response)
        assert (level, sentence.partition(":")[0]) == ("warning", "Nothing was done")
        assert "Wait</textarea>" in response.text
        assert osvi_sandbox.requests == []


class TestUnanswered:
    @pytest.fixture
    def unanswered(self, act, mirrored, osvi_sandbox):
        """Create a session with an instruction that OSVI did not answer."""
        session = mirrored()
        osvi_sandbox.script(session.session_id, Drop())
        self.response = act(session, "tell", "Say hello.")
        return session

    def test_unanswered_action_is_in_thread_and_not_in_form(self, unanswered, messages_of):
        assert self.response.redirect_chain == [(session_url(unanswered), 302)]
        [(level, sentence)] = messages_of(self.response)
        assert level == "warning"
        assert sentence.startswith("OSVI did not answer, so this may or may not have been done")
        html = self.response.text
        assert "no answer" in html
        assert "Say hello.</blockquote>" in html
        assert "Say hello.</textarea>" not in html

    def test_unanswered_text_can_be_copied_back_and_is_sent_again_on_purpose(
        self, act, unanswered, osvi_sandbox
    ):
        html = self.response.text
        assert "Your last text may have arrived, or not. Look at the chat" in html
        assert 'name="command" value="copy">Copy it back</button>' in html
        response = act(unanswered, "copy")
        html = response.text
        [error] = response.context["desk"].errors["text"]
        assert error.startswith("This text may have arrived. Look at the chat in OSVI's dashboard")
        assert "Say hello.</textarea>" in html
        assert re.search(r'value="tell"[^>]* checked>', html)
        assert 'value="copy"' not in html
        assert 'value="resend"' in html
        assert "Send again anyway" in html
        assert len(osvi_sandbox.requests) == 1
        html = act(unanswered, "resend", "Say hello.", to="tell").text
        assert len(osvi_sandbox.requests) == 2
        assert 'value="copy"' not in html

    def test_unanswered_text_is_not_copied_over_another_text(self, act, unanswered):
        html = act(unanswered, "copy", "Half a sentence").text
        assert "Nothing was copied, because the text below is not sent yet." in html
        assert "Half a sentence</textarea>" in html
        assert 'value="copy"' in html

    def test_copy_without_unanswered_text_changes_nothing(self, act, mirrored, osvi_sandbox):
        session = mirrored()
        act(session, "tell", "Say hello.")
        html = act(session, "copy", "Half a sentence").text
        assert "Half a sentence</textarea>" in html
        assert 'value="copy"' not in html
        assert len(osvi_sandbox.requests) == 1

    @pytest.mark.parametrize(
        "fields",
        [{"requested_by": None}, {"outcome": "rejected"}, {"outcome": "started"}, {"text": ""}],
    )
    def test_text_that_is_not_an_own_unanswered_one_is_not_offered(
        self, operator, add_action, jo, fields
    ):
        session = ChatSessionFactory()
        fields = {"outcome": "no_answer", "requested_by": jo, "text": "Hello.", **fields}
        add_action(session, "tell", **fields)
        assert 'value="copy"' not in operator.get(session_url(session)).text

    @pytest.mark.parametrize(("later", "offered"), [("whisper", False), ("takeover", True)])
    def test_unanswered_text_is_offered_until_a_later_text(
        self, operator, add_action, jo, later, offered
    ):
        session = ChatSessionFactory()
        add_action(session, "tell", outcome="no_answer", requested_by=jo, text="Hello.")
        add_action(session, later, requested_by=jo, text="Later.")
        assert ('value="copy"' in operator.get(session_url(session)).text) == offered

    def test_unreadable_answer_shows_warning(self, act, mirrored, osvi_sandbox, messages_of):
        session = mirrored()
        osvi_sandbox.script(session.session_id, Junk())
        response = act(session, "whisper", "They are new.")
        assert messages_of(response)[0][0] == "warning"
        assert "unreadable answer" in response.text

    def test_same_text_again_asks_for_confirmation(self, act, unanswered, osvi_sandbox):
        response = act(unanswered, "tell", " Say hello. ")
        html = response.text
        assert "You already sent this text" in html
        assert "Send again anyway" in html
        assert "Say hello." in html[html.index("<textarea") :]
        assert len(osvi_sandbox.requests) == 1

    def test_same_text_with_confirmation_is_sent(
        self, operator, unanswered, osvi_sandbox, messages_of
    ):
        data = {"command": "resend", "to": "tell", "text": "Say hello."}
        response = operator.post(desk_url(unanswered), data, follow=True)
        assert messages_of(response)[0][0] == "success"
        assert len(osvi_sandbox.requests) == 2

    def test_other_text_or_action_is_sent(self, act, unanswered, osvi_sandbox):
        act(unanswered, "tell", "Say goodbye.")
        act(unanswered, "whisper", "Say hello.")
        assert len(osvi_sandbox.requests) == 3

    @pytest.mark.parametrize("name", WORDS)
    def test_same_text_in_progress_elsewhere_asks_for_confirmation(
        self, act, mirrored, add_action, osvi_sandbox, jo, name
    ):
        session = mirrored(mode="support", taken_over_by=jo)
        hour = timezone.now() - timedelta(hours=1)
        add_action(session, name, text="Hello.", outcome="started", via="rest", started_at=hour)
        response = act(session, name, "Hello.")
        [error] = response.context["desk"].errors["text"]
        assert error.startswith("You already sent this text")
        assert 'name="command" value="resend"' in response.text
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize(("seconds", "requests"), [(5, 0), (60, 1)])
    def test_same_text_within_seconds_asks_for_confirmation(
        self, act, mirrored, add_action, osvi_sandbox, seconds, requests
    ):
        session = mirrored()
        started = timezone.now() - timedelta(seconds=seconds)
        add_action(session, "whisper", text="They are new.", started_at=started)
        response = act(session, "whisper", "They are new.")
        assert len(osvi_sandbox.requests) == requests
        assert ("Send again anyway" in response.text) == (not requests)
        act(session, "whisper", "they are new.")
        assert len(osvi_sandbox.requests) == requests + 1

    def test_same_text_within_seconds_with_confirmation_is_sent(
        self, act, mirrored, add_action, osvi_sandbox
    ):
        session = mirrored()
        add_action(session, "whisper", text="They are new.")
        act(session, "resend", to="whisper", text="They are new.")
        assert len(osvi_sandbox.requests) == 1


class TestPermissions:
    @pytest.mark.parametrize("method", ["get", "post"])
    def test_desk_without_permission_returns_403(self, log_in, mirrored, osvi_sandbox, method):
        client = log_in("view_chatsession", "close_chatsession", "view_sessionsummary")
        session = mirrored()
        assert (
            getattr(client, method)(desk_url(session), {"command": "takeover"}).status_code == 403
        )
        assert osvi_sandbox.requests == []
        assert "osvi-desk" not in client.get(session_url(session)).text

    def test_post_without_csrf_token_returns_403(self, operator, mirrored):
        strict = Client(enforce_csrf_checks=True)
        strict.force_login(get_user_model().objects.get())
        assert strict.post(desk_url(mirrored()), {"command": "takeover"}).status_code == 403

    def test_post_by_anonymous_user_redirects_to_login(self, client, mirrored):
        response = client.post(desk_url(mirrored()), {"command": "takeover"})
        assert response["Location"].startswith(reverse("admin:login"))

    def test_post_without_view_permission_redirects_to_desk(self, log_in, mirrored, messages_of):
        client = log_in("operate_chatsession")
        session = mirrored()
        response = client.post(
            desk_url(session), {"command": "send", "to": "whisper", "text": "Wait"}, follow=True
        )
        assert response.redirect_chain == [(desk_url(session), 302)]
        assert messages_of(response)[0][0] == "success"
        html = response.text
        assert "Wait</blockquote>" in html
        assert session_url(session) not in html

    @pytest.mark.parametrize("checks", range(1, 4))
    def test_post_after_permission_is_removed_returns_403(
        self, log_in, mirrored, allowed_once, osvi_sandbox, checks
    ):
        client = log_in()
        allowed_once(*["operate_chatsession"] * checks)
        assert client.post(desk_url(mirrored()), {"command": "takeover"}).status_code == 403
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize("key", ["999999", "x"])
    def test_post_to_unknown_session_shows_warning(self, operator, messages_of, key):
        url = reverse("admin:osvi_django_chatsession_desk", args=[key])
        [(level, sentence)] = messages_of(operator.post(url, {"command": "takeover"}, follow=True))
        assert (level, "There is no chat session" in sentence) == ("warning", True)

    def test_post_if_session_is_deleted_meanwhile_shows_warning(self, act, mirrored, messages_of):
        session, seen = mirrored(), []

        def is_found(sql, _params):
            found = sql.startswith("SELECT") and "osvi_django_chatsession" in sql and not seen
            return found and not seen.append(sql)

        with call_after_queries(is_found, ChatSession.objects.all().delete):
            response = act(session, "takeover")
        assert "There is no chat session" in messages_of(response)[0][1]
        assert seen


class TestThread:
    def test_thread_shows_actions_in_order_with_names(self, operator, add_action):
        session = ChatSessionFactory()
        user = get_user_model().objects.get()
        now = timezone.now()
        add_action(session, "takeover", requested_by=user, started_at=now - timedelta(minutes=1))
        add_action(
            session, "inbound", text="Help <me>!", reply="How?", started_at=now - timedelta(1)
        )
        add_action(session, "end", via="code", started_at=now)
        html = operator.get(session_url(session)).text
        places = [
            html.index(words)
            for words in (
                '<strong dir="auto">The customer</strong> wrote',
                "Help &lt;me&gt;!",
                "The agent replied:",
                "How?",
                '<strong dir="auto">jo</strong> took over',
                '<strong dir="auto">This site</strong> handed back',
            )
        ]
        assert places == sorted(places)

    @pytest.mark.parametrize(
        ("outcome", "code", "trouble", "advice"),
        [
            (
                "started",
                "",
                "in progress",
                "If this does not change, the process that sent it has stopped.",
            ),
            ("no_answer", "unconfirmed", "no answer", "Check the chat in OSVI&#x27;s dashboard"),
            ("bad_answer", "", "unreadable answer", "Check the chat in OSVI&#x27;s dashboard"),
            ("rejected", "rejected", "refused by OSVI", "OSVI said: “&lt;No&gt;”"),
            ("not_sent", "unreachable", "not sent", "Try again in a moment."),
            ("not_sent", "", "not sent", ""),
        ],
    )
    def test_thread_with_failed_action_shows_advice(
        self, operator, add_action, outcome, code, trouble, advice
    ):
        session = ChatSessionFactory()
        reason = "<No>" if code == "rejected" else ""
        add_action(session, "tell", outcome=outcome, error_code=code, error_reason=reason)
        html = operator.get(session_url(session)).text
        assert f'<span class="osvi-trouble">{trouble}</span>' in html
        assert advice in html

    def test_thread_with_redacted_text_says_so(self, operator, add_action):
        session = ChatSessionFactory()
        add_action(session, redacted_at=timezone.now())
        for wordless in ("start", "takeover", "end"):
            add_action(session, wordless, text="", redacted_at=timezone.now())
        html = operator.get(session_url(session)).text
        assert html.count("The text was removed because it was too old.") == 1
        assert "because the customer was erased" not in html
        ChatSession.objects.update(erased_at=timezone.now())
        html = operator.get(session_url(session)).text
        assert html.count("The text was removed because the customer was erased.") == 1
        assert "too old" not in html

    @pytest.mark.parametrize(
        ("permission", "reads"),
        [
            ("view_sessionsummary", True),
            ("operate_chatsession", True),
            ("close_chatsession", False),
        ],
    )
    def test_thread_texts_require_permission_to_read(self, log_in, add_action, permission, reads):
        session = ChatSessionFactory()
        add_action(session, "tell", text="Confidential", reply="Confident")
        html = log_in("view_chatsession", permission).get(session_url(session)).text
        assert ("Confident" in html) == reads
        assert ("You do not have permission to read the texts." in html) != reads
        assert "instructed the agent" in html

    @pytest.mark.parametrize(("number", "is_cut"), [(49, False), (50, True)])
    def test_thread_beyond_limit_says_older_are_not_shown(
        self, operator, add_action, number, is_cut
    ):
        now = timezone.now()
        session = ChatSessionFactory(started_at=now - timedelta(days=1))
        for age in range(number):
            add_action(session, text=f"Number {age}.", started_at=now - timedelta(minutes=age))
        html = operator.get(session_url(session)).text
        assert ("Older entries are not shown." in html) == is_cut
        assert "Number 0." in html
        assert ("Number 50." in html) is False

    def test_closed_session_shows_thread_and_no_desk(self, operator, add_action):
        session = ChatSessionFactory(status="closed")
        add_action(session, text="Goodbye.")
        for url in (session_url(session), desk_url(session)):
            html = operator.get(url).text
            assert "Goodbye.</blockquote>" in html
            assert "Take over" not in html

    def test_thread_with_many_actions_costs_same_queries(
        self, operator, add_action, django_assert_max_num_queries
    ):
        session = ChatSessionFactory()
        user = get_user_model().objects.get()
        add_action(session, requested_by=user)
        with django_assert_max_num_queries(30) as short:
            operator.get(session_url(session))
        for _number in range(20):
            add_action(session, requested_by=user)
        with django_assert_max_num_queries(len(short)):
            operator.get(session_url(session))


class TestPage:
    def test_page_before_take_over_offers_no_message_to_customer(self, operator):
        html = operator.get(session_url(ChatSessionFactory(help_requested=True))).text
        assert "Take over to write to the customer yourself." in html
        assert re.search(r'value="message"[^>]* disabled>', html)
        assert re.search(r'value="tell"[^>]* checked>', html)
        assert html.count("The customer needs a person.") == 1

    def test_page_after_take_over_offers_message_to_customer(self, operator):
        session = ChatSessionFactory(mode="support", active_human="<Kim>")
        html = operator.get(session_url(session)).text
        assert re.search(r'value="message"[^>]* checked>', html)
        assert "&lt;Kim&gt; has taken over. The AI agent does not reply on its own." in html

    def test_page_taken_over_without_name_says_colleague(self, operator):
        html = operator.get(session_url(ChatSessionFactory(mode="support"))).text
        assert "A colleague has taken over" in html

    def test_page_fields_have_labels_and_help_texts(self, operator):
        html = operator.get(session_url(ChatSessionFactory(mode="support"))).text
        for name in WORDS:
            assert f'<label for="osvi-to-{name}">' in html
            assert f'aria-describedby="osvi-to-{name}-help"' in html
            assert f'id="osvi-to-{name}-help"' in html
        assert '<label for="id_text"' in html

    @pytest.mark.parametrize("status", ["closing", "unconfirmed", "closed"])
    def test_page_of_session_not_open_has_no_desk(self, operator, status):
        session = ChatSessionFactory(status=status)
        html = operator.get(session_url(session)).text
        assert "osvi-desk" not in html
        assert 'id="osvi-draft"' in html  # which is hidden without a text that was not sent

    def test_page_of_session_not_open_without_operate_permission_has_no_draft(self, log_in):
        session = ChatSessionFactory(status="closed")
        html = log_in("view_chatsession").get(session_url(session)).text
        assert "osvi-draft" not in html

    def test_page_links_to_look_up_of_customer(self, operator):
        session = ChatSessionFactory(customer_id="+1&a=b")
        assert (
            "?customer_id=%2B1%26a%3Db&amp;account=default"
            in operator.get(session_url(session)).text
        )
        for unknown in ({"customer_id": ""}, {"erased_at": timezone.now(), "status": "closed"}):
            html = operator.get(session_url(ChatSessionFactory(**unknown))).text
            assert "osvi-look-up" not in html

    def test_page_without_operate_permission_has_no_link_to_look_up(self, log_in):
        html = log_in("view_chatsession").get(session_url(ChatSessionFactory())).text
        assert "osvi-look-up" not in html


@pytest.mark.django_db(transaction=True)
def test_take_over_with_atomic_requests_succeeds(operator, mirrored, settings):
    assert settings.DATABASES["default"]["ATOMIC_REQUESTS"]
    session = mirrored()
    operator.post(desk_url(session), {"command": "takeover"})
    session.refresh_from_db()
    assert session.mode == "support"
