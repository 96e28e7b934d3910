"""Tests of the page of a close job: progress, failures, cancel and retry."""

from __future__ import annotations

import re

import pytest
from django.contrib.admin import site
from django.contrib.admin.models import LogEntry
from django.utils import timezone
from django.utils.formats import date_format

from osvi_django.admin import jobs as admin_jobs
from osvi_django.admin.job_progress import OUTCOMES
from osvi_django.admin.moments import duration_text
from osvi_django.database import DatabaseNow
from osvi_django.models import ChatSession, CloseJob, CloseJobItem
from osvi_django.services.jobs import create_close_job, run_close_job
from osvi_django.testing import Drop, Status
from osvi_django.testing.factories import ChatSessionFactory
from tests.helpers.datetimes import db_datetime

pytestmark = pytest.mark.django_db

WITH_FAILURES = {
    "status": "completed_with_errors",
    "closed": 1,
    "rejected": 2,
    "unconfirmed": 1,
    "cancelled": 1,
}


@pytest.fixture
def page(staff_client, job_url):
    """Return the HTML of the page of a job."""
    return lambda job: staff_client.get(job_url("change", job)).text


@pytest.fixture
def progress_of(staff_client, job_url):
    """Return the data that the script on the page of a job reads."""
    return lambda job: staff_client.get(job_url("progress", job)).json()


def is_hidden(html, outcome):
    """Return whether the count of this outcome is on the page and hidden."""
    (mark,) = re.findall(rf'<li( hidden)?><a href="[^"]+\?outcome={outcome}"', html)
    return bool(mark)


class TestFacts:
    def test_page_finished_job_shows_who_when_and_why(self, page, make_job):
        job = make_job("completed", closed=1)
        CloseJob.objects.update(note="<b>Tidy</b>")
        html = page(job)
        began = date_format(db_datetime("2026-01-01T10:00Z"), "DATETIME_FORMAT")
        for expected in (
            f"Close job {job.pk}",
            '<dt>Requested by</dt><dd dir="auto">sam</dd>',
            '<dt>Where</dt><dd dir="auto">admin</dd>',
            '<dt>Note</dt><dd dir="auto">&lt;b&gt;Tidy&lt;/b&gt;</dd>',
            f'<dt>Started</dt><dd dir="auto">{began}</dd>',
            f'<dt>Finished</dt><dd dir="auto">{began}, after 42 seconds</dd>',
        ):
            assert expected in html

    @pytest.mark.parametrize(
        ("seconds", "words"),
        [(3.04, "3 seconds"), (3.6, "4 seconds"), (0.2, "1 second"), (99.7, "2 minutes")],
    )
    def test_page_finished_job_rounds_how_long_it_took(self, page, make_job, seconds, words):
        job = make_job("completed", closed=1)
        ended = job.started_at + timezone.timedelta(seconds=seconds)
        CloseJob.objects.update(finished_at=ended)
        assert f", after {words}</dd>" in page(job)

    def test_page_queued_job_omits_missing_facts(self, page, make_job):
        html = page(make_job("queued", waiting=1))
        for label in ("Note", "Retry of", "Started", "Finished"):
            assert f"<dt>{label}</dt>" not in html
        assert "<dt>Created</dt>" in html

    def test_page_job_that_never_started_omits_duration(self, page, staff):
        session = ChatSessionFactory(status="closed")
        job = create_close_job([session, "unknown"], requested_by=staff)
        CloseJobItem.objects.filter(session=session).delete()
        moment = db_datetime("2026-01-01T10:00Z")
        CloseJob.objects.update(status="completed", finished_at=moment)
        html = page(job)
        assert f"{date_format(moment, 'DATETIME_FORMAT')}<" in html
        assert ", after" not in html

    def test_edit_add_and_delete_job_return_403(self, admin_client, make_job, job_url):
        job = make_job(waiting=1)
        add = "/admin/osvi_django/closejob/add/"
        for url in (add, job_url("delete", job), job_url("change", job)):
            assert admin_client.post(url, {"status": "completed"}).status_code == 403
        job.refresh_from_db()
        assert job.status == "running"


