"""A gateway before OSVI refuses: once fails one session, several in a row pause the job."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from osvi_django.client import throttle
from osvi_django.models import ChatSession, CloseAttempt
from osvi_django.services.jobs import create_close_job, pause_reason, retry_close_job, run_close_job
from osvi_django.testing import Drop, Fault, Status

PAGE = b"<html><h1>Blocked</h1></html>"


@dataclass(frozen=True)
class Firewall(Fault):
    """A firewall's page while it is switched on, and else the usual answer."""

    firewall: dict
    status: int = 403

    def play(self, exchange):
        if self.firewall["on"]:
            Status(self.status, body=PAGE).play(exchange)
        else:
            exchange.send(exchange.carry_out())


@pytest.fixture
def firewall():
    """Return a switch of the firewall, which is on."""
    return {"on": True}


@pytest.fixture
def block(osvi_sandbox, firewall):
    """Let the firewall refuse these sessions while it is switched on."""

    def _block(sessions, status=403):
        for session in sessions:
            osvi_sandbox.script(session.session_id, *[Firewall(firewall, status)] * 50)

    return _block


@pytest.fixture
def short_pauses(monkeypatch):
    """Shorten the pauses of the throttle."""
    monkeypatch.setattr(throttle, "PAUSES", (0.05, 0.1, 0.2))


@pytest.mark.parametrize("status", [403, 404, 422])
@pytest.mark.parametrize("concurrency", [1, 2, 16])
def test_job_when_gateway_refuses_all_pauses_and_continues(
    chats, close_all, osvi_sandbox, block, firewall, short_pauses, settings, status, concurrency
):
    settings.OSVI["default"]["CONCURRENCY"] = concurrency
    block(chats(30), status)
    job = close_all()
    assert (job.status, job.paused_by) == ("paused", "gateway_refused")
    assert (job.done, set(job.items.values_list("outcome", flat=True))) == (0, {"waiting"})
    assert set(ChatSession.objects.values_list("status", "claim")) == {("active", None)}
    assert len(osvi_sandbox.requests) < 30
    attempts = CloseAttempt.objects.values_list("outcome", "error_code", "http_status")
    assert set(attempts) == {("not_sent", "gateway_refused", status)}
    assert "server between this site and OSVI" in str(pause_reason(job))
    firewall["on"] = False
    job = run_close_job(job.pk)
    assert (job.status, job.succeeded) == ("completed", 30)
    assert {osvi_sandbox.closes(each.session_id) for each in ChatSession.objects.all()} == {1}


def test_job_when_gateway_refuses_two_sessions_pauses(
    chats, close_all, block, short_pauses, settings
):
    settings.OSVI["default"]["CONCURRENCY"] = 1
    block(chats(2))
    job = close_all()
    assert (job.status, job.paused_by, job.done) == ("paused", "gateway_refused", 0)


def test_job_when_gateway_refuses_one_session_fails_only_that(
    chats, close_all, block, firewall, settings, monkeypatch, outcomes, osvi_sandbox
):
    settings.OSVI["default"]["CONCURRENCY"] = 1
    monkeypatch.setattr(throttle, "PAUSES", (600.0,) * 3)  # any pause would last
    odd = chats(20)[7]
    block([odd])
    job = close_all()
    assert (job.status, job.succeeded, job.failed) == ("completed_with_errors", 19, 1)
    item = job.items.get(session=odd)
    assert (item.outcome, item.error_code) == ("not_sent", "gateway_refused")
    odd.refresh_from_db()
    assert odd.status == "active"
    firewall["on"] = False
    again = retry_close_job(job)
    assert run_close_job(again.pk).succeeded == 1


def test_unconfirmed_session_when_gateway_refuses_stays_unconfirmed(
    unconfirmed, close_all, osvi_sandbox, settings, short_pauses
):
    settings.OSVI["default"]["CONCURRENCY"] = 1
    session = unconfirmed(Drop())
    osvi_sandbox.script(None, Status(403, body=PAGE), Status(404, body=PAGE))
    job = close_all()
    assert (job.status, job.unconfirmed) == ("completed_with_errors", 1)
    item = job.items.get()
    assert (item.outcome, item.error_code) == ("unconfirmed", "gateway_refused")
    session.refresh_from_db()
    assert session.status == "unconfirmed"


def test_unconfirmed_sessions_when_gateway_refuses_all_pause_job(
    unconfirmed, osvi_sandbox, settings, short_pauses
):
    settings.OSVI["default"]["CONCURRENCY"] = 1
    for _number in range(5):
        unconfirmed(Drop())
    osvi_sandbox.script(None, *[Status(403, body=PAGE)] * 5)
    job = create_close_job(ChatSession.objects.all(), start=False)
    job = run_close_job(job.pk)
    assert (job.status, job.paused_by, job.done) == ("paused", "gateway_refused", 0)
    assert set(ChatSession.objects.values_list("status", flat=True)) == {"unconfirmed"}
    assert run_close_job(job.pk).succeeded == 5
