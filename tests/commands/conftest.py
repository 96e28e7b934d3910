"""Run commands in this process, or in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib import reload
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from osvi_django.management import progress
from tests.helpers.processes import database_url
from tests.helpers.sandbox import mirror
from tests.helpers.waiting import wait_until

MANAGE = Path(__file__).resolve().parents[2] / "manage.py"


@pytest.fixture(autouse=True)
def no_executor(settings):
    """Leave jobs queued until a command runs them."""
    settings.OSVI_EXECUTOR = None


@pytest.fixture
def chats(osvi_sandbox, db):
    """Make so many sessions that are here and at the sandbox."""
    return lambda number, **fields: [mirror(osvi_sandbox, **fields) for _number in range(number)]


class Call:
    """The output of a command, and the code with which it would have exited."""

    def __init__(self, *arguments, stderr=None, **options):
        out, err, self.code, self.error = StringIO(), stderr or StringIO(), 0, ""
        try:
            call_command(*arguments, stdout=out, stderr=err, **options)
        except CommandError as error:
            self.code, self.error = error.returncode, str(error)
        self.out, self.err = out.getvalue(), err.getvalue()


@pytest.fixture
def call():
    """Return what calls a command in this process."""
    return Call


def run_command(*args):
    """Run a command; return its output, its errors, and its exit code."""
    out, err = StringIO(), StringIO()
    try:
        call_command(*args, stdout=out, stderr=err)
    except CommandError as error:
        return out.getvalue(), f"{err.getvalue()}{error}", error.returncode
    return out.getvalue(), err.getvalue(), 0


class Terminal(StringIO):
    """A stream that counts as a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def advance_clock(monkeypatch):
    """Advance the monotonic clock by so many seconds."""
    real, ahead = time.monotonic, [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: real() + sum(ahead))
    return ahead.append


@pytest.fixture
def without_tqdm():
    """Hide tqdm, which draws progress bars."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tqdm", None)
        reload(progress)
        yield
    reload(progress)


@pytest.fixture
def manage(osvi_sandbox, tmp_path):
    """Run a command in a process of its own, on the database of the test."""

    @contextmanager
    def _manage(
        *arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        closed=False,
        **environment,
    ):
        program = [sys.executable, str(MANAGE), *arguments]
        with subprocess.Popen(
            ["sh", "-c", '"$@" >&- 2>&-', "sh", *program] if closed else program,
            env={
                **os.environ,
                "DATABASE_URL": database_url(),
                "TMPDIR": str(tmp_path),  # its spool is removed with the test
                "OSVI_BASE_URL": osvi_sandbox.url,
                "OSVI_API_TOKEN": osvi_sandbox.token,
                **environment,
            },
            stdout=stdout,
            stderr=stderr,
            encoding=encoding,
        ) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()

    return _manage


def wait_for_output(stream, words):
    """Wait until a command has written this."""
    wait_until(lambda: words in stream.getvalue())
    return True


def signal_at_fifth_close(number):
    """Return a latency of the sandbox that sends this process a signal at the fifth close."""
    asked = []

    def latency(_session):
        asked.append(None)
        if len(asked) == 5:
            os.kill(os.getpid(), number)
        return 0.1

    return latency
