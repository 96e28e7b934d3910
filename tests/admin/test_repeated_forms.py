"""Tests of a form that is submitted twice: by a second click or from the browser's history."""

from __future__ import annotations

import threading
import uuid
from contextlib import contextmanager
from functools import partial

import pytest
from django.contrib.auth import get_user_model
from django.db import OperationalError, connection
from django.test import Client
from django.urls import reverse

from osvi_django.models import SupportAction
from osvi_django.services.starting import start_session
from osvi_django.testing import Drop, Junk, Status
from osvi_django.testing.factories import ChatSessionFactory
from tests.admin.session_urls import desk_url, session_url
from tests.helpers.database import call_after_queries
from tests.helpers.sandbox import CallThenAnswer
from tests.helpers.waiting import TIMEOUT, run_in_thread

pytestmark = pytest.mark.django_db(transaction=True)

START = reverse("admin:osvi_django_chatsession_start")
WORDS = "Hello, this is Sam."
SHOWN = f"{WORDS}</textarea>"
ALREADY_SENT = "You already sent this form, so nothing was done now."
BEING_SENT = "This form is already being sent"


def form_key(response):
    """Return the key of the first form on this page."""
    return response.text.partition('name="once" value="')[2].partition('"')[0]


@pytest.fixture
def session(operator, mirrored, osvi_sandbox):
    """Create a session that the user has taken over, so that every action is allowed."""
    made = mirrored(mode="support", taken_over_by=get_user_model().objects.get(username="jo"))
    osvi_sandbox.sessions[made.session_id].mode = "support"
    return made


@pytest.fixture
def form(operator, session):
    """Return what a browser sends for the form that it shows."""

    def _form(name="message", text=WORDS):
        once = form_key(operator.get(session_url(session)))
        if name == "end":
            return {"command": name, "once": once}
        return {"command": "send", "to": name, "text": text, "once": once}

    return _form


@pytest.fixture
def send(operator, session):
    """Submit a form of the desk."""
    return lambda data: operator.post(desk_url(session), data, follow=True)


def messages_at_osvi(osvi, session):
    """Return the messages of this session at OSVI."""
    return osvi.sessions[session.session_id].messages


