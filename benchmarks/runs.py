"""The runs of a benchmark: each sets up what it needs, and measures in a new process."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks import children
from benchmarks.databases import Database

Numbers = dict[str, Any]


@dataclass
class Runs:
    """The runs on some databases; ``locks`` counts failed statements by the database's label."""

    databases: Sequence[Database]
    threads: int
    locks: Counter[str] = field(default_factory=Counter)

    def in_turn(
        self, sessions: int, latency: float, *, without_database: Sequence[str], rounds: int
    ) -> dict[str, list[Numbers]]:
        """Measure the app on each database, and what needs none; return the runs by their names.

        They take turns, so that other load on the machine affects all of them.
        """
        runs: dict[str, list[Numbers]] = {}
        for _ in range(rounds):
            for name in without_database:
                runs.setdefault(name, []).append(self.without_database(name, sessions, latency))
            for database in self.databases:
                run = self.app(database, sessions, latency)
                runs.setdefault(database.label, []).append(run)
        return runs

    def without_database(self, name: str, sessions: int, latency: float) -> Numbers:
        """Run a measurement that needs no database."""
        _log(f"{name}: {sessions} at {latency} s")
        with children.sandbox(sessions=sessions, latency=latency) as osvi:
            return children.measure(name, osvi=osvi, sessions=sessions, threads=self.threads)

    def naive(self, database: Database, sessions: int, latency: float) -> Numbers:
        """Run the naive loop."""
        _log(f"naive on {database.label}: {sessions} at {latency} s")
        with _set_up(database, sessions, latency) as urls:
            return children.measure("naive", **urls)

    def app(self, database: Database, sessions: int, latency: float) -> Numbers:
        """Run the app in one process."""
        _log(f"app on {database.label}: {sessions} at {latency} s")
        with _set_up(database, sessions, latency) as urls:
            numbers = children.measure("app", **urls, sessions=sessions)
        self.locks[database.label] += numbers["locks"]
        return numbers

    def shared(self, database: Database, sessions: int, latency: float, processes: int) -> float:
        """Return the closes per second of processes that share a job, from start to end."""
        _log(f"{processes} processes on {database.label}: {sessions} at {latency} s")
        with _set_up(database, sessions, latency) as urls:
            job = children.measure("create", **urls)["job"]
            workers = [children.start("worker", **urls, job=job) for _ in range(processes)]
            runs = children.run_together(workers)
            end = children.measure("finished", **urls, job=job, sessions=sessions)["finished_at"]
        self.locks[database.label] += sum(run["locks"] for run in runs)
        return float(sessions / (end - min(run["started_at"] for run in runs)))


def median_of(runs: Sequence[Numbers], name: str) -> float:
    """Return the median of one of the numbers."""
    return float(median(run[name] for run in runs))


@contextmanager
def _set_up(database: Database, sessions: int, latency: float) -> Iterator[dict[str, str]]:
    """Set up a database and a sandbox with the same open sessions; yield their URLs."""
    with database.copy() as url:
        children.measure("seed", database=url, sessions=sessions)
        with children.sandbox(sessions=sessions, latency=latency) as osvi:
            yield {"database": url, "osvi": osvi}


def _log(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)
