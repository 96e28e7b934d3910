"""Callers that are not users of this site: stateless tokens, services, rows of another model."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.utils.functional import SimpleLazyObject

from osvi_django.exceptions import NotAllowed
from osvi_django.models import ChatSession
from osvi_django.services import close_session
from osvi_django.services.jobs import (
    cancel_close_job,
    confirm_close_job,
    create_close_job,
    retry_close_job,
    run_close_job,
)
from osvi_django.services.permissions import requester_of, visible_jobs
from osvi_django.services.support import take_over
from osvi_django.testing import Drop, Status
from osvi_django.testing.factories import ChatAgentFactory
from tests.helpers.callers import CALLER_IDS, GroupProxy, PermittedCaller, ServiceCaller, TokenUser


def make_token_user(number):
    return TokenUser(number)


def make_unsaved_user(number):
    return _user_model()(pk=number, username="token", is_superuser=True)


def make_row_of_another_model(number):
    return GroupProxy.objects.create(pk=number, name="partners")


def _user_model():
    return get_user_model()


OTHERS = [make_token_user, make_unsaved_user, make_row_of_another_model]


@pytest.mark.parametrize("make", OTHERS)
class TestCallerWithKeyOfUser:
    def test_job_of_caller_is_hidden_from_user_with_same_key(self, chats, staff, make):
        job = create_close_job(chats(1), requested_by=make(staff.pk), start=False)
        assert job.requested_by is None
        assert list(visible_jobs(staff)) == []
        with pytest.raises(NotAllowed):
            cancel_close_job(job, requested_by=staff)

    def test_job_of_user_is_hidden_from_caller_with_same_key(self, chats, staff, make):
        job = create_close_job(chats(1), requested_by=staff, start=False)
        other = make(staff.pk)
        other.has_perm = PermittedCaller().has_perm
        assert list(visible_jobs(other)) == []
        with pytest.raises(NotAllowed):
            cancel_close_job(job, requested_by=other)

    def test_job_of_deleted_user_is_hidden_from_caller_with_same_key(self, chats, staff, make):
        number = staff.pk
        create_close_job(chats(1), requested_by=staff, start=False)
        staff.delete()
        other = make(number)
        other.has_perm = PermittedCaller().has_perm
        assert list(visible_jobs(other)) == []

    def test_job_of_caller_ignores_permissions_of_user_with_same_key(
        self, chats, staff, make, outcomes
    ):
        (session,) = chats(1)
        job = create_close_job([session], requested_by=make(staff.pk), start=False)
        staff.user_permissions.clear()
        assert outcomes(run_close_job(job.pk)) == {session.session_id: "closed"}
        (attempt,) = session.attempts.all()
        assert attempt.requested_by is None
        assert attempt.requester_key == str(staff.pk)
        assert attempt.requester_model == job.requester_model != "auth.User"


class TestOwnJobs:
    @pytest.mark.parametrize("number", CALLER_IDS)
    @pytest.mark.parametrize("kind", [TokenUser, ServiceCaller])
    def test_caller_with_any_id_sees_confirms_and_cancels_own_job(self, chats, kind, number):
        caller = kind(number)
        chats(1)
        job = create_close_job(ChatSession.objects.all(), requested_by=caller, draft=True)
        assert list(visible_jobs(kind(number))) == [job]
        confirm_close_job(job, requested_by=kind(number))
        assert cancel_close_job(job, requested_by=kind(number)).status == "cancelled"

    @pytest.mark.parametrize(
        "other", ["SVC-1", "svc-1 ", "svc-2", "", None, AnonymousUser(), ServiceCaller("svc-1")]
    )
    def test_caller_with_other_name_or_class_cannot_see_or_cancel_job(self, chats, other):
        job = create_close_job(chats(1), requested_by=TokenUser("svc-1"), start=False)
        other = TokenUser(other) if other is None or isinstance(other, str) else other
        assert list(visible_jobs(other)) == []
        with pytest.raises(NotAllowed):
            cancel_close_job(job, requested_by=other)

    def test_caller_without_name_cannot_see_or_cancel_own_job(self, chats):
        nameless = TokenUser(None)
        job = create_close_job(chats(1), requested_by=nameless, start=False)
        assert list(visible_jobs(nameless)) == []
        with pytest.raises(NotAllowed):
            cancel_close_job(job, requested_by=nameless)

    def test_job_of_host_code_is_hidden_from_all_callers(self, chats, staff):
        create_close_job(chats(1), start=False)
        for caller in (staff, TokenUser(None), TokenUser(""), AnonymousUser()):
            assert list(visible_jobs(caller)) == []

    def test_retry_by_another_user_is_visible_to_first_caller(
        self, chats, osvi_sandbox, admin_user
    ):
        (session,) = chats(1)
        osvi_sandbox.script(session.session_id, Status(403, errors=["No."]))
        job = create_close_job([session], requested_by=TokenUser("svc-1"), start=False)
        job = run_close_job(job.pk)
        retry = retry_close_job(job, requested_by=admin_user)
        assert set(visible_jobs(TokenUser("svc-1"))) == {job, retry}
        with pytest.raises(NotAllowed):
            cancel_close_job(retry, requested_by=TokenUser("svc-1"))

    def test_lazy_user_object_counts_as_that_user(self, chats, staff):
        lazy = SimpleLazyObject(lambda: staff)
        job = create_close_job(chats(1), requested_by=lazy, start=False)
        assert job.requested_by == staff
        assert list(visible_jobs(staff)) == [job]
        assert requester_of(lazy) == requester_of(staff)


class TestJournal:
    def test_attempt_and_action_store_the_caller(self, mirrored):
        session = mirrored(agent=ChatAgentFactory())
        action = take_over(session, requested_by=TokenUser("svc-1")).action
        attempt = close_session(session, requested_by=TokenUser("svc-1")).attempt
        for row in (action, attempt):
            row.refresh_from_db()
            assert (row.requested_by, row.requester_key) == (None, "svc-1")
            assert row.requester_model == "tests.helpers.callers.TokenUser"
            assert row.requester == "TokenUser svc-1"

    def test_attempt_of_deleted_user_still_names_the_user(self, mirrored, staff):
        session, key = mirrored(), staff.pk
        attempt = close_session(session, requested_by=staff).attempt
        assert (attempt.requester_model, attempt.requester_key) == ("auth.User", str(key))
        assert attempt.requester == "sam"
        staff.delete()
        attempt.refresh_from_db()
        assert attempt.requester == f"User {key}"

    def test_attempt_of_host_code_has_no_requester(self, mirrored):
        assert close_session(mirrored()).attempt.requester is None

    def test_unconfirmed_session_in_job_is_settled_for_caller_of_job(self, chats, osvi_sandbox):
        (session,) = chats(1)
        osvi_sandbox.script(session.session_id, Drop())
        run_close_job(create_close_job([session], start=False).pk)
        assert ChatSession.objects.get().status == "unconfirmed"
        job = create_close_job([session], requested_by=TokenUser("svc-1"), start=False)
        assert run_close_job(job.pk).succeeded == 1
        assert session.attempts.first().requester == "TokenUser svc-1"

    def test_requester_of_a_requester_is_the_same(self):
        requester = requester_of(TokenUser("svc-1"))
        assert requester_of(requester) is requester


class TestAdmin:
    def test_job_page_and_list_show_the_caller(self, chats, admin_client):
        job = create_close_job(chats(1), requested_by=TokenUser("svc-1"), start=False)
        page = f"/admin/osvi_django/closejob/{job.pk}/change/"
        for url in ("/admin/osvi_django/closejob/", page):
            assert "TokenUser svc-1" in admin_client.get(url).content.decode()

    def test_session_page_and_desk_show_the_caller(self, mirrored, admin_client):
        session = mirrored()
        take_over(session, requested_by=TokenUser("svc-1"))
        close_session(session, requested_by=TokenUser("svc-2"))
        base = f"/admin/osvi_django/chatsession/{session.pk}"
        assert "TokenUser svc-2" in admin_client.get(f"{base}/change/").content.decode()
        assert "TokenUser svc-1" in admin_client.get(f"{base}/desk/").content.decode()


def test_caller_without_attributes_has_empty_key():
    assert requester_of(SimpleNamespace()).key == ""
