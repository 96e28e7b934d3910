"""Events arrive: signed, at least once, in order, and with patience."""

from __future__ import annotations

import base64
import logging
import re
import threading
from datetime import timedelta

import pytest
from django.db import OperationalError, connection
from django.db.backends.signals import connection_created
from django.utils import timezone
from standardwebhooks.webhooks import WebhookVerificationError

from osvi_django.database import DatabaseNow, in_utc
from osvi_django.exceptions import NotAllowed
from osvi_django.models import ChatSession, WebhookDelivery, WebhookReceiver
from osvi_django.services import (
    close_session,
    create_close_job,
    deliver_events,
    run_close_job,
    send_events_again,
    switch_on_receiver,
)
from osvi_django.services.events import delivery, queue
from osvi_django.services.events.outbox import Event
from tests.helpers.database import call_after_queries, raise_on_queries
from tests.helpers.raw_server import http_response
from tests.helpers.sandbox import SUMMARY
from tests.helpers.webhooks import OK, WebhookServer, verified
from tests.services.events.conftest import KEY, SECRET
from tests.services.helpers import run_at_once

pytestmark = pytest.mark.django_db(transaction=True)

OTHER_SECRET = "whsec_" + base64.b64encode(bytes(24)).decode()
BUSY, GONE = http_response(status=503), http_response(status=410)


def test_event_of_a_close_arrives_signed_and_thin(mirrored, use_servers, states):
    with WebhookServer() as server:
        use_servers(server)
        session = mirrored(customer_id="+15551234")
        attempt = close_session(session).attempt
        assert deliver_events() == 1
    (call,) = server.calls
    row = WebhookDelivery.objects.get()
    moment = in_utc(row.occurred_at).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assert verified(call, SECRET) == {
        "type": "session.closed",
        "timestamp": moment,
        "data": {
            "session_id": session.session_id,
            "attempt_id": attempt.pk,
            "account": "default",
            "agent_uuid": session.agent.uuid,
            "summary_status": "stored",
            "path": f"/api/osvi/sessions/{session.session_id}/",
        },
    }
    assert call.line == "POST /hooks/very-secret HTTP/1.1"
    assert call.headers["webhook-id"] == f"msg_{row.event_id.hex}"
    assert re.fullmatch(r"\d{10}", call.headers["webhook-timestamp"])
    assert re.fullmatch(r"v1,[\w+/]{43}=", call.headers["webhook-signature"])
    assert call.headers["content-type"] == "application/json"
    assert call.headers["host"] == f"127.0.0.1:{server.port}"
    assert states() == [("delivered", 1, "")]
    assert (row.http_status, row.claim, row.lease_until) == (200, None, None)
    assert deliver_events() == 0


def test_receiver_may_be_sent_words_and_customers(mirrored, use_servers):
    with WebhookServer() as server:
        use_servers(server, INCLUDE_SUMMARY=True, INCLUDE_CUSTOMER=True)
        session = mirrored(customer_id="+15551234")
        close_session(session)
        deliver_events()
    (payload,) = server.payloads
    assert (payload["data"]["summary"], payload["data"]["customer_id"]) == (SUMMARY, "+15551234")


def test_event_of_an_open_chat_says_nothing_of_a_summary(mirrored, use_servers, write_events):
    with WebhookServer() as server:
        use_servers(server, INCLUDE_SUMMARY=True)
        write_events(mirrored().session_id, event=Event.HELP_REQUESTED)
        deliver_events()
    assert not [name for name in server.payloads[0]["data"] if name.startswith("summary")]


def test_summary_that_is_not_there_is_null(mirrored, use_servers):
    with WebhookServer() as server:
        use_servers(server, INCLUDE_SUMMARY=True)
        close_session(mirrored(summary=None))
        deliver_events()
    (payload,) = server.payloads
    assert payload["data"]["summary"] is None
    assert payload["data"]["summary_status"] == "not_provided"


