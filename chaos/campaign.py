"""A campaign of faults against the example project: ``python -m chaos.campaign --help``.

Sessions are closed by a crowd, through REST and the admin of a site that gunicorn serves, while
workers, masters and recoveries are killed, the database stops and OSVI answers badly or not at all.
Then everything is well again, recoveries run, what is still open is closed, and the books of the
site are compared with those of the sandbox.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator
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

from chaos import books as bookkeeping
from chaos import table, timing
from chaos.books import Books, Page, attempt_of
from chaos.clients import APP, PASSWORD, STAFF, Crowd
from chaos.databases import DATABASES, Database, NotHere, free_port
from chaos.osvi import Ask, PlannedOSVI, owner_of
from chaos.plan import Plan, draw
from chaos.processes import Deaths, Recoveries, Site, environment

CROWD = 8
ROUNDS = 15  # of recoveries, after which whatever is left stays so
AT_ONCE = 3  # recoveries
_AWAY = 60  # seconds that no outage lasts
_START = 60  # seconds for the site to answer
_SWEEP = 120  # seconds for a recovery


class Outages:
    """The database's stops and starts, one at a time."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.times: list[tuple[float, float]] = []
        self.is_up = threading.Event()
        self.is_up.set()
        self._lock = threading.Lock()
        self._may_begin = True
        self._is_over = threading.Event()

    def stop(self, seconds: float) -> None:
        """Stop it at once, and start it that much later."""
        with self._lock:
            may_stop = self._may_begin and self.database.can_stop
            if not may_stop or not self.is_up.is_set():
                return
            self.is_up.clear()
        began = time.time()
        self.database.stop()
        threading.Thread(target=self._start, args=(began, seconds), daemon=True).start()

    def cease(self) -> None:
        """Begin none any more, and wait for the last: to look at rows takes a database."""
        with self._lock:
            self._may_begin = False
        self.is_up.wait(_AWAY)

    def end(self) -> None:
        """No database is started any more."""
        self._is_over.set()
        self.is_up.wait(_AWAY)

    def _start(self, began: float, seconds: float) -> None:
        try:
            if not self._is_over.wait(seconds):
                self.database.start()
        finally:
            self.times.append((began, time.time()))
            self.is_up.set()


class Strikes:
    """Carries out what the plans say of kills and outages, each once, at its moment."""

    def __init__(self, site: Site, recoveries: Recoveries, outages: Outages, seed: int) -> None:
        self.site = site
        self.recoveries = recoveries
        self.outages = outages
        self.random = Random(seed)  # noqa: S311 - a script, not a secret
        self.moments: list[str] = []
        """Those at which the next recoveries that ask are killed."""
        self._done: set[tuple[int, str]] = set()
        self._lock = threading.Lock()
        self._watcher: Any = None

    def watch(self) -> None:
        """Let a recovery look after the site, a new one in place of the last."""
        if self._watcher is not None:
            self.recoveries.kill(self._watcher)
        self._watcher = self.recoveries.start("--watch", "1")

    def before(self, plan: Plan) -> None:
        """Somebody is about to ask for this session."""
        if plan.number % 4:
            self.outages.is_up.wait(_AWAY)
        if not self._is_first(plan, "before"):
            return
        if plan.number % 50 == 25:
            self.watch()
        if plan.outage and plan.outage.moment == "before":
            self.outages.stop(plan.outage.seconds)
        if plan.kill and plan.kill.moment in {"anytime", "master"}:
            strike = self._kill_any if plan.kill.moment == "anytime" else self.site.kill_master
            threading.Thread(target=self._later, args=(plan.kill.delay, strike)).start()

    def on_moment(self, plan: Plan, moment: str, ask: Ask) -> None:
        """A close of this session has come so far."""
        if plan.outage and plan.outage.moment == moment and self._is_first(plan, "outage"):
            self.outages.stop(plan.outage.seconds)
        if plan.kill and plan.kill.moment == moment and self._is_first(plan, "kill"):
            time.sleep(plan.kill.delay)
            self._kill_asker(ask, f"killed when it had {moment}")
        if self.moments and self.moments[0] == moment and ask.pid in self.recoveries.pids:
            self.moments.pop(0)
            self._kill_asker(ask, "a recovery was killed")

    def _kill_asker(self, ask: Ask, why: str) -> None:
        if ask.pid is not None:
            self.site.deaths.kill(ask.pid, why)

    def _kill_any(self) -> None:
        workers = self.site.workers()
        if workers:
            self.site.deaths.kill(self.random.choice(workers), "killed at any time")

    def _later(self, delay: float, strike: Any) -> None:
        time.sleep(delay)
        strike()

    def _is_first(self, plan: Plan, what: str) -> bool:
        with self._lock:
            key = (plan.number, what)
            if key in self._done:
                return False
            self._done.add(key)
        return True


