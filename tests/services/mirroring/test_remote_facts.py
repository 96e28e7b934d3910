"""Test what is stored of who answers and who asks for a person, and when the signal is sent."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import pytest
from django.db import transaction
from django.utils import timezone

from osvi_django.models import ChatSession
from osvi_django.services import (
    close_session,
    hand_back,
    look_up_customer,
    mirror_session,
    receive_message,
    start_session,
    sync_open,
    take_over,
)
from osvi_django.signals import help_requested
from osvi_django.testing import MISSING, Drop
from tests.services.helpers import AFTER, BEFORE, run_together, session_object

LATER = "2026-06-04T12:00:00Z"
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def asked():
    """Return the list of ids for which the signal was sent, with the flag as it was seen."""
    seen = []

    def note(sender, session, **_kwargs):
        assert sender is ChatSession
        assert not transaction.get_connection().in_atomic_block
        stored = ChatSession.objects.get(pk=session.pk)
        seen.append((session.session_id, session.help_requested, stored.help_requested))

    help_requested.connect(note)
    yield seen
    help_requested.disconnect(note)


def flags(session):
    session.refresh_from_db()
    return session.help_requested, session.help_requested_at is not None


class TestHelpRequested:
    def test_flag_of_new_session_is_stored_and_sent(self, asked):
        before = timezone.now()
        session = mirror_session(session_object(help_requested=True))
        assert asked == [("s-1", True, True)]
        assert before <= session.help_requested_at <= timezone.now()

    def test_flag_that_stays_is_sent_once(self, asked):
        first = mirror_session(session_object(help_requested=True)).help_requested_at
        again = mirror_session(session_object(help_requested=True, updated_at=AFTER))
        assert (again.help_requested_at, len(asked)) == (first, 1)

    def test_flag_that_falls_and_rises_is_sent_twice(self, asked):
        mirror_session(session_object(help_requested=True))
        fallen = mirror_session(session_object(updated_at=AFTER))
        assert flags(fallen) == (False, False)
        risen = mirror_session(session_object(help_requested=True, updated_at=LATER))
        assert (flags(risen), len(asked)) == ((True, True), 2)

    @pytest.mark.parametrize("flag", [True, False])
    def test_older_object_changes_nothing(self, asked, flag):
        mirror_session(session_object(help_requested=not flag, updated_at=AFTER))
        before = list(asked)
        old = mirror_session(session_object(help_requested=flag, updated_at=BEFORE))
        assert (old.help_requested, asked) == (not flag, before)

    @pytest.mark.parametrize("name", ["help_requested", "mode"])
    def test_object_without_field_keeps_value(self, name, staff):
        session = mirror_session(session_object(help_requested=True, mode="support"))
        ChatSession.objects.update(taken_over_by=staff)
        fields = session_object(updated_at=AFTER, mode="support", help_requested=True)
        del fields[name]
        mirror_session(fields)
        session.refresh_from_db()
        assert (session.help_requested, session.mode) == (True, "support")
        assert session.taken_over_by == staff

    def test_flag_of_rolled_back_transaction_is_not_sent(self, asked):
        with transaction.atomic():
            mirror_session(session_object(help_requested=True))
            transaction.set_rollback(True)
        assert (asked, ChatSession.objects.count()) == ([], 0)

    def test_flag_of_closed_session_is_not_stored(self, asked):
        mirror_session(session_object(status="closed"))
        session = mirror_session(session_object(help_requested=True, updated_at=AFTER))
        assert (flags(session), asked) == ((False, False), [])

    def test_receiver_that_fails_is_logged_and_changes_nothing(self, caplog):
        def fail(**_kwargs):
            raise ValueError

        help_requested.connect(fail)
        try:
            assert flags(mirror_session(session_object(help_requested=True))) == (True, True)
        finally:
            help_requested.disconnect(fail)
        assert "Error calling" in caplog.text

    def test_session_that_is_gone_before_signal_is_only_logged(self, asked, caplog):
        with transaction.atomic():
            mirror_session(session_object(help_requested=True))
            ChatSession.objects.all().delete()
        assert asked == []
        assert "the signal for session 's-1' was not sent" in caplog.text

    def test_flag_by_many_threads_is_sent_once(self, asked):
        mirror_session(session_object())
        remote = session_object(help_requested=True, updated_at=AFTER)
        assert run_together(*[partial(mirror_session, dict(remote))] * 6) == []
        assert asked == [("s-1", True, True)]


class TestWhereItIsRead:
    def test_look_up_raises_flag(self, mirrored, osvi_sandbox, asked):
        session = mirrored()
        osvi_sandbox.request_help(session.session_id)
        look_up_customer(session.customer_id)
        assert (flags(session), len(asked)) == ((True, True), 1)

    def test_sync_raises_flag(self, mirrored, osvi_sandbox, asked):
        session = mirrored()
        osvi_sandbox.request_help(session.session_id)
        sync_open()
        assert (flags(session), len(asked)) == ((True, True), 1)

    def test_start_that_finds_open_session_raises_flag(self, mirrored, osvi_sandbox, asked):
        session = mirrored()
        osvi_sandbox.request_help(session.session_id)
        agent_uuid = session.agent.uuid
        start_session(agent_uuid=agent_uuid, customer_id=session.customer_id, replace=True)
        assert [each[0] for each in asked] == [session.session_id]

    def test_answer_to_customer_raises_and_clears_flag(self, mirrored, osvi_sandbox, asked):
        session = mirrored()
        osvi_sandbox.request_help(session.session_id)
        assert receive_message(session, "A human!").session.help_requested is True
        receive_message(session, "Hello?")
        assert (flags(session), len(asked)) == ((True, True), 1)
        osvi_sandbox.sessions[session.session_id].help_requested = False
        receive_message(session, "Solved.")
        assert flags(session) == (False, False)

    def test_answer_to_customer_without_facts_keeps_them(self, mirrored, osvi_sandbox):
        session = mirrored(help_requested=True, help_requested_at=timezone.now(), mode="support")
        missing = {"mode": MISSING, "help_requested": MISSING, "state": MISSING}
        osvi_sandbox.script_inbound(session.session_id, **missing)
        receive_message(session, "Hello?")
        assert (flags(session), session.mode) == ((True, True), "support")

    def test_answer_to_customer_changes_mode(self, mirrored, osvi_sandbox):
        session = mirrored()
        osvi_sandbox.sessions[session.session_id].mode = "support"
        assert receive_message(session, "Hello?").session.mode == "support"


@pytest.fixture
def sam(staff, grant):
    return grant(staff, "operate_chatsession")


class TestTakeOver:
    def test_take_over_names_user_and_ends_help(self, mirrored, sam, osvi_sandbox):
        session = mirrored(help_requested=True, help_requested_at=timezone.now())
        osvi_sandbox.request_help(session.session_id)
        take_over(session, requested_by=sam)
        assert (session.taken_over_by, session.taken_over_at is not None) == (sam, True)
        assert flags(session) == (False, False)
        hand_back(session)
        assert (session.taken_over_by, session.taken_over_at) == (None, None)

    def test_look_up_in_support_mode_keeps_taker(self, mirrored, sam):
        session = mirrored()
        take_over(session, requested_by=sam)
        look_up_customer(session.customer_id)
        session.refresh_from_db()
        assert session.taken_over_by == sam

    def test_mode_ai_at_osvi_clears_taker(self, mirrored, sam, osvi_sandbox):
        session = mirrored()
        take_over(session, requested_by=sam)
        osvi_sandbox.sessions[session.session_id].change(mode="ai", active_human=None)
        look_up_customer(session.customer_id)
        session.refresh_from_db()
        assert (session.mode, session.taken_over_by, session.active_human) == ("ai", None, "")

    @pytest.mark.parametrize("way", ["look_up", "message"])
    def test_flag_that_osvi_keeps_after_take_over_is_not_raised_again(
        self, mirrored, osvi_sandbox, asked, way
    ):
        session = mirrored()
        osvi_sandbox.takeover_ends_help = False
        osvi_sandbox.request_help(session.session_id)
        look_up_customer(session.customer_id)
        take_over(session)
        if way == "look_up":
            look_up_customer(session.customer_id)
        else:
            receive_message(session, "Thank you!")
        assert (flags(session), len(asked)) == ((False, False), 1)

    @pytest.mark.parametrize("fault", [None, Drop()])
    def test_new_request_after_take_over_is_raised(self, mirrored, osvi_sandbox, asked, fault):
        session = mirrored()
        osvi_sandbox.request_help(session.session_id)
        look_up_customer(session.customer_id)
        if fault:
            osvi_sandbox.script(None, *[fault] * 9)  # what OSVI says after the takeover is lost
        take_over(session)
        osvi_sandbox._faults.clear()
        look_up_customer(session.customer_id)
        osvi_sandbox.request_help(session.session_id)
        look_up_customer(session.customer_id)
        assert (flags(session), len(asked)) == ((True, True), 2)

    def test_answer_to_message_that_is_older_than_take_over_asks_osvi(
        self, mirrored, osvi_sandbox, asked
    ):
        session = mirrored()
        osvi_sandbox.script_inbound(session.session_id, mode="ai", help_requested=True)
        newer = {"mode": "support", "osvi_updated_at": timezone.now() + timedelta(hours=1)}
        ChatSession.objects.update(**newer)
        receive_message(ChatSession.objects.get(), "Hello?")
        session.refresh_from_db()
        assert session.mode == "support"
        assert osvi_sandbox.requests[-1].path == "/v1/chat/session/active"


class TestClose:
    def test_close_clears_facts_and_names_closer(self, mirrored, staff):
        now = timezone.now()
        session = mirrored(
            help_requested=True,
            help_requested_at=now,
            mode="support",
            taken_over_by=staff,
            taken_over_at=now,
            active_human="Sam",
        )
        close_session(session, requested_by=staff)
        session.refresh_from_db()
        assert (flags(session), session.mode, session.active_human) == ((False, False), "ai", "")
        assert (session.taken_over_by, session.taken_over_at, session.closed_by) == (
            None,
            None,
            staff,
        )

    def test_close_by_osvi_clears_facts_and_has_no_closer(self, staff):
        session = mirror_session(session_object(help_requested=True, mode="support"))
        ChatSession.objects.update(taken_over_by=staff)
        mirror_session(session_object(status="closed", updated_at=AFTER))
        session.refresh_from_db()
        assert (session.status, session.mode, session.taken_over_by) == ("closed", "ai", None)
        assert (flags(session), session.closed_by) == ((False, False), None)
