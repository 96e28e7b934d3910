"""Summaries that the host's own function writes, where OSVI provides none."""

from __future__ import annotations

import pytest
from django.db import OperationalError, connection, transaction

from osvi_django import database
from osvi_django.conf import Account, InvalidSetting
from osvi_django.exceptions import InsideTransaction
from osvi_django.models import ChatSession, SessionSummary
from osvi_django.services import close_again, close_session, close_session_by_id, summaries
from osvi_django.services.attempts import settlement, types
from osvi_django.services.recovery import mark_closed, recover_session
from osvi_django.services.summaries import summarize, summarize_missing
from osvi_django.testing import MISSING, Drop, OddSummary
from osvi_django.testing.factories import (
    ChatAgentFactory,
    ChatSessionFactory,
    ClosedSessionFactory,
)
from tests.helpers.database import raise_on_queries
from tests.helpers.sandbox import SUMMARY


@pytest.fixture
def called():
    """The sessions that the summarizer was given."""
    return []


@pytest.fixture
def use(settings, osvi_sandbox, called):
    """Have the account write summaries so; a callable is asked, an exception raised."""

    def _use(what, **options):
        def write(session):
            called.append(session)
            if isinstance(what, Exception):
                raise what
            return what(session) if callable(what) else what

        settings.OSVI["default"] |= {"SUMMARIZER": write, **options}

    return _use


def without_text(**fields):
    return ClosedSessionFactory(summary=None, summary_status="not_provided", **fields)


@pytest.mark.django_db
class TestWithTheClose:
    def test_it_writes_what_osvi_does_not(self, mirrored, osvi_sandbox, use, called):
        use(lambda session: f" {session.customer_id} asked\x00 something.\n")
        session = mirrored(summary=None)
        result = close_session(session)
        assert called == [session]
        assert result.changed
        assert result.summary.text == f"{session.customer_id} asked\ufffd something."
        assert result.summary.source == "host"
        assert result.session.summary_status == "stored"

    def test_so_does_a_second_try_and_whoever_marks_it_as_closed(
        self, unconfirmed, osvi_sandbox, use, called
    ):
        use("Ours.")
        again = unconfirmed(Drop(), summary=None)
        lost, marked = (unconfirmed(Drop(after_closing=True)) for _number in range(2))
        osvi_sandbox.when_closed = 409
        assert close_again(again).summary.source == "host"
        assert close_again(lost).summary.text == "Ours."
        assert mark_closed(marked, note="Seen.").summary.text == "Ours."
        assert called == [again, lost, marked]
        assert close_session(marked).summary.text == "Ours."
        assert len(called) == 3

    def test_v1_needs_no_agent_for_it(self, osvi_sandbox, use):
        use("Ours.", CLOSE_WITH="v1")
        chat = osvi_sandbox.add_session()
        session = ChatSessionFactory(
            session_id=chat.id,
            customer_id=chat.customer_id,
            agent=ChatAgentFactory(uuid=None, number=42),
        )
        assert close_session(session).summary.text == "Ours."
        assert osvi_sandbox.requests[0].body == {"command": "close"}
        other = osvi_sandbox.add_session(agent_uuid="agent_2")
        assert close_session_by_id(other.id, agent_uuid="agent_2").summary.source == "host"

    def test_osvis_own_needs_no_other(self, mirrored, use, called):
        use("Ours.")
        assert close_session(mirrored()).summary.text == SUMMARY
        assert called == []

    def test_a_dotted_path_will_do(self, mirrored, settings):
        settings.OSVI["default"]["SUMMARIZER"] = f"{__name__}.write_path"
        assert close_session(mirrored(summary=None)).summary.text == "By path."

    @pytest.mark.parametrize("nothing", [None, "", " \n"])
    def test_it_may_have_nothing_to_say(self, mirrored, use, nothing):
        use(nothing)
        result = close_session(mirrored(summary=None))
        assert (result.summary, result.session.summary_status) == (None, "not_provided")
        assert result.session.summarizer_error == ""

    @pytest.mark.parametrize(
        ("what", "kind"),
        [
            (ValueError("a secret"), "ValueError"),
            (7, "TypeError"),
            (lambda _session: 1 / 0, "ZeroDivisionError"),
        ],
    )
    def test_its_failure_is_shown_and_the_session_stays_closed(
        self, mirrored, use, what, kind, caplog
    ):
        use(what)
        result = close_session(mirrored(summary=None))
        assert result.changed
        session = ChatSession.objects.get()
        assert (session.status, session.summary_status) == ("closed", "not_provided")
        assert (session.summarizer_error, result.session.summarizer_error) == (kind, kind)
        assert f"failed for session {session.session_id!r}: {kind}" in caplog.text
        assert "secret" not in caplog.text
        use("Ours.")
        assert summarize(session).summary.text == "Ours."
        session.refresh_from_db()
        assert (session.summarizer_error, session.summary_status) == ("", "stored")

    def test_a_setting_that_cannot_be_used_is_shown(self, mirrored, settings):
        settings.OSVI["default"]["SUMMARIZER"] = "no.such.thing"
        session = close_session(mirrored(summary=None)).session
        assert (session.status, session.summarizer_error) == ("closed", "InvalidSetting")


