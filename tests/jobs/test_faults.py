"""Rows that are deleted, and errors of the host or the database, while a job runs."""

from __future__ import annotations

from threading import Event

import pytest
from django.db import DataError, ProgrammingError, connection
from django.db.models.signals import pre_init

from osvi_django.exceptions import OSVINoAnswer, message_for_code
from osvi_django.models import ChatSession, CloseAttempt, CloseJob, SupportAction
from osvi_django.services.attempts import claims, notifications, types
from osvi_django.services.jobs import create_close_job, run_close_job
from osvi_django.services.recovery import Settled, recover_session
from osvi_django.signals import session_close_failed, session_closed
from osvi_django.testing import Drop, Status
from osvi_django.testing.factories import (
    ChatAgentFactory,
    ChatSessionFactory,
    CloseAttemptFactory,
)
from tests.helpers.database import call_after_queries, raise_on_queries
from tests.helpers.sandbox import CallThenAnswer

pytestmark = pytest.mark.django_db(transaction=True)


def test_error_while_rescuing_session_does_not_stop_job(unconfirmed, close_all, caplog):
    unconfirmed(Drop(after_closing=True))

    def explode(**_named):
        raise RuntimeError("a bug of the host")

    job = create_close_job(ChatSession.objects.all(), start=False)
    pre_init.connect(explode, sender=CloseAttempt)
    try:
        job = run_close_job(job.pk)
    finally:
        pre_init.disconnect(explode, sender=CloseAttempt)
    assert (job.status, job.unconfirmed) == ("completed_with_errors", 1)
    assert "a bug of the host" in caplog.text


@pytest.mark.parametrize("signal", [session_closed, session_close_failed])
def test_deleted_session_is_not_announced_to_receivers(chats, close_all, osvi_sandbox, signal):
    for session in chats(4):
        if signal is session_close_failed:
            osvi_sandbox.script(session.session_id, Status(400))
    notified = []

    def delete_the_others(session, **_named):
        notified.append(session.pk)
        ChatSession.objects.exclude(pk=session.pk).delete()

    signal.connect(delete_the_others)
    try:
        job = close_all()
    finally:
        signal.disconnect(delete_the_others)
    assert job.is_finished
    assert len(notified) == ChatSession.objects.count() == 1


def test_notification_of_deleted_session_is_logged(db, caplog):
    attempts = [CloseAttemptFactory() for _number in range(2)]
    closed = [types.Settlement(session=each.session, attempt=each, text=None) for each in attempts]
    failed = types.Failure(
        session=attempts[1].session, attempt=attempts[1], error=OSVINoAnswer(), is_open=False
    )
    notified = []

    def note(session, **_named):
        notified.append(session.pk)

    ChatSession.objects.filter(pk=attempts[1].session.pk).delete()
    for signal in (session_closed, session_close_failed):
        signal.connect(note)
    try:
        notifications.notify_closed(closed)
        notifications.notify_failed([failed])
    finally:
        for signal in (session_closed, session_close_failed):
            signal.disconnect(note)
    assert notified == [attempts[0].session.pk]
    assert caplog.text.count("the signal for session") == 2


def test_session_deleted_during_its_close_stops_no_other(chats, osvi_sandbox, caplog):
    first, *others = chats(4)

    def delete(chat):
        try:
            if chat.id == first.session_id:
                ChatSession.objects.filter(pk=first.pk).delete()
        finally:
            connection.close()
        return 0.2

    osvi_sandbox.latency = delete
    job = run_close_job(create_close_job(ChatSession.objects.all(), start=False).pk)
    assert job.is_finished
    assert ChatSession.objects.filter(status="closed").count() == len(others)
    assert "was deleted while OSVI was asked" in caplog.text


def test_rows_as_text_name_what_they_are():
    session = ChatSessionFactory(session_id="s-1")
    action = SupportAction.objects.create(session=session, kind="tell")
    job = create_close_job([session], start=False)
    assert str(action) == f"Action {action.pk}: instructed the agent"
    assert str(job.items.get()) == "s-1"


def test_recovery_of_agent_without_uuid_asks_by_customer(osvi_sandbox):
    session = ChatSessionFactory(status="unconfirmed", agent__uuid=None, agent__number=7)
    osvi_sandbox.add_session(session_id=session.session_id, customer_id=session.customer_id)
    assert recover_session(session).settled is Settled.REOPENED


