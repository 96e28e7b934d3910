"""What the admin's tests share: a browser of sorts, and sessions that the sandbox knows."""

from __future__ import annotations

import pytest

from osvi_django.testing.factories import ChatSessionFactory


@pytest.fixture
def desk(client, staff):
    """A client that a member of the support staff is logged in with."""
    client.force_login(staff)
    return client


@pytest.fixture
def mirrored(osvi_sandbox):
    """Make a session that is here and at OSVI."""

    def _mirrored(**fields):
        session = ChatSessionFactory(**fields)
        osvi_sandbox.add_session(
            session_id=session.session_id,
            agent_uuid=session.agent.uuid,
            customer_id=session.customer_id,
            summary="The customer asked for a refund.\nThe agent <b>gave</b> it.",
        )
        return session

    return _mirrored


@pytest.fixture
def told():
    """The sentences that a page says at its top, with their level."""

    def _told(response):
        return [(message.level_tag, message.message) for message in response.context["messages"]]

    return _told
