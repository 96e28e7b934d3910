"""What OSVI leaves out, this site's summarizer writes: for each session that a job closes, too."""

from __future__ import annotations

import sys
import threading
import time

import pytest
from django.db import connection

from osvi_django.models import ChatSession, SessionSummary
from osvi_django.services.jobs import create_close_job, run_close_job, worker
from osvi_django.testing import Drop, Status
from tests.helpers.waiting import wait_until


@pytest.fixture
def use(settings, osvi_sandbox):
    """Have the account write its summaries so."""

    def _use(write, account="default"):
        settings.OSVI[account] |= {"SUMMARIZER": write}

    return _use


def written():
    return SessionSummary.objects.filter(source="host").count()


def writers():
    return [each for each in threading.enumerate() if each.name == "osvi-writer"]


@pytest.mark.django_db(transaction=True)
class TestBesideTheJob:
    def test_each_that_needs_one_is_written(self, chats, close_all, use):
        asked = []

        def write(session):
            asked.append((session.session_id, session.status, connection.in_atomic_block))
            return f"Of {session.customer_id}."

        use(write)
        bare = chats(6, summary=None)
        chats(3)
        assert close_all().succeeded == 9
        assert sorted(asked) == sorted((each.session_id, "closed", False) for each in bare)
        texts = SessionSummary.objects.filter(session__in=bare).values_list("text", flat=True)
        assert set(texts) == {f"Of {each.customer_id}." for each in bare}
        assert written() == 6
        assert ChatSession.objects.filter(summary_status="stored").count() == 9
        assert writers() == []

    def test_nobody_waits_for_a_slow_one(self, chats, osvi_sandbox, use):
        """All is closed before the first summary is there, and four are written at once."""
        closed, at_once = [], []

        def write(_session):
            wait_until(lambda: at_once.append(len(writers())) or max(at_once) == 4)
            wait_until(lambda: len(osvi_sandbox.requests) == 12)
            closed.append(len(osvi_sandbox.requests))
            return "Ours."

        use(write)
        chats(12, summary=None)
        job = create_close_job(ChatSession.objects.all(), start=False)
        assert run_close_job(job.pk).succeeded == 12
        assert closed == [12] * 12
        assert max(at_once) == 4
        assert written() == 12

    def test_one_that_fails_stops_no_other(self, chats, close_all, use, caplog):
        first, *others = chats(4, summary=None)

        def write(session):
            if session == first:
                raise ValueError("a secret")
            return "Ours."

        use(write)
        assert close_all().status == "completed"
        first.refresh_from_db()
        assert (first.summary_status, first.summarizer_error) == ("not_provided", "ValueError")
        assert written() == len(others)
        assert "a secret" not in caplog.text

    def test_a_run_that_is_to_end_leaves_the_rest_to_the_command(self, chats, use, caplog):
        stop = threading.Event()

        def write(_session):
            stop.set()
            time.sleep(0.3)  # the run looks more often than that
            return "Ours."

        use(write)
        chats(12, summary=None)
        job = create_close_job(ChatSession.objects.all(), start=False)
        run_close_job(job.pk, stop=stop)
        left = ChatSession.objects.filter(status="closed", summary_status="not_provided").count()
        assert 1 <= written() <= 8  # two turns of four at the most
        assert left > 0
        assert f"{left} summaries wait for manage.py osvi_summarize" in caplog.text
        assert writers() == []

    def test_a_pause_does_not_wait_for_them(self, chats, osvi_sandbox, close_all, use, caplog):
        """Whoever runs it is the one to go on with it, and not only when all is written."""
        use(lambda _session: time.sleep(0.2) or "Ours.")
        chats(12, summary=None)
        (last,) = chats(1)
        osvi_sandbox.script(last.session_id, *[Status(429, retry_after=600)] * 13)
        job = close_all()
        assert (job.status, job.paused_by) == ("paused", "throttled")
        assert written() <= 8
        assert "summaries wait for manage.py osvi_summarize" in caplog.text

    def test_one_that_hangs_keeps_no_process(self, chats, use, monkeypatch):
        stop, end = threading.Event(), threading.Event()

        def hang(_session):
            stop.set()
            end.wait(20)
            return "Ours."

        monkeypatch.setattr(worker, "_SUMMARY_TIMEOUT", 0.3)
        use(hang)
        chats(1, summary=None)
        job = create_close_job(ChatSession.objects.all(), start=False)
        try:
            assert run_close_job(job.pk, stop=stop).succeeded == 1
            assert written() == 0
        finally:
            end.set()
            for each in writers():
                each.join()

    def test_one_that_wants_to_exit_ends_nothing(self, chats, close_all, use, caplog):
        use(lambda _session: sys.exit("a secret"))
        chats(2, summary=None)
        assert close_all().succeeded == 2
        assert "a thread osvi-writer ended with SystemExit" in caplog.text
        assert "a secret" not in caplog.text

    def test_those_whose_close_was_in_doubt(self, unconfirmed, close_all, use, settings):
        """Nor does a slow one keep OSVI from being asked about the next."""
        settings.OSVI["default"] |= {"CONCURRENCY": 1}
        open_ones = ChatSession.objects.exclude(status="closed")
        use(lambda _session: wait_until(lambda: not open_ones.exists(), seconds=5) or "Ours.")
        for _number in range(3):
            unconfirmed(Drop(), summary=None)
        assert close_all().succeeded == 3
        assert written() == 3

    def test_a_setting_that_cannot_be_used_is_shown(self, chats, close_all, use):
        use("no.such.thing")
        chats(1, summary=None)
        assert close_all().succeeded == 1
        assert ChatSession.objects.get().summarizer_error == "InvalidSetting"


@pytest.mark.django_db
def test_in_a_test_case_it_is_written_there_and_then(chats, close_all, use):
    use(lambda _session: "Ours.")
    chats(3, summary=None)
    assert close_all().succeeded == 3
    assert written() == 3