class TestProgress:
    def test_page_running_job_shows_progress_text_and_bar(self, page, make_job):
        job = make_job(closed=2, already_closed=1, rejected=1, closing=2, waiting=2)
        html = page(job)
        assert '<strong class="osvi-status osvi-job-running" data-osvi="status">running' in html
        assert '<label for="osvi-progress" data-osvi="done">4 of 8 done (50 %)</label>' in html
        assert '<progress id="osvi-progress" value="4" max="8"></progress>' in html
        assert not is_hidden(html, "closed")
        assert is_hidden(html, "cancelled")

    def test_outcomes_include_every_item_outcome(self):
        assert sorted(OUTCOMES) == sorted(CloseJobItem.Outcome)

    def test_page_unfinished_job_refreshes_itself(self, page, make_job, job_url):
        job = make_job(closed=1, waiting=1)
        html = page(job)
        assert f'data-progress="{job_url("progress", job)}"' in html
        assert 'osvi_django/close_job.js" defer></script>' in html
        assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in html
        assert not re.search(r"<script>|onclick|<style|style=", html.split('id="content"')[1])

    def test_page_finished_job_does_not_refresh(self, page, make_job):
        html = page(make_job(**WITH_FAILURES))
        for absent in ("data-progress", "close_job.js", "http-equiv", "osvi-job-stale"):
            assert absent not in html

    def test_progress_running_job_returns_all_page_data(self, progress_of, make_job):
        job = make_job(closed=2, unconfirmed=1, waiting=5)
        # An hour, so that the seconds that this test takes change neither number.
        since = timezone.now() - timezone.timedelta(hours=1)
        CloseJob.objects.update(
            running_since=since, started_at=since, succeeded=7_199, total=79_200
        )
        data = progress_of(job)
        texts = data.pop("texts")
        assert texts.pop("speed") == "2.0 a second, about 10 hours left"
        assert "Need attention: 1</h2>" in data.pop("failures")
        assert 'value="Check with OSVI (1)"' in data.pop("actions")
        assert data == {
            "attention": 1,
            "status": "running",
            "is_finished": False,
            "done": 3,
            "total": 8,
            "counts": {
                "closed": 2,
                "already_closed": 0,
                "not_sent": 0,
                "rejected": 0,
                "not_found": 0,
                "not_allowed": 0,
                "unconfirmed": 1,
                "no_longer_matches": 0,
                "help_requested": 0,
                "taken_over": 0,
                "cancelled": 0,
                "closing": 0,
                "waiting": 5,
            },
        }
        assert texts == {
            "title": f"37 % · Close job {job.pk}",
            "status": "running",
            "trouble": "",
            "resumes": "",
            "done": "3 of 8 done (37 %)",
            "closed": "2",
            "unconfirmed": "1",
            "waiting": "5",
        }

    def test_progress_slow_job_shows_pace_per_minute(self, progress_of, make_job):
        job = make_job(closed=2, waiting=8)
        now = timezone.now()
        CloseJob.objects.update(
            running_since=now - timezone.timedelta(minutes=1), heartbeat_at=DatabaseNow()
        )
        assert progress_of(job)["texts"]["speed"] == "2 a minute, about 4 minutes left"

    @pytest.mark.parametrize("status", ["queued", "running", "paused"])
    def test_progress_stalled_job_without_executor_says_it_waits(
        self, progress_of, make_job, settings, status
    ):
        settings.OSVI_EXECUTOR = None
        job = make_job(status, closed=2, waiting=8)
        long_ago = timezone.now() - timezone.timedelta(minutes=1)
        CloseJob.objects.update(running_since=long_ago, heartbeat_at=long_ago, resume_at=long_ago)
        for _look in range(2):
            texts = progress_of(job)["texts"]
            assert "This job is waiting." in texts["resumes"]
            assert "osvi_worker" in texts["resumes"]
            assert texts["speed"] == ""

    @pytest.mark.parametrize(
        ("wait", "words"),
        [
            (25, "It continues automatically in about 25 seconds."),
            (-1, "It continues automatically in a moment."),
        ],
    )
    def test_progress_paused_job_shows_reason_and_wait(
        self, progress_of, page, make_job, wait, words
    ):
        job = make_job("paused", closed=1, waiting=1)
        resume_at = timezone.now() + timezone.timedelta(seconds=wait)
        CloseJob.objects.update(paused_by="unreachable", resume_at=resume_at)
        texts = progress_of(job)["texts"]
        assert texts["status"] == "paused"
        assert texts["trouble"] == "OSVI cannot be reached."
        assert texts["resumes"] == words
        assert "OSVI cannot be reached." in page(job)

    @pytest.mark.parametrize(
        ("code", "words"),
        [
            ("unauthorized", "OSVI refuses this site's API token."),
            ("not_configured", "OSVI is not set up on this site."),
            ("", ""),
        ],
    )
    def test_progress_paused_job_shows_reason_for_each_code(
        self, progress_of, make_job, code, words
    ):
        job = make_job("paused", waiting=1)
        CloseJob.objects.update(paused_by=code)
        trouble = progress_of(job)["texts"]["trouble"]
        assert trouble.startswith(words)
        assert bool(trouble) == bool(words)

    @pytest.mark.parametrize(
        ("seconds", "words"),
        [
            (0, "1 second"),
            (1.2, "2 seconds"),
            (99, "99 seconds"),
            (100, "2 minutes"),
            (3600, "60 minutes"),
            (7300, "2 hours"),
            (90_000, "25 hours"),
            (10 * 86_400, "10 days"),
        ],
    )
    def test_spoken_seconds_returns_fitting_unit(self, seconds, words):
        assert duration_text(seconds) == words

    def test_page_with_thousand_separator_keeps_bar_numbers_plain(self, page, make_job, settings):
        settings.USE_THOUSAND_SEPARATOR = True
        job = make_job()
        CloseJob.objects.update(total=2000)
        items = [CloseJobItem(job=job, requested_session_id=str(number)) for number in range(2000)]
        CloseJobItem.objects.bulk_create(items)
        html = page(job)
        assert 'value="0" max="2000"' in html
        assert "0 of 2,000 done" in html
        assert '<strong data-osvi="waiting">2,000</strong> waiting' in html

    def test_pages_with_many_items_cost_same_queries(
        self, staff_client, make_job, job_url, settings, django_assert_num_queries
    ):
        settings.OSVI_EXECUTOR = "osvi_django.executors.thread"
        # The user and their permissions (4), the job, its resume, its counts and failures.
        for number in (3, 60):
            job = make_job(closed=number, rejected=number, waiting=number)
            with django_assert_num_queries(9):
                staff_client.get(job_url("progress", job))
            with django_assert_num_queries(9):
                staff_client.get(job_url("change", job))


