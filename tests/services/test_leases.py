"""Leases: short, renewed while their process lives, and never sent under when they may be over."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import DataError, connection

from osvi_django.database import DatabaseNow
from osvi_django.exceptions import (
    CloseInProgress,
    OSVINoAnswer,
    OSVINotConfigured,
    OSVIUnreachable,
)
from osvi_django.models import ChatSession, CloseAttempt, CloseJobItem
from osvi_django.services import close_again, close_session
from osvi_django.services.attempts import leases
from osvi_django.services.jobs import create_close_job, run_close_job
from osvi_django.services.recovery import Settled, recover_session
from osvi_django.testing import Drop
from tests.failing import database_away
from tests.mirroring import SUMMARY, mirror
from tests.outside import noticed, refused
from tests.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def session(osvi_sandbox):
    return mirror(osvi_sandbox)


@pytest.fixture(autouse=True)
def short(settings, osvi_sandbox):
    """A second of lease, and calls that may take long."""
    settings.OSVI["default"] |= {"LEASE_TIMEOUT": 1, "DEADLINE": 60}


def broken_context():
    """A host's OSVI_THREAD_CONTEXT with a bug."""
    raise RuntimeError


def heartbeats():
    return [each for each in threading.enumerate() if each.name == "osvi-heartbeat"]


def in_a_thread_of_osvi(do):
    """A latency of the sandbox during which something is done, in a thread of its own."""

    def latency(_chat):
        try:
            do()
            return 0
        finally:
            connection.close()

    return latency


def number_over(table, seconds=0):
    """How many leases are over by then, by the database's clock."""
    then = DatabaseNow() + timedelta(seconds=seconds)
    return table.objects.filter(lease_until__lt=then).count()


def in_another_thread(do):
    with ThreadPoolExecutor(1) as pool:
        pool.submit(in_a_thread_of_osvi(do), None).result()


class TestAClose:
    def test_that_takes_longer_than_its_lease_keeps_it(self, session, osvi_sandbox):
        seen = []

        def look():
            for _time in range(8):
                time.sleep(0.3)
                seen.append(number_over(ChatSession))
                with pytest.raises(CloseInProgress):
                    recover_session(ChatSession.objects.get())

        osvi_sandbox.latency = in_a_thread_of_osvi(look)
        assert close_session(session).summary.text == SUMMARY
        assert seen == [0] * 8
        assert osvi_sandbox.close_requests(session.session_id) == 1
        until(lambda: not heartbeats())

    def test_that_is_quick_asks_the_database_for_no_heartbeat(self, session, settings):
        settings.OSVI["default"]["LEASE_TIMEOUT"] = 30
        with database_away("osvi-heartbeat") as refused:
            assert close_session(session).changed
            until(lambda: not heartbeats())
        assert refused == []

    def test_whose_heartbeat_cannot_reach_the_database_is_settled_by_its_claim(
        self, session, osvi_sandbox, caplog
    ):
        """Another process finds the lease over, and has OSVI tell the summary once more."""
        found = []

        def take_over():
            osvi_sandbox.latency = 0
            until(lambda: number_over(ChatSession) == 1)
            found.append(recover_session(ChatSession.objects.get()).settled)

        osvi_sandbox.latency = in_a_thread_of_osvi(take_over)
        with database_away("osvi-heartbeat") as refused:
            assert close_session(session).summary.text == SUMMARY
        assert found == [Settled.STORED]
        assert len(refused) > 3
        assert "1 leases were not renewed: OperationalError" in caplog.text
        assert "a secret" not in caplog.text

    def test_without_a_thread_for_its_heartbeat_claims_for_as_long_as_it_may_take(
        self, session, osvi_sandbox, monkeypatch
    ):
        start = threading.Thread.start

        def no_heartbeat(thread):
            if thread.name == "osvi-heartbeat":
                raise RuntimeError("can't start new thread")
            start(thread)

        seen = []
        osvi_sandbox.latency = in_a_thread_of_osvi(
            lambda: seen.extend([number_over(ChatSession, 60), number_over(ChatSession, 300)])
        )
        until(lambda: not heartbeats())
        monkeypatch.setattr(threading.Thread, "start", no_heartbeat)
        assert close_session(session).changed
        assert seen == [0, 1]  # three calls of 60 seconds, and some for what is written

    def test_in_a_context_that_cannot_be_had_claims_for_as_long_as_it_may_take(
        self, session, osvi_sandbox, settings, caplog
    ):
        seen = []
        osvi_sandbox.latency = in_a_thread_of_osvi(
            lambda: seen.append(number_over(ChatSession, 60))
        )
        settings.OSVI_THREAD_CONTEXT = f"{__name__}.broken_context"
        assert close_session(session).changed
        assert seen == [0]
        assert "leases cannot be renewed in this context: RuntimeError" in caplog.text

    def test_that_ends_with_an_error_is_renewed_no_longer(self, session, osvi_sandbox):
        osvi_sandbox.script(session.session_id, Drop())
        with pytest.raises(OSVINoAnswer):
            close_session(session)
        until(lambda: not heartbeats())

    def test_that_is_interrupted_is_free_when_its_lease_is_over(self, session, settings):
        """As gunicorn interrupts a thread of a worker that lives on."""

        def interrupt():
            raise KeyboardInterrupt

        token = settings.OSVI["default"]["API_TOKEN"]
        settings.OSVI["default"]["API_TOKEN"] = interrupt
        with pytest.raises(KeyboardInterrupt):
            close_session(session)
        settings.OSVI["default"]["API_TOKEN"] = token
        until(lambda: number_over(ChatSession) == 1, 3)
        assert recover_session(session).settled is Settled.REOPENED

    def test_that_was_taken_over_before_it_was_sent_is_not_sent(
        self, session, osvi_sandbox, settings
    ):
        """The host's vault takes so long to hand out the token that the lease is over."""
        token = settings.OSVI["default"]["API_TOKEN"]
        others = []

        def slow():
            if threading.current_thread() is closer and not others:
                others.append(None)
                until(lambda: number_over(ChatSession) == 1)
                in_another_thread(lambda: close_again(ChatSession.objects.get()))
            return token

        closer = threading.current_thread()
        settings.OSVI["default"]["API_TOKEN"] = slow
        with database_away("osvi-heartbeat"), pytest.raises(OSVIUnreachable):
            close_session(session)
        session.refresh_from_db()
        assert (session.status, session.summary.text) == ("closed", SUMMARY)
        assert osvi_sandbox.close_requests(session.session_id) == 1
        outcomes = CloseAttempt.objects.order_by("pk").values_list("outcome", flat=True)
        assert list(outcomes) == ["not_sent", "closed"]


