"""The executors deliver events after the commit, and the worker does all the time."""

from __future__ import annotations

import os
import threading

import pytest
from django.db import OperationalError, transaction

from osvi_django.conf import event_executor
from osvi_django.contexts import ThreadContext
from osvi_django.models import WebhookDelivery
from osvi_django.services import close_session
from osvi_django.services.events import background
from tests.helpers.database import raise_on_queries, wrap_queries_in_threads
from tests.helpers.raw_server import http_response
from tests.helpers.waiting import wait_until
from tests.helpers.webhooks import OK, WebhookServer

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def executor(settings):
    """Choose an executor, and wait for its thread at the end."""

    def _executor(name):
        settings.OSVI_EXECUTOR = name and f"osvi_django.executors.{name}"

    yield _executor
    WebhookDelivery.objects.all().delete()
    background._deliverer.wake(ThreadContext())
    wait_until(lambda: not is_running())


def is_running():
    """Return whether the thread of this process is delivering."""
    return any(each.name == "osvi-events" for each in threading.enumerate())


def is_delivered():
    """Return whether nothing waits in the outbox."""
    return not WebhookDelivery.objects.exclude(state="delivered").exists()


@pytest.mark.parametrize("name", ["thread", "immediate"])
def test_event_is_delivered_after_the_commit(executor, mirrored, use_servers, name):
    executor(name)
    with WebhookServer() as server:
        use_servers(server)
        close_session(mirrored())
        wait_until(is_delivered)
        assert len(server.calls) == 1


def test_thread_delivers_again_what_was_written_meanwhile(executor, use_servers, write_events):
    executor("thread")
    with WebhookServer() as server:
        use_servers(server)
        for number in range(20):
            write_events_in_transaction(write_events, f"s-{number}")
        wait_until(is_delivered)
        assert len(server.calls) == 20
        wait_until(lambda: not is_running())


def write_events_in_transaction(write_events, subject):
    """Write an event, and let the executor know after the commit."""
    with transaction.atomic():
        write_events(subject)


def test_thread_waits_for_the_next_try(executor, use_servers, write_events, settings):
    executor("thread")
    settings.OSVI_WEBHOOK_RETRY = [0.1]
    with WebhookServer(http_response(status=503), OK) as server:
        use_servers(server)
        write_events_in_transaction(write_events, "s-1")
        wait_until(is_delivered)
        assert len(server.calls) == 2


def test_thread_survives_a_database_that_is_away(executor, use_servers, write_events, caplog):
    executor("thread")
    refused = []

    def refuse_once(execute, sql, params, many, context):
        if not refused:
            refused.append(sql)
            raise OperationalError("a secret")
        return execute(sql, params, many, context)

    with WebhookServer() as server, wrap_queries_in_threads("osvi-events", refuse_once):
        use_servers(server)
        write_events_in_transaction(write_events, "s-1")
        wait_until(lambda: "events could not be delivered: OperationalError" in caplog.text)
        write_events_in_transaction(write_events, "s-2")
        wait_until(is_delivered)
        assert len(server.calls) == 2


def test_worker_delivers_and_tidies_also_after_an_error(use_servers, write_events, caplog):
    asked = []

    def refuse_once(execute, sql, params, many, context):
        asked.append(sql)
        if len(asked) == 1:
            raise OperationalError("a secret")
        return execute(sql, params, many, context)

    with WebhookServer() as server, wrap_queries_in_threads("osvi-events", refuse_once):
        use_servers(server)
        write_events("s-1")
        WebhookDelivery.objects.filter(subject="s-1").update(finished_at=None)
        with background.delivering():
            wait_until(is_delivered)
            write_events("s-2")
            wait_until(is_delivered)
            # It looks on, at least twice.
            enough = len(asked) + 8
            wait_until(lambda: len(asked) > enough)
    assert "events could not be delivered: OperationalError" in caplog.text
    assert not is_running()


def test_thread_keeps_a_bounded_number_of_contexts(executor):
    deliverer = background._Deliverer()
    deliverer._due = dict.fromkeys(range(background._MAX_CONTEXTS), 0.0)
    deliverer._put_back(ThreadContext(), 5.0)
    assert len(deliverer._due) == background._MAX_CONTEXTS


def test_fork_starts_without_the_thread_of_its_parent():
    background._deliverer._due[ThreadContext()] = 1e12
    child = os.fork()
    if child == 0:
        os._exit(0 if not background._deliverer._due else 1)
    background._deliverer.reset()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_executor_of_the_host_leaves_events_to_the_worker(settings, use_servers, write_events):
    settings.OSVI_EXECUTOR = "myproject.queues.run_job"
    with WebhookServer() as server:
        use_servers(server)
        write_events_in_transaction(write_events, "s-1")
        assert server.calls == []
    assert event_executor() is None


def test_executor_that_fails_is_logged_and_the_event_waits(
    settings, use_servers, write_events, caplog
):
    settings.OSVI_EXECUTOR = "osvi_django.executors.immediate"

    def is_refused(sql, _params):
        return sql.startswith("SELECT") and "webhookreceiver" in sql

    with WebhookServer() as server, raise_on_queries(is_refused, OperationalError("a secret")):
        use_servers(server)
        write_events_in_transaction(write_events, "s-1")
    assert "events could not be passed to the executor: OperationalError" in caplog.text
    assert "a secret" not in caplog.text
    assert WebhookDelivery.objects.get().state == "pending"


def test_deliverer_that_ends_sends_what_is_due(use_servers, write_events):
    deliverer = background._Deliverer()
    deliverer.end()  # there is no thread yet
    deliverer.reset()
    with WebhookServer(http_response(status=400)) as server:
        use_servers(server)
        write_events("s-1")
        deliverer.wake(ThreadContext())
        deliverer.end()
        assert len(server.calls) == 1
    assert not is_running()