class TestResume:
    @pytest.mark.django_db(transaction=True)
    @pytest.mark.usefixtures("immediate_executor")
    @pytest.mark.parametrize("name", ["change", "progress"])
    def test_view_stalled_job_resumes_it(
        self, staff_client, mirrored, job_url, staff, settings, name
    ):
        assert settings.DATABASES["default"]["ATOMIC_REQUESTS"]
        job = create_close_job([mirrored()], requested_by=staff, start=False)
        CloseJob.objects.update(heartbeat_at=db_datetime("2026-01-01T10:00Z"))
        answer = staff_client.get(job_url(name, job)).text
        job.refresh_from_db()
        assert job.status == "completed"
        assert "1 of 1 done" in answer

    @pytest.mark.usefixtures("immediate_executor")
    def test_view_working_job_starts_nothing(
        self, staff_client, mirrored, job_url, staff, osvi_sandbox
    ):
        job = create_close_job([mirrored()], requested_by=staff, start=False)
        staff_client.get(job_url("change", job))
        staff_client.get(job_url("progress", job))
        assert osvi_sandbox.requests == []


class TestFailures:
    def test_failures_show_reason_and_link_to_session(self, page, make_job):
        job = make_job(**WITH_FAILURES, code="rejected", reason="<i>No.</i>")
        html = page(job)
        assert html.count("OSVI said: “&lt;i&gt;No.&lt;/i&gt;”") == 3
        assert "<i>" not in html
        for item in job.items.filter(outcome__in=("rejected", "unconfirmed")):
            url = f"/admin/osvi_django/chatsession/{item.session_id}/change/"
            assert f'<a href="{url}"><bdi>{item.requested_session_id}</bdi></a>' in html

    def test_failures_with_unknown_ids_are_escaped(self, page, staff):
        job = create_close_job(["<script>alert(1)</script>"], requested_by=staff)
        html = page(job)
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
        assert "<script>alert" not in html
        assert "This site has no such chat session." in html

    def test_page_without_failures_has_no_failure_section(self, page, make_job):
        assert "Need attention" not in page(make_job("completed", closed=2))

    def test_failures_beyond_limit_are_counted(self, page, make_job, job_url, monkeypatch):
        monkeypatch.setattr(admin_jobs, "FAILURES_SHOWN", 2)
        job = make_job("completed_with_errors", rejected=3, unconfirmed=2)
        html = page(job)
        assert "Need attention: 5" in html
        assert html.count("<tr><td>") == 2
        assert f'<a href="{job_url("sessions", job)}?outcome=failures">and 3 more</a>' in html
        monkeypatch.setattr(admin_jobs, "FAILURES_SHOWN", 5)
        assert "more</a>" not in page(job)

    def test_failures_without_view_permission_have_no_session_links(
        self, log_in, make_job, job_url, django_user_model
    ):
        client = log_in("close_chatsession")
        job = make_job(**WITH_FAILURES, requested_by=django_user_model.objects.get(username="jo"))
        assert not re.search(r"/chatsession/\d", client.get(job_url("change", job)).text)

    def test_failures_without_session_admin_have_no_session_links(self, page, make_job):
        job = make_job(**WITH_FAILURES)
        assert "/chatsession/" in page(job)  # also loads the URLs while they are complete
        admin = site.get_model_admin(ChatSession)
        site.unregister(ChatSession)
        try:
            assert "/chatsession/" not in page(job)
        finally:
            site.register(ChatSession, type(admin))


