"""Test the sync of all open sessions: each customer once, with limited load on OSVI."""

from __future__ import annotations

import gc
import json
import threading
import time
from collections import Counter
from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import DataError, OperationalError, transaction
from django.utils import timezone

from osvi_django.client import throttle
from osvi_django.exceptions import InsideTransaction, InvalidInput
from osvi_django.models import ChatSession, CloseAttempt
from osvi_django.services.mirroring import sync, sync_pool
from osvi_django.services.mirroring.sync import SyncProgress, sync_open
from osvi_django.testing import Drop, OSVISandbox, Status
from osvi_django.testing.factories import ChatAgentFactory, ChatSessionFactory
from tests.helpers.database import raise_on_queries
from tests.helpers.raw_server import RawServer, http_response
from tests.helpers.sandbox import mirror
from tests.helpers.waiting import call_threads, wait_until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(throttle, "PAUSES", (0.05, 0.1, 0.15))
    monkeypatch.setattr(sync, "_RETRY_SECONDS", 0.1)
    monkeypatch.setattr(sync, "_POLL", 0.02)
    monkeypatch.setattr(sync_pool, "_PAGE", 10)


@pytest.fixture
def agent(db):
    return ChatAgentFactory()


@pytest.fixture
def make_sessions(osvi_sandbox, agent):
    def _chats(number, **fields):
        return [mirror(osvi_sandbox, **{"agent": agent, **fields}) for _number in range(number)]

    return _chats


def count_requests(osvi):
    listing = [request for request in osvi.requests if request.method == "GET"]
    return Counter(request.query.get("customer_id") for request in listing)


def count_statuses():
    return Counter(ChatSession.objects.values_list("status", flat=True))


def test_sync_open_without_sessions_does_nothing(osvi_sandbox, db):
    assert sync_open() == SyncProgress()


def test_sync_open_looks_up_each_customer_once(make_sessions, osvi_sandbox, agent):
    sessions = make_sessions(40)
    make_sessions(5, status="closed")
    for session in sessions[:10]:
        osvi_sandbox.sessions[session.session_id].change(status="dormant")
        osvi_sandbox.add_session(
            agent_uuid=agent.uuid, customer_id=session.customer_id, help_requested=True
        )
    for session in sessions[10:20]:  # several sessions of one customer
        for _number in range(2):
            mirror(osvi_sandbox, customer_id=session.customer_id, status="dormant")
    ChatSessionFactory(customer_id="", status="dormant")
    steps = []
    progress = sync_open(on_progress=steps.append)
    assert progress == SyncProgress(total=40, looked_up=40, without_customer=1)
    assert progress.left == 0
    assert [each.looked_up for each in steps] == list(range(1, 41))
    assert count_requests(osvi_sandbox) == {session.customer_id: 1 for session in sessions}
    assert count_statuses() == {"active": 40, "closed": 15, "dormant": 21}
    assert ChatSession.objects.filter(help_requested=True).count() == 10
    open_ones = ChatSession.objects.filter(status__in=ChatSession.OPEN).exclude(customer_id="")
    assert not open_ones.filter(synced_at=None).exists()


def test_sync_open_with_older_than_skips_recently_synced_sessions(make_sessions, osvi_sandbox):
    sessions = make_sessions(6)
    now = timezone.now()
    for session, hours in zip(sessions, (0.5, 1, 1.5, 2.5, 3, None), strict=True):
        moment = None if hours is None else now - timedelta(hours=hours)
        ChatSession.objects.filter(pk=session.pk).update(synced_at=moment)
    assert sync_open(older_than=timedelta(hours=2)).looked_up == 3
    assert set(count_requests(osvi_sandbox)) == {session.customer_id for session in sessions[3:]}
    assert sync_open(older_than=timedelta(hours=2)).total == 0
    assert sync_open(older_than=timedelta(minutes=80)).total == 1


