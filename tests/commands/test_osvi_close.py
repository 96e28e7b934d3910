"""``manage.py osvi_close``: what it selects, what it prints, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import threading
import time
from datetime import timedelta
from io import StringIO

import pytest
from django.apps import apps
from django.db import InterfaceError, OperationalError, connection, transaction
from django.utils import timezone

from osvi_django.exceptions import InsideTransaction
from osvi_django.models import ChatSession, CloseAttempt, CloseJob
from osvi_django.services.jobs import cancel_close_job, create_close_job
from osvi_django.signals import session_closed
from osvi_django.testing import Drop, Status
from osvi_django.testing.factories import (
    ChatAgentFactory,
    ChatSessionFactory,
    ClosedSessionFactory,
)
from tests.commands.conftest import Terminal, signal_at_fifth_close, wait_for_output
from tests.helpers.database import call_after_queries, raise_on_queries
from tests.helpers.datetimes import db_datetime
from tests.helpers.sandbox import SUMMARY
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.django_db

# Each table is looked for before.
OF_TABLE_CHECK = len(list(apps.get_app_config("osvi_django").get_models()))
HANDLED = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture
def selected(call):
    """Return the ids that a dry run with these arguments prints."""

    def _selected(*arguments):
        said = call("osvi_close", *arguments, "--dry-run")
        assert (said.code, said.err) == (0, ""), said.error
        return set(re.findall(r"^'(\S+)'  ", said.out, re.MULTILINE))

    return _selected


@pytest.fixture
def untouched(osvi_sandbox):
    """Check after the test that nothing was sent or stored."""
    yield
    assert osvi_sandbox.requests == []
    assert not CloseJob.objects.exists()
    assert not CloseAttempt.objects.exists()


class TestWhoAnswers:
    def test_options_select_mode_help_and_agents(self, selected):
        agent = ChatAgentFactory()
        waits = ChatSessionFactory(mode="support", help_requested=True)
        taken = ChatSessionFactory(mode="support")
        other = ChatSessionFactory(agent=agent)
        assert selected("--mode", "support") == {waits.session_id, taken.session_id}
        assert selected("--help-requested") == {waits.session_id}
        assert selected("--no-help-requested") == {taken.session_id, other.session_id}
        excluded = ["--exclude-agent", agent.uuid, "--exclude-agent", taken.agent.uuid]
        assert selected(*excluded) == {waits.session_id}

    def test_idle_for_leaves_out_who_waits_for_a_person(self, selected):
        long_ago = timezone.now() - timedelta(days=8)
        quiet = ChatSessionFactory(last_activity_at=long_ago)
        waits = ChatSessionFactory(last_activity_at=long_ago, help_requested=True)
        assert selected("--idle-for", "7d") == {quiet.session_id}
        assert selected("--idle-for", "7d", "--help-requested") == {waits.session_id}

    def test_filters_of_the_lists_select(self, selected):
        early, late = (db_datetime(f"2026-01-0{day}T00:00Z") for day in (1, 3))
        first = ChatSessionFactory(customer_id="+15551112222", started_at=early)
        lost = ChatSessionFactory(status="unconfirmed", started_at=late)
        other = ChatSessionFactory(started_at=late)
        done = ClosedSessionFactory(close_reason="Bored", started_at=late)
        job = create_close_job([other], start=False)
        both = {first.session_id, other.session_id}
        assert selected("--open") == both
        assert selected("--no-open") == {lost.session_id, done.session_id}
        assert selected("--account", "default") == both
        assert selected("--close-job", str(job.pk)) == {other.session_id}
        assert selected("--started-after", "2026-01-02") == {other.session_id}
        assert selected("--closed-before", "2026-01-02") == set()
        assert selected("--close-reason", "Bored", "--status", "closed") == {done.session_id}
        assert selected("--summary-status", "pending") == both
        assert selected("--idle-since", "2020-01-01") == set()
        assert selected("--search", "2222") == {first.session_id}

    def test_close_by_search_closes_what_it_finds(self, call, chats):
        (wanted,), _other = chats(1, customer_id="+15551112222"), chats(1)
        assert call("osvi_close", "--search", "(555) 111-2222").code == 0
        closed = ChatSession.objects.filter(status="closed")
        assert [each.session_id for each in closed] == [wanted.session_id]
        job = CloseJob.objects.get()
        assert job.selection == "active, dormant, found by a search"
        assert job.session_filter == {"status": ["active", "dormant"]}

    def test_reason_is_stored_and_checked(self, call, chats, settings):
        (session,) = chats(1)
        settings.OSVI["default"]["CLOSE_REASONS"] = ["Answered"]
        said = call("osvi_close", session.session_id, "--reason", "Bored")
        assert (said.code, "use one of “Answered”" in said.error) == (2, True)
        assert call("osvi_close", session.session_id, "--reason", "Answered").code == 0
        session.refresh_from_db()
        assert session.close_reason == "Answered"

    def test_goodbye_is_sent_first(self, call, chats, osvi_sandbox):
        (session,) = chats(1)
        assert call("osvi_close", session.session_id, "--goodbye", "Bye").code == 0
        assert [each.body for each in osvi_sandbox.requests][1] == {"message": "Bye"}
        assert CloseJob.objects.get().items.get().goodbye == "sent"


class TestClose:
    def test_close_by_ids_closes_only_those(self, call, chats, osvi_sandbox):
        one, other, _third = chats(3)
        said = call("osvi_close", one.session_id, other.session_id, "--note", "Spring cleaning")
        job = CloseJob.objects.get()
        assert (said.code, said.error, said.err) == (0, "", "")
        assert said.out == (
            f"Close job {job.pk}: queued, 0 of 2 done: 0 closed, 0 failed, 0 unconfirmed, "
            "0 cancelled\n"
            f"Close job {job.pk}: completed, 2 of 2 done: 2 closed, 0 failed, 0 unconfirmed, "
            "0 cancelled\n"
            "        2  closed\n"
        )
        assert (job.via, job.note, job.requested_by) == ("command", "Spring cleaning", None)
        assert ChatSession.objects.filter(status="closed").count() == 2
        assert SUMMARY not in said.out

    def test_close_of_unknown_id_only_prints_job_once(self, call, db):
        said = call("osvi_close", "nonesuch")
        job = CloseJob.objects.get()
        assert (said.code, said.error) == (1, "Not closed: 1 of 1.")
        assert said.out.count(f"Close job {job.pk}: ") == 1
        assert "'nonesuch': not found on this site." in said.out

    def test_close_with_unknown_status_reports_failure(self, call, chats, osvi_sandbox):
        odd, known = chats(2)
        ChatSession.objects.filter(pk=odd.pk).update(status="archived")
        said = call("osvi_close", odd.session_id, known.session_id)
        assert said.code == 1
        assert "completed_with_errors, 2 of 2 done: 1 closed, 1 failed" in said.out
        assert osvi_sandbox.close_requests(odd.session_id) == 0

    def test_close_by_filter_closes_matching_sessions(self, call, chats):
        chats(2, customer_id="+49")
        chats(1)
        assert call("osvi_close", "--customer", "+49").code == 0
        assert ChatSession.objects.filter(status="closed").count() == 2

    def test_close_does_not_call_executor(self, call, chats, settings):
        settings.OSVI_EXECUTOR = f"{__name__}.fail_if_called"
        assert call("osvi_close", *[chat.session_id for chat in chats(1)]).code == 0

    def test_close_with_failures_prints_reasons(self, call, chats, osvi_sandbox):
        refused, lost, closed = chats(3)
        osvi_sandbox.script(refused.session_id, Status(403, errors=["Not yours."]))
        osvi_sandbox.script(lost.session_id, Drop())
        ids = [refused.session_id, lost.session_id, closed.session_id, "two\nlines"]
        said = call("osvi_close", *ids, ClosedSessionFactory().session_id)
        assert (said.code, said.error) == (1, "Not closed: 3 of 5.")
        assert "completed_with_errors, 5 of 5 done: 2 closed, 2 failed, 1 unconfirmed" in said.out
        for number, outcome in (
            *((1, "closed"), (1, "already closed"), (1, "refused by OSVI")),
            *((1, "unconfirmed"), (1, "not found on this site")),
        ):
            assert f"{number:>9}  {outcome}\n" in said.out
        assert (
            f"'{refused.session_id}': refused by OSVI. OSVI did not close this chat session. It "
            "is still open. OSVI said: “Not yours.”\n"
        ) in said.out
        assert f"'{lost.session_id}': unconfirmed. OSVI may have closed" in said.out
        assert (
            "'two\\nlines': not found on this site. This site has no such chat session." in said.out
        )
        assert f"'{closed.session_id}'" not in said.out

    def test_close_with_many_failures_prints_twenty(self, call, osvi_sandbox):
        said = call("osvi_close", *[f"unknown-{number}" for number in range(25)])
        assert said.code == 1
        assert re.findall(r"^'unknown-(\d+)'", said.out, re.MULTILINE) == [
            str(number) for number in range(20)
        ]
        assert said.out.endswith("and 5 more\n")

    def test_close_without_matches_says_so(self, call, untouched):
        ClosedSessionFactory(customer_id="+49")
        said = call("osvi_close", "--customer", "+49")
        assert (said.code, said.out) == (0, "No chat session is selected.\n")

    def test_close_when_token_is_refused_leaves_paused_job(self, call, chats, osvi_sandbox):
        chats(3)
        osvi_sandbox.token = "another"
        said = call("osvi_close", "--status", "active")
        job = CloseJob.objects.get()
        assert (said.code, job.status) == (75, "paused")
        assert said.error == (
            f"Paused. Close job {job.pk} waits, and osvi_worker continues it. OSVI refuses this "
            "site's API token. Ask your administrator to check the token."
        )
        assert "        3  waiting\n" in said.out

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize("error", [OperationalError, InterfaceError])
    def test_close_when_database_is_unavailable_leaves_queued_job(self, call, chats, error):
        chats(1)
        with raise_on_queries(lambda _sql, params: "running" in params, error("gone")):
            said = call("osvi_close", "--status", "active")
        job = CloseJob.objects.get()
        assert (said.code, job.status) == (75, "queued")
        assert said.error == (
            f"The database is unavailable ({error.__name__}). "
            f"osvi_worker continues close job {job.pk}."
        )

    @pytest.mark.django_db(transaction=True)
    def test_close_without_a_table_of_another_app_is_no_outage(self, call, chats):
        """Report as it is what neither passes nor is cured by a migration of this app."""
        error = OperationalError("no such table: x")
        error.__cause__ = sqlite3.OperationalError("no such table: x")
        chats(1)
        missing = raise_on_queries(lambda _sql, params: "running" in params, error)
        with missing, pytest.raises(OperationalError):
            call("osvi_close", "--status", "active")

    def test_close_of_cancelled_job_exits_with_1(self, call, chats, settings):
        settings.OSVI["default"]["CONCURRENCY"] = 1
        chats(20)

        def cancel(**_named):
            cancel_close_job(CloseJob.objects.get())

        session_closed.connect(cancel)
        try:
            said = call("osvi_close", "--status", "active")
        finally:
            session_closed.disconnect(cancel)
        assert said.code == 1
        assert re.search(r"cancelled, \d+ of 20 done", said.out)
        assert said.error.startswith("Not closed: ")

    @pytest.mark.django_db(transaction=True)
    def test_close_in_transaction_raises_and_makes_no_job(self, call, chats, untouched):
        chats(1)
        with transaction.atomic(), pytest.raises(InsideTransaction):
            call("osvi_close", "--status", "active")

    def test_close_in_thread_installs_no_signal_handlers(self, call, transactional_db, chats):
        chats(1)
        calls = []
        thread = threading.Thread(target=call_in_thread, args=(call, calls))
        thread.start()
        thread.join()
        assert [said.code for said in calls] == [0]


def call_in_thread(call, calls):
    """Call the command with a connection of this thread's own."""
    try:
        calls.append(call("osvi_close", "--status", "active"))
    finally:
        connection.close()