class TestConcurrentSubmissions:
    @pytest.fixture
    def submit(self, operator, session, osvi_sandbox):
        """Submit a form several times at the same time; return the responses."""

        def _submit(data, times=5):
            responses, others_done = [], threading.Event()
            start = threading.Barrier(times, timeout=TIMEOUT)

            def post():
                browser = Client()
                browser.cookies = operator.cookies.copy()
                try:
                    start.wait()
                    responses.append(browser.post(desk_url(session), data, follow=True))
                    if len(responses) == times - 1:
                        others_done.set()
                finally:
                    connection.close()

            wait = CallThenAnswer(partial(others_done.wait, TIMEOUT))
            osvi_sandbox.script(session.session_id, *[wait] * times)
            threads = [threading.Thread(target=post) for _number in range(times)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return responses

        return _submit

    @pytest.mark.parametrize("resend", [False, True])
    @pytest.mark.parametrize("name", ["message", "tell", "whisper", "context"])
    def test_form_submitted_five_times_is_sent_once(
        self, submit, form, osvi_sandbox, messages_of, name, resend
    ):
        data = form(name)
        if resend:
            data["command"] = "resend"
        responses = submit(data)
        assert len(osvi_sandbox.requests) == 1
        assert SupportAction.objects.get().outcome == "done"
        first = responses.pop()
        assert [level for level, _sentence in messages_of(first)] == ["success"]
        assert len(responses) == 4
        for response in responses:
            [(level, sentence)] = messages_of(response)
            assert (level, BEING_SENT in sentence) == ("warning", True)
            assert SHOWN not in response.text

    def test_hand_back_submitted_five_times_is_sent_once(self, submit, form, osvi_sandbox):
        responses = submit(form("end", ""))
        assert len(osvi_sandbox.requests) == 1
        assert sum(BEING_SENT in response.text for response in responses) == 4

    def test_two_forms_with_different_texts_are_both_sent(
        self, operator, session, form, osvi_sandbox
    ):
        forms = [form(), form("message", "And welcome.")]
        both = threading.Barrier(2, timeout=TIMEOUT)
        osvi_sandbox.script(session.session_id, *[CallThenAnswer(both.wait)] * 2)

        def post(data):
            browser = Client()
            browser.cookies = operator.cookies.copy()
            try:
                browser.post(desk_url(session), data)
            finally:
                connection.close()

        threads = [threading.Thread(target=post, args=[data]) for data in forms]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not both.broken
        assert {text for _who, text in messages_at_osvi(osvi_sandbox, session)} == {
            WORDS,
            "And welcome.",
        }

    @pytest.mark.parametrize(
        ("name", "command"), [("message", "send"), ("message", "resend"), ("end", "end")]
    )
    def test_second_submission_after_first_is_done_says_already_sent(
        self, operator, session, form, osvi_sandbox, messages_of, name, command
    ):
        data = form(name)
        data["command"] = command
        quick, looked = Client(), []
        quick.cookies = operator.cookies.copy()

        def is_look(sql, _params):
            found = sql.startswith("SELECT") and "supportaction" in sql and not looked
            return found and not looked.append(sql)

        post = partial(quick.post, desk_url(session), data)
        with call_after_queries(is_look, partial(run_in_thread, post)):
            response = operator.post(desk_url(session), data, follow=True)
        assert looked
        [(level, sentence)] = messages_of(response)
        assert (level, ALREADY_SENT in sentence) == ("success", True)
        assert len(osvi_sandbox.requests) == 1
        assert SupportAction.objects.get().outcome == "done"


class TestLaterSubmissions:
    def test_second_submission_shows_first_result_and_clears_text(
        self, form, send, messages_of, osvi_sandbox
    ):
        data = form()
        send(data)
        response = send(data)
        [(level, sentence)] = messages_of(response)
        assert level == "success"
        assert sentence == (
            f"{ALREADY_SENT} The result of the first time: Your message was sent to the customer."
        )
        assert SHOWN not in response.text
        assert len(osvi_sandbox.requests) == 1

    @pytest.mark.parametrize(
        ("fault", "outcome"),
        [(Drop(), "no answer"), (Status(500), "no answer"), (Junk(), "unreadable")],
    )
    def test_second_submission_after_unknown_result_shows_warning(
        self, session, form, send, messages_of, osvi_sandbox, fault, outcome
    ):
        osvi_sandbox.script(session.session_id, fault)
        data = form()
        send(data)
        [(level, sentence)] = messages_of(send(data))
        assert (level, outcome in sentence) == ("warning", True)
        assert len(osvi_sandbox.requests) == 1

    def test_second_submission_with_other_text_keeps_text(self, form, send, osvi_sandbox):
        data = form()
        send(data)
        response = send(data | {"text": "Something else."})
        assert ALREADY_SENT in response.text
        assert "Something else.</textarea>" in response.text
        send(data | {"text": "Something else.", "once": form_key(response)})
        assert len(osvi_sandbox.requests) == 2

    @pytest.mark.parametrize("fault", [Status(422, errors=["No."]), Status(429)])
    def test_submission_after_refusal_by_osvi_is_sent_with_either_key(
        self, session, form, send, osvi_sandbox, fault
    ):
        osvi_sandbox.script(session.session_id, fault, fault)
        data = form()
        response = send(data)
        assert SHOWN in response.text
        send(data)
        assert form_key(response) != data["once"]
        send(data | {"once": form_key(response)})
        assert len(osvi_sandbox.requests) == 3
        outcomes = SupportAction.objects.values_list("outcome", flat=True)
        assert list(outcomes) == ["rejected", "rejected", "done"]

    def test_submission_after_invalid_form_can_use_its_key(self, form, send, osvi_sandbox):
        data = form()
        send(data | {"text": ""})
        send(data)
        assert len(osvi_sandbox.requests) == 1

    def test_submission_with_key_of_another_session_hides_its_result(
        self, operator, mirrored, form, send, osvi_sandbox
    ):
        data = form()
        send(data)
        other = mirrored(mode="support", taken_over_by=get_user_model().objects.get(username="jo"))
        response = operator.post(desk_url(other), data, follow=True)
        assert "The result of the first time" not in response.text
        assert SHOWN in response.text
        assert len(osvi_sandbox.requests) == 1

    @pytest.mark.parametrize(
        "key", ["", None, "x", "\0", "a" * 10_000, "\N{ARABIC-INDIC DIGIT THREE}" * 31, "{0-0}"]
    )
    def test_submission_with_invalid_key_stores_no_key(self, form, send, osvi_sandbox, key):
        data = form() | {"once": key}
        if key is None:
            del data["once"]
        assert send(data).status_code == 200
        assert SupportAction.objects.get().form_key is None
        # Without a key, the same text within seconds needs a confirmation.
        assert "Send again anyway" in send(data).text
        assert len(osvi_sandbox.requests) == 1

    def test_submissions_without_key_are_each_sent(self, form, send, osvi_sandbox):
        for number in range(3):
            send(form("whisper", f"Number {number}") | {"once": ""})
        assert len(osvi_sandbox.requests) == 3


@contextmanager
def failing_commit(monkeypatch, fails):
    """Raise an error after the first commit of the action's row."""
    due, failed, commit = [], [], connection.commit

    def is_insert(sql, _params):
        return sql.startswith("INSERT") and "supportaction" in sql

    def commit_and_fail():
        if not due or failed:
            return commit()
        failed.append(True)
        fails(commit)
        raise OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(connection, "commit", commit_and_fail)
    with call_after_queries(is_insert, lambda: due.append(True)):
        yield
    monkeypatch.undo()
    assert failed


class TestLostCommit:
    def test_commit_with_lost_answer_sends_text_once(
        self, session, form, send, messages_of, osvi_sandbox, monkeypatch
    ):
        data = form()
        with failing_commit(monkeypatch, lambda commit: commit()):
            response = send(data)
        assert [level for level, _sentence in messages_of(response)] == ["success"]
        assert messages_at_osvi(osvi_sandbox, session) == [("operator", WORDS)]
        assert SupportAction.objects.get().outcome == "done"
        assert ALREADY_SENT in send(data).text
        assert len(osvi_sandbox.requests) == 1

    def test_commit_rolled_back_writes_row_again(
        self, session, form, send, messages_of, osvi_sandbox, monkeypatch
    ):
        with failing_commit(monkeypatch, lambda _commit: connection.rollback()):
            response = send(form())
        assert [level for level, _sentence in messages_of(response)] == ["success"]
        assert messages_at_osvi(osvi_sandbox, session) == [("operator", WORDS)]
        assert SupportAction.objects.get().text == WORDS

    def test_commit_rolled_back_with_id_taken_keeps_other_row(
        self, session, form, send, osvi_sandbox, monkeypatch
    ):
        data = form()
        theirs = partial(SupportAction.objects.create, session=session, kind="tell", text="Theirs")

        def fails(_commit):
            connection.rollback()
            run_in_thread(theirs)

        with failing_commit(monkeypatch, fails):
            send(data)
        texts = SupportAction.objects.order_by("id").values_list("text", flat=True)
        assert list(texts) == ["Theirs", WORDS]
        assert messages_at_osvi(osvi_sandbox, session) == [("operator", WORDS)]

    def test_commit_rolled_back_before_second_click_sends_text_once(
        self, operator, session, form, send, messages_of, osvi_sandbox, monkeypatch
    ):
        data = form()
        quick = Client()
        quick.cookies = operator.cookies.copy()

        def fails(_commit):
            connection.rollback()
            run_in_thread(partial(quick.post, desk_url(session), data))

        with failing_commit(monkeypatch, fails):
            response = send(data)
        assert ALREADY_SENT in messages_of(response)[0][1]
        assert messages_at_osvi(osvi_sandbox, session) == [("operator", WORDS)]
        assert SupportAction.objects.count() == 1


class TestStart:
    """A second submission of the start form must not replace the chat of the first one."""

    @pytest.fixture
    def operator(self, log_in):
        """Log in as staff who may view, operate and close sessions."""
        return log_in("view_chatsession", "operate_chatsession", "close_chatsession")

    @pytest.fixture
    def form(self, operator, osvi_sandbox):
        """Return what a browser sends for the start form."""
        asked = {"agent_uuid": "agent_1", "customer_id": "+1555", "context": "Order 12."}
        return {**asked, "once": form_key(operator.get(START))}

    @pytest.mark.parametrize("replace", [False, True])
    def test_second_submission_after_first_is_done_starts_nothing(
        self, operator, form, osvi_sandbox, messages_of, replace
    ):
        data = form | ({"replace": "on"} if replace else {})
        quick, looked = Client(), []
        quick.cookies = operator.cookies.copy()

        def is_login_session(sql, _params):
            return "django_session" in sql and not looked and not looked.append(sql)

        post = partial(quick.post, START, data)
        with call_after_queries(is_login_session, partial(run_in_thread, post)):
            response = operator.post(START, data, follow=True)
        assert looked
        [(level, sentence)] = messages_of(response)
        assert (level, "no chat session was started now" in sentence) == ("warning", True)
        [chat] = osvi_sandbox.sessions.values()
        assert not chat.is_closed
        assert SupportAction.objects.get(kind="start").form_key == uuid.UUID(data["once"])

    def test_another_form_with_replace_replaces_chat(self, operator, form, osvi_sandbox):
        operator.post(START, form)
        again = form_key(operator.get(START))
        operator.post(START, form | {"once": again, "replace": "on"})
        assert sorted(chat.is_closed for chat in osvi_sandbox.sessions.values()) == [False, True]

    def test_start_with_key_of_another_action_stores_no_key(self, operator, osvi_sandbox):
        key = uuid.uuid4()
        other = ChatSessionFactory()

        def is_start(sql, _params):
            if sql.startswith("SELECT") and "form_key" in sql and not osvi_sandbox.requests:
                return not SupportAction.objects.exists()
            return False

        take = partial(SupportAction.objects.create, session=other, kind="tell", form_key=key)
        with call_after_queries(is_start, take):
            session = start_session(agent_uuid="agent_1", customer_id="+1555", form_key=key)
        assert session.actions.get().form_key is None

    @pytest.mark.parametrize("arrives", [False, True])
    def test_start_with_lost_commit_is_stored_once(
        self, operator, form, osvi_sandbox, monkeypatch, arrives
    ):
        fails = (lambda commit: commit()) if arrives else (lambda _commit: connection.rollback())
        with failing_commit(monkeypatch, fails):
            response = operator.post(START, form, follow=True)
        assert "The chat session was started." in response.text
        kinds = SupportAction.objects.order_by("id").values_list("kind", flat=True)
        assert list(kinds) == ["start", "context"]
        assert len(osvi_sandbox.sessions) == 1
