"""Tests of the list of close jobs, and of the permissions to view and change jobs."""

from __future__ import annotations

import pytest
from django.contrib.admin import site
from django.utils import timezone

from osvi_django.admin import CloseJobAdmin
from osvi_django.models import ChatSession, CloseJob

pytestmark = pytest.mark.django_db

LIST = "/admin/osvi_django/closejob/"
PAGES = ("change", "progress", "sessions", "history")
ACTIONS = ("confirm", "cancel", "retry")


def jobs_listed(response):
    return list(response.context["cl"].result_list)


class TestList:
    def test_list_shows_progress_newest_first(self, staff_client, make_job):
        old = make_job("completed_with_errors", closed=4, rejected=2, unconfirmed=1)
        new = make_job(closed=1, cancelled=1, waiting=3)
        response = staff_client.get(LIST)
        assert jobs_listed(response) == [new, old]
        for expected in (
            f"Close job {old.pk}",
            "osvi-job-completed_with_errors",
            "finished, 3 need attention",
            "sam",
            "7 of 7",
            "1 of 5",
            '<td class="field-outcome_shown">1 not closed</td>',
            '<td class="field-outcome_shown">2 failed, 1 unconfirmed</td>',
        ):
            assert expected in response.text

    def test_list_job_whose_chats_were_settled_since_says_so(self, staff_client, make_job):
        job = make_job("completed_with_errors", closed=1, rejected=2, unconfirmed=1)
        refused = job.items.filter(outcome="rejected").first().session
        ChatSession.objects.exclude(pk=refused.pk).update(status="closed")
        html = staff_client.get(LIST).text
        assert ">finished, 1 needs attention</span>" in html
        # The record of the job stays what it was.
        assert '<td class="field-outcome_shown">2 failed, 1 unconfirmed</td>' in html
        assert "Outcome in the job" in html
        assert "osvi-job-completed_with_errors" in html
        ChatSession.objects.update(status="closed")
        settled = '<span class="osvi-status osvi-job-completed">finished, all settled since</span>'
        assert settled in staff_client.get(LIST).text

    def test_status_of_one_job_counts_what_needs_attention_now(self, make_job):
        job = make_job("completed_with_errors", rejected=2)
        jobs = site.get_model_admin(CloseJob)
        assert "finished, 2 need attention" in jobs.status_shown(job)

    def test_list_with_many_troubled_jobs_costs_same_queries(
        self, staff_client, make_job, django_assert_num_queries
    ):
        # As below, and one for what needs attention in all of them.
        for _ in range(2):
            for _number in range(3):
                make_job("completed_with_errors", rejected=1, unconfirmed=1)
            with django_assert_num_queries(8):
                staff_client.get(LIST)

    def test_list_unfinished_job_shows_who_requested_it(self, admin_client, make_job):
        make_job(waiting=1)
        make_job(waiting=1, requested_by=None)
        html = admin_client.get(LIST).text
        assert "Requested by" in html
        for shown in ("sam", "-"):
            assert f'<td class="field-requested_by_shown">{shown}</td>' in html

    def test_list_with_draft_omits_it(self, staff_client, make_job):
        make_job("draft", waiting=1)
        response = staff_client.get(LIST)
        assert jobs_listed(response) == []
        assert "not yet confirmed" not in response.text

    @pytest.mark.parametrize("query", ["status=paused", "via=rest"])
    def test_list_with_filter_shows_matches(self, staff_client, make_job, query):
        wanted = make_job("paused", waiting=1)
        CloseJob.objects.update(via="rest")
        make_job(waiting=1)
        assert jobs_listed(staff_client.get(f"{LIST}?{query}")) == [wanted]

    def test_list_via_column_shows_label_for_staff(self, staff_client, make_job):
        for via in ("command", "kiosk"):
            make_job("paused", waiting=1)
            CloseJob.objects.filter(via="admin").update(via=via)
        html = staff_client.get(LIST).text
        for label, via in (("command line", "command"), ("kiosk", "kiosk")):
            assert f'<td class="field-via_shown">{label}</td>' in html
            assert f'<a href="?via={via}">{label}</a>' in html

    def test_list_facets_do_not_count_drafts(self, staff_client, make_job):
        for status in ("paused", "draft"):
            make_job(status, waiting=1)
        html = staff_client.get(LIST, {"_facets": "True"}).text
        assert "paused (1)" in html
        assert "admin (1)" in html

    def test_list_with_many_jobs_costs_same_queries(
        self, staff_client, make_job, django_assert_num_queries
    ):
        # The user and their permissions (4), the entry points of the filter, the count, the rows.
        for _ in range(2):
            for _number in range(5):
                make_job(closed=1)
            with django_assert_num_queries(7):
                staff_client.get(LIST)

    def test_list_beyond_cap_says_only_first_are_listed(self, staff_client, make_job, monkeypatch):
        monkeypatch.setattr(CloseJobAdmin.paginator, "cap", 3)
        for _number in range(4):
            make_job(closed=1)
        html = staff_client.get(LIST).text
        assert "Only the first 3 are listed" in html
        assert "Select all" not in html

    def test_list_offers_no_add_delete_or_selection(self, admin_client, make_job):
        make_job(waiting=1)
        html = admin_client.get(LIST).text
        for absent in (f"{LIST}add/", "delete_selected", "action-select"):
            assert absent not in html


