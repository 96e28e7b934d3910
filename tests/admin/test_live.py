"""Tests of the state of a session's page, which its script asks for."""

from __future__ import annotations

import html as markup
from datetime import timedelta
from urllib.parse import urlencode

import pytest
from django.contrib.auth import get_user_model
from django.urls import reverse
from django.utils import timezone

from osvi_django.models import ChatSession, SupportAction
from osvi_django.services.recovery import mark_closed
from osvi_django.services.support import hand_back, send_message, take_over, tell, whisper
from osvi_django.testing import Drop, Status
from osvi_django.testing.factories import ClosedSessionFactory
from tests.admin.session_urls import desk_url, session_url

pytestmark = pytest.mark.django_db


@pytest.fixture
def look(operator):
    """Ask for the state of a session's page."""

    def _look(session, **query):
        response = operator.get(f"{session_url(session, 'live')}?{urlencode(query)}")
        assert "no-store" in response["Cache-Control"]
        return response.json()

    return _look


@pytest.fixture
def act(operator):
    """Send a form of the desk as the script does, and return the state that answers it."""

    def _act(session, command="send", **data):
        response = operator.post(
            desk_url(session),
            {"command": command, **data},
            headers={"X-OSVI-Script": "1"},
            follow=True,
        )
        [(url, status)] = response.redirect_chain
        assert (url.partition("?")[0], status) == (session_url(session, "live"), 302)
        return response.json()

    return _act


@pytest.fixture
def colleague(django_user_model, grant):
    """Create another user who may operate sessions."""
    return grant(django_user_model.objects.create_user("kim"), "operate_chatsession")


def beside_in(composer):
    """Return the take-over that the question in this form is about."""
    return markup.unescape(composer.partition('name="beside" value="')[2].partition('"')[0])


def asked_about(composer):
    """Return the take-over that the question before a hand back is about."""
    found = composer.partition('name="hand_back_from" value="')[2].partition('"')[0]
    return markup.unescape(found)


class TestState:
    def test_state_has_facts_and_parts_of_page(self, look, mirrored, settings):
        settings.OSVI["default"]["LIVE_INTERVAL"] = 0
        session = mirrored(help_requested=True)
        state = look(session)
        assert (state["status"], state["mode"]) == ("active", "ai")
        assert (state["is_open"], state["help_requested"]) == (True, True)
        assert (state["taken_over_by"], state["taken_over_at"]) == ("", None)
        assert set(state["parts"]) == {"head", "actions", "turn", "readers"}
        assert "The customer needs a person." in state["parts"]["head"]
        assert state["last"] == "start"
        assert "composer" not in state

    def test_state_names_who_has_taken_over_and_when(self, look, mirrored, colleague):
        session = mirrored()
        take_over(session, requested_by=colleague)
        state = look(session)
        assert (state["mode"], state["taken_over_by"]) == ("support", "kim")
        assert state["taken_over_at"].startswith(str(timezone.now().year))
        assert "kim took over less than a minute ago." in state["parts"]["head"]
        assert "less than a minute ago" in state["parts"]["turn"]
        ChatSession.objects.update(taken_over_at=timezone.now() - timedelta(minutes=2, seconds=5))
        assert "kim took over 2\xa0minutes ago." in look(session)["parts"]["head"]

    def test_state_has_lines_after_the_one_that_is_known(self, look, mirrored, colleague):
        session = mirrored()
        first = take_over(session, requested_by=colleague).action
        state = look(session)
        known = state["last"]
        assert known == f"action-{first.pk}"
        send_message(session, "Hello <b>there</b>.", requested_by=colleague)
        state = look(session, since=known)
        assert [line["key"] for line in state["lines"]][-1] == state["last"]
        assert len(state["lines"]) <= 2
        assert "Hello &lt;b&gt;there&lt;/b&gt;." in state["lines"][-1]["html"]
        assert state["lines"][-1]["is_own"] is False

    def test_state_has_known_lines_that_have_changed(self, look, mirrored):
        session = mirrored()
        hour = timezone.now() - timedelta(hours=1)
        action = session.actions.create(kind="tell", text="Hi.", started_at=hour)
        last = session.actions.create(kind="tell", text="Bye.", outcome="done", finished_at=hour)
        known = f"action-{last.pk}"
        assert f"action-{action.pk}" in [
            line["key"] for line in look(session, since=known)["lines"]
        ]
        SupportAction.objects.filter(pk=action.pk).update(
            outcome="done", finished_at=timezone.now()
        )
        lines = look(session, since=known)["lines"]
        assert [line["key"] for line in lines] == [f"action-{action.pk}"]

    def test_state_that_is_known_is_only_its_revision(self, look, mirrored):
        session = mirrored()
        revision = look(session)["revision"]
        assert look(session, revision=revision) == {"revision": revision}
        session.actions.create(kind="inbound", text="Hello?", outcome="done")
        assert look(session, revision=revision)["lines"]

    @pytest.mark.parametrize("since", ["", "x", "action-999", "action-x", "attempt-\0", "summary"])
    def test_state_after_unknown_line_has_all_lines(self, look, mirrored, since):
        session = mirrored()
        session.actions.create(kind="inbound", text="Hello?", outcome="done")
        assert len(look(session, since=since)["lines"]) == 2

    def test_state_keeps_typed_text_for_the_page(self, look, operator, mirrored):
        session = mirrored()
        operator.post(desk_url(session), {"command": "", "text": "Half a sentence"})
        look(session)
        assert "Half a sentence</textarea>" in operator.get(session_url(session)).text

    def test_state_after_mark_brings_lines_whose_reason_no_longer_holds(
        self, look, unconfirmed, staff
    ):
        session = unconfirmed(Drop(after_closing=True))
        before = look(session)
        mark_closed(session, requested_by=staff, note="I saw it.")
        html = {line["key"]: line["html"] for line in look(session, since=before["last"])["lines"]}
        tried, marked = session.attempts.order_by("pk")
        assert "Settled since: the chat is closed." in html[f"attempt-{tried.pk}"]
        assert f"attempt-{marked.pk}" in html

    def test_state_of_closed_session_has_summary_line(self, look):
        session = ClosedSessionFactory()
        state = look(session)
        assert (state["status"], state["is_open"], state["last"]) == ("closed", False, "summary")

    def test_state_costs_few_queries(self, operator, mirrored, django_assert_max_num_queries):
        session = mirrored(synced_at=timezone.now())
        with django_assert_max_num_queries(20):
            operator.get(session_url(session, "live"))


