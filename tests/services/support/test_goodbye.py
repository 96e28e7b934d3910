"""A goodbye before a close: once in a session, journaled, and never in the way of the close."""

from __future__ import annotations

import pytest

from osvi_django.exceptions import InvalidInput, NotAllowed, OSVINoAnswer, OSVIRejected
from osvi_django.models import ChatSession, SupportAction
from osvi_django.services import (
    close_session,
    close_session_by_id,
    create_close_job_by_id,
    hand_back,
    run_close_job,
)
from osvi_django.testing import Drop, Status
from tests.helpers.sandbox import SUMMARY, CallThenAnswer

pytestmark = pytest.mark.django_db

BYE = "We close this chat now. Goodbye!"
AS_USUAL = CallThenAnswer(lambda: None)


@pytest.fixture
def session(mirrored):
    """Create an active session that the sandbox knows as well."""
    return mirrored(customer_id="+1555")


@pytest.fixture
def sent(osvi_sandbox):
    """Return the messages that reached OSVI for a customer."""

    def _sent():
        bodies = [each.body or {} for each in osvi_sandbox.requests]
        return [body["message"] for body in bodies if set(body) == {"message"}]

    return _sent


def journal(session):
    """Return the kind and outcome of each action."""
    return list(SupportAction.objects.filter(session=session).values_list("kind", "outcome"))


