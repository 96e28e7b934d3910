"""The examples of docs/rest-clients.md and docs/rest.md, run against a site and a sandbox OSVI."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import jsonschema
import pytest
import requests

from osvi_django.exceptions import OSVIError, OSVINotConfigured
from osvi_django.rest.errors import STATUSES
from osvi_django.testing import OSVISandbox
from tests.helpers.processes import free_port
from tests.helpers.waiting import TIMEOUT

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "rest-clients.md").read_text(encoding="utf-8")
SETTINGS = "tests.project.clients_settings"
FILL = """
from django.contrib.auth.models import Permission, User
from osvi_django.models import ChatAgent, ChatSession
agent = ChatAgent.objects.create(uuid="agent_1")
for number in range(11):
    ChatSession.objects.create(session_id=f"s-{number}", agent=agent, customer_id="+15551112222")
names = ["view_chatsession", "close_chatsession", "view_sessionsummary"]
user = User.objects.create_user("crm")
user.user_permissions.set(Permission.objects.filter(codename__in=names))
"""
# More than a page, older than those that the other examples list.
MANY = """
from osvi_django.models import ChatAgent, ChatSession
from django.utils import timezone
agent, long_ago = ChatAgent.objects.get(), timezone.now().replace(year=2001, day=1)
ChatSession.objects.bulk_create(
    ChatSession(session_id=f"old-{number}", agent=agent, status="closed", started_at=long_ago)
    for number in range(250)
)
"""
IDS = [f"s-{number}" for number in range(11)] + [f"old-{number}" for number in range(250)]
# At the same moment, so that a page ends between two of them.
CHANGE_ALL = """
from osvi_django.models import ChatSession
ChatSession.objects.update(close_reason="again")
"""


def blocks(language):
    """Return the code of the page in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def error_classes(kind=OSVIError):
    """Return all errors of the package below this one."""
    own = [each for each in kind.__subclasses__() if each.__module__.startswith("osvi_django")]
    return own + [found for each in own for found in error_classes(each)]


@pytest.mark.parametrize("kind", [*error_classes(), OSVINotConfigured], ids=lambda kind: kind.code)
def test_table_of_errors_has_each_code_with_status_and_retryable(kind):
    retryable = "yes" if kind.retryable else "no"
    row = f"| `{kind.code}` | {STATUSES[kind.code]} | {retryable} | "
    assert PAGE.count(row) == 1


def test_table_of_errors_has_the_codes_of_the_other_page():
    other = (ROOT / "docs" / "rest.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d{3}(?:, \d{3})* \| ([^|]+) \|", other, re.MULTILINE)
    codes = {code for row in rows for code in re.findall(r"`(\w+)`", row)}
    table = PAGE.partition("## Errors")[2].partition("\n## ")[0]
    assert len(codes) > 25
    assert {code for code in codes if f"`{code}`" not in table} == set()


def test_tool_has_a_valid_schema():
    (tool,) = map(json.loads, blocks("json"))
    jsonschema.Draft202012Validator.check_schema(tool["input_schema"])
    jsonschema.validate({"session_id": "s-1", "note": "Solved"}, tool["input_schema"])


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Create a site with eleven chats; yield the environment of its programs."""
    folder = tmp_path_factory.mktemp("site")
    with OSVISandbox() as osvi:
        for number in range(11):
            osvi.add_session(f"s-{number}", agent_uuid="agent_1", customer_id="+15551112222")
        environment = {
            **os.environ,
            "DATABASE_URL": f"sqlite:///{folder}/db.sqlite3",
            "DJANGO_SETTINGS_MODULE": SETTINGS,
            "DJANGO_SECRET_KEY": "x" * 50,
            "OSVI_BASE_URL": osvi.url,
            "OSVI_API_TOKEN": osvi.token,
        }
        manage(environment, "migrate", "--verbosity", "0")
        manage(environment, "shell", "--command", FILL)
        yield environment


@pytest.fixture(scope="module")
def site(environment):
    """Run the site; yield the environment of its callers."""
    token = re.search(r"token ([0-9a-f]{40}) ", manage(environment, "drf_create_token", "crm"))
    yield from running(environment, token[1])


def manage(environment, *command):
    """Run a command of the site, and return what it printed."""
    arguments = [sys.executable, ROOT / "manage.py", *command]
    ran = subprocess.run(arguments, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def running(environment, token):
    """Run gunicorn, and yield the environment of a caller."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "example_project.wsgi", "--no-control-socket"]
    kind = ["--worker-class", "gthread", "--threads", "4", "--log-level", "warning"]
    where = ["--bind", f"127.0.0.1:{port}"]
    with subprocess.Popen([*command, *kind, *where], env=environment, cwd=ROOT) as process:
        try:
            api = f"http://127.0.0.1:{port}/api/osvi"
            wait_for(f"{api}/sessions/")
            yield {"PATH": os.environ["PATH"], "API": api, "TOKEN": token}
        finally:
            process.terminate()


