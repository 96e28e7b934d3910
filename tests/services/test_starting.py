"""Test that a start ends no open chat: it is refused, or closes the open chat first."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from django.db import OperationalError, connection, transaction
from django.utils import timezone

from osvi_django.database import DatabaseNow
from osvi_django.exceptions import (
    AlreadyOpen,
    CloseInProgress,
    InsideTransaction,
    InvalidInput,
    NotAllowed,
    OSVIBadAnswer,
    OSVINoAnswer,
    OSVIRejected,
    OSVIThrottled,
    OSVIUnauthorized,
    OSVIUnreachable,
)
from osvi_django.models import ChatSession, CloseAttempt, SessionSummary, StartLock, SupportAction
from osvi_django.services import close_session
from osvi_django.services.attempts.leases import Terms
from osvi_django.services.mirroring import mirror_session, sync_customer
from osvi_django.services.privacy.texts import redact_texts
from osvi_django.services.start_locks import start_lock
from osvi_django.services.starting import start_session
from osvi_django.services.support import context_of
from osvi_django.testing import Drip, Drop, Fault, Junk, Status
from osvi_django.testing.factories import ChatAgentFactory, ChatSessionFactory
from tests.helpers.database import call_after_queries, raise_on_queries
from tests.helpers.sandbox import CallThenAnswer, mirror, script_next_starts
from tests.services.helpers import run_together, session_object, stored_values

pytestmark = pytest.mark.django_db

NAMED = {"agent_uuid": "agent_1", "customer_id": "+1555"}

LOCK = "osvi_django_startlock"


@pytest.fixture
def operator(staff, grant):
    return grant(staff, "operate_chatsession")


@pytest.fixture
def open_chat(osvi_sandbox):
    """Create a chat with this agent that is open, here and at OSVI."""
    return mirror(
        osvi_sandbox, agent__uuid="agent_1", customer_id="+1555", summary="What was said before."
    )


def start_requests(osvi):
    return [each for each in osvi.requests if each.path == "/v1/chat/session"]


def test_start_with_input_nested_too_deeply_raises_invalid_input(osvi_sandbox):
    deep: dict[str, object] = {}
    for _level in range(5_000):
        deep = {"x": [deep]}
    with pytest.raises(InvalidInput) as caught:
        start_session(agent_uuid="agent_a", customer_id="+1", input_fields=deep)
    assert caught.value.field == "input_fields"
    assert osvi_sandbox.requests == []


class TestAlreadyOpen:
    def test_start_when_chat_is_open_raises_already_open(self, open_chat, osvi_sandbox):
        with pytest.raises(AlreadyOpen, match=open_chat.session_id) as caught:
            start_session(**NAMED)
        assert caught.value.session == open_chat
        assert not start_requests(osvi_sandbox)
        assert not osvi_sandbox.sessions[open_chat.session_id].is_closed
        assert not CloseAttempt.objects.exists()

    def test_start_when_only_osvi_knows_open_chat_raises_already_open(self, osvi_sandbox):
        chat = osvi_sandbox.add_session(**NAMED)
        with pytest.raises(AlreadyOpen) as caught:
            start_session(**NAMED)
        assert caught.value.session == ChatSession.objects.get(session_id=chat.id)
        assert not chat.is_closed

    def test_start_when_osvi_lists_dormant_chat_raises_already_open(self, osvi_sandbox):
        osvi_sandbox.dormant_counts_as_active = True
        chat = osvi_sandbox.add_session(**NAMED, status="dormant")
        with pytest.raises(AlreadyOpen, match=chat.id):
            start_session(**NAMED)

    def test_start_with_chats_of_other_agents_and_customers_starts_chat(self, osvi_sandbox):
        others = [
            osvi_sandbox.add_session(agent_uuid="agent_2", customer_id="+1555"),
            osvi_sandbox.add_session(agent_uuid="agent_1", customer_id="+1666"),
            osvi_sandbox.add_session(**NAMED, status="dormant"),
            osvi_sandbox.add_session(**NAMED, status="closed"),
        ]
        before = [each.status for each in others]
        assert start_session(**NAMED).status == "active"
        assert [each.status for each in others] == before

    @pytest.mark.parametrize(("status", "after"), [("closed", "closed"), ("dormant", "dormant")])
    def test_start_when_osvi_does_not_list_chat_updates_status_and_starts(
        self, open_chat, osvi_sandbox, status, after
    ):
        osvi_sandbox.sessions[open_chat.session_id].change(status=status)
        assert start_session(**NAMED).status == "active"
        open_chat.refresh_from_db()
        assert open_chat.status == after
        if status == "dormant":  # its summary is still to be had
            assert close_session(open_chat).summary.text == "What was said before."

    def test_start_when_osvi_does_not_say_keeps_status_and_starts(self, open_chat, osvi_sandbox):
        osvi_sandbox.sessions[open_chat.session_id].change(status="closed")
        osvi_sandbox.script(open_chat.session_id, Status(500))
        assert start_session(**NAMED).status == "active"
        open_chat.refresh_from_db()
        assert open_chat.status == "active"

    @pytest.mark.parametrize("status", ["unconfirmed", "closing", "dormant", "closed"])
    def test_start_when_osvi_has_chat_open_ignores_local_status(
        self, open_chat, osvi_sandbox, status
    ):
        ChatSession.objects.update(status=status)
        with pytest.raises(AlreadyOpen, match=open_chat.session_id):
            start_session(**NAMED)

    @pytest.mark.parametrize(
        ("fault", "error"),
        [
            (Drop(), OSVINoAnswer),
            (Status(500), OSVINoAnswer),
            (Junk(), OSVIBadAnswer),
            (Status(401), OSVIUnauthorized),
            (Status(422), OSVIRejected),
            (Status(503), OSVIThrottled),
        ],
    )
    @pytest.mark.parametrize("replace", [True, False])
    def test_start_when_osvi_cannot_be_asked_starts_nothing(
        self, open_chat, osvi_sandbox, fault, error, replace
    ):
        osvi_sandbox.script(None, fault)
        with pytest.raises(error) as caught:
            start_session(**NAMED, replace=replace)
        assert caught.value.is_read_only
        if error in {OSVINoAnswer, OSVIBadAnswer}:
            assert "so no chat was started. Try again in a moment." in str(caught.value)
        assert not start_requests(osvi_sandbox)
        assert not osvi_sandbox.sessions[open_chat.session_id].is_closed

    def test_start_when_osvi_is_down_raises_unreachable(self, open_chat, settings):
        settings.OSVI["default"]["BASE_URL"] = "http://127.0.0.1:9"
        with pytest.raises(OSVIUnreachable, match="Nothing was sent"):
            start_session(**NAMED)


class TestStartWithReplace:
    def test_replace_closes_open_chat_and_stores_summary(self, open_chat, osvi_sandbox, operator):
        new = start_session(**NAMED, replace=True, requested_by=operator, via="desk")
        open_chat.refresh_from_db()
        assert (open_chat.status, open_chat.summary.text) == ("closed", "What was said before.")
        attempt = CloseAttempt.objects.get()
        assert (attempt.kind, attempt.outcome) == ("close", "closed")
        assert (attempt.requested_by, attempt.via) == (operator, "desk")
        assert (new.status, new.actions.get().requested_by) == ("active", operator)

    def test_replace_when_only_osvi_knows_chat_stores_summary(self, osvi_sandbox):
        chat = osvi_sandbox.add_session(**NAMED, summary="Of a stranger.")
        start_session(**NAMED, replace=True)
        assert SessionSummary.objects.get(session__session_id=chat.id).text == "Of a stranger."

    def test_replace_when_nothing_is_open_starts_chat(self, osvi_sandbox, django_user_model, grant):
        user = grant(django_user_model.objects.create_user("jo"), "operate_chatsession")
        assert start_session(**NAMED, replace=True, requested_by=user).status == "active"

    def test_replace_without_close_permission_starts_nothing(
        self, open_chat, osvi_sandbox, django_user_model, grant
    ):
        user = grant(django_user_model.objects.create_user("jo"), "operate_chatsession")
        with pytest.raises(NotAllowed, match="to close this chat session"):
            start_session(**NAMED, replace=True, requested_by=user)
        assert not start_requests(osvi_sandbox)
        assert not osvi_sandbox.sessions[open_chat.session_id].is_closed

    @pytest.mark.parametrize(
        ("fault", "error", "status"),
        [
            (Status(422, errors=["Not now"]), OSVIRejected, "active"),
            (Status(429, retry_after=5), OSVIThrottled, "active"),
            (Drop(), OSVINoAnswer, "unconfirmed"),
            (Drop(after_closing=True), OSVINoAnswer, "unconfirmed"),
            (Junk(), OSVIBadAnswer, "unconfirmed"),
        ],
    )
    def test_replace_when_close_fails_starts_nothing(
        self, open_chat, osvi_sandbox, fault, error, status
    ):
        osvi_sandbox.script(open_chat.session_id, fault)
        with pytest.raises(error) as caught:
            start_session(**NAMED, replace=True)
        assert caught.value.attempt == CloseAttempt.objects.get()
        assert not start_requests(osvi_sandbox)
        open_chat.refresh_from_db()
        assert open_chat.status == status

    def test_replace_when_chat_is_being_closed_starts_nothing(self, open_chat, osvi_sandbox):
        later = DatabaseNow() + timedelta(minutes=5)
        ChatSession.objects.update(status="closing", claim=uuid.uuid4(), lease_until=later)
        with pytest.raises(CloseInProgress):
            start_session(**NAMED, replace=True)
        assert not start_requests(osvi_sandbox)

    def test_replace_when_chat_is_unconfirmed_recovers_it_first(self, open_chat, osvi_sandbox):
        ChatSession.objects.update(status="unconfirmed")
        assert start_session(**NAMED, replace=True).status == "active"
        open_chat.refresh_from_db()
        assert (open_chat.status, osvi_sandbox.closes(open_chat.session_id)) == ("closed", 1)

    def test_replace_when_chat_is_closed_here_starts_chat(self, open_chat, osvi_sandbox):
        ChatSession.objects.update(status="closed")
        assert start_session(**NAMED, replace=True).status == "active"

    def test_replace_when_other_chat_begins_meanwhile_raises_already_open(
        self, open_chat, osvi_sandbox
    ):
        added = []

        def meanwhile():
            added.append(osvi_sandbox.add_session(**NAMED))

        osvi_sandbox.script(open_chat.session_id, CallThenAnswer(meanwhile))
        with pytest.raises(AlreadyOpen) as caught:
            start_session(**NAMED, replace=True)
        assert caught.value.session.session_id == added[0].id
        assert SessionSummary.objects.get().session == open_chat

    def test_replace_when_start_fails_keeps_summary(self, open_chat, osvi_sandbox):
        script_next_starts(osvi_sandbox)
        between = CallThenAnswer(lambda: None)
        osvi_sandbox.script(None, between, between, Status(422))
        with pytest.raises(OSVIRejected):
            start_session(**NAMED, replace=True)
        assert SessionSummary.objects.get().text == "What was said before."


class TestStartLock:
    def test_start_during_other_start_raises_already_open(self, osvi_sandbox):
        found = []

        def meanwhile():
            with pytest.raises(AlreadyOpen, match="is being started,") as caught:
                start_session(**NAMED, replace=True)
            found.append(caught.value.session)

        with run_after_first_request(osvi_sandbox, meanwhile):
            start_session(**NAMED)
        assert found == [None]
        assert len(start_requests(osvi_sandbox)) == 1
        assert not StartLock.objects.exists()

    def test_start_with_expired_lock_takes_it_over(self, osvi_sandbox):
        hold_lock(DatabaseNow() - timedelta(seconds=1))
        assert start_session(**NAMED).status == "active"
        assert not StartLock.objects.exists()

    def test_start_with_valid_lock_raises_already_open(self, osvi_sandbox):
        hold_lock(DatabaseNow() + timedelta(seconds=60))
        with pytest.raises(AlreadyOpen, match="is being started,"):
            start_session(**NAMED)
        assert osvi_sandbox.requests == []
        assert StartLock.objects.exists()

    def test_start_with_lock_of_other_agent_or_customer_starts_chat(self, osvi_sandbox):
        hold_lock(DatabaseNow() + timedelta(seconds=60))
        for other in ({"agent_uuid": "agent_2"}, {"customer_id": "+1"}):
            assert start_session(**NAMED | other).status == "active"

    def test_start_that_lost_its_lock_starts_nothing(self, osvi_sandbox):
        def taken():
            StartLock.objects.update(claim=uuid.uuid4())

        with run_after_first_request(osvi_sandbox, taken), pytest.raises(AlreadyOpen):
            start_session(**NAMED)
        assert not start_requests(osvi_sandbox)

    def test_start_when_lock_cannot_be_deleted_logs_it(self, osvi_sandbox, caplog):
        def is_delete(sql, params):
            return sql.startswith("DELETE") and LOCK in sql

        with raise_on_queries(is_delete, OperationalError("gone")):
            assert start_session(**NAMED).status == "active"
        assert "a lock could not be removed" in caplog.text

    def test_start_while_lock_is_removed_raises_already_open(self, osvi_sandbox):
        """Remove the lock of the other start between the two statements that look for it."""

        def is_insert(sql, _params):
            return sql.startswith("INSERT") and LOCK in sql

        ended = call_after_queries(is_insert, StartLock.objects.all().delete)
        with ended, pytest.raises(AlreadyOpen, match="is being started,"):
            start_session(**NAMED)
        assert osvi_sandbox.requests == []


def run_after_first_request(osvi, do):
    """Call ``do`` at the first query after the first request to OSVI."""

    done = []

    def is_time(sql, params):
        asked = bool(osvi.requests) and not done
        if asked:
            done.append(None)
        return asked

    return call_after_queries(is_time, do)


def hold_lock(until):
    """Create the lock of a process that died, with a lease up to ``until``."""
    terms = Terms(seconds=60, longest=60, is_renewed=False)
    with start_lock("default", *NAMED.values(), terms=terms):
        rows = list(StartLock.objects.all())
    for row in rows:
        row.claim, row.lease_until = uuid.uuid4(), until
    StartLock.objects.bulk_create(rows)


def test_start_with_agent_uuid_in_two_accounts_uses_given_account(osvi_sandbox, settings):
    settings.OSVI["other"] = dict(settings.OSVI["default"])
    ChatAgentFactory(account="other", uuid="agent_1")
    ChatSessionFactory(agent__account="default", agent__uuid="agent_1", customer_id="+1555")
    assert start_session(**NAMED, account="other").agent.account == "other"


@pytest.mark.django_db
class TestStartSession:
    def test_start_session_mirrors_session(self, osvi_sandbox, staff, grant):
        user = grant(staff, "operate_chatsession")
        session = start_session(
            agent_uuid="agent_1",
            customer_id="+1555",
            input_fields={"first_name": "Alex"},
            context=["A guest."],
            requested_by=user,
        )
        [chat] = osvi_sandbox.sessions.values()
        assert (session.session_id, session.status) == (chat.id, "active")
        assert (session.agent.uuid, session.agent.number) == ("agent_1", chat.chat_agent_id)
        assert session.metadata["metadata"]["context"] == ["A guest."]
        assert close_session(session).summary.text == chat.summary

    def test_start_session_stores_action_with_requester(self, osvi_sandbox, staff, grant):
        user = grant(staff, "operate_chatsession")
        session = start_session(
            agent_uuid="agent_1", customer_id="+1555", requested_by=user, via="desk"
        )
        action = session.actions.get()
        assert (action.kind, action.requested_by, action.via) == ("start", user, "desk")
        assert (action.outcome, action.text, action.reply) == ("done", "", "")
        assert action.started_at < action.finished_at
        by_code = start_session(agent_uuid="agent_2", customer_id="+1555").actions.get()
        assert (by_code.requested_by, by_code.via) == (None, "code")

    def test_start_session_with_context_stores_actions_that_expire(
        self, osvi_sandbox, staff, grant
    ):
        user = grant(staff, "operate_chatsession")
        session = start_session(
            agent_uuid="agent_1",
            customer_id="+1555",
            context=["A guest.", "Pays late."],
            requested_by=user,
            via="desk",
        )
        given = session.actions.filter(kind="context").order_by("pk")
        assert [each.text for each in given] == context_of(session) == ["A guest.", "Pays late."]
        assert {(each.requested_by, each.via, each.outcome) for each in given} == {
            (user, "desk", "done")
        }
        long_ago = timezone.now() - timedelta(days=100)
        SupportAction.objects.update(started_at=long_ago, finished_at=long_ago)
        assert sum(redact_texts()) == 2  # that it was started has no words
        session.refresh_from_db()
        assert context_of(session) == []
        assert sum(redact_texts()) == 0

    @pytest.mark.parametrize(
        ("fault", "error", "words"),
        [
            (Status(422, errors=["Unknown agent"]), OSVIRejected, "OSVI refused the request"),
            (Status(401), OSVIUnauthorized, "Nothing has changed"),
            (Drop(after_closing=True), OSVINoAnswer, "may or may not have been done"),
            (Status(200), OSVIBadAnswer, "“id” is missing"),
        ],
    )
    def test_start_session_when_osvi_fails_keeps_other_session(
        self, osvi_sandbox, fault, error, words
    ):
        first = start_session(agent_uuid="agent_1", customer_id="+1666")
        script_next_starts(osvi_sandbox, fault)
        with pytest.raises(error, match=words) as caught:
            start_session(agent_uuid="agent_1", customer_id="+1555")
        assert not caught.value.is_read_only
        assert stored_values(first.session_id)[0] == "active"
        assert ChatSession.objects.count() == 1
        assert not StartLock.objects.exists()

    def test_start_session_with_answer_that_cannot_be_mirrored_raises_bad_answer(
        self, osvi_sandbox
    ):
        osvi_sandbox._number_of = lambda _uuid: 1
        script_next_starts(osvi_sandbox, TooLongId())
        with pytest.raises(OSVIBadAnswer, match="“session_id”"):
            start_session(agent_uuid="agent_1", customer_id="+1555")

    @pytest.mark.parametrize(
        ("named", "field"),
        [
            ({"agent_uuid": ""}, "agent_uuid"),
            ({"agent_uuid": None}, "agent_uuid"),
            ({"customer_id": ""}, "customer_id"),
            ({"customer_id": "x" * 256}, "customer_id"),
            ({"input_fields": {"x": {1}}}, "input_fields"),
            ({"context": "text"}, "context"),
            ({"context": 5}, "context"),
            ({"via": "x" * 33}, "via"),
            ({"form_key": "abc"}, "form_key"),
            ({"form_key": 5}, "form_key"),
        ],
    )
    def test_start_session_with_invalid_value_raises_invalid_input(
        self, osvi_sandbox, named, field
    ):
        with pytest.raises(InvalidInput) as caught:
            start_session(**{"agent_uuid": "a", "customer_id": "+1", **named})
        assert caught.value.field == field
        assert osvi_sandbox.requests == []

    def test_start_and_sync_without_permission_raise_not_allowed(self, osvi_sandbox, staff):
        for ask in (
            lambda: start_session(agent_uuid="a", customer_id="+1", requested_by=staff),
            lambda: sync_customer("+1", requested_by=staff),
        ):
            with pytest.raises(NotAllowed, match="to operate chat sessions"):
                ask()
        assert osvi_sandbox.requests == []

    def test_start_and_sync_inside_transaction_raise(self, osvi_sandbox):
        for ask in (
            lambda: start_session(agent_uuid="a", customer_id="+1"),
            lambda: sync_customer("+1"),
        ):
            with (
                transaction.atomic(),
                pytest.raises(InsideTransaction, match="OSVI cannot be called"),
            ):
                ask()
        assert osvi_sandbox.requests == []


@pytest.mark.django_db(transaction=True)
class TestConcurrentStart:
    @pytest.mark.parametrize("number", [2, 4])
    @pytest.mark.parametrize("replace", [True, False])
    def test_start_session_by_several_threads_starts_one_at_a_time(
        self, osvi_sandbox, number, replace
    ):
        """Start the same chat twice at once, as a double click does."""
        osvi_sandbox.script(None, *[Drip("headers", interval=0.002)] * 2)
        start = partial(start_session, agent_uuid="agent_1", customer_id="+1555", replace=replace)
        errors = run_together(*[start] * number)
        chats = list(osvi_sandbox.sessions.values())
        assert {type(error) for error in errors} == {AlreadyOpen}
        if not replace:
            assert (len(chats), len(errors)) == (1, number - 1)
        assert [chat.status for chat in chats][-1] == "active"
        for chat in chats[:-1]:  # one that was faster than the next looked is closed with a summary
            assert SessionSummary.objects.get(session__session_id=chat.id).text == chat.summary
        assert not CloseAttempt.objects.filter(kind="mirrored").exists()
        assert not StartLock.objects.exists()

    def test_start_session_when_other_chat_starts_meanwhile_closes_that(self, osvi_sandbox):
        def meanwhile():
            chat = osvi_sandbox.add_session(agent_uuid="agent_1", customer_id="+1555")
            mirror_session(chat.as_json(), agent_uuid="agent_1")

        osvi_sandbox.script(None, CallThenAnswer(lambda: None), CallThenAnswer(meanwhile))
        started = start_session(agent_uuid="agent_1", customer_id="+1555")
        statuses = dict(ChatSession.objects.values_list("session_id", "status"))
        assert statuses.pop(started.session_id) == "active"
        assert list(statuses.values()) == ["closed"]
        assert CloseAttempt.objects.get().kind == "mirrored"

    def test_start_session_when_later_chat_is_mirrored_meanwhile_is_closed(self, osvi_sandbox):
        def later(exchange):
            answer = exchange.carry_out()
            moment = datetime.now(UTC) + timedelta(seconds=1)
            news = session_object(id="later", customer_id="+1555", created_at=moment.isoformat())
            mirror_session(news, agent_uuid="agent_1")
            connection.close()
            exchange.send(answer)

        osvi_sandbox.script(None, CallThenAnswer(lambda: None), CallableFault(later))
        started = start_session(agent_uuid="agent_1", customer_id="+1555")
        assert started.status == "closed"
        assert ChatSession.objects.get(session_id="later").status == "active"


@dataclass(frozen=True)
class CallableFault(Fault):
    """Call a function with the exchange."""

    do: Callable

    def play(self, exchange):
        self.do(exchange)


class TooLongId(Status):
    """Answer a start with an id that is too long."""

    def __init__(self):
        body = json.dumps({"success": True, "data": session_object(id="x" * 300)}).encode()
        super().__init__(200, body=body)
