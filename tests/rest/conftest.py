"""Clients who may do some of it, and jobs that run when a test says so."""

from __future__ import annotations

import pytest
from rest_framework.test import APIClient

from osvi_django.services.jobs import create_close_job, run_close_job
from tests.mirroring import mirror


@pytest.fixture(autouse=True)
def nobody_is_told(settings):
    """A job waits until a test runs it."""
    settings.OSVI_EXECUTOR = None


@pytest.fixture(autouse=True)
def transactions_of_tests(monkeypatch):
    """After an error REST framework rolls the view's transaction back, or takes a test's for it."""
    monkeypatch.setattr("rest_framework.views.set_rollback", lambda: None)


@pytest.fixture
def somebody(django_user_model, grant):
    """Make a client of somebody with no more than these permissions."""

    def _somebody(*codenames, name="jo"):
        user, _is_new = django_user_model.objects.get_or_create(username=name)
        client = APIClient()
        client.force_authenticate(grant(user, *codenames) if codenames else user)
        return client

    return _somebody


@pytest.fixture
def job(osvi_sandbox, staff):
    """A job of the member of the support staff, of three sessions, that waits."""
    sessions = [mirror(osvi_sandbox, summary="All is well.") for _number in range(3)]
    return create_close_job(sessions, requested_by=staff, via="rest", note="Goodbye")


@pytest.fixture
def run():
    """Run a job, given as a row or as an answer has it."""
    return lambda job: run_close_job(job["id"] if isinstance(job, dict) else job.pk)
