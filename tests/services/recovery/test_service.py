"""Test recovery of unconfirmed sessions, and of those whose process died while closing."""

from __future__ import annotations

import json
import signal
import uuid
from datetime import timedelta

import pytest
from django.contrib.auth.models import AnonymousUser
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.db.models.signals import pre_init

from osvi_django.database import DatabaseNow
from osvi_django.exceptions import (
    CloseInProgress,
    InsideTransaction,
    InvalidInput,
    NotAllowed,
    OSVINoAnswer,
    OSVINotConfigured,
    OSVIRejected,
    OSVIUnreachable,
    SessionNotFound,
)
from osvi_django.models import ChatAgent, ChatSession, CloseAttempt
from osvi_django.services import close_again, close_session
from osvi_django.services.recovery import (
    Settled,
    is_refused,
    mark_closed,
    recover_all,
    recover_session,
)
from osvi_django.signals import session_closed
from osvi_django.testing import Drop, Fault, Junk, OddSummary, Status
from osvi_django.testing.factories import ChatSessionFactory, ClosedSessionFactory
from tests.helpers.processes import TerminatingOutput
from tests.helpers.sandbox import SUMMARY
from tests.services.helpers import claim_elsewhere, run_at_once

pytestmark = pytest.mark.django_db

Kind = CloseAttempt.Kind
Outcome = CloseAttempt.Outcome


@pytest.fixture
def closed_at_osvi(unconfirmed):
    """Create a session that OSVI closed, and whose answer was lost."""
    return unconfirmed(Drop(after_closing=True))


@pytest.fixture
def open_at_osvi(unconfirmed):
    """Create an unconfirmed session that OSVI has open."""
    return unconfirmed(Drop())


def answer_body(session, **data):
    data = {"session_id": session.session_id, "summary": SUMMARY, **data}
    return json.dumps({"success": True, "data": data})


class TestRecoverSession:
    def test_recover_when_osvi_says_open_reopens_session(self, open_at_osvi, osvi_sandbox):
        result = recover_session(open_at_osvi)
        assert (result.settled, open_at_osvi.status) == (Settled.REOPENED, "active")
        assert (open_at_osvi.claim, open_at_osvi.lease_until) == (None, None)
        assert osvi_sandbox.close_requests(open_at_osvi.session_id) == 1
        assert close_session(open_at_osvi).summary.text == SUMMARY

    def test_recover_when_osvi_says_closed_closes_again_for_summary(
        self, closed_at_osvi, osvi_sandbox, staff
    ):
        result = recover_session(closed_at_osvi, requested_by=staff, via="desk")
        assert (result.settled, closed_at_osvi.status) == (Settled.STORED, "closed")
        assert closed_at_osvi.summary.text == SUMMARY
        assert osvi_sandbox.close_requests(closed_at_osvi.session_id) == 2
        assert osvi_sandbox.closes(closed_at_osvi.session_id) == 1
        fetch, lost = closed_at_osvi.attempts.all()
        assert (fetch.kind, fetch.outcome) == (Kind.RECLOSE, Outcome.CLOSED)
        assert (fetch.requested_by, fetch.via) == (staff, "desk")
        assert (lost.kind, lost.outcome) == (Kind.CLOSE, Outcome.NO_ANSWER)

    @pytest.mark.parametrize("variant", ["without", 404, 409, 422])
    def test_recover_when_second_close_has_no_summary_is_lost(
        self, closed_at_osvi, osvi_sandbox, variant
    ):
        osvi_sandbox.when_closed = variant
        result = recover_session(closed_at_osvi)
        assert (result.settled, closed_at_osvi.status) == (Settled.LOST, "closed")
        assert closed_at_osvi.summary_status == "lost"
        assert osvi_sandbox.close_requests(closed_at_osvi.session_id) == 2

    @pytest.mark.parametrize("fault", [Drop(), Status(500), Junk(), OddSummary(42)], ids=repr)
    def test_recover_when_second_close_fails_is_lost_and_not_repeated(
        self, closed_at_osvi, osvi_sandbox, fault
    ):
        osvi_sandbox.script(closed_at_osvi.session_id, fault)
        assert recover_session(closed_at_osvi).settled is Settled.LOST
        assert recover_session(closed_at_osvi).settled is Settled.ALREADY_SETTLED
        assert osvi_sandbox.close_requests(closed_at_osvi.session_id) == 2

    def test_recover_with_v1_account_sends_second_close_in_legacy_dialect(
        self, mirrored, osvi_sandbox, settings
    ):
        settings.OSVI["default"]["CLOSE_WITH"] = "v1"
        session = mirrored()
        osvi_sandbox.script(session.session_id, Drop(after_closing=True))
        with pytest.raises(OSVINoAnswer):
            close_session(session)
        assert recover_session(session).settled is Settled.STORED
        assert osvi_sandbox.requests[-1].path.endswith("/close_session")

    @pytest.mark.parametrize(
        "fault", [Status(429), Status(401, error="Invalid API token")], ids=repr
    )
    def test_recover_when_second_close_is_not_processed_can_be_repeated(
        self, closed_at_osvi, osvi_sandbox, fault
    ):
        osvi_sandbox.script(closed_at_osvi.session_id, fault)
        result = recover_session(closed_at_osvi)
        assert (result.settled, closed_at_osvi.status) == (Settled.UNCHANGED, "unconfirmed")
        assert result.detail.startswith("OSVI ")
        assert recover_session(closed_at_osvi).settled is Settled.STORED

    def test_recover_when_customer_has_later_session_settles_session(
        self, closed_at_osvi, osvi_sandbox
    ):
        osvi_sandbox.add_session(
            agent_uuid=closed_at_osvi.agent.uuid, customer_id=closed_at_osvi.customer_id
        )
        assert recover_session(closed_at_osvi).settled is Settled.STORED


