"""Sessions of which nobody knows are settled side by side, each with commits of its own."""

from __future__ import annotations

import threading

import pytest
from django.db import OperationalError
from django.db.backends.signals import connection_created

from osvi_django.client import OSVIClient, throttle
from osvi_django.models import ChatSession, SessionSummary
from osvi_django.services.jobs import create_close_job, rescuer, run_close_job, worker
from osvi_django.testing import Drop, Status
from tests.helpers.sandbox import ConcurrencyCounter

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def in_doubt(unconfirmed, osvi_sandbox):
    """Make so many sessions whose close OSVI never saw, and of which nobody here knows that."""
    return lambda number: [unconfirmed(Drop()) for _number in range(number)]


def rescuers():
    return [each for each in threading.enumerate() if each.name == "osvi-rescuer"]


def test_as_many_as_the_account_may_have_under_way(
    in_doubt, close_all, outcomes, osvi_sandbox, settings
):
    settings.OSVI["default"]["CONCURRENCY"] = 4
    osvi_sandbox.latency = latency = ConcurrencyCounter(0.3, number=4)
    sessions = in_doubt(10)
    job = close_all()
    assert set(outcomes(job).values()) == {"closed"}
    assert {osvi_sandbox.closes(each.session_id) for each in sessions} == {1}
    assert SessionSummary.objects.count() == 10
    assert latency.most == 4
    assert rescuers() == []


def test_a_run_that_is_to_end_brings_them_home(in_doubt, osvi_sandbox, outcomes):
    stop = threading.Event()

    def slow(_chat):
        stop.set()
        return 0.7

    osvi_sandbox.latency = slow
    in_doubt(2)
    job = create_close_job(ChatSession.objects.all(), start=False)
    job = run_close_job(job.pk, stop=stop)
    assert set(outcomes(job).values()) == {"closed"}
    assert (job.status, SessionSummary.objects.count(), rescuers()) == ("completed", 2, [])


def test_their_connections_are_closed(in_doubt, close_all):
    opened = []

    def note(connection, **_named):
        if threading.current_thread().name == "osvi-rescuer":
            opened.append(connection)

    in_doubt(3)
    connection_created.connect(note)
    try:
        assert close_all().succeeded == 3
    finally:
        connection_created.disconnect(note)
    # Each thread gives its connection back while OSVI is asked, and so opens more than one.
    assert len(opened) >= 3
    assert {each.connection for each in opened} == {None}


def test_osvi_in_trouble_pauses_the_job(in_doubt, close_all, osvi_sandbox, settings, outcomes):
    settings.OSVI["default"]["CONCURRENCY"] = 4
    sessions = in_doubt(6)
    for each in sessions:
        osvi_sandbox.script(each.session_id, Status(429, retry_after=600))
    job = close_all()
    assert (job.status, job.paused_by) == ("paused", "throttled")
    assert set(outcomes(job).values()) == {"waiting", "closing"}
    assert len(osvi_sandbox.requests) < 30


def test_without_a_thread_for_it_the_run_does_it_itself(in_doubt, close_all, monkeypatch):
    start = threading.Thread.start

    def no_rescuer(thread):
        if thread.name == "osvi-rescuer":
            raise RuntimeError("can't start new thread")
        start(thread)

    in_doubt(3)
    monkeypatch.setattr(threading.Thread, "start", no_rescuer)
    assert close_all().succeeded == 3


def test_a_database_that_goes_away_from_one_thread_is_asked_again(
    in_doubt, settings, monkeypatch, caplog
):
    monkeypatch.setattr(rescuer, "LOOK_AGAIN_AFTER", 0.2)
    settings.OSVI["default"] |= {"DEADLINE": 3, "CONNECT_TIMEOUT": 3, "LEASE_TIMEOUT": 1}
    failed = []

    def fail(execute, sql, params, many, context):
        if threading.current_thread().name == "osvi-rescuer" and len(failed) < 2:
            failed.append(sql)
            raise OperationalError("a secret")
        return execute(sql, params, many, context)

    def wrap(connection, **_named):
        connection.execute_wrappers.append(fail)

    in_doubt(2)
    job = create_close_job(ChatSession.objects.all(), start=False)
    connection_created.connect(wrap)
    try:
        assert run_close_job(job.pk).succeeded == 2
    finally:
        connection_created.disconnect(wrap)
    assert len(failed) == 2
    assert "is looked at again: OperationalError" in caplog.text
    assert "a secret" not in caplog.text
    assert rescuers() == []


def test_what_is_asked_while_osvi_throttles_waits_for_better_times(
    in_doubt, close_all, osvi_sandbox, outcomes
):
    """It is trouble of the account: the sessions are not said to be in doubt for it."""
    in_doubt(2)
    osvi_sandbox.script(None, *[Status(429, retry_after=600)] * 2)
    job = close_all()
    assert (job.status, job.paused_by, job.unconfirmed) == ("paused", "throttled", 0)
    assert set(outcomes(job).values()) == {"waiting"}


def test_those_whom_osvi_does_not_know_slow_nothing_down(unconfirmed, close_all, osvi_sandbox):
    for _number in range(4):
        session = unconfirmed(Drop(), customer_id="")
        del osvi_sandbox.sessions[session.session_id]
    assert (close_all().unconfirmed, throttle.throttle_for(*default()).limit) == (4, 16)


def test_job_of_unconfirmed_sessions_without_customers_pauses_if_osvi_is_away(
    unconfirmed, osvi_sandbox, monkeypatch
):
    monkeypatch.setattr(throttle, "PAUSES", (0.05, 0.05, 0.05))
    monkeypatch.setattr(rescuer, "LOOK_AGAIN_AFTER", 0.05)
    unconfirmed(Drop(), customer_id="")
    osvi_sandbox.stop()
    stop = threading.Event()
    watch = threading.Timer(20, stop.set)
    watch.start()
    job = run_close_job(create_close_job(ChatSession.objects.all(), start=False).pk, stop=stop)
    watch.cancel()
    assert (stop.is_set(), job.status, job.paused_by) == (False, "paused", "unreachable")


def default():
    client = OSVIClient.for_account()
    return "default", client.base_url, 16


def test_whose_owner_goes_meanwhile_are_not_allowed(in_doubt, settings, monkeypatch, staff):
    settings.OSVI["default"] |= {"CONCURRENCY": 1}
    monkeypatch.setattr(worker, "_REQUESTER_INTERVAL", 0)
    in_doubt(3)
    job = create_close_job(ChatSession.objects.all(), requested_by=staff, start=False)

    def go(_job):
        type(staff).objects.filter(pk=staff.pk).delete()

    job = run_close_job(job.pk, on_progress=go)
    outcomes = list(job.items.values_list("outcome", flat=True))
    assert (outcomes.count("closed"), outcomes.count("not_allowed")) == (1, 2)
