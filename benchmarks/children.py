"""The child processes of a benchmark: each measurement has a new one and affects no other."""

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


class ChildFailed(Exception):
    """A child process ended without a result; its error is on stderr."""


@contextmanager
def sandbox(*, sessions: int, latency: float) -> Iterator[str]:
    """Run a sandbox OSVI with this number of sessions, and yield its URL."""
    process = _start("benchmarks.osvi", {"sessions": sessions, "latency": latency})
    try:
        yield _read_line(process)
    finally:
        _stop(process)


def measure(name: str, *, database: str = "", osvi: str = "", **options: Any) -> dict[str, Any]:
    """Run a measurement of ``benchmarks.measured`` in a new process, and return its numbers."""
    process = start(name, database=database, osvi=osvi, **options)
    try:
        return finish(process)
    finally:
        _stop(process)


def start(
    name: str, *, database: str = "", osvi: str = "", **options: Any
) -> subprocess.Popen[str]:
    """Start a measurement in a new process."""
    changes = {"DATABASE_URL": database, "OSVI_BASE_URL": osvi}
    given = {key: value for key, value in changes.items() if value}
    return _start("benchmarks.measured", options, name, environment=given)


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for a process and return its numbers."""
    numbers: dict[str, Any] = json.loads(_read_line(process))
    return numbers


def run_together(processes: list[subprocess.Popen[str]]) -> list[dict[str, Any]]:
    """Let processes start at the same moment, and return the numbers of all."""
    try:
        for process in processes:
            _read_line(process)
        for process in processes:
            write_line(process, "go")
        return [finish(process) for process in processes]
    finally:
        for process in processes:
            _stop(process)


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


def _read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise ChildFailed(f"{process.args!r}")
    return line


def write_line(process: subprocess.Popen[str], line: str) -> None:
    """Write a line to the standard input of a process."""
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def _stop(process: subprocess.Popen[str]) -> None:
    """Close the pipes of a process, at which a sandbox stops, and wait for its end."""
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):
            assert pipe is not None
            pipe.close()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
