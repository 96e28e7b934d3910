"""Test the close of one session from Python, against a sandbox over real HTTP."""

from __future__ import annotations

import json
import uuid
from datetime import timedelta

import pytest
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.utils import timezone

from osvi_django.database import DatabaseNow
from osvi_django.exceptions import (
    CloseInProgress,
    InvalidInput,
    NotAllowed,
    OSVIBadAnswer,
    OSVINoAnswer,
    OSVINotConfigured,
    OSVIRejected,
    OSVIThrottled,
    OSVIUnauthorized,
    OSVIUnreachable,
    SessionNotFound,
)
from osvi_django.models import ChatAgent, ChatSession, CloseAttempt, SessionSummary
from osvi_django.services import close_session, close_session_by_id
from osvi_django.signals import session_close_failed, session_closed
from osvi_django.testing import (
    MISSING,
    Drip,
    Drop,
    Hang,
    Junk,
    OddSummary,
    OSVISandbox,
    Redirect,
    Status,
)
from osvi_django.testing.factories import ChatAgentFactory, ChatSessionFactory, ClosedSessionFactory
from tests.helpers.database import call_after_queries
from tests.helpers.sandbox import SUMMARY, mirror
from tests.services.helpers import claim_elsewhere

pytestmark = pytest.mark.django_db

Outcome = CloseAttempt.Outcome


@pytest.fixture
def session(mirrored):
    """Create an active session that the sandbox knows as well."""
    return mirrored()


@pytest.fixture
def signals_received():
    """Return the list of signals that were received, in order."""
    said = []

    def hear(signal, sender, **named):
        said.append((signal, sender, named))

    session_closed.connect(hear)
    session_close_failed.connect(hear)
    yield said
    session_closed.disconnect(hear)
    session_close_failed.disconnect(hear)


class TestCloseSession:
    def test_close_session_stores_and_returns_summary(self, session):
        result = close_session(session)
        assert result.summary.text == SUMMARY
        assert result.changed
        stored = ChatSession.objects.get()
        assert stored.summary.text == SUMMARY
        assert (stored.status, stored.summary_status) == ("closed", "stored")
        assert stored.closed_at is not None
        assert (stored.claim, stored.lease_until) == (None, None)

    def test_close_session_with_stale_instance_updates_it(self, session):
        stale = ChatSession.objects.get()
        result = close_session(stale)
        assert result.session is stale
        assert stale.status == "closed"

    def test_close_session_stores_attempt_with_requester_via_times_and_answer(self, session, staff):
        before = timezone.now()
        result = close_session(session, requested_by=staff, via="desk", note=" Bye. ")
        attempt = CloseAttempt.objects.get()
        assert result.attempt == attempt
        assert (attempt.requested_by, attempt.via, attempt.note) == (staff, "desk", "Bye.")
        assert (attempt.outcome, attempt.http_status) == (Outcome.CLOSED, 200)
        assert '"summary": "The customer asked' in attempt.answer
        assert before < attempt.started_at < attempt.answered_at < attempt.finished_at
        assert result.attempt.outcome == Outcome.CLOSED

    def test_close_session_changes_updated_at(self, session):
        before = session.updated_at
        close_session(session)
        assert ChatSession.objects.get().updated_at > before

    @pytest.mark.parametrize("said", [None, "", " \n", MISSING])
    def test_close_session_without_summary_stores_not_provided(self, session, osvi_sandbox, said):
        osvi_sandbox.script(session.session_id, OddSummary(said))
        result = close_session(session)
        assert (result.summary, result.changed) == (None, True)
        assert session.summary_status == "not_provided"
        assert not SessionSummary.objects.exists()

    def test_close_session_with_v1_sends_support_command(self, session, osvi_sandbox, settings):
        settings.OSVI["default"]["CLOSE_WITH"] = "v1"
        result = close_session(session)
        assert (result.session.status, result.summary) == ("closed", None)
        [request] = osvi_sandbox.requests
        assert request.path.endswith("/support")
        assert request.body == {"command": "close"}

    def test_close_session_with_v1_stores_summary_if_there_is_one(
        self, session, osvi_sandbox, settings
    ):
        settings.OSVI["default"]["CLOSE_WITH"] = "v1"
        osvi_sandbox.v1_summary = True
        assert close_session(session).summary.text.startswith("The customer asked")

    def test_close_session_with_unstorable_characters_replaces_them(self, session, osvi_sandbox):
        osvi_sandbox.script(session.session_id, OddSummary("a\x00b\ud800c 😀"))
        assert close_session(session).summary.text == "a\ufffdb\ufffdc 😀"
        assert SessionSummary.objects.get().text == "a\ufffdb\ufffdc 😀"

    def test_close_session_with_huge_answer_truncates_stored_answer(self, session, osvi_sandbox):
        osvi_sandbox.script(session.session_id, OddSummary("€" * 400_000))
        close_session(session)
        kept = CloseAttempt.objects.get().answer
        assert len(kept.encode()) <= 1_000_000
        assert len(SessionSummary.objects.get().text) == 400_000

    def test_close_session_without_summary_keeps_stored_summary(self, osvi_sandbox):
        session = mirror(osvi_sandbox)
        SessionSummary.objects.create(session=session, text="Written before.")
        osvi_sandbox.script(session.session_id, OddSummary(None))
        result = close_session(session)
        assert result.summary.text == "Written before."
        assert session.summary_status == "stored"

    def test_close_session_sends_session_closed_signal(self, session, signals_received):
        result = close_session(session)
        [(signal, sender, named)] = signals_received
        assert (signal, sender) == (session_closed, ChatSession)
        assert (named["session"], named["summary"]) == (session, result.summary)
        assert named["attempt"] == result.attempt

    def test_close_session_when_receiver_raises_is_still_closed(self, session, caplog):
        def explode(**named):
            raise RuntimeError("a bug of the host")

        session_closed.connect(explode)
        try:
            assert close_session(session).changed
        finally:
            session_closed.disconnect(explode)
        assert ChatSession.objects.get().summary.text
        assert "a bug of the host" in caplog.text

    def test_close_session_logs_no_payload_and_no_token(self, session, caplog, osvi_sandbox):
        caplog.set_level("DEBUG")
        close_session(session, note="A private note.")
        assert session.session_id in caplog.text
        for secret in ("refund", "private", osvi_sandbox.token):
            assert secret not in caplog.text


