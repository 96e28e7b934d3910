"""``manage.py osvi_sync``, ``osvi_summarize`` and ``osvi_purge``."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import InterfaceError, OperationalError, connection
from django.utils import timezone

from osvi_django.client import throttle
from osvi_django.models import ChatSession, SupportAction
from osvi_django.testing import Status
from osvi_django.testing.factories import ChatSessionFactory, ClosedSessionFactory
from tests.commands.conftest import Terminal
from tests.helpers.database import raise_on_queries
from tests.helpers.sandbox import CallThenAnswer


def run(*args):
    """What the command said, and its exit code."""
    out, err = StringIO(), StringIO()
    try:
        call_command(*args, stdout=out, stderr=err)
    except CommandError as error:
        return out.getvalue(), f"{err.getvalue()}{error}", error.returncode
    return out.getvalue(), err.getvalue(), 0


@pytest.mark.django_db(transaction=True)
class TestSync:
    def test_customers_are_looked_up(self, osvi_sandbox):
        chats = [osvi_sandbox.add_session(customer_id=each) for each in ("+1", "+2")]
        out, err, code = run("osvi_sync", "--customer", "+1", "+2", "--customer", "+1")
        assert (err, code) == ("", 0)
        assert out.count("1 open") == 2
        for chat in chats:
            assert f"'{chat.id}'  active  ai" in out
        assert ChatSession.objects.count() == 2

    @pytest.mark.parametrize("args", [("--customer", "+1"), ("--open",)])
    def test_what_it_finds_closed_says_who_found_it(self, mirrored, osvi_sandbox, args):
        session = mirrored(customer_id="+1")
        osvi_sandbox.sessions[session.session_id].change(status="closed")
        assert run("osvi_sync", *args)[2] == 0
        attempt = session.attempts.get()
        assert (attempt.kind, attempt.via) == ("mirrored", "command")

    def test_one_that_fails_does_not_stop_the_others(self, osvi_sandbox):
        osvi_sandbox.script(None, Status(422, errors=["No"]))
        out, err, code = run("osvi_sync", "--customer", "+1", "+2")
        assert "'+1': OSVI refused the request. Nothing has changed. OSVI said: “No”" in err
        assert err.endswith("1 of 2 customers could not be looked up.")
        assert ("0 open" in out, code) == (True, 1)

    def test_another_account(self, osvi_sandbox, settings):
        _out, err, code = run("osvi_sync", "--customer", "+1", "--account", "nobody")
        assert (code, 'no account "nobody"' in err) == (2, True)
        settings.OSVI["other"] = settings.OSVI["default"]
        assert run("osvi_sync", "--customer", "+1", "--account", "other")[2] == 0

    def test_all_that_is_open(self, mirrored):
        for _number in range(3):
            mirrored()
        ChatSessionFactory(customer_id="")
        out, err, code = run("osvi_sync", "--open")
        said = "3 of 3 customers looked up, 0 failed, 0 left; 1 sessions have no customer id"
        assert (out, err, code) == (f"{said}\n", "", 0)
        assert run("osvi_sync", "--open", "--older-than", "2h")[0].startswith("0 of 0 customers")

    def test_what_fails_is_told_by_the_exit_code(self, mirrored, osvi_sandbox):
        mirrored()
        osvi_sandbox.script(None, Status(422))
        out, err, code = run("osvi_sync", "--open")
        assert ("1 failed, 0 left" in out, code) == (True, 1)
        assert err == "Some customers could not be looked up. See the log for details."
        osvi_sandbox.script(None, Status(401))
        out, err, code = run("osvi_sync", "--open")
        assert ("0 failed, 1 left" in out, code) == (True, 1)
        assert "default: OSVI refused this site's API token. Nothing has changed." in err

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_ends_it_early(self, mirrored, osvi_sandbox, settings, number):
        settings.OSVI["default"]["CONCURRENCY"] = 1
        for _number in range(60):
            mirrored()
        slow, kill = CallThenAnswer(lambda: time.sleep(0.02)), lambda: os.kill(os.getpid(), number)
        osvi_sandbox.script(None, *[slow] * 4, CallThenAnswer(kill), *[slow] * 55)
        before = signal.getsignal(number)
        out, err, code = run("osvi_sync", "--open")
        assert code == 130
        assert err.startswith("Stopping after the requests in progress.")
        assert err.endswith("Stopped. To continue, run it again with --older-than.")
        assert 5 <= len(osvi_sandbox.requests) < 60
        assert out.startswith(f"{len(osvi_sandbox.requests)} of 60 customers looked up, 0 failed")
        assert signal.getsignal(number) == before

    def test_in_a_thread_no_signal_is_caught(self, osvi_sandbox):
        found = []

        def sync():
            try:
                found.append(run("osvi_sync", "--open")[2])
            finally:
                connection.close()  # each thread has one of its own

        thread = threading.Thread(target=sync)
        thread.start()
        thread.join()
        assert found == [0]

    @pytest.mark.parametrize("error", [OperationalError, InterfaceError])
    def test_a_database_that_is_away_is_said(self, osvi_sandbox, error):
        with raise_on_queries(lambda *_query: True, error("a secret")):
            said = run("osvi_sync", "--open")
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
        ],
    )
    def test_wrong_arguments_are_2(self, osvi_sandbox, args):
        _out, err, code = run("osvi_sync", *args)
        assert (code, bool(err)) == (2, True)
        assert osvi_sandbox.requests == []


@pytest.mark.django_db(transaction=True)
class TestProgress:
    @pytest.fixture(autouse=True)
    def three_to_look_up(self, mirrored, osvi_sandbox, settings, monkeypatch):
        settings.OSVI["default"]["CONCURRENCY"] = 1
        monkeypatch.setenv("NO_COLOR", "1")
        for _number in range(3):
            mirrored()

    def test_a_bar_at_a_terminal(self, call, osvi_sandbox):
        osvi_sandbox.script(None, Status(422))
        said = call("osvi_sync", "--open", stderr=Terminal())
        assert said.code == 1
        assert re.search(r"100%\|.*3/3 .*customers.*failed=1\]\n", said.err)
        assert "looked up" not in said.err
        assert said.out.startswith("2 of 3 customers looked up, 1 failed, 0 left")

    def test_a_bar_that_ends_early(self, call, osvi_sandbox):
        osvi_sandbox.script(None, Status(422), Status(401))
        said = call("osvi_sync", "--open", stderr=Terminal())
        assert said.code == 1
        assert re.search(r" 33%\|.* 1/3 .*failed=1\]\ndefault: OSVI refused", said.err)

    def test_lines_elsewhere(self, call, osvi_sandbox, let_time_pass):
        osvi_sandbox.script(None, *[CallThenAnswer(lambda: let_time_pass(6))] * 3)
        said = call("osvi_sync", "--open")
        [line] = said.err.splitlines()
        assert re.match(r"[123] of 3 customers looked up, 0 failed, [012] left; 0 sessions", line)

    @pytest.mark.usefixtures("without_tqdm")
    def test_lines_where_tqdm_is_not_installed(self, call, osvi_sandbox, let_time_pass):
        osvi_sandbox.script(None, CallThenAnswer(lambda: let_time_pass(11)))
        said = call("osvi_sync", "--open", stderr=Terminal())
        assert "of 3 customers looked up" in said.err
        assert "/3" not in said.err


def write(session):
    if session.customer_id == "bad":
        raise ValueError("a secret")
    return None if session.customer_id == "none" else "Ours."


@pytest.mark.django_db
class TestSummarize:
    @pytest.fixture(autouse=True)
    def _sessions(self, osvi_sandbox, settings):
        settings.OSVI["default"]["SUMMARIZER"] = write
        self.session = ClosedSessionFactory(summary=None, summary_status="not_provided")

    def test_all_are_written(self):
        ClosedSessionFactory(summary=None, summary_status="lost", customer_id="none")
        out, err, code = run("osvi_summarize")
        assert f"'{self.session.session_id}': stored" in out
        assert out.endswith("1 stored, 1 without a text, 0 failed\n")
        assert (err, code) == ("", 0)
        assert run("osvi_summarize") == ("0 stored, 0 without a text, 0 failed\n", "", 0)
        out = run("osvi_summarize", "--again")[0]
        assert out.endswith("0 stored, 1 without a text, 0 failed\n")

    def test_a_failure_is_told_by_the_exit_code(self):
        ClosedSessionFactory(summary=None, summary_status="lost", customer_id="bad")
        out, err, code = run("osvi_summarize")
        assert "failed (ValueError)" in out
        assert "secret" not in out + err
        assert (err, code) == ("1 failed. The next run tries them again.", 1)

    def test_settings_that_cannot_be_used_are_said(self, settings):
        settings.OSVI = {}
        assert run("osvi_summarize")[1:] == ("The setting OSVI is missing or has no account.", 1)


@pytest.mark.django_db
class TestForget:
    def test_old_texts_are_removed(self, osvi_sandbox):
        ago = timezone.now() - timedelta(days=91)
        SupportAction.objects.create(
            session=ChatSessionFactory(), kind="tell", text="x", started_at=ago, finished_at=ago
        )
        assert run("osvi_purge") == ("1 texts removed\n", "", 0)
        assert run("osvi_purge") == ("0 texts removed\n", "", 0)

    def test_settings_that_cannot_be_used_are_said(self, osvi_sandbox, settings):
        settings.OSVI["default"]["TEXT_RETENTION_DAYS"] = "x"
        assert run("osvi_purge")[2] == 1


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch):
    monkeypatch.setattr(throttle, "PAUSES", (0.05, 0.1, 0.15))
