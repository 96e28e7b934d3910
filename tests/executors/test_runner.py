"""The runner: one thread that runs all jobs of a process concurrently."""

from __future__ import annotations

import os
import re
import threading
import time
from datetime import timedelta

import pytest
from django.db import OperationalError, connection
from django.db.backends.signals import connection_created
from django.utils import timezone

from osvi_django import executors
from osvi_django.contexts import ThreadContext
from osvi_django.models import ChatSession, CloseJob, SessionSummary
from osvi_django.services.jobs import cancel_close_job, create_close_job, runner
from osvi_django.testing import Drop, Status
from tests.executors.conftest import UNKNOWN_JOB, all_jobs_are_finished, runner_threads
from tests.helpers.database import wrap_queries_in_threads
from tests.helpers.sandbox import ConcurrencyCounter, mirror
from tests.helpers.waiting import TIMEOUT, call_threads, wait_until

pytestmark = pytest.mark.django_db(transaction=True)


# The threads of this package, without those of the sandbox.
KINDS = re.compile("osvi-(runner|call|heartbeat|rescuer|writer)")


class ResourceWatch(threading.Thread):
    """Records the most threads of this package at once, and the connections that they open."""

    def __init__(self):
        super().__init__(daemon=True)
        self.most_connections, self.threads = 0, []
        self.opened = []
        self._over = threading.Event()

    def __enter__(self):
        connection_created.connect(self._note)
        self.start()
        return self

    def __exit__(self, *_error):
        self._over.set()
        self.join()
        connection_created.disconnect(self._note)

    def run(self):
        while not self._over.wait(0.01):
            ours = [each for each in threading.enumerate() if KINDS.match(each.name)]
            self.threads = max(self.threads, sorted(each.name for each in ours), key=len)
            # One that is closed while OSVI is asked is opened once more.
            opened = {id(each) for each in list(self.opened) if each.connection is not None}
            self.most_connections = max(self.most_connections, len(opened))

    def _note(self, connection, **_named):
        # A thread's connection is opened again after each call to OSVI.
        is_known = any(each is connection for each in self.opened)
        if threading.current_thread().name.startswith("osvi-") and not is_known:
            self.opened.append(connection)


def request_async_close(api, session):
    """Close a session over REST with "respond-async"."""
    url = f"/api/osvi/sessions/{session.session_id}/close/"
    response = api.post(url, headers={"Prefer": "respond-async"})
    assert response.status_code == 202, response.content


@pytest.fixture
def api(transactional_db, api):
    return api


