"""Test messages of customers that OSVI puts into another session than the one that was named."""

from __future__ import annotations

import json

import pytest
from django.db import OperationalError

from osvi_django.exceptions import OSVIBadAnswer, OSVINoAnswer
from osvi_django.models import ChatSession, SupportAction
from osvi_django.services import mark_closed, receive_message
from osvi_django.testing import Junk, Status
from osvi_django.testing.calls import REPLY
from osvi_django.testing.factories import ChatSessionFactory
from tests.helpers.database import raise_on_queries

pytestmark = pytest.mark.django_db(transaction=True)
SECRET = "What the other customer heard."


@pytest.fixture
def session(mirrored):
    return mirrored(customer_id="+1555")


@pytest.fixture
def put_into(session, osvi_sandbox):
    """Return a function that adds a session at OSVI, into which the next message is put."""

    def _put_into(session_id="other", **facts):
        same = {"agent_uuid": session.agent.uuid, "customer_id": session.customer_id}
        other = osvi_sandbox.add_session(session_id, **same)
        osvi_sandbox.script_inbound(session.session_id, session_id=other.id, **facts)
        return other

    return _put_into


def test_message_in_other_session_is_followed(session, put_into, osvi_sandbox):
    other = put_into(help_requested=True)
    result = receive_message(session, "A human!")
    assert (result.is_other_session, result.reply) == (True, REPLY)
    found = ChatSession.objects.get(session_id="other")
    assert (result.session, found.agent, found.customer_id) == (found, session.agent, "+1555")
    assert (found.help_requested, found.mode, found.status) == (True, "ai", "active")
    assert found.metadata["id"] == other.id
    action = SupportAction.objects.get()
    assert (action.session, action.outcome, action.reply) == (found, "done", REPLY)
    assert '"other"' in action.answer
    session.refresh_from_db()
    assert (session.help_requested, session.actions.count()) == (False, 0)


@pytest.mark.parametrize("customer_id", ["+1555", ""])
def test_message_in_known_session_is_followed(session, put_into, osvi_sandbox, customer_id):
    put_into()
    known = ChatSessionFactory(
        session_id="other", agent=session.agent, customer_id=customer_id, status="dormant"
    )
    assert receive_message(session, "Hello?").session == known
    known.refresh_from_db()
    assert (known.customer_id, known.customer_digits, known.status) == ("+1555", "5551", "active")


def test_message_in_own_session_is_not_followed(session):
    result = receive_message(session, "Hello?")
    assert (result.session, result.is_other_session) == (session, False)


def test_message_in_session_of_agent_known_by_number_is_followed(session, put_into):
    put_into()
    agent = {"agent__uuid": None, "agent__number": 9}
    known = ChatSessionFactory(session_id="other", customer_id="+1555", **agent)
    assert receive_message(session, "Hello?").session == known


@pytest.mark.parametrize("name", ["session_id", "chat_session_id", "id"])
@pytest.mark.parametrize("other", [{"customer_id": "+1666"}, {"customer_id": "+1555"}])
def test_answer_about_session_of_others_stores_nothing_of_it(session, osvi_sandbox, name, other):
    ChatSessionFactory(session_id="another", **other)
    data = {name: "another", "reply": SECRET, "help_requested": True}
    body = json.dumps({"success": True, "data": data}).encode()
    osvi_sandbox.script(session.session_id, Junk(body, "application/json", close=False))
    with pytest.raises(OSVIBadAnswer, match="a different chat session"):
        receive_message(session, "Hello?")
    action = SupportAction.objects.get()
    assert (action.session, action.outcome, action.answer) == (session, "bad_answer", "")
    assert not ChatSession.objects.filter(help_requested=True).exists()


def test_answer_with_id_that_is_not_safe_raises_bad_answer(session, osvi_sandbox):
    osvi_sandbox.script_inbound(session.session_id, session_id="../x")
    with pytest.raises(OSVIBadAnswer, match="a different chat session"):
        receive_message(session, "Hello?")
    assert ChatSession.objects.count() == 1


def test_incomplete_answer_about_other_session_is_no_answer(session, osvi_sandbox):
    body = b'{"success": true, "data": {"session_id": "other", "reply": "Yes."}}'
    fault = Junk(body, "application/json", encoding="gzip", close=False)
    osvi_sandbox.script(session.session_id, fault)
    with pytest.raises(OSVINoAnswer):
        receive_message(session, "Hello?")
    assert ChatSession.objects.count() == 1


def test_message_when_other_session_cannot_be_stored_is_done(session, put_into, caplog):
    put_into()

    def is_insert(sql, _params):
        return sql.startswith("INSERT") and "chatsession" in sql

    with raise_on_queries(is_insert, OperationalError("a secret")):
        result = receive_message(session, "Hello?")
    assert (result.is_other_session, result.session, result.reply) == (True, session, REPLY)
    assert "is not mirrored: OperationalError" in caplog.text
    assert "secret" not in caplog.text


def test_message_in_session_that_was_marked_closed_opens_it_again(
    session, put_into, osvi_sandbox, mirrored
):
    marked = mirrored(session_id="other", agent=session.agent, customer_id="+1555")
    ChatSession.objects.filter(pk=marked.pk).update(is_close_refused=True)
    marked.refresh_from_db()
    mark_closed(marked, note="Seen.")
    osvi_sandbox.sessions.pop("other")
    put_into()
    assert receive_message(session, "Hello?").session == marked
    marked.refresh_from_db()
    assert (marked.status, marked.attempts.first().kind) == ("active", "reopened")


def test_message_in_other_session_over_rest_says_so(session, put_into, operator):
    put_into()
    url = f"/api/osvi/sessions/{session.session_id}/messages/"
    body = operator.post(url, {"content": "Hello?"}, format="json").json()
    assert (body["session_id"], body["is_other_session"]) == ("other", True)
    body = operator.post(url, {"content": "Hello again?"}, format="json").json()
    assert (body["session_id"], body["is_other_session"]) == (session.session_id, False)


def test_other_session_when_osvi_does_not_say_more_is_kept(session, osvi_sandbox):
    osvi_sandbox.script_inbound(session.session_id, session_id="other")
    osvi_sandbox.script(None, *[Status(500)] * 9)
    result = receive_message(session, "Hello?")
    assert (result.session.session_id, result.session.osvi_updated_at) == ("other", None)