def fail_if_called(job_id):
    """Fail, as an executor that must not be called."""
    raise AssertionError("the command runs its jobs itself")


class TestSelection:
    def test_status_by_default_is_active_or_dormant(self, selected):
        sessions = {
            status: ChatSessionFactory(status=status, customer_id="+49").session_id
            for status in ChatSession.Status.values
        }
        assert selected("--customer", "+49") == {sessions["active"], sessions["dormant"]}
        assert selected("--status", "dormant") == {sessions["dormant"]}
        wanted = {sessions["closed"], sessions["closing"], sessions["unconfirmed"]}
        assert selected("--status", "closed", "closing", "--status", "unconfirmed") == wanted

    def test_agent_option_selects_sessions_of_agent(self, selected):
        session = ChatSessionFactory(agent=ChatAgentFactory(uuid="agent_x"))
        ChatSessionFactory()
        assert selected("--agent", "agent_x") == {session.session_id}
        assert selected("--agent", "agent_x", "--status", "dormant") == set()

    @pytest.mark.parametrize("wanted", ["kunde", "kunde ", "Kunde"])
    def test_similar_ids_do_not_match(self, selected, wanted):
        sessions = {}
        for number, alike in enumerate(("kunde", "Kunde", "künde", "kunde ")):
            agent = ChatAgentFactory(uuid=alike, account=f"account {number}")
            session = ChatSessionFactory(customer_id=alike, agent=agent)
            sessions[alike] = session.session_id
        for name in ("--agent", "--customer"):
            assert selected(name, wanted) == {sessions[wanted]}

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [("30s", 30), ("90m", 5_400), ("12h", 43_200), ("7d", 604_800), ("2w", 1_209_600)],
    )
    def test_idle_for_selects_sessions_quiet_for_longer(self, selected, text, seconds):
        longer, shorter = (ChatSessionFactory(started_at=timezone.now()) for _number in range(2))
        for session, ago in ((longer, seconds + 10), (shorter, seconds - 10)):
            then = timezone.now() - timedelta(seconds=ago)
            ChatSession.objects.filter(pk=session.pk).update(last_activity_at=then)
        assert selected("--idle-for", text) == {longer.session_id}

    @pytest.mark.parametrize(
        ("text", "ago"),
        [
            ("2026-01-31", -timedelta(hours=1)),
            ("2026-01-31T00:00", -timedelta(hours=1)),
            ("2026-01-31T00:00+01:00", -timedelta(hours=1)),
            ("2026-01-31T00:00:00Z", timedelta(0)),
            ("2026-01-30 18:00:00-06:00", timedelta(0)),
        ],
    )
    def test_started_before_reads_times_in_site_zone_or_with_offset(
        self, selected, settings, text, ago
    ):
        settings.TIME_ZONE = "Europe/Berlin"  # an hour ahead of UTC in January
        moment = db_datetime("2026-01-31T00:00:00Z") + ago
        ChatSessionFactory(started_at=moment)
        before = ChatSessionFactory(started_at=moment - timedelta(seconds=1))
        assert selected("--started-before", text) == {before.session_id}

    def test_several_options_must_all_match(self, selected):
        old = {"started_at": db_datetime("2026-01-01T00:00:00Z")}
        wanted = ChatSessionFactory(customer_id="+49", **old)
        ChatSessionFactory(**old)
        ChatSessionFactory(customer_id="+49")
        assert selected("--customer", "+49", "--started-before", "2026-02-01") == {
            wanted.session_id
        }


