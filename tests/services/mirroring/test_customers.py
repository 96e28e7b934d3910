"""Test how the sessions of a customer are looked up and synced."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from osvi_django.exceptions import (
    InvalidInput,
    OSVIBadAnswer,
    OSVIGatewayRefused,
    OSVINoAnswer,
    OSVINotConfigured,
    OSVIRejected,
    OSVIUnauthorized,
)
from osvi_django.models import ChatSession
from osvi_django.services import close_session
from osvi_django.services.mirroring import look_up_customer, probing, sync_customer
from osvi_django.services.recovery import mark_closed
from osvi_django.services.starting import start_session
from osvi_django.testing import Drop, Junk, OSVISandbox, Status
from osvi_django.testing.factories import ChatSessionFactory
from tests.services.helpers import mirrored_close


@pytest.fixture(autouse=True)
def configured(two_accounts):
    """Use two accounts in each test of this module."""


@pytest.mark.django_db
class TestSyncCustomer:
    def test_sync_mirrors_open_sessions_of_customer(self, osvi_sandbox):
        chats = [
            osvi_sandbox.add_session(agent_uuid=uuid, customer_id="+1555") for uuid in ("a", "b")
        ]
        osvi_sandbox.add_session(agent_uuid="a", customer_id="+1666")
        found = sync_customer("+1555")
        assert {each.session_id for each in found} == {chat.id for chat in chats}
        assert {each.agent.uuid for each in found} == {"a", "b"}
        assert all(each.synced_at for each in found)
        assert ChatSession.objects.count() == 2

    def test_sync_when_later_chat_is_listed_closes_session(
        self, osvi_sandbox, mirrored, closed_signals, django_capture_on_commit_callbacks
    ):
        session = mirrored(customer_id="+1555")
        osvi_sandbox.sessions[session.session_id].change(status="closed")
        later = osvi_sandbox.add_session(agent_uuid=session.agent.uuid, customer_id="+1555")
        with django_capture_on_commit_callbacks(execute=True):
            found = sync_customer("+1555")
        assert [each.session_id for each in found] == [later.id]
        session.refresh_from_db()
        assert (session.status, session.summary_status) == ("closed", "not_provided")
        assert closed_signals == [session.session_id]
        why = "later_chat"
        assert mirrored_close(session) == ("code", None, why)

    def test_sync_when_session_became_dormant_keeps_summary_available(self, osvi_sandbox, mirrored):
        # OSVI does not list dormant sessions, and sends nothing when one becomes dormant.
        session = mirrored(customer_id="+1555")
        osvi_sandbox.sessions[session.session_id].change(status="dormant")
        [found] = sync_customer("+1555")
        assert (found.session_id, found.status) == (session.session_id, "dormant")
        assert close_session(found).summary is not None

    def test_sync_when_session_was_closed_elsewhere_closes_it(
        self, osvi_sandbox, mirrored, staff, grant
    ):
        user = grant(staff, "operate_chatsession")
        sessions = [mirrored(customer_id="+1555") for _number in range(2)]
        for session in sessions:
            osvi_sandbox.sessions[session.session_id].change(status="closed")
        assert sync_customer("+1555", requested_by=user, via="desk") == []
        why = "not_listed"
        for session in sessions:
            session.refresh_from_db()
            assert (session.status, session.summary_status) == ("closed", "not_provided")
            assert mirrored_close(session) == ("desk", user, why)
            assert not close_session(session).changed

    @pytest.mark.parametrize("status", ["active", "dormant"])
    @pytest.mark.parametrize("refusal", [None, Status(404), Status(409)])
    def test_sync_when_osvi_says_closed_closes_session(
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
    def test_sync_when_osvi_does_not_say_keeps_session_and_asks_again(
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
    def test_close_session_after_sync_without_result_settles_it(
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

    def test_sync_stops_checks_when_throttled_but_not_after_one_failure(
        self, osvi_sandbox, mirrored
    ):
        sessions = [mirrored(customer_id="+1555", status="dormant") for _number in range(4)]
        ids = [session.session_id for session in sessions]
        for each in ids:
            osvi_sandbox.sessions[each].change(status="closed")
        osvi_sandbox.script(ids[0], Drop(), Drop())
        osvi_sandbox.script(ids[2], Status(429))
        assert {each.session_id for each in sync_customer("+1555")} == {ids[0], ids[2], ids[3]}
        assert [each.session_id for each in sync_customer("+1555")] == [ids[0]]
        assert len([each for each in osvi_sandbox.requests if each.method == "POST"]) == 6

    def test_sync_checks_longest_unchecked_session_first_and_stops_in_time(
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
        monkeypatch.setattr(probing, "_TIME_LIMIT", -1)
        assert len(sync_customer("+1555")) == 3
        assert len(osvi_sandbox.requests) == 5

    def test_look_up_customer_counts_listed_dormant_and_unknown_sessions(
        self, osvi_sandbox, mirrored
    ):
        osvi_sandbox.add_session(customer_id="+1555")
        gone_quiet = [mirrored(customer_id="+1555", status=each) for each in ("active", "dormant")]
        ChatSessionFactory(customer_id="+1555", agent__uuid=None, agent__number=7)
        unanswered = mirrored(customer_id="+1555")
        osvi_sandbox.sessions[unanswered.session_id].change(status="dormant")
        osvi_sandbox.script(unanswered.session_id, Status(500))
        for each in gone_quiet:
            osvi_sandbox.sessions[each.session_id].change(status="dormant")
        found = look_up_customer("+1555")
        assert (found.listed, found.dormant, found.unknown) == (1, 3, 1)
        assert len(found.sessions) == 5

    @pytest.mark.parametrize("status", ["active", "dormant"])
    def test_sync_of_session_without_agent_uuid_asks_nothing(self, osvi_sandbox, mirrored, status):
        session = mirrored(customer_id="+1555", status=status, agent__uuid=None, agent__number=7)
        osvi_sandbox.sessions[session.session_id].change(status="closed")
        [found] = sync_customer("+1555")
        assert found.status == "dormant"
        assert found.synced_at is not None
        assert len(osvi_sandbox.requests) == 1

    @pytest.mark.parametrize("status", ["dormant", "closing", "unconfirmed", "closed"])
    def test_sync_keeps_status_of_sessions_that_are_not_active(
        self, osvi_sandbox, mirrored, status
    ):
        session = mirrored(customer_id="+1555", status=status)
        osvi_sandbox.sessions[session.session_id].change(status="dormant")
        osvi_sandbox.add_session(agent_uuid=session.agent.uuid, customer_id="+1555")
        sync_customer("+1555")
        session.refresh_from_db()
        assert session.status == status
        assert bool(session.synced_at) == (status != "closed")

    def test_sync_keeps_session_that_changed_since_osvi_was_asked(self, osvi_sandbox):
        session = ChatSessionFactory(customer_id="+1555")
        ChatSession.objects.update(updated_at=timezone.now() + timedelta(minutes=1))
        assert sync_customer("+1555")[0].status == "active"
        session.refresh_from_db()
        assert session.synced_at is not None
        assert len(osvi_sandbox.requests) == 1

    def test_sync_keeps_sessions_of_other_customers_and_accounts(self, osvi_sandbox):
        for named in (
            {"customer_id": "+15551"},
            {"customer_id": "a+1555"},
            {"customer_id": "+1555", "agent__account": "other"},
        ):
            ChatSessionFactory(**named)
        assert sync_customer("+1555") == []
        assert set(ChatSession.objects.values_list("status", "synced_at")) == {("active", None)}

    @pytest.mark.parametrize("other", ["Ada", "ada ", "ád\u0061"])
    def test_sync_keeps_session_of_customer_id_in_other_spelling(self, osvi_sandbox, other):
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
    def test_sync_when_osvi_fails_changes_nothing(self, osvi_sandbox, mirrored, fault, error):
        session = mirrored(customer_id="+1555", status="active")
        osvi_sandbox.script(None, fault)
        with pytest.raises(error):
            sync_customer("+1555")
        session.refresh_from_db()
        assert (session.status, session.synced_at) == ("active", None)

    def test_sync_with_wrong_base_url_changes_nothing(self, mirrored, settings, osvi_sandbox):
        session = mirrored(customer_id="+1555")
        settings.OSVI["default"]["BASE_URL"] += "/api"
        with pytest.raises(OSVIRejected):
            sync_customer("+1555")
        session.refresh_from_db()
        assert (session.status, session.synced_at) == ("active", None)

    def test_sync_when_osvi_answers_404_finds_no_open_session(self, osvi_sandbox, mirrored):
        mirrored(customer_id="+1555")
        osvi_sandbox.script(None, Status(404, errors=("Not found",)))
        assert [each.status for each in sync_customer("+1555")] == ["dormant"]

    def test_sync_with_too_long_via_raises_invalid_input(self, osvi_sandbox):
        with pytest.raises(InvalidInput, match="via is too long"):
            sync_customer("+1555", via="x" * 33)
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize("customer_id", ["", ".", None, "x" * 256, "a\x00"])
    def test_sync_with_invalid_customer_id_raises_invalid_input(self, osvi_sandbox, customer_id):
        with pytest.raises(InvalidInput) as caught:
            sync_customer(customer_id)
        assert caught.value.field == "customer_id"
        assert osvi_sandbox.requests == []

    def test_sync_and_start_with_unknown_account_raise_not_configured(self, osvi_sandbox):
        with pytest.raises(OSVINotConfigured, match='no account "nobody"'):
            sync_customer("+1555", account="nobody")
        with pytest.raises(OSVINotConfigured, match='no account "nobody"'):
            start_session(agent_uuid="a", customer_id="+1555", account="nobody")

    def test_sync_when_agent_moved_to_other_account_updates_account(self, settings):
        with OSVISandbox() as there:
            settings.OSVI["other"] = {"API_TOKEN": there.token, "BASE_URL": there.url}
            session = ChatSessionFactory(customer_id="+1555", agent__uuid="a")
            there.add_session(session.session_id, agent_uuid="a", customer_id="+1555")
            [found] = sync_customer("+1555", account="other")
        assert (found, found.agent.account) == (session, "other")


@pytest.mark.django_db
@pytest.mark.parametrize("blank", [" ", "\t\n", "\u00a0"])
def test_look_up_of_blank_customer_raises_invalid_input(osvi_sandbox, blank):
    with pytest.raises(InvalidInput) as caught:
        look_up_customer(blank)
    assert caught.value.field == "customer_id"
    assert osvi_sandbox.requests == []