def write_path(_session):
    return "By path."


@pytest.mark.django_db(transaction=True)
class TestRealCommits:
    def test_it_is_called_after_the_commit_and_outside_every_transaction(self, mirrored, use):
        seen = []

        def look(session):
            seen.append(connection.in_atomic_block)
            seen.append(ChatSession.objects.get(pk=session.pk).status)
            return "Ours."

        use(look)
        close_session(mirrored(summary=None))
        assert seen == [False, "closed"]

    def test_inside_a_transaction_it_is_refused(self, use, called):
        use("Ours.")
        session = without_text()
        with transaction.atomic(), pytest.raises(InsideTransaction, match="OSVI cannot be called"):
            summarize(session)
        assert called == []

    def test_osvis_that_comes_meanwhile_is_kept(self, use):
        def osvi_is_faster(session):
            with transaction.atomic():
                settlement.write_closed(
                    [types.Settlement(session=session, attempt=None, text="OSVI's.")]
                )
            return "Ours."

        use(osvi_is_faster)
        session = without_text()
        assert summarize(session).summary.text == "OSVI's."
        assert SessionSummary.objects.get().source == "osvi"

    def test_osvis_that_comes_late_replaces_it(self, mirrored, osvi_sandbox, use):
        use("Ours.")
        session = mirrored()
        osvi_sandbox.script(session.session_id, OddSummary(MISSING))
        assert close_session(session).summary.text == "Ours."
        with transaction.atomic():
            settlement.write_closed(
                [types.Settlement(session=session, attempt=None, text="OSVI's.")]
            )
        summary = SessionSummary.objects.get()
        assert (summary.text, summary.source) == ("OSVI's.", "osvi")
        with transaction.atomic():
            settlement.write_closed([types.Settlement(session=session, attempt=None, text=None)])
        assert SessionSummary.objects.get().text == "OSVI's."

    def test_a_database_that_is_away_does_not_undo_the_close(self, mirrored, use, monkeypatch):
        monkeypatch.setattr(database, "PATIENCE_BEFORE", 0.1)
        use("Ours.")
        session = mirrored(summary=None)
        with raise_on_queries(lambda _sql, params: "Ours." in params, OperationalError("a secret")):
            result = close_session(session)
        assert (result.changed, result.summary) == (True, None)
        assert ChatSession.objects.get().summarizer_error == "OperationalError"

    def test_so_it_is_where_not_even_that_can_be_written(self, use):
        session = without_text()
        use(ValueError())
        with raise_on_queries(lambda sql, _params: sql.startswith("UPDATE"), OperationalError()):
            assert summarize(session).error == "ValueError"
        session.refresh_from_db()
        assert session.summarizer_error == ""

    def test_a_session_that_is_deleted_meanwhile(self, use):
        session = without_text()
        use(lambda _session: ChatSession.objects.all().delete() and "Ours.")
        assert summarize(session).error
        assert not SessionSummary.objects.exists()