class TestUnconfirmed:
    """The counts are those of the end of the job, and sessions are settled later."""

    NOTE = "These numbers are from the end of the job."

    @pytest.fixture
    def job(self, make_job):
        """Return a finished job with two unconfirmed sessions, one of which was settled since."""
        job = make_job("completed_with_errors", closed=1, unconfirmed=2)
        settled = job.items.filter(outcome="unconfirmed").first().session_id
        ChatSession.objects.update(status="closed")
        ChatSession.objects.exclude(pk=settled).update(status="unconfirmed")
        return job

    def test_page_finished_job_says_numbers_are_old_and_shows_status_now(self, page, job):
        html = page(job)
        assert self.NOTE in html
        assert '<th scope="col">Status now</th>' in html
        assert html.count('<span class="osvi-status osvi-status-unconfirmed">') == 1
        assert "osvi-status-closed" not in html

    def test_page_counts_what_needs_attention_now_and_says_what_is_settled(
        self, page, job, staff_client, job_url
    ):
        html = page(job)
        assert "finished, 1 needs attention" in html
        assert "Need attention: 1</h2>" in html
        link = f'<a href="{job_url("sessions", job)}?outcome=settled">'
        assert f"{link}1 chat that needed attention is closed by now.</a>" in html
        assert "Check with OSVI (1)" in html
        ChatSession.objects.update(status="closed")
        html = page(job)
        assert "finished, all settled since" in html
        assert 'class="osvi-status osvi-job-completed"' in html
        assert f"{link}All that needed attention is settled: these chats are closed by" in html
        assert "are checked with OSVI automatically" not in html
        for absent in ("Need attention", "needs attention", "Check with OSVI"):
            assert absent not in html
        assert self.NOTE in html

    def test_page_after_check_with_osvi_says_all_is_settled(
        self, staff_client, unconfirmed, job_url, staff, osvi_sandbox
    ):
        session = unconfirmed(Drop(after_closing=True))
        job = create_close_job([session], requested_by=staff, start=False)
        job.items.update(outcome="unconfirmed", error_code="unconfirmed")
        CloseJob.objects.update(
            status="completed_with_errors", unconfirmed=1, finished_at=timezone.now()
        )
        assert (
            "OSVI may have closed this chat session"
            in staff_client.get(job_url("change", job)).text
        )
        html = staff_client.post(job_url("check", job), follow=True).text
        assert "Checked 1 chat: 1 closed with summary." in html
        assert "finished, all settled since" in html
        assert "may have closed" not in html

    def test_page_stopped_job_counts_what_needs_attention_now(self, page, make_job):
        job = make_job("cancelled", closed=1, rejected=2, cancelled=3)
        CloseJob.objects.update(finished_at=timezone.now())
        assert "Stopped: 1 closed, 2 need attention, 3 not closed" in page(job)
        ChatSession.objects.update(status="closed")
        html = page(job)
        assert "Stopped: 1 closed, 0 need attention, 3 not closed" in html
        assert "Close the rest" not in html

    def test_page_job_stopped_a_moment_ago_counts_only_what_is_done(self, page, make_job):
        job = make_job("cancelled", closed=1, closing=1, cancelled=3)
        assert "1 of 5 done (20 %)" in page(job)

    def test_chats_that_are_open_again_are_closed_again(self, staff_client, make_job, job_url):
        job = make_job("completed_with_errors", unconfirmed=2)
        one = ChatSession.objects.filter(pk=job.items.first().session_id)
        ChatSession.objects.exclude(pk=one.get().pk).update(status="unconfirmed")
        one.update(status="active")
        assert 'value="Close again (1)"' in staff_client.get(job_url("change", job)).text
        staff_client.post(job_url("retry", job))
        assert CloseJob.objects.get(retry_of=job).total == 1
        ChatSession.objects.update(status="active")
        html = staff_client.get(job_url("change", job)).text
        assert "Close again (1)</button>" in html
        staff_client.post(job_url("retry", job), {"rest": "yes"})
        assert CloseJob.objects.get(retry_of=job, status="draft").total == 1

    def test_retry_leaves_out_what_was_closed_since(self, staff_client, make_job, job_url):
        job = make_job("completed_with_errors", rejected=3)
        ChatSession.objects.filter(pk=job.items.first().session_id).update(status="closed")
        assert 'value="Retry failed (2)"' in staff_client.get(job_url("change", job)).text
        staff_client.post(job_url("retry", job))
        assert CloseJob.objects.get(retry_of=job).total == 2

    @pytest.mark.parametrize(
        ("outcome", "status", "words"),
        [
            ("unconfirmed", "closed", "Settled since: the chat is closed."),
            ("unconfirmed", "active", "Checked since: OSVI has not closed the chat"),
            ("unconfirmed", "dormant", "Checked since: OSVI has not closed the chat"),
            ("unconfirmed", "closing", "The chat is being closed again."),
            ("unconfirmed", "unconfirmed", "OSVI may have closed this chat session"),
            ("rejected", "closed", "Settled since: the chat is closed."),
            ("rejected", "closing", "The chat is being closed again."),
            ("rejected", "unconfirmed", "Closed again since, and OSVI did not answer."),
            ("rejected", "dormant", "OSVI did not close this chat session."),
            ("rejected", "a new one", "OSVI did not close this chat session."),
        ],
    )
    def test_sessions_show_reason_only_while_it_holds(
        self, staff_client, make_job, job_url, outcome, status, words
    ):
        code = "unconfirmed" if outcome == "unconfirmed" else "rejected"
        job = make_job("completed_with_errors", code=code, **{outcome: 1})
        ChatSession.objects.update(status=status)
        html = staff_client.get(job_url("sessions", job)).text
        assert words in html
        assert html.count("OSVI may have") + html.count("OSVI did not close") <= 1
        if status == "closed":
            assert "OSVI may have" not in html
            assert "OSVI did not close" not in html

    @pytest.mark.parametrize(
        ("status", "outcomes"),
        [("completed", {"closed": 2}), ("running", {"unconfirmed": 1, "waiting": 1})],
    )
    def test_page_without_settled_numbers_has_no_note(self, page, make_job, status, outcomes):
        assert self.NOTE not in page(make_job(status, **outcomes))

    def test_page_session_deleted_since_has_no_status_now(self, page, job):
        ChatSession.objects.all().delete()
        assert "osvi-status-" not in page(job)

    def test_sessions_of_job_show_status_now(self, staff_client, job_url, job):
        html = staff_client.get(job_url("sessions", job), {"outcome": "unconfirmed"}).text
        assert html.count('<span class="osvi-status osvi-status-closed">closed</span>') == 1
        assert html.count('<span class="osvi-status osvi-status-unconfirmed">') == 1


