"""Test which earlier summaries the agent of a new chat is given."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from osvi_django.exceptions import OSVINotConfigured
from osvi_django.services import start_session
from osvi_django.testing.factories import ChatSessionFactory, ClosedSessionFactory
from tests.helpers.sandbox import mirror

pytestmark = pytest.mark.django_db(transaction=True)

START = {"agent_uuid": "agent_a", "customer_id": "+1555"}


@pytest.fixture
def share(settings):
    """Share so many summaries."""

    def _share(number):
        settings.OSVI["default"]["SHARE_SUMMARIES"] = number

    return _share


@pytest.fixture
def earlier():
    """Create closed sessions of the customer with these summaries, the oldest first."""

    def _earlier(*texts, **fields):
        now = timezone.now()
        return [
            ClosedSessionFactory(
                summary__text=text,
                started_at=now - timedelta(days=9 - number),
                **{"customer_id": "+1555", **fields},
            )
            for number, text in enumerate(texts)
        ]

    return _earlier


@pytest.fixture
def context_at_osvi(osvi_sandbox):
    return lambda session: osvi_sandbox.sessions[session.session_id].context


def test_start_by_default_shares_nothing(earlier, context_at_osvi):
    earlier("One.")
    assert context_at_osvi(start_session(**START)) == []


def test_start_shares_latest_summaries_before_own_context(share, earlier, context_at_osvi):
    share(2)
    earlier("One.", "Two.", "Three.")
    session = start_session(**START, context=["A regular."])
    assert context_at_osvi(session) == ["Two.", "Three.", "A regular."]
    written = list(session.actions.values_list("kind", "text"))
    assert written == [
        ("start", ""),
        ("context", "Two."),
        ("context", "Three."),
        ("context", "A regular."),
    ]


@pytest.mark.parametrize(("own", "shared"), [(3, ["Two.", "Three."]), (5, []), (6, [])])
def test_own_context_has_room_first(share, earlier, context_at_osvi, own, shared):
    share(5)
    earlier("One.", "Two.", "Three.")
    context = [str(number) for number in range(own)]
    assert context_at_osvi(start_session(**START, context=context)) == [*shared, *context][-5:]


def test_long_summary_is_cut(share, earlier, context_at_osvi):
    share(1)
    earlier("é" * 998 + "  and more")
    (text,) = context_at_osvi(start_session(**START))
    assert text == "é" * 998 + "…"


def test_summary_that_fits_is_not_cut(share, earlier, context_at_osvi):
    share(1)
    earlier("x" * 1_000)
    assert context_at_osvi(start_session(**START)) == ["x" * 1_000]


def test_summaries_of_others_are_not_shared(share, earlier, context_at_osvi, settings):
    share(5)
    settings.OSVI["other"] = settings.OSVI["default"]
    earlier("Other customer.", customer_id="+1666")
    earlier("Other account.", agent__account="other")
    ClosedSessionFactory(customer_id="+1555", summary=None)
    ChatSessionFactory(customer_id="+1555", status="dormant")
    assert context_at_osvi(start_session(**START)) == []


def test_user_shares_only_what_they_may_read(share, earlier, context_at_osvi, staff, grant):
    share(1)
    earlier("One.")
    reader = grant(staff, "operate_chatsession")
    assert context_at_osvi(start_session(**START, requested_by=reader)) == ["One."]
    reader.user_permissions.filter(codename="view_sessionsummary").delete()
    writer = type(staff).objects.get(pk=staff.pk)
    start = {**START, "agent_uuid": "agent_b"}
    assert context_at_osvi(start_session(**start, requested_by=writer)) == []


def test_chat_that_is_replaced_is_shared(share, osvi_sandbox, context_at_osvi):
    share(1)
    old = mirror(osvi_sandbox, customer_id="+1555", summary="Just closed.")
    start = {**START, "agent_uuid": old.agent.uuid}
    assert context_at_osvi(start_session(**start, replace=True)) == ["Just closed."]


def test_invalid_setting_raises_and_starts_nothing(share, osvi_sandbox):
    share("two")
    with pytest.raises(OSVINotConfigured, match="SHARE_SUMMARIES"):
        start_session(**START)
    assert osvi_sandbox.requests == []