class Campaign:
    """One run, from an empty database to the books."""

    def __init__(self, options: argparse.Namespace, folder: Path, database: Database) -> None:
        counts = {name: getattr(options, name) for name in ("closes", "kills", "outages")}
        self.plans = draw(options.seed, **counts, patience=timing.DATABASE_RETRY_TIMEOUT)
        self.database = database
        self.spool = folder / "spool"
        self.deaths = Deaths(folder / "deaths")
        self.osvi = PlannedOSVI(self.plans, self._owner_of)
        self.osvi.dormant_counts_as_active = options.dormant == "found"
        self.osvi.start()
        surroundings = self._surroundings()
        self.site = Site(folder, free_port(), surroundings, self.deaths)
        self.recoveries = Recoveries(folder, surroundings, self.deaths)
        self.outages = Outages(database)
        self.strikes = Strikes(self.site, self.recoveries, self.outages, options.seed)
        self.random = Random(options.seed)  # noqa: S311 - a script, not a secret

    def run(self) -> Books:
        """Everything, in its order."""
        keys = self._fill()
        self.site.start()
        self._wait_for_site()
        crowd = Crowd(self.site.url, keys, CROWD)
        self._say(f"{len(self.plans)} sessions are being closed")
        self._trouble(crowd)
        self._say("all is well again, and recoveries run")
        self._settle(["closed", "answered", "asked"])
        self._close_the_rest(crowd)
        self._settle([])
        return self._books(crowd)

    def stop(self) -> None:
        """End all that was started, and let nobody start more."""
        self.outages.end()
        self.recoveries.close()
        self.site.stop()
        connections.close_all()
        self.osvi.stop()

    def _surroundings(self) -> dict[str, str]:
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
        """The tables, the people and the sessions; the key of each session."""
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
        ends_at = time.monotonic() + _START
        while time.monotonic() < ends_at:
            try:
                requests.get(self.site.url + "/api/osvi/sessions/", timeout=5)
            except requests.RequestException:
                time.sleep(0.1)
            else:
                return
        raise RuntimeError(f"The site did not start: {self.site.log.read_text()[-2000:]}")

    def _trouble(self, crowd: Crowd) -> None:
        self.osvi.on_moment = self.strikes.on_moment
        self.strikes.watch()
        wishes = [(plan, via) for plan in self.plans for via in plan.entry_points]
        crowd.close(wishes, self.strikes.before)
        self.outages.cease()
        self.osvi.plays = False
        self.recoveries.stop()

    def _settle(self, moments: list[str]) -> None:
        """Recover until nothing is left to do, several at once, and kill some of them midway."""
        self.strikes.moments = moments
        for number in range(ROUNDS):
            if not self._is_unsettled():
                return
            started = [self.recoveries.start() for _ in range(AT_ONCE)]
            if number == 0 and moments:
                time.sleep(self.random.uniform(0.8, 1.6))
                self.recoveries.kill(started[0])
            self._expect_success(self.recoveries.wait(_SWEEP))
            self.recoveries.stop()
            if self._is_unsettled():
                time.sleep(timing.LEASE_TIMEOUT / 3)

    def _expect_success(self, codes: list[int]) -> None:
        """A recovery ends well, or was killed."""
        if set(codes) - {0, -signal.SIGKILL}:
            log = self.recoveries.log.read_text()[-3000:]
            raise RuntimeError(f"Recoveries ended with {codes}:\n{log}")

    def _is_unsettled(self) -> bool:
        sessions = _model("ChatSession").objects
        askable = sessions.filter(status="unconfirmed").exclude(customer_id="")
        found = sessions.filter(status="closing").exists() or askable.exists()
        connections.close_all()
        return found or (self.spool.exists() and any(self.spool.iterdir()))

    def _close_the_rest(self, crowd: Crowd) -> None:
        """Whoever was told to try again later does so now."""
        open_ones = _model("ChatSession").objects.filter(status__in=("active", "dormant"))
        ids = set(open_ones.values_list("session_id", flat=True))
        connections.close_all()
        self._say(f"{len(ids)} sessions are open still, and are closed now")
        plans = [plan for plan in self.plans if plan.session_id in ids]
        crowd.close([(plan, "rest") for plan in plans], lambda plan: None)

    def _books(self, crowd: Crowd) -> Books:
        told: dict[str, list] = {}
        for each in crowd.told:
            told.setdefault(each.session_id, []).append(each)
        rows = _model("ChatSession").objects.select_related("summary")
        found = {row.session_id: row for row in rows.prefetch_related("attempts")}
        pages = [self._page(plan, found[plan.session_id], told) for plan in self.plans]
        connections.close_all()
        deaths = tuple(self.deaths.all)
        return Books(pages=tuple(pages), deaths=deaths, outages=tuple(self.outages.times))

    def _page(self, plan: Plan, row: Any, told: dict[str, list]) -> Page:
        return Page(
            plan=plan,
            status=row.status,
            summary_status=row.summary_status,
            text=row.summary.text if hasattr(row, "summary") else None,
            osvi_status=self.osvi.sessions[plan.session_id].status,
            osvi_closes=self.osvi.closes(plan.session_id),
            asks=tuple(self.osvi.asks[plan.session_id]),
            attempts=tuple(sorted(map(attempt_of, row.attempts.all()), key=lambda a: a.started_at)),
            touched_at=row.updated_at.timestamp(),
            told=tuple(told.get(plan.session_id, ())),
        )

    def _say(self, sentence: str) -> None:
        sys.stdout.write(f"{time.strftime('%H:%M:%S')} {sentence}\n")
        sys.stdout.flush()


