"""Output that a terminal cannot show, or must not obey, is escaped and stops no command."""

from __future__ import annotations

import logging
import os
import sys
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from osvi_django.management import output
from osvi_django.models import ChatSession
from osvi_django.services.jobs import create_close_job
from osvi_django.testing import Status
from osvi_django.testing.factories import ChatSessionFactory
from tests.commands.conftest import Terminal

pytestmark = pytest.mark.django_db(transaction=True)

# Clears the screen, sets a title, does so with one byte, reads backwards, adds a line of its own.
HOSTILE = "\x1b[2J\x1b]0;title\x07\x9b31m\u202edesrever\u2066\r\nosvi: all is well\u2028\x08\x7f"
# As a host's colleague writes it: neither ASCII nor Latin-1 has all of it.
FOREIGN = "Zażółć gęślą jaźń “ü” 日本 🙂"
NARROW = {
    "ascii": {"PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C", "PYTHONUTF8": "0"},
    "latin-1": {"PYTHONIOENCODING": "latin-1:strict", "LC_ALL": "C", "PYTHONUTF8": "0"},
    "C": {"PYTHONIOENCODING": "", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


def is_harmless(text):
    """Return whether a text has no control characters but line ends."""
    return all(line.isprintable() for line in text.split("\n"))


@pytest.fixture
def run_narrow(manage):
    """Run a command with an encoding of few characters; return its exit code and output."""

    def _run(*arguments, terminal="C"):
        with manage(*arguments, encoding="latin-1", **NARROW[terminal]) as process:
            out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    return _run


@pytest.fixture
def refused_sessions(chats, osvi_sandbox):
    """Make three sessions, of which OSVI refuses two in words that few terminals can show."""
    made = [*chats(2, customer_id=f"+49 {FOREIGN}"), *chats(1)]
    for chat in made[:2]:
        osvi_sandbox.script(chat.session_id, *[Status(403, errors=[FOREIGN])] * 3)
    return made


@pytest.mark.parametrize("terminal", NARROW)
def test_osvi_close_at_narrow_terminal_closes_all_it_can(run_narrow, refused_sessions, terminal):
    code, out, err = run_narrow("osvi_close", "--status", "active", terminal=terminal)
    assert code == 1, err
    assert "1 closed, 2 failed" in out
    assert "Za\\u017c" in out
    assert "Not closed: 2 of 3." in err
    assert ChatSession.objects.filter(status="closed").count() == 1


def test_osvi_close_dry_run_at_narrow_terminal_lists_sessions(run_narrow, refused_sessions):
    code, out, _err = run_narrow("osvi_close", "--status", "active", "--dry-run")
    assert (code, out.count("Za\\u017c")) == (0, 2)


def test_osvi_recover_at_narrow_terminal_checks_all_sessions(run_narrow, chats, osvi_sandbox):
    made = chats(3)
    for chat in made:
        ChatSession.objects.filter(pk=chat.pk).update(status="unconfirmed", customer_id="")
        osvi_sandbox.script(chat.session_id, Status(403, errors=[FOREIGN]))
    _code, out, err = run_narrow("osvi_recover")
    assert "Traceback" not in err
    assert all(chat.session_id in out for chat in made)


def test_osvi_sync_at_narrow_terminal_looks_up_all_customers(run_narrow, chats, osvi_sandbox):
    chats(1, customer_id="+1")
    osvi_sandbox.script(None, Status(403, errors=[FOREIGN]))
    code, out, err = run_narrow("osvi_sync", "--customer", "+2", "+1")
    assert code == 1
    assert "Traceback" not in err
    assert "1 open" in out


def test_osvi_worker_at_narrow_terminal_runs_job(run_narrow, chats, osvi_sandbox):
    (chat,) = chats(1)
    create_close_job([chat], start=False)
    code, out, err = run_narrow("osvi_worker")
    assert (code, err) == (0, "")
    assert "1 closed" in out


COMMANDS = [
    ("osvi_close", "--status", "active"),
    ("osvi_recover",),
    ("osvi_sync", "--open"),
    ("osvi_worker",),
    ("osvi_summarize",),
    ("osvi_purge",),
]


@pytest.mark.parametrize(
    ("command", "stream"),
    [
        *[(command, "stdout") for command in COMMANDS],
        (("osvi_close", "--status", "active"), "stderr"),
    ],
)
def test_command_with_closed_pipe_ends_normally(manage, chats, command, stream):
    chats(2)
    reading, writing = os.pipe()
    os.close(reading)
    with manage(*command, **{stream: writing}) as process:
        os.close(writing)
        said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "rror" not in "".join(filter(None, said))


def test_command_with_closed_streams_ends_normally(manage, chats):
    (chat,) = chats(1)
    with manage("osvi_close", chat.session_id, closed=True) as process:
        process.wait(timeout=60)
    assert process.returncode == 0
    chat.refresh_from_db()
    assert chat.status == "closed"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_command_in_process_without_streams_closes_its_session(chats, monkeypatch, stream):
    """As under pythonw, or where the streams were closed before Python started."""
    (chat,) = chats(1)
    monkeypatch.setattr(sys, stream, None)
    call_command("osvi_close", chat.session_id)
    chat.refresh_from_db()
    assert chat.status == "closed"


def test_command_whose_reader_has_gone_leaves_nothing_to_write_at_exit(chats, monkeypatch):
    """Python writes what it has buffered when it exits, and would report an error then."""
    chats(2)
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf-8") as gone:  # noqa: PTH123 - it has no path
        monkeypatch.setattr(sys, "stdout", gone)
        monkeypatch.setattr(sys, "__stdout__", gone)
        call_command("osvi_close", "--status", "active")
        assert os.path.samestat(os.fstat(writing), os.stat(os.devnull))  # noqa: PTH116
        gone.write("what is still buffered")
    assert not ChatSession.objects.exclude(status="closed").exists()


class Full(StringIO):
    """A file on a full disk."""

    def write(self, text):
        raise OSError(28, "No space left on device")


def test_osvi_recover_with_full_disk_checks_all_sessions(chats, osvi_sandbox, call):
    made = chats(3)
    ChatSession.objects.update(status="unconfirmed")
    call_command("osvi_recover", stdout=Full(), stderr=Full())
    assert not ChatSession.objects.filter(status="unconfirmed").exists()
    assert len(made) == 3


def test_progress_bar_at_narrow_terminal_is_drawn(chats, call):
    class Narrow(Terminal):
        encoding = "ascii"

        def write(self, text):
            text.encode("ascii")
            return super().write(text)

    said = call("osvi_close", *[chat.session_id for chat in chats(2)], stderr=Narrow())
    assert said.code == 0
    assert "2/2" in said.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("osvi_close", "--status", "active"),
        ("osvi_close", "--status", "active", "--dry-run"),
        ("osvi_close", HOSTILE),
        ("osvi_close", "--agent", HOSTILE),
        ("osvi_recover",),
        ("osvi_sync", "--open"),
        ("osvi_sync", "--customer", HOSTILE),
        ("osvi_sync", "--customer", "+1", "--account", HOSTILE),
        ("osvi_summarize",),
        ("osvi_worker",),
    ],
    ids=lambda arguments: " ".join(arguments).encode("ascii", "ignore").decode()[:20],
)
def test_command_writes_no_control_characters(call, osvi_sandbox, caplog, settings, arguments):
    caplog.set_level(logging.DEBUG)
    agent = f"agent_{HOSTILE}"
    for number, status in enumerate(["active", "active", "unconfirmed", "closed"]):
        session = ChatSessionFactory(
            session_id=f"{number}{HOSTILE}",
            customer_id=HOSTILE,
            agent__uuid=f"{agent}{number}",
            status=status,
            mode=HOSTILE[:8],
        )
        osvi_sandbox.script(session.session_id, *[Status(422, errors=[HOSTILE])] * 3)
    said = call(*arguments)
    for text in (said.out, said.err, said.error, *caplog.messages):
        assert is_harmless(text), ascii(text)


