"""Looking up all that is believed open: each customer once, and nobody hammered."""

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

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch):
    monkeypatch.setattr(throttle, "PAUSES", (0.05, 0.1, 0.15))
    monkeypatch.setattr(sync, "_PATIENCE", 0.1)
    monkeypatch.setattr(sync, "_POLL", 0.02)
    monkeypatch.setattr(sync_pool, "_PAGE", 10)


@pytest.fixture
def agent(db):
    return ChatAgentFactory()


@pytest.fixture
def chats(osvi_sandbox, agent):
    def _chats(number, **fields):
        return [mirror(osvi_sandbox, **{"agent": agent, **fields}) for _number in range(number)]

    return _chats


def asked(osvi):
    listing = [request for request in osvi.requests if request.method == "GET"]
    return Counter(request.query.get("customer_id") for request in listing)


def statuses():
    return Counter(ChatSession.objects.values_list("status", flat=True))


def test_nothing_to_do(osvi_sandbox, db):
    assert sync_open() == SyncProgress()


def test_all_are_looked_up_by_customer_each_once(chats, osvi_sandbox, agent):
    sessions = chats(40)
    chats(5, status="closed")
    for session in sessions[:10]:
        osvi_sandbox.sessions[session.session_id].change(status="dormant")
        osvi_sandbox.add_session(
            agent_uuid=agent.uuid, customer_id=session.customer_id, help_requested=True
        )
    for session in sessions[10:20]:  # several of one customer
        for _number in range(2):
            mirror(osvi_sandbox, customer_id=session.customer_id, status="dormant")
    ChatSessionFactory(customer_id="", status="dormant")
    steps = []
    progress = sync_open(on_progress=steps.append)
    assert progress == SyncProgress(total=40, looked_up=40, without_customer=1)
    assert progress.left == 0
    assert [each.looked_up for each in steps] == list(range(1, 41))
    assert asked(osvi_sandbox) == {session.customer_id: 1 for session in sessions}
    assert statuses() == {"active": 40, "closed": 15, "dormant": 21}
    assert ChatSession.objects.filter(help_requested=True).count() == 10
    open_ones = ChatSession.objects.filter(status__in=ChatSession.OPEN).exclude(customer_id="")
    assert not open_ones.filter(synced_at=None).exists()


def test_what_was_looked_up_lately_is_left_out(chats, osvi_sandbox):
    sessions = chats(6)
    now = timezone.now()
    for session, hours in zip(sessions, (0.5, 1, 1.5, 2.5, 3, None), strict=True):
        moment = None if hours is None else now - timedelta(hours=hours)
        ChatSession.objects.filter(pk=session.pk).update(synced_at=moment)
    assert sync_open(older_than=timedelta(hours=2)).looked_up == 3
    assert set(asked(osvi_sandbox)) == {session.customer_id for session in sessions[3:]}
    assert sync_open(older_than=timedelta(hours=2)).total == 0
    assert sync_open(older_than=timedelta(minutes=80)).total == 1


def test_one_failure_stops_nothing_and_is_counted_and_logged(chats, osvi_sandbox, caplog):
    chats(12)
    ChatSessionFactory(agent=ChatSession.objects.first().agent, customer_id="+1-a")
    ChatSessionFactory(customer_id="+1-a")
    osvi_sandbox.script(None, Status(422, errors=["No"]), Drop(), Status(200, body=b"<html>"))
    progress = sync_open()
    assert (progress.looked_up, progress.failed, progress.left) == (10, 3, 0)
    assert sorted(asked(osvi_sandbox).values()) == [1] * 13
    codes = [each.args[1] for each in caplog.records if "could not be looked up" in each.msg]
    assert sorted(codes) == ["bad_answer", "rejected", "unconfirmed"]
    assert "+1" not in "".join(
        each.getMessage() for each in caplog.records if each.name.startswith("osvi_django.services")
    )
    assert sync_open(older_than=timedelta(hours=1)).looked_up == 3


@pytest.fixture
def unlisted(chats, osvi_sandbox):
    """Sessions that OSVI has closed, each of a customer of its own, and nobody was told."""

    def _unlisted(number, **fields):
        sessions = chats(number, **fields)
        for session in sessions:
            osvi_sandbox.sessions[session.session_id].change(status="closed")
        return sessions

    return _unlisted


