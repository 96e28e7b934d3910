"""Cancel and retry jobs, and resume stalled ones; who may do so; several workers at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

import pytest
from django.contrib.auth.models import AnonymousUser
from django.db import connection, transaction
from django.utils import timezone

from osvi_django.database import DatabaseNow
from osvi_django.exceptions import CloseInProgress, InsideTransaction, InvalidInput, NotAllowed
from osvi_django.models import ChatSession, CloseAttempt, CloseJob
from osvi_django.services import close_session
from osvi_django.services.jobs import (
    cancel_close_job,
    create_close_job,
    due_jobs,
    progress_of,
    resume_stalled,
    retry_close_job,
    run_close_job,
)
from osvi_django.services.permissions import visible_jobs
from osvi_django.testing import Drop, Status
from tests.helpers.waiting import call_threads, wait_until
from tests.jobs.conftest import in_own_connection


@pytest.fixture
def queued_job(chats):
    """Return a job of four sessions that no worker has started."""
    chats(4)
    return create_close_job(ChatSession.objects.all(), start=False)


class TestCancel:
    def test_cancel_of_queued_job_cancels_all_items(self, queued_job, osvi_sandbox):
        job = cancel_close_job(queued_job)
        assert (job.status, job.cancelled, job.done) == ("cancelled", 4, 0)
        assert job.is_finished
        assert progress_of(job).counts == {"cancelled": 4}
        assert run_close_job(job.pk).status == "cancelled"
        assert osvi_sandbox.requests == []

    @pytest.mark.django_db(transaction=True)
    def test_cancel_of_running_job_finishes_closes_in_progress(self, chats, osvi_sandbox, settings):
        settings.OSVI["default"] |= {"CONCURRENCY": 2}
        chats(20)
        job = create_close_job(ChatSession.objects.all(), start=False)

        def cancel(_chat):
            try:
                assert cancel_close_job(job).status == "cancelled"
            finally:
                connection.close()
            return 0.3

        osvi_sandbox.latency = cancel
        job = run_close_job(job.pk)
        assert (job.status, job.is_finished) == ("cancelled", True)
        assert job.succeeded == len(osvi_sandbox.requests)
        assert job.succeeded + job.cancelled == 20
        assert job.cancelled > 0
        assert not ChatSession.objects.filter(status="closing").exists()

    @pytest.mark.django_db(transaction=True)
    def test_cancel_of_running_job_sends_no_prefetched_items(self, chats, osvi_sandbox, settings):
        """Closes are slow, and as many items are prefetched as there are threads."""
        settings.OSVI["default"] |= {"CONCURRENCY": 8}
        chats(60)
        cancelled = threading.Event()
        osvi_sandbox.latency = lambda _chat: 0.6 if cancelled.wait(20) else 20.0
        job = create_close_job(ChatSession.objects.all(), start=False)

        def cancel():
            wait_until(lambda: len(osvi_sandbox.requests) == 8)
            in_own_connection(cancel_close_job, job)
            cancelled.set()

        thread = threading.Thread(target=cancel)
        thread.start()
        ended = run_close_job(job.pk)
        thread.join()
        assert (ended.status, ended.succeeded, ended.cancelled) == ("cancelled", 8, 52)
        assert len(osvi_sandbox.requests) == 8
        assert set(ChatSession.objects.values_list("status", "claim").exclude(status="closed")) == {
            ("active", None)
        }
        assert CloseAttempt.objects.count() == 8

    @pytest.mark.django_db(transaction=True)
    def test_cancel_while_throttled_cancels_requeued_item(self, chats, osvi_sandbox, settings):
        settings.OSVI["default"] |= {"CONCURRENCY": 1}
        (session,) = chats(1)
        job = create_close_job(ChatSession.objects.all(), start=False)
        osvi_sandbox.script(session.session_id, Status(429, retry_after=10, close=False))

        def cancel():
            wait_until(CloseAttempt.objects.filter(error_code="busy_at_osvi").exists)
            in_own_connection(cancel_close_job, job)

        thread = threading.Thread(target=cancel)
        thread.start()
        ended = run_close_job(job.pk)
        thread.join()
        assert (ended.status, ended.cancelled, ended.succeeded) == ("cancelled", 1, 0)

    @pytest.mark.django_db(transaction=True)
    def test_cancel_in_transaction_raises(self, queued_job):
        with transaction.atomic(), pytest.raises(InsideTransaction):
            cancel_close_job(queued_job)
        assert CloseJob.objects.get().status == "queued"

    def test_cancel_of_finished_job_changes_nothing(self, chats, close_all):
        chats(1)
        job = cancel_close_job(close_all())
        assert (job.status, job.cancelled) == ("completed", 0)

    def test_cancelled_job_with_leased_item_is_finished_by_next_worker(self, queued_job):
        held = queued_job.items.first()
        later = DatabaseNow() + timedelta(seconds=60)
        queued_job.items.filter(pk=held.pk).update(outcome="closing", lease_until=later)
        job = cancel_close_job(queued_job)
        assert (job.status, job.cancelled, job.is_finished) == ("cancelled", 3, False)
        queued_job.items.filter(pk=held.pk).update(lease_until=DatabaseNow())
        job = run_close_job(job.pk)
        assert (job.status, job.succeeded, job.is_finished) == ("cancelled", 1, True)


class TestRetry:
    @pytest.fixture
    def refused_job(self, chats, close_all, osvi_sandbox):
        """Return a finished job whose only session OSVI has refused to close, once."""
        (session,) = chats(1)
        osvi_sandbox.script(session.session_id, Status(400))
        return close_all()

    def test_retry_makes_new_job_of_failed_items(self, chats, close_all, osvi_sandbox, staff):
        refused, lost, fine = chats(3)
        osvi_sandbox.script(refused.session_id, Status(400))
        osvi_sandbox.script(lost.session_id, Drop())
        job = close_all([refused, lost, fine, "unknown"], requested_by=staff, note="Why")
        again = retry_close_job(job, requested_by=staff, via="rest")
        assert again.retry_of == job
        assert (again.note, again.via, again.requested_by) == ("Why", "rest", staff)
        assert dict(again.items.values_list("requested_session_id", "outcome")) == {
            refused.session_id: "waiting"
        }
        assert run_close_job(again.pk).succeeded == 1

    def test_retry_of_unknown_ids_raises_invalid_input(self, close_all, db):
        job = close_all(["unknown", "unheard-of"])
        assert job.failed == 2
        with pytest.raises(InvalidInput, match="No chat of this close job can be retried"):
            retry_close_job(job)
        assert CloseJob.objects.count() == 1

    def test_retry_of_id_known_since_closes_its_session(self, chats, close_all, osvi_sandbox):
        job = close_all(["unknown", "4718A326-417B-4DDA-90D0-21FD65A11CB8", "unheard-of"])
        chats(1, session_id="unknown")
        chats(1, session_id="4718a326-417b-4dda-90d0-21fd65a11cb8")
        again = run_close_job(retry_close_job(job).pk)
        assert (again.total, again.succeeded) == (2, 2)

    def test_retry_twice_returns_same_job(self, refused_job):
        job = refused_job
        again = retry_close_job(job)
        assert retry_close_job(job, via="rest") == again
        assert CloseJob.objects.count() == 2

    @pytest.mark.django_db(transaction=True)
    def test_retry_from_several_threads_makes_one_job(self, refused_job, started):
        job = refused_job
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(partial(in_own_connection, retry_close_job), [job] * 4))
        assert len(set(made)) == 1
        assert CloseJob.objects.count() == 2
        assert started

    def test_retry_after_cancelled_retry_makes_new_job(self, refused_job):
        cancel_close_job(retry_close_job(refused_job))
        again = retry_close_job(refused_job)
        assert run_close_job(again.pk).succeeded == 1

    def test_retry_of_cancelled_job_again_returns_same_job(self, chats):
        chats(2)
        job = cancel_close_job(create_close_job(ChatSession.objects.all(), start=False))
        made = retry_close_job(job, include_cancelled=True)
        assert retry_close_job(job, include_cancelled=True) == made
        assert (made.total, CloseJob.objects.count()) == (2, 2)

    def test_retry_of_unfinished_job_raises_invalid_input(self, chats):
        chats(1)
        job = create_close_job([*ChatSession.objects.all(), "unknown"], start=False)
        assert job.failed == 1
        with pytest.raises(InvalidInput, match="not finished"):
            retry_close_job(job)

    def test_retry_without_failed_items_raises_invalid_input(self, chats, close_all):
        chats(1)
        with pytest.raises(InvalidInput):
            retry_close_job(close_all())
        assert CloseJob.objects.count() == 1


class TestResumeStalled:
    def test_resume_stalled_with_old_heartbeat_starts_job_once(self, queued_job, started):
        assert not resume_stalled(queued_job)
        CloseJob.objects.update(
            heartbeat_at=timezone.now() - timedelta(seconds=40), status="running"
        )
        assert resume_stalled(queued_job)
        assert not resume_stalled(queued_job)
        assert started == [str(queued_job.uuid)]

    def test_resume_stalled_with_paused_job_waits_for_resume_time(self, queued_job, started):
        silent = {"heartbeat_at": timezone.now() - timedelta(seconds=40), "status": "paused"}
        CloseJob.objects.update(**silent, resume_at=timezone.now() + timedelta(seconds=60))
        assert not resume_stalled(queued_job)
        assert due_jobs() == []
        CloseJob.objects.update(**silent, resume_at=timezone.now())
        assert due_jobs() == [queued_job]
        assert resume_stalled(queued_job)

    def test_resume_stalled_with_finished_job_or_draft_does_nothing(
        self, chats, close_all, started
    ):
        chats(1)
        draft = create_close_job(ChatSession.objects.all(), draft=True)
        done = close_all()
        CloseJob.objects.update(heartbeat_at=timezone.now() - timedelta(days=1))
        assert not resume_stalled(done)
        assert not resume_stalled(draft)
        assert due_jobs() == []

    def test_due_jobs_are_ordered_by_age(self, queued_job):
        newer = create_close_job(ChatSession.objects.all(), start=False)
        assert due_jobs() == [queued_job, newer]


class TestPermission:
    @pytest.fixture
    def job(self, staff, chats):
        chats(1)
        return create_close_job(ChatSession.objects.all(), requested_by=staff, start=False)

    def test_user_sees_own_jobs_and_all_with_view_permission(
        self, job, staff, django_user_model, grant
    ):
        other = grant(django_user_model.objects.create_user("else"), "close_chatsession")
        chief = grant(other, "view_closejob")
        assert list(visible_jobs(staff)) == list(visible_jobs(chief)) == [job]
        assert cancel_close_job(job, requested_by=chief).status == "cancelled"

    def test_other_users_cannot_cancel_or_retry_job(self, job, django_user_model, grant):
        other = grant(django_user_model.objects.create_user("else"), "close_chatsession")
        reader = grant(django_user_model.objects.create_user("reader"), "view_closejob")
        assert list(visible_jobs(other)) == list(visible_jobs(AnonymousUser())) == []
        assert list(visible_jobs(reader)) == [job]
        for user in (other, reader, AnonymousUser()):
            for decide in (cancel_close_job, retry_close_job):
                with pytest.raises(NotAllowed):
                    decide(job, requested_by=user)
        job.refresh_from_db()
        assert job.status == "queued"


@pytest.mark.django_db(transaction=True)
class TestConcurrency:
    def test_job_with_session_being_closed_elsewhere_waits_for_it(
        self, chats, osvi_sandbox, outcomes
    ):
        """The single close gets the answer, and the job waits for it."""
        first, other = chats(2)
        osvi_sandbox.latency = lambda chat: 1.5 if chat.id == first.session_id else 0
        thread = threading.Thread(target=in_own_connection, args=[close_session, first])
        thread.start()
        wait_until(ChatSession.objects.filter(status="closing").exists)
        job = create_close_job(ChatSession.objects.all(), start=False)
        job = run_close_job(job.pk)
        thread.join()
        assert outcomes(job) == {first.session_id: "already_closed", other.session_id: "closed"}
        assert osvi_sandbox.close_requests(first.session_id) == 1

    def test_single_close_of_session_in_job_raises_close_in_progress(self, chats, osvi_sandbox):
        (session,) = chats(1)
        errors = []

        def click(_chat):
            try:
                close_session(ChatSession.objects.get())
            except CloseInProgress as error:
                errors.append(error)
            finally:
                connection.close()
            return 0

        osvi_sandbox.latency = click
        job = create_close_job([session], start=False)
        assert run_close_job(job.pk).succeeded == 1
        assert len(errors) == 1

    def test_several_workers_of_one_job_close_each_session_once(
        self, chats, osvi_sandbox, settings
    ):
        settings.OSVI["default"] |= {"CONCURRENCY": 4}
        sessions = chats(150)
        osvi_sandbox.latency = 0.01
        job = create_close_job(ChatSession.objects.all(), start=False)
        ended, before = [], call_threads()
        threads = [
            threading.Thread(target=in_own_connection, args=[note_run, job, ended])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ended == [("completed", 150)] * 4
        assert {osvi_sandbox.close_requests(each.session_id) for each in sessions} == {1}
        assert not job.items.exclude(outcome="closed").exists()
        wait_until(lambda: not call_threads() - before)


def note_run(job, ended):
    """Run a job, and note its status and how many sessions it closed."""
    done = run_close_job(job.pk)
    ended.append((done.status, done.succeeded))
