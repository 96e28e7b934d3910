"""The processes of a campaign: gunicorn's master and workers, and recoveries; and their deaths."""

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
_GRACE = 3  # seconds for workers to notice that their master is gone


@dataclass(frozen=True, kw_only=True)
class Death:
    """The end of a process, and why."""

    at: float
    pid: int
    why: str


class Deaths:
    """Who ended when: killed by the campaign, or reported by gunicorn."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.file.touch()
        self._killed: list[Death] = []
        self._lock = threading.Lock()

    def kill(self, pid: int, why: str) -> bool:
        """SIGKILL a process of the campaign's; whether it was still there."""
        with self._lock:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                return False
            self._killed.append(Death(at=time.time(), pid=pid, why=why))
        return True

    @property
    def killed(self) -> list[Death]:
        """Those that the campaign killed."""
        with self._lock:
            return list(self._killed)

    @property
    def all(self) -> list[Death]:
        """Those too that gunicorn ended or found dead."""
        lines = [line.split() for line in self.file.read_text().splitlines()]
        told = [Death(at=float(at), pid=int(pid), why="gunicorn saw it end") for at, pid in lines]
        return sorted([*self.killed, *told], key=lambda death: death.at)


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
        self._is_over = False
        self.master: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, with threads in its workers every other time."""
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
        """The pids of the workers."""
        return _children(self.master.pid) if self.master else []

    def kill_master(self) -> None:
        """Kill the master alone, and start another when its workers have followed."""
        with self._lock:
            if self.master is None or self._is_over:
                return
            workers = self.workers()
            self.deaths.kill(self.master.pid, "the master was killed")
            self.master.wait()
            self._end(workers)
            self.start()

    def stop(self) -> None:
        """End all of it, for good."""
        with self._lock:
            self._is_over = True
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
        """Give orphans a moment to finish what they do."""
        ends_at = time.monotonic() + _GRACE
        while time.monotonic() < ends_at and any(map(_lives, workers)):
            time.sleep(0.05)
        for pid in workers:
            if _lives(pid):
                self.deaths.kill(pid, "its master was killed")


class Recoveries:
    """``manage.py osvi_recover``, as real processes."""

    def __init__(self, folder: Path, environment: dict[str, str], deaths: Deaths) -> None:
        self.log = folder / "recover.log"
        self.environment = environment
        self.deaths = deaths
        self.running: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()
        self._is_over = False

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start one more."""
        with self._lock, self.log.open("ab") as log:
            if self._is_over:
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
        """Kill one in the middle of what it does."""
        if process.poll() is None:
            self.deaths.kill(process.pid, "a recovery was killed")
        process.wait()

    def wait(self, seconds: float) -> list[int]:
        """Wait for all of them; their exit codes."""
        return [process.wait(seconds) for process in self.running]

    def stop(self) -> None:
        """End those that still run."""
        with self._lock:
            for process in self.running:
                self.kill(process)
            self.running.clear()

    def close(self) -> None:
        """End those that still run, and start no more."""
        self._is_over = True
        self.stop()

    @property
    def pids(self) -> list[int]:
        """Those that may be running."""
        return [process.pid for process in list(self.running)]


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def environment(**changes: Any) -> dict[str, str]:
    """This process's environment, with what the campaign says."""
    return {**os.environ, **{name: str(value) for name, value in changes.items()}}
