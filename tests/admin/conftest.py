"""What the admin's tests share: a browser of sorts, what it was told, and jobs to look at."""

from __future__ import annotations

import pytest
from django.urls import reverse

from osvi_django.models import CloseJob, CloseJobItem
from osvi_django.services.jobs.store import COUNTERS
from osvi_django.testing.factories import ChatAgentFactory, ChatSessionFactory
from tests.moments import stored
from tests.outside import Fickle

FICKLE = f"{Fickle.__module__}.{Fickle.__name__}"


@pytest.fixture
def desk(client, staff):
    """A client that a member of the support staff is logged in with."""
    client.force_login(staff)
    return client


@pytest.fixture
def log_in(client, django_user_model, grant):
    """Log in as staff with no more than these permissions."""

    def _log_in(*codenames, name="jo"):
        user = django_user_model.objects.create_user(name, is_staff=True)
        client.force_login(grant(user, *codenames))
        return client

    return _log_in


@pytest.fixture
def allowed_once(settings):
    """Everybody is allowed these, each for one look at it."""
    settings.AUTHENTICATION_BACKENDS = [*settings.AUTHENTICATION_BACKENDS, FICKLE]
    yield lambda *codenames: Fickle.once.extend(f"osvi_django.{each}" for each in codenames)
    left, Fickle.once[:] = list(Fickle.once), []
    assert left == []


@pytest.fixture
def told():
    """The sentences that a page says at its top, with their level."""

    def _told(response):
        return [(message.level_tag, message.message) for message in response.context["messages"]]

    return _told


@pytest.fixture
def job_with(staff):
    """Make a job of which nobody knows but its rows: so many sessions of each outcome."""

    def _job_with(status="running", *, requested_by=staff, reason="", code="", **outcomes):
        counted = {}
        for outcome, number in outcomes.items():
            if counter := COUNTERS.get(outcome):
                counted[counter] = counted.get(counter, 0) + number
        if status.startswith("completed"):
            counted |= {
                "started_at": stored("2026-01-01T10:00Z"),
                "finished_at": stored("2026-01-01T10:00:42Z"),
            }
        job = CloseJob.objects.create(
            status=status,
            requested_by=requested_by,
            via="admin",
            total=sum(outcomes.values()),
            **counted,
        )
        agent = ChatAgentFactory()
        for outcome, number in outcomes.items():
            for session in ChatSessionFactory.create_batch(number, agent=agent):
                CloseJobItem.objects.create(
                    job=job,
                    requested_session_id=session.session_id,
                    session=session,
                    account="default",
                    outcome=outcome,
                    error_code=code if outcome in {"rejected", "unconfirmed"} else "",
                    error_reason=reason,
                )
        return job

    return _job_with


@pytest.fixture
def url_of():
    """The address of a page about a job."""
    return lambda name, job: reverse(f"admin:osvi_django_closejob_{name}", args=[job.pk])
