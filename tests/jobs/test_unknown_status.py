"""Sessions whose status this version does not know: no close waits for them or changes them."""

from __future__ import annotations

import pytest

from osvi_django.exceptions import UnknownStatus
from osvi_django.models import ChatSession, CloseAttempt
from osvi_django.services import close_again
from osvi_django.services.closing import close_session, require_closable
from osvi_django.services.recovery import recover_session
from osvi_django.testing.factories import CloseAttemptFactory

pytestmark = pytest.mark.django_db

UNKNOWN = "archived"


@pytest.fixture
def unknown_and_known(chats):
    """Return a session whose status is of another version, and one that is active."""
    session, known = chats(2)
    ChatSession.objects.filter(pk=session.pk).update(status=UNKNOWN)
    return session, known


@pytest.fixture
def untouched(unknown_and_known, osvi_sandbox):
    """Check after the test that the session was not closed and has the same status."""
    yield
    session, _known = unknown_and_known
    assert osvi_sandbox.close_requests(session.session_id) == 0
    assert ChatSession.objects.get(pk=session.pk).status == UNKNOWN


@pytest.mark.usefixtures("untouched")
class TestUnknownStatus:
    def test_job_with_unknown_status_finishes_with_errors(self, unknown_and_known, close_all):
        session, known = unknown_and_known
        job = close_all()
        assert (job.status, job.succeeded, job.failed) == ("completed_with_errors", 1, 1)
        item = job.items.get(session=session)
        assert (item.outcome, item.error_code) == ("not_sent", "unknown_status")
        assert job.items.get(session=known).outcome == "closed"

    @pytest.mark.parametrize("close", [close_session, close_again, recover_session])
    def test_close_of_unknown_status_raises_with_last_attempt(self, unknown_and_known, close):
        session, _known = unknown_and_known
        attempt = CloseAttemptFactory(session=session)
        with pytest.raises(UnknownStatus, match="same version") as caught:
            close(session)
        assert caught.value.attempt == attempt
        assert CloseAttempt.objects.count() == 1

    def test_require_closable_of_unknown_status_raises(self, unknown_and_known):
        session, _known = unknown_and_known
        session.refresh_from_db()
        with pytest.raises(UnknownStatus):
            require_closable(session)

    @pytest.mark.parametrize("action", ["close", "recover"])
    def test_rest_close_of_unknown_status_answers_409(self, unknown_and_known, api, action):
        session, _known = unknown_and_known
        response = api.post(f"/api/osvi/sessions/{session.session_id}/{action}/")
        assert (response.status_code, response.json()["code"]) == (409, "unknown_status")
        assert response.json()["retryable"] is False
