"""Test the watch that keeps open sessions true for as long as it runs."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.db import DataError, OperationalError, connections, transaction
from django.utils import timezone

from osvi_django.client import throttle
from osvi_django.exceptions import InsideTransaction, InvalidInput
from osvi_django.models import ChatSession
from osvi_django.services import WatchTrouble, watch_open
from osvi_django.testing import Status
from osvi_django.testing.factories import ChatSessionFactory
from tests.helpers.database import (
    database_unavailable_in_threads,
    raise_on_queries,
    wrap_queries_in_threads,
)
from tests.helpers.sandbox import mirror
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

THREAD = "osvi-watch-default"
ACTIVE = "/v1/chat/session/active"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    """Shorten the pauses of the throttle."""
    monkeypatch.setattr(throttle, "PAUSES", (0.05, 0.1, 0.15))


@pytest.fixture
def watching():
    """Return a context manager that watches in another thread; it yields the list of troubles."""

    @contextmanager
    def _watching(seconds=0.4, around=None):
        stop, troubles, failed = threading.Event(), [], []

        def work():
            try:
                watch_open(seconds=seconds, stop=stop, on_trouble=troubles.append)
            except BaseException as error:
                failed.append(error)
                raise
            finally:
                connections.close_all()

        def run():
            if around is None:
                work()
            else:
                with around():
                    work()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield troubles
        finally:
            stop.set()
            thread.join(60)
            assert not thread.is_alive()
            assert failed == []

    return _watching


def is_flagged(session):
    return ChatSession.objects.get(pk=session.pk).help_requested


def number_of_look_ups(osvi, session):
    asked = [each for each in list(osvi.requests) if each.path == ACTIVE]
    return sum(each.query["customer_id"] == session.customer_id for each in asked)


def test_flag_that_is_raised_later_is_stored(mirrored, osvi_sandbox, watching):
    session, quiet = mirrored(), mirrored(last_activity_at=timezone.now() - timedelta(days=3))
    with watching() as troubles:
        wait_until(lambda: number_of_look_ups(osvi_sandbox, quiet) > 1)
        for each in (session, quiet):
            osvi_sandbox.request_help(each.session_id)
        wait_until(lambda: is_flagged(session) and is_flagged(quiet))
        osvi_sandbox.sessions[session.session_id].change(help_requested=False)
        wait_until(lambda: not is_flagged(session))
    assert troubles == []


def test_new_session_of_new_account_is_found(mirrored, osvi_sandbox, settings, watching):
    settings.OSVI["other"] = settings.OSVI["default"]
    with watching():
        first = mirrored()
        wait_until(lambda: number_of_look_ups(osvi_sandbox, first))
        second = mirrored(agent__account="other")
        wait_until(lambda: number_of_look_ups(osvi_sandbox, second))


def test_what_moved_lately_is_asked_more_often(mirrored, osvi_sandbox, watching):
    now = timezone.now()
    lively, hour, day = (
        mirrored(last_activity_at=now - quiet)
        for quiet in (timedelta(0), timedelta(minutes=30), timedelta(days=1))
    )
    waits = mirrored(last_activity_at=now - timedelta(days=1), help_requested=True)
    osvi_sandbox.request_help(waits.session_id)
    for session in ChatSession.objects.all():
        moment = session.last_activity_at
        osvi_sandbox.sessions[session.session_id].updated_at = moment

    def is_ahead(one, other):
        more, fewer = (number_of_look_ups(osvi_sandbox, each) for each in (one, other))
        return more > fewer + 1

    # If all were asked equally often, none would ever be two ahead of another.
    with watching(seconds=4):
        wait_until(lambda: is_ahead(lively, hour) and is_ahead(hour, day) and is_ahead(waits, day))


def test_dormant_session_is_probed_rarely(mirrored, osvi_sandbox, watching):
    session = mirrored(status="dormant")
    with watching():
        wait_until(lambda: number_of_look_ups(osvi_sandbox, session) == 4)
    paths = [each.path for each in osvi_sandbox.requests]
    assert len([path for path in paths if path.endswith("/pause_session")]) == 1
    session.refresh_from_db()
    assert session.status == "dormant"


def test_active_session_that_is_closed_at_osvi_is_closed_here(mirrored, osvi_sandbox, watching):
    session = mirrored()
    osvi_sandbox.sessions[session.session_id].change(status="closed")
    with watching():
        wait_until(lambda: ChatSession.objects.get().status == "closed")
    assert session.attempts.get().kind == "mirrored"


def test_customer_that_osvi_refuses_is_not_asked_at_once_again(mirrored, osvi_sandbox, watching):
    bad = mirrored()
    osvi_sandbox.script(None, Status(422))
    with watching(seconds=3600) as troubles:
        wait_until(lambda: number_of_look_ups(osvi_sandbox, bad) == 1)
        good = mirrored()
        wait_until(lambda: number_of_look_ups(osvi_sandbox, good) == 1)
    assert number_of_look_ups(osvi_sandbox, bad) == 1
    assert troubles == []


def test_session_that_osvi_does_not_want_to_probe_waits(mirrored, osvi_sandbox, watching):
    session = mirrored()
    osvi_sandbox.sessions[session.session_id].change(status="dormant")
    osvi_sandbox.script(session.session_id, Status(400, errors=["No"]))
    with watching(seconds=3600):
        wait_until(lambda: len(osvi_sandbox.requests) == 2)
        good = mirrored()
        wait_until(lambda: number_of_look_ups(osvi_sandbox, good) == 1)
    assert number_of_look_ups(osvi_sandbox, session) == 1


class TestTroubles:
    def test_outage_of_osvi_is_reported_once_and_waited_out(self, mirrored, osvi_sandbox, watching):
        session = mirrored()
        osvi_sandbox.request_help(session.session_id)
        osvi_sandbox.stop()
        with watching() as troubles:
            wait_until(lambda: troubles)
            osvi_sandbox.start()
            wait_until(lambda: len(troubles) == 2)
            wait_until(lambda: is_flagged(session))
        assert troubles == [
            WatchTrouble(account="default", code="unreachable"),
            WatchTrouble(account="default", code=""),
        ]

    def test_outage_that_lasts_is_reported_and_logged_once(
        self, mirrored, osvi_sandbox, watching, caplog
    ):
        mirrored()
        token, osvi_sandbox.token = osvi_sandbox.token, "another-token-16"
        with watching() as troubles:
            wait_until(lambda: len(osvi_sandbox.requests) == 3)
            osvi_sandbox.token = token
            wait_until(lambda: len(troubles) == 2)
        assert [each.code for each in troubles] == ["unauthorized", ""]
        errors = [each for each in caplog.records if each.levelname == "ERROR"]
        assert len(errors) == 1

    def test_account_without_settings_does_not_stop_the_other(
        self, mirrored, osvi_sandbox, watching
    ):
        ChatSessionFactory(agent__account="gone")
        session = mirrored()
        osvi_sandbox.request_help(session.session_id)
        with watching() as troubles:
            wait_until(lambda: is_flagged(session) and troubles)
        assert [(each.account, each.code) for each in troubles] == [("gone", "not_configured")]

    def test_outage_of_database_is_reported_once_and_waited_out(
        self, mirrored, osvi_sandbox, watching, monkeypatch
    ):
        monkeypatch.setattr("osvi_django.services.mirroring.sync._RETRY_SECONDS", 0.1)
        session = mirrored()
        osvi_sandbox.request_help(session.session_id)
        with database_unavailable_in_threads(THREAD) as refused, watching() as troubles:
            wait_until(lambda: troubles and len(refused) > 1)
            refused_once = list(troubles)
        assert refused_once == [
            WatchTrouble(account="", code="database", detail="OperationalError")
        ]
        with watching() as troubles:
            wait_until(lambda: is_flagged(session))
        assert troubles == []

    def test_database_that_is_back_is_reported(self, mirrored, osvi_sandbox, watching):
        session, left = mirrored(), [True]
        osvi_sandbox.request_help(session.session_id)

        def fail_once(execute, sql, params, many, context):
            if left and "chatsession" in sql:
                left.pop()
                raise OperationalError("a secret")
            return execute(sql, params, many, context)

        with wrap_queries_in_threads(THREAD, fail_once), watching() as troubles:
            wait_until(lambda: is_flagged(session) and len(troubles) == 2)
        assert [(each.account, each.code) for each in troubles] == [("", "database"), ("", "")]

    def test_outage_of_database_at_the_begin_is_waited_out(self, mirrored, osvi_sandbox, watching):
        session, left = mirrored(), [True]
        osvi_sandbox.request_help(session.session_id)

        def is_first(_sql, _params):
            return bool(left) and left.pop()

        def refuse_first():
            return raise_on_queries(is_first, OperationalError("a secret"))

        with watching(around=refuse_first) as troubles:
            wait_until(lambda: is_flagged(session))
            wait_until(lambda: len(troubles) == 2)
        assert [each.code for each in troubles] == ["database", ""]

    def test_error_of_this_site_is_logged_and_waited_out(
        self, mirrored, osvi_sandbox, watching, caplog
    ):
        session, left = mirrored(), [True]
        osvi_sandbox.request_help(session.session_id)

        def fail_once(execute, sql, params, many, context):
            if left and sql.startswith("SELECT") and "synced_at" in sql:
                left.pop()
                raise DataError("a bug")
            return execute(sql, params, many, context)

        with wrap_queries_in_threads(THREAD, fail_once), watching() as troubles:
            wait_until(lambda: is_flagged(session) and len(troubles) == 2)
        assert [(each.account, each.code) for each in troubles] == [
            ("default", "unexpected"),
            ("default", ""),
        ]
        assert "the open sessions of account 'default' were not looked up" in caplog.text


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), 86_401])
def test_watch_with_invalid_period_raises_invalid_input(seconds):
    with pytest.raises(InvalidInput) as caught:
        watch_open(seconds=seconds, stop=threading.Event())
    assert caught.value.field == "seconds"


def test_watch_inside_transaction_raises():
    with transaction.atomic(), pytest.raises(InsideTransaction):
        watch_open(stop=threading.Event())


def test_watch_that_is_stopped_before_ends_at_once(osvi_sandbox):
    mirror(osvi_sandbox)
    stop = threading.Event()
    stop.set()
    watch_open(stop=stop)
    assert osvi_sandbox.requests == []
