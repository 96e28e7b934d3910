"""The host's summarizer in a job: it writes the summaries that OSVI does not send."""

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
def use_summarizer(settings, osvi_sandbox):
    """Set the summarizer of an account."""

    def _use_summarizer(write, account="default"):
        settings.OSVI[account] |= {"SUMMARIZER": write}

    return _use_summarizer


def count_written():
    """Return how many summaries the summarizer has written."""
    return SessionSummary.objects.filter(source="host").count()


def writer_threads():
    """Return the threads in which summaries are being written."""
    return [each for each in threading.enumerate() if each.name == "osvi-writer"]


@pytest.mark.django_db(transaction=True)
class TestSummaryThreads:
    def test_sessions_without_summary_get_one_from_summarizer(
        self, chats, close_all, use_summarizer
    ):
        asked = []

        def write(session):
            asked.append((session.session_id, session.status, connection.in_atomic_block))
            return f"Of {session.customer_id}."

        use_summarizer(write)
        bare = chats(6, summary=None)
        chats(3)
        assert close_all().succeeded == 9
        assert sorted(asked) == sorted((each.session_id, "closed", False) for each in bare)
        texts = SessionSummary.objects.filter(session__in=bare).values_list("text", flat=True)
        assert set(texts) == {f"Of {each.customer_id}." for each in bare}
        assert count_written() == 6
        assert ChatSession.objects.filter(summary_status="stored").count() == 9
        assert writer_threads() == []

    def test_slow_summarizer_delays_no_close(self, chats, osvi_sandbox, use_summarizer):
        """All is closed before the first summary is there, and four are written at once."""
        closed, at_once = [], []

        def write(_session):
            wait_until(lambda: at_once.append(len(writer_threads())) or max(at_once) == 4)
            wait_until(lambda: len(osvi_sandbox.requests) == 12)
            closed.append(len(osvi_sandbox.requests))
            return "Ours."

        use_summarizer(write)
        chats(12, summary=None)
        job = create_close_job(ChatSession.objects.all(), start=False)
        assert run_close_job(job.pk).succeeded == 12
        assert closed == [12] * 12
        assert max(at_once) == 4
        assert count_written() == 12

    def test_failing_summarizer_stops_no_other_summary(
        self, chats, close_all, use_summarizer, caplog
    ):
        first, *others = chats(4, summary=None)

        def write(session):
            if session == first:
                raise ValueError("a secret")
            return "Ours."

        use_summarizer(write)
        assert close_all().status == "completed"
        first.refresh_from_db()
        assert (first.summary_status, first.summarizer_error) == ("not_provided", "ValueError")
        assert count_written() == len(others)
        assert "a secret" not in caplog.text

    def test_stopped_worker_leaves_remaining_summaries_to_command(
        self, chats, use_summarizer, caplog
    ):
        stop = threading.Event()

        def write(_session):
            stop.set()
            time.sleep(0.3)  # ten turns of four: the worker looks much more often
            return "Ours."

        use_summarizer(write)
        chats(40, summary=None)
        job = create_close_job(ChatSession.objects.all(), start=False)
        run_close_job(job.pk, stop=stop)
        left = ChatSession.objects.filter(status="closed", summary_status="not_provided").count()
        assert count_written() > 0
        assert left > 0
        assert f"{left} summaries wait for manage.py osvi_summarize" in caplog.text
        assert writer_threads() == []

    def test_paused_job_does_not_wait_for_summaries(
        self, chats, osvi_sandbox, close_all, use_summarizer, caplog
    ):
        """The worker pauses at once, and not only when all summaries are written."""
        use_summarizer(lambda _session: time.sleep(0.3) or "Ours.")
        chats(40, summary=None)
        (last,) = chats(1)
        osvi_sandbox.script(last.session_id, *[Status(429, retry_after=600)] * 13)
        job = close_all()
        assert (job.status, job.paused_by) == ("paused", "busy_at_osvi")
        assert count_written() < 40
        assert "summaries wait for manage.py osvi_summarize" in caplog.text

    def test_hanging_summarizer_does_not_block_stopped_worker(
        self, chats, use_summarizer, monkeypatch
    ):
        stop, end = threading.Event(), threading.Event()

        def hang(_session):
            stop.set()
            end.wait(20)
            return "Ours."

        monkeypatch.setattr(worker, "_SUMMARY_TIMEOUT", 0.3)
        use_summarizer(hang)
        chats(1, summary=None)
        job = create_close_job(ChatSession.objects.all(), start=False)
        try:
            assert run_close_job(job.pk, stop=stop).succeeded == 1
            assert count_written() == 0
        finally:
            end.set()
            for each in writer_threads():
                each.join()

    def test_summarizer_that_exits_ends_no_job(self, chats, close_all, use_summarizer, caplog):
        use_summarizer(lambda _session: sys.exit("a secret"))
        chats(2, summary=None)
        assert close_all().succeeded == 2
        assert "a thread osvi-writer ended with SystemExit" in caplog.text
        assert "a secret" not in caplog.text

    def test_rescued_sessions_get_summaries_without_delaying_rescue(
        self, unconfirmed, close_all, use_summarizer, settings
    ):
        """A slow summarizer does not delay the questions to OSVI about the next sessions."""
        settings.OSVI["default"] |= {"CONCURRENCY": 1}
        open_ones = ChatSession.objects.exclude(status="closed")
        use_summarizer(lambda _session: wait_until(lambda: not open_ones.exists()) or "Ours.")
        for _number in range(3):
            unconfirmed(Drop(), summary=None)
        assert close_all().succeeded == 3
        assert count_written() == 3

    def test_invalid_summarizer_setting_is_stored_as_error(self, chats, close_all, use_summarizer):
        use_summarizer("no.such.thing")
        chats(1, summary=None)
        assert close_all().succeeded == 1
        assert ChatSession.objects.get().summarizer_error == "InvalidSetting"


@pytest.mark.django_db
def test_summarizer_in_transaction_runs_in_same_thread(chats, close_all, use_summarizer):
    use_summarizer(lambda _session: "Ours.")
    chats(3, summary=None)
    assert close_all().succeeded == 3
    assert count_written() == 3