def test_what_osvi_does_not_list_is_asked_about(unlisted, chats, osvi_sandbox):
    unlisted(5)
    unlisted(5, status="dormant")
    for session in chats(5):
        osvi_sandbox.sessions[session.session_id].change(status="dormant")
    chats(5, status="dormant")
    assert sync_open(via="cron") == SyncProgress(total=20, looked_up=20)
    assert statuses() == {"closed": 10, "dormant": 10}
    journal = CloseAttempt.objects.values_list("kind", "via", "requested_by")
    assert Counter(journal) == {("mirrored", "cron", None): 10}
    assert sync_open().looked_up == 10
    assert statuses() == {"closed": 10, "dormant": 10}


def test_many_are_asked_about_at_once(unlisted, osvi_sandbox, settings):
    """And whoever sends none of it but collects is not kept waiting."""
    settings.OSVI["default"]["CONCURRENCY"] = 4
    unlisted(12)
    crowd = Crowd(osvi_sandbox, of=4)
    assert sync_open().looked_up == 12
    assert crowd.most == 4
    assert statuses() == {"closed": 12}


def test_several_of_one_customer_are_asked_about_at_once(unlisted, osvi_sandbox, settings):
    settings.OSVI["default"]["CONCURRENCY"] = 4
    unlisted(8, customer_id="+1", status="dormant")
    crowd = Crowd(osvi_sandbox, of=4)
    assert sync_open() == SyncProgress(total=1, looked_up=1)
    assert crowd.most == 4
    assert statuses() == {"closed": 8}


class Crowd:
    """Holds whoever asks about a session until so many do, and counts them."""

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
def test_one_of_which_osvi_does_not_tell_is_a_failure_and_left_as_it_is(
    unlisted, osvi_sandbox, fault, caplog
):
    first, second = unlisted(2, customer_id="+1")
    unlisted(1)
    osvi_sandbox.script(first.session_id, fault)
    progress = sync_open()
    assert (progress.looked_up, progress.failed, progress.troubles) == (1, 1, {})
    assert first.session_id in caplog.text
    first.refresh_from_db()
    assert (first.status, first.synced_at) == ("active", None)
    second.refresh_from_db()
    assert second.status == "closed"
    assert sync_open(older_than=timedelta(hours=1)) == SyncProgress(total=1, looked_up=1)
    assert statuses() == {"closed": 3}


def test_where_osvi_never_tells_the_customers_are_looked_up_all_the_same(unlisted, osvi_sandbox):
    for session in unlisted(30):
        osvi_sandbox.script(session.session_id, *[Status(500)] * 9)
    progress = sync_open()
    assert (progress.failed, progress.left, progress.troubles) == (30, 0, {})
    assert set(asked(osvi_sandbox).values()) == {1}
    assert len(osvi_sandbox.requests) == 60


def test_a_refusal_to_tell_is_waited_for_as_any_other(unlisted, osvi_sandbox):
    first, *_others = unlisted(12)
    osvi_sandbox.script(first.session_id, Status(429, retry_after=1))
    began = time.monotonic()
    assert sync_open() == SyncProgress(total=12, looked_up=12)
    assert time.monotonic() - began > 1
    assert statuses() == {"closed": 12}


@pytest.mark.parametrize(
    ("status", "code", "most"), [(401, "unauthorized", 8), (429, "throttled", 24)]
)
def test_an_account_that_never_tells_is_given_up_and_what_was_heard_is_stored(
    chats, unlisted, osvi_sandbox, settings, status, code, most
):
    settings.OSVI["default"]["CONCURRENCY"] = 4
    (listed,) = chats(1, customer_id="+1", help_requested=False)
    for session in unlisted(40, customer_id="+1", status="dormant"):
        osvi_sandbox.script(session.session_id, *[Status(status)] * 9)
    osvi_sandbox.sessions[listed.session_id].change(help_requested=True)
    progress = sync_open()
    assert progress == SyncProgress(total=1, troubles={"default": code})
    assert progress.left == 1
    assert len(osvi_sandbox.requests) <= most
    listed.refresh_from_db()
    assert listed.help_requested
    assert statuses() == {"active": 1, "dormant": 40}


