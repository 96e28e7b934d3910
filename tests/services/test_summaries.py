"""Test summaries that the host's function writes if OSVI provides none."""

from __future__ import annotations

import pytest
from django.db import OperationalError, connection, transaction
from django.utils import timezone

from osvi_django import database
from osvi_django.conf import Account, InvalidSetting
from osvi_django.exceptions import InsideTransaction
from osvi_django.models import ChatSession, SessionSummary
from osvi_django.services import close_again, close_session, close_session_by_id, summaries
from osvi_django.services.attempts import settlement, types
from osvi_django.services.recovery import mark_closed, recover_session
from osvi_django.services.summaries import summarize, summarize_missing
from osvi_django.testing import MISSING, Drop, OddSummary
from osvi_django.testing.factories import ChatAgentFactory, ChatSessionFactory, ClosedSessionFactory
from tests.helpers.database import raise_on_queries
from tests.helpers.sandbox import SUMMARY


@pytest.fixture
def summarized():
    """Return the list of sessions that the summarizer was called with."""
    return []


@pytest.fixture
def use_summarizer(settings, osvi_sandbox, summarized):
    """Return a function that sets a summarizer which calls, raises or returns ``what``."""

    def _use_summarizer(what, **options):
        def write(session):
            summarized.append(session)
            if isinstance(what, Exception):
                raise what
            return what(session) if callable(what) else what

        settings.OSVI["default"] |= {"SUMMARIZER": write, **options}

    return _use_summarizer


def session_without_summary(**fields):
    return ClosedSessionFactory(summary=None, summary_status="not_provided", **fields)


@pytest.mark.django_db
class TestSummarizerOnClose:
    def test_close_without_summary_of_osvi_calls_summarizer(
        self, mirrored, osvi_sandbox, use_summarizer, summarized
    ):
        use_summarizer(lambda session: f" {session.customer_id} asked\x00 something.\n")
        session = mirrored(summary=None)
        result = close_session(session)
        assert summarized == [session]
        assert result.changed
        assert result.summary.text == f"{session.customer_id} asked\ufffd something."
        assert result.summary.source == "host"
        assert result.session.summary_status == "stored"

    def test_close_again_and_mark_closed_call_summarizer(
        self, unconfirmed, osvi_sandbox, use_summarizer, summarized
    ):
        use_summarizer("Ours.")
        again = unconfirmed(Drop(), summary=None)
        lost, marked = (unconfirmed(Drop(after_closing=True)) for _number in range(2))
        osvi_sandbox.when_closed = 409
        assert close_again(again).summary.source == "host"
        assert close_again(lost).summary.text == "Ours."
        assert mark_closed(marked, note="Seen.").summary.text == "Ours."
        assert summarized == [again, lost, marked]
        assert close_session(marked).summary.text == "Ours."
        assert len(summarized) == 3

    def test_close_with_v1_without_agent_uuid_calls_summarizer(self, osvi_sandbox, use_summarizer):
        use_summarizer("Ours.", CLOSE_WITH="v1")
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

    def test_close_with_summary_of_osvi_does_not_call_summarizer(
        self, mirrored, use_summarizer, summarized
    ):
        use_summarizer("Ours.")
        assert close_session(mirrored()).summary.text == SUMMARY
        assert summarized == []

    def test_close_with_dotted_path_calls_summarizer(self, mirrored, settings):
        settings.OSVI["default"]["SUMMARIZER"] = f"{__name__}.write_path"
        assert close_session(mirrored(summary=None)).summary.text == "By path."

    @pytest.mark.parametrize("nothing", [None, "", " \n"])
    def test_close_when_summarizer_returns_nothing_stores_no_summary(
        self, mirrored, use_summarizer, nothing
    ):
        use_summarizer(nothing)
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
    def test_close_when_summarizer_fails_stores_error_and_is_closed(
        self, mirrored, use_summarizer, what, kind, caplog
    ):
        use_summarizer(what)
        result = close_session(mirrored(summary=None))
        assert result.changed
        session = ChatSession.objects.get()
        assert (session.status, session.summary_status) == ("closed", "not_provided")
        assert (session.summarizer_error, result.session.summarizer_error) == (kind, kind)
        assert f"failed for session {session.session_id!r}: {kind}" in caplog.text
        assert "secret" not in caplog.text
        use_summarizer("Ours.")
        assert summarize(session).summary.text == "Ours."
        session.refresh_from_db()
        assert (session.summarizer_error, session.summary_status) == ("", "stored")

    def test_close_with_invalid_summarizer_stores_error(self, mirrored, settings):
        settings.OSVI["default"]["SUMMARIZER"] = "no.such.thing"
        session = close_session(mirrored(summary=None)).session
        assert (session.status, session.summarizer_error) == ("closed", "InvalidSetting")