class TestRecoverSessionUnchanged:
    def test_recover_when_osvi_is_down_changes_nothing(self, closed_at_osvi, settings):
        settings.OSVI["default"]["BASE_URL"] = "http://127.0.0.1:1"
        result = recover_session(closed_at_osvi)
        assert (result.settled, closed_at_osvi.status) == (Settled.UNCHANGED, "unconfirmed")
        assert "could not be reached" in result.detail
        assert closed_at_osvi.claim is None

    @pytest.mark.parametrize("customer_id", ["+1555", ""])
    @pytest.mark.parametrize(
        ("fault", "happened"),
        [
            (Status(500), "OSVI did not answer"),
            (Drop(), "OSVI did not answer"),
            (Junk(), "OSVI's answer was unreadable"),
            (Status(403, errors=("Not yours.",)), "OSVI refused to say whether"),
        ],
        ids=repr,
    )
    def test_close_or_recover_when_check_fails_says_nothing_changed_and_try_again(
        self, unconfirmed, osvi_sandbox, fault, happened, customer_id
    ):
        session = unconfirmed(Drop(), customer_id=customer_id)
        asked_about = None if customer_id else session.session_id
        osvi_sandbox.script(asked_about, fault, fault)
        detail = recover_session(session).detail
        assert detail.startswith(happened)
        assert "Nothing has changed here. Try again later." in detail
        with pytest.raises(OSVINoAnswer) as caught:
            close_session(session)
        assert str(caught.value) == detail
        assert osvi_sandbox.close_requests(session.session_id) == 1

    @pytest.mark.parametrize(
        "fault",
        [
            Status(500),
            Drop(),
            Junk(),
            Junk(body=b'{"success": true, "data": {"id": 5, "status": "active"}}'),
            Junk(body=b'{"success": true, "data": {"id": "x"}}'),
            Junk(body=b"<h1>404</h1>", status=404),
        ],
        ids=repr,
    )
    def test_recover_with_unreadable_answer_changes_nothing(
        self, closed_at_osvi, osvi_sandbox, fault
    ):
        osvi_sandbox.script(None, fault)
        result = recover_session(closed_at_osvi)
        assert (result.settled, closed_at_osvi.status) == (Settled.UNCHANGED, "unconfirmed")
        assert result.detail
        assert osvi_sandbox.close_requests(closed_at_osvi.session_id) == 1

    def test_recover_without_customer_when_closed_stores_summary(self, unconfirmed, osvi_sandbox):
        session = unconfirmed(Drop(after_closing=True), customer_id="")
        assert recover_session(session).settled is Settled.STORED
        assert session.summary.text == SUMMARY
        assert osvi_sandbox.close_requests(session.session_id) == 2

    def test_recover_without_customer_when_open_pauses_session(self, unconfirmed, osvi_sandbox):
        session = unconfirmed(Drop(), customer_id="")
        assert recover_session(session).settled is Settled.REOPENED
        assert session.status == osvi_sandbox.sessions[session.session_id].status == "dormant"
        assert close_session(session).summary.text == SUMMARY

    def test_recover_without_customer_when_unknown_to_osvi_changes_nothing(
        self, unconfirmed, osvi_sandbox
    ):
        session = unconfirmed(Drop(), customer_id="")
        del osvi_sandbox.sessions[session.session_id]
        result = recover_session(session)
        assert (result.settled, session.status) == (Settled.UNCHANGED, "unconfirmed")
        assert "does not know this chat session" in result.detail
        assert osvi_sandbox.close_requests(session.session_id) == 1

    @pytest.mark.parametrize("status", [403, 429, 500])
    def test_recover_without_customer_when_osvi_does_not_say_changes_nothing(
        self, unconfirmed, osvi_sandbox, status
    ):
        session = unconfirmed(Drop(after_closing=True), customer_id="")
        osvi_sandbox.script(session.session_id, Status(status))
        result = recover_session(session)
        assert (result.settled, session.status) == (Settled.UNCHANGED, "unconfirmed")
        assert result.detail
        assert osvi_sandbox.close_requests(session.session_id) == 1

    def test_recover_without_customer_and_agent_uuid_changes_nothing(
        self, unconfirmed, osvi_sandbox
    ):
        session = unconfirmed(Drop(), customer_id="")
        ChatAgent.objects.update(uuid=None)
        result = recover_session(ChatSession.objects.get())
        assert result.settled is Settled.UNCHANGED
        assert "cannot be asked about this chat session" in result.detail
        assert osvi_sandbox.close_requests(session.session_id) == 1

    @pytest.mark.parametrize("status", ["active", "dormant", "closed"])
    def test_recover_when_not_unconfirmed_changes_nothing(self, osvi_sandbox, status):
        session = ChatSessionFactory(status=status)
        assert recover_session(session).settled is Settled.ALREADY_SETTLED
        assert session.status == status
        assert osvi_sandbox.requests == []

    def test_recover_when_being_closed_raises_close_in_progress(self, osvi_sandbox):
        session = ChatSessionFactory()
        claim_elsewhere(session)
        ChatSession.objects.update(lease_until=DatabaseNow() + timedelta(seconds=60))
        with pytest.raises(CloseInProgress) as caught:
            recover_session(session)
        assert caught.value.attempt == session.attempts.get()
        assert osvi_sandbox.requests == []

    def test_recover_with_unknown_account_raises_not_configured(self, closed_at_osvi, settings):
        settings.OSVI = {"emea": settings.OSVI["default"]}
        with pytest.raises(OSVINotConfigured):
            recover_session(closed_at_osvi)

    def test_recover_deleted_session_raises_not_found(self, closed_at_osvi):
        ChatSession.objects.all().delete()
        with pytest.raises(SessionNotFound):
            recover_session(closed_at_osvi)

    def test_recovery_without_permission_raises_not_allowed(self, closed_at_osvi, osvi_sandbox):
        for call in (recover_session, close_again):
            with pytest.raises(NotAllowed):
                call(closed_at_osvi, requested_by=AnonymousUser())
        with pytest.raises(NotAllowed):
            mark_closed(closed_at_osvi, requested_by=AnonymousUser(), note="x")
        assert len(osvi_sandbox.requests) == 1