class TestCloseClosedSession:
    def test_close_session_returns_stored_summary_and_sends_nothing(self, osvi_sandbox):
        session = ClosedSessionFactory()
        result = close_session(session)
        assert (result.changed, result.attempt) == (False, None)
        assert result.summary == session.summary
        assert osvi_sandbox.requests == []
        assert not CloseAttempt.objects.exists()

    def test_close_session_without_configuration_succeeds(self, settings):
        del settings.OSVI
        assert not close_session(ClosedSessionFactory()).changed

    def test_close_session_with_stale_instance_sends_nothing(self, session, osvi_sandbox):
        stale = ChatSession.objects.get()
        close_session(session)
        assert not close_session(stale).changed
        assert osvi_sandbox.close_requests(session.session_id) == 1


class TestCloseFailure:
    @pytest.mark.parametrize("status", ["active", "dormant"])
    @pytest.mark.parametrize(
        ("fault", "error", "code"),
        [
            (Status(401, error="Invalid API token"), OSVIUnauthorized, "unauthorized"),
            (Status(403, errors=["Not allowed"]), OSVIRejected, "rejected"),
            (Status(422, errors=["agent_uuid is invalid"]), OSVIRejected, "rejected"),
            (Status(429, retry_after=7), OSVIThrottled, "busy_at_osvi"),
            (Status(503, retry_after=7, body=b""), OSVIThrottled, "busy_at_osvi"),
        ],
    )
    def test_close_session_when_refused_keeps_status_and_can_be_repeated(
        self, osvi_sandbox, fault, error, code, status
    ):
        session = mirror(osvi_sandbox, status=status)
        osvi_sandbox.script(session.session_id, fault)
        with pytest.raises(error) as caught:
            close_session(session)
        assert caught.value.code == code
        assert caught.value.status == fault.code
        assert caught.value.retry_after == fault.retry_after
        stored = ChatSession.objects.get()
        assert (stored.status, stored.claim, stored.lease_until) == (status, None, None)
        assert session.status == status
        attempt = CloseAttempt.objects.get()
        assert (attempt.outcome, attempt.error_code) == (Outcome.REJECTED, code)
        assert (attempt.http_status, attempt.finished_at is not None) == (fault.code, True)
        # And it can be closed by the next try, when OSVI may be asked again.
        if fault.retry_after:
            with pytest.raises(OSVIThrottled, match="asked this site to wait"):
                close_session(session)
            assert CloseAttempt.objects.count() == 1
        else:
            assert close_session(session).changed

    def test_close_session_when_refused_truncates_reason(self, session, osvi_sandbox):
        osvi_sandbox.script(session.session_id, Status(422, errors=["no " * 500]))
        with pytest.raises(OSVIRejected) as caught:
            close_session(session)
        assert CloseAttempt.objects.get().error_reason == caught.value.reason
        assert len(caught.value.reason) == 300

    def test_close_session_when_not_sent_keeps_status_and_can_be_repeated(
        self, session, osvi_sandbox, settings
    ):
        here = settings.OSVI["default"]["BASE_URL"]
        settings.OSVI["default"]["BASE_URL"] = "http://127.0.0.1:1"
        with pytest.raises(OSVIUnreachable):
            close_session(session)
        assert session.status == "active"
        assert CloseAttempt.objects.get().outcome == Outcome.NOT_SENT
        settings.OSVI["default"]["BASE_URL"] = here
        assert close_session(session).changed

    @pytest.mark.parametrize(
        "fault",
        [
            Drop(),
            Drop(after_closing=True),
            Status(500),
            Status(502, body=b"<html>"),
            Status(503, body=b"upstream reset"),
            Status(504),
        ],
        ids=repr,
    )
    def test_close_session_without_answer_is_unconfirmed_and_not_sent_again(
        self, session, osvi_sandbox, fault
    ):
        osvi_sandbox.script(session.session_id, fault)
        with pytest.raises(OSVINoAnswer):
            close_session(session)
        assert (session.status, session.summary_status) == ("unconfirmed", "pending")
        assert CloseAttempt.objects.get().outcome == Outcome.NO_ANSWER
        osvi_sandbox.script(None, Status(500))  # nor does OSVI say whether it is open
        with pytest.raises(OSVINoAnswer) as caught:
            close_session(session)
        assert caught.value.attempt == CloseAttempt.objects.get()
        assert osvi_sandbox.close_requests(session.session_id) == 1
        assert CloseAttempt.objects.count() == 1

    @pytest.mark.parametrize("fault", [Hang(), Drip(interval=0.1), Drip("headers", interval=0.1)])
    def test_close_session_with_slow_answer_raises_no_answer_at_deadline(
        self, session, osvi_sandbox, settings, fault
    ):
        settings.OSVI["default"] |= {"CONNECT_TIMEOUT": 0.2, "READ_TIMEOUT": 5, "DEADLINE": 0.5}
        osvi_sandbox.script(session.session_id, fault)
        began = timezone.now()
        with pytest.raises(OSVINoAnswer):
            close_session(session)
        assert timezone.now() - began < timedelta(seconds=3)
        assert session.status == "unconfirmed"

    @pytest.mark.parametrize(
        "fault",
        [
            Junk(),
            Junk(body=b'{"success": true, "data": {"session_id": "another"}}'),
            Junk(body=b"\x00\xff" * 10),
            OddSummary(42),
            Redirect("http://127.0.0.1:1/"),
        ],
        ids=repr,
    )
    def test_close_session_with_unreadable_answer_is_unconfirmed_and_stores_answer(
        self, session, osvi_sandbox, fault
    ):
        osvi_sandbox.script(session.session_id, fault)
        with pytest.raises(OSVIBadAnswer):
            close_session(session)
        assert session.status == "unconfirmed"
        attempt = CloseAttempt.objects.get()
        assert (attempt.outcome, attempt.error_code) == (Outcome.BAD_ANSWER, "bad_answer")
        assert attempt.http_status is not None
        if isinstance(fault, Junk):
            expected = fault.body.decode(errors="replace").replace("\x00", "\ufffd")
            assert attempt.answer == expected

    def test_close_session_when_refused_sends_close_failed_signal(
        self, session, osvi_sandbox, signals_received
    ):
        osvi_sandbox.script(session.session_id, Status(404))
        with pytest.raises(OSVIRejected) as caught:
            close_session(session)
        [(signal, sender, named)] = signals_received
        assert (signal, sender) == (session_close_failed, ChatSession)
        assert (named["session"], named["error"]) == (session, caught.value)
        assert named["attempt"].outcome == Outcome.REJECTED

    def test_close_session_when_nothing_is_tried_sends_no_signal(
        self, osvi_sandbox, signals_received
    ):
        close_session(ClosedSessionFactory())
        with pytest.raises(NotAllowed):
            close_session(mirror(osvi_sandbox), requested_by=AnonymousUser())
        assert signals_received == []


