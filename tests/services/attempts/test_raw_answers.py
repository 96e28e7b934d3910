"""Test where an answer is while a close waits for the database."""

from __future__ import annotations

import tempfile
import threading
import time

import pytest
from django.db import OperationalError

from osvi_django import spool
from osvi_django.models import CloseAttempt
from osvi_django.services import close_session
from tests.helpers.database import raise_on_queries
from tests.helpers.sandbox import SUMMARY

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def spool_dir(settings, osvi_sandbox, tmp_path):
    """Set a spool directory for this test."""
    directory = tmp_path / "spool"
    settings.OSVI["default"] |= {"SPOOL_DIR": directory, "DATABASE_RETRY_TIMEOUT": 10}
    return directory


@pytest.fixture
def outage():
    """Return an event; no answer can be written to the database while it is set."""
    event = threading.Event()
    event.set()

    def is_refused(sql, _params):
        return event.is_set() and sql.startswith("UPDATE") and "closeattempt" in sql

    with raise_on_queries(is_refused, OperationalError("the database is away")):
        yield event


class OutageWatcher(threading.Thread):
    """Wait until ``look`` returns something, remember it, and end the outage."""

    def __init__(self, look, outage):
        super().__init__()
        self.look = look
        self.away = outage
        self.seen = None

    def run(self):
        ends_at = time.monotonic() + 5
        while not self.seen and time.monotonic() < ends_at:
            self.seen = self.look()
            time.sleep(0.01)
        self.away.clear()


def test_close_during_outage_spools_answer_while_it_waits(mirrored, outage, spool_dir):
    # Web servers kill requests that wait too long, and an answer in memory would be lost.
    session = mirrored()
    watcher = OutageWatcher(lambda: [spool.read(path) for path in spool.waiting(spool_dir)], outage)
    watcher.start()
    result = close_session(session)
    watcher.join()
    [spooled] = watcher.seen
    assert SUMMARY.splitlines()[0].encode() in spooled.body
    assert result.summary.text == SUMMARY
    assert CloseAttempt.objects.get().outcome == "closed"
    assert list(spool.waiting(spool_dir)) == []


def test_close_during_outage_with_unusable_spool_waits_for_database(
    mirrored, outage, settings, tmp_path, caplog, monkeypatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    settings.OSVI["default"]["SPOOL_DIR"] = tmp_path / "file" / "spool"
    session = mirrored()
    watcher = OutageWatcher(lambda: "cannot be put in a spool" in caplog.text, outage)
    watcher.start()
    result = close_session(session)
    watcher.join()
    assert watcher.seen
    assert result.summary.text == SUMMARY
    assert "CRITICAL" not in {record.levelname for record in caplog.records}
