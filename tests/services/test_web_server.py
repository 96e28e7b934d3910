"""Test that a site with few database connections answers while many closes wait for OSVI."""

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

SETTINGS = "tests.services.pooled_settings"
CLOSERS = 20


@contextmanager
def run_site(osvi_sandbox, *, threads=CLOSERS + 10, **more):
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
            wait_until(lambda: send_request(port, "GET", "/api/osvi/sessions/") == 200)
            yield port
        finally:
            process.terminate()


def send_request(port, method, path, **body):
    """Send a request to the site and return the status, or 0 if the site is not running."""
    who = b64encode(b"boss:secret").decode()
    headers = {"Authorization": f"Basic {who}", "Content-Type": "application/json"}
    asked = HTTPConnection("127.0.0.1", port, timeout=30)
    with suppress(OSError), closing(asked):
        asked.request(
            method, path, body=json.dumps(body) if method == "POST" else None, headers=headers
        )
        with asked.getresponse() as answer:
            return answer.status
    return 0


def log_in(port):
    """Log in to the admin, which writes to the database, and return the status."""
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


def count_site_connections():
    """Return how many connections the site has on PostgreSQL, and 0 on other databases."""
    if connection.vendor != "postgresql":
        return 0
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'osvi-pooled'"
        )
        return cursor.fetchone()[0]


@pytest.fixture
def superuser(django_user_model):
    """Create a superuser whose password is checked quickly."""
    password = MD5PasswordHasher().encode("secret", "salt")
    return django_user_model.objects.create(
        username="boss", password=password, is_superuser=True, is_staff=True
    )


def test_site_during_job_accepts_logins(osvi_sandbox, superuser):
    """Use ATOMIC_REQUESTS, and SQLite as `manage.py check` recommends it."""
    ids = [mirror(osvi_sandbox).session_id for _number in range(400)]
    statuses = []

    def latency(chat):
        if chat.id == ids[-1]:
            wait_until(lambda: len(statuses) >= 15)
        return 0.1

    osvi_sandbox.latency = latency
    with run_site(osvi_sandbox) as port, ThreadPoolExecutor(5) as pool:
        assert send_request(port, "POST", "/api/osvi/sessions/close/", session_ids=ids) == 202
        while not CloseJob.objects.get().is_finished:
            logins = [pool.submit(log_in, port) for _number in range(5)]
            statuses += [login.result() for login in logins]
    assert CloseJob.objects.get().succeeded == 400
    assert len(statuses) >= 15
    assert set(statuses) == {302}


def test_site_with_all_places_taken_refuses_closes_and_serves_pages(osvi_sandbox, superuser):
    """Use four threads, two of which may wait for OSVI."""
    sessions = [mirror(osvi_sandbox) for _number in range(5)]
    paths = [f"/api/osvi/sessions/{each.session_id}/close/" for each in sessions]
    goes_on = threading.Event()
    osvi_sandbox.latency = lambda _chat: 0.0 if goes_on.wait(20) else 20.0
    with (
        run_site(osvi_sandbox, threads=4, MAX_SYNC_CALLS="2") as port,
        ThreadPoolExecutor(2) as pool,
    ):
        try:
            closes = [pool.submit(send_request, port, "POST", path) for path in paths[:2]]
            wait_until(lambda: len(osvi_sandbox.requests) == 2)
            began = time.monotonic()
            refused = [send_request(port, "POST", path) for path in paths[2:]]
            page = send_request(port, "GET", "/admin/login/")
            took = time.monotonic() - began
        finally:
            goes_on.set()
        assert [close.result() for close in closes] == [200, 200]
    assert (refused, page) == ([503] * 3, 200)
    assert took < 5
    assert len(osvi_sandbox.requests) == 2


def test_site_during_many_closes_serves_pages_with_few_connections(osvi_sandbox, superuser):
    sessions = [mirror(osvi_sandbox) for _number in range(CLOSERS)]
    osvi_sandbox.latency = 3
    with run_site(osvi_sandbox) as port, ThreadPoolExecutor(CLOSERS) as pool:
        paths = [f"/api/osvi/sessions/{each.session_id}/close/" for each in sessions]
        closes = [pool.submit(send_request, port, "POST", path) for path in paths]
        wait_until(lambda: osvi_sandbox.requests)
        pages, held = [], []
        while not all(close.done() for close in closes):
            pages.append(send_request(port, "GET", "/api/osvi/sessions/"))
            held.append(count_site_connections())
            time.sleep(0.05)
        statuses = Counter(close.result() for close in closes)
    assert len(pages) > 5
    assert set(pages) == {200}
    assert max(held) <= 4
    assert statuses.keys() <= {200, 503}  # the number of waiting requests is limited
    assert ChatSession.objects.filter(status="closed").count() == statuses[200] > 4
