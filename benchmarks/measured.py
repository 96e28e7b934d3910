"""What is measured, each run in a process of its own: ``python -m benchmarks.measured NAME JSON``.

The process prints one JSON object. Where it has to begin together with others, it says ``ready``
and waits for a line.
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
HISTORY = 2_000  # sessions that were closed before


# Arranging


def migrate() -> Numbers:
    """Make the tables."""
    call_command("migrate", verbosity=0)
    return {}


def seed(*, sessions: int) -> Numbers:
    """Add open sessions to a history of closed ones, and let the database know how many."""
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
    """Rows in all tables: PostgreSQL plans for an empty one until its autovacuum comes by."""
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
    """Make one job of all open sessions; nobody is told to run it."""
    job = jobs.create_close_job(_open_sessions(), start=False)
    return {"job": str(job.uuid)}


# Measuring


def raw(*, sessions: int, threads: int) -> Numbers:
    """The limit: threads that post and read the JSON, and have no database."""
    mine = local()

    def close(session_id: str) -> None:
        if not hasattr(mine, "session"):
            mine.session = requests.Session()
        response = mine.session.post(
            _address(session_id),
            json={"agent_uuid": AGENT_UUID},
            headers={"API-Token": TOKEN},
            timeout=(5, 60),
        )
        if not response.json()["success"]:
            raise RuntimeError(response.text)

    return _in_threads(close, sessions=sessions, threads=threads)


def client(*, sessions: int, threads: int) -> Numbers:
    """The same with the app's client, which bounds, scrubs and checks; and no database either."""
    osvi = OSVIClient.for_account()

    def close(session_id: str) -> None:
        osvi.close_session(session_id, agent_uuid=AGENT_UUID)

    return _in_threads(close, sessions=sessions, threads=threads)


def naive() -> Numbers:
    """What a developer writes first."""
    with _metered() as numbers:
        for session in _open_sessions().select_related("agent"):
            response = requests.post(
                _address(session.session_id),
                json={"agent_uuid": session.agent.uuid},
                headers={"API-Token": TOKEN},
                timeout=(5, 60),
            )
            response.raise_for_status()
            session.status = ChatSession.Status.CLOSED
            session.save()
    return numbers


def app(*, sessions: int) -> Numbers:
    """This app: the job is created and run."""
    with _metered() as creation:
        job = create()["job"]
    numbers = _run(job)
    total = {each: creation[each] + numbers[each] for each in creation}
    _require_all_closed(sessions)
    return {**numbers, **total, "creation": creation}


def worker(*, job: str) -> Numbers:
    """One of several processes that share a job, from a common start."""
    connection.ensure_connection()
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.time()
    return {**_run(job), "began": began}


def ended(*, job: str, sessions: int) -> Numbers:
    """When a job that others ran was finished; all of it must be closed."""
    _require_all_closed(sessions)
    finished_at = CloseJob.objects.get(uuid=job).finished_at
    return {"finished_at": finished_at.timestamp()}


MEASURES: dict[str, Callable[..., Numbers]] = {
    each.__name__: each for each in (migrate, seed, create, raw, client, naive, app, worker, ended)
}


def _open_sessions() -> QuerySet[ChatSession]:
    return ChatSession.objects.filter(status__in=ChatSession.OPEN)


def _run(job: str) -> Numbers:
    with _locks_counted() as locks, _metered() as numbers:
        jobs.run_close_job(job)
    return {
        **numbers,
        "memory": _peak_memory(),
        "connections": _connections(),
        "locks": len(locks),
    }


def _address(session_id: str) -> str:
    base_url = settings.OSVI["default"]["BASE_URL"]
    return f"{base_url}/chat_sessions/{session_id}/close_session"


def _in_threads(close: Callable[[str], None], *, sessions: int, threads: int) -> Numbers:
    # Threads may share the iterator of a list; a generator is not to be entered twice.
    waiting = iter(list(session_ids(sessions)))

    def work() -> None:
        for session_id in waiting:
            close(session_id)

    with _metered() as numbers, ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work) for _ in range(threads)]:
            done.result()
    return numbers


@contextmanager
def _metered() -> Iterator[Numbers]:
    """Seconds on the wall's clock, and of this process on the CPUs: all of its threads."""
    numbers: Numbers = {}
    wall, cpu = time.perf_counter(), time.process_time()
    yield numbers
    numbers |= {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


@contextmanager
def _locks_counted() -> Iterator[list[str]]:
    """Each ``database is locked`` of any connection, also where somebody tries again."""
    seen: list[str] = []

    def watch(execute: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return execute(*arguments)
        except OperationalError as error:
            seen.append(str(error))
            raise

    def wrap(connection: BaseDatabaseWrapper, **_: Any) -> None:
        connection.execute_wrappers.append(watch)

    connection_created.connect(wrap)
    wrap(connection)
    yield seen
    connection_created.disconnect(wrap)


def _peak_memory() -> int:
    """Bytes. What getrusage tells is no less than what the parent had when it forked."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _connections() -> int:
    """How many connections to the database this process has left open."""
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
    except FileNotFoundError:  # the one that listed them
        return ""


def _require_all_closed(sessions: int) -> None:
    closed = ChatSession.objects.filter(status=ChatSession.Status.CLOSED).count() - HISTORY
    summaries = SessionSummary.objects.count() - HISTORY
    if not closed == summaries == sessions:
        raise RuntimeError(f"{closed} of {sessions} closed, {summaries} summaries")


def main() -> None:
    """Measure one thing and print its numbers."""
    name, options = sys.argv[1], json.loads(sys.argv[2])
    print(json.dumps(MEASURES[name](**options)), flush=True)


if __name__ == "__main__":
    main()
