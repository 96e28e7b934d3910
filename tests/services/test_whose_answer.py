"""An answer that names another session, or another customer, is stored with neither."""

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
    "inbound": lambda session: receive_message(session, "x"),
}
NAMES = ["session_id", "chat_session_id", "id"]


def says(**data):
    body = json.dumps({"success": True, "data": data}).encode()
    return Junk(body, "application/json", close=False)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("act", ACTS)
def test_an_action_answered_for_another_session_stores_nothing_of_it(
    mirrored, osvi_sandbox, act, name
):
    before = "ai" if act == "takeover" else "support"
    session = mirrored(mode=before, active_human="Kim")
    told = {"reply": SECRET, "context": [SECRET], "active_human": SECRET}
    osvi_sandbox.script(session.session_id, says(**{name: ANOTHER}, **told))
    with pytest.raises(OSVIBadAnswer, match="a different chat session"):
        ACTS[act](session)
    session.refresh_from_db()
    assert (session.mode, session.active_human, context_of(session)) == (before, "Kim", [])
    action = SupportAction.objects.get()
    assert (action.outcome, action.reply, action.answer) == ("bad_answer", "", "")
    assert action.http_status == 200


@pytest.mark.parametrize("name", NAMES)
def test_an_action_answered_for_its_own_session_in_another_spelling_is_stored(
    mirrored, osvi_sandbox, name
):
    session = mirrored(session_id="4718a326-417b-4dda-90d0-21fd65a11cb8")
    spelt = f" {session.session_id.upper()}\n"
    osvi_sandbox.script(session.session_id, says(**{name: spelt}, reply="Yes."))
    assert tell(session, "x").reply == "Yes."
    osvi_sandbox.script(session.session_id, says(**{name: spelt}, reply="No."))
    assert receive_message(session, "x").reply == "No."


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", [SECRET, None])
def test_a_close_answered_for_another_session_stores_no_summary(mirrored, osvi_sandbox, name, text):
    session = mirrored()
    osvi_sandbox.script(session.session_id, says(**{name: ANOTHER}, summary=text))
    with pytest.raises(OSVIBadAnswer, match="a different chat session"):
        close_session(session)
    session.refresh_from_db()
    assert (session.status, session.summary_status) == ("unconfirmed", "pending")
    assert not SessionSummary.objects.exists()
    attempt = session.attempts.get()
    assert (attempt.outcome, ANOTHER in attempt.answer) == ("bad_answer", True)


@pytest.fixture
def object_of(osvi_sandbox):
    """The object of a session at OSVI, with some other values."""

    def _object_of(session, **other):
        return {**osvi_sandbox.sessions[session.session_id].as_json(), **other}

    return _object_of


@pytest.mark.parametrize("customer_id", ["+2", "+1 ", "1"])
def test_a_look_up_answered_for_another_customer_stores_nothing(
    mirrored, osvi_sandbox, object_of, customer_id
):
    session = mirrored(customer_id="+1")
    listed = object_of(session, id=ANOTHER, customer_id=customer_id, mode="support")
    osvi_sandbox.script(None, says(**{session.agent.uuid: listed}))
    with pytest.raises(OSVIBadAnswer, match="different customer"):
        look_up_customer("+1")
    assert ChatSession.objects.get() == session
    session.refresh_from_db()
    assert (session.status, session.mode) == ("active", "ai")


def test_a_start_answered_for_another_customer_stores_nothing(mirrored, osvi_sandbox, object_of):
    session = mirrored(customer_id="+1")
    theirs = says(**object_of(session, id=ANOTHER, customer_id="+2"))
    osvi_sandbox.script(None, Status(404, errors=["No active session"]), theirs)
    with pytest.raises(OSVIBadAnswer, match="different customer"):
        start_session(agent_uuid=session.agent.uuid, customer_id="+1")
    assert ChatSession.objects.get() == session
    assert not SupportAction.objects.exists()


def test_a_recovery_answered_for_another_customer_settles_nothing(
    unconfirmed, osvi_sandbox, object_of
):
    session = unconfirmed(Drop(), customer_id="+1")
    told = object_of(session, id=ANOTHER, customer_id="+2")
    osvi_sandbox.script(None, says(**told))
    assert recover_session(session).settled is Settled.UNCHANGED
    assert session.status == "unconfirmed"


def test_a_recovery_finds_a_session_that_is_listed_in_another_spelling(
    unconfirmed, osvi_sandbox, object_of
):
    session = unconfirmed(
        Drop(), customer_id="+1", session_id="4718a326-417b-4dda-90d0-21fd65a11cb8"
    )
    osvi_sandbox.script(None, says(**object_of(session, id=session.session_id.upper())))
    assert recover_session(session).settled is Settled.REOPENED


@pytest.mark.parametrize(
    "odd", [{}, {"id": None}, {"id": True}, {"id": "x", "customer_id": "+2"}, "text"]
)
def test_a_list_that_cannot_be_read_closes_nothing(unconfirmed, osvi_sandbox, odd):
    session = unconfirmed(Drop(), customer_id="+1")
    type(session.agent).objects.update(uuid=None)
    session.agent.refresh_from_db()
    osvi_sandbox.script(None, says(a=odd))
    assert recover_session(session).settled is Settled.UNCHANGED


def test_a_pause_answered_for_another_session_tells_nothing(mirrored, osvi_sandbox):
    session = mirrored(customer_id="+1")
    osvi_sandbox.sessions[session.session_id].status = "dormant"
    osvi_sandbox.script(session.session_id, says(session_id=ANOTHER))
    assert look_up_customer("+1").unknown == 1
    session.refresh_from_db()
    assert session.status == "active"