@pytest.mark.django_db
class TestMissing:
    def test_all_that_lack_one_are_written_the_oldest_first(
        self, use, called, monkeypatch, settings
    ):
        monkeypatch.setattr(summaries, "_CHUNK", 2)
        sessions = [without_text() for _number in range(5)]
        sessions.append(without_text())
        ChatSession.objects.filter(pk=sessions[-1].pk).update(summary_status="lost")
        ClosedSessionFactory()
        ChatSessionFactory()
        settings.OSVI["other"] = settings.OSVI["default"] | {"SUMMARIZER": None}
        without_text(agent__account="other")
        without_text(agent__account="nobody")
        use(lambda session: None if session == sessions[1] else "Ours.")
        found = list(summarize_missing())
        assert [each.session for each in found] == called == sessions
        assert [bool(each.summary) for each in found] == [True, False, True, True, True, True]
        assert list(summarize_missing()) == []
        assert [each.session for each in summarize_missing(again=True)] == [sessions[1]]

    def test_each_is_asked_about_once_and_again_where_that_failed(self, use, called, mirrored):
        silent, failing = without_text(), without_text()
        use(lambda session: 1 / 0 if session == failing else None)
        at_once = close_session(mirrored(summary=None)).session
        assert called == [at_once]
        for _run in range(3):
            list(summarize_missing())
        assert called == [at_once, silent, failing, failing, failing]
        use(ValueError())
        assert len(list(summarize_missing(again=True))) == 3
        use("Ours.")
        assert [each.session for each in summarize_missing()] == [silent, failing, at_once]
        assert list(summarize_missing(again=True)) == []

    def test_it_may_be_stopped_and_begun_anew(self, use, called):
        sessions = [without_text() for _number in range(4)]
        use("Ours.")
        assert next(summarize_missing()).session == sessions[0]
        assert len(list(summarize_missing())) == 3

    def test_where_the_summarizer_is_taken_away_meanwhile_no_more_is_written(self, use, settings):
        sessions = [without_text() for _number in range(2)]
        use(lambda _session: settings.OSVI["default"].update(SUMMARIZER=None) or "Ours.")
        assert [each.session for each in summarize_missing()] == sessions[:1]

    def test_without_a_summarizer_there_is_nothing_to_do(self, osvi_sandbox):
        session = without_text()
        assert summarize(session) is None
        assert list(summarize_missing()) == []

    def test_open_and_summarized_ones_need_none(self, use, called):
        use("Ours.")
        assert summarize(ChatSessionFactory()) is None
        assert summarize(ClosedSessionFactory()) is None
        assert called == []

    def test_an_account_with_a_broken_setting_does_not_stop_the_others(self, settings, use, caplog):
        use("Ours.")
        settings.OSVI["broken"] = settings.OSVI["default"] | {"SUMMARIZER": 7}
        without_text()
        without_text(agent__account="broken")
        assert len(list(summarize_missing())) == 1
        assert "account broken has no summarizer" in caplog.text

    def test_a_summary_that_recovery_gave_up_can_be_written(self, mirrored, osvi_sandbox, use):
        use("Ours.")
        session = mirrored()
        osvi_sandbox.script(session.session_id, Drop(after_closing=True))
        osvi_sandbox.when_closed = 409
        with pytest.raises(Exception, match="may have closed"):
            close_session(session)
        recover_session(session)
        assert session.summary_status == "lost"
        assert summarize(session).summary.text == "Ours."


@pytest.mark.parametrize("source", [7, "no.such.thing", "nothing", "sixteen-letters!", object()])
def test_what_cannot_be_called_is_no_summarizer(settings, source):
    settings.OSVI = {"default": {"SUMMARIZER": source}}
    with pytest.raises(InvalidSetting) as caught:
        _found = Account().summarizer
    assert caught.value.key == "SUMMARIZER"


@pytest.mark.parametrize("days", [-1, "90", True, float("nan"), float("inf"), 10**9])
def test_what_is_no_number_of_days_cannot_be_kept_for(settings, days):
    settings.OSVI = {"default": {"TEXT_RETENTION_DAYS": days}}
    with pytest.raises(InvalidSetting) as caught:
        _found = Account().keep_texts
    assert caught.value.key == "TEXT_RETENTION_DAYS"


@pytest.mark.parametrize("days", [None, 0, 0.5, 90, 36_500])
def test_days_to_keep_texts_for(settings, days):
    settings.OSVI = {"default": {"TEXT_RETENTION_DAYS": days}}
    assert Account().keep_texts == days
    settings.OSVI = {"default": {}}
    assert Account().keep_texts == 90
