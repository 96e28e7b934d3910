"""``run_close_job``: the outcome of each session, and what is stored of it."""

from __future__ import annotations

import re
from collections import Counter
from uuid import UUID

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from osvi_django.database import DatabaseNow
from osvi_django.exceptions import InsideTransaction, InvalidInput, message_for_code
from osvi_django.models import ChatSession, CloseAttempt, SessionSummary
from osvi_django.services.jobs import create_close_job, progress_of, run_close_job, worker
from osvi_django.signals import session_close_failed, session_closed
from osvi_django.testing import Drop, Junk, Status
from osvi_django.testing.factories import ClosedSessionFactory
from tests.helpers.sandbox import SUMMARY, ConcurrencyCounter

# The quotes are the database's own.
SESSIONS = re.compile("UPDATE .osvi_django_chatsession. ")


@pytest.fixture
def notified():
    """Return what the receivers of the signals were called with, in order."""
    received = []

    def closed(session, summary, attempt, **named):
        received.append((session.session_id, session.status, summary and summary.text, attempt.pk))

    def failed(session, error, attempt, **named):
        received.append((session.session_id, error.code, attempt.pk))

    session_closed.connect(closed)
    session_close_failed.connect(failed)
    yield received
    session_closed.disconnect(closed)
    session_close_failed.disconnect(failed)


class TestSuccess:
    def test_job_closes_each_session_once_and_stores_summary(
        self, chats, close_all, osvi_sandbox, staff
    ):
        sessions = chats(60)
        job = close_all(requested_by=staff, via="admin", note="Season's end")
        assert (job.status, job.total, job.succeeded, job.failed) == ("completed", 60, 60, 0)
        assert job.started_at <= job.finished_at
        assert {osvi_sandbox.close_requests(each.session_id) for each in sessions} == {1}
        closed = ChatSession.objects.filter(status="closed", summary_status="stored")
        assert closed.filter(claim=None, lease_until=None, closed_at__isnull=False).count() == 60
        assert set(SessionSummary.objects.values_list("text", flat=True)) == {SUMMARY}
        for attempt in CloseAttempt.objects.all():
            assert (attempt.requested_by, attempt.via) == (staff, "admin")
            assert (attempt.note, attempt.outcome) == ("Season's end", "closed")
            assert (attempt.http_status, SUMMARY[:20] in attempt.answer) == (200, True)
            assert attempt.started_at <= attempt.answered_at <= attempt.finished_at
        for item in job.items.select_related("attempt"):
            assert (item.outcome, item.attempt.session_id) == ("closed", item.session_id)
            assert item.lease_until is None

    def test_session_with_earlier_summary_gets_the_new_one(self, chats, close_all):
        (session,) = chats(1)
        SessionSummary.objects.create(session=session, text="of another time")
        close_all()
        assert SessionSummary.objects.get().text == SUMMARY

    def test_session_with_summary_keeps_it_when_osvi_sends_none(self, chats, close_all):
        with_one, without = chats(2, summary=None)
        SessionSummary.objects.create(session=with_one, text="of another time")
        assert close_all().succeeded == 2
        assert SessionSummary.objects.get().text == "of another time"
        statuses = dict(ChatSession.objects.values_list("pk", "summary_status"))
        assert statuses == {with_one.pk: "stored", without.pk: "not_provided"}

    def test_long_summaries_that_arrive_together_are_all_stored(
        self, chats, close_all, osvi_sandbox
    ):
        text = "A long story. " * 90_000  # sixteen of them are more than MariaDB takes at once
        chats(16, summary=text)
        osvi_sandbox.latency = 0.5
        assert close_all().succeeded == 16
        assert [each.text for each in SessionSummary.objects.all()] == [text.strip()] * 16

    @pytest.mark.parametrize("fault", [None, Status(403)])
    def test_sessions_with_same_outcome_are_updated_in_few_statements(
        self, chats, close_all, osvi_sandbox, settings, fault
    ):
        settings.OSVI["default"] |= {"CONCURRENCY": 60}
        for session in chats(60, summary=None):
            if fault:
                osvi_sandbox.script(session.session_id, fault)
        osvi_sandbox.latency = ConcurrencyCounter(0.3, number=60)
        with CaptureQueriesContext(connection) as queries:
            close_all()
        written = [each["sql"] for each in queries if SESSIONS.match(each["sql"])]
        assert len(written) < 30

    def test_signal_receivers_are_notified_of_each_close(self, chats, close_all, notified):
        one, two, _three = chats(3)
        job = close_all([one, two])
        attempts = {item.requested_session_id: item.attempt_id for item in job.items.all()}
        assert sorted(notified) == sorted(
            (each.session_id, "closed", SUMMARY, attempts[each.session_id]) for each in (one, two)
        )

    def test_on_progress_is_called_with_growing_counts(self, chats):
        chats(40)
        received = []
        job = create_close_job(ChatSession.objects.all(), start=False)
        run_close_job(job.pk, on_progress=lambda job: received.append(job.done))
        assert received == sorted(received)
        assert received[-1] == 40

    def test_finished_job_run_again_sends_nothing(self, chats, close_all, osvi_sandbox):
        chats(2)
        job = close_all()
        seen = len(osvi_sandbox.requests)
        again = run_close_job(job.pk)
        assert (again.finished_at, again.status) == (job.finished_at, "completed")
        assert len(osvi_sandbox.requests) == seen

    def test_progress_of_finished_job_has_counts_and_no_rate(self, chats, close_all):
        chats(3)
        progress = progress_of(close_all())
        assert (progress.counts, progress.per_second) == ({"closed": 3}, None)
        assert progress.seconds_left is None


