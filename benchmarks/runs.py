"""The runs of a benchmark: each arranges what it takes, and measures in a fresh process."""

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
    """Measures on these databases, and counts each ``database is locked``, by the label of one."""

    databases: Sequence[Database]
    threads: int
    locks: Counter[str] = field(default_factory=Counter)

    def in_turn(
        self, sessions: int, latency: float, *, without: Sequence[str], rounds: int
    ) -> dict[str, list[Numbers]]:
        """The app on each database, and what needs none, by their names.

        Round after round: where the machine is busy, it is so for all of them.
        """
        runs: dict[str, list[Numbers]] = {}
        for _ in range(rounds):
            for name in without:
                runs.setdefault(name, []).append(self.without(name, sessions, latency))
            for database in self.databases:
                run = self.app(database, sessions, latency)
                runs.setdefault(database.label, []).append(run)
        return runs

    def without(self, name: str, sessions: int, latency: float) -> Numbers:
        """What needs no database."""
        _say(f"{name}: {sessions} at {latency} s")
        with children.sandbox(sessions=sessions, latency=latency) as osvi:
            return children.measure(name, osvi=osvi, sessions=sessions, threads=self.threads)

    def naive(self, database: Database, sessions: int, latency: float) -> Numbers:
        """The naive loop."""
        _say(f"naive on {database.label}: {sessions} at {latency} s")
        with _arranged(database, sessions, latency) as where:
            return children.measure("naive", **where)

    def app(self, database: Database, sessions: int, latency: float) -> Numbers:
        """The app, in one process."""
        _say(f"app on {database.label}: {sessions} at {latency} s")
        with _arranged(database, sessions, latency) as where:
            numbers = children.measure("app", **where, sessions=sessions)
        self.locks[database.label] += numbers["locks"]
        return numbers

    def shared(self, database: Database, sessions: int, latency: float, processes: int) -> float:
        """Closes per second of processes that run one job, from their start to the job's end."""
        _say(f"{processes} processes on {database.label}: {sessions} at {latency} s")
        with _arranged(database, sessions, latency) as where:
            job = children.measure("create", **where)["job"]
            workers = [children.begin("worker", **where, job=job) for _ in range(processes)]
            runs = children.together(workers)
            end = children.measure("ended", **where, job=job, sessions=sessions)["finished_at"]
        self.locks[database.label] += sum(run["locks"] for run in runs)
        return float(sessions / (end - min(run["began"] for run in runs)))


def typical(runs: Sequence[Numbers], name: str) -> float:
    """The median of one of the numbers."""
    return float(median(run[name] for run in runs))


@contextmanager
def _arranged(database: Database, sessions: int, latency: float) -> Iterator[dict[str, str]]:
    """A database and a sandbox that have the same sessions open, by their URLs."""
    with database.fresh() as url:
        children.measure("seed", database=url, sessions=sessions)
        with children.sandbox(sessions=sessions, latency=latency) as osvi:
            yield {"database": url, "osvi": osvi}


def _say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)
