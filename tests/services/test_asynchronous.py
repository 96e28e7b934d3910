"""Test the public functions for event loops: ``aclose_session`` and the like."""

from __future__ import annotations

import asyncio
import inspect
import threading
from contextlib import suppress
from contextvars import ContextVar

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.core.asgi import get_asgi_application
from django.db import connection, connections, transaction
from django.test import AsyncClient
from django.utils.functional import SimpleLazyObject

from osvi_django import services
from osvi_django.exceptions import (
    CloseInProgress,
    InsideTransaction,
    OSVINotConfigured,
    OSVIRejected,
)
from osvi_django.models import ChatSession
from osvi_django.services import (
    acancel_close_job,
    aclose_session,
    aclose_session_by_id,
    acontext_of,
    acreate_close_job,
    afind_session,
    ainject_context,
    aprogress_of,
    arecover_session,
    asearch_sessions,
    asynchronous,
)
from osvi_django.testing import Drop, Status
from osvi_django.testing.factories import ChatSessionFactory
from tests.helpers.error_reports import NOTE, sentry_frames
from tests.helpers.sandbox import SUMMARY, CallThenAnswer, ConcurrencyCounter
from tests.helpers.waiting import TIMEOUT, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

CALLER = ContextVar("caller", default="no one")
# Work of processes of their own, other names of the same function, a queryset, and a file that is
# read in pieces.
WITHOUT_TWIN = {
    *("deliver_events", "due_jobs", "purge_expired", "recover_all", "reread_all", "run_close_job"),
    *("sync_open", "watch_open", "erase_customer", "export_customer", "replay_erasures"),
    *("close_again", "sync_customer"),
    "actions_of",
    "export_sessions",
    "keep_session",
}


class Gate:
    """Hold requests at OSVI until the gate is opened."""

    def __init__(self):
        self.opened, self.arrived = threading.Event(), threading.Event()
        self.fault = CallThenAnswer(self._hold)

    def _hold(self):
        self.arrived.set()
        self.opened.wait(TIMEOUT)


@pytest.fixture
def gate():
    """Return a gate that is open at the end of the test."""
    gate = Gate()
    yield gate
    gate.opened.set()


def in_loop(function):
    """Run a test in an event loop, as a site under ASGI does."""
    return async_to_sync(function)


async def until(event):
    """Wait for an event of a thread without blocking the loop."""
    assert await asyncio.to_thread(event.wait, TIMEOUT)


def test_each_public_function_has_a_twin_with_its_signature():
    functions = {
        name: each
        for name in services.__all__
        if inspect.isfunction(each := getattr(services, name))
    }
    twins = {name for name, each in functions.items() if inspect.iscoroutinefunction(each)}
    assert twins == {f"a{name}" for name in {*functions} - twins - WITHOUT_TWIN}
    for name in twins:
        assert functions[name].__name__ == name
        assert inspect.signature(functions[name]) == inspect.signature(functions[name[1:]])


class TestClose:
    def test_close_returns_summary_and_reloads_session(self, mirrored):
        session = mirrored()
        result = async_to_sync(aclose_session)(session, note="Said goodbye")
        assert (result.summary.session, result.changed) == (session, True)
        assert (session.status, result.attempt.note) == ("closed", "Said goodbye")

    def test_two_closes_of_one_session_send_one(self, mirrored, osvi_sandbox):
        session = mirrored()

        @in_loop
        async def results():
            closes = [aclose_session(session) for _number in range(2)]
            return await asyncio.gather(*closes, return_exceptions=True)

        found = results()
        closed = [each for each in found if not isinstance(each, CloseInProgress)]
        assert [each.summary.session for each in closed] == [session] * len(closed)
        assert sum(each.changed for each in closed) == 1
        assert osvi_sandbox.closes(session.session_id) == 1

    def test_close_of_session_in_progress_raises(self, mirrored, osvi_sandbox, gate):
        session = mirrored()
        osvi_sandbox.script(session.session_id, gate.fault)

        @in_loop
        async def second():
            first = asyncio.create_task(aclose_session(session))
            await until(gate.arrived)
            with pytest.raises(CloseInProgress):
                await aclose_session(session)
            gate.opened.set()
            return await first

        assert second().changed
        assert session.status == "closed"

    def test_closes_of_other_sessions_run_at_the_same_time(self, mirrored, osvi_sandbox):
        sessions = [mirrored() for _number in range(8)]
        counter = osvi_sandbox.latency = ConcurrencyCounter(0, number=8)

        @in_loop
        async def results():
            return await asyncio.gather(*(aclose_session(each) for each in sessions))

        assert [each.changed for each in results()] == [True] * 8
        assert counter.most == 8

    def test_refused_close_raises_and_reloads_session(self, mirrored, osvi_sandbox):
        session = mirrored()
        osvi_sandbox.script(session.session_id, Status(403, errors=["Not yours."]))
        with pytest.raises(OSVIRejected):
            async_to_sync(aclose_session)(session)
        assert (session.status, session.is_close_refused) == ("active", True)

    def test_close_by_lazy_user_loads_it_in_the_thread(self, mirrored, staff):
        session = mirrored()
        user = SimpleLazyObject(lambda: type(staff).objects.get(pk=staff.pk))
        result = async_to_sync(aclose_session)(session, requested_by=user)
        assert result.attempt.requested_by == staff


