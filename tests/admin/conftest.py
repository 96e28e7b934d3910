"""What the admin's tests share: a browser of sorts, and what it was told."""

from __future__ import annotations

import pytest


@pytest.fixture
def desk(client, staff):
    """A client that a member of the support staff is logged in with."""
    client.force_login(staff)
    return client


@pytest.fixture
def told():
    """The sentences that a page says at its top, with their level."""

    def _told(response):
        return [(message.level_tag, message.message) for message in response.context["messages"]]

    return _told