def test_event_of_a_deleted_session_has_its_id(use_servers, write_events):
    with WebhookServer() as server:
        use_servers(server)
        write_events("s-é", code="unconfirmed")
        deliver_events()
    (payload,) = server.payloads
    assert payload["data"] == {"session_id": "s-é", "code": "unconfirmed"}
    assert "é".encode() in server.calls[0].body


def test_event_of_a_job_has_its_counts(mirrored, use_servers):
    with WebhookServer() as server:
        use_servers(server, EVENTS=["close_job.completed"])
        mirrored()
        job = run_close_job(create_close_job(ChatSession.objects.all()).pk)
        deliver_events()
        job.items.all().delete()
        job.delete()
        send_events_again(WebhookDelivery.objects.all())
        deliver_events()
    first, again = server.payloads
    counts = {"total": 1, "succeeded": 1, "failed": 0, "unconfirmed": 0, "cancelled": 0}
    path = f"/api/osvi/close-jobs/{first['data']['path'].rsplit('/', 2)[1]}/"
    about = {"job_id": str(job.uuid), "status": "completed", "left_out": 0, "path": path}
    assert first["data"] == {**counts, **about}
    assert again["data"] == {"job_id": str(job.uuid)}


def test_event_of_host_without_rest_api_has_no_path(mirrored, use_servers, settings):
    settings.ROOT_URLCONF = "tests.services.events.conftest"
    with WebhookServer() as server:
        use_servers(server)
        close_session(mirrored())
        deliver_events()
    assert "path" not in server.payloads[0]["data"]


def test_event_is_signed_with_each_secret_while_they_are_rotated(use_servers, write_events):
    with WebhookServer() as server:
        use_servers(server, SECRETS=[OTHER_SECRET, SECRET])
        write_events("s-1")
        deliver_events()
    (call,) = server.calls
    assert len(call.headers["webhook-signature"].split(" ")) == 2
    assert verified(call, SECRET) == verified(call, OTHER_SECRET)
    with pytest.raises(WebhookVerificationError):
        verified(call, "whsec_" + base64.b64encode(KEY[:24]).decode())


def test_events_of_a_session_arrive_in_order_also_if_the_first_fails(
    use_servers, write_events, pass_time, states
):
    with WebhookServer(http_response(status=400), OK) as server:
        use_servers(server)
        write_events("s-1", "s-2", "s-1", "s-1")
        assert deliver_events() == 2
        assert server.subjects == ["s-1", "s-2"]
        assert [state for state, *_ in states()] == ["pending", "delivered", "pending", "pending"]
        pass_time()
        deliver_events()
    rows = list(WebhookDelivery.objects.filter(subject="s-1").order_by("id"))
    expected = [f"msg_{each.event_id.hex}" for each in (rows[0], rows[0], rows[1], rows[2])]
    assert [each for each in server.ids if each in expected] == expected


def test_receivers_do_not_wait_for_each_other(use_servers, write_events, states):
    with WebhookServer(BUSY) as busy, WebhookServer() as server:
        use_servers(busy, server)
        write_events("s-1", "s-1", "s-2")
        assert deliver_events() == 4
        assert (busy.subjects, server.subjects) == (["s-1"], ["s-1", "s-2", "s-1"])
    assert sorted(states()) == sorted(
        [("pending", 1, "refused"), *2 * [("pending", 0, "")], *3 * [("delivered", 1, "")]]
    )


def test_receiver_that_is_busy_is_left_alone_for_a_while(use_servers, write_events, pass_time):
    with WebhookServer(BUSY, BUSY, OK) as server:
        use_servers(server)
        write_events("s-1", "s-2")
        assert deliver_events() == 1
        assert deliver_events() == 0
        assert 0 < delivery.seconds_until_due() <= 6
        pass_time()
        assert deliver_events() == 1
        stored = WebhookReceiver.objects.get()
        assert (stored.failures, stored.last_error, stored.host) == (2, "refused", "127.0.0.1")
        pass_time()
        assert deliver_events() == 2
    stored.refresh_from_db()
    assert (stored.failures, stored.last_error, stored.paused_until) == (0, "", None)
    assert stored.last_success_at
    assert str(stored) == f"127.0.0.1 ({stored.key})"
    assert delivery.seconds_until_due() is None


