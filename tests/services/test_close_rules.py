"""Reasons and required notes: one rule for all who ask for a close, through any entry point."""

from __future__ import annotations

import pytest

from osvi_django.exceptions import InvalidInput, OSVINoAnswer, OSVINotConfigured, OSVIRejected
from osvi_django.models import ChatSession, CloseAttempt, CloseJob
from osvi_django.services import (
    close_again,
    close_session,
    close_session_by_id,
    confirm_close_job,
    create_close_job,
    create_close_job_by_id,
    mark_closed,
    recover_session,
    retry_close_job,
    run_close_job,
)
from osvi_django.services.selectors import SessionFilter
from osvi_django.testing import Drop, Status
from osvi_django.testing.factories import ChatAgentFactory, ChatSessionFactory

pytestmark = pytest.mark.django_db

REASONS = ["Answered", "No reply"]


@pytest.fixture(autouse=True)
def no_executor(settings):
    """Let each job wait until a test runs it."""
    settings.OSVI_EXECUTOR = None


@pytest.fixture
def rules(settings, osvi_sandbox):
    """Set the rules of the default account."""

    def _rules(reasons=(), *, note=False):
        settings.OSVI["default"] |= {"CLOSE_REASONS": list(reasons), "NOTE_REQUIRED": note}

    return _rules


def confirm(session, **why):
    """Make a draft of one session and confirm it."""
    return confirm_close_job(create_close_job([session], draft=True), **why)


ENTRY_POINTS = [
    close_session,
    close_again,
    lambda session, **why: close_session_by_id(session.session_id, **why),
    lambda session, **why: create_close_job([session], **why),
    lambda session, **why: create_close_job_by_id(session.session_id, **why),
    confirm,
]


@pytest.mark.parametrize("ask", ENTRY_POINTS)
def test_reason_that_is_not_in_the_list_is_refused_by_every_entry_point(rules, mirrored, ask):
    session = mirrored()
    rules(REASONS)
    with pytest.raises(InvalidInput, match="“Answered”, “No reply”") as caught:
        ask(session, close_reason="Bored")
    assert caught.value.field == "close_reason"
    assert not CloseAttempt.objects.exists()
    assert not CloseJob.objects.exclude(status="draft").exists()


@pytest.mark.parametrize("ask", ENTRY_POINTS)
def test_missing_note_is_refused_by_every_entry_point(rules, mirrored, ask):
    session = mirrored()
    rules(note=True)
    with pytest.raises(InvalidInput, match="note is required") as caught:
        ask(session, note="  ")
    assert caught.value.field == "note"
    assert not CloseAttempt.objects.exists()


@pytest.mark.parametrize("ask", ENTRY_POINTS)
def test_reason_and_note_are_stored_by_every_entry_point(rules, mirrored, ask):
    session = mirrored()
    rules(REASONS, note=True)
    asked = ask(session, close_reason=" Answered ", note="By phone")
    if isinstance(asked, CloseJob):
        assert (asked.close_reason, asked.note) == ("Answered", "By phone")
        run_close_job(asked.pk)
    attempt = CloseAttempt.objects.get()
    assert (attempt.close_reason, attempt.note) == ("Answered", "By phone")
    session.refresh_from_db()
    assert (session.status, session.close_reason) == ("closed", "Answered")


def test_any_reason_is_allowed_without_a_list(rules, mirrored):
    assert close_session(mirrored(), close_reason="x" * 100).session.close_reason == "x" * 100
    with pytest.raises(InvalidInput, match="close_reason is too long") as caught:
        close_session(mirrored(), close_reason="x" * 101)
    assert caught.value.field == "close_reason"


def test_closed_session_is_returned_without_asking_for_a_reason(rules, mirrored):
    session = mirrored()
    close_session(session)
    rules(REASONS, note=True)
    assert not close_session(session).changed


def test_unknown_session_whose_close_breaks_a_rule_leaves_no_row(rules, osvi_sandbox):
    rules(note=True)
    with pytest.raises(InvalidInput):
        close_session_by_id("unknown-1", agent_uuid="agent-1")
    assert not ChatSession.objects.exists()


def test_mark_closed_follows_the_rules_and_stores_the_reason(rules, mirrored, osvi_sandbox):
    session = mirrored()
    osvi_sandbox.script(session.session_id, Status(422))
    with pytest.raises(OSVIRejected):
        close_session(session, close_reason="Refused")
    rules(REASONS)
    with pytest.raises(InvalidInput, match="use one of"):
        mark_closed(session, note="Seen", close_reason="Bored")
    marked = mark_closed(session, note="Seen", close_reason="No reply").session
    assert marked.close_reason == "No reply"


def test_recovery_asks_for_nothing_and_keeps_the_reason_of_the_close(rules, mirrored, osvi_sandbox):
    session = mirrored(customer_id="+1555")
    osvi_sandbox.script(session.session_id, Drop(after_closing=True))
    with pytest.raises(OSVINoAnswer):
        close_session(session, close_reason="Answered")
    rules(["Others"], note=True)
    recover_session(session)
    session.refresh_from_db()
    assert (session.status, session.close_reason) == ("closed", "Answered")


