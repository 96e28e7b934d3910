"""Settling what nobody knows: unconfirmed sessions and those whose closer died."""

from __future__ import annotations

import json
import signal
import threading
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
from osvi_django.testing.factories import (
    ChatSessionFactory,
    CloseAttemptFactory,
    ClosedSessionFactory,
)
from tests.helpers.processes import TerminatingOutput
from tests.helpers.sandbox import SUMMARY

pytestmark = pytest.mark.django_db

Kind = CloseAttempt.Kind
Outcome = CloseAttempt.Outcome


@pytest.fixture
def closed_there(unconfirmed):
    """A session that OSVI closed, and whose answer was lost."""
    return unconfirmed(Drop(after_closing=True))


@pytest.fixture
def open_there(unconfirmed):
    """A session that OSVI never closed, though nobody here can know."""
    return unconfirmed(Drop())


def dead(session, **fields):
    """What a process leaves that dies after it has claimed; its lease is over."""
    attempt = CloseAttemptFactory(session=session, **fields)
    ChatSession.objects.filter(pk=session.pk).update(
        status="closing",
        previous_status="active",
        claim=attempt.claim,
        lease_until=DatabaseNow() - timedelta(seconds=1),
    )
    session.refresh_from_db()
    return attempt


def answer_of(session, **data):
    data = {"session_id": session.session_id, "summary": SUMMARY, **data}
    return json.dumps({"success": True, "data": data})


