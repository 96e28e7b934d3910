"""Test a database that is unavailable when an answer is stored: for a moment, or for longer."""

from __future__ import annotations

import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest
from django.core.management import call_command
from django.db import OperationalError, connection, connections

from osvi_django import spool
from osvi_django.database import persist
from osvi_django.exceptions import AnswerNotStored, OSVINoAnswer, OSVIRejected
from osvi_django.models import ChatSession, CloseAttempt, SessionSummary
from osvi_django.services import close_again, close_session
from osvi_django.services.recovery import Settled, recover_all, recover_session
from osvi_django.testing import Drop, Junk, Status
from osvi_django.testing.factories import CloseAttemptFactory
from tests.helpers.database import cut_connection, raise_on_queries
from tests.helpers.processes import TerminatingOutput
from tests.helpers.sandbox import SUMMARY
from tests.helpers.waiting import TIMEOUT
from tests.services.helpers import expire_leases

pytestmark = pytest.mark.django_db(transaction=True)

ATTEMPTS = "osvi_django_closeattempt"
SESSIONS = "osvi_django_chatsession"
SUMMARIES = "osvi_django_sessionsummary"


@pytest.fixture(autouse=True)
def spool_dir(settings, osvi_sandbox, tmp_path):
    """Set a spool directory for this test, and a short retry timeout."""
    directory = tmp_path / "spool"
    settings.OSVI["default"] |= {"SPOOL_DIR": directory, "DATABASE_RETRY_TIMEOUT": 0.3}
    return directory


@pytest.fixture
def missing_tables():
    """Return the list of tables that are renamed."""
    return []


@pytest.fixture
def lose_table(osvi_sandbox, missing_tables):
    """Return a function that lets a table disappear while OSVI works on a close."""

    def _lose_table(table):
        def take_away(_chat):
            # This runs in the sandbox's thread, which has its own connection.
            try:
                rename_table(table, f"{table}_away")
                missing_tables.append(table)
            finally:
                connection.close()
            return 0

        osvi_sandbox.latency = take_away

    yield _lose_table
    restore(osvi_sandbox, missing_tables)


@pytest.fixture
def restore_tables(osvi_sandbox, missing_tables):
    """Return a function that restores all tables."""
    return lambda: restore(osvi_sandbox, missing_tables)


def restore(osvi, missing_tables):
    osvi.latency = 0
    while missing_tables:
        table = missing_tables.pop()
        rename_table(f"{table}_away", table)


def rename_table(old, new):
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {old} RENAME TO {new}")


class TestShortOutage:
    def test_close_with_broken_connection_connects_again(
        self, mirrored, osvi_sandbox, spool_dir, settings
    ):
        settings.OSVI["default"]["DATABASE_RETRY_TIMEOUT"] = (
            5  # it may be busy, and is back at once
        )
        session = mirrored()
        fault = MomentaryFault()
        osvi_sandbox.latency = fault.begin
        with connection.execute_wrapper(fault):
            result = close_session(session)
        assert len(fault.errors) == 1
        assert (result.changed, result.summary.text) == (True, SUMMARY)
        assert CloseAttempt.objects.get().outcome == "closed"
        assert not list(spool_dir.glob("*.json"))  # on a busy machine it may have waited there

    def test_persist_with_temporary_error_repeats_work(self):
        tries = []

        def work():
            tries.append(1)
            if len(tries) < 3:
                raise OperationalError("deadlock")
            return "done"

        assert persist(work, using="default", patience=5) == "done"
        assert len(tries) == 3

    def test_persist_with_lasting_error_raises_when_time_is_over(self):
        def work():
            raise OperationalError("gone")

        with pytest.raises(OperationalError, match="gone"):
            persist(work, using="default", patience=0.2)

    def test_persist_with_error_rolls_back(self, mirrored):
        session = mirrored()

        def work():
            ChatSession.objects.update(customer_id="half")
            raise OperationalError("gone")

        with pytest.raises(OperationalError):
            persist(work, using="default", patience=0)
        session.refresh_from_db()
        assert session.customer_id != "half"


@pytest.mark.django_db
def test_persist_inside_test_case_does_not_repeat_work():
    tries = []

    def work():
        tries.append(1)
        raise OperationalError("deadlock")

    with pytest.raises(OperationalError):
        persist(work, using="default", patience=5)
    assert len(tries) == 1


class MomentaryFault:
    """Break this thread's connection once, at the first query after OSVI was called.

    SQLite has no server, so its file is locked instead. ``errors`` has the error of that query.
    """

    def __init__(self):
        self.errors = []
        self._is_due = False

    def begin(self, _chat):
        """Let the next query fail; used as latency of the sandbox."""
        self._is_due = True
        return 0

    def __call__(self, execute, sql, params, many, context):
        if not self._is_due:
            return execute(sql, params, many, context)
        self._is_due = False
        fault = lock_sqlite if connection.vendor == "sqlite" else connection_is_cut
        with fault():
            try:
                return execute(sql, params, many, context)
            except OperationalError as error:
                self.errors.append(error)
                raise


