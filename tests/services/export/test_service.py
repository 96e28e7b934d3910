"""Tests of ``export_sessions``."""

from __future__ import annotations

import json
import logging
from contextlib import closing

import pytest
from django.db import OperationalError, connection
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from osvi_django.exceptions import ExportNotInstalled, InvalidInput, NotAllowed, TooManyRows
from osvi_django.models import ChatSession, CloseAttempt, DataExport, SupportAction
from osvi_django.services import SessionFilter, export_sessions
from osvi_django.services.export.cells import unmarked
from osvi_django.testing.factories import (
    ChatAgentFactory,
    ChatSessionFactory,
    CloseAttemptFactory,
    ClosedSessionFactory,
)
from osvi_django.validation import storable
from tests.helpers.database import cut_connection, raise_on_queries
from tests.helpers.datetimes import db_datetime
from tests.helpers.exports import READERS, read_csv, read_jsonl, read_xlsx, types_in_xlsx

pytestmark = pytest.mark.django_db
FORMATS = list(READERS)
ALL = SessionFilter(status=None)


def exported(file_format="jsonl", sessions=ALL, **options):
    return b"".join(export_sessions(sessions, file_format=file_format, **options))


def ids_in(content):
    return [row["session_id"] for row in read_jsonl(content)]


@pytest.fixture
def exporter(staff, grant):
    return grant(staff, "export_chatsession")


class TestContent:
    @pytest.fixture
    def closed(self, staff):
        session = ClosedSessionFactory(
            session_id="4718a326",
            agent=ChatAgentFactory(uuid="agent_x", name="Night desk"),
            customer_id="+15551112222",
            started_at=db_datetime("2026-01-31T12:00:00Z"),
            closed_at=db_datetime("2026-01-31T12:30:00.5Z"),
            closed_by=staff,
            close_reason="Solved",
            closed_via="rest",
            close_seconds=2.5,
            summary__text="All is well.",
            metadata={"big": "unread"},
        )
        outcome = CloseAttempt.Outcome.CLOSED
        CloseAttemptFactory(session=session, outcome=outcome, note="Paid")
        CloseAttemptFactory(session=session, outcome=CloseAttempt.Outcome.NO_ANSWER, note="no")
        review = {"kind": CloseAttempt.Kind.REVIEW, "outcome": CloseAttempt.Outcome.CLOSED}
        CloseAttemptFactory(session=session, note="Chosen", **review)
        return session

    @pytest.mark.parametrize("file_format", FORMATS)
    def test_row_of_closed_session_has_all_columns(self, closed, file_format):
        (row,) = READERS[file_format](exported(file_format))
        none = "" if file_format == "csv" else None
        assert row == {
            "session_id": "4718a326",
            "account": "default",
            "agent_uuid": "agent_x",
            "agent_name": "Night desk",
            "customer_id": "+15551112222",
            "status": "closed",
            "mode": "ai",
            "started_at": "2026-01-31T12:00:00Z",
            "closed_at": "2026-01-31T12:30:00.500000Z",
            "closed_by": "sam",
            "closed_via": "rest",
            "close_seconds": "2.5" if file_format == "csv" else 2.5,
            "close_reason": "Solved",
            "note": "Paid",
            "summary_status": "stored",
            "summary_source": "osvi",
            "summarizer_error": none,
            "summary": "All is well.",
        }

    @pytest.mark.parametrize("file_format", FORMATS)
    def test_row_of_open_session_is_empty_where_there_is_nothing(self, file_format):
        ChatSessionFactory(agent=ChatAgentFactory(uuid=None, name="", number=7), customer_id="")
        (row,) = READERS[file_format](exported(file_format))
        known = {"session_id", "account", "status", "mode", "started_at", "summary_status"}
        assert {name for name, value in row.items() if value} == known

    @pytest.mark.parametrize("file_format", FORMATS)
    def test_file_of_no_sessions_has_header_at_most(self, file_format):
        content = exported(file_format)
        assert READERS[file_format](content) == []
        assert content.count(b"session_id") == (1 if file_format == "csv" else 0)

    @pytest.mark.parametrize("file_format", FORMATS)
    def test_file_without_words_lacks_their_columns(
        self, closed, grant, django_user_model, file_format
    ):
        user = grant(
            django_user_model.objects.create_user("jo"), "export_chatsession", "view_chatsession"
        )
        (row,) = READERS[file_format](exported(file_format, requested_by=user))
        assert {"summary", "note"}.isdisjoint(row)
        assert row["summary_status"] == "stored"
        assert not DataExport.objects.get().has_words

    def test_rows_of_many_pages_are_all_there_once(self):
        agent = ChatAgentFactory()
        ChatSession.objects.bulk_create(
            ChatSession(session_id=f"s{number}", agent=agent) for number in range(4_500)
        )
        assert ids_in(exported()) == [f"s{number}" for number in range(4_500)]

    def test_session_that_is_mirrored_after_start_is_not_in_file(self):
        agent = ChatAgentFactory()
        ChatSession.objects.bulk_create(
            ChatSession(session_id=f"s{number}", agent=agent) for number in range(2_000)
        )
        export = export_sessions(ALL, file_format="jsonl")
        late = ChatSessionFactory()
        rest = b"".join(export)
        assert late.session_id not in ids_in(rest)
        assert export.record.rows == 2_000

    def test_session_that_queryset_has_twice_is_in_file_once(self):
        session = CloseAttemptFactory().session
        CloseAttemptFactory(session=session)
        twice = ChatSession.objects.filter(attempts__kind="close")
        assert ids_in(exported(sessions=twice)) == [session.session_id]

    def test_file_has_what_filter_and_search_find(self):
        wanted = ClosedSessionFactory(customer_id="+15551112222")
        ChatSessionFactory(customer_id="+15551112222")
        ClosedSessionFactory()
        closed = SessionFilter(status="closed")
        assert ids_in(exported(sessions=closed, search="2222")) == [wanted.session_id]

    def test_export_reads_few_columns_in_few_queries(self, django_assert_num_queries):
        ClosedSessionFactory.create_batch(3)
        # The last key, the history, the page, and the end in the history.
        with django_assert_num_queries(4):
            exported()