class TestNotConfigured:
    def test_close_session_with_unknown_account_stores_no_attempt(self, osvi_sandbox):
        session = mirror(osvi_sandbox, agent__account="emea")
        with pytest.raises(OSVINotConfigured, match="emea") as caught:
            close_session(session)
        assert isinstance(caught.value, ImproperlyConfigured)
        assert session.status == "active"
        assert not CloseAttempt.objects.exists()

    def test_close_session_with_failing_token_keeps_session_open(
        self, session, osvi_sandbox, settings
    ):
        def vault():
            raise OSError("sealed")

        settings.OSVI["default"]["API_TOKEN"] = vault
        with pytest.raises(OSVINotConfigured, match="API_TOKEN"):
            close_session(session)
        assert session.status == "active"
        assert CloseAttempt.objects.get().outcome == Outcome.NOT_SENT
        assert osvi_sandbox.requests == []

    def test_close_session_uses_account_of_agent(self, osvi_sandbox, settings):
        with OSVISandbox(token="token-of-emea-16") as emea:
            settings.OSVI["emea"] = {"API_TOKEN": emea.token, "BASE_URL": emea.url}
            assert close_session(mirror(emea, agent__account="emea")).changed
            assert close_session(mirror(osvi_sandbox)).changed
            for osvi in (emea, osvi_sandbox):
                [request] = osvi.requests
                assert request.headers["API-Token"] == osvi.token


