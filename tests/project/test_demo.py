"""``python -m example_project.demo`` as its user sees it: started, looked at, stopped."""

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
PATIENCE = 60  # seconds for the demo to stop
LAST_LINE = "Ctrl-C stops everything."
FAREWELL = "\nStopped. The site, the sandbox and the database are gone.\n"
# The demo must not use proxies or the settings of the shell.
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
        """Read what the demo prints until a line holds this text."""
        for line in self.process.stdout:
            self.printed += line
            if last in line:
                return
        pytest.fail(f"The demo ended early:\n{self.printed}{self.process.stderr.read()}")

    def printed_value(self, what):
        """Return the value that the demo printed after a label."""
        (value,) = re.findall(rf"^  {what} +(\S+)", self.printed, re.MULTILINE)
        return value

    def stop(self, signal_number):
        """Stop the demo; return its exit code and its last output."""
        self.process.send_signal(signal_number)
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err

    def is_cleaned_up(self):
        """Return whether the database, the sandbox and the site are gone."""
        folder = ROOT / self.printed_value("Database").removesuffix("/db.sqlite3")
        addresses = (self.printed_value("Sandbox"), self.printed_value("Site"))
        return not folder.exists() and not any(is_served(address) for address in addresses)


def is_served(url):
    """Return whether something listens at an address."""
    address = urlsplit(url)
    with closing(socket.socket()) as probe:
        return probe.connect_ex((address.hostname, address.port)) == 0


def with_change(change):
    """Return the command that runs a demo after a statement about its module ``demo``."""
    return "-c", f"import sys; from example_project import demo; {change}; sys.exit(demo.main())"


@contextmanager
def running(monkeypatch, *command):
    """Run a demo, with misleading variables in its environment."""
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
                process.terminate()  # it stops its site


@contextmanager
def logged_in(demo, label):
    """Yield a browser and the admin's list of sessions, as a user that the demo names."""
    with requests.Session() as browser:
        browser.trust_env = False
        page = browser.get(
            f"{demo.printed_value('Site')}admin/osvi_django/chatsession/", timeout=30
        )
        form = {
            "csrfmiddlewaretoken": browser.cookies["csrftoken"],
            "username": demo.printed_value(label).rstrip(","),
            "password": demo.printed_value("Password"),
        }
        yield browser, browser.post(page.url, data=form, timeout=30)


def statuses_for(demo, label):
    """Return the HTTP statuses that a user gets for what needs more than support staff may do."""
    with logged_in(demo, label) as (browser, page):
        key = re.search(r"/chatsession/(\d+)/change/", page.text)[1]
        return {
            path: browser.get(f"{demo.printed_value('Site')}admin/osvi_django/{path}").status_code
            for path in (
                "chatsession/export/",
                f"chatsession/{key}/erase/",
                f"chatsession/{key}/keep/",
                "erasure/",
                "dataexport/",
            )
        }


def test_demo_closes_three_chats_serves_admin_and_stops_on_ctrl_c(monkeypatch):
    with running(monkeypatch) as demo:
        demo.read_until(LAST_LINE)
        with logged_in(demo, "User") as (_browser, page):
            pass
        assert set(statuses_for(demo, "User").values()) == {403}
        assert set(statuses_for(demo, "Manager").values()) == {200}
        assert demo.stop(signal.SIGINT) == (0, FAREWELL, "")
    assert re.findall(r"^\d\. (\w+):", demo.printed, re.MULTILINE) == ["Python", "REST", "Admin"]
    assert len(re.findall(r"Summary:\n     [A-Z].+", demo.printed)) == 3
    assert page.url == demo.printed_value("Admin")
    assert page.status_code == 200
    assert page.text.count('class="osvi-status osvi-status-closed"') == 3
    assert demo.is_cleaned_up()


