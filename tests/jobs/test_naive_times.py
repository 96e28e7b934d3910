"""Without USE_TZ moments have no zone, and the database's clock and the site's differ by hours."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.core.management import call_command
from django.utils import timezone

from osvi_django.database import DatabaseNow, to_db_datetime
from osvi_django.exceptions import CloseInProgress
from osvi_django.models import ChatSession, CloseJob
from osvi_django.services import SessionFilter, close_session
from osvi_django.services.jobs import create_close_job, due_jobs, resume_stalled, run_close_job
from osvi_django.services.jobs.progress import is_stalled
from osvi_django.services.mirroring import mirror_session
from osvi_django.services.recovery import recover_session

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True, params=["Pacific/Auckland", "America/Los_Angeles", "UTC"])
def zone(request, settings):
    """A site without USE_TZ, east and west of UTC."""
    settings.TIME_ZONE = request.param
    settings.USE_TZ = False
    settings.OSVI_EXECUTOR = None
    assert timezone.is_naive(timezone.now())
    return request.param


@pytest.fixture
def at_work(chats):
    """A job that is at work just now."""
    job = create_close_job(chats(2), start=False)
    CloseJob.objects.update(
        status="running",
        heartbeat_at=DatabaseNow(),
        started_at=timezone.now(),
        running_since=timezone.now(),
    )
    return CloseJob.objects.get(pk=job.pk)


def age(job, **of):
    CloseJob.objects.update(heartbeat_at=DatabaseNow() - timedelta(**of))
    job.refresh_from_db()


class TestSignsOfLife:
    def test_job_that_is_at_work_is_not_left_alone(self, at_work):
        assert not is_stalled(at_work)
        assert not resume_stalled(at_work)
        assert due_jobs() == []

    def test_job_that_has_been_silent_is_left_alone(self, at_work):
        age(at_work, minutes=2)
        assert is_stalled(at_work)
        assert due_jobs() == [at_work]

    def test_paused_job_goes_on_at_its_time(self, at_work):
        CloseJob.objects.update(status="paused", resume_at=timezone.now() + timedelta(minutes=1))
        at_work.refresh_from_db()
        assert not is_stalled(at_work)
        assert due_jobs() == []
        CloseJob.objects.update(resume_at=timezone.now() - timedelta(minutes=1))
        age(at_work, minutes=2)
        assert is_stalled(at_work)
        assert due_jobs() == [at_work]

    def test_page_of_a_job_is_shown_whatever_its_state(self, at_work, admin_client):
        base = f"/admin/osvi_django/closejob/{at_work.pk}"
        pages = ["/admin/osvi_django/closejob/", f"{base}/change/", f"{base}/progress/"]
        for _state in ("running", "silent", "finished"):
            for page in pages:
                assert admin_client.get(page).status_code == 200, page
            assert admin_client.get(f"{base}/progress/").json()["is_finished"] == (
                _state == "finished"
            )
            if _state == "running":
                age(at_work, minutes=2)
            else:
                run_close_job(at_work.pk)


class TestLeases:
    def test_lease_that_is_not_over_is_respected(self, mirrored):
        later = DatabaseNow() + timedelta(minutes=1)
        session = mirrored(status="closing", previous_status="active", lease_until=later)
        with pytest.raises(CloseInProgress):
            close_session(session)
        with pytest.raises(CloseInProgress):
            recover_session(session)

    def test_lease_that_is_over_is_recovered(self, mirrored):
        over = DatabaseNow() - timedelta(minutes=1)
        session = mirrored(status="closing", previous_status="active", lease_until=over)
        session.claim = "0" * 32
        session.save()
        session.attempts.create(claim="0" * 32)
        recover_session(session)
        session.refresh_from_db()
        assert session.status == "active"

    def test_job_is_run_to_its_end(self, chats, admin_client):
        job = run_close_job(create_close_job(chats(3), start=False).pk)
        assert (job.status, job.succeeded) == ("completed", 3)
        assert timedelta() <= job.finished_at - job.started_at < timedelta(minutes=1)
        for session in ChatSession.objects.all():
            page = f"/admin/osvi_django/chatsession/{session.pk}/change/"
            assert admin_client.get(page).status_code == 200


class TestMomentsFromOutside:
    def test_what_osvi_tells_is_stored_in_the_zone_of_the_site(self, zone):
        moment = datetime(2026, 6, 4, 11, 40, tzinfo=UTC)
        told = {
            "id": "s1",
            "chat_agent_id": 1,
            "customer_id": "c",
            "status": "active",
            "mode": "ai",
            "created_at": moment.isoformat(),
            "updated_at": moment.isoformat(),
        }
        session = mirror_session(told)
        local = timezone.make_naive(moment, timezone.get_default_timezone())
        assert (session.started_at, session.last_activity_at) == (local, local)
        mirror_session({**told, "mode": "support", "updated_at": "2026-06-04T12:00:00Z"})
        session.refresh_from_db()
        assert (session.mode, session.last_activity_at) == (
            "support",
            local + timedelta(minutes=20),
        )

    def test_filter_is_the_same_when_it_is_asked_again(self, chats):
        quiet, _loud = chats(2)
        ChatSession.objects.filter(pk=quiet.pk).update(
            last_activity_at=timezone.now() - timedelta(hours=2)
        )
        chosen = SessionFilter(idle_since=timezone.now() - timedelta(hours=1))
        assert SessionFilter.from_json(chosen.as_json()) == chosen
        job = run_close_job(create_close_job(chosen, start=False).pk)
        assert list(job.items.values_list("requested_session_id", "outcome")) == [
            (quiet.session_id, "closed")
        ]

    def test_moment_over_rest_has_its_own_zone(self, chats, api):
        old, new = chats(2)
        hour_ago = timezone.now() - timedelta(hours=1)
        ChatSession.objects.filter(pk=old.pk).update(started_at=hour_ago - timedelta(minutes=1))
        ChatSession.objects.filter(pk=new.pk).update(started_at=hour_ago + timedelta(minutes=1))
        moment = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
        body = {"filter": {"started_before": moment}}
        made = api.post("/api/osvi/sessions/close/", body, format="json")
        job = run_close_job(CloseJob.objects.get().pk)
        assert list(job.items.values_list("requested_session_id", "outcome")) == [
            (old.session_id, "closed")
        ]
        assert api.get(made["Location"]).status_code == 200
        assert api.get("/api/osvi/sessions/").status_code == 200


class TestMomentsOverRest:
    @pytest.mark.parametrize("month", [1, 7])
    def test_each_says_its_offset_and_is_the_right_moment(self, chats, api, month):
        moment = datetime(2026, month, 4, 11, 40, tzinfo=UTC)
        (session,) = chats(1)
        body = {"session_ids": [session.session_id]}
        made = api.post("/api/osvi/sessions/close/", body, format="json")
        run_close_job(CloseJob.objects.get().pk)
        ChatSession.objects.update(started_at=to_db_datetime(moment))
        CloseJob.objects.update(created_at=to_db_datetime(moment))
        shown = api.get(f"/api/osvi/sessions/{session.session_id}/").json()
        assert datetime.fromisoformat(shown["started_at"]) == moment
        closed_ago = datetime.now(UTC) - datetime.fromisoformat(shown["closed_at"])
        assert timedelta() <= closed_ago < timedelta(minutes=5)
        created = api.get(made["Location"]).json()["created_at"]
        assert datetime.fromisoformat(created) == moment

    def test_hour_that_comes_twice_is_shown_with_an_offset(self, chats, api, zone):
        twice = {"Pacific/Auckland": "2026-04-05T02:30", "America/Los_Angeles": "2026-11-01T01:30"}
        (session,) = chats(1)
        moment = datetime.fromisoformat(twice.get(zone, "2026-04-05T02:30"))
        ChatSession.objects.update(started_at=moment)
        shown = api.get(f"/api/osvi/sessions/{session.session_id}/").json()["started_at"]
        told = datetime.fromisoformat(shown)
        assert told.tzinfo
        assert told.replace(tzinfo=None) == moment


@pytest.mark.django_db(transaction=True)
def test_command_closes_what_was_quiet_for_so_long(chats, capsys):
    quiet, loud = chats(2)
    hours = {quiet: 2, loud: 0}
    for session, ago in hours.items():
        moment = timezone.now() - timedelta(hours=ago)
        ChatSession.objects.filter(pk=session.pk).update(last_activity_at=moment)
    call_command("osvi_close", idle_for="1h")
    assert ChatSession.objects.get(status="closed") == quiet
    assert "1 closed" in capsys.readouterr().out