class TestRecoverAfterCrash:
    def test_recover_after_crash_before_sending_reopens_session(self, mirrored, osvi_sandbox):
        session = mirrored()
        attempt = claim_elsewhere(session)
        assert recover_session(session).settled is Settled.REOPENED
        attempt.refresh_from_db()
        assert attempt.outcome == Outcome.NO_ANSWER
        assert osvi_sandbox.close_requests(session.session_id) == 0

    def test_recover_after_crash_with_stored_answer_stores_summary(self, mirrored, osvi_sandbox):
        session = mirrored()
        heard = []

        def hear(**named):
            heard.append(named["summary"].text)

        attempt = claim_elsewhere(
            session, outcome=Outcome.ANSWERED, http_status=200, answer=answer_body(session)
        )
        session_closed.connect(hear)
        try:
            assert recover_session(session).settled is Settled.STORED
        finally:
            session_closed.disconnect(hear)
        assert session.summary.text == SUMMARY
        attempt.refresh_from_db()
        assert attempt.outcome == Outcome.CLOSED
        assert osvi_sandbox.requests == []
        assert heard == [SUMMARY]

    def test_recover_after_crash_with_answer_without_summary_is_not_provided(self, mirrored):
        session = mirrored()
        answer = answer_body(session, summary=None)
        claim_elsewhere(session, outcome=Outcome.ANSWERED, http_status=200, answer=answer)
        assert recover_session(session).settled is Settled.NOT_PROVIDED

    def test_recover_after_crash_with_refusal_restores_status(self, mirrored, osvi_sandbox):
        session = mirrored(status="dormant")
        attempt = claim_elsewhere(
            session, outcome=Outcome.ANSWERED, http_status=403, answer='{"success": false}'
        )
        ChatSession.objects.update(previous_status="dormant")
        assert recover_session(session).settled is Settled.REOPENED
        assert session.status == "dormant"
        attempt.refresh_from_db()
        assert (attempt.outcome, attempt.error_code) == (Outcome.REJECTED, "rejected")
        assert osvi_sandbox.requests == []

    def test_recover_after_crash_with_ambiguous_refusal_asks_osvi(self, mirrored, osvi_sandbox):
        session = mirrored()
        osvi_sandbox.sessions[session.session_id].status = "closed"
        claim_elsewhere(
            session, outcome=Outcome.ANSWERED, http_status=409, answer='{"success": false}'
        )
        assert recover_session(session).settled is Settled.STORED

    @pytest.mark.parametrize("answer", ["junk", "{}", '{"success": true, "data": {"a":'])
    def test_recover_after_crash_with_unreadable_answer_asks_osvi(self, mirrored, answer):
        session = mirrored()
        attempt = claim_elsewhere(session, outcome=Outcome.ANSWERED, http_status=200, answer=answer)
        assert recover_session(session).settled is Settled.REOPENED
        attempt.refresh_from_db()
        assert attempt.outcome == Outcome.BAD_ANSWER

    def test_recover_after_crash_with_truncated_answer_asks_osvi(self, mirrored):
        session = mirrored()
        answer = answer_body(session, summary="x").ljust(1_000_000)
        claim_elsewhere(session, outcome=Outcome.ANSWERED, http_status=200, answer=answer)
        assert recover_session(session).settled is Settled.REOPENED

    @pytest.mark.parametrize(
        ("answer", "settled"),
        [('{"success": false}', Settled.LOST), (None, Settled.STORED)],
    )
    def test_recover_after_crash_in_second_close_reads_stored_answer(
        self, closed_at_osvi, osvi_sandbox, answer, settled
    ):
        status = 200 if answer is None else 409
        claim_elsewhere(
            closed_at_osvi,
            kind=Kind.RECLOSE,
            outcome=Outcome.ANSWERED,
            http_status=status,
            answer=answer or answer_body(closed_at_osvi),
        )
        assert recover_session(closed_at_osvi).settled is settled
        assert osvi_sandbox.close_requests(closed_at_osvi.session_id) == 1

    def test_recover_after_crash_in_second_close_without_answer_is_lost(
        self, closed_at_osvi, osvi_sandbox
    ):
        claim_elsewhere(closed_at_osvi, kind=Kind.RECLOSE)
        assert recover_session(closed_at_osvi).settled is Settled.LOST
        assert osvi_sandbox.close_requests(closed_at_osvi.session_id) == 1

    @pytest.mark.parametrize("claim", [uuid.uuid4(), None])
    def test_lease_without_end_counts_as_expired(self, mirrored, claim):
        """Close and recover rows that another program or a copy of the table left."""
        first, second = mirrored(), mirrored()
        rows = ChatSession.objects.filter(pk__in=[first.pk, second.pk])
        rows.update(status="closing", previous_status="active", claim=claim, lease_until=None)
        assert close_session(first).changed
        assert {found.settled for found in recover_all()} == {Settled.REOPENED}
        assert set(rows.values_list("status", "claim")) == {("active", None), ("closed", None)}