class TestThreads:
    def test_other_code_of_the_request_runs_during_a_close(self, mirrored, osvi_sandbox, gate):
        session = mirrored()
        osvi_sandbox.script(session.session_id, gate.fault)

        @in_loop
        async def count():
            task = asyncio.create_task(aclose_session(session))
            await until(gate.arrived)
            found = await ChatSession.objects.acount(), await afind_session("unknown")
            gate.opened.set()
            await task
            return found

        assert count() == (1, None)

    def test_context_of_caller_holds_in_the_thread(self, mirrored, settings):
        settings.OSVI["default"]["SUMMARIZER"] = f"{__name__}.summarize"
        session = mirrored(summary=None)

        @in_loop
        async def result():
            CALLER.set("sam")
            return await aclose_session(session)

        assert result().summary.text == "sam, in osvi-async"

    def test_call_inside_a_thread_of_another_stays_there(self, mirrored, settings):
        settings.OSVI["default"]["SUMMARIZER"] = f"{__name__}.summarize_by_twin"
        session = mirrored(summary=None)
        assert async_to_sync(aclose_session)(session).summary.text == "osvi-async"

    def test_thread_closes_its_connections(self, mirrored):
        async_to_sync(aclose_session)(mirrored())
        names = asynchronous._threads.executor.submit(
            lambda: [each.connection for each in connections.all(initialized_only=True)]
        )
        assert set(names.result()) <= {None}

    def test_wrong_setting_raises(self, mirrored, settings):
        session = mirrored()
        settings.OSVI_THREAD_CONTEXT = "nowhere.at_all"
        with pytest.raises(OSVINotConfigured):
            async_to_sync(aclose_session)(session)


def summarize(session):
    """Return who called and in which thread."""
    return f"{CALLER.get()}, in {threading.current_thread().name.rsplit('_')[0]}"


def summarize_by_twin(session):
    """Return in which thread an asynchronous function works that is called from such a thread."""
    found = []
    with connection.execute_wrapper(lambda run, *args: found.append(run) or run(*args)):
        assert async_to_sync(afind_session)(session.session_id) == session
    assert found
    return threading.current_thread().name.rsplit("_")[0]


class TestCancel:
    def test_cancelled_task_stores_the_answer(self, mirrored, osvi_sandbox, gate):
        session = mirrored()
        osvi_sandbox.script(session.session_id, gate.fault)

        @in_loop
        async def cancel():
            task = asyncio.create_task(aclose_session(session))
            await until(gate.arrived)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        cancel()
        assert session.status == "active"  # another thread does not change it any more
        gate.opened.set()
        wait_until(lambda: ChatSession.objects.get().status == "closed")
        assert ChatSession.objects.get().summary.text

    def test_task_cancelled_while_it_waits_for_a_thread_sends_nothing(
        self, mirrored, osvi_sandbox, gate
    ):
        busy = [mirrored() for _number in range(asynchronous.MAX_THREADS)]
        for each in busy:
            osvi_sandbox.script(each.session_id, gate.fault)
        waiting = mirrored()

        @in_loop
        async def cancel():
            tasks = [asyncio.create_task(aclose_session(each)) for each in busy]
            await asyncio.to_thread(
                wait_until, lambda: len(osvi_sandbox.requests) == asynchronous.MAX_THREADS
            )
            late = asyncio.create_task(aclose_session(waiting))
            await acontext_in(late)
            late.cancel()
            gate.opened.set()
            with suppress(asyncio.CancelledError):
                await late
            return [each.changed for each in await asyncio.gather(*tasks)], late.cancelled()

        assert cancel() == ([True] * len(busy), True)
        assert osvi_sandbox.closes(waiting.session_id) == 0
        assert ChatSession.objects.get(pk=waiting.pk).status == "active"


