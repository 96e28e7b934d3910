"""Test what is committed when, with real transactions, threads and a process that dies."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import connection, connections, transaction
from django.utils import timezone

from osvi_django.database import DatabaseNow
from osvi_django.exceptions import CloseInProgress, InsideTransaction, OSVINoAnswer, SessionNotFound
from osvi_django.models import ChatSession, CloseAttempt, SessionSummary
from osvi_django.services import close_session, close_session_by_id
from osvi_django.services.recovery import Settled, recover_all
from osvi_django.testing import Drop
from tests.helpers.processes import database_url
from tests.helpers.sandbox import mirror
from tests.helpers.waiting import TIMEOUT
from tests.services.helpers import run_at_once

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def session(osvi_sandbox, transactional_db):
    return mirror(osvi_sandbox, summary="All is well.")


class TestInsideTransaction:
    def test_close_inside_transaction_raises_and_sends_nothing(self, session, osvi_sandbox):
        with transaction.atomic(), pytest.raises(InsideTransaction):
            close_session(session)
        with transaction.atomic(), pytest.raises(RuntimeError):
            close_session_by_id(session.session_id)
        assert osvi_sandbox.requests == []
        assert not CloseAttempt.objects.exists()
        assert close_session(session).changed

    def test_close_without_autocommit_raises_and_sends_nothing(self, session, osvi_sandbox):
        transaction.set_autocommit(False)
        try:
            with pytest.raises(InsideTransaction):
                close_session(session)
            transaction.rollback()
        finally:
            transaction.set_autocommit(True)
        assert osvi_sandbox.requests == []

    @pytest.mark.django_db
    def test_close_inside_transaction_of_test_case_is_allowed(self, osvi_sandbox):
        session = mirror(osvi_sandbox, summary="All is well.")
        with transaction.atomic(), pytest.raises(InsideTransaction):
            close_session(session)
        assert close_session(session).changed


class TestCommittedSteps:
    def test_close_commits_claim_and_attempt_before_sending(self, session, osvi_sandbox):
        seen = {}

        def look(_chat):
            # The sandbox answers in a thread of its own, with a connection of its own.
            try:
                row = ChatSession.objects.get()
                seen.update(status=row.status, before=row.previous_status)
                seen["claimed_by"] = CloseAttempt.objects.get(claim=row.claim).outcome
                for seconds in (25, 31):
                    over_by_then = {"lease_until__lt": DatabaseNow() + timedelta(seconds=seconds)}
                    seen[seconds] = ChatSession.objects.filter(**over_by_then).count()
            finally:
                connection.close()
            return 0

        osvi_sandbox.latency = look
        close_session(session)
        claimed = {"status": "closing", "before": "active", "claimed_by": "started"}
        # A process that dies now has lost it in half a minute; one that lives renews it.
        assert seen == {**claimed, 25: 0, 31: 1}

    def test_close_when_clock_of_host_jumps_keeps_lease(self, session, osvi_sandbox, monkeypatch):
        errors = []
        tomorrow = timezone.now() + timedelta(days=1)

        def close_as_well(_chat):
            try:
                # This host's clock is a day ahead; the database's is not.
                monkeypatch.setattr(timezone, "now", lambda: tomorrow)
                close_session(ChatSession.objects.get())
            except CloseInProgress as error:
                errors.append(error)
            finally:
                monkeypatch.undo()
                connection.close()
            return 0

        osvi_sandbox.latency = close_as_well
        assert close_session(session).changed
        assert len(errors) == 1
        assert osvi_sandbox.close_requests(session.session_id) == 1

    def test_close_when_session_is_deleted_meanwhile_raises_not_found(
        self, session, osvi_sandbox, caplog
    ):
        def delete(_chat):
            try:
                ChatSession.objects.all().delete()
            finally:
                connection.close()
            return 0

        osvi_sandbox.latency = delete
        with pytest.raises(SessionNotFound):
            close_session(session)
        assert "was deleted while OSVI was asked" in caplog.text
        assert "All is well" not in caplog.text

    def test_close_closed_session_while_database_is_locked_returns_summary(self, session):
        if connection.vendor != "sqlite":
            pytest.skip("only SQLite has one lock for all writers")
        close_session(session)
        locked, done = threading.Event(), threading.Event()

        def write():
            with transaction.atomic():
                ChatSession.objects.update(customer_id="x")
                locked.set()
                done.wait(TIMEOUT)
            connection.close()

        thread = threading.Thread(target=write)
        thread.start()
        assert locked.wait(TIMEOUT)
        connection.cursor().execute("PRAGMA busy_timeout = 10")
        try:
            assert not close_session(session).changed
        finally:
            done.set()
            thread.join()

    def test_close_holds_no_connection_while_osvi_is_called(self, session, osvi_sandbox):
        closing_threads_wrapper = connections[connection.alias]
        held_then = []

        def look(_chat):
            held_then.append(closing_threads_wrapper.connection)
            return 0

        osvi_sandbox.latency = look
        connection.ensure_connection()
        close_session(session)
        assert held_then == [None]

    def test_close_when_process_dies_while_parsing_keeps_answer(self, session, osvi_sandbox):
        settings = {"OSVI_BASE_URL": osvi_sandbox.url, "OSVI_API_TOKEN": osvi_sandbox.token}
        died = subprocess.run(
            [sys.executable, "-c", DIES_OVER_READING, database_url(), session.session_id],
            env={**os.environ, **settings, "DJANGO_SETTINGS_MODULE": "example_project.settings"},
            cwd=ROOT,
            timeout=30,
        )
        assert died.returncode == 9
        attempt = CloseAttempt.objects.get()
        assert (attempt.outcome, attempt.http_status) == ("answered", 200)
        assert "All is well." in attempt.answer
        assert ChatSession.objects.get().status == "closing"


# The standard library's parser dies, as a crash in the middle would have it.
DIES_OVER_READING = """
import json, os, sys
import dj_database_url, django
from django.conf import settings
settings.DATABASES["default"] |= dj_database_url.parse(sys.argv[1])
django.setup()
from osvi_django.models import ChatSession
from osvi_django.services import close_session
session = ChatSession.objects.get(session_id=sys.argv[2])
raw_decode = json.JSONDecoder.raw_decode

