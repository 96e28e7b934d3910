"""What the services' tests share."""

from __future__ import annotations

import pytest

from osvi_django.testing.factories import ChatSessionFactory

SUMMARY = "The customer asked for a refund.\nThe agent gave it."


@pytest.fixture
def mirrored(osvi_sandbox, db):
    """Make a session that is here and at OSVI."""

    def _mirrored(**fields):
        session = ChatSessionFactory(**fields)
        osvi_sandbox.add_session(
            session_id=session.session_id,
            agent_uuid=session.agent.uuid,
            customer_id=session.customer_id,
            summary=SUMMARY,
        )
        return session

    return _mirrored