def test_tries_are_spread_over_28_hours_and_then_given_up(
    use_servers, write_events, pass_time, states, settings
):
    waits = []
    with WebhookServer(http_response(status=400)) as server:
        use_servers(server)
        write_events("s-1")
        while states()[0][0] == "pending":
            deliver_events()
            waits.append(delivery.seconds_until_due())
            pass_time()
    assert states() == [("failed", 8, "refused")]
    assert waits.pop() is None
    expected = (5, 300, 1_800, 7_200, 18_000, 36_000, 36_000)
    assert all(pause - 2 < wait < 1.11 * pause for pause, wait in zip(expected, waits, strict=True))
    assert len(set(server.ids)) == 1
    assert WebhookDelivery.objects.get().finished_at


def test_pauses_between_tries_are_those_of_the_settings(
    use_servers, write_events, states, settings
):
    settings.OSVI_WEBHOOK_RETRY = []
    with WebhookServer(http_response(status=400)) as server:
        use_servers(server)
        write_events("s-1")
        deliver_events()
    assert states() == [("failed", 1, "refused")]


@pytest.mark.parametrize(
    ("header", "least", "most"), [("120", 118, 133), ("999999", 21_590, 23_800), ("soon", 0, 6)]
)
def test_retry_after_is_heeded_within_bounds(use_servers, write_events, header, least, most):
    busy = http_response(status=429, headers=[("Retry-After", header)])
    with WebhookServer(busy) as server:
        use_servers(server)
        write_events("s-1", "s-2")
        assert deliver_events() == 1
    assert least < delivery.seconds_until_due() < most


def test_receiver_that_is_gone_is_off_until_it_is_switched_on_again(
    use_servers, write_events, states, staff, grant, pass_time, caplog
):
    with WebhookServer(GONE, OK) as server:
        use_servers(server)
        write_events("s-1", "s-2")
        assert deliver_events() == 1
        pass_time()
        assert deliver_events() == 0
        assert delivery.seconds_until_due() is None
        assert states() == [("pending", 0, "gone"), ("pending", 0, "")]
        stored = WebhookReceiver.objects.get()
        assert stored.disabled_at
        assert "answered 410, and is off" in caplog.text
        with pytest.raises(NotAllowed):
            switch_on_receiver(stored, requested_by=staff)
        operator = grant(staff, "operate_chatsession")
        assert switch_on_receiver(stored, requested_by=operator, via="admin") == 2
        assert deliver_events() == 2
    assert server.subjects == ["s-1", "s-1", "s-2"]
    assert states() == 2 * [("delivered", 1, "")]


def test_event_is_sent_again_with_the_same_id(use_servers, write_events, states, staff):
    with WebhookServer() as server:
        use_servers(server)
        write_events("s-1")
        deliver_events()
        with pytest.raises(NotAllowed):
            send_events_again(WebhookDelivery.objects.all(), requested_by=staff)
        assert send_events_again(WebhookDelivery.objects.all()) == 1
        assert states() == [("pending", 0, "")]
        deliver_events()
    assert server.ids[0] == server.ids[1]


def test_event_that_is_being_sent_is_not_made_due_again(use_servers, write_events):
    with WebhookServer() as server:
        use_servers(server)
        write_events("s-1")
        receiver = WebhookDelivery.objects.get().receiver
        (claimed,) = queue.claim(receiver, using="default")
        assert send_events_again([claimed]) == 0
        assert deliver_events() == 0
        assert delivery.seconds_until_due() == queue.LEASE
        WebhookDelivery.objects.update(lease_until=DatabaseNow() - timedelta(seconds=1))
        assert deliver_events() == 1


