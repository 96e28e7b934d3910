"""Test that a chat can be kept for longer."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from django.utils import timezone

from osvi_django.exceptions import InvalidInput, NotAllowed, SessionNotFound
from osvi_django.models import ChatSession
from osvi_django.services import keep_session
from osvi_django.testing.factories import ClosedSessionFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def today():
    return timezone.localdate()


def test_day_is_stored_and_removed(today):
    session = ClosedSessionFactory()
    assert keep_session(session, today).keep_until == today
    assert ChatSession.objects.get().keep_until == today
    assert keep_session(session, None).keep_until is None


@pytest.mark.parametrize("wrong", ["2099-01-01", 5, datetime(2099, 1, 1)])  # noqa: DTZ001
def test_what_is_no_day_raises_invalid_input(wrong):
    with pytest.raises(InvalidInput, match="is not a day"):
        keep_session(ClosedSessionFactory(), wrong)


def test_day_that_is_over_raises_invalid_input(today):
    session = ClosedSessionFactory(keep_until=today)
    with pytest.raises(InvalidInput, match="is over") as caught:
        keep_session(session, today - timedelta(days=1))
    assert caught.value.field == "until"
    assert ChatSession.objects.get().keep_until == today


def test_user_needs_permission_to_erase(staff, grant, today):
    session = ClosedSessionFactory()
    with pytest.raises(NotAllowed):
        keep_session(session, today, requested_by=staff)
    officer = grant(staff, "erase_customer")
    assert keep_session(session, today, requested_by=officer).keep_until == today


def test_session_outside_access_is_not_found(staff, grant, today, settings):
    settings.OSVI_SESSIONS_FOR = lambda _user, _purpose: ChatSession.objects.none()
    session = ClosedSessionFactory()
    with pytest.raises(SessionNotFound):
        keep_session(session, today, requested_by=grant(staff, "erase_customer"))
    assert ChatSession.objects.get().keep_until is None
