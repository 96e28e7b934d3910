"""Cancelling, retrying and taking up; who may."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

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
from tests.helpers.waiting import wait_until

TOLD = []


def remember(job_id):
    """An executor that only keeps in mind what it was told."""
    TOLD.append(job_id)


@pytest.fixture
def told(settings):
    settings.OSVI_EXECUTOR = "tests.jobs.test_deciding.remember"
    TOLD.clear()
    return TOLD


@pytest.fixture
def waiting(chats):
    """A job that nobody has begun."""
    chats(4)
    return create_close_job(ChatSession.objects.all(), start=False)


class TestCancelling:
    def test_one_that_has_not_begun(self, waiting, osvi_sandbox):
        job = cancel_close_job(waiting)
        assert (job.status, job.cancelled, job.done) == ("cancelled", 4, 0)
        assert job.is_finished
        assert progress_of(job).counts == {"cancelled": 4}
        assert run_close_job(job.pk).status == "cancelled"
        assert osvi_sandbox.requests == []

    @pytest.mark.django_db(transaction=True)
    def test_one_at_work_ends_what_is_under_way(self, chats, osvi_sandbox, settings):
        settings.OSVI["default"] |= {"CONCURRENCY": 2}
        chats(20)
        job = create_close_job(ChatSession.objects.all(), start=False)

        def cancel(_chat):
            try:
                assert cancel_close_job(job).status == "cancelled"
            finally:
                connection.close()
            return 0.1

        osvi_sandbox.latency = cancel
        job = run_close_job(job.pk)
        assert (job.status, job.is_finished) == ("cancelled", True)
        assert job.succeeded == len(osvi_sandbox.requests)
        assert job.succeeded + job.cancelled == 20
        assert job.succeeded <= 4  # two under way, and one more each before it was noticed
        assert not ChatSession.objects.filter(status="closing").exists()

    @pytest.mark.django_db(transaction=True)
    def test_what_was_claimed_and_not_sent_is_not_sent(self, chats, osvi_sandbox, settings):
        """Slow closes, and as many claimed ahead of them as there are threads."""
        settings.OSVI["default"] |= {"CONCURRENCY": 8}
        chats(60)
        cancelled = threading.Event()
        osvi_sandbox.latency = lambda _chat: 0.6 if cancelled.wait(20) else 20.0
        job = create_close_job(ChatSession.objects.all(), start=False)

        def cancel():
            wait_until(lambda: len(osvi_sandbox.requests) == 8)
            cancel_elsewhere(job)
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
    def test_what_is_given_back_meanwhile_is_cancelled_too(self, chats, osvi_sandbox, settings):
        settings.OSVI["default"] |= {"CONCURRENCY": 1}
        (session,) = chats(1)
        job = create_close_job(ChatSession.objects.all(), start=False)
        osvi_sandbox.script(session.session_id, Status(429, retry_after=1, close=False))
        thread = threading.Timer(0.3, cancel_elsewhere, [job])
        thread.start()
        ended = run_close_job(job.pk)
        thread.join()
        assert (ended.status, ended.cancelled, ended.succeeded) == ("cancelled", 1, 0)

    @pytest.mark.django_db(transaction=True)
    def test_inside_a_transaction_it_is_refused(self, waiting):
        with transaction.atomic(), pytest.raises(InsideTransaction):
            cancel_close_job(waiting)
        assert CloseJob.objects.get().status == "queued"

    def test_a_finished_one_stays_as_it_is(self, chats, close_all):
        chats(1)
        job = cancel_close_job(close_all())
        assert (job.status, job.cancelled) == ("completed", 0)

    def test_a_cancelled_one_is_ended_by_whoever_takes_up_the_rest(self, waiting):
        held = waiting.items.first()
        later = DatabaseNow() + timedelta(seconds=60)
        waiting.items.filter(pk=held.pk).update(outcome="closing", lease_until=later)
        job = cancel_close_job(waiting)
        assert (job.status, job.cancelled, job.is_finished) == ("cancelled", 3, False)
        waiting.items.filter(pk=held.pk).update(lease_until=DatabaseNow())
        job = run_close_job(job.pk)
        assert (job.status, job.succeeded, job.is_finished) == ("cancelled", 1, True)


def retry_elsewhere(job):
    try:
        return retry_close_job(job)
    finally:
        connection.close()


def cancel_elsewhere(job):
    try:
        cancel_close_job(job)
    finally:
        connection.close()


class TestRetrying:
    def test_what_failed_safely_is_in_a_new_job(self, chats, close_all, osvi_sandbox, staff):
        refused, lost, fine = chats(3)
        osvi_sandbox.script(refused.session_id, Status(400))
        osvi_sandbox.script(lost.session_id, Drop())
        job = close_all([refused, lost, fine, "unknown"], requested_by=staff, note="Why")
        again = retry_close_job(job, requested_by=staff, via="rest")
        assert again.retry_of == job
        assert (again.note, again.via, again.requested_by) == ("Why", "rest", staff)
        assert dict(again.items.values_list("requested_session_id", "outcome")) == {
            refused.session_id: "waiting",
            "unknown": "not_found",
        }
        assert run_close_job(again.pk).succeeded == 1

    def test_it_is_done_once_whoever_asks_and_however_often(self, close_all, db):
        job = close_all(["unknown"])
        again = retry_close_job(job)
        assert retry_close_job(job, via="rest") == again
        assert CloseJob.objects.count() == 2

    @pytest.mark.django_db(transaction=True)
    def test_it_is_done_once_where_several_ask_at_once(self, close_all, osvi_sandbox):
        job = close_all(["unknown"])
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(retry_elsewhere, [job] * 4))
        assert len(set(made)) == 1
        assert CloseJob.objects.count() == 2

    def test_a_retry_that_was_cancelled_is_none(self, chats, close_all, osvi_sandbox):
        (session,) = chats(1)
        osvi_sandbox.script(session.session_id, Status(400))
        job = close_all()
        cancel_close_job(retry_close_job(job))
        again = retry_close_job(job)
        assert run_close_job(again.pk).succeeded == 1

    def test_one_that_is_not_finished_is_not_tried_again(self, chats):
        chats(1)
        job = create_close_job([*ChatSession.objects.all(), "unknown"], start=False)
        assert job.failed == 1
        with pytest.raises(InvalidInput, match="not finished"):
            retry_close_job(job)

    def test_where_nothing_did_it_is_an_error(self, chats, close_all):
        chats(1)
        with pytest.raises(InvalidInput):
            retry_close_job(close_all())
        assert CloseJob.objects.count() == 1


class TestTakingUp:
    def test_a_job_without_a_sign_of_life_is_taken_up_once(self, waiting, told):
        assert not resume_stalled(waiting)
        CloseJob.objects.update(
            heartbeat_at=timezone.now() - timedelta(seconds=40), status="running"
        )
        assert resume_stalled(waiting)
        assert not resume_stalled(waiting)
        assert told == [str(waiting.uuid)]

    def test_a_paused_one_when_its_time_has_come(self, waiting, told):
        silent = {"heartbeat_at": timezone.now() - timedelta(seconds=40), "status": "paused"}
        CloseJob.objects.update(**silent, resume_at=timezone.now() + timedelta(seconds=60))
        assert not resume_stalled(waiting)
        assert due_jobs() == []
        CloseJob.objects.update(**silent, resume_at=timezone.now())
        assert due_jobs() == [waiting]
        assert resume_stalled(waiting)

    def test_a_finished_one_and_a_draft_are_not(self, chats, close_all, told):
        chats(1)
        draft = create_close_job(ChatSession.objects.all(), draft=True)
        done = close_all()
        CloseJob.objects.update(heartbeat_at=timezone.now() - timedelta(days=1))
        assert not resume_stalled(done)
        assert not resume_stalled(draft)
        assert due_jobs() == []

    def test_the_oldest_that_waits_is_due_first(self, waiting):
        newer = create_close_job(ChatSession.objects.all(), start=False)
        assert due_jobs() == [waiting, newer]


class TestWhoMay:
    @pytest.fixture
    def job(self, staff, chats):
        chats(1)
        return create_close_job(ChatSession.objects.all(), requested_by=staff, start=False)

    def test_their_own_and_with_the_permission_all(self, job, staff, django_user_model, grant):
        other = grant(django_user_model.objects.create_user("else"), "close_chatsession")
        chief = grant(other, "view_closejob")
        assert list(visible_jobs(staff)) == list(visible_jobs(chief)) == [job]
        assert cancel_close_job(job, requested_by=chief).status == "cancelled"

    def test_nobody_else(self, job, django_user_model, grant):
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
class TestTogether:
    def test_with_somebody_who_closes_one_of_them(self, chats, osvi_sandbox, outcomes):
        """Whoever clicks meanwhile gets theirs, and the job waits for it."""
        first, other = chats(2)
        osvi_sandbox.latency = lambda chat: 1.5 if chat.id == first.session_id else 0
        thread = threading.Thread(target=close_elsewhere, args=[first])
        thread.start()
        wait_until(ChatSession.objects.filter(status="closing").exists)
        job = create_close_job(ChatSession.objects.all(), start=False)
        job = run_close_job(job.pk)
        thread.join()
        assert outcomes(job) == {first.session_id: "already_closed", other.session_id: "closed"}
        assert osvi_sandbox.close_requests(first.session_id) == 1

    def test_whoever_clicks_is_told_that_the_job_has_it(self, chats, osvi_sandbox):
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

    def test_several_run_one_job(self, chats, osvi_sandbox, settings):
        settings.OSVI["default"] |= {"CONCURRENCY": 4}
        sessions = chats(150)
        osvi_sandbox.latency = 0.01
        job = create_close_job(ChatSession.objects.all(), start=False)
        ended = []
        threads = [threading.Thread(target=run_elsewhere, args=[job, ended]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ended == [("completed", 150)] * 4
        assert {osvi_sandbox.close_requests(each.session_id) for each in sessions} == {1}
        assert not job.items.exclude(outcome="closed").exists()
        assert threading.active_count() < 40


def close_elsewhere(session):
    try:
        close_session(session)
    finally:
        connection.close()


def run_elsewhere(job, ended):
    try:
        done = run_close_job(job.pk)
        ended.append((done.status, done.succeeded))
    finally:
        connection.close()
