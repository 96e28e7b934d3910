"""Events are written in the transaction of their facts, once for each receiver."""

from __future__ import annotations

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from osvi_django.exceptions import OSVINoAnswer, OSVIRejected
from osvi_django.models import ChatSession, WebhookDelivery
from osvi_django.services import (
    cancel_close_job,
    close_session,
    create_close_job,
    hand_back,
    look_up_customer,
    mirror_session,
    receive_message,
    reread_all,
    run_close_job,
    start_session,
    summarize,
    take_over,
    take_reviewed_summary,
)
from osvi_django.services.jobs.store import finish
from osvi_django.services.mirroring.remote_facts import RemoteFacts, write_facts
from osvi_django.signals import (
    close_job_completed,
    session_closed,
    session_summarized,
    session_taken_over,
)
from osvi_django.testing import Drop, Status
from osvi_django.testing.factories import ChatSessionFactory, CloseAttemptFactory
from tests.helpers.sandbox import SUMMARY
from tests.services.helpers import AFTER, session_object

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def heard():
    """Return the signals that were sent, with their arguments."""
    received = []

    def hear(sender, signal, **named):
        received.append((signal, sender, named))

    signals = (session_taken_over, session_summarized, close_job_completed, session_closed)
    for each in signals:
        each.connect(hear)
    yield received
    for each in signals:
        each.disconnect(hear)


def test_close_without_receivers_writes_and_reads_nothing_of_the_outbox(mirrored, settings):
    settings.OSVI_WEBHOOKS = []
    with CaptureQueriesContext(connection) as queries:
        close_session(mirrored())
    assert not [each for each in queries if "webhook" in each["sql"]]


def test_close_writes_a_row_for_each_receiver_that_wants_it(mirrored, use_receivers, outbox):
    use_receivers({}, {"EVENTS": ["session.closed"]}, {"EVENTS": ["session.started"]})
    session = mirrored()
    result = close_session(session)
    assert outbox() == 2 * [("session.closed", session.session_id)]
    first, second = WebhookDelivery.objects.order_by("id")
    assert first.event_id == second.event_id
    assert first.receiver != second.receiver
    assert (first.state, first.tries, first.claim) == ("pending", 0, None)
    assert first.data == {"attempt_id": result.attempt.pk}
    assert SUMMARY not in str(vars(first))
    assert str(first) == f"session.closed {session.session_id}"


def test_close_that_is_rolled_back_writes_no_event(mirrored, use_receivers, outbox):
    use_receivers({})
    session = ChatSessionFactory()
    with transaction.atomic():
        mirror_session(session_object(id=session.session_id, status="closed"))
        assert outbox()
        transaction.set_rollback(True)
    assert outbox() == []


def test_failed_closes_write_events_with_codes(mirrored, use_receivers, osvi_sandbox, outbox):
    use_receivers({})
    session = mirrored()
    osvi_sandbox.script(session.session_id, Status(403))
    with pytest.raises(OSVIRejected):
        close_session(session)
    osvi_sandbox.script(session.session_id, Drop())
    with pytest.raises(OSVINoAnswer):
        close_session(session)
    assert outbox() == 2 * [("session.close_failed", session.session_id)]
    codes = [each.data["code"] for each in WebhookDelivery.objects.order_by("id")]
    assert codes[1] == "unconfirmed"
    assert None not in [each.data["attempt_id"] for each in WebhookDelivery.objects.all()]


def test_job_writes_closes_and_its_end_with_one_insert_for_each_commit(
    mirrored, use_receivers, osvi_sandbox, outbox, heard
):
    use_receivers({}, {})
    sessions = [mirrored() for _number in range(5)]
    job = create_close_job(ChatSession.objects.all())
    with CaptureQueriesContext(connection) as queries:
        job = run_close_job(job.pk)
    written = outbox()
    closed = {("session.closed", each.session_id) for each in sessions}
    assert set(written[:-2]) == closed
    assert len(written) == 12
    assert written[-2:] == 2 * [("close_job.completed", str(job.uuid))]
    begin = f"INSERT INTO {connection.ops.quote_name(WebhookDelivery._meta.db_table)}"
    inserts = [each for each in queries if each["sql"].startswith(begin)]
    assert len(inserts) <= 6
    (ended,) = [each for each in heard if each[0] is close_job_completed]
    assert ended[2]["job"] == job
    assert ended[2]["job"].status == "completed"


def test_cancelled_job_writes_its_end_once(mirrored, use_receivers, outbox):
    use_receivers({})
    mirrored()
    job = create_close_job(ChatSession.objects.all(), start=False)
    cancel_close_job(job)
    cancel_close_job(job)
    run_close_job(job.pk)
    assert outbox() == [("close_job.completed", str(job.uuid))]