def test_outcome_of_a_try_whose_lease_was_over_changes_nothing(use_servers, write_events, states):
    def take(call):
        later = DatabaseNow() + timedelta(seconds=60)
        WebhookDelivery.objects.update(claim=KEY[:16].hex(), lease_until=later)
        connection.close()
        call.send(OK)

    with WebhookServer(take) as server:
        use_servers(server)
        write_events("s-1")
        deliver_events()
    assert states() == [("pending", 0, "")]


def test_two_deliverers_at_once_send_each_event_once(use_servers, write_events, states):
    subjects = [f"s-{number % 40}" for number in range(120)]
    with WebhookServer() as server:
        use_servers(server)
        write_events(*subjects)

        def work():
            try:
                while WebhookDelivery.objects.filter(state="pending").exists():
                    deliver_events()
            finally:
                connection.close()

        run_at_once(work, 3)
        arrived = server.ids
        assert len(arrived) == len(set(arrived)) == 120
        by_subject = {}
        for call_id, subject in zip(arrived, server.subjects, strict=True):
            by_subject.setdefault(subject, []).append(call_id)
    for subject, ids in by_subject.items():
        rows = WebhookDelivery.objects.filter(subject=subject).order_by("id")
        assert ids == [f"msg_{each.event_id.hex}" for each in rows]


def test_stop_releases_what_was_not_sent(use_servers, write_events, states):
    stop = threading.Event()

    def stop_then_answer(call):
        stop.set()
        call.send(OK)

    with WebhookServer(stop_then_answer) as server:
        use_servers(server)
        write_events("s-1", "s-2", "s-3")
        assert deliver_events(stop) == 1
        assert WebhookDelivery.objects.filter(claim=None).count() == 3
        assert deliver_events(stop) == 0


def test_batch_of_slow_receiver_is_not_sent_beyond_its_lease(
    use_servers, write_events, pass_seconds, states
):
    def answer_late(call):
        pass_seconds(queue.LEASE)
        # Another process takes all that is left.
        WebhookDelivery.objects.filter(subject="s-2").update(receiver="another")
        connection.close()
        call.send(OK)

    with WebhookServer(answer_late) as server:
        use_servers(server)
        write_events("s-1", "s-2")
        assert deliver_events() == 1
    assert states() == [("delivered", 1, ""), ("pending", 0, "")]
    assert WebhookDelivery.objects.filter(claim=None).count() == 2


def test_database_that_is_away_leaves_events_to_their_lease(
    use_servers, write_events, pass_seconds, caplog
):
    with WebhookServer() as server:
        use_servers(server)
        write_events("s-1", "s-2")

        def is_refused(sql, _params):
            pass_seconds(30 if server.calls else 0)
            return sql.startswith("UPDATE") and bool(server.calls)

        error = OperationalError("a secret")
        with raise_on_queries(is_refused, error), pytest.raises(OperationalError):
            deliver_events()
        assert WebhookDelivery.objects.exclude(claim=None).count() == 2
    delivery.log_failure(error)
    assert "a secret" not in caplog.text
    assert "events could not be delivered: OperationalError" in caplog.text


def test_event_that_cannot_be_written_does_not_stop_the_others(
    use_servers, write_events, states, caplog
):
    with WebhookServer() as server:
        use_servers(server)
        write_events("s-1", "s-2")
        WebhookDelivery.objects.filter(subject="s-1").update(data=[1])
        assert deliver_events() == 2
        assert server.subjects == ["s-2"]
    assert states() == [("pending", 1, "not_written"), ("delivered", 1, "")]
    assert "cannot be written" in caplog.text


def test_database_error_of_one_receiver_does_not_stop_the_others(use_servers, write_events):
    with WebhookServer() as first, WebhookServer() as second:
        use_servers(first, second)
        write_events("s-1")
        key = WebhookDelivery.objects.order_by("id").first().receiver

        def refuse(execute, sql, params, many, context):
            if sql.startswith("SELECT") and key in params and "EXISTS" in sql:
                raise OperationalError
            return execute(sql, params, many, context)

        def refuse_in_threads(connection, **_named):
            if threading.current_thread().name.startswith("osvi-event"):
                connection.execute_wrappers.append(refuse)

        connection_created.connect(refuse_in_threads)
        with pytest.raises(OperationalError):
            deliver_events()
        connection_created.disconnect(refuse_in_threads)
        assert (first.calls, len(second.calls)) == ([], 1)