def test_reason_of_a_refused_close_is_not_that_of_a_later_one(rules, mirrored, osvi_sandbox):
    session = mirrored()
    osvi_sandbox.script(session.session_id, Status(422))
    with pytest.raises(OSVIRejected):
        close_session(session, close_reason="Refused")
    session.refresh_from_db()
    assert session.close_reason == ""
    assert close_session(session).session.close_reason == ""


NOTHING_TO_CLOSE = [SessionFilter(customer_id="+1999"), ["unknown"], []]


@pytest.mark.parametrize("chosen", NOTHING_TO_CLOSE, ids=repr)
@pytest.mark.parametrize(
    ("why", "field"),
    [({"close_reason": "Answered"}, "note"), ({"note": "x", "close_reason": "No"}, "close_reason")],
)
def test_job_that_every_account_refuses_is_refused_if_it_finds_no_session(
    rules, chosen, why, field
):
    rules(REASONS, note=True)
    with pytest.raises(InvalidInput) as caught:
        create_close_job(chosen, **why)
    assert caught.value.field == field
    assert not CloseJob.objects.exists()
    assert create_close_job(chosen, note="Tidy", close_reason="Answered").is_finished


def test_draft_that_every_account_refuses_is_refused_if_nothing_is_left_of_it(rules, mirrored):
    rules(note=True)
    draft = create_close_job([mirrored(help_requested=True)], draft=True)
    with pytest.raises(InvalidInput, match="note is required"):
        confirm_close_job(draft, include_help_requested=False)
    draft.refresh_from_db()
    assert draft.status == "draft"
    assert confirm_close_job(draft, note="Tidy", include_help_requested=False).is_finished


class TestJobOfSeveralAccounts:
    @pytest.fixture(autouse=True)
    def accounts(self, settings, osvi_sandbox):
        """Configure a second account, at the same sandbox and with a list of reasons."""
        here = settings.OSVI["default"]
        settings.OSVI = {"default": here, "strict": {**here, "CLOSE_REASONS": REASONS}}

    def test_job_closes_the_sessions_whose_account_allows_the_reason(self, mirrored):
        free, strict = mirrored(), mirrored(agent=ChatAgentFactory(account="strict"))
        job = create_close_job([free, strict], close_reason="Bored")
        job = run_close_job(job.pk)
        assert (job.succeeded, job.failed, job.status) == (1, 1, "completed_with_errors")
        refused = job.items.get(session=strict)
        assert (refused.outcome, refused.error_code) == ("not_sent", "invalid")
        assert "“Answered”, “No reply”" in refused.error_reason
        strict.refresh_from_db()
        assert strict.is_open

    def test_retry_with_the_same_reason_is_refused_again(self, mirrored):
        strict = mirrored(agent=ChatAgentFactory(account="strict"))
        job = run_close_job(create_close_job([mirrored(), strict], close_reason="Bored").pk)
        with pytest.raises(InvalidInput, match="use one of"):
            retry_close_job(job)

    def test_job_of_known_and_unknown_sessions_is_checked_for_the_known(self, mirrored):
        strict = mirrored(agent=ChatAgentFactory(account="strict"))
        with pytest.raises(InvalidInput, match="use one of"):
            create_close_job([strict, "unknown"], close_reason="Bored")
        assert create_close_job(["unknown"], close_reason="Bored").is_finished

    @pytest.mark.parametrize("chosen", NOTHING_TO_CLOSE, ids=repr)
    def test_job_without_sessions_is_refused_only_if_all_accounts_refuse(self, settings, chosen):
        assert create_close_job(chosen, close_reason="Bored").is_finished
        settings.OSVI["default"] |= {"NOTE_REQUIRED": True}
        with pytest.raises(InvalidInput, match="note is required"):
            create_close_job(chosen, close_reason="Bored")
        assert create_close_job(chosen, close_reason="Answered").is_finished

    def test_job_without_sessions_is_not_refused_for_rules_that_cannot_be_read(self, settings):
        settings.OSVI["default"] |= {"NOTE_REQUIRED": True}
        settings.OSVI["strict"] |= {"CLOSE_REASONS": 5}
        assert create_close_job(["unknown"]).is_finished
        settings.OSVI = {}
        assert create_close_job(["unknown"]).is_finished


def test_rules_that_cannot_be_used_stop_every_close(settings, mirrored, osvi_sandbox):
    session = mirrored()
    settings.OSVI["default"]["CLOSE_REASONS"] = "Answered"
    with pytest.raises(OSVINotConfigured, match="CLOSE_REASONS"):
        close_session(session)
    with pytest.raises(OSVINotConfigured, match="CLOSE_REASONS"):
        create_close_job([session])


def test_account_without_an_entry_is_reported_by_the_close(settings, osvi_sandbox):
    session = ChatSessionFactory(agent=ChatAgentFactory(account="gone"))
    with pytest.raises(OSVINotConfigured, match="no account"):
        close_session(session)