class TestRunCloseJob:
    @pytest.mark.django_db(transaction=True)
    def test_run_close_job_in_transaction_raises_and_sends_nothing(self, chats, osvi_sandbox):
        chats(1)
        with transaction.atomic():
            job = create_close_job(ChatSession.objects.all(), start=False)
            with pytest.raises(InsideTransaction):
                run_close_job(job.pk)
        assert osvi_sandbox.requests == []
        assert run_close_job(job.pk).succeeded == 1

    @pytest.mark.parametrize("spelled", [str, UUID, lambda text: UUID(text).hex])
    def test_run_close_job_with_uuid_runs_that_job(self, chats, spelled):
        chats(1)
        job = create_close_job(ChatSession.objects.all(), start=False)
        assert run_close_job(spelled(str(job.uuid))).succeeded == 1

    def test_run_close_job_with_number_as_text_raises_invalid_input(self, chats, osvi_sandbox):
        chats(1)
        job = create_close_job(ChatSession.objects.all(), start=False)
        with pytest.raises(InvalidInput, match="no close job"):
            run_close_job(str(job.pk))
        assert osvi_sandbox.requests == []

    def test_run_close_job_with_draft_sends_nothing(self, chats, osvi_sandbox):
        chats(1)
        job = create_close_job(ChatSession.objects.all(), draft=True)
        for named in (job.pk, job.uuid, str(job.uuid)):
            assert run_close_job(named).status == "draft"
        job.refresh_from_db()
        assert (job.heartbeat_at, job.started_at, osvi_sandbox.requests) == (None, None, [])

    def test_run_close_job_with_unknown_number_raises_invalid_input(self, db):
        with pytest.raises(InvalidInput, match="no close job 7") as caught:
            run_close_job(7)
        assert caught.value.field == "job_id"


