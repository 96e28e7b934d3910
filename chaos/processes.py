"""The processes of a campaign: gunicorn's master and workers, recoveries, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos import timing

_BASE = Path(__file__).resolve().parent.parent
_GRACE = 3  # seconds for workers to notice that their master has ended


@dataclass(frozen=True, kw_only=True)
class Death:
    """The end of a process, and the reason."""

    at: float
    pid: int
    reason: str


class Deaths:
    """The record of processes that the campaign killed or gunicorn reported."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.file.touch()
        self._killed: list[Death] = []
        self._lock = threading.Lock()

    def kill(self, pid: int, reason: str) -> bool:
        """Kill a process of the campaign with SIGKILL; return whether it was running."""
        with self._lock:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                return False
            self._killed.append(Death(at=time.time(), pid=pid, reason=reason))
        return True

    @property
    def killed(self) -> list[Death]:
        """Return the deaths that the campaign caused."""
        with self._lock:
            return list(self._killed)

    @property
    def all(self) -> list[Death]:
        """Return all deaths, with those that gunicorn reported."""
        lines = [line.split() for line in self.file.read_text().splitlines()]
        reported = [
            Death(at=float(at), pid=int(pid), reason="gunicorn saw it end") for at, pid in lines
        ]
        return sorted([*self.killed, *reported], key=lambda death: death.at)


class Site:
    """The example project behind gunicorn, whose master can be killed and started again."""

    def __init__(
        self, folder: Path, port: int, environment: dict[str, str], deaths: Deaths
    ) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.address = f"127.0.0.1:{port}"
        self.log = folder / "gunicorn.log"
        self.environment = environment
        self.deaths = deaths
        self.starts = 0
        self._lock = threading.Lock()
        self._is_closed = False
        self.master: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start gunicorn, every second time with threads in its workers."""
        threads = ["--threads", "4", "--worker-class", "gthread"] if self.starts % 2 else []
        self.starts += 1
        options = [
            "--workers",
            "4",
            "--timeout",
            str(timing.GUNICORN_TIMEOUT),
            "--graceful-timeout",
            "1",
            *threads,
        ]
        quiet = ["--log-level", "warning", "--config", "python:chaos.gunicorn_conf"]
        command = [sys.executable, "-m", "gunicorn", "example_project.wsgi"]
        with self.log.open("ab") as log:
            self.master = subprocess.Popen(
                [*command, "--bind", self.address, *options, *quiet],
                cwd=_BASE,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def workers(self) -> list[int]:
        """Return the pids of the workers."""
        return _children(self.master.pid) if self.master else []

    def kill_master(self) -> None:
        """Kill the master alone, and start another one when its workers have ended."""
        with self._lock:
            if self.master is None or self._is_closed:
                return
            workers = self.workers()
            self.deaths.kill(self.master.pid, "the master was killed")
            self.master.wait()
            self._end(workers)
            self.start()

    def stop(self) -> None:
        """Stop gunicorn and its workers, and start no others."""
        with self._lock:
            self._is_closed = True
            master, self.master = self.master, None
        if master is None:
            return
        workers = _children(master.pid)
        master.terminate()
        with suppress(subprocess.TimeoutExpired):
            master.wait(_GRACE)
        master.kill()
        master.wait()
        self._end(workers)

    def _end(self, workers: list[int]) -> None:
        """Wait a moment for workers without a master to finish, and kill the others."""
        ends_at = time.monotonic() + _GRACE
        while time.monotonic() < ends_at and any(map(_is_running, workers)):
            time.sleep(0.05)
        for pid in workers:
            if _is_running(pid):
                self.deaths.kill(pid, "its master was killed")


class Recoveries:
    """Processes that run ``manage.py osvi_recover``."""

    def __init__(self, folder: Path, environment: dict[str, str], deaths: Deaths) -> None:
        self.log = folder / "recover.log"
        self.environment = environment
        self.deaths = deaths
        self.running: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()
        self._is_closed = False

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start another recovery."""
        with self._lock, self.log.open("ab") as log:
            if self._is_closed:
                raise RuntimeError("The campaign is over.")
            process = subprocess.Popen(
                [sys.executable, "manage.py", "osvi_recover", *arguments],
                cwd=_BASE,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            self.running.append(process)
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a recovery while it runs."""
        if process.poll() is None:
            self.deaths.kill(process.pid, "a recovery was killed")
        process.wait()

    def wait(self, seconds: float) -> list[int]:
        """Wait for all recoveries and return their exit codes."""
        return [process.wait(seconds) for process in self.running]

    def stop(self) -> None:
        """Kill the recoveries that still run."""
        with self._lock:
            for process in self.running:
                self.kill(process)
            self.running.clear()

    def close(self) -> None:
        """Kill the recoveries that still run, and refuse to start more."""
        self._is_closed = True
        self.stop()

    @property
    def pids(self) -> list[int]:
        """Return the pids of recoveries that may be running."""
        return [process.pid for process in list(self.running)]


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def environment(**changes: Any) -> dict[str, str]:
    """Return this process's environment with some changes."""
    return {**os.environ, **{name: str(value) for name, value in changes.items()}}
