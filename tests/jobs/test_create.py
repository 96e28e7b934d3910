"""``create_close_job``: what a job is made of, who may create it, and how it is started."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest
from django.contrib.auth.models import AnonymousUser
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from osvi_django.exceptions import InvalidInput, NotAllowed
from osvi_django.models import ChatSession, CloseJob
from osvi_django.services.jobs import confirm_close_job, create_close_job, run_close_job
from osvi_django.services.jobs.lifecycle import delete_stale_drafts
from osvi_django.testing.factories import ChatSessionFactory, ClosedSessionFactory


def fail_to_start(job_id):
    """Raise instead of starting a job, as an executor without its queue does."""
    raise RuntimeError("no queue today")


def requested_ids(job):
    """Return the ids of a job's items, in the order of the items."""
    return list(job.items.values_list("requested_session_id", flat=True))


class TestSelection:
    def test_queryset_in_any_order_makes_items_in_key_order(
        self, agent, django_assert_max_num_queries
    ):
        sessions = ChatSessionFactory.create_batch(3, agent=agent)
        with django_assert_max_num_queries(13):
            job = create_close_job(ChatSession.objects.order_by("-session_id"))
        assert requested_ids(job) == [session.session_id for session in sessions]
        assert list(job.items.values_list("session", flat=True)) == [s.pk for s in sessions]
        assert set(job.items.values_list("account", "outcome")) == {("default", "waiting")}
        assert (job.total, job.done, job.status) == (3, 0, "queued")

    def test_queryset_with_join_makes_one_item_per_session(self, agent):
        session = ChatSessionFactory(agent=agent)
        for claim in (1, 2):
            session.attempts.create(claim=f"{claim:032}")
        twice = ChatSession.objects.filter(attempts__outcome="started")
        assert len(twice) == 2
        assert requested_ids(create_close_job(twice)) == [session.session_id]

    def test_queryset_slice_makes_items_of_that_slice(self, agent):
        ChatSessionFactory.create_batch(3, agent=agent)
        newest = ChatSession.objects.order_by("-pk")[:2]
        assert requested_ids(create_close_job(newest)) == [each.session_id for each in newest]

    def test_sessions_and_ids_mixed_make_one_item_each(self, agent):
        one, two = ChatSessionFactory.create_batch(2, agent=agent)
        job = create_close_job([one, two.session_id, one.session_id, two, "nobody's"])
        found = dict(job.items.values_list("requested_session_id", "outcome"))
        assert found == {
            one.session_id: "waiting",
            two.session_id: "waiting",
            "nobody's": "not_found",
        }
        assert (job.total, job.done, job.failed) == (3, 1, 1)

    def test_id_that_differs_in_case_is_not_found(self, agent):
        ChatSessionFactory(agent=agent, session_id="session-a")
        job = create_close_job(["SESSION-A"])
        assert [item.outcome for item in job.items.all()] == ["not_found"]

    def test_generator_of_ids_makes_items_in_its_order(self, agent):
        ids = [each.session_id for each in ChatSessionFactory.create_batch(2, agent=agent)]
        assert requested_ids(create_close_job(each for each in ids)) == ids

    @pytest.mark.parametrize("bad", ["", "a\x00b", "x" * 256, "\ud800", None, 7])
    def test_invalid_id_raises_invalid_input(self, db, bad):
        with pytest.raises(InvalidInput) as caught:
            create_close_job(["fine", bad])
        assert caught.value.field == "session_ids"
        assert not CloseJob.objects.exists()

    @pytest.mark.parametrize(
        ("named", "field"),
        [
            ({"note": "x" * 1001}, "note"),
            ({"note": None}, "note"),
            ({"via": "x" * 33}, "via"),
            ({"via": 7}, "via"),
        ],
    )
    def test_invalid_note_or_via_raises_invalid_input(self, db, named, field):
        with pytest.raises(InvalidInput) as caught:
            create_close_job([], **named)
        assert caught.value.field == field

    @pytest.mark.parametrize("wanted", ["v-003", 5, None])
    def test_single_value_instead_of_list_raises_invalid_input(self, db, wanted):
        with pytest.raises(InvalidInput, match="must be a list of ids") as caught:
            create_close_job(wanted)
        assert caught.value.field == "session_ids"

    @pytest.mark.parametrize("nothing", [[], ["unknown"]])
    def test_job_without_waiting_items_is_finished_at_once(self, started, db, nothing):
        with transaction.atomic():
            job = create_close_job(nothing)
        assert job.is_finished
        assert job.status == ("completed_with_errors" if nothing else "completed")
        assert started == []
        assert run_close_job(job.pk).finished_at == job.finished_at

    def test_large_job_takes_few_queries(self, agent, django_assert_max_num_queries):
        new = (ChatSession(session_id=f"s-{number}", agent=agent) for number in range(2_500))
        ChatSession.objects.bulk_create(new)
        with django_assert_max_num_queries(60):
            job = create_close_job(ChatSession.objects.all())
        assert job.total == job.items.count() == 2_500


