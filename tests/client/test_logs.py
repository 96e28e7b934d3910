"""Test what urllib3 logs of our calls."""

from __future__ import annotations

import pytest

from osvi_django.client import OSVIClient
from osvi_django.exceptions import OSVIUnreachable
from osvi_django.testing import OSVISandbox


def test_urllib3_log_does_not_contain_customer(caplog):
    caplog.set_level("DEBUG")
    with OSVISandbox() as osvi:
        client = OSVIClient(token=osvi.token, base_url=osvi.url)
        assert client.active_session("+15550001234", agent_uuid="agent") is None
        assert client.active_session_ids("+15550001234") == frozenset()
    with pytest.raises(OSVIUnreachable):
        client.active_session("+15550001234", agent_uuid="agent")
    assert "Retrying" in caplog.text
    assert "/v1/chat/session/active" in caplog.text
    assert "5550001234" not in caplog.text
