"""This machine cannot make a connection: sessions are as they were, and jobs wait untouched."""

from __future__ import annotations

import pytest

from osvi_django.exceptions import OSVINotConfigured, OSVIUnreachable
from osvi_django.models import ChatSession, CloseAttempt
from osvi_django.services import close_session
from osvi_django.services.jobs import create_close_job, run_close_job

pytestmark = pytest.mark.django_db(transaction=True)

# What of the environment keeps a connection from coming about, and how it is called.
TROUBLES = {
    "certificates that are not there": ("REQUESTS_CA_BUNDLE", "/none.pem", OSVINotConfigured),
    "certificates that are none": ("REQUESTS_CA_BUNDLE", __file__, OSVIUnreachable),
    "proxy of an unknown kind": ("HTTPS_PROXY", "ftp://127.0.0.1:1", OSVINotConfigured),
    "proxy without a host": ("HTTPS_PROXY", "http://", OSVINotConfigured),
    "SOCKS proxy that is away": ("HTTPS_PROXY", "socks5h://127.0.0.1:1", OSVIUnreachable),
}


@pytest.fixture(params=TROUBLES.values(), ids=TROUBLES)
def error(request, settings, osvi_sandbox, monkeypatch):
    """The error that calls end in from now on."""
    name, value, error = request.param
    settings.OSVI["default"] |= {
        "BASE_URL": osvi_sandbox.url.replace("http:", "https:"),
        "CONNECT_TIMEOUT": 1,
        "DEADLINE": 1,
    }
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_PROXY", "nothing.invalid")
    return error


def states():
    return set(ChatSession.objects.values_list("status", "claim", "help_requested"))


def test_close_that_was_not_sent_leaves_the_session_as_it_was(chats, error):
    (session,) = chats(1)
    before = states()
    with pytest.raises(error):
        close_session(session)
    assert states() == before
    assert CloseAttempt.objects.get().outcome == CloseAttempt.Outcome.NOT_SENT


def test_job_whose_calls_are_not_sent_pauses_untouched(chats, error, osvi_sandbox, outcomes):
    chats(5)
    before = states()
    job = run_close_job(create_close_job(ChatSession.objects.all(), start=False).pk)
    assert not job.is_finished
    assert job.status == "paused"
    assert set(outcomes(job).values()) == {"waiting"}
    assert states() == before
    assert osvi_sandbox.requests == []
