"""The database refuses a row, or is unavailable, while answers arrive."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress

import pytest
from django.core.management import call_command
from django.db import DatabaseError, OperationalError, ProgrammingError, connection

from osvi_django.database import DatabaseNow
from osvi_django.models import ChatSession, CloseAttempt, CloseJob, CloseJobItem, SessionSummary
from osvi_django.services.jobs import create_close_job, progress_of, run_close_job
from osvi_django.testing import Status
from tests.helpers.database import raise_on_queries
from tests.helpers.sandbox import CallThenAnswer

pytestmark = pytest.mark.django_db(transaction=True)

ANSWERS = ("osvi_django_closeattempt", "answer")
SUMMARIES = ("osvi_django_sessionsummary", "text")


@pytest.fixture(autouse=True)
def short_timeouts(settings, osvi_sandbox, tmp_path):
    """Set short leases, a spool of the test's own, and four closes at once."""
    settings.OSVI["default"] |= {"DEADLINE": 3, "CONNECT_TIMEOUT": 3, "LEASE_TIMEOUT": 2}
    settings.OSVI["default"] |= {"DATABASE_RETRY_TIMEOUT": 0.3, "CONCURRENCY": 4}
    settings.OSVI["default"] |= {"SPOOL_DIR": tmp_path / "spool"}


@pytest.fixture
def refuse():
    """Let the database refuse texts with the word "poison" in a column, until ``accept``."""
    refused = []

    def _refuse(table, column):
        refused.append(table)
        execute(*REFUSE[connection.vendor == "sqlite"](table, column))

    def accept():
        while refused:
            execute(*ACCEPT[connection.vendor == "sqlite"](refused.pop()))

    _refuse.accept = accept
    yield _refuse
    accept()


