"""Test ``manage.py osvi_sandbox``."""

import re
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
import requests
from django.core.management import CommandError, call_command

from osvi_django.management.commands import osvi_sandbox

MANAGE = Path(__file__).parent.parent.parent / "manage.py"


def run(interrupt, **options):
    """Run the command in this process; ``interrupt`` is called where it would wait for Ctrl-C."""
    out = StringIO()

    def sleep(seconds):
        interrupt(out.getvalue())
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(osvi_sandbox.time, "sleep", sleep)
        call_command("osvi_sandbox", port=0, stdout=out, **options)
    return out.getvalue()


def address(output):
    return re.search(r"http://127\.0\.0\.1:\d+", output)[0]


def test_command_prints_address_and_sessions_and_serves_until_interrupt():
    answers = []

    def close_the_first(output):
        session_id, agent_uuid = re.search(r"^(\S{36})  (\S+)", output, re.MULTILINE).groups()
        answers.append(
            requests.post(
                f"{address(output)}/chat_sessions/{session_id}/close_session",
                json={"agent_uuid": agent_uuid},
                headers={"API-Token": "another-token-16"},
                timeout=5,
            )
        )

    output = run(close_the_first, token="another-token-16", sessions=3, latency=0.2)

    assert "another-token-16" in output
    session = re.compile(r"^\S{36}  agent_\S+  \+1555\d+  (?:active|dormant)$", re.MULTILINE)
    assert len(session.findall(output)) == 3
    assert "Ctrl-C" in output
    assert answers[0].json()["data"]["summary"]
    assert answers[0].elapsed.total_seconds() >= 0.2
    with pytest.raises(requests.ConnectionError, match="refused"):
        requests.get(address(output), timeout=5)


@pytest.mark.parametrize(("sessions", "lines"), [({}, 24), ({"sessions": 0}, 0)])
def test_command_with_sessions_option_prints_that_many_sessions(sessions, lines):
    output = run(lambda output: None, **sessions)
    assert len(re.findall(r"^\S{36}  ", output, re.MULTILINE)) == lines
    assert "sandbox-token-16" in output


@pytest.mark.parametrize(
    ("option", "limit"),
    [
        ({"sessions": -3}, "--sessions must be a number from 0 to 1000000"),
        ({"sessions": 10**9}, "--sessions must be a number from 0 to 1000000"),
        ({"latency": -1.0}, "--latency must be a number from 0 to 86400"),
        ({"latency": float("inf")}, "--latency must be a number from 0 to 86400"),
        ({"latency": float("nan")}, "--latency must be a number from 0 to 86400"),
    ],
)
def test_command_with_number_that_cannot_be_used_names_the_limits(option, limit):
    out = StringIO()
    with pytest.raises(CommandError, match=f"^{limit}[.]$"):
        call_command("osvi_sandbox", port=0, stdout=out, **option)
    assert out.getvalue() == ""


def test_command_with_closed_output_stops_server():
    class Closed(StringIO):
        def write(self, text):
            seen.append(text)
            raise BrokenPipeError

    seen = []
    with pytest.raises(BrokenPipeError):
        call_command("osvi_sandbox", port=0, stdout=Closed())
    with pytest.raises(requests.ConnectionError, match="refused"):
        requests.get(address(seen[0]), timeout=5)


def test_command_with_port_in_use_suggests_port_zero(osvi):
    with pytest.raises(CommandError, match=rf"Port {osvi.port} cannot be used .*--port 0"):
        call_command("osvi_sandbox", port=osvi.port)


@pytest.mark.parametrize("port", [65536, -1])
def test_command_with_invalid_port_suggests_port_zero(port):
    with pytest.raises(CommandError, match=rf"Port {port} cannot be used .*--port 0"):
        call_command("osvi_sandbox", port=port)


@pytest.mark.parametrize("host", ["0.0.0.0", "", "192.0.2.1", "example.com", "::"])
def test_command_with_public_host_raises_command_error(host):
    with pytest.raises(CommandError, match=r"only this machine.*--host 127\.0\.0\.1"):
        call_command("osvi_sandbox", host=host, port=0)


def test_command_with_host_localhost_serves():
    assert "http://localhost:" in run(lambda output: None, host="localhost")


def test_command_in_project_with_failing_checks_serves(monkeypatch, capsys, settings, db):
    def sleep(seconds):
        raise KeyboardInterrupt

    settings.OSVI = {}
    with pytest.raises(CommandError, match="System check identified some issues"):
        call_command("check")
    monkeypatch.setattr(osvi_sandbox.time, "sleep", sleep)
    osvi_sandbox.Command().run_from_argv(["manage.py", "osvi_sandbox", "--port", "0"])
    assert address(capsys.readouterr().out)


def test_command_interrupted_while_it_prints_stops_quietly():
    class Interrupting(StringIO):
        """Send Ctrl-C with the last line, before the command waits for it."""

        def write(self, text):
            super().write(text)
            if "Ctrl-C" in text:
                raise KeyboardInterrupt

    out = Interrupting()
    call_command("osvi_sandbox", port=0, stdout=out)
    with pytest.raises(requests.ConnectionError):
        requests.get(address(out.getvalue()), timeout=5)


def test_command_interrupted_with_ctrl_c_exits_with_zero(monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    command = [sys.executable, str(MANAGE), "osvi_sandbox", "--port", "0", "--sessions", "1"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        try:
            base_url = address(run.stdout.readline())
            assert any("Ctrl-C" in line for line in run.stdout)
            assert requests.get(base_url, timeout=5).status_code == 401
            run.send_signal(signal.SIGINT)
            assert run.wait(timeout=60) == 0
            assert run.stderr.read() == ""
        finally:
            run.kill()
