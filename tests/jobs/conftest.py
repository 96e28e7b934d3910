"""Sessions that are here and at the sandbox, and jobs of them."""

from __future__ import annotations

import pytest
from django.db import connection

from osvi_django.models import ChatSession
from osvi_django.services.jobs import create_close_job, run_close_job
from osvi_django.testing.factories import ChatAgentFactory
from tests.helpers.sandbox import mirror

STARTED = []


def remember(job_id):
    """Note the id of a job instead of starting it."""
    STARTED.append(job_id)


def in_own_connection(work, *args):
    """Call a function in this thread, and close the thread's connection."""
    try:
        return work(*args)
    finally:
        connection.close()


@pytest.fixture
def started(settings):
    """Return the ids of the jobs that the executor was called with."""
    settings.OSVI_EXECUTOR = f"{__name__}.remember"
    STARTED.clear()
    return STARTED


@pytest.fixture
def agent(db):
    """Return an agent of the default account."""
    return ChatAgentFactory()


@pytest.fixture
def chats(osvi_sandbox, agent):
    """Make so many sessions that are here and at the sandbox."""

    def _chats(number, **fields):
        return [mirror(osvi_sandbox, **{"agent": agent, **fields}) for _number in range(number)]

    return _chats


@pytest.fixture
def close_all(osvi_sandbox):
    """Make a job of these sessions, or of all, and run it."""

    def _close_all(sessions=None, **named):
        wanted = ChatSession.objects.all() if sessions is None else sessions
        return run_close_job(create_close_job(wanted, start=False, **named).pk)

    return _close_all


@pytest.fixture
def outcomes():
    """Return the outcome of each item of a job, by session id."""
    return lambda job: dict(job.items.values_list("requested_session_id", "outcome"))