def test_sync_open_with_failing_customers_continues_and_logs(make_sessions, osvi_sandbox, caplog):
    make_sessions(12)
    ChatSessionFactory(agent=ChatSession.objects.first().agent, customer_id="+1-a")
    ChatSessionFactory(customer_id="+1-a")
    osvi_sandbox.script(None, Status(422, errors=["No"]), Drop(), Status(200, body=b"<html>"))
    progress = sync_open()
    assert (progress.looked_up, progress.failed, progress.left) == (10, 3, 0)
    assert sorted(count_requests(osvi_sandbox).values()) == [1] * 13
    codes = [each.args[1] for each in caplog.records if "could not be looked up" in each.msg]
    assert sorted(codes) == ["bad_answer", "rejected", "unconfirmed"]
    assert "+1" not in "".join(
        each.getMessage() for each in caplog.records if each.name.startswith("osvi_django.services")
    )
    assert sync_open(older_than=timedelta(hours=1)).looked_up == 3


@pytest.fixture
def make_unlisted_sessions(make_sessions, osvi_sandbox):
    """Return a function that creates sessions that are open here and closed at OSVI."""

    def _unlisted(number, **fields):
        sessions = make_sessions(number, **fields)
        for session in sessions:
            osvi_sandbox.sessions[session.session_id].change(status="closed")
        return sessions

    return _unlisted


def test_sync_open_checks_sessions_that_osvi_does_not_list(
    make_unlisted_sessions, make_sessions, osvi_sandbox
):
    make_unlisted_sessions(5)
    make_unlisted_sessions(5, status="dormant")
    for session in make_sessions(5):
        osvi_sandbox.sessions[session.session_id].change(status="dormant")
    make_sessions(5, status="dormant")
    assert sync_open(via="cron") == SyncProgress(total=20, looked_up=20)
    assert count_statuses() == {"closed": 10, "dormant": 10}
    journal = CloseAttempt.objects.values_list("kind", "via", "requested_by")
    assert Counter(journal) == {("mirrored", "cron", None): 10}
    assert sync_open().looked_up == 10
    assert count_statuses() == {"closed": 10, "dormant": 10}


def test_sync_open_checks_sessions_of_many_customers_at_once(
    make_unlisted_sessions, osvi_sandbox, settings
):
    """Collect results while other requests are in progress."""
    settings.OSVI["default"]["CONCURRENCY"] = 4
    make_unlisted_sessions(12)
    crowd = RequestBarrier(osvi_sandbox, of=4)
    assert sync_open().looked_up == 12
    assert crowd.most == 4
    assert count_statuses() == {"closed": 12}


def test_sync_open_checks_sessions_of_one_customer_at_once(
    make_unlisted_sessions, osvi_sandbox, settings
):
    settings.OSVI["default"]["CONCURRENCY"] = 4
    make_unlisted_sessions(8, customer_id="+1", status="dormant")
    crowd = RequestBarrier(osvi_sandbox, of=4)
    assert sync_open() == SyncProgress(total=1, looked_up=1)
    assert crowd.most == 4
    assert count_statuses() == {"closed": 8}


class RequestBarrier:
    """Hold requests about a session until ``of`` of them arrived, and count them."""

    def __init__(self, osvi, of):
        self.record = osvi.record_request
        self.barrier = threading.Barrier(of)
        self.lock = threading.Lock()
        self.here = self.most = 0
        osvi.record_request = self.record_request

    def record_request(self, request, **named):
        if request.session_id is not None:
            with self.lock:
                self.here += 1
                self.most = max(self.most, self.here)
            self.barrier.wait(10)
            with self.lock:
                self.here -= 1
        return self.record(request, **named)


@pytest.mark.parametrize("fault", [Drop(), Status(500), Status(403)], ids=repr)
def test_sync_open_when_osvi_does_not_say_keeps_session_and_counts_failure(
    make_unlisted_sessions, osvi_sandbox, fault, caplog
):
    first, second = make_unlisted_sessions(2, customer_id="+1")
    make_unlisted_sessions(1)
    osvi_sandbox.script(first.session_id, fault)
    progress = sync_open()
    assert (progress.looked_up, progress.failed, progress.troubles) == (1, 1, {})
    assert first.session_id in caplog.text
    first.refresh_from_db()
    assert (first.status, first.synced_at) == ("active", None)
    second.refresh_from_db()
    assert second.status == "closed"
    assert sync_open(older_than=timedelta(hours=1)) == SyncProgress(total=1, looked_up=1)
    assert count_statuses() == {"closed": 3}