class TestPermissions:
    def test_jobs_of_others_for_closer_return_404(
        self, log_in, make_job, job_url, django_user_model
    ):
        others = make_job(status="completed_with_errors", rejected=1)
        client = log_in("close_chatsession")
        own = make_job(closed=1, requested_by=django_user_model.objects.get(username="jo"))
        assert jobs_listed(client.get(LIST)) == [own]
        assert LIST in client.get("/admin/").text
        assert client.get("/admin/osvi_django/").status_code == 200
        for name in PAGES:
            assert client.get(job_url(name, own)).status_code == 200
        for name in ("change", "progress", "sessions"):
            assert client.get(job_url(name, others)).status_code == 404
        for name in ACTIONS:
            assert client.post(job_url(name, others)).status_code == 404

    def test_jobs_for_viewer_are_shown_and_not_changed(self, log_in, make_job, job_url):
        jobs = [make_job(closing=1, waiting=1), make_job("draft", waiting=1)]
        jobs.append(make_job("completed_with_errors", rejected=1))
        client = log_in("view_closejob")
        assert jobs_listed(client.get(LIST)) == [jobs[2], jobs[0]]
        for name in PAGES:
            response = client.get(job_url(name, jobs[0]))
            assert response.status_code == 200
            assert job_url("cancel", jobs[0]) not in response.text
        assert job_url("retry", jobs[2]) not in client.get(job_url("change", jobs[2])).text
        for job in jobs:
            for name in ACTIONS:
                assert client.post(job_url(name, job)).status_code == 403
                assert client.get(job_url(name, job)).status_code == 403
        assert CloseJob.objects.filter(status__in=("cancelled", "queued")).count() == 0

    def test_job_of_others_for_viewer_who_may_close_is_cancelled(self, log_in, make_job, job_url):
        job = make_job(waiting=1)
        client = log_in("view_closejob", "close_chatsession")
        assert job_url("cancel", job) in client.get(job_url("change", job)).text
        client.post(job_url("cancel", job))
        job.refresh_from_db()
        assert job.status == "cancelled"

    def test_jobs_without_permission_return_403(self, log_in, make_job, job_url, django_user_model):
        client = log_in("view_chatsession", "view_sessionsummary", "change_closejob")
        # Also not their own jobs, created while they had the permission.
        job = make_job(waiting=1, requested_by=django_user_model.objects.get(username="jo"))
        assert LIST not in client.get("/admin/").text
        assert client.get(LIST).status_code == 403
        for name in (*PAGES, *ACTIONS):
            assert client.get(job_url(name, job)).status_code == 403
        for name in ACTIONS:
            assert client.post(job_url(name, job)).status_code == 403
        job.refresh_from_db()
        assert job.status == "running"

    @pytest.mark.parametrize("key", ["999999", "99999999999999999999", "x", "_00"])
    def test_unknown_job_page_returns_404(self, staff_client, key):
        assert staff_client.get(f"{LIST}{key}/change/").status_code == 404

    @pytest.mark.parametrize("name", [*PAGES[1:3], *ACTIONS])
    def test_unknown_job_actions_return_404(self, staff_client, name):
        assert staff_client.get(f"{LIST}999999/{name}/").status_code == 404
        assert staff_client.get(f"{LIST}99999999999999999999/{name}/").status_code == 404


def test_job_of_host_code_is_shown_to_superuser_only(
    staff_client, make_job, job_url, admin_user, client
):
    job = make_job(waiting=1, requested_by=None)
    CloseJob.objects.update(via="code", created_at=timezone.now())
    assert staff_client.get(job_url("change", job)).status_code == 404
    client.force_login(admin_user)
    assert client.get(job_url("change", job)).status_code == 200
