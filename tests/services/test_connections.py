"""No connection of the database is held while OSVI is asked, whoever asks."""

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
from tests.mirroring import SUMMARY, mirror

pytestmark = pytest.mark.django_db(transaction=True)


class Witness(logging.Handler):
    """Note, as each call to OSVI ends, whether its thread held a connection over it."""

    def __init__(self):
        super().__init__()
        self.held = []

    def emit(self, record):
        self.held.append(connections["default"].connection is not None)


@pytest.fixture
def witness():
    logger, found = logging.getLogger("osvi_django.client"), Witness()
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
    """A web client of a superuser."""
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
    told = {"command": "takeover"}
    assert desk.post(url, told, content_type="application/json").status_code == 200


def look_up_over_rest(session, desk):
    told = {"customer_id": session.customer_id}
    url = "/api/osvi/sessions/sync/"
    assert desk.post(url, told, content_type="application/json").status_code == 200


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
def test_who_asks_holds_no_connection(call, session, desk, witness):
    assert ChatSession.objects.count() == 1  # there is one before
    call(session, desk)
    assert witness.held
    assert not any(witness.held)


RECOVERIES = {
    "one": recover_session,
    "once more": close_again,
    "all": lambda _session: list(recover_all()),
    "command": lambda _session: call_command("osvi_recover"),
}


@pytest.mark.parametrize("settle", RECOVERIES.values(), ids=RECOVERIES)
def test_recovery_holds_no_connection(settle, session, osvi_sandbox, witness):
    osvi_sandbox.script(session.session_id, Drop(after_closing=True))
    with pytest.raises(OSVINoAnswer):
        close_session(session)
    settle(session)
    session.refresh_from_db()
    assert session.summary.text == SUMMARY
    assert witness.held == [False] * 3


def test_a_token_that_is_kept_in_the_database_holds_none_either(session, settings, witness):
    token = settings.OSVI["default"]["API_TOKEN"]

    def read():
        ChatSession.objects.count()
        return token

    settings.OSVI["default"]["API_TOKEN"] = read
    assert close_session(session).changed
    assert witness.held == [False]


def test_the_hosts_summarizer_is_called_without_a_connection(session, osvi_sandbox, settings):
    held = []

    def write(each):
        held.append(connections["default"].connection is not None)
        return "Written here."

    settings.OSVI["default"] |= {"CLOSE_WITH": "v1", "SUMMARIZER": write}
    assert close_session(session).summary.text == "Written here."
    assert held == [False]


@pytest.mark.django_db
def test_in_the_transaction_of_a_test_case_the_connection_stays(osvi_sandbox, witness):
    session = mirror(osvi_sandbox)
    assert close_session(session).changed
    assert witness.held == [True]
    assert ChatSession.objects.get().status == "closed"


class TestRescuers:
    def test_no_more_than_four_at_once_and_none_holds_a_connection(self, osvi_sandbox, witness):
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
        assert not any(witness.held)
