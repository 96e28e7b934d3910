"""A job that was created by a filter checks it again before each session is closed."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from django.core.management import call_command
from django.db.models.signals import post_save
from django.utils import timezone
from rest_framework.test import APIClient

from osvi_django.exceptions import InvalidInput, NotAllowed
from osvi_django.models import ChatSession, CloseJob
from osvi_django.services import SessionFilter
from osvi_django.services.jobs import create_close_job, progress_of, retry_close_job, run_close_job
from osvi_django.testing import Drop, Status
from osvi_django.testing.factories import ChatAgentFactory, ChatSessionFactory

WEEK = timedelta(days=7)


@pytest.fixture
def quiet(chats):
    """Return three sessions in which nothing has happened for eight days, and their filter."""
    sessions = chats(3, last_activity_at=timezone.now() - timedelta(days=8))
    return sessions, SessionFilter(status=("active", "dormant"), idle_since=timezone.now() - WEEK)


@pytest.mark.parametrize(
    "change",
    [
        {"last_activity_at": timezone.now()},
        {"status": "dormant"},
        {"customer_id": "somebody else"},
        {"started_at": timezone.now() + timedelta(days=1)},
    ],
)
def test_session_that_no_longer_matches_filter_is_left_out(chats, osvi_sandbox, outcomes, change):
    one, two, three = chats(3, last_activity_at=timezone.now() - timedelta(days=8), customer_id="c")
    chosen = SessionFilter(
        status="active",
        customer_id="c",
        agent_uuid=one.agent.uuid,
        started_before=timezone.now() + timedelta(minutes=1),
        idle_since=timezone.now() - WEEK,
    )
    job = create_close_job(chosen, start=False)
    assert job.total == 3
    ChatSession.objects.filter(pk=two.pk).update(**change)
    job = run_close_job(job.pk)
    assert outcomes(job) == {
        one.session_id: "closed",
        two.session_id: "no_longer_matches",
        three.session_id: "closed",
    }
    assert (job.status, job.succeeded, job.left_out, job.done) == ("completed", 2, 1, 3)
    assert not osvi_sandbox.close_requests(two.session_id)
    two.refresh_from_db()
    assert two.is_open


def test_session_moved_to_another_agent_is_left_out(chats, outcomes):
    (session,) = chats(1)
    job = create_close_job(SessionFilter(agent_uuid=session.agent.uuid), start=False)
    ChatSession.objects.update(agent=ChatAgentFactory())
    assert run_close_job(job.pk).left_out == 1


def test_job_of_filter_without_status_closes_what_still_matches(chats, outcomes):
    one, two = chats(2, customer_id="c")
    job = create_close_job(SessionFilter(status=None, customer_id="c"), start=False)
    ChatSession.objects.filter(pk=one.pk).update(status="dormant")
    ChatSession.objects.filter(pk=two.pk).update(customer_id="another")
    assert outcomes(run_close_job(job.pk)) == {
        one.session_id: "closed",
        two.session_id: "no_longer_matches",
    }


def test_job_of_queryset_has_no_filter(chats, outcomes):
    sessions = chats(3)
    job = create_close_job(ChatSession.objects.filter(status="active"), start=False)
    assert job.session_filter is None
    ChatSession.objects.update(status="dormant", last_activity_at=timezone.now())
    assert run_close_job(job.pk).succeeded == len(sessions)


def test_session_closed_before_its_turn_is_already_closed(quiet, outcomes):
    _sessions, chosen = quiet
    job = create_close_job(chosen, start=False)
    ChatSession.objects.update(status="closed")
    assert set(outcomes(run_close_job(job.pk)).values()) == {"already_closed"}


def test_filter_is_checked_once_per_batch(quiet, django_assert_max_num_queries):
    _sessions, chosen = quiet
    plain = create_close_job(ChatSession.objects.none(), start=False)
    job = create_close_job(chosen, start=False)
    assert plain.is_finished
    ChatSession.objects.update(last_activity_at=timezone.now())
    with django_assert_max_num_queries(45):
        assert run_close_job(job.pk).left_out == 3


def test_paused_job_checks_filter_again(quiet, osvi_sandbox, outcomes):
    sessions, chosen = quiet
    job = create_close_job(chosen, start=False)
    osvi_sandbox.token = "another"
    assert run_close_job(job.pk).status == "paused"
    osvi_sandbox.token = "sandbox-token-16"
    ChatSession.objects.filter(pk=sessions[0].pk).update(last_activity_at=timezone.now())
    CloseJob.objects.update(resume_at=timezone.now())
    job = run_close_job(job.pk)
    assert outcomes(job)[sessions[0].session_id] == "no_longer_matches"
    assert (job.succeeded, job.left_out) == (2, 1)


def test_unconfirmed_session_is_matched_by_its_previous_status(quiet, osvi_sandbox, outcomes):
    sessions, chosen = quiet
    for session in sessions:
        osvi_sandbox.script(session.session_id, Drop())
    run_close_job(create_close_job(sessions, start=False).pk)
    assert set(ChatSession.objects.values_list("status", flat=True)) == {"unconfirmed"}
    statuses = ("active", "unconfirmed")
    chosen = SessionFilter(status=statuses, idle_since=timezone.now() - WEEK)
    job = create_close_job(chosen, start=False)
    ChatSession.objects.filter(pk=sessions[0].pk).update(last_activity_at=timezone.now())
    job = run_close_job(job.pk)
    assert (job.succeeded, job.left_out) == (2, 1)


def test_session_that_job_may_have_closed_is_settled_despite_filter(quiet, osvi_sandbox, outcomes):
    sessions, chosen = quiet
    job = create_close_job(chosen, start=False)
    token = "0" * 32
    (first, *_others) = sessions
    attempt = first.attempts.create(claim=token)
    over = timezone.now() - timedelta(hours=1)
    ChatSession.objects.filter(pk=first.pk).update(
        status="closing",
        previous_status="active",
        claim=token,
        lease_until=over,
        last_activity_at=timezone.now(),
    )
    job.items.filter(session=first).update(
        outcome="closing", claim=token, lease_until=over, attempt=attempt
    )
    assert run_close_job(job.pk).succeeded == 3


def test_retry_of_job_with_filter_keeps_filter(quiet, osvi_sandbox):
    sessions, chosen = quiet
    for session in sessions:
        osvi_sandbox.script(session.session_id, Status(403, errors=["No."]))
    job = run_close_job(create_close_job(chosen, start=False).pk)
    assert job.failed == 3
    retry = retry_close_job(job)
    assert retry.session_filter == job.session_filter
    ChatSession.objects.filter(pk=sessions[0].pk).update(last_activity_at=timezone.now())
    retry = run_close_job(retry.pk)
    assert (retry.succeeded, retry.left_out) == (2, 1)


def test_user_without_view_permission_cannot_use_filter(db, django_user_model, grant):
    user = grant(django_user_model.objects.create_user("jo"), "close_chatsession")
    with pytest.raises(NotAllowed):
        create_close_job(SessionFilter(), requested_by=user)
    assert not CloseJob.objects.exists()


@pytest.mark.parametrize("wrong", [{"agent_uuid": ""}, {"customer_id": "x" * 256}])
def test_filter_with_invalid_id_raises_invalid_input(wrong):
    with pytest.raises(InvalidInput):
        SessionFilter(**wrong)


def test_rest_job_with_filter_stores_filter_and_leaves_out(quiet, api, settings):
    settings.OSVI_EXECUTOR = None
    body = {"filter": {"status": "active", "started_before": "2999-01-01T00:00:00+02:00"}}
    made = api.post("/api/osvi/sessions/close/", body, format="json")
    assert made.status_code == 202, made.content
    job = CloseJob.objects.get()
    assert job.session_filter == {
        "status": ["active"],
        "started_before": "2998-12-31T22:00:00+00:00",
    }
    ChatSession.objects.filter(pk=quiet[0][0].pk).update(status="dormant")
    run_close_job(job.pk)
    shown = api.get(made["Location"]).json()
    assert (shown["succeeded"], shown["left_out"], shown["done"]) == (2, 1, 3)
    left_out = api.get(shown["results"], {"outcome": "no_longer_matches"}).json()["results"]
    assert [each["session_id"] for each in left_out] == [quiet[0][0].session_id]


def test_rest_job_with_ids_has_no_filter(quiet, api, settings):
    settings.OSVI_EXECUTOR = None
    ids = [each.session_id for each in quiet[0]]
    assert isinstance(api, APIClient)
    api.post("/api/osvi/sessions/close/", {"session_ids": ids}, format="json")
    assert CloseJob.objects.get().session_filter is None


@pytest.mark.django_db(transaction=True)
def test_osvi_close_with_filter_reports_what_was_left_out(quiet, osvi_sandbox, capsys):
    sessions, _chosen = quiet

    def wake(created, **_named):
        if not created:  # its items are there by now
            ChatSession.objects.filter(pk=sessions[2].pk).update(last_activity_at=timezone.now())

    post_save.connect(wake, sender=CloseJob)
    try:
        call_command("osvi_close", idle_for="7d")
    finally:
        post_save.disconnect(wake, sender=CloseJob)
    assert CloseJob.objects.get().session_filter["status"] == ["active", "dormant"]
    said = capsys.readouterr().out
    assert "2 closed, 0 failed" in said
    assert "1 left out" in said


def test_job_page_shows_what_was_left_out(quiet, admin_client):
    _sessions, chosen = quiet
    job = create_close_job(chosen, start=False)
    ChatSession.objects.update(last_activity_at=timezone.now())
    job = run_close_job(job.pk)
    assert (job.status, progress_of(job).counts) == ("completed", {"no_longer_matches": 3})
    base = f"/admin/osvi_django/closejob/{job.pk}"
    assert (
        "no longer matches the filter"
        in admin_client.get(f"{base}/change/").content.decode().lower()
    )
    state = admin_client.get(f"{base}/progress/").json()
    assert (state["done"], state["total"]) == (3, 3)
    assert state["counts"]["no_longer_matches"] == 3


class TestWhoAnswers:
    def test_mode_selects_who_answers_the_customer(self, chats, outcomes):
        (mine,), _others = chats(1, mode="support"), chats(1)
        job = run_close_job(create_close_job(SessionFilter(mode="support"), start=False).pk)
        assert outcomes(job) == {mine.session_id: "closed"}

    def test_excluded_agents_are_left_out(self, chats, outcomes):
        (one,), (two,), (kept,) = chats(1, agent=ChatAgentFactory()), chats(1), chats(1)
        ChatSession.objects.filter(pk=two.pk).update(agent=(other := ChatAgentFactory(uuid=None)))
        excluded = [one.agent.uuid, ChatAgentFactory().uuid]
        job = create_close_job(SessionFilter(exclude_agents=excluded), start=False)
        assert set(outcomes(job)) == {two.session_id, kept.session_id}
        assert SessionFilter.from_json(job.session_filter).exclude_agents == tuple(excluded)
        ChatSession.objects.filter(pk=kept.pk).update(agent=one.agent)
        ChatSession.objects.filter(pk=two.pk).update(agent=kept.agent)
        assert other.uuid is None
        assert run_close_job(job.pk).left_out == 1

    @pytest.mark.parametrize(
        ("wanted", "field"),
        [
            ({"exclude_agents": ["nonesuch"]}, "exclude_agents"),
            ({"agent_uuid": "nonesuch"}, "agent_uuid"),
            ({"account": "nonesuch"}, "account"),
            ({"closed_by": "nobody"}, "closed_by"),
            ({"close_job": 999_999}, "close_job"),
        ],
    )
    def test_value_that_this_site_does_not_have_closes_nothing(self, chats, staff, wanted, field):
        """A filter that excludes only what does not exist must not close all sessions."""
        chats(2)
        for user in (None, staff):
            with pytest.raises(InvalidInput) as caught:
                create_close_job(SessionFilter(**wanted), requested_by=user)
            assert caught.value.field == field
        assert not CloseJob.objects.exists()

    def test_agent_in_other_case_is_another(self, chats):
        agent = ChatAgentFactory(uuid="agent_a")
        chats(1, agent=agent)
        with pytest.raises(InvalidInput):
            create_close_job(SessionFilter(exclude_agents="AGENT_A"))

    def test_agent_deleted_since_keeps_the_job_running(self, chats, outcomes):
        (kept,) = chats(1)
        agent = ChatAgentFactory()
        job = create_close_job(SessionFilter(exclude_agents=agent.uuid), start=False)
        agent.delete()
        assert outcomes(run_close_job(job.pk)) == {kept.session_id: "closed"}

    @pytest.mark.parametrize(
        ("wanted", "field"),
        [
            ({"mode": "human"}, "mode"),
            ({"help_requested": "yes"}, "help_requested"),
            ({"exclude_agents": ["x"] * 2 + [str(number) for number in range(100)]}, None),
            ({"exclude_agents": [""]}, "exclude_agents"),
            ({"close_reason": "x" * 101}, "close_reason"),
        ],
    )
    def test_invalid_value_names_its_field(self, wanted, field):
        with pytest.raises(InvalidInput) as caught:
            SessionFilter(**wanted)
        assert caught.value.field == (field or "exclude_agents")

    def test_one_agent_can_be_excluded_by_its_id(self):
        assert SessionFilter(exclude_agents="a").exclude_agents == ("a",)

    @pytest.mark.parametrize("none", [[], (), set()])
    def test_filter_that_excludes_no_agent_is_one_without_that_condition(self, none):
        chosen = SessionFilter(exclude_agents=none)
        assert chosen == SessionFilter()
        assert "exclude_agents" not in chosen.as_json()

    def test_filter_stored_by_an_earlier_version_still_loads(self):
        assert SessionFilter.from_json({"status": ["active"]}) == SessionFilter(status="active")


class TestWaitingForAPerson:
    def test_idle_close_leaves_out_who_waits_for_a_person(self, quiet, outcomes):
        (waits, *others), chosen = quiet
        ChatSession.objects.filter(pk=waits.pk).update(help_requested=True)
        job = create_close_job(chosen, start=False)
        assert set(outcomes(job)) == {each.session_id for each in others}

    def test_idle_close_leaves_out_who_asks_for_a_person_later(self, quiet, outcomes):
        (waits, *_others), chosen = quiet
        job = create_close_job(chosen, start=False)
        ChatSession.objects.filter(pk=waits.pk).update(help_requested=True)
        job = run_close_job(job.pk)
        assert (job.succeeded, job.left_out) == (2, 1)
        assert outcomes(job)[waits.session_id] == "no_longer_matches"

    def test_idle_close_that_asks_for_them_closes_them(self, quiet, outcomes):
        (waits, *_others), chosen = quiet
        ChatSession.objects.filter(pk=waits.pk).update(help_requested=True)
        chosen = replace(chosen, help_requested=True)
        job = run_close_job(create_close_job(chosen, start=False).pk)
        assert outcomes(job) == {waits.session_id: "closed"}

    def test_close_by_other_conditions_includes_them(self, chats, outcomes):
        (waits,) = chats(1, help_requested=True)
        assert set(outcomes(create_close_job(SessionFilter(), start=False))) == {waits.session_id}


class TestSearch:
    def test_search_narrows_a_filter(self, chats, outcomes):
        (wanted,), _others = chats(1, customer_id="+15551112222"), chats(1)
        chats(1, customer_id="+15551112222", mode="support")
        job = create_close_job(SessionFilter(mode="ai"), search="2222", start=False)
        assert outcomes(job) == {wanted.session_id: "waiting"}
        assert "2222" not in f"{job.selection}{job.session_filter}"
        ChatSession.objects.update(mode="support")
        assert run_close_job(job.pk).left_out == 1  # the rest of the filter is checked again

    def test_search_that_cannot_be_done_is_refused(self, chats):
        chats(1)
        for text in ("", "…", "x" * 1_000):
            with pytest.raises(InvalidInput) as caught:
                create_close_job(SessionFilter(), search=text)
            assert caught.value.field == "search"
        assert not CloseJob.objects.exists()

    def test_search_that_finds_too_many_is_refused(self, db):
        ChatSessionFactory.create_batch(1_001, customer_id="+15551112222")
        with pytest.raises(InvalidInput, match="More than 1000 chats match") as caught:
            create_close_job(SessionFilter(), search="2222")
        assert caught.value.field == "search"

    def test_search_needs_a_filter(self, chats):
        with pytest.raises(InvalidInput) as caught:
            create_close_job(chats(1), search="2222")
        assert caught.value.field == "search"

    def test_search_keeps_the_callers_own_words(self, chats):
        chats(1, customer_id="+15551112222")
        job = create_close_job(SessionFilter(), search="2222", selection="Mine", start=False)
        assert job.selection == "Mine"

    def test_rest_job_takes_search(self, chats, api, settings):
        settings.OSVI_EXECUTOR = None
        (wanted,), _others = chats(1, customer_id="+15551112222"), chats(1)
        body = {"filter": {"search": "2222"}}
        assert api.post("/api/osvi/sessions/close/", body, format="json").status_code == 202
        assert [each.session for each in CloseJob.objects.get().items.all()] == [wanted]

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize("wrong", [5, None, "", "…", ["x"]])
    def test_rest_job_with_wrong_search_names_it(self, chats, api, wrong):
        chats(1)
        body = {"filter": {"search": wrong, "status": "active"}}
        response = api.post("/api/osvi/sessions/close/", body, format="json")
        assert response.status_code == 400
        assert "search" in f"{response.json()['errors']}"
        assert not CloseJob.objects.exists()