class TestOSVI:
    def test_osvi_is_asked_once_in_interval(self, look, mirrored, osvi_sandbox):
        session = mirrored()
        osvi_sandbox.sessions[session.session_id].change(help_requested=True)
        assert look(session)["help_requested"] is True
        look(session)
        assert len(osvi_sandbox.requests) == 1

    def test_osvi_error_is_not_shown(self, look, mirrored, osvi_sandbox):
        osvi_sandbox.script(None, Status(500))
        assert look(mirrored())["status"] == "active"

    def test_answer_to_form_does_not_ask_osvi(self, act, mirrored, osvi_sandbox):
        session = mirrored()
        act(session, to="whisper", text="They are new.")
        assert [request.method for request in osvi_sandbox.requests] == ["POST"]


class TestAnswer:
    def test_answer_has_message_new_lines_and_empty_composer(self, act, mirrored):
        session = mirrored()
        state = act(session, to="whisper", text="They are new.", seen="start")
        message = {"level": "success", "html": "The agent will use this in its next reply."}
        assert state["messages"] == [message]
        assert "They are new." in state["lines"][-1]["html"]
        assert state["lines"][-1]["is_own"] is True
        assert "They are new." not in state["composer"]
        assert 'value="whisper"' in state["composer"]

    def test_answer_to_refused_form_keeps_text(self, act, mirrored, osvi_sandbox):
        session = mirrored()
        osvi_sandbox.script(session.session_id, Status(422, errors=["Off."]))
        state = act(session, to="tell", text="Say hello.")
        assert state["messages"] == []
        assert "Say hello.</textarea>" in state["composer"]
        assert "OSVI said: “Off.”" in state["composer"]

    def test_answer_to_refused_form_leaves_text_to_the_tab_that_sent_it(
        self, act, operator, mirrored, osvi_sandbox
    ):
        session = mirrored()
        osvi_sandbox.script(session.session_id, Status(422, errors=["Off."]))
        assert "Say hello.</textarea>" in act(session, to="tell", text="Say hello.")["composer"]
        assert "Say hello.</textarea>" not in operator.get(session_url(session)).text

    def test_answer_without_readers_asks_who_reads_it(self, act, mirrored, osvi_sandbox):
        for to in ("", "close"):
            state = act(mirrored(), to=to, text="Say hello.")
            assert "errorlist" in state["composer"]
            assert "Say hello.</textarea>" in state["composer"]
        assert osvi_sandbox.requests == []


