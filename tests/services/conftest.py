"""Fixtures that several test modules of services share."""

from __future__ import annotations

import pytest

from osvi_django.signals import session_closed


@pytest.fixture
def closed_signals():
    """Return the list of ids for which ``session_closed`` was sent after a sync."""
    ids = []

    def note(session, attempt, **_kwargs):
        assert (attempt.session, attempt.kind) == (session, "mirrored")
        ids.append(session.session_id)

    session_closed.connect(note)
    yield ids
    session_closed.disconnect(note)


@pytest.fixture
def two_accounts(settings):
    """Configure two accounts that cannot be reached."""
    here = {"API_TOKEN": "sandbox-token-16", "BASE_URL": "http://127.0.0.1:9"}
    settings.OSVI = {"default": here, "other": here}
