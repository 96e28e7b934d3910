"""Test that error reports of interrupted work contain no personal data.

By default Sentry and Django's error emails send the local variables of each frame.
"""

from __future__ import annotations

import uuid
from io import StringIO
from itertools import count

import pytest
from django.core.management import CommandError, call_command
from rest_framework.test import APIClient

from osvi_django.models import ChatSession, CloseAttempt
from osvi_django.services import (
    close_session,
    close_session_by_id,
    mirroring,
    recovery,
    starting,
    support,
)
from osvi_django.services.summaries import summarize
from osvi_django.testing import Drop
from osvi_django.testing.factories import ClosedSessionFactory
from tests.helpers.error_reports import CUSTOMER, MESSAGE, NOTE, SUMMARY, find_leaks_at_each_query

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def chat(mirrored):
    numbers = count()
    return lambda: mirrored(customer_id=f"{CUSTOMER}{next(numbers)}", summary=SUMMARY)


def test_report_of_interrupted_close_contains_no_personal_data(chat):
    assert (
        find_leaks_at_each_query(lambda session: close_session(session, note=NOTE), chat) == set()
    )


def test_report_of_interrupted_close_by_id_contains_no_personal_data(chat):
    def work(session):
        close_session_by_id(session.session_id, agent_uuid=session.agent.uuid, note=NOTE)

    assert find_leaks_at_each_query(work, chat) == set()


@pytest.mark.parametrize(
    "act",
    [
        lambda session: support.tell(session, MESSAGE),
        lambda session: support.whisper(session, MESSAGE),
        lambda session: support.inject_context(session, MESSAGE),
        lambda session: support.receive_message(session, MESSAGE),
        support.take_over,
        support.hand_back,
    ],
    ids=["tell", "whisper", "context", "receive", "take_over", "hand_back"],
)
def test_report_of_interrupted_support_action_contains_no_personal_data(chat, act, osvi_sandbox):
    assert find_leaks_at_each_query(act, chat) == set()


def test_report_of_interrupted_start_contains_no_personal_data(osvi_sandbox):
    numbers = count()

    def work():
        starting.start_session(
            agent_uuid="agent_1",
            customer_id=f"{CUSTOMER}{next(numbers)}",
            context=[MESSAGE],
            input_fields={"name": MESSAGE},
        )

    assert find_leaks_at_each_query(work) == set()


def test_report_of_interrupted_look_up_contains_no_personal_data(chat):
    def work(session):
        mirroring.sync_customer(session.customer_id)

    assert find_leaks_at_each_query(work, chat) == set()


def test_report_of_interrupted_mirroring_contains_no_personal_data(osvi_sandbox):
    numbers = count()

    def work():
        payload = {
            "id": f"s-{next(numbers)}",
            "status": "active",
            "customer_id": CUSTOMER,
            "metadata": {"input_fields": {"name": MESSAGE}, "context": [MESSAGE]},
            "active_human": MESSAGE,
        }
        mirroring.mirror_session(payload, agent_uuid="agent_1")
        started = {"session_id": f"t-{next(numbers)}", "welcome_message": MESSAGE}
        mirroring.mirror_started(started, agent_uuid="agent_1", customer_id=CUSTOMER)

    assert find_leaks_at_each_query(work) == set()


def test_report_of_interrupted_recovery_contains_no_personal_data(chat, osvi_sandbox):
    def work(session):
        osvi_sandbox.script(session.session_id, Drop(after_closing=True))
        with pytest.raises(Exception, match="may have closed"):
            close_session(session, note=NOTE)
        recovery.recover_session(session)

    assert find_leaks_at_each_query(work, chat) == set()


def test_report_of_interrupted_read_of_answer_contains_no_personal_data(chat):
    def work(session):
        ChatSession.objects.filter(pk=session.pk).update(status="unconfirmed")
        CloseAttempt.objects.create(
            session=session,
            claim=uuid.uuid4(),
            outcome="answered",
            http_status=200,
            answer=f'{{"success": true, "data": {{"summary": "{SUMMARY}"}}}}',
        )
        recovery.recover_session(session)

    assert find_leaks_at_each_query(work, chat) == set()


