"""The child processes of a benchmark: each begins anew, so nothing leaks from one to the next."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.chats import TOKEN

_BASE = Path(__file__).resolve().parent.parent
_ENVIRONMENT = {
    "DJANGO_SETTINGS_MODULE": "example_project.settings",
    # With DEBUG, Django keeps every query in memory.
    "DJANGO_DEBUG": "0",
    "OSVI_API_TOKEN": TOKEN,
}


class Failed(Exception):
    """A child ended without numbers; what it said of that is on stderr."""


@contextmanager
def sandbox(*, sessions: int, latency: float) -> Iterator[str]:
    """A sandbox OSVI that has these sessions, by its URL."""
    process = _start("benchmarks.osvi", {"sessions": sessions, "latency": latency})
    try:
        yield _line(process)
    finally:
        _end(process)


def measure(name: str, *, database: str = "", osvi: str = "", **options: Any) -> dict[str, Any]:
    """What ``benchmarks.measured`` calls by this name, in a process of its own."""
    process = begin(name, database=database, osvi=osvi, **options)
    try:
        return finish(process)
    finally:
        _end(process)


def begin(
    name: str, *, database: str = "", osvi: str = "", **options: Any
) -> subprocess.Popen[str]:
    """Start measuring."""
    changes = {"DATABASE_URL": database, "OSVI_BASE_URL": osvi}
    given = {key: value for key, value in changes.items() if value}
    return _start("benchmarks.measured", options, name, environment=given)


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The numbers of a process that was started."""
    numbers: dict[str, Any] = json.loads(_line(process))
    return numbers


def together(processes: list[subprocess.Popen[str]]) -> list[dict[str, Any]]:
    """Let processes begin in one moment, and wait for all of them."""
    try:
        for process in processes:
            _line(process)
        for process in processes:
            _say(process, "go")
        return [finish(process) for process in processes]
    finally:
        for process in processes:
            _end(process)


def _start(
    module: str, options: dict[str, Any], *names: str, environment: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", module, *names, json.dumps(options)],
        cwd=_BASE,
        env={**os.environ, **_ENVIRONMENT, **(environment or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise Failed(" ".join(map(str, process.args)))  # type: ignore[union-attr]
    return line


def _say(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def _end(process: subprocess.Popen[str]) -> None:
    """Whoever has answered ends by itself; a sandbox does when nobody listens any more."""
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):
            assert pipe is not None
            pipe.close()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
