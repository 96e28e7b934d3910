"""Test when a session was last active: only real changes of it count."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from osvi_django.exceptions import OSVIError
from osvi_django.models import ChatSession
from osvi_django.services import close_session
from osvi_django.services.mirroring import mirror_session, mirror_started, sync_customer
from osvi_django.services.recovery import recover_session
from osvi_django.services.selectors import SessionFilter, select_matching
from osvi_django.services.support import (
    hand_back,
    inject_context,
    receive_message,
    send_message,
    take_over,
    tell,
    whisper,
)
from osvi_django.testing import Drop, Status
from tests.helpers.datetimes import db_datetime
from tests.services.helpers import session_object

pytestmark = pytest.mark.django_db

LONG_AGO = db_datetime("2026-06-04T11:40:00Z")


def quiet_object(**changes):
    """Return a session object of Chat v1 that was updated at LONG_AGO."""
    facts = {
        "metadata": {"input_fields": {}, "state_fields": {}, "context": ["a"]},
        "created_at": "2026-06-04T11:00:00Z",
        "updated_at": "2026-06-04T11:40:00Z",
    }
    return session_object(**facts | changes)


def active_at(session):
    return ChatSession.objects.values_list("last_activity_at", flat=True).get(pk=session.pk)


def is_recent(moment):
    return timezone.now() - moment < timedelta(minutes=1)


@pytest.fixture
def make_quiet_session(mirrored):
    """Return a function that creates a session in which nothing happened for a week."""

    def _quiet(**fields):
        week_ago = timezone.now() - timedelta(days=7)
        return mirrored(last_activity_at=week_ago, **fields)

    return _quiet


class TestMirroring:
    def test_mirror_new_session_uses_time_of_osvi(self):
        assert active_at(mirror_session(quiet_object())) == LONG_AGO

    def test_mirror_new_session_without_time_uses_now(self):
        assert is_recent(active_at(mirror_session(quiet_object(updated_at=None))))

    @pytest.mark.parametrize(
        "again",
        [
            {},
            {"updated_at": "2026-06-04T11:30:00Z", "mode": "support"},
            {"updated_at": None},
            {"updated_at": "2999-01-01T00:00:00Z"},
            {"status": "dormant"},
            {"mode": "ai", "current_state": "default"},
            {"metadata": {"context": []}},
        ],
    )
    def test_mirror_session_without_changes_is_no_activity(self, again):
        mirror_session(quiet_object())
        for _time in range(2):
            assert active_at(mirror_session(quiet_object(**again))) == LONG_AGO

    @pytest.mark.parametrize(
        "news",
        [
            {"mode": "support"},
            {"help_requested": True},
            {"active_human": "Kim"},
            {"customer_id": "another"},
            {"metadata": {"context": ["a", "b"]}},
        ],
    )
    @pytest.mark.parametrize("moment", [{}, {"updated_at": None}])
    def test_mirror_session_with_changed_field_is_activity_even_without_time(self, news, moment):
        mirror_session(quiet_object())
        session = mirror_session(quiet_object(**news, **moment))
        moved = active_at(session)
        assert is_recent(moved)
        assert active_at(mirror_session(quiet_object(**news, **moment))) == moved

    def test_mirror_session_that_is_active_again_is_activity(self):
        mirror_session(quiet_object(status="dormant"))
        assert is_recent(active_at(mirror_session(quiet_object())))

    def test_mirror_session_with_later_time_of_osvi_uses_that_time(self):
        mirror_session(quiet_object())
        session = mirror_session(quiet_object(updated_at="2026-06-05T00:00:00Z", mode="support"))
        assert active_at(session) == db_datetime("2026-06-05T00:00:00Z")

    def test_mirror_session_with_earlier_time_of_osvi_keeps_later_activity(self):
        session = mirror_session(quiet_object())
        later = timezone.now()
        ChatSession.objects.update(last_activity_at=later)
        mirror_session(quiet_object(updated_at="2026-06-05T00:00:00Z"))
        assert active_at(session) == later

    def test_mirror_started_in_legacy_dialect_is_activity(self):
        session = mirror_started({"session_id": "s2"}, agent_uuid="agent_1")
        assert is_recent(active_at(session))

    def test_sync_customer_when_session_is_dormant_is_no_activity(
        self, make_quiet_session, osvi_sandbox
    ):
        session = make_quiet_session(customer_id="carol")
        before = active_at(session)
        osvi_sandbox.sessions[session.session_id].status = "dormant"
        (found,) = sync_customer("carol")
        assert (found.status, active_at(session)) == ("dormant", before)


class TestClosing:
    def test_close_session_is_activity(self, make_quiet_session):
        session = make_quiet_session()
        close_session(session)
        assert is_recent(active_at(session))

    @pytest.mark.parametrize("fault", [Status(403, errors=["No."]), Status(401), Status(429)])
    def test_close_session_when_osvi_refuses_is_no_activity(
        self, make_quiet_session, osvi_sandbox, fault
    ):
        session = make_quiet_session()
        before = active_at(session)
        osvi_sandbox.script(session.session_id, fault)
        with pytest.raises(OSVIError):
            close_session(session)
        assert active_at(session) == before
        old = {"idle_since": timezone.now() - timedelta(days=6)}
        assert list(select_matching(SessionFilter(**old))) == [session]

    def test_close_session_without_answer_and_its_recovery_are_no_activity(
        self, make_quiet_session, osvi_sandbox
    ):
        session = make_quiet_session()
        before = active_at(session)
        osvi_sandbox.script(session.session_id, Drop())
        with pytest.raises(OSVIError):
            close_session(session)
        assert active_at(session) == before
        osvi_sandbox.sessions[session.session_id].status = "active"
        recover_session(session)
        session.refresh_from_db()
        assert (session.status, active_at(session)) == ("active", before)


@pytest.mark.parametrize(
    ("act", "mode"),
    [
        (take_over, "ai"),
        (hand_back, "support"),
        (lambda session: tell(session, "Offer it."), "ai"),
        (lambda session: whisper(session, "Be kind."), "ai"),
        (lambda session: send_message(session, "Hello"), "support"),
        (lambda session: inject_context(session, "A call"), "ai"),
        (lambda session: receive_message(session, "Hi"), "ai"),
    ],
)
def test_support_action_that_is_done_is_activity(make_quiet_session, osvi_sandbox, act, mode):
    session = make_quiet_session(mode=mode)
    osvi_sandbox.sessions[session.session_id].mode = mode
    act(session)
    assert is_recent(active_at(session))


def test_support_action_that_osvi_refuses_is_no_activity(make_quiet_session, osvi_sandbox):
    session = make_quiet_session()
    before = active_at(session)
    osvi_sandbox.script(session.session_id, Status(422, errors=["No."]))
    with pytest.raises(OSVIError):
        tell(session, "Offer it.")
    assert active_at(session) == before