def test_sync_open_when_osvi_never_says_looks_up_every_customer(
    make_unlisted_sessions, osvi_sandbox
):
    for session in make_unlisted_sessions(30):
        osvi_sandbox.script(session.session_id, *[Status(500)] * 9)
    progress = sync_open()
    assert (progress.failed, progress.left, progress.troubles) == (30, 0, {})
    assert set(count_requests(osvi_sandbox).values()) == {1}
    assert len(osvi_sandbox.requests) == 60


def test_sync_open_when_check_is_throttled_waits_and_repeats(make_unlisted_sessions, osvi_sandbox):
    first, *_others = make_unlisted_sessions(12)
    osvi_sandbox.script(first.session_id, Status(429, retry_after=1))
    began = time.monotonic()
    assert sync_open() == SyncProgress(total=12, looked_up=12)
    assert time.monotonic() - began > 1
    assert count_statuses() == {"closed": 12}


@pytest.mark.parametrize(
    ("status", "code", "most"), [(401, "unauthorized", 8), (429, "busy_at_osvi", 24)]
)
def test_sync_open_when_checks_never_succeed_gives_up_and_stores_the_rest(
    make_sessions, make_unlisted_sessions, osvi_sandbox, settings, status, code, most
):
    settings.OSVI["default"]["CONCURRENCY"] = 4
    (listed,) = make_sessions(1, customer_id="+1", help_requested=False)
    for session in make_unlisted_sessions(40, customer_id="+1", status="dormant"):
        osvi_sandbox.script(session.session_id, *[Status(status)] * 9)
    osvi_sandbox.sessions[listed.session_id].change(help_requested=True)
    progress = sync_open()
    assert progress == SyncProgress(total=1, troubles={"default": code})
    assert progress.left == 1
    assert len(osvi_sandbox.requests) <= most
    listed.refresh_from_db()
    assert listed.help_requested
    assert count_statuses() == {"active": 1, "dormant": 40}


def test_sync_open_when_stopped_during_checks_continues_next_time(
    make_unlisted_sessions, osvi_sandbox, settings
):
    settings.OSVI["default"]["CONCURRENCY"] = 1
    make_unlisted_sessions(40, customer_id="+1")
    stop = threading.Event()
    record = osvi_sandbox.record_request

    def stop_soon(request, **named):
        if len(osvi_sandbox.requests) > 3:
            stop.set()
        return record(request, **named)

    osvi_sandbox.record_request = stop_soon
    assert sync_open(stop=stop).left == 1
    closed = count_statuses()["closed"]
    assert 0 < closed < 40
    assert sync_open(older_than=timedelta(hours=1)) == SyncProgress(total=1, looked_up=1)
    assert count_statuses() == {"closed": 40}


def test_sync_open_with_failing_customer_asks_once_for_all_sessions(osvi_sandbox, agent):
    for _number in range(30):
        ChatSessionFactory(agent=agent, customer_id="+1")
    osvi_sandbox.script(None, Status(422))
    assert sync_open() == SyncProgress(total=1, failed=1)
    assert len(osvi_sandbox.requests) == 1


def test_sync_open_with_similar_customer_ids_looks_up_each(osvi_sandbox, agent):
    for customer_id in ("ada", "Ada", "ADA", "a%", "a_a", "ada"):
        ChatSessionFactory(agent=agent, customer_id=customer_id)
    assert sync_open().looked_up == 5
    assert count_requests(osvi_sandbox) == dict.fromkeys(["ada", "Ada", "ADA", "a%", "a_a"], 1)


def test_sync_open_when_throttled_for_a_moment_waits(make_sessions, osvi_sandbox):
    make_sessions(20)
    osvi_sandbox.script(None, Status(429, retry_after=1), Status(503, retry_after=1))
    progress = sync_open()
    assert (progress.looked_up, progress.failed, progress.troubles) == (20, 0, {})