class TestDormantAtOSVI:
    """OSVI lists active sessions only: one that it does not list need not be closed."""

    @pytest.fixture
    def dormant_at_osvi(self, unconfirmed, osvi_sandbox):
        """Create an unconfirmed session that OSVI has not closed, and that is quiet by now."""
        session = unconfirmed(Drop())
        osvi_sandbox.sessions[session.session_id].status = "dormant"
        return session

    @pytest.mark.parametrize("code", [400, 403, 404, 409, 422])
    def test_recover_when_second_close_is_refused_reopens_it(
        self, dormant_at_osvi, osvi_sandbox, code
    ):
        osvi_sandbox.script(dormant_at_osvi.session_id, Status(code, errors=["Not now."]))
        assert recover_session(dormant_at_osvi).settled is Settled.REOPENED
        assert (dormant_at_osvi.status, dormant_at_osvi.summary_status) == ("dormant", "pending")
        fetch = dormant_at_osvi.attempts.first()
        assert (fetch.kind, fetch.outcome) == (Kind.RECLOSE, Outcome.REJECTED)
        assert fetch.error_reason == "Not now."
        assert close_session(dormant_at_osvi).summary.text == SUMMARY

    @pytest.mark.parametrize("fault", [Drop(), Status(500), Junk(close=False)], ids=repr)
    def test_recover_when_second_close_is_not_answered_reopens_it(
        self, dormant_at_osvi, osvi_sandbox, fault
    ):
        osvi_sandbox.script(dormant_at_osvi.session_id, fault)
        assert recover_session(dormant_at_osvi).settled is Settled.REOPENED
        assert dormant_at_osvi.status == "dormant"

    def test_recover_when_osvi_does_not_say_keeps_it_unconfirmed(
        self, dormant_at_osvi, osvi_sandbox
    ):
        osvi_sandbox.script(dormant_at_osvi.session_id, Status(409), Status(500))
        found = recover_session(dormant_at_osvi)
        assert (found.settled, dormant_at_osvi.status) == (Settled.UNCHANGED, "unconfirmed")
        assert "it is still not known whether this chat session is closed" in found.detail
        # The close is not sent again: the next look only asks.
        assert recover_session(dormant_at_osvi).settled is Settled.REOPENED
        assert osvi_sandbox.close_requests(dormant_at_osvi.session_id) == 2

    def test_recover_without_uuid_of_agent_keeps_it_unconfirmed(self, dormant_at_osvi):
        ChatAgent.objects.update(uuid=None)
        found = recover_session(dormant_at_osvi)
        assert (found.settled, dormant_at_osvi.status) == (Settled.UNCHANGED, "unconfirmed")
        assert "the agent's UUID is not known here" in found.detail
        assert not dormant_at_osvi.attempts.filter(kind=Kind.RECLOSE).exists()

    def test_recover_with_stored_refusal_of_second_close_asks_first(
        self, dormant_at_osvi, osvi_sandbox
    ):
        token = uuid.uuid4()
        answer = '{"success": false, "errors": ["No"]}'
        refusal = {"outcome": Outcome.ANSWERED, "http_status": 409, "answer": answer}
        CloseAttempt.objects.create(
            session=dormant_at_osvi, kind=Kind.RECLOSE, claim=token, **refusal
        )
        assert recover_session(dormant_at_osvi).settled is Settled.REOPENED
        fetch = dormant_at_osvi.attempts.get(kind=Kind.RECLOSE)
        assert (fetch.outcome, fetch.finished_at is not None) == (Outcome.REJECTED, True)
        assert osvi_sandbox.close_requests(dormant_at_osvi.session_id) == 1