class TestColleagues:
    def test_take_over_from_colleague_asks_first(self, act, mirrored, colleague, osvi_sandbox):
        session = mirrored()
        take_over(session, requested_by=colleague)
        state = act(session, "takeover")
        assert "If you take over, kim no longer has this chat." in state["composer"]
        assert len(osvi_sandbox.requests) == 1
        known = state["composer"].partition('name="take_from" value="')[2].partition('"')[0]
        state = act(session, "takeover", take_from=known)
        assert state["taken_over_by"] == "jo"
        assert "You took over" in state["parts"]["turn"]

    def test_take_over_from_another_colleague_than_asked_asks_again(
        self, act, mirrored, colleague, osvi_sandbox
    ):
        session = mirrored(mode="support", active_human="Lee")
        composer = act(session, "takeover")["composer"]
        assert "If you take over, Lee no longer has this chat." in composer
        known = composer.partition('name="take_from" value="')[2].partition('"')[0]
        take_over(session, requested_by=colleague)
        assert "kim no longer" in act(session, "takeover", take_from=known)["composer"]
        assert len(osvi_sandbox.requests) == 1

    def test_take_over_from_person_without_name_asks_first(self, act, mirrored):
        session = mirrored(mode="support")
        assert "your colleague no longer has this chat" in act(session, "takeover")["composer"]

    def test_own_take_over_without_time_is_shown(self, look, mirrored, settings):
        settings.OSVI["default"]["LIVE_INTERVAL"] = 0
        jo = get_user_model().objects.get(username="jo")
        session = mirrored(mode="support", taken_over_by=jo)
        assert "You have taken over." in look(session)["parts"]["turn"]

    def test_take_over_with_note_gives_it_to_agent(self, act, mirrored, osvi_sandbox):
        act(mirrored(), "takeover", takeover_note=" I take it from here. ")
        assert osvi_sandbox.requests[0].body["message"] == "I take it from here."
        assert SupportAction.objects.get().text == "I take it from here."

    def test_take_over_with_long_note_shows_error(self, act, mirrored, osvi_sandbox):
        state = act(mirrored(), "takeover", takeover_note="x" * 1001)
        assert "at most 1000 characters" in state["composer"] + state["parts"]["turn"]
        assert osvi_sandbox.requests == []

    def test_hand_back_of_take_over_that_page_does_not_know_is_refused(
        self, act, mirrored, colleague, osvi_sandbox
    ):
        session = mirrored()
        take_over(session, requested_by=get_user_model().objects.get(username="jo"))
        session.refresh_from_db()
        known = session.taken_over_at.isoformat()
        take_over(session, requested_by=colleague)
        for wrong in (known, "", "2026-13-99T00:00:00"):
            state = act(session, "end", taken_over=wrong)
            assert "a colleague has taken over this chat since you last looked" in state["composer"]
        assert len(osvi_sandbox.requests) == 2
        session.refresh_from_db()
        known = {"taken_over": session.taken_over_at.isoformat()}
        known["hand_back_from"] = asked_about(act(session, "end", **known)["composer"])
        state = act(session, "end", **known)
        assert (state["mode"], state["messages"][0]["level"]) == ("ai", "success")

    def test_hand_back_of_chat_of_colleague_asks_once(self, act, mirrored, colleague, osvi_sandbox):
        session = mirrored()
        take_over(session, requested_by=colleague)
        composer = act(session, "end", text="Half a sentence")["composer"]
        assert "If you hand back, the AI agent answers the customer, and kim no longer" in composer
        assert "Hand back anyway" in composer
        assert "Half a sentence</textarea>" in composer
        assert len(osvi_sandbox.requests) == 1
        known = asked_about(composer)
        assert "kim no longer" in act(session, "takeover", hand_back_from=known)["composer"]
        state = act(session, "end", hand_back_from=known)
        assert (state["mode"], state["messages"][0]["level"]) == ("ai", "success")

    def test_hand_back_of_chat_that_colleague_took_over_again_asks_again(
        self, act, mirrored, colleague
    ):
        session = mirrored(mode="support", active_human="Lee")
        known = asked_about(act(session, "end", taken_over="")["composer"])
        take_over(session, requested_by=colleague)
        assert "kim no longer" in act(session, "end", hand_back_from=known)["composer"]
        session.refresh_from_db()
        assert session.mode == "support"

    @pytest.mark.parametrize("reader", ["message", "tell", "whisper", "context"])
    def test_text_into_chat_of_colleague_asks_once(
        self, act, mirrored, colleague, osvi_sandbox, reader
    ):
        session = mirrored()
        take_over(session, requested_by=colleague)
        composer = act(session, to=reader, text="Hello.")["composer"]
        assert "kim took over less than a minute ago. Press “Send anyway”" in composer
        assert "Hello.</textarea>" in composer
        assert 'value="send" data-osvi-asks>Send anyway</button>' in composer
        assert len(osvi_sandbox.requests) == 1
        state = act(session, to=reader, text="Hello.", beside=beside_in(composer))
        assert state["messages"][0]["level"] == "success"
        assert 'name="beside"' not in state["composer"]
        assert act(session, to=reader, text="And welcome.")["messages"][0]["level"] == "success"
        assert len(osvi_sandbox.requests) == 3

    def test_text_into_chat_that_colleague_took_over_again_asks_again(
        self, act, mirrored, colleague, osvi_sandbox
    ):
        session = mirrored()
        take_over(session, requested_by=colleague)
        known = beside_in(act(session, to="tell", text="Hello.")["composer"])
        hand_back(session, requested_by=colleague)
        assert act(session, to="tell", text="Hello.")["messages"][0]["level"] == "success"
        take_over(session, requested_by=colleague)
        composer = act(session, to="tell", text="Again.", beside=known)["composer"]
        assert "kim took over" in composer
        assert session.actions.filter(kind="tell").count() == 1

    def test_text_into_chat_of_colleague_who_has_written_asks_both_at_once(
        self, look, act, mirrored, colleague, osvi_sandbox
    ):
        session = mirrored()
        take_over(session, requested_by=colleague)
        seen = look(session)["last"]
        send_message(session, "Hello, I am Kim.", requested_by=colleague)
        state = act(session, to="message", text="Hello, I am Jo.", seen=seen)
        for words in ("kim took over", "kim has written since this page was shown."):
            assert words in state["composer"]
        beside = {"seen": state["last"], "beside": beside_in(state["composer"])}
        state = act(session, to="message", text="Hello, I am Jo.", **beside)
        assert state["messages"][0]["level"] == "success"

    def test_text_into_own_chat_asks_nothing(self, act, mirrored, osvi_sandbox):
        session = mirrored()
        act(session, "takeover")
        assert act(session, to="message", text="Hello.")["messages"][0]["level"] == "success"

    def test_text_after_colleague_has_written_asks_first(
        self, act, mirrored, colleague, osvi_sandbox
    ):
        session = mirrored()
        whisper(session, "They are new.", requested_by=colleague)
        tell(session, "Say sorry.", requested_by=colleague)
        state = act(session, to="tell", text="Say hello.", seen="start")
        assert "kim has written since this page was shown." in state["composer"]
        assert "Send anyway" in state["composer"]
        assert len(osvi_sandbox.requests) == 2
        act(session, to="tell", text="Say hello.", seen=state["last"])
        assert len(osvi_sandbox.requests) == 3

    def test_text_after_own_text_is_sent(self, act, mirrored, osvi_sandbox):
        session = mirrored()
        act(session, to="tell", text="Say hello.", seen="start")
        act(session, to="tell", text="Say goodbye.", seen="start")
        assert len(osvi_sandbox.requests) == 2