async def acontext_in(task):
    """Let a task come to where it waits for a thread."""
    for _number in range(3):
        await sync_to_async(lambda: None)()
    assert not task.done()


class TestTransactions:
    def test_close_inside_transaction_of_caller_raises(self, mirrored, osvi_sandbox):
        session = mirrored()
        with transaction.atomic(), pytest.raises(InsideTransaction):
            async_to_sync(aclose_session)(session)
        assert osvi_sandbox.requests == []

    def test_close_without_autocommit_raises(self, mirrored, osvi_sandbox):
        session = mirrored()
        transaction.set_autocommit(False)
        try:
            with pytest.raises(InsideTransaction):
                async_to_sync(aclose_session)(session)
        finally:
            transaction.rollback()
            transaction.set_autocommit(True)
        assert osvi_sandbox.requests == []

    def test_find_inside_transaction_sees_its_rows(self):
        with transaction.atomic():
            session = ChatSessionFactory()
            assert async_to_sync(afind_session)(session.session_id) == session

    @pytest.mark.django_db
    def test_close_in_test_case_sees_its_rows(self, mirrored):
        assert async_to_sync(aclose_session)(mirrored()).changed


@pytest.mark.urls("tests.services.async_site")
class TestSite:
    def test_view_closes_and_answers(self, mirrored, settings):
        assert settings.DATABASES["default"]["ATOMIC_REQUESTS"]
        session = mirrored()

        @in_loop
        async def answer():
            return await AsyncClient().get(f"/close/{session.session_id}/")

        assert answer().json() == {"summary": SUMMARY, "status": "closed"}

    def test_client_that_goes_away_loses_no_answer(self, mirrored, osvi_sandbox, gate):
        session = mirrored()
        osvi_sandbox.script(session.session_id, gate.fault)

        @in_loop
        async def disconnect():
            path = f"/close/{session.session_id}/"
            scope = {
                "type": "http",
                "method": "GET",
                "path": path,
                "headers": [(b"host", b"testserver")],
                "query_string": b"",
            }
            site = ApplicationCommunicator(get_asgi_application(), scope)
            await site.send_input({"type": "http.request"})
            await until(gate.arrived)
            await site.send_input({"type": "http.disconnect"})
            await site.wait(TIMEOUT)
            return site.output_queue.empty()

        assert disconnect()  # the view is cancelled while OSVI still works
        assert ChatSession.objects.get().status == "closing"
        gate.opened.set()
        wait_until(lambda: ChatSession.objects.get().status == "closed")
        assert ChatSession.objects.get().summary.text == SUMMARY


def test_other_twins_do_what_their_functions_do(mirrored, unconfirmed, settings, operator):
    settings.OSVI_EXECUTOR = None
    session, doubtful = mirrored(), unconfirmed(Drop(after_closing=True))

    @in_loop
    async def act():
        await ainject_context(session, "A regular")
        job = await acancel_close_job(await acreate_close_job([session], note="Old"))
        return (
            await acontext_of(session),
            job.status,
            (await aprogress_of(job)).counts,
            [each async for each in (await asearch_sessions(session.session_id)).sessions],
            (await arecover_session(doubtful)).settled,
            (await aclose_session_by_id(session.session_id)).changed,
        )

    found = act()
    assert found == (["A regular"], "cancelled", {"cancelled": 1}, [session], "stored", True)
    assert doubtful.status == "closed"


def test_report_of_refused_close_contains_no_note(mirrored, osvi_sandbox):
    session = mirrored()
    osvi_sandbox.script(session.session_id, Status(403, errors=["Not yours."]))
    with pytest.raises(OSVIRejected) as refused:
        async_to_sync(aclose_session)(session, note=NOTE)
    # Also the frames of asgiref, which pass the call on.
    frames = [each for each in sentry_frames(refused.value) if "/tests/" not in each[0]]
    assert len(frames) > 10
    assert NOTE not in str(frames)
