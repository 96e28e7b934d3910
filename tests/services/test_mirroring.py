"""How sessions come into the mirror, and how it is kept true."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from django.db import connection, transaction
from django.utils import timezone

from osvi_django.client import OSVIClient
from osvi_django.exceptions import (
    AlreadyOpen,
    InsideTransaction,
    InvalidInput,
    NotAllowed,
    OSVIBadAnswer,
    OSVIGatewayRefused,
    OSVINoAnswer,
    OSVINotConfigured,
    OSVIRejected,
    OSVIUnauthorized,
)
from osvi_django.models import (
    ChatAgent,
    ChatSession,
    CloseAttempt,
    SessionSummary,
    StartLock,
    SupportAction,
)
from osvi_django.services import close_session
from osvi_django.services.mirroring import (
    look_up_customer,
    mirror_session,
    mirror_started,
    probing,
    sync_customer,
)
from osvi_django.services.recovery import mark_closed
from osvi_django.services.starting import start_session
from osvi_django.services.support import context_of, forget_texts
from osvi_django.signals import session_closed
from osvi_django.testing import Drip, Drop, Fault, Junk, OSVISandbox, Status
from osvi_django.testing.factories import (
    ChatAgentFactory,
    ChatSessionFactory,
    ClosedSessionFactory,
)
from tests.helpers.database import call_after_queries, skip_queries
from tests.helpers.datetimes import db_datetime
from tests.helpers.sandbox import CallThenAnswer, script_next_starts

BEFORE = "2026-06-04T11:40:25.690486Z"
AFTER = "2026-06-04T11:50:00Z"


def told(**fields):
    """A session object."""
    return {
        "id": "s-1",
        "chat_agent_id": 42,
        "account_id": 7,
        "customer_id": "+1555",
        "mode": "ai",
        "help_requested": False,
        "status": "active",
        "current_state": None,
        "metadata": {"input_fields": {}, "state_fields": {}, "context": []},
        "active_human": None,
        "created_at": BEFORE,
        "updated_at": BEFORE,
        **fields,
    }


def why_closed(session):
    """What the journal says of a session that OSVI closed by itself."""
    attempt = session.attempts.get()
    assert (attempt.kind, attempt.outcome) == ("mirrored", "closed")
    assert None not in (attempt.claim, attempt.finished_at)
    assert attempt.note == ""  # a code is stored, and translated when it is shown
    return attempt.via, attempt.requested_by, attempt.reason


def seen(session_id="s-1"):
    session = ChatSession.objects.get(session_id=session_id)
    return session.status, session.mode, session.active_human, session.help_requested


@pytest.fixture(autouse=True)
def _configured(settings):
    here = {"API_TOKEN": "sandbox-token-16", "BASE_URL": "http://127.0.0.1:9"}
    settings.OSVI = {"default": here, "other": here}


@pytest.fixture
def closed():
    """The sessions of which it was told that they are closed, with the attempt that says why."""
    ids = []

    def note(session, attempt, **_kwargs):
        assert (attempt.session, attempt.kind) == (session, "mirrored")
        ids.append(session.session_id)

    session_closed.connect(note)
    yield ids
    session_closed.disconnect(note)


@pytest.mark.django_db
class TestMirror:
    def test_an_object_becomes_a_session(self):
        session = mirror_session(told(), agent_uuid="agent_1")
        assert (session.session_id, session.customer_id) == ("s-1", "+1555")
        assert (session.agent.uuid, session.agent.number) == ("agent_1", 42)
        agent = ChatAgent.objects.get()
        assert (agent.uuid, agent.number, agent.account) == ("agent_1", 42, "default")
        assert session.metadata == told()
        assert session.started_at == db_datetime(BEFORE)
        assert session.osvi_updated_at == session.started_at
        assert seen() == ("active", "ai", "", False)
        assert session.summary_status == "pending"

    def test_news_changes_it(self):
        mirror_session(told(), agent_uuid="agent_1")
        news = {"mode": "support", "active_human": {"id": 1}, "help_requested": True}
        session = mirror_session(told(status="dormant", updated_at=AFTER, **news))
        assert seen() == ("dormant", "support", '{"id": 1}', True)
        assert session.agent.uuid == "agent_1"
        assert ChatSession.objects.count() == 1

    def test_an_older_object_that_arrives_late_changes_nothing(self):
        mirror_session(told(mode="support", updated_at=AFTER), agent_uuid="agent_1")
        session = mirror_session(told(status="dormant", customer_id="other"))
        assert seen() == ("active", "support", "", False)
        assert session.customer_id == "+1555"

    def test_the_same_object_again_is_welcome(self):
        mirror_session(told(), agent_uuid="agent_1")
        mirror_session(told(help_requested=True))
        assert seen() == ("active", "ai", "", True)

    def test_an_object_without_a_time_is_news(self):
        mirror_session(told(updated_at=AFTER), agent_uuid="agent_1")
        mirror_session(told(mode="support", updated_at=None, created_at=None))
        assert seen() == ("active", "support", "", False)

    def test_a_time_in_the_future_does_not_outlast_all_news(self):
        mirror_session(told(updated_at="2999-01-01T00:00:00Z"), agent_uuid="agent_1")
        soon = (datetime.now(UTC) + timedelta(seconds=5)).isoformat()
        mirror_session(told(mode="support", updated_at=soon))
        assert seen() == ("active", "support", "", False)

    @pytest.mark.parametrize("status", ["active", "dormant"])
    def test_a_closed_session_never_opens_again(self, status):
        session = ClosedSessionFactory(session_id="s-1", summary__text="Fine.")
        mirror_session(told(status=status, mode="support", updated_at=AFTER))
        assert seen() == ("closed", "ai", "", False)
        session.refresh_from_db()
        assert session.summary.text == "Fine."

    @pytest.mark.parametrize("here", ["closing", "unconfirmed"])
    @pytest.mark.parametrize("there", ["active", "closed"])
    def test_one_that_is_being_closed_is_left_to_its_closer(self, here, there):
        ChatSessionFactory(session_id="s-1", status=here, customer_id="")
        session = mirror_session(told(status=there, help_requested=True))
        assert seen() == (here, "ai", "", True)
        assert session.customer_id == "+1555"  # which recovery needs

    def test_what_osvi_closed_is_closed_here(self, closed, django_capture_on_commit_callbacks):
        mirror_session(told(), agent_uuid="agent_1")
        with django_capture_on_commit_callbacks(execute=True):
            session = mirror_session(told(status="closed", updated_at=AFTER))
        assert (session.status, session.summary_status) == ("closed", "not_provided")
        assert session.closed_at is not None
        assert closed == ["s-1"]
        assert why_closed(session) == ("code", None, "said_so")

    def test_words_of_osvi_that_nobody_knows_change_nothing(self):
        mirror_session(told(status="archived", mode="hybrid"), agent_uuid="agent_1")
        assert seen() == ("active", "ai", "", False)

    def test_a_long_name_is_cut(self):
        mirror_session(told(active_human="x" * 500), agent_uuid="agent_1")
        assert seen()[2] == "x" * 255

    def test_an_agent_known_by_number_gets_its_uuid(self):
        first = mirror_session(told())
        assert (first.agent.uuid, str(first.agent)) == (None, "Agent 42")
        mirror_session(told(id="s-2", created_at=AFTER))
        assert ChatAgent.objects.count() == 1
        second = mirror_session(told(id="s-3"), agent_uuid="agent_1")
        agent = ChatAgent.objects.get()
        assert (agent.uuid, agent.number) == ("agent_1", 42)
        assert set(agent.sessions.values_list("session_id", flat=True)) == {"s-1", "s-2", "s-3"}
        assert second.agent == agent
        assert mirror_session(told(id="s-4")).agent == agent

    def test_the_same_number_in_another_account_is_another_agent(self):
        here = mirror_session(told())
        there = mirror_session(told(id="s-2"), account="other")
        assert here.agent != there.agent

    def test_account_that_is_not_named_is_the_one_of_the_agent(self):
        ChatAgentFactory(uuid="agent_1", account="other")
        session = mirror_session(told(), agent_uuid="agent_1")
        assert session.agent.account == "other"
        assert mirror_session(told(updated_at=AFTER)) == session

    def test_account_that_is_not_named_is_default_for_an_unknown_agent(self):
        assert mirror_session(told(), agent_uuid="agent_9").agent.account == "default"

    def test_a_number_that_another_agent_has_is_left_to_it(self):
        ChatAgentFactory(uuid="agent_2", number=42)
        mirror_session(told(), agent_uuid="agent_1")
        assert ChatAgent.objects.get(uuid="agent_1").number is None

    @pytest.mark.parametrize(
        ("payload", "field"),
        [
            ([], "payload"),
            (None, "payload"),
            ("{}", "payload"),
            ({}, "payload"),
            ({"success": True, "data": told()}, "payload"),
            (told(id=7), "payload"),
            (told(id="a\x00"), "payload"),
            (told(id="\ud83d"), "payload"),
            (told(customer_id="\ud83d"), "payload"),
            (told(updated_at="0001-01-01T00:00:00+14:00"), "payload"),
            (told(id="x" * 256), "session_id"),
            (told(id=".."), "session_id"),
            (told(customer_id=""), "customer_id"),
            (told(customer_id=None), "customer_id"),
            (told(customer_id="x" * 256), "customer_id"),
            (told(chat_agent_id=None), "agent_uuid"),
        ],
    )
    def test_what_is_no_session_object_is_refused(self, payload, field):
        with pytest.raises(InvalidInput) as caught:
            mirror_session(payload)
        assert caught.value.field == field
        assert not ChatSession.objects.exists()

    def test_a_hostile_object_is_stored_as_it_can_be(self):
        deep = {}
        for _level in range(300):
            deep = {"x": [deep]}
        hostile = {
            "metadata": {"nul\x00": "\x00", "half": "\ud83d", "big": 2**70, "nan": float("nan")},
            "current_state": deep,
            "active_human": "a\x00\ud83d",
            "more": ["x" * 300_000],
            "status": "x" * 10_000,
            "mode": "x" * 10_000,
            "chat_agent_id": 2**63 - 1,
        }
        session = mirror_session(told(**hostile))
        session.refresh_from_db()
        assert session.metadata["metadata"] == {
            "nul\ufffd": "\ufffd",
            "half": "\ufffd",
            "big": hex(2**70),
            "nan": "nan",
        }
        assert session.active_human == "a\ufffd\ufffd"
        assert json.dumps(session.metadata["current_state"]).count("x") == 10

    @pytest.mark.parametrize("account", ["nobody", "x" * 100, ""])
    def test_an_account_that_is_not_there_is_said(self, account):
        with pytest.raises(OSVINotConfigured, match="no account"):
            mirror_session(told(), account=account)
        assert not ChatAgent.objects.exists()

    def test_settings_that_are_not_there_are_said(self, settings):
        settings.OSVI = {}
        with pytest.raises(OSVINotConfigured, match="has no account"):
            mirror_session(told())

    @pytest.mark.parametrize("agent_uuid", ["", "agent_1", "agent_2"])
    def test_nobodys_word_moves_it_to_another_account(self, agent_uuid):
        session = mirror_session(told(), agent_uuid="agent_1")
        with pytest.raises(InvalidInput) as caught:
            mirror_session(told(updated_at=AFTER), account="other", agent_uuid=agent_uuid)
        assert caught.value.field == "account"
        assert ChatAgent.objects.get() == session.agent

    def test_ids_that_only_look_alike_are_others(self):
        # MariaDB takes them for the same; the others store both.
        ChatSessionFactory(session_id="S-1")
        if connection.vendor == "mysql":
            with pytest.raises(InvalidInput):
                mirror_session(told())
        else:
            assert mirror_session(told()).session_id == "s-1"

    def test_an_agent_that_only_looks_alike_is_another(self):
        ChatAgentFactory(account="DEFAULT", uuid=None, number=42)
        # Only MariaDB takes them for the same by itself.
        with skip_queries(inserts("chatagent")), pytest.raises(InvalidInput) as caught:
            mirror_session(told())
        assert caught.value.field == "account"

    def test_a_look_alike_is_refused_rather_than_taken_for_the_same(self):
        with skip_queries(inserts("chatsession")), pytest.raises(InvalidInput) as caught:
            mirror_session(told())
        assert caught.value.field == "session_id"


def inserts(table):
    return lambda sql, _params: sql.startswith("INSERT") and f"osvi_django_{table}" in sql


class TestAHostWithoutTimeZones:
    @pytest.fixture(autouse=True)
    def naive(self, settings, osvi_sandbox, db):
        settings.USE_TZ = False
        settings.TIME_ZONE = "America/New_York"

    def test_what_osvi_tells_is_stored_in_its_own_zone(self):
        session = mirror_session(told(), agent_uuid="agent_1")
        assert session.started_at == datetime(2026, 6, 4, 7, 40, 25, 690486)  # noqa: DTZ001
        session = mirror_session(told(mode="support", updated_at=AFTER))
        assert (session.mode, session.osvi_updated_at) == (
            "support",
            datetime(2026, 6, 4, 7, 50),  # noqa: DTZ001
        )
        assert mirror_session(told(mode="ai")).mode == "support"  # it came late

    def test_chats_are_started_looked_up_and_closed(self, osvi_sandbox):
        started = start_session(agent_uuid="agent_1", customer_id="+1555", context=["A guest."])
        assert sync_customer("+1555") == [started]
        told_of_it = {"session_id": "s-9", "started_at": "2026-06-04T11:40:25.690486"}
        legacy = mirror_started(STARTED | told_of_it, agent_uuid="agent_1")
        assert legacy.started_at == datetime(2026, 6, 4, 7, 40, 25, 690486)  # noqa: DTZ001
        assert close_session(started).changed


@pytest.mark.django_db(transaction=True)
class TestStartAtOnce:
    @pytest.mark.parametrize("number", [2, 4])
    @pytest.mark.parametrize("replace", [True, False])
    def test_one_is_started_and_ends_no_other(self, osvi_sandbox, number, replace):
        """A second click, say: OSVI would close each with the next."""
        osvi_sandbox.script(None, *[Drip("headers", interval=0.002)] * 2)
        start = partial(start_session, agent_uuid="agent_1", customer_id="+1555", replace=replace)
        errors = together(*[start] * number)
        chats = list(osvi_sandbox.sessions.values())
        assert {type(error) for error in errors} == {AlreadyOpen}
        if not replace:
            assert (len(chats), len(errors)) == (1, number - 1)
        assert [chat.status for chat in chats][-1] == "active"
        for chat in chats[:-1]:  # one that was faster than the next looked is closed with a summary
            assert SessionSummary.objects.get(session__session_id=chat.id).text == chat.summary
        assert not CloseAttempt.objects.filter(kind="mirrored").exists()
        assert not StartLock.objects.exists()

    def test_what_others_started_meanwhile_is_closed_here_as_at_osvi(self, osvi_sandbox):
        def meanwhile():
            chat = osvi_sandbox.add_session(agent_uuid="agent_1", customer_id="+1555")
            mirror_session(chat.as_json(), agent_uuid="agent_1")

        osvi_sandbox.script(None, CallThenAnswer(lambda: None), CallThenAnswer(meanwhile))
        started = start_session(agent_uuid="agent_1", customer_id="+1555")
        statuses = dict(ChatSession.objects.values_list("session_id", "status"))
        assert statuses.pop(started.session_id) == "active"
        assert list(statuses.values()) == ["closed"]
        assert CloseAttempt.objects.get().kind == "mirrored"

    def test_one_that_others_started_after_it_is_the_open_one(self, osvi_sandbox):
        def later(exchange):
            answer = exchange.carry_out()
            moment = datetime.now(UTC) + timedelta(seconds=1)
            news = told(id="later", customer_id="+1555", created_at=moment.isoformat())
            mirror_session(news, agent_uuid="agent_1")
            connection.close()
            exchange.send(answer)

        osvi_sandbox.script(None, CallThenAnswer(lambda: None), Played(later))
        started = start_session(agent_uuid="agent_1", customer_id="+1555")
        assert started.status == "closed"
        assert ChatSession.objects.get(session_id="later").status == "active"


@pytest.mark.django_db(transaction=True)
class TestMirrorAtOnce:
    @pytest.mark.parametrize("is_said", [True, False])  # MariaDB's INSERT IGNORE says nothing
    def test_an_agent_that_becomes_known_meanwhile_is_looked_up_anew(self, is_said):
        nameless = mirror_session(told()).agent
        named = []

        def is_look(sql, params):
            return not named and sql.startswith("SELECT %s") and "s-3" in params

        def learn():
            named.append(mirror_session(told(id="s-2"), agent_uuid="agent_1").agent)

        def is_lost(sql, params):
            return not is_said and nameless.pk in params and inserts("chatsession")(sql, params)

        with call_after_queries(is_look, learn), skip_queries(is_lost):
            session = mirror_session(told(id="s-3"))
        assert [session.agent] == named == list(ChatAgent.objects.all())
        assert ChatSession.objects.count() == 3

    def test_inside_a_transaction_it_goes_with_that(self, closed):
        mirror_session(told(), agent_uuid="agent_1")
        with transaction.atomic():
            mirror_session(told(id="s-2"), agent_uuid="agent_1")
            mirror_session(told(status="closed", updated_at=AFTER))
            transaction.set_rollback(True)
        assert not ChatSession.objects.filter(session_id="s-2").exists()
        assert (seen()[0], closed) == ("active", [])
        with transaction.atomic():
            mirror_session(told(status="closed", updated_at=AFTER))
            assert closed == []
        assert (seen()[0], closed) == ("closed", ["s-1"])

    def test_many_at_once_make_one_row_and_the_newest_wins(self):
        minutes = range(12)
        objects = [
            told(updated_at=f"2026-06-04T12:{minute:02}:00Z", active_human=str(minute))
            for minute in minutes
        ]
        errors = together(
            *(lambda each=each: mirror_session(each, agent_uuid="a") for each in objects)
        )
        assert errors == []
        assert seen() == ("active", "ai", "11", False)
        assert ChatAgent.objects.count() == 1

    def test_the_uuid_is_learnt_while_others_know_the_number_alone(self):
        for turn in range(5):
            number = 100 + turn
            works = [
                (
                    lambda n=n, number=number, turn=turn: mirror_session(
                        told(id=f"s-{turn}-{n}", chat_agent_id=number),
                        agent_uuid=f"agent_{turn}" if n % 2 else "",
                    )
                )
                for n in range(8)
            ]
            assert together(*works) == []
            mirror_session(told(id=f"s-{turn}-1", chat_agent_id=number), agent_uuid=f"agent_{turn}")
            agent = ChatAgent.objects.get(number=number)
            assert agent.uuid == f"agent_{turn}"
            assert agent.sessions.count() == 8


def together(*works):
    """Do all of these at once, each in a thread of its own; the errors."""
    errors = []
    barrier = threading.Barrier(len(works))

    def run(work):
        try:
            barrier.wait(10)
            work()
        except Exception as error:  # noqa: BLE001
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return errors


STARTED = {
    "session_id": "s-1",
    "agent_name": "Maya",
    "started_at": "2026-06-04T11:40:25.690486",
    "welcome_message": "Hello!",
}


@pytest.mark.django_db
class TestStartedBefore:
    """What a host's own code started in the legacy dialect, and hands over."""

    def test_the_answer_becomes_a_session(self):
        session = mirror_started(STARTED, agent_uuid="agent_1")
        assert (session.session_id, session.customer_id, session.status) == ("s-1", "", "active")
        assert session.started_at == db_datetime(BEFORE)
        agent = ChatAgent.objects.get()
        assert session.agent == agent
        assert (agent.uuid, agent.name, agent.account) == ("agent_1", "Maya", "default")

    def test_what_the_client_has_read_is_as_good(self, osvi_sandbox):
        started = OSVIClient.for_account().start_legacy_session(agent_uuid="agent_1")
        session = mirror_started(started, agent_uuid="agent_1", customer_id="+1555")
        assert close_session(session).summary.text
        assert session.customer_id == "+1555"

    def test_once_more_adds_what_was_not_known(self):
        mirror_started({"session_id": "s-1"}, agent_uuid="agent_1", customer_id=None)
        session = mirror_started(STARTED, agent_uuid="agent_1", customer_id="+1555")
        assert (session.customer_id, session.agent.name) == ("+1555", "Maya")
        told_late = STARTED | {"agent_name": "M."}
        session = mirror_started(told_late, agent_uuid="agent_1", customer_id="+1666")
        assert (session.customer_id, session.agent.name) == ("+1555", "Maya")
        assert ChatSession.objects.count() == 1

    def test_it_opens_no_closed_session_and_makes_nothing_older(self):
        mirror_session(told(mode="support", updated_at=AFTER), agent_uuid="agent_1")
        assert mirror_started(STARTED, agent_uuid="agent_1").mode == "support"
        ChatSession.objects.update(status="closed")
        assert mirror_started(STARTED, agent_uuid="agent_1").status == "closed"

    def test_news_of_it_are_news(self):
        mirror_started(STARTED, agent_uuid="agent_1")
        assert mirror_session(told(mode="support")).mode == "support"
        assert ChatSession.objects.get().customer_id == "+1555"

    def test_the_account_is_that_of_the_agent(self):
        ChatAgentFactory(account="other", uuid="agent_1")
        assert mirror_started(STARTED, agent_uuid="agent_1").agent.account == "other"
        ChatAgentFactory(account="third", uuid="agent_1")
        with pytest.raises(InvalidInput, match="Give one of them in account: “other”") as caught:
            mirror_started(STARTED, agent_uuid="agent_1")
        assert caught.value.field == "account"

    @pytest.mark.parametrize(
        ("payload", "named", "field"),
        [
            (None, {}, "payload"),
            ("s-1", {}, "payload"),
            ({}, {}, "payload"),
            (STARTED | {"session_id": 5}, {}, "payload"),
            (STARTED | {"started_at": "soon"}, {}, "payload"),
            (STARTED | {"session_id": "x" * 256}, {}, "session_id"),
            (STARTED, {"agent_uuid": ""}, "agent_uuid"),
            (STARTED, {"agent_uuid": None}, "agent_uuid"),
            (STARTED, {"customer_id": "x" * 256}, "customer_id"),
        ],
    )
    def test_what_cannot_be_used_is_named(self, payload, named, field):
        with pytest.raises(InvalidInput) as caught:
            mirror_started(payload, **{"agent_uuid": "agent_1", **named})
        assert caught.value.field == field
        assert not ChatSession.objects.exists()


