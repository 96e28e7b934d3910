"""Helpers that several test modules of services share."""

from __future__ import annotations

import threading
from datetime import timedelta

from django.db import OperationalError, connection

from osvi_django.database import DatabaseNow
from osvi_django.models import ChatSession
from osvi_django.testing.factories import CloseAttemptFactory
from tests.helpers.database import raise_on_queries
from tests.helpers.waiting import wait_until

BEFORE = "2026-06-04T11:40:25.690486Z"
AFTER = "2026-06-04T11:50:00Z"
# What OSVI answers to a start in the legacy dialect.
STARTED = {
    "session_id": "s-1",
    "agent_name": "Maya",
    "started_at": "2026-06-04T11:40:25.690486",
    "welcome_message": "Hello!",
}


def session_object(**fields):
    """Return a session object of Chat v1."""
    return {
        "id": "s-1",
        "chat_agent_id": 42,
        "account_id": 7,
        "customer_id": "+1555",
        "mode": "ai",
        "help_requested": False,
        "status": "active",
        "current_state": None,
        "metadata": {"input_fields": {}, "state_fields": {}, "context": []},
        "active_human": None,
        "created_at": BEFORE,
        "updated_at": BEFORE,
        **fields,
    }


def stored_values(session_id="s-1"):
    """Return status, mode, active human and help_requested as they are stored."""
    session = ChatSession.objects.get(session_id=session_id)
    return session.status, session.mode, session.active_human, session.help_requested


def mirrored_close(session):
    """Return via, requester and reason of the attempt for a session that OSVI closed."""
    attempt = session.attempts.get()
    assert (attempt.kind, attempt.outcome) == ("mirrored", "closed")
    assert None not in (attempt.claim, attempt.finished_at)
    assert attempt.note == ""  # a code is stored, and translated when it is shown
    return attempt.via, attempt.requested_by, attempt.reason


def expire_leases():
    """End the leases of all sessions, when no heartbeat can renew them any more."""
    wait_until(lambda: not any(each.name == "osvi-heartbeat" for each in threading.enumerate()))
    ChatSession.objects.exclude(lease_until=None).update(lease_until=DatabaseNow())


def run_together(*works):
    """Run each of these in its own thread at once; return the errors."""
    errors = []
    barrier = threading.Barrier(len(works))

    def run(work):
        try:
            barrier.wait(10)
            work()
        except Exception as error:  # noqa: BLE001
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return errors


def run_at_once(target, count):
    """Run ``target`` in ``count`` threads, and wait for them."""
    threads = [threading.Thread(target=target) for _number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def claim_elsewhere(session, *, ends_in=-1, **fields):
    """Store the claim of another process, with a lease that ends in ``ends_in`` seconds.

    A lease that has expired is what a process leaves that dies after claiming. Return the attempt,
    which has these fields.
    """
    attempt = CloseAttemptFactory(session=session, **fields)
    ChatSession.objects.filter(pk=session.pk).update(
        status="closing",
        previous_status="active",
        claim=attempt.claim,
        lease_until=DatabaseNow() + timedelta(seconds=ends_in),
    )
    session.refresh_from_db()
    return attempt


def answers_refused():
    """Return a context manager in which the database does not store answers of OSVI."""

    def is_refused(sql, _params):
        return sql.startswith("UPDATE") and "closeattempt" in sql

    return raise_on_queries(is_refused, OperationalError("the database is away"))
