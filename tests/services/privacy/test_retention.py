"""Test the removal of what is older than the settings allow."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.apps import apps
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db import connection, models, transaction
from django.db.models import ProtectedError
from django.utils import timezone

from osvi_django import conf, spool
from osvi_django.conf import Account, longest_retention
from osvi_django.exceptions import InvalidInput, OSVINotConfigured
from osvi_django.models import (
    ChatSession,
    CloseAttempt,
    CloseJob,
    CloseJobItem,
    DailyCount,
    DataExport,
    Erasure,
    SessionSummary,
    SupportAction,
    WebhookDelivery,
)
from osvi_django.services import purge_expired
from osvi_django.services.events import queue
from osvi_django.services.privacy import retention, spooled, walking
from osvi_django.testing.factories import (
    ChatAgentFactory,
    ChatSessionFactory,
    CloseAttemptFactory,
    ClosedSessionFactory,
    CloseJobFactory,
    CloseJobItemFactory,
    SupportActionFactory,
)
from tests.helpers.database import call_after_queries

pytestmark = pytest.mark.django_db


def ago(days):
    return timezone.now() - timedelta(days=days)


def days_from_now(days):
    return timezone.now().date() + timedelta(days=days)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch, osvi_sandbox):
    monkeypatch.setattr(walking, "BATCH", 2)
    monkeypatch.setattr(retention, "_CHUNK", 2)


@pytest.fixture
def keep(settings):
    """Return a function that sets RETENTION of the account ``default``."""

    def _keep(**days):
        settings.OSVI["default"]["RETENTION"] = days

    return _keep


def purge(*kinds, **options):
    """Purge; return how many of each kind, apart from those of which there is nothing."""
    numbers = {}
    for each in purge_expired(only=kinds or conf.RETENTION_KINDS, **options):
        numbers[each.kind] = numbers.get(each.kind, 0) + each.number
    return {kind: number for kind, number in numbers.items() if number}


def closed(days=31, **fields):
    return ClosedSessionFactory(closed_at=ago(days), **fields)


def answered(session, **fields):
    values = {"outcome": "closed", "answer": "{}", "error_reason": "words", **fields}
    return CloseAttemptFactory(session=session, answer_bytes=b"{", answer_charset="x", **values)


class TestRawAnswers:
    def test_answers_of_old_closed_sessions_are_removed(self, keep):
        keep(raw_answers=30)
        old, young = [closed() for _number in range(3)], closed(29)
        attempts = [answered(each) for each in (*old, young)]
        action = SupportActionFactory(session=old[0], answer="{}", text="kept")
        without = closed()
        assert purge(dry_run=True) == {"raw_answers": 3}
        assert purge() == {"raw_answers": 3}
        assert purge() == {}
        for each in attempts:
            each.refresh_from_db()
        left = [(each.answer, each.answer_bytes and bytes(each.answer_bytes)) for each in attempts]
        assert left == [("", None), ("", None), ("", None), ("{}", b"{")]
        assert {(each.error_reason, each.answer_charset) for each in attempts[:3]} == {("", "")}
        action.refresh_from_db()
        assert (action.answer, action.text) == ("", "kept")
        assert SessionSummary.objects.filter(session=without).exists()

    def test_answers_in_actions_alone_are_removed(self, keep):
        keep(raw_answers=30)
        SupportActionFactory(session=closed(), answer="{}")
        assert purge() == {"raw_answers": 1}

    def test_unread_answer_of_chat_without_summary_is_kept_with_summaries(self, keep):
        keep(raw_answers=30)
        session = closed(summary=None, summary_status="lost")
        unread, read = answered(session, outcome="bad_answer"), answered(session)
        assert purge() == {"raw_answers": 1}
        unread.refresh_from_db()
        read.refresh_from_db()
        assert (unread.answer, read.answer) == ("{}", "")
        assert purge() == {}
        keep(raw_answers=30, summaries=30)
        assert purge() == {"summaries": 1}
        unread.refresh_from_db()
        session.refresh_from_db()
        assert (unread.answer, session.summary_status) == ("", "lost")

    @pytest.mark.parametrize("status", ["active", "dormant", "closing", "unconfirmed"])
    def test_nothing_of_a_session_that_is_not_closed_is_removed(self, keep, status):
        keep(**{**dict.fromkeys(conf.RETENTION_KINDS, 1), "texts": None})
        session = ChatSessionFactory(status=status, closed_at=ago(31), metadata={"a": 1})
        answered(session, note="why")
        assert purge() == {}
        assert ChatSession.objects.exists()


class TestSummaries:
    def test_summary_goes_with_the_answers_that_have_it(self, keep):
        keep(summaries=30)
        session, young = closed(), closed(29)
        attempt = answered(session)
        before = ChatSession.objects.get(pk=session.pk).updated_at
        assert purge() == {"summaries": 1}
        session, attempt = ChatSession.objects.get(pk=session.pk), CloseAttempt.objects.get()
        assert (session.summary_status, attempt.answer) == ("removed", "")
        assert session.updated_at >= before
        assert [each.session for each in SessionSummary.objects.all()] == [young]
        assert not DailyCount.objects.exists()


class TestMetadataAndNotes:
    def test_metadata_is_removed(self, keep):
        keep(metadata=30)
        closed(metadata={"metadata": {"context": ["said"]}})
        closed(metadata={})
        assert purge(dry_run=True) == {"metadata": 1}
        assert purge() == {"metadata": 1}
        assert set(map(str, ChatSession.objects.values_list("metadata", flat=True))) == {"{}"}

    def test_notes_of_attempts_jobs_and_history_are_removed(self, keep, admin_user):
        keep(notes=30)
        session, held = closed(), closed(keep_until=days_from_now(1))
        for each in (session, held):
            answered(each, note="said")
            kind = ContentType.objects.get_for_model(ChatSession)
            LogEntry.objects.create(
                user=admin_user,
                content_type=kind,
                object_id=str(each.pk),
                object_repr="x",
                action_flag=CHANGE,
                change_message="marked: said",
            )
        LogEntry.objects.update(action_time=ago(31))
        texts = {"note": "said", "goodbye": "bye", "selection": "2 chats"}
        jobs = [CloseJobFactory(finished_at=ago(days), **texts) for days in (31, 31, 31, 29)]
        CloseJobItemFactory(job=jobs[0], session=held)
        assert purge(dry_run=True) == {"notes": 3}
        assert purge() == {"notes": 3}
        assert purge() == {}
        assert [each.note for each in CloseAttempt.objects.order_by("pk")] == ["", "said"]
        left = [(each.note, each.goodbye) for each in CloseJob.objects.order_by("pk")]
        assert left == [("said", "bye"), ("", ""), ("", ""), ("said", "bye")]
        messages = LogEntry.objects.order_by("pk").values_list("change_message", flat=True)
        assert list(messages) == ["", "marked: said"]

    def test_site_without_django_admin_has_no_history_to_remove(self, keep, monkeypatch):
        keep(notes=30)
        installed = apps.is_installed
        monkeypatch.setattr(
            apps, "is_installed", lambda name: name != "django.contrib.admin" and installed(name)
        )
        answered(closed(), note="said")
        assert purge() == {"notes": 1}


class TestSessions:
    def test_sessions_are_deleted_and_counted(self, keep, settings, admin_user):
        keep(sessions=30)
        settings.OSVI["default"]["CLOSE_REASONS"] = ["Answered"]
        agent, moment = ChatAgentFactory(), ago(40)
        alike = {"agent": agent, "closed_by": admin_user, "close_reason": "Answered"}
        alike |= {"closed_at": moment, "closed_via": "admin"}
        sessions = [ClosedSessionFactory(**alike) for _number in range(3)]
        other = ClosedSessionFactory(closed_at=moment, close_reason="Mr Smith", agent=agent)
        for each in sessions:
            answered(each)
            SupportActionFactory(session=each)
        young = closed(29)
        assert purge(dry_run=True) == {"sessions": 4}
        assert purge() == {"sessions": 4}
        assert list(ChatSession.objects.all()) == [young]
        assert not CloseAttempt.objects.exists()
        assert not SupportAction.objects.exists()
        counts = DailyCount.objects.order_by("-number")
        names = ("account", "agent", "closed_by", "close_reason", "via", "summary_status", "number")
        assert list(counts.values_list(*names)) == [
            ("default", agent.pk, admin_user.pk, "Answered", "admin", "stored", 3),
            ("default", agent.pk, None, "other", "", other.summary_status, 1),
        ]
        assert {each.day for each in counts} == {day_of(moment)}

    def test_counts_are_added_to_those_of_earlier_purges(self, keep):
        keep(sessions=30)
        agent, moment = ChatAgentFactory(account="gone"), ago(40)
        for _number in range(2):
            ClosedSessionFactory(closed_at=moment, agent=agent, close_reason="Any")
            assert list(purge_sessions_of_account_that_is_gone(keep)) == [1]
        assert DailyCount.objects.get().number == 2

    def test_items_of_jobs_and_deliveries_lose_the_ids(self, keep):
        keep(sessions=30, events=None)
        session = closed()
        item = CloseJobItemFactory(
            session=session, outcome="closed", attempt=answered(session), error_reason="words"
        )
        deliver(session, state="delivered")
        assert purge() == {"sessions": 1}
        item.refresh_from_db()
        assert item.requested_session_id == f"removed-{item.pk}"
        assert (item.session, item.attempt, item.error_reason) == (None, None, "")
        assert item.outcome == "closed"
        assert not WebhookDelivery.objects.exists()

    @pytest.mark.parametrize("has_history", [True, False])
    def test_history_of_deleted_session_loses_its_id(
        self, keep, admin_user, monkeypatch, has_history
    ):
        keep(sessions=30)
        session, young = closed(), ClosedSessionFactory(closed_at=ago(1))
        kind = ContentType.objects.get_for_model(ChatSession)
        for each in (session, young):
            LogEntry.objects.create(
                user=admin_user,
                content_type=kind,
                object_id=str(each.pk),
                object_repr=str(each),
                action_flag=CHANGE,
                change_message="closed: said",
            )
        if not has_history:
            installed = apps.is_installed
            monkeypatch.setattr(
                apps,
                "is_installed",
                lambda name: name != "django.contrib.admin" and installed(name),
            )
        assert purge() == {"sessions": 1}
        left = LogEntry.objects.order_by("pk").values_list("object_repr", "change_message")
        removed = (f"removed-{session.pk}", "") if has_history else (str(session), "closed: said")
        assert list(left) == [removed, (str(young), "closed: said")]

    @pytest.mark.parametrize("need", ["delivery", "waiting", "closing", "started", "answered"])
    def test_session_that_is_still_needed_is_kept(self, keep, need):
        keep(sessions=30)
        session = closed()
        if need == "delivery":
            deliver(session, state="pending")
        elif need in ("waiting", "closing"):
            CloseJobItemFactory(session=session, outcome=need)
        else:
            answered(session, outcome=need)
        assert purge() == {}
        CloseAttempt.objects.update(started_at=ago(3))
        assert purge() == ({"sessions": 1} if need in ("started", "answered") else {})

    def test_session_is_kept_until_the_day_that_staff_say(self, keep):
        kinds = dict.fromkeys(conf.RETENTION_KINDS, 1)
        keep(**kinds)
        session = closed(keep_until=days_from_now(1), metadata={"a": 1})
        answered(session, note="said")
        SupportActionFactory(session=session, text="x", started_at=ago(9), finished_at=ago(9))
        assert purge() == {}
        ChatSession.objects.update(keep_until=days_from_now(-2))
        assert purge() == dict.fromkeys(conf.RETENTION_KINDS[:6], 1)

    def test_session_with_answer_in_spool_is_kept(self, keep, settings, tmp_path, caplog):
        keep(sessions=30)
        settings.OSVI["default"]["SPOOL_DIR"] = tmp_path / "spool"
        kept, gone = closed(), closed()
        answer = spool.SpooledAnswer(
            session=kept.pk, attempt=1, claim="c", status=200, body=b"{}", truncated=False
        )
        spool.put(tmp_path / "spool", answer)
        (tmp_path / "spool" / "odd.json").touch()
        assert purge() == {"sessions": 1}
        assert list(ChatSession.objects.all()) == [kept]
        assert not ChatSession.objects.filter(pk=gone.pk).exists()
        (tmp_path / "spool").chmod(0o777)
        assert spooled.spooled_sessions() == set()
        assert "cannot be read" in caplog.text
        settings.OSVI = None
        assert spooled.spooled_sessions() == set()

    def test_session_that_a_row_of_the_host_protects_is_kept(self, keep, monkeypatch, caplog):
        keep(sessions=30)
        protected, gone = closed(), closed()

        def refuse(sender, instance, **kwargs):
            if instance.pk == protected.pk:
                raise ProtectedError("no", set())

        models.signals.pre_delete.connect(refuse, sender=ChatSession)
        try:
            assert purge() == {"sessions": 1}
        finally:
            models.signals.pre_delete.disconnect(refuse, sender=ChatSession)
        assert list(ChatSession.objects.all()) == [protected]
        assert SessionSummary.objects.filter(session=protected).exists()
        assert not ChatSession.objects.filter(pk=gone.pk).exists()
        assert DailyCount.objects.get().number == 1
        assert "is not deleted for its age: ProtectedError" in caplog.text

    def test_session_that_has_changed_since_the_page_was_read_is_kept(self, keep):
        keep(sessions=30)
        session = closed()

        def hold():
            ChatSession.objects.filter(pk=session.pk).update(keep_until=days_from_now(1))

        def is_page(sql, _params):
            return sql.startswith("SELECT") and "ORDER BY" in sql and "closed_at" in sql

        with call_after_queries(is_page, hold):
            assert purge() == {}
        assert ChatSession.objects.exists()


class TestJobs:
    def test_finished_jobs_are_deleted(self, keep):
        keep(jobs=30)
        old = CloseJobFactory(finished_at=ago(31))
        for _number in range(5):
            CloseJobItemFactory(job=old, session=closed(1))
        CloseJobFactory(finished_at=ago(29))
        CloseJobFactory(finished_at=None, created_at=ago(99))
        unannounced = CloseJobFactory(finished_at=ago(31))
        deliver(unannounced, subject=str(unannounced.uuid), state="pending")
        assert purge(dry_run=True) == {"jobs": 2}
        assert purge() == {"jobs": 1}
        assert CloseJob.objects.count() == 3
        assert not CloseJobItem.objects.filter(job=old.pk).exists()
        assert ChatSession.objects.count() == 5


class TestEvents:
    def test_deliveries_that_are_over_are_deleted(self, keep):
        deliver(closed(), state="delivered", finished_at=ago(31))
        deliver(closed(), state="pending")
        assert purge(dry_run=True) == {"events": 1}
        assert purge() == {"events": 1}
        keep(events=None)
        WebhookDelivery.objects.update(state="failed", finished_at=ago(99))
        assert purge() == {}
        assert list(queue.purge(using="default")) == []


class TestSettings:
    def test_each_account_has_its_own_periods(self, settings):
        account = settings.OSVI["default"]
        settings.OSVI = {
            "default": {**account, "RETENTION": {"summaries": None, "jobs": 5}},
            "short": {**account, "RETENTION": {"summaries": 30, "jobs": 3}},
        }
        kept = closed(agent__account="default")
        gone = closed(agent__account="short")
        assert purge() == {"summaries": 1}
        assert list(SessionSummary.objects.values_list("session", flat=True)) == [kept.pk]
        assert longest_retention("jobs") == 5
        assert longest_retention("summaries") is None
        gone.refresh_from_db()
        assert gone.summary_status == "removed"

    def test_defaults_remove_texts_events_and_idempotent_requests_only(self, settings):
        settings.OSVI["default"].pop("RETENTION", None)
        kept = {kind for kind, days in Account().retention.items() if days is None}
        assert set(conf.RETENTION_KINDS) - kept == {"texts", "events", "idempotency"}

    def test_invalid_setting_raises_before_anything_is_removed(self, keep):
        keep(summaries=1, idempotency=0)
        closed()
        with pytest.raises(OSVINotConfigured, match="idempotency"):
            purge()
        assert SessionSummary.objects.exists()

    def test_unknown_kind_raises_invalid_input(self):
        with pytest.raises(InvalidInput, match="answers is not a kind of data"):
            purge("answers")


@pytest.mark.django_db(transaction=True)
def test_row_that_another_process_has_locked_is_left_to_the_next_run(keep):
    if not connection.features.has_select_for_update_skip_locked:
        pytest.skip("this database locks no rows")
    keep(summaries=30)
    locked, free = closed(), closed()
    ready, done = threading.Event(), threading.Event()

    def hold():
        with transaction.atomic():
            list(ChatSession.objects.select_for_update().filter(pk=locked.pk))
            ready.set()
            done.wait(30)
        connection.close()

    thread = threading.Thread(target=hold)
    thread.start()
    ready.wait(30)
    try:
        assert purge() == {"summaries": 1}
    finally:
        done.set()
        thread.join()
    assert purge() == {"summaries": 1}
    assert not SessionSummary.objects.exists()
    assert free.pk != locked.pk


@pytest.mark.django_db(transaction=True)
def test_several_purges_at_once_delete_and_count_each_session_once(keep):
    keep(sessions=30)
    agent = ChatAgentFactory()
    for _number in range(20):
        closed(agent=agent)
    numbers = []

    def run():
        try:
            numbers.append(purge().get("sessions", 0))
        finally:
            connection.close()

    threads = [threading.Thread(target=run) for _number in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    numbers.append(purge().get("sessions", 0))
    assert sum(numbers) == 20
    assert sum(DailyCount.objects.values_list("number", flat=True)) == 20


def day_of(moment):
    if timezone.is_naive(moment):
        return moment.date()
    return timezone.localtime(moment, timezone.get_default_timezone()).date()


def deliver(session, **fields):
    known = {"finished_at": timezone.now(), "subject": getattr(session, "session_id", "")}
    return WebhookDelivery.objects.create(
        event="session.closed",
        receiver="r",
        waits_since=timezone.now(),
        due_at=timezone.now(),
        **{**known, **fields},
    )


def purge_sessions_of_account_that_is_gone(keep):
    """Purge with a default for accounts that the settings no longer have."""
    changed = {**conf.DEFAULT_RETENTION, "sessions": 30}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("osvi_django.services.privacy.periods.DEFAULT_RETENTION", changed)
        yield purge().get("sessions", 0)


class TestExports:
    def test_lines_of_old_exports_are_removed(self, keep):
        keep(exports=30)
        ended = {"file_format": "csv", "outcome": "completed"}
        DataExport.objects.create(**ended, started_at=ago(40), finished_at=ago(31))
        DataExport.objects.create(file_format="csv", started_at=ago(40))
        young = [
            DataExport.objects.create(**ended, started_at=ago(40), finished_at=ago(29)),
            DataExport.objects.create(file_format="csv", started_at=ago(31)),
        ]
        assert purge("exports", dry_run=True) == {"exports": 2}
        assert purge("exports") == {"exports": 2}
        assert list(DataExport.objects.order_by("pk")) == young

    def test_lines_of_exports_are_kept_unless_a_period_is_set(self):
        DataExport.objects.create(file_format="csv", started_at=ago(4000), finished_at=ago(4000))
        assert purge() == {}

    def test_journal_of_erasures_and_daily_counts_stay(self, keep):
        keep(**dict.fromkeys(conf.RETENTION_KINDS, 1))
        Erasure.objects.create(marker="m", started_at=ago(4000), finished_at=ago(4000))
        DailyCount.objects.create(key="k", day=ago(4000), account="default", number=1)
        assert purge() == {}
        assert (Erasure.objects.count(), DailyCount.objects.count()) == (1, 1)
