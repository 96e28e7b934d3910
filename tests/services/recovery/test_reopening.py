"""Test that a chat that was only marked as closed is open again if OSVI has it open."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from osvi_django.exceptions import AlreadyOpen, OSVIRejected
from osvi_django.models import ChatSession, SessionSummary
from osvi_django.services import (
    close_session,
    look_up_customer,
    mark_closed,
    mirror_session,
    start_session,
    sync_open,
)
from osvi_django.testing import Status
from tests.helpers.datetimes import rest_datetime

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def marked(mirrored, osvi_sandbox, staff):
    """Create a session that OSVI refused to close, and that was marked as closed wrongly."""
    session = mirrored()
    osvi_sandbox.script(session.session_id, Status(422))
    with pytest.raises(OSVIRejected):
        close_session(session)
    mark_closed(session, requested_by=staff, note="Seen.")
    assert (session.status, session.closed_by) == ("closed", staff)
    return session


def kinds(session):
    return [each.kind for each in session.attempts.all()]


def object_of(session, moment, **fields):
    return {
        "id": session.session_id,
        "status": "active",
        "customer_id": session.customer_id,
        "updated_at": rest_datetime(moment),
        **fields,
    }


def test_look_up_opens_marked_session_again(marked, staff, grant, osvi_sandbox):
    staff = grant(staff, "operate_chatsession")
    osvi_sandbox.sessions[marked.session_id].help_requested = True
    found = look_up_customer(marked.customer_id, requested_by=staff, via="admin")
    assert list(found.sessions) == [marked]
    marked.refresh_from_db()
    assert (marked.status, marked.closed_at, marked.closed_by) == ("active", None, None)
    assert (marked.summary_status, marked.help_requested) == ("pending", True)
    assert (marked.is_close_refused, marked.claim) == (False, None)
    assert kinds(marked) == ["reopened", "mark", "close"]
    line = marked.attempts.first()
    assert (line.outcome, line.requested_by, line.via) == ("reopened", staff, "admin")
    assert line.finished_at is not None


def test_session_that_is_open_again_can_be_closed(marked):
    look_up_customer(marked.customer_id)
    assert close_session(marked).summary is not None
    look_up_customer(marked.customer_id)
    marked.refresh_from_db()
    assert marked.status == "closed"


def test_object_that_is_newer_opens_session_again(marked):
    mirror_session(object_of(marked, timezone.now() + timedelta(seconds=5)))
    marked.refresh_from_db()
    assert marked.status == "active"


@pytest.mark.parametrize("fields", [{"status": "dormant"}, {"status": "closed"}])
def test_object_that_is_not_active_keeps_session_closed(marked, fields):
    mirror_session(object_of(marked, timezone.now() + timedelta(seconds=5), **fields))
    assert kinds(marked) == ["mark", "close"]
    assert ChatSession.objects.get().status == "closed"


@pytest.mark.parametrize("moment", ["2026-06-04T11:40:25Z", None])
def test_object_that_is_older_keeps_session_closed(marked, moment):
    mirror_session({**object_of(marked, timezone.now()), "updated_at": moment})
    assert kinds(marked) == ["mark", "close"]


def test_close_that_osvi_answered_is_never_opened_again(mirrored, osvi_sandbox):
    session = mirrored()
    close_session(session)
    osvi_sandbox.sessions[session.session_id].change(status="active")
    look_up_customer(session.customer_id)
    session.refresh_from_db()
    assert (session.status, kinds(session)) == ("closed", ["close"])


def test_marked_session_that_osvi_closed_since_is_not_opened_again(marked, osvi_sandbox):
    look_up_customer(marked.customer_id)
    marked.refresh_from_db()
    close_session(marked)
    mirror_session(object_of(marked, timezone.now() + timedelta(seconds=5)))
    assert kinds(marked) == ["close", "reopened", "mark", "close"]


def test_summary_of_marked_session_is_kept(marked):
    SessionSummary.objects.create(session=marked, text="By hand.", source="host")
    ChatSession.objects.update(summary_status="stored")
    look_up_customer(marked.customer_id)
    marked.refresh_from_db()
    assert (marked.status, marked.summary_status, marked.summary.text) == (
        "active",
        "stored",
        "By hand.",
    )


def test_start_finds_marked_session_open(marked):
    with pytest.raises(AlreadyOpen):
        start_session(agent_uuid=marked.agent.uuid, customer_id=marked.customer_id)
    marked.refresh_from_db()
    assert marked.status == "active"


def test_sync_does_not_ask_about_marked_session(marked, osvi_sandbox):
    number = len(osvi_sandbox.requests)
    sync_open()
    assert len(osvi_sandbox.requests) == number