class TestAsking:
    def test_one_that_osvi_has_open_is_open_again(self, open_there, osvi_sandbox):
        result = recover_session(open_there)
        assert (result.settled, open_there.status) == (Settled.REOPENED, "active")
        assert (open_there.claim, open_there.lease_until) == (None, None)
        assert osvi_sandbox.close_requests(open_there.session_id) == 1
        assert close_session(open_there).summary.text == SUMMARY

    def test_one_that_osvi_closed_is_closed_once_more_for_its_summary(
        self, closed_there, osvi_sandbox, staff
    ):
        result = recover_session(closed_there, requested_by=staff, via="desk")
        assert (result.settled, closed_there.status) == (Settled.STORED, "closed")
        assert closed_there.summary.text == SUMMARY
        assert osvi_sandbox.close_requests(closed_there.session_id) == 2
        assert osvi_sandbox.closes(closed_there.session_id) == 1
        fetch, lost = closed_there.attempts.all()
        assert (fetch.kind, fetch.outcome) == (Kind.RECLOSE, Outcome.CLOSED)
        assert (fetch.requested_by, fetch.via) == (staff, "desk")
        assert (lost.kind, lost.outcome) == (Kind.CLOSE, Outcome.NO_ANSWER)

    @pytest.mark.parametrize("variant", ["without", 404, 409, 422])
    def test_a_summary_that_comes_no_more_is_lost(self, closed_there, osvi_sandbox, variant):
        osvi_sandbox.when_closed = variant
        result = recover_session(closed_there)
        assert (result.settled, closed_there.status) == (Settled.LOST, "closed")
        assert closed_there.summary_status == "lost"
        assert osvi_sandbox.close_requests(closed_there.session_id) == 2

    @pytest.mark.parametrize("fault", [Drop(), Status(500), Junk(), OddSummary(42)], ids=repr)
    def test_it_is_sent_once_whatever_comes_of_it(self, closed_there, osvi_sandbox, fault):
        osvi_sandbox.script(closed_there.session_id, fault)
        assert recover_session(closed_there).settled is Settled.LOST
        assert recover_session(closed_there).settled is Settled.UNCHANGED
        assert osvi_sandbox.close_requests(closed_there.session_id) == 2

    def test_it_is_sent_in_the_legacy_way_whatever_the_account_uses(
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
    def test_what_osvi_did_not_look_at_is_sent_another_time(
        self, closed_there, osvi_sandbox, fault
    ):
        osvi_sandbox.script(closed_there.session_id, fault)
        result = recover_session(closed_there)
        assert (result.settled, closed_there.status) == (Settled.UNCHANGED, "unconfirmed")
        assert result.detail.startswith("OSVI ")
        assert recover_session(closed_there).settled is Settled.STORED

    def test_another_session_of_the_same_customer_means_that_ours_is_closed(
        self, closed_there, osvi_sandbox
    ):
        osvi_sandbox.add_session(
            agent_uuid=closed_there.agent.uuid, customer_id=closed_there.customer_id
        )
        assert recover_session(closed_there).settled is Settled.STORED


class TestLeftAlone:
    def test_osvi_being_down(self, closed_there, settings):
        settings.OSVI["default"]["BASE_URL"] = "http://127.0.0.1:1"
        result = recover_session(closed_there)
        assert (result.settled, closed_there.status) == (Settled.UNCHANGED, "unconfirmed")
        assert "could not be reached" in result.detail
        assert closed_there.claim is None

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
    def test_an_answer_that_makes_no_sense(self, closed_there, osvi_sandbox, fault):
        osvi_sandbox.script(None, fault)
        result = recover_session(closed_there)
        assert (result.settled, closed_there.status) == (Settled.UNCHANGED, "unconfirmed")
        assert result.detail
        assert osvi_sandbox.close_requests(closed_there.session_id) == 1

    def test_session_without_customer_that_is_closed_gets_its_summary(
        self, unconfirmed, osvi_sandbox
    ):
        session = unconfirmed(Drop(after_closing=True), customer_id="")
        assert recover_session(session).settled is Settled.STORED
        assert session.summary.text == SUMMARY
        assert osvi_sandbox.close_requests(session.session_id) == 2

    def test_session_without_customer_that_is_open_is_paused_and_open_again(
        self, unconfirmed, osvi_sandbox
    ):
        session = unconfirmed(Drop(), customer_id="")
        assert recover_session(session).settled is Settled.REOPENED
        assert session.status == osvi_sandbox.sessions[session.session_id].status == "dormant"
        assert close_session(session).summary.text == SUMMARY

    def test_session_without_customer_that_osvi_does_not_know_stays_and_says_what_to_do(
        self, unconfirmed, osvi_sandbox
    ):
        session = unconfirmed(Drop(), customer_id="")
        del osvi_sandbox.sessions[session.session_id]
        result = recover_session(session)
        assert (result.settled, session.status) == (Settled.UNCHANGED, "unconfirmed")
        assert "does not know this chat session" in result.detail
        assert osvi_sandbox.close_requests(session.session_id) == 1

    @pytest.mark.parametrize("status", [403, 429, 500])
    def test_session_without_customer_stays_if_osvi_does_not_say(
        self, unconfirmed, osvi_sandbox, status
    ):
        session = unconfirmed(Drop(after_closing=True), customer_id="")
        osvi_sandbox.script(session.session_id, Status(status))
        result = recover_session(session)
        assert (result.settled, session.status) == (Settled.UNCHANGED, "unconfirmed")
        assert result.detail
        assert osvi_sandbox.close_requests(session.session_id) == 1

    def test_session_without_customer_and_agent_uuid_stays_and_says_what_to_do(
        self, unconfirmed, osvi_sandbox
    ):
        session = unconfirmed(Drop(), customer_id="")
        ChatAgent.objects.update(uuid=None)
        result = recover_session(ChatSession.objects.get())
        assert result.settled is Settled.UNCHANGED
        assert "cannot be asked about this chat session" in result.detail
        assert osvi_sandbox.close_requests(session.session_id) == 1

    @pytest.mark.parametrize("status", ["active", "dormant", "closed"])
    def test_one_that_is_not_unconfirmed(self, osvi_sandbox, status):
        session = ChatSessionFactory(status=status)
        assert recover_session(session).settled is Settled.UNCHANGED
        assert session.status == status
        assert osvi_sandbox.requests == []

    def test_one_that_is_being_closed(self, osvi_sandbox):
        session = ChatSessionFactory()
        dead(session)
        ChatSession.objects.update(lease_until=DatabaseNow() + timedelta(seconds=60))
        with pytest.raises(CloseInProgress) as caught:
            recover_session(session)
        assert caught.value.attempt == session.attempts.get()
        assert osvi_sandbox.requests == []

    def test_one_of_an_account_that_is_not_configured(self, closed_there, settings):
        settings.OSVI = {"emea": settings.OSVI["default"]}
        with pytest.raises(OSVINotConfigured):
            recover_session(closed_there)

    def test_one_that_is_gone(self, closed_there):
        ChatSession.objects.all().delete()
        with pytest.raises(SessionNotFound):
            recover_session(closed_there)

    def test_those_who_may_not_close_may_not_recover(self, closed_there, osvi_sandbox):
        for call in (recover_session, close_again):
            with pytest.raises(NotAllowed):
                call(closed_there, requested_by=AnonymousUser())
        with pytest.raises(NotAllowed):
            mark_closed(closed_there, requested_by=AnonymousUser(), note="x")
        assert len(osvi_sandbox.requests) == 1


class TestDeadProcess:
    def test_it_died_before_it_sent(self, mirrored, osvi_sandbox):
        session = mirrored()
        attempt = dead(session)
        assert recover_session(session).settled is Settled.REOPENED
        attempt.refresh_from_db()
        assert attempt.outcome == Outcome.NO_ANSWER
        assert osvi_sandbox.close_requests(session.session_id) == 0

    def test_it_died_with_an_answer_that_it_had_kept(self, mirrored, osvi_sandbox):
        session = mirrored()
        heard = []

        def hear(**named):
            heard.append(named["summary"].text)

        attempt = dead(
            session, outcome=Outcome.ANSWERED, http_status=200, answer=answer_of(session)
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

    def test_it_died_with_an_answer_that_had_no_summary(self, mirrored):
        session = mirrored()
        answer = answer_of(session, summary=None)
        dead(session, outcome=Outcome.ANSWERED, http_status=200, answer=answer)
        assert recover_session(session).settled is Settled.NOT_PROVIDED

    def test_it_died_with_a_refusal(self, mirrored, osvi_sandbox):
        session = mirrored(status="dormant")
        attempt = dead(
            session, outcome=Outcome.ANSWERED, http_status=403, answer='{"success": false}'
        )
        ChatSession.objects.update(previous_status="dormant")
        assert recover_session(session).settled is Settled.REOPENED
        assert session.status == "dormant"
        attempt.refresh_from_db()
        assert (attempt.outcome, attempt.error_code) == (Outcome.REJECTED, "rejected")
        assert osvi_sandbox.requests == []

    def test_it_died_with_a_refusal_that_may_mean_closed(self, mirrored, osvi_sandbox):
        session = mirrored()
        osvi_sandbox.sessions[session.session_id].status = "closed"
        dead(session, outcome=Outcome.ANSWERED, http_status=409, answer='{"success": false}')
        assert recover_session(session).settled is Settled.STORED

    @pytest.mark.parametrize("answer", ["junk", "{}", '{"success": true, "data": {"a":'])
    def test_it_died_with_an_answer_that_makes_no_sense(self, mirrored, answer):
        session = mirrored()
        attempt = dead(session, outcome=Outcome.ANSWERED, http_status=200, answer=answer)
        assert recover_session(session).settled is Settled.REOPENED
        attempt.refresh_from_db()
        assert attempt.outcome == Outcome.BAD_ANSWER

    def test_what_the_journal_cut_is_not_believed(self, mirrored):
        session = mirrored()
        answer = answer_of(session, summary="x").ljust(1_000_000)
        dead(session, outcome=Outcome.ANSWERED, http_status=200, answer=answer)
        assert recover_session(session).settled is Settled.REOPENED

    @pytest.mark.parametrize(
        ("answer", "settled"),
        [('{"success": false}', Settled.LOST), (None, Settled.STORED)],
    )
    def test_it_died_while_it_fetched_the_summary(
        self, closed_there, osvi_sandbox, answer, settled
    ):
        status = 200 if answer is None else 409
        dead(
            closed_there,
            kind=Kind.RECLOSE,
            outcome=Outcome.ANSWERED,
            http_status=status,
            answer=answer or answer_of(closed_there),
        )
        assert recover_session(closed_there).settled is settled
        assert osvi_sandbox.close_requests(closed_there.session_id) == 1

    def test_it_died_while_nobody_had_answered_the_fetch(self, closed_there, osvi_sandbox):
        dead(closed_there, kind=Kind.RECLOSE)
        assert recover_session(closed_there).settled is Settled.LOST
        assert osvi_sandbox.close_requests(closed_there.session_id) == 1

    @pytest.mark.parametrize("claim", [uuid.uuid4(), None])
    def test_a_lease_without_an_end_is_over(self, mirrored, claim):
        """Another program, or a copy of the table, may have left such a row."""
        first, second = mirrored(), mirrored()
        rows = ChatSession.objects.filter(pk__in=[first.pk, second.pk])
        rows.update(status="closing", previous_status="active", claim=claim, lease_until=None)
        assert close_session(first).changed
        assert {found.settled for found in recover_all()} == {Settled.REOPENED}
        assert set(rows.values_list("status", "claim")) == {("active", None), ("closed", None)}


class TestClosedBehindOurBack:
    @pytest.fixture
    def closed_elsewhere(self, mirrored, osvi_sandbox):
        session = mirrored()
        osvi_sandbox.sessions[session.session_id].status = "closed"
        return session

    @pytest.mark.parametrize("variant", [404, 409, 422])
    def test_it_ends_as_closed_with_osvis_words(self, closed_elsewhere, osvi_sandbox, variant):
        osvi_sandbox.when_closed = variant
        result = close_session(closed_elsewhere)
        assert (result.changed, result.summary) == (True, None)
        assert closed_elsewhere.status == "closed"
        assert closed_elsewhere.summary_status == "not_provided"
        attempt = CloseAttempt.objects.get()
        assert (attempt.outcome, attempt.http_status) == (Outcome.REJECTED, variant)
        assert attempt.error_reason
        assert attempt.finished_at is not None

    def test_its_summary_is_lost_where_we_lost_it(self, open_there, osvi_sandbox):
        # Unanswered once, open again by OSVI's word, and then closed by somebody else.
        recover_session(open_there)
        osvi_sandbox.sessions[open_there.session_id].status = "closed"
        osvi_sandbox.when_closed = 409
        close_session(open_there)
        assert open_there.summary_status == "lost"

    @pytest.mark.parametrize("variant", ["again", "without"])
    def test_osvi_may_simply_close_it_again(self, closed_elsewhere, osvi_sandbox, variant):
        osvi_sandbox.when_closed = variant
        assert close_session(closed_elsewhere).changed
        expected = "stored" if variant == "again" else "not_provided"
        assert closed_elsewhere.summary_status == expected

    @pytest.mark.parametrize("code", [404, 409, 422])
    def test_one_that_osvi_has_open_stays_open(self, mirrored, osvi_sandbox, code):
        session = mirrored()
        osvi_sandbox.script(session.session_id, Status(code, errors=["No."]))
        with pytest.raises(OSVIRejected):
            close_session(session)
        assert session.status == "active"

    def test_a_dormant_one_stays_open_where_the_refusal_may_mean_anything(
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

    def test_nothing_is_closed_where_the_address_is_mistaken(
        self, mirrored, osvi_sandbox, settings
    ):
        session = mirrored()
        settings.OSVI["default"]["BASE_URL"] += "/api"
        with pytest.raises(OSVIRejected):
            close_session(session)
        assert session.status == "active"
        assert osvi_sandbox.sessions[session.session_id].status == "active"

    def test_nor_where_the_agent_is(self, mirrored, osvi_sandbox):
        session = mirrored()
        ChatAgent.objects.update(uuid="agent_mistyped")
        with pytest.raises(OSVIRejected):
            close_session(session)
        assert session.status == "active"

    def test_so_does_one_of_which_osvi_cannot_tell(self, closed_elsewhere, osvi_sandbox):
        osvi_sandbox.when_closed = 409
        osvi_sandbox.script(None, Status(500))
        with pytest.raises(OSVIRejected):
            close_session(closed_elsewhere)
        assert closed_elsewhere.status == "active"

    def test_and_one_without_a_customer(self, closed_elsewhere, osvi_sandbox):
        ChatSession.objects.update(customer_id="")
        osvi_sandbox.when_closed = 409
        with pytest.raises(OSVIRejected):
            close_session(closed_elsewhere)
        assert closed_elsewhere.status == "active"

    def test_other_refusals_ask_nobody(self, closed_elsewhere, osvi_sandbox):
        osvi_sandbox.script(closed_elsewhere.session_id, Status(403))
        with pytest.raises(OSVIRejected):
            close_session(closed_elsewhere)
        assert len(osvi_sandbox.requests) == 1


class TestCloseAgain:
    def test_one_that_is_open_there_is_closed(self, open_there, osvi_sandbox):
        result = close_again(open_there, note="again")
        assert (result.changed, result.summary.text) == (True, SUMMARY)
        assert result.attempt.note == "again"
        assert osvi_sandbox.closes(open_there.session_id) == 1

    def test_one_that_is_closed_there_is_settled(self, closed_there, osvi_sandbox):
        result = close_again(closed_there)
        assert (result.changed, result.summary.text) == (True, SUMMARY)
        assert osvi_sandbox.close_requests(closed_there.session_id) == 2

    def test_where_osvi_cannot_tell_nothing_is_sent(self, closed_there, osvi_sandbox):
        osvi_sandbox.script(None, Status(500))
        with pytest.raises(OSVINoAnswer):
            close_again(closed_there)
        assert closed_there.status == "unconfirmed"
        assert osvi_sandbox.close_requests(closed_there.session_id) == 1

    def test_any_other_is_simply_closed(self, mirrored):
        assert close_again(mirrored()).changed
        assert not close_again(ClosedSessionFactory()).changed


@pytest.fixture
def refused(mirrored, osvi_sandbox):
    """Have OSVI refuse to close a session in the way of this fault."""

    def _refused(fault, session=None, status="dormant"):
        session = session or mirrored(status=status)
        osvi_sandbox.script(session.session_id, fault)
        with pytest.raises(OSVIRejected):
            close_session(session)
        return session

    return _refused


class TestMarkClosed:
    def test_somebodys_word_is_taken_and_written_down(self, closed_there, osvi_sandbox, staff):
        result = mark_closed(closed_there, requested_by=staff, via="desk", note=" Seen. ")
        assert (result.changed, result.session.status) == (True, "closed")
        assert result.session.summary_status == "lost"
        attempt = closed_there.attempts.first()
        assert (attempt.kind, attempt.outcome) == (Kind.MARK, Outcome.CLOSED)
        assert (attempt.requested_by, attempt.via, attempt.note) == (staff, "desk", "Seen.")
        assert len(osvi_sandbox.requests) == 1

    def test_a_word_is_wanted(self, closed_there):
        with pytest.raises(InvalidInput) as caught:
            mark_closed(closed_there, note=" ")
        assert caught.value.field == "note"
        assert ChatSession.objects.get().status == "unconfirmed"

    @pytest.mark.parametrize("status", ["active", "dormant", "closed"])
    def test_one_of_which_all_is_known_cannot_be_marked(self, status):
        session = ChatSessionFactory(status=status)
        with pytest.raises(InvalidInput, match="only if it is unconfirmed"):
            mark_closed(session, note="Seen.")
        assert session.status == status

    @pytest.mark.parametrize("status", ["active", "dormant"])
    def test_one_that_osvi_refuses_to_close_can_be_marked(self, refused, status, staff):
        session = refused(Status(422), status=status)
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

    def test_its_summary_is_lost_where_a_close_of_it_went_unanswered(self, open_there, refused):
        recover_session(open_there)
        refused(Status(422), open_there)
        mark_closed(open_there, note="Seen.")
        assert open_there.summary_status == "lost"

    @pytest.mark.parametrize("fault", [Status(401), Status(429)])
    def test_one_that_osvi_has_not_looked_at_cannot_be_marked(self, refused, fault):
        session = refused(fault)
        assert not is_refused(session)
        with pytest.raises(InvalidInput):
            mark_closed(session, note="Seen.")
        assert session.status == "dormant"

    def test_only_the_last_try_counts(self, refused, settings):
        session = refused(Status(422))
        settings.OSVI["default"]["BASE_URL"] = "http://127.0.0.1:1"
        with pytest.raises(OSVIUnreachable):
            close_session(session)
        with pytest.raises(InvalidInput):
            mark_closed(session, note="Seen.")

    @pytest.mark.django_db(transaction=True)
    def test_of_many_who_mark_it_at_once_one_does(self, refused):
        session = refused(Status(422))
        found = []

        def mark():
            try:
                found.append(mark_closed(ChatSession.objects.get(), note="Seen.").changed)
            except InvalidInput:
                found.append(False)
            finally:
                connection.close()

        threads = [threading.Thread(target=mark) for _number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(found) == [False] * 5 + [True]
        assert session.attempts.filter(kind=Kind.MARK).count() == 1

    def test_one_whose_closer_died_is_unconfirmed_too(self, mirrored):
        session = mirrored()
        dead(session)
        assert mark_closed(session, note="Seen.").changed

    def test_an_answer_that_arrived_is_better_than_a_word(self, mirrored, osvi_sandbox):
        session = mirrored()
        dead(session, outcome=Outcome.ANSWERED, http_status=200, answer=answer_of(session))
        result = mark_closed(session, note="Seen.")
        assert (result.summary.text, session.summary_status) == (SUMMARY, "stored")
        assert osvi_sandbox.requests == []

    def test_so_is_one_that_says_that_nothing_was_closed(self, mirrored):
        session = mirrored()
        dead(session, outcome=Outcome.ANSWERED, http_status=401, answer='{"error": "No"}')
        with pytest.raises(InvalidInput, match="OSVI did not close this chat") as caught:
            mark_closed(session, note="Seen.")
        assert (caught.value.field, session.status) == ("status", "active")
        assert not session.attempts.filter(kind=Kind.MARK).exists()


class TestSweep:
    def test_it_settles_each_that_it_can(self, unconfirmed, mirrored, osvi_sandbox):
        lost = unconfirmed(Drop(after_closing=True))
        never = unconfirmed(Drop())
        died = mirrored()
        dead(died)
        untold = unconfirmed(Drop(), customer_id="")
        osvi_sandbox.script(untold.session_id, Status(500), Status(500))
        active = mirrored()
        found = {result.session: result.settled for result in recover_all()}
        assert found == {
            lost: Settled.STORED,
            never: Settled.REOPENED,
            died: Settled.REOPENED,
            untold: Settled.UNCHANGED,
        }
        assert ChatSession.objects.get(pk=active.pk).status == "active"
        assert [result.session for result in recover_all()] == [untold]

    def test_one_bad_row_does_not_stop_it(self, unconfirmed, caplog):
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

    def test_the_command_fails_where_a_row_failed(self, unconfirmed):
        unconfirmed(Drop(after_closing=True))

        def explode(**named):
            raise RuntimeError("a bug of the host")

        pre_init.connect(explode, sender=CloseAttempt)
        try:
            with pytest.raises(CommandError, match="1 failed"):
                call_command("osvi_recover")
        finally:
            pre_init.disconnect(explode, sender=CloseAttempt)

    def test_an_account_that_is_not_configured_is_left(self, unconfirmed, settings):
        session = unconfirmed(Drop())
        settings.OSVI = {"emea": settings.OSVI["default"]}
        [result] = recover_all()
        assert (result.session, result.settled) == (session, Settled.UNCHANGED)

    def test_the_command_says_what_became_of_each(self, unconfirmed, capsys):
        session = unconfirmed(Drop(after_closing=True))
        call_command("osvi_recover")
        said = capsys.readouterr().out
        assert f"'{session.session_id}': stored" in said
        assert "1 stored, 0 not_provided, 0 lost, 0 reopened, 0 unchanged, 0 failed" in said
        assert SUMMARY not in said

    @pytest.mark.django_db(transaction=True)
    def test_the_command_watches_until_it_is_stopped(self, unconfirmed):
        first = unconfirmed(Drop())
        began = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        out = TerminatingOutput("0 failed", times=2)
        call_command("osvi_recover", watch=0.1, stdout=out)
        assert f"'{first.session_id}': reopened" in out.getvalue()
        assert {number: signal.getsignal(number) for number in began} == began

    def test_a_lease_that_is_too_short_is_said(self, unconfirmed, settings):
        session = unconfirmed(Drop())
        settings.OSVI["default"]["LEASE_TIMEOUT"] = 0.5
        for call in (recover_session, close_again):
            with pytest.raises(OSVINotConfigured, match="LEASE_TIMEOUT"):
                call(session)

    def test_the_command_wants_seconds(self):
        with pytest.raises(CommandError, match="above 0"):
            call_command("osvi_recover", watch=0)

    def test_without_any_account_the_command_says_so(self, settings):
        settings.OSVI = {}
        with pytest.raises(OSVINotConfigured):
            call_command("osvi_recover")


@pytest.mark.django_db(transaction=True)
def test_inside_a_transaction_nothing_is_looked_into(open_there, osvi_sandbox):
    for call in (recover_session, close_again):
        with transaction.atomic(), pytest.raises(InsideTransaction):
            call(open_there)
    with transaction.atomic(), pytest.raises(InsideTransaction):
        mark_closed(open_there, note="x")
    assert len(osvi_sandbox.requests) == 1


class TakenOver(Fault):
    """Another process finds the lease over and claims the session, while OSVI is at the fetch."""

    def play(self, exchange):
        try:
            ChatSession.objects.update(claim=uuid.uuid4())
        finally:
            connection.close()
        Status(409).play(exchange)


@pytest.mark.django_db(transaction=True)
def test_a_recovery_whose_lease_ran_out_decides_nothing(closed_there, osvi_sandbox):
    osvi_sandbox.script(closed_there.session_id, TakenOver())
    assert recover_session(closed_there).settled is Settled.UNCHANGED
    assert (closed_there.status, closed_there.summary_status) == ("closing", "pending")


def test_sweep_over_many_has_a_page_of_them_in_memory_and_looks_into_each_once():
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
