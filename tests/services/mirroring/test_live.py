"""Test how a session is kept up to date while somebody looks at it."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.db import OperationalError, connection, transaction
from django.utils import timezone

from osvi_django.database import DatabaseNow
from osvi_django.exceptions import InsideTransaction
from osvi_django.models import ChatSession
from osvi_django.services import close_session, sync_open
from osvi_django.services.mirroring import live, refresh_watched
from osvi_django.testing import Drop, Hang, Junk, Status
from osvi_django.testing.factories import ChatSessionFactory
from tests.helpers.database import raise_on_queries
from tests.helpers.sandbox import CallThenAnswer
from tests.helpers.waiting import TIMEOUT
from tests.services.helpers import claim_elsewhere

LONG_AGO = timezone.now() - timedelta(hours=1)


@pytest.mark.django_db
class TestRefreshWatched:
    def test_refresh_mirrors_what_has_changed(self, mirrored, osvi_sandbox):
        session = mirrored()
        osvi_sandbox.sessions[session.session_id].change(mode="support", help_requested=True)
        assert refresh_watched(session)
        session.refresh_from_db()
        assert (session.mode, session.help_requested) == ("support", True)
        assert session.synced_at is not None

    def test_refresh_before_interval_has_passed_asks_nothing(
        self, mirrored, osvi_sandbox, settings
    ):
        settings.OSVI["default"]["LIVE_INTERVAL"] = 60
        session = mirrored(synced_at=timezone.now() - timedelta(seconds=50))
        assert not refresh_watched(session)
        assert osvi_sandbox.requests == []
        settings.OSVI["default"]["LIVE_INTERVAL"] = 40
        assert [refresh_watched(session), refresh_watched(session)] == [True, False]
        assert len(osvi_sandbox.requests) == 1

    def test_refresh_with_interval_of_zero_asks_nothing(self, mirrored, osvi_sandbox, settings):
        settings.OSVI["default"]["LIVE_INTERVAL"] = 0
        assert not refresh_watched(mirrored())
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize(
        "fields", [{"status": "closed"}, {"customer_id": ""}, {"agent__uuid": None}]
    )
    def test_refresh_of_session_that_cannot_be_asked_about_asks_nothing(self, osvi_sandbox, fields):
        assert not refresh_watched(ChatSessionFactory(**fields))
        assert osvi_sandbox.requests == []

    def test_refresh_of_session_not_listed_changes_nothing(self, mirrored, osvi_sandbox):
        session = mirrored()
        osvi_sandbox.sessions[session.session_id].change(status="closed")
        assert refresh_watched(session)
        session.refresh_from_db()
        # It may be closed: a look-up that can find that out is due as before.
        assert (session.status, session.synced_at) == ("active", None)
        assert not refresh_watched(session)

    def test_refresh_mirrors_later_chat_of_customer(self, mirrored, osvi_sandbox):
        session = mirrored()
        osvi_sandbox.sessions[session.session_id].change(status="closed")
        osvi_sandbox.add_session(agent_uuid=session.agent.uuid, customer_id=session.customer_id)
        assert refresh_watched(session)
        assert ChatSession.objects.count() == 2
        session.refresh_from_db()
        assert session.synced_at is None

    @pytest.mark.parametrize("fault", [Status(500), Junk(), Status(429), Status(401)], ids=repr)
    def test_refresh_with_error_of_osvi_only_logs_it(self, mirrored, osvi_sandbox, caplog, fault):
        session = mirrored()
        osvi_sandbox.script(None, fault)
        assert not refresh_watched(session)
        assert session.customer_id not in caplog.text
        assert f"watched session '{session.session_id}' could not be looked up" in caplog.text

    @pytest.mark.parametrize("before", [None, LONG_AGO])
    @pytest.mark.parametrize("fault", [Status(500), Junk(), Drop()], ids=repr)
    def test_refresh_that_failed_keeps_last_look_and_is_not_repeated_within_interval(
        self, mirrored, osvi_sandbox, settings, fault, before
    ):
        session = mirrored(synced_at=before)
        osvi_sandbox.script(None, fault)
        assert [refresh_watched(session) for _number in range(3)] == [False] * 3
        assert len(osvi_sandbox.requests) == 1
        session.refresh_from_db()
        assert session.synced_at == before
        ChatSession.objects.update(lease_until=DatabaseNow() - timedelta(seconds=1))
        assert refresh_watched(session)
        session.refresh_from_db()
        assert session.synced_at > LONG_AGO

    def test_refresh_leaves_claim_of_close_in_progress_as_it_is(self, mirrored, osvi_sandbox):
        session = mirrored()
        claim_elsewhere(ChatSession.objects.get(), ends_in=60)
        lease = ChatSession.objects.get().lease_until
        assert not refresh_watched(session)
        assert (ChatSession.objects.get().lease_until, osvi_sandbox.requests) == (lease, [])

    def test_session_that_could_not_be_looked_up_can_be_closed(self, mirrored, osvi_sandbox):
        session = mirrored()
        osvi_sandbox.script(None, Drop())
        assert not refresh_watched(session)
        assert close_session(session).changed

    def test_session_that_could_not_be_looked_up_is_due_for_sync(self, mirrored, osvi_sandbox):
        session = mirrored(synced_at=LONG_AGO)
        osvi_sandbox.script(None, Drop())
        assert not refresh_watched(session)
        sync_open(older_than=timedelta(minutes=30))
        session.refresh_from_db()
        assert session.synced_at > LONG_AGO

    def test_refresh_with_invalid_setting_only_logs_it(self, mirrored, settings, caplog):
        settings.OSVI["default"]["LIVE_INTERVAL"] = "often"
        assert not refresh_watched(mirrored())
        assert "could not be looked up" in caplog.text

    def test_refresh_with_unavailable_database_only_logs_it(self, mirrored, caplog):
        session = mirrored()

        def is_update(sql, _params):
            return sql.startswith("UPDATE")

        with raise_on_queries(is_update, OperationalError()):
            assert not refresh_watched(session)
        assert "could not be looked up" in caplog.text

    def test_refresh_waits_only_a_few_seconds(self, mirrored, osvi_sandbox, monkeypatch):
        monkeypatch.setattr(live, "_PATIENCE", 0.2)
        session = mirrored()
        osvi_sandbox.script(None, Hang())
        assert not refresh_watched(session)

    def test_refresh_inside_transaction_raises(self, mirrored):
        session = mirrored()
        with transaction.atomic(), pytest.raises(InsideTransaction):
            refresh_watched(session)


@pytest.mark.django_db(transaction=True)
class TestConcurrentViewers:
    def test_of_several_viewers_one_asks(self, mirrored, osvi_sandbox):
        session = mirrored(synced_at=LONG_AGO)
        start, asked = threading.Barrier(4, timeout=TIMEOUT), []

        def look():
            start.wait()
            try:
                asked.append(refresh_watched(session))
            finally:
                connection.close()

        threads = [threading.Thread(target=look) for _number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(asked) == [False, False, False, True]
        assert len(osvi_sandbox.requests) == 1

    def test_while_threads_wait_for_osvi_others_do_not(self, mirrored, osvi_sandbox):
        waiting = [mirrored() for _number in range(2)]
        other = mirrored()
        both, ends = threading.Barrier(3, timeout=TIMEOUT), threading.Event()

        def wait():
            both.wait()
            ends.wait(TIMEOUT)

        def look(session):
            try:
                refresh_watched(session)
            finally:
                connection.close()

        osvi_sandbox.script(None, *[CallThenAnswer(wait)] * 2)
        threads = [threading.Thread(target=look, args=[each]) for each in waiting]
        for thread in threads:
            thread.start()
        both.wait()
        assert not refresh_watched(other)
        ends.set()
        for thread in threads:
            thread.join()
        other.refresh_from_db()
        assert (other.synced_at, len(osvi_sandbox.requests)) == (None, 2)
        assert refresh_watched(other)
