"""A site with few connections of the database answers while many closes wait for OSVI."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from urllib.parse import urlencode

import pytest
from django.contrib.auth.hashers import MD5PasswordHasher
from django.db import connection

from osvi_django.models import ChatSession, CloseJob
from tests.helpers.processes import database_url, free_port
from tests.helpers.sandbox import mirror
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

SETTINGS = "tests.services.pooled"
CLOSERS = 20


@contextmanager
def served(osvi_sandbox, *, threads=CLOSERS + 10, **more):
    port = free_port()
    environment = {
        **os.environ,
        "DATABASE_URL": database_url(),
        "DJANGO_SETTINGS_MODULE": SETTINGS,
        "OSVI_BASE_URL": osvi_sandbox.url,
        "OSVI_API_TOKEN": osvi_sandbox.token,
        **more,
    }
    gunicorn = [sys.executable, "-m", "gunicorn", "example_project.wsgi", "--no-control-socket"]
    kind = ["--worker-class", "gthread", "--threads", str(threads)]
    command = [*gunicorn, *kind, "--log-level", "warning", "--bind", f"127.0.0.1:{port}"]
    with subprocess.Popen(command, env=environment) as process:
        try:
            wait_until(lambda: ask(port, "GET", "/api/osvi/sessions/") == 200)
            yield port
        finally:
            process.terminate()


def ask(port, method, path, **told):
    """Ask the site, and return the status; 0 if it is not there."""
    who = b64encode(b"boss:secret").decode()
    headers = {"Authorization": f"Basic {who}", "Content-Type": "application/json"}
    asked = HTTPConnection("127.0.0.1", port, timeout=30)
    with suppress(OSError), closing(asked):
        asked.request(
            method, path, body=json.dumps(told) if method == "POST" else None, headers=headers
        )
        with asked.getresponse() as answer:
            return answer.status
    return 0


def log_in(port):
    """Log in to the admin, which writes a session and when the user was last there."""
    asked = HTTPConnection("127.0.0.1", port, timeout=60)
    with closing(asked):
        asked.request("GET", "/admin/login/")
        with asked.getresponse() as page:
            cookie = page.getheader("Set-Cookie").partition(";")[0]
            page.read()
        token = cookie.partition("=")[2]
        form = {"username": "boss", "password": "secret", "csrfmiddlewaretoken": token}
        headers = {"Cookie": cookie, "Content-Type": "application/x-www-form-urlencoded"}
        asked.request("POST", "/admin/login/?next=/", body=urlencode(form), headers=headers)
        with asked.getresponse() as page:
            page.read()
            return page.status


def connections_of_the_site():
    """How many connections the site has that are not idle in its pool; 0 if that cannot be said."""
    if connection.vendor != "postgresql":
        return 0
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'osvi-pooled'"
        )
        return cursor.fetchone()[0]


@pytest.fixture
def boss(django_user_model):
    """Who may do all, and has a password that is quickly checked."""
    password = MD5PasswordHasher().encode("secret", "salt")
    return django_user_model.objects.create(
        username="boss", password=password, is_superuser=True, is_staff=True
    )


def test_logins_succeed_while_a_job_runs_in_the_same_process(osvi_sandbox, boss):
    """Under ATOMIC_REQUESTS, on SQLite as `manage.py check` wants it."""
    ids = [mirror(osvi_sandbox).session_id for _number in range(400)]
    statuses = []

    def latency(chat):
        if chat.id == ids[-1]:
            wait_until(lambda: len(statuses) >= 15)
        return 0.1

    osvi_sandbox.latency = latency
    with served(osvi_sandbox) as port, ThreadPoolExecutor(5) as pool:
        assert ask(port, "POST", "/api/osvi/sessions/close/", session_ids=ids) == 202
        while not CloseJob.objects.get().is_finished:
            logins = [pool.submit(log_in, port) for _number in range(5)]
            statuses += [login.result() for login in logins]
    assert CloseJob.objects.get().succeeded == 400
    assert len(statuses) >= 15
    assert set(statuses) == {302}


def test_other_pages_answer_at_once_while_osvi_hangs_and_no_more_may_wait(osvi_sandbox, boss):
    """Four threads, of which two may wait for OSVI."""
    sessions = [mirror(osvi_sandbox) for _number in range(5)]
    paths = [f"/api/osvi/sessions/{each.session_id}/close/" for each in sessions]
    goes_on = threading.Event()
    osvi_sandbox.latency = lambda _chat: 0.0 if goes_on.wait(20) else 20.0
    with (
        served(osvi_sandbox, threads=4, MAX_SYNC_CALLS="2") as port,
        ThreadPoolExecutor(2) as pool,
    ):
        try:
            closes = [pool.submit(ask, port, "POST", path) for path in paths[:2]]
            wait_until(lambda: len(osvi_sandbox.requests) == 2)
            began = time.monotonic()
            refused = [ask(port, "POST", path) for path in paths[2:]]
            page = ask(port, "GET", "/admin/login/")
            took = time.monotonic() - began
        finally:
            goes_on.set()
        assert [close.result() for close in closes] == [200, 200]
    assert (refused, page) == ([503] * 3, 200)
    assert took < 5
    assert len(osvi_sandbox.requests) == 2


def test_other_pages_answer_while_many_closes_wait_for_osvi(osvi_sandbox, boss):
    sessions = [mirror(osvi_sandbox) for _number in range(CLOSERS)]
    osvi_sandbox.latency = 3
    with served(osvi_sandbox) as port, ThreadPoolExecutor(CLOSERS) as pool:
        paths = [f"/api/osvi/sessions/{each.session_id}/close/" for each in sessions]
        closes = [pool.submit(ask, port, "POST", path) for path in paths]
        wait_until(lambda: osvi_sandbox.requests)
        pages, held = [], []
        while not all(close.done() for close in closes):
            pages.append(ask(port, "GET", "/api/osvi/sessions/"))
            held.append(connections_of_the_site())
            time.sleep(0.05)
        statuses = Counter(close.result() for close in closes)
    assert len(pages) > 5
    assert set(pages) == {200}
    assert max(held) <= 4
    assert statuses.keys() <= {200, 503}  # a process takes on only so many
    assert ChatSession.objects.filter(status="closed").count() == statuses[200] > 4
