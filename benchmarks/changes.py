"""Follow the changes of many writers over REST: ``DATABASE_URL=... python -m benchmarks.changes``.

Some processes change sessions in transactions that last for up to a second while a client asks for
what is new, as the page on REST shows. In the end its copy must be what the database has. The
database must be an empty one that has been migrated.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from typing import Any, Final

import django

SESSIONS: Final = 500
WRITERS: Final = 4
_LONGEST: Final = 1.0  # seconds that a transaction stays open
_PATH: Final = "/api/osvi/sessions/"


def main() -> None:
    """Start the writers and the client, and print what the client received and missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--changes", type=int, default=10_000)
    parser.add_argument("--write", type=int, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_project.settings")
    os.environ.setdefault("DJANGO_ALLOWED_HOSTS", "testserver")
    django.setup()
    if options.write is not None:
        _write(options.write, options.changes)
    else:
        _follow(options.changes)


def _write(writer: int, changes: int) -> None:
    from django.db import transaction  # noqa: PLC0415

    from osvi_django.models import ChatSession  # noqa: PLC0415

    choice = random.Random(writer)  # nothing secret
    keys = list(ChatSession.objects.values_list("pk", flat=True))
    for number in range(changes):
        with transaction.atomic():
            chosen = ChatSession.objects.filter(pk=choice.choice(keys))
            chosen.update(close_reason=f"{writer}-{number}")
            if number % 100 == 0:  # many commit meanwhile
                time.sleep(choice.random() * _LONGEST)


def _follow(changes: int) -> None:
    from django.contrib.auth import get_user_model  # noqa: PLC0415
    from django.test import Client  # noqa: PLC0415

    from osvi_django.models import ChatAgent, ChatSession  # noqa: PLC0415

    agent = ChatAgent.objects.create(uuid="agent_1")
    ChatSession.objects.bulk_create(
        ChatSession(session_id=f"s-{number}", agent=agent) for number in range(SESSIONS)
    )
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("benchmark"))
    command = [sys.executable, "-m", "benchmarks.changes", "--changes", str(changes // WRITERS)]
    began = time.monotonic()
    writers = [subprocess.Popen([*command, "--write", str(each)]) for each in range(WRITERS)]
    copy: dict[str, str | None] = {}
    position, received, requests, written = "2000-01-01T00:00:00Z", 0, 0, 0.0
    while True:
        if not written and all(each.poll() is not None for each in writers):
            written = time.monotonic()
        query = {"updated_after": position, "page_size": "200"}
        rows: list[dict[str, Any]] = client.get(_PATH, query).json()["results"]
        requests, received = requests + 1, received + len(rows)
        copy |= {row["session_id"]: row["close_reason"] for row in rows}
        if rows:
            position = rows[-1]["updated_at"]
        elif written and time.monotonic() - written > 10 * _LONGEST:
            break
    stored = dict(ChatSession.objects.values_list("session_id", "close_reason"))
    missed = sum(copy.get(key) != (value or None) for key, value in stored.items())
    print(f"{changes} changes by {WRITERS} processes in {written - began:.0f} s")
    print(f"{requests} requests, {received} rows received, {missed} of {SESSIONS} sessions missed")


if __name__ == "__main__":
    main()