class TestSession:
    def test_goodbye_takes_over_writes_and_closes(self, session, sent, grant, staff, osvi_sandbox):
        grant(staff, "operate_chatsession")
        result = close_session(session, requested_by=staff, via="rest", goodbye=f" {BYE} ")
        assert (result.goodbye, result.summary.text) == ("sent", SUMMARY)
        assert sent() == [BYE]
        assert journal(session) == [("takeover", "done"), ("message", "done")]
        written = SupportAction.objects.get(kind="message")
        assert (written.requested_by, written.via, written.text) == (staff, "rest", BYE)
        assert osvi_sandbox.close_requests(session.session_id) == 1

    def test_goodbye_in_session_taken_over_only_writes(self, mirrored, osvi_sandbox, sent):
        session = mirrored(mode="support", customer_id="+1555")
        osvi_sandbox.sessions[session.session_id].change(mode="support")
        assert close_session(session, goodbye=BYE).goodbye == "sent"
        assert journal(session) == [("message", "done")]

    @pytest.mark.parametrize(
        ("faults", "outcome", "actions"),
        [
            ([Status(422)], "not_sent", [("takeover", "rejected")]),
            ([Drop()], "not_sent", [("takeover", "no_answer")]),
            ([AS_USUAL, Status(422)], "not_sent", [("takeover", "done"), ("message", "rejected")]),
            ([AS_USUAL, Drop()], "unknown", [("takeover", "done"), ("message", "no_answer")]),
        ],
    )
    def test_goodbye_that_fails_does_not_stop_the_close(
        self, session, osvi_sandbox, faults, outcome, actions
    ):
        osvi_sandbox.script(session.session_id, *faults)
        result = close_session(session, goodbye=BYE)
        assert (result.goodbye, result.session.status) == (outcome, "closed")
        assert journal(session) == actions
        assert osvi_sandbox.close_requests(session.session_id) == 1

    def test_goodbye_is_not_repeated_with_the_next_close(self, session, osvi_sandbox, sent):
        osvi_sandbox.script(session.session_id, AS_USUAL, AS_USUAL, Status(422))
        with pytest.raises(OSVIRejected):
            close_session(session, goodbye=BYE)
        # The agent answers again, so that the customer is not left without an answer.
        session.refresh_from_db()
        assert (session.status, session.mode) == ("active", "ai")
        assert close_session(session, goodbye=BYE).goodbye == "sent"
        assert sent() == [BYE]
        kinds = [kind for kind, _outcome in journal(session)]
        assert kinds == ["takeover", "message", "end"]

    def test_goodbye_whose_outcome_is_unknown_is_not_repeated(self, session, osvi_sandbox, sent):
        osvi_sandbox.script(session.session_id, AS_USUAL, Drop(), Status(422))
        with pytest.raises(OSVIRejected):
            close_session(session, goodbye=BYE)
        assert close_session(session, goodbye=BYE).goodbye == "unknown"
        assert sent() == [BYE]

    def test_goodbye_that_was_refused_is_sent_with_the_next_close(
        self, session, osvi_sandbox, sent
    ):
        osvi_sandbox.script(session.session_id, AS_USUAL, Status(422), Status(422))
        with pytest.raises(OSVIRejected):
            close_session(session, goodbye=BYE)
        assert close_session(session, goodbye=BYE).goodbye == "sent"
        assert sent() == [BYE, BYE]

    def test_session_that_cannot_be_handed_back_stays_taken_over(self, session, osvi_sandbox):
        refused = Status(422)
        osvi_sandbox.script(session.session_id, AS_USUAL, AS_USUAL, refused, refused)
        with pytest.raises(OSVIRejected):
            close_session(session, goodbye=BYE)
        session.refresh_from_db()
        assert (session.status, session.mode) == ("active", "support")

    def test_same_text_of_a_colleague_that_may_have_arrived_is_not_repeated(
        self, mirrored, osvi_sandbox, sent
    ):
        session = mirrored(mode="support", customer_id="+1555")
        SupportAction.objects.create(session=session, kind="message", text=BYE)
        assert close_session(session, goodbye=BYE).goodbye == "unknown"
        assert sent() == []

    def test_session_that_may_be_closed_is_not_written_to(self, mirrored, osvi_sandbox, sent):
        session = mirrored(status="unconfirmed", customer_id="+1555")
        result = close_session(session, goodbye=BYE)
        assert (result.goodbye, result.session.status) == ("not_sent", "closed")
        assert sent() == []

    def test_closed_session_is_not_written_to(self, session, sent):
        close_session(session)
        assert close_session(session, goodbye=BYE).goodbye == ""
        assert sent() == []

    def test_session_that_may_be_closed_is_not_handed_back(self, session, osvi_sandbox):
        osvi_sandbox.script(session.session_id, AS_USUAL, AS_USUAL, Drop(after_closing=True))
        with pytest.raises(OSVINoAnswer):
            close_session(session, goodbye=BYE)
        assert journal(session) == [("takeover", "done"), ("message", "done")]
        assert close_session(session, goodbye=BYE).goodbye == "sent"

    def test_goodbye_needs_the_permission_to_operate(self, session, grant, django_user_model):
        jo = grant(django_user_model.objects.create_user("jo"), "close_chatsession")
        with pytest.raises(NotAllowed):
            close_session(session, requested_by=jo, goodbye=BYE)
        assert close_session(session, requested_by=jo).changed

    def test_goodbye_that_is_too_long_names_its_field(self, session):
        with pytest.raises(InvalidInput, match="goodbye is too long") as caught:
            close_session(session, goodbye="x" * 10_001)
        assert caught.value.field == "goodbye"

    def test_next_goodbye_of_other_words_is_sent(self, session, osvi_sandbox, sent):
        osvi_sandbox.script(session.session_id, AS_USUAL, AS_USUAL, Status(422))
        with pytest.raises(OSVIRejected):
            close_session(session, goodbye=BYE)
        hand_back(session)
        close_session(session, goodbye="Bye again")
        assert sent() == [BYE, "Bye again"]


class TestById:
    def test_known_session_is_written_to(self, session, sent):
        assert close_session_by_id(session.session_id, goodbye=BYE).goodbye == "sent"
        assert sent() == [BYE]

    def test_session_that_only_the_caller_knows_is_not_written_to(self, osvi_sandbox, sent):
        osvi_sandbox.add_session(session_id="s-9", agent_uuid="agent-9")
        result = close_session_by_id("s-9", agent_uuid="agent-9", goodbye=BYE)
        assert (result.goodbye, result.changed) == ("not_sent", True)
        assert sent() == []

    def test_job_by_id_says_goodbye(self, session, sent, settings):
        settings.OSVI_EXECUTOR = None
        job = create_close_job_by_id(session.session_id, goodbye=BYE)
        assert run_close_job(job.pk).succeeded == 1
        assert (sent(), ChatSession.objects.get().status) == ([BYE], "closed")