def wait_for(url):
    """Wait until the site answers."""
    ends_at = time.monotonic() + 120
    while True:
        try:
            return requests.get(url, timeout=60)
        except requests.ConnectionError:
            assert time.monotonic() < ends_at
            time.sleep(0.1)


def run(command, site, first, tmp_path):
    """Run an example for three chats, and return what it printed."""
    chats = [f"s-{first + number}" for number in range(3)]
    ids = dict(zip(("SESSION", "FIRST", "SECOND"), chats, strict=True))
    ran = subprocess.run(command, env=site | ids, capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed.")
def test_example_of_curl_closes_and_lists(site, tmp_path):
    (code,) = blocks("bash")
    command = ["bash", "-euo", "pipefail", "-c", code]
    printed = run(command, site, 0, tmp_path)
    assert '"summary":"' in printed
    assert printed.count('"outcome":"closed"') == 2
    assert '"session_id":"s-9"' in printed
    # The whole example is safe to repeat.
    assert '"outcome":"already_closed"' in run(command, site, 0, tmp_path)


def test_example_of_python_closes_and_lists(site, tmp_path):
    examples = [code for code in blocks("python") if "API" in code]
    tool = 'print(close_chat("call-1", "s-10", "Solved"))\nprint(close_chat("call-2", "no", ""))\n'
    code = "\n".join([*examples, tool])
    summary, first, second, *listed, closed, unknown = run(
        [sys.executable, "-c", code], site, 3, tmp_path
    ).splitlines()
    assert summary
    assert (first.split()[:2], second.split()[:2]) == (["s-4", "closed"], ["s-5", "closed"])
    assert "s-9 +15551112222" in listed
    assert closed
    assert unknown.startswith("not_found: ")


def test_example_of_synchronising_gets_what_changed_since(environment, site, tmp_path):
    manage(environment, "shell", "--command", MANY)
    (code,) = re.findall(r"^```python\n(.*?)^```", synchronising(), re.MULTILINE | re.DOTALL)
    for _run in range(2):  # the second goes on where the first was stopped
        manage(environment, "shell", "--command", CHANGE_ALL)
        with following(code, site, tmp_path) as lines:
            missing = set(IDS)
            # One that a job of another example changes meanwhile comes again.
            while missing and (line := next(lines, "")):
                missing.discard(line.split()[0])
        assert missing == set()


def synchronising():
    """Return the part of the other page about a copy in another system."""
    page = (ROOT / "docs" / "rest.md").read_text(encoding="utf-8")
    return page.partition("## Synchronise another system")[2].partition("\n## ")[0]


@contextmanager
def following(code, site, folder):
    """Run the client, and yield the lines that it prints, until the block or its time ends."""
    command = [sys.executable, "-u", "-c", code]
    with subprocess.Popen(
        command, env=site, stdout=subprocess.PIPE, text=True, cwd=folder
    ) as process:
        end = threading.Timer(2 * TIMEOUT, process.kill)
        end.start()
        try:
            yield process.stdout
        finally:
            end.cancel()
            process.kill()


@pytest.mark.skipif(not shutil.which("node"), reason="node is not installed.")
def test_example_of_fetch_closes_and_lists(site, tmp_path):
    (code,) = blocks("javascript")
    (tmp_path / "example.mjs").write_text(code)
    printed = run(["node", "example.mjs"], site, 6, tmp_path)
    assert "s-7 closed\ns-8 closed\n" in printed.replace("s-8 closed\ns-7", "s-7 closed\ns-8")
