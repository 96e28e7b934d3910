"""Test how sessions are mirrored."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection, transaction

from osvi_django.client import OSVIClient
from osvi_django.exceptions import InvalidInput, OSVINotConfigured
from osvi_django.models import ChatAgent, ChatSession
from osvi_django.services import close_session
from osvi_django.services.mirroring import (
    mirror_by_id,
    mirror_session,
    mirror_started,
    sync_customer,
)
from osvi_django.services.starting import start_session
from osvi_django.testing.factories import ChatAgentFactory, ChatSessionFactory, ClosedSessionFactory
from tests.helpers.database import call_after_queries, skip_queries
from tests.helpers.datetimes import db_datetime
from tests.services.helpers import (
    AFTER,
    BEFORE,
    STARTED,
    mirrored_close,
    run_together,
    session_object,
    stored_values,
)


@pytest.fixture(autouse=True)
def configured(two_accounts):
    """Use two accounts in each test of this module."""


@pytest.mark.django_db
class TestMirrorSession:
    def test_mirror_session_creates_session_and_agent(self):
        session = mirror_session(session_object(), agent_uuid="agent_1")
        assert (session.session_id, session.customer_id) == ("s-1", "+1555")
        assert (session.agent.uuid, session.agent.number) == ("agent_1", 42)
        agent = ChatAgent.objects.get()
        assert (agent.uuid, agent.number, agent.account) == ("agent_1", 42, "default")
        assert session.metadata == session_object()
        assert session.started_at == db_datetime(BEFORE)
        assert session.osvi_updated_at == session.started_at
        assert stored_values() == ("active", "ai", "", False)
        assert session.summary_status == "pending"

    def test_mirror_session_with_newer_object_updates_session(self):
        mirror_session(session_object(), agent_uuid="agent_1")
        news = {"mode": "support", "active_human": {"id": 1}, "help_requested": True}
        session = mirror_session(session_object(status="dormant", updated_at=AFTER, **news))
        assert stored_values() == ("dormant", "support", '{"id": 1}', True)
        assert session.agent.uuid == "agent_1"
        assert ChatSession.objects.count() == 1

    @pytest.mark.parametrize("customer_id", ["+1 555 0001", "maya"])
    def test_mirror_session_with_other_customer_updates_digits(self, customer_id):
        mirror_session(session_object(), agent_uuid="agent_1")
        session = mirror_session(session_object(customer_id=customer_id, updated_at=AFTER))
        digits = {"+1 555 0001": "10005551", "maya": ""}[customer_id]
        assert (session.customer_id, session.customer_digits) == (customer_id, digits)

    def test_mirror_session_with_older_object_changes_nothing(self):
        mirror_session(session_object(mode="support", updated_at=AFTER), agent_uuid="agent_1")
        session = mirror_session(session_object(status="dormant", customer_id="other"))
        assert stored_values() == ("active", "support", "", False)
        assert session.customer_id == "+1555"

    def test_mirror_session_with_object_of_same_time_updates_session(self):
        mirror_session(session_object(), agent_uuid="agent_1")
        mirror_session(session_object(help_requested=True))
        assert stored_values() == ("active", "ai", "", True)

    def test_mirror_session_with_object_without_time_updates_session(self):
        mirror_session(session_object(updated_at=AFTER), agent_uuid="agent_1")
        mirror_session(session_object(mode="support", updated_at=None, created_at=None))
        assert stored_values() == ("active", "support", "", False)

    def test_mirror_session_after_object_from_the_future_updates_session(self):
        mirror_session(session_object(updated_at="2999-01-01T00:00:00Z"), agent_uuid="agent_1")
        soon = (datetime.now(UTC) + timedelta(seconds=5)).isoformat()
        mirror_session(session_object(mode="support", updated_at=soon))
        assert stored_values() == ("active", "support", "", False)

    @pytest.mark.parametrize("status", ["active", "dormant"])
    def test_mirror_session_never_reopens_closed_session(self, status):
        session = ClosedSessionFactory(session_id="s-1", summary__text="Fine.")
        mirror_session(session_object(status=status, mode="support", updated_at=AFTER))
        assert stored_values() == ("closed", "ai", "", False)
        session.refresh_from_db()
        assert session.summary.text == "Fine."

    @pytest.mark.parametrize("here", ["closing", "unconfirmed"])
    @pytest.mark.parametrize("there", ["active", "closed"])
    def test_mirror_session_keeps_status_of_session_being_closed(self, here, there):
        ChatSessionFactory(session_id="s-1", status=here, customer_id="")
        session = mirror_session(session_object(status=there, help_requested=True))
        assert stored_values() == (here, "ai", "", True)
        assert session.customer_id == "+1555"  # which recovery needs

    def test_mirror_session_when_osvi_says_closed_closes_session(
        self, closed_signals, django_capture_on_commit_callbacks
    ):
        mirror_session(session_object(), agent_uuid="agent_1")
        with django_capture_on_commit_callbacks(execute=True):
            session = mirror_session(session_object(status="closed", updated_at=AFTER))
        assert (session.status, session.summary_status) == ("closed", "not_provided")
        assert session.closed_at is not None
        assert closed_signals == ["s-1"]
        assert mirrored_close(session) == ("code", None, "said_so")

    def test_mirror_session_with_unknown_status_and_mode_keeps_them(self):
        mirror_session(session_object(status="archived", mode="hybrid"), agent_uuid="agent_1")
        assert stored_values() == ("active", "ai", "", False)

    def test_mirror_session_with_long_name_truncates_it(self):
        mirror_session(session_object(active_human="x" * 500), agent_uuid="agent_1")
        assert stored_values()[2] == "x" * 255

    def test_mirror_session_with_agent_uuid_adds_it_to_agent_known_by_number(self):
        first = mirror_session(session_object())
        assert (first.agent.uuid, str(first.agent)) == (None, "Agent 42")
        mirror_session(session_object(id="s-2", created_at=AFTER))
        assert ChatAgent.objects.count() == 1
        second = mirror_session(session_object(id="s-3"), agent_uuid="agent_1")
        agent = ChatAgent.objects.get()
        assert (agent.uuid, agent.number) == ("agent_1", 42)
        assert set(agent.sessions.values_list("session_id", flat=True)) == {"s-1", "s-2", "s-3"}
        assert second.agent == agent
        assert mirror_session(session_object(id="s-4")).agent == agent

    def test_mirror_session_with_other_account_creates_other_agent(self):
        here = mirror_session(session_object())
        there = mirror_session(session_object(id="s-2"), account="other")
        assert here.agent != there.agent

    def test_mirror_session_without_account_uses_account_of_agent(self):
        ChatAgentFactory(uuid="agent_1", account="other")
        session = mirror_session(session_object(), agent_uuid="agent_1")
        assert session.agent.account == "other"
        assert mirror_session(session_object(updated_at=AFTER)) == session

    def test_mirror_session_without_account_and_known_agent_uses_default(self):
        assert mirror_session(session_object(), agent_uuid="agent_9").agent.account == "default"

    def test_mirror_session_with_number_of_other_agent_stores_no_number(self):
        ChatAgentFactory(uuid="agent_2", number=42)
        mirror_session(session_object(), agent_uuid="agent_1")
        assert ChatAgent.objects.get(uuid="agent_1").number is None

    @pytest.mark.parametrize(
        ("payload", "field"),
        [
            ([], "payload"),
            (None, "payload"),
            ("{}", "payload"),
            ({}, "payload"),
            ({"success": True, "data": session_object()}, "payload"),
            (session_object(id=7), "payload"),
            (session_object(id="a\x00"), "payload"),
            (session_object(id="\ud83d"), "payload"),
            (session_object(customer_id="\ud83d"), "payload"),
            (session_object(updated_at="0001-01-01T00:00:00+14:00"), "payload"),
            (session_object(id="x" * 256), "session_id"),
            (session_object(id=".."), "session_id"),
            (session_object(customer_id=""), "customer_id"),
            (session_object(customer_id=None), "customer_id"),
            (session_object(customer_id="x" * 256), "customer_id"),
            (session_object(chat_agent_id=None), "agent_uuid"),
        ],
    )
    def test_mirror_session_with_invalid_object_raises_invalid_input(self, payload, field):
        with pytest.raises(InvalidInput) as caught:
            mirror_session(payload)
        assert caught.value.field == field
        assert not ChatSession.objects.exists()

    def test_mirror_session_with_hostile_object_stores_what_is_storable(self):
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
        session = mirror_session(session_object(**hostile))
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
    def test_mirror_session_with_unknown_account_raises_not_configured(self, account):
        with pytest.raises(OSVINotConfigured, match="no account"):
            mirror_session(session_object(), account=account)
        assert not ChatAgent.objects.exists()

    def test_mirror_session_without_accounts_raises_not_configured(self, settings):
        settings.OSVI = {}
        with pytest.raises(OSVINotConfigured, match="has no account"):
            mirror_session(session_object())

    @pytest.mark.parametrize("agent_uuid", ["", "agent_1", "agent_2"])
    def test_mirror_session_with_other_account_than_before_raises_invalid_input(self, agent_uuid):
        session = mirror_session(session_object(), agent_uuid="agent_1")
        with pytest.raises(InvalidInput) as caught:
            mirror_session(session_object(updated_at=AFTER), account="other", agent_uuid=agent_uuid)
        assert caught.value.field == "account"
        assert ChatAgent.objects.get() == session.agent

    def test_mirror_session_with_id_in_other_case_is_another_session(self):
        # MariaDB takes them for the same; the others store both.
        ChatSessionFactory(session_id="S-1")
        if connection.vendor == "mysql":
            with pytest.raises(InvalidInput):
                mirror_session(session_object())
        else:
            assert mirror_session(session_object()).session_id == "s-1"

    def test_mirror_session_with_account_in_other_case_raises_invalid_input(self):
        ChatAgentFactory(account="DEFAULT", uuid=None, number=42)
        # Only MariaDB takes them for the same by itself.
        with skip_queries(is_insert_into("chatagent")), pytest.raises(InvalidInput) as caught:
            mirror_session(session_object())
        assert caught.value.field == "account"

    def test_mirror_session_when_insert_is_ignored_raises_invalid_input(self):
        with skip_queries(is_insert_into("chatsession")), pytest.raises(InvalidInput) as caught:
            mirror_session(session_object())
        assert caught.value.field == "session_id"


def is_insert_into(table):
    return lambda sql, _params: sql.startswith("INSERT") and f"osvi_django_{table}" in sql


class TestNaiveTimes:
    @pytest.fixture(autouse=True)
    def naive(self, settings, osvi_sandbox, db):
        settings.USE_TZ = False
        settings.TIME_ZONE = "America/New_York"

    def test_mirror_session_stores_times_in_zone_of_site(self):
        session = mirror_session(session_object(), agent_uuid="agent_1")
        assert session.started_at == datetime(2026, 6, 4, 7, 40, 25, 690486)  # noqa: DTZ001
        session = mirror_session(session_object(mode="support", updated_at=AFTER))
        assert (session.mode, session.osvi_updated_at) == (
            "support",
            datetime(2026, 6, 4, 7, 50),  # noqa: DTZ001
        )
        assert mirror_session(session_object(mode="ai")).mode == "support"  # it came late

    def test_start_sync_and_close_without_time_zones_succeed(self, osvi_sandbox):
        started = start_session(agent_uuid="agent_1", customer_id="+1555", context=["A guest."])
        assert sync_customer("+1555") == [started]
        told_of_it = {"session_id": "s-9", "started_at": "2026-06-04T11:40:25.690486"}
        legacy = mirror_started(STARTED | told_of_it, agent_uuid="agent_1")
        assert legacy.started_at == datetime(2026, 6, 4, 7, 40, 25, 690486)  # noqa: DTZ001
        assert close_session(started).changed


@pytest.mark.django_db(transaction=True)
class TestConcurrentMirrorSession:
    @pytest.mark.parametrize("is_said", [True, False])  # MariaDB's INSERT IGNORE says nothing
    def test_mirror_session_when_agent_gets_uuid_meanwhile_uses_that_agent(self, is_said):
        nameless = mirror_session(session_object()).agent
        named = []

        def is_look(sql, params):
            return not named and sql.startswith("SELECT %s") and "s-3" in params

        def learn():
            named.append(mirror_session(session_object(id="s-2"), agent_uuid="agent_1").agent)

        def is_lost(sql, params):
            return (
                not is_said and nameless.pk in params and is_insert_into("chatsession")(sql, params)
            )

        with call_after_queries(is_look, learn), skip_queries(is_lost):
            session = mirror_session(session_object(id="s-3"))
        assert [session.agent] == named == list(ChatAgent.objects.all())
        assert ChatSession.objects.count() == 3

    def test_mirror_session_inside_transaction_is_rolled_back_with_it(self, closed_signals):
        mirror_session(session_object(), agent_uuid="agent_1")
        with transaction.atomic():
            mirror_session(session_object(id="s-2"), agent_uuid="agent_1")
            mirror_session(session_object(status="closed", updated_at=AFTER))
            transaction.set_rollback(True)
        assert not ChatSession.objects.filter(session_id="s-2").exists()
        assert (stored_values()[0], closed_signals) == ("active", [])
        with transaction.atomic():
            mirror_session(session_object(status="closed", updated_at=AFTER))
            assert closed_signals == []
        assert (stored_values()[0], closed_signals) == ("closed", ["s-1"])

    def test_mirror_session_by_many_threads_keeps_newest_object(self):
        minutes = range(12)
        objects = [
            session_object(updated_at=f"2026-06-04T12:{minute:02}:00Z", active_human=str(minute))
            for minute in minutes
        ]
        errors = run_together(
            *(lambda each=each: mirror_session(each, agent_uuid="a") for each in objects)
        )
        assert errors == []
        assert stored_values() == ("active", "ai", "11", False)
        assert ChatAgent.objects.count() == 1

    def test_mirror_session_by_many_threads_with_and_without_uuid_has_one_agent(self):
        for turn in range(5):
            number = 100 + turn
            works = [
                (
                    lambda n=n, number=number, turn=turn: mirror_session(
                        session_object(id=f"s-{turn}-{n}", chat_agent_id=number),
                        agent_uuid=f"agent_{turn}" if n % 2 else "",
                    )
                )
                for n in range(8)
            ]
            assert run_together(*works) == []
            mirror_session(
                session_object(id=f"s-{turn}-1", chat_agent_id=number), agent_uuid=f"agent_{turn}"
            )
            agent = ChatAgent.objects.get(number=number)
            assert agent.uuid == f"agent_{turn}"
            assert agent.sessions.count() == 8


@pytest.mark.django_db
class TestMirrorStarted:
    """Test sessions that the host started in the legacy dialect."""

    def test_mirror_started_creates_session_and_agent(self):
        session = mirror_started(STARTED, agent_uuid="agent_1")
        assert (session.session_id, session.customer_id, session.status) == ("s-1", "", "active")
        assert session.started_at == db_datetime(BEFORE)
        agent = ChatAgent.objects.get()
        assert session.agent == agent
        assert (agent.uuid, agent.name, agent.account) == ("agent_1", "Maya", "default")

    def test_mirror_started_with_result_of_client_creates_session(self, osvi_sandbox):
        started = OSVIClient.for_account().start_legacy_session(agent_uuid="agent_1")
        session = mirror_started(started, agent_uuid="agent_1", customer_id="+1555")
        assert close_session(session).summary.text
        assert session.customer_id == "+1555"

    def test_mirror_started_again_adds_missing_values_only(self):
        session = mirror_started({"session_id": "s-1"}, agent_uuid="agent_1", customer_id=None)
        assert (session.customer_id, session.customer_digits) == ("", "")
        session = mirror_started(STARTED, agent_uuid="agent_1", customer_id="+1555")
        assert (session.customer_id, session.agent.name) == ("+1555", "Maya")
        assert session.customer_digits == "5551"
        told_late = STARTED | {"agent_name": "M."}
        session = mirror_started(told_late, agent_uuid="agent_1", customer_id="+1666")
        assert (session.customer_id, session.agent.name) == ("+1555", "Maya")
        assert ChatSession.objects.count() == 1

    def test_mirror_started_keeps_status_and_newer_values(self):
        mirror_session(session_object(mode="support", updated_at=AFTER), agent_uuid="agent_1")
        assert mirror_started(STARTED, agent_uuid="agent_1").mode == "support"
        ChatSession.objects.update(status="closed")
        assert mirror_started(STARTED, agent_uuid="agent_1").status == "closed"

    def test_mirror_session_after_mirror_started_updates_session(self):
        mirror_started(STARTED, agent_uuid="agent_1")
        assert mirror_session(session_object(mode="support")).mode == "support"
        assert ChatSession.objects.get().customer_id == "+1555"

    def test_mirror_started_without_account_uses_account_of_agent(self):
        ChatAgentFactory(account="other", uuid="agent_1")
        assert mirror_started(STARTED, agent_uuid="agent_1").agent.account == "other"
        ChatAgentFactory(account="removed", uuid="agent_1")
        assert mirror_started(STARTED, agent_uuid="agent_1").agent.account == "other"
        ChatAgentFactory(account="default", uuid="agent_1")
        known = "Give one of them in account: “default”, “other”[.]"
        with pytest.raises(InvalidInput, match=known) as caught:
            mirror_started(STARTED, agent_uuid="agent_1")
        assert caught.value.field == "account"

    def test_mirror_started_with_agent_of_removed_accounts_names_what_is_missing(self):
        for account in ("gone", "removed"):
            ChatAgentFactory(account=account, uuid="agent_1")
        with pytest.raises(OSVINotConfigured, match='no account "gone": use one of default, other'):
            mirror_started(STARTED, agent_uuid="agent_1")

    def test_mirror_started_of_session_known_by_id_stores_when_it_started(self):
        by_id = mirror_by_id("s-1", agent_uuid="agent_1", account="default")
        assert by_id.started_at > db_datetime(AFTER)
        assert mirror_started({"session_id": "s-1"}, agent_uuid="agent_1").started_at == (
            by_id.started_at
        )
        session = mirror_started(STARTED, agent_uuid="agent_1")
        assert session.started_at == db_datetime(BEFORE)

    def test_mirror_session_of_session_known_by_id_stores_when_it_started(self):
        mirror_by_id("s-1", agent_uuid="agent_1", account="default")
        session = mirror_session(session_object(created_at=BEFORE), agent_uuid="agent_1")
        assert session.started_at == db_datetime(BEFORE)
        later = STARTED | {"started_at": "2026-06-04T09:00:00"}
        assert mirror_started(later, agent_uuid="agent_1").started_at == db_datetime(BEFORE)

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
    def test_mirror_started_with_invalid_value_raises_invalid_input(self, payload, named, field):
        with pytest.raises(InvalidInput) as caught:
            mirror_started(payload, **{"agent_uuid": "agent_1", **named})
        assert caught.value.field == field
        assert not ChatSession.objects.exists()
