"""A campaign of faults against the example project: ``python -m chaos.campaign --help``.

Clients close sessions over REST and in the admin of a site that gunicorn serves. Meanwhile workers,
masters and recoveries are killed, the database stops, and OSVI answers badly or not at all. Then
the faults end, recoveries run, open sessions are closed, and the records of the site are compared
with those of the sandbox.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import django
import requests
from django.apps import apps
from django.core.management import call_command
from django.db import connections

from chaos import table, timing
from chaos.clients import APP, PASSWORD, STAFF, ClientPool, ClientResponse
from chaos.databases import DATABASES, Database, NotAvailable, free_port
from chaos.osvi import CloseRequest, PlannedOSVI, owner_of
from chaos.plan import Plan, draw
from chaos.processes import Deaths, Recoveries, Site, environment
from chaos.records import Records, SessionRecord, check, history, read_attempt

CLIENTS = 8
RECOVERY_ROUNDS = 15  # then a session that is still unsettled stays so
RECOVERIES_AT_ONCE = 3
_MAX_OUTAGE = 60  # seconds; every outage is shorter
_START_TIMEOUT = 60  # seconds for the site to answer
_RECOVERY_TIMEOUT = 120  # seconds for a recovery


class Outages:
    """The outages of the database, one at a time."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.times: list[tuple[float, float]] = []
        self.is_up = threading.Event()
        self.is_up.set()
        self._lock = threading.Lock()
        self._may_begin = True
        self._is_over = threading.Event()

    def stop(self, seconds: float) -> None:
        """Stop the database at once, and start it again after some seconds."""
        with self._lock:
            may_stop = self._may_begin and self.database.can_stop
            if not may_stop or not self.is_up.is_set():
                return
            self.is_up.clear()
        started_at = time.time()
        self.database.stop()
        threading.Thread(target=self._start, args=(started_at, seconds), daemon=True).start()

    def finish(self) -> None:
        """Start no more outages, and wait for the last one: reading rows takes a database."""
        with self._lock:
            self._may_begin = False
        self.is_up.wait(_MAX_OUTAGE)

    def end(self) -> None:
        """Leave a stopped database stopped, and wait for a start in progress."""
        self._is_over.set()
        self.is_up.wait(_MAX_OUTAGE)

    def _start(self, started_at: float, seconds: float) -> None:
        try:
            if not self._is_over.wait(seconds):
                self.database.start()
        finally:
            self.times.append((started_at, time.time()))
            self.is_up.set()


class Disruptions:
    """Carry out the kills and outages of the plans, each once, at its moment."""

    def __init__(self, site: Site, recoveries: Recoveries, outages: Outages, seed: int) -> None:
        self.site = site
        self.recoveries = recoveries
        self.outages = outages
        self.random = Random(seed)  # noqa: S311 - a script, not a secret
        self.moments: list[str] = []
        """The moments at which the next recoveries that send a close are killed."""
        self._done: set[tuple[int, str]] = set()
        self._lock = threading.Lock()
        self._watcher: Any = None

    def restart_watcher(self) -> None:
        """Start a recovery that watches the site, in place of the last one."""
        if self._watcher is not None:
            self.recoveries.kill(self._watcher)
        self._watcher = self.recoveries.start("--watch", "1")

    def before_close(self, plan: Plan) -> None:
        """Carry out what is planned before a close of this session."""
        if plan.number % 4:
            self.outages.is_up.wait(_MAX_OUTAGE)
        if not self._is_first(plan, "before"):
            return
        if plan.number % 50 == 25:
            self.restart_watcher()
        if plan.outage and plan.outage.moment == "before":
            self.outages.stop(plan.outage.seconds)
        if plan.kill and plan.kill.moment in {"anytime", "master"}:
            kill = self._kill_any if plan.kill.moment == "anytime" else self.site.kill_master
            threading.Thread(target=self._kill_later, args=(plan.kill.delay, kill)).start()

    def on_moment(self, plan: Plan, moment: str, request: CloseRequest) -> None:
        """Carry out what is planned for this moment of a close."""
        if plan.outage and plan.outage.moment == moment and self._is_first(plan, "outage"):
            self.outages.stop(plan.outage.seconds)
        if plan.kill and plan.kill.moment == moment and self._is_first(plan, "kill"):
            time.sleep(plan.kill.delay)
            self._kill_requester(request, f"killed when it had {moment}")
        if self.moments and self.moments[0] == moment and request.pid in self.recoveries.pids:
            self.moments.pop(0)
            self._kill_requester(request, "a recovery was killed")

    def _kill_requester(self, request: CloseRequest, reason: str) -> None:
        if request.pid is not None:
            self.site.deaths.kill(request.pid, reason)

    def _kill_any(self) -> None:
        workers = self.site.workers()
        if workers:
            self.site.deaths.kill(self.random.choice(workers), "killed at any time")

    def _kill_later(self, delay: float, kill: Callable[[], None]) -> None:
        time.sleep(delay)
        kill()

    def _is_first(self, plan: Plan, what: str) -> bool:
        with self._lock:
            key = (plan.number, what)
            if key in self._done:
                return False
            self._done.add(key)
        return True


