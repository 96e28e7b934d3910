"""Each executor: which thread runs a job, what happens at a pause, and what is logged."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import DataError, InterfaceError, OperationalError
from django.utils import timezone

from osvi_django import executors
from osvi_django.exceptions import OSVINotConfigured
from osvi_django.models import ChatSession, CloseAttempt, CloseJob, SessionSummary
from osvi_django.services.jobs import cancel_close_job, create_close_job, runner
from tests.executors.conftest import SECRET, UNKNOWN_JOB, runner_threads
from tests.helpers.database import raise_on_queries
from tests.helpers.processes import database_url
from tests.helpers.waiting import TIMEOUT, wait_until

ROOT = Path(__file__).resolve().parents[2]


def count_summaries():
    """Return how many summaries are stored."""
    return SessionSummary.objects.count()


def seconds_left(job):
    """Return the seconds until a paused job is to be resumed."""
    return (CloseJob.objects.get(pk=job.pk).resume_at - timezone.now()).total_seconds()


class TestThread:
    def test_thread_runs_job_to_its_end(self, make_job, run_in_thread):
        job = run_in_thread(make_job(20))
        assert (job.status, job.succeeded, count_summaries()) == ("completed", 20, 20)

    def test_new_job_is_run_by_thread_by_default(self, osvi_sandbox, transactional_db, mirrored):
        job = create_close_job([mirrored()])
        wait_until(lambda: CloseJob.objects.get(pk=job.pk).is_finished)
        assert count_summaries() == 1

    def test_thread_does_not_block_caller(self, make_job, osvi_sandbox):
        job, is_checked = make_job(1), threading.Event()
        osvi_sandbox.latency = lambda _chat: 0 if is_checked.wait(TIMEOUT) else TIMEOUT
        executors.thread(str(job.uuid))
        assert not CloseJob.objects.get(pk=job.pk).is_finished
        is_checked.set()
        assert [each.daemon for each in runner_threads()] == [True]

    def test_thread_with_paused_job_waits_for_resume_time(self, make_job, run_in_thread):
        job = make_job(3)
        resume_at = timezone.now() + timedelta(seconds=1)
        CloseJob.objects.update(status="paused", resume_at=resume_at)
        job = run_in_thread(job)
        assert (job.status, job.succeeded) == ("completed", 3)
        assert CloseAttempt.objects.earliest("started_at").started_at > resume_at

    def test_thread_called_during_pause_sends_nothing(
        self, make_job, osvi_sandbox, runner_connections
    ):
        job = make_job(1)
        osvi_sandbox.token = "another"
        executors.immediate(str(job.uuid))
        assert CloseJob.objects.get(pk=job.pk).status == "paused"
        executors.thread(str(job.uuid))
        # The runner reads the job, and closes its connection to wait.
        wait_until(lambda: runner_connections)
        wait_until(lambda: not any(each.connection for each in runner_connections))
        assert len(osvi_sandbox.requests) == 1
        assert runner_threads()

    def test_thread_closes_its_database_connections(
        self, make_job, runner_connections, run_in_thread
    ):
        run_in_thread(make_job(1))
        # On MariaDB Django makes one more, to ask the server which it is.
        assert {each.connection for each in runner_connections} == {None}

    def test_thread_when_database_is_unavailable_retries(
        self, make_job, runner_connections, run_in_thread, monkeypatch, caplog
    ):
        monkeypatch.setattr(runner, "DATABASE_RETRY_DELAY", 0.01)
        job = make_job(1)
        runner_connections.errors = (OperationalError(SECRET), InterfaceError(SECRET))
        assert run_in_thread(job).status == "completed"
        assert len(runner_connections) == 3
        for kind in ("OperationalError", "InterfaceError"):
            assert f"the database of close job {job.uuid} is unavailable: {kind}" in caplog.text
        assert SECRET not in caplog.text

    def test_thread_with_failing_job_logs_error(
        self, make_job, runner_connections, run_in_thread, caplog
    ):
        job = make_job(1)
        runner_connections.errors = (ValueError("broken"),)
        run_in_thread(job)
        [record] = [each for each in caplog.records if each.levelno == logging.ERROR]
        assert record.getMessage() == f"close job {job.uuid} failed in this process: ValueError"
        assert record.exc_info
        assert [each.connection for each in runner_connections] == [None]

    def test_thread_with_database_error_logs_no_message(
        self, make_job, runner_connections, run_in_thread, caplog
    ):
        job = make_job(1)
        runner_connections.errors = (DataError(SECRET),)
        run_in_thread(job)
        assert f"close job {job.uuid} failed in this process: DataError" in caplog.text
        assert SECRET not in caplog.text

    def test_thread_with_unknown_job_logs_error(self, transactional_db, run_in_thread, caplog):
        executors.thread(UNKNOWN_JOB)
        for each in runner_threads():
            each.join(TIMEOUT)
        assert f"close job {UNKNOWN_JOB} failed" in caplog.text

    def test_thread_with_finished_job_or_draft_does_nothing(
        self, make_job, run_in_thread, osvi_sandbox
    ):
        job = make_job(1)
        cancel_close_job(job)
        assert run_in_thread(job).status == "cancelled"
        draft = create_close_job(ChatSession.objects.all(), draft=True)
        assert run_in_thread(draft).status == "draft"
        assert osvi_sandbox.requests == []


AT_EXIT = """
import sys, time
from pathlib import Path
import django