class TestClosedElsewhere:
    @pytest.fixture
    def closed_elsewhere(self, mirrored, osvi_sandbox):
        session = mirrored()
        osvi_sandbox.sessions[session.session_id].status = "closed"
        return session

    @pytest.mark.parametrize("variant", [404, 409, 422])
    def test_close_when_osvi_refuses_and_says_closed_closes_session(
        self, closed_elsewhere, osvi_sandbox, variant
    ):
        osvi_sandbox.when_closed = variant
        result = close_session(closed_elsewhere)
        assert (result.changed, result.summary) == (True, None)
        assert closed_elsewhere.status == "closed"
        assert closed_elsewhere.summary_status == "not_provided"
        attempt = CloseAttempt.objects.get()
        assert (attempt.outcome, attempt.http_status) == (Outcome.REJECTED, variant)
        assert attempt.error_reason
        assert attempt.finished_at is not None

    def test_close_after_unanswered_close_when_closed_elsewhere_is_lost(
        self, open_at_osvi, osvi_sandbox
    ):
        # One close was not answered, OSVI had it open, and then someone else closed it.
        recover_session(open_at_osvi)
        osvi_sandbox.sessions[open_at_osvi.session_id].status = "closed"
        osvi_sandbox.when_closed = 409
        close_session(open_at_osvi)
        assert open_at_osvi.summary_status == "lost"

    @pytest.mark.parametrize("variant", ["again", "without"])
    def test_close_when_osvi_closes_again_stores_what_it_returns(
        self, closed_elsewhere, osvi_sandbox, variant
    ):
        osvi_sandbox.when_closed = variant
        assert close_session(closed_elsewhere).changed
        expected = "stored" if variant == "again" else "not_provided"
        assert closed_elsewhere.summary_status == expected

    @pytest.mark.parametrize("code", [404, 409, 422])
    def test_close_when_refused_and_osvi_says_open_keeps_session_open(
        self, mirrored, osvi_sandbox, code
    ):
        session = mirrored()
        osvi_sandbox.script(session.session_id, Status(code, errors=["No."]))
        with pytest.raises(OSVIRejected):
            close_session(session)
        assert session.status == "active"

    def test_close_dormant_session_with_ambiguous_refusal_keeps_it_dormant(
        self, mirrored, osvi_sandbox
    ):
        # The sandbox does not count a dormant session as active: nor may OSVI.
        session = mirrored(status="dormant")
        osvi_sandbox.sessions[session.session_id].status = "dormant"
        osvi_sandbox.script(session.session_id, Status(422, errors=["No."]))
        with pytest.raises(OSVIRejected):
            close_session(session)
        assert session.status == "dormant"
        assert close_session(session).summary.text == SUMMARY

    @pytest.mark.parametrize("status", ["active", "dormant"])
    @pytest.mark.parametrize("code", [400, 403, 404, 405, 409, 410, 422, 423])
    def test_close_of_session_dormant_at_osvi_when_refused_keeps_it_open(
        self, make_refused_session, mirrored, osvi_sandbox, status, code
    ):
        # Whatever is known of it here, OSVI does not list it: that is no proof of a close.
        session = mirrored(status=status)
        osvi_sandbox.sessions[session.session_id].status = "dormant"
        make_refused_session(Status(code, errors=["Not now."]), session)
        assert (session.status, is_refused(session)) == (status, True)
        attempt = session.attempts.get()
        assert (attempt.outcome, attempt.error_reason) == (Outcome.REJECTED, "Not now.")
        assert close_session(session).summary.text == SUMMARY

    @pytest.mark.parametrize("status", ["active", "dormant"])
    @pytest.mark.parametrize("code", [404, 409])
    def test_close_when_refused_and_pause_finds_no_session_keeps_it_open(
        self, make_refused_session, mirrored, osvi_sandbox, status, code
    ):
        # The ids may be wrong: "not found" does not say that it is closed.
        session = mirrored(status=status)
        osvi_sandbox.sessions[session.session_id].status = "dormant"
        osvi_sandbox.script(session.session_id, Status(code), Status(404, errors=["No such id"]))
        with pytest.raises(OSVIRejected):
            close_session(session)
        assert session.status == status

    def test_close_with_wrong_base_url_keeps_session_open(self, mirrored, osvi_sandbox, settings):
        session = mirrored()
        settings.OSVI["default"]["BASE_URL"] += "/api"
        with pytest.raises(OSVIRejected):
            close_session(session)
        assert session.status == "active"
        assert osvi_sandbox.sessions[session.session_id].status == "active"

    def test_close_with_wrong_agent_keeps_session_open(self, mirrored, osvi_sandbox):
        session = mirrored()
        ChatAgent.objects.update(uuid="agent_mistyped")
        with pytest.raises(OSVIRejected):
            close_session(session)
        assert session.status == "active"

    def test_close_when_refused_and_osvi_does_not_say_keeps_session_open(
        self, closed_elsewhere, osvi_sandbox
    ):
        osvi_sandbox.when_closed = 409
        osvi_sandbox.script(None, Status(500))
        with pytest.raises(OSVIRejected):
            close_session(closed_elsewhere)
        assert closed_elsewhere.status == "active"

    def test_close_without_customer_when_refused_keeps_session_open(
        self, closed_elsewhere, osvi_sandbox
    ):
        ChatSession.objects.update(customer_id="")
        osvi_sandbox.when_closed = 409
        with pytest.raises(OSVIRejected):
            close_session(closed_elsewhere)
        assert closed_elsewhere.status == "active"

    def test_close_with_other_refusal_does_not_ask_osvi(self, closed_elsewhere, osvi_sandbox):
        osvi_sandbox.script(closed_elsewhere.session_id, Status(403))
        with pytest.raises(OSVIRejected):
            close_session(closed_elsewhere)
        assert len(osvi_sandbox.requests) == 1


