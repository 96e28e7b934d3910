"""Compare a bulk close with the raw limit and the naive loop: ``python -m benchmarks.bulk``.

The benchmark needs Linux and what ``.[demo,testing,postgresql]`` installs. The sandbox OSVI runs in
a separate process, and each measurement in a new one. The databases are created for the run: a
file, and one on the PostgreSQL server that ``--postgresql`` or ``DATABASE_URL`` names. If this
server does not answer, PostgreSQL is left out, and the report says so.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import django

from benchmarks import children
from benchmarks.databases import POSTGRESQL, Database, NotAvailable, PostgreSQL, SQLite
from benchmarks.runs import Runs, median_of
from benchmarks.table import Row, table

THREADS = 16  # the default of CONCURRENCY
PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
INTRODUCTION = """\
# What a bulk close costs

This page compares a job that closes many sessions with two other programs:

- the raw limit: the same number of threads that only post, each with a `requests.Session` of its
  own, and read the JSON. They use no database;
- the naive loop, which is what most people write first:

```python
for session in sessions:
    requests.post(...)
    session.status = "closed"
    session.save()
```

The time of a job includes creating it, the journal of each close, and storing the summaries. The
sandbox OSVI runs in a process of its own. Each measurement runs in a new process, on a database
created for it. The job and the raw limit are measured in turn, and the median is shown. Goals are
for the ratio, or for the number itself if there is nothing to compare it with.

`python -m benchmarks.bulk --write` measures again and writes this page.
"""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How many sessions are measured, and how often."""

    latency: float = 0.2  # seconds
    slow: int = 500  # sessions at that latency
    naive: int = 500  # of these sessions, for the naive loop
    fast: int = 5_000  # sessions at latency 0
    few: int = 500  # sessions of the run whose peak memory the others are compared with
    many: int = 50_000
    shared: int = 2_000  # sessions at that latency for each process that shares a job
    processes: tuple[int, ...] = (1, 2, 4)
    slow_rounds: int = 3
    fast_rounds: int = 5  # the CPU time of threads that share the GIL varies


QUICK = Plan(
    latency=0.02,
    slow=64,
    naive=5,
    fast=100,
    few=50,
    many=200,
    shared=32,
    processes=(1, 2),
    slow_rounds=1,
    fast_rounds=1,
)


def main() -> None:
    """Measure what the command line asks for."""
    options = _options()
    # A signal to stop must remove what this run has created, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    started_at, load = time.monotonic(), os.getloadavg()[0]
    plan = QUICK if options.quick else Plan()
    with TemporaryDirectory(prefix="osvi-benchmark-") as folder, ExitStack() as stack:
        databases, skipped = _databases(options, Path(folder), stack)
        runs = Runs(databases=databases, threads=THREADS)
        rows = [row for measure in MEASURES for row in measure(runs, plan)]
    report = _report(rows, skipped, seconds=time.monotonic() - started_at, load=load)
    print(report)
    if options.write:
        others = PAGE.read_text().partition("\n## ")  # what other benchmarks have measured
        PAGE.write_text(f"{INTRODUCTION}\n{report}\n{''.join(others[1:])}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="measure little; the numbers are not reliable"
    )
    parser.add_argument("--write", action="store_true", help=f"write docs/{PAGE.name}")
    parser.add_argument(
        "--database", choices=("sqlite", "postgresql"), help="measure on this database only"
    )
    parser.add_argument(
        "--postgresql",
        default=_default_server(),
        metavar="URL",
        help="a database on the server to use",
    )
    return parser.parse_args()


def _default_server() -> str:
    url = os.environ.get("DATABASE_URL", "")
    return url if url.startswith(("postgres:", "postgresql:")) else POSTGRESQL


def _databases(
    options: argparse.Namespace, folder: Path, stack: ExitStack
) -> tuple[list[Database], str]:
    """Return the databases to measure on, and why one of them is skipped."""
    databases: list[Database] = []
    if options.database != "postgresql":
        databases.append(stack.enter_context(SQLite(_migrate, folder)))
    if options.database != "sqlite":
        try:
            databases.append(stack.enter_context(PostgreSQL(_migrate, options.postgresql)))
        except NotAvailable as error:
            return databases, f"PostgreSQL was not measured: {error}."
    return databases, ""


def _migrate(url: str) -> None:
    children.measure("migrate", database=url)


def _report(rows: list[Row], skipped: str, *, seconds: float, load: float) -> str:
    machine = (
        f"{time.strftime('%Y-%m-%d')}: Python {platform.python_version()}, "
        f"Django {django.get_version()}, {os.cpu_count()} CPUs; {seconds / 60:.0f} minutes, "
        f"the load before was {load:.1f}."
    )
    return "\n\n".join(filter(None, (machine, skipped, table(rows))))


