"""Test who is named as the closer, and which closes count as refused."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from osvi_django.exceptions import OSVIError, OSVINoAnswer
from osvi_django.models import ChatSession
from osvi_django.services import (
    close_session,
    create_close_job,
    mark_closed,
    recover_session,
    run_close_job,
    take_reviewed_summary,
)
from osvi_django.testing import Drop, Junk, Status

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def kim(django_user_model):
    return django_user_model.objects.create_superuser("kim")


def close_with(osvi_sandbox, session, fault, **options):
    osvi_sandbox.script(session.session_id, fault)
    with pytest.raises(OSVIError):
        close_session(session, **options)


class TestClosedBy:
    def test_job_names_its_requester(self, mirrored, staff):
        sessions = [mirrored() for _number in range(3)]
        job = create_close_job(sessions, requested_by=staff, start=False)
        run_close_job(job.pk)
        assert {each.closed_by for each in ChatSession.objects.all()} == {staff}

    def test_close_by_own_code_names_no_user(self, mirrored):
        session = mirrored()
        close_session(session)
        assert session.closed_by is None

    def test_recovery_names_who_closed(self, mirrored, osvi_sandbox, staff, kim):
        session = mirrored()
        close_with(osvi_sandbox, session, Drop(after_closing=True), requested_by=staff)
        recover_session(session, requested_by=kim)
        assert (session.status, session.closed_by) == ("closed", staff)

    def test_reason_of_attempt_is_stored_with_session(self, mirrored, osvi_sandbox):
        session = mirrored()
        close_with(osvi_sandbox, session, Drop(after_closing=True))
        session.attempts.update(close_reason="solved")
        recover_session(session)
        session.refresh_from_db()
        assert session.close_reason == "solved"

    def test_review_of_closed_session_keeps_closer(self, mirrored, osvi_sandbox, staff, kim):
        session = mirrored()
        fault = Junk(b'{"summary": "Hello', "application/json", close=True)
        close_with(osvi_sandbox, session, fault, requested_by=staff)
        mark_closed(session, requested_by=staff, note="Seen.")
        attempt = session.attempts.get(kind="close")
        take_reviewed_summary(attempt, text="Hello", requested_by=kim)
        session.refresh_from_db()
        assert (session.summary_status, session.closed_by) == ("stored", staff)


class TestClosedVia:
    def test_close_stores_via_and_seconds_of_osvi(self, mirrored, osvi_sandbox, staff):
        session = mirrored()
        osvi_sandbox.latency = 0.1
        close_session(session, requested_by=staff, via="rest")
        assert session.closed_via == "rest"
        assert 0.1 <= session.close_seconds < 30
        assert session.close_seconds == session.attempts.get().osvi_seconds

    def test_job_stores_them_of_each_session(self, mirrored, staff):
        sessions = [mirrored() for _number in range(3)]
        job = create_close_job(sessions, requested_by=staff, via="command", start=False)
        run_close_job(job.pk)
        for session in ChatSession.objects.all():
            assert session.closed_via == "command"
            assert session.close_seconds == session.attempts.get().osvi_seconds > 0

    def test_recovery_keeps_via_of_close_without_seconds(self, mirrored, osvi_sandbox, staff):
        session = mirrored()
        close_with(osvi_sandbox, session, Drop(after_closing=True), via="admin")
        recover_session(session, via="command")
        assert (session.status, session.closed_via) == ("closed", "admin")
        assert session.close_seconds is None

    def test_second_close_keeps_first(self, mirrored, osvi_sandbox):
        session = mirrored()
        close_with(osvi_sandbox, session, Drop(after_closing=True), via="admin")
        mark_closed(session, via="rest", note="Seen.")
        assert (session.closed_via, session.close_seconds) == ("rest", None)
        fault = session.attempts.get(kind="close")
        session.attempts.filter(pk=fault.pk).update(
            http_status=200, answer="{", outcome="bad_answer", osvi_seconds=2
        )
        fault.refresh_from_db()
        take_reviewed_summary(fault, text="Hello", via="admin")
        session.refresh_from_db()
        assert (session.closed_via, session.close_seconds) == ("rest", None)


class TestHelpWaited:
    def test_close_ends_wait(self, mirrored):
        asked_at = timezone.now() - timedelta(minutes=5)
        session = mirrored(help_requested=True, help_requested_at=asked_at)
        close_session(session)
        assert 300 <= session.help_waited_seconds < 400

    def test_close_after_take_over_keeps_wait(self, mirrored):
        asked_at = timezone.now() - timedelta(minutes=5)
        session = mirrored(
            mode="support",
            help_requested=True,
            help_requested_at=asked_at,
            help_waited_seconds=42,
        )
        close_session(session)
        assert session.help_waited_seconds == 42

    def test_close_of_chat_without_request_stores_none(self, mirrored):
        session = mirrored()
        close_session(session)
        assert session.help_waited_seconds is None


class TestIsCloseRefused:
    @pytest.mark.parametrize(
        ("fault", "is_refused"),
        [(Status(422), True), (Status(401), False), (Status(429), False), (Drop(), False)],
    )
    def test_only_refusal_of_this_session_counts(self, mirrored, osvi_sandbox, fault, is_refused):
        session = mirrored()
        close_with(osvi_sandbox, session, fault)
        assert session.is_close_refused is is_refused

    def test_close_clears_it(self, mirrored, osvi_sandbox):
        session = mirrored()
        close_with(osvi_sandbox, session, Status(422))
        close_session(session)
        assert (session.status, session.is_close_refused) == ("closed", False)

    def test_close_that_is_not_answered_clears_it(self, mirrored, osvi_sandbox):
        session = mirrored()
        close_with(osvi_sandbox, session, Status(422))
        osvi_sandbox.script(session.session_id, Drop())
        with pytest.raises(OSVINoAnswer):
            close_session(session)
        assert (session.status, session.is_close_refused) == ("unconfirmed", False)
        recover_session(session)
        assert (session.status, session.is_close_refused) == ("active", False)

    def test_job_stores_it(self, mirrored, osvi_sandbox):
        sessions = [mirrored() for _number in range(3)]
        osvi_sandbox.script(sessions[0].session_id, Status(422))
        run_close_job(create_close_job(sessions, start=False).pk)
        refused = ChatSession.objects.filter(is_close_refused=True)
        assert [each.pk for each in refused] == [sessions[0].pk]