def test_stop_leaves_what_was_not_asked_about_to_the_next_run(unlisted, osvi_sandbox, settings):
    settings.OSVI["default"]["CONCURRENCY"] = 1
    unlisted(40, customer_id="+1")
    stop = threading.Event()
    record = osvi_sandbox.record_request

    def stop_soon(request, **named):
        if len(osvi_sandbox.requests) > 3:
            stop.set()
        return record(request, **named)

    osvi_sandbox.record_request = stop_soon
    assert sync_open(stop=stop).left == 1
    closed = statuses()["closed"]
    assert 0 < closed < 40
    assert sync_open(older_than=timedelta(hours=1)) == SyncProgress(total=1, looked_up=1)
    assert statuses() == {"closed": 40}


def test_a_customer_that_fails_is_asked_once_whatever_their_sessions(osvi_sandbox, agent):
    for _number in range(30):
        ChatSessionFactory(agent=agent, customer_id="+1")
    osvi_sandbox.script(None, Status(422))
    assert sync_open() == SyncProgress(total=1, failed=1)
    assert len(osvi_sandbox.requests) == 1


def test_customers_that_only_look_alike_are_each_asked_for(osvi_sandbox, agent):
    for customer_id in ("ada", "Ada", "ADA", "a%", "a_a", "ada"):
        ChatSessionFactory(agent=agent, customer_id=customer_id)
    assert sync_open().looked_up == 5
    assert asked(osvi_sandbox) == dict.fromkeys(["ada", "Ada", "ADA", "a%", "a_a"], 1)


def test_trouble_for_a_moment_is_waited_for(chats, osvi_sandbox):
    chats(20)
    osvi_sandbox.script(None, Status(429, retry_after=1), Status(503, retry_after=1))
    progress = sync_open()
    assert (progress.looked_up, progress.failed, progress.troubles) == (20, 0, {})


@pytest.mark.parametrize(
    ("faults", "code", "most"),
    [
        ([Status(401)] * 99, "unauthorized", 16),
        ([Status(429)] * 99, "throttled", 18),
        ([Status(429, retry_after=3600)] * 99, "throttled", 16),
        ([Status(500)] * 99, "unconfirmed", 24),
    ],
)
def test_an_account_in_trouble_is_given_up_and_not_hammered(
    chats, osvi_sandbox, faults, code, most
):
    chats(60)
    osvi_sandbox.script(None, *faults)
    progress = sync_open()
    assert progress.troubles == {"default": code}
    assert progress.looked_up == 0
    assert progress.left == 60 - progress.failed
    assert len(osvi_sandbox.requests) <= most
    assert statuses() == {"active": 60}


def test_osvi_being_down_is_given_up(chats, osvi_sandbox):
    chats(20)
    osvi_sandbox.stop()
    progress = sync_open()
    assert progress == SyncProgress(total=20, troubles={"default": "unreachable"})


def test_the_other_account_goes_on(chats, osvi_sandbox, settings):
    chats(5)
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


def test_concurrency_is_the_accounts_and_threads_only_speak_http(chats, osvi_sandbox, settings):
    chats(30)
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


def test_stop_ends_it_early_and_the_next_run_goes_on(chats, osvi_sandbox):
    chats(120)
    stop = threading.Event()

    def after_ten(progress):
        if progress.looked_up >= 10:
            stop.set()

    first = sync_open(stop=stop, on_progress=after_ten)
    assert 10 <= first.looked_up < 120
    second = sync_open(older_than=timedelta(hours=1))
    assert first.looked_up + second.looked_up == 120
    assert set(asked(osvi_sandbox).values()) == {1}
    assert not [each for each in threading.enumerate() if each.name.startswith("osvi-call-x")]