def refuse_by_triggers(table, column):
    """Return the statements for SQLite, which cannot add a constraint to an existing table."""
    for event in ("INSERT", "UPDATE"):
        yield (
            f"CREATE TRIGGER poison_{event} BEFORE {event} ON {table} "
            f"WHEN NEW.{column} LIKE '%poison%' BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )


def refuse_by_constraint(table, column):
    """Return the statement for databases that can add a constraint."""
    yield f"ALTER TABLE {table} ADD CONSTRAINT poison CHECK (NOT {column} LIKE '%poison%')"


REFUSE = {True: refuse_by_triggers, False: refuse_by_constraint}
ACCEPT = {
    True: lambda table: ("DROP TRIGGER poison_INSERT", "DROP TRIGGER poison_UPDATE"),
    False: lambda table: (f"ALTER TABLE {table} DROP CONSTRAINT poison",),
}


def execute(*statements):
    """Run SQL statements."""
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


@pytest.fixture
def poisoned_session(chats):
    """Make eight sessions, and return the one whose summary the database will refuse."""
    chats(3)
    (poisoned,) = chats(1, summary="poison")
    chats(4)
    return poisoned


def test_answer_that_database_refuses_goes_to_spool(
    poisoned_session, refuse, close_all, outcomes, tmp_path, caplog
):
    refuse(*ANSWERS)
    job = close_all()
    assert outcomes(job).pop(poisoned_session.session_id) == "unconfirmed"
    assert (job.status, job.succeeded, job.unconfirmed) == ("completed_with_errors", 7, 1)
    assert SessionSummary.objects.count() == 7
    assert [each for each in (tmp_path / "spool").iterdir() if b"poison" not in each.read_bytes()]
    assert f"attempt {job.items.get(session=poisoned_session).attempt_id} cannot" in caplog.text
    # PostgreSQL quotes the row that it refuses.
    assert '"success"' not in caplog.text


def test_recover_after_database_accepts_stores_spooled_summary(
    poisoned_session, refuse, close_all, tmp_path
):
    refuse(*ANSWERS)
    close_all()
    refuse.accept()
    call_command("osvi_recover")
    assert SessionSummary.objects.get(session=poisoned_session).text == "poison"
    assert list((tmp_path / "spool").iterdir()) == []


def test_summary_that_database_refuses_stops_no_other_session(
    poisoned_session, refuse, outcomes, osvi_sandbox
):
    refuse(*SUMMARIES)
    stop = threading.Event()
    job = create_close_job(ChatSession.objects.all(), start=False)
    run_close_job(job.pk, stop=stop, on_progress=lambda job: job.done == 7 and stop.set())
    end_leases()
    job = run_close_job(job.pk)
    assert outcomes(job).pop(poisoned_session.session_id) == "unconfirmed"
    assert (job.status, job.succeeded, job.unconfirmed) == ("completed_with_errors", 7, 1)
    attempt = CloseAttempt.objects.get(session=poisoned_session)
    assert (attempt.outcome, "poison" in attempt.answer) == ("answered", True)
    assert osvi_sandbox.close_requests(poisoned_session.session_id) == 1


def end_leases():
    """End all leases: an in-memory database does not renew them, and so they last for long."""
    for model in (ChatSession, CloseJobItem):
        model.objects.exclude(lease_until=None).update(lease_until=DatabaseNow())


@pytest.fixture(params=[OperationalError, ProgrammingError])
def start_outage(request):
    """Return a function that makes the table of attempts unavailable for a second, once.

    No table is really renamed: MariaDB would wait for the open transactions, which may in turn
    wait for the rename, and does not detect that.
    """
    is_database_unavailable, once = threading.Event(), threading.Lock()
    back = threading.Timer(1, is_database_unavailable.clear)

    def go():
        if once.acquire(blocking=False):
            is_database_unavailable.set()
            back.start()

    def is_refused(sql, _params):
        return is_database_unavailable.is_set() and ANSWERS[0] in sql

    with raise_on_queries(is_refused, request.param("away")):
        yield go
    back.join()


def test_job_when_database_fails_at_first_answers_completes(
    chats, osvi_sandbox, outcomes, start_outage
):
    chats(12)
    job = create_close_job(ChatSession.objects.all(), start=False)
    osvi_sandbox.latency = lambda _chat: start_outage() or 0
    ended = run_until_finished(job)
    assert set(outcomes(ended).values()) == {"closed"}
    assert ended.succeeded == SessionSummary.objects.count() == 12
    assert {osvi_sandbox.closes(each) for each in outcomes(ended)} == {1}
    assert not ChatSession.objects.exclude(status="closed").exists()


def test_job_when_database_fails_after_remote_check_completes(chats, osvi_sandbox, start_outage):
    """The session was closed at OSVI, and that cannot be stored at first."""
    (session,) = chats(1)
    osvi_sandbox.sessions[session.session_id].status = "closed"
    osvi_sandbox.script(session.session_id, Status(409))
    osvi_sandbox.script(None, CallThenAnswer(start_outage))
    job = run_until_finished(create_close_job([session], start=False))
    session.refresh_from_db()
    assert (job.status, job.succeeded, session.status) == ("completed", 1, "closed")
    assert CloseAttempt.objects.filter(outcome="rejected").count() == 1


def run_until_finished(job):
    """Run a job again after each database error, as ``osvi_worker --watch`` does."""
    ends_at = time.monotonic() + 60  # an in-memory database renews no lease
    while not job.is_finished and time.monotonic() < ends_at:
        with suppress(DatabaseError):
            job = run_close_job(job.pk)
    return job


def test_progress_of_running_job_has_rate_and_seconds_left(chats, osvi_sandbox):
    sessions, is_seen, calls = chats(30), threading.Event(), []
    # The last answer comes after the first progress, however slow the machine is.
    last = sessions[-1].session_id
    osvi_sandbox.latency = lambda chat: 0 if chat.id != last or is_seen.wait(20) else 20
    job = create_close_job(ChatSession.objects.all(), start=False)

    def note(job):
        calls.append((job.done, progress_of(job)))
        is_seen.set()

    run_close_job(job.pk, on_progress=note)
    done, progress = calls[0]
    assert 0 < done < 30
    assert progress.counts["closed"] == done
    assert progress.per_second > 0
    assert 0 < progress.seconds_left == pytest.approx((30 - done) / progress.per_second, rel=0.5)


def test_error_in_sending_thread_leaves_one_session_unconfirmed(chats, close_all, outcomes, caplog):
    first = chats(6)[0]

    class Broken(logging.Filter):
        def filter(self, record):
            if first.session_id in record.getMessage():
                raise RuntimeError("a filter of the host")
            return True

    logger, broken = logging.getLogger("osvi_django.client"), Broken()
    caplog.set_level(logging.INFO, logger.name)
    logger.addFilter(broken)
    try:
        job = close_all()
    finally:
        logger.removeFilter(broken)
    assert outcomes(job).pop(first.session_id) == "unconfirmed"
    assert (job.succeeded, CloseJob.objects.get().unconfirmed) == (5, 1)
