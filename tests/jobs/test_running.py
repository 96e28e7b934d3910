"""A job is run: each session's end, and what is stored of it."""

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
from tests.helpers.sandbox import SUMMARY

# The quotes are the database's own.
SESSIONS = re.compile("UPDATE .osvi_django_chatsession. ")


@pytest.fixture
def heard():
    """What the signals told, in order."""
    told = []

    def closed(session, summary, attempt, **named):
        told.append((session.session_id, session.status, summary and summary.text, attempt.pk))

    def failed(session, error, attempt, **named):
        told.append((session.session_id, error.code, attempt.pk))

    session_closed.connect(closed)
    session_close_failed.connect(failed)
    yield told
    session_closed.disconnect(closed)
    session_close_failed.disconnect(failed)


class TestAllGoesWell:
    def test_each_is_closed_once_and_its_summary_stored(
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

    def test_one_that_has_an_earlier_summary_keeps_the_newest(self, chats, close_all):
        (session,) = chats(1)
        SessionSummary.objects.create(session=session, text="of another time")
        close_all()
        assert SessionSummary.objects.get().text == SUMMARY

    def test_no_summary_never_replaces_one(self, chats, close_all):
        with_one, without = chats(2, summary=None)
        SessionSummary.objects.create(session=with_one, text="of another time")
        assert close_all().succeeded == 2
        assert SessionSummary.objects.get().text == "of another time"
        statuses = dict(ChatSession.objects.values_list("pk", "summary_status"))
        assert statuses == {with_one.pk: "stored", without.pk: "not_provided"}

    def test_long_summaries_that_come_together_are_too_much_for_one_statement(
        self, chats, close_all, osvi_sandbox
    ):
        text = "A long story. " * 90_000  # sixteen of them are more than MariaDB takes at once
        chats(16, summary=text)
        osvi_sandbox.latency = 0.5
        assert close_all().succeeded == 16
        assert [each.text for each in SessionSummary.objects.all()] == [text.strip()] * 16

    @pytest.mark.parametrize("fault", [None, Status(403)])
    def test_those_that_end_alike_are_written_together(
        self, chats, close_all, osvi_sandbox, settings, fault
    ):
        settings.OSVI["default"] |= {"CONCURRENCY": 60}
        for session in chats(60, summary=None):
            if fault:
                osvi_sandbox.script(session.session_id, fault)
        osvi_sandbox.latency = 0.3
        with CaptureQueriesContext(connection) as queries:
            close_all()
        written = [each["sql"] for each in queries if SESSIONS.match(each["sql"])]
        assert len(written) < 30

    def test_whoever_listens_is_told(self, chats, close_all, heard):
        one, two, _three = chats(3)
        job = close_all([one, two])
        attempts = {item.requested_session_id: item.attempt_id for item in job.items.all()}
        assert sorted(heard) == sorted(
            (each.session_id, "closed", SUMMARY, attempts[each.session_id]) for each in (one, two)
        )

    def test_progress_is_told_after_each_commit(self, chats):
        chats(40)
        told = []
        job = create_close_job(ChatSession.objects.all(), start=False)
        run_close_job(job.pk, on_progress=lambda job: told.append(job.done))
        assert told == sorted(told)
        assert told[-1] == 40

    def test_a_finished_job_does_nothing(self, chats, close_all, osvi_sandbox):
        chats(2)
        job = close_all()
        seen = len(osvi_sandbox.requests)
        again = run_close_job(job.pk)
        assert (again.finished_at, again.status) == (job.finished_at, "completed")
        assert len(osvi_sandbox.requests) == seen

    def test_what_it_did_is_told_of_it(self, chats, close_all):
        chats(3)
        progress = progress_of(close_all())
        assert (progress.counts, progress.per_second) == ({"closed": 3}, None)
        assert progress.seconds_left is None


class TestWhereItCannotRun:
    @pytest.mark.django_db(transaction=True)
    def test_inside_a_transaction(self, chats, osvi_sandbox):
        chats(1)
        with transaction.atomic():
            job = create_close_job(ChatSession.objects.all(), start=False)
            with pytest.raises(InsideTransaction):
                run_close_job(job.pk)
        assert osvi_sandbox.requests == []
        assert run_close_job(job.pk).succeeded == 1

    @pytest.mark.parametrize("spelled", [str, UUID, lambda text: UUID(text).hex])
    def test_run_close_job_given_the_uuid_runs_that_job(self, chats, spelled):
        chats(1)
        job = create_close_job(ChatSession.objects.all(), start=False)
        assert run_close_job(spelled(str(job.uuid))).succeeded == 1

    def test_run_close_job_given_the_number_as_a_text_finds_no_job(self, chats, osvi_sandbox):
        chats(1)
        job = create_close_job(ChatSession.objects.all(), start=False)
        with pytest.raises(InvalidInput, match="no close job"):
            run_close_job(str(job.pk))
        assert osvi_sandbox.requests == []

    def test_run_close_job_of_a_draft_sends_nothing(self, chats, osvi_sandbox):
        chats(1)
        job = create_close_job(ChatSession.objects.all(), draft=True)
        for named in (job.pk, job.uuid, str(job.uuid)):
            assert run_close_job(named).status == "draft"
        job.refresh_from_db()
        assert (job.heartbeat_at, job.started_at, osvi_sandbox.requests) == (None, None, [])

    def test_there_is_no_such_job(self, db):
        with pytest.raises(InvalidInput, match="no close job 7") as caught:
            run_close_job(7)
        assert caught.value.field == "job_id"


class TestEachEnd:
    def test_it_is_closed_already(self, agent, close_all, outcomes, osvi_sandbox):
        session = ClosedSessionFactory(agent=agent)
        job = close_all()
        assert outcomes(job) == {session.session_id: "already_closed"}
        assert (job.status, job.succeeded) == ("completed", 1)
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize("status", [404, 409, 422])
    def test_it_was_closed_at_osvi(self, chats, close_all, outcomes, osvi_sandbox, status):
        (session,) = chats(1)
        osvi_sandbox.sessions[session.session_id].status = "closed"
        osvi_sandbox.script(session.session_id, Status(status))
        assert outcomes(close_all()) == {session.session_id: "already_closed"}
        session.refresh_from_db()
        assert (session.status, session.summary_status) == ("closed", "not_provided")
        assert CloseAttempt.objects.get().outcome == "rejected"

    @pytest.mark.parametrize("status", [400, 403, 404, 422])
    def test_osvi_says_no(self, chats, close_all, osvi_sandbox, heard, status):
        session, _other = chats(2)
        osvi_sandbox.script(session.session_id, Status(status, errors=("Not today",)))
        job = close_all()
        assert (job.status, job.succeeded, job.failed) == ("completed_with_errors", 1, 1)
        item = job.items.get(session=session)
        assert (item.outcome, item.error_code, item.error_reason) == (
            "rejected",
            "rejected",
            "Not today",
        )
        assert "“Not today”" in message_for_code(item.error_code, item.error_reason)
        session.refresh_from_db()
        assert (session.status, session.claim) == ("active", None)
        assert (session.session_id, "rejected", item.attempt_id) in heard

    @pytest.mark.parametrize(
        ("fault", "code"),
        [
            (Drop(), "unconfirmed"),
            (Drop(after_closing=True), "unconfirmed"),
            (Status(500), "unconfirmed"),
            (Junk(b"<html>"), "bad_answer"),
        ],
    )
    def test_nobody_knows(self, chats, close_all, osvi_sandbox, fault, code):
        session, _other = chats(2)
        osvi_sandbox.script(session.session_id, fault)
        job = close_all()
        assert (job.status, job.succeeded, job.unconfirmed) == ("completed_with_errors", 1, 1)
        item = job.items.get(session=session)
        assert (item.outcome, item.error_code) == ("unconfirmed", code)
        session.refresh_from_db()
        assert (session.status, session.claim) == ("unconfirmed", None)

    def test_it_was_deleted(self, chats, outcomes):
        session, other = chats(2)
        job = create_close_job(ChatSession.objects.all(), start=False)
        session.delete()
        assert outcomes(run_close_job(job.pk)) == {
            session.session_id: "not_found",
            other.session_id: "closed",
        }

    def test_it_has_an_id_that_cannot_be_sent(self, chats, agent, close_all):
        session, _other = chats(2)
        ChatSession.objects.filter(pk=session.pk).update(session_id="..")
        job = close_all()
        item = job.items.get(requested_session_id="..")
        assert (item.outcome, item.error_code) == ("not_sent", "invalid")
        assert job.succeeded == 1

    def test_a_dormant_one_that_osvi_refuses_stays(self, chats, close_all, outcomes, osvi_sandbox):
        (session,) = chats(1, status="dormant")
        osvi_sandbox.script(session.session_id, Status(422))
        assert outcomes(close_all()) == {session.session_id: "rejected"}
        session.refresh_from_db()
        assert session.status == "dormant"


class TestOfWhomItIsTheWish:
    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize("looks_every", [0, 60])
    def test_so_does_one_that_goes_or_whose_owner_goes_meanwhile(
        self, chats, osvi_sandbox, settings, monkeypatch, staff, looks_every
    ):
        """Whoever asked is looked at anew now and then, and where they were deleted."""
        settings.OSVI["default"] |= {"CONCURRENCY": 1}
        monkeypatch.setattr(worker, "_REQUESTER_INTERVAL", looks_every)
        chats(20)
        osvi_sandbox.latency = 0.02
        job = create_close_job(ChatSession.objects.all(), requested_by=staff, start=False)

        def go(_job):
            if looks_every:
                type(staff).objects.filter(pk=staff.pk).delete()
            else:
                staff.user_permissions.clear()

        job = run_close_job(job.pk, on_progress=go)
        outcomes = Counter(job.items.values_list("outcome", flat=True))
        assert 0 < outcomes["closed"] < 20
        assert outcomes["closed"] + outcomes["not_allowed"] == 20
        assert job.status == "completed_with_errors"

    def test_a_permission_that_is_taken_away_counts(self, chats, staff, outcomes, osvi_sandbox):
        (session,) = chats(1)
        job = create_close_job([session], requested_by=staff, start=False)
        staff.user_permissions.clear()
        assert outcomes(run_close_job(job.pk)) == {session.session_id: "not_allowed"}
        assert osvi_sandbox.requests == []

    def test_so_does_the_whole_user(self, chats, staff, outcomes, osvi_sandbox):
        (session,) = chats(1)
        job = create_close_job([session], requested_by=staff, start=False)
        staff.delete()
        assert outcomes(run_close_job(job.pk)) == {session.session_id: "not_allowed"}
        assert osvi_sandbox.requests == []


class TestOnesThatNobodyKnowsOf:
    def test_osvi_is_asked_first(self, unconfirmed, close_all, outcomes, osvi_sandbox):
        is_listed_open = unconfirmed(Drop())
        was_closed = unconfirmed(Drop(after_closing=True))
        job = close_all()
        assert outcomes(job) == dict.fromkeys(
            (is_listed_open.session_id, was_closed.session_id), "closed"
        )
        assert osvi_sandbox.closes(is_listed_open.session_id) == 1
        assert osvi_sandbox.closes(was_closed.session_id) == 1
        assert SessionSummary.objects.count() == 2

    def test_where_osvi_cannot_tell_it_stays_so(self, unconfirmed, close_all, osvi_sandbox):
        session = unconfirmed(Drop(), customer_id="")
        del osvi_sandbox.sessions[session.session_id]
        job = close_all()
        assert (job.unconfirmed, job.items.get().error_code) == (1, "unconfirmed")
        session.refresh_from_db()
        assert session.status == "unconfirmed"

    def test_what_has_a_lease_without_an_end_is_taken_up(self, chats, outcomes):
        (session,) = chats(1)
        job = create_close_job([session], start=False)
        job.items.update(outcome="closing")
        ChatSession.objects.update(status="closing", previous_status="active")
        assert run_close_job(job.pk).succeeded == 1
        assert outcomes(job) == {session.session_id: "closed"}

    def test_what_a_dead_process_had_is_taken_up(self, chats, outcomes, osvi_sandbox):
        """One was not sent, of one the answer was lost, and of one recovery found the answer."""
        unsent, closed, home = chats(3)
        job = create_close_job(ChatSession.objects.all(), start=False)
        die_with(job, osvi_sandbox, closed)
        close_session_of_the_dead(home)
        job = run_close_job(job.pk)
        assert set(outcomes(job).values()) == {"closed"}
        assert (job.status, job.succeeded) == ("completed", 3)
        requests = [osvi_sandbox.close_requests(each.session_id) for each in (unsent, closed, home)]
        assert requests == [1, 1, 0]
        assert SessionSummary.objects.count() == 3


def die_with(job, osvi, closed):
    """Leave the rows as a process does that was killed with all of the job under way."""
    for session in ChatSession.objects.all():
        attempt = CloseAttempt.objects.create(session=session, claim=f"{session.pk:032}")
        held = {"claim": attempt.claim, "lease_until": DatabaseNow()}
        ChatSession.objects.filter(pk=session.pk).update(
            status="closing", previous_status="active", **held
        )
        job.items.filter(session=session).update(outcome="closing", **held)
    osvi.sessions[closed.session_id].status = "closed"


def close_session_of_the_dead(session):
    """Leave its session as recovery does that found the answer in the journal."""
    CloseAttempt.objects.filter(session=session).update(outcome="closed")
    gone = {"status": "closed", "summary_status": "stored", "claim": None, "lease_until": None}
    ChatSession.objects.filter(pk=session.pk).update(**gone)
    SessionSummary.objects.create(session=session, text=SUMMARY)