class TestItemOutcome:
    def test_session_closed_here_is_already_closed(self, agent, close_all, outcomes, osvi_sandbox):
        session = ClosedSessionFactory(agent=agent)
        job = close_all()
        assert outcomes(job) == {session.session_id: "already_closed"}
        assert (job.status, job.succeeded) == ("completed", 1)
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize("status", [404, 409, 422])
    def test_session_closed_at_osvi_is_already_closed(
        self, chats, close_all, outcomes, osvi_sandbox, status
    ):
        (session,) = chats(1)
        osvi_sandbox.sessions[session.session_id].status = "closed"
        osvi_sandbox.script(session.session_id, Status(status))
        assert outcomes(close_all()) == {session.session_id: "already_closed"}
        session.refresh_from_db()
        assert (session.status, session.summary_status) == ("closed", "not_provided")
        assert CloseAttempt.objects.get().outcome == "rejected"

    @pytest.mark.parametrize(
        ("status", "code"),
        [(400, "rejected"), (403, "rejected"), (404, "unknown_at_osvi"), (422, "rejected")],
    )
    def test_session_that_osvi_refuses_is_rejected_and_stays_open(
        self, chats, close_all, osvi_sandbox, notified, status, code
    ):
        session, _other = chats(2)
        osvi_sandbox.script(session.session_id, Status(status, errors=("Not today",)))
        job = close_all()
        assert (job.status, job.succeeded, job.failed) == ("completed_with_errors", 1, 1)
        item = job.items.get(session=session)
        assert (item.outcome, item.error_code, item.error_reason) == (
            "rejected",
            code,
            "Not today",
        )
        assert "“Not today”" in message_for_code(item.error_code, item.error_reason)
        session.refresh_from_db()
        assert (session.status, session.claim) == ("active", None)
        assert (session.session_id, code, item.attempt_id) in notified

    @pytest.mark.parametrize(
        ("fault", "code"),
        [
            (Drop(), "unconfirmed"),
            (Drop(after_closing=True), "unconfirmed"),
            (Status(500), "unconfirmed"),
            (Junk(b"<html>"), "bad_answer"),
        ],
    )
    def test_session_without_usable_answer_is_unconfirmed(
        self, chats, close_all, osvi_sandbox, fault, code
    ):
        session, _other = chats(2)
        osvi_sandbox.script(session.session_id, fault)
        job = close_all()
        assert (job.status, job.succeeded, job.unconfirmed) == ("completed_with_errors", 1, 1)
        item = job.items.get(session=session)
        assert (item.outcome, item.error_code) == ("unconfirmed", code)
        session.refresh_from_db()
        assert (session.status, session.claim) == ("unconfirmed", None)

    def test_session_deleted_before_run_is_not_found(self, chats, outcomes):
        session, other = chats(2)
        job = create_close_job(ChatSession.objects.all(), start=False)
        session.delete()
        assert outcomes(run_close_job(job.pk)) == {
            session.session_id: "not_found",
            other.session_id: "closed",
        }

    def test_session_with_unsendable_id_is_not_sent(self, chats, agent, close_all):
        session, _other = chats(2)
        ChatSession.objects.filter(pk=session.pk).update(session_id="..")
        job = close_all()
        item = job.items.get(requested_session_id="..")
        assert (item.outcome, item.error_code) == ("not_sent", "invalid")
        assert job.succeeded == 1

    @pytest.mark.parametrize("code", [403, 404, 409, 422])
    def test_dormant_session_that_osvi_refuses_stays_dormant(
        self, chats, close_all, outcomes, osvi_sandbox, code
    ):
        (session,) = chats(1, status="dormant")
        osvi_sandbox.sessions[session.session_id].status = "dormant"
        osvi_sandbox.script(session.session_id, Status(code))
        assert outcomes(close_all()) == {session.session_id: "rejected"}
        session.refresh_from_db()
        assert session.status == "dormant"