class TestExactness:
    @pytest.mark.parametrize("file_format", FORMATS)
    @given(text=st.text(max_size=40).map(storable))
    @example(text='=HYPERLINK("http://evil.example")')
    @example(text="_x0041_ \x01\x1f \ufffe\uffff \r\n\t ")
    @example(text=" a\u2028b ")
    @example(text="https://example.com")
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    def test_text_comes_back_as_it_is_stored(self, file_format, text):
        ChatSession.objects.all().delete()
        session = ClosedSessionFactory(summary__text=text, customer_id=text[:20], close_reason=text)
        (row,) = READERS[file_format](exported(file_format))
        read = unmarked if file_format == "csv" else str
        shown = [read(row[name] or "") for name in ("summary", "customer_id", "close_reason")]
        assert shown == [text, session.customer_id, text]

    @pytest.mark.parametrize("long", ["a" * 32_767, "a" * 32_768, "x" + "👋" * 40_000])
    def test_text_longer_than_cell_of_excel_continues_to_its_right(self, long):
        ClosedSessionFactory(summary__text=long)
        assert read_xlsx(exported("xlsx"))[0]["summary"] == long

    def test_workbook_has_number_of_seconds(self):
        ClosedSessionFactory(close_seconds=0)
        assert read_xlsx(exported("xlsx"))[0]["close_seconds"] == 0

    def test_workbook_has_no_formula_link_or_number_made_of_text(self):
        formula = '=HYPERLINK("http://127.0.0.1:9/")'
        ClosedSessionFactory(
            customer_id="0049301234567", close_reason="{=1+1}", summary__text=formula
        )
        content = exported("xlsx")
        assert types_in_xlsx(content) <= {"s", "inlineStr"}
        assert b"hyperlink" not in content

    def test_csv_marks_formulas_and_leaves_phone_numbers(self):
        ClosedSessionFactory(customer_id="+15551112222", summary__text="=1+1")
        (row,) = read_csv(exported("csv"))
        assert (row["customer_id"], row["summary"]) == ("+15551112222", "'=1+1")

    def test_csv_begins_with_byte_order_mark_and_has_crlf(self):
        ChatSessionFactory()
        content = exported("csv")
        assert content.startswith(b"\xef\xbb\xbfsession_id,account,")
        assert content.count(b"\r\n") == 2

    def test_jsonl_has_one_line_for_each_row_in_utf8(self):
        ClosedSessionFactory(summary__text="Grüße\nzwei")
        line = exported().removesuffix(b"\n")
        assert b"\n" not in line
        assert "Grüße".encode() in line
        assert json.loads(line)["summary"] == "Grüße\nzwei"


