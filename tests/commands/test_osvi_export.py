"""``manage.py osvi_export``: write chat sessions to a file."""

from __future__ import annotations

import io
import os
import signal
import stat
import sys
import threading
from itertools import chain

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connections

from osvi_django.models import ChatSession, DataExport
from osvi_django.testing.factories import (
    ChatAgentFactory,
    ChatSessionFactory,
    ClosedSessionFactory,
)
from tests.commands.conftest import Terminal, run_command
from tests.helpers.database import raise_on_queries
from tests.helpers.exports import READERS, read_jsonl
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.django_db


def export(*arguments, file_format="jsonl", **options):
    return run_command("osvi_export", "--format", file_format, *arguments, **options)


def exported_ids(*arguments):
    out, err, code = export(*arguments)
    assert code == 0, err
    return [row["session_id"] for row in read_jsonl(out.encode())]


class TestOutput:
    @pytest.mark.parametrize("file_format", READERS)
    def test_file_has_sessions_and_only_its_owner_can_read_it(self, tmp_path, file_format):
        session = ClosedSessionFactory()
        path = tmp_path / f"chats.{file_format}"
        found = export("--output", str(path), file_format=file_format)
        assert found == ("", "Exported 1 chat.\n", 0)
        (row,) = READERS[file_format](path.read_bytes())
        assert (row["session_id"], row["summary"]) == (session.session_id, session.summary.text)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert list(tmp_path.iterdir()) == [path]
        assert DataExport.objects.get().via == "command"

    def test_file_that_is_there_is_replaced_only_by_force(self, tmp_path):
        path = tmp_path / "chats.jsonl"
        path.write_text("mine")
        out, err, code = export("--output", str(path))
        assert (out, code, f"“{path}” is there already. Give --force" in err) == ("", 2, True)
        assert path.read_text() == "mine"
        assert export("--output", str(path), "--force")[2] == 0
        assert path.read_text() == ""

    def test_folder_as_output_exits_with_2(self, tmp_path):
        out, err, code = export("--output", str(tmp_path), "--force")
        assert (out, code, f"“{tmp_path}” is not a file" in err) == ("", 2, True)

    def test_file_that_cannot_be_written_exits_with_1(self, tmp_path):
        path = tmp_path / "missing" / "chats.csv"
        out, err, code = export("--output", str(path))
        assert (out, code) == ("", 1)
        assert err == f"--output: “{path}” cannot be written: No such file or directory."
        assert DataExport.objects.get().outcome == "broken_off"

    def test_failed_export_leaves_old_file_and_no_other(self, tmp_path):
        ChatSession.objects.bulk_create(
            ChatSession(session_id=f"s{number}", agent=agent)
            for agent in [ChatAgentFactory()]
            for number in range(2_000)
        )
        path = tmp_path / "chats.jsonl"
        path.write_text("old")
        pages = chain([False], iter(lambda: True, None))

        def is_second_page(sql, _params):
            return "LIMIT 2000" in sql and next(pages)

        with raise_on_queries(is_second_page, OperationalError("gone")):
            out, err, code = export("--output", str(path), "--force")
        assert (out, code, err) == ("", 1, "The database is unavailable: OperationalError")
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]
        record = DataExport.objects.get()
        assert (record.outcome, record.rows) == ("broken_off", 2_000)

    @pytest.mark.parametrize("file_format", READERS)
    def test_standard_output_gets_bytes_as_they_are(self, file_format):
        ClosedSessionFactory(summary__text="Grüße")
        out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        call_command("osvi_export", "--format", file_format, stdout=out, stderr=io.StringIO())
        (row,) = READERS[file_format](out.buffer.getvalue())
        assert row["summary"] == "Grüße"

    def test_excel_file_at_terminal_exits_with_2(self):
        with pytest.raises(CommandError, match="Give --output") as caught:
            call_command("osvi_export", "--format", "xlsx", stdout=Terminal())
        assert caught.value.returncode == 2


