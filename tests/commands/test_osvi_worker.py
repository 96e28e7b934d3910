"""``manage.py osvi_worker``: runs the jobs that no worker runs."""

from __future__ import annotations

import os
import re
import signal
from datetime import timedelta

import pytest
from django.db import DataError, OperationalError
from django.utils import timezone

from osvi_django.database import DatabaseNow
from osvi_django.models import CloseJob
from osvi_django.services.jobs import create_close_job
from osvi_django.signals import session_closed
from osvi_django.testing import Status
from tests.commands.conftest import signal_at_fifth_close
from tests.helpers.database import call_after_queries, raise_on_queries

pytestmark = pytest.mark.django_db


@pytest.fixture
def make_job(chats):
    """Make a job of so many sessions."""
    return lambda number=1, **fields: create_close_job(chats(number), start=False, **fields)


@pytest.fixture
def after_a_close():
    """Call a function after each close."""
    done = []

    def _after_a_close(do):
        done.append(lambda **_named: do())
        session_closed.connect(done[0])

    yield _after_a_close
    session_closed.disconnect(done[0])


def is_begin_of(job, *, times=1_000):
    """Return what recognizes the query that begins a job, for the first so many times."""
    left = [True] * times

    def is_begun(_sql, params):
        return "running" in params and job.pk in params and bool(left) and left.pop()

    return is_begun


def send_sigterm():
    """Send this process the signal with which systemd stops it."""
    os.kill(os.getpid(), signal.SIGTERM)


def stop_when_finished():
    """Send the signal as soon as a job is finished."""
    return call_after_queries(lambda _sql, params: "completed" in params, send_sigterm)


class TestOnce:
    def test_osvi_worker_runs_all_due_jobs_and_prints_line_for_each(
        self, call, make_job, osvi_sandbox
    ):
        waits, abandoned, rested, paused, draft = (
            make_job(2),
            make_job(),
            make_job(),
            make_job(),
            make_job(draft=True),
        )
        long_ago, later = timezone.now() - timedelta(hours=1), timezone.now() + timedelta(hours=1)
        silent = {"heartbeat_at": DatabaseNow() - timedelta(hours=1)}
        for job, fields in (
            (abandoned, {"status": "running", **silent}),
            (rested, {"status": "paused", "resume_at": long_ago, **silent}),
            (paused, {"status": "paused", "resume_at": later, **silent}),
        ):
            CloseJob.objects.filter(pk=job.pk).update(**fields)
        osvi_sandbox.script(rested.items.get().requested_session_id, Status(403))
        said = call("osvi_worker")
        assert (said.code, said.err) == (0, "")
        done = "closed, 0 failed, 0 unconfirmed, 0 cancelled"
        assert said.out == (
            f"Close job {waits.pk}: completed, 2 of 2 done: 2 {done}\n"
            f"Close job {abandoned.pk}: completed, 1 of 1 done: 1 {done}\n"
            f"Close job {rested.pk}: completed_with_errors, 1 of 1 done: 0 closed, 1 failed, "
            "0 unconfirmed, 0 cancelled\n"
        )
        draft.refresh_from_db()
        assert draft.status == "draft"
        assert call("osvi_worker").out == ""

    @pytest.mark.parametrize("status", ["running", "cancelled"])
    def test_osvi_worker_names_jobs_that_another_process_may_be_running(
        self, call, make_job, osvi_sandbox, status
    ):
        held, job = make_job(), make_job()
        later = DatabaseNow() + timedelta(seconds=60)
        held.items.update(outcome="closing", lease_until=later)
        CloseJob.objects.filter(pk=held.pk).update(status=status, heartbeat_at=DatabaseNow())
        said = call("osvi_worker")
        assert (said.code, said.err) == (0, "")
        done, left = said.out.splitlines()
        assert done.startswith(f"Close job {job.pk}: completed")
        found = re.fullmatch(
            rf"Close job {held.pk}: another process may be running it\. If that process has ended, "
            r"run this command again in (\d+) seconds?, or use --watch\.",
            left,
        )
        assert found
        assert 0 < int(found[1]) <= 31

    def test_osvi_worker_runs_jobs_created_meanwhile(self, call, make_job, after_a_close):
        make_job()
        after_a_close(lambda: CloseJob.objects.count() == 1 and make_job())
        said = call("osvi_worker")
        assert (said.code, said.out.count(": completed, ")) == (0, 2)

    def test_osvi_worker_when_token_is_refused_reports_paused_job(
        self, call, make_job, osvi_sandbox
    ):
        osvi_sandbox.token = "another"
        job = make_job()
        said = call("osvi_worker")
        assert said.code == 0
        assert said.out == (
            f"Close job {job.pk}: paused, 0 of 1 done: 0 closed, 0 failed, 0 unconfirmed, "
            "0 cancelled. OSVI refuses this site's API token. Ask your administrator to check "
            "the token.\n"
        )

    @pytest.mark.parametrize("error", [ValueError, DataError])
    @pytest.mark.django_db(transaction=True)
    def test_osvi_worker_with_failing_job_runs_the_others(self, call, make_job, caplog, error):
        bad, good = make_job(), make_job()
        with raise_on_queries(is_begin_of(bad), error("a customer's words")):
            said = call("osvi_worker")
        assert (said.code, said.error) == (1, "1 failed. See the log for details.")
        assert said.err == f"Close job {bad.pk}: failed ({error.__name__})\n"
        assert f"Close job {good.pk}: completed" in said.out
        assert f"close job {bad.pk} failed" in caplog.text

    @pytest.mark.django_db(transaction=True)
    def test_osvi_worker_without_database_exits_with_1(self, call, make_job):
        gone = raise_on_queries(is_begin_of(make_job()), OperationalError("gone"))
        with gone:
            said = call("osvi_worker")
        assert (said.code, said.error) == (1, "The database is unavailable: OperationalError")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_osvi_worker_when_signalled_stores_closes_in_progress(
        self, call, make_job, osvi_sandbox, settings, number
    ):
        settings.OSVI["default"]["CONCURRENCY"] = 1
        osvi_sandbox.latency = signal_at_fifth_close(number)
        job, other = make_job(50), make_job()
        before = signal.getsignal(number)
        said = call("osvi_worker")
        assert (said.code, said.error) == (130, "Stopped. The next run continues.")
        assert signal.getsignal(number) == before
        job.refresh_from_db()
        assert 0 < job.succeeded < 50
        assert not job.items.filter(outcome="closing").exists()
        osvi_sandbox.latency = 0
        assert call("osvi_worker").out.count(": completed, ") == 2
        other.refresh_from_db()
        assert other.is_finished


