"""Test session ids that come from callers and that this database does not know."""

from __future__ import annotations

import uuid
from datetime import timedelta
from functools import partial
from urllib.parse import quote

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, OperationalError

from osvi_django.database import DatabaseNow
from osvi_django.exceptions import (
    InvalidInput,
    OSVIError,
    OSVIRejected,
    OSVIUnreachable,
    SessionNotFound,
)
from osvi_django.models import ChatAgent, ChatSession, CloseAttempt, CloseJob, CloseJobItem
from osvi_django.services import close_session_by_id
from osvi_django.services.jobs import create_close_job, run_close_job
from osvi_django.services.mirroring import mirror_by_id, mirror_started
from osvi_django.services.recovery import Settled, mark_closed, recover_all
from osvi_django.signals import session_close_failed
from osvi_django.testing import Drop, Junk
from osvi_django.testing.factories import ChatAgentFactory, ChatSessionFactory, SupportActionFactory
from tests.helpers.database import call_after_queries, raise_on_queries, skip_queries
from tests.helpers.sandbox import CallThenAnswer, mirror

pytestmark = pytest.mark.django_db

VICTIM = "4718a326-417b-4dda-90d0-21fd65a11cb8"
UNSAFE = [
    f"x/../{VICTIM}",
    f"../chat_sessions/{VICTIM}",
    f"{VICTIM}/",
    f"/{VICTIM}",
    f"{VICTIM}/close_session?",
    f"{VICTIM}?a=1",
    f"{VICTIM}#a",
    f"{VICTIM}%2e",
    f"..%2F{VICTIM}",
    f"..\\{VICTIM}",
    f"{VICTIM};a=b",
    f"{VICTIM}.",
    f" {VICTIM}",
    f"{VICTIM} ",
    f"{VICTIM}\n",
    f"{VICTIM}\x7f",
    f"{VICTIM}\x00",
    f"\ufeff{VICTIM}",
    f"{VICTIM}\u200b",
    f"..\uff0f{VICTIM}",
    "\u2024\u2024",
    "caf\u00e9",
    "two words",
    ".",
    "..",
    "...",
    "",
    "x" * 256,
    None,
    5,
]
SAFE = [VICTIM, VICTIM.upper(), "s-1", "s_1.2~3", "chat:5@shop", "a.b", ".a", "5", "x" * 255]
CLOSE = "/api/osvi/sessions/{}/close/"


class TestUnsafeId:
    @pytest.mark.parametrize("odd", UNSAFE, ids=repr)
    def test_close_by_id_with_unsafe_id_raises_invalid_input(self, osvi_sandbox, odd):
        with pytest.raises(InvalidInput) as caught:
            close_session_by_id(odd, agent_uuid="agent_1")
        assert caught.value.field == "session_id"
        assert osvi_sandbox.requests == []
        assert not ChatSession.objects.exists()
        assert not ChatAgent.objects.exists()

    @pytest.mark.parametrize("odd", UNSAFE, ids=repr)
    def test_mirror_by_id_with_unsafe_id_raises_invalid_input(self, odd):
        with pytest.raises(InvalidInput):
            mirror_by_id(odd, agent_uuid="agent_1", account="default")
        assert not ChatAgent.objects.exists()

    @pytest.mark.parametrize("odd", [odd for odd in UNSAFE if isinstance(odd, str) and odd])
    @pytest.mark.parametrize("body", [{}, {"agent_uuid": "agent_1"}])
    @pytest.mark.parametrize("headers", [{}, {"Prefer": "respond-async"}])
    def test_rest_close_with_unsafe_id_returns_json_error(
        self, api, osvi_sandbox, odd, body, headers
    ):
        for quoted in (quote(odd, safe=""), quote(odd, safe="/")):
            response = api.post(CLOSE.format(quoted), body, format="json", headers=headers)
            assert response.status_code in {400, 404}
            assert response.json()["code"] in {"invalid", "not_found"}
        assert osvi_sandbox.requests == []
        assert not ChatSession.objects.exists()

    def test_close_job_with_unsafe_ids_finds_none(self, osvi_sandbox):
        job = create_close_job(UNSAFE[:5])
        run_close_job(job.pk)
        assert set(job.items.values_list("outcome", flat=True)) == {"not_found"}
        assert osvi_sandbox.requests == []

    def test_close_command_with_unsafe_id_sends_nothing(self, osvi_sandbox, capsys):
        with pytest.raises(CommandError, match="Not closed: 1 of 1"):
            call_command("osvi_close", f"x/../{VICTIM}")
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize("odd", ["a/b", "x/../y", "two words", "caf\u00e9", "a;b", "a%2e"])
    def test_close_by_id_with_unsafe_id_that_osvi_used_closes_session(self, osvi_sandbox, odd):
        mirror(osvi_sandbox, session_id=odd, agent__uuid="agent_1", summary="Fine.")
        result = close_session_by_id(odd, agent_uuid="agent_1")
        assert result.summary.text == "Fine."
        assert mirror_by_id(odd, agent_uuid="agent_1", account="default") == result.session

    def test_mirror_started_with_unsafe_id_from_osvi_creates_session(self):
        started = {"session_id": "a/b", "started_at": "2026-06-04T11:40:25", "agent_name": "Maya"}
        assert mirror_started(started, agent_uuid="agent_1").session_id == "a/b"