def die_over_an_answer(decoder, text, idx=0):
    return os._exit(9) if "All is well." in text else raw_decode(decoder, text, idx)

json.JSONDecoder.raw_decode = die_over_an_answer
close_session(session)
"""


@pytest.mark.parametrize("by_id", [False, True])
def test_close_by_twenty_threads_sends_one_request(session, osvi_sandbox, by_id):
    osvi_sandbox.latency = 0.3
    results, errors = [], []
    start = threading.Barrier(20, timeout=TIMEOUT)

    def close():
        try:
            mine = ChatSession.objects.get()
            start.wait()
            if by_id:
                results.append(close_session_by_id(mine.session_id))
            else:
                results.append(close_session(mine))
        except CloseInProgress as error:
            errors.append(error)
        finally:
            connection.close()

    run_at_once(close, 20)
    assert osvi_sandbox.close_requests(session.session_id) == 1
    assert len(results) + len(errors) == 20
    assert [result.changed for result in results].count(True) == 1
    assert SessionSummary.objects.get().text == "All is well."
    assert CloseAttempt.objects.count() == 1


def test_close_by_id_of_unknown_session_by_ten_threads_sends_one_request(
    transactional_db, osvi_sandbox
):
    chat = osvi_sandbox.add_session(agent_uuid="agent_new", summary="All is well.")
    outcomes = []
    start = threading.Barrier(10, timeout=TIMEOUT)

    def close():
        try:
            start.wait()
            result = close_session_by_id(chat.id, agent_uuid="agent_new")
            outcomes.append("closed" if result.changed else "unchanged")
        except CloseInProgress as error:
            outcomes.append(error.code)
        finally:
            connection.close()

    run_at_once(close, 10)
    assert len(outcomes) == 10
    assert outcomes.count("closed") == 1
    assert osvi_sandbox.close_requests(chat.id) == 1
    assert ChatSession.objects.get().status == "closed"


def test_recover_all_by_five_threads_sends_one_request_per_session(transactional_db, osvi_sandbox):
    sessions = [mirror(osvi_sandbox, summary="All is well.") for _ in range(4)]
    for session in sessions:
        osvi_sandbox.script(session.session_id, Drop(after_closing=True))
        with pytest.raises(OSVINoAnswer):
            close_session(session)
    found = []
    start = threading.Barrier(5, timeout=TIMEOUT)

    def sweep():
        try:
            start.wait()
            found.extend(recover_all())
        finally:
            connection.close()

    run_at_once(sweep, 5)
    others = {Settled.UNCHANGED, Settled.ALREADY_SETTLED}
    assert {result.settled for result in found} <= {Settled.STORED, *others}
    assert [result.settled for result in found].count(Settled.STORED) == 4
    for session in sessions:
        assert osvi_sandbox.close_requests(session.session_id) == 2
    assert SessionSummary.objects.count() == 4
    assert CloseAttempt.objects.filter(kind=CloseAttempt.Kind.RECLOSE).count() == 4
