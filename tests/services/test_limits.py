"""Test the limit of requests that wait for OSVI, and OSVI's Retry-After."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest
from django.db import connection
from django.urls import reverse

from osvi_django.client.throttle import concurrency_of, throttle_for
from osvi_django.exceptions import OSVIThrottled
from osvi_django.models import CloseAttempt, StartLock
from osvi_django.services import close_session
from osvi_django.services.attempts.sync_limit import waiting_slot
from osvi_django.services.jobs import create_close_job, run_close_job
from osvi_django.services.mirroring import look_up_customer
from osvi_django.services.recovery import Settled, recover_session
from osvi_django.services.starting import start_session
from osvi_django.services.support import receive_message, take_over
from osvi_django.testing import Drop, Status
from tests.helpers.sandbox import CallThenAnswer, mirror
from tests.helpers.waiting import TIMEOUT, wait_until


@pytest.fixture
def waiting_call(osvi_sandbox):
    """Return a context manager in which a call of another thread waits for OSVI."""

    @contextmanager
    def _waiting_call(call):
        slow, goes_on = mirror(osvi_sandbox), threading.Event()
        sent, is_first = len(osvi_sandbox.requests), threading.Lock()

        def wait():
            if is_first.acquire(blocking=False):
                goes_on.wait(TIMEOUT)

        for named in (slow.session_id, None):
            osvi_sandbox.script(named, CallThenAnswer(wait))

        def ask():
            try:
                call(slow)
            finally:
                connection.close()

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            wait_until(lambda: len(osvi_sandbox.requests) > sent)
            yield
        finally:
            goes_on.set()
            thread.join()

    return _waiting_call


def every_call(session, in_doubt):
    """Return the path and the body of each request that calls OSVI, recovery last."""
    named, customer = session.session_id, {"customer_id": "+4917"}
    return [
        (f"{named}/support/", {"command": "whisper", "message": "Be kind."}),
        (f"{named}/support/", {"command": "end"}),
        (f"{named}/support/", {"message": "This is Sam."}),
        (f"{named}/support/", {"command": "close"}),
        (f"{named}/context/", {"context": "A regular."}),
        (f"{named}/messages/", {"content": "Hello?"}),
        ("", {"agent_uuid": "agent_a", **customer}),
        ("sync/", customer),
        (f"{in_doubt.session_id}/recover/", {}),
    ]


class TestSyncLimit:
    @pytest.mark.django_db(transaction=True)
    def test_rest_close_over_limit_returns_503_and_sends_nothing(self, api, osvi_sandbox, settings):
        settings.OSVI_MAX_SYNC_CALLS = 1
        slow, other = mirror(osvi_sandbox), mirror(osvi_sandbox)
        goes_on = threading.Event()
        osvi_sandbox.latency = lambda chat: (goes_on.wait(TIMEOUT) and 0.0) or 0.0

        def close():
            close_session(slow, via="rest")
            connection.close()

        thread = threading.Thread(target=close)
        thread.start()
        try:
            wait_until(lambda: osvi_sandbox.close_requests(slow.session_id))
            response = api.post(f"/api/osvi/sessions/{other.session_id}/close/")
            again = api.post(f"/api/osvi/sessions/{slow.session_id}/close/")
        finally:
            goes_on.set()
            thread.join()
        assert (response.status_code, response.json()["code"]) == (503, "busy")
        assert (response.json()["retryable"], response["Retry-After"]) == (True, "5")
        assert osvi_sandbox.close_requests(other.session_id) == 0
        assert (again.status_code, again.json()["code"]) == (409, "close_in_progress")
        other.refresh_from_db()
        assert (other.status, other.attempts.count()) == ("active", 0)
        assert api.post(f"/api/osvi/sessions/{other.session_id}/close/").status_code == 200

    @pytest.mark.django_db(transaction=True)
    def test_rest_calls_over_limit_return_503_and_send_nothing(
        self, operator, osvi_sandbox, settings, unconfirmed, waiting_call
    ):
        settings.OSVI_MAX_SYNC_CALLS = 1
        session, in_doubt = mirror(osvi_sandbox, mode="support"), unconfirmed(Drop())
        with waiting_call(lambda slow: take_over(slow, via="admin")):
            sent = len(osvi_sandbox.requests)
            answers = [
                operator.post(f"/api/osvi/sessions/{path}", body, format="json")
                for path, body in every_call(session, in_doubt)
            ]
        assert {(each.status_code, each.json()["code"]) for each in answers} == {(503, "busy")}
        assert {each["Retry-After"] for each in answers} == {"5"}
        assert all("nothing has changed" in each.json()["detail"] for each in answers)
        assert len(osvi_sandbox.requests) == sent
        assert not session.actions.exists()
        assert not StartLock.objects.exists()
        in_doubt.refresh_from_db()
        assert in_doubt.status == "unconfirmed"
        path, body = every_call(session, in_doubt)[0]
        assert operator.post(f"/api/osvi/sessions/{path}", body, format="json").status_code == 200

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize(
        "call",
        [
            lambda session: look_up_customer("+1", via="rest"),
            lambda session: start_session(agent_uuid="agent_1", customer_id="+1", via="rest"),
            lambda session: receive_message(session, "Hello?", via="rest"),
        ],
        ids=["look-up", "start", "message"],
    )
    def test_call_keeps_its_place_while_osvi_hangs(
        self, api, osvi_sandbox, settings, waiting_call, call
    ):
        settings.OSVI_MAX_SYNC_CALLS = 1
        other = mirror(osvi_sandbox)
        with waiting_call(call):
            response = api.post(f"/api/osvi/sessions/{other.session_id}/close/")
        assert (response.status_code, response.json()["code"]) == (503, "busy")
        assert api.post(f"/api/osvi/sessions/{other.session_id}/close/").status_code == 200

    @pytest.mark.django_db(transaction=True)
    def test_admin_over_limit_shows_what_happened_and_what_to_do(
        self, client, staff, grant, osvi_sandbox, settings, waiting_call
    ):
        settings.OSVI_MAX_SYNC_CALLS = 1
        client.force_login(grant(staff, "operate_chatsession"))
        session = mirror(osvi_sandbox)
        close, desk = (
            reverse(f"admin:osvi_django_chatsession_{name}", args=[session.pk])
            for name in ("close", "desk")
        )
        with waiting_call(lambda slow: take_over(slow, via="rest")):
            answers = [
                client.post(close, {"post": "yes", "note": ""}, follow=True),
                client.post(
                    desk, {"command": "send", "to": "whisper", "text": "Be kind"}, follow=True
                ),
            ]
        for answer in answers:
            assert answer.status_code == 200
            assert "Too many requests of this site are waiting for OSVI" in answer.content.decode()
            assert "Try again in a moment." in answer.content.decode()
        assert "Be kind" in answers[1].content.decode()  # what was typed stays
        assert not session.attempts.exists()
        assert not session.actions.exists()

    @pytest.mark.django_db(transaction=True)
    def test_close_job_over_limit_is_not_limited(
        self, osvi_sandbox, settings, unconfirmed, waiting_call
    ):
        settings.OSVI_MAX_SYNC_CALLS, settings.OSVI_EXECUTOR = 1, None
        job = create_close_job([unconfirmed(Drop())], via="rest")
        with waiting_call(lambda slow: take_over(slow, via="rest")):
            assert run_close_job(job.pk).succeeded == 1

    @pytest.mark.django_db
    def test_close_from_code_over_limit_is_not_limited(self, osvi_sandbox, settings):
        settings.OSVI_MAX_SYNC_CALLS = 1
        with waiting_slot("admin"), waiting_slot("rest"):
            assert close_session(mirror(osvi_sandbox)).changed

    @pytest.mark.django_db
    @pytest.mark.parametrize("value", [0, "8", None])
    def test_invalid_limit_returns_not_configured(self, api, osvi_sandbox, settings, value):
        settings.OSVI_MAX_SYNC_CALLS = value
        session = mirror(osvi_sandbox)
        response = api.post(f"/api/osvi/sessions/{session.session_id}/close/")
        assert (response.status_code, response.json()["code"]) == (503, "not_configured")
        assert "OSVI_MAX_SYNC_CALLS" in response.json()["detail"]


@pytest.mark.django_db
class TestRetryAfter:
    @pytest.mark.parametrize("status", [429, 503])
    def test_close_after_retry_after_sends_nothing(self, api, osvi_sandbox, status):
        first, second = mirror(osvi_sandbox), mirror(osvi_sandbox)
        osvi_sandbox.script(first.session_id, Status(status, retry_after=30))
        with pytest.raises(OSVIThrottled):
            close_session(first)
        response = api.post(f"/api/osvi/sessions/{second.session_id}/close/")
        assert (response.status_code, response.json()["code"]) == (503, "busy_at_osvi")
        assert 25 <= int(response["Retry-After"]) <= 30
        assert osvi_sandbox.close_requests(second.session_id) == 0
        assert not CloseAttempt.objects.filter(session=second).exists()

    def test_other_calls_after_retry_after_send_nothing(self, operator, osvi_sandbox, unconfirmed):
        first, second = mirror(osvi_sandbox), mirror(osvi_sandbox, mode="support")
        in_doubt = unconfirmed(Drop())
        osvi_sandbox.script(first.session_id, Status(429, retry_after=30))
        with pytest.raises(OSVIThrottled):
            take_over(first)
        sent = len(osvi_sandbox.requests)
        *answers, recovered = [
            operator.post(f"/api/osvi/sessions/{path}", body, format="json")
            for path, body in every_call(second, in_doubt)
        ]
        codes = {(each.status_code, each.json()["code"]) for each in answers}
        assert codes == {(503, "busy_at_osvi")}
        assert all(25 <= int(each["Retry-After"]) <= 30 for each in answers)
        assert recovered.json()["settled"] == "unchanged"
        assert "asked this site to wait" in recovered.json()["detail"]
        assert len(osvi_sandbox.requests) == sent
        assert not second.actions.exists()
        assert first.actions.get().error_code == "busy_at_osvi"

    @pytest.mark.parametrize(
        "call",
        [
            lambda: look_up_customer("+1"),
            lambda: start_session(agent_uuid="agent_1", customer_id="+1"),
        ],
        ids=["look-up", "start"],
    )
    def test_close_after_retry_after_of_look_up_or_start_sends_nothing(self, osvi_sandbox, call):
        session = mirror(osvi_sandbox)
        osvi_sandbox.script(None, Status(429, retry_after=30))
        with pytest.raises(OSVIThrottled):
            call()
        with pytest.raises(OSVIThrottled, match="asked this site to wait"):
            close_session(session)
        assert osvi_sandbox.close_requests(session.session_id) == 0

    def test_close_after_retry_after_of_check_sends_nothing(self, osvi_sandbox):
        session, other = mirror(osvi_sandbox, customer_id="+1"), mirror(osvi_sandbox)
        osvi_sandbox.sessions[session.session_id].change(status="dormant")
        osvi_sandbox.script(session.session_id, Status(429, retry_after=30))
        assert look_up_customer("+1").unknown == 1
        with pytest.raises(OSVIThrottled, match="asked this site to wait"):
            close_session(other)

    def test_recovery_after_retry_after_waits_and_closes_again(self, osvi_sandbox, unconfirmed):
        session = unconfirmed(Drop(after_closing=True))
        osvi_sandbox.script(session.session_id, Status(429, retry_after=1))
        refused = recover_session(session)
        assert (refused.settled, refused.error.code) == (Settled.UNCHANGED, "busy_at_osvi")
        sent = len(osvi_sandbox.requests)
        assert recover_session(session).settled is Settled.UNCHANGED
        assert len(osvi_sandbox.requests) == sent
        wait_until(lambda: recover_session(session).settled is not Settled.UNCHANGED)
        assert session.attempts.filter(kind="reclose").count() == 2

    def test_close_after_refusal_without_retry_after_is_sent(self, osvi_sandbox):
        session = mirror(osvi_sandbox)
        osvi_sandbox.script(session.session_id, Status(503, errors=["Busy"]))
        with pytest.raises(OSVIThrottled):
            close_session(session)
        assert close_session(session).changed

    def test_close_that_succeeds_resets_trouble_of_account(self, osvi_sandbox, settings):
        first, second = mirror(osvi_sandbox), mirror(osvi_sandbox)
        osvi_sandbox.script(first.session_id, Status(503, retry_after=1))
        with pytest.raises(OSVIThrottled):
            close_session(first)
        base_url = settings.OSVI["default"]["BASE_URL"].rstrip("/")
        pace = throttle_for("default", base_url, concurrency_of("default"))
        assert pace.last_error is not None
        wait_until(lambda: pace.seconds_of_retry_after == 0)
        close_session(second)
        assert pace.last_error is None

    @pytest.mark.parametrize("value", [0, "many", None])
    def test_close_with_invalid_concurrency_succeeds(self, osvi_sandbox, settings, value):
        settings.OSVI["default"]["CONCURRENCY"] = value
        assert close_session(mirror(osvi_sandbox)).changed
