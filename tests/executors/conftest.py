"""Jobs to be run, and an end for the threads that run them."""

from __future__ import annotations

import threading

import pytest

from osvi_django import executors
from osvi_django.models import CloseJob
from osvi_django.services.jobs import create_close_job, runner
from tests.helpers.sandbox import mirror
from tests.helpers.waiting import TIMEOUT


def job_threads():
    """The threads of this process that run jobs just now."""
    return [each for each in threading.enumerate() if each.name == "osvi-runner"]


@pytest.fixture
def job_of(osvi_sandbox, transactional_db):
    """Make a job of so many sessions, which nobody is told of."""

    def _job_of(number):
        sessions = [mirror(osvi_sandbox) for _ in range(number)]
        return create_close_job(sessions, start=False)

    return _job_of


@pytest.fixture(autouse=True)
def no_thread_is_left(request):
    """Whatever a test started is ended before its database goes."""
    # What is set up first goes last.
    for name in {"transactional_db", "osvi_sandbox"} & set(request.fixturenames):
        request.getfixturevalue(name)
    yield
    runner.stop()
    assert not job_threads()


@pytest.fixture
def run_through():
    """Have a job run by threads, and wait for them."""

    def _run_through(job):
        executors.thread(str(job.uuid))
        for each in job_threads():
            each.join(TIMEOUT)
        return CloseJob.objects.get(pk=job.pk)

    return _run_through
