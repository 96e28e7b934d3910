"""Jobs that say goodbye: each customer once, whatever becomes of the close and of the worker."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from osvi_django.exceptions import InvalidInput, NotAllowed
from osvi_django.models import ChatSession, CloseJob, SupportAction
from osvi_django.services import SessionFilter
from osvi_django.services.jobs import (
    confirm_close_job,
    create_close_job,
    retry_close_job,
    run_close_job,
)
from osvi_django.testing import Drop, Status
from tests.helpers.sandbox import CallThenAnswer

pytestmark = pytest.mark.django_db

BYE = "We close this chat now. Goodbye!"
AS_USUAL = CallThenAnswer(lambda: None)


@pytest.fixture
def goodbyes():
    """Return what became of the goodbye of each item of a job, by session id."""
    return lambda job: dict(job.items.values_list("requested_session_id", "goodbye"))


@pytest.fixture
def written():
    """Return how often each session was written to."""

    def _written(osvi):
        return [each.session_id for each in osvi.requests if set(each.body or {}) == {"message"}]

    return _written


def test_job_says_goodbye_to_each_customer_once(
    chats, close_all, osvi_sandbox, outcomes, goodbyes, written
):
    sessions = chats(12)
    job = close_all(goodbye=f" {BYE} ", note="Tidy")
    assert (job.status, job.succeeded, job.goodbye) == ("completed", 12, BYE)
    assert set(outcomes(job).values()) == {"closed"}
    assert set(goodbyes(job).values()) == {"sent"}
    ids = sorted(each.session_id for each in sessions)
    assert sorted(written(osvi_sandbox)) == ids
    assert [osvi_sandbox.close_requests(each) for each in ids] == [1] * 12
    assert {item.attempt.note for item in job.items.select_related("attempt")} == {"Tidy"}
    assert not ChatSession.objects.exclude(status="closed").exists()


def test_goodbye_that_fails_is_named_and_does_not_stop_the_close(
    chats, close_all, osvi_sandbox, outcomes, goodbyes
):
    refused, unknown, fine = chats(3)
    osvi_sandbox.script(refused.session_id, AS_USUAL, Status(422))
    osvi_sandbox.script(unknown.session_id, AS_USUAL, Drop())
    job = close_all(goodbye=BYE)
    assert set(outcomes(job).values()) == {"closed"}
    assert goodbyes(job) == {
        refused.session_id: "not_sent",
        unknown.session_id: "unknown",
        fine.session_id: "sent",
    }


def test_retry_closes_without_a_second_goodbye(chats, close_all, osvi_sandbox, goodbyes, written):
    (session,) = chats(1)
    osvi_sandbox.script(session.session_id, AS_USUAL, AS_USUAL, Status(422))
    job = close_all(goodbye=BYE)
    assert (job.failed, goodbyes(job)) == (1, {session.session_id: "sent"})
    session.refresh_from_db()
    assert (session.status, session.mode) == ("active", "ai")
    retry = run_close_job(retry_close_job(job).pk)
    assert (retry.succeeded, goodbyes(retry)) == (1, {session.session_id: "sent"})
    assert written(osvi_sandbox) == [session.session_id]


def test_account_that_cannot_be_used_pauses_the_job_before_the_goodbye(
    chats, close_all, osvi_sandbox, goodbyes, written
):
    (session,) = chats(1)
    osvi_sandbox.token = "another"
    job = close_all(goodbye=BYE)
    assert (job.status, goodbyes(job)) == ("paused", {session.session_id: ""})
    osvi_sandbox.token = "sandbox-token-16"
    CloseJob.objects.update(resume_at=timezone.now())
    assert run_close_job(job.pk).succeeded == 1
    assert written(osvi_sandbox) == [session.session_id]


def test_account_that_fails_after_the_goodbye_keeps_the_session_in_the_job(
    chats, osvi_sandbox, goodbyes, written
):
    (session,) = chats(1, last_activity_at=timezone.now() - timedelta(days=8))
    idle = SessionFilter(idle_since=timezone.now() - timedelta(days=7), mode="ai")
    job = create_close_job(idle, goodbye=BYE, start=False)
    osvi_sandbox.script(session.session_id, AS_USUAL, AS_USUAL, Status(401))
    job = run_close_job(job.pk)
    assert (job.status, goodbyes(job)) == ("paused", {session.session_id: "sent"})
    CloseJob.objects.update(resume_at=timezone.now())
    # The goodbye has changed what the filter looks at.
    assert run_close_job(job.pk).succeeded == 1
    assert written(osvi_sandbox) == [session.session_id]


def test_customer_who_asks_for_a_person_after_the_goodbye_is_left_out(
    chats, osvi_sandbox, outcomes
):
    (session,) = chats(1, last_activity_at=timezone.now() - timedelta(days=8))
    idle = SessionFilter(idle_since=timezone.now() - timedelta(days=7))
    job = create_close_job(idle, goodbye=BYE, start=False)
    osvi_sandbox.script(session.session_id, AS_USUAL, AS_USUAL, Status(401))
    run_close_job(job.pk)
    ChatSession.objects.update(help_requested=True)
    CloseJob.objects.update(resume_at=timezone.now())
    job = run_close_job(job.pk)
    assert (job.left_out, outcomes(job)) == (1, {session.session_id: "no_longer_matches"})


def test_session_that_no_longer_matches_is_not_written_to(chats, osvi_sandbox, outcomes, written):
    (session,) = chats(1, last_activity_at=timezone.now() - timedelta(days=8))
    idle = SessionFilter(idle_since=timezone.now() - timedelta(days=7))
    job = create_close_job(idle, goodbye=BYE, start=False)
    ChatSession.objects.update(last_activity_at=timezone.now())
    assert run_close_job(job.pk).left_out == 1
    assert outcomes(job) == {session.session_id: "no_longer_matches"}
    assert written(osvi_sandbox) == []


def test_session_closed_meanwhile_is_not_written_to(chats, close_all, osvi_sandbox, written):
    chats(1)
    job = create_close_job(ChatSession.objects.all(), goodbye=BYE, start=False)
    ChatSession.objects.update(status="closed")
    assert run_close_job(job.pk).succeeded == 1
    assert (written(osvi_sandbox), SupportAction.objects.exists()) == ([], False)


def test_refusal_of_a_gateway_keeps_what_became_of_the_goodbye(
    chats, close_all, osvi_sandbox, goodbyes
):
    (session,) = chats(1)
    osvi_sandbox.script(session.session_id, AS_USUAL, AS_USUAL, Status(404))
    job = close_all(goodbye=BYE)
    assert goodbyes(job) == {session.session_id: "sent"}


def test_draft_is_confirmed_with_a_goodbye(chats, osvi_sandbox, written, settings):
    settings.OSVI_EXECUTOR = None
    (session,) = chats(1)
    draft = create_close_job(ChatSession.objects.all(), draft=True)
    job = confirm_close_job(draft, goodbye=BYE)
    assert run_close_job(job.pk).succeeded == 1
    assert written(osvi_sandbox) == [session.session_id]


def test_goodbye_is_checked_when_the_job_is_created(chats, grant, django_user_model):
    chats(1)
    jo = grant(django_user_model.objects.create_user("jo"), "close_chatsession")
    with pytest.raises(NotAllowed):
        create_close_job(ChatSession.objects.all(), requested_by=jo, goodbye=BYE)
    with pytest.raises(InvalidInput, match="goodbye is too long"):
        create_close_job(ChatSession.objects.all(), goodbye="x" * 10_001)
    assert not CloseJob.objects.exists()
