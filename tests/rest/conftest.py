"""Fixtures of the REST tests: clients with some permissions, sessions, and jobs."""

from __future__ import annotations

import pytest
from rest_framework.test import APIClient

from osvi_django.services.jobs import create_close_job, run_close_job
from tests.helpers.sandbox import mirror


@pytest.fixture(autouse=True)
def no_executor(settings):
    """Let each job wait until a test runs it."""
    settings.OSVI_EXECUTOR = None


@pytest.fixture(autouse=True)
def documented(request, settings):
    """Compare each answer with the schema, but not those of a host's own making."""
    if "undocumented" not in request.keywords:
        ours = "tests.helpers.documented.DocumentedMiddleware"
        settings.MIDDLEWARE = [*settings.MIDDLEWARE, ours]


@pytest.fixture(autouse=True)
def keep_test_transaction(monkeypatch):
    """Keep REST framework from rolling back the test's own transaction after an error."""
    monkeypatch.setattr("rest_framework.views.set_rollback", lambda: None)


@pytest.fixture
def client_with(django_user_model, grant):
    """Return a client of a user with only these permissions."""

    def _client_with(*codenames, name="jo"):
        user, _is_new = django_user_model.objects.get_or_create(username=name)
        client = APIClient()
        client.force_authenticate(grant(user, *codenames) if codenames else user)
        return client

    return _client_with


@pytest.fixture
def session(osvi_sandbox):
    """Create a session here and at OSVI."""
    return mirror(osvi_sandbox, summary="All is well.")


@pytest.fixture
def job(osvi_sandbox, staff):
    """Create a waiting job of three sessions, requested by the support staff."""
    sessions = [mirror(osvi_sandbox, summary="All is well.") for _number in range(3)]
    return create_close_job(sessions, requested_by=staff, via="rest", note="Goodbye")


@pytest.fixture
def run():
    """Run a job, given as a row or as JSON."""
    return lambda job: run_close_job(job["id"] if isinstance(job, dict) else job.pk)
