"""Without USE_TZ times have no zone, and the clocks of database and site differ by hours."""

from __future__ import annotations

import io
import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from django.core.management import call_command
from django.utils import timezone
from django.utils.timezone import get_default_timezone

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
    """Use a time zone east or west of UTC, without USE_TZ."""
    settings.TIME_ZONE = request.param
    settings.USE_TZ = False
    settings.OSVI_EXECUTOR = None
    assert timezone.is_naive(timezone.now())
    return request.param


@pytest.fixture
def running_job(chats):
    """Return a job that a worker is running."""
    job = create_close_job(chats(2), start=False)
    CloseJob.objects.update(
        status="running",
        heartbeat_at=DatabaseNow(),
        started_at=timezone.now(),
        running_since=timezone.now(),
    )
    return CloseJob.objects.get(pk=job.pk)


def age_heartbeat(job, **of):
    """Set the last heartbeat back by so much time."""
    CloseJob.objects.update(heartbeat_at=DatabaseNow() - timedelta(**of))
    job.refresh_from_db()


class TestHeartbeat:
    def test_job_with_recent_heartbeat_is_not_stalled(self, running_job):
        assert not is_stalled(running_job)
        assert not resume_stalled(running_job)
        assert due_jobs() == []

    def test_job_with_old_heartbeat_is_stalled_and_due(self, running_job):
        age_heartbeat(running_job, minutes=2)
        assert is_stalled(running_job)
        assert due_jobs() == [running_job]

    def test_paused_job_is_due_after_its_resume_time(self, running_job):
        CloseJob.objects.update(status="paused", resume_at=timezone.now() + timedelta(minutes=1))
        running_job.refresh_from_db()
        assert not is_stalled(running_job)
        assert due_jobs() == []
        CloseJob.objects.update(resume_at=timezone.now() - timedelta(minutes=1))
        age_heartbeat(running_job, minutes=2)
        assert is_stalled(running_job)
        assert due_jobs() == [running_job]

    def test_job_pages_in_each_state_are_shown(self, running_job, admin_client):
        base = f"/admin/osvi_django/closejob/{running_job.pk}"
        pages = ["/admin/osvi_django/closejob/", f"{base}/change/", f"{base}/progress/"]
        for _state in ("running", "silent", "finished"):
            for page in pages:
                assert admin_client.get(page).status_code == 200, page
            assert admin_client.get(f"{base}/progress/").json()["is_finished"] == (
                _state == "finished"
            )
            if _state == "running":
                age_heartbeat(running_job, minutes=2)
            else:
                run_close_job(running_job.pk)


class TestLeases:
    def test_lease_that_runs_blocks_close_and_recovery(self, mirrored):
        later = DatabaseNow() + timedelta(minutes=1)
        session = mirrored(status="closing", previous_status="active", lease_until=later)
        with pytest.raises(CloseInProgress):
            close_session(session)
        with pytest.raises(CloseInProgress):
            recover_session(session)

    def test_session_with_expired_lease_is_recovered(self, mirrored):
        over = DatabaseNow() - timedelta(minutes=1)
        session = mirrored(status="closing", previous_status="active", lease_until=over)
        session.claim = "0" * 32
        session.save()
        session.attempts.create(claim="0" * 32)
        recover_session(session)
        session.refresh_from_db()
        assert session.status == "active"

    def test_job_completes_and_session_pages_are_shown(self, chats, admin_client):
        job = run_close_job(create_close_job(chats(3), start=False).pk)
        assert (job.status, job.succeeded) == ("completed", 3)
        assert timedelta() <= job.finished_at - job.started_at < timedelta(minutes=1)
        for session in ChatSession.objects.all():
            page = f"/admin/osvi_django/chatsession/{session.pk}/change/"
            assert admin_client.get(page).status_code == 200


