"""Jobs slow down, pause or stop, and continue: OSVI throttles or is away, or a worker stops."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import count

import pytest
from django.utils import timezone

from osvi_django.client import throttle
from osvi_django.models import ChatSession, CloseAttempt, CloseJob
from osvi_django.services.jobs import create_close_job, due_jobs, progress_of, run_close_job
from osvi_django.testing import Fault, OSVISandbox, Status
from osvi_django.testing.factories import ChatAgentFactory
from tests.helpers.sandbox import mirror
from tests.helpers.waiting import wait_until
from tests.jobs.conftest import in_own_connection


@pytest.fixture
def two_at_once(settings, osvi_sandbox):
    """Allow two closes at once."""
    settings.OSVI["default"] |= {"CONCURRENCY": 2}


@dataclass(frozen=True)
class FailEveryEighth(Fault):
    """500 for the first of each eight requests, and the usual answer for seven."""

    numbers: Iterator[int]

    def play(self, exchange):
        if next(self.numbers) % 8 == 0:
            Status(500).play(exchange)
        else:
            exchange.send(exchange.carry_out())


def all_closed_once(osvi):
    """Return whether each session is closed, by one close at OSVI."""
    ids = ChatSession.objects.filter(status="closed").values_list("session_id", flat=True)
    assert len(ids) == ChatSession.objects.count()
    return {osvi.closes(each) for each in ids} == {1}


class TestThrottledAccount:
    @pytest.mark.parametrize("status", [429, 503])
    def test_account_when_throttled_sends_nothing_until_retry_after(
        self, chats, close_all, osvi_sandbox, two_at_once, status
    ):
        sessions = chats(12)
        first = sessions[0].session_id
        osvi_sandbox.script(first, Status(status, retry_after=3))
        osvi_sandbox.latency = 0.02
        assert close_all().succeeded == 12
        assert all_closed_once(osvi_sandbox)
        times = [request.at for request in osvi_sandbox.requests]
        throttled = [request.session_id for request in osvi_sandbox.requests].index(first)
        later = [at for at in times if at > times[throttled] + timedelta(seconds=2)]
        assert later
        assert min(later) >= times[throttled] + timedelta(seconds=2.95)

    @pytest.mark.django_db(transaction=True)
    def test_job_when_osvi_throttles_pauses_other_jobs_of_process(
        self, chats, osvi_sandbox, two_at_once
    ):
        """Two workers share the throttle of their process."""
        osvi_sandbox.latency = 0.05
        jobs = [create_close_job(chats(30), start=False) for _number in range(2)]
        throttled = jobs[0].items.first().requested_session_id
        osvi_sandbox.script(throttled, Status(429, retry_after=4))
        threads = [
            threading.Thread(target=in_own_connection, args=[run_close_job, job.pk]) for job in jobs
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all_closed_once(osvi_sandbox)
        requests = osvi_sandbox.requests
        told_at = next(each.at for each in requests if each.session_id == throttled)
        pause = [timedelta(seconds=seconds) for seconds in (2, 3.95)]
        assert not [each for each in requests if pause[0] < each.at - told_at < pause[1]]

    @pytest.mark.django_db(transaction=True)
    def test_worker_stopped_while_throttled_leaves_job_paused(
        self, chats, osvi_sandbox, two_at_once
    ):
        (session,) = chats(1)
        osvi_sandbox.script(session.session_id, Status(429, retry_after=50))
        job = create_close_job(ChatSession.objects.all(), start=False)
        stop = threading.Event()

        def stop_when_stored():
            wait_until(CloseAttempt.objects.filter(error_code="busy_at_osvi").exists)
            stop.set()

        thread = threading.Thread(target=in_own_connection, args=[stop_when_stored])
        thread.start()
        job = run_close_job(job.pk, stop=stop)
        thread.join()
        assert (job.status, job.paused_by) == ("paused", "busy_at_osvi")
        assert 0 < (job.resume_at - timezone.now()).total_seconds() < 50

    def test_throttled_close_is_stored_as_rejected_attempt(
        self, chats, close_all, osvi_sandbox, two_at_once
    ):
        (session,) = chats(1)
        osvi_sandbox.script(session.session_id, Status(429, retry_after=1))
        close_all()
        newest, oldest = CloseAttempt.objects.all()
        assert (oldest.outcome, oldest.error_code) == ("rejected", "busy_at_osvi")
        assert newest.outcome == "closed"

    def test_long_retry_after_pauses_job_and_next_job(
        self, chats, close_all, osvi_sandbox, two_at_once
    ):
        (session,) = chats(1)
        osvi_sandbox.script(session.session_id, Status(429, retry_after=600))
        job = close_all()
        assert (job.status, job.paused_by, job.done) == ("paused", "busy_at_osvi", 0)
        wait = (job.resume_at - timezone.now()).total_seconds()
        assert 590 < wait <= 600
        # The throttle holds for the other jobs of this process, too.
        other = close_all(chats(1))
        assert (other.status, other.paused_by) == ("paused", "busy_at_osvi")
        assert len(osvi_sandbox.requests) == 1


def start_when_missed(osvi):
    """Start the sandbox as soon as the throttle has noticed that it is away."""
    wait_until(lambda: throttle.throttle_for("default", osvi.url, 2).last_error)
    osvi.start()


class TestUnavailableOSVI:
    def test_job_when_osvi_is_unreachable_pauses_and_continues(
        self, chats, close_all, osvi_sandbox, two_at_once
    ):
        chats(9)
        osvi_sandbox.stop()
        job = close_all()
        assert (job.status, job.paused_by, job.done) == ("paused", "unreachable", 0)
        assert timezone.now() < job.resume_at < timezone.now() + timedelta(seconds=31)
        assert set(job.items.values_list("outcome", flat=True)) == {"waiting"}
        assert set(ChatSession.objects.values_list("status", "claim")) == {("active", None)}
        assert progress_of(job).seconds_left is None
        osvi_sandbox.start()
        job = run_close_job(job.pk)
        assert (job.status, job.succeeded, job.paused_by) == ("completed", 9, "")
        assert all_closed_once(osvi_sandbox)

    def test_job_when_gateway_fails_pauses_after_few_unconfirmed(
        self, chats, close_all, osvi_sandbox, two_at_once
    ):
        """A gateway that answers 502 to everything: a few are unconfirmed, the others wait."""
        for session in chats(30):
            osvi_sandbox.script(session.session_id, Status(502, body=b"<html>"))
        job = close_all()
        assert (job.status, job.paused_by) == ("paused", "unconfirmed")
        assert (
            1 <= job.unconfirmed <= 3 + 1 + 2
        )  # three in a row, one more in progress, and two attempts
        assert job.items.filter(outcome="waiting").count() == 30 - job.unconfirmed

    def test_single_failures_between_successes_do_not_slow_job_down(
        self, chats, close_all, osvi_sandbox, settings, monkeypatch
    ):
        """Failures are counted in a row only."""
        settings.OSVI["default"]["CONCURRENCY"] = 1
        monkeypatch.setattr(
            throttle, "PAUSES", (600.0,) * 3
        )  # a throttle that slows down would pause the job
        every_eighth = FailEveryEighth(count(1))
        for session in chats(40):
            osvi_sandbox.script(session.session_id, every_eighth)
        job = close_all()
        assert (job.status, job.unconfirmed, job.succeeded) == ("completed_with_errors", 5, 35)

    def test_job_when_osvi_returns_in_time_completes(self, chats, osvi_sandbox, two_at_once):
        chats(6)
        osvi_sandbox.stop()
        back = threading.Thread(target=start_when_missed, args=[osvi_sandbox])
        back.start()
        job = create_close_job(ChatSession.objects.all(), start=False)
        assert run_close_job(job.pk).status == "completed"
        back.join()
        assert all_closed_once(osvi_sandbox)


class TestWrongSettings:
    def test_token_that_osvi_refuses_pauses_job_at_once(
        self, chats, close_all, osvi_sandbox, settings, two_at_once
    ):
        chats(9)
        settings.OSVI["default"]["API_TOKEN"] = "not-the-token-16"
        job = close_all()
        assert (job.status, job.paused_by, job.failed) == ("paused", "unauthorized", 0)
        assert 1 <= len(osvi_sandbox.requests) <= 2
        settings.OSVI["default"]["API_TOKEN"] = osvi_sandbox.token
        assert run_close_job(job.pk).succeeded == 9

    @pytest.mark.parametrize(
        "wrong",
        [{"BASE_URL": "ftp://x"}, {"CONCURRENCY": 0}, {"LEASE_TIMEOUT": 0.5}, {"API_TOKEN": ""}],
    )
    def test_invalid_settings_pause_job_and_are_logged(
        self, chats, close_all, osvi_sandbox, settings, wrong, caplog
    ):
        chats(2)
        right = dict(settings.OSVI["default"])
        settings.OSVI["default"] |= wrong
        job = close_all()
        assert (job.status, job.paused_by, job.done) == ("paused", "not_configured", 0)
        assert osvi_sandbox.requests == []
        # Which of the accounts, and what is wrong with its settings.
        assert f'OSVI["default"]["{next(iter(wrong))}"]' in caplog.text
        settings.OSVI["default"] = right
        assert run_close_job(job.pk).status == "completed"

    def test_job_with_unconfigured_account_closes_other_accounts(self, chats, close_all, outcomes):
        fine = chats(3)
        lost = mirror(OSVISandbox(), agent=ChatAgentFactory(account="gone"))
        job = close_all()
        assert (job.status, job.succeeded) == ("paused", 3)
        assert outcomes(job)[lost.session_id] == "waiting"
        assert {outcomes(job)[each.session_id] for each in fine} == {"closed"}

    def test_agent_moved_to_another_account_is_closed_with_its_token(
        self, chats, agent, osvi_sandbox, settings
    ):
        chats(2)
        job = create_close_job(ChatSession.objects.all(), start=False)
        with OSVISandbox(token="another-token-16") as other:
            settings.OSVI["other"] = {"API_TOKEN": other.token, "BASE_URL": other.url}
            for session in ChatSession.objects.all():
                other.add_session(session_id=session.session_id, agent_uuid=agent.uuid)
            type(agent).objects.update(account="other")
            assert run_close_job(job.pk).succeeded == 2
            assert {each.headers["API-Token"] for each in other.requests} == {other.token}
        assert osvi_sandbox.requests == []


class TestStoppedWorker:
    def test_stopped_worker_stores_closes_in_progress_and_requeues(
        self, chats, osvi_sandbox, two_at_once
    ):
        chats(20)
        stop = threading.Event()

        def slow(_chat):
            stop.set()
            return 0.3

        osvi_sandbox.latency = slow
        job = create_close_job(ChatSession.objects.all(), start=False)
        job = run_close_job(job.pk, stop=stop)
        assert job.status == "queued"
        assert due_jobs() == [job]
        assert 1 <= job.succeeded < 20
        assert job.succeeded == len(osvi_sandbox.requests)
        assert set(job.items.values_list("outcome", flat=True)) == {"closed", "waiting"}
        assert not CloseAttempt.objects.exclude(outcome="closed").exists()
        osvi_sandbox.latency = 0
        assert run_close_job(job.pk).succeeded == 20
        assert all_closed_once(osvi_sandbox)

    def test_worker_stopped_before_start_changes_nothing(self, chats, osvi_sandbox):
        chats(2)
        stop = threading.Event()
        stop.set()
        job = create_close_job(ChatSession.objects.all(), start=False)
        assert run_close_job(job.pk, stop=stop).status == "queued"
        assert set(job.items.values_list("outcome", flat=True)) == {"waiting"}
        assert osvi_sandbox.requests == []

    def test_worker_stopped_at_last_close_finishes_job(self, chats, osvi_sandbox, two_at_once):
        chats(2)
        stop = threading.Event()

        def slow(_chat):
            if len(osvi_sandbox.requests) == 2:
                stop.set()
            return 0.2

        osvi_sandbox.latency = slow
        job = create_close_job(ChatSession.objects.all(), start=False)
        job = run_close_job(job.pk, stop=stop)
        assert (job.status, job.succeeded, job.is_finished) == ("completed", 2, True)

    def test_error_in_on_progress_stores_closes_in_progress(self, chats, osvi_sandbox, two_at_once):
        chats(20)

        def explode(_job):
            raise KeyboardInterrupt

        job = create_close_job(ChatSession.objects.all(), start=False)
        with pytest.raises(KeyboardInterrupt):
            run_close_job(job.pk, on_progress=explode)
        closed = ChatSession.objects.filter(status="closed").count()
        assert closed == len(osvi_sandbox.requests) == CloseJob.objects.get().succeeded
        assert not ChatSession.objects.filter(status="closing").exists()

    def test_job_of_killed_process_is_due_when_heartbeat_is_old(self, chats):
        chats(1)
        job = create_close_job(ChatSession.objects.all(), start=False)
        CloseJob.objects.update(status="running")
        assert due_jobs() == []
        CloseJob.objects.update(heartbeat_at=timezone.now() - timedelta(seconds=40))
        assert due_jobs() == [job]


class TestNoThreads:
    def test_worker_without_threads_raises_and_changes_nothing(
        self, chats, osvi_sandbox, monkeypatch
    ):
        def fail(_thread):
            raise RuntimeError("can't start new thread")

        chats(5)
        job = create_close_job(ChatSession.objects.all(), start=False)
        with monkeypatch.context() as system:
            system.setattr(threading.Thread, "start", fail)
            with pytest.raises(RuntimeError, match="new thread"):
                run_close_job(job.pk)
        assert set(job.items.values_list("outcome", flat=True)) == {"waiting"}
        assert set(ChatSession.objects.values_list("status", "claim")) == {("active", None)}
        assert not CloseAttempt.objects.exists()
        assert run_close_job(job.pk).succeeded == 5

    def test_worker_with_one_thread_closes_all(self, chats, osvi_sandbox, monkeypatch):
        start, started = threading.Thread.start, []

        def one_alone(thread):
            if thread.name.startswith("osvi-call"):
                if started:
                    raise RuntimeError("can't start new thread")
                started.append(thread)
            start(thread)

        chats(5)
        job = create_close_job(ChatSession.objects.all(), start=False)
        monkeypatch.setattr(threading.Thread, "start", one_alone)
        assert run_close_job(job.pk).succeeded == 5