def test_job_that_two_workers_finish_writes_its_end_once(mirrored, use_receivers, outbox, heard):
    use_receivers({})
    job = create_close_job([mirrored()], start=False)
    job.items.update(outcome="closed")
    assert finish(job)
    assert finish(job)
    assert outbox() == [("close_job.completed", str(job.uuid))]
    assert [each[0] for each in heard] == [close_job_completed]


def test_start_writes_event_once(use_receivers, osvi_sandbox, outbox):
    use_receivers({})
    session = start_session(agent_uuid="agent_1", customer_id="+1555")
    look_up_customer("+1555")
    assert outbox() == [("session.started", session.session_id)]


def test_session_found_closed_writes_its_close_only(use_receivers, outbox):
    use_receivers({})
    mirror_session(session_object(status="closed"))
    assert outbox() == [("session.closed", "s-1")]


def test_request_for_help_writes_event_once(mirrored, use_receivers, osvi_sandbox, outbox):
    use_receivers({})
    mirror_session(session_object())
    for _again in range(2):
        mirror_session(session_object(help_requested=True, updated_at=AFTER))
    assert outbox() == [("session.started", "s-1"), ("session.help_requested", "s-1")]


def test_take_over_writes_event_and_sends_signal(mirrored, use_receivers, outbox, heard):
    use_receivers({})
    session = mirrored()
    take_over(session)
    assert outbox() == [("session.taken_over", session.session_id)]
    ((signal, sender, named),) = heard
    assert (signal, sender, named["session"].mode) == (session_taken_over, ChatSession, "support")
    hand_back(session)
    receive_message(session, "Hello?")
    assert len(outbox()) == len(heard) == 1
    take_over(session)
    take_over(session)  # by a colleague
    assert outbox() == 3 * [("session.taken_over", session.session_id)]


def test_take_over_elsewhere_writes_event_when_it_is_found(use_receivers, outbox):
    use_receivers({})
    mirror_session(session_object())
    elsewhere = session_object(mode="support", updated_at=AFTER)
    mirror_session(elsewhere)
    mirror_session({**elsewhere, "updated_at": "2026-06-04T11:55:00Z"})
    assert outbox()[1:] == [("session.taken_over", "s-1")]


def test_take_over_that_another_process_has_written_writes_no_event(use_receivers, outbox):
    use_receivers({})
    session = mirror_session(session_object())
    ChatSession.objects.update(mode="support")
    assert write_facts(session, RemoteFacts(mode="support"), ChatSession.objects.all()) == 1
    assert outbox() == [("session.started", "s-1")]


def test_summary_by_this_site_writes_event_and_sends_signal(
    mirrored, settings, use_receivers, outbox, heard
):
    use_receivers({})
    settings.OSVI["default"]["SUMMARIZER"] = lambda _session: "Ours."
    session = mirrored(summary=None)
    close_session(session)
    assert outbox() == [
        ("session.closed", session.session_id),
        ("session.summarized", session.session_id),
    ]
    signal, _sender, named = heard[-1]
    assert (signal, named["summary"].text) == (session_summarized, "Ours.")
    assert summarize(session) is None


def attempt_with_answer(body, **fields):
    """Return an attempt whose answer an older version could not read."""
    answered = {"outcome": "bad_answer", "error_code": "bad_answer", "http_status": 200}
    return CloseAttemptFactory(session=ChatSessionFactory(**fields), answer=body, **answered)


@pytest.mark.parametrize(
    ("status", "event"), [("closed", "session.summarized"), ("unconfirmed", "session.closed")]
)
def test_summary_read_later_writes_event(use_receivers, outbox, heard, status, event):
    use_receivers({})
    body = '{"success": true, "data": {"session_id": "s-1", "summary": "Ours."}}'
    attempt_with_answer(body, session_id="s-1", status=status)
    assert [found.settled for found in reread_all()] == ["stored"]
    assert outbox() == [(event, "s-1")]
    signals = [session_closed, *([session_summarized] if status == "closed" else [])]
    assert [each[0] for each in heard] == signals


def test_summary_taken_by_staff_writes_event(use_receivers, outbox):
    use_receivers({})
    attempt = attempt_with_answer("Half an ans", session_id="s-1", status="closed")
    take_reviewed_summary(attempt, text="Ours.")
    assert outbox() == [("session.summarized", "s-1")]


def test_invalid_receiver_is_left_out_and_logged(mirrored, use_receivers, outbox, caplog, settings):
    use_receivers({}, {"EVENTS": ["session.open"]})
    session = mirrored()
    close_session(session)
    assert outbox() == [("session.closed", session.session_id)]
    assert 'OSVI_WEBHOOKS[1]["EVENTS"] has an unknown event' in caplog.text
    settings.OSVI_WEBHOOKS = {}
    close_session(mirrored())
    assert "OSVI_WEBHOOKS is not a list" in caplog.text
    assert "very-secret" not in caplog.text