def test_session_of_agent_without_uuid_is_not_sent_with_reason(osvi_sandbox, outcomes):
    session = ChatSessionFactory(agent__uuid=None, agent__number=7)
    job = run_close_job(create_close_job([session], start=False).pk)
    item = job.items.get()
    assert (item.outcome, item.error_code) == ("not_sent", "invalid")
    assert message_for_code(item.error_code, item.error_reason).startswith(
        "agent_uuid is required: give"
    )
    assert osvi_sandbox.requests == []


def test_update_of_attempts_logs_only_deleted_ones(caplog):
    kept, gone = CloseAttemptFactory.create_batch(2)
    CloseAttempt.objects.filter(pk=gone.pk).delete()
    claims.update_attempts([kept, gone], note="why")
    assert f"attempt {gone.pk} was deleted" in caplog.text
    assert f"attempt {kept.pk} was deleted" not in caplog.text


def test_worker_when_database_stays_unavailable_raises(unconfirmed, osvi_sandbox):
    unconfirmed(Drop(after_closing=True))
    job = create_close_job(ChatSession.objects.all(), start=False)
    is_away = Event()
    osvi_sandbox.script(None, CallThenAnswer(is_away.set))
    with (
        raise_on_queries(lambda _sql, _params: is_away.is_set(), ProgrammingError("away")),
        pytest.raises(ProgrammingError),
    ):
        run_close_job(job.pk)
    assert CloseJob.objects.get().finished_at is None


def test_agent_replaced_during_claim_stops_no_job(chats, close_all, agent):
    chats(3)
    heir = ChatAgentFactory(uuid="agent_heir")
    moved = []

    def is_claim(sql, _params):
        return not moved and sql.startswith("SELECT") and " JOIN " in sql and "jobitem" in sql

    def move():
        moved.append(ChatSession.objects.filter(agent=agent).update(agent=heir))
        agent.delete()

    with call_after_queries(is_claim, move):
        job = close_all()
    assert moved == [3]
    assert job.is_finished


def test_error_in_on_progress_sends_no_signal_twice(chats, osvi_sandbox):
    chats(6)
    notified = []

    def note(session, **_named):
        notified.append(session.pk)

    def explode(_job):
        raise BrokenPipeError

    osvi_sandbox.latency = 0.2
    job = create_close_job(ChatSession.objects.all(), start=False)
    session_closed.connect(note)
    try:
        with pytest.raises(BrokenPipeError):
            run_close_job(job.pk, on_progress=explode)
    finally:
        session_closed.disconnect(note)
    assert len(notified) == len(set(notified)) == 6
    assert set(CloseAttempt.objects.values_list("outcome", flat=True)) == {"closed"}


def test_error_in_reading_answer_leaves_it_to_recovery(chats, osvi_sandbox, caplog):
    odd, *_others = chats(4)
    job = create_close_job(ChatSession.objects.all(), start=False)

    def is_odd(sql, params):
        return sql.startswith("SELECT") and "closeattempt" in sql and odd.pk in params

    osvi_sandbox.script(odd.session_id, Status(409))
    osvi_sandbox.sessions[odd.session_id].change(status="closed")
    with raise_on_queries(is_odd, ValueError("a bug of the host")):
        stop = Event()
        run_close_job(job.pk, stop=stop, on_progress=lambda job: job.done == 3 and stop.set())
    assert "waits for recovery" in caplog.text
    assert CloseAttempt.objects.get(session=odd).answered_at is not None


def test_rescue_result_that_cannot_be_stored_is_rescued_again(unconfirmed, settings, caplog):
    settings.OSVI["default"] |= {"DEADLINE": 3, "CONNECT_TIMEOUT": 3, "LEASE_TIMEOUT": 1}
    unconfirmed(Drop())
    job = create_close_job(ChatSession.objects.all(), start=False)
    failed = []

    def is_end(sql, params):
        if failed or not sql.startswith("UPDATE") or "closed" not in params:
            return False
        failed.append(sql)
        return True

    with raise_on_queries(is_end, DataError("a secret")):
        assert run_close_job(job.pk).succeeded == 1
    assert "cannot be stored: DataError" in caplog.text
    assert "a secret" not in caplog.text
