"""Test the removal of old texts."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from osvi_django.conf import InvalidSetting
from osvi_django.models import ChatSession, SupportAction
from osvi_django.services.mirroring import mirror_session
from osvi_django.services.privacy import texts
from osvi_django.services.privacy.texts import redact_texts
from osvi_django.services.support import context_of, inject_context
from osvi_django.testing.factories import ChatSessionFactory
from tests.helpers.database import call_after_queries


@pytest.mark.django_db
class TestRedactTexts:
    @pytest.fixture(autouse=True)
    def small_chunks(self, monkeypatch, osvi_sandbox):
        monkeypatch.setattr(texts, "_CHUNK", 2)

    def add(self, days, *, number=1, **fields):
        session = ChatSessionFactory(**{f"agent__{k}": v for k, v in fields.items()})
        ago = timezone.now() - timedelta(days=days)
        words = {"text": "said", "reply": "answered", "answer": "{}"}
        for _number in range(number):
            SupportAction.objects.create(
                session=session, kind="tell", started_at=ago, finished_at=ago, **words
            )
        return session

    def left(self):
        return SupportAction.objects.exclude(text="").count()

    def test_redact_texts_removes_old_texts_and_keeps_actions(self):
        self.add(91, number=5)
        self.add(89, number=2)
        assert sum(redact_texts()) == 5
        assert sum(redact_texts()) == 0
        assert self.left() == 2
        gone = SupportAction.objects.filter(redacted_at__isnull=False)
        assert set(gone.values_list("text", "reply", "answer", "kind")) == {("", "", "", "tell")}

    def test_redact_texts_uses_days_of_each_account(self, settings):
        account = settings.OSVI["default"]
        settings.OSVI = {
            "default": {**account, "RETENTION": {"texts": None}},
            "short": {**account, "RETENTION": {"texts": 0.5}},
        }
        self.add(1_000, account="default")
        self.add(1, account="short")
        self.add(0.1, account="short")
        self.add(91, account="no_more")
        self.add(89, account="no_more")
        assert sum(redact_texts()) == 2
        assert self.left() == 3

    def test_redact_texts_keeps_text_of_action_in_progress(self, settings):
        settings.OSVI["default"]["RETENTION"] = {"texts": 0}
        for days in (0.001, 3):
            ago = timezone.now() - timedelta(days=days)
            action = SupportAction(session=ChatSessionFactory(), kind="tell", started_at=ago)
            action.text = "said"
            action.save()
        assert sum(redact_texts()) == 1
        assert self.left() == 1

    def test_redact_texts_with_invalid_setting_removes_nothing(self, settings):
        settings.OSVI["default"]["RETENTION"] = {"texts": "90"}
        self.add(1_000)
        with pytest.raises(InvalidSetting):
            sum(redact_texts())
        assert self.left() == 1


@pytest.mark.django_db
class TestRedactContext:
    """Test context, which is in the session as well as in the journal."""

    @pytest.fixture
    def session(self, mirrored):
        known = {"state_fields": {"step": 2}, "context": ["told by OSVI"]}
        return mirrored(metadata={"id": "x", "metadata": known})

    @pytest.fixture
    def add(self, session):
        def _add(text, days, outcome="done"):
            ago = timezone.now() - timedelta(days=days)
            metadata = session.metadata["metadata"]
            metadata["context"] = [*metadata["context"], text]
            session.save()
            SupportAction.objects.create(
                session=session,
                kind="context",
                text=text,
                outcome=outcome,
                started_at=ago,
                finished_at=ago,
            )

        return _add

    def test_redact_texts_removes_old_context_from_session(self, session, add):
        add("a", 91)
        add("b", 100, "no_answer")
        add("refused, and told by OSVI", 91, "rejected")
        add("A", 89)
        updated_at = session.updated_at
        other = ChatSessionFactory(metadata={"metadata": {"context": ["a"]}})
        assert sum(redact_texts()) == 3
        session.refresh_from_db()
        left = ["told by OSVI", "refused, and told by OSVI", "A"]
        known = {"state_fields": {"step": 2}, "context": left}
        assert session.metadata == {"id": "x", "metadata": known}
        assert session.updated_at > updated_at
        other.refresh_from_db()
        assert context_of(other) == ["a"]

    def test_redact_texts_keeps_context_that_was_added_again(self, session, add, settings):
        add("a", 91)
        add("a", 10)
        assert sum(redact_texts()) == 1
        session.refresh_from_db()
        assert context_of(session) == ["told by OSVI", "a", "a"]
        settings.OSVI["default"]["RETENTION"] = {"texts": 5}
        assert sum(redact_texts()) == 1
        session.refresh_from_db()
        assert context_of(session) == ["told by OSVI"]

    def test_redact_texts_when_context_is_gone_keeps_metadata(self, session, add):
        add("a", 91)
        ChatSession.objects.update(metadata={"metadata": {"context": ["z"]}})
        assert sum(redact_texts()) == 1
        session.refresh_from_db()
        assert session.metadata == {"metadata": {"context": ["z"]}}

    def test_redact_texts_with_many_sessions_has_bounded_queries(
        self, mirrored, monkeypatch, django_assert_max_num_queries
    ):
        monkeypatch.setattr(texts, "_CHUNK", 10)
        sessions = [mirrored(customer_id=f"+{number}") for number in range(25)]
        for session in sessions:
            inject_context(session, "a")
        ago = timezone.now() - timedelta(days=91)
        SupportAction.objects.update(started_at=ago)
        with django_assert_max_num_queries(25 * 9 + 20):
            assert sum(redact_texts()) == 25
        assert [context_of(each) for each in ChatSession.objects.all()] == [[]] * 25


@pytest.mark.django_db(transaction=True)
def test_redact_texts_keeps_values_mirrored_meanwhile(mirrored):
    session = mirrored()
    inject_context(session, "a")
    SupportAction.objects.update(started_at=timezone.now() - timedelta(days=91))
    news = {"id": session.session_id, "status": "active", "customer_id": session.customer_id}
    news |= {"metadata": {"state_fields": {"step": 2}, "context": ["b"]}}

    def tell():
        try:
            mirror_session(news)
        finally:
            connection.close()

    def tell_meanwhile():
        thread.start()
        thread.join(0.3)  # which waits for the commit

    def is_look(sql, _params):
        return sql.startswith("SELECT") and "metadata" in sql.partition("FROM")[0]

    thread = threading.Thread(target=tell)
    with call_after_queries(is_look, tell_meanwhile):
        assert sum(redact_texts()) == 1
    thread.join()
    session.refresh_from_db()
    assert session.metadata == news