@contextmanager
def connection_is_cut():
    cut_connection()
    yield


@contextmanager
def lock_sqlite():
    """Lock the SQLite file from another thread, and let this connection wait only 10 ms."""
    connection.connection.execute("PRAGMA busy_timeout = 10")
    is_locked, is_over = threading.Event(), threading.Event()

    def lock():
        connection.ensure_connection()
        connection.connection.execute("BEGIN IMMEDIATE")
        is_locked.set()
        is_over.wait(TIMEOUT)
        connection.connection.rollback()
        connection.close()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(lock)
        try:
            assert is_locked.wait(TIMEOUT)
            yield
        finally:
            is_over.set()


class TestLongOutage:
    def test_close_without_database_spools_answer_and_recovery_stores_it(
        self, mirrored, osvi_sandbox, lose_table, restore_tables, spool_dir, caplog
    ):
        session = mirrored()
        lose_table(ATTEMPTS)
        with pytest.raises(AnswerNotStored) as caught:
            close_session(session)
        assert caught.value.code == "unconfirmed"
        [path] = spool.waiting(spool_dir)
        assert spool.read(path).session == session.pk
        assert "refund" not in caplog.text
        restore_tables()
        assert ChatSession.objects.get().status == "closing"
        [result] = recover_all()
        assert (result.settled, result.session) == (Settled.STORED, session)
        stored = ChatSession.objects.get()
        assert (stored.status, stored.summary.text) == ("closed", SUMMARY)
        assert "refund" in CloseAttempt.objects.get().answer
        assert list(spool.waiting(spool_dir)) == []
        assert osvi_sandbox.close_requests(session.session_id) == 1
        assert list(recover_all()) == []

    def test_recover_all_with_stored_answer_and_expired_lease_settles_session(
        self, mirrored, osvi_sandbox, lose_table, restore_tables, spool_dir
    ):
        session = mirrored()
        lose_table(SUMMARIES)
        with pytest.raises(AnswerNotStored):
            close_session(session)
        restore_tables()
        assert CloseAttempt.objects.get().outcome == "answered"
        assert not SessionSummary.objects.exists()
        expire_leases()
        [result] = recover_all()
        assert result.settled is Settled.STORED
        assert SessionSummary.objects.get().text == SUMMARY
        assert osvi_sandbox.close_requests(session.session_id) == 1
        assert not spool_dir.exists()

    def test_recover_all_without_database_spools_answer_of_second_close(
        self, mirrored, osvi_sandbox, lose_table, restore_tables, spool_dir
    ):
        session = mirrored()
        osvi_sandbox.script(session.session_id, Drop(after_closing=True))
        with pytest.raises(OSVINoAnswer):
            close_session(session)
        lose_table(ATTEMPTS)
        [result] = recover_all()
        assert (result.settled, "saved" in result.detail) == (Settled.UNCHANGED, True)
        restore_tables()
        assert [result.settled for result in recover_all()] == [Settled.STORED]
        assert osvi_sandbox.close_requests(session.session_id) == 2

    def test_recover_command_with_watch_continues_after_outage(self, mirrored):
        stderr = TerminatingOutput("The database is unavailable", times=2)
        with raise_on_queries(lambda _sql, _params: True, OperationalError("gone")):
            call_command("osvi_recover", watch=0.1, stderr=stderr)

    def test_close_when_refused_without_database_raises_rejected(
        self, mirrored, osvi_sandbox, lose_table, restore_tables
    ):
        session = mirrored()
        osvi_sandbox.script(session.session_id, Status(403, errors=["No."], close=True))
        lose_table(SESSIONS)
        with pytest.raises(OSVIRejected, match="No"):
            close_session(session)
        restore_tables()
        expire_leases()
        [result] = recover_all()
        assert result.settled is Settled.REOPENED

    def test_close_without_database_and_spool_logs_session_id(
        self, mirrored, lose_table, restore_tables, settings, caplog, tmp_path, monkeypatch
    ):
        (tmp_path / "file").write_text("")
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
        settings.OSVI["default"]["SPOOL_DIR"] = tmp_path / "file" / "spool"
        session = mirrored()
        lose_table(ATTEMPTS)
        with pytest.raises(OSVINoAnswer) as caught:
            close_session(session)
        assert not isinstance(caught.value, AnswerNotStored)
        [record] = [each for each in caplog.records if each.levelname == "CRITICAL"]
        assert session.session_id in record.getMessage()
        assert "refund" not in caplog.text

    def test_close_when_setting_becomes_invalid_meanwhile_stores_summary(
        self, mirrored, osvi_sandbox, settings, spool_dir
    ):
        session = mirrored()

        def break_it(_chat):
            settings.OSVI["default"]["DATABASE_RETRY_TIMEOUT"] = "long"
            return 0

        osvi_sandbox.latency = break_it
        assert close_session(session).summary.text == SUMMARY


