"""Fixtures of the tests of the admin: clients with permissions, messages, and close jobs."""

from __future__ import annotations

import pytest
from django.urls import reverse

from osvi_django.models import CloseJob, CloseJobItem
from osvi_django.services.jobs.store import COUNTERS
from osvi_django.testing.factories import ChatAgentFactory, ChatSessionFactory
from tests.helpers.callers import RevokingBackend
from tests.helpers.datetimes import db_datetime

# The status of the session of an item right after its job.
AFTER_JOB = {"closed": "closed", "already_closed": "closed", "unconfirmed": "unconfirmed"}
FICKLE = f"{RevokingBackend.__module__}.{RevokingBackend.__name__}"


@pytest.fixture(autouse=True)
def no_executor(settings):
    """Let each job wait until a test runs it."""
    settings.OSVI_EXECUTOR = None


@pytest.fixture
def immediate_executor(settings):
    """Run each job in the request that starts or resumes it."""
    settings.OSVI_EXECUTOR = "osvi_django.executors.immediate"


@pytest.fixture
def staff_client(client, staff):
    """Log in as support staff."""
    client.force_login(staff)
    return client


@pytest.fixture
def log_in(client, django_user_model, grant):
    """Log in as staff with only these permissions."""

    def _log_in(*codenames, name="jo"):
        user = django_user_model.objects.create_user(name, is_staff=True)
        client.force_login(grant(user, *codenames))
        return client

    return _log_in


@pytest.fixture
def operator(log_in):
    """Log in as staff who may view and operate sessions."""
    return log_in("view_chatsession", "operate_chatsession")


@pytest.fixture
def allowed_once(settings):
    """Grant these permissions for one check each."""
    settings.AUTHENTICATION_BACKENDS = [*settings.AUTHENTICATION_BACKENDS, FICKLE]
    yield lambda *codenames: RevokingBackend.once.extend(
        f"osvi_django.{each}" for each in codenames
    )
    left, RevokingBackend.once[:] = list(RevokingBackend.once), []
    assert left == []


@pytest.fixture
def messages_of():
    """Return the level and text of each message on a page."""

    def _messages_of(response):
        return [(message.level_tag, message.message) for message in response.context["messages"]]

    return _messages_of


@pytest.fixture
def make_job(staff):
    """Create a job that no worker runs, with so many sessions of each outcome."""

    def _make_job(status="running", *, requested_by=staff, reason="", code="", **outcomes):
        counted = {}
        for outcome, number in outcomes.items():
            if counter := COUNTERS.get(outcome):
                counted[counter] = counted.get(counter, 0) + number
        if status.startswith("completed"):
            counted |= {
                "started_at": db_datetime("2026-01-01T10:00Z"),
                "finished_at": db_datetime("2026-01-01T10:00:42Z"),
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
            status = AFTER_JOB.get(outcome, "active")
            for session in ChatSessionFactory.create_batch(number, agent=agent, status=status):
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

    return _make_job


@pytest.fixture
def job_url():
    """Return the URL of a page of a job."""
    return lambda name, job: reverse(f"admin:osvi_django_closejob_{name}", args=[job.pk])