class TestConcurrency:
    def test_sixty_async_closes_share_threads_and_connections(self, osvi_sandbox, settings, api):
        settings.OSVI["default"]["CONCURRENCY"] = 8
        osvi_sandbox.latency = latency = ConcurrencyCounter(0.3, number=6)
        sessions = [mirror(osvi_sandbox) for _number in range(60)]
        with ResourceWatch() as watch:
            for session in sessions:
                request_async_close(api, session)
            wait_until(all_jobs_are_finished)
        assert SessionSummary.objects.count() == 60
        assert {osvi_sandbox.close_requests(each.session_id) for each in sessions} == {1}
        assert 6 <= latency.most <= 8
        assert len(watch.threads) <= 8 + 2, watch.threads
        assert watch.most_connections <= 3

    def test_async_close_does_not_wait_for_large_job(self, make_job, osvi_sandbox, settings, api):
        settings.OSVI["default"]["CONCURRENCY"] = 4
        is_asked = threading.Event()
        osvi_sandbox.latency = lambda _chat: 0.1 if is_asked.wait(TIMEOUT) else TIMEOUT
        large = make_job(160)
        executors.thread(str(large.uuid))
        wait_until(lambda: osvi_sandbox.requests)
        session = mirror(osvi_sandbox)
        request_async_close(api, session)
        is_asked.set()
        wait_until(all_jobs_are_finished)
        small = CloseJob.objects.latest("pk")
        large.refresh_from_db()
        assert small.finished_at < large.finished_at
        assert SessionSummary.objects.count() == 161

    def test_jobs_of_two_accounts_run_at_the_same_time(self, osvi_sandbox, settings, mirrored):
        settings.OSVI["other"] = {**settings.OSVI["default"], "CONCURRENCY": 2}
        settings.OSVI["default"]["CONCURRENCY"] = 1
        osvi_sandbox.latency = latency = ConcurrencyCounter(0.4, number=2)
        first, second = mirrored(), mirrored()
        type(second.agent).objects.filter(pk=second.agent_id).update(account="other")
        for session in (first, second):
            create_close_job([session])
        wait_until(all_jobs_are_finished)
        assert latency.most == 2

    def test_jobs_above_maximum_wait_for_their_turn(self, osvi_sandbox, mirrored, monkeypatch):
        monkeypatch.setattr(runner, "MAX_JOBS", 2)
        osvi_sandbox.latency = latency = ConcurrencyCounter(0.1, number=2)
        for _number in range(6):
            create_close_job([mirrored()])
        wait_until(all_jobs_are_finished)
        assert latency.most == 2

    def test_rescue_in_many_jobs_takes_few_connections(self, unconfirmed, osvi_sandbox, settings):
        settings.OSVI["default"]["CONCURRENCY"] = 8
        sessions = [unconfirmed(Drop()) for _number in range(12)]
        osvi_sandbox.latency = 0.1
        with ResourceWatch() as watch:
            for session in sessions:
                create_close_job([session])
            wait_until(all_jobs_are_finished)
        assert SessionSummary.objects.count() == 12
        assert watch.most_connections <= 3

    def test_summarizer_in_many_jobs_takes_few_connections(self, mirrored, settings):
        settings.OSVI["default"]["SUMMARIZER"] = write_slowly
        with ResourceWatch() as watch:
            for _number in range(12):
                create_close_job([mirrored(summary=None)])
            wait_until(lambda: SessionSummary.objects.count() == 12)
        assert watch.most_connections <= 3

    def test_cancelled_job_starts_nothing_more(self, make_job, osvi_sandbox, settings):
        settings.OSVI["default"]["CONCURRENCY"] = 2
        osvi_sandbox.latency = 0.3
        large, other = make_job(30), make_job(4)
        for job in (large, other):
            executors.thread(str(job.uuid))
        wait_until(lambda: len(osvi_sandbox.requests) >= 2)
        cancel_close_job(large)
        wait_until(all_jobs_are_finished)
        large.refresh_from_db()
        other.refresh_from_db()
        assert (large.status, other.status, other.succeeded) == ("cancelled", "completed", 4)
        assert large.cancelled > 0
        assert large.succeeded + large.cancelled == 30


def write_slowly(session):
    """Write a summary, as a slow summarizer."""
    time.sleep(0.05)
    return "Written here."


