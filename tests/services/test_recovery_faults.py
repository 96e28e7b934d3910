"""What only shows when processes die and databases stop in the middle of a close."""

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
    """A spool of the test's own."""
    directory = tmp_path / "spool"
    settings.OSVI["default"] |= {"SPOOL_DIR": directory, "DATABASE_RETRY_TIMEOUT": 10}
    return directory


@pytest.fixture
def away():
    """While it is set, no answer can be written to the database."""
    event = threading.Event()
    event.set()

    def is_refused(sql, _params):
        return event.is_set() and sql.startswith("UPDATE") and "closeattempt" in sql

    with raise_on_queries(is_refused, OperationalError("the database is away")):
        yield event


class Watcher(threading.Thread):
    """Waits until something is there, ends the outage, and remembers what it saw."""

    def __init__(self, look, away):
        super().__init__()
        self.look = look
        self.away = away
        self.seen = None

    def run(self):
        ends_at = time.monotonic() + 5
        while not self.seen and time.monotonic() < ends_at:
            self.seen = self.look()
            time.sleep(0.01)
        self.away.clear()


def test_an_answer_is_in_the_spool_while_its_closer_waits_for_the_database(
    mirrored, away, spool_dir
):
    # Web servers kill whoever waits too long, and with it what it has in hand.
    session = mirrored()
    watcher = Watcher(lambda: [spool.read(path) for path in spool.waiting(spool_dir)], away)
    watcher.start()
    result = close_session(session)
    watcher.join()
    [spooled] = watcher.seen
    assert SUMMARY.splitlines()[0].encode() in spooled.body
    assert result.summary.text == SUMMARY
    assert CloseAttempt.objects.get().outcome == "closed"
    assert list(spool.waiting(spool_dir)) == []


def test_a_spool_that_cannot_be_used_does_not_end_the_wait(
    mirrored, away, settings, tmp_path, caplog, monkeypatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    settings.OSVI["default"]["SPOOL_DIR"] = tmp_path / "file" / "spool"
    session = mirrored()
    watcher = Watcher(lambda: "cannot be put in a spool" in caplog.text, away)
    watcher.start()
    result = close_session(session)
    watcher.join()
    assert watcher.seen
    assert result.summary.text == SUMMARY
    assert "CRITICAL" not in {record.levelname for record in caplog.records}