@pytest.mark.parametrize("query", ["SELECT", "UPDATE"])
def test_what_the_database_refuses_is_one_failure(chats, osvi_sandbox, caplog, query):
    odd = chats(5)[2].customer_id

    def is_odd(sql, params):
        return osvi_sandbox.requests and sql.startswith(query) and odd in params

    with raise_on_queries(is_odd, DataError("a secret")):
        progress = sync_open()
    assert (progress.looked_up, progress.failed) == (4, 1)
    assert "DataError" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("query", ["SELECT", "UPDATE"])
def test_a_database_that_stays_away_ends_it(chats, osvi_sandbox, query):
    chats(40)
    before, began = set(threading.enumerate()), time.monotonic()

    def is_refused(sql, _params):
        return osvi_sandbox.requests and sql.startswith(query)

    with raise_on_queries(is_refused, OperationalError("gone")), pytest.raises(OperationalError):
        sync_open()
    assert time.monotonic() - began < 10  # it is not waited for once for each
    assert call_threads_of(set(threading.enumerate()) - before) == []


def test_a_database_that_goes_away_when_it_is_stopped_leaves_no_threads(chats, osvi_sandbox):
    chats(40)
    before, stop = set(threading.enumerate()), threading.Event()
    gone = raise_on_queries(lambda sql, _params: stop.is_set(), OperationalError("gone"))
    with gone, pytest.raises(OperationalError):
        sync_open(stop=stop, on_progress=lambda _progress: stop.set())
    assert call_threads_of(set(threading.enumerate()) - before) == []


def call_threads_of(threads):
    """Return the threads that send calls, of these, that do not end."""
    mine = [thread for thread in threads if thread.name.startswith("osvi-call-")]
    for thread in mine:
        thread.join(5)
    return [thread for thread in mine if thread.is_alive()]


@pytest.mark.parametrize("query", ["SELECT", "UPDATE"])
def test_a_database_that_goes_away_in_between_is_not_asked_for_the_rest(
    unlisted, osvi_sandbox, monkeypatch, settings, query
):
    settings.OSVI["default"]["CONCURRENCY"] = 2
    unlisted(20)
    seen = []

    def is_refused(sql, _params):
        seen.append(bool(osvi_sandbox.requests) and sql.startswith(query))
        return seen[-1]

    monkeypatch.setattr(sync, "_PATIENCE", 0)
    with raise_on_queries(is_refused, OperationalError("gone")), pytest.raises(OperationalError):
        sync_open()
    assert seen.count(True) == 1


@pytest.mark.parametrize("period", [timedelta(seconds=-1), timedelta(days=999_999_999)])
def test_a_period_that_cannot_be_is_refused(osvi_sandbox, db, period):
    with pytest.raises(InvalidInput) as caught:
        sync_open(older_than=period)
    assert caught.value.field == "older_than"


def test_inside_a_transaction_it_is_refused(osvi_sandbox, db):
    with transaction.atomic(), pytest.raises(InsideTransaction, match="OSVI cannot be called"):
        sync_open()


def test_no_more_is_in_memory_where_more_is_to_be_looked_up(agent, settings):
    def answer(call):
        """List nothing, and pause the session that the path names."""
        is_pause = call.target.endswith("/pause_session")
        data = {"session_id": call.target.split("/")[2]} if is_pause else {}
        call.send(http_response(json.dumps({"success": True, "data": data}).encode()))

    with RawServer(answer) as osvi:
        account = {"API_TOKEN": "x" * 16, "BASE_URL": osvi.url, "CONCURRENCY": 1}
        settings.OSVI = {"default": account}
        gc.freeze()  # what was there before need not be counted each time
        try:
            few, many = (most_in_memory(agent, number) for number in (60, 240))
        finally:
            gc.unfreeze()
    assert many < few + 90


def most_in_memory(agent, number):
    """How many objects of this package there are at most while so many customers are looked up."""
    ChatSession.objects.bulk_create(
        ChatSession(session_id=uuid4(), agent=agent, customer_id=uuid4(), status="dormant")
        for _number in range(number)
    )
    seen = []

    def count(progress):
        if progress.done % 10 == 0:
            seen.append(sum(map(is_ours, gc.get_objects())))

    assert sync_open(older_than=timedelta(hours=1), on_progress=count).looked_up == number
    return max(seen)


def is_ours(each):
    return str(type(each).__module__).startswith("osvi_django")
