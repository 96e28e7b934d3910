"""Measure the lists of the admin and over REST: ``DATABASE_URL=... python -m benchmarks.lists``.

``--fill N`` adds N sessions first, and ``--many URL`` compares with a second, larger database. Each
page is requested several times by a user with all permissions; the median is shown. The times are
those of the whole answer: the permissions, the filters, the count, the rows and the template.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from statistics import median
from typing import Final

import django

ROUNDS: Final = 5
USER: Final = "benchmark"
_LIST: Final = "/admin/osvi_django/chatsession/"
_REST: Final = "/api/osvi/sessions/"
_PAGES: Final = {
    "start page": f"{_LIST}chats/",
    "counts that the start page polls": f"{_LIST}chats/counts/",
    "list": _LIST,
    "list, page 200": f"{_LIST}?p=200",
    "customer waits for a person": f"{_LIST}?attention=help",
    "unconfirmed": f"{_LIST}?attention=unconfirmed",
    "refused": f"{_LIST}?attention=refused",
    "being closed for too long": f"{_LIST}?attention=closing",
    "open": f"{_LIST}?status=open",
    "active": f"{_LIST}?status=active",
    "closed": f"{_LIST}?status=closed",
    "quiet for 1 day": f"{_LIST}?quiet=1",
    "quiet for 30 days": f"{_LIST}?quiet=30",
    "taken over by me": f"{_LIST}?taken_over=me",
    "summary lost": f"{_LIST}?summary=lost",
    "summary not sent": f"{_LIST}?summary=not_provided",
    "closed by me": f"{_LIST}?closed_by=me",
    "closed by anybody": f"{_LIST}?closed_by=anybody",
    "closed today": f"{_LIST}?closed=0",
    "closed in 30 days": f"{_LIST}?closed=30",
    "closed long ago": f"{_LIST}?closed_until=2025-06-01",
    "started in 7 days": f"{_LIST}?started=7",
    "started long ago": f"{_LIST}?started_until=2025-06-01",
    "mode support": f"{_LIST}?mode__exact=support",
    "mode AI": f"{_LIST}?mode__exact=ai",
    "an agent": f"{_LIST}?agent__id__exact={{agent}}",
    "an agent, open": f"{_LIST}?agent__id__exact={{agent}}&status=open",
    "an agent, closed in 30 days": f"{_LIST}?agent__id__exact={{agent}}&closed=30",
    "by customer": f"{_LIST}?o=1",
    "by customer, descending": f"{_LIST}?o=-1",
    "by status": f"{_LIST}?o=3",
    "by last change": f"{_LIST}?o=4",
    "by last change, descending": f"{_LIST}?o=-4",
    "open, by last change": f"{_LIST}?status=open&o=-4",
    "session, with its neighbours": (
        f"{_LIST}{{session}}/change/?_changelist_filters=status%3Dclosed"
    ),
}
_FILTERS: Final = (
    "",
    "status=closed",
    "status=active,dormant",
    "status=unconfirmed",
    "status=closing",
    "open=true",
    "open=false",
    "account=default",
    "agent_uuid={uuid}",
    "agent_uuid={rare_uuid}",
    "customer_id={customer}",
    "mode=ai",
    "mode=support",
    "help_requested=true",
    "help_requested=false",
    "summary_status=stored",
    "summary_status=lost",
    "closed_by={closer}",
    "close_job={job}",
    "close_reason=Spam",
    "started_after={lately}",
    "started_before={long_ago}",
    "closed_after={lately}",
    "closed_before={long_ago}",
    "updated_after={lately}",
    "updated_before={long_ago}",
    "idle_since={lately}",
    "idle_since={long_ago}",
    "search={digits}",
    "ordering=started_at",
    "ordering=updated_at",
    "ordering=-updated_at",
    "ordering=closed_at",
    "ordering=-closed_at",
    "ordering=updated_at&status=closed&updated_after={long_ago}",
    "ordering=updated_at&agent_uuid={rare_uuid}",
    "ordering=-closed_at&closed_by={closer}",
    "ordering=-closed_at&agent_uuid={uuid}",
    "ordering=-closed_at&close_reason=Spam",
    "status=active&agent_uuid={rare_uuid}",
    "summary_status=lost&closed_after={long_ago}",
)
_FILTERED: Final = {f"REST, {query or 'list'}": f"{_REST}?{query}" for query in _FILTERS}

Numbers = dict[str, tuple[int, float]]


def main() -> None:
    """Measure what the command line asks for, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fill", type=int, default=0, metavar="N")
    parser.add_argument("--many", default="", metavar="URL")
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    numbers = measure(options.fill)
    if options.json:
        print(json.dumps(numbers))
    else:
        print(_table(numbers, _in_database(options.many) if options.many else {}))


def measure(fill: int) -> Numbers:
    """Return the queries and the milliseconds of each page in this process's database."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_project.settings")
    os.environ.setdefault("DJANGO_ALLOWED_HOSTS", "testserver")
    django.setup()
    # Models cannot be imported before.
    from django.contrib.auth import get_user_model  # noqa: PLC0415
    from django.db import connection  # noqa: PLC0415
    from django.test import Client  # noqa: PLC0415
    from django.test.utils import CaptureQueriesContext  # noqa: PLC0415

    from benchmarks import filling  # noqa: PLC0415

    if fill:
        filling.fill(fill)
    facts = {"is_staff": True, "is_superuser": True}
    user, _created = get_user_model().objects.get_or_create(username=USER, defaults=facts)
    keys = filling.named()
    client = Client()
    client.force_login(user)
    numbers = {}
    for name, path in (_PAGES | _FILTERED).items():
        times, sent = [], 0
        for _round in range(ROUNDS):
            with CaptureQueriesContext(connection) as queries:
                begin = time.perf_counter()
                response = client.get(path.format(**keys))
                times.append(1000 * (time.perf_counter() - begin))
            if response.status_code != 200:
                raise RuntimeError(f"{path}: {response.status_code}")
            sent = len(queries)
        numbers[name] = (sent, median(times))
    return numbers


def _in_database(url: str) -> Numbers:
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.lists", "--json"],
        env={**os.environ, "DATABASE_URL": url},
        stdout=subprocess.PIPE,
        check=True,
    )
    found: Numbers = json.loads(ran.stdout)
    return found


def _table(few: Numbers, many: Numbers) -> str:
    lines = ["| page | queries | ms |" + (" queries, large | ms, large |" if many else "")]
    lines.append("| --- | ---: | ---: |" + (" ---: | ---: |" if many else ""))
    for name, (queries, milliseconds) in few.items():
        line = f"| {name} | {queries} | {milliseconds:.0f} |"
        if many:
            line += f" {many[name][0]} | {many[name][1]:.0f} |"
        lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    main()