@pytest.mark.parametrize("is_taken", [False, True])
def test_two_demos_use_different_ports_and_no_taken_port(monkeypatch, is_taken):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        wanted = holder.getsockname()[1]
        if not is_taken:
            holder.close()
        command = with_change(f"demo.PREFERRED_PORT = {wanted}")
        with running(monkeypatch, *command) as one, running(monkeypatch, *command) as other:
            for demo in (one, other):
                demo.read_until(LAST_LINE)
            assert [demo.stop(signal.SIGTERM) for demo in (one, other)] == [(0, FAREWELL, "")] * 2
    ports = {urlsplit(demo.printed_value("Site")).port for demo in (one, other)}
    assert len(ports) == 2
    assert (wanted in ports) is not is_taken
    for what in ("Sandbox", "Database"):
        assert one.printed_value(what) != other.printed_value(what)
    assert one.is_cleaned_up()
    assert other.is_cleaned_up()


def test_ctrl_c_in_finalizer_stops_demo_without_error(monkeypatch, tmp_path):
    finalizer = (
        "import os, signal, weakref; thing = type('Thing', (), {})();"
        " weakref.finalize(thing, lambda: os.kill(os.getpid(), signal.SIGINT));"
        " invite = demo.invite; demo.invite = lambda site: (globals().pop('thing'), invite(site))"
    )
    command = with_change(f"demo.RUNS = demo.Path({str(tmp_path)!r}); {finalizer}")
    with running(monkeypatch, *command) as demo:
        out, err = demo.process.communicate(timeout=PATIENCE)
    assert (demo.process.returncode, err) == (0, "")
    assert out.endswith(FAREWELL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line", ["The osvi_django demo", "Three chats are closed"])
def test_demo_stopped_before_it_is_ready_cleans_up(monkeypatch, tmp_path, line):
    command = with_change(f"demo.RUNS = demo.Path({str(tmp_path)!r})")
    with running(monkeypatch, *command) as demo:
        demo.read_until(line)
        code, out, err = demo.stop(signal.SIGINT)
    assert (code, err) == (0, "")
    assert out.endswith(FAREWELL)
    assert list(tmp_path.iterdir()) == []


def run_with(monkeypatch, change):
    """Run a changed demo until it ends; return its exit code and its errors."""
    with running(monkeypatch, *with_change(change)) as demo:
        out, err = demo.process.communicate(timeout=PATIENCE)
    (database,) = re.findall(r"Database +(\S+)/db.sqlite3", out) or ["no such folder"]
    assert not (ROOT / database).exists()
    return demo.process.returncode, err


def test_demo_whose_site_does_not_start_reports_it(monkeypatch, tmp_path):
    dying = tmp_path / "manage.py"
    dying.write_text("raise SystemExit('There is no chat today.')")
    code, err = run_with(monkeypatch, f"demo.MANAGE = {str(dying)!r}")
    assert code == 1
    assert err == (
        "\nThe demo failed. The site did not start. Its last output:\n"
        + "\n".join(["There is no chat today."] * 3)
        + "\n"
    )


def test_demo_whose_site_exits_reports_it(monkeypatch):
    code, err = run_with(monkeypatch, "demo.invite = lambda site: site.process.kill()")
    assert code == 1
    assert "The demo failed. The site stopped unexpectedly." in err
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
def test_demo_whose_close_fails_reports_it(monkeypatch, change, via):
    code, err = run_with(monkeypatch, change)
    assert code == 1
    assert f"The demo failed. The chat was not closed via {via}" in err


def test_free_port_returns_preferred_port_if_it_is_free():
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        assert free_port(port) != port
    assert free_port(port) == port


def test_demo_asked_for_help_prints_it_and_starts_nothing(monkeypatch):
    with running(monkeypatch, "-m", "example_project.demo", "--help") as demo:
        out, err = demo.process.communicate(timeout=60)
        assert (demo.process.returncode, err) == (0, "")
    assert "usage: python -m example_project.demo" in out
    assert "closes three chats" in out
    assert "Password" not in out
