"""The database goes away between OSVI's answer and our write: for a moment, or for longer."""

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
from osvi_django.database import DatabaseNow, persist
from osvi_django.exceptions import AnswerNotStored, OSVINoAnswer, OSVIRejected
from osvi_django.models import ChatSession, CloseAttempt, SessionSummary
from osvi_django.services import close_again, close_session
from osvi_django.services.recovery import Settled, recover_all, recover_session
from osvi_django.testing import Drop, Junk, Status
from osvi_django.testing.factories import CloseAttemptFactory
from tests.mirroring import SUMMARY
from tests.outside import StopsAfter
from tests.waiting import PATIENCE

pytestmark = pytest.mark.django_db(transaction=True)

ATTEMPTS = "osvi_django_closeattempt"
SESSIONS = "osvi_django_chatsession"
SUMMARIES = "osvi_django_sessionsummary"


@pytest.fixture(autouse=True)
def spool_dir(settings, osvi_sandbox, tmp_path):
    """A spool of the test's own, and little patience."""
    directory = tmp_path / "spool"
    settings.OSVI["default"] |= {"SPOOL_DIR": directory, "DATABASE_RETRY_TIMEOUT": 0.3}
    return directory


@pytest.fixture
def lost():
    """The tables that are away."""
    return []


@pytest.fixture
def lose(osvi_sandbox, lost):
    """Take a table away while OSVI works on a close; ``bring`` ends that."""

    def _lose(table):
        def take_away(_chat):
            # In the sandbox's own thread, with a connection of its own.
            try:
                rename(table, f"{table}_away")
                lost.append(table)
            finally:
                connection.close()
            return 0

        osvi_sandbox.latency = take_away

    yield _lose
    bring_back(osvi_sandbox, lost)


@pytest.fixture
def bring(osvi_sandbox, lost):
    """Bring all tables back."""
    return lambda: bring_back(osvi_sandbox, lost)


def bring_back(osvi, lost):
    osvi.latency = 0
    while lost:
        table = lost.pop()
        rename(f"{table}_away", table)


def rename(old, new):
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {old} RENAME TO {new}")


def expire_lease():
    ChatSession.objects.filter(status="closing").update(lease_until=DatabaseNow())


