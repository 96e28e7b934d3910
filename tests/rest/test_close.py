"""Tests of ``POST sessions/{session_id}/close/``."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import quote

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.test import APIClient

from osvi_django.database import DatabaseNow
from osvi_django.exceptions import OSVIError
from osvi_django.models import ChatAgent, ChatSession, CloseAttempt, SessionSummary
from osvi_django.rest.views.closing import SessionCloseView
from osvi_django.testing import Drop, Junk, OddSummary, OSVISandbox, Redirect, Status
from osvi_django.testing.factories import (
    ChatAgentFactory,
    ChatSessionFactory,
    CloseAttemptFactory,
)
from tests.helpers.datetimes import rest_datetime
from tests.helpers.sandbox import mirror

pytestmark = pytest.mark.django_db

BASE = "/api/osvi/sessions/"
# What an error has if OSVI answered, and if it is unknown what was done.
OF_OSVI = {"osvi_status", "osvi_reason", "next"}


def close_url(session_id):
    return f"{BASE}{quote(session_id, safe='')}/close/"


@pytest.mark.django_db(transaction=True)
def test_close_takes_at_most_20_queries(api, session):
    with CaptureQueriesContext(connection) as queries:
        assert api.post(close_url(session.session_id)).json()["closed_by"] == "sam"
    # With the permissions of the caller, and with each BEGIN and COMMIT. MariaDB's driver may set
    # up a connection.
    sent = [each["sql"] for each in queries if not each["sql"].startswith("SET ")]
    assert len(sent) <= 20, "\n".join(sent)


class TestSuccess:
    def test_close_returns_session_with_summary(self, api, session, staff):
        response = api.post(close_url(session.session_id), {"note": "done"}, format="json")
        assert response.status_code == 200
        stored = ChatSession.objects.get()
        assert response.json() == {
            "session_id": session.session_id,
            "url": f"http://testserver{BASE}{session.session_id}/",
            "account": "default",
            "agent_uuid": session.agent.uuid,
            "agent_name": session.agent.name,
            "customer_id": session.customer_id,
            "status": "closed",
            "mode": "ai",
            "help_requested": False,
            "help_requested_at": None,
            "active_human": None,
            "taken_over_by": None,
            "taken_over_at": None,
            "started_at": rest_datetime(stored.started_at),
            "last_activity_at": rest_datetime(stored.last_activity_at),
            "updated_at": rest_datetime(stored.updated_at),
            "closed_at": rest_datetime(stored.closed_at),
            "close_reason": None,
            "closed_by": "sam",
            "summary": "All is well.",
            "summary_status": "stored",
            "summary_source": "osvi",
            "summarizer_error": None,
            "input_fields": None,
            "context": [],
            "changed": True,
            "goodbye": None,
        }
        attempt = CloseAttempt.objects.get()
        assert (attempt.requested_by, attempt.via, attempt.note) == (staff, "rest", "done")

    def test_close_twice_returns_same_without_change(self, api, session, osvi_sandbox):
        first = api.post(close_url(session.session_id)).json()
        second = api.post(close_url(session.session_id)).json()
        assert second == first | {"changed": False}
        assert osvi_sandbox.close_requests(session.session_id) == 1

    def test_close_without_summary_returns_null_and_reason(self, api, session, osvi_sandbox):
        osvi_sandbox.script(session.session_id, OddSummary(None))
        body = api.post(close_url(session.session_id)).json()
        assert (body["summary"], body["summary_status"]) == (None, "not_provided")

    def test_close_unknown_session_with_agent_closes_it(self, api, osvi_sandbox):
        chat = osvi_sandbox.add_session(agent_uuid="agent_new", summary="Hello.")
        response = api.post(close_url(chat.id), {"agent_uuid": "agent_new"}, format="json")
        assert (response.status_code, response.json()["summary"]) == (200, "Hello.")
        assert ChatSession.objects.get().agent.uuid == "agent_new"

    @pytest.mark.parametrize(
        "odd", ["a/b", "a/close", "ä ö?#%2F", "-", "%00", "emoji 😀", "a..b", "two\nlines"]
    )
    def test_close_with_odd_id_succeeds(self, api, osvi_sandbox, odd):
        session = mirror(osvi_sandbox, summary="All is well.", session_id=odd)
        assert api.post(close_url(odd)).json()["session_id"] == odd
        assert osvi_sandbox.close_requests(session.session_id) == 1

    @pytest.mark.django_db(transaction=True)
    def test_close_with_atomic_requests_succeeds(self, api, session, settings):
        assert settings.DATABASES["default"]["ATOMIC_REQUESTS"]
        assert api.post(close_url(session.session_id)).status_code == 200
        assert ChatSession.objects.get().summary.text == "All is well."


class TestUnconfirmed:
    def test_close_session_open_at_osvi_closes_it(self, api, unconfirmed, osvi_sandbox):
        session = unconfirmed(Drop())
        response = api.post(close_url(session.session_id))
        assert (response.status_code, response.json()["changed"]) == (200, True)
        assert response.json()["status"] == "closed"
        assert osvi_sandbox.closes(session.session_id) == 1

    def test_close_session_closed_at_osvi_settles_it(self, api, unconfirmed, osvi_sandbox):
        session = unconfirmed(Drop(after_closing=True))
        response = api.post(close_url(session.session_id))
        assert (response.status_code, response.json()["changed"]) == (200, True)
        assert osvi_sandbox.closes(session.session_id) == 1

    def test_close_if_osvi_fails_leaves_session_unconfirmed(self, api, unconfirmed, osvi_sandbox):
        session = unconfirmed(Drop(after_closing=True))
        osvi_sandbox.script(None, Status(500))
        response = api.post(close_url(session.session_id))
        assert (response.status_code, response.json()["code"]) == (504, "unconfirmed")
        assert (response.json()["retryable"], "attempt" in response.json()) == (False, True)
        session.refresh_from_db()
        assert session.status == "unconfirmed"
        assert osvi_sandbox.close_requests(session.session_id) == 1


class TestErrors:
    @pytest.mark.parametrize(
        ("fault", "status", "code", "retryable"),
        [
            (Status(401, error="Invalid API token"), 502, "unauthorized", False),
            (Status(404, errors=["Session not found"]), 502, "unknown_at_osvi", False),
            (Status(409), 502, "rejected", False),
            (Status(422, errors=["agent_uuid is invalid"]), 502, "rejected", False),
            (Status(429, retry_after=7), 503, "busy_at_osvi", True),
            (Status(503, retry_after=7), 503, "busy_at_osvi", True),
            (Status(500), 504, "unconfirmed", False),
            (Drop(), 504, "unconfirmed", False),
            (Drop(after_closing=True), 504, "unconfirmed", False),
            (Junk(), 502, "bad_answer", False),
            (Redirect("http://127.0.0.1:1/"), 502, "bad_answer", False),
        ],
        ids=repr,
    )
    def test_close_osvi_error_returns_matching_status(
        self, api, session, osvi_sandbox, fault, status, code, retryable
    ):
        osvi_sandbox.script(session.session_id, fault)
        response = api.post(close_url(session.session_id))
        body = response.json()
        assert response.status_code == status
        assert set(body) - OF_OSVI == {"detail", "code", "retryable", "attempt"}
        if isinstance(fault, Status):
            said = fault.error or (fault.errors[0] if fault.errors else None)
            assert body["osvi_status"] == fault.code
            assert said is None or body["osvi_reason"] == said
        recover = f"http://testserver{BASE}{session.session_id}/recover/"
        assert body.get("next") == (recover if code in {"unconfirmed", "bad_answer"} else None)
        assert api.get(body["attempt"]).json()["error_code"] == code
        assert (body["code"], body["retryable"]) == (code, retryable)
        assert body["detail"].endswith((".", "”"))
        assert response.get("Retry-After") == ("7" if retryable else None)

    def test_close_osvi_unreachable_returns_503(self, api, session, settings):
        settings.OSVI["default"]["BASE_URL"] = "http://127.0.0.1:1"
        response = api.post(close_url(session.session_id))
        assert (response.status_code, response.json()["code"]) == (503, "unreachable")
        assert (response.json()["retryable"], response["Retry-After"]) == (True, "10")

    def test_close_throttled_without_delay_sends_retry_after(self, api, session, osvi_sandbox):
        osvi_sandbox.script(session.session_id, Status(429))
        assert api.post(close_url(session.session_id))["Retry-After"] == "10"

    def test_close_not_configured_returns_503(self, api, session, settings):
        settings.OSVI = {}
        response = api.post(close_url(session.session_id))
        assert (response.status_code, response.json()["code"]) == (503, "not_configured")
        assert not response.json()["retryable"]

    def test_close_in_progress_returns_409_and_attempt(self, api, session):
        later = DatabaseNow() + timedelta(minutes=1)
        ChatSession.objects.update(status="closing", lease_until=later)
        attempt = CloseAttemptFactory(session=session, via="admin")
        response = api.post(close_url(session.session_id))
        assert (response.status_code, response["Retry-After"]) == (409, "5")
        seen = api.get(response.json()["attempt"]).json()
        assert (seen["id"], seen["outcome"], seen["via"]) == (attempt.pk, "started", "admin")
        assert (response.json()["code"], response.json()["retryable"]) == (
            "close_in_progress",
            True,
        )

    def test_close_unknown_session_returns_404(self, api, osvi_sandbox):
        response = api.post(close_url("unknown"))
        assert (response.status_code, response.json()["code"]) == (404, "not_found")
        assert "agent_uuid" in response.json()["detail"]

    def test_close_inside_transaction_returns_503(self, api, session, osvi_sandbox):
        with transaction.atomic():
            response = api.post(close_url(session.session_id))
        assert (response.status_code, response.json()["code"]) == (503, "inside_transaction")
        assert osvi_sandbox.requests == []


class TestPermission:
    def test_close_anonymous_returns_401(self, session, osvi_sandbox):
        response = APIClient().post(close_url(session.session_id))
        assert response.status_code == 401
        assert response.json()["code"] == "not_authenticated"
        assert response["WWW-Authenticate"].startswith("Basic")
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize("known", [True, False])
    def test_close_without_permission_returns_403(
        self, session, osvi_sandbox, django_user_model, grant, known
    ):
        user = django_user_model.objects.create_user("jo", is_staff=True)
        client = APIClient()
        client.force_authenticate(grant(user, "view_chatsession", "change_chatsession"))
        url = close_url(session.session_id if known else "unknown")
        response = client.post(url, {"agent_uuid": session.agent.uuid}, format="json")
        assert response.status_code == 403
        assert response.json() == {
            "detail": "You do not have permission to close this chat session.",
            "code": "permission_denied",
            "retryable": False,
        }
        assert osvi_sandbox.requests == []
        assert ChatSession.objects.count() == 1

    def test_close_without_view_permission_hides_fields(
        self, osvi_sandbox, django_user_model, grant
    ):
        user = grant(django_user_model.objects.create_user("jo"), "close_chatsession")
        client = APIClient()
        client.force_authenticate(user)
        session = mirror(osvi_sandbox, summary="All is well.")
        expected = {
            "session_id": session.session_id,
            "status": "closed",
            "mode": "ai",
            "summary": None,
            "summary_status": "stored",
            "changed": True,
            "goodbye": None,
        }
        assert client.post(close_url(session.session_id)).json() == expected
        assert client.post(close_url(session.session_id)).json() == expected | {"changed": False}
        # The summary has a permission of its own.
        client.force_authenticate(grant(user, "view_sessionsummary"))
        seen = client.post(close_url(session.session_id)).json()
        assert seen == expected | {"changed": False, "summary": "All is well."}

    def test_close_without_permission_hides_whether_session_exists(
        self, session, django_user_model
    ):
        client = APIClient()
        client.force_authenticate(django_user_model.objects.create_user("jo"))
        for session_id in (session.session_id, "unknown"):
            response = client.post(close_url(session_id), {"agent_uuid": "x"}, format="json")
            assert response.status_code == 403

    def test_close_with_session_cookie_requires_csrf_token(self, session, staff, osvi_sandbox):
        client = APIClient(enforce_csrf_checks=True)
        client.force_login(staff)
        response = client.post(close_url(session.session_id))
        assert (response.status_code, response.json()["code"]) == (403, "permission_denied")
        assert osvi_sandbox.requests == []


class TestInput:
    @pytest.mark.parametrize(
        ("body", "named"),
        [
            ({"note": "x" * 1001}, "note"),
            ({"note": "a\x00b"}, "note"),
            ({"note": ["list"]}, "note"),
            ({"note": 5}, "note"),
            ({"agent_uuid": ""}, "agent_uuid"),
            ({"agent_uuid": "x" * 256}, "agent_uuid"),
            ({"agent_uuid": "a\x00b"}, "agent_uuid"),
            ({"agent_uuid": {"a": 1}}, "agent_uuid"),
            ({"agent_uuid": "another"}, "agent_uuid"),
            ({"agent_uuid": 5}, "agent_uuid"),
            (
                {"notte": "done"},
                "notte: This name is unknown: use agent_uuid, account, note, close_reason, ",
            ),
            ({"csrfmiddlewaretoken": "x"}, "csrfmiddlewaretoken"),
            ([1, 2], "dictionary"),
            ("text", "dictionary"),
        ],
    )
    def test_close_with_invalid_body_returns_400_with_name(
        self, api, session, osvi_sandbox, body, named
    ):
        response = api.post(close_url(session.session_id), body, format="json")
        assert response.status_code == 400
        assert response.json()["code"] == "invalid"
        assert response.json()["retryable"] is False
        assert named in response.json()["detail"]
        assert response.json()["errors"]
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize(
        ("raw", "content_type", "status", "code"),
        [
            (b"{", "application/json", 400, "parse_error"),
            (b"\xff\xfe", "application/json", 400, "parse_error"),
            (b"x", "text/plain", 415, "unsupported_media_type"),
        ],
    )
    def test_close_with_unreadable_body_returns_error(
        self, api, session, raw, content_type, status, code
    ):
        response = api.post(close_url(session.session_id), raw, content_type=content_type)
        assert (response.status_code, response.json()["code"]) == (status, code)
        assert response.json()["retryable"] is False

    def test_other_methods_return_405(self, api, session):
        for method in (api.get, api.put, api.patch, api.delete):
            response = method(close_url(session.session_id))
            assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")

    @pytest.mark.parametrize("odd", ["a\x00b", "x" * 256, "\x00", ".."])
    @pytest.mark.parametrize("agent", [{}, {"agent_uuid": "agent"}])
    def test_close_with_invalid_id_returns_error(self, api, osvi_sandbox, odd, agent):
        response = api.post(close_url(odd), agent, format="json")
        expected = (400, "invalid") if agent else (404, "not_found")
        assert (response.status_code, response.json()["code"]) == expected
        assert not ChatSession.objects.exists()


@pytest.mark.parametrize("prefer", [{}, {"Prefer": "respond-async"}], ids=["wait", "async"])
@pytest.mark.parametrize("via", ["close", "support"])
class TestAccounts:
    """A close uses the account of the agent; a named account must be configured."""

    @pytest.fixture
    def two_sandboxes(self, osvi_sandbox, settings):
        """Configure a second account with its own sandbox."""
        with OSVISandbox(token="token-of-another") as there:
            other = {"API_TOKEN": "token-of-another", "BASE_URL": there.url}
            settings.OSVI = {**settings.OSVI, "other": other}
            yield osvi_sandbox, there

    @pytest.fixture
    def close(self, via, prefer, run):
        """Close a session in one of the ways, and run its job if there is one."""

        def _close(client, session_id, **body):
            body = {"command": "close", **body} if via == "support" else body
            url = close_url(session_id).replace("/close/", f"/{via}/")
            response = client.post(url, body, format="json", headers=prefer)
            if response.status_code == 202:
                run(response.json())
            return response

        return _close

    @pytest.mark.parametrize("named", [{}, {"account": "other"}])
    def test_close_with_known_agent_uses_its_account(self, api, two_sandboxes, close, named):
        here, there = two_sandboxes
        agent = ChatAgentFactory(account="other", uuid="agent_b")
        chat = there.add_session(agent_uuid="agent_b", summary="Of other.")
        assert close(api, chat.id, agent_uuid="agent_b", **named).status_code in {200, 202}
        assert SessionSummary.objects.get().text == "Of other."
        assert ChatAgent.objects.get() == agent
        assert here.requests == []

    def test_close_with_new_agent_uses_named_account(self, api, two_sandboxes, close):
        chat = two_sandboxes[1].add_session(agent_uuid="agent_new", summary="Of other.")
        named = {"agent_uuid": "agent_new", "account": "other"}
        assert close(api, chat.id, **named).status_code in {200, 202}
        assert ChatAgent.objects.get().account == "other"

    @pytest.mark.parametrize("account", ["nobody's", "", 5, ["other"], "\x00"], ids=repr)
    def test_close_with_unknown_account_returns_400(self, api, two_sandboxes, close, account):
        session = ChatSessionFactory()
        for session_id in (session.session_id, "unknown"):
            response = close(api, session_id, agent_uuid=session.agent.uuid, account=account)
            assert (response.status_code, list(response.json()["errors"])) == (400, ["account"])
            assert response.json()["detail"].startswith("account: ")
        assert [osvi.requests for osvi in two_sandboxes] == [[], []]

    def test_close_with_other_account_than_session_returns_400(self, api, two_sandboxes, close):
        session = ChatSessionFactory(agent__uuid="agent_a")
        response = close(api, session.session_id, agent_uuid="agent_a", account="other")
        assert (response.status_code, response.json()["code"]) == (400, "invalid")
        assert "account" in response.json()["detail"]
        assert [osvi.requests for osvi in two_sandboxes] == [[], []]
        assert ChatAgent.objects.count() == 1

    def test_close_without_permission_hides_accounts(self, client_with, two_sandboxes, close):
        named = {"agent_uuid": "agent_a", "account": "nobody's"}
        assert close(client_with("view_chatsession"), "unknown", **named).status_code == 403


class TestHostSettings:
    def test_close_with_exception_handler_of_host_does_not_use_it(self, api, settings):
        settings.REST_FRAMEWORK = {"EXCEPTION_HANDLER": f"{__name__}.failing_exception_handler"}
        assert api.post(close_url("unknown")).json()["code"] == "not_found"

    def test_close_with_throttle_of_host_returns_retryable_429(
        self, api, monkeypatch, osvi_sandbox
    ):
        monkeypatch.setattr(SessionCloseView, "throttle_classes", [ClosedThrottle])
        response = api.post(close_url("unknown"))
        assert (response.status_code, response.json()["code"]) == (429, "throttled")
        assert (response.json()["retryable"], response["Retry-After"]) == (True, "3")

    @pytest.mark.parametrize("detail", [{"message": "x"}, ["a"], {"detail": ["x"]}], ids=repr)
    def test_close_with_authentication_of_host_returns_401(
        self, api, monkeypatch, osvi_sandbox, detail
    ):
        monkeypatch.setattr(OddAuthentication, "detail", detail)
        monkeypatch.setattr(SessionCloseView, "authentication_classes", [OddAuthentication])
        response = APIClient().post(close_url("unknown"))
        assert (response.status_code, response.json()["code"]) == (401, "authentication_failed")
        assert response.json()["detail"] == "Incorrect authentication credentials."

    @pytest.mark.urls("tests.rest.tenant_urls")
    def test_close_below_prefix_links_below_prefix(self, api, session, osvi_sandbox):
        url = f"/acme/chats/sessions/{session.session_id}/"
        osvi_sandbox.script(session.session_id, Drop())
        attempt = api.post(f"{url}close/").json()["attempt"]
        assert attempt.startswith(f"http://testserver{url}attempts/")
        assert api.get(attempt).json()["outcome"] == "no_answer"
        assert api.get(url).json()["status"] == "unconfirmed"
        assert api.post(f"{url}recover/").json()["settled"] == "reopened"

    def test_close_with_bug_of_host_raises_it(self, api, monkeypatch, osvi_sandbox):
        monkeypatch.setattr(SessionCloseView, "throttle_classes", [BuggyThrottle])
        with pytest.raises(ZeroDivisionError):
            api.post(close_url("unknown"))

    @pytest.mark.undocumented  # the code is the host's own
    @pytest.mark.parametrize(("was_sent", "status"), [(None, 502), (False, 503)])
    def test_close_with_error_code_of_host_has_status(
        self, api, monkeypatch, osvi_sandbox, was_sent, status
    ):
        monkeypatch.setattr(SessionCloseView, "throttle_classes", [RaisingThrottle])
        monkeypatch.setattr(HostError, "was_sent", was_sent)
        response = api.post(close_url("unknown"))
        assert (response.status_code, response.json()["code"]) == (status, "out_of_hours")


class HostError(OSVIError):
    code = "out_of_hours"


class RaisingThrottle:
    def allow_request(self, request, view):
        raise HostError


class OddAuthentication(BaseAuthentication):
    detail = None

    def authenticate(self, request):
        raise AuthenticationFailed(self.detail)

    def authenticate_header(self, request):
        return "Odd"


class BuggyThrottle:
    def allow_request(self, request, view):
        return 1 / 0


def failing_exception_handler(exc, context):
    raise AssertionError("not for these views")


class ClosedThrottle:
    def allow_request(self, request, view):
        return False

    def wait(self):
        return 3
