"""A deliverer that is killed loses nothing: another one sends what it had claimed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from osvi_django.database import DatabaseNow
from osvi_django.models import WebhookDelivery
from osvi_django.services import deliver_events
from tests.helpers.processes import database_url
from tests.helpers.raw_server import http_response
from tests.helpers.waiting import wait_until
from tests.helpers.webhooks import OK, WebhookServer

pytestmark = pytest.mark.django_db(transaction=True)

# https://github.com/python/cpython/issues/113964
starts_threads_at_end = pytest.mark.skipif(
    (3, 12) <= sys.version_info < (3, 12, 3),
    reason="Python 3.12.0 to 3.12.2 start no threads while a process ends.",
)

MANAGE = Path(__file__).resolve().parents[3] / "manage.py"
DELIVER = """
from django.conf import settings
settings.OSVI_WEBHOOKS = {receivers!r}
from osvi_django.services import deliver_events
deliver_events()
"""


WRITE = """
from django.conf import settings
settings.OSVI_WEBHOOKS = {receivers!r}
from osvi_django.services.events.outbox import Event, Fact, write
write([Fact(event=Event.SESSION_CLOSED, subject="s-1")], using="default")
"""


@contextmanager
def deliverer(receivers, code=DELIVER):
    """Run a process that delivers what is due."""
    program = [sys.executable, str(MANAGE), "shell", "-c", code.format(receivers=receivers)]
    environment = {**os.environ, "DATABASE_URL": database_url()}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(program, env=environment, encoding="utf-8", **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def test_killed_deliverer_loses_nothing(use_servers, write_events, settings):
    with WebhookServer(lambda call: call.pause(60)) as server:
        receivers = use_servers(server)
        write_events("s-1", "s-2", "s-1")
        with deliverer(receivers) as process:
            wait_until(lambda: server.calls)
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert deliver_events() == 0  # another process may still have them
        assert WebhookDelivery.objects.exclude(claim=None).count() == 2
        over = DatabaseNow() - timedelta(seconds=1)
        WebhookDelivery.objects.exclude(claim=None).update(lease_until=over)
        server.replies[:] = [OK]
        assert deliver_events() == 3
        assert sorted(server.subjects) == ["s-1", "s-1", "s-1", "s-2"]  # one of them twice
        assert len(set(server.ids)) == 3
    assert not WebhookDelivery.objects.exclude(state="delivered").exists()


@starts_threads_at_end
def test_process_that_ends_sends_what_it_has_written(use_servers, settings):
    with WebhookServer() as first, WebhookServer() as second:
        with deliverer(use_servers(first, second), WRITE) as process:
            _out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        assert (first.subjects, second.subjects) == (["s-1"], ["s-1"])
    assert not WebhookDelivery.objects.exclude(state="delivered").exists()


@starts_threads_at_end
def test_process_that_ends_does_not_wait_for_a_later_try(use_servers, settings):
    with WebhookServer(http_response(status=400)) as server:
        with deliverer(use_servers(server), WRITE) as process:
            process.communicate(timeout=60)
        assert process.returncode == 0
        assert len(server.calls) == 1
    assert WebhookDelivery.objects.get().state == "pending"