@pytest.mark.usefixtures("untouched")
class TestRules:
    @pytest.fixture(autouse=True)
    def _note_required(self, settings, osvi_sandbox):
        settings.OSVI["default"] |= {"NOTE_REQUIRED": True}

    @pytest.mark.parametrize("chosen", [["unknown"], ["--idle-for", "1d"]])
    def test_missing_note_is_refused_if_nothing_is_selected(self, call, chosen, untouched):
        said = call("osvi_close", *chosen)
        assert (said.code, said.out) == (2, "")
        assert "--note is required" in said.error

    def test_filter_with_a_note_that_selects_nothing_succeeds(self, call, untouched):
        said = call("osvi_close", "--idle-for", "1d", "--note", "Tidy")
        assert (said.code, said.out) == (0, "No chat session is selected.\n")

    def test_dry_run_needs_no_note(self, call, untouched):
        assert call("osvi_close", "--idle-for", "1d", "--dry-run").code == 0


class TestDryRun:
    def test_dry_run_prints_counts_and_first_ten(self, call, chats):
        sessions = chats(12, customer_id="+49")
        said = call("osvi_close", "--customer", "+49", "--dry-run", "--note", "x")
        first, *lines = said.out.splitlines()
        assert said.code == 0
        assert first == (
            "Selected: 12. Would be closed: 12. Already closed: 0. Not found on this site: 0. "
            "Nothing was sent or written."
        )
        assert len(lines) == 10
        newest = sessions[-1]
        began = newest.started_at.isoformat(timespec="seconds")
        assert lines[0] == (f"'{newest.session_id}'  active  {began}  '{newest.agent.uuid}'  '+49'")

    def test_dry_run_by_ids_prints_each_status(self, call):
        known, closed = ChatSessionFactory().session_id, ClosedSessionFactory().session_id
        said = call("osvi_close", known, closed, "no\nbody", known, "--dry-run")
        first, *lines = said.out.splitlines()
        assert first.startswith(
            "Selected: 3. Would be closed: 1. Already closed: 1. Not found on this site: 1. "
        )
        assert [line.split("  ")[:2] for line in lines] == [
            [f"'{known}'", "active"],
            [f"'{closed}'", "closed"],
            [r"'no\nbody'", "not found on this site"],
        ]

    def test_dry_run_takes_same_queries_for_many(self, call, django_assert_num_queries):
        for number in (1, 30):
            ChatSessionFactory.create_batch(number, customer_id="+49")
            with django_assert_num_queries(3 + OF_TABLE_CHECK):
                call("osvi_close", "--customer", "+49", "--dry-run")