django.setup()
from osvi_django.executors import thread

thread(sys.argv[1])
while not Path(sys.argv[2]).exists():
    time.sleep(0.01)
"""


def test_process_exit_stores_closes_in_progress(make_job, osvi_sandbox, settings, tmp_path):
    asked = tmp_path / "asked"

    def latency(session):
        asked.touch()
        return 1

    osvi_sandbox.latency = latency
    job = make_job(100)
    process = subprocess.run(
        [sys.executable, "-c", AT_EXIT, str(job.uuid), asked],
        cwd=ROOT,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "example_project.settings",
            "DATABASE_URL": database_url(),
            "OSVI_BASE_URL": osvi_sandbox.url,
            "OSVI_API_TOKEN": osvi_sandbox.token,
        },
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert (process.returncode, process.stderr) == (0, "")
    job.refresh_from_db()
    assert not job.is_finished
    assert 0 < job.succeeded == count_summaries() == len(osvi_sandbox.answered_summaries) < 100
    assert not ChatSession.objects.filter(status__in=("closing", "unconfirmed")).exists()
    assert not job.items.filter(outcome="closing").exists()


class TestImmediate:
    def test_immediate_runs_job_in_caller(self, make_job):
        job = make_job(5)
        executors.immediate(str(job.uuid))
        job.refresh_from_db()
        assert (job.status, job.succeeded) == ("completed", 5)

    def test_immediate_does_not_wait_for_paused_job(self, make_job, osvi_sandbox):
        osvi_sandbox.token = "another"
        job = make_job(2)
        executors.immediate(str(job.uuid))
        job.refresh_from_db()
        assert job.status == "paused"


class TestRunFor:
    def test_run_for_within_time_slice_finishes_job(self, make_job):
        job = make_job(5)
        assert executors.run_for(str(job.uuid)) is None
        job.refresh_from_db()
        assert job.status == "completed"
        assert executors.run_for(str(job.uuid)) is None

    def test_run_for_after_time_slice_leaves_rest(
        self, make_job, osvi_sandbox, settings, monkeypatch
    ):
        monkeypatch.setattr(executors, "TIME_SLICE", 1.5)
        settings.OSVI["default"]["CONCURRENCY"] = 1
        osvi_sandbox.latency = 0.3
        job = make_job(20)
        assert executors.run_for(str(job.uuid)) == 0
        job.refresh_from_db()
        assert 0 < job.succeeded == count_summaries() < 20
        osvi_sandbox.latency = 0
        assert executors.run_for(str(job.uuid), until_done=True) is None
        assert count_summaries() == 20

    def test_run_for_leaves_no_timer(self, make_job):
        for until_done in (False, True):
            executors.run_for(str(make_job(1).uuid), until_done=until_done)
        wait_until(
            lambda: not any(isinstance(each, threading.Timer) for each in threading.enumerate())
        )

    def test_run_for_with_paused_job_returns_seconds_left(self, make_job, osvi_sandbox):
        osvi_sandbox.token = "another"
        job = make_job(1)
        assert executors.run_for(str(job.uuid)) == pytest.approx(seconds_left(job), abs=10)
        assert executors.run_for(str(job.uuid)) == pytest.approx(seconds_left(job), abs=10)
        assert len(osvi_sandbox.requests) == 1

    def test_run_for_when_database_is_unavailable_returns_wait(self, make_job):
        job = make_job(1)
        with raise_on_queries(lambda *_query: True, OperationalError()):
            assert executors.run_for(str(job.uuid)) == runner.DATABASE_RETRY_DELAY

    def test_run_for_with_failing_job_raises_without_details(self, make_job, caplog):
        job = make_job(1)
        with (
            raise_on_queries(lambda *_query: True, ValueError(SECRET)),
            pytest.raises(executors.JobFailed) as caught,
        ):
            executors.run_for(str(job.uuid))
        assert (
            str(caught.value) == f"Close job {job.uuid} failed with ValueError: the log says how."
        )
        assert caught.value.__context__ is None
        assert f"close job {job.uuid} failed in this process" in caplog.text

    @pytest.mark.parametrize(
        ("counts", "tasks"),
        [
            ({"total": 0}, 1),
            ({"total": 1}, 1),
            ({"total": 100}, 1),
            ({"total": 101}, 2),
            ({"total": 301}, 4),
            ({"total": 10_000}, 4),
            ({"total": 10_000, "succeeded": 9_000, "failed": 700, "unconfirmed": 100}, 2),
            ({"total": 10_000, "succeeded": 1, "cancelled": 9_999}, 1),
        ],
    )
    def test_tasks_for_returns_number_by_remaining_sessions(self, db, counts, tasks):
        assert executors.tasks_for(str(CloseJob.objects.create(**counts).uuid)) == tasks


def test_django_tasks_without_queues_raises_not_configured(monkeypatch):
    monkeypatch.delitem(sys.modules, "osvi_django.tasks", raising=False)
    for name in ("django.tasks", "django_tasks"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(OSVINotConfigured, match="nor django-tasks"):
        executors.django_tasks(1)