class TestPermission:
    def test_user_without_permission_creates_no_job(self, agent, django_user_model):
        nobody = django_user_model.objects.create_user("nobody")
        session = ChatSessionFactory(agent=agent)
        for user in (nobody, AnonymousUser()):
            for wanted in ([session], ["unknown"], [], ChatSession.objects.all(), iter([session])):
                with CaptureQueriesContext(connection) as queries, pytest.raises(NotAllowed):
                    create_close_job(wanted, requested_by=user)
                # However many they are: nothing is written that would have to be undone.
                assert not [each for each in queries if "INSERT" in each["sql"]]
        assert not CloseJob.objects.exists()

    def test_user_with_permission_on_some_sessions_has_others_refused(
        self, agent, django_user_model, settings
    ):
        settings.AUTHENTICATION_BACKENDS = ["tests.jobs.test_create.VIPBackend"]
        user = django_user_model.objects.create_user("vip desk")
        vip = ChatSessionFactory(agent=agent, customer_id="vip")
        other = ChatSessionFactory(agent=agent)
        job = create_close_job(iter([vip, other, "unknown"]), requested_by=user)
        assert dict(job.items.values_list("requested_session_id", "outcome")) == {
            vip.session_id: "waiting",
            other.session_id: "not_allowed",
            "unknown": "not_allowed",  # the user must not learn whether it exists
        }
        assert (job.failed, job.requested_by) == (2, user)


class VIPBackend:
    """A backend that grants the permission on sessions of the customer "vip" alone."""

    def authenticate(self, request, **credentials):
        return None

    def has_perm(self, user, permission, obj=None):
        wanted = permission == "osvi_django.close_chatsession"
        return wanted and obj is not None and obj.customer_id == "vip"


class TestExecutor:
    def test_executor_in_transaction_is_called_after_commit(
        self, agent, started, django_capture_on_commit_callbacks
    ):
        ChatSessionFactory(agent=agent)
        with django_capture_on_commit_callbacks(execute=True):
            job = create_close_job(ChatSession.objects.all())
            assert started == []
        assert started == [str(job.uuid)]

    @pytest.mark.django_db(transaction=True)
    def test_executor_after_rollback_is_not_called(self, started):
        ChatSessionFactory()
        with transaction.atomic():
            create_close_job(ChatSession.objects.all())
            transaction.set_rollback(True)
        assert started == []
        assert not CloseJob.objects.exists()

    @pytest.mark.django_db(transaction=True)
    def test_executor_outside_transaction_is_called_at_once(self, started):
        ChatSessionFactory()
        job = create_close_job(ChatSession.objects.all())
        assert started == [str(job.uuid)]

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize("path", ["tests.jobs.test_create.fail_to_start", "no.such.place"])
    def test_executor_that_fails_leaves_job_queued(self, settings, caplog, path):
        settings.OSVI_EXECUTOR = path
        ChatSessionFactory()
        job = create_close_job(ChatSession.objects.all())
        assert job.status == "queued"
        assert f"close job {job.pk} could not be started" in caplog.text

    @pytest.mark.django_db(transaction=True)
    def test_executor_set_to_none_leaves_job_queued_without_warning(self, settings, caplog):
        settings.OSVI_EXECUTOR = None
        ChatSessionFactory()
        assert create_close_job(ChatSession.objects.all()).status == "queued"
        assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []


class TestDraft:
    def test_draft_when_confirmed_is_queued_and_started(
        self, agent, started, django_capture_on_commit_callbacks
    ):
        ChatSessionFactory(agent=agent)
        with django_capture_on_commit_callbacks(execute=True):
            job = create_close_job(ChatSession.objects.all(), draft=True)
        assert (job.status, job.total, started) == ("draft", 1, [])
        assert run_close_job(job.pk).status == "draft"
        with django_capture_on_commit_callbacks(execute=True):
            confirmed = confirm_close_job(job, note=" Season's end ")
        assert (confirmed.status, confirmed.note, started) == (
            "queued",
            "Season's end",
            [str(job.uuid)],
        )

    def test_draft_confirmed_twice_raises_invalid_input(self, agent, started):
        ChatSessionFactory(agent=agent)
        job = create_close_job(ChatSession.objects.all(), draft=True)
        confirm_close_job(job)
        with pytest.raises(InvalidInput):
            confirm_close_job(job, note="again")
        assert CloseJob.objects.get().note == ""

    def test_draft_of_another_user_cannot_be_confirmed(
        self, staff, agent, django_user_model, grant
    ):
        ChatSessionFactory(agent=agent)
        job = create_close_job(ChatSession.objects.all(), requested_by=staff, draft=True)
        other = grant(django_user_model.objects.create_user("else"), "close_chatsession")
        with pytest.raises(NotAllowed):
            confirm_close_job(job, requested_by=other)
        assert CloseJob.objects.get().status == "draft"

    def test_draft_older_than_a_day_is_deleted(self, agent):
        ClosedSessionFactory(agent=agent)
        old, new = (create_close_job(ChatSession.objects.all(), draft=True) for _ in range(2))
        begun = create_close_job(ChatSession.objects.all())
        long_ago = timezone.now() - timedelta(hours=25)
        CloseJob.objects.exclude(pk=new.pk).update(created_at=long_ago)
        delete_stale_drafts()
        assert set(CloseJob.objects.all()) == {new, begun}
        assert not old.items.exists()
