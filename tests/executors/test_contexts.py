"""The threads of a job work in the context of the thread that created it."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import pytest
from django.db import connection
from django.db.backends.signals import connection_created

from osvi_django.conf import thread_context
from osvi_django.contexts import ThreadContext
from osvi_django.models import ChatSession, CloseJob, SessionSummary
from osvi_django.services.jobs import create_close_job, run_close_job, runner
from osvi_django.signals import session_closed
from osvi_django.testing import Drop
from tests.executors.conftest import all_jobs_are_finished
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

CALLER = ContextVar("caller", default="no one")
HERE = threading.local()
RECEIVED = []


def current_tenant():
    """Return the tenant of this thread."""
    return getattr(HERE, "tenant", "public")


@contextmanager
def as_tenant(name):
    """Work as this tenant."""
    before, HERE.tenant = current_tenant(), name
    try:
        yield
    finally:
        HERE.tenant = before


class Tenancy:
    """The same as a class whose instances can be entered once."""

    def __init__(self):
        self.name = current_tenant()

    def __enter__(self):
        self.before, HERE.tenant, self.name = current_tenant(), self.name, None

    def __exit__(self, *_error):
        HERE.tenant = self.before


def generator_context():
    """Return a context that can be entered once."""
    return as_tenant(current_tenant())


def class_context():
    """Return a context of a class of its own."""
    return Tenancy()


def partial_context():
    """Return what makes a context each time."""
    return partial(as_tenant, current_tenant())


def failing_hook():
    """Raise instead of returning a context."""
    raise RuntimeError("no tenant today")


def hook_that_cannot_be_entered():
    """Return what makes a context that raises on entry."""
    return partial(cannot_be_entered)


@contextmanager
def cannot_be_entered():
    raise RuntimeError("closed to threads")
    yield


def hook_that_cannot_be_left():
    """Return what makes a context that raises on exit from sending threads."""
    return cannot_be_left


@contextmanager
def cannot_be_left():
    yield
    if threading.current_thread().name.startswith("osvi-call"):
        raise RuntimeError("no way back")


@pytest.fixture
def queries():
    """Return the tenants in which this package's threads queried, by the kind of thread."""
    seen = {}

    def look(execute, sql, params, many, context):
        kind = threading.current_thread().name.split("-")[1]
        seen.setdefault(kind, []).append(current_tenant())
        return execute(sql, params, many, context)

    def note(connection, **_named):
        if threading.current_thread().name.startswith("osvi-"):
            connection.execute_wrappers.append(look)

    connection_created.connect(note)
    yield seen
    connection_created.disconnect(note)


def note_signal(session, **_named):
    """Note in which context the receiver was called."""
    RECEIVED.append((session.session_id, current_tenant(), CALLER.get()))


def write(session):
    """Write a summary that names its context."""
    return f"Written for {CALLER.get()} at {current_tenant()}."


@pytest.fixture
def received():
    RECEIVED.clear()
    session_closed.connect(note_signal)
    yield RECEIVED
    session_closed.disconnect(note_signal)


def test_context_variables_of_caller_are_set_in_job_threads(mirrored, settings, received):
    settings.OSVI["default"]["SUMMARIZER"] = f"{__name__}.write"
    token = settings.OSVI["default"]["API_TOKEN"]
    tokens = []
    settings.OSVI["default"]["API_TOKEN"] = lambda: tokens.append(CALLER.get()) or token
    callers = {}
    for name in ("ann", "bob", "cid"):
        set_back = CALLER.set(name)
        session = mirrored(summary=None)
        callers[session.pk] = name
        create_close_job([session])
        CALLER.reset(set_back)
    wait_until(all_jobs_are_finished)
    wait_until(lambda: SessionSummary.objects.count() == 3)
    texts = dict(SessionSummary.objects.values_list("session", "text"))
    assert texts == {key: f"Written for {name} at public." for key, name in callers.items()}
    assert (
        sorted(tokens) == sorted(caller for _id, _at, caller in received) == ["ann", "bob", "cid"]
    )


@pytest.mark.parametrize("hook", [generator_context, class_context, partial_context])
def test_every_thread_that_uses_database_enters_the_hook(
    mirrored, unconfirmed, settings, queries, received, hook
):
    settings.OSVI_THREAD_CONTEXT = f"{__name__}.{hook.__name__}"
    settings.OSVI["default"]["SUMMARIZER"] = f"{__name__}.write"
    tenants = {}
    for name in ("red", "blue"):
        with as_tenant(name):
            sessions = [mirrored(summary=None), mirrored(), unconfirmed(Drop(), summary=None)]
            tenants |= {each.session_id: name for each in sessions}
            received.clear()
            create_close_job(sessions)
    wait_until(all_jobs_are_finished)
    wait_until(lambda: SessionSummary.objects.count() == 6)
    assert {"runner", "writer", "rescuer"} <= queries.keys()  # a heartbeat, too, if it takes long
    for seen in queries.values():
        assert set(seen) <= {"red", "blue"}
    assert set(queries["runner"]) == {"red", "blue"}
    written = SessionSummary.objects.filter(source="host")
    texts = dict(written.values_list("session__session_id", "text"))
    assert len(texts) == 4
    assert texts == {each: f"Written for no one at {tenants[each]}." for each in texts}
    assert current_tenant() == "public"