class TestCancel:
    def test_cancel_waiting_job_stops_it(self, staff_client, mirrored, job_url, staff, messages_of):
        job = create_close_job([mirrored(), mirrored()], requested_by=staff, start=False)
        assert job_url("cancel", job) in staff_client.get(job_url("change", job)).text
        response = staff_client.post(job_url("cancel", job), follow=True)
        assert response.redirect_chain == [(job_url("change", job), 302)]
        [(level, sentence)] = messages_of(response)
        assert (level, sentence.startswith("Stopped.")) == ("success", True)
        assert "Stopped: 0 closed, 0 need attention, 2 not closed" in response.text
        assert "not closed, job stopped" in response.text
        entry = LogEntry.objects.get()
        assert (entry.user, entry.get_change_message()) == (staff, "Stopped.")

    def test_cancel_with_closing_items_waits_for_them(self, staff_client, make_job, job_url):
        job = make_job(closing=1, waiting=1)
        html = staff_client.post(job_url("cancel", job), follow=True).text
        assert "0 of 2 done" in html
        assert "data-progress" in html
        assert job_url("cancel", job) not in html

    def test_cancel_finished_job_changes_nothing(
        self, staff_client, make_job, job_url, messages_of
    ):
        job = make_job(**WITH_FAILURES)
        response = staff_client.post(job_url("cancel", job), follow=True)
        assert messages_of(response)[0][0] == "info"
        assert not LogEntry.objects.exists()
        job.refresh_from_db()
        assert job.status == WITH_FAILURES["status"]