class TestWhatWasNotClaimed:
    """Nothing is renewed of what this process has not claimed, or has failed to."""

    @pytest.fixture(autouse=True)
    def long(self, settings):
        """A lease that is not forgotten soon."""
        settings.OSVI["default"]["LEASE_TIMEOUT"] = 30

    @pytest.fixture
    def at_claims(self):
        """The database refuses each attempt that is written for a claim."""

        def is_refused(sql, _params):
            return sql.startswith("INSERT") and "closeattempt" in sql

        with refused(is_refused, DataError("no")):
            yield

    def test_session_that_is_not_unconfirmed(self, session):
        assert recover_session(session).settled is Settled.UNCHANGED
        until(lambda: not heartbeats(), 5)

    def test_session_with_no_place_for_its_recovery(self, session, settings):
        ChatSession.objects.update(status="unconfirmed")
        settings.OSVI_MAX_SYNC_CALLS = 0
        with pytest.raises(OSVINotConfigured):
            recover_session(session, via="rest")
        until(lambda: not heartbeats(), 5)

    @pytest.mark.usefixtures("at_claims")
    def test_session_whose_attempt_cannot_be_written(self, session):
        with pytest.raises(DataError):
            close_session(session)
        until(lambda: not heartbeats(), 5)

    @pytest.mark.usefixtures("at_claims")
    def test_sessions_of_a_job_whose_attempts_cannot_be_written(self, session):
        job = create_close_job([session], start=False)
        with pytest.raises(DataError):
            run_close_job(job.pk)
        until(lambda: not heartbeats(), 5)

    def test_sessions_of_a_job_that_another_worker_was_faster_to_take(self, session):
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

        with noticed(is_choice, take):
            run_close_job(job.pk, stop=stop)
        assert stop.is_set()
        assert CloseAttempt.objects.count() == 0
        until(lambda: not heartbeats(), 5)


