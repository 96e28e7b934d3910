"""Fixtures for tests of the client: short timeouts and an environment without proxies."""

from __future__ import annotations

import logging
import ssl
import time
import traceback
from contextlib import contextmanager

import pytest
from django.views.debug import ExceptionReporter

from osvi_django.client import OSVIClient
from osvi_django.testing import OSVISandbox
from tests.helpers.certificates import make_certificate
from tests.helpers.own_files import is_of_package

TOKEN = "sandbox-token-16"


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch):
    """Remove the proxy settings of the developer's machine."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def osvi():
    with OSVISandbox(token=TOKEN) as sandbox:
        yield sandbox


@pytest.fixture
def make_client():
    """Create a client for a server URL, whose calls end within ten seconds."""

    def _make(url, **options):
        defaults = {"token": TOKEN, "connect_timeout": 5, "read_timeout": 5, "deadline": 9}
        return OSVIClient(**{**defaults, "base_url": url, **options})

    return _make


@pytest.fixture
def close(make_client):
    """Close session ``s-1`` at a server URL."""

    def _close(url, session_id="s-1", **options):
        return make_client(url, **options).close_session(session_id, agent_uuid="agent_1")

    return _close


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """Create a self-signed certificate for 127.0.0.1; return the paths of certificate and key."""
    return make_certificate(tmp_path_factory.mktemp("tls"), "IP:127.0.0.1,DNS:localhost")


@pytest.fixture
def tls(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


@pytest.fixture
def takes_at_most():
    """Check that a block of code ends within a number of seconds."""

    @contextmanager
    def _bound(seconds):
        started = time.monotonic()
        yield
        assert time.monotonic() - started < seconds

    return _bound


@pytest.fixture
def everything_shown(caplog):
    """Return all that a log, a crash page or a crash reporter may show of an error, as one text."""
    for name in ("", "urllib3", "requests", "osvi_django"):
        caplog.set_level(logging.DEBUG, logger=name)

    def _show(error):
        shown = [caplog.text, *(f"{vars(record)}" for record in caplog.records)]
        for each in _chain(error):
            what = (type(each), each, _inner(each.__traceback__))
            assert what[2] is not None
            shown += [repr(each), str(each), repr(each.args), repr(vars(each))]
            shown += traceback.TracebackException(*what, capture_locals=True).format()
            reporter = ExceptionReporter(None, *what)
            shown += [reporter.get_traceback_text(), reporter.get_traceback_html()]
        return "\n".join(shown)

    return _show


def _inner(trace):
    """Skip the frames of the tests, which hold the token."""
    while trace and not is_of_package(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return trace


def _chain(error):
    chain, waiting = [], [error]
    while waiting:
        each = waiting.pop()
        if each is not None and each not in chain:
            chain.append(each)
            waiting += [each.__cause__, each.__context__]
    return chain
