"""Measure each kind of search at 10,000 and 1,000,000 sessions, in a database of its own.

``DATABASE_URL=postgres://postgres@127.0.0.1:5432/an_empty_one python -m benchmarks.search`` fills
the database, which takes minutes, and prints a table in Markdown.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_project.settings")
django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402
from django.test.utils import CaptureQueriesContext  # noqa: E402

from benchmarks.search_rows import WORDS, customer_of, fill, session_id_of  # noqa: E402
from osvi_django.models import ChatSession  # noqa: E402
from osvi_django.services import search_sessions  # noqa: E402

SIZES: Final = (10_000, 1_000_000)
_ROUNDS: Final = 15
# It is a session that is there at both sizes, and whose customer has a phone number.
_NUMBER: Final = 4_711
_ID: Final = session_id_of(_NUMBER)
_CUSTOMER: Final = customer_of(_NUMBER)

SEARCHES: Final = {
    "a phone number in another writing": f"{_CUSTOMER[:2]} ({_CUSTOMER[2:5]}) {_CUSTOMER[5:]}",
    "the last four digits": _CUSTOMER[-4:],
    "a customer's id": customer_of(5_010),
    "the beginning of an id": f"{_ID[:8]}…",
    "an id without dashes": _ID.replace("-", ""),
    "the end of an id": _ID[-8:],
    "the number of an order in a summary": f"AB-{_NUMBER}",
    "a rare word": WORDS[-1],
    "a word of 1 summary in 100": WORDS[300],
    "a word of 4 summaries in 10": WORDS[0],
    "that and a rare word": f"{WORDS[0]} {WORDS[-1]}",
    "a ticket in a note": "T-4701",
    "what no chat has": "xylophone 99",
}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a search cost at best, with the first page of the list, and how many it found.

    The best of several is what other load on the machine affects least.
    """

    milliseconds: float
    queries: int
    found: int


def measure() -> dict[str, Measured]:
    """Measure each search."""
    return {name: _measured(text) for name, text in SEARCHES.items()}


def _measured(text: str) -> Measured:
    times = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        _search(text)
        times.append(time.perf_counter() - started)
    with CaptureQueriesContext(connection) as queries:
        found = _search(text)
    return Measured(milliseconds=1000 * min(times), queries=len(queries), found=found)


def _search(text: str) -> int:
    """Search as the admin's list does: find, count, and read the first page in its order."""
    found = search_sessions(text)
    rows = found.sessions.select_related("agent").order_by(*ChatSession.ATTENTION_ORDER)
    count = rows.count()
    list(rows.defer("metadata")[:50])
    return count


def lines(small: dict[str, Measured], large: dict[str, Measured]) -> Iterator[str]:
    """Yield the lines of the table."""
    columns = "found | queries | ms"
    yield f"| search, on {connection.display_name} | {columns} | {columns} | ratio |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for name, first in small.items():
        then = large[name]
        ratio = then.milliseconds / first.milliseconds
        yield f"| {name} | {_cells(first)} | {_cells(then)} | {ratio:.2f} |"


def _cells(measured: Measured) -> str:
    return f"{measured.found} | {measured.queries} | {measured.milliseconds:.1f}"


def main() -> None:
    """Fill the database, measure at both sizes and print the table."""
    call_command("migrate", verbosity=0)
    if ChatSession.objects.exists():
        sys.exit("This database has sessions already: name an empty one in DATABASE_URL.")
    results = []
    start = 1
    for size in SIZES:
        fill(start, size + 1)
        results.append(measure())
        start = size + 1
    print("\n".join(lines(*results)))


if __name__ == "__main__":
    main()