class TestFaults:
    def test_failing_job_does_not_stop_the_others(self, make_job, osvi_sandbox, caplog):
        osvi_sandbox.latency = 0.2
        good = make_job(3)
        executors.thread(str(good.uuid))
        executors.thread(UNKNOWN_JOB)
        wait_until(all_jobs_are_finished)
        assert f"close job {UNKNOWN_JOB} failed in this process: InvalidInput" in caplog.text
        assert SessionSummary.objects.count() == 3

    def test_jobs_when_osvi_is_away_pause_and_continue(self, mirrored, osvi_sandbox, monkeypatch):
        monkeypatch.setattr("osvi_django.client.throttle.PAUSES", (0.1, 0.1, 0.1))
        monkeypatch.setattr("osvi_django.client.throttle.TRY_AGAIN_AFTER", 0.5)
        sessions = [mirrored() for _number in range(5)]
        osvi_sandbox.stop()
        for session in sessions:
            create_close_job([session])
        paused = set()

        def each_was_paused():
            paused.update(CloseJob.objects.filter(status="paused").values_list("pk", flat=True))
            return len(paused) == 5

        wait_until(each_was_paused)
        osvi_sandbox.start()
        wait_until(all_jobs_are_finished)
        assert SessionSummary.objects.count() == 5

    def test_paused_job_keeps_no_sending_thread_and_no_connection(self, mirrored, settings):
        settings.OSVI["default"]["API_TOKEN"] = "not-the-token-16"
        with ResourceWatch() as watch:
            create_close_job([mirrored()])
            wait_until(lambda: CloseJob.objects.filter(status="paused").exists())
            wait_until(lambda: not call_threads())
            wait_until(lambda: not [each for each in watch.opened if each.connection is not None])
        assert len(runner_threads()) == 1

    def test_jobs_when_database_fails_midway_complete(
        self, make_job, osvi_sandbox, settings, tmp_path, monkeypatch
    ):
        """All answers of requests in progress are stored, through the spool if needed."""
        monkeypatch.setattr(runner, "DATABASE_RETRY_DELAY", 0.2)
        monkeypatch.setattr("osvi_django.services.jobs.running.DATABASE_RETRY_SECONDS", 0.2)
        settings.OSVI["default"] |= {"DATABASE_RETRY_TIMEOUT": 0.2, "SPOOL_DIR": tmp_path / "spool"}
        settings.OSVI["default"] |= {"DEADLINE": 3, "CONNECT_TIMEOUT": 3, "LEASE_TIMEOUT": 2}
        away = threading.Event()

        def refuse(execute, sql, params, many, context):
            if away.is_set() and "CLOSE" in sql.upper():
                raise OperationalError("gone")
            return execute(sql, params, many, context)

        def note(connection, **_named):
            if threading.current_thread().name.startswith("osvi-"):
                connection.execute_wrappers.append(refuse)

        back = threading.Timer(1.5, away.clear)

        def go(_chat):
            if not away.is_set() and not back.is_alive() and back.ident is None:
                away.set()
                back.start()
            return 0.05

        osvi_sandbox.latency = go
        jobs = [make_job(3) for _number in range(4)]
        connection_created.connect(note)
        try:
            for job in jobs:
                executors.thread(str(job.uuid))
            wait_until(all_jobs_are_finished, seconds=60)  # an in-memory database renews no lease
        finally:
            connection_created.disconnect(note)
        assert SessionSummary.objects.count() == 12
        assert not ChatSession.objects.exclude(status="closed").exists()
        assert {osvi_sandbox.closes(each) for each in osvi_sandbox.sessions} == {1}

    def test_jobs_that_cannot_claim_wait_for_the_database(self, make_job, monkeypatch, caplog):
        monkeypatch.setattr(runner, "DATABASE_RETRY_DELAY", 0.2)
        monkeypatch.setattr("osvi_django.services.jobs.running.DATABASE_RETRY_SECONDS", 0.2)
        back = threading.Event()

        def refuse(execute, sql, params, many, context):
            if not back.is_set() and sql.startswith("UPDATE") and "closejobitem" in sql:
                raise OperationalError("gone")
            return execute(sql, params, many, context)

        jobs = [make_job(2), make_job(2)]
        with wrap_queries_in_threads("osvi-runner", refuse):
            for job in jobs:
                executors.thread(str(job.uuid))
            for job in jobs:
                wait_until(lambda job=job: f"close job {job.uuid} is unavailable" in caplog.text)
            back.set()
            wait_until(all_jobs_are_finished)
        assert SessionSummary.objects.count() == 4

    def test_job_that_is_cancelled_before_it_begins_is_not_run(
        self, make_job, osvi_sandbox, run_in_thread
    ):
        job, cancelled = make_job(1), []

        def cancel(execute, sql, params, many, context):
            found = execute(sql, params, many, context)
            if "closejob" in sql and not cancelled:
                cancelled.append(sql)
                cancel_close_job(job)
            return found

        with wrap_queries_in_threads("osvi-runner", cancel):
            assert run_in_thread(job).status == "cancelled"
        assert cancelled[0].startswith("SELECT")
        assert osvi_sandbox.requests == []

    def test_stopped_runner_requeues_its_jobs(self, make_job, osvi_sandbox):
        osvi_sandbox.latency = 0.3
        jobs = [make_job(40) for _number in range(3)]
        for job in jobs:
            executors.thread(str(job.uuid))
        wait_until(lambda: osvi_sandbox.requests)
        runner.stop()
        assert not runner_threads()
        assert not ChatSession.objects.filter(status__in=("closing", "unconfirmed")).exists()
        assert 0 < SessionSummary.objects.count() == len(osvi_sandbox.answered_summaries) < 120
        assert {each.status for each in CloseJob.objects.all()} == {"queued"}
        osvi_sandbox.latency = 0
        for job in jobs:
            executors.thread(str(job.uuid))
        wait_until(all_jobs_are_finished)
        assert SessionSummary.objects.count() == 120

    def test_job_added_as_runner_ends_is_run(self, mirrored):
        for _number in range(20):
            create_close_job([mirrored()])
            wait_until(all_jobs_are_finished)
            time.sleep(0.01 * (_number % 3))
        assert SessionSummary.objects.count() == 20

    def test_job_added_twice_is_run_once(self, make_job, osvi_sandbox):
        osvi_sandbox.latency = 0.2
        job = make_job(2)
        for _number in range(3):
            executors.thread(str(job.uuid))
        wait_until(lambda: osvi_sandbox.requests)
        executors.thread(str(job.uuid))
        wait_until(all_jobs_are_finished)
        wait_until(lambda: not runner_threads())
        assert len(osvi_sandbox.requests) == 2

    def test_job_without_threads_stays_queued(self, mirrored, monkeypatch, caplog):
        def start(self):
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            job = create_close_job([mirrored()])
        assert f"close job {job.pk} could not be started, and waits" in caplog.text
        executors.thread(str(job.uuid))
        wait_until(all_jobs_are_finished)

    def test_refused_session_ends_only_its_job(self, mirrored, osvi_sandbox):
        refused, fine = mirrored(), mirrored()
        osvi_sandbox.script(refused.session_id, Status(403))
        jobs = [create_close_job([each]) for each in (refused, fine)]
        wait_until(all_jobs_are_finished)
        statuses = [CloseJob.objects.get(pk=job.pk).status for job in jobs]
        assert statuses == ["completed_with_errors", "completed"]


