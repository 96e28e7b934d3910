"""Test the names of rows, and properties of models."""

from __future__ import annotations

from datetime import date

import pytest

from osvi_django.models import DailyCount, DataExport, Erasure
from osvi_django.testing.factories import (
    ChatAgentFactory,
    CloseAttemptFactory,
    ClosedSessionFactory,
    CloseJobItemFactory,
    SupportActionFactory,
)

pytestmark = pytest.mark.django_db


def test_str_of_each_model_identifies_row():
    session = ClosedSessionFactory(session_id="abc")
    assert str(session) == "abc"
    assert str(session.summary) == f"Summary of chat {session.pk}"
    attempt = CloseAttemptFactory(session=session)
    assert str(attempt) == f"Close attempt {attempt.pk}: in progress"
    action = SupportActionFactory(session=session)
    assert str(action) == f"Action {action.pk}: wrote to the customer"
    item = CloseJobItemFactory(session=session)
    assert (str(item), item.account, item.job.total) == ("abc", "default", 1)
    day = date(2026, 11, 27)
    assert str(DailyCount(day=day, number=3)) == "2026-11-27: 3"
    assert str(Erasure(marker="erased-1")) == "erased-1"
    assert str(DataExport(pk=7)) == "Export 7"
    assert str(ChatAgentFactory(name="Night desk")) == "Night desk"
    assert str(ChatAgentFactory(name="", uuid="agent_1")) == "agent_1"
    assert str(ChatAgentFactory(name="", uuid=None)) == "Unknown agent"
    assert str(ChatAgentFactory(name="Night desk", account="second")) == "Night desk (second)"


@pytest.mark.parametrize(
    ("status", "is_open"),
    [("active", True), ("dormant", True), ("closing", False), ("closed", False)],
)
def test_is_open_of_session_is_true_for_active_and_dormant(status, is_open):
    assert ClosedSessionFactory(status=status).is_open is is_open
