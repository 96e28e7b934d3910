"""``python -m example_project.demo`` as its user meets it: started, looked at, stopped."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from example_project.demo import free_port

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60  # seconds for the demo to end
LAST_LINE = "Ctrl-C stops everything."
FAREWELL = "\nStopped. The site, the sandbox and the database are gone.\n"
# A demo that asked a proxy, or believed this shell's settings, would not come far.
MISLEADING = {
    "http_proxy": "http://127.0.0.1:9",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "all_proxy": "http://127.0.0.1:9",
    "DATABASE_URL": "postgres://nobody@127.0.0.1:9/nothing",
    "DJANGO_DEBUG": "0",
    "DJANGO_SETTINGS_MODULE": "no_such_settings",
    "OSVI_BASE_URL": "http://127.0.0.1:9",
    "OSVI_API_TOKEN": "another-token-16",
}


class Demo:
    """A running demo, and what it has printed so far."""

    def __init__(self, process):
        self.process = process
        self.printed = ""

    def read_until(self, last):
        for line in self.process.stdout:
            self.printed += line
            if last in line:
                return
        pytest.fail(f"The demo ended early:\n{self.printed}{self.process.stderr.read()}")

    def named(self, what):
        (value,) = re.findall(rf"^  {what} +(\S+)", self.printed, re.MULTILINE)
        return value

    def end(self, signal_number):
        """Stop it; the exit code, and what it said in the end."""
        self.process.send_signal(signal_number)
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err

    def leaves_nothing_behind(self):
        folder = ROOT / self.named("Database").removesuffix("/db.sqlite3")
        addresses = (self.named("Sandbox"), self.named("Site"))
        return not folder.exists() and not any(is_served(address) for address in addresses)


def is_served(url):
    address = urlsplit(url)
    with closing(socket.socket()) as probe:
        return probe.connect_ex((address.hostname, address.port)) == 0


def changed(change):
    """The command that runs a demo after ``change``, a statement about its module ``demo``."""
    return "-c", f"import sys; from example_project import demo; {change}; sys.exit(demo.main())"


@contextmanager
def running(monkeypatch, *command):
    for name, value in MISLEADING.items():
        monkeypatch.setenv(name, value)
    command = command or ("-m", "example_project.demo")
    with subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        try:
            yield Demo(process)
        finally:
            if process.poll() is None:
                process.terminate()  # it stops its site by itself


def log_in(site, password):
    """Fetch the admin's list as the user that the demo names."""
    with requests.Session() as browser:
        browser.trust_env = False
        page = browser.get(f"{site}admin/osvi_django/chatsession/", timeout=30)
        form = {
            "csrfmiddlewaretoken": browser.cookies["csrftoken"],
            "username": "staff",
            "password": password,
        }
        return browser.post(page.url, data=form, timeout=30)


def test_it_closes_three_chats_serves_the_admin_and_stops_on_ctrl_c(monkeypatch):
    with running(monkeypatch) as demo:
        demo.read_until(LAST_LINE)
        page = log_in(demo.named("Site"), demo.named("Password"))
        assert demo.end(signal.SIGINT) == (0, FAREWELL, "")
    assert re.findall(r"^\d\. (\w+):", demo.printed, re.MULTILINE) == ["Python", "REST", "Admin"]
    assert len(re.findall(r"Summary:\n     [A-Z].+", demo.printed)) == 3
    assert page.url == demo.named("Admin")
    assert page.status_code == 200
    assert page.text.count('class="osvi-status osvi-status-closed"') == 3
    assert demo.leaves_nothing_behind()


@pytest.mark.parametrize("is_taken", [False, True])
def test_two_at_once_do_not_meet_and_leave_a_taken_port_alone(monkeypatch, is_taken):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        wanted = holder.getsockname()[1]
        if not is_taken:
            holder.close()
        command = changed(f"demo.PREFERRED_PORT = {wanted}")
        with running(monkeypatch, *command) as one, running(monkeypatch, *command) as other:
            for demo in (one, other):
                demo.read_until(LAST_LINE)
            assert [demo.end(signal.SIGTERM) for demo in (one, other)] == [(0, FAREWELL, "")] * 2
    ports = {urlsplit(demo.named("Site")).port for demo in (one, other)}
    assert len(ports) == 2
    assert (wanted in ports) is not is_taken
    for what in ("Sandbox", "Database"):
        assert one.named(what) != other.named(what)
    assert one.leaves_nothing_behind()
    assert other.leaves_nothing_behind()


def test_one_that_comes_in_a_finalizer_is_heard_and_not_complained_of(monkeypatch, tmp_path):
    finalizer = (
        "import os, signal, weakref; thing = type('Thing', (), {})();"
        " weakref.finalize(thing, lambda: os.kill(os.getpid(), signal.SIGINT));"
        " invite = demo.invite; demo.invite = lambda site: (globals().pop('thing'), invite(site))"
    )
    command = changed(f"demo.RUNS = demo.Path({str(tmp_path)!r}); {finalizer}")
    with running(monkeypatch, *command) as demo:
        out, err = demo.process.communicate(timeout=PATIENCE)
    assert (demo.process.returncode, err) == (0, "")
    assert out.endswith(FAREWELL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line", ["The osvi_django demo", "Three chats are closed"])
def test_it_can_be_stopped_before_it_is_ready(monkeypatch, tmp_path, line):
    command = changed(f"demo.RUNS = demo.Path({str(tmp_path)!r})")
    with running(monkeypatch, *command) as demo:
        demo.read_until(line)
        code, out, err = demo.end(signal.SIGINT)
    assert (code, err) == (0, "")
    assert out.endswith(FAREWELL)
    assert list(tmp_path.iterdir()) == []


def run_with(monkeypatch, change):
    """Run a demo with something changed in it until it ends: its exit code and its last words."""
    with running(monkeypatch, *changed(change)) as demo:
        out, err = demo.process.communicate(timeout=PATIENCE)
    (database,) = re.findall(r"Database +(\S+)/db.sqlite3", out) or ["no such folder"]
    assert not (ROOT / database).exists()
    return demo.process.returncode, err


def test_a_site_that_does_not_start_is_reported(monkeypatch, tmp_path):
    dying = tmp_path / "manage.py"
    dying.write_text("raise SystemExit('There is no chat today.')")
    code, err = run_with(monkeypatch, f"demo.MANAGE = {str(dying)!r}")
    assert code == 1
    assert err == (
        "\nThe demo failed. The site did not start. It said:\n"
        + "\n".join(["There is no chat today."] * 3)
        + "\n"
    )


def test_a_site_that_ends_by_itself_is_reported(monkeypatch):
    code, err = run_with(monkeypatch, "demo.invite = lambda site: site.process.kill()")
    assert code == 1
    assert "The demo failed. The site ended by itself." in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("change", "via"),
    [
        ("demo.LATENCY = lambda chat: 1 / 0", "Python"),
        ("demo.PERMISSIONS = ('view_chatsession',)", "REST"),
        (
            "demo.PERMISSIONS = ('view_chatsession',); demo.ENTRY_POINTS = demo.ENTRY_POINTS[::-1]",
            "Admin",
        ),
    ],
)
def test_a_close_that_fails_is_reported(monkeypatch, change, via):
    code, err = run_with(monkeypatch, change)
    assert code == 1
    assert f"The demo failed. The chat was not closed via {via}" in err


def test_the_preferred_port_is_taken_where_it_is_free():
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        assert free_port(port) != port
    assert free_port(port) == port
