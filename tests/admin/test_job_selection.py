"""A job from selection to rest: its words, who is spared, stopping, and what is left to settle."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from osvi_django.admin import jobs as admin_jobs
from osvi_django.admin.job_progress import selection_text
from osvi_django.exceptions import InvalidInput
from osvi_django.models import ChatSession, CloseJob, CloseJobItem
from osvi_django.services import SessionFilter
from osvi_django.services.jobs import (
    cancel_close_job,
    confirm_close_job,
    create_close_job,
    retry_close_job,
    run_close_job,
)
from osvi_django.testing import Drop, Status
from osvi_django.testing.factories import ChatAgentFactory, ChatSessionFactory

pytestmark = pytest.mark.django_db

LIST = "/admin/osvi_django/chatsession/"


@pytest.fixture
def draft(staff):
    """Create a draft of these sessions, as the list does."""
    return lambda *sessions, **options: create_close_job(
        list(sessions), requested_by=staff, via="admin", draft=True, **options
    )


def outcomes(job):
    """Return the outcome of each item, by session."""
    return dict(CloseJobItem.objects.filter(job=job).values_list("session", "outcome"))


class TestWords:
    def select_all(self, client, query):
        one = ChatSession.objects.first()
        form = {"action": "close_selected", "_selected_action": [one.pk], "select_across": "1"}
        return client.post(f"{LIST}?{query}", form, follow=True).text

    def test_confirmation_says_by_which_filters_all_were_selected(self, staff_client):
        long_ago = timezone.now() - timedelta(days=8)
        ChatSessionFactory.create_batch(2, status="dormant", last_activity_at=long_ago)
        html = self.select_all(staff_client, "status=dormant&quiet=7&mode__exact=ai")
        words = "dormant, quiet for 7 days or longer, mode: AI agent"
        assert f"2 chats: {words}" in html
        assert CloseJob.objects.get().selection == words

    def test_confirmation_of_a_search_does_not_repeat_it(self, staff_client):
        ChatSessionFactory(customer_id="+15551112222")
        html = self.select_all(staff_client, "q=%2B15551112222")
        assert "1 chat: found by a search" in html

    def test_confirmation_of_the_whole_list_says_so(self, staff_client):
        ChatSessionFactory()
        assert "1 chat: the whole list" in self.select_all(staff_client, "")

    def test_confirmation_of_ticked_rows_says_so(self, staff_client):
        form = {"action": "close_selected", "_selected_action": [ChatSessionFactory().pk]}
        html = staff_client.post(LIST, form, follow=True).text
        assert "1 chat: ticked in the list" in html

    def test_job_of_a_filter_says_its_conditions(self, settings):
        moment = timezone.now()
        for uuid in ("a", "b"):
            ChatAgentFactory(uuid=uuid)
        chosen = SessionFilter(
            status=("active", "closing"),
            idle_since=moment,
            started_before=moment,
            mode="ai",
            agent_uuid="a",
            customer_id="c",
            exclude_agents=["b"],
            close_reason="Spam",
        )
        words = selection_text(create_close_job(chosen, start=False))
        for part in (
            "active, being closed",
            "quiet since",
            "started before",
            "AI agent",
            "one customer",
        ):
            assert part in words
        for part in ("no help requested", "of one agent", "not of 1 agent", "closed as Spam"):
            assert part in words
        assert selection_text(CloseJob()) == ""
        asked = SessionFilter(status=None, help_requested=True)
        assert asked.in_words() == ["help requested"]

    def test_filter_without_time_zones_says_its_times(self, settings):
        settings.USE_TZ = False
        moment = timezone.datetime(2026, 1, 31, 12)
        assert "2026" in SessionFilter(status=None, idle_since=moment).in_words()[0]


class TestSpared:
    @pytest.fixture
    def chosen(self, mirrored, staff, django_user_model):
        """Return sessions: plain, waiting, with a colleague, taken over by the user, closed."""
        other = django_user_model.objects.create_user("al")
        return [
            mirrored(),
            mirrored(help_requested=True),
            mirrored(mode="support", taken_over_by=other),
            mirrored(mode="support", taken_over_by=staff),
            ChatSessionFactory(status="closed", mode="support"),
        ]

    def test_confirmation_counts_who_is_spared(self, staff_client, draft, chosen, job_url):
        html = staff_client.get(job_url("confirm", draft(*chosen))).text
        assert "1 customer waits for a person." in html
        assert "1 is with a colleague, who has taken over." in html
        assert 'name="include_help_requested"' in html
        assert 'name="include_taken_over"' in html

    def test_confirmation_without_such_chats_asks_nothing(
        self, staff_client, draft, mirrored, job_url
    ):
        html = staff_client.get(job_url("confirm", draft(mirrored()))).text
        assert "include_" not in html

    def test_confirmation_leaves_them_out(self, staff_client, draft, chosen, job_url):
        job = draft(*chosen)
        staff_client.post(job_url("confirm", job))
        plain, waits, theirs, mine, closed = chosen
        job = run_close_job(job.pk)
        assert outcomes(job) == {
            plain.pk: "closed",
            waits.pk: "help_requested",
            theirs.pk: "taken_over",
            mine.pk: "closed",
            closed.pk: "already_closed",
        }
        assert (job.status, job.left_out, job.done) == ("completed", 2, 5)
        html = staff_client.get(job_url("change", job)).text
        assert "left out, waits for a person" in html

    def test_confirmation_that_ticks_them_closes_them(self, staff_client, draft, chosen, job_url):
        job = draft(*chosen)
        ticked = {"include_help_requested": "on", "include_taken_over": "on"}
        staff_client.post(job_url("confirm", job), ticked)
        assert run_close_job(job.pk).left_out == 0

    def test_customer_who_asks_for_a_person_later_is_left_out(self, draft, chosen):
        plain, *_others = chosen
        job = confirm_close_job(draft(plain), include_help_requested=False)
        ChatSession.objects.filter(pk=plain.pk).update(help_requested=True)
        job = run_close_job(job.pk)
        assert (job.left_out, outcomes(job)) == (1, {plain.pk: "no_longer_matches"})

    def test_draft_of_a_filter_keeps_its_conditions(self, chosen):
        job = create_close_job(SessionFilter(mode="support"), draft=True)
        job = confirm_close_job(job, include_help_requested=False, include_taken_over=False)
        assert SessionFilter.from_json(job.session_filter).mode == "support"
        assert job.left_out == 2

    def test_goodbye_is_offered_to_users_who_may_write(
        self, staff_client, staff, grant, draft, mirrored, job_url, osvi_sandbox
    ):
        job = draft(mirrored())
        assert 'name="goodbye"' not in staff_client.get(job_url("confirm", job)).text
        grant(staff, "operate_chatsession")
        assert 'name="goodbye"' in staff_client.get(job_url("confirm", job)).text
        staff_client.post(job_url("confirm", job), {"goodbye": "Bye"})
        osvi_sandbox.script(job.items.get().requested_session_id, Status(422))
        assert run_close_job(job.pk).succeeded == 1
        assert "Goodbye not sent." in staff_client.get(job_url("sessions", job)).text
        assert ">Bye</dd>" in staff_client.get(job_url("change", job)).text


class TestStop:
    def test_stop_asks_first(self, staff_client, make_job, job_url):
        job = make_job(closed=1, waiting=3)
        html = staff_client.get(job_url("cancel", job)).text
        assert "3 chats are not started yet. They stay open" in html
        job.refresh_from_db()
        assert job.status == "running"

    def test_stop_of_stopped_job_leads_back(self, staff_client, make_job, job_url):
        job = make_job("cancelled", cancelled=1)
        assert staff_client.get(job_url("cancel", job))["Location"] == job_url("change", job)

    def test_title_has_the_percentage(self, staff_client, make_job, job_url):
        job = make_job(closed=1, waiting=3)
        assert f"25 % · Close job {job.pk}" in staff_client.get(job_url("change", job)).text
        texts = staff_client.get(job_url("progress", job)).json()["texts"]
        assert texts["title"] == f"25 % · Close job {job.pk}"


class TestRest:
    @pytest.fixture
    def stopped(self, mirrored, staff, osvi_sandbox):
        """Return a job that was stopped: one failed, two not started; a third is closed since."""
        refused = mirrored()
        osvi_sandbox.script(refused.session_id, Status(422))
        job = run_close_job(create_close_job([refused], requested_by=staff, via="admin").pk)
        CloseJob.objects.filter(pk=job.pk).update(status="cancelled", cancelled=2, total=3)
        for _number in range(2):
            session = mirrored()
            CloseJobItem.objects.create(
                job=job,
                session=session,
                requested_session_id=session.session_id,
                account="default",
                outcome="cancelled",
            )
        return CloseJob.objects.get(pk=job.pk)

    def test_rest_shows_the_note_and_the_goodbye_to_change(
        self, staff_client, stopped, job_url, staff, grant
    ):
        grant(staff, "operate_chatsession")
        CloseJob.objects.update(note="Old note.", goodbye="Old goodbye.", selection="quiet ones")
        html = staff_client.post(job_url("retry", stopped), {"rest": "yes"}, follow=True).text
        assert "Old goodbye.</textarea>" in html
        assert "Old note." in html
        assert "3 chats: quiet ones" in html
        rest = CloseJob.objects.get(retry_of=stopped)
        staff_client.post(job_url("confirm", rest), {"note": "", "goodbye": "New goodbye."})
        rest.refresh_from_db()
        assert (rest.status, rest.note, rest.goodbye) == ("queued", "", "New goodbye.")

    def test_rest_is_closed_by_a_new_job(self, staff_client, stopped, job_url):
        html = staff_client.get(job_url("change", stopped)).text
        assert "Stopped: 0 closed, 1 needs attention, 2 not closed" in html
        assert "Close the rest (3)" in html
        assert "Retry failed" not in html
        response = staff_client.post(job_url("retry", stopped), {"rest": "yes"}, follow=True)
        rest = CloseJob.objects.get(retry_of=stopped)
        assert (rest.status, rest.total) == ("draft", 3)
        assert "were passed on to" not in staff_client.get(job_url("change", stopped)).text
        confirm = job_url("confirm", rest)
        assert response.redirect_chain[-1][0] == confirm
        assert f'href="{job_url("change", stopped)}" role="button" class="closelink"' in (
            response.text
        )
        assert "These are the chats that" in response.text
        assert "Close <strong>3</strong> chat sessions?" in response.text
        staff_client.post(confirm, {"note": "Another note."})
        assert run_close_job(rest.pk).succeeded == 3
        assert CloseJob.objects.get(pk=rest.pk).note == "Another note."
        assert "were passed on to" in staff_client.get(job_url("change", stopped)).text
        shown = staff_client.get(job_url("change", stopped)).text
        assert "2 not closed (2 of these are closed by now)" in shown
        assert "Close the rest" not in staff_client.get(job_url("change", stopped)).text

    def test_second_click_finds_the_first_draft(self, staff_client, stopped, job_url):
        addresses = {
            staff_client.post(job_url("retry", stopped), {"rest": "yes"})["Location"]
            for _click in range(2)
        }
        rest = CloseJob.objects.get(retry_of=stopped)
        assert addresses == {job_url("change", rest)}

    def test_click_of_another_user_or_for_other_chats_makes_a_draft(self, stopped, staff):
        options = {"include_cancelled": True, "draft": True}
        first = retry_close_job(stopped, **options)
        assert retry_close_job(stopped, **options) == first
        assert retry_close_job(stopped, requested_by=staff, **options) != first
        first.items.filter(requested_session_id=stopped.items.last().requested_session_id).update(
            requested_session_id="another"
        )
        assert retry_close_job(stopped, **options) != first
        ChatSession.objects.filter(pk=stopped.items.last().session_id).update(status="closed")
        assert retry_close_job(stopped, **options).total == 2

    def test_rest_after_a_retry_has_what_that_lacks(self, stopped):
        assert retry_close_job(stopped).total == 1
        assert retry_close_job(stopped, include_cancelled=True).total == 2

    def test_rest_of_a_stopped_rest_can_be_closed(self, stopped):
        cancel_close_job(retry_close_job(stopped, include_cancelled=True))
        assert retry_close_job(stopped, include_cancelled=True).total == 3

    def test_job_with_nothing_left_is_refused(self, make_job):
        with pytest.raises(InvalidInput, match="No chat"):
            retry_close_job(make_job("completed", closed=1), include_cancelled=True)


class TestCheck:
    @pytest.fixture
    def job(self, mirrored, staff, osvi_sandbox):
        """Return a finished job with three unconfirmed sessions; OSVI has closed two of them."""
        sessions = [mirrored(customer_id=f"+1555{number}") for number in range(3)]
        for number, session in enumerate(sessions):
            osvi_sandbox.script(session.session_id, Drop(after_closing=number < 2))
        return run_close_job(create_close_job(sessions, requested_by=staff, via="admin").pk)

    def test_check_settles_all_unconfirmed_sessions(self, staff_client, job, job_url, messages_of):
        assert "Check with OSVI (3)" in staff_client.get(job_url("change", job)).text
        response = staff_client.post(job_url("check", job), {"after": ""}, follow=True)
        [(level, said)] = messages_of(response)
        assert (level, "Checked 3 chats" in said) == ("success", True)
        assert "Check with OSVI" not in response.text
        assert ChatSession.objects.filter(status="closed").count() == 2

    def test_check_that_takes_too_long_continues_after_the_last(
        self, staff_client, job, job_url, messages_of, monkeypatch
    ):
        monkeypatch.setattr(admin_jobs, "CHECK_SECONDS", -1)
        response = staff_client.post(job_url("check", job), follow=True)
        assert "some chats are left" in messages_of(response)[0][1]
        assert 'name="after" value="0"' in response.text
        monkeypatch.setattr(admin_jobs, "CHECK_SECONDS", 20)
        last = ChatSession.objects.order_by("pk").last()
        staff_client.post(job_url("check", job), {"after": str(last.pk - 1)})
        assert ChatSession.objects.filter(status="unconfirmed").count() == 2

    @pytest.mark.parametrize(
        "broken", [{"OSVI": {"default": {"API_TOKEN": ""}}}, {"OSVI_MAX_SYNC_CALLS": "many"}]
    )
    def test_check_with_invalid_settings_changes_nothing(
        self, staff_client, job, job_url, settings, broken
    ):
        for name, value in broken.items():
            setattr(settings, name, value)
        response = staff_client.post(job_url("check", job), follow=True)
        assert response.status_code == 200
        assert ChatSession.objects.filter(status="unconfirmed").count() == 3

    def test_check_that_osvi_does_not_answer_says_so(
        self, staff_client, job, job_url, messages_of, osvi_sandbox
    ):
        osvi_sandbox.stop()
        response = staff_client.post(job_url("check", job), follow=True)
        assert "did not say whether 3 chats are closed" in messages_of(response)[0][1]

    def test_check_by_get_changes_nothing(self, staff_client, job, job_url):
        assert staff_client.get(job_url("check", job))["Location"] == job_url("change", job)

    def test_check_is_not_offered_without_the_permission(self, log_in, job, job_url):
        client = log_in("view_closejob")
        assert "Check with OSVI" not in client.get(job_url("change", job)).text
        assert client.post(job_url("check", job)).status_code == 403


class TestRows:
    def test_rows_show_customer_and_agent(self, staff_client, make_job, job_url):
        job = make_job("completed_with_errors", rejected=1)
        session = ChatSession.objects.get()
        for name in ("change", "sessions"):
            html = staff_client.get(job_url(name, job)).text
            assert f"<bdi>{session.customer_id}</bdi>" in html
            assert str(session.agent) in html

    def test_rows_of_unknown_sessions_show_the_id(self, staff_client, staff, job_url):
        job = create_close_job(["nonesuch"], requested_by=staff)
        assert "nonesuch" in staff_client.get(job_url("sessions", job)).text

    def test_list_shows_reason_and_note(self, staff_client, make_job):
        make_job("completed", closed=1)
        CloseJob.objects.update(note="Tidy", close_reason="Spam")
        assert "Spam: Tidy" in staff_client.get("/admin/osvi_django/closejob/").text
