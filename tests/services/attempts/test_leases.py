"""Test leases: short, renewed while their process lives, and not used after their end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.db import DataError, connection, transaction

from osvi_django.database import DatabaseNow
from osvi_django.exceptions import CloseInProgress, OSVINoAnswer, OSVINotConfigured, OSVIUnreachable
from osvi_django.models import ChatSession, CloseAttempt, CloseJobItem
from osvi_django.services import close_again, close_session
from osvi_django.services.attempts import leases
from osvi_django.services.jobs import create_close_job, run_close_job
from osvi_django.services.recovery import Settled, recover_session
from osvi_django.testing import Drop
from tests.helpers.database import (
    call_after_queries,
    database_unavailable_in_threads,
    raise_on_queries,
)
from tests.helpers.sandbox import SUMMARY, mirror
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def session(osvi_sandbox):
    return mirror(osvi_sandbox)


@pytest.fixture(autouse=True)
def short_lease(settings, osvi_sandbox):
    """Set a lease of one second, and a long deadline for calls."""
    settings.OSVI["default"] |= {"LEASE_TIMEOUT": 1, "DEADLINE": 60}


def broken_context():
    """Raise, as an OSVI_THREAD_CONTEXT with a bug does."""
    raise RuntimeError


def heartbeats():
    return [each for each in threading.enumerate() if each.name == "osvi-heartbeat"]


def as_latency(do):
    """Return a latency of the sandbox that calls ``do`` in the sandbox's thread."""

    def latency(_chat):
        try:
            do()
            return 0
        finally:
            connection.close()

    return latency


def count_expired(table, seconds=0):
    """Return how many leases end within ``seconds``, by the database's clock."""
    then = DatabaseNow() + timedelta(seconds=seconds)
    return table.objects.filter(lease_until__lt=then).count()


def in_another_thread(do):
    with ThreadPoolExecutor(1) as pool:
        pool.submit(as_latency(do), None).result()


