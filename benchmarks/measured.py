"""One measurement in this process: ``python -m benchmarks.measured NAME JSON``.

The process prints one JSON object. If it must start together with others, it prints ``ready`` and
waits for a line.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from threading import local
from typing import Any

import django
import requests
from django.conf import settings
from django.core.management import call_command
from django.db import OperationalError, connection, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.db.models import QuerySet
from django.utils import timezone

from benchmarks.chats import AGENT_UUID, SUMMARY, TOKEN, session_ids

django.setup()  # models cannot be imported before

from osvi_django.client import OSVIClient  # noqa: E402
from osvi_django.models import (  # noqa: E402
    ChatAgent,
    ChatSession,
    CloseAttempt,
    CloseJob,
    CloseJobItem,
    SessionSummary,
)
from osvi_django.services import jobs  # noqa: E402

Numbers = dict[str, Any]
BATCH = 5_000
HISTORY = 2_000  # sessions that are closed already


# Preparation


def migrate() -> Numbers:
    """Create the tables."""
    call_command("migrate", verbosity=0)
    return {}


def seed(*, sessions: int) -> Numbers:
    """Create closed and open sessions, and update the database's statistics."""
    agent = ChatAgent.objects.create(uuid=AGENT_UUID)
    with transaction.atomic():
        _add_history(agent)
        ChatSession.objects.bulk_create(
            (
                ChatSession(session_id=each, agent=agent, customer_id=f"+1555{index:07d}")
                for index, each in enumerate(session_ids(sessions))
            ),
            batch_size=BATCH,
        )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    return {}


def _add_history(agent: ChatAgent) -> None:
    """Add rows to all tables: PostgreSQL plans for empty tables until its autovacuum has run."""
    closed = {"status": ChatSession.Status.CLOSED, "closed_at": timezone.now()}
    sessions = ChatSession.objects.bulk_create(
        ChatSession(session_id=f"history-{index}", agent=agent, **closed)
        for index in range(HISTORY)
    )
    facts = {"claim": uuid.uuid4(), "outcome": CloseAttempt.Outcome.CLOSED, "answer": SUMMARY}
    attempts = CloseAttempt.objects.bulk_create(
        CloseAttempt(session=each, **facts) for each in sessions
    )
    SessionSummary.objects.bulk_create(
        SessionSummary(session=each, text=SUMMARY) for each in sessions
    )
    job = CloseJob.objects.create(
        status=CloseJob.Status.COMPLETED,
        finished_at=timezone.now(),
        total=HISTORY,
        succeeded=HISTORY,
    )
    CloseJobItem.objects.bulk_create(
        CloseJobItem(
            job=job,
            requested_session_id=each.session.session_id,
            session=each.session,
            attempt=each,
            outcome=CloseJobItem.Outcome.CLOSED,
        )
        for each in attempts
    )


def create() -> Numbers:
    """Create a job of all open sessions, and start no worker."""
    job = jobs.create_close_job(_open_sessions(), start=False)
    return {"job": str(job.uuid)}


# Measurements


def raw(*, sessions: int, threads: int) -> Numbers:
    """Measure the raw limit: threads that post and read the JSON, without a database."""
    thread = local()

    def close(session_id: str) -> None:
        if not hasattr(thread, "session"):
            thread.session = requests.Session()
        response = thread.session.post(
            _close_url(session_id),
            json={"agent_uuid": AGENT_UUID},
            headers={"API-Token": TOKEN},
            timeout=(5, 60),
        )
        if not response.json()["success"]:
            raise RuntimeError(response.text)

    return _in_threads(close, sessions=sessions, threads=threads)


def client(*, sessions: int, threads: int) -> Numbers:
    """Measure the app's client, which limits and checks each answer, without a database."""
    osvi = OSVIClient.for_account()

    def close(session_id: str) -> None:
        osvi.close_session(session_id, agent_uuid=AGENT_UUID)

    return _in_threads(close, sessions=sessions, threads=threads)


def naive() -> Numbers:
    """Measure the loop that most developers write first."""
    with _measure() as numbers:
        for session in _open_sessions().select_related("agent"):
            response = requests.post(
                _close_url(session.session_id),
                json={"agent_uuid": session.agent.uuid},
                headers={"API-Token": TOKEN},
                timeout=(5, 60),
            )
            response.raise_for_status()
            session.status = ChatSession.Status.CLOSED
            session.save()
    return numbers


