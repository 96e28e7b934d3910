"""Processes that are killed, or stopped for a while, in the middle of a close."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from osvi_django.exceptions import AlreadyOpen, CloseInProgress
from osvi_django.models import ChatSession, CloseAttempt, CloseJob, StartLock
from osvi_django.services import close_again
from osvi_django.services.closing import require_closable
from osvi_django.services.jobs import create_close_job, run_close_job
from osvi_django.services.recovery import recover_session
from osvi_django.services.starting import start_session
from tests.helpers.sandbox import SUMMARY, CallThenAnswer
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

LEASE_TIMEOUT = 2  # seconds
# Calls may take long; that must not hold what a dead process had.
SETTINGS = {"LEASE_TIMEOUT": LEASE_TIMEOUT, "DEADLINE": 3600, "READ_TIMEOUT": 3600}
CLOSE = f"""
from django.conf import settings
settings.OSVI["default"] |= {SETTINGS}
from osvi_django.models import ChatSession
from osvi_django.services import close_session
from osvi_django.exceptions import OSVIError
try:
    print(close_session(ChatSession.objects.get()).summary.text)
except OSVIError as error:
    print(error.code)
"""
START = f"""
from django.conf import settings
settings.OSVI["default"] |= {{{SETTINGS}}}
from osvi_django.services import start_session
start_session(agent_uuid="{{agent_uuid}}", customer_id="{{customer_id}}")
"""
WORK = f"""
from django.conf import settings
settings.OSVI["default"] |= {SETTINGS}
from osvi_django.models import CloseJob
from osvi_django.services.jobs import run_close_job
run_close_job(CloseJob.objects.get().pk)
"""


@pytest.fixture(autouse=True)
def short(settings, osvi_sandbox):
    settings.OSVI["default"] |= SETTINGS


def answered_as_soon_as(session):
    """Return after how many seconds the close of another process is not in the way any more."""
    began = time.monotonic()
    while True:
        session.refresh_from_db()
        try:
            require_closable(session)
        except CloseInProgress:
            time.sleep(0.1)
        else:
            return time.monotonic() - began


def test_a_session_whose_process_was_killed_is_free_soon_whatever_the_deadline(
    manage, chats, osvi_sandbox
):
    (session,) = chats(1)
    osvi_sandbox.latency = 60
    with manage("shell", "-c", CLOSE) as process:
        wait_until(lambda: osvi_sandbox.requests)
        time.sleep(1.5 * LEASE_TIMEOUT)
        with pytest.raises(CloseInProgress):  # while it lives
            recover_session(session)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert answered_as_soon_as(session) < 2 * LEASE_TIMEOUT
    osvi_sandbox.latency = 0
    assert close_again(session).summary.text == SUMMARY


def test_a_job_whose_process_was_killed_is_taken_up_by_another(manage, chats, osvi_sandbox):
    chats(30)
    job = create_close_job(ChatSession.objects.all())
    osvi_sandbox.latency = 60
    with manage("shell", "-c", WORK) as process:
        wait_until(lambda: len(osvi_sandbox.requests) >= 16)
        process.send_signal(signal.SIGKILL)
        process.wait()
    osvi_sandbox.latency = 0
    began = time.monotonic()
    CloseJob.objects.update(heartbeat_at=None)  # as if it had been silent for half a minute
    job = run_close_job(job.pk)
    assert time.monotonic() - began < 20
    assert (job.status, job.done, job.failed) == ("completed", 30, 0)
    assert ChatSession.objects.filter(status="closed").count() == 30


def test_a_start_whose_process_was_killed_stands_in_the_way_of_no_other_for_long(
    manage, osvi_sandbox
):
    killed, asked = threading.Event(), {"agent_uuid": "agent_1", "customer_id": "+1555"}
    osvi_sandbox.script(None, CallThenAnswer(lambda: killed.wait(20)))
    with manage("shell", "-c", START.format(**asked)) as process:
        wait_until(lambda: osvi_sandbox.requests)
        time.sleep(1.5 * LEASE_TIMEOUT)
        with pytest.raises(AlreadyOpen, match="is being started,"):  # while it lives
            start_session(**asked)
        process.send_signal(signal.SIGKILL)
        process.wait()
    killed.set()
    began = time.monotonic()
    wait_until(lambda: is_started(**asked))
    assert time.monotonic() - began < 2 * LEASE_TIMEOUT
    assert not StartLock.objects.exists()


def is_started(**asked):
    try:
        return start_session(**asked).status == "active"
    except AlreadyOpen:
        return False


class Stopped:
    """A latency of the sandbox, during which the process that asks is stopped."""

    def __init__(self):
        self.process = None

    def __call__(self, _chat):
        wait_until(lambda: self.process is not None)
        self.process.send_signal(signal.SIGSTOP)
        return 0


def test_a_process_that_was_stopped_keeps_what_lies_in_its_sockets(manage, chats, osvi_sandbox):
    (session,) = chats(1)
    osvi_sandbox.latency = stopped = Stopped()
    with manage("shell", "-c", CLOSE) as process:
        stopped.process = process
        wait_until(lambda: osvi_sandbox.requests)
        assert answered_as_soon_as(session) < 3 * LEASE_TIMEOUT
        process.send_signal(signal.SIGCONT)
        out, _err = process.communicate(timeout=60)
    assert SUMMARY in out
    session.refresh_from_db()
    assert (session.status, session.summary.text) == ("closed", SUMMARY)
    assert osvi_sandbox.close_requests(session.session_id) == 1


def test_a_process_that_was_stopped_overwrites_nothing_that_was_settled(
    manage, chats, osvi_sandbox
):
    """Another process has asked OSVI, which refuses the close that was stopped."""
    (session,) = chats(1)
    osvi_sandbox.latency = stopped = Stopped()
    with manage("shell", "-c", CLOSE) as process:
        stopped.process = process
        wait_until(lambda: osvi_sandbox.requests)
        assert answered_as_soon_as(session) < 3 * LEASE_TIMEOUT
        osvi_sandbox.latency = 0
        assert close_again(session).summary.text == SUMMARY
        settled = CloseAttempt.objects.exclude(outcome="no_answer").values().first()
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=60)
    session.refresh_from_db()
    assert (session.status, session.claim, session.summary.text) == ("closed", None, SUMMARY)
    assert CloseAttempt.objects.filter(pk=settled["id"]).values().get() == settled