class Campaign:
    """One run, from an empty database to its records."""

    def __init__(self, options: argparse.Namespace, folder: Path, database: Database) -> None:
        counts = {name: getattr(options, name) for name in ("closes", "kills", "outages")}
        self.plans = draw(options.seed, **counts, patience=timing.DATABASE_RETRY_TIMEOUT)
        self.database = database
        self.spool = folder / "spool"
        self.deaths = Deaths(folder / "deaths")
        self.osvi = PlannedOSVI(self.plans, self._owner_of)
        self.osvi.dormant_counts_as_active = options.dormant == "found"
        self.osvi.start()
        variables = self._set_environment()
        self.site = Site(folder, free_port(), variables, self.deaths)
        self.recoveries = Recoveries(folder, variables, self.deaths)
        self.outages = Outages(database)
        self.disruptions = Disruptions(self.site, self.recoveries, self.outages, options.seed)
        self.random = Random(options.seed)  # noqa: S311 - a script, not a secret

    def run(self) -> Records:
        """Run the campaign and return its records."""
        keys = self._fill()
        self.site.start()
        self._wait_for_site()
        clients = ClientPool(self.site.url, keys, CLIENTS)
        self._print(f"Closing {len(self.plans)} sessions.")
        self._disrupt(clients)
        self._print("The faults have ended. Recoveries run.")
        self._settle(["closed", "answered", "asked"])
        self._close_open_sessions(clients)
        self._settle([])
        return self._records(clients)

    def stop(self) -> None:
        """Stop everything that was started, and start no more."""
        self.outages.end()
        self.recoveries.close()
        self.site.stop()
        connections.close_all()
        self.osvi.stop()

    def _set_environment(self) -> dict[str, str]:
        os.environ |= environment(
            DJANGO_SETTINGS_MODULE="chaos.settings",
            DJANGO_SECRET_KEY=secrets.token_urlsafe(50),
            DJANGO_DEBUG="1",
            DJANGO_ALLOWED_HOSTS="127.0.0.1",
            DATABASE_URL=self.database.url,
            OSVI_BASE_URL=self.osvi.url,
            OSVI_API_TOKEN=self.osvi.token,
            FAULTS_SPOOL_DIR=self.spool,
            FAULTS_DEATHS=self.deaths.file,
        )
        return dict(os.environ)

    def _owner_of(self, port: int) -> int | None:
        return owner_of(port, self.site.workers() + self.recoveries.pids)

    def _fill(self) -> dict[str, int]:
        """Create the tables, the users and the sessions; return the key of each session."""
        django.setup()
        call_command("migrate", verbosity=0)
        users = apps.get_model("auth.User").objects
        users.create_superuser(APP, password=PASSWORD)
        users.create_superuser(STAFF, password=PASSWORD)
        agent = _model("ChatAgent").objects.create(uuid="agent_demo")
        _model("ChatSession").objects.bulk_create(
            _model("ChatSession")(
                session_id=plan.session_id,
                agent=agent,
                customer_id=plan.customer_id,
                status=plan.status,
            )
            for plan in self.plans
        )
        keys = dict(_model("ChatSession").objects.values_list("session_id", "pk"))
        connections.close_all()
        return keys

    def _wait_for_site(self) -> None:
        ends_at = time.monotonic() + _START_TIMEOUT
        while time.monotonic() < ends_at:
            try:
                requests.get(self.site.url + "/api/osvi/sessions/", timeout=5)
            except requests.RequestException:
                time.sleep(0.1)
            else:
                return
        raise RuntimeError(f"The site did not start: {self.site.log.read_text()[-2000:]}")

    def _disrupt(self, clients: ClientPool) -> None:
        self.osvi.on_moment = self.disruptions.on_moment
        self.disruptions.restart_watcher()
        orders = [(plan, via) for plan in self.plans for via in plan.entry_points]
        clients.close(orders, self.disruptions.before_close)
        self.outages.finish()
        self.osvi.plays_faults = False
        self.recoveries.stop()

    def _settle(self, moments: list[str]) -> None:
        """Run recoveries at the same time until every session is settled; kill some of them."""
        self.disruptions.moments = moments
        for number in range(RECOVERY_ROUNDS):
            if not self._has_unsettled():
                return
            started = [self.recoveries.start() for _ in range(RECOVERIES_AT_ONCE)]
            if number == 0 and moments:
                time.sleep(self.random.uniform(0.8, 1.6))
                self.recoveries.kill(started[0])
            self._expect_success(self.recoveries.wait(_RECOVERY_TIMEOUT))
            self.recoveries.stop()
            if self._has_unsettled():
                time.sleep(timing.LEASE_TIMEOUT / 3)

    def _expect_success(self, codes: list[int]) -> None:
        """Raise an error if a recovery failed that was not killed."""
        if set(codes) - {0, -signal.SIGKILL}:
            log = self.recoveries.log.read_text()[-3000:]
            raise RuntimeError(f"Recoveries ended with {codes}:\n{log}")

    def _has_unsettled(self) -> bool:
        sessions = _model("ChatSession").objects
        askable = sessions.filter(status="unconfirmed").exclude(customer_id="")
        found = sessions.filter(status="closing").exists() or askable.exists()
        connections.close_all()
        return found or (self.spool.exists() and any(self.spool.iterdir()))

    def _close_open_sessions(self, clients: ClientPool) -> None:
        """Close what is still open, as clients do that got a retryable error."""
        open_sessions = _model("ChatSession").objects.filter(status__in=("active", "dormant"))
        ids = set(open_sessions.values_list("session_id", flat=True))
        connections.close_all()
        self._print(f"Closing {len(ids)} sessions that are still open.")
        plans = [plan for plan in self.plans if plan.session_id in ids]
        clients.close([(plan, "rest") for plan in plans], lambda plan: None)

    def _records(self, clients: ClientPool) -> Records:
        responses: dict[str, list[ClientResponse]] = {}
        for response in clients.responses:
            responses.setdefault(response.session_id, []).append(response)
        rows = _model("ChatSession").objects.select_related("summary")
        found = {row.session_id: row for row in rows.prefetch_related("attempts")}
        sessions = [
            self._session_record(plan, found[plan.session_id], responses) for plan in self.plans
        ]
        connections.close_all()
        deaths = tuple(self.deaths.all)
        return Records(sessions=tuple(sessions), deaths=deaths, outages=tuple(self.outages.times))

    def _session_record(
        self, plan: Plan, row: Any, responses: dict[str, list[ClientResponse]]
    ) -> SessionRecord:
        return SessionRecord(
            plan=plan,
            status=row.status,
            summary_status=row.summary_status,
            text=row.summary.text if hasattr(row, "summary") else None,
            osvi_status=self.osvi.sessions[plan.session_id].status,
            osvi_closes=self.osvi.closes(plan.session_id),
            close_requests=tuple(self.osvi.watched_requests[plan.session_id]),
            attempts=tuple(
                sorted(map(read_attempt, row.attempts.all()), key=lambda each: each.started_at)
            ),
            updated_at=row.updated_at.timestamp(),
            responses=tuple(responses.get(plan.session_id, ())),
        )

    def _print(self, sentence: str) -> None:
        sys.stdout.write(f"{time.strftime('%H:%M:%S')} {sentence}\n")
        sys.stdout.flush()


