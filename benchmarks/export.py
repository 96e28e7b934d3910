"""Measure exports: ``DATABASE_URL=... python -m benchmarks.export --many URL``.

``DATABASE_URL`` and URL are two empty databases: they are filled with 10,000 and with 1,000,000
sessions, or with ``--size``. All of them are exported in each format, each in a process of its own,
as ``GET sessions/export/`` does it, without a network. The comparison is one query for the same
columns, whose rows are read by Django's ``iterator()``: once they are thrown away, and once they
are written by Python's ``csv`` or ``json`` as they are.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_project.settings")
os.environ.setdefault("DJANGO_DEBUG", "0")
django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402

from benchmarks import filling  # noqa: E402
from benchmarks.table import Row, table  # noqa: E402
from osvi_django.models import ChatSession  # noqa: E402
from osvi_django.services import SessionFilter, export_sessions  # noqa: E402
from osvi_django.services.export.columns import columns_of, read_columns  # noqa: E402

FEW: Final = 10_000
FORMATS: Final = ("csv", "jsonl", "xlsx")
BARE: Final = "bare"
# What the rows are written by, as they are.
WRITTEN: Final = {"csv": "bare-csv", "jsonl": "bare-jsonl"}
_ALL: Final = SessionFilter(status=None)

Numbers = dict[str, Any]


def main() -> None:
    """Fill two databases, measure both, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--many", default="", metavar="URL")
    parser.add_argument("--size", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--rounds", type=int, default=1, metavar="N")
    parser.add_argument("--fill", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument(
        "--measure", choices=[BARE, *WRITTEN.values(), *FORMATS], help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.fill:
        _fill(options.fill)
    elif options.measure:
        print(json.dumps(_measured(options.measure)))
    else:
        print(table(_rows(options.many, options.size, options.rounds)))


def _rows(many: str, large: int, rounds: int) -> Iterator[Row]:
    memory: dict[str, float] = {}
    for size, url in zip((FEW, large), (os.environ["DATABASE_URL"], many), strict=True):
        _run(url, "--fill", str(size))
        names = (BARE, *WRITTEN.values(), *FORMATS)
        found = {name: _best(url, name, size, rounds) for name in names}
        for name in FORMATS:
            yield from _compared(name, size, found[name], found[BARE], memory)
        for name, written in WRITTEN.items():
            yield _against_written(name, size, found[name], found[written])


def _compared(
    name: str, size: int, found: Numbers, bare: Numbers, memory: dict[str, float]
) -> Iterator[Row]:
    is_large, database = size != FEW, connection.display_name
    yield Row(
        what=f"{name}, {size:,} chats: s; bare iteration",
        database=database,
        app=f"{found['seconds']:.1f}",
        against=f"{bare['seconds']:.1f}",
        ratio=found["seconds"] / bare["seconds"],
        at_most=2 if is_large else None,
    )
    first = memory.setdefault(name, found["memory"])
    megabytes = f"{found['bytes'] / 1e6:.0f} MB"
    yield Row(
        what=f"{name}, {size:,} chats ({megabytes}): peak memory, MB; at {FEW:,}",
        database=database,
        app=f"{found['memory']:.1f}",
        against=f"{first:.1f}",
        ratio=found["memory"] / first,
        at_most=1.25 if is_large else None,
    )


def _against_written(name: str, size: int, found: Numbers, written: Numbers) -> Row:
    return Row(
        what=f"{name}, {size:,} chats: s; written by Python's {name.removesuffix('l')} as they are",
        database=connection.display_name,
        app=f"{found['seconds']:.1f}",
        against=f"{written['seconds']:.1f}",
        ratio=found["seconds"] / written["seconds"],
    )


def _fill(size: int) -> None:
    call_command("migrate", verbosity=0)
    if not ChatSession.objects.exists():
        filling.fill(size)


def _best(url: str, name: str, size: int, rounds: int) -> Numbers:
    """Measure in new processes; the fastest is what other load affects least."""
    runs = [json.loads(_run(url, "--measure", name)) for _ in range(rounds)]
    if {run["rows"] for run in runs} != {size}:
        raise RuntimeError(f"{name}: {runs}")
    fastest: Numbers = min(runs, key=lambda run: run["seconds"])
    return fastest


def _run(url: str, *options: str) -> bytes:
    command = [sys.executable, "-m", "benchmarks.export", *options]
    environment = {**os.environ, "DATABASE_URL": url}
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout


def _measured(name: str) -> Numbers:
    connection.ensure_connection()
    begin = time.perf_counter()
    size, rows = _exported(name) if name in FORMATS else (0, _BARE[name]())
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "bytes": size, "rows": rows, "memory": _peak_memory() / 1e6}


def _thrown_away() -> int:
    return sum(1 for _ in _bare_rows())


def _by_csv() -> int:
    with Path(os.devnull).open("w", newline="") as file:
        writer = csv.writer(file)
        return sum(1 for row in _bare_rows() if writer.writerow(row[1:]))


def _by_json() -> int:
    names = [each.name for each in columns_of(has_words=True)]
    with Path(os.devnull).open("w") as file:
        rows = (dict(zip(names, row[1:], strict=True)) for row in _bare_rows())
        return sum(1 for row in rows if file.write(f"{json.dumps(row, default=str)}\n"))


_BARE: Final = {BARE: _thrown_away, WRITTEN["csv"]: _by_csv, WRITTEN["jsonl"]: _by_json}


def _bare_rows() -> Iterator[Any]:
    rows = read_columns(ChatSession.objects.all(), columns_of(has_words=True))
    yield from rows.iterator()


def _exported(name: str) -> tuple[int, int]:
    export = export_sessions(_ALL, file_format=name)
    size = sum(map(len, export))
    return size, export.record.rows


def _peak_memory() -> int:
    """Return the peak memory in bytes; getrusage would include what the parent had at the fork."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