class TestCloseAgain:
    def test_close_again_when_open_at_osvi_closes_session(self, open_at_osvi, osvi_sandbox):
        result = close_again(open_at_osvi, note="again")
        assert (result.changed, result.summary.text) == (True, SUMMARY)
        assert result.attempt.note == "again"
        assert osvi_sandbox.closes(open_at_osvi.session_id) == 1

    def test_close_again_when_closed_at_osvi_settles_session(self, closed_at_osvi, osvi_sandbox):
        result = close_again(closed_at_osvi)
        assert (result.changed, result.summary.text) == (True, SUMMARY)
        assert osvi_sandbox.close_requests(closed_at_osvi.session_id) == 2

    def test_close_again_when_osvi_does_not_say_sends_no_close(self, closed_at_osvi, osvi_sandbox):
        osvi_sandbox.script(None, Status(500))
        with pytest.raises(OSVINoAnswer):
            close_again(closed_at_osvi)
        assert closed_at_osvi.status == "unconfirmed"
        assert osvi_sandbox.close_requests(closed_at_osvi.session_id) == 1

    def test_close_again_when_not_unconfirmed_closes_as_usual(self, mirrored):
        assert close_again(mirrored()).changed
        assert not close_again(ClosedSessionFactory()).changed


@pytest.fixture
def make_refused_session(mirrored, osvi_sandbox):
    """Return a function that creates a session that OSVI refuses to close."""

    def _make_refused_session(fault, session=None, status="dormant"):
        session = session or mirrored(status=status)
        osvi_sandbox.script(session.session_id, fault)
        with pytest.raises(OSVIRejected):
            close_session(session)
        return session

    return _make_refused_session


