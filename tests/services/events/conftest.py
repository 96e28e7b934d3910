"""Fixtures for the tests of events: receivers in the settings, and what is in the outbox."""

from __future__ import annotations

import base64
import time
from datetime import timedelta

import pytest

from osvi_django.database import DatabaseNow
from osvi_django.models import WebhookDelivery, WebhookReceiver
from osvi_django.services.events.outbox import Event, Fact, write

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
urlpatterns = []  # a host without the REST API
URL = "https://crm.example/hooks/very-secret"


@pytest.fixture(autouse=True)
def no_executor(settings):
    """Let events wait until a test delivers them."""
    settings.OSVI_EXECUTOR = None


@pytest.fixture
def use_receivers(settings):
    """Set receivers with these options; each has a URL of its own unless it is named."""

    def _use_receivers(*options):
        settings.OSVI_WEBHOOKS = [
            {"URL": f"{URL}/{number}", "SECRETS": [SECRET], **each}
            for number, each in enumerate(options)
        ]
        return settings.OSVI_WEBHOOKS

    return _use_receivers


@pytest.fixture
def use_servers(use_receivers):
    """Set these servers of this machine as receivers, with the same options."""

    def _use_servers(*servers, **options):
        return use_receivers(
            *({"URL": each.url, "ALLOW_PRIVATE": True, **options} for each in servers)
        )

    return _use_servers


@pytest.fixture
def write_events():
    """Write an event for each of these subjects, in one transaction each."""

    def _write_events(*subjects, event=Event.SESSION_CLOSED, **data):
        for subject in subjects:
            write([Fact(event=event, subject=subject, data=data)], using="default")

    return _write_events


@pytest.fixture
def outbox():
    """Return the events in the outbox, oldest first, as pairs of event and subject."""
    return lambda: list(WebhookDelivery.objects.order_by("id").values_list("event", "subject"))


@pytest.fixture
def states():
    """Return the state, tries and error of each row, oldest first."""

    def _states():
        rows = WebhookDelivery.objects.order_by("id")
        return list(rows.values_list("state", "tries", "error_code"))

    return _states


@pytest.fixture
def pass_time():
    """Make all that waits for a later try due now, as if so many seconds had passed."""

    def _pass_time(seconds=100_000):
        past = DatabaseNow() - timedelta(seconds=1)
        WebhookDelivery.objects.filter(
            due_at__lte=DatabaseNow() + timedelta(seconds=seconds)
        ).update(due_at=past)
        WebhookReceiver.objects.filter(
            paused_until__lte=DatabaseNow() + timedelta(seconds=seconds)
        ).update(paused_until=past)

    return _pass_time


@pytest.fixture
def pass_seconds(monkeypatch):
    """Let the monotonic clock go forward by so many seconds."""
    real, ahead = time.clock_gettime, [0.0]
    monkeypatch.setattr(time, "clock_gettime", lambda which: real(which) + sum(ahead))
    return ahead.append
