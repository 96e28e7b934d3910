"""Sessions whose status no version here knows: every close of them ends, and says why."""

from __future__ import annotations

import pytest

from osvi_django.exceptions import UnknownStatus
from osvi_django.models import ChatSession, CloseAttempt
from osvi_django.services import close_again
from osvi_django.services.closing import close_session, require_closable
from osvi_django.services.recovery import recover_session
from osvi_django.testing.factories import CloseAttemptFactory

pytestmark = pytest.mark.django_db

ODD = "archived"


@pytest.fixture
def odd(chats):
    """One that another version has written, and one that this version has."""
    session, known = chats(2)
    ChatSession.objects.filter(pk=session.pk).update(status=ODD)
    return session, known


@pytest.fixture
def untouched(odd, osvi_sandbox):
    yield
    session, _known = odd
    assert osvi_sandbox.close_requests(session.session_id) == 0
    assert ChatSession.objects.get(pk=session.pk).status == ODD


@pytest.mark.usefixtures("untouched")
class TestUnknownStatus:
    def test_a_job_with_such_a_session_ends(self, odd, close_all):
        session, known = odd
        job = close_all()
        assert (job.status, job.succeeded, job.failed) == ("completed_with_errors", 1, 1)
        item = job.items.get(session=session)
        assert (item.outcome, item.error_code) == ("not_sent", "unknown_status")
        assert job.items.get(session=known).outcome == "closed"

    @pytest.mark.parametrize("close", [close_session, close_again, recover_session])
    def test_a_single_close_is_refused_with_the_last_attempt(self, odd, close):
        session, _known = odd
        attempt = CloseAttemptFactory(session=session)
        with pytest.raises(UnknownStatus, match="same version") as caught:
            close(session)
        assert caught.value.attempt == attempt
        assert CloseAttempt.objects.count() == 1

    def test_a_close_in_the_background_is_refused_at_once(self, odd):
        session, _known = odd
        session.refresh_from_db()
        with pytest.raises(UnknownStatus):
            require_closable(session)

    @pytest.mark.parametrize("action", ["close", "recover"])
    def test_rest_answers_a_conflict(self, odd, api, action):
        session, _known = odd
        response = api.post(f"/api/osvi/sessions/{session.session_id}/{action}/")
        assert (response.status_code, response.json()["code"]) == (409, "unknown_status")
        assert response.json()["retryable"] is False
