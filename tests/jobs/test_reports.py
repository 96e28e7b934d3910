"""Error reports of a job hold no personal data."""

from __future__ import annotations

import sys

import pytest

from osvi_django.models import ChatSession, CloseJob, SessionSummary
from osvi_django.services.jobs import create_close_job, run_close_job, runner
from osvi_django.signals import session_closed
from tests.helpers.error_reports import (
    CUSTOMER,
    NOTE,
    SUMMARY,
    ErrorRecorder,
    Interrupted,
    find_leaks_at_each_query,
)
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def chat(mirrored, settings):
    """Make a session whose summary the host writes if OSVI sends none."""
    settings.OSVI["default"]["SUMMARIZER"] = lambda session: SUMMARY
    return lambda summary=SUMMARY: mirrored(customer_id=CUSTOMER, summary=summary)


def close(session):
    """Close a session in a job with a note."""
    wanted = ChatSession.objects.filter(pk=session.pk)
    run_close_job(create_close_job(wanted, note=NOTE, start=False).pk)


@pytest.mark.parametrize("error", [Interrupted, RuntimeError])
def test_interrupted_job_reports_no_personal_data(chat, error):
    assert find_leaks_at_each_query(close, chat, error=error) == set()


def failing_callable(raised):
    """Return a callable of the host that raises, with a session or a summary among its locals."""

    def fail(*args, session=None, summary=None, **named):
        raise raised

    return fail


# A thread that exits in a call may have sent it.
STATUSES = {
    ("API_TOKEN", RuntimeError): "paused",
    ("API_TOKEN", SystemExit): "completed_with_errors",
    ("SUMMARIZER", RuntimeError): "completed",
    ("SUMMARIZER", SystemExit): "completed",
}


@pytest.mark.parametrize(("name", "raised"), STATUSES)
def test_job_with_failing_host_callable_reports_no_personal_data(chat, settings, name, raised):
    session = chat(summary=None)
    settings.OSVI["default"][name] = failing_callable(raised)
    reporter = ErrorRecorder()
    with reporter.recording():
        close(session)
    assert reporter.leaks() == set()
    assert CloseJob.objects.get().status == STATUSES[name, raised]


def test_receiver_that_exits_ends_only_its_job(chat, settings):
    settings.OSVI_EXECUTOR = "osvi_django.executors.thread"
    first, second = chat(), chat()

    def leave(session, **named):
        if session == first:
            sys.exit(3)

    session_closed.connect(leave)
    reporter = ErrorRecorder()
    try:
        with reporter.recording():
            for session in (first, second):
                create_close_job(ChatSession.objects.filter(pk=session.pk), note=NOTE)
            wait_until(lambda: SessionSummary.objects.count() == 2)
            runner.stop()
    finally:
        session_closed.disconnect(leave)
    assert reporter.errors
    assert reporter.leaks() == set()
