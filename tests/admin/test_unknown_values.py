"""Tests of rows with values that no enum of this version has."""

from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import call_command
from django.urls import reverse

from osvi_django.models import (
    ChatSession,
    CloseAttempt,
    CloseJob,
    CloseJobItem,
    SessionSummary,
    SupportAction,
)
from osvi_django.testing.factories import CloseAttemptFactory

pytestmark = pytest.mark.django_db

UNKNOWN = "odd<value>"
ESCAPED = "odd&lt;value&gt;"


@pytest.fixture
def rows(make_job):
    """Create a session and a job whose rows have unknown values."""
    job = make_job("running", closed=1, rejected=1)
    session = ChatSession.objects.first()
    CloseAttemptFactory(session=session)
    SupportAction.objects.create(session=session, kind="message", text="Hello")
    SessionSummary.objects.create(session=session, text="Words")
    ChatSession.objects.update(
        status=UNKNOWN, mode=UNKNOWN, summary_status=UNKNOWN, previous_status=UNKNOWN
    )
    CloseAttempt.objects.update(kind=UNKNOWN, outcome=UNKNOWN, via=UNKNOWN, error_code=UNKNOWN)
    SupportAction.objects.update(kind=UNKNOWN, outcome=UNKNOWN, error_code=UNKNOWN)
    SessionSummary.objects.update(source=UNKNOWN)
    CloseJobItem.objects.filter(outcome="rejected").update(outcome=UNKNOWN, error_code=UNKNOWN)
    CloseJob.objects.update(status=UNKNOWN, paused_by=UNKNOWN, via=UNKNOWN)
    return session, job


@pytest.mark.parametrize("name", ["change", "close", "mark", "desk", "attempts", "thread"])
def test_session_pages_with_unknown_values_show_them(admin_client, rows, name):
    session, _job = rows
    url = reverse(f"admin:osvi_django_chatsession_{name}", args=[session.pk])
    response = admin_client.get(url)
    assert response.status_code == 200
    assert UNKNOWN not in response.text
    assert (ESCAPED in response.text) == (name != "close" and name != "mark")


@pytest.mark.parametrize("name", ["change", "progress", "sessions", "confirm"])
def test_job_pages_with_unknown_values_escape_them(admin_client, rows, name):
    _session, job = rows
    url = reverse(f"admin:osvi_django_closejob_{name}", args=[job.pk])
    response = admin_client.get(url, follow=True)
    assert response.status_code == 200
    if name == "progress":
        data = response.json()
        assert (data["done"], data["total"]) == (2, 2)
    else:
        assert UNKNOWN not in response.text


@pytest.mark.parametrize("name", ["chatsession", "closejob"])
def test_lists_with_unknown_values_show_them(admin_client, rows, name):
    url = reverse(f"admin:osvi_django_{name}_changelist")
    for query in ({}, {"_facets": "True"}, {"status__exact": UNKNOWN}, {"status": UNKNOWN}):
        if "status__exact" in query and name == "closejob":
            continue
        if "status" in query and name == "chatsession":
            continue
        response = admin_client.get(url, query)
        assert response.status_code == 200
        assert UNKNOWN not in response.text
    assert ESCAPED in admin_client.get(url).text


def test_actions_with_unknown_status_are_no_server_error(admin_client, rows, osvi_sandbox):
    session, _job = rows
    for name, data in (("desk", {"command": "takeover"}), ("close", {"post": "yes"})):
        url = reverse(f"admin:osvi_django_chatsession_{name}", args=[session.pk])
        assert admin_client.post(url, data, follow=True).status_code == 200


def test_rest_with_unknown_values_shows_them(api, rows, staff, grant):
    session, job = rows
    user = grant(staff, "operate_chatsession", "view_closejob")
    api.force_authenticate(user)
    for path in (
        "sessions/",
        f"sessions/{session.session_id}/",
        f"sessions/{session.session_id}/actions/",
        "close-jobs/",
        f"close-jobs/{job.pk}/",
        f"close-jobs/{job.pk}/results/",
    ):
        response = api.get(f"/api/osvi/{path}")
        assert (path, response.status_code) == (path, 200)
        assert UNKNOWN in response.text


@pytest.mark.parametrize("command", ["osvi_recover", "osvi_summarize", "osvi_purge"])
def test_commands_with_unknown_values_do_not_fail(rows, command, osvi_sandbox):
    out = StringIO()
    call_command(command, stdout=out, stderr=out)
    assert "Traceback" not in out.getvalue()
