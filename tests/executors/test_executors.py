"""Each executor: who runs a job, what happens at a pause, and what is said."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from django.db import DataError, InterfaceError, OperationalError, connection
from django.db.backends.signals import connection_created
from django.utils import timezone

from osvi_django import executors
from osvi_django.exceptions import OSVINotConfigured
from osvi_django.models import ChatSession, CloseAttempt, CloseJob, SessionSummary
from osvi_django.services.jobs import cancel_close_job, create_close_job, runner
from tests.executors.conftest import job_threads
from tests.helpers.database import raise_on_queries
from tests.helpers.waiting import TIMEOUT, wait_until

ROOT = Path(__file__).resolve().parents[2]
SECRET = "sandbox-token-16, and what the customer said"
UNKNOWN = "3f0e5b0e-8a47-4a5e-9c5b-0d4d3c1f7f2a"  # a UUID of no job


def stored():
    return SessionSummary.objects.count()


@pytest.fixture
def made():
    """The connections that a job's threads make, of which the first fail with ``errors``."""

    class Made(list):
        errors = ()

    def note(connection, **_named):
        if threading.current_thread() not in job_threads():
            return
        made.append(connection)
        if len(made) <= len(made.errors):
            raise made.errors[len(made) - 1]

    made = Made()
    connection_created.connect(note)
    yield made
    connection_created.disconnect(note)


def seconds_left(job):
    return (CloseJob.objects.get(pk=job.pk).resume_at - timezone.now()).total_seconds()


class TestThread:
    def test_it_runs_a_job_to_its_end(self, job_of, run_through):
        job = run_through(job_of(20))
        assert (job.status, job.succeeded, stored()) == ("completed", 20, 20)

    def test_it_is_what_a_new_job_is_told_to(self, osvi_sandbox, transactional_db, mirrored):
        job = create_close_job([mirrored()])
        wait_until(lambda: CloseJob.objects.get(pk=job.pk).is_finished)
        assert stored() == 1

    def test_nobody_waits_for_it(self, job_of, osvi_sandbox):
        job, osvi_sandbox.latency = job_of(1), 0.5
        executors.thread(str(job.uuid))
        assert not CloseJob.objects.get(pk=job.pk).is_finished
        assert [each.daemon for each in job_threads()] == [True]

    def test_it_goes_on_after_a_pause(self, job_of, run_through):
        job = job_of(3)
        resume_at = timezone.now() + timedelta(seconds=1)
        CloseJob.objects.update(status="paused", resume_at=resume_at)
        job = run_through(job)
        assert (job.status, job.succeeded) == ("completed", 3)
        assert CloseAttempt.objects.earliest("started_at").started_at > resume_at

    def test_whoever_is_told_of_it_in_a_pause_waits_as_well(self, job_of, osvi_sandbox):
        job = job_of(1)
        osvi_sandbox.token = "another"
        executors.immediate(str(job.uuid))
        assert CloseJob.objects.get(pk=job.pk).status == "paused"
        executors.thread(str(job.uuid))
        time.sleep(0.3)
        assert len(osvi_sandbox.requests) == 1
        assert job_threads()

    def test_its_connections_are_closed(self, job_of, made, run_through):
        run_through(job_of(1))
        # On MariaDB Django makes one more, to ask the server which it is.
        assert {each.connection for each in made} == {None}

    def test_a_database_that_is_away_is_waited_for(
        self, job_of, made, run_through, monkeypatch, caplog
    ):
        monkeypatch.setattr(runner, "DATABASE_AWAY", 0.01)
        job = job_of(1)
        made.errors = (OperationalError(SECRET), InterfaceError(SECRET))
        assert run_through(job).status == "completed"
        assert len(made) == 3
        for kind in ("OperationalError", "InterfaceError"):
            assert f"the database of close job {job.uuid} is away: {kind}" in caplog.text
        assert SECRET not in caplog.text

    def test_a_broken_job_is_logged(self, job_of, made, run_through, caplog):
        job = job_of(1)
        made.errors = (ValueError("broken"),)
        run_through(job)
        [record] = [each for each in caplog.records if each.levelno == logging.ERROR]
        assert record.getMessage() == f"close job {job.uuid} failed in this process: ValueError"
        assert record.exc_info
        assert [each.connection for each in made] == [None]

    def test_the_words_of_a_database_are_not_logged(self, job_of, made, run_through, caplog):
        job = job_of(1)
        made.errors = (DataError(SECRET),)
        run_through(job)
        assert f"close job {job.uuid} failed in this process: DataError" in caplog.text
        assert SECRET not in caplog.text

    def test_a_job_that_is_not_there_is_logged(self, transactional_db, run_through, caplog):
        executors.thread(UNKNOWN)
        for each in job_threads():
            each.join(TIMEOUT)
        assert f"close job {UNKNOWN} failed" in caplog.text

    def test_a_finished_job_and_a_draft_are_left_alone(self, job_of, run_through, osvi_sandbox):
        job = job_of(1)
        cancel_close_job(job)
        assert run_through(job).status == "cancelled"
        draft = create_close_job(ChatSession.objects.all(), draft=True)
        assert run_through(draft).status == "draft"
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