def _model(name: str) -> Any:
    """Models can be imported only once this run's settings are known."""
    return apps.get_model("osvi_django", name)


@contextmanager
def running(options: argparse.Namespace) -> Iterator[Campaign]:
    """A campaign in a folder of its own; nothing of it is left behind."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="osvi-faults-")))
        folder.chmod(0o711)  # PostgreSQL, which is no root, has its own folder in there
        database = stack.enter_context(DATABASES[options.database](folder))
        campaign = Campaign(options, folder, database)
        stack.callback(campaign.stop)
        yield campaign


def main(arguments: list[str] | None = None) -> int:
    """Run one campaign; the exit code: 1 with findings, 2 where it cannot be run here."""
    options = _options(arguments)
    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _give_up)
    signal.alarm(options.limit)
    began = time.monotonic()
    line = "--database {database} --seed {seed} --closes {closes} --kills {kills}"
    command = f"{line} --outages {{outages}}".format(**vars(options))
    sys.stdout.write(f"python -m chaos.campaign {command}\n")
    try:
        with running(options) as campaign:
            found = campaign.run()
            words = table.report(found, command=command, seconds=time.monotonic() - began)
    except NotHere as error:
        sys.stderr.write(f"{error}\n")
        return 2
    findings = bookkeeping.check(found)
    sys.stdout.write(words)
    if options.report:
        with options.report.open("a") as file:
            file.write(words)
    for finding in findings:
        story = bookkeeping.story(finding.page, found)
        sys.stdout.write(f"\n{finding.rule}: {finding.sentence}\n{story}\n")
    return 1 if findings else 0


def _give_up(number: int, frame: object) -> None:
    signal.alarm(0)
    raise SystemExit(f"Ended by {signal.Signals(number).name}.")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos.campaign")
    parser.add_argument("--database", choices=DATABASES, default="postgresql")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--closes", type=int, default=200)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--outages", type=int, default=3, help="of PostgreSQL alone")
    parser.add_argument("--limit", type=int, default=1800, help="seconds, then it gives up")
    parser.add_argument("--report", type=Path, help="a file to which the table is added")
    parser.add_argument(
        "--dormant",
        choices=("found", "hidden"),
        default="found",
        help="whether OSVI finds dormant sessions when it is asked for active ones",
    )
    options = parser.parse_args(arguments)
    if not DATABASES[options.database].can_stop:
        options.outages = 0
    return options


if __name__ == "__main__":
    sys.exit(main())