@pytest.mark.django_db
class TestStart:
    def test_a_session_is_started_and_mirrored(self, osvi_sandbox, staff, grant):
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

    def test_who_started_it_is_written_down(self, osvi_sandbox, staff, grant):
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

    def test_what_it_is_given_to_know_is_written_down_and_forgotten_as_any_context(
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
        assert forget_texts() == 2  # that it was started has no words
        session.refresh_from_db()
        assert context_of(session) == []
        assert forget_texts() == 0

    @pytest.mark.parametrize(
        ("fault", "error", "words"),
        [
            (Status(422, errors=["Unknown agent"]), OSVIRejected, "OSVI refused the request"),
            (Status(401), OSVIUnauthorized, "Nothing has changed"),
            (Drop(after_closing=True), OSVINoAnswer, "may or may not have been done"),
            (Status(200), OSVIBadAnswer, "“id” is missing"),
        ],
    )
    def test_a_failure_leaves_ours_as_it_was(self, osvi_sandbox, fault, error, words):
        first = start_session(agent_uuid="agent_1", customer_id="+1666")
        script_next_starts(osvi_sandbox, fault)
        with pytest.raises(error, match=words) as caught:
            start_session(agent_uuid="agent_1", customer_id="+1555")
        assert not caught.value.asks_only
        assert seen(first.session_id)[0] == "active"
        assert ChatSession.objects.count() == 1
        assert not StartLock.objects.exists()

    def test_an_answer_that_cannot_be_mirrored_is_a_bad_one(self, osvi_sandbox):
        osvi_sandbox._number_of = lambda _uuid: 1
        script_next_starts(osvi_sandbox, LongId())
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
        ],
    )
    def test_what_cannot_be_used_is_named_before_osvi_is_asked(self, osvi_sandbox, named, field):
        with pytest.raises(InvalidInput) as caught:
            start_session(**{"agent_uuid": "a", "customer_id": "+1", **named})
        assert caught.value.field == field
        assert osvi_sandbox.requests == []

    def test_it_takes_the_permission(self, osvi_sandbox, staff):
        for ask in (
            lambda: start_session(agent_uuid="a", customer_id="+1", requested_by=staff),
            lambda: sync_customer("+1", requested_by=staff),
        ):
            with pytest.raises(NotAllowed, match="to operate chat sessions"):
                ask()
        assert osvi_sandbox.requests == []

    def test_inside_a_transaction_it_is_refused(self, osvi_sandbox):
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


