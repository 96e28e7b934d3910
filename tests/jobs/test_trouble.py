"""OSVI is slow, busy, away or refuses our token: the job slows down, pauses, and goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import count

import pytest
from django.db import connection
from django.utils import timezone

from osvi_django.client import throttle
from osvi_django.models import ChatSession, CloseAttempt, CloseJob
from osvi_django.services.jobs import create_close_job, due_jobs, progress_of, run_close_job
from osvi_django.testing import Fault, OSVISandbox, Status
from osvi_django.testing.factories import ChatAgentFactory
from tests.helpers.sandbox import mirror
from tests.helpers.waiting import wait_until


@pytest.fixture
def narrow(settings, osvi_sandbox):
    """Two closes at once."""
    settings.OSVI["default"] |= {"CONCURRENCY": 2}


@dataclass(frozen=True)
class EveryEighth(Fault):
    """In the order in which they come: 500 for one, and what they deserve for seven."""

    numbers: Iterator[int]

    def play(self, exchange):
        if next(self.numbers) % 8 == 0:
            Status(500).play(exchange)
        else:
            exchange.send(exchange.carry_out())


def nothing_is_left(osvi):
    """Whether each session is closed, by one close."""
    ids = ChatSession.objects.filter(status="closed").values_list("session_id", flat=True)
    assert len(ids) == ChatSession.objects.count()
    return {osvi.closes(each) for each in ids} == {1}


class TestABusyOSVI:
    @pytest.mark.parametrize("status", [429, 503])
    def test_it_slows_the_whole_account_down(self, chats, close_all, osvi_sandbox, narrow, status):
        sessions = chats(12)
        first = sessions[0].session_id
        osvi_sandbox.script(first, Status(status, retry_after=2))
        osvi_sandbox.latency = 0.02
        assert close_all().succeeded == 12
        assert nothing_is_left(osvi_sandbox)
        times = [request.at for request in osvi_sandbox.requests]
        throttled = [request.session_id for request in osvi_sandbox.requests].index(first)
        later = [at for at in times if at > times[throttled] + timedelta(seconds=1)]
        assert later
        assert min(later) >= times[throttled] + timedelta(seconds=1.95)

    @pytest.mark.django_db(transaction=True)
    def test_so_it_is_for_the_other_jobs_of_the_process(self, chats, osvi_sandbox, narrow):
        """Two runs at once: what OSVI tells the one of them holds for both."""
        osvi_sandbox.latency = 0.05
        jobs = [create_close_job(chats(30), start=False) for _number in range(2)]
        throttled = jobs[0].items.first().requested_session_id
        osvi_sandbox.script(throttled, Status(429, retry_after=3))
        threads = [threading.Thread(target=run_elsewhere, args=[job]) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert nothing_is_left(osvi_sandbox)
        requests = osvi_sandbox.requests
        told_at = next(each.at for each in requests if each.session_id == throttled)
        pause = [timedelta(seconds=seconds) for seconds in (1, 2.95)]
        assert not [each for each in requests if pause[0] < each.at - told_at < pause[1]]

    def test_a_run_that_ends_meanwhile_leaves_the_pause_to_the_next(
        self, chats, osvi_sandbox, narrow
    ):
        (session,) = chats(1)
        osvi_sandbox.script(session.session_id, Status(429, retry_after=20))
        job = create_close_job(ChatSession.objects.all(), start=False)
        stop = threading.Event()

        def stop_soon():
            wait_until(lambda: osvi_sandbox.requests)
            time.sleep(0.5)
            stop.set()

        thread = threading.Thread(target=stop_soon)
        thread.start()
        job = run_close_job(job.pk, stop=stop)
        thread.join()
        assert (job.status, job.paused_by) == ("paused", "throttled")
        assert 5 < (job.resume_at - timezone.now()).total_seconds() < 20

    def test_what_was_refused_so_is_in_the_journal(self, chats, close_all, osvi_sandbox, narrow):
        (session,) = chats(1)
        osvi_sandbox.script(session.session_id, Status(429, retry_after=1))
        close_all()
        newest, oldest = CloseAttempt.objects.all()
        assert (oldest.outcome, oldest.error_code) == ("rejected", "throttled")
        assert newest.outcome == "closed"

    def test_one_that_asks_for_long_pauses_the_job(self, chats, close_all, osvi_sandbox, narrow):
        (session,) = chats(1)
        osvi_sandbox.script(session.session_id, Status(429, retry_after=600))
        job = close_all()
        assert (job.status, job.paused_by, job.done) == ("paused", "throttled", 0)
        wait = (job.resume_at - timezone.now()).total_seconds()
        assert 590 < wait <= 600
        # It holds for whatever else this process is asked to close meanwhile.
        other = close_all(chats(1))
        assert (other.status, other.paused_by) == ("paused", "throttled")
        assert len(osvi_sandbox.requests) == 1


def run_elsewhere(job):
    try:
        run_close_job(job.pk)
    finally:
        connection.close()


class TestAnOSVIThatIsAway:
    def test_the_job_pauses_and_goes_on(self, chats, close_all, osvi_sandbox, narrow):
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
        assert nothing_is_left(osvi_sandbox)

    def test_it_does_not_burn_through_the_job(self, chats, close_all, osvi_sandbox, narrow):
        """A gateway that answers 502 to everything: a few are unconfirmed, the others wait."""
        for session in chats(30):
            osvi_sandbox.script(session.session_id, Status(502, body=b"<html>"))
        job = close_all()
        assert (job.status, job.paused_by) == ("paused", "unconfirmed")
        assert (
            1 <= job.unconfirmed <= 3 + 1 + 2
        )  # three in a row, one more under way, and two tries
        assert job.items.filter(outcome="waiting").count() == 30 - job.unconfirmed

    def test_one_that_fails_alone_slows_nothing_down(
        self, chats, close_all, osvi_sandbox, settings, monkeypatch
    ):
        """However many do, one after the other with some that go well in between."""
        settings.OSVI["default"]["CONCURRENCY"] = 1
        monkeypatch.setattr(
            throttle, "PAUSES", (600.0,) * 3
        )  # whoever slowed down would pause the job
        every_eighth = EveryEighth(count(1))
        for session in chats(40):
            osvi_sandbox.script(session.session_id, every_eighth)
        job = close_all()
        assert (job.status, job.unconfirmed, job.succeeded) == ("completed_with_errors", 5, 35)

    def test_it_comes_back_before_that(self, chats, osvi_sandbox, narrow):
        chats(6)
        osvi_sandbox.stop()
        back = threading.Timer(0.7, osvi_sandbox.start)
        back.start()
        job = create_close_job(ChatSession.objects.all(), start=False)
        assert run_close_job(job.pk).status == "completed"
        back.join()
        assert nothing_is_left(osvi_sandbox)


class TestAMistakeInTheSettings:
    def test_a_token_that_osvi_refuses_pauses_at_once(
        self, chats, close_all, osvi_sandbox, settings, narrow
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
    def test_settings_that_cannot_be_used_pause_it(
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

    def test_another_account_is_closed_all_the_same(self, chats, close_all, outcomes):
        fine = chats(3)
        lost = mirror(OSVISandbox(), agent=ChatAgentFactory(account="gone"))
        job = close_all()
        assert (job.status, job.succeeded) == ("paused", 3)
        assert outcomes(job)[lost.session_id] == "waiting"
        assert {outcomes(job)[each.session_id] for each in fine} == {"closed"}

    def test_an_agent_that_came_to_another_account_takes_its_token(
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


class TestEndingEarly:
    def test_stop_brings_home_what_is_under_way(self, chats, osvi_sandbox, narrow):
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
        assert 1 <= job.succeeded <= 2
        assert job.succeeded == len(osvi_sandbox.requests)
        assert set(job.items.values_list("outcome", flat=True)) == {"closed", "waiting"}
        assert not CloseAttempt.objects.exclude(outcome="closed").exists()
        osvi_sandbox.latency = 0
        assert run_close_job(job.pk).succeeded == 20
        assert nothing_is_left(osvi_sandbox)

    def test_one_that_is_to_end_before_it_begins_leaves_all_as_it_is(self, chats, osvi_sandbox):
        chats(2)
        stop = threading.Event()
        stop.set()
        job = create_close_job(ChatSession.objects.all(), start=False)
        assert run_close_job(job.pk, stop=stop).status == "queued"
        assert set(job.items.values_list("outcome", flat=True)) == {"waiting"}
        assert osvi_sandbox.requests == []

    def test_a_job_that_came_to_its_end_meanwhile_is_finished(self, chats, osvi_sandbox, narrow):
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

    def test_so_does_an_error_of_whoever_watches(self, chats, osvi_sandbox, narrow):
        chats(20)

        def explode(_job):
            raise KeyboardInterrupt

        job = create_close_job(ChatSession.objects.all(), start=False)
        with pytest.raises(KeyboardInterrupt):
            run_close_job(job.pk, on_progress=explode)
        closed = ChatSession.objects.filter(status="closed").count()
        assert closed == len(osvi_sandbox.requests) == CloseJob.objects.get().succeeded
        assert not ChatSession.objects.filter(status="closing").exists()

    def test_one_whose_process_was_killed_is_due_in_a_while(self, chats):
        chats(1)
        job = create_close_job(ChatSession.objects.all(), start=False)
        CloseJob.objects.update(status="running")
        assert due_jobs() == []
        CloseJob.objects.update(heartbeat_at=timezone.now() - timedelta(seconds=40))
        assert due_jobs() == [job]


class TestASystemWithoutThreads:
    def test_the_run_fails_and_leaves_nothing_behind(self, chats, osvi_sandbox, monkeypatch):
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

    def test_one_thread_is_enough(self, chats, osvi_sandbox, monkeypatch):
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
