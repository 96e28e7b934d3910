"""What error reporters are sent of an interrupted job has nobody's words in it."""

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
    """Make a session whose summary this site writes, if OSVI has none."""
    settings.OSVI["default"]["SUMMARIZER"] = lambda session: SUMMARY
    return lambda summary=SUMMARY: mirrored(customer_id=CUSTOMER, summary=summary)


def close(session):
    wanted = ChatSession.objects.filter(pk=session.pk)
    run_close_job(create_close_job(wanted, note=NOTE, start=False).pk)


@pytest.mark.parametrize("error", [Interrupted, RuntimeError])
def test_an_interrupted_job_shows_no_words(chat, error):
    assert find_leaks_at_each_query(close, chat, error=error) == set()


def of_the_host(raised):
    """What a host's own code does wrong with a session, or with a summary, in hand."""

    def fail(*args, session=None, summary=None, **named):
        raise raised

    return fail


# A thread that was ended in a call may have sent it.
ENDS = {
    ("API_TOKEN", RuntimeError): "paused",
    ("API_TOKEN", SystemExit): "completed_with_errors",
    ("SUMMARIZER", RuntimeError): "completed",
    ("SUMMARIZER", SystemExit): "completed",
}


@pytest.mark.parametrize(("name", "raised"), ENDS)
def test_a_job_in_which_a_callable_of_the_host_raises_shows_no_words(chat, settings, name, raised):
    session = chat(summary=None)
    settings.OSVI["default"][name] = of_the_host(raised)
    reporter = ErrorRecorder()
    with reporter.recording():
        close(session)
    assert reporter.leaks() == set()
    assert CloseJob.objects.get().status == ENDS[name, raised]


def test_the_exit_of_a_receiver_ends_its_job_and_no_other(chat, settings):
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
