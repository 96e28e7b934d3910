"""What rows are called where people read their names."""

from __future__ import annotations

import pytest

from osvi_django.testing.factories import (
    ChatAgentFactory,
    CloseAttemptFactory,
    ClosedSessionFactory,
    CloseJobItemFactory,
    SupportActionFactory,
)

pytestmark = pytest.mark.django_db


def test_rows_have_names_that_tell_them_apart():
    session = ClosedSessionFactory(session_id="abc")
    assert str(session) == "abc"
    assert str(session.summary) == "Summary of abc"
    assert str(CloseAttemptFactory(session=session)) == "abc: in progress"
    assert str(SupportActionFactory(session=session)) == "abc: wrote to the customer"
    item = CloseJobItemFactory(session=session)
    assert (str(item), item.account, item.job.total) == ("abc", "default", 1)
    assert str(ChatAgentFactory(name="Night desk")) == "Night desk"
    assert str(ChatAgentFactory(name="", uuid="agent_1")) == "agent_1"
    assert str(ChatAgentFactory(name="Night desk", account="second")) == "Night desk (second)"


@pytest.mark.parametrize(
    ("status", "is_open"),
    [("active", True), ("dormant", True), ("closing", False), ("closed", False)],
)
def test_open_is_what_osvi_has_open(status, is_open):
    assert ClosedSessionFactory(status=status).is_open is is_open