class TestRetry:
    @pytest.mark.django_db(transaction=True)
    @pytest.mark.usefixtures("immediate_executor")
    def test_retry_failed_items_creates_new_job(
        self, staff_client, mirrored, job_url, staff, settings, osvi_sandbox
    ):
        assert settings.DATABASES["default"]["ATOMIC_REQUESTS"]
        good, bad = mirrored(), mirrored()
        osvi_sandbox.script(bad.session_id, Status(422, errors=["No."]))
        job = create_close_job([good, bad], requested_by=staff, note="Tidy.")
        html = staff_client.get(job_url("change", job)).text
        assert job_url("retry", job) in html
        response = staff_client.post(job_url("retry", job), follow=True)
        retry = CloseJob.objects.get(retry_of=job)
        assert response.redirect_chain == [(job_url("change", retry), 302)]
        assert (retry.status, retry.total, retry.via) == ("completed", 1, "admin")
        assert f'<a href="{job_url("change", job)}">Close job {job.pk}</a>' in response.text
        entry = LogEntry.objects.get()
        assert entry.get_change_message() == f"Retried the failed chats: Close job {retry.pk}."

    def test_retry_twice_redirects_to_same_job(self, staff_client, make_job, job_url):
        job = make_job(**WITH_FAILURES)
        first = staff_client.post(job_url("retry", job))["Location"]
        assert staff_client.post(job_url("retry", job))["Location"] == first
        retry = CloseJob.objects.get(retry_of=job)
        html = staff_client.get(job_url("change", job)).text
        assert job_url("retry", job) not in html
        assert f'<a href="{job_url("change", retry)}">Close job {retry.pk}</a>' in html

    def test_retry_without_safe_failures_shows_error(
        self, staff_client, make_job, job_url, messages_of
    ):
        job = make_job("completed_with_errors", closed=1, unconfirmed=1)
        ChatSession.objects.update(status="unconfirmed")
        assert job_url("retry", job) not in staff_client.get(job_url("change", job)).text
        response = staff_client.post(job_url("retry", job), follow=True)
        [(level, sentence)] = messages_of(response)
        assert (level, sentence.startswith("No chat of this close job")) == ("error", True)
        assert response.redirect_chain == [(job_url("change", job), 302)]
        assert CloseJob.objects.count() == 1

    def test_page_offers_retry_only_for_chats_that_it_can_help(
        self, staff_client, make_job, job_url, messages_of, staff
    ):
        unknown = create_close_job(["x", "y"], requested_by=staff)
        assert "Retry failed" not in staff_client.get(job_url("change", unknown)).text
        response = staff_client.post(job_url("retry", unknown), follow=True)
        assert messages_of(response)[0][0] == "error"
        job = make_job("completed_with_errors", rejected=2, not_found=1)
        job.items.filter(outcome="not_found").update(requested_session_id="x", session=None)
        assert 'value="Retry failed (2)"' in staff_client.get(job_url("change", job)).text

    def test_page_running_job_offers_no_retry(self, staff_client, make_job, job_url):
        job = make_job(rejected=1, waiting=1)
        assert job_url("retry", job) not in staff_client.get(job_url("change", job)).text

    def test_retry_by_get_creates_no_job(self, staff_client, make_job, job_url):
        job = make_job(**WITH_FAILURES)
        assert staff_client.get(job_url("retry", job))["Location"] == job_url("change", job)
        assert CloseJob.objects.count() == 1

    def test_retry_without_close_permission_returns_403(
        self, log_in, make_job, job_url, django_user_model
    ):
        client = log_in("view_closejob")
        job = make_job(**WITH_FAILURES, requested_by=django_user_model.objects.get(username="jo"))
        assert client.post(job_url("retry", job)).status_code == 403
        assert CloseJob.objects.count() == 1


