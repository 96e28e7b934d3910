"""If no connection can be made, sessions stay unchanged and jobs wait."""

from __future__ import annotations

import pytest

from osvi_django.exceptions import OSVINotConfigured, OSVIUnreachable
from osvi_django.models import ChatSession, CloseAttempt
from osvi_django.services import close_session
from osvi_django.services.jobs import create_close_job, run_close_job

pytestmark = pytest.mark.django_db(transaction=True)

# Environment variables with which no connection can be made, and the error of a call.
TROUBLES = {
    "certificates that are not there": ("REQUESTS_CA_BUNDLE", "/none.pem", OSVINotConfigured),
    "certificates that are none": ("REQUESTS_CA_BUNDLE", __file__, OSVIUnreachable),
    "proxy of an unknown kind": ("HTTPS_PROXY", "ftp://127.0.0.1:1", OSVINotConfigured),
    "proxy without a host": ("HTTPS_PROXY", "http://", OSVINotConfigured),
    "SOCKS proxy that is away": ("HTTPS_PROXY", "socks5h://127.0.0.1:1", OSVIUnreachable),
}


@pytest.fixture(params=TROUBLES.values(), ids=TROUBLES)
def error(request, settings, osvi_sandbox, monkeypatch):
    """Set up the environment, and return the error that calls raise from now on."""
    name, value, error = request.param
    settings.OSVI["default"] |= {
        "BASE_URL": osvi_sandbox.url.replace("http:", "https:"),
        "CONNECT_TIMEOUT": 1,
        "DEADLINE": 1,
    }
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_PROXY", "nothing.invalid")
    return error


def session_states():
    """Return what a close that was not sent must not change."""
    return set(ChatSession.objects.values_list("status", "claim", "help_requested"))


def test_close_without_connection_leaves_session_unchanged(chats, error):
    (session,) = chats(1)
    before = session_states()
    with pytest.raises(error):
        close_session(session)
    assert session_states() == before
    assert CloseAttempt.objects.get().outcome == CloseAttempt.Outcome.NOT_SENT


def test_job_without_connection_pauses_with_items_waiting(chats, error, osvi_sandbox, outcomes):
    chats(5)
    before = session_states()
    job = run_close_job(create_close_job(ChatSession.objects.all(), start=False).pk)
    assert not job.is_finished
    assert job.status == "paused"
    assert set(outcomes(job).values()) == {"waiting"}
    assert session_states() == before
    assert osvi_sandbox.requests == []