class TestFilters:
    def test_no_filter_exports_open_and_closed_sessions(self):
        made = [ChatSessionFactory(), ClosedSessionFactory()]
        assert exported_ids() == [each.session_id for each in made]

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--status", "closed", "dormant", "--customer-id", "+4917"],
            ["--agent-uuid", "agent_x"],
            ["--customer-id", "+4917"],
            ["--mode", "support"],
            ["--close-reason", "Solved"],
            ["--started-before", "2021-01-01"],
            ["--idle-since", "2021-01-01T00:00+01:00"],
            ["--search", "+49 17"],
            ["--no-help-requested", "--mode", "support"],
            ["--no-open", "--account", "other"],
            ["--summary-status", "lost"],
            ["--closed-by", "jo"],
            ["--closed-after", "2020-01-01", "--closed-before", "2020-01-03"],
        ],
    )
    def test_filter_exports_what_matches(self, arguments, django_user_model):
        long_ago = "2020-01-01T00:00:00Z"
        wanted = ClosedSessionFactory(
            agent=ChatAgentFactory(uuid="agent_x", account="other"),
            customer_id="+4917",
            summary_status="lost",
            closed_by=django_user_model.objects.create_user("jo"),
            closed_at="2020-01-02T00:00:00Z",
            mode="support",
            close_reason="Solved",
            started_at=long_ago,
            last_activity_at=long_ago,
        )
        ChatSessionFactory()
        ClosedSessionFactory()
        assert exported_ids(*arguments) == [wanted.session_id]

    def test_help_requested_exports_who_waits(self):
        wanted = ChatSessionFactory(help_requested=True)
        ChatSessionFactory()
        assert exported_ids("--help-requested") == [wanted.session_id]

    @pytest.mark.parametrize(
        ("arguments", "problem"),
        [
            (["--started-before", "yesterday"], "--started-before needs a time"),
            (["--idle-since", "0001-01-01"], "--idle-since: This is too far"),
            (["--search", "!!!"], "--search: "),
            # How Python decodes a byte that is not UTF-8.
            (["--close-reason", "\udcff"], "--close-reason: This text contains"),
            (["--customer-id", "\udcff"], "--customer-id: This text contains"),
            (["--closed-by", "\udcff"], "--closed-by: This"),
            (["--customer-id", ""], "--customer-id: This is not a valid id"),
            (["--agent-uuid", "nonesuch"], "--agent-uuid: this site has no agent “nonesuch”"),
            (["--account", "nonesuch"], '--account: This site has no account "nonesuch"'),
            (["--closed-by", "nonesuch"], "--closed-by: this site has no user"),
            (["--close-job", "99"], "--close-job: this site has no such close job"),
            (["--open", "--status", "closed"], "--open: It contradicts status"),
            (
                ["--started-after", "2026-01-02", "--started-before", "2026-01-01"],
                "not before --started-before",
            ),
        ],
    )
    def test_invalid_filter_exits_with_2(self, arguments, problem):
        _out, err, code = export(*arguments)
        assert (code, problem in err) == (2, True)
        assert not DataExport.objects.exists()


class TestRefusals:
    def test_excel_without_extra_exits_with_1_and_says_what_to_install(self, without_xlsx):
        _out, err, code = export("--output", "chats.xlsx", file_format="xlsx")
        assert (code, "osvi-django[xlsx]" in err) == (1, True)


@pytest.fixture
def many():
    """Make more sessions than a pipe holds."""
    agent = ChatAgentFactory()
    ChatSession.objects.bulk_create(
        ChatSession(session_id=f"s{number}", agent=agent) for number in range(5_000)
    )


@pytest.mark.django_db(transaction=True)
def test_export_to_closed_pipe_exits_with_1_and_is_noted(many, manage):
    with manage("osvi_export", "--format", "csv") as process:
        assert process.stdout.read(1)
        process.stdout.close()
        err = process.stderr.read()
        assert process.wait(60) == 1
    assert err.endswith("The standard output cannot be written to: Broken pipe.\n")
    assert DataExport.objects.get().outcome == "broken_off"


@pytest.mark.django_db(transaction=True)
def test_export_without_standard_output_exits_with_1(manage):
    with manage("osvi_export", "--format", "csv", closed=True) as process:
        assert process.wait(60) == 1
    assert DataExport.objects.get().outcome == "broken_off"


@pytest.mark.django_db(transaction=True)
def test_stopped_export_exits_with_130_and_is_noted(many, manage):
    with manage("osvi_export", "--format", "jsonl") as process:
        # The pipe is full before all is written.
        assert process.stdout.read(1)
        wait_until(lambda: DataExport.objects.filter(outcome="started").exists())
        process.send_signal(signal.SIGTERM)
        _out, err = process.communicate(timeout=60)
    assert (process.returncode, "Stopped." in err) == (130, True)
    assert DataExport.objects.get().outcome == "broken_off"


class _Interrupted(io.StringIO):
    """A stream whose reader presses Ctrl-C."""

    def write(self, _text, /):
        raise KeyboardInterrupt


def test_interrupted_export_exits_with_130():
    ChatSessionFactory()
    with pytest.raises(CommandError, match=r"Stopped\.") as caught:
        call_command("osvi_export", "--format", "csv", stdout=_Interrupted())
    assert caught.value.returncode == 130


def test_export_to_pipe_without_reader_or_to_nothing_exits_with_1(monkeypatch):
    ChatSessionFactory()
    reading, writing = os.pipe()
    os.close(reading)
    with io.TextIOWrapper(os.fdopen(writing, "wb", buffering=0)) as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        with pytest.raises(CommandError, match="Broken pipe"):
            call_command("osvi_export", "--format", "csv")
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(CommandError, match="Bad file descriptor"):
        call_command("osvi_export", "--format", "csv")
    assert {each.outcome for each in DataExport.objects.all()} == {"broken_off"}


@pytest.mark.django_db(transaction=True)
def test_export_in_thread_that_catches_no_signal_is_complete(tmp_path):
    ChatSessionFactory()
    path, found = tmp_path / "chats.jsonl", []

    def work():
        found.append(export("--output", str(path)))
        connections.close_all()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [("", "Exported 1 chat.\n", 0)]