class TestSessions:
    def outcomes_listed(self, response):
        return [item.outcome for item in response.context["cl"].result_list]

    def test_sessions_page_shows_outcome_and_reason_of_each(self, staff_client, make_job, job_url):
        job = make_job(**WITH_FAILURES, code="rejected", reason="<i>No.</i>")
        make_job(closed=1)
        response = staff_client.get(job_url("sessions", job))
        assert len(self.outcomes_listed(response)) == 5
        assert "OSVI said: “&lt;i&gt;No.&lt;/i&gt;”" in response.text
        assert f"Chat sessions of close job {job.pk}" in response.text
        assert (
            f'<a href="{job_url("change", job)}"><bdi>Close job {job.pk}</bdi></a>' in response.text
        )

    @pytest.mark.parametrize(
        ("wanted", "outcomes"),
        [
            ("rejected", ["rejected"] * 2),
            ("failures", ["rejected", "rejected", "unconfirmed"]),
            ("settled", []),
            ("nothing", []),
        ],
    )
    def test_sessions_page_with_outcome_filter_shows_matches(
        self, staff_client, make_job, job_url, wanted, outcomes
    ):
        response = staff_client.get(
            job_url("sessions", make_job(**WITH_FAILURES)), {"outcome": wanted}
        )
        assert self.outcomes_listed(response) == outcomes

    def test_sessions_page_filters_what_was_settled_since(self, staff_client, make_job, job_url):
        job = make_job(**WITH_FAILURES)
        ChatSession.objects.filter(status="unconfirmed").update(status="closed")
        for wanted, outcomes in (("failures", ["rejected"] * 2), ("settled", ["unconfirmed"])):
            response = staff_client.get(job_url("sessions", job), {"outcome": wanted})
            assert self.outcomes_listed(response) == outcomes

    def test_sessions_page_search_matches_start_of_id(self, staff_client, make_job, job_url):
        job = make_job(**WITH_FAILURES)
        item = job.items.last()
        response = staff_client.get(job_url("sessions", job), {"q": item.requested_session_id[:10]})
        assert list(response.context["cl"].result_list) == [item]
        assert "Search by the beginning of a session id." in response.text

    def test_sessions_page_with_facets_shows_counts(self, staff_client, make_job, job_url):
        response = staff_client.get(
            job_url("sessions", make_job(**WITH_FAILURES)), {"_facets": "True"}
        )
        assert "refused by OSVI (2)" in response.text

    def test_sessions_page_with_many_items_costs_same_queries(
        self, staff_client, make_job, job_url, django_assert_num_queries
    ):
        for number in (3, 60):
            job = make_job(closed=number, rejected=number)
            with django_assert_num_queries(7):
                staff_client.get(job_url("sessions", job))


class TestAfterRun:
    def test_page_after_run_shows_outcomes(self, page, mirrored, staff, osvi_sandbox):
        sessions = [mirrored() for _number in range(5)]
        osvi_sandbox.script(sessions[0].session_id, Status(422, errors=["No."]))
        job = create_close_job(sessions, requested_by=staff, start=False)
        run_close_job(job.pk)
        html = page(job)
        assert "finished, 1 needs attention" in html
        assert "5 of 5 done (100 %)" in html
        assert '<strong data-osvi="closed">4</strong> closed' in html
        assert "OSVI said: “No.”" in html