@dataclass(frozen=True)
class Played(Fault):
    """Whatever a test does with an exchange."""

    do: Callable

    def play(self, exchange):
        self.do(exchange)


class LongId(Status):
    """A start that is answered with an id that is too long."""

    def __init__(self):
        body = json.dumps({"success": True, "data": told(id="x" * 300)}).encode()
        super().__init__(200, body=body)


@pytest.mark.django_db
class TestSync:
    def test_all_that_is_open_is_mirrored(self, osvi_sandbox):
        chats = [
            osvi_sandbox.add_session(agent_uuid=uuid, customer_id="+1555") for uuid in ("a", "b")
        ]
        osvi_sandbox.add_session(agent_uuid="a", customer_id="+1666")
        found = sync_customer("+1555")
        assert {each.session_id for each in found} == {chat.id for chat in chats}
        assert {each.agent.uuid for each in found} == {"a", "b"}
        assert all(each.synced_at for each in found)
        assert ChatSession.objects.count() == 2

    def test_one_that_a_later_one_followed_is_closed(
        self, osvi_sandbox, mirrored, closed, django_capture_on_commit_callbacks
    ):
        session = mirrored(customer_id="+1555")
        osvi_sandbox.sessions[session.session_id].change(status="closed")
        later = osvi_sandbox.add_session(agent_uuid=session.agent.uuid, customer_id="+1555")
        with django_capture_on_commit_callbacks(execute=True):
            found = sync_customer("+1555")
        assert [each.session_id for each in found] == [later.id]
        session.refresh_from_db()
        assert (session.status, session.summary_status) == ("closed", "not_provided")
        assert closed == [session.session_id]
        why = "later_chat"
        assert why_closed(session) == ("code", None, why)

    def test_one_that_went_quiet_is_not_closed_and_keeps_its_summary(self, osvi_sandbox, mirrored):
        # OSVI does not list dormant ones, and told nobody that it became one.
        session = mirrored(customer_id="+1555")
        osvi_sandbox.sessions[session.session_id].change(status="dormant")
        [found] = sync_customer("+1555")
        assert (found.session_id, found.status) == (session.session_id, "dormant")
        assert close_session(found).summary is not None

    def test_one_that_was_closed_elsewhere_is_closed(self, osvi_sandbox, mirrored, staff, grant):
        user = grant(staff, "operate_chatsession")
        sessions = [mirrored(customer_id="+1555") for _number in range(2)]
        for session in sessions:
            osvi_sandbox.sessions[session.session_id].change(status="closed")
        assert sync_customer("+1555", requested_by=user, via="desk") == []
        why = "not_listed"
        for session in sessions:
            session.refresh_from_db()
            assert (session.status, session.summary_status) == ("closed", "not_provided")
            assert why_closed(session) == ("desk", user, why)
            assert not close_session(session).changed

    @pytest.mark.parametrize("status", ["active", "dormant"])
    @pytest.mark.parametrize("refusal", [None, Status(404), Status(409)])
    def test_one_that_was_closed_while_it_was_quiet_is_closed(
        self, osvi_sandbox, mirrored, status, refusal
    ):
        session = mirrored(customer_id="+1555", status=status)
        osvi_sandbox.sessions[session.session_id].change(status="closed")
        if refusal is not None:
            osvi_sandbox.script(session.session_id, refusal)
        assert sync_customer("+1555") == []
        session.refresh_from_db()
        assert (session.status, session.summary_status) == ("closed", "not_provided")

    @pytest.mark.parametrize("status", ["active", "dormant"])
    @pytest.mark.parametrize(
        "fault",
        [
            Status(500),
            Status(429),
            Status(401),
            Status(403),
            Status(404, body=b"<h1>No such call</h1>"),  # none of OSVI's words: it may be retired
            Drop(),
            Junk(),
        ],
        ids=repr,
    )
    def test_where_osvi_does_not_tell_it_stays_as_it_is_and_is_asked_again(
        self, osvi_sandbox, mirrored, status, fault, caplog
    ):
        session = mirrored(customer_id="+1555", status=status)
        osvi_sandbox.sessions[session.session_id].change(status="closed")
        osvi_sandbox.script(session.session_id, fault)
        [found] = sync_customer("+1555")
        assert (found.status, found.synced_at) == (status, None)
        assert f"whether session '{session.session_id}' is closed could not be asked" in caplog.text
        assert sync_customer("+1555") == []

    @pytest.mark.parametrize("fault", [Status(500), Drop()], ids=repr)
    @pytest.mark.parametrize("when_closed", ["again", "without", 404, 409, 422])
    @pytest.mark.parametrize("status", ["active", "dormant"])
    def test_where_osvi_does_not_say_so_a_close_settles_it(
        self, osvi_sandbox, mirrored, when_closed, fault, status
    ):
        session = mirrored(customer_id="+1555", status=status)
        osvi_sandbox.sessions[session.session_id].change(status="closed")
        osvi_sandbox.when_closed = when_closed
        osvi_sandbox.script(session.session_id, fault)
        [found] = sync_customer("+1555")
        if (status, when_closed) == ("dormant", 422):  # which may mean anything
            with pytest.raises(OSVIRejected):
                close_session(found)
            result = mark_closed(found, note="The dashboard says so.")
        else:
            result = close_session(found)
        assert result.session.status == "closed"
        assert bool(result.summary) == (when_closed == "again")

    def test_trouble_ends_the_asking_and_one_failure_does_not(self, osvi_sandbox, mirrored):
        sessions = [mirrored(customer_id="+1555", status="dormant") for _number in range(4)]
        ids = [session.session_id for session in sessions]
        for each in ids:
            osvi_sandbox.sessions[each].change(status="closed")
        osvi_sandbox.script(ids[0], Drop(), Drop())
        osvi_sandbox.script(ids[2], Status(429))
        assert {each.session_id for each in sync_customer("+1555")} == {ids[0], ids[2], ids[3]}
        assert [each.session_id for each in sync_customer("+1555")] == [ids[0]]
        assert len([each for each in osvi_sandbox.requests if each.method == "POST"]) == 6

    def test_the_asking_ends_in_time_and_begins_with_the_longest_not_asked_about(
        self, osvi_sandbox, mirrored, monkeypatch
    ):
        now = timezone.now()
        asked = (now, None, now - timedelta(hours=1))
        sessions = [
            mirrored(customer_id="+1555", status="dormant", synced_at=each) for each in asked
        ]
        sync_customer("+1555")
        paused = [each.session_id for each in osvi_sandbox.requests if each.method == "POST"]
        assert paused == [sessions[number].session_id for number in (1, 2, 0)]
        monkeypatch.setattr(probing, "_PATIENCE", -1)
        assert len(sync_customer("+1555")) == 3
        assert len(osvi_sandbox.requests) == 5

    def test_what_was_found_is_told_apart(self, osvi_sandbox, mirrored):
        osvi_sandbox.add_session(customer_id="+1555")
        gone_quiet = [mirrored(customer_id="+1555", status=each) for each in ("active", "dormant")]
        ChatSessionFactory(customer_id="+1555", agent__uuid=None, agent__number=7)
        untold = mirrored(customer_id="+1555")
        osvi_sandbox.sessions[untold.session_id].change(status="dormant")
        osvi_sandbox.script(untold.session_id, Status(500))
        for each in gone_quiet:
            osvi_sandbox.sessions[each.session_id].change(status="dormant")
        found = look_up_customer("+1555")
        assert (found.listed, found.dormant, found.unknown) == (1, 3, 1)
        assert len(found.sessions) == 5

    @pytest.mark.parametrize("status", ["active", "dormant"])
    def test_one_of_an_agent_without_a_uuid_is_not_asked_about(
        self, osvi_sandbox, mirrored, status
    ):
        session = mirrored(customer_id="+1555", status=status, agent__uuid=None, agent__number=7)
        osvi_sandbox.sessions[session.session_id].change(status="closed")
        [found] = sync_customer("+1555")
        assert found.status == "dormant"
        assert found.synced_at is not None
        assert len(osvi_sandbox.requests) == 1

    @pytest.mark.parametrize("status", ["dormant", "closing", "unconfirmed", "closed"])
    def test_others_stay_as_they_are(self, osvi_sandbox, mirrored, status):
        session = mirrored(customer_id="+1555", status=status)
        osvi_sandbox.sessions[session.session_id].change(status="dormant")
        osvi_sandbox.add_session(agent_uuid=session.agent.uuid, customer_id="+1555")
        sync_customer("+1555")
        session.refresh_from_db()
        assert session.status == status
        assert bool(session.synced_at) == (status != "closed")

    def test_what_changed_since_osvi_was_asked_is_newer_than_its_answer(self, osvi_sandbox):
        session = ChatSessionFactory(customer_id="+1555")
        ChatSession.objects.update(updated_at=timezone.now() + timedelta(minutes=1))
        assert sync_customer("+1555")[0].status == "active"
        session.refresh_from_db()
        assert session.synced_at is not None
        assert len(osvi_sandbox.requests) == 1

    def test_nobody_elses_are_touched(self, osvi_sandbox):
        for named in (
            {"customer_id": "+15551"},
            {"customer_id": "a+1555"},
            {"customer_id": "+1555", "agent__account": "other"},
        ):
            ChatSessionFactory(**named)
        assert sync_customer("+1555") == []
        assert set(ChatSession.objects.values_list("status", "synced_at")) == {("active", None)}

    @pytest.mark.parametrize("other", ["Ada", "ada ", "ád\u0061"])
    def test_a_customer_that_only_looks_alike_is_another(self, osvi_sandbox, other):
        ChatSessionFactory(customer_id=other)
        assert sync_customer("ada") == []
        assert ChatSession.objects.get().status == "active"

    @pytest.mark.parametrize(
        ("fault", "error"),
        [
            (Status(404, body=b"<h1>Not found</h1>"), OSVIGatewayRefused),
            (Status(401), OSVIUnauthorized),
            (Status(500), OSVINoAnswer),
            (Status(200, body=b'{"success": true, "data": {"a": 7}}'), OSVIBadAnswer),
        ],
    )
    def test_a_failure_changes_nothing(self, osvi_sandbox, mirrored, fault, error):
        session = mirrored(customer_id="+1555", status="active")
        osvi_sandbox.script(None, fault)
        with pytest.raises(error):
            sync_customer("+1555")
        session.refresh_from_db()
        assert (session.status, session.synced_at) == ("active", None)

    def test_a_mistaken_address_changes_nothing(self, mirrored, settings, osvi_sandbox):
        session = mirrored(customer_id="+1555")
        settings.OSVI["default"]["BASE_URL"] += "/api"
        with pytest.raises(OSVIRejected):
            sync_customer("+1555")
        session.refresh_from_db()
        assert (session.status, session.synced_at) == ("active", None)

    def test_a_customer_without_any_is_said_by_404_too(self, osvi_sandbox, mirrored):
        mirrored(customer_id="+1555")
        osvi_sandbox.script(None, Status(404, errors=("Not found",)))
        assert [each.status for each in sync_customer("+1555")] == ["dormant"]

    def test_a_door_that_is_too_long_is_refused(self, osvi_sandbox):
        with pytest.raises(InvalidInput, match="via is too long"):
            sync_customer("+1555", via="x" * 33)
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize("customer_id", ["", ".", None, "x" * 256, "a\x00"])
    def test_what_cannot_be_a_customer_is_refused(self, osvi_sandbox, customer_id):
        with pytest.raises(InvalidInput) as caught:
            sync_customer(customer_id)
        assert caught.value.field == "customer_id"
        assert osvi_sandbox.requests == []

    def test_an_account_that_is_not_there_is_said(self, osvi_sandbox):
        with pytest.raises(OSVINotConfigured, match='no account "nobody"'):
            sync_customer("+1555", account="nobody")
        with pytest.raises(OSVINotConfigured, match='no account "nobody"'):
            start_session(agent_uuid="a", customer_id="+1555", account="nobody")

    def test_an_agent_that_moved_to_another_account_is_followed(self, settings):
        with OSVISandbox() as there:
            settings.OSVI["other"] = {"API_TOKEN": there.token, "BASE_URL": there.url}
            session = ChatSessionFactory(customer_id="+1555", agent__uuid="a")
            there.add_session(session.session_id, agent_uuid="a", customer_id="+1555")
            [found] = sync_customer("+1555", account="other")
        assert (found, found.agent.account) == (session, "other")
