"""Under a frozen clock, as in tests of hosts, nothing waits for ever."""

from __future__ import annotations

import time

import pytest
from django.core.management import call_command
from django.db import OperationalError
from freezegun import freeze_time

from osvi_django.database import persist
from osvi_django.exceptions import OSVINoAnswer
from osvi_django.models import ChatSession, CloseJob, SessionSummary
from osvi_django.services import close_session
from osvi_django.services.jobs import create_close_job, run_close_job, runner
from osvi_django.services.mirroring.sync import sync_open
from osvi_django.services.recovery import recover_all
from osvi_django.testing import Drip, Drop, Status
from tests.helpers.database import raise_on_queries

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True, params=["2001-01-01", "2040-01-01"])
def frozen(request, osvi_sandbox):
    """Freeze the clock in the past or the future, after the sandbox has started."""
    with freeze_time(request.param):
        began = time.monotonic()
        yield
        assert time.monotonic() == began
        runner.stop()


def test_job_under_frozen_clock_completes(chats, close_all):
    chats(40)
    assert close_all().succeeded == 40


def test_async_close_under_frozen_clock_completes(chats):
    (session,) = chats(1)
    job = create_close_job([session])
    until_in_real_time(lambda: CloseJob.objects.get(pk=job.pk).is_finished)
    assert SessionSummary.objects.count() == 1


def test_unconfirmed_sessions_under_frozen_clock_are_settled(unconfirmed, close_all):
    unconfirmed(Drop())
    unconfirmed(Drop(after_closing=True))
    assert close_all().succeeded == 2


def test_job_when_osvi_is_unreachable_pauses(chats, close_all, osvi_sandbox, monkeypatch):
    monkeypatch.setattr("osvi_django.client.throttle.PAUSES", (0.1, 0.1, 0.1))
    chats(3)
    osvi_sandbox.stop()
    job = close_all()
    assert (job.status, job.paused_by) == ("paused", "unreachable")


def test_paused_job_continues_after_its_pause(chats, osvi_sandbox, monkeypatch):
    monkeypatch.setattr("osvi_django.client.throttle.PAUSES", (0.1, 0.1, 0.1))
    monkeypatch.setattr("osvi_django.client.throttle.TRY_AGAIN_AFTER", 0.5)
    (session,) = chats(1)
    osvi_sandbox.stop()
    job = create_close_job([session])
    until_in_real_time(lambda: CloseJob.objects.get(pk=job.pk).status == "paused")
    osvi_sandbox.start()
    until_in_real_time(lambda: CloseJob.objects.get(pk=job.pk).is_finished)
    assert SessionSummary.objects.count() == 1


def test_job_when_osvi_throttles_waits_and_completes(chats, close_all, osvi_sandbox):
    (session,) = chats(1)
    osvi_sandbox.script(session.session_id, Status(429, retry_after=1))
    assert close_all().succeeded == 1


def test_close_with_dripping_answer_reaches_deadline(chats, osvi_sandbox, settings):
    settings.OSVI["default"] |= {"CONNECT_TIMEOUT": 0.5, "DEADLINE": 0.5}
    (session,) = chats(1)
    osvi_sandbox.script(session.session_id, Drip(interval=0.2))
    with pytest.raises(OSVINoAnswer):
        close_session(session)


def test_recovery_sync_and_worker_command_end(unconfirmed, chats):
    unconfirmed(Drop(after_closing=True))
    assert [each.settled.value for each in recover_all()] == ["stored"]
    chats(3)
    assert sync_open().looked_up == 3
    call_command("osvi_worker")


def test_persist_when_database_stays_unavailable_raises():
    tries = []

    def work():
        tries.append(None)
        raise OperationalError

    with pytest.raises(OperationalError):
        persist(work, using="default", patience=0.3)
    assert 2 <= len(tries) <= 4


def test_job_when_database_stays_unavailable_raises(chats, monkeypatch):
    monkeypatch.setattr("osvi_django.services.jobs.running.DATABASE_RETRY_SECONDS", 0.2)
    chats(2)
    job = create_close_job(ChatSession.objects.all(), start=False)
    items = "osvi_django_closejobitem"
    with (
        raise_on_queries(
            lambda sql, _params: sql.startswith("UPDATE") and items in sql, OperationalError()
        ),
        pytest.raises(OperationalError),
    ):
        run_close_job(job.pk)


def until_in_real_time(condition):
    """Wait until the condition holds, by counting: the clock stands still here too."""
    for _look in range(4_000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("it did not come")