def app(*, sessions: int) -> Numbers:
    """Measure the app: create a job and run it."""
    with _measure() as creation:
        job = create()["job"]
    numbers = _run(job)
    total = {each: creation[each] + numbers[each] for each in creation}
    _require_all_closed(sessions)
    return {**numbers, **total, "creation": creation}


def worker(*, job: str) -> Numbers:
    """Measure one of several processes that share a job and start together."""
    connection.ensure_connection()
    print("ready", flush=True)
    sys.stdin.readline()
    started_at = time.time()
    return {**_run(job), "started_at": started_at}


def finished(*, job: str, sessions: int) -> Numbers:
    """Return when a job finished that other processes ran; all its sessions must be closed."""
    _require_all_closed(sessions)
    finished_at = CloseJob.objects.get(uuid=job).finished_at
    if finished_at is None:
        raise RuntimeError("The job is not finished.")
    return {"finished_at": finished_at.timestamp()}


MEASURES: dict[str, Callable[..., Numbers]] = {
    each.__name__: each
    for each in (migrate, seed, create, raw, client, naive, app, worker, finished)
}


def _open_sessions() -> QuerySet[ChatSession]:
    return ChatSession.objects.filter(status__in=ChatSession.OPEN)


def _run(job: str) -> Numbers:
    with _count_locks() as locks, _measure() as numbers:
        jobs.run_close_job(job)
    return {
        **numbers,
        "memory": _peak_memory(),
        "connections": _connections(),
        "locks": len(locks),
    }


def _close_url(session_id: str) -> str:
    base_url = settings.OSVI["default"]["BASE_URL"]
    return f"{base_url}/chat_sessions/{session_id}/close_session"


def _in_threads(close: Callable[[str], None], *, sessions: int, threads: int) -> Numbers:
    # Threads can share the iterator of a list, but not a generator.
    waiting = iter(list(session_ids(sessions)))

    def work() -> None:
        for session_id in waiting:
            close(session_id)

    with _measure() as numbers, ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work) for _ in range(threads)]:
            done.result()
    return numbers


@contextmanager
def _measure() -> Iterator[Numbers]:
    """Measure the elapsed seconds, and the CPU seconds of all threads of this process."""
    numbers: Numbers = {}
    wall, cpu = time.perf_counter(), time.process_time()
    yield numbers
    numbers |= {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


@contextmanager
def _count_locks() -> Iterator[list[str]]:
    """Collect the operational errors of all connections, also those that are retried."""
    seen: list[str] = []

    def count_error(execute: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return execute(*arguments)
        except OperationalError as error:
            seen.append(str(error))
            raise

    def wrap(connection: BaseDatabaseWrapper, **_: Any) -> None:
        connection.execute_wrappers.append(count_error)

    connection_created.connect(wrap)
    wrap(connection)
    yield seen
    connection_created.disconnect(wrap)


def _peak_memory() -> int:
    """Return the peak memory in bytes; getrusage would include what the parent had at the fork."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _connections() -> int:
    """Return how many connections to the database this process has left open."""
    if connection.vendor == "sqlite":
        name = str(connection.settings_dict["NAME"])
        return sum(_target(each) == name for each in Path("/proc/self/fd").iterdir())
    with closing(connection.copy()) as second, second.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND backend_type = 'client backend'"
            " AND pid <> pg_backend_pid()"
        )
        return int(cursor.fetchone()[0])


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except FileNotFoundError:  # the descriptor that listed the others
        return ""


def _require_all_closed(sessions: int) -> None:
    closed = ChatSession.objects.filter(status=ChatSession.Status.CLOSED).count() - HISTORY
    summaries = SessionSummary.objects.count() - HISTORY
    if not closed == summaries == sessions:
        raise RuntimeError(f"{closed} of {sessions} closed, {summaries} summaries")


def main() -> None:
    """Run one measurement and print its numbers."""
    name, options = sys.argv[1], json.loads(sys.argv[2])
    print(json.dumps(MEASURES[name](**options)), flush=True)


if __name__ == "__main__":
    main()