@pytest.mark.parametrize("session_id", SAFE)
def test_close_by_id_with_safe_id_closes_session(osvi_sandbox, session_id):
    osvi_sandbox.add_session(session_id=session_id, agent_uuid="agent_1", summary="Fine.")
    assert close_session_by_id(session_id, agent_uuid="agent_1").summary.text == "Fine."


class TestSessionUnknownToOSVI:
    """Test the first close of a session that neither this database nor OSVI knows."""

    close = staticmethod(partial(close_session_by_id, "s-1", agent_uuid="agent_1"))

    def test_close_by_id_leaves_only_a_log_line(self, osvi_sandbox, caplog):
        with pytest.raises(SessionNotFound, match="OSVI does not know this chat session either"):
            self.close()
        assert not ChatSession.objects.exists()
        assert not ChatAgent.objects.exists()
        assert not CloseAttempt.objects.exists()
        assert "session 's-1' not closed by attempt" in caplog.text

    def test_rest_close_returns_404(self, api, osvi_sandbox):
        response = api.post(CLOSE.format("s-1"), {"agent_uuid": "agent_1"}, format="json")
        assert (response.status_code, response.json()["code"]) == (404, "not_found")
        assert response.json()["retryable"] is False
        assert "OSVI does not know" in response.json()["detail"]
        assert not ChatSession.objects.exists()

    def test_rest_support_command_close_returns_404(self, api, osvi_sandbox):
        body = {"command": "close", "agent_uuid": "agent_1"}
        response = api.post("/api/osvi/sessions/s-1/support/", body, format="json")
        assert (response.status_code, response.json()["code"]) == (404, "not_found")
        assert not ChatSession.objects.exists()

    @pytest.mark.parametrize("dialect", ["legacy", "v1"])
    def test_close_by_id_in_each_dialect_raises_not_found(self, osvi_sandbox, settings, dialect):
        settings.OSVI["default"]["CLOSE_WITH"] = dialect
        with pytest.raises(SessionNotFound):
            self.close()
        assert not ChatSession.objects.exists()

    def test_close_by_id_keeps_known_agent(self, osvi_sandbox):
        agent = ChatAgentFactory(uuid="agent_1")
        with pytest.raises(SessionNotFound):
            self.close()
        assert ChatAgent.objects.get() == agent

    @pytest.mark.parametrize(
        ("fault", "error"),
        [
            (Drop(), OSVIError),
            (Junk(), OSVIError),
        ],
        ids=repr,
    )
    def test_close_by_id_without_usable_answer_keeps_session(self, osvi_sandbox, fault, error):
        osvi_sandbox.script("s-1", fault)
        with pytest.raises(error) as caught:
            self.close()
        assert not isinstance(caught.value, SessionNotFound)
        assert ChatSession.objects.get().attempts.count() == 1

    def test_close_by_id_when_session_was_known_keeps_it(self, osvi_sandbox, settings):
        mirror_by_id("s-1", agent_uuid="agent_1", account="default")
        there = settings.OSVI["default"]["BASE_URL"]
        settings.OSVI["default"]["BASE_URL"] = "http://127.0.0.1:9"
        with pytest.raises(OSVIUnreachable):
            self.close()
        settings.OSVI["default"]["BASE_URL"] = there
        with pytest.raises(OSVIRejected, match="mark it as closed here"):
            self.close()
        session = ChatSession.objects.get()
        assert (session.status, session.attempts.count()) == ("active", 2)
        mark_closed(session, note="So says OSVI's dashboard.")
        assert ChatSession.objects.get().status == "closed"

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize(
        "use",
        [
            lambda session: SupportActionFactory(session=session),
            lambda session: create_close_job([session], start=False),
            lambda session: CloseJobItem.objects.create(
                job=create_close_job(["x"], start=False),
                session=session,
                requested_session_id="s-1",
            ),
        ],
    )
    def test_close_by_id_when_session_is_used_meanwhile_keeps_it(self, osvi_sandbox, use):
        osvi_sandbox.script("s-1", CallThenAnswer(lambda: use(ChatSession.objects.get())))
        with pytest.raises(SessionNotFound):
            self.close()
        assert ChatSession.objects.get().status == "active"

    @pytest.mark.django_db(transaction=True)
    def test_close_by_id_when_session_is_mirrored_meanwhile_keeps_it(self, osvi_sandbox):
        def set_customer():
            ChatSession.objects.update(customer_id="+1555")

        osvi_sandbox.script("s-1", CallThenAnswer(set_customer))
        with pytest.raises(SessionNotFound):
            self.close()
        assert ChatSession.objects.exists()

    @pytest.mark.django_db(transaction=True)
    def test_close_by_id_when_agent_gets_other_session_meanwhile_keeps_agent(self, osvi_sandbox):
        def another():
            ChatSessionFactory(agent=ChatAgent.objects.get())

        osvi_sandbox.script("s-1", CallThenAnswer(another))
        with pytest.raises(SessionNotFound):
            self.close()
        assert ChatSession.objects.get().session_id != "s-1"

    def test_close_by_id_sends_close_failed_signal(self, osvi_sandbox):
        heard = []

        def hear(session, error, attempt, **_named):
            heard.append((session.session_id, session.status, error.code, attempt.pk is not None))

        session_close_failed.connect(hear)
        try:
            with pytest.raises(SessionNotFound):
                self.close()
        finally:
            session_close_failed.disconnect(hear)
        assert heard == [("s-1", "active", "not_found", True)]

    def test_close_by_id_when_process_dies_leaves_claim_for_recovery(self, osvi_sandbox):
        """Store the refusal and remove the session in one transaction."""

        def is_delete(sql, params):
            return sql.startswith("DELETE")

        with raise_on_queries(is_delete, KeyboardInterrupt()), pytest.raises(KeyboardInterrupt):
            self.close()
        session = ChatSession.objects.get()
        assert (session.status, session.attempts.get().outcome) == ("closing", "answered")
        ChatSession.objects.update(lease_until=DatabaseNow() - timedelta(seconds=1))
        assert [found.settled for found in recover_all()] == [Settled.REOPENED]
        session.refresh_from_db()
        assert (session.status, session.attempts.get().outcome) == ("active", "rejected")

    def test_close_by_id_when_session_cannot_be_deleted_keeps_it_and_logs(
        self, osvi_sandbox, caplog
    ):
        def is_delete(sql, params):
            return sql.startswith("DELETE")

        with raise_on_queries(is_delete, OperationalError("gone")), pytest.raises(SessionNotFound):
            self.close()
        assert ChatSession.objects.exists()
        assert "session 's-1' is kept" in caplog.text


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("is_said", [True, False])  # MariaDB's INSERT IGNORE says nothing
def test_mirror_by_id_when_agent_is_deleted_meanwhile_creates_it_again(osvi_sandbox, is_said):
    agent = ChatAgentFactory(uuid="agent_1")
    removed = []

    def is_look(sql, params):
        return not removed and "osvi_django_chatsession" in sql and "s-1" in params

    def remove():
        removed.append(None)
        ChatAgent.objects.filter(pk=agent.pk).delete()

    def is_insert(sql, params):
        return (
            not is_said and len(removed) == 1 and sql.startswith("INSERT") and note_insert(removed)
        )

    osvi_sandbox.add_session(session_id="s-1", agent_uuid="agent_1", summary="Fine.")
    with call_after_queries(is_look, remove), skip_queries(is_insert):
        try:
            session = mirror_by_id("s-1", agent_uuid="agent_1", account="default")
        except IntegrityError:  # SQLite looks at the end of a transaction, which is there anyway
            session = mirror_by_id("s-1", agent_uuid="agent_1", account="default")
    assert session.agent.uuid == "agent_1"
    assert session.agent_id != agent.pk


