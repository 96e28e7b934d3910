"""Test answers that could not be read when they arrived: stored, read again, and reviewed."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from django.contrib.auth.models import AnonymousUser
from django.core.management import call_command
from django.db import transaction

from osvi_django import spool
from osvi_django.database import DatabaseNow
from osvi_django.exceptions import (
    InsideTransaction,
    InvalidInput,
    NotAllowed,
    OSVIBadAnswer,
    OSVIError,
    OSVINoAnswer,
)
from osvi_django.models import ChatSession, CloseAttempt, SessionSummary
from osvi_django.services import close_again, close_session
from osvi_django.services.attempts.kept_answers import answer_of
from osvi_django.services.recovery import (
    Settled,
    mark_closed,
    recover_all,
    recover_session,
    reread_all,
)
from osvi_django.services.recovery.reviewing import review_of, take_reviewed_summary
from osvi_django.signals import session_closed
from osvi_django.testing import Drop, Junk
from osvi_django.testing.factories import (
    ChatSessionFactory,
    CloseAttemptFactory,
    ClosedSessionFactory,
    SessionSummaryFactory,
)
from tests.helpers.database import call_after_queries, raise_on_queries
from tests.services.helpers import answers_refused

pytestmark = pytest.mark.django_db

Kind = CloseAttempt.Kind
TEXT = "Größe: “M”.\n5 € were paid back."


def answer_body(session, text=TEXT, **data):
    answer = {"success": True, "data": {"session_id": session.session_id, "summary": text, **data}}
    return json.dumps(answer, ensure_ascii=False)


def create_attempt_with_answer(session, body, **fields):
    """Create an attempt of an older version, which could not read this answer."""
    values = {"outcome": "bad_answer", "error_code": "bad_answer", "http_status": 200, **fields}
    return CloseAttemptFactory(session=session, answer=body, **values)


class TestStoredAnswer:
    @pytest.mark.parametrize(
        ("encoding", "content_type", "is_exact"),
        [
            ("utf-8", "application/json", True),
            ("utf-8", "application/json; charset=latin-1", True),
            ("cp1252", "application/json", False),
            ("cp1252", "text/html; charset=windows-1252", False),
            ("utf-16", "application/json", False),
        ],
    )
    def test_close_with_answer_in_any_charset_stores_exact_bytes(
        self, mirrored, osvi_sandbox, encoding, content_type, is_exact
    ):
        session = mirrored()
        body = answer_body(session).encode(encoding)
        osvi_sandbox.script(session.session_id, Junk(body, content_type))
        assert close_session(session).summary.text == TEXT
        attempt = session.attempts.get()
        assert json.loads(attempt.answer)["data"]["summary"] == TEXT
        assert (attempt.answer_bytes is None) is is_exact
        assert answer_of(attempt).body == body
        assert attempt.answer_incomplete is False
        declared = "windows-1252" if "windows" in content_type else ""
        assert attempt.answer_charset == declared

    def test_close_with_binary_answer_stores_exact_bytes(self, mirrored, osvi_sandbox):
        session = mirrored()
        body = b"\x00\xff\xfe<html>" * 9
        osvi_sandbox.script(session.session_id, Junk(body))
        with pytest.raises(OSVIBadAnswer):
            close_session(session)
        assert answer_of(session.attempts.get()).body == body

    def test_close_with_too_long_answer_marks_it_as_incomplete(self, mirrored, osvi_sandbox):
        session = mirrored()
        body = b"\xff" + b"x" * 1_200_000
        osvi_sandbox.script(session.session_id, Junk(body))
        with pytest.raises(OSVIError):
            close_session(session)
        attempt = session.attempts.get()
        assert attempt.answer_incomplete
        assert answer_of(attempt).truncated
        assert bytes(attempt.answer_bytes) == body[:1_000_000]

    def test_close_without_database_spools_charset_and_completeness(
        self, mirrored, osvi_sandbox, settings, tmp_path
    ):
        settings.OSVI["default"] |= {"SPOOL_DIR": tmp_path / "spool", "DATABASE_RETRY_TIMEOUT": 0.1}
        session = mirrored()
        body = answer_body(session).encode("cp1251", errors="replace")
        body = body.replace(b"Gr", "Привет".encode("koi8-r"))
        osvi_sandbox.script(session.session_id, Junk(body, "text/html; charset=koi8-r"))

        with answers_refused(), pytest.raises(OSVINoAnswer):
            close_session(session)
        [path] = spool.waiting(tmp_path / "spool")
        assert (spool.read(path).charset, spool.read(path).incomplete) == ("koi8-r", False)
        [result] = recover_all()
        assert result.settled is Settled.STORED
        assert SessionSummary.objects.get().text.startswith("Привет")

    def test_spool_file_of_earlier_version_is_readable(self, tmp_path):
        answer = spool.SpooledAnswer(
            session=1, attempt=2, claim="c", status=200, body=b"x", truncated=False
        )
        path = spool.put(tmp_path / "spool", answer)
        content = json.loads(path.read_text())
        del content["incomplete"], content["charset"]
        path.write_text(json.dumps(content))
        assert spool.read(path) == answer


class TestRecoverSession:
    @pytest.mark.parametrize("outcome", ["answered", "bad_answer", "no_answer"])
    def test_recover_session_with_readable_stored_answer_sends_nothing(
        self, mirrored, osvi_sandbox, outcome
    ):
        session = mirrored(status="unconfirmed")
        attempt = create_attempt_with_answer(session, answer_body(session) + ",", outcome=outcome)
        assert recover_session(session).settled is Settled.STORED
        assert session.summary.text == TEXT
        assert osvi_sandbox.requests == []
        attempt.refresh_from_db()
        assert (attempt.outcome, attempt.error_code) == ("closed", "")

    def test_recover_session_with_several_answers_takes_the_one_with_summary(
        self, mirrored, osvi_sandbox
    ):
        session = mirrored(status="unconfirmed")
        create_attempt_with_answer(session, answer_body(session))
        create_attempt_with_answer(session, answer_body(session, None), outcome="answered")
        create_attempt_with_answer(session, "<html>")
        create_attempt_with_answer(session, "", outcome="no_answer", http_status=None)
        assert recover_session(session).settled is Settled.STORED
        assert session.summary.text == TEXT

    def test_recover_session_with_answer_without_summary_is_not_provided(
        self, mirrored, osvi_sandbox
    ):
        session = mirrored(status="unconfirmed")
        create_attempt_with_answer(session, answer_body(session, None).replace("true", '"true"'))
        assert recover_session(session).settled is Settled.NOT_PROVIDED
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize(
        "body",
        [
            '{"success": true, "data": {"session_id": "another", "summary": "x"}}',
            '{"success": true, "data": {"session_id": "%s", "summary": "Half of',
            "<html>",
        ],
    )
    def test_recovery_with_untrusted_answer_stores_no_summary(
        self, unconfirmed, osvi_sandbox, body
    ):
        session = unconfirmed(Drop(after_closing=True))
        body = body.replace("%s", session.session_id)
        create_attempt_with_answer(session, body, answer_incomplete=True)
        osvi_sandbox.when_closed = 409
        assert recover_session(session).settled is Settled.LOST
        assert [result for result in reread_all() if result.session == session] == []
        assert not SessionSummary.objects.exists()

    def test_close_session_closed_elsewhere_takes_summary_of_earlier_answer(
        self, mirrored, osvi_sandbox
    ):
        session = mirrored()
        create_attempt_with_answer(session, answer_body(session))
        osvi_sandbox.sessions[session.session_id].status = "closed"
        osvi_sandbox.when_closed = 409
        assert close_session(session).summary.text == TEXT

    def test_mark_closed_takes_summary_of_stored_answer(self, mirrored):
        session = mirrored(status="unconfirmed")
        create_attempt_with_answer(session, answer_body(session))
        assert mark_closed(session, note="Seen.").summary.text == TEXT
        assert not session.attempts.filter(kind=Kind.MARK).exists()

    def test_close_again_takes_summary_of_stored_answer(self, mirrored, osvi_sandbox):
        session = mirrored(status="unconfirmed")
        create_attempt_with_answer(session, answer_body(session))
        assert close_again(session).summary.text == TEXT
        assert osvi_sandbox.requests == []


class TestRereadAll:
    @pytest.mark.parametrize("summary_status", ["lost", "not_provided", "pending"])
    @pytest.mark.parametrize("status", ["closed", "unconfirmed"])
    @pytest.mark.parametrize("outcome", list(CloseAttempt.Outcome))
    def test_recover_command_with_reread_stores_readable_summary(
        self, osvi_sandbox, capsys, status, summary_status, outcome
    ):
        session = ChatSessionFactory(status=status, summary_status=summary_status)
        attempt = create_attempt_with_answer(session, answer_body(session), outcome=outcome)
        heard = []

        def hear(**named):
            heard.append(named["summary"].text)

        session_closed.connect(hear)
        try:
            call_command("osvi_recover", reread=True)
        finally:
            session_closed.disconnect(hear)
        session.refresh_from_db()
        assert (session.status, session.summary_status) == ("closed", "stored")
        assert (session.summary.text, session.summary.source) == (TEXT, "osvi")
        attempt.refresh_from_db()
        assert attempt.outcome == "closed"
        assert heard == [TEXT]
        said = capsys.readouterr().out
        assert "1 stored" in said
        assert "Größe" not in said
        assert osvi_sandbox.requests == []
        assert list(reread_all()) == []

    @pytest.mark.parametrize("status", ["active", "dormant", "closing"])
    def test_reread_all_keeps_open_session(self, status):
        session = ChatSessionFactory(status=status)
        create_attempt_with_answer(session, answer_body(session))
        assert list(reread_all()) == []
        session.refresh_from_db()
        assert session.status == status

    @pytest.mark.parametrize("source", list(SessionSummary.Source))
    def test_reread_all_keeps_stored_summary(self, source):
        session = ClosedSessionFactory(summary_status="stored")
        SessionSummary.objects.filter(session=session).delete()
        SessionSummaryFactory(session=session, text="First.", source=source)
        create_attempt_with_answer(session, answer_body(session))
        ChatSession.objects.update(summary_status="lost")  # as another process may do
        assert list(reread_all()) == []
        assert SessionSummary.objects.get(session=session).text == "First."

    def test_reread_all_does_not_bring_back_removed_summary(self):
        session = ClosedSessionFactory(summary=None, summary_status="removed")
        create_attempt_with_answer(session, answer_body(session), outcome="closed")
        assert list(reread_all()) == []
        assert not SessionSummary.objects.exists()

    def test_reread_all_with_failing_session_continues(self, caplog):
        first, second = (ChatSessionFactory(status="closed") for _number in range(2))
        for session in (first, second):
            create_attempt_with_answer(session, answer_body(session))

        def is_refused(sql, params):
            return sql.startswith("UPDATE") and first.pk in params

        with raise_on_queries(is_refused, ValueError("odd")):
            found = {result.session: result.settled for result in reread_all()}
        assert found == {first: Settled.FAILED, second: Settled.STORED}
        assert "could not be read" in caplog.text

    def test_reread_all_with_attempt_deleted_meanwhile_continues(self):
        session = ChatSessionFactory(status="closed")
        create_attempt_with_answer(session, answer_body(session))
        gone = create_attempt_with_answer(session, answer_body(session, "Gone."))

        def delete():
            CloseAttempt.objects.filter(pk=gone.pk).delete()

        with call_after_queries(
            lambda sql, params: "closeattempt" in sql and gone.pk not in params, delete
        ):
            assert [result.settled for result in reread_all()] == [Settled.STORED]
        assert session.summary.text == TEXT

    def test_reread_all_with_several_chunks_reads_all(self, monkeypatch):
        monkeypatch.setattr("osvi_django.services.recovery.reviewing.CHUNK", 2)
        for _number in range(5):
            session = ChatSessionFactory(status="closed")
            create_attempt_with_answer(session, answer_body(session))
        assert len(list(reread_all())) == 5


class TestReview:
    @pytest.fixture
    def half_answer(self, mirrored):
        """Create an attempt with half an answer."""
        session = mirrored(status="unconfirmed")
        body = answer_body(session)[:-30]
        return create_attempt_with_answer(
            session, body, outcome="no_answer", answer_incomplete=True
        )

    def test_review_of_incomplete_answer_returns_its_text(self, half_answer):
        review = review_of(half_answer)
        assert (review.is_incomplete, review.names_another) == (True, False)
        assert TEXT.startswith(review.summary)
        assert review.summary
        assert review.text == half_answer.answer

    @pytest.mark.parametrize(
        ("body", "summary", "is_anothers"),
        [
            ('{"data": {"session_id": "another", "summary": " A\\u00e9 "}}', "Aé", True),
            ('{"data": {"session_id": "another", "summary": "Half', "Half", True),
            ('{"data": {"session_id": 17, "summary": "Half \\u00', "Half", True),
            ('{"data": {"session_id": "\\x", "summary": "Half \\x of', "Half \\x of", False),
            ('{"data": {"summary": {"text": "Zoë"}}}', '{"text": "Zoë"}', False),
            ('{"data": {"summary": null}}', "", False),
            ("<html>", "", False),
        ],
    )
    def test_review_of_answer_proposes_summary(self, body, summary, is_anothers):
        review = review_of(create_attempt_with_answer(ChatSessionFactory(), body))
        assert (review.summary, review.names_another) == (summary, is_anothers)

    @pytest.mark.parametrize("status", ["unconfirmed", "closed"])
    def test_take_reviewed_summary_stores_summary_and_attempt(
        self, half_answer, osvi_sandbox, staff, status
    ):
        ChatSession.objects.update(status=status, summary_status="lost")
        result = take_reviewed_summary(
            half_answer,
            text=" The half\r\nof it. ",
            requested_by=staff,
            via="admin",
            note=" Seen. ",
        )
        session = result.session
        assert (session.status, session.summary_status) == ("closed", "stored")
        assert session.closed_at is not None
        assert (result.changed, result.summary.text) == (True, "The half\r\nof it.")
        assert result.summary.source == SessionSummary.Source.REVIEWED == "reviewed"
        attempt = result.attempt
        assert (attempt.kind, attempt.outcome) == (Kind.REVIEW, "closed")
        assert (attempt.requested_by, attempt.via, attempt.note) == (staff, "admin", "Seen.")
        assert attempt.finished_at is not None
        half_answer.refresh_from_db()
        assert half_answer.outcome == "no_answer"
        assert osvi_sandbox.requests == []
        # It can be corrected.
        again = take_reviewed_summary(half_answer, text="Better.")
        assert (again.summary.text, session.attempts.filter(kind=Kind.REVIEW).count()) == (
            "Better.",
            2,
        )

    def test_take_reviewed_summary_replaces_summary_of_host(self, half_answer):
        ChatSession.objects.update(status="closed", summary_status="stored")
        SessionSummaryFactory(session=half_answer.session, source="host")
        assert take_reviewed_summary(half_answer, text="x").summary.source == "reviewed"

    def test_take_reviewed_summary_with_summary_of_osvi_raises_invalid_input(self, half_answer):
        ChatSession.objects.update(status="closed", summary_status="stored")
        SessionSummaryFactory(session=half_answer.session, text="OSVI's.", source="osvi")
        with pytest.raises(InvalidInput, match="own summary") as caught:
            take_reviewed_summary(half_answer, text="x")
        assert caught.value.field == "summary"
        assert SessionSummary.objects.get().text == "OSVI's."
        assert not CloseAttempt.objects.filter(kind=Kind.REVIEW).exists()

    def test_recovered_summary_of_osvi_replaces_reviewed_summary(self, half_answer):
        take_reviewed_summary(half_answer, text="x")
        attempt = create_attempt_with_answer(half_answer.session, answer_body(half_answer.session))
        ChatSession.objects.update(status="unconfirmed")
        assert recover_session(half_answer.session).settled is Settled.STORED
        summary = SessionSummary.objects.get()
        assert (summary.text, summary.source, attempt.kind) == (TEXT, "osvi", "close")

    @pytest.mark.parametrize("status", ["active", "dormant", "closing"])
    def test_take_reviewed_summary_of_open_session_raises_invalid_input(self, half_answer, status):
        lease_until = DatabaseNow() + timedelta(minutes=1)
        ChatSession.objects.update(status=status, lease_until=lease_until)
        with pytest.raises(InvalidInput, match="open or being closed") as caught:
            take_reviewed_summary(half_answer, text="x")
        assert caught.value.field == "status"
        assert ChatSession.objects.get().status == status
        assert not SessionSummary.objects.exists()

    @pytest.mark.parametrize("text", ["", " \n", None, 7, "\x00" * 0, "x" * 1_000_001])
    def test_take_reviewed_summary_with_invalid_text_raises_invalid_input(self, half_answer, text):
        with pytest.raises(InvalidInput) as caught:
            take_reviewed_summary(half_answer, text=text)
        assert caught.value.field == "text"

    @pytest.mark.parametrize(
        "fields",
        [
            {"outcome": "closed"},
            {"outcome": "rejected"},
            {"outcome": "started"},
            {"outcome": "no_answer", "http_status": None},
        ],
    )
    def test_take_reviewed_summary_without_unread_answer_raises_invalid_input(
        self, half_answer, fields
    ):
        CloseAttempt.objects.update(**fields)
        half_answer.refresh_from_db()
        with pytest.raises(InvalidInput) as caught:
            take_reviewed_summary(half_answer, text="x")
        assert caught.value.field == "attempt"

    def test_take_reviewed_summary_without_permission_raises_not_allowed(self, half_answer):
        with pytest.raises(NotAllowed):
            take_reviewed_summary(half_answer, text="x", requested_by=AnonymousUser())

    @pytest.mark.django_db(transaction=True)
    def test_take_reviewed_summary_inside_transaction_raises(self, half_answer):
        with transaction.atomic(), pytest.raises(InsideTransaction):
            take_reviewed_summary(half_answer, text="x")
