"""A server before OSVI refuses: once is one session's failure, several in a row pause the job."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from osvi_django.client import throttle
from osvi_django.models import ChatSession, CloseAttempt
from osvi_django.services.jobs import create_close_job, pause_reason, retry_close_job, run_close_job
from osvi_django.testing import Drop, Fault, Status

PAGE = b"<html><h1>Blocked</h1></html>"


@dataclass(frozen=True)
class Blocking(Fault):
    """A firewall's page as long as it is switched on, and else what the request deserves."""

    switch: dict
    status: int = 403

    def play(self, exchange):
        if self.switch["on"]:
            Status(self.status, body=PAGE).play(exchange)
        else:
            exchange.send(exchange.carry_out())


@pytest.fixture
def switch():
    return {"on": True}


@pytest.fixture
def blocked(osvi_sandbox, switch):
    """Let a firewall refuse these as long as it is switched on."""

    def _blocked(sessions, status=403):
        for session in sessions:
            osvi_sandbox.script(session.session_id, *[Blocking(switch, status)] * 50)

    return _blocked


@pytest.fixture
def quick(monkeypatch):
    """Short pauses."""
    monkeypatch.setattr(throttle, "PAUSES", (0.05, 0.1, 0.2))


@pytest.mark.parametrize("status", [403, 404, 422])
@pytest.mark.parametrize("concurrency", [1, 2, 16])
def test_a_job_is_paused_untouched_and_goes_on(
    chats, close_all, osvi_sandbox, blocked, switch, quick, settings, status, concurrency
):
    settings.OSVI["default"]["CONCURRENCY"] = concurrency
    blocked(chats(30), status)
    job = close_all()
    assert (job.status, job.paused_by) == ("paused", "gateway_refused")
    assert (job.done, set(job.items.values_list("outcome", flat=True))) == (0, {"waiting"})
    assert set(ChatSession.objects.values_list("status", "claim")) == {("active", None)}
    assert len(osvi_sandbox.requests) < 30
    attempts = CloseAttempt.objects.values_list("outcome", "error_code", "http_status")
    assert set(attempts) == {("not_sent", "gateway_refused", status)}
    assert "server between this site and OSVI" in str(pause_reason(job))
    switch["on"] = False
    job = run_close_job(job.pk)
    assert (job.status, job.succeeded) == ("completed", 30)
    assert {osvi_sandbox.closes(each.session_id) for each in ChatSession.objects.all()} == {1}


def test_two_sessions_are_enough_to_tell(chats, close_all, blocked, quick, settings):
    settings.OSVI["default"]["CONCURRENCY"] = 1
    blocked(chats(2))
    job = close_all()
    assert (job.status, job.paused_by, job.done) == ("paused", "gateway_refused", 0)


def test_one_alone_is_that_sessions_failure(
    chats, close_all, blocked, switch, settings, monkeypatch, outcomes, osvi_sandbox
):
    settings.OSVI["default"]["CONCURRENCY"] = 1
    monkeypatch.setattr(throttle, "PAUSES", (600.0,) * 3)  # any pause would last
    odd = chats(20)[7]
    blocked([odd])
    job = close_all()
    assert (job.status, job.succeeded, job.failed) == ("completed_with_errors", 19, 1)
    item = job.items.get(session=odd)
    assert (item.outcome, item.error_code) == ("not_sent", "gateway_refused")
    odd.refresh_from_db()
    assert odd.status == "active"
    switch["on"] = False
    again = retry_close_job(job)
    assert run_close_job(again.pk).succeeded == 1


def test_a_session_that_is_in_doubt_stays_so(unconfirmed, close_all, osvi_sandbox, settings, quick):
    settings.OSVI["default"]["CONCURRENCY"] = 1
    session = unconfirmed(Drop())
    osvi_sandbox.script(None, Status(403, body=PAGE), Status(404, body=PAGE))
    job = close_all()
    assert (job.status, job.unconfirmed) == ("completed_with_errors", 1)
    item = job.items.get()
    assert (item.outcome, item.error_code) == ("unconfirmed", "gateway_refused")
    session.refresh_from_db()
    assert session.status == "unconfirmed"


def test_those_in_doubt_wait_as_well(unconfirmed, osvi_sandbox, settings, quick):
    settings.OSVI["default"]["CONCURRENCY"] = 1
    for _number in range(5):
        unconfirmed(Drop())
    osvi_sandbox.script(None, *[Status(403, body=PAGE)] * 5)
    job = create_close_job(ChatSession.objects.all(), start=False)
    job = run_close_job(job.pk)
    assert (job.status, job.paused_by, job.done) == ("paused", "gateway_refused", 0)
    assert set(ChatSession.objects.values_list("status", flat=True)) == {"unconfirmed"}
    assert run_close_job(job.pk).succeeded == 5
