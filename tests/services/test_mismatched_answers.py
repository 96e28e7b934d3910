"""Test that an answer for another session or another customer is not stored."""

from __future__ import annotations

import json

import pytest

from osvi_django.exceptions import OSVIBadAnswer
from osvi_django.models import ChatSession, SessionSummary, SupportAction
from osvi_django.services import close_session
from osvi_django.services.mirroring import look_up_customer
from osvi_django.services.recovery import Settled, recover_session
from osvi_django.services.starting import start_session
from osvi_django.services.support import (
    context_of,
    hand_back,
    inject_context,
    receive_message,
    send_message,
    take_over,
    tell,
    whisper,
)
from osvi_django.testing import Drop, Junk, Status

pytestmark = pytest.mark.django_db

ANOTHER = "another-session"
SECRET = "What the other customer heard."
ACTS = {
    "takeover": take_over,
    "end": hand_back,
    "tell": lambda session: tell(session, "x"),
    "whisper": lambda session: whisper(session, "x"),
    "message": lambda session: send_message(session, "x"),
    "context": lambda session: inject_context(session, "x"),
}
NAMES = ["session_id", "chat_session_id", "id"]


def answer_with(**data):
    body = json.dumps({"success": True, "data": data}).encode()
    return Junk(body, "application/json", close=False)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("act", ACTS)
def test_action_with_answer_of_other_session_stores_nothing_of_it(
    mirrored, osvi_sandbox, act, name
):
    before = "ai" if act == "takeover" else "support"
    session = mirrored(mode=before, active_human="Kim")
    data = {"reply": SECRET, "context": [SECRET], "active_human": SECRET}
    osvi_sandbox.script(session.session_id, answer_with(**{name: ANOTHER}, **data))
    with pytest.raises(OSVIBadAnswer, match="a different chat session"):
        ACTS[act](session)
    session.refresh_from_db()
    assert (session.mode, session.active_human, context_of(session)) == (before, "Kim", [])
    action = SupportAction.objects.get()
    assert (action.outcome, action.reply, action.answer) == ("bad_answer", "", "")
    assert action.http_status == 200


@pytest.mark.parametrize("name", NAMES)
def test_action_with_own_id_in_other_spelling_stores_answer(mirrored, osvi_sandbox, name):
    session = mirrored(session_id="4718a326-417b-4dda-90d0-21fd65a11cb8")
    spelt = f" {session.session_id.upper()}\n"
    osvi_sandbox.script(session.session_id, answer_with(**{name: spelt}, reply="Yes."))
    assert tell(session, "x").reply == "Yes."
    osvi_sandbox.script(session.session_id, answer_with(**{name: spelt}, reply="No."))
    assert receive_message(session, "x").reply == "No."


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", [SECRET, None])
def test_close_with_answer_of_other_session_stores_no_summary(mirrored, osvi_sandbox, name, text):
    session = mirrored()
    osvi_sandbox.script(session.session_id, answer_with(**{name: ANOTHER}, summary=text))
    with pytest.raises(OSVIBadAnswer, match="a different chat session"):
        close_session(session)
    session.refresh_from_db()
    assert (session.status, session.summary_status) == ("unconfirmed", "pending")
    assert not SessionSummary.objects.exists()
    attempt = session.attempts.get()
    assert (attempt.outcome, ANOTHER in attempt.answer) == ("bad_answer", True)


@pytest.fixture
def make_object(osvi_sandbox):
    """Return a function that returns OSVI's object of a session, with some other values."""

    def _make_object(session, **other):
        return {**osvi_sandbox.sessions[session.session_id].as_json(), **other}

    return _make_object


@pytest.mark.parametrize("customer_id", ["+2", "+1 ", "1"])
def test_look_up_with_answer_of_other_customer_stores_nothing(
    mirrored, osvi_sandbox, make_object, customer_id
):
    session = mirrored(customer_id="+1")
    listed = make_object(session, id=ANOTHER, customer_id=customer_id, mode="support")
    osvi_sandbox.script(None, answer_with(**{session.agent.uuid: listed}))
    with pytest.raises(OSVIBadAnswer, match="different customer"):
        look_up_customer("+1")
    assert ChatSession.objects.get() == session
    session.refresh_from_db()
    assert (session.status, session.mode) == ("active", "ai")


def test_start_with_answer_of_other_customer_stores_nothing(mirrored, osvi_sandbox, make_object):
    session = mirrored(customer_id="+1")
    theirs = answer_with(**make_object(session, id=ANOTHER, customer_id="+2"))
    osvi_sandbox.script(None, Status(404, errors=["No active session"]), theirs)
    with pytest.raises(OSVIBadAnswer, match="different customer"):
        start_session(agent_uuid=session.agent.uuid, customer_id="+1")
    assert ChatSession.objects.get() == session
    assert not SupportAction.objects.exists()


def test_recover_with_answer_of_other_customer_changes_nothing(
    unconfirmed, osvi_sandbox, make_object
):
    session = unconfirmed(Drop(), customer_id="+1")
    data = make_object(session, id=ANOTHER, customer_id="+2")
    osvi_sandbox.script(None, answer_with(**data))
    assert recover_session(session).settled is Settled.UNCHANGED
    assert session.status == "unconfirmed"


def test_recover_with_id_in_other_spelling_reopens_session(unconfirmed, osvi_sandbox, make_object):
    session = unconfirmed(
        Drop(), customer_id="+1", session_id="4718a326-417b-4dda-90d0-21fd65a11cb8"
    )
    osvi_sandbox.script(None, answer_with(**make_object(session, id=session.session_id.upper())))
    assert recover_session(session).settled is Settled.REOPENED


@pytest.mark.parametrize(
    "odd", [{}, {"id": None}, {"id": True}, {"id": "x", "customer_id": "+2"}, "text"]
)
def test_recover_with_unreadable_list_changes_nothing(unconfirmed, osvi_sandbox, odd):
    session = unconfirmed(Drop(), customer_id="+1")
    type(session.agent).objects.update(uuid=None)
    session.agent.refresh_from_db()
    osvi_sandbox.script(None, answer_with(a=odd))
    assert recover_session(session).settled is Settled.UNCHANGED


def test_check_with_answer_of_other_session_changes_nothing(mirrored, osvi_sandbox):
    session = mirrored(customer_id="+1")
    osvi_sandbox.sessions[session.session_id].status = "dormant"
    osvi_sandbox.script(session.session_id, answer_with(session_id=ANOTHER))
    assert look_up_customer("+1").unknown == 1
    session.refresh_from_db()
    assert session.status == "active"
