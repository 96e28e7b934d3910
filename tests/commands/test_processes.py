"""The commands as a shell runs them: exit codes, signals, a terminal, and another that goes on."""

from __future__ import annotations

import os
import pty
import signal
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
    """Run a command to its end: its exit code, and what it said."""

    def _run(*arguments, **environment):
        with manage(*arguments, **environment) as process:
            out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out, err

    return _run


@pytest.fixture
def closing(manage, osvi_sandbox, chats):
    """A command that has begun to close forty sessions, for each of which OSVI takes its time."""

    def _closing(latency):
        osvi_sandbox.latency = latency
        chats(40)
        return manage("osvi_close", "--status", "active")

    return _closing


def wait_for_a_close(process, osvi_sandbox):
    assert "0 of 40 done" in process.stdout.readline()
    wait_until(lambda: osvi_sandbox.requests)


class TestExitCodes:
    def test_all_are_closed(self, run, chats):
        code, out, err = run("osvi_close", *[chat.session_id for chat in chats(2)])
        assert (code, err) == (0, "")
        assert "2 of 2 done: 2 closed" in out

    def test_none_is_selected(self, run, chats):
        chats(1)
        said = run("osvi_close", "--idle-for", "1h")
        assert said == (0, "No chat session is selected.\n", "")

    def test_something_failed(self, run, chats, osvi_sandbox):
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
    def test_wrong_arguments(self, run, arguments):
        code, out, err = run("osvi_close", *arguments)
        assert (code, out) == (2, "")
        assert "Traceback" not in err

    def test_osvi_is_in_trouble(self, run, chats):
        chats(2)
        code, out, err = run("osvi_close", "--status", "active", OSVI_API_TOKEN="another-token-16")
        assert code == 75
        assert "\nCommandError: Paused. Close job " in err
        assert "        2  waiting\n" in out

    def test_they_are_documented(self, run):
        code, out, _err = run("osvi_close", "--help")
        said = " ".join(out.split())
        assert code == 0
        for told in ("0, all are closed", "1, some are not", "2, the", "75, OSVI", "130, Ctrl-C"):
            assert told in said


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_what_is_under_way_is_brought_home_and_another_process_goes_on(
        self, closing, run, osvi_sandbox, number
    ):
        with closing(0.5) as process:
            wait_for_a_close(process, osvi_sandbox)
            process.send_signal(number)
            _out, err = process.communicate(timeout=PATIENCE)
        job = CloseJob.objects.get()
        assert process.returncode == 130
        assert err.splitlines() == [
            STOPPING,
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

    def test_a_second_ctrl_c_does_not_wait(self, closing, osvi_sandbox):
        with closing(PATIENCE) as process:
            wait_for_a_close(process, osvi_sandbox)
            process.send_signal(signal.SIGINT)
            assert process.stderr.readline().startswith("Stopping")
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE / 4) == -signal.SIGINT  # 130 to a shell
        assert not CloseJob.objects.get().is_finished

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_one_that_watches_does_what_a_door_left_and_ends_in_peace(self, manage, chats, number):
        with manage("osvi_worker", "--watch", "0.1") as process:
            for _time in range(2):
                job = create_close_job(chats(2))
                done = f"Close job {job.pk}: completed, 2 of 2 done"
                assert process.stdout.readline().startswith(done)
            process.send_signal(number)
            out, err = process.communicate(timeout=PATIENCE)
            assert (out, err.splitlines()) == ("", [STOPPING])
        assert process.returncode == 0

    def test_one_that_joins_shares_a_job_that_another_runs(self, manage, chats, osvi_sandbox):
        """A process has sixteen closes under way at the most, so that more are two processes."""
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

    def test_watch_alone_looks_every_few_seconds(self, manage, chats):
        job = create_close_job(chats(1))
        with manage("osvi_worker", "--watch") as process:
            assert process.stdout.readline().startswith(f"Close job {job.pk}: completed")
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0


def test_at_a_terminal_there_is_a_bar(manage, chats):
    chats(2)
    ours, its = pty.openpty()
    with manage("osvi_close", "--status", "active", stderr=its) as process:
        assert process.wait(PATIENCE) == 0
    os.close(its)
    said = ""
    with suppress(OSError):  # all is read, and nobody writes any more
        while part := os.read(ours, 10_000):
            said += part.decode()
    os.close(ours)
    assert "2/2" in said
    assert "failed=0" in said
