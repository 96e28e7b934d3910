"""Purge while chats are closed: ``DATABASE_URL=postgres://... python -m benchmarks.purge``.

The database must be an empty one on PostgreSQL; it is filled. One process closes chats one after
the other at a sandbox OSVI, first alone and then beside ``osvi_purge --only summaries``. The
longest transaction of the purge is looked for, as what it locks is locked until its end. In the end
each summary must be there that should be.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_project.settings")
os.environ.setdefault("DJANGO_DEBUG", "0")
django.setup()

from django.conf import settings  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402
from django.db.models import Q  # noqa: E402
from django.utils import timezone  # noqa: E402

from benchmarks import children, filling  # noqa: E402
from benchmarks.chats import TOKEN, session_ids  # noqa: E402
from benchmarks.table import Row, table  # noqa: E402
from osvi_django.models import ChatSession, SessionSummary  # noqa: E402
from osvi_django.services import close_session  # noqa: E402

# More than can be closed while the purge runs.
TO_CLOSE: Final = 20_000
_ALONE: Final = 300
_NAME: Final = "osvi-benchmark-purge"
_LONGEST: Final = """
SELECT extract(epoch FROM max(clock_timestamp() - xact_start)) FROM pg_stat_activity
WHERE application_name = %s
"""


def main() -> None:
    """Fill the database, purge it beside closes, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--days", type=int, default=337, help="how old a summary may become")
    parser.add_argument("--part", choices=["purge", "close"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part == "purge":
        settings.OSVI["default"]["RETENTION"] = {"summaries": options.days}
        call_command("osvi_purge", only=["summaries"])
    elif options.part == "close":
        _close()
    else:
        print(table(_rows(options.size, options.days)))


def _rows(size: int, days: int) -> Iterator[Row]:
    _fill(size)
    old = Q(session__closed_at__lt=timezone.now() - timedelta(days=days))
    expired = SessionSummary.objects.filter(old).count()
    kept = SessionSummary.objects.count() - expired
    with children.sandbox(sessions=TO_CLOSE, latency=0) as osvi, _closer(osvi) as closer:
        alone = children.finish(closer)
        begin = time.monotonic()
        longest = _purge(days)
        seconds = time.monotonic() - begin
        children.write_line(closer, "stop")
        beside = children.finish(closer)
    left = SessionSummary.objects.count() - alone["closes"] - beside["closes"]
    if left != kept:
        raise RuntimeError(f"{left} summaries are left, and not {kept}")
    yield _row(f"{expired:,} summaries removed: s", seconds)
    yield _row("its longest transaction: s", longest)
    for what in ("median", "99 of 100 at most", "longest"):
        values = beside[what], alone[what]
        yield Row(
            what=f"{beside['closes']:,} closes beside it, {what}: ms; {alone['closes']} without",
            app=f"{values[0]:.0f}",
            against=f"{values[1]:.0f}",
            ratio=values[0] / values[1],
        )


def _row(what: str, seconds: float) -> Row:
    return Row(what=what, database=connection.display_name, app=f"{seconds:.1f}")


def _fill(size: int) -> None:
    call_command("migrate", verbosity=0)
    if not ChatSession.objects.exists():
        filling.fill(size)
    children.measure("seed", database=os.environ["DATABASE_URL"], sessions=TO_CLOSE)


def _purge(days: int) -> float:
    """Purge in a new process; return how long its longest transaction took, in seconds."""
    command = [sys.executable, "-m", "benchmarks.purge", "--part", "purge", "--days", str(days)]
    longest = 0.0
    with subprocess.Popen(
        command, env={**os.environ, "PGAPPNAME": _NAME}, stdout=subprocess.DEVNULL
    ) as purge:
        while purge.poll() is None:
            with connection.cursor() as cursor:
                cursor.execute(_LONGEST, [_NAME])
                longest = max(longest, float(cursor.fetchone()[0] or 0))
            time.sleep(0.02)
    if purge.returncode:
        raise children.ChildFailed(f"{command!r}")
    return longest


@contextmanager
def _closer(osvi: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks.purge", "--part", "close"]
    environment = {**os.environ, "OSVI_BASE_URL": osvi, "OSVI_API_TOKEN": TOKEN}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process


def _close() -> None:
    """Print the numbers of some closes, and of those from then on until a line is read."""
    ids = session_ids(TO_CLOSE)
    print(json.dumps(_numbers([_seconds(next(ids)) for _ in range(_ALONE)])), flush=True)
    taken = []
    while not select.select([sys.stdin], [], [], 0)[0]:
        taken.append(_seconds(next(ids)))
    print(json.dumps(_numbers(taken)), flush=True)


def _seconds(session_id: str) -> float:
    session = ChatSession.objects.get(session_id=session_id)
    begin = time.perf_counter()
    result = close_session(session)
    if not result.summary:
        raise RuntimeError("OSVI returned no summary.")
    return time.perf_counter() - begin


def _numbers(taken: list[float]) -> dict[str, Any]:
    ordered = [1_000 * each for each in sorted(taken)]
    return {
        "closes": len(ordered),
        "median": ordered[len(ordered) // 2],
        "99 of 100 at most": ordered[len(ordered) * 99 // 100],
        "longest": ordered[-1],
    }


if __name__ == "__main__":
    main()