@pytest.mark.parametrize(
    ("faults", "code", "most"),
    [
        ([Status(401)] * 99, "unauthorized", 16),
        ([Status(429)] * 99, "busy_at_osvi", 18),
        ([Status(429, retry_after=3600)] * 99, "busy_at_osvi", 16),
        ([Status(500)] * 99, "unconfirmed", 24),
    ],
)
def test_sync_open_with_account_in_trouble_gives_up_after_few_requests(
    make_sessions, osvi_sandbox, faults, code, most
):
    make_sessions(60)
    osvi_sandbox.script(None, *faults)
    progress = sync_open()
    assert progress.troubles == {"default": code}
    assert progress.looked_up == 0
    assert progress.left == 60 - progress.failed
    assert len(osvi_sandbox.requests) <= most
    assert count_statuses() == {"active": 60}


def test_sync_open_when_osvi_is_down_gives_up(make_sessions, osvi_sandbox):
    make_sessions(20)
    osvi_sandbox.stop()
    progress = sync_open()
    assert progress == SyncProgress(total=20, troubles={"default": "unreachable"})


def test_sync_open_with_trouble_in_one_account_completes_the_other(
    make_sessions, osvi_sandbox, settings
):
    make_sessions(5)
    with OSVISandbox() as there:
        settings.OSVI["other"] = {"API_TOKEN": there.token, "BASE_URL": there.url}
        other = ChatAgentFactory(account="other")
        for _number in range(5):
            mirror(there, agent=other)
        ChatSessionFactory(agent__account="nobody")
        osvi_sandbox.script(None, *[Status(401)] * 20)
        progress = sync_open()
    assert progress.troubles == {"default": "unauthorized", "nobody": "not_configured"}
    assert (progress.total, progress.looked_up, progress.left) == (11, 5, 6)


def test_sync_open_keeps_to_concurrency_of_account(make_sessions, osvi_sandbox, settings):
    make_sessions(30)
    settings.OSVI["default"]["CONCURRENCY"] = 3
    under_way, most = [0], [0]
    lock = threading.Lock()
    record = osvi_sandbox.record_request

    def slowly(*args, **named):
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        time.sleep(0.02)
        with lock:
            under_way[0] -= 1
        return record(*args, **named)

    osvi_sandbox.record_request = slowly
    assert sync_open().looked_up == 30
    assert most == [3]


def test_sync_open_when_stopped_continues_next_time(make_sessions, osvi_sandbox):
    make_sessions(120)
    before, stop = call_threads(), threading.Event()

    def after_ten(progress):
        if progress.looked_up >= 10:
            stop.set()

    first = sync_open(stop=stop, on_progress=after_ten)
    assert 10 <= first.looked_up < 120
    second = sync_open(older_than=timedelta(hours=1))
    assert first.looked_up + second.looked_up == 120
    assert set(count_requests(osvi_sandbox).values()) == {1}
    wait_until(lambda: not call_threads() - before)


@pytest.mark.parametrize("query", ["SELECT", "UPDATE"])
def test_sync_open_when_database_refuses_one_customer_counts_failure(
    make_sessions, osvi_sandbox, caplog, query
):
    odd = make_sessions(5)[2].customer_id

    def is_odd(sql, params):
        return osvi_sandbox.requests and sql.startswith(query) and odd in params

    with raise_on_queries(is_odd, DataError("a secret")):
        progress = sync_open()
    assert (progress.looked_up, progress.failed) == (4, 1)
    assert "DataError" in caplog.text
    assert "secret" not in caplog.text


def test_sync_open_when_database_refuses_what_to_check_counts_failure(
    make_unlisted_sessions, osvi_sandbox
):
    make_unlisted_sessions(1)
    asked = []

    def is_second(sql, _params):
        is_read = osvi_sandbox.requests and sql.startswith("SELECT") and "chatsession" in sql
        asked.extend([sql] if is_read else [])
        return bool(is_read) and len(asked) == 2

    with raise_on_queries(is_second, DataError("a secret")):
        progress = sync_open()
    assert (progress.looked_up, progress.failed) == (0, 1)