def test_run_close_job_passes_its_context_to_threads(unconfirmed, settings, queries):
    settings.OSVI_THREAD_CONTEXT = f"{__name__}.generator_context"
    job = create_close_job([unconfirmed(Drop())], start=False)
    with as_tenant("red"):
        assert run_close_job(job.uuid).succeeded == 1
    assert set(queries["rescuer"]) == {"red"}


def test_hook_that_fails_leaves_job_queued(mirrored, settings, caplog, osvi_sandbox):
    settings.OSVI_THREAD_CONTEXT = f"{__name__}.failing_hook"
    job = create_close_job([mirrored()])
    assert f"close job {job.pk} could not be started, and waits" in caplog.text
    assert CloseJob.objects.get().status == "queued"
    assert osvi_sandbox.requests == []


def test_context_that_cannot_be_entered_sends_nothing(mirrored, settings, caplog, osvi_sandbox):
    settings.OSVI_THREAD_CONTEXT = f"{__name__}.hook_that_cannot_be_entered"
    job = create_close_job([mirrored()])
    wait_until(lambda: f"close job {job.uuid} failed in this process: RuntimeError" in caplog.text)
    assert run_close_job(job.uuid).paused_by == "not_configured"
    assert ChatSession.objects.get().status == "active"
    assert osvi_sandbox.requests == []


def test_context_that_cannot_be_left_loses_no_answer(mirrored, settings):
    settings.OSVI_THREAD_CONTEXT = f"{__name__}.hook_that_cannot_be_left"
    job = create_close_job([mirrored(), mirrored()])
    wait_until(all_jobs_are_finished)
    assert CloseJob.objects.get(pk=job.pk).succeeded == SessionSummary.objects.count() == 2


def test_context_can_be_entered_repeatedly(settings):
    settings.OSVI_THREAD_CONTEXT = f"{__name__}.class_context"
    with as_tenant("red"):
        context = ThreadContext()
    assert [context.run(current_tenant) for _time in range(3)] == ["red"] * 3
    with pytest.raises(ZeroDivisionError):
        context.run(lambda: 1 / 0)
    assert context.run(current_tenant) == "red"
    settings.OSVI_THREAD_CONTEXT = None
    assert thread_context() is None


def test_contexts_without_hook_are_equal(settings):
    """The leases of many jobs can be renewed in one statement."""
    first, second = ThreadContext(), ThreadContext()
    assert (len({first, second}), first == 1) == (1, False)
    settings.OSVI_THREAD_CONTEXT = f"{__name__}.partial_context"
    third, fourth = ThreadContext(), ThreadContext()
    assert len({first, second, third, fourth}) == 3


TABLES = "chatagent chatsession sessionsummary closeattempt supportaction closejob closejobitem"


class Schemas:
    """A stand-in for schemas per tenant, kept with the connection as django-tenants does."""

    def __init__(self):
        self.tables = [f"osvi_django_{name}" for name in TABLES.split()]

    def make(self, name):
        with connection.cursor() as cursor:
            cursor.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")
            cursor.execute(f"CREATE SCHEMA {name}")
            for table in self.tables:
                cursor.execute(f"CREATE TABLE {name}.{table} (LIKE public.{table} INCLUDING ALL)")

    def drop(self, name):
        with connection.cursor() as cursor:
            cursor.execute(f"DROP SCHEMA {name} CASCADE")


def number_from(number):
    """Give the next job this number."""
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE osvi_django_closejob ALTER id RESTART WITH {number}")


def use(name, on=None):
    """Switch a connection to a schema."""
    on = on or connection
    on.our_schema = name
    with on.cursor() as cursor:
        cursor.execute(f"SET search_path TO {name}, public")


def use_again(connection, **_named):
    """Restore the schema, as a new connection begins in the public one."""
    use(getattr(connection, "our_schema", "public"), on=connection)


@contextmanager
def schema(name):
    """Work in a schema, and return to the former one."""
    before = getattr(connection, "our_schema", "public")
    use(name)
    try:
        yield
    finally:
        use(before)


def keep_schema():
    """Return what makes a context of the current schema."""
    return partial(schema, getattr(connection, "our_schema", "public"))


@pytest.mark.skipif(connection.vendor != "postgresql", reason="It needs PostgreSQL's schemas.")
def test_tenants_with_own_schemas_run_their_own_jobs(mirrored, settings, osvi_sandbox, unconfirmed):
    settings.OSVI_THREAD_CONTEXT = f"{__name__}.keep_schema"
    settings.OSVI["default"]["SUMMARIZER"] = f"{__name__}.write"
    schemas, names = Schemas(), ("red", "blue")
    connection_created.connect(use_again)
    try:
        never_started = create_close_job([mirrored() for _number in range(3)], start=False)
        for name in names:
            schemas.make(name)
            with schema(name):
                sessions = [mirrored(), mirrored(summary=None), unconfirmed(Drop())]
                number_from(never_started.pk)
                started = create_close_job(sessions)
                assert started.pk == never_started.pk
        for name in names:
            with schema(name):
                wait_until(lambda: CloseJob.objects.filter(status="completed").count() == 1)
                wait_until(lambda: SessionSummary.objects.count() == 3)
                assert {each.status for each in ChatSession.objects.all()} == {"closed"}
        never_started.refresh_from_db()
        assert (never_started.status, never_started.started_at) == ("queued", None)
        assert SessionSummary.objects.count() == 0
    finally:
        runner.stop()
        connection_created.disconnect(use_again)
        for name in names:
            schemas.drop(name)