def write_path(_session):
    return "By path."


@pytest.mark.django_db(transaction=True)
class TestSummarizerTransactions:
    def test_summarizer_is_called_after_commit(self, mirrored, use_summarizer):
        seen = []

        def look(session):
            seen.append(connection.in_atomic_block)
            seen.append(ChatSession.objects.get(pk=session.pk).status)
            return "Ours."

        use_summarizer(look)
        close_session(mirrored(summary=None))
        assert seen == [False, "closed"]

    def test_summarize_inside_transaction_raises(self, use_summarizer, summarized):
        use_summarizer("Ours.")
        session = session_without_summary()
        with transaction.atomic(), pytest.raises(InsideTransaction, match="OSVI cannot be called"):
            summarize(session)
        assert summarized == []

    def test_summarize_when_osvi_summary_arrives_meanwhile_keeps_it(self, use_summarizer):
        def osvi_is_faster(session):
            with transaction.atomic():
                settlement.write_closed(
                    [types.Settlement(session=session, attempt=None, text="OSVI's.")]
                )
            return "Ours."

        use_summarizer(osvi_is_faster)
        session = session_without_summary()
        assert summarize(session).summary.text == "OSVI's."
        assert SessionSummary.objects.get().source == "osvi"

    def test_osvi_summary_that_arrives_later_replaces_summary_of_host(
        self, mirrored, osvi_sandbox, use_summarizer
    ):
        use_summarizer("Ours.")
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

    def test_close_when_summary_cannot_be_stored_is_closed(
        self, mirrored, use_summarizer, monkeypatch
    ):
        monkeypatch.setattr(database, "PATIENCE_BEFORE", 0.1)
        use_summarizer("Ours.")
        session = mirrored(summary=None)
        with raise_on_queries(lambda _sql, params: "Ours." in params, OperationalError("a secret")):
            result = close_session(session)
        assert (result.changed, result.summary) == (True, None)
        assert ChatSession.objects.get().summarizer_error == "OperationalError"

    def test_summarize_when_error_cannot_be_stored_returns_it(self, use_summarizer):
        session = session_without_summary()
        use_summarizer(ValueError())
        with raise_on_queries(lambda sql, _params: sql.startswith("UPDATE"), OperationalError()):
            assert summarize(session).error == "ValueError"
        session.refresh_from_db()
        assert session.summarizer_error == ""

    def test_summarize_when_session_is_deleted_meanwhile_returns_error(self, use_summarizer):
        session = session_without_summary()
        use_summarizer(lambda _session: ChatSession.objects.all().delete() and "Ours.")
        assert summarize(session).error
        assert not SessionSummary.objects.exists()


