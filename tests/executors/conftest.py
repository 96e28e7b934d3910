"""Jobs for executors to run, and the end of the threads that run them."""

from __future__ import annotations

import threading

import pytest
from django.db.backends.signals import connection_created

from osvi_django import executors
from osvi_django.models import CloseJob
from osvi_django.services.jobs import create_close_job, runner
from tests.helpers.sandbox import mirror
from tests.helpers.waiting import TIMEOUT

SECRET = "sandbox-token-16, and what the customer said"
UNKNOWN_JOB = "3f0e5b0e-8a47-4a5e-9c5b-0d4d3c1f7f2a"


def runner_threads():
    """Return the threads of this process that run jobs."""
    return [each for each in threading.enumerate() if each.name == "osvi-runner"]


def all_jobs_are_finished():
    """Return whether no job is left to run."""
    return not CloseJob.objects.filter(finished_at=None).exists()


@pytest.fixture
def make_job(osvi_sandbox, transactional_db):
    """Make a job of so many sessions, and do not start it."""

    def _make_job(number):
        sessions = [mirror(osvi_sandbox) for _ in range(number)]
        return create_close_job(sessions, start=False)

    return _make_job


@pytest.fixture
def runner_connections():
    """Return the connections that runner threads open; the first fail with ``errors``."""

    class Connections(list):
        errors = ()

    def note(connection, **_named):
        if threading.current_thread() not in runner_threads():
            return
        opened.append(connection)
        if len(opened) <= len(opened.errors):
            raise opened.errors[len(opened) - 1]

    opened = Connections()
    connection_created.connect(note)
    yield opened
    connection_created.disconnect(note)


@pytest.fixture(autouse=True)
def stop_runner(request):
    """Stop what a test started before its database is emptied."""
    # What is set up first is torn down last.
    for name in {"transactional_db", "osvi_sandbox"} & set(request.fixturenames):
        request.getfixturevalue(name)
    yield
    runner.stop()
    assert not runner_threads()


@pytest.fixture
def run_in_thread():
    """Run a job with the executor "thread", and wait for its thread."""

    def _run_in_thread(job):
        executors.thread(str(job.uuid))
        for each in runner_threads():
            each.join(TIMEOUT)
        return CloseJob.objects.get(pk=job.pk)

    return _run_in_thread