class TestTimesFromOutside:
    def test_times_from_osvi_are_stored_in_zone_of_site(self, zone):
        moment = datetime(2026, 6, 4, 11, 40, tzinfo=UTC)
        answer = {
            "id": "s1",
            "chat_agent_id": 1,
            "customer_id": "c",
            "status": "active",
            "mode": "ai",
            "created_at": moment.isoformat(),
            "updated_at": moment.isoformat(),
        }
        session = mirror_session(answer)
        local = timezone.make_naive(moment, timezone.get_default_timezone())
        assert (session.started_at, session.last_activity_at) == (local, local)
        mirror_session({**answer, "mode": "support", "updated_at": "2026-06-04T12:00:00Z"})
        session.refresh_from_db()
        assert (session.mode, session.last_activity_at) == (
            "support",
            local + timedelta(minutes=20),
        )

    def test_filter_restored_from_json_is_equal_and_matches(self, chats):
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

    def test_time_in_rest_filter_is_read_with_its_offset(self, chats, api):
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


class TestTimesInRest:
    @pytest.mark.parametrize("month", [1, 7])
    def test_rest_times_have_an_offset_and_are_right(self, chats, api, month):
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

    def test_rest_time_in_repeated_hour_has_an_offset(self, chats, api, zone):
        twice = {"Pacific/Auckland": "2026-04-05T02:30", "America/Los_Angeles": "2026-11-01T01:30"}
        (session,) = chats(1)
        moment = datetime.fromisoformat(twice.get(zone, "2026-04-05T02:30"))
        ChatSession.objects.update(started_at=moment)
        shown = api.get(f"/api/osvi/sessions/{session.session_id}/").json()["started_at"]
        answer = datetime.fromisoformat(shown)
        assert answer.tzinfo == UTC
        assert answer.astimezone(get_default_timezone()).replace(tzinfo=None) == moment


MOMENT = re.compile(r"\d{4}-\d\d-\d\dT[^\"]*")
CUSTOMER = "+15551112222"


def of_rest(client):
    body = {"customer_id": CUSTOMER}
    return client.post("/api/osvi/customers/export/", body, content_type="application/json").text


def of_admin(client):
    page = f"/admin/osvi_django/chatsession/{ChatSession.objects.get().pk}/erase/"
    return client.post(page, {"export": "yes"}).text


def of_command(_client):
    out = io.StringIO()
    call_command("osvi_export_customer", customer=CUSTOMER, stdout=out)
    return out.getvalue()


class TestTimesForOthers:
    @pytest.mark.parametrize("exported", [of_rest, of_admin, of_command])
    def test_export_of_customer_has_times_in_utc(self, chats, admin_client, exported):
        chats(1, customer_id=CUSTOMER)
        started = datetime(2026, 6, 4, 11, 40, 0, 123456, tzinfo=UTC)
        ChatSession.objects.update(started_at=to_db_datetime(started))
        text = exported(admin_client)
        assert all(each.endswith("Z") for each in MOMENT.findall(text)), text
        found = json.loads(text)
        assert is_recent(found["exported_at"])
        (session,) = found["sessions"][0]["chatsession"]
        assert session["started_at"] == "2026-06-04T11:40:00.123456Z"

    def test_figures_as_json_have_their_time_in_utc(self):
        out = io.StringIO()
        call_command("osvi_stats", "--json", stdout=out)
        assert is_recent(json.loads(out.getvalue())["made_at"])


def is_recent(text):
    """Return whether a text is a moment in UTC, of the last minutes."""
    ago = datetime.now(UTC) - datetime.fromisoformat(text)
    return text.endswith("Z") and timedelta() <= ago < timedelta(minutes=5)


@pytest.mark.django_db(transaction=True)
def test_osvi_close_with_idle_for_closes_only_quiet_sessions(chats, capsys):
    quiet, loud = chats(2)
    hours = {quiet: 2, loud: 0}
    for session, ago in hours.items():
        moment = timezone.now() - timedelta(hours=ago)
        ChatSession.objects.filter(pk=session.pk).update(last_activity_at=moment)
    call_command("osvi_close", idle_for="1h")
    assert ChatSession.objects.get(status="closed") == quiet
    assert "1 closed" in capsys.readouterr().out