def _model(name: str) -> Any:
    """Return a model; models cannot be imported before the settings are known."""
    return apps.get_model("osvi_django", name)


@contextmanager
def running(options: argparse.Namespace) -> Iterator[Campaign]:
    """Set up a campaign in a temporary folder, and remove everything at the end."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="osvi-faults-")))
        folder.chmod(0o711)  # PostgreSQL, which does not run as root, has its folder in it
        database = stack.enter_context(DATABASES[options.database](folder))
        campaign = Campaign(options, folder, database)
        stack.callback(campaign.stop)
        yield campaign


def main(arguments: list[str] | None = None) -> int:
    """Run a campaign and return the exit code: 1 with findings, 2 if something is not installed."""
    options = _options(arguments)
    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit_on_signal)
    signal.alarm(options.limit)
    started_at = time.monotonic()
    template = "--database {database} --seed {seed} --closes {closes} --kills {kills}"
    command = f"{template} --outages {{outages}}".format(**vars(options))
    sys.stdout.write(f"python -m chaos.campaign {command}\n")
    try:
        with running(options) as campaign:
            records = campaign.run()
            report = table.report(records, command=command, seconds=time.monotonic() - started_at)
    except NotAvailable as error:
        sys.stderr.write(f"{error}\n")
        return 2
    findings = check(records)
    sys.stdout.write(report)
    if options.report:
        with options.report.open("a") as file:
            file.write(report)
    for finding in findings:
        events = history(finding.session, records)
        sys.stdout.write(f"\n{finding.rule}: {finding.problem}\n{events}\n")
    return 1 if findings else 0


def _exit_on_signal(number: int, frame: object) -> None:
    signal.alarm(0)
    raise SystemExit(f"Ended by {signal.Signals(number).name}.")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos.campaign")
    parser.add_argument("--database", choices=DATABASES, default="postgresql")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--closes", type=int, default=200)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--outages", type=int, default=3, help="only with PostgreSQL")
    parser.add_argument("--limit", type=int, default=1800, help="seconds after which it stops")
    parser.add_argument("--report", type=Path, help="a file to append the table to")
    parser.add_argument(
        "--dormant",
        choices=("found", "hidden"),
        default="found",
        help="whether OSVI lists dormant sessions as active",
    )
    options = parser.parse_args(arguments)
    if not DATABASES[options.database].can_stop:
        options.outages = 0
    return options


if __name__ == "__main__":
    sys.exit(main())