class TestPermissions:
    @pytest.mark.parametrize("codename", ["view_chatsession", "operate_chatsession"])
    def test_state_for_those_who_may_view_or_operate_is_shown(self, log_in, mirrored, codename):
        session = mirrored()
        session.actions.create(kind="inbound", text="Confidential", outcome="done")
        response = log_in(codename).get(session_url(session, "live"))
        assert ("Confidential" in response.text) == (codename == "operate_chatsession")

    def test_state_without_permission_returns_403(self, log_in, mirrored, osvi_sandbox):
        client = log_in("close_chatsession")
        assert client.get(session_url(mirrored(), "live")).status_code == 403
        assert osvi_sandbox.requests == []

    def test_state_of_unknown_session_returns_404(self, operator):
        url = reverse("admin:osvi_django_chatsession_live", args=["999"])
        assert operator.get(url).status_code == 404

    def test_state_by_anonymous_user_redirects_to_login(self, client, mirrored):
        response = client.get(session_url(mirrored(), "live"))
        assert response["Location"].startswith(reverse("admin:login"))


class TestLoggedOut:
    @pytest.mark.parametrize("key", ["", "x", "6b2c8f6a4f0d4a55a6f9c2a5b7c8d9e0"])
    def test_form_that_led_to_login_page_says_that_nothing_was_sent(
        self, operator, mirrored, messages_of, key
    ):
        session = mirrored()
        response = operator.get(f"{desk_url(session)}?form={key}", follow=True)
        [(url, _status)] = response.redirect_chain
        assert url.startswith(session_url(session))
        [(level, sentence)] = messages_of(response)
        assert (level, sentence.partition(":")[0]) == ("warning", "Nothing was sent")

    def test_form_that_was_sent_says_nothing(self, operator, mirrored, messages_of):
        session = mirrored()
        key = "6b2c8f6a4f0d4a55a6f9c2a5b7c8d9e0"
        session.actions.create(kind="tell", form_key=key, outcome="done")
        response = operator.get(f"{desk_url(session)}?form={key}", follow=True)
        assert messages_of(response) == []