class TestCloseLease:
    def test_close_longer_than_lease_renews_it(self, session, osvi_sandbox):
        seen = []

        def look():
            for _time in range(8):
                time.sleep(0.3)
                seen.append(count_expired(ChatSession))
                with pytest.raises(CloseInProgress):
                    recover_session(ChatSession.objects.get())

        osvi_sandbox.latency = as_latency(look)
        assert close_session(session).summary.text == SUMMARY
        assert seen == [0] * 8
        assert osvi_sandbox.close_requests(session.session_id) == 1
        wait_until(lambda: not heartbeats())

    def test_close_shorter_than_lease_runs_no_heartbeat_query(self, session, settings):
        settings.OSVI["default"]["LEASE_TIMEOUT"] = 30
        with database_unavailable_in_threads("osvi-heartbeat") as refused:
            assert close_session(session).changed
            wait_until(lambda: not heartbeats())
        assert refused == []

    def test_close_when_heartbeat_fails_is_settled_by_its_claim(
        self, session, osvi_sandbox, caplog
    ):
        """Let another process recover the session after its lease has expired."""
        found = []

        def take_over():
            osvi_sandbox.latency = 0
            wait_until(lambda: count_expired(ChatSession) == 1)
            found.append(recover_session(ChatSession.objects.get()).settled)

        osvi_sandbox.latency = as_latency(take_over)
        with database_unavailable_in_threads("osvi-heartbeat") as refused:
            assert close_session(session).summary.text == SUMMARY
        assert found == [Settled.STORED]
        assert len(refused) > 3
        assert "1 leases were not renewed: OperationalError" in caplog.text
        assert "a secret" not in caplog.text

    def test_close_without_heartbeat_thread_claims_long_lease(
        self, session, osvi_sandbox, monkeypatch
    ):
        start = threading.Thread.start

        def no_heartbeat(thread):
            if thread.name == "osvi-heartbeat":
                raise RuntimeError("can't start new thread")
            start(thread)

        seen = []
        osvi_sandbox.latency = as_latency(
            lambda: seen.extend([count_expired(ChatSession, 60), count_expired(ChatSession, 300)])
        )
        wait_until(lambda: not heartbeats())
        monkeypatch.setattr(threading.Thread, "start", no_heartbeat)
        assert close_session(session).changed
        assert seen == [0, 1]  # three calls of 60 seconds, and some for what is written

    def test_close_with_broken_thread_context_claims_long_lease(
        self, session, osvi_sandbox, settings, caplog
    ):
        seen = []
        osvi_sandbox.latency = as_latency(lambda: seen.append(count_expired(ChatSession, 60)))
        settings.OSVI_THREAD_CONTEXT = f"{__name__}.broken_context"
        assert close_session(session).changed
        assert seen == [0]
        assert "leases cannot be renewed in this context: RuntimeError" in caplog.text

    def test_close_with_error_stops_heartbeat(self, session, osvi_sandbox):
        osvi_sandbox.script(session.session_id, Drop())
        with pytest.raises(OSVINoAnswer):
            close_session(session)
        wait_until(lambda: not heartbeats())

    def test_close_that_is_interrupted_lets_lease_expire(self, session, settings):
        """Interrupt the close as gunicorn does it with a thread."""

        def interrupt():
            raise KeyboardInterrupt

        token = settings.OSVI["default"]["API_TOKEN"]
        settings.OSVI["default"]["API_TOKEN"] = interrupt
        with pytest.raises(KeyboardInterrupt):
            close_session(session)
        settings.OSVI["default"]["API_TOKEN"] = token
        wait_until(lambda: count_expired(ChatSession) == 1, 3)
        assert recover_session(session).settled is Settled.REOPENED

    def test_close_that_lost_its_lease_before_sending_sends_nothing(
        self, session, osvi_sandbox, settings
    ):
        """Let the host take so long to return the token that the lease expires."""
        token = settings.OSVI["default"]["API_TOKEN"]
        others = []

        def slow():
            if threading.current_thread() is closer and not others:
                others.append(None)
                wait_until(lambda: count_expired(ChatSession) == 1)
                in_another_thread(lambda: close_again(ChatSession.objects.get()))
            return token

        closer = threading.current_thread()
        settings.OSVI["default"]["API_TOKEN"] = slow
        with database_unavailable_in_threads("osvi-heartbeat"), pytest.raises(OSVIUnreachable):
            close_session(session)
        session.refresh_from_db()
        assert (session.status, session.summary.text) == ("closed", SUMMARY)
        assert osvi_sandbox.close_requests(session.session_id) == 1
        outcomes = CloseAttempt.objects.order_by("pk").values_list("outcome", flat=True)
        assert list(outcomes) == ["not_sent", "closed"]


class TestSuspendedClose:
    """Test a process that is suspended between the claim and the request."""

    @pytest.fixture
    def suspend_after_claim(self, settings, monkeypatch):
        """Let more than a lease pass, and call ``meanwhile``, right after the claim's commit."""
        settings.OSVI["default"]["LEASE_TIMEOUT"] = 30
        read, passed = time.clock_gettime, []
        monkeypatch.setattr(time, "clock_gettime", lambda clock: read(clock) + sum(passed))

        @contextmanager
        def _suspend_after_claim(meanwhile=lambda: None):
            def suspend():
                if not passed:
                    passed.append(31)
                    meanwhile()

            def is_attempt(sql, _params):
                return sql.startswith("INSERT") and "closeattempt" in sql

            claimed = call_after_queries(is_attempt, lambda: transaction.on_commit(suspend))
            with database_unavailable_in_threads("osvi-heartbeat"), claimed:
                yield
            assert passed

        return _suspend_after_claim

    def test_close_with_lapsed_lease_renews_it_and_is_sent(self, session, suspend_after_claim):
        with suspend_after_claim():
            assert close_session(session).summary.text == SUMMARY

    def test_close_that_was_taken_over_raises_close_in_progress(
        self, session, osvi_sandbox, suspend_after_claim
    ):
        def take_over():
            expired = DatabaseNow() - timedelta(seconds=1)
            ChatSession.objects.update(lease_until=expired)
            in_another_thread(lambda: close_again(ChatSession.objects.get()))

        with suspend_after_claim(take_over), pytest.raises(CloseInProgress):
            close_session(session)
        session.refresh_from_db()
        assert (session.status, session.summary.text) == ("closed", SUMMARY)
        assert osvi_sandbox.close_requests(session.session_id) == 1