@pytest.mark.django_db(transaction=True)
class TestWatch:
    def test_watch_looks_for_jobs_until_stopped(self, call, make_job):
        job, looks = make_job(), []

        def look():
            looks.append(None)
            if len(looks) == 4:
                send_sigterm()

        with call_after_queries(
            lambda sql, params: sql.startswith("SELECT") and "queued" in params, look
        ):
            said = call("osvi_worker", watch=0.05)
        assert said.code == 0
        assert (
            said.err == "Stopping after the requests in progress. Press Ctrl-C again to quit now.\n"
        )
        assert said.out.startswith(f"Close job {job.pk}: completed")
        assert len(looks) >= 4

    def test_watch_when_database_is_unavailable_continues(self, call, make_job):
        job = make_job()
        with (
            stop_when_finished(),
            raise_on_queries(is_begin_of(job, times=2), OperationalError("gone")),
        ):
            said = call("osvi_worker", watch=0.05)
        assert said.code == 0
        assert said.err.startswith("The database is unavailable: OperationalError\n" * 2)
        assert f"Close job {job.pk}: completed" in said.out

    def test_watch_with_failing_job_runs_it_again(self, call, make_job):
        job = make_job()
        with stop_when_finished(), raise_on_queries(is_begin_of(job, times=1), ValueError("bug")):
            said = call("osvi_worker", watch=0.05)
        assert said.err.startswith(f"Close job {job.pk}: failed (ValueError)\n")
        assert f"Close job {job.pk}: completed" in said.out

    @pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 86_401])
    def test_watch_with_invalid_interval_is_refused(self, call, seconds):
        assert "above 0" in call("osvi_worker", watch=seconds).error