class FailingWorker:
    """A worker that can neither take a step nor drain."""

    has_news = True
    is_ended = False

    def step(self):
        raise ValueError("a bug")

    drain = step

    def shutdown(self):
        self.is_ended = True


def test_worker_that_fails_while_draining_is_shut_down(caplog):
    one, run = runner._Runner(), FailingWorker()
    one.submit(UNKNOWN_JOB, ThreadContext())
    (asked,) = one._due()
    active = one._active[UNKNOWN_JOB] = runner._Active(entry=asked, worker=run)
    one._step(active)
    assert not run.is_ended
    one._step(active)
    assert (run.is_ended, one._active) == (True, {})
    assert f"close job {UNKNOWN_JOB} failed in this process: ValueError" in caplog.text


def test_job_that_waits_in_runner_is_not_put_back_twice():
    one = runner._Runner()
    one.submit(UNKNOWN_JOB, ThreadContext())
    one._put_back(one._queue[0], 1)
    assert len(one._queue) == 1


def test_process_that_ends_starts_no_more_jobs(caplog):
    all_of_it = runner._Runners()
    all_of_it.close()
    all_of_it.submit(UNKNOWN_JOB, ThreadContext())
    assert f"close job {UNKNOWN_JOB} waits: this process ends" in caplog.text
    assert not runner_threads()


@pytest.mark.skipif(connection.vendor != "postgresql", reason="It counts PostgreSQL's connections.")
def test_runner_uses_at_most_three_postgresql_connections(osvi_sandbox, api, settings):
    settings.OSVI["default"]["CONCURRENCY"] = 16
    osvi_sandbox.latency = 0.5
    sessions = [mirror(osvi_sandbox) for _number in range(60)]
    most = 0
    for session in sessions:
        request_async_close(api, session)
    while not all_jobs_are_finished():
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                "AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
            most = max(most, cursor.fetchone()[0])
    assert 1 <= most <= 3
    assert SessionSummary.objects.count() == 60


FORKED = 7


def test_forked_process_has_its_own_runner(make_job, runner_connections):
    """Web servers may load the site before they fork their workers."""
    first, second = make_job(1), make_job(1)
    later = timezone.now() + timedelta(hours=1)
    CloseJob.objects.filter(pk=first.pk).update(status="paused", resume_at=later)
    executors.thread(str(first.uuid))
    # It reads the job, and closes its connection to wait.
    wait_until(lambda: runner_connections)
    wait_until(lambda: not any(each.connection for each in runner_connections))
    connection.close()
    child = os.fork()
    if not child:
        try:
            executors.thread(str(second.uuid))
            wait_until(lambda: CloseJob.objects.get(pk=second.pk).is_finished)
        finally:
            os._exit(FORKED)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == FORKED
    assert CloseJob.objects.get(pk=second.pk).succeeded == 1
    assert len(runner_threads()) == 1