@pytest.mark.usefixtures("untouched")
class TestWrongArguments:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((), "ids or at least one filter"),
            (("--dry-run",), "ids or at least one filter"),
            (("--note", "x"), "ids or at least one filter"),
            (("x", "--customer", "y"), "either"),
            (("x", "--status", "active", "--dry-run"), "either"),
            (("x" * 256,), "ID: This is not a valid id"),
            (("x", ""), "ID: This is not a valid id"),
            (("a\udcff",), "ID: This is not a valid id"),
            (("", "--dry-run"), "ID: This is not a valid id"),
            (("--customer", ""), "--customer-id: This is not a valid id"),
            (("--agent", ""), "--agent-uuid: This is not a valid id"),
            (("--agent", "x" * 256), "--agent-uuid: This is not a valid id"),
            (("x", "--note", "x" * 1001), "--note is too long"),
            (("x", "--goodbye", "x" * 100_001), "--goodbye"),
            *(
                (("--idle-for", text), "--idle-for needs")
                for text in ("", "7", "d", "0d", "7 d", "1.5h", "7D", "7d12h", "1y", "７d")  # noqa: RUF001
            ),
            (("--idle-for", "9999999w"), "--idle-for is longer than 100 years"),
            (("--idle-for", "9" * 5000 + "s"), "--idle-for is longer than 100 years"),
            (("--idle-for", "36526d"), "--idle-for is longer than 100 years"),
            *(
                (("--started-before", text), "--started-before needs")
                for text in ("", "yesterday", "2026-13-01", "2026-01-32T00:00", "12:00", "5\x00")
            ),
            (
                ("--idle-for", "1d", "--idle-since", "2026-01-01"),
                "either --idle-for or --idle-since",
            ),
            (("--agent-uuid", "nonesuch"), "--agent-uuid: this site has no agent “nonesuch”"),
            (("--exclude-agent", "nonesuch"), "--exclude-agent: this site has no agent"),
            (("--exclude-agent", "nonesuch", "--dry-run"), "--exclude-agent: this site has no"),
            (("--account", "nonesuch"), 'has no account "nonesuch"'),
            (("--closed-by", "nobody"), "--closed-by: this site has no user of this name"),
            (("--close-job", "999999"), "--close-job: this site has no such close job"),
            (("--search", "…"), "--search: "),
            (("--started-before", "9999-12-31T23:59:59-10:00"), "--started-before needs"),
            (("--started-before", "0001-01-01T00:00Z"), "--started-before: This is too far in"),
        ],
    )
    def test_wrong_arguments_are_named_and_exit_with_2(self, call, arguments, message):
        ChatSessionFactory(session_id="x")
        said = call("osvi_close", *arguments)
        assert (said.code, said.out) == (2, "")
        assert message in said.error

    def test_time_that_a_close_changes_is_no_filter(self, call):
        said = call("osvi_close", "--updated-after", "2026-01-01")
        assert "unrecognized arguments" in said.error

    @pytest.mark.parametrize("name", ["open", "help-requested"])
    def test_option_and_its_contrary_are_refused(self, call, name):
        both = [f"--{name}", f"--no-{name}"]
        for arguments in (both, both[::-1]):
            error = call("osvi_close", *arguments).error
            assert f"--{name}/--no-{name}: these contradict each other" in error

    def test_unknown_status_is_refused(self, call):
        assert "invalid choice: 'open'" in call("osvi_close", "--status", "open").error