def note_insert(removed):
    removed.append(None)
    return True


class TestSessionUnknownToOSVIInJob:
    """Test the same with ``Prefer: respond-async``."""

    @pytest.fixture(autouse=True)
    def no_executor(self, settings):
        settings.OSVI_EXECUTOR = None

    @staticmethod
    def close(api, agent_uuid="agent_1"):
        body, headers = {"agent_uuid": agent_uuid}, {"Prefer": "respond-async"}
        response = api.post(CLOSE.format("s-1"), body, format="json", headers=headers)
        assert response.status_code == 202
        return run_close_job(response.json()["id"])

    @pytest.mark.parametrize("dialect", ["legacy", "v1"])
    def test_run_close_job_leaves_no_session_and_no_agent(
        self, api, osvi_sandbox, settings, dialect
    ):
        settings.OSVI["default"]["CLOSE_WITH"] = dialect
        job = self.close(api)
        item = job.items.get()
        assert (item.outcome, item.error_code) == ("not_found", "not_found")
        assert (item.requested_session_id, item.session, item.attempt) == ("s-1", None, None)
        assert (job.status, job.failed) == ("completed_with_errors", 1)
        assert osvi_sandbox.close_requests("s-1") == 1
        assert not ChatSession.objects.exists()
        assert not ChatAgent.objects.exists()

    def test_run_close_job_with_abandoned_item_leaves_no_session_and_no_agent(
        self, api, osvi_sandbox
    ):
        """Close an item that another worker left in the state "closing"."""
        body, headers = {"agent_uuid": "agent_1"}, {"Prefer": "respond-async"}
        response = api.post(CLOSE.format("s-1"), body, format="json", headers=headers)
        CloseJobItem.objects.update(outcome="closing", claim=uuid.uuid4())
        job = run_close_job(response.json()["id"])
        item = job.items.get()
        assert (item.outcome, item.error_code) == ("not_found", "not_found")
        assert (item.session, item.attempt, job.failed) == (None, None, 1)
        assert osvi_sandbox.close_requests("s-1") == 1
        assert not ChatSession.objects.exists()
        assert not ChatAgent.objects.exists()

    def test_run_close_job_when_process_dies_leaves_item_to_next_worker(self, api, osvi_sandbox):
        def is_end(sql, params):
            return sql.startswith("UPDATE") and "not_found" in params

        with raise_on_queries(is_end, KeyboardInterrupt()), pytest.raises(KeyboardInterrupt):
            self.close(api)
        assert not ChatSession.objects.exists()
        CloseJobItem.objects.update(lease_until=None)
        job = run_close_job(CloseJob.objects.get().pk)
        assert (job.items.get().outcome, job.status) == ("not_found", "completed_with_errors")
        assert osvi_sandbox.close_requests("s-1") == 1

    def test_run_close_job_keeps_known_agent(self, api, osvi_sandbox):
        agent = ChatAgentFactory(uuid="agent_1")
        self.close(api)
        assert ChatAgent.objects.get() == agent
        assert not ChatSession.objects.exists()

    def test_run_close_job_keeps_known_session(self, api, osvi_sandbox):
        mirror_by_id("s-1", agent_uuid="agent_1", account="default")
        job = self.close(api)
        assert job.items.get().outcome == "rejected"
        assert ChatSession.objects.get().status == "active"

    def test_run_close_job_when_osvi_knows_session_closes_it(self, api, osvi_sandbox):
        osvi_sandbox.add_session(session_id="s-1", agent_uuid="agent_1", summary="Fine.")
        assert self.close(api).items.get().outcome == "closed"
        assert ChatSession.objects.get().summary.text == "Fine."


@pytest.mark.parametrize("odd", ["a/b", "x/../y", "a?b", "a#b", "a%2eb", "a\\b"])
def test_unsafe_id_among_many_and_alone_is_not_found(api, osvi_sandbox, settings, odd):
    settings.OSVI_EXECUTOR = None
    body = {"session_ids": [odd]}
    response = api.post("/api/osvi/sessions/close/", body, format="json")
    job = run_close_job(response.json()["id"])
    assert (job.items.get().outcome, job.items.get().requested_session_id) == ("not_found", odd)
    with pytest.raises((SessionNotFound, InvalidInput)):
        close_session_by_id(odd)
    assert osvi_sandbox.requests == []
    assert not ChatSession.objects.exists()