def test_a_process_that_exits_stores_what_is_under_way(job_of, osvi_sandbox, settings, tmp_path):
    asked = tmp_path / "asked"

    def latency(session):
        asked.touch()
        return 1

    osvi_sandbox.latency = latency
    job = job_of(100)
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
    assert 0 < job.succeeded == stored() == len(osvi_sandbox.answered_summaries) < 100
    assert not ChatSession.objects.filter(status__in=("closing", "unconfirmed")).exists()
    assert not job.items.filter(outcome="closing").exists()


def database_url():
    """The suite's database, for another process."""
    where = connection.settings_dict
    engine = where["ENGINE"].rpartition(".")[2]
    if engine == "sqlite3":
        return f"sqlite:///{where['NAME']}"
    who = ":".join(quote(where[name]) for name in ("USER", "PASSWORD") if where[name])
    port = f":{where['PORT']}" if where["PORT"] else ""
    return f"{engine}://{who}@{where['HOST']}{port}/{where['NAME']}"


class TestImmediate:
    def test_it_runs_a_job_now(self, job_of):
        job = job_of(5)
        executors.immediate(str(job.uuid))
        job.refresh_from_db()
        assert (job.status, job.succeeded) == ("completed", 5)

    def test_it_does_not_wait_for_the_end_of_a_pause(self, job_of, osvi_sandbox):
        osvi_sandbox.token = "another"
        job = job_of(2)
        executors.immediate(str(job.uuid))
        job.refresh_from_db()
        assert job.status == "paused"


class TestTurns:
    def test_a_turn_that_is_long_enough_finishes_a_job(self, job_of):
        job = job_of(5)
        assert executors.run_for(str(job.uuid)) is None
        job.refresh_from_db()
        assert job.status == "completed"
        assert executors.run_for(str(job.uuid)) is None

    def test_after_a_turn_nothing_more_is_begun(self, job_of, osvi_sandbox, settings, monkeypatch):
        monkeypatch.setattr(executors, "TIME_SLICE", 0.5)
        settings.OSVI["default"]["CONCURRENCY"] = 1
        osvi_sandbox.latency = 0.2
        job = job_of(10)
        assert executors.run_for(str(job.uuid)) == 0
        job.refresh_from_db()
        assert 0 < job.succeeded == stored() < 10
        assert executors.run_for(str(job.uuid), until_done=True) is None
        assert stored() == 10

    def test_no_timer_is_left(self, job_of):
        for until_done in (False, True):
            executors.run_for(str(job_of(1).uuid), until_done=until_done)
        wait_until(
            lambda: not any(isinstance(each, threading.Timer) for each in threading.enumerate())
        )

    def test_a_pause_is_told(self, job_of, osvi_sandbox):
        osvi_sandbox.token = "another"
        job = job_of(1)
        assert executors.run_for(str(job.uuid)) == pytest.approx(seconds_left(job), abs=1)
        assert executors.run_for(str(job.uuid)) == pytest.approx(seconds_left(job), abs=1)
        assert len(osvi_sandbox.requests) == 1

    def test_a_database_that_is_away_is_looked_for_later(self, job_of):
        job = job_of(1)
        with raise_on_queries(lambda *_query: True, OperationalError()):
            assert executors.run_for(str(job.uuid)) == runner.DATABASE_AWAY

    def test_what_it_raises_says_no_more_than_its_kind(self, job_of, caplog):
        job = job_of(1)
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
    def test_how_many_tasks_share_a_job(self, db, counts, tasks):
        assert executors.tasks_for(str(CloseJob.objects.create(**counts).uuid)) == tasks


def test_without_queues_a_site_is_not_set_up(monkeypatch):
    monkeypatch.delitem(sys.modules, "osvi_django.tasks", raising=False)
    for name in ("django.tasks", "django_tasks"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(OSVINotConfigured, match="nor django-tasks"):
        executors.django_tasks(1)
