"""Processes that are killed, or suspended for a while, during a close."""

from __future__ import annotations

import signal
import threading
from dataclasses import dataclass
from datetime import timedelta

import pytest

from osvi_django.exceptions import AlreadyOpen, CloseInProgress
from osvi_django.models import ChatSession, CloseAttempt, CloseJob, CloseJobItem, StartLock
from osvi_django.services import close_again
from osvi_django.services.closing import require_closable
from osvi_django.services.jobs import create_close_job, run_close_job
from osvi_django.services.recovery import recover_session
from osvi_django.services.starting import start_session
from osvi_django.testing import Fault
from tests.helpers.sandbox import SUMMARY, CallThenAnswer
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

LEASE_TIMEOUT = 2  # seconds
# Calls may take long, and still the claims of a dead process must expire soon.
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
def short_leases(settings, osvi_sandbox):
    """Use the same settings here as in the other processes."""
    settings.OSVI["default"] |= SETTINGS


@dataclass(frozen=True)
class ActThenHang(Fault):
    """Do what is asked for, and do not answer until the caller is dead."""

    is_dead: threading.Event

    def play(self, exchange):
        exchange.carry_out()
        self.is_dead.wait(20)
        exchange.hang_up()


def is_closable(session):
    """Return whether no other process holds a session."""
    session.refresh_from_db()
    try:
        require_closable(session)
    except CloseInProgress:
        return False
    return True


def wait_past_first_lease(rows):
    """Wait until the lease of the only row has been renewed beyond its first end."""
    first = rows.get().lease_until
    wait_until(lambda: rows.get().lease_until > first + timedelta(seconds=LEASE_TIMEOUT))


def test_session_of_killed_process_is_closable_after_its_lease(manage, chats, osvi_sandbox):
    (session,) = chats(1)
    osvi_sandbox.latency = 60
    with manage("shell", "-c", CLOSE) as process:
        wait_until(lambda: osvi_sandbox.requests)
        wait_past_first_lease(ChatSession.objects)
        with pytest.raises(CloseInProgress):  # while it lives
            recover_session(session)
        process.send_signal(signal.SIGKILL)
        process.wait()
    wait_until(lambda: is_closable(session))  # long before the deadline
    osvi_sandbox.latency = 0
    assert close_again(session).summary.text == SUMMARY


def test_job_of_killed_process_is_finished_by_another(manage, chats, osvi_sandbox):
    chats(30)
    job = create_close_job(ChatSession.objects.all())
    osvi_sandbox.latency = 60
    with manage("shell", "-c", WORK) as process:
        wait_until(lambda: len(osvi_sandbox.requests) >= 16)
        process.send_signal(signal.SIGKILL)
        process.wait()
    osvi_sandbox.latency = 0
    CloseJob.objects.update(heartbeat_at=None)  # as if it had been silent for half a minute
    job = run_close_job(job.pk)
    assert (job.status, job.done, job.failed) == ("completed", 30, 0)
    assert ChatSession.objects.filter(status="closed").count() == 30


BYE = "Goodbye!"


@pytest.mark.parametrize("step", ["takeover", "message", "close"])
def test_job_killed_at_any_step_of_its_goodbyes_repeats_none(manage, chats, osvi_sandbox, step):
    """OSVI has acted, and the process dies before it learns of that."""
    (session,) = chats(1, customer_id="+1555")
    job = create_close_job(ChatSession.objects.all(), goodbye=BYE)
    killed, as_usual = threading.Event(), CallThenAnswer(lambda: None)
    faults = {"takeover": 0, "message": 1, "close": 2}[step] * [as_usual]
    osvi_sandbox.script(session.session_id, *faults, ActThenHang(killed))
    with manage("shell", "-c", WORK) as process:
        wait_until(lambda: len(osvi_sandbox.requests) > len(faults))
        wait_past_first_lease(CloseJobItem.objects)
        process.send_signal(signal.SIGKILL)
        process.wait()
    killed.set()
    CloseJob.objects.update(heartbeat_at=None)  # as if it had been silent for half a minute
    job = run_close_job(job.pk)
    assert (job.status, job.succeeded) == ("completed", 1)
    messages = [each for each in osvi_sandbox.requests if each.body == {"message": BYE}]
    assert len(messages) == 1
    assert osvi_sandbox.closes(session.session_id) == 1
    expected = {"takeover": "sent", "message": "unknown", "close": "sent"}
    assert job.items.get().goodbye == expected[step]


def test_start_lock_of_killed_process_expires(manage, osvi_sandbox):
    killed, asked = threading.Event(), {"agent_uuid": "agent_1", "customer_id": "+1555"}
    osvi_sandbox.script(None, CallThenAnswer(lambda: killed.wait(20)))
    with manage("shell", "-c", START.format(**asked)) as process:
        wait_until(lambda: osvi_sandbox.requests)
        wait_past_first_lease(StartLock.objects)
        with pytest.raises(AlreadyOpen, match="is being started,"):  # while it lives
            start_session(**asked)
        process.send_signal(signal.SIGKILL)
        process.wait()
    killed.set()
    wait_until(lambda: is_started(**asked))
    assert not StartLock.objects.exists()


def is_started(**asked):
    """Return whether a session can be started."""
    try:
        return start_session(**asked).status == "active"
    except AlreadyOpen:
        return False


class Suspending:
    """A latency of the sandbox that suspends the process that sent the request."""

    def __init__(self):
        self.process = None

    def __call__(self, _chat):
        wait_until(lambda: self.process is not None)
        self.process.send_signal(signal.SIGSTOP)
        return 0


def test_suspended_process_stores_answer_from_its_socket(manage, chats, osvi_sandbox):
    (session,) = chats(1)
    osvi_sandbox.latency = suspending = Suspending()
    with manage("shell", "-c", CLOSE) as process:
        suspending.process = process
        wait_until(lambda: osvi_sandbox.requests)
        wait_until(lambda: is_closable(session))
        process.send_signal(signal.SIGCONT)
        out, _err = process.communicate(timeout=60)
    assert SUMMARY in out
    session.refresh_from_db()
    assert (session.status, session.summary.text) == ("closed", SUMMARY)
    assert osvi_sandbox.close_requests(session.session_id) == 1


def test_suspended_process_does_not_overwrite_settlement(manage, chats, osvi_sandbox):
    """Another process has settled the session, and OSVI refuses the suspended close."""
    (session,) = chats(1)
    osvi_sandbox.latency = suspending = Suspending()
    with manage("shell", "-c", CLOSE) as process:
        suspending.process = process
        wait_until(lambda: osvi_sandbox.requests)
        wait_until(lambda: is_closable(session))
        osvi_sandbox.latency = 0
        assert close_again(session).summary.text == SUMMARY
        settled = CloseAttempt.objects.exclude(outcome="no_answer").values().first()
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=60)
    session.refresh_from_db()
    assert (session.status, session.claim, session.summary.text) == ("closed", None, SUMMARY)
    assert CloseAttempt.objects.filter(pk=settled["id"]).values().get() == settled