class TestProgress:
    @pytest.fixture(autouse=True)
    def three_chats(self, chats, settings, monkeypatch):
        settings.OSVI["default"]["CONCURRENCY"] = 1
        monkeypatch.setenv("NO_COLOR", "1")
        chats(3)

    def test_progress_at_terminal_is_a_bar(self, call):
        said = call("osvi_close", "--status", "active", stderr=Terminal())
        assert said.code == 0
        assert re.search(r"100%\|.*3/3 .*failed=0, unconfirmed=0\]\n", said.err)
        assert "Close job" not in said.err

    def test_progress_without_terminal_is_lines(self, call, osvi_sandbox, advance_clock):
        osvi_sandbox.latency = lambda _chat: advance_clock(11) or 0
        said = call("osvi_close", "--status", "active")
        job = CloseJob.objects.get()
        assert re.match(rf"Close job {job.pk}: running, \d of 3 done: ", said.err)
        assert re.search(r"\d of 3 done: \d closed, 0 failed", said.err)

    def test_progress_lines_are_not_printed_too_often(self, call, osvi_sandbox, advance_clock):
        osvi_sandbox.latency = lambda _chat: advance_clock(1) or 0
        assert call("osvi_close", "--status", "active").err == ""

    @pytest.mark.usefixtures("without_tqdm")
    def test_progress_without_tqdm_is_lines(self, call, osvi_sandbox, advance_clock):
        osvi_sandbox.latency = lambda _chat: advance_clock(11) or 0
        said = call("osvi_close", "--status", "active", stderr=Terminal())
        assert re.search(r"running, \d of 3 done", said.err)
        assert "3/3" not in said.err