def at_latency(runs: Runs, plan: Plan) -> Iterator[Row]:
    """Compare the app with what OSVI's latency allows."""
    times = runs.in_turn(
        plan.slow, plan.latency, without_database=("raw",), rounds=plan.slow_rounds
    )
    title = f"{plan.slow} closes at {_ms(plan.latency)}, {THREADS} threads: s"
    extrapolated = "" if plan.naive == plan.slow else f", extrapolated from {plan.naive}"
    raw = median_of(times["raw"], "wall")
    for database in runs.databases:
        wall = median_of(times[database.label], "wall")
        measured = runs.naive(database, plan.naive, plan.latency)["wall"]
        naive = measured * plan.slow / plan.naive
        yield Row(
            what=f"{title}; raw limit",
            database=database.label,
            app=f"{wall:.2f}",
            against=f"{raw:.2f}",
            ratio=wall / raw,
            at_most=1.05,
        )
        yield Row(
            what=f"{title}; naive loop{extrapolated}: times faster",
            database=database.label,
            app=f"{wall:.2f}",
            against=f"{naive:.1f}",
            ratio=naive / wall,
            at_least=0.9 * THREADS,
        )


def without_latency(runs: Runs, plan: Plan) -> Iterator[Row]:
    """Measure what the app itself costs, and its peak memory."""
    measured = runs.in_turn(
        plan.fast, 0.0, without_database=("raw", "client"), rounds=plan.fast_rounds
    )
    wall, cpu = (median_of(measured["raw"], name) for name in ("wall", "cpu"))
    title = f"{plan.fast} closes at latency 0"
    each = 1_000 / plan.fast

    def cpu_row(name: str, what: str, database: str, at_most: float) -> Row:
        own = median_of(measured[name], "cpu")
        return Row(
            what=f"{title}: CPU of {what}, ms per close; raw limit",
            database=database,
            app=f"{own * each:.3f}",
            against=f"{cpu * each:.3f}",
            ratio=own / cpu,
            at_most=at_most,
        )

    yield cpu_row("client", "the client alone", "", 1.1)
    for database in runs.databases:
        label = database.label
        own = median_of(measured[label], "wall")
        yield Row(
            what=f"{title}: s; raw limit",
            database=label,
            app=f"{own:.2f}",
            against=f"{wall:.2f}",
            ratio=own / wall,
            at_most=2.0,
        )
        yield cpu_row(label, "the process", label, 1.8)
        left = max(run["connections"] for run in measured[label])
        yield Row(what="connections left open afterwards", database=label, app=f"{left}", at_most=1)
        between = median_of(measured[label], "memory")
        yield from _memory(runs, plan, database, between)


def _memory(runs: Runs, plan: Plan, database: Database, between: float) -> Iterator[Row]:
    few = runs.app(database, plan.few, 0.0)["memory"]
    many = runs.app(database, plan.many, 0.0)["memory"]
    for number, peak in ((plan.few, few), (plan.fast, between), (plan.many, many)):
        yield Row(
            what=f"peak memory at {number} closes, MB; at {plan.few}",
            database=database.label,
            app=f"{peak / 1e6:.1f}",
            against=f"{few / 1e6:.1f}",
            ratio=peak / few,
            at_most=1.25 if number == plan.many else None,
        )


def shared(runs: Runs, plan: Plan) -> Iterator[Row]:
    """Measure how the rate grows with the number of processes that share a job."""
    for database in runs.databases:
        one = 0.0
        for number in plan.processes:
            rate = runs.shared(database, number * plan.shared, plan.latency, number)
            one = one or rate
            yield Row(
                what=f"processes that share a job of {plan.shared} closes each, {number} of them,"
                f" at {_ms(plan.latency)}: closes per s; one process",
                database=database.label,
                app=f"{rate:.1f}",
                against=f"{one:.1f}",
                ratio=rate / one,
                at_least=3.5 if number == 4 else None,
            )


def locks(runs: Runs, plan: Plan) -> Iterator[Row]:
    """Count the locked databases and the other failed statements of all runs before."""
    for database in runs.databases:
        seen = runs.locks[database.label]
        yield Row(
            what="`database is locked`, deadlocks and the like, in all runs",
            database=database.label,
            app=f"{seen}",
            at_most=0,
        )


# In this order: the last one counts errors of the others.
MEASURES: tuple[Callable[[Runs, Plan], Iterator[Row]], ...] = (
    at_latency,
    without_latency,
    shared,
    locks,
)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


if __name__ == "__main__":
    main()