def test_osvi_sandbox_writes_no_control_characters(manage):
    with manage("osvi_sandbox", "--port", "0", "--sessions", "0", "--token", "a\x1b[2J") as process:
        lines = [process.stdout.readline() for _number in range(3)]
    assert "a\\x1b[2J\n" in lines[1]
    assert all(is_harmless(line) for line in lines)


def test_spool_log_has_no_control_characters(settings, tmp_path, caplog, mirrored, osvi_sandbox):
    folder = tmp_path / "spool\x1b[2J"
    folder.mkdir(mode=0o700)
    (folder / "1-1-\x1b[31m.json").write_text("{}")
    settings.OSVI["default"]["SPOOL_DIR"] = folder
    out = StringIO()
    with pytest.raises(CommandError) as caught:
        call_command("osvi_recover", stdout=out)
    assert "is kept there" in caplog.text
    said = [*caplog.messages, *out.getvalue().splitlines(), str(caught.value)]
    assert all(is_harmless(each) for each in said)


def test_stream_with_printable_text_writes_it_unchanged():
    stream = StringIO()
    output.Stream(stream).write(FOREIGN)
    assert stream.getvalue() == FOREIGN


def test_command_with_failed_check_keeps_lines_of_its_message(call, settings):
    settings.OSVI = {"default": {"API_TOKEN": "sandbox-token-16", "LEASE_TIMEOUT": "long"}}
    error = call("osvi_close", "s-1", skip_checks=False).error
    assert "SystemCheckError" in error
    assert "LEASE_TIMEOUT" in error
    assert error.count("\n") > 1
