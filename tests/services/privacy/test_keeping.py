"""Test that a chat can be kept for longer."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from django.utils import timezone
from django.utils.formats import date_format

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
    with pytest.raises(InvalidInput, match="until must be a day"):
        keep_session(ClosedSessionFactory(), wrong)


@pytest.mark.parametrize(("days", "why"), [(-1, "is over"), (36_525, "is too far in the future")])
def test_day_outside_the_range_raises_invalid_input(today, days, why):
    session = ClosedSessionFactory(keep_until=today)
    with pytest.raises(InvalidInput, match=why) as caught:
        keep_session(session, today + timedelta(days=days))
    assert caught.value.field == "until"
    for limit in (today, today + timedelta(days=36_524)):
        assert date_format(limit) in str(caught.value)
    assert ChatSession.objects.get().keep_until == today


def test_day_in_100_years_is_stored(today):
    last = today + timedelta(days=36_524)
    assert keep_session(ClosedSessionFactory(), last).keep_until == last


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