class TestClosePermission:
    def test_close_session_by_user_with_permission_succeeds(self, session, staff):
        assert close_session(session, requested_by=staff).changed

    @pytest.mark.parametrize("inactive", [False, True])
    def test_close_session_by_user_without_permission_raises_not_allowed(
        self, session, osvi_sandbox, django_user_model, grant, inactive
    ):
        user = django_user_model.objects.create_user("max", is_active=not inactive)
        user = grant(user, "view_chatsession", "change_chatsession")
        if inactive:
            user = grant(user, "close_chatsession")
        with pytest.raises(NotAllowed):
            close_session(session, requested_by=user)
        assert osvi_sandbox.requests == []
        assert not CloseAttempt.objects.exists()

    def test_close_session_by_anonymous_user_raises_not_allowed(self, session):
        with pytest.raises(NotAllowed):
            close_session(session, requested_by=AnonymousUser())

    def test_close_closed_session_by_anonymous_user_raises_not_allowed(self):
        with pytest.raises(NotAllowed):
            close_session(ClosedSessionFactory(), requested_by=AnonymousUser())

    def test_close_session_with_object_permission_succeeds(
        self, session, osvi_sandbox, settings, django_user_model
    ):
        settings.AUTHENTICATION_BACKENDS = [f"{__name__}.{ObjectPermissionBackend.__name__}"]
        user = django_user_model.objects.create_user(session.customer_id)
        other = mirror(osvi_sandbox)
        with pytest.raises(NotAllowed):
            close_session(other, requested_by=user)
        assert close_session(session, requested_by=user).changed


class ObjectPermissionBackend:
    """Grant permissions on single objects only."""

    def authenticate(self, request):
        return None

    def has_perm(self, user, permission, obj=None):
        return obj is not None and obj.customer_id == user.get_username()


