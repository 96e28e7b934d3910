"""Answers that could not be read when they came: kept to the byte, read again, judged by staff."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from django.contrib.auth.models import AnonymousUser
from django.core.management import call_command
from django.db import OperationalError, transaction

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
from tests.outside import noticed, refused

pytestmark = pytest.mark.django_db

Kind = CloseAttempt.Kind
TEXT = "Größe: “M”.\n5 € were paid back."


def body_of(session, text=TEXT, **data):
    told = {"success": True, "data": {"session_id": session.session_id, "summary": text, **data}}
    return json.dumps(told, ensure_ascii=False)


def kept(session, body, **fields):
    """An attempt of a process with an older parser, which could make nothing of this answer."""
    told = {"outcome": "bad_answer", "error_code": "bad_answer", "http_status": 200, **fields}
    return CloseAttemptFactory(session=session, answer=body, **told)


class TestKeeping:
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
    def test_a_close_in_any_character_set_is_stored_and_kept_to_the_byte(
        self, mirrored, osvi_sandbox, encoding, content_type, is_exact
    ):
        session = mirrored()
        body = body_of(session).encode(encoding)
        osvi_sandbox.script(session.session_id, Junk(body, content_type))
        assert close_session(session).summary.text == TEXT
        attempt = session.attempts.get()
        assert json.loads(attempt.answer)["data"]["summary"] == TEXT
        assert (attempt.answer_bytes is None) is is_exact
        assert answer_of(attempt).body == body
        assert attempt.answer_incomplete is False
        declared = "windows-1252" if "windows" in content_type else ""
        assert attempt.answer_charset == declared

    def test_bytes_that_are_no_text_are_kept(self, mirrored, osvi_sandbox):
        session = mirrored()
        body = b"\x00\xff\xfe<html>" * 9
        osvi_sandbox.script(session.session_id, Junk(body))
        with pytest.raises(OSVIBadAnswer):
            close_session(session)
        assert answer_of(session.attempts.get()).body == body

    def test_an_answer_that_is_too_long_is_marked_as_incomplete(self, mirrored, osvi_sandbox):
        session = mirrored()
        body = b"\xff" + b"x" * 1_200_000
        osvi_sandbox.script(session.session_id, Junk(body))
        with pytest.raises(OSVIError):
            close_session(session)
        attempt = session.attempts.get()
        assert attempt.answer_incomplete
        assert answer_of(attempt).truncated
        assert bytes(attempt.answer_bytes) == body[:1_000_000]

    def test_the_spool_keeps_all_that_the_journal_does(
        self, mirrored, osvi_sandbox, settings, tmp_path
    ):
        settings.OSVI["default"] |= {"SPOOL_DIR": tmp_path / "spool", "DATABASE_RETRY_TIMEOUT": 0.1}
        session = mirrored()
        body = body_of(session).encode("cp1251", errors="replace")
        body = body.replace(b"Gr", "Привет".encode("koi8-r"))
        osvi_sandbox.script(session.session_id, Junk(body, "text/html; charset=koi8-r"))

        def is_refused(sql, _params):
            return sql.startswith("UPDATE") and "closeattempt" in sql

        with (
            refused(is_refused, OperationalError("the database is away")),
            pytest.raises(OSVINoAnswer),
        ):
            close_session(session)
        [path] = spool.waiting(tmp_path / "spool")
        assert (spool.read(path).charset, spool.read(path).incomplete) == ("koi8-r", False)
        [result] = recover_all()
        assert result.settled is Settled.STORED
        assert SessionSummary.objects.get().text.startswith("Привет")

    def test_a_file_of_an_earlier_version_is_read(self, tmp_path):
        answer = spool.SpooledAnswer(
            session=1, attempt=2, claim="c", status=200, body=b"x", truncated=False
        )
        path = spool.put(tmp_path / "spool", answer)
        content = json.loads(path.read_text())
        del content["incomplete"], content["charset"]
        path.write_text(json.dumps(content))
        assert spool.read(path) == answer


class TestRecovery:
    @pytest.mark.parametrize("outcome", ["answered", "bad_answer", "no_answer"])
    def test_what_can_be_read_by_now_is_stored_without_asking_osvi(
        self, mirrored, osvi_sandbox, outcome
    ):
        session = mirrored(status="unconfirmed")
        attempt = kept(session, body_of(session) + ",", outcome=outcome)
        assert recover_session(session).settled is Settled.STORED
        assert session.summary.text == TEXT
        assert osvi_sandbox.requests == []
        attempt.refresh_from_db()
        assert (attempt.outcome, attempt.error_code) == ("closed", "")

    def test_the_answer_with_the_summary_counts_however_many_have_none(
        self, mirrored, osvi_sandbox
    ):
        session = mirrored(status="unconfirmed")
        kept(session, body_of(session))
        kept(session, body_of(session, None), outcome="answered")
        kept(session, "<html>")
        kept(session, "", outcome="no_answer", http_status=None)
        assert recover_session(session).settled is Settled.STORED
        assert session.summary.text == TEXT

    def test_an_answer_without_a_summary_says_that_there_is_none(self, mirrored, osvi_sandbox):
        session = mirrored(status="unconfirmed")
        kept(session, body_of(session, None).replace("true", '"true"'))
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
    def test_what_cannot_be_trusted_is_never_stored(self, unconfirmed, osvi_sandbox, body):
        session = unconfirmed(Drop(after_closing=True))
        body = body.replace("%s", session.session_id)
        kept(session, body, answer_incomplete=True)
        osvi_sandbox.when_closed = 409
        assert recover_session(session).settled is Settled.LOST
        assert [result for result in reread_all() if result.session == session] == []
        assert not SessionSummary.objects.exists()

    def test_a_close_behind_our_back_finds_the_summary_of_an_earlier_answer(
        self, mirrored, osvi_sandbox
    ):
        session = mirrored()
        kept(session, body_of(session))
        osvi_sandbox.sessions[session.session_id].status = "closed"
        osvi_sandbox.when_closed = 409
        assert close_session(session).summary.text == TEXT

    def test_marking_as_closed_finds_it_too(self, mirrored):
        session = mirrored(status="unconfirmed")
        kept(session, body_of(session))
        assert mark_closed(session, note="Seen.").summary.text == TEXT
        assert not session.attempts.filter(kind=Kind.MARK).exists()

    def test_a_second_try_finds_it_too(self, mirrored, osvi_sandbox):
        session = mirrored(status="unconfirmed")
        kept(session, body_of(session))
        assert close_again(session).summary.text == TEXT
        assert osvi_sandbox.requests == []


class TestRereading:
    @pytest.mark.parametrize("summary_status", ["lost", "not_provided", "pending"])
    @pytest.mark.parametrize("status", ["closed", "unconfirmed"])
    @pytest.mark.parametrize("outcome", list(CloseAttempt.Outcome))
    def test_the_command_stores_what_can_be_read_by_now(
        self, osvi_sandbox, capsys, status, summary_status, outcome
    ):
        session = ChatSessionFactory(status=status, summary_status=summary_status)
        attempt = kept(session, body_of(session), outcome=outcome)
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
    def test_nothing_that_is_open_is_closed_by_it(self, status):
        session = ChatSessionFactory(status=status)
        kept(session, body_of(session))
        assert list(reread_all()) == []
        session.refresh_from_db()
        assert session.status == status

    @pytest.mark.parametrize("source", list(SessionSummary.Source))
    def test_a_stored_summary_stays(self, source):
        session = ClosedSessionFactory(summary_status="stored")
        SessionSummary.objects.filter(session=session).delete()
        SessionSummaryFactory(session=session, text="First.", source=source)
        kept(session, body_of(session))
        ChatSession.objects.update(summary_status="lost")  # by whoever was slower
        assert list(reread_all()) == []
        assert SessionSummary.objects.get(session=session).text == "First."

    def test_one_bad_row_does_not_stop_it(self, caplog):
        first, second = (ChatSessionFactory(status="closed") for _number in range(2))
        for session in (first, second):
            kept(session, body_of(session))

        def is_refused(sql, params):
            return sql.startswith("UPDATE") and first.pk in params

        with refused(is_refused, ValueError("odd")):
            found = {result.session: result.settled for result in reread_all()}
        assert found == {first: Settled.FAILED, second: Settled.STORED}
        assert "could not be read" in caplog.text

    def test_an_attempt_that_is_deleted_meanwhile_is_passed_over(self):
        session = ChatSessionFactory(status="closed")
        kept(session, body_of(session))
        gone = kept(session, body_of(session, "Gone."))

        def delete():
            CloseAttempt.objects.filter(pk=gone.pk).delete()

        with noticed(lambda sql, params: "closeattempt" in sql and gone.pk not in params, delete):
            assert [result.settled for result in reread_all()] == [Settled.STORED]
        assert session.summary.text == TEXT

    def test_there_may_be_more_than_a_page_of_them(self, monkeypatch):
        monkeypatch.setattr("osvi_django.services.recovery.reviewing.CHUNK", 2)
        for _number in range(5):
            session = ChatSessionFactory(status="closed")
            kept(session, body_of(session))
        assert len(list(reread_all())) == 5


class TestReview:
    @pytest.fixture
    def half(self, mirrored):
        """A session of which half an answer is kept."""
        session = mirrored(status="unconfirmed")
        body = body_of(session)[:-30]
        return kept(session, body, outcome="no_answer", answer_incomplete=True)

    def test_staff_see_what_there_is_of_it(self, half):
        review = review_of(half)
        assert (review.is_incomplete, review.names_another) == (True, False)
        assert TEXT.startswith(review.summary)
        assert review.summary
        assert review.text == half.answer

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
    def test_what_may_be_the_summary_is_proposed(self, body, summary, is_anothers):
        review = review_of(kept(ChatSessionFactory(), body))
        assert (review.summary, review.names_another) == (summary, is_anothers)

    @pytest.mark.parametrize("status", ["unconfirmed", "closed"])
    def test_the_reviewed_text_is_the_summary_from_then_on(self, half, osvi_sandbox, staff, status):
        ChatSession.objects.update(status=status, summary_status="lost")
        result = take_reviewed_summary(
            half, text=" The half\r\nof it. ", requested_by=staff, via="admin", note=" Seen. "
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
        half.refresh_from_db()
        assert half.outcome == "no_answer"
        assert osvi_sandbox.requests == []
        # It can be put right, and written by nobody else.
        again = take_reviewed_summary(half, text="Better.")
        assert (again.summary.text, session.attempts.filter(kind=Kind.REVIEW).count()) == (
            "Better.",
            2,
        )

    def test_a_summary_of_this_site_gives_way_to_it(self, half):
        ChatSession.objects.update(status="closed", summary_status="stored")
        SessionSummaryFactory(session=half.session, source="host")
        assert take_reviewed_summary(half, text="x").summary.source == "reviewed"

    def test_osvis_own_gives_way_to_none(self, half):
        ChatSession.objects.update(status="closed", summary_status="stored")
        SessionSummaryFactory(session=half.session, text="OSVI's.", source="osvi")
        with pytest.raises(InvalidInput, match="own summary") as caught:
            take_reviewed_summary(half, text="x")
        assert caught.value.field == "summary"
        assert SessionSummary.objects.get().text == "OSVI's."
        assert not CloseAttempt.objects.filter(kind=Kind.REVIEW).exists()

    def test_osvis_own_takes_its_place_when_it_comes_after_all(self, half):
        take_reviewed_summary(half, text="x")
        attempt = kept(half.session, body_of(half.session))
        ChatSession.objects.update(status="unconfirmed")
        assert recover_session(half.session).settled is Settled.STORED
        summary = SessionSummary.objects.get()
        assert (summary.text, summary.source, attempt.kind) == (TEXT, "osvi", "close")

    @pytest.mark.parametrize("status", ["active", "dormant", "closing"])
    def test_nothing_that_is_open_is_closed_by_it(self, half, status):
        lease_until = DatabaseNow() + timedelta(minutes=1)
        ChatSession.objects.update(status=status, lease_until=lease_until)
        with pytest.raises(InvalidInput, match="open or being closed") as caught:
            take_reviewed_summary(half, text="x")
        assert caught.value.field == "status"
        assert ChatSession.objects.get().status == status
        assert not SessionSummary.objects.exists()

    @pytest.mark.parametrize("text", ["", " \n", None, 7, "\x00" * 0, "x" * 1_000_001])
    def test_a_text_that_cannot_be_one_is_refused(self, half, text):
        with pytest.raises(InvalidInput) as caught:
            take_reviewed_summary(half, text=text)
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
    def test_an_attempt_without_an_answer_to_judge_is_refused(self, half, fields):
        CloseAttempt.objects.update(**fields)
        half.refresh_from_db()
        with pytest.raises(InvalidInput) as caught:
            take_reviewed_summary(half, text="x")
        assert caught.value.field == "attempt"

    def test_those_who_may_not_close_may_not_take_it(self, half):
        with pytest.raises(NotAllowed):
            take_reviewed_summary(half, text="x", requested_by=AnonymousUser())

    @pytest.mark.django_db(transaction=True)
    def test_inside_a_transaction_it_is_refused(self, half):
        with transaction.atomic(), pytest.raises(InsideTransaction):
            take_reviewed_summary(half, text="x")
