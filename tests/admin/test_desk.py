"""The desk of a session: take over, speak, guide the agent, hand back, and what came of it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from osvi_django.models import ChatSession, SupportAction
from osvi_django.testing import Drop, Junk, Status
from osvi_django.testing.factories import ChatSessionFactory
from tests.outside import noticed

pytestmark = pytest.mark.django_db

WORDS = {
    "message": "Hello <b>there</b>.",
    "tell": "Say <i>sorry</i>.",
    "whisper": "They are <u>new</u>.",
    "context": "Order <s>12</s>.",
}


def page_of(session):
    return reverse("admin:osvi_django_chatsession_change", args=[session.pk])


def desk_of(session):
    return reverse("admin:osvi_django_chatsession_desk", args=[session.pk])


def commands(osvi):
    """What was asked of OSVI, in a word each."""
    return [
        (request.body.get("command") or request.path.rpartition("/")[2], request.body)
        for request in osvi.requests
    ]


def html_of(response):
    return response.content.decode()


@pytest.fixture
def operator(log_in):
    return log_in("view_chatsession", "operate_chatsession")


@pytest.fixture
def act(operator):
    """Do one thing at the desk, and follow to the page after it."""

    def _act(session, name, text="", **more):
        data = {"command": name, name: text, **more}
        return operator.post(desk_of(session), data, follow=True)

    return _act


@pytest.fixture
def said():
    """Make an action of a session that was done, or was not."""

    def _said(session, kind="message", **fields):
        fields = {"outcome": "done", "finished_at": timezone.now(), **fields}
        return SupportAction.objects.create(session=session, kind=kind, **fields)

    return _said


class TestActs:
    def test_taking_over_and_handing_back(self, act, mirrored, told, osvi_sandbox):
        session = mirrored()
        response = act(session, "takeover")
        assert response.redirect_chain == [(page_of(session), 302)]
        assert told(response) == [
            (
                "success",
                "You have taken over. The AI agent does not reply until someone hands back.",
            )
        ]
        html = html_of(response)
        assert "<strong>Support operator</strong> has taken over (since " in html
        assert "Hand back" in html
        assert 'value="takeover"' not in html
        response = act(session, "end")
        assert told(response)[0][1].startswith("You have handed back")
        assert "replies to the customer." in html_of(response)
        assert [name for name, _body in commands(osvi_sandbox)] == ["takeover", "end"]

    @pytest.mark.parametrize(
        ("name", "sentence"),
        [
            ("message", "Your message was sent to the customer."),
            ("tell", "The agent has replied to the customer. You find its reply below."),
            ("whisper", "The agent will use this in its next reply."),
            ("context", "The fact was added. The agent knows it from now on."),
        ],
    )
    def test_what_takes_words(self, act, mirrored, told, osvi_sandbox, name, sentence):
        session = mirrored(mode="support")
        osvi_sandbox.sessions[session.session_id].mode = "support"
        response = act(session, name, f"  {WORDS[name]}\r\nSo.  ")
        assert response.redirect_chain == [(page_of(session), 302)]
        assert told(response) == [("success", sentence)]
        [(_command, body)] = commands(osvi_sandbox)
        assert body["context" if name == "context" else "message"] == f"{WORDS[name]}\nSo."
        action = SupportAction.objects.get()
        assert (action.requested_by.username, action.via) == ("jo", "admin")
        html = html_of(response)
        assert WORDS[name] not in html
        assert "So." in html
        assert ("Thank you, I have noted that." in html) == (name == "tell")

    def test_an_agent_that_says_nothing(self, act, mirrored, told, osvi_sandbox):
        session = mirrored()
        body = b'{"success": true, "data": {"state": "ok", "session_id": "%s"}}'
        answer = body.replace(b"%s", session.session_id.encode())
        osvi_sandbox.script(session.session_id, Junk(answer, "application/json"))
        [(_level, sentence)] = told(act(session, "tell", "Say hello."))
        assert sentence == "The agent received your instruction, but OSVI did not return its reply."

    def test_what_was_typed_elsewhere_outlasts_taking_over(self, act, mirrored, told):
        response = act(mirrored(), "takeover", message="Half a <sentence")
        assert told(response)[0][0] == "success"
        assert "Half a &lt;sentence</textarea>" in html_of(response)
        assert ChatSession.objects.get().mode == "support"

    def test_the_last_five_facts_are_shown(self, act, mirrored):
        session = mirrored()
        for number in range(6):
            html = html_of(act(session, "context", f"Fact <{number}>"))
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
    def test_what_osvi_refuses_is_a_sentence_beside_what_was_typed(
        self, act, mirrored, osvi_sandbox, name, fault, words
    ):
        session = mirrored()
        osvi_sandbox.script(session.session_id, fault)
        response = act(session, name, WORDS[name])
        assert response.redirect_chain == [(desk_of(session), 302)]
        [error] = response.context["desk"].errors[name]
        html = html_of(response)
        assert words in html
        assert error
        assert WORDS[name].replace("<", "&lt;").replace(">", "&gt;") + "</textarea>" in html
        assert "autofocus" in html

    def test_what_takes_no_words_is_refused_above_them(self, act, mirrored, osvi_sandbox):
        session = mirrored()
        osvi_sandbox.switched_off.add((session.agent.uuid, "takeover"))
        response = act(session, "takeover", whisper="Wait")
        [error] = response.context["desk"].non_field_errors()
        assert error == (
            "OSVI refused the request. Nothing has changed. OSVI said: “command takeover is "
            "switched off”"
        )
        assert "Wait</textarea>" in html_of(response)

    def test_a_message_before_taking_over(self, act, mirrored, osvi_sandbox):
        html = html_of(act(mirrored(), "message", "Hello"))
        assert "you can write to the customer only after you take over." in html
        assert "Hello</textarea>" in html
        assert "Take over to write to the customer yourself." in html
        assert "Send to the customer" not in html
        assert osvi_sandbox.requests == []

    def test_one_that_is_closed_meanwhile(self, act, mirrored, osvi_sandbox):
        session = mirrored()
        ChatSession.objects.update(status="closed")
        html = html_of(act(session, "tell", "Say hello."))
        assert "This chat session is closed or is being closed, so nothing was sent." in html
        assert "Say hello.</textarea>" in html
        assert "so nothing can be sent now" in html
        for offered in ("Take over", "Send instruction", "The AI agent", "replies to the customer"):
            assert offered not in html
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize("text", ["", "  \r\n ", None])
    def test_nothing_is_not_sent(self, act, mirrored, osvi_sandbox, text):
        response = act(mirrored(), "tell", **({} if text is None else {"text": text}))
        assert response.context["desk"].errors == {"tell": ["Enter a text first."]}
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize(
        ("text", "words"), [("a\0b", "Null characters"), ("x" * 10_001, "at most 10000")]
    )
    def test_what_cannot_be_sent(self, act, mirrored, osvi_sandbox, text, words):
        response = act(mirrored(), "whisper", text)
        [error] = response.context["desk"].errors["whisper"]
        assert words in error
        assert osvi_sandbox.requests == []

    def test_osvi_being_down(self, act, mirrored, settings):
        settings.OSVI["default"]["BASE_URL"] = "http://127.0.0.1:1"
        html = html_of(act(mirrored(), "tell", "Say hello."))
        assert "OSVI could not be reached. Nothing was sent." in html
        assert "Say hello.</textarea>" in html

    def test_a_broken_setting(self, act, mirrored, settings):
        session = mirrored()
        settings.OSVI["default"]["API_TOKEN"] = ""
        assert "OSVI is not set up on this site" in html_of(act(session, "takeover"))

    @pytest.mark.parametrize("name", ["", "close", "receive"])
    def test_an_unknown_act_does_nothing_and_says_so(self, act, mirrored, told, osvi_sandbox, name):
        response = act(mirrored(), name, whisper="Wait")
        [(level, sentence)] = told(response)
        assert (level, sentence.partition(":")[0]) == ("warning", "Nothing was done")
        assert "Wait</textarea>" in html_of(response)
        assert osvi_sandbox.requests == []


class TestUnanswered:
    @pytest.fixture
    def lost(self, act, mirrored, osvi_sandbox):
        session = mirrored()
        osvi_sandbox.script(session.session_id, Drop())
        self.response = act(session, "tell", "Say hello.")
        return session

    def test_it_stands_in_the_thread_and_a_reload_does_not_repeat_it(self, lost, told):
        assert self.response.redirect_chain == [(page_of(lost), 302)]
        [(level, sentence)] = told(self.response)
        assert level == "warning"
        assert sentence.startswith("OSVI did not answer, so this may or may not have been done")
        html = html_of(self.response)
        assert "no answer" in html
        assert "Say hello.</blockquote>" in html
        assert "Say hello.</textarea>" not in html

    def test_an_answer_that_makes_no_sense(self, act, mirrored, osvi_sandbox, told):
        session = mirrored()
        osvi_sandbox.script(session.session_id, Junk())
        response = act(session, "whisper", "They are new.")
        assert told(response)[0][0] == "warning"
        assert "unreadable answer" in html_of(response)

    def test_the_same_once_more_is_asked_about_first(self, act, lost, osvi_sandbox):
        response = act(lost, "tell", " Say hello. ")
        html = html_of(response)
        assert "You already sent this text" in html
        assert "Send again anyway" in html
        assert "Say hello." in html[html.index("<textarea") :]
        assert len(osvi_sandbox.requests) == 1

    def test_it_can_be_sent_again_on_purpose(self, operator, lost, osvi_sandbox, told):
        data = {"resend": "tell", "tell": "Say hello."}
        response = operator.post(desk_of(lost), data, follow=True)
        assert told(response)[0][0] == "success"
        assert len(osvi_sandbox.requests) == 2

    def test_other_words_and_other_acts_are_sent(self, act, lost, osvi_sandbox):
        act(lost, "tell", "Say goodbye.")
        act(lost, "whisper", "Say hello.")
        assert len(osvi_sandbox.requests) == 3

    @pytest.mark.parametrize("name", WORDS)
    def test_so_is_what_another_door_has_under_way(self, act, mirrored, said, osvi_sandbox, name):
        session = mirrored(mode="support")
        hour = timezone.now() - timedelta(hours=1)
        said(session, name, text="Hello.", outcome="started", via="rest", started_at=hour)
        response = act(session, name, "Hello.")
        [error] = response.context["desk"].errors[name]
        assert error.startswith("You already sent this text")
        assert f'name="resend" value="{name}"' in html_of(response)
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize(("seconds", "requests"), [(5, 0), (60, 1)])
    def test_a_second_click_is_not_a_second_message(
        self, act, mirrored, said, osvi_sandbox, seconds, requests
    ):
        session = mirrored()
        started = timezone.now() - timedelta(seconds=seconds)
        said(session, "whisper", text="They are new.", started_at=started)
        response = act(session, "whisper", "They are new.")
        assert len(osvi_sandbox.requests) == requests
        assert ("Send again anyway" in html_of(response)) == (not requests)
        act(session, "whisper", "they are new.")
        assert len(osvi_sandbox.requests) == requests + 1

    def test_nor_is_a_message_that_is_meant_twice(self, act, mirrored, said, osvi_sandbox):
        session = mirrored()
        said(session, "whisper", text="They are new.")
        act(session, "", whisper="They are new.", resend="whisper")
        assert len(osvi_sandbox.requests) == 1


class TestPermissions:
    @pytest.mark.parametrize("method", ["get", "post"])
    def test_without_the_permission_it_is_a_403(self, log_in, mirrored, osvi_sandbox, method):
        client = log_in("view_chatsession", "close_chatsession", "view_sessionsummary")
        session = mirrored()
        assert getattr(client, method)(desk_of(session), {"command": "takeover"}).status_code == 403
        assert osvi_sandbox.requests == []
        assert "osvi-desk" not in html_of(client.get(page_of(session)))

    def test_it_wants_a_csrf_token(self, operator, mirrored):
        strict = Client(enforce_csrf_checks=True)
        strict.force_login(get_user_model().objects.get())
        assert strict.post(desk_of(mirrored()), {"command": "takeover"}).status_code == 403

    def test_the_unknown_are_asked_to_log_in(self, client, mirrored):
        response = client.post(desk_of(mirrored()), {"command": "takeover"})
        assert response["Location"].startswith(reverse("admin:login"))

    def test_who_may_operate_and_not_look_stays_at_the_desk(self, log_in, mirrored, told):
        client = log_in("operate_chatsession")
        session = mirrored()
        response = client.post(
            desk_of(session), {"command": "whisper", "whisper": "Wait"}, follow=True
        )
        assert response.redirect_chain == [(desk_of(session), 302)]
        assert told(response)[0][0] == "success"
        html = html_of(response)
        assert "Wait</blockquote>" in html
        assert page_of(session) not in html

    def test_a_permission_that_is_taken_at_this_moment_is_a_403(
        self, log_in, mirrored, allowed_once, osvi_sandbox
    ):
        client = log_in()
        allowed_once("operate_chatsession")
        assert client.post(desk_of(mirrored()), {"command": "takeover"}).status_code == 403
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize("key", ["999999", "x"])
    def test_a_session_that_is_gone_is_said_to_be(self, operator, told, key):
        url = reverse("admin:osvi_django_chatsession_desk", args=[key])
        [(level, sentence)] = told(operator.post(url, {"command": "takeover"}, follow=True))
        assert (level, "There is no chat session" in sentence) == ("warning", True)

    def test_one_that_goes_at_this_moment_too(self, act, mirrored, told):
        session, seen = mirrored(), []

        def is_found(sql, _params):
            found = sql.startswith("SELECT") and "osvi_django_chatsession" in sql and not seen
            return found and not seen.append(sql)

        with noticed(is_found, ChatSession.objects.all().delete):
            response = act(session, "takeover")
        assert "There is no chat session" in told(response)[0][1]
        assert seen


class TestThread:
    def test_it_is_in_the_order_of_time_and_names_who(self, operator, said):
        session = ChatSessionFactory()
        user = get_user_model().objects.get()
        now = timezone.now()
        said(session, "takeover", requested_by=user, started_at=now - timedelta(minutes=1))
        said(session, "inbound", text="Help <me>!", reply="How?", started_at=now - timedelta(1))
        said(session, "end", via="code", started_at=now)
        html = html_of(operator.get(page_of(session)))
        places = [
            html.index(words)
            for words in (
                "<strong>The customer</strong> wrote",
                "Help &lt;me&gt;!",
                "The agent replied:",
                "How?",
                "<strong>jo</strong> took over",
                "<strong>This site</strong> handed back",
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
    def test_what_failed_is_marked_with_what_to_do(
        self, operator, said, outcome, code, trouble, advice
    ):
        session = ChatSessionFactory()
        reason = "<No>" if code == "rejected" else ""
        said(session, "tell", outcome=outcome, error_code=code, error_reason=reason)
        html = html_of(operator.get(page_of(session)))
        assert f'<span class="osvi-trouble">{trouble}</span>' in html
        assert advice in html

    def test_texts_that_are_forgotten_are_said_to_be(self, operator, said):
        session = ChatSessionFactory()
        said(session, redacted_at=timezone.now())
        for wordless in ("start", "takeover", "end"):
            said(session, wordless, text="", redacted_at=timezone.now())
        html = html_of(operator.get(page_of(session)))
        assert html.count("The text was removed because it was too old.") == 1

    @pytest.mark.parametrize(
        ("permission", "reads"),
        [
            ("view_sessionsummary", True),
            ("operate_chatsession", True),
            ("close_chatsession", False),
        ],
    )
    def test_who_may_read_it(self, log_in, said, permission, reads):
        session = ChatSessionFactory()
        said(session, "tell", text="Confidential", reply="Confident")
        html = html_of(log_in("view_chatsession", permission).get(page_of(session)))
        assert ("Confident" in html) == reads
        assert ("You do not have permission to read the texts." in html) != reads
        assert "instructed the agent" in html

    @pytest.mark.parametrize(("number", "is_cut"), [(50, False), (51, True)])
    def test_it_is_bounded(self, operator, said, number, is_cut):
        session = ChatSessionFactory()
        now = timezone.now()
        for age in range(number):
            said(session, text=f"Number {age}.", started_at=now - timedelta(minutes=age))
        html = html_of(operator.get(page_of(session)))
        assert ("Older entries are not shown." in html) == is_cut
        assert "Number 0." in html
        assert ("Number 50." in html) is False

    def test_a_closed_session_has_its_thread_and_no_desk(self, operator, said):
        session = ChatSessionFactory(status="closed")
        assert "osvi-thread" not in html_of(operator.get(page_of(session)))
        said(session, text="Goodbye.")
        for url in (page_of(session), desk_of(session)):
            html = html_of(operator.get(url))
            assert "Goodbye.</blockquote>" in html
            assert "Take over" not in html

    def test_however_long_it_is_it_takes_the_same_queries(
        self, operator, said, django_assert_max_num_queries
    ):
        session = ChatSessionFactory()
        user = get_user_model().objects.get()
        said(session, requested_by=user)
        with django_assert_max_num_queries(30) as short:
            operator.get(page_of(session))
        for _number in range(20):
            said(session, requested_by=user)
        with django_assert_max_num_queries(len(short)):
            operator.get(page_of(session))


class TestPage:
    def test_before_taking_over_it_says_that_one_cannot_write(self, operator):
        html = html_of(operator.get(page_of(ChatSessionFactory(help_requested=True))))
        assert "Take over to write to the customer yourself." in html
        assert 'name="message"' not in html
        assert html.count("The customer needs a person.") == 2

    def test_after_taking_over_one_can(self, operator):
        session = ChatSessionFactory(mode="support", active_human="<Kim>")
        html = html_of(operator.get(page_of(session)))
        assert 'name="message"' in html
        assert "<strong>&lt;Kim&gt;</strong> has taken over. " in html
        assert "support staff (&lt;Kim&gt;)" in html

    def test_a_human_without_a_name(self, operator):
        html = html_of(operator.get(page_of(ChatSessionFactory(mode="support"))))
        assert "A colleague has taken over" in html

    def test_every_field_has_its_label_and_its_help(self, operator):
        html = html_of(operator.get(page_of(ChatSessionFactory(mode="support"))))
        for name in WORDS:
            assert f'<label for="id_{name}">' in html
            assert f'id="id_{name}_helptext"' in html
            assert f'aria-describedby="id_{name}_helptext"' in html

    @pytest.mark.parametrize("status", ["closing", "unconfirmed", "closed"])
    def test_one_that_is_not_open_has_none(self, operator, status):
        session = ChatSessionFactory(status=status)
        assert "osvi-desk" not in html_of(operator.get(page_of(session)))

    def test_it_leads_to_the_customer(self, operator):
        session = ChatSessionFactory(customer_id="+1&a=b")
        assert "?customer_id=%2B1%26a%3Db&amp;account=default" in html_of(
            operator.get(page_of(session))
        )
        nobody = ChatSessionFactory(customer_id="")
        assert "osvi-look-up" not in html_of(operator.get(page_of(nobody)))

    def test_who_may_not_look_up_is_not_led_there(self, log_in):
        html = html_of(log_in("view_chatsession").get(page_of(ChatSessionFactory())))
        assert "osvi-look-up" not in html


@pytest.mark.django_db(transaction=True)
def test_hosts_with_atomic_requests_can_operate(operator, mirrored, settings):
    assert settings.DATABASES["default"]["ATOMIC_REQUESTS"]
    session = mirrored()
    operator.post(desk_of(session), {"command": "takeover"})
    session.refresh_from_db()
    assert session.mode == "support"