class TestCloseInput:
    @pytest.mark.parametrize(("field", "length"), [("note", 1_000), ("via", 32)])
    def test_close_session_with_too_long_text_raises_invalid_input(self, session, field, length):
        with pytest.raises(InvalidInput, match=str(length)) as caught:
            close_session(session, **{field: "x" * (length + 1)})
        assert caught.value.field == field
        assert session.status == "active"
        assert close_session(session, **{field: "x" * length}).changed

    @pytest.mark.parametrize("field", ["note", "close_reason", "goodbye", "via"])
    @pytest.mark.parametrize("text", ["a\x00b", "\ud800"])
    def test_close_session_with_unstorable_text_raises_invalid_input(
        self, session, field, text, osvi_sandbox
    ):
        with pytest.raises(InvalidInput, match=f"^{field}: .* cannot be stored") as caught:
            close_session(session, **{field: text})
        assert caught.value.field == field
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize(
        "narrow",
        [lambda rows: rows.only("session_id"), lambda rows: rows.defer("agent", "status")],
    )
    def test_close_session_with_deferred_fields_succeeds(self, session, narrow):
        assert close_session(narrow(ChatSession.objects).get()).changed

    def test_close_session_by_caller_that_is_no_user_stores_no_user(self, session):
        class Service:
            pk = 1

            def has_perm(self, permission, obj=None):
                return True

        assert close_session(session, requested_by=Service()).attempt.requested_by is None

    def test_close_session_by_caller_without_has_perm_raises_not_allowed(self, session):
        with pytest.raises(NotAllowed):
            close_session(session, requested_by=object())

    def test_close_session_that_is_deleted_or_unsaved_raises_not_found(self, osvi_sandbox):
        session = ChatSessionFactory()
        ChatSession.objects.all().delete()
        for gone in (session, ChatSession(session_id="never saved")):
            with pytest.raises(SessionNotFound):
                close_session(gone)
        assert osvi_sandbox.requests == []