class TestNoLease:
    """Test that no lease is renewed that this process does not have."""

    @pytest.fixture(autouse=True)
    def long_lease(self, settings):
        """Set a long lease, when those that other tests had are over."""
        wait_until(lambda: not heartbeats())
        settings.OSVI["default"]["LEASE_TIMEOUT"] = 30

    @pytest.fixture
    def failing_attempts(self):
        """Let the database refuse each attempt."""

        def is_refused(sql, _params):
            return sql.startswith("INSERT") and "closeattempt" in sql

        with raise_on_queries(is_refused, DataError("no")):
            yield

    def test_recover_session_that_is_not_unconfirmed_starts_no_heartbeat(self, session):
        assert recover_session(session).settled is Settled.ALREADY_SETTLED
        wait_until(lambda: not heartbeats())

    def test_recover_session_without_valid_sync_limit_starts_no_heartbeat(self, session, settings):
        ChatSession.objects.update(status="unconfirmed")
        settings.OSVI_MAX_SYNC_CALLS = 0
        with pytest.raises(OSVINotConfigured):
            recover_session(session, via="rest")
        wait_until(lambda: not heartbeats())

    @pytest.mark.usefixtures("failing_attempts")
    def test_close_session_when_attempt_cannot_be_stored_starts_no_heartbeat(self, session):
        with pytest.raises(DataError):
            close_session(session)
        wait_until(lambda: not heartbeats())

    @pytest.mark.usefixtures("failing_attempts")
    def test_close_job_when_attempts_cannot_be_stored_starts_no_heartbeat(self, session):
        job = create_close_job([session], start=False)
        with pytest.raises(DataError):
            run_close_job(job.pk)
        wait_until(lambda: not heartbeats())

    def test_close_job_when_other_worker_takes_items_starts_no_heartbeat(self, session):
        job = create_close_job([session], start=False)
        stop = threading.Event()

        def take():
            if not stop.is_set():
                stop.set()
                later = DatabaseNow() + timedelta(minutes=1)
                CloseJobItem.objects.update(
                    outcome="closing", claim=uuid.uuid4(), lease_until=later
                )

        def is_choice(sql, _params):
            return "closejobitem" in sql and "LIMIT" in sql

        with call_after_queries(is_choice, take):
            run_close_job(job.pk, stop=stop)
        assert stop.is_set()
        assert CloseAttempt.objects.count() == 0
        wait_until(lambda: not heartbeats())


@pytest.mark.django_db
def test_close_inside_test_case_claims_long_lease_without_heartbeat(osvi_sandbox, settings):
    """Renew nothing: another connection would not see the rows of the transaction."""
    session = mirror(osvi_sandbox)
    seen = []
    token = settings.OSVI["default"]["API_TOKEN"]

    def look():
        seen.append((heartbeats(), count_expired(ChatSession, 60)))
        return token

    settings.OSVI["default"]["API_TOKEN"] = look
    assert close_session(session).changed
    assert seen == [([], 0)]