@pytest.mark.django_db
def test_in_a_test_case_a_claim_is_long_and_nothing_beats(osvi_sandbox, settings):
    """Another connection would not see what is in the transaction."""
    session = mirror(osvi_sandbox)
    seen = []
    token = settings.OSVI["default"]["API_TOKEN"]

    def look():
        seen.append((heartbeats(), number_over(ChatSession, 60)))
        return token

    settings.OSVI["default"]["API_TOKEN"] = look
    assert close_session(session).changed
    assert seen == [([], 0)]


class TestSend:
    """What may be sent under a lease, by the monotonic clock."""

    @pytest.fixture
    def held(self, session):
        row = leases.Held(table=ChatSession, using="default", pk=session.pk, claim=uuid.uuid4())
        ChatSession.objects.update(status="closing", claim=row.claim)
        with leases.dropping(row):
            yield row

    def test_nothing_under_a_claim_that_is_not_ours(self, held):
        assert leases.send_by(held) is None
        assert not leases.renew(held)

    def test_for_most_of_a_lease_that_cannot_be_renewed(self, held):
        terms = leases.Terms(seconds=1, longest=1.5, is_renewed=False)
        assert leases.hold([held], terms) == 1.5
        assert leases.send_by(held) > time.monotonic() + 1
        until(lambda: leases.send_by(held) is None, 1.2)
        assert leases.renew(held)
        assert leases.send_by(held) is not None

    def test_nothing_when_another_has_the_row(self, held):
        leases.hold([held], leases.Terms(seconds=1, longest=20))
        ChatSession.objects.update(claim=uuid.uuid4())
        until(lambda: leases.send_by(held) is None, 2)
        assert not leases.renew(held)
        until(lambda: not heartbeats(), 2)  # it is forgotten when its lease is over

    def test_what_cannot_be_renewed_stays_as_it_is_beside_what_can(self, held):
        other = leases.Held(table=ChatSession, using="default", pk=0, claim=uuid.uuid4())
        leases.hold([other], leases.Terms(seconds=1, longest=20, is_renewed=False))
        leases.hold([held], leases.Terms(seconds=1, longest=20))
        first = (leases.send_by(held), leases.send_by(other))
        until(lambda: leases.send_by(held) > first[0], 2)
        with leases.dropping(other):
            assert leases.send_by(other) == first[1]

    def test_nothing_is_renewed_for_longer_than_a_close_may_take(self, held):
        leases.hold([held], leases.Terms(seconds=1, longest=1.5))
        until(lambda: not heartbeats(), 2)
        assert leases.send_by(held) is None


class TestAJob:
    def test_that_takes_longer_than_its_leases_keeps_them(self, osvi_sandbox):
        for _number in range(3):
            mirror(osvi_sandbox)
        seen = []

        def look():
            time.sleep(2)
            seen.extend([number_over(ChatSession), number_over(CloseJobItem)])

        osvi_sandbox.latency = in_a_thread_of_osvi(look)
        job = create_close_job(ChatSession.objects.all(), start=False)
        assert run_close_job(job.pk).succeeded == 3
        assert set(seen) == {0}
        assert all(osvi_sandbox.close_requests(each) == 1 for each in osvi_sandbox.sessions)
        until(lambda: not heartbeats())

    def test_sends_nothing_under_leases_that_may_be_over(self, osvi_sandbox, settings):
        """One close at a time: those that wait for it are handed back, and claimed once more."""
        settings.OSVI["default"] |= {"CONCURRENCY": 1}
        for _number in range(4):
            mirror(osvi_sandbox)
        osvi_sandbox.latency = 0.7
        job = create_close_job(ChatSession.objects.all(), start=False)
        with database_away("osvi-heartbeat") as refused:
            job = run_close_job(job.pk)
        assert (job.status, job.succeeded) == ("completed", 4)
        assert refused
        assert all(osvi_sandbox.close_requests(each) == 1 for each in osvi_sandbox.sessions)
        assert CloseAttempt.objects.count() == 4


def test_a_forked_child_holds_nothing_of_its_parents():
    code = """
import os, uuid
import django; django.setup()
from osvi_django.models import ChatSession
from osvi_django.services.attempts import leases
row = leases.Held(table=ChatSession, using="default", pk=1, claim=uuid.uuid4())
leases.hold([row], leases.Terms(seconds=30, longest=30, is_renewed=False))
pid = os.fork()
if pid: os.waitpid(pid, 0)
print("held" if leases.send_by(row) else "free")
"""
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "example_project.settings"}
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == ["free", "held"]