class TestCloseById:
    def test_close_by_id_with_unknown_id_mirrors_and_closes_session(self, osvi_sandbox):
        chat = osvi_sandbox.add_session(agent_uuid="agent_new", summary="All is well.")
        result = close_session_by_id(chat.id, agent_uuid="agent_new", note="tidy")
        assert (result.changed, result.summary.text) == (True, "All is well.")
        assert result.session.session_id == chat.id
        assert ChatAgent.objects.get().uuid == "agent_new"
        assert result.attempt.note == "tidy"
        # It is known now, so OSVI is not asked again.
        assert not close_session_by_id(chat.id).changed
        assert osvi_sandbox.close_requests(chat.id) == 1

    def test_close_by_id_with_account_creates_agent_in_that_account(self, osvi_sandbox, settings):
        settings.OSVI["emea"] = dict(settings.OSVI["default"])
        chat = osvi_sandbox.add_session(agent_uuid="agent_emea")
        close_session_by_id(chat.id, agent_uuid="agent_emea", account="emea")
        assert ChatAgent.objects.get().account == "emea"

    def test_close_by_id_with_known_id_needs_no_agent(self, session):
        assert close_session_by_id(session.session_id).changed

    def test_close_by_id_with_unknown_id_and_no_agent_raises_not_found(self, osvi_sandbox):
        with pytest.raises(SessionNotFound, match="agent_uuid"):
            close_session_by_id("unknown")

    def test_close_by_id_with_other_agent_raises_invalid_input(self, session, osvi_sandbox):
        with pytest.raises(InvalidInput) as caught:
            close_session_by_id(session.session_id, agent_uuid="agent_other")
        assert caught.value.field == "agent_uuid"
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize(
        "bad", ["", "a\x00b", "\ud800", "x" * 256, uuid.uuid4(), None, 5, b"x"]
    )
    def test_close_by_id_with_invalid_ids_creates_no_session(self, osvi_sandbox, bad):
        for ids in ({"session_id": bad, "agent_uuid": "a"}, {"session_id": "a", "agent_uuid": bad}):
            with pytest.raises((InvalidInput, SessionNotFound)):
                close_session_by_id(**ids)
        assert not ChatSession.objects.exists()
        assert osvi_sandbox.requests == []

    def test_close_by_id_for_agent_without_uuid_stores_given_uuid(self, osvi_sandbox):
        chat = osvi_sandbox.add_session(agent_uuid="agent_1", summary="All is well.")
        numbered = ChatAgentFactory(uuid=None, number=chat.chat_agent_id)
        ChatSessionFactory(session_id=chat.id, customer_id=chat.customer_id, agent=numbered)
        with pytest.raises(InvalidInput, match="agent_uuid is required: give"):
            close_session_by_id(chat.id)
        result = close_session_by_id(chat.id, agent_uuid="agent_1")
        assert (result.changed, result.session.agent.uuid) == (True, "agent_1")

    def test_close_by_id_after_mistyped_agent_accepts_right_agent(self, osvi_sandbox):
        chat = osvi_sandbox.add_session(agent_uuid="agent_right", summary="All is well.")
        osvi_sandbox.script(chat.id, Status(422, errors=["Wrong agent"]))
        with pytest.raises(OSVIRejected):
            close_session_by_id(chat.id, agent_uuid="agent_wrong")
        result = close_session_by_id(chat.id, agent_uuid="agent_right")
        assert (result.changed, result.session.agent.uuid) == (True, "agent_right")

    @pytest.mark.parametrize("known", [{"customer_id": "+1555"}, {"status": "unconfirmed"}, {}])
    def test_close_by_id_with_other_agent_keeps_agent_of_known_session(self, osvi_sandbox, known):
        session = ChatSessionFactory(**{"customer_id": "", **known})
        with pytest.raises(InvalidInput):
            close_session_by_id(session.session_id, agent_uuid="agent_other")
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize("odd", [".", ".."])
    def test_close_by_id_with_path_steps_raises_invalid_input(self, osvi_sandbox, odd):
        with pytest.raises(InvalidInput) as caught:
            close_session_by_id(odd, agent_uuid="agent")
        assert caught.value.field == "session_id"
        assert not ChatSession.objects.exists()
        # The same if the host created such a row.
        with pytest.raises(InvalidInput):
            close_session(ChatSessionFactory(session_id=odd))
        assert CloseAttempt.objects.get().outcome == Outcome.NOT_SENT
        assert osvi_sandbox.requests == []

    def test_close_by_id_with_id_in_other_case_leaves_session_open(self, osvi_sandbox):
        agent = mirror(osvi_sandbox, session_id="session-a").agent
        with pytest.raises(SessionNotFound):
            close_session_by_id("SESSION-A")
        # MariaDB cannot hold both; whatever it is, it must not be the other one that is closed.
        for ids in ({"agent_uuid": agent.uuid}, {"agent_uuid": agent.uuid.upper()}):
            with pytest.raises((InvalidInput, SessionNotFound)):
                close_session_by_id("SESSION-A", **ids)
        assert osvi_sandbox.close_requests("session-a") == 0
        assert ChatSession.objects.get(session_id__exact="session-a").status == "active"

    @pytest.mark.parametrize("column", ["session_id", "uuid"])
    def test_close_by_id_in_case_insensitive_database_raises_invalid_input(
        self, osvi_sandbox, column
    ):
        table = "chatsession" if column == "session_id" else "chatagent"
        if connection.vendor != "mysql":  # MariaDB does so by itself
            with connection.cursor() as cursor:
                index = f"CREATE UNIQUE INDEX alike ON osvi_django_{table} (lower({column}))"
                cursor.execute(index)
        session = mirror(osvi_sandbox, session_id="session-a", agent__uuid="agent-a")
        ids = {"session_id": "session-b", "agent_uuid": "agent-a"}
        ids |= {"session_id": "SESSION-A"} if column == "session_id" else {"agent_uuid": "AGENT-A"}
        with pytest.raises(InvalidInput, match="case") as caught:
            close_session_by_id(**ids)
        assert caught.value.field == {"uuid": "agent_uuid"}.get(column, column)
        assert ChatSession.objects.get(pk=session.pk).status == "active"
        assert osvi_sandbox.requests == []

    def test_close_by_id_without_permission_creates_no_session(self, osvi_sandbox):
        with pytest.raises(NotAllowed):
            close_session_by_id("new", agent_uuid="agent", requested_by=AnonymousUser())
        assert not ChatSession.objects.exists()


