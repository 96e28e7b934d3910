"""Test what each reply to a close means for a session in each state."""

from __future__ import annotations

import json
import uuid

import pytest

from osvi_django.client.responses import Answer
from osvi_django.exceptions import (
    AnswerNotStored,
    CloseInProgress,
    InvalidInput,
    OSVIError,
    OSVINoAnswer,
    OSVINotConfigured,
    OSVIUnknown,
    OSVIUnreachable,
)
from osvi_django.models import ChatSession, CloseAttempt
from osvi_django.services.attempts.interpret import (
    NeedsCheck,
    RemoteClose,
    interpret,
    interpret_check,
)
from osvi_django.services.attempts.types import Failure, Settlement

TOKEN = uuid.uuid4()


def envelope(status=200, *, success=True, data=None, errors=()):
    body = {"success": success, "data": data, "errors": list(errors)}
    return Answer(status=status, body=json.dumps(body).encode())


def refusal(status):
    return envelope(status, success=False, errors=["No"])


ENDED = {"session_id": "s-1", "status": "closed"}
REPLIES = {
    "closed": envelope(data={**ENDED, "summary": "All is well."}),
    "closed without a summary": envelope(data=ENDED),
    "another session": envelope(data={**ENDED, "session_id": "s-2", "summary": "Not yours."}),
    "no JSON": Answer(status=200, body=b"<html>"),
    "an error of OSVI": Answer(status=500, body=b"Oops"),
    "400": refusal(400),
    "401": refusal(401),
    "404": refusal(404),
    "409": refusal(409),
    "422": refusal(422),
    "429": refusal(429),
    "a gateway's 403": Answer(status=403, body=b"<html>No</html>"),
    "unreachable": OSVIUnreachable(),
    "no answer": OSVINoAnswer(),
    "not stored": AnswerNotStored(),
    "not configured": OSVINotConfigured("No token."),
    "no agent": InvalidInput("agent_uuid is missing.", field="agent_uuid"),
    "another has it": CloseInProgress(),
    "an error that says nothing": OSVIError(),
}
# By reply: what it means for an active session, a dormant one, one that recovery has claimed, and
# one that is closed once more for its summary.
TABLE = {
    "closed": ("stored", "stored", "stored", "stored"),
    "closed without a summary": ("not_provided", "not_provided", "not_provided", "lost"),
    "another session": ("unconfirmed", "unconfirmed", "unconfirmed", "lost"),
    "no JSON": ("unconfirmed", "unconfirmed", "unconfirmed", "lost"),
    "an error of OSVI": ("unconfirmed", "unconfirmed", "unconfirmed", "lost"),
    "400": ("open", "open", "open", "lost"),
    "401": ("open", "open", "open", "unconfirmed"),
    "404": ("check", "check", "check", "lost"),
    "409": ("check", "check", "check", "lost"),
    "422": ("check", "open", "check", "lost"),
    "429": ("open", "open", "open", "unconfirmed"),
    "a gateway's 403": ("open", "open", "open", "unconfirmed"),
    "unreachable": ("open", "open", "open", "unconfirmed"),
    "no answer": ("unconfirmed", "unconfirmed", "unconfirmed", "lost"),
    "not stored": ("unconfirmed", "unconfirmed", "unconfirmed", "lost"),
    "not configured": ("open", "open", "open", "unconfirmed"),
    "no agent": ("open", "open", "open", "lost"),
    "another has it": ("open", "open", "open", "unconfirmed"),
    "an error that says nothing": ("unconfirmed", "unconfirmed", "unconfirmed", "lost"),
}
STATES = {
    "active": ("active", "close", None),
    "dormant": ("dormant", "close", None),
    "claimed by recovery": ("dormant", "close", TOKEN),
    "closed once more": ("unconfirmed", "reclose", TOKEN),
}
CASES = [
    pytest.param(state, reply, meaning, id=f"{state}-{reply}")
    for reply, meanings in TABLE.items()
    for state, meaning in zip(STATES, meanings, strict=True)
]


def describe(end):
    if isinstance(end, NeedsCheck):
        return "check"
    if isinstance(end, Failure):
        return "open" if end.is_open else "unconfirmed"
    return "stored" if end.text else str(end.summary_status_if_none)


@pytest.fixture
def make_parts():
    def make(state):
        status, kind, token = STATES[state]
        session = ChatSession(session_id="s-1", status=status)
        return session, CloseAttempt(session=session, kind=kind, claim=uuid.uuid4()), token

    return make


def test_table_has_a_row_for_each_reply():
    assert [*TABLE] == [*REPLIES]


@pytest.mark.parametrize(("state", "reply", "meaning"), CASES)
def test_interpret_reply_for_session_in_each_state_returns_expected_meaning(
    make_parts, state, reply, meaning
):
    session, attempt, token = make_parts(state)
    end = interpret(REPLIES[reply], session=session, attempt=attempt, claim_token=token)
    assert describe(end) == meaning
    assert (end.session, end.attempt) == (session, attempt)
    if isinstance(end, Failure):
        assert end.claim_token == token


def test_interpret_answer_of_osvi_needs_no_claim(make_parts):
    session, attempt, token = make_parts("claimed by recovery")
    end = interpret(REPLIES["closed"], session=session, attempt=attempt, claim_token=token)
    assert (end.text, end.claim_token) == ("All is well.", None)
    assert end.attempt_fields == {"outcome": "closed", "error_code": "", "error_reason": ""}


def test_interpret_failed_second_close_needs_claim(make_parts):
    session, attempt, token = make_parts("closed once more")
    end = interpret(REPLIES["404"], session=session, attempt=attempt, claim_token=token)
    assert (end.text, end.claim_token) == (None, TOKEN)
    assert end.attempt_fields == {
        "outcome": "rejected",
        "error_code": "unknown_at_osvi",
        "error_reason": "No",
    }


class TestInterpretCheck:
    @pytest.fixture
    def check(self, make_parts):
        session, attempt, _token = make_parts("active")
        return interpret(REPLIES["404"], session=session, attempt=attempt)

    def test_interpret_check_when_session_is_open_keeps_status(self, check):
        end = interpret_check(check, None)
        assert isinstance(end, Failure)
        assert (end.is_open, end.claim_token) == (True, None)
        assert (end.error.code, end.error.status) == ("unknown_at_osvi", check.error.status)
        assert isinstance(end.error, OSVIUnknown)

    @pytest.mark.parametrize(("text", "status"), [("Kept.", "lost"), (None, "not_provided")])
    def test_interpret_check_when_session_is_closed_settles_it(self, check, text, status):
        end = interpret_check(check, RemoteClose(text=text, summary_status_if_none=status))
        assert isinstance(end, Settlement)
        assert (end.text, end.summary_status_if_none) == (text, status)
        assert end.claim_token == check.attempt.claim
        assert end.attempt_fields["outcome"] == "rejected"


def test_repr_of_interpretation_has_no_summary(make_parts):
    session, attempt, _token = make_parts("active")
    end = interpret(REPLIES["closed"], session=session, attempt=attempt)
    remote = RemoteClose(text="All is well.", summary_status_if_none="lost")
    assert "All is well" not in f"{end!r}{remote!r}"