class TestMarkClosed:
    def test_mark_closed_stores_attempt_and_lost_summary(self, closed_at_osvi, osvi_sandbox, staff):
        result = mark_closed(closed_at_osvi, requested_by=staff, via="desk", note=" Seen. ")
        assert (result.changed, result.session.status) == (True, "closed")
        assert result.session.summary_status == "lost"
        attempt = closed_at_osvi.attempts.first()
        assert (attempt.kind, attempt.outcome) == (Kind.MARK, Outcome.CLOSED)
        assert (attempt.requested_by, attempt.via, attempt.note) == (staff, "desk", "Seen.")
        assert len(osvi_sandbox.requests) == 1

    def test_mark_closed_without_note_raises_invalid_input(self, closed_at_osvi):
        with pytest.raises(InvalidInput) as caught:
            mark_closed(closed_at_osvi, note=" ")
        assert caught.value.field == "note"
        assert ChatSession.objects.get().status == "unconfirmed"

    @pytest.mark.parametrize("status", ["active", "dormant", "closed"])
    def test_mark_closed_when_status_is_certain_raises_invalid_input(self, status):
        session = ChatSessionFactory(status=status)
        with pytest.raises(InvalidInput, match="only if it is unconfirmed"):
            mark_closed(session, note="Seen.")
        assert session.status == status

    @pytest.mark.parametrize("status", ["active", "dormant"])
    def test_mark_closed_after_refusal_closes_session(self, make_refused_session, status, staff):
        session = make_refused_session(Status(422), status=status)
        assert is_refused(session)
        with pytest.raises(InvalidInput):
            mark_closed(session, requested_by=staff, note="")
        result = mark_closed(session, requested_by=staff, via="desk", note="Seen.")
        assert (result.changed, session.status) == (True, "closed")
        assert session.summary_status == "not_provided"
        assert (session.claim, session.lease_until) == (None, None)
        attempt = session.attempts.first()
        assert (attempt.kind, attempt.outcome) == (Kind.MARK, Outcome.CLOSED)
        assert (attempt.requested_by, attempt.via, attempt.note) == (staff, "desk", "Seen.")
        assert not is_refused(session)

    def test_mark_closed_after_unanswered_close_sets_summary_lost(
        self, open_at_osvi, make_refused_session
    ):
        recover_session(open_at_osvi)
        make_refused_session(Status(422), open_at_osvi)
        mark_closed(open_at_osvi, note="Seen.")
        assert open_at_osvi.summary_status == "lost"

    @pytest.mark.parametrize("fault", [Status(401), Status(429)])
    def test_mark_closed_after_refusal_of_whole_account_raises_invalid_input(
        self, make_refused_session, fault
    ):
        session = make_refused_session(fault)
        assert not is_refused(session)
        with pytest.raises(InvalidInput):
            mark_closed(session, note="Seen.")
        assert session.status == "dormant"

    def test_mark_closed_when_last_close_was_not_sent_raises_invalid_input(
        self, make_refused_session, settings
    ):
        session = make_refused_session(Status(422))
        settings.OSVI["default"]["BASE_URL"] = "http://127.0.0.1:1"
        with pytest.raises(OSVIUnreachable):
            close_session(session)
        with pytest.raises(InvalidInput):
            mark_closed(session, note="Seen.")

    @pytest.mark.django_db(transaction=True)
    def test_mark_closed_by_many_threads_succeeds_once(self, make_refused_session):
        session = make_refused_session(Status(422))
        found = []

        def mark():
            try:
                found.append(mark_closed(ChatSession.objects.get(), note="Seen.").changed)
            except InvalidInput:
                found.append(False)
            finally:
                connection.close()

        run_at_once(mark, 6)
        assert sorted(found) == [False] * 5 + [True]
        assert session.attempts.filter(kind=Kind.MARK).count() == 1

    def test_mark_closed_after_crash_closes_session(self, mirrored):
        session = mirrored()
        claim_elsewhere(session)
        assert mark_closed(session, note="Seen.").changed

    def test_mark_closed_with_stored_answer_stores_its_summary(self, mirrored, osvi_sandbox):
        session = mirrored()
        claim_elsewhere(
            session, outcome=Outcome.ANSWERED, http_status=200, answer=answer_body(session)
        )
        result = mark_closed(session, note="Seen.")
        assert (result.summary.text, session.summary_status) == (SUMMARY, "stored")
        assert osvi_sandbox.requests == []

    def test_mark_closed_with_stored_refusal_raises_invalid_input(self, mirrored):
        session = mirrored()
        claim_elsewhere(
            session, outcome=Outcome.ANSWERED, http_status=401, answer='{"error": "No"}'
        )
        with pytest.raises(InvalidInput, match="OSVI did not close this chat") as caught:
            mark_closed(session, note="Seen.")
        assert (caught.value.field, session.status) == ("status", "active")
        assert not session.attempts.filter(kind=Kind.MARK).exists()


