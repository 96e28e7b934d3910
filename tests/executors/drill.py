"""A drill: ``python -m tests.executors.drill django_tasks``, or ``celery``.

Two workers of a queue, as processes, share one job. One of them is killed when OSVI has closed a
session for it and not answered yet. The outcome is printed as JSON. It needs a PostgreSQL server,
named by ``DATABASE_URL``, on which it creates a database of its own, and for Celery redis-server.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import django
from django.apps import apps
from django.db import connection, connections

from chaos.databases import free_port
from chaos.osvi import CloseRequest, PlannedOSVI, owner_of
from chaos.plan import NO_FAULT, Plan
from chaos.processes import Death
from chaos.records import Attempt, Records, SessionRecord, check, history, read_attempt

ROOT = Path(__file__).resolve().parents[2]
SESSIONS = 105  # more than one task is given
KILL_AFTER = 30  # closes
LATENCY = 0.15  # seconds
LIMIT = 70  # seconds for all of it
_READY = 15  # seconds for Redis, and for a worker to end

EXECUTORS = {
    "django_tasks": "osvi_django.executors.django_tasks",
    "celery": "tests.executors.support.tasks.run_with_celery",
}
COMMANDS = {
    "django_tasks": "manage.py db_worker --interval 0.1 --no-startup-delay --no-reload",
    "celery": "-m celery --app tests.executors.celery_app --quiet worker --concurrency 1 "
    "--without-gossip --without-mingle --hostname {name}@%h",
}


class Worker:
    """A worker of a queue, in a process group of its own."""

    def __init__(self, queue: str, name: str, log: Path) -> None:
        command = COMMANDS[queue].format(name=name).split()
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pids(self) -> list[int]:
        """Return the worker's process and those that it has started."""
        return [self.process.pid, *_descendants(self.process.pid)]

    def kill(self) -> None:
        """Kill the worker and the processes that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """Ask the worker to end, as a deployment does."""
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_READY)
        self.kill()


class DrillOSVI(PlannedOSVI):
    """A planned OSVI whose reads do not fail."""

    def _read_fault(self) -> None:
        return None


class Drill:
    """Two workers, one job, and one kill."""

    def __init__(self, queue: str, log: Path) -> None:
        self.queue = queue
        self.log = log
        self.osvi = DrillOSVI([_plan(number) for number in range(SESSIONS)], self._owner_of)
        self.osvi.on_moment = self._on_moment
        self.workers: list[Worker] = []
        self.deaths: list[Death] = []
        self.worked: dict[int, int] = {}
        """Which worker a process belonged to."""
        self._owners: dict[int, int | None] = {}
        self._closes = 0
        self._lock = threading.Lock()

    def run(self) -> dict[str, Any]:
        """Run the drill; return what was found."""
        self._fill()
        self.workers = [Worker(self.queue, f"drill{number}", self.log) for number in (0, 1)]
        jobs = import_module("osvi_django.services.jobs")
        job = jobs.create_close_job(_model("ChatSession").objects.all())
        self._wait_for(job)
        self.stop()
        # On a very busy machine, OSVI may have answered too late.
        settled = list(import_module("osvi_django.services.recovery").recover_all())
        return {"recovered": len(settled), **self._found(job)}

    def stop(self) -> None:
        """Stop the workers that are left."""
        while self.workers:
            self.workers.pop().stop()

    def _fill(self) -> None:
        agent = _model("ChatAgent").objects.create(uuid="agent_demo")
        _model("ChatSession").objects.bulk_create(
            _model("ChatSession")(
                session_id=plan.session_id, agent=agent, customer_id=plan.customer_id
            )
            for plan in self.osvi.plans.values()
        )

    def _owner_of(self, port: int) -> int | None:
        """Return the worker that owns a connection; connections are reused, so look once."""
        if port not in self._owners:
            workers = enumerate(self.workers)
            pids = {pid: number for number, worker in workers for pid in worker.pids}
            self.worked |= pids
            self._owners[port] = owner_of(port, list(pids))
        return self._owners[port]

    def _on_moment(self, plan: Plan, moment: str, request: CloseRequest) -> None:
        if moment == "closed" and request.pid is not None and self._is_the_time():
            worker = self.workers[self.worked[request.pid]]
            pids = worker.pids
            worker.kill()
            self.deaths = [Death(at=time.time(), pid=pid, reason="killed midway") for pid in pids]

    def _is_the_time(self) -> bool:
        """Return whether this is the close at which a worker is killed."""
        with self._lock:
            self._closes += 1
            return self._closes == KILL_AFTER

    def _wait_for(self, job: Any) -> None:
        ends_at = time.monotonic() + LIMIT
        while not job.is_finished:
            if time.monotonic() > ends_at:
                raise RuntimeError(f"The job is {job.status} after {LIMIT} s.")
            time.sleep(0.1)
            job.refresh_from_db()

    def _found(self, job: Any) -> dict[str, Any]:
        records = Records(sessions=tuple(self._session_records()), deaths=tuple(self.deaths))
        findings = check(records)
        for finding in findings:
            sys.stderr.write(
                f"{finding.rule}: {finding.problem}\n{history(finding.session, records)}\n"
            )
        killed = {death.pid for death in self.deaths}
        close_requests = [
            request for session in records.sessions for request in session.close_requests
        ]
        return {
            "job": job.status,
            "items": Counter(job.items.values_list("outcome", flat=True)),
            "sessions": Counter(session.status for session in records.sessions),
            "summaries": Counter(session.summary_status for session in records.sessions),
            "closes at OSVI": Counter(session.osvi_closes for session in records.sessions),
            "close requests": Counter(len(session.close_requests) for session in records.sessions),
            "requests by worker": Counter(
                self.worked[request.pid] for request in close_requests if request.pid
            ),
            "requests of the killed one": sum(request.pid in killed for request in close_requests),
            "fetched again": sum(_is_fetched(session) for session in records.sessions),
            "tasks": Counter(_tasks().values_list("status", flat=True)),
            "findings": [f"{finding.rule}: {finding.problem}" for finding in findings],
        }

    def _session_records(self) -> Iterator[SessionRecord]:
        rows = _model("ChatSession").objects.select_related("summary")
        for row in rows.prefetch_related("attempts"):
            plan = self.osvi.plans[row.session_id]
            yield SessionRecord(
                plan=plan,
                status=row.status,
                summary_status=row.summary_status,
                text=row.summary.text if hasattr(row, "summary") else None,
                osvi_status=self.osvi.sessions[plan.session_id].status,
                osvi_closes=self.osvi.closes(plan.session_id),
                close_requests=tuple(self.osvi.watched_requests[plan.session_id]),
                attempts=tuple(sorted(map(read_attempt, row.attempts.all()), key=_started_at)),
            )


def _plan(number: int) -> Plan:
    return Plan(
        number=number,
        session_id=f"drill-{number}",
        customer_id=f"+1555{number:07d}",
        status="active",
        summary=f"Conversation {number}: the customer was helped.",
        when_closed="again",
        latency=LATENCY,
        faults=(NO_FAULT,),
        entry_points=(),
    )


def _started_at(attempt: Attempt) -> float:
    return attempt.started_at


def _is_fetched(session: SessionRecord) -> bool:
    return session.text is not None and any(
        attempt.kind == "reclose" for attempt in session.attempts
    )


def _model(name: str) -> Any:
    """Return a model; models cannot be imported before the settings are known."""
    return apps.get_model("osvi_django", name)


def _tasks() -> Any:
    """Return the rows of django-tasks-db, which has none if Celery runs the tasks."""
    return apps.get_model("django_tasks_database", "DBTaskResult").objects


def _descendants(pid: int) -> list[int]:
    try:
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [each for word in words for each in (int(word), *_descendants(int(word)))]


@contextmanager
def database(server: str) -> Iterator[str]:
    """Create a database with its tables on the server for this run, and yield its URL."""
    name = os.environ["DRILL_DATABASE"]
    django.setup()
    before = connection.settings_dict["NAME"]
    connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
    try:
        yield urlsplit(server)._replace(path=f"/{name}").geturl()
    finally:
        connections.close_all()
        connection.creation.destroy_test_db(before, verbosity=0)


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """Start a Redis that writes nothing to the disk, and yield its URL."""
    port = str(free_port())
    command = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", ""]
    with subprocess.Popen(
        [*command, "--dir", folder], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as server:
        try:
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()


def surroundings(queue: str, osvi: PlannedOSVI, folder: Path) -> None:
    """Set the variables that the settings of this process and of the workers read."""
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "tests.executors.settings",
        "DJANGO_DEBUG": "1",
        "DRILL_EXECUTOR": EXECUTORS[queue],
        "DRILL_SPOOL_DIR": str(folder / "spool"),
        "DRILL_DATABASE": f"osvi_drill_{os.getpid()}",
        "OSVI_BASE_URL": osvi.url,
        "OSVI_API_TOKEN": osvi.token,
    }


def main(queue: str) -> int:
    """Run a drill, print what was found, and return the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Ended by SIGTERM."))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="osvi-drill-")))
        drill = Drill(queue, folder / "workers.log")
        stack.enter_context(drill.osvi)
        surroundings(queue, drill.osvi, folder)
        if queue == "celery":
            os.environ["DRILL_BROKER_URL"] = stack.enter_context(redis(folder))
            import_module("tests.executors.celery_app")
        os.environ["DATABASE_URL"] = stack.enter_context(database(os.environ["DATABASE_URL"]))
        stack.callback(drill.stop)
        try:
            found = drill.run()
        except BaseException:
            sys.stderr.write((folder / "workers.log").read_text()[-4000:])
            raise
    sys.stdout.write(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