def test_report_of_interrupted_mark_closed_contains_no_personal_data(chat):
    def work(session):
        ChatSession.objects.filter(pk=session.pk).update(status="unconfirmed")
        recovery.mark_closed(session, note=NOTE)

    assert find_leaks_at_each_query(work, chat) == set()


def test_report_of_interrupted_summarizer_contains_no_personal_data(settings):
    settings.OSVI["default"]["SUMMARIZER"] = lambda session: SUMMARY

    def closed():
        return ClosedSessionFactory(summary_status="not_provided", customer_id=CUSTOMER)

    assert find_leaks_at_each_query(summarize, closed) == set()


@pytest.fixture
def rest(staff, grant):
    client = APIClient()
    client.force_authenticate(grant(staff, "operate_chatsession"))
    return client


REST = {
    "close": {"note": NOTE},
    "support": {"command": "tell", "message": MESSAGE},
    "messages": {"content": MESSAGE},
    "recover": {},
}


@pytest.mark.parametrize("name", REST)
def test_report_of_interrupted_rest_call_contains_no_personal_data(rest, chat, name):
    def work(session):
        url = f"/api/osvi/sessions/{session.session_id}/{name}/"
        rest.post(url, REST[name], format="json")

    assert find_leaks_at_each_query(work, chat) == set()


def test_report_of_interrupted_rest_context_contains_no_personal_data(rest, chat, osvi_sandbox):
    def work(session):
        url = f"/api/osvi/sessions/{session.session_id}/context/"
        assert rest.post(url, {"context": MESSAGE}, format="json").status_code == 200

    assert find_leaks_at_each_query(work, chat) == set()


def test_report_of_interrupted_rest_start_contains_no_personal_data(
    rest, grant, staff, osvi_sandbox
):
    numbers = count()

    def work():
        body = {
            "agent_uuid": "agent_1",
            "customer_id": f"{CUSTOMER}{next(numbers)}",
            "context": [MESSAGE],
            "input_fields": {"name": MESSAGE},
        }
        answer = rest.post("/api/osvi/sessions/", body, format="json")
        assert answer.status_code == 201, answer.content

    assert find_leaks_at_each_query(work) == set()


def test_report_of_interrupted_rest_look_up_contains_no_personal_data(rest, chat):
    def work(session):
        body = {"customer_id": session.customer_id}
        assert rest.post("/api/osvi/sessions/sync/", body, format="json").status_code == 200

    assert find_leaks_at_each_query(work, chat) == set()


@pytest.mark.parametrize("by", ["ids", "filter"])
def test_report_of_interrupted_rest_bulk_close_contains_no_personal_data(rest, chat, by, settings):
    settings.OSVI_EXECUTOR = None

    def work(session):
        ids = {"session_ids": [session.session_id]}
        chosen = {"filter": {"customer_id": session.customer_id}}
        body = {"note": NOTE} | (ids if by == "ids" else chosen)
        assert rest.post("/api/osvi/sessions/close/", body, format="json").status_code == 202

    assert find_leaks_at_each_query(work, chat) == set()


def test_report_of_interrupted_rest_list_contains_no_customer(rest, chat):
    def work(session):
        query = {"customer_id": session.customer_id}
        assert rest.get("/api/osvi/sessions/", query).status_code == 200

    # A request shows its own URL: the host must filter that.
    found = find_leaks_at_each_query(work, chat)
    assert {each for each in found if not each.endswith(": request")} == set()


@pytest.mark.parametrize(
    "arguments",
    [
        lambda session: ["osvi_close", session.session_id, "--note", NOTE],
        lambda session: ["osvi_close", "--customer", session.customer_id, "--dry-run"],
        lambda session: ["osvi_sync", "--customer", session.customer_id],
    ],
    ids=["close", "dry-run", "sync"],
)
def test_report_of_interrupted_command_contains_no_personal_data(chat, arguments):
    def work(session):
        call_command(*arguments(session), stdout=StringIO(), stderr=StringIO())

    assert find_leaks_at_each_query(work, chat) == set()


def test_command_with_invalid_customer_names_it_in_error(db):
    with pytest.raises(CommandError, match=r"'bad\\x00': This is not a valid id"):
        call_command("osvi_sync", "--customer", "bad\0")
