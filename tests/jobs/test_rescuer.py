"""The rescuer settles unconfirmed sessions concurrently, each in transactions of its own."""

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
def make_unconfirmed(unconfirmed, osvi_sandbox):
    """Make so many unconfirmed sessions, whose close OSVI never received."""
    return lambda number: [unconfirmed(Drop()) for _number in range(number)]


def rescuer_threads():
    """Return the threads in which sessions are being rescued."""
    return [each for each in threading.enumerate() if each.name == "osvi-rescuer"]


def test_rescuer_checks_as_many_sessions_at_once_as_concurrency(
    make_unconfirmed, close_all, outcomes, osvi_sandbox, settings
):
    settings.OSVI["default"]["CONCURRENCY"] = 4
    osvi_sandbox.latency = latency = ConcurrencyCounter(0.3, number=4)
    sessions = make_unconfirmed(10)
    job = close_all()
    assert set(outcomes(job).values()) == {"closed"}
    assert {osvi_sandbox.closes(each.session_id) for each in sessions} == {1}
    assert SessionSummary.objects.count() == 10
    assert latency.most == 4
    assert rescuer_threads() == []


def test_rescuer_when_worker_stops_settles_sessions_in_progress(
    make_unconfirmed, osvi_sandbox, outcomes
):
    stop = threading.Event()

    def slow(_chat):
        stop.set()
        return 0.7

    osvi_sandbox.latency = slow
    make_unconfirmed(2)
    job = create_close_job(ChatSession.objects.all(), start=False)
    job = run_close_job(job.pk, stop=stop)
    assert set(outcomes(job).values()) == {"closed"}
    assert (job.status, SessionSummary.objects.count(), rescuer_threads()) == ("completed", 2, [])


def test_rescuer_closes_its_database_connections(make_unconfirmed, close_all):
    opened = []

    def note(connection, **_named):
        if threading.current_thread().name == "osvi-rescuer":
            opened.append(connection)

    make_unconfirmed(3)
    connection_created.connect(note)
    try:
        assert close_all().succeeded == 3
    finally:
        connection_created.disconnect(note)
    # Each thread gives its connection back while OSVI is asked, and so opens more than one.
    assert len(opened) >= 3
    assert {each.connection for each in opened} == {None}


def test_rescue_when_closes_are_throttled_pauses_job(
    make_unconfirmed, close_all, osvi_sandbox, settings, outcomes
):
    settings.OSVI["default"]["CONCURRENCY"] = 4
    sessions = make_unconfirmed(6)
    for each in sessions:
        osvi_sandbox.script(each.session_id, Status(429, retry_after=600))
    job = close_all()
    assert (job.status, job.paused_by) == ("paused", "busy_at_osvi")
    assert set(outcomes(job).values()) == {"waiting", "closing"}
    assert len(osvi_sandbox.requests) < 30


def test_rescue_without_threads_runs_in_worker_thread(make_unconfirmed, close_all, monkeypatch):
    start = threading.Thread.start

    def no_rescuer(thread):
        if thread.name == "osvi-rescuer":
            raise RuntimeError("can't start new thread")
        start(thread)

    make_unconfirmed(3)
    monkeypatch.setattr(threading.Thread, "start", no_rescuer)
    assert close_all().succeeded == 3


def test_rescue_when_database_fails_in_thread_is_repeated(
    make_unconfirmed, settings, monkeypatch, caplog
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

    make_unconfirmed(2)
    job = create_close_job(ChatSession.objects.all(), start=False)
    connection_created.connect(wrap)
    try:
        assert run_close_job(job.pk).succeeded == 2
    finally:
        connection_created.disconnect(wrap)
    assert len(failed) == 2
    assert "is looked at again: OperationalError" in caplog.text
    assert "a secret" not in caplog.text
    assert rescuer_threads() == []


def test_rescue_when_questions_are_throttled_leaves_items_waiting(
    make_unconfirmed, close_all, osvi_sandbox, outcomes
):
    """It is an error of the account, so the items do not end as unconfirmed."""
    make_unconfirmed(2)
    osvi_sandbox.script(None, *[Status(429, retry_after=600)] * 2)
    job = close_all()
    assert (job.status, job.paused_by, job.unconfirmed) == ("paused", "busy_at_osvi", 0)
    assert set(outcomes(job).values()) == {"waiting"}


def test_rescue_of_sessions_unknown_to_osvi_keeps_throttle_limit(
    unconfirmed, close_all, osvi_sandbox
):
    for _number in range(4):
        session = unconfirmed(Drop(), customer_id="")
        del osvi_sandbox.sessions[session.session_id]
    assert (close_all().unconfirmed, throttle.throttle_for(*throttle_key()).limit) == (4, 16)


def test_rescue_without_customer_ids_when_osvi_is_away_pauses_job(
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


def throttle_key():
    """Return the account, address and size of the throttle of the account "default"."""
    client = OSVIClient.for_account()
    return "default", client.base_url, 16


def test_rescue_after_requester_is_deleted_is_not_allowed(
    make_unconfirmed, settings, monkeypatch, staff
):
    settings.OSVI["default"] |= {"CONCURRENCY": 1}
    monkeypatch.setattr(worker, "_REQUESTER_INTERVAL", 0)
    make_unconfirmed(3)
    job = create_close_job(ChatSession.objects.all(), requested_by=staff, start=False)

    def go(_job):
        type(staff).objects.filter(pk=staff.pk).delete()

    job = run_close_job(job.pk, on_progress=go)
    outcomes = list(job.items.values_list("outcome", flat=True))
    assert (outcomes.count("closed"), outcomes.count("not_allowed")) == (1, 2)