class TestRecoverAll:
    def test_recover_all_settles_each_session_that_it_can(
        self, unconfirmed, mirrored, osvi_sandbox
    ):
        lost = unconfirmed(Drop(after_closing=True))
        never = unconfirmed(Drop())
        died = mirrored()
        claim_elsewhere(died)
        unanswered = unconfirmed(Drop(), customer_id="")
        osvi_sandbox.script(unanswered.session_id, Status(500), Status(500))
        active = mirrored()
        found = {result.session: result.settled for result in recover_all()}
        assert found == {
            lost: Settled.STORED,
            never: Settled.REOPENED,
            died: Settled.REOPENED,
            unanswered: Settled.UNCHANGED,
        }
        assert ChatSession.objects.get(pk=active.pk).status == "active"
        assert [result.session for result in recover_all()] == [unanswered]

    def test_recover_all_with_failing_session_continues(self, unconfirmed, caplog):
        bad, good = unconfirmed(Drop(after_closing=True)), unconfirmed(Drop())

        def explode(**named):
            raise RuntimeError("a bug of the host")

        pre_init.connect(explode, sender=CloseAttempt)
        try:
            found = list(recover_all())
        finally:
            pre_init.disconnect(explode, sender=CloseAttempt)
        assert [result.settled for result in found] == [Settled.FAILED, Settled.REOPENED]
        assert found[0].detail == "RuntimeError"
        assert "a bug of the host" in caplog.text
        bad.refresh_from_db()
        assert (bad.status, bad.claim) == ("unconfirmed", None)
        good.refresh_from_db()
        assert good.status == "active"

    def test_recover_command_with_failing_session_fails(self, unconfirmed):
        unconfirmed(Drop(after_closing=True))

        def explode(**named):
            raise RuntimeError("a bug of the host")

        pre_init.connect(explode, sender=CloseAttempt)
        try:
            with pytest.raises(CommandError, match="1 failed"):
                call_command("osvi_recover")
        finally:
            pre_init.disconnect(explode, sender=CloseAttempt)

    def test_recover_all_with_unknown_account_changes_nothing(self, unconfirmed, settings):
        session = unconfirmed(Drop())
        settings.OSVI = {"emea": settings.OSVI["default"]}
        [result] = recover_all()
        assert (result.session, result.settled) == (session, Settled.UNCHANGED)

    def test_recover_command_prints_result_of_each_session(self, unconfirmed, capsys):
        session = unconfirmed(Drop(after_closing=True))
        call_command("osvi_recover")
        said = capsys.readouterr().out
        assert f"'{session.session_id}': stored" in said
        assert (
            "1 stored, 0 not_provided, 0 lost, 0 reopened, 0 already_settled, 0 unchanged, 0 failed"
            in said
        )
        assert SUMMARY not in said

    @pytest.mark.django_db(transaction=True)
    def test_recover_command_with_watch_runs_until_stopped(self, unconfirmed):
        first = unconfirmed(Drop())
        began = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        out = TerminatingOutput("0 failed", times=2)
        call_command("osvi_recover", watch=0.1, stdout=out)
        assert f"'{first.session_id}': reopened" in out.getvalue()
        assert {number: signal.getsignal(number) for number in began} == began

    def test_recovery_with_too_short_lease_raises_not_configured(self, unconfirmed, settings):
        session = unconfirmed(Drop())
        settings.OSVI["default"]["LEASE_TIMEOUT"] = 0.5
        for call in (recover_session, close_again):
            with pytest.raises(OSVINotConfigured, match="LEASE_TIMEOUT"):
                call(session)

    def test_recover_command_with_invalid_watch_fails(self):
        with pytest.raises(CommandError, match="above 0"):
            call_command("osvi_recover", watch=0)

    def test_recover_command_without_accounts_raises_not_configured(self, settings):
        settings.OSVI = {}
        with pytest.raises(OSVINotConfigured):
            call_command("osvi_recover")


@pytest.mark.django_db(transaction=True)
def test_recovery_inside_transaction_raises(open_at_osvi, osvi_sandbox):
    for call in (recover_session, close_again):
        with transaction.atomic(), pytest.raises(InsideTransaction):
            call(open_at_osvi)
    with transaction.atomic(), pytest.raises(InsideTransaction):
        mark_closed(open_at_osvi, note="x")
    assert len(osvi_sandbox.requests) == 1


class ClaimedByOther(Fault):
    """Let another process claim the session during the second close."""

    def play(self, exchange):
        try:
            ChatSession.objects.update(claim=uuid.uuid4())
        finally:
            connection.close()
        Status(409).play(exchange)


@pytest.mark.django_db(transaction=True)
def test_recover_when_lease_is_lost_changes_nothing(closed_at_osvi, osvi_sandbox):
    osvi_sandbox.script(closed_at_osvi.session_id, ClaimedByOther())
    assert recover_session(closed_at_osvi).settled is Settled.UNCHANGED
    assert (closed_at_osvi.status, closed_at_osvi.summary_status) == ("closing", "pending")


def test_recover_all_with_many_sessions_loads_one_chunk_at_a_time():
    agent = ChatSessionFactory().agent
    ChatAgent.objects.update(uuid=None)  # so that OSVI is not asked
    ChatSession.objects.bulk_create(
        ChatSession(agent=agent, session_id=f"s{number}", customer_id="", status="unconfirmed")
        for number in range(450)
    )
    read = []

    def count(**_kwargs):
        read.append(1)

    pre_init.connect(count, sender=ChatSession)
    try:
        sweep = recover_all()
        first = next(sweep)
        assert len(read) < 250
        found = [first, *sweep]
    finally:
        pre_init.disconnect(count, sender=ChatSession)
    assert {result.settled for result in found} == {Settled.UNCHANGED}
    assert sorted(result.session.session_id for result in found) == sorted(
        f"s{number}" for number in range(450)
    )