def test_session_that_cannot_be_read_is_an_error_of_the_database(use_servers, write_events):
    with WebhookServer() as server:
        use_servers(server)
        write_events("s-1")

        def is_refused(sql, _params):
            return sql.startswith("SELECT") and "customer_id" in sql

        error = OperationalError("a secret")
        with raise_on_queries(is_refused, error), pytest.raises(OperationalError):
            deliver_events()
        assert server.calls == []
    assert WebhookDelivery.objects.get().claim is None  # it was released


def test_invalid_pauses_are_replaced_by_the_default(use_servers, write_events, states, settings):
    settings.OSVI_WEBHOOK_RETRY = None
    with WebhookServer(http_response(status=400)) as server:
        use_servers(server)
        write_events("s-1")
        assert deliver_events() == 1
    assert states() == [("pending", 1, "refused")]
    assert 3 < delivery.seconds_until_due() < 6


def test_logs_name_ids_and_no_url_or_payload(mirrored, use_servers, caplog):
    caplog.set_level(logging.DEBUG)
    with WebhookServer(BUSY, OK) as server:
        use_servers(server, INCLUDE_SUMMARY=True)
        close_session(mirrored())
        deliver_events()
    receiver = WebhookReceiver.objects.get().key
    assert f"to receiver {receiver}: HTTP status 503, refused" in caplog.text
    for secret in ("very-secret", SECRET, "refund"):
        assert secret not in caplog.text


class TestTidy:
    def test_tidy_gives_up_what_has_waited_for_too_long(self, use_servers, write_events, states):
        with WebhookServer() as server:
            use_servers(server)
            write_events("s-1", "s-2")
            first = WebhookDelivery.objects.order_by("id")[:1]
            long_ago = DatabaseNow() - timedelta(hours=32)
            WebhookDelivery.objects.filter(pk__in=list(first.values_list("pk", flat=True))).update(
                waits_since=long_ago
            )
            delivery.tidy()
        assert states() == [("failed", 0, "expired"), ("pending", 0, "")]

    def test_tidy_deletes_what_has_been_over_for_long(self, use_servers, write_events, settings):
        settings.OSVI["default"]["RETENTION"] = {"events": 2}
        with WebhookServer() as server:
            use_servers(server)
            write_events("s-1", "s-2", "s-3")
        for subject, state, days in (("s-1", "delivered", 3), ("s-2", "failed", 1)):
            WebhookDelivery.objects.filter(subject=subject).update(
                state=state, finished_at=timezone.now() - timedelta(days=days)
            )
        delivery.tidy()
        left = WebhookDelivery.objects.order_by("id").values_list("subject", flat=True)
        assert list(left) == ["s-2", "s-3"]

    def test_tidy_with_invalid_settings_does_nothing(self, settings):
        settings.OSVI["default"]["RETENTION"] = {"events": "2"}
        delivery.tidy()


def test_claim_that_another_process_has_made_first_is_left_to_it(use_servers, write_events):
    with WebhookServer() as server:
        use_servers(server)
        write_events("s-1", "s-2")
    receiver, stolen = WebhookDelivery.objects.first().receiver, []

    def steal():
        if not stolen:
            stolen.append(True)
            stolen.extend(queue.claim(receiver, using="default"))

    def is_choice(sql, _params):
        return sql.startswith("SELECT") and "EXISTS" in sql

    with call_after_queries(is_choice, steal):
        assert queue.claim(receiver, using="default") == []
    assert len(stolen) == 3


def test_event_names_are_those_of_the_specification():
    assert all(re.fullmatch(r"[a-z_]+\.[a-z_]+", each) for each in Event.values)