class TestSpooledAnswer:
    @pytest.fixture
    def make_spooled_session(self, mirrored, lose_table, restore_tables, spool_dir):
        """Return a function that creates a session whose answer is in the spool."""

        def _make_spooled_session():
            session = mirrored()
            lose_table(ATTEMPTS)
            with pytest.raises(AnswerNotStored):
                close_session(session)
            restore_tables()
            return session

        return _make_spooled_session

    def test_recover_all_with_spooled_refusal_reopens_session(
        self, make_spooled_session, osvi_sandbox, mirrored, lose_table, restore_tables, spool_dir
    ):
        session = mirrored()
        osvi_sandbox.script(session.session_id, Status(403, errors=["No."], close=True))
        lose_table(ATTEMPTS)
        with pytest.raises(AnswerNotStored):
            close_session(session)
        restore_tables()
        assert [result.settled for result in recover_all()] == [Settled.REOPENED]
        assert CloseAttempt.objects.get().error_reason == "No."
        assert list(spool.waiting(spool_dir)) == []

    def test_recover_all_with_spooled_junk_asks_osvi(
        self, osvi_sandbox, mirrored, lose_table, restore_tables, spool_dir
    ):
        session = mirrored()
        osvi_sandbox.script(session.session_id, Junk())
        lose_table(ATTEMPTS)
        with pytest.raises(AnswerNotStored):
            close_session(session)
        restore_tables()
        found = [result.settled for result in recover_all()]
        assert found == [Settled.UNCHANGED, Settled.STORED]
        assert list(spool.waiting(spool_dir)) == []

    @pytest.mark.parametrize("ask", [recover_session, close_again])
    def test_recovery_of_one_session_reads_spool_first(
        self, make_spooled_session, osvi_sandbox, spool_dir, ask
    ):
        session = make_spooled_session()
        expire_leases()
        ask(session)
        assert session.summary.text == SUMMARY
        assert osvi_sandbox.close_requests(session.session_id) == 1
        assert list(spool.waiting(spool_dir)) == []

    def test_recovery_of_one_session_with_unreadable_spool_asks_osvi(
        self, make_spooled_session, spool_dir, caplog
    ):
        session = make_spooled_session()
        expire_leases()
        spool_dir.chmod(0o777)
        assert recover_session(session).settled is Settled.STORED  # from OSVI
        assert "cannot be read" in caplog.text

    def test_recover_all_with_answer_of_settled_attempt_deletes_file(
        self, make_spooled_session, spool_dir
    ):
        make_spooled_session()
        CloseAttempt.objects.update(outcome="closed")
        assert list(recover_all()) == []
        assert list(spool.waiting(spool_dir)) == []

    def test_recover_all_with_answer_of_other_database_keeps_file(
        self, make_spooled_session, spool_dir, caplog
    ):
        make_spooled_session()
        [path] = spool.waiting(spool_dir)
        other = replace(spool.read(path), claim=str(CloseAttemptFactory.build().claim))
        path.unlink()
        path = spool.put(spool_dir, other)
        assert list(recover_all()) == []
        assert path.exists()
        assert "belongs to no attempt here" in caplog.text

    @pytest.mark.parametrize("text", ["", "{}", '{"claim": "x", "body": ""}'])
    def test_recover_all_with_invalid_file_keeps_it_and_continues(
        self, make_spooled_session, spool_dir, caplog, text
    ):
        make_spooled_session()
        bad = spool_dir / "0.json"
        bad.write_text(text)
        assert [result.settled for result in recover_all()] == [Settled.STORED]
        assert bad.exists()
        assert "is kept there" in caplog.text

    def test_recover_all_with_world_writable_spool_does_not_read_it(
        self, make_spooled_session, spool_dir, caplog
    ):
        make_spooled_session()
        spool_dir.chmod(0o777)
        assert list(recover_all()) == []
        assert "cannot be read" in caplog.text
        spool_dir.chmod(0o700)
        assert [result.settled for result in recover_all()] == [Settled.STORED]

    def test_recover_all_with_file_deleted_meanwhile_continues(
        self, make_spooled_session, spool_dir, caplog
    ):
        make_spooled_session()
        make_spooled_session()
        found = recover_all()
        assert next(found).settled is Settled.STORED
        for path in list(spool.waiting(spool_dir)):
            path.unlink()
        assert list(found) == []
        assert "stays there" not in caplog.text


def test_close_leaves_one_connection(mirrored):
    close_session(mirrored())
    assert len(connections.all(initialized_only=True)) == 1
