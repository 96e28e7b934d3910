"""Test that an exception after OSVI's answer loses nothing, with ``ATOMIC_REQUESTS``.

The tests use real requests and transactions; the host's own code fails after the view.
"""

from __future__ import annotations

import pytest
from django.contrib.admin.models import LogEntry
from django.db.models.signals import pre_save
from django.test import Client
from django.urls import reverse

from osvi_django.exceptions import OSVINoAnswer
from osvi_django.models import ChatSession, CloseJob
from osvi_django.services import close_session
from osvi_django.signals import session_closed
from osvi_django.testing import Drop
from tests.helpers.sandbox import mirror

pytestmark = pytest.mark.django_db(transaction=True)

LIST = "/admin/osvi_django/chatsession/"


class BrokenMiddleware:
    """Fail after the view has answered, as a host's middleware may."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        self.get_response(request)
        raise RuntimeError("a bug of the host")


@pytest.fixture
def browser(staff, settings):
    """Return a client that answers 500 instead of raising, in a host with ATOMIC_REQUESTS."""
    assert settings.DATABASES["default"]["ATOMIC_REQUESTS"]
    settings.OSVI_EXECUTOR = "osvi_django.executors.immediate"
    client = Client(raise_request_exception=False)
    client.force_login(staff)
    return client


@pytest.fixture
def session(osvi_sandbox, transactional_db):
    return mirror(osvi_sandbox, summary="All is well.")


def rest(client, session):
    url = f"/api/osvi/sessions/{session.session_id}/close/"
    return client.post(url, content_type="application/json")


def confirm_page(client, session):
    url = reverse("admin:osvi_django_chatsession_close", args=[session.pk])
    return client.post(url, {"post": "yes"})


def list_action(client, session):
    chosen = {"action": "close_selected", "_selected_action": [session.pk]}
    client.post(LIST, chosen)
    return client.post(
        reverse("admin:osvi_django_closejob_confirm", args=[CloseJob.objects.get().pk])
    )


def recover_action(client, session):
    chosen = {"action": "recover_selected", "_selected_action": [session.pk], "post": "yes"}
    return client.post(LIST, chosen)


def rest_recover(client, session):
    url = f"/api/osvi/sessions/{session.session_id}/recover/"
    return client.post(url, content_type="application/json")


ENTRY_POINTS = [rest, confirm_page, list_action]


def assert_stored(osvi, session):
    stored = ChatSession.objects.get()
    assert (stored.status, stored.summary.text) == ("closed", "All is well.")
    assert osvi.closes(session.session_id) == 1


@pytest.mark.parametrize("via", ENTRY_POINTS)
def test_close_with_failing_middleware_keeps_summary(browser, session, osvi_sandbox, settings, via):
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.{BrokenMiddleware.__name__}"]
    assert via(browser, session).status_code == 500
    assert_stored(osvi_sandbox, session)


@pytest.mark.parametrize("via", [rest_recover, confirm_page, recover_action])
def test_recovery_with_failing_middleware_keeps_summary(
    browser, session, osvi_sandbox, settings, via
):
    osvi_sandbox.script(session.session_id, Drop(after_closing=True))
    with pytest.raises(OSVINoAnswer):
        close_session(session)
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.{BrokenMiddleware.__name__}"]
    assert via(browser, session).status_code == 500
    assert_stored(osvi_sandbox, session)


@pytest.mark.parametrize("via", ENTRY_POINTS)
def test_close_with_failing_signal_receiver_keeps_summary(browser, session, osvi_sandbox, via):
    def explode(**named):
        raise RuntimeError("a bug of the host")

    session_closed.connect(explode)
    try:
        assert via(browser, session).status_code in {200, 302}
    finally:
        session_closed.disconnect(explode)
    assert_stored(osvi_sandbox, session)


@pytest.mark.parametrize("via", [confirm_page, list_action])
def test_close_with_failing_log_entry_keeps_summary(browser, session, osvi_sandbox, via):
    def explode(**named):
        raise RuntimeError("a bug of the host")

    pre_save.connect(explode, sender=LogEntry)
    try:
        assert via(browser, session).status_code == 302
    finally:
        pre_save.disconnect(explode, sender=LogEntry)
    assert_stored(osvi_sandbox, session)
    assert not LogEntry.objects.exists()