class TestForAMoment:
    def test_a_connection_that_is_cut_is_made_anew(
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

    def test_work_is_tried_again_until_it_succeeds(self):
        tries = []

        def work():
            tries.append(1)
            if len(tries) < 3:
                raise OperationalError("deadlock")
            return "done"

        assert persist(work, using="default", patience=5) == "done"
        assert len(tries) == 3

    def test_patience_ends(self):
        def work():
            raise OperationalError("gone")

        with pytest.raises(OperationalError, match="gone"):
            persist(work, using="default", patience=0.2)

    def test_what_was_half_written_is_not_written(self, mirrored):
        session = mirrored()

        def work():
            ChatSession.objects.update(customer_id="half")
            raise OperationalError("gone")

        with pytest.raises(OperationalError):
            persist(work, using="default", patience=0)
        session.refresh_from_db()
        assert session.customer_id != "half"


@pytest.mark.django_db
def test_inside_a_test_case_nothing_is_tried_again():
    tries = []

    def work():
        tries.append(1)
        raise OperationalError("deadlock")

    with pytest.raises(OperationalError):
        persist(work, using="default", patience=5)
    assert len(tries) == 1


class MomentaryFault:
    """Cuts this thread's connection at the first query after OSVI was asked; locks an SQLite file.

    ``errors``: what came of that query.
    """

    def __init__(self):
        self.errors = []
        self._is_due = False

    def begin(self, _chat):
        """Let the next query fail; a latency of the sandbox."""
        self._is_due = True
        return 0

    def __call__(self, execute, sql, params, many, context):
        if not self._is_due:
            return execute(sql, params, many, context)
        self._is_due = False
        fault = locked if connection.vendor == "sqlite" else without_connection
        with fault():
            try:
                return execute(sql, params, many, context)
            except OperationalError as error:
                self.errors.append(error)
                raise


@contextmanager
def locked():
    """Another thread may write to the file, and this one's connection waits for hardly anything."""
    connection.connection.execute("PRAGMA busy_timeout = 10")
    is_locked, is_over = threading.Event(), threading.Event()

    def lock():
        connection.ensure_connection()
        connection.connection.execute("BEGIN IMMEDIATE")
        is_locked.set()
        is_over.wait(PATIENCE)
        connection.connection.rollback()
        connection.close()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(lock)
        try:
            assert is_locked.wait(PATIENCE)
            yield
        finally:
            is_over.set()


@contextmanager
def without_connection():
    """The server has ended this thread's connection."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(cut, own_id()).result()
    yield


def own_id():
    query = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT CONNECTION_ID()"}
    with connection.cursor() as cursor:
        cursor.execute(query[connection.vendor])
        return cursor.fetchone()[0]


def cut(victim):
    command = {"postgresql": "SELECT pg_terminate_backend(%s)", "mysql": "KILL %s"}
    try:
        with connection.cursor() as cursor:
            cursor.execute(command[connection.vendor], [victim])
    finally:
        connection.close()


class TestForLonger:
    def test_the_answer_waits_in_the_spool_and_recovery_brings_it_home(
        self, mirrored, osvi_sandbox, lose, bring, spool_dir, caplog
    ):
        session = mirrored()
        lose(ATTEMPTS)
        with pytest.raises(AnswerNotStored) as caught:
            close_session(session)
        assert caught.value.code == "unconfirmed"
        [path] = spool.waiting(spool_dir)
        assert spool.read(path).session == session.pk
        assert "refund" not in caplog.text
        bring()
        assert ChatSession.objects.get().status == "closing"
        [result] = recover_all()
        assert (result.settled, result.session) == (Settled.STORED, session)
        stored = ChatSession.objects.get()
        assert (stored.status, stored.summary.text) == ("closed", SUMMARY)
        assert "refund" in CloseAttempt.objects.get().answer
        assert list(spool.waiting(spool_dir)) == []
        assert osvi_sandbox.close_requests(session.session_id) == 1
        assert list(recover_all()) == []

    def test_an_answer_that_was_kept_is_applied_when_the_lease_is_over(
        self, mirrored, osvi_sandbox, lose, bring, spool_dir
    ):
        session = mirrored()
        lose(SUMMARIES)
        with pytest.raises(AnswerNotStored):
            close_session(session)
        bring()
        assert CloseAttempt.objects.get().outcome == "answered"
        assert not SessionSummary.objects.exists()
        expire_lease()
        [result] = recover_all()
        assert result.settled is Settled.STORED
        assert SessionSummary.objects.get().text == SUMMARY
        assert osvi_sandbox.close_requests(session.session_id) == 1
        assert not spool_dir.exists()

    def test_the_answer_to_a_fetch_waits_as_well(
        self, mirrored, osvi_sandbox, lose, bring, spool_dir
    ):
        session = mirrored()
        osvi_sandbox.script(session.session_id, Drop(after_closing=True))
        with pytest.raises(OSVINoAnswer):
            close_session(session)
        lose(ATTEMPTS)
        [result] = recover_all()
        assert (result.settled, "saved" in result.detail) == (Settled.UNCHANGED, True)
        bring()
        assert [result.settled for result in recover_all()] == [Settled.STORED]
        assert osvi_sandbox.close_requests(session.session_id) == 2

    def test_a_watch_goes_on_when_the_database_is_back(self, mirrored):
        rename(SESSIONS, f"{SESSIONS}_away")
        try:
            call_command(
                "osvi_recover", watch=0.1, stderr=StopsAfter("The database is unavailable", times=2)
            )
        finally:
            rename(f"{SESSIONS}_away", SESSIONS)

    def test_a_refusal_is_told_though_it_cannot_be_written(
        self, mirrored, osvi_sandbox, lose, bring
    ):
        session = mirrored()
        osvi_sandbox.script(session.session_id, Status(403, errors=["No."], close=True))
        lose(SESSIONS)
        with pytest.raises(OSVIRejected, match="No"):
            close_session(session)
        bring()
        expire_lease()
        [result] = recover_all()
        assert result.settled is Settled.REOPENED

    def test_where_even_the_spool_fails_one_line_says_which_session(
        self, mirrored, lose, bring, settings, caplog, tmp_path, monkeypatch
    ):
        (tmp_path / "file").write_text("")
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
        settings.OSVI["default"]["SPOOL_DIR"] = tmp_path / "file" / "spool"
        session = mirrored()
        lose(ATTEMPTS)
        with pytest.raises(OSVINoAnswer) as caught:
            close_session(session)
        assert not isinstance(caught.value, AnswerNotStored)
        [record] = [each for each in caplog.records if each.levelname == "CRITICAL"]
        assert session.session_id in record.getMessage()
        assert "refund" not in caplog.text

    def test_a_setting_that_broke_meanwhile_loses_nothing(
        self, mirrored, osvi_sandbox, settings, spool_dir
    ):
        session = mirrored()

        def break_it(_chat):
            settings.OSVI["default"]["DATABASE_RETRY_TIMEOUT"] = "long"
            return 0

        osvi_sandbox.latency = break_it
        assert close_session(session).summary.text == SUMMARY


class TestSpool:
    @pytest.fixture
    def spooled(self, mirrored, lose, bring, spool_dir):
        """A session whose answer is in the spool."""

        def _spooled():
            session = mirrored()
            lose(ATTEMPTS)
            with pytest.raises(AnswerNotStored):
                close_session(session)
            bring()
            return session

        return _spooled

    def test_a_refusal_that_waited_opens_the_session_again(
        self, spooled, osvi_sandbox, mirrored, lose, bring, spool_dir
    ):
        session = mirrored()
        osvi_sandbox.script(session.session_id, Status(403, errors=["No."], close=True))
        lose(ATTEMPTS)
        with pytest.raises(AnswerNotStored):
            close_session(session)
        bring()
        assert [result.settled for result in recover_all()] == [Settled.REOPENED]
        assert CloseAttempt.objects.get().error_reason == "No."
        assert list(spool.waiting(spool_dir)) == []

    def test_junk_that_waited_settles_nothing_and_osvi_is_asked(
        self, osvi_sandbox, mirrored, lose, bring, spool_dir
    ):
        session = mirrored()
        osvi_sandbox.script(session.session_id, Junk())
        lose(ATTEMPTS)
        with pytest.raises(AnswerNotStored):
            close_session(session)
        bring()
        found = [result.settled for result in recover_all()]
        assert found == [Settled.UNCHANGED, Settled.STORED]
        assert list(spool.waiting(spool_dir)) == []

    @pytest.mark.parametrize("ask", [recover_session, close_again])
    def test_whoever_looks_into_one_session_reads_it_first(
        self, spooled, osvi_sandbox, spool_dir, ask
    ):
        session = spooled()
        expire_lease()
        ask(session)
        assert session.summary.text == SUMMARY
        assert osvi_sandbox.close_requests(session.session_id) == 1
        assert list(spool.waiting(spool_dir)) == []

    def test_a_spool_that_cannot_be_read_stops_nobody(self, spooled, spool_dir, caplog):
        session = spooled()
        expire_lease()
        spool_dir.chmod(0o777)
        assert recover_session(session).settled is Settled.STORED  # from OSVI
        assert "cannot be read" in caplog.text

    def test_an_answer_whose_attempt_is_settled_is_thrown_away(self, spooled, spool_dir):
        spooled()
        CloseAttempt.objects.update(outcome="closed")
        assert list(recover_all()) == []
        assert list(spool.waiting(spool_dir)) == []

    def test_an_answer_of_another_projects_database_is_left(self, spooled, spool_dir, caplog):
        spooled()
        [path] = spool.waiting(spool_dir)
        other = replace(spool.read(path), claim=str(CloseAttemptFactory.build().claim))
        path.unlink()
        path = spool.put(spool_dir, other)
        assert list(recover_all()) == []
        assert path.exists()
        assert "belongs to no attempt here" in caplog.text

    @pytest.mark.parametrize("text", ["", "{}", '{"claim": "x", "body": ""}'])
    def test_a_file_that_is_no_answer_stays_and_stops_nothing(
        self, spooled, spool_dir, caplog, text
    ):
        spooled()
        bad = spool_dir / "0.json"
        bad.write_text(text)
        assert [result.settled for result in recover_all()] == [Settled.STORED]
        assert bad.exists()
        assert "stays there" in caplog.text

    def test_a_spool_that_others_may_write_is_not_read(self, spooled, spool_dir, caplog):
        spooled()
        spool_dir.chmod(0o777)
        assert list(recover_all()) == []
        assert "cannot be read" in caplog.text
        spool_dir.chmod(0o700)
        assert [result.settled for result in recover_all()] == [Settled.STORED]

    def test_a_file_that_another_recovery_took_is_not_missed(self, spooled, spool_dir):
        spooled()
        [path] = spool.waiting(spool_dir)
        (spool_dir / "0.json").symlink_to(spool_dir / "gone")
        assert [result.settled for result in recover_all()] == [Settled.STORED]
        assert not path.exists()


def test_one_connection_is_left(mirrored):
    close_session(mirrored())
    assert len(connections.all(initialized_only=True)) == 1