class TestConcurrentClose:
    def test_close_session_while_being_closed_raises_close_in_progress(self, session, osvi_sandbox):
        claim_elsewhere(session, ends_in=60)
        with pytest.raises(CloseInProgress) as caught:
            close_session(session)
        assert (caught.value.retryable, caught.value.retry_after) == (True, 5)
        assert ChatSession.objects.get().status == "closing"
        assert osvi_sandbox.requests == []

    def test_close_session_when_lease_expires_after_check_raises_close_in_progress(
        self, session, osvi_sandbox
    ):
        claim_elsewhere(session, ends_in=60)

        def reads_leases(sql, _params):
            return sql.startswith("SELECT") and "lease_until" in sql.partition("WHERE")[2]

        def expire():
            ChatSession.objects.update(lease_until=DatabaseNow() - timedelta(seconds=1))

        with call_after_queries(reads_leases, expire), pytest.raises(CloseInProgress):
            close_session(session)
        # OSVI was not asked yet: the next call does that.
        assert ChatSession.objects.get().status == "closing"
        assert close_session(session).changed

    def test_close_session_that_is_closed_before_claim_sends_nothing(
        self, session, osvi_sandbox, settings
    ):
        class Meanwhile(dict):
            """Close the session when settings are read, which is just before the claim."""

            def get(self, key, default=None):
                ChatSession.objects.update(status="closed")
                return super().get(key, default)

        settings.OSVI = {"default": Meanwhile(settings.OSVI["default"])}
        result = close_session(session)
        assert (result.changed, result.session.status) == (False, "closed")
        assert osvi_sandbox.requests == []
        assert not CloseAttempt.objects.exists()

    def test_close_session_that_is_unconfirmed_before_claim_raises_no_answer(
        self, session, osvi_sandbox, settings
    ):
        class Meanwhile(dict):
            """Another closer gets no answer when settings are read, just before the claim."""

            def get(self, key, default=None):
                ChatSession.objects.update(status="unconfirmed")
                return super().get(key, default)

        settings.OSVI = {"default": Meanwhile(settings.OSVI["default"])}
        with pytest.raises(OSVINoAnswer):
            close_session(session)
        assert session.status == "unconfirmed"
        assert osvi_sandbox.requests == []

    def test_close_unconfirmed_session_that_osvi_has_open_closes_it(self, session, osvi_sandbox):
        osvi_sandbox.script(session.session_id, Drop())
        with pytest.raises(OSVINoAnswer):
            close_session(session)
        result = close_session(session, note="again")
        assert (result.changed, result.attempt.note) == (True, "again")
        assert osvi_sandbox.closes(session.session_id) == 1

    def test_close_unconfirmed_session_that_osvi_closed_settles_it(self, session, osvi_sandbox):
        osvi_sandbox.script(session.session_id, Drop(after_closing=True))
        with pytest.raises(OSVINoAnswer):
            close_session(session)
        assert close_session(session).changed
        assert osvi_sandbox.closes(session.session_id) == 1
        assert not close_session(session).changed

    def test_close_session_with_expired_lease_is_unconfirmed(self, session, osvi_sandbox):
        attempt = claim_elsewhere(session, ends_in=-1)
        osvi_sandbox.script(None, Status(500))
        with pytest.raises(OSVINoAnswer):
            close_session(session)
        assert session.status == "unconfirmed"
        assert session.lease_until is None
        attempt.refresh_from_db()
        assert (attempt.outcome, attempt.error_code) == (Outcome.NO_ANSWER, "unconfirmed")
        assert osvi_sandbox.close_requests(session.session_id) == 0

    def test_close_session_with_stored_answer_reads_it_and_sends_nothing(
        self, session, osvi_sandbox
    ):
        data = {"session_id": session.session_id, "summary": "Kept."}
        answer = json.dumps({"success": True, "data": data})
        kept = {"outcome": Outcome.ANSWERED, "http_status": 200, "answer": answer}
        attempt = claim_elsewhere(session, ends_in=-1, **kept)
        result = close_session(session)
        assert (result.changed, result.summary.text) == (True, "Kept.")
        attempt.refresh_from_db()
        assert attempt.outcome == Outcome.CLOSED
        assert osvi_sandbox.requests == []