class TestSignals:
    @pytest.fixture(autouse=True)
    def handlers_are_restored(self):
        before = [signal.getsignal(number) for number in HANDLED]
        yield
        assert [signal.getsignal(number) for number in HANDLED] == before

    @pytest.mark.parametrize("number", HANDLED)
    def test_first_signal_stores_closes_in_progress_and_exits_with_130(
        self, call, chats, osvi_sandbox, settings, number
    ):
        settings.OSVI["default"]["CONCURRENCY"] = 2
        osvi_sandbox.latency = signal_at_fifth_close(number)
        chats(50)
        said = call("osvi_close", "--status", "active")
        job = CloseJob.objects.get()
        assert (said.code, said.error) == (
            130,
            f"Stopped. Close job {job.pk} waits, and osvi_worker continues it.",
        )
        assert said.err.startswith("Stopping after the requests in progress.")
        assert 0 < job.succeeded == count_closed_at(osvi_sandbox) < 50
        assert not ChatSession.objects.filter(status__in=("closing", "unconfirmed")).exists()

    def test_ctrl_c_after_a_signal_ends_process_at_once(
        self, call, chats, osvi_sandbox, settings, monkeypatch
    ):
        settings.OSVI["default"]["CONCURRENCY"] = 1
        chats(30)
        seen, err, before = [], StringIO(), signal.getsignal(signal.SIGINT)
        monkeypatch.setattr(signal, "raise_signal", lambda number: seen.append(f"killed: {number}"))

        def stop_thrice(_chat):
            if not seen:
                os.kill(os.getpid(), signal.SIGTERM)
                seen.append(wait_for_output(err, "Stopping"))
                os.kill(os.getpid(), signal.SIGTERM)  # a supervisor may send it twice
                time.sleep(0.2)
                os.kill(os.getpid(), signal.SIGINT)
                wait_until(lambda: len(seen) == 2)
                seen.append(signal.getsignal(signal.SIGINT))
            return 0

        osvi_sandbox.latency = stop_thrice
        assert call("osvi_close", "--status", "active", stderr=err).code == 130
        assert seen == [True, f"killed: {signal.SIGINT}", signal.SIG_DFL]
        assert err.getvalue() == (
            "Stopping after the requests in progress. Press Ctrl-C again to quit now.\n"
        )
        assert signal.getsignal(signal.SIGINT) == before

    def test_signal_after_last_close_changes_nothing(self, call, chats):
        chats(1)
        seen, err = [], StringIO()

        def stop():
            os.kill(os.getpid(), signal.SIGINT)
            seen.append(wait_for_output(err, "Stopping"))

        with call_after_queries(lambda _sql, params: "completed" in params, stop):
            assert call("osvi_close", "--status", "active", stderr=err).code == 0
        assert seen == [True]


def count_closed_at(osvi_sandbox):
    """Return how many sessions are closed at OSVI."""
    return sum(chat.status == "closed" for chat in osvi_sandbox.sessions.values())
