"""Commands as a shell runs them: exit codes, signals, a terminal, and several processes."""

from __future__ import annotations

import os
import pty
import signal
import threading
from contextlib import suppress

import pytest

from osvi_django.models import ChatSession, CloseJob
from osvi_django.services.jobs import create_close_job
from osvi_django.testing import Status
from tests.helpers.sandbox import ConcurrencyCounter
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

PATIENCE = 60  # seconds for a command to end
STOPPING = "Stopping after the requests in progress. Press Ctrl-C again to quit now."


@pytest.fixture
def run(manage):
    """Run a command to its end; return its exit code and output."""

    def _run(*arguments, **environment):
        with manage(*arguments, **environment) as process:
            out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out, err

    return _run


@pytest.fixture
def start_closing(manage, osvi_sandbox, chats):
    """Start a command that closes forty sessions, each with this latency at OSVI."""

    def _start_closing(latency):
        osvi_sandbox.latency = latency
        chats(40)
        return manage("osvi_close", "--status", "active")

    return _start_closing


def wait_for_a_close(process, osvi_sandbox):
    """Wait until the command has sent its first close."""
    assert "0 of 40 done" in process.stdout.readline()
    wait_until(lambda: osvi_sandbox.requests)


class TestExitCodes:
    def test_osvi_close_with_all_closed_exits_with_0(self, run, chats):
        code, out, err = run("osvi_close", *[chat.session_id for chat in chats(2)])
        assert (code, err) == (0, "")
        assert "2 of 2 done: 2 closed" in out

    def test_osvi_close_without_matches_exits_with_0(self, run, chats):
        chats(1)
        said = run("osvi_close", "--idle-for", "1h")
        assert said == (0, "No chat session is selected.\n", "")

    def test_osvi_close_with_failures_exits_with_1(self, run, chats, osvi_sandbox):
        osvi_sandbox.script(chats(2)[0].session_id, Status(403))
        code, out, err = run("osvi_close", "--status", "active")
        assert code == 1
        assert err.endswith("\nCommandError: Not closed: 1 of 2.\n")
        assert "        1  refused by OSVI\n" in out

    @pytest.mark.parametrize(
        "arguments",
        [
            (),
            ("x", "--customer", "y"),
            ("--status", "open"),
            ("--status",),
            ("--idle-for", "soon"),
            ("--idle-for", "-7d"),
            ("--nonsense",),
        ],
    )
    def test_osvi_close_with_wrong_arguments_exits_with_2(self, run, arguments):
        code, out, err = run("osvi_close", *arguments)
        assert (code, out) == (2, "")
        assert "Traceback" not in err

    def test_osvi_close_when_job_pauses_exits_with_75(self, run, chats):
        chats(2)
        code, out, err = run("osvi_close", "--status", "active", OSVI_API_TOKEN="another-token-16")
        assert code == 75
        assert "\nCommandError: Paused. Close job " in err
        assert "        2  waiting\n" in out

    def test_osvi_close_help_lists_exit_codes(self, run):
        code, out, _err = run("osvi_close", "--help")
        said = " ".join(out.split())
        assert code == 0
        for line in ("0, all are closed", "1, some are not", "2, the", "75, OSVI", "130, Ctrl-C"):
            assert line in said


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_stopped_osvi_close_stores_results_and_osvi_worker_continues(
        self, start_closing, run, osvi_sandbox, number
    ):
        is_stopping = threading.Event()
        # No close is answered before the command has noticed the signal.
        with start_closing(lambda _chat: 0 if is_stopping.wait(PATIENCE) else PATIENCE) as process:
            wait_for_a_close(process, osvi_sandbox)
            process.send_signal(number)
            assert process.stderr.readline() == f"{STOPPING}\n"
            is_stopping.set()
            _out, err = process.communicate(timeout=PATIENCE)
        job = CloseJob.objects.get()
        assert process.returncode == 130
        assert err.splitlines() == [
            f"CommandError: Stopped. Close job {job.pk} waits, and osvi_worker continues it.",
        ]
        assert not job.is_finished
        assert 0 < job.succeeded < 40
        assert job.succeeded == ChatSession.objects.filter(status="closed").count()
        assert not ChatSession.objects.filter(status__in=("closing", "unconfirmed")).exists()
        osvi_sandbox.latency = 0
        code, out, err = run("osvi_worker")
        assert (code, err) == (0, "")
        assert f"Close job {job.pk}: completed, 40 of 40 done: 40 closed" in out
        assert all(osvi_sandbox.close_requests(each) == 1 for each in osvi_sandbox.sessions)

    def test_second_ctrl_c_ends_osvi_close_at_once(self, start_closing, osvi_sandbox):
        with start_closing(PATIENCE) as process:
            wait_for_a_close(process, osvi_sandbox)
            process.send_signal(signal.SIGINT)
            assert process.stderr.readline().startswith("Stopping")
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE / 4) == -signal.SIGINT  # 130 to a shell
        assert not CloseJob.objects.get().is_finished

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_osvi_worker_watch_runs_new_jobs_and_exits_with_0(self, manage, chats, number):
        with manage("osvi_worker", "--watch", "0.1") as process:
            for _time in range(2):
                job = create_close_job(chats(2))
                done = f"Close job {job.pk}: completed, 2 of 2 done"
                assert process.stdout.readline().startswith(done)
            process.send_signal(number)
            out, err = process.communicate(timeout=PATIENCE)
            assert (out, err.splitlines()) == ("", [STOPPING])
        assert process.returncode == 0

    def test_osvi_worker_join_shares_running_job(self, manage, chats, osvi_sandbox):
        """A process has at most sixteen closes in progress, so more of them need two processes."""
        osvi_sandbox.latency = latency = ConcurrencyCounter(0.5, number=17)
        job = create_close_job(chats(120))
        with (
            manage("osvi_worker", "--join") as first,
            manage("osvi_worker", "--join") as second,
        ):
            said = [each.communicate(timeout=PATIENCE)[0] for each in (first, second)]
        assert 16 < latency.most <= 32
        assert all(f"Close job {job.pk}: completed, 120 of 120 done" in each for each in said)
        assert all(osvi_sandbox.close_requests(each) == 1 for each in osvi_sandbox.sessions)

    def test_osvi_worker_watch_without_interval_runs_jobs(self, manage, chats):
        job = create_close_job(chats(1))
        with manage("osvi_worker", "--watch") as process:
            assert process.stdout.readline().startswith(f"Close job {job.pk}: completed")
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0


def test_osvi_close_at_terminal_draws_progress_bar(manage, chats):
    chats(2)
    ours, its = pty.openpty()
    with manage("osvi_close", "--status", "active", stderr=its) as process:
        assert process.wait(PATIENCE) == 0
    os.close(its)
    said = ""
    with suppress(OSError):  # all is read, and the writing end is closed
        while part := os.read(ours, 10_000):
            said += part.decode()
    os.close(ours)
    assert "2/2" in said
    assert "failed=0" in said