class TestHistory:
    def test_history_says_who_took_what_along(self, exporter):
        ClosedSessionFactory.create_batch(2, customer_id="+15551112222")
        chosen = SessionFilter(status="closed", customer_id="+15551112222")
        exported("csv", chosen, search="2222", requested_by=exporter, via="rest")
        record = DataExport.objects.get()
        assert (record.requested_by, record.via, record.file_format) == (exporter, "rest", "csv")
        assert (record.has_words, record.rows, record.outcome) == (True, 2, "completed")
        assert record.selection == "closed, of one customer, found by a search"
        assert record.started_at <= record.finished_at

    def test_history_of_everything_says_so(self):
        exported()
        assert DataExport.objects.get().selection == "all"

    def test_history_has_words_of_queryset(self):
        exported(sessions=ChatSession.objects.all(), selection="quiet for 7 days")
        assert DataExport.objects.get().selection == "quiet for 7 days"

    def test_history_is_written_before_first_byte(self):
        export = export_sessions(ALL, file_format="csv")
        assert DataExport.objects.get().outcome == "started"
        export.close()

    def test_history_of_closed_export_is_broken_off(self):
        ChatSessionFactory()
        with closing(export_sessions(ALL, file_format="csv")) as export:
            next(export)
        record = DataExport.objects.get()
        assert (record.outcome, record.rows) == ("broken_off", 1)
        assert record.finished_at is not None

    def test_history_of_finished_export_stays_completed_when_it_is_closed(self):
        with closing(export_sessions(ALL, file_format="csv")) as export:
            list(export)
        assert DataExport.objects.get().outcome == "completed"

    def test_history_of_failed_export_is_broken_off(self):
        def is_page(sql, _params):
            return "LIMIT 2000" in sql

        with (
            raise_on_queries(is_page, OperationalError("gone")),
            pytest.raises(OperationalError),
        ):
            export_sessions(ALL, file_format="csv")
        assert DataExport.objects.get().outcome == "broken_off"

    def test_file_is_complete_although_its_end_cannot_be_noted(self, caplog):
        ChatSessionFactory()
        export = export_sessions(ALL, file_format="jsonl")
        with raise_on_queries(is_update, OperationalError("gone")):
            assert len(read_jsonl(b"".join(export))) == 1
        (record,) = caplog.records
        assert (record.levelno, "was not noted" in record.message) == (logging.ERROR, True)
        assert "gone" not in caplog.text

    @pytest.mark.django_db(transaction=True)
    def test_end_that_could_not_be_noted_is_noted_when_export_is_closed(self):
        ChatSessionFactory()
        with closing(export_sessions(ALL, file_format="jsonl")) as export:
            with raise_on_queries(is_update, OperationalError("gone")):
                list(export)
            assert DataExport.objects.get().outcome == "started"
        record = DataExport.objects.get()
        assert (record.outcome, record.rows) == ("completed", 1)

    @pytest.mark.django_db(transaction=True)
    def test_end_is_noted_although_database_fails_for_a_moment(self):
        ChatSessionFactory()
        failures = iter([True])

        def fails_once(sql, params):
            return is_update(sql, params) and next(failures, False)

        with raise_on_queries(fails_once, OperationalError("gone")):
            exported()
        assert DataExport.objects.get().outcome == "completed"

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has no server")
    def test_history_of_export_whose_connection_is_lost_is_broken_off(self):
        agent = ChatAgentFactory()
        ChatSession.objects.bulk_create(
            ChatSession(session_id=f"s{number}", agent=agent) for number in range(2_001)
        )
        with closing(export_sessions(ALL, file_format="csv")) as export:
            next(export)
            cut_connection()
            with pytest.raises(OperationalError):
                list(export)
        record = DataExport.objects.get()
        assert (record.outcome, record.rows) == ("broken_off", 2_000)


def is_update(sql, _params):
    return sql.startswith("UPDATE")


class TestRefusals:
    @pytest.mark.parametrize("codename", ["export_chatsession", "view_chatsession"])
    def test_export_needs_both_permissions(self, django_user_model, grant, codename):
        user = grant(django_user_model.objects.create_user("jo"), codename)
        with pytest.raises(NotAllowed, match="permission to export"):
            export_sessions(ALL, file_format="csv", requested_by=user)
        assert not DataExport.objects.exists()

    def test_unknown_format_is_invalid(self):
        with pytest.raises(InvalidInput, match="csv, jsonl, xlsx") as caught:
            export_sessions(ALL, file_format="pdf")
        assert caught.value.field == "file_format"

    def test_more_rows_than_excel_holds_are_refused_before_anything_is_written(self):
        session = ChatSessionFactory()
        CloseAttempt.objects.bulk_create(
            CloseAttemptFactory.build(session=session) for _number in range(1_024)
        )
        SupportAction.objects.bulk_create(
            SupportAction(session=session, kind="message") for _number in range(1_024)
        )
        # The join has 1,048,576 rows.
        many = ChatSession.objects.filter(attempts__kind="close", actions__kind="message")
        with pytest.raises(TooManyRows, match="1,048,575"):
            export_sessions(many, file_format="xlsx")
        assert not DataExport.objects.exists()
        assert len(read_jsonl(exported(sessions=many))) == 1

    def test_excel_without_extra_is_refused(self, without_xlsx):
        with pytest.raises(ExportNotInstalled, match="osvi-django\\[xlsx\\]"):
            export_sessions(ALL, file_format="xlsx")
        assert not DataExport.objects.exists()
        assert exported("csv")