class TestSendBy:
    """Test until when a request may be sent under a lease, by the monotonic clock."""

    @pytest.fixture
    def held_row(self, session):
        row = leases.ClaimedRow(
            table=ChatSession, using="default", pk=session.pk, claim=uuid.uuid4()
        )
        ChatSession.objects.update(status="closing", claim=row.claim)
        with leases.renewing(row):
            yield row

    def test_send_by_of_claim_that_is_not_held_returns_none(self, held_row):
        assert leases.send_by(held_row) is None
        assert not leases.renew(held_row)

    def test_send_by_of_lease_without_renewal_expires(self, held_row):
        terms = leases.Terms(seconds=1, longest=1.5, is_renewed=False)
        assert leases.start_renewing([held_row], terms) == 1.5
        assert leases.send_by(held_row) > time.monotonic() + 1
        wait_until(lambda: leases.send_by(held_row) is None, 1.2)
        assert leases.renew(held_row)
        assert leases.send_by(held_row) is not None

    def test_send_by_of_row_claimed_by_other_returns_none(self, held_row):
        leases.start_renewing([held_row], leases.Terms(seconds=1, longest=20))
        ChatSession.objects.update(claim=uuid.uuid4())
        wait_until(lambda: leases.send_by(held_row) is None, 2)
        assert not leases.renew(held_row)
        wait_until(lambda: not heartbeats(), 2)  # it is dropped when its lease is over

    def test_hold_with_renewal_does_not_renew_other_leases(self, held_row):
        other = leases.ClaimedRow(table=ChatSession, using="default", pk=0, claim=uuid.uuid4())
        leases.start_renewing([other], leases.Terms(seconds=1, longest=20, is_renewed=False))
        leases.start_renewing([held_row], leases.Terms(seconds=1, longest=20))
        first = (leases.send_by(held_row), leases.send_by(other))
        wait_until(lambda: leases.send_by(held_row) > first[0], 2)
        with leases.renewing(other):
            assert leases.send_by(other) == first[1]

    def test_hold_with_renewal_ends_after_longest_time(self, held_row):
        leases.start_renewing([held_row], leases.Terms(seconds=1, longest=1.5))
        wait_until(lambda: not heartbeats(), 2)
        assert leases.send_by(held_row) is None


class TestJobLease:
    def test_close_job_longer_than_leases_renews_them(self, osvi_sandbox):
        for _number in range(3):
            mirror(osvi_sandbox)
        seen = []

        def look():
            time.sleep(2)
            seen.extend([count_expired(ChatSession), count_expired(CloseJobItem)])

        osvi_sandbox.latency = as_latency(look)
        job = create_close_job(ChatSession.objects.all(), start=False)
        assert run_close_job(job.pk).succeeded == 3
        assert set(seen) == {0}
        assert all(osvi_sandbox.close_requests(each) == 1 for each in osvi_sandbox.sessions)
        wait_until(lambda: not heartbeats())

    def test_close_job_with_expired_leases_requeues_items(self, osvi_sandbox, settings):
        """Close one at a time: items that wait too long are requeued and claimed again."""
        settings.OSVI["default"] |= {"CONCURRENCY": 1}
        for _number in range(4):
            mirror(osvi_sandbox)
        osvi_sandbox.latency = 0.7
        job = create_close_job(ChatSession.objects.all(), start=False)
        with database_unavailable_in_threads("osvi-heartbeat") as refused:
            job = run_close_job(job.pk)
        assert (job.status, job.succeeded) == ("completed", 4)
        assert refused
        assert all(osvi_sandbox.close_requests(each) == 1 for each in osvi_sandbox.sessions)
        assert CloseAttempt.objects.count() == 4


def test_forked_child_holds_no_lease_of_parent():
    code = """
import os, uuid
import django; django.setup()
from osvi_django.models import ChatSession
from osvi_django.services.attempts import leases
row = leases.ClaimedRow(table=ChatSession, using="default", pk=1, claim=uuid.uuid4())
leases.start_renewing([row], leases.Terms(seconds=30, longest=30, is_renewed=False))
pid = os.fork()
if pid: os.waitpid(pid, 0)
print("held" if leases.send_by(row) else "free")
"""
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "example_project.settings"}
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == ["free", "held"]
