"""Test how long customers waited for a person."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from osvi_django.models import ChatSession
from osvi_django.services import mirror_session, receive_message, take_over
from tests.services.helpers import AFTER, session_object

LATER = "2026-06-04T12:00:00Z"
pytestmark = pytest.mark.django_db(transaction=True)


def wait_since(minutes):
    """Let the customers have asked so many minutes ago."""
    asked_at = timezone.now() - timedelta(minutes=minutes)
    ChatSession.objects.update(help_requested=True, help_requested_at=asked_at)


def minutes_of(session):
    session.refresh_from_db()
    seconds = session.help_waited_seconds
    return None if seconds is None else int(seconds // 60)


@pytest.fixture
def session(mirrored):
    session = mirrored(customer_id="c")
    wait_since(5)
    return session


def test_take_over_ends_wait(session):
    take_over(session)
    assert (minutes_of(session), session.help_requested) == (5, False)


def test_answer_without_request_ends_wait(session):
    receive_message(session, "Never mind.")
    assert (minutes_of(session), session.help_requested) == (5, False)


def test_longest_wait_stays(session):
    take_over(session)
    ChatSession.objects.update(mode="ai")
    wait_since(2)
    take_over(session)
    assert minutes_of(session) == 5
    ChatSession.objects.update(mode="ai")
    wait_since(9)
    take_over(session)
    assert minutes_of(session) == 9


def test_take_over_elsewhere_ends_wait_once():
    session = mirror_session(session_object(help_requested=True))
    wait_since(5)
    mirror_session(session_object(mode="support", help_requested=True, updated_at=AFTER))
    assert (minutes_of(session), session.help_requested) == (5, True)
    wait_since(30)
    mirror_session(session_object(mode="support", updated_at=LATER))
    assert (minutes_of(session), session.help_requested) == (5, False)


def test_take_over_that_is_seen_with_request_is_no_wait():
    session = mirror_session(session_object(mode="support", help_requested=True))
    assert minutes_of(session) is None
    mirror_session(session_object(mode="support", updated_at=AFTER))
    assert minutes_of(session) is None