@pytest.mark.django_db
class TestSummarizeMissing:
    def test_summarize_missing_writes_all_oldest_first(
        self, use_summarizer, summarized, monkeypatch, settings
    ):
        monkeypatch.setattr(summaries, "_CHUNK", 2)
        sessions = [session_without_summary() for _number in range(5)]
        sessions.append(session_without_summary())
        ChatSession.objects.filter(pk=sessions[-1].pk).update(summary_status="lost")
        ClosedSessionFactory()
        ChatSessionFactory()
        settings.OSVI["other"] = settings.OSVI["default"] | {"SUMMARIZER": None}
        session_without_summary(agent__account="other")
        session_without_summary(agent__account="nobody")
        use_summarizer(lambda session: None if session == sessions[1] else "Ours.")
        found = list(summarize_missing())
        assert [each.session for each in found] == summarized == sessions
        assert [bool(each.summary) for each in found] == [True, False, True, True, True, True]
        assert list(summarize_missing()) == []
        assert [each.session for each in summarize_missing(again=True)] == [sessions[1]]

    def test_summarize_missing_repeats_only_failed_sessions(
        self, use_summarizer, summarized, mirrored
    ):
        silent, failing = session_without_summary(), session_without_summary()
        use_summarizer(lambda session: 1 / 0 if session == failing else None)
        at_once = close_session(mirrored(summary=None)).session
        assert summarized == [at_once]
        for _run in range(3):
            list(summarize_missing())
        assert summarized == [at_once, silent, failing, failing, failing]
        use_summarizer(ValueError())
        assert len(list(summarize_missing(again=True))) == 3
        use_summarizer("Ours.")
        assert [each.session for each in summarize_missing()] == [silent, failing, at_once]
        assert list(summarize_missing(again=True)) == []

    def test_summarize_missing_when_stopped_continues_next_time(self, use_summarizer, summarized):
        sessions = [session_without_summary() for _number in range(4)]
        use_summarizer("Ours.")
        assert next(summarize_missing()).session == sessions[0]
        assert len(list(summarize_missing())) == 3

    def test_summarize_missing_when_summarizer_is_removed_stops(self, use_summarizer, settings):
        sessions = [session_without_summary() for _number in range(2)]
        use_summarizer(lambda _session: settings.OSVI["default"].update(SUMMARIZER=None) or "Ours.")
        assert [each.session for each in summarize_missing()] == sessions[:1]

    def test_summarize_without_summarizer_does_nothing(self, osvi_sandbox):
        session = session_without_summary()
        assert summarize(session) is None
        assert list(summarize_missing()) == []

    def test_summarize_open_or_summarized_session_returns_none(self, use_summarizer, summarized):
        use_summarizer("Ours.")
        assert summarize(ChatSessionFactory()) is None
        assert summarize(ClosedSessionFactory()) is None
        assert summarized == []

    def test_summarize_missing_with_invalid_account_continues_with_others(
        self, settings, use_summarizer, caplog
    ):
        use_summarizer("Ours.")
        settings.OSVI["broken"] = settings.OSVI["default"] | {"SUMMARIZER": 7}
        session_without_summary()
        session_without_summary(agent__account="broken")
        assert len(list(summarize_missing())) == 1
        assert "account broken has no summarizer" in caplog.text

    def test_summarize_session_with_lost_summary_stores_summary(
        self, mirrored, osvi_sandbox, use_summarizer
    ):
        use_summarizer("Ours.")
        session = mirrored()
        osvi_sandbox.script(session.session_id, Drop(after_closing=True))
        osvi_sandbox.when_closed = 409
        with pytest.raises(Exception, match="may have closed"):
            close_session(session)
        recover_session(session)
        assert session.summary_status == "lost"
        assert summarize(session).summary.text == "Ours."


@pytest.mark.parametrize("source", [7, "no.such.thing", "nothing", "sixteen-letters!", object()])
def test_summarizer_setting_that_is_not_callable_is_invalid(settings, source):
    settings.OSVI = {"default": {"SUMMARIZER": source}}
    with pytest.raises(InvalidSetting) as caught:
        _found = Account().summarizer
    assert caught.value.key == "SUMMARIZER"


@pytest.mark.django_db
class TestRemovedSummary:
    def test_summarizer_is_not_called_for_what_was_removed(self, use_summarizer, summarized):
        use_summarizer("Ours.")
        removed = ClosedSessionFactory(summary=None, summary_status="removed")
        erased = session_without_summary(erased_at=timezone.now())
        assert list(summarize_missing(again=True)) == []
        assert [summarize(removed), summarize(erased)] == [None, None]
        assert summarized == []
