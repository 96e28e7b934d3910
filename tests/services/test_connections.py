"""Test that no database connection is held while OSVI is called."""

from __future__ import annotations

import logging
import threading

import pytest
from django.core.management import call_command
from django.db import connections
from django.urls import reverse

from osvi_django.exceptions import OSVINoAnswer
from osvi_django.models import ChatSession
from osvi_django.services import close_again, close_session
from osvi_django.services.jobs import create_close_job, rescuer, run_close_job
from osvi_django.services.mirroring import sync_customer
from osvi_django.services.recovery import recover_all, recover_session
from osvi_django.services.starting import start_session
from osvi_django.services.support import take_over, tell
from osvi_django.testing import Drop
from tests.helpers.sandbox import SUMMARY, mirror

pytestmark = pytest.mark.django_db(transaction=True)


class ConnectionRecorder(logging.Handler):
    """Record, when a call to OSVI ends, whether its thread held a connection meanwhile."""

    def __init__(self):
        super().__init__()
        self.held = []

    def emit(self, record):
        self.held.append(connections["default"].connection is not None)


@pytest.fixture
def recorder():
    logger, found = logging.getLogger("osvi_django.client"), ConnectionRecorder()
    level = logger.level
    logger.addHandler(found)
    logger.setLevel(logging.INFO)
    yield found
    logger.removeHandler(found)
    logger.setLevel(level)


@pytest.fixture
def session(osvi_sandbox):
    return mirror(osvi_sandbox)


@pytest.fixture
def desk(client, admin_user):
    """Return a web client of a superuser."""
    client.force_login(admin_user)
    return client


def close_over_rest(session, desk):
    url = f"/api/osvi/sessions/{session.session_id}/close/"
    assert desk.post(url, {}, content_type="application/json").json()["summary"] == SUMMARY


def close_in_the_admin(session, desk):
    desk.post(reverse("admin:osvi_django_chatsession_close", args=[session.pk]), {"post": "yes"})
    session.refresh_from_db()
    assert session.status == "closed"


def operate_over_rest(session, desk):
    url = f"/api/osvi/sessions/{session.session_id}/support/"
    body = {"command": "takeover"}
    assert desk.post(url, body, content_type="application/json").status_code == 200


def look_up_over_rest(session, desk):
    body = {"customer_id": session.customer_id}
    url = "/api/osvi/sessions/sync/"
    assert desk.post(url, body, content_type="application/json").status_code == 200


CALLS = {
    "service": lambda session, desk: close_session(session),
    "rest": close_over_rest,
    "admin": close_in_the_admin,
    "command": lambda session, desk: call_command("osvi_close", session.session_id),
    "job": lambda session, desk: run_close_job(create_close_job([session], start=False).pk),
    "desk": lambda session, desk: (take_over(session), tell(session, "Offer a refund.")),
    "desk over rest": operate_over_rest,
    "start": lambda session, desk: start_session(
        agent_uuid=session.agent.uuid, customer_id="+15550001111"
    ),
    "look-up": lambda session, desk: sync_customer(session.customer_id),
    "look-up over rest": look_up_over_rest,
    "look-up of all": lambda session, desk: call_command("osvi_sync", open=True),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_call_holds_no_connection(call, session, desk, recorder):
    assert ChatSession.objects.count() == 1  # there is one before
    call(session, desk)
    assert recorder.held
    assert not any(recorder.held)


RECOVERIES = {
    "one": recover_session,
    "once more": close_again,
    "all": lambda _session: list(recover_all()),
    "command": lambda _session: call_command("osvi_recover"),
}


@pytest.mark.parametrize("settle", RECOVERIES.values(), ids=RECOVERIES)
def test_recovery_holds_no_connection(settle, session, osvi_sandbox, recorder):
    osvi_sandbox.script(session.session_id, Drop(after_closing=True))
    with pytest.raises(OSVINoAnswer):
        close_session(session)
    settle(session)
    session.refresh_from_db()
    assert session.summary.text == SUMMARY
    assert recorder.held == [False] * 3


def test_close_with_token_from_database_holds_no_connection(session, settings, recorder):
    token = settings.OSVI["default"]["API_TOKEN"]

    def read():
        ChatSession.objects.count()
        return token

    settings.OSVI["default"]["API_TOKEN"] = read
    assert close_session(session).changed
    assert recorder.held == [False]


def test_summarizer_is_called_without_connection(session, osvi_sandbox, settings):
    held = []

    def write(each):
        held.append(connections["default"].connection is not None)
        return "Written here."

    settings.OSVI["default"] |= {"CLOSE_WITH": "v1", "SUMMARIZER": write}
    assert close_session(session).summary.text == "Written here."
    assert held == [False]


@pytest.mark.django_db
def test_close_inside_transaction_of_test_case_keeps_connection(osvi_sandbox, recorder):
    session = mirror(osvi_sandbox)
    assert close_session(session).changed
    assert recorder.held == [True]
    assert ChatSession.objects.get().status == "closed"


class TestRescuer:
    def test_rescue_runs_four_threads_at_most_and_holds_no_connection(self, osvi_sandbox, recorder):
        for _number in range(12):
            mirror(osvi_sandbox, status="unconfirmed")
        seen = []

        def look(_chat):
            seen.append(sum(each.name == "osvi-rescuer" for each in threading.enumerate()))
            return 0.2

        osvi_sandbox.latency = look
        job = create_close_job(ChatSession.objects.all(), start=False)
        assert run_close_job(job.pk).succeeded == 12
        assert max(seen) == rescuer.MAX_THREADS == 4
        assert not any(recorder.held)
