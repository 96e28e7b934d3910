"""Tests of forms: each redirects, a reload sends nothing, and typed texts are kept."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.urls import reverse

from osvi_django.admin import kept
from osvi_django.models import ChatSession, CloseJob
from osvi_django.services.jobs import create_close_job
from osvi_django.services.support import take_over
from osvi_django.testing import Drop, Status
from osvi_django.testing.factories import ChatSessionFactory
from tests.admin.session_urls import session_url
from tests.helpers.sandbox import script_next_starts

pytestmark = pytest.mark.django_db

LIST = reverse("admin:osvi_django_chatsession_changelist")
LOOKUP = reverse("admin:osvi_django_chatsession_lookup")
START = reverse("admin:osvi_django_chatsession_start")
TYPED = "Half a <sentence"
SHOWN = "Half a &lt;sentence</textarea>"


def form_key(html):
    """Return the key of the form on this page."""
    return re.search(r'name="once" value="(\w+)"', html)[1]


@pytest.fixture
def operator(log_in):
    """Log in as staff who may view, operate and close sessions."""
    return log_in("view_chatsession", "operate_chatsession", "close_chatsession")


class TestDesk:
    def test_reload_after_hand_back_keeps_take_over_of_colleague(
        self, operator, mirrored, osvi_sandbox
    ):
        user = get_user_model().objects.get(username="jo")
        session = mirrored(mode="support", taken_over_by=user)
        osvi_sandbox.sessions[session.session_id].mode = "support"
        data = {"command": "end", "text": TYPED}
        response = operator.post(session_url(session, "desk"), data, follow=True)
        assert SHOWN in response.text
        session.refresh_from_db()
        take_over(session)
        html = operator.get(response.redirect_chain[-1][0]).text
        assert SHOWN in html
        assert osvi_sandbox.sessions[session.session_id].mode == "support"
        assert len(osvi_sandbox.requests) == 2

    def test_reload_after_refusal_sends_nothing(self, operator, mirrored, osvi_sandbox):
        session = mirrored()
        osvi_sandbox.script(session.session_id, Status(422, errors=["No."]))
        data = {"command": "send", "to": "tell", "text": TYPED}
        response = operator.post(session_url(session, "desk"), data, follow=True)
        [(url, _status)] = response.redirect_chain
        assert "sentence" not in url
        again = operator.get(url).text
        assert ("errorlist" in response.text, "errorlist" in again) == (True, False)
        for html in (response.text, again, operator.get(session_url(session)).text):
            assert SHOWN in html
            assert re.search(r'value="tell"[^>]* checked', html)
        assert len(osvi_sandbox.requests) == 1

    def test_sent_text_is_cleared_and_readers_stay_chosen(self, operator, mirrored):
        session = mirrored()
        data = {"command": "send", "to": "whisper", "text": TYPED}
        html = operator.post(session_url(session, "desk"), data, follow=True).text
        assert SHOWN not in html
        assert re.search(r'value="whisper"[^>]* checked', html)
        assert re.search(r"<textarea[^>]* autofocus", html)
        assert not re.search(r"<textarea[^>]* autofocus", operator.get(session_url(session)).text)

    def test_kept_text_is_shown_only_for_its_session_and_user(
        self, client, operator, mirrored, log_in
    ):
        session, other = mirrored(), mirrored()
        operator.post(session_url(session, "desk"), {"command": "", "text": TYPED})
        assert TYPED.replace("<", "&lt;") not in operator.get(session_url(other)).text
        log_in("view_chatsession", "operate_chatsession", name="kim")
        assert SHOWN not in client.get(session_url(session)).text

    def test_kept_text_after_time_limit_is_not_shown(self, operator, mirrored, monkeypatch):
        session = mirrored()
        monkeypatch.setattr(kept, "KEPT_SECONDS", -1)
        operator.post(session_url(session, "desk"), {"command": "", "text": TYPED})
        assert SHOWN not in operator.get(session_url(session)).text

    def test_kept_texts_of_many_sessions_are_bounded(self, operator, mirrored):
        sessions = [mirrored() for _number in range(8)]
        for session in sessions:
            operator.post(session_url(session, "desk"), {"command": "", "text": "x" * 100_000})
        assert len(str(operator.session._session)) < 1_000_000
        assert "xxx</textarea>" not in operator.get(session_url(sessions[0])).text
        assert "xxx</textarea>" in operator.get(session_url(sessions[-1])).text

    def test_form_submitted_twice_acts_once(self, operator, mirrored, messages_of, osvi_sandbox):
        session = mirrored()
        once = form_key(operator.get(session_url(session)).text)
        operator.post(session_url(session, "desk"), {"command": "takeover", "once": once})
        # The user goes back in the browser and enters another text.
        data = {"command": "end", "once": once, "text": TYPED}
        html = operator.post(session_url(session, "desk"), data, follow=True).text
        assert "You already sent this form, so nothing was done now." in html
        assert SHOWN in html
        assert len(osvi_sandbox.requests) == 1
        data["once"] = form_key(html)
        operator.post(session_url(session, "desk"), data)
        assert len(osvi_sandbox.requests) == 2

    def test_form_refused_by_osvi_can_be_submitted_again(self, operator, mirrored, osvi_sandbox):
        session = mirrored()
        osvi_sandbox.script(session.session_id, Status(422, errors=["No."]))
        once = form_key(operator.get(session_url(session)).text)
        for _time in range(2):
            data = {"command": "send", "to": "tell", "text": TYPED, "once": once}
            operator.post(session_url(session, "desk"), data)
        assert len(osvi_sandbox.requests) == 2

    def test_post_to_closed_session_shows_error(self, operator, mirrored):
        session = mirrored()
        ChatSession.objects.update(status="closed")
        data = {"command": "takeover"}
        html = operator.post(session_url(session, "desk"), data, follow=True).text
        assert "This chat session is closed or is being closed, so nothing was sent." in html


class TestStart:
    DATA = {"agent_uuid": "agent_new", "customer_id": "c", "context": TYPED}

    @pytest.mark.parametrize("fields", [{"agent_uuid": ""}, {"value_0": "Alex"}])
    def test_start_with_mistake_keeps_input(self, operator, osvi_sandbox, fields):
        response = operator.post(START, {**self.DATA, **fields}, follow=True)
        assert response.redirect_chain == [(START, 302)]
        assert SHOWN in response.text
        assert "errorlist" in response.text
        assert "errorlist" not in operator.get(START).text
        assert osvi_sandbox.requests == []

    def test_start_after_success_keeps_no_input(self, operator, osvi_sandbox):
        operator.post(START, {**self.DATA, "agent_uuid": ""})
        operator.post(START, self.DATA)
        assert SHOWN not in operator.get(START).text

    def test_form_submitted_twice_starts_one_chat(self, operator, osvi_sandbox, messages_of):
        data = {**self.DATA, "once": form_key(operator.get(START).text)}
        operator.post(START, data)
        level, sentence = messages_of(operator.post(START, data, follow=True))[-1]
        assert (level, "no chat session was started now" in sentence) == ("warning", True)
        assert len(osvi_sandbox.sessions) == 1

    def test_form_submitted_twice_after_lost_answer_sends_one_start(self, operator, osvi_sandbox):
        script_next_starts(osvi_sandbox, Drop(after_closing=True))
        data = {**self.DATA, "once": form_key(operator.get(START).text)}
        operator.post(START, data)
        operator.post(START, data)
        assert [request.method for request in osvi_sandbox.requests] == ["GET", "POST"]


class TestClose:
    def test_close_refused_by_osvi_keeps_note(self, operator, mirrored, osvi_sandbox):
        session = mirrored()
        osvi_sandbox.script(session.session_id, Status(422, errors=["No."]))
        data = {"post": "yes", "note": TYPED}
        response = operator.post(session_url(session, "close"), data)
        assert response["Location"] == session_url(session)
        assert SHOWN in operator.get(session_url(session, "close")).text
        operator.post(session_url(session, "close"), data)
        assert SHOWN not in operator.get(session_url(session, "close")).text

    def test_recover_selected_confirmation_can_be_reloaded(
        self, operator, unconfirmed, osvi_sandbox
    ):
        session = unconfirmed(Drop(after_closing=True))
        data = {"action": "recover_selected", "_selected_action": [session.pk]}
        response = operator.post(f"{LIST}?status__exact=unconfirmed", data)
        assert response.status_code == 302
        for _time in range(2):
            html = operator.get(response["Location"]).text
            assert f'name="_selected_action" value="{session.pk}"' in html
            assert f'action="{LIST}?status__exact=unconfirmed"' in html
        assert len(osvi_sandbox.requests) == 1
        data = {**data, "index": "0", "post": "yes"}
        response = operator.post(f"{LIST}?status__exact=unconfirmed", data)
        assert response["Location"] == f"{LIST}?status__exact=unconfirmed"
        session.refresh_from_db()
        assert session.status == "closed"

    def test_recover_page_without_selection_links_to_list(self, operator):
        html = operator.get(reverse("admin:osvi_django_chatsession_recover")).text
        assert "No chat session is selected any more" in html
        assert f'href="{LIST}"' in html

    def test_recover_page_without_close_permission_returns_403(self, log_in):
        client = log_in("view_chatsession")
        url = reverse("admin:osvi_django_chatsession_recover")
        assert client.get(url).status_code == 403

    def test_confirm_with_long_note_or_finished_job_redirects(self, operator, django_user_model):
        user = django_user_model.objects.get(username="jo")
        job = create_close_job([ChatSessionFactory()], requested_by=user, via="admin", draft=True)
        url = reverse("admin:osvi_django_closejob_confirm", args=[job.pk])
        response = operator.post(f"{url}?_changelist_filters=a%3Db", {"note": "x" * 1001})
        assert response["Location"] == f"{url}?_changelist_filters=a%3Db"
        assert "at most 1000" in operator.get(response["Location"]).text
        CloseJob.objects.update(status="completed", finished_at=job.created_at + timedelta(1))
        for _note in ("x" * 1001, "x"):
            response = operator.post(url, {"note": _note})
            assert response["Location"].endswith(f"/{job.pk}/change/")


def test_look_up_without_customer_redirects(operator, osvi_sandbox):
    response = operator.post(LOOKUP, {"customer_id": ""})
    assert response["Location"] == LOOKUP
    assert "This field is required." in operator.get(LOOKUP).text
