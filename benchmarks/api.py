"""Compare this API with a bare one: ``DATABASE_URL=postgres://... python -m benchmarks.api``.

The database should be an empty one of PostgreSQL; ``--fill N`` adds N sessions first. Both are
requested in turn under gunicorn, by one client with a token, so that other load on the machine
affects both. The times are those of the client, and of the server's processor.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final
from urllib.parse import quote

import django
import requests

from benchmarks.table import Row, table

os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.api_settings"
django.setup()

from django.contrib.auth import get_user_model  # noqa: E402
from django.contrib.auth.models import Permission  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402
from django.test.utils import CaptureQueriesContext, override_settings  # noqa: E402
from rest_framework.authtoken.models import Token  # noqa: E402
from rest_framework.test import APIClient  # noqa: E402

from benchmarks.filling import fill  # noqa: E402
from osvi_django.models import ChatAgent, ChatSession  # noqa: E402
from osvi_django.testing import OSVISandbox  # noqa: E402

AT_MOST: Final = 1.2
DATABASE: Final = "PostgreSQL"
MOST_QUERIES: Final = 20
BLOCK: Final = 10  # requests to one of them before the other's turn
_TICK: Final = 1000 / os.sysconf("SC_CLK_TCK")  # milliseconds
_ROUTES: Final = {
    "list, page of 50": "sessions/",
    "list, second page": "sessions/?cursor={cursor}",
    "one session": "sessions/{session}/",
}


@dataclass(frozen=True)
class Times:
    """Milliseconds of each request, and those of the server's processor for all."""

    wall: list[float]
    processor: float


def main() -> None:
    """Measure, and print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fill", type=int, default=0, metavar="N")
    parser.add_argument("--rounds", type=int, default=30, metavar="N")
    options = parser.parse_args()
    call_command("migrate", verbosity=0)
    if options.fill:
        fill(options.fill)
    token = _token()
    rows = list(_measure(token, options.rounds))
    queries = [*_queries_of_reads(token), _queries_of_close()]
    print(f"Load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs, {connection.vendor}\n")
    print(table([*rows, *queries]))


def _token() -> str:
    """Return the token of a user with the permissions to read and to close, and no others."""
    user, _created = get_user_model().objects.get_or_create(username="reader")
    names = ("view_chatsession", "view_sessionsummary", "close_chatsession")
    user.user_permissions.set(Permission.objects.filter(codename__in=names))
    return str(Token.objects.get_or_create(user=user)[0].key)


def _measure(token: str, rounds: int) -> Iterator[Row]:
    with _site() as (url, worker), requests.Session() as client:
        client.headers["Authorization"] = f"Token {token}"
        for name, route in _ROUTES.items():
            ask = {base: _asker(client, f"{url}/{base}/", route) for base in ("api/osvi", "bare")}
            ours, bare = _in_turn(ask["api/osvi"], ask["bare"], worker, rounds)
            yield _row(f"{name}: ms; bare view", median(ours.wall), median(bare.wall))
            yield _row(f"{name}: CPU, ms; bare view", ours.processor, bare.processor)


def _asker(client: requests.Session, base: str, route: str) -> Callable[[], float]:
    """Return a function that requests a route and returns the milliseconds."""
    first = _get(client, f"{base}sessions/")
    cursor = first["next"].partition("cursor=")[2]
    url = base + route.format(session=quote(first["results"][7]["session_id"]), cursor=cursor)

    def ask() -> float:
        began = time.perf_counter()
        _get(client, url)
        return 1000 * (time.perf_counter() - began)

    return ask


def _get(client: requests.Session, url: str) -> Any:
    response = client.get(url, timeout=60)
    response.raise_for_status()
    return response.json()


def _in_turn(
    ours: Callable[[], float], bare: Callable[[], float], worker: int, rounds: int
) -> tuple[Times, Times]:
    both: tuple[list[float], list[float]] = ([], [])
    ticks = [0, 0]
    for number in range(2 * rounds + 2):
        which = number % 2
        before = _ticks(worker)
        times = [(ours, bare)[which]() for _request in range(BLOCK)]
        if number >= 2:  # the first of each warm up
            ticks[which] += _ticks(worker) - before
            both[which].extend(times)
    ours_times, bare_times = (
        Times(times, _TICK * count / len(times)) for times, count in zip(both, ticks, strict=True)
    )
    return ours_times, bare_times


def _row(what: str, ours: float, bare: float) -> Row:
    shown = f"{ours:.1f}", f"{bare:.1f}"
    return Row(
        what=what,
        database=DATABASE,
        app=shown[0],
        against=shown[1],
        ratio=ours / bare,
        at_most=AT_MOST,
    )


def _ticks(pid: int) -> int:
    """Return the ticks of the processor that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@contextmanager
def _site() -> Iterator[tuple[str, int]]:
    """Run gunicorn with one worker; yield the site's address and the worker's process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "gunicorn", "example_project.wsgi", "--no-control-socket"]
    # Threads keep connections open; one is enough for one client.
    kind = ["--worker-class", "gthread", "--threads", "1", "--log-level", "warning"]
    with subprocess.Popen([*command, *kind, "--bind", f"127.0.0.1:{port}"]) as process:
        try:
            _wait_for(port)
            yield f"http://127.0.0.1:{port}", _worker_of(process.pid)
        finally:
            process.terminate()


def _wait_for(port: int) -> None:
    ends_at = time.monotonic() + 60
    while time.monotonic() < ends_at:
        try:
            requests.get(f"http://127.0.0.1:{port}/", timeout=60)
        except requests.ConnectionError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError("gunicorn does not answer.")


def _worker_of(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def _queries_of_reads(token: str) -> Iterator[Row]:
    client = APIClient(headers={"Authorization": f"Token {token}"})
    for base in ("/api/osvi", "/bare"):
        with CaptureQueriesContext(connection) as sent:
            body = json.loads(client.get(f"{base}/sessions/").content)
        whose = "bare view" if base == "/bare" else "this app"
        yield Row(what=f"list: queries, {whose}", app=str(len(sent)), database=DATABASE)
        url = f"{base}/sessions/{quote(body['results'][7]['session_id'])}/"
        with CaptureQueriesContext(connection) as sent:
            client.get(url)
        yield Row(what=f"one session: queries, {whose}", app=str(len(sent)), database=DATABASE)


def _queries_of_close() -> Row:
    """Count the queries of one close, with the check of the token and its permissions."""
    client = APIClient(headers={"Authorization": f"Token {Token.objects.get().key}"})
    with OSVISandbox() as osvi:
        chat = osvi.add_session(agent_uuid="agent_closed", summary="All is well.")
        agent, _created = ChatAgent.objects.get_or_create(uuid="agent_closed")
        ChatSession.objects.create(session_id=chat.id, agent=agent)
        accounts = {"default": {"API_TOKEN": osvi.token, "BASE_URL": osvi.url}}
        with override_settings(OSVI=accounts), CaptureQueriesContext(connection) as sent:
            response = client.post(f"/api/osvi/sessions/{chat.id}/close/", {}, format="json")
    if response.status_code != 200:
        raise RuntimeError(response.content)
    found = str(len(sent))
    return Row(what="one close: queries", app=found, database=DATABASE, at_most=MOST_QUERIES)


if __name__ == "__main__":
    main()