class TestRequester:
    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize("interval", [0, 60])
    def test_requester_deleted_or_without_permission_midway_stops_closes(
        self, chats, osvi_sandbox, settings, monkeypatch, staff, interval
    ):
        """The requester is read again at intervals, and when a claim finds them deleted."""
        settings.OSVI["default"] |= {"CONCURRENCY": 1}
        monkeypatch.setattr(worker, "_REQUESTER_INTERVAL", interval)
        chats(20)
        osvi_sandbox.latency = 0.02
        job = create_close_job(ChatSession.objects.all(), requested_by=staff, start=False)

        def go(_job):
            if interval:
                type(staff).objects.filter(pk=staff.pk).delete()
            else:
                staff.user_permissions.clear()

        job = run_close_job(job.pk, on_progress=go)
        outcomes = Counter(job.items.values_list("outcome", flat=True))
        assert 0 < outcomes["closed"] < 20
        assert outcomes["closed"] + outcomes["not_allowed"] == 20
        assert job.status == "completed_with_errors"

    def test_requester_without_permission_closes_nothing(
        self, chats, staff, outcomes, osvi_sandbox
    ):
        (session,) = chats(1)
        job = create_close_job([session], requested_by=staff, start=False)
        staff.user_permissions.clear()
        assert outcomes(run_close_job(job.pk)) == {session.session_id: "not_allowed"}
        assert osvi_sandbox.requests == []

    def test_requester_deleted_before_run_closes_nothing(
        self, chats, staff, outcomes, osvi_sandbox
    ):
        (session,) = chats(1)
        job = create_close_job([session], requested_by=staff, start=False)
        staff.delete()
        assert outcomes(run_close_job(job.pk)) == {session.session_id: "not_allowed"}
        assert osvi_sandbox.requests == []


class TestUnconfirmedSession:
    def test_unconfirmed_sessions_are_verified_and_closed_once(
        self, unconfirmed, close_all, outcomes, osvi_sandbox
    ):
        is_listed_open = unconfirmed(Drop())
        was_closed = unconfirmed(Drop(after_closing=True))
        job = close_all()
        assert outcomes(job) == dict.fromkeys(
            (is_listed_open.session_id, was_closed.session_id), "closed"
        )
        assert osvi_sandbox.closes(is_listed_open.session_id) == 1
        assert osvi_sandbox.closes(was_closed.session_id) == 1
        assert SessionSummary.objects.count() == 2

    def test_unconfirmed_session_unknown_to_osvi_stays_unconfirmed(
        self, unconfirmed, close_all, osvi_sandbox
    ):
        session = unconfirmed(Drop(), customer_id="")
        del osvi_sandbox.sessions[session.session_id]
        job = close_all()
        assert (job.unconfirmed, job.items.get().error_code) == (1, "unconfirmed")
        session.refresh_from_db()
        assert session.status == "unconfirmed"

    def test_closing_item_without_lease_is_rescued(self, chats, outcomes):
        (session,) = chats(1)
        job = create_close_job([session], start=False)
        job.items.update(outcome="closing")
        ChatSession.objects.update(status="closing", previous_status="active")
        assert run_close_job(job.pk).succeeded == 1
        assert outcomes(job) == {session.session_id: "closed"}

    def test_items_of_dead_worker_are_rescued(self, chats, outcomes, osvi_sandbox):
        """One was not sent, one answer was lost, and one session was settled by recovery."""
        unsent, closed, recovered = chats(3)
        job = create_close_job(ChatSession.objects.all(), start=False)
        leave_dead_worker(job, osvi_sandbox, closed)
        leave_recovered_session(recovered)
        job = run_close_job(job.pk)
        assert set(outcomes(job).values()) == {"closed"}
        assert (job.status, job.succeeded) == ("completed", 3)
        requests = [
            osvi_sandbox.close_requests(each.session_id) for each in (unsent, closed, recovered)
        ]
        assert requests == [1, 1, 0]
        assert SessionSummary.objects.count() == 3


def leave_dead_worker(job, osvi, closed):
    """Leave the rows as a process that was killed with all of the job in progress."""
    for session in ChatSession.objects.all():
        attempt = CloseAttempt.objects.create(session=session, claim=f"{session.pk:032}")
        held = {"claim": attempt.claim, "lease_until": DatabaseNow()}
        ChatSession.objects.filter(pk=session.pk).update(
            status="closing", previous_status="active", **held
        )
        job.items.filter(session=session).update(outcome="closing", **held)
    osvi.sessions[closed.session_id].status = "closed"


def leave_recovered_session(session):
    """Leave the session as recovery does when it finds the answer in the journal."""
    CloseAttempt.objects.filter(session=session).update(outcome="closed")
    gone = {"status": "closed", "summary_status": "stored", "claim": None, "lease_until": None}
    ChatSession.objects.filter(pk=session.pk).update(**gone)
    SessionSummary.objects.create(session=session, text=SUMMARY)