def test_sync_open_with_many_unchanged_sessions_notes_each_look_up(make_sessions, osvi_sandbox):
    make_sessions(101)
    sync_open()  # it stores the session objects
    began = timezone.now()
    assert sync_open().looked_up == 101
    assert not ChatSession.objects.filter(synced_at__lt=began).exists()


def test_sync_open_wakes_dormant_session_that_is_listed(make_sessions, osvi_sandbox):
    make_sessions(1)
    sync_open()
    ChatSession.objects.update(status="dormant")
    sync_open()
    assert ChatSession.objects.get().status == "active"


@pytest.mark.parametrize("query", ["SELECT", "UPDATE"])
def test_sync_open_when_database_stays_away_raises_and_ends_threads(
    make_sessions, osvi_sandbox, query
):
    make_sessions(40)
    before, began = call_threads(), time.monotonic()

    def is_refused(sql, _params):
        return osvi_sandbox.requests and sql.startswith(query)

    with raise_on_queries(is_refused, OperationalError("gone")), pytest.raises(OperationalError):
        sync_open()
    assert time.monotonic() - began < 10  # it waits once, and not for each customer
    wait_until(lambda: not call_threads() - before)


def test_sync_open_when_database_fails_at_stop_ends_threads(make_sessions, osvi_sandbox):
    make_sessions(40)
    before, stop = call_threads(), threading.Event()
    gone = raise_on_queries(lambda sql, _params: stop.is_set(), OperationalError("gone"))
    with gone, pytest.raises(OperationalError):
        sync_open(stop=stop, on_progress=lambda _progress: stop.set())
    wait_until(lambda: not call_threads() - before)


@pytest.mark.parametrize("query", ["SELECT", "UPDATE"])
def test_sync_open_when_database_fails_during_checks_stops_at_once(
    make_unlisted_sessions, osvi_sandbox, monkeypatch, settings, query
):
    settings.OSVI["default"]["CONCURRENCY"] = 2
    make_unlisted_sessions(20)
    seen = []

    def is_refused(sql, _params):
        seen.append(bool(osvi_sandbox.requests) and sql.startswith(query))
        return seen[-1]

    monkeypatch.setattr(sync, "_RETRY_SECONDS", 0)
    with raise_on_queries(is_refused, OperationalError("gone")), pytest.raises(OperationalError):
        sync_open()
    assert seen.count(True) == 1


@pytest.mark.parametrize("period", [timedelta(seconds=-1), timedelta(days=999_999_999)])
def test_sync_open_with_invalid_period_raises_invalid_input(osvi_sandbox, db, period):
    with pytest.raises(InvalidInput) as caught:
        sync_open(older_than=period)
    assert caught.value.field == "older_than"


def test_sync_open_inside_transaction_raises(osvi_sandbox, db):
    with transaction.atomic(), pytest.raises(InsideTransaction, match="OSVI cannot be called"):
        sync_open()


def test_sync_open_with_more_customers_uses_no_more_memory(agent, settings):
    def answer(call):
        """List nothing, and pause the session that the path names."""
        is_pause = call.target.endswith("/pause_session")
        data = {"session_id": call.target.split("/")[2]} if is_pause else {}
        call.send(http_response(json.dumps({"success": True, "data": data}).encode()))

    with RawServer(answer) as osvi:
        account = {"API_TOKEN": "x" * 16, "BASE_URL": osvi.url, "CONCURRENCY": 1}
        settings.OSVI = {"default": account}
        gc.freeze()  # do not count older objects each time
        try:
            few, many = (count_objects(agent, number) for number in (60, 240))
        finally:
            gc.unfreeze()
    assert many < few + 90


def count_objects(agent, number):
    """Return how many objects of this package exist at most while ``number`` customers sync."""
    ChatSession.objects.bulk_create(
        ChatSession(session_id=uuid4(), agent=agent, customer_id=uuid4(), status="dormant")
        for _number in range(number)
    )
    seen = []

    def count(progress):
        if progress.done % 10 == 0:
            seen.append(sum(map(is_of_this_package, gc.get_objects())))

    assert sync_open(older_than=timedelta(hours=1), on_progress=count).looked_up == number
    return max(seen)


def is_of_this_package(each):
    return str(type(each).__module__).startswith("osvi_django")
