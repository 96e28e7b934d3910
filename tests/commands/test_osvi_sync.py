"""``manage.py osvi_sync``: look up customers, and print the progress."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from io import StringIO

import pytest
from django.core.management import call_command
from django.db import DataError, InterfaceError, OperationalError, connection

from osvi_django.client import throttle
from osvi_django.models import ChatSession
from osvi_django.testing import Status
from osvi_django.testing.factories import ChatSessionFactory
from tests.commands.conftest import Terminal, run_command
from tests.helpers.database import raise_on_queries, wrap_queries_in_threads
from tests.helpers.processes import TerminatingOutput
from tests.helpers.sandbox import CallThenAnswer
from tests.helpers.waiting import wait_until


@pytest.mark.django_db(transaction=True)
class TestSync:
    def test_customers_are_looked_up_once_each(self, osvi_sandbox):
        chats = [osvi_sandbox.add_session(customer_id=each) for each in ("+1", "+2")]
        out, err, code = run_command("osvi_sync", "--customer", "+1", "+2", "--customer", "+1")
        assert (err, code) == ("", 0)
        for customer in ("+1", "+2"):
            assert f"'{customer}': 1 open\n" in out
        assert out.count(" open\n") == 2
        for chat in chats:
            assert f"'{chat.id}'  active  ai" in out
        assert ChatSession.objects.count() == 2

    @pytest.mark.parametrize("args", [("--customer", "+1"), ("--open",)])
    def test_session_found_closed_is_stored_via_command(self, mirrored, osvi_sandbox, args):
        session = mirrored(customer_id="+1")
        osvi_sandbox.sessions[session.session_id].change(status="closed")
        assert run_command("osvi_sync", *args)[2] == 0
        attempt = session.attempts.get()
        assert (attempt.kind, attempt.via) == ("mirrored", "command")

    def test_failed_lookup_does_not_stop_the_others(self, osvi_sandbox):
        osvi_sandbox.script(None, Status(422, errors=["No"]))
        out, err, code = run_command("osvi_sync", "--customer", "+1", "+2")
        assert "'+1': OSVI refused the request. Nothing has changed. OSVI said: “No”" in err
        assert err.endswith("1 of 2 customers could not be looked up.")
        assert ("0 open" in out, code) == (True, 1)

    def test_account_option_selects_account(self, osvi_sandbox, settings):
        _out, err, code = run_command("osvi_sync", "--customer", "+1", "--account", "nobody")
        assert (code, 'no account "nobody"' in err) == (2, True)
        settings.OSVI["other"] = settings.OSVI["default"]
        assert run_command("osvi_sync", "--customer", "+1", "--account", "other")[2] == 0

    def test_open_option_looks_up_all_customers_with_open_sessions(self, mirrored):
        for _number in range(3):
            mirrored()
        ChatSessionFactory(customer_id="")
        out, err, code = run_command("osvi_sync", "--open")
        said = "3 of 3 customers looked up, 0 failed, 0 left; 1 session has no customer id"
        assert (out, err, code) == (f"{said}\n", "", 0)
        assert run_command("osvi_sync", "--open", "--older-than", "2h")[0].startswith(
            "0 of 0 customers"
        )

    def test_open_option_with_failures_exits_with_1(self, mirrored, osvi_sandbox):
        mirrored()
        osvi_sandbox.script(None, Status(422))
        out, err, code = run_command("osvi_sync", "--open")
        assert ("1 failed, 0 left" in out, code) == (True, 1)
        assert err == "Some customers could not be looked up. See the log for details."
        osvi_sandbox.script(None, Status(401))
        out, err, code = run_command("osvi_sync", "--open")
        assert ("0 failed, 1 left" in out, code) == (True, 1)
        assert "default: OSVI refused this site's API token. Nothing has changed." in err

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_signal_stops_sync_early_and_exits_with_130(
        self, mirrored, osvi_sandbox, settings, number
    ):
        settings.OSVI["default"]["CONCURRENCY"] = 1
        for _number in range(60):
            mirrored()
        slow, kill = CallThenAnswer(lambda: time.sleep(0.02)), lambda: os.kill(os.getpid(), number)
        osvi_sandbox.script(None, *[slow] * 4, CallThenAnswer(kill), *[slow] * 55)
        before = signal.getsignal(number)
        out, err, code = run_command("osvi_sync", "--open")
        assert code == 130
        assert err.startswith("Stopping after the requests in progress.")
        assert err.endswith("Stopped. To continue, run it again with --older-than.")
        assert 5 <= len(osvi_sandbox.requests) < 60
        assert out.startswith(f"{len(osvi_sandbox.requests)} of 60 customers looked up, 0 failed")
        assert signal.getsignal(number) == before

    def test_sync_in_thread_installs_no_signal_handlers(self, osvi_sandbox):
        found = []

        def sync():
            try:
                found.append(run_command("osvi_sync", "--open")[2])
            finally:
                connection.close()  # each thread has one of its own

        thread = threading.Thread(target=sync)
        thread.start()
        thread.join()
        assert found == [0]

    @pytest.mark.parametrize("error", [OperationalError, InterfaceError])
    def test_unavailable_database_is_reported(self, osvi_sandbox, error):
        with raise_on_queries(lambda *_query: True, error("a secret")):
            said = run_command("osvi_sync", "--open")
        assert said == ("", f"The database is unavailable: {error.__name__}", 1)

    @pytest.mark.parametrize(
        "args",
        [
            [],
            ["--open", "--customer", "+1"],
            ["--customer", "+1", "--older-than", "2h"],
            ["--open", "--account", "default"],
            ["--customer", "+1", ""],
            ["--open", "--older-than", "2"],
            ["--open", "--older-than", "0h"],
            ["--open", "--older-than=-2h"],
            ["--open", "--older-than", "999999999w"],
            ["--open", "--older-than", "999999999d"],
            ["--customer", "+1", "--watch", "5"],
            ["--open", "--older-than", "2h", "--watch", "5"],
            ["--open", "--watch", "0"],
            ["--open", "--watch", "-1"],
            ["--open", "--watch", "nan"],
        ],
    )
    def test_wrong_arguments_exit_with_2(self, osvi_sandbox, args):
        _out, err, code = run_command("osvi_sync", *args)
        assert (code, bool(err)) == (2, True)
        assert osvi_sandbox.requests == []


@pytest.mark.django_db(transaction=True)
class TestProgress:
    @pytest.fixture(autouse=True)
    def three_customers(self, mirrored, osvi_sandbox, settings, monkeypatch):
        settings.OSVI["default"]["CONCURRENCY"] = 1
        monkeypatch.setenv("NO_COLOR", "1")
        for _number in range(3):
            mirrored()

    def test_progress_at_terminal_is_a_bar(self, call, osvi_sandbox):
        osvi_sandbox.script(None, Status(422))
        said = call("osvi_sync", "--open", stderr=Terminal())
        assert said.code == 1
        assert re.search(r"100%\|.*3/3 .*customers.*failed=1\]\n", said.err)
        assert "looked up" not in said.err
        assert said.out.startswith("2 of 3 customers looked up, 1 failed, 0 left")

    def test_progress_bar_when_stopped_early_shows_state(self, call, osvi_sandbox):
        osvi_sandbox.script(None, Status(422), Status(401))
        said = call("osvi_sync", "--open", stderr=Terminal())
        assert said.code == 1
        assert re.search(r" 33%\|.* 1/3 .*failed=1\]\ndefault: OSVI refused", said.err)

    def test_progress_without_terminal_is_lines(self, call, osvi_sandbox, advance_clock):
        osvi_sandbox.script(None, *[CallThenAnswer(lambda: advance_clock(6))] * 3)
        said = call("osvi_sync", "--open")
        [line] = said.err.splitlines()
        assert re.match(r"[123] of 3 customers looked up, 0 failed, [012] left; 0 sessions", line)

    @pytest.mark.usefixtures("without_tqdm")
    def test_progress_without_tqdm_is_lines(self, call, osvi_sandbox, advance_clock):
        osvi_sandbox.script(None, CallThenAnswer(lambda: advance_clock(11)))
        said = call("osvi_sync", "--open", stderr=Terminal())
        assert "of 3 customers looked up" in said.err
        assert "/3" not in said.err


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    """Shorten the pauses of the throttle."""
    monkeypatch.setattr(throttle, "PAUSES", (0.05, 0.1, 0.15))


@pytest.mark.django_db(transaction=True)
class TestWatch:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_watch_in_own_process_stores_flag_and_ends_with_0(
        self, mirrored, osvi_sandbox, manage, number
    ):
        sessions = [mirrored() for _number in range(20)]
        with manage("osvi_sync", "--open", "--watch", "1") as process:
            first = process.stdout.readline()
            assert first == "Looking up all open chat sessions, until stopped.\n"
            wait_until(lambda: ChatSession.objects.filter(synced_at=None).count() == 0)
            for each in sessions[::2]:
                osvi_sandbox.request_help(each.session_id)
            wait_until(lambda: ChatSession.objects.filter(help_requested=True).count() == 10)
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
        assert (out, process.returncode) == ("Stopped.\n", 0)
        assert err == "Stopping after the requests in progress. Press Ctrl-C again to quit now.\n"

    @pytest.mark.parametrize(
        ("fault", "said"),
        [
            ("token", "default: OSVI refuses this site's API token. Ask your administrator"),
            ("database", "The database is unavailable: OperationalError. It is tried again"),
            ("bug", "default: an error of this site. See the log. It is tried again"),
        ],
    )
    def test_trouble_is_said_once_and_when_it_is_over(self, mirrored, osvi_sandbox, fault, said):
        mirrored()
        left = [] if fault == "token" else [True]

        def fail_once(execute, sql, params, many, context):
            if left and sql.startswith("SELECT") and "synced_at" in sql:
                left.pop()
                raise OperationalError("x") if fault == "database" else DataError("x")
            return execute(sql, params, many, context)

        token = osvi_sandbox.token
        if fault == "token":
            osvi_sandbox.token = "another-token-16"
        err = StringIO()
        out = TerminatingOutput("available again")

        def repair():
            wait_until(lambda: said in err.getvalue())
            osvi_sandbox.token = token

        repairing = threading.Thread(target=repair)
        repairing.start()
        with wrap_queries_in_threads("osvi-watch-default", fail_once):
            call_command("osvi_sync", "--open", "--watch", stdout=out, stderr=err)
        repairing.join()
        assert err.getvalue().count(said) == 1
        name = "The database" if fault == "database" else "default"
        lines = out.getvalue().splitlines()
        assert lines[1:] == [f"{name}: available again.", "Stopped."]
