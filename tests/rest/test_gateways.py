"""Tests of answers that come from a firewall instead of OSVI."""

from __future__ import annotations

import pytest

from osvi_django.exceptions import OSVIGatewayRefused
from osvi_django.models import CloseAttempt, SupportAction
from osvi_django.services.mirroring import look_up_customer
from osvi_django.services.recovery import Settled, is_refused, recover_session
from osvi_django.services.support import tell
from osvi_django.testing import Drop, Status

pytestmark = pytest.mark.django_db

PAGE = b"<html><h1>Blocked</h1></html>"


@pytest.mark.parametrize("status", [400, 403, 404, 409, 422])
@pytest.mark.parametrize("before", ["active", "dormant"])
def test_close_refused_by_firewall_leaves_session_unchanged(
    api, mirrored, osvi_sandbox, status, before
):
    session = mirrored(status=before)
    osvi_sandbox.script(session.session_id, Status(status, body=PAGE))
    response = api.post(f"/api/osvi/sessions/{session.session_id}/close/")
    assert response.status_code == 502
    assert response["Retry-After"]
    error = response.json()
    assert (error["code"], error["retryable"]) == ("gateway_refused", True)
    assert f"(HTTP {status})" in error["detail"]
    assert "firewall" in error["detail"]
    session.refresh_from_db()
    assert (session.status, session.claim) == (before, None)
    # The answer of a firewall is not verified, and is not a refusal by OSVI.
    assert len(osvi_sandbox.requests) == 1
    assert not is_refused(session)
    attempt = CloseAttempt.objects.get()
    assert (attempt.outcome, attempt.error_code) == ("not_sent", "gateway_refused")
    assert (attempt.http_status, attempt.answer) == (status, PAGE.decode())
    assert api.post(f"/api/osvi/sessions/{session.session_id}/close/").json()["changed"]


@pytest.mark.parametrize("status", [403, 404])
def test_look_up_refused_by_firewall_changes_nothing(mirrored, osvi_sandbox, status):
    session = mirrored(customer_id="+1")
    osvi_sandbox.script(None, Status(status, body=PAGE))
    with pytest.raises(OSVIGatewayRefused):
        look_up_customer("+1")
    session.refresh_from_db()
    assert session.status == "active"


@pytest.mark.parametrize("status", [403, 404, 409, 422])
def test_pause_refused_by_firewall_closes_nothing(mirrored, osvi_sandbox, status):
    session = mirrored(customer_id="+1")
    osvi_sandbox.sessions[session.session_id].status = "dormant"
    osvi_sandbox.script(session.session_id, Status(status, body=PAGE))
    assert look_up_customer("+1").unknown == 1
    session.refresh_from_db()
    assert session.status == "active"


@pytest.mark.parametrize("status", [403, 404])
def test_recovery_refused_by_firewall_leaves_session_unconfirmed(unconfirmed, osvi_sandbox, status):
    session = unconfirmed(Drop(after_closing=True))
    osvi_sandbox.script(None, Status(status, body=PAGE))
    assert recover_session(session).settled is Settled.UNCHANGED
    # The firewall refused the second close, so it is sent again.
    osvi_sandbox.script(session.session_id, Status(status, body=PAGE))
    assert recover_session(session).settled is Settled.UNCHANGED
    assert session.status == "unconfirmed"
    assert recover_session(session).settled is Settled.STORED


def test_tell_refused_by_firewall_can_be_sent_again(mirrored, osvi_sandbox):
    session = mirrored()
    osvi_sandbox.script(session.session_id, Status(403, body=PAGE))
    with pytest.raises(OSVIGatewayRefused):
        tell(session, "x")
    assert SupportAction.objects.get().outcome == "not_sent"
    assert tell(session, "x").reply
