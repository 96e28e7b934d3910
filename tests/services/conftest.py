"""What the services' tests share."""

from __future__ import annotations

import pytest

from osvi_django.testing.factories import ChatSessionFactory

SUMMARY = "The customer asked for a refund.\nThe agent gave it."


def mirror(osvi, **fields):
    """Make a session that is here and at this OSVI."""
    session = ChatSessionFactory(**fields)
    osvi.add_session(
        session_id=session.session_id,
        agent_uuid=session.agent.uuid,
        customer_id=session.customer_id,
        summary=SUMMARY,
        # OSVI has it open, whatever we do with it here.
        status=session.status if session.is_open else "active",
    )
    return session


@pytest.fixture
def mirrored(osvi_sandbox, db):
    """Make a session that is here and at the sandbox."""
    return lambda **fields: mirror(osvi_sandbox, **fields)
