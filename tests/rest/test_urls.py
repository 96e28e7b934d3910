"""Tests of the URLs of REST: with and without the final slash, and without redirects."""

from __future__ import annotations

import json
import re

import pytest
from django.urls import Resolver404, resolve, reverse

from osvi_django.models import ChatSession, CloseAttempt, CloseJob
from osvi_django.rest.urls import urlpatterns
from osvi_django.testing.factories import ChatSessionFactory, CloseAttemptFactory
from tests.helpers.sandbox import mirror

BASE = "/api/osvi"
PATHS = {
    "close-job-list": "/close-jobs/",
    "close-job": "/close-jobs/5/",
    "close-job-results": "/close-jobs/5/results/",
    "close-job-cancel": "/close-jobs/5/cancel/",
    "close-job-retry": "/close-jobs/5/retry/",
    "customer-erase": "/customers/erase/",
    "customer-export": "/customers/export/",
    "stats": "/stats/",
    "session-list": "/sessions/",
    "session-bulk-close": "/sessions/close/",
    "session-export": "/sessions/export/",
    "session-sync": "/sessions/sync/",
    "session-close": "/sessions/s-1/close/",
    "session-recover": "/sessions/s-1/recover/",
    "session-attempt": "/sessions/s-1/attempts/5/",
    "session-support": "/sessions/s-1/support/",
    "session-context": "/sessions/s-1/context/",
    "session-messages": "/sessions/s-1/messages/",
    "session-actions": "/sessions/s-1/actions/",
    "session-action": "/sessions/s-1/actions/5/",
    "session-detail": "/sessions/s-1/",
}
# Ids that look like parts of a URL.
ODD_IDS = ["autoclose", "a/close", "close", "sync", "a/close/close", "close-jobs", "a/b"]


@pytest.mark.parametrize("name", PATHS)
class TestEachURL:
    def test_reverse_returns_path_with_slash(self, name):
        values = {"pk": 5, "session_id": "s-1"}
        taken = {key: values[key] for key in values if f"/{values[key]}/" in PATHS[name]}
        assert reverse(f"osvi_django:{name}", kwargs=taken) == BASE + PATHS[name]

    def test_resolve_with_and_without_slash_finds_same_view(self, name):
        slashed, bare = (resolve(BASE + form) for form in (PATHS[name], PATHS[name][:-1]))
        assert slashed.view_name == bare.view_name == f"osvi_django:{name}"
        assert slashed.kwargs == bare.kwargs
        assert slashed.func is bare.func


def test_paths_include_every_url_name():
    assert {pattern.name for pattern in urlpatterns if pattern.name} == set(PATHS)


@pytest.mark.django_db
@pytest.mark.parametrize("path", PATHS.values())
def test_options_describe_url_in_plain_english(operator, path):
    description = operator.options(BASE + path).json()["description"]
    assert description.endswith(".")
    assert re.findall(r"`|[a-z][A-Z]|_|\bGET /|\bPOST ", description) == []


@pytest.mark.parametrize("method", ["get", "post", "put", "delete", "options"])
@pytest.mark.parametrize(
    "path", ["sessions//", "close-jobs//", "close-jobs/1/foo/", "close-jobs/1/foo"]
)
def test_unknown_path_returns_404_as_json(client, method, path):
    response = getattr(client, method)(f"{BASE}/{path}")
    assert response.status_code == 404
    body = response.json()
    assert (body["code"], body["retryable"]) == ("not_found", False)
    assert body["detail"].startswith("This URL does not exist. There are: sessions/, ")
    assert body["detail"].endswith("close-jobs/{id}/retry/.")


@pytest.mark.django_db
@pytest.mark.parametrize("method", ["get", "post", "put", "delete", "options"])
@pytest.mark.parametrize("path", ["sessions/s-1/clsoe/", "sessions/s-1/clsoe", "sessions/x/y/z/"])
def test_unknown_path_below_session_returns_404_that_names_others(operator, method, path):
    ChatSessionFactory(session_id="s-1")
    response = getattr(operator, method)(f"{BASE}/{path}")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")
    assert "sessions/{session_id}/close/" in response.json()["detail"]


def test_unknown_path_of_host_is_not_resolved():
    with pytest.raises(Resolver404):
        resolve(f"{BASE}/foo/")


@pytest.mark.django_db
class TestQueryStrings:
    """An unknown parameter returns 400 at each URL and for each method."""

    CALLS = (
        ("get", "sessions/"),
        ("get", "sessions/{id}/"),
        ("get", "sessions/{id}/actions/"),
        ("get", "sessions/{id}/attempts/{attempt}/"),
        ("get", "close-jobs/"),
        ("get", "close-jobs/{job}/"),
        ("get", "close-jobs/{job}/results/"),
        ("post", "sessions/"),
        ("post", "sessions/sync/"),
        ("post", "sessions/close/"),
        ("post", "sessions/{id}/close/"),
        ("post", "sessions/{id}/recover/"),
        ("post", "sessions/{id}/support/"),
        ("post", "sessions/{id}/context/"),
        ("post", "sessions/{id}/messages/"),
        ("post", "close-jobs/{job}/cancel/"),
        ("post", "close-jobs/{job}/retry/"),
    )

    @pytest.fixture
    def ids(self, staff):
        """Create a row for each id in the URLs, and return the ids."""
        attempt = CloseAttemptFactory()
        job = CloseJob.objects.create(requested_by=staff)
        return {"id": attempt.session.session_id, "attempt": attempt.pk, "job": job.pk}

    def test_unknown_parameter_returns_400_at_every_url(self, operator, ids, osvi_sandbox):
        for method, path in self.CALLS:
            address = f"{BASE}/{path.format(**ids)}?x=1"
            response = getattr(operator, method)(address)
            assert response.status_code == 400, address
            assert "x: This name is unknown" in response.json()["detail"]
        assert osvi_sandbox.requests == []
        assert ChatSession.objects.get().status == "active"

    def test_start_with_query_parameters_returns_400(self, operator, ids, osvi_sandbox):
        body = {"agent_uuid": "a", "customer_id": "+1"}
        for query in ("replace=true", "status=active", "page_size=5"):
            response = operator.post(f"{BASE}/sessions/?{query}", body, format="json")
            assert response.status_code == 400
        assert osvi_sandbox.requests == []

    def test_details_with_page_size_return_400(self, api, ids):
        for path in ("sessions/{id}/", "close-jobs/{job}/"):
            assert api.get(f"{BASE}/{path.format(**ids)}?page_size=5").status_code == 400

    @pytest.mark.parametrize("path", ["sessions/", "sessions/{id}/", "close-jobs/", "stats/"])
    @pytest.mark.parametrize("kind", ["csv", "pdf", "JSON"])
    def test_unknown_format_returns_400_with_name(self, api, ids, path, kind):
        response = api.get(f"{BASE}/{path.format(**ids)}", {"format": kind})
        assert (response.status_code, list(response.json()["errors"])) == (400, ["format"])
        assert "sessions/export/" in response.json()["detail"]

    def test_unknown_format_without_login_returns_401(self, client):
        assert client.get(f"{BASE}/sessions/", {"format": "csv"}).status_code in {401, 403}

    def test_parameters_of_rest_framework_are_accepted(self, api, ids, settings):
        address = f"{BASE}/sessions/{ids['id']}/"
        assert api.get(f"{address}?format=json").status_code == 200
        assert api.get(f"{address}?version=1").status_code == 400
        versioning = "rest_framework.versioning.QueryParameterVersioning"
        settings.REST_FRAMEWORK = {
            **getattr(settings, "REST_FRAMEWORK", {}),
            "DEFAULT_VERSIONING_CLASS": versioning,
        }
        assert api.get(f"{address}?version=1").status_code == 200


@pytest.mark.parametrize("name", ["session-close", "session-recover", "session-support"])
@pytest.mark.parametrize("odd", ODD_IDS)
def test_odd_id_resolves_with_and_without_slash(name, odd):
    address = reverse(f"osvi_django:{name}", kwargs={"session_id": odd})
    for form in (address, address[:-1]):
        found = resolve(form.replace("%2F", "/"))
        assert (found.url_name, found.kwargs) == (name, {"session_id": odd})


@pytest.mark.django_db
@pytest.mark.parametrize("append_slash", [True, False])
class TestWithoutSlash:
    @pytest.fixture(autouse=True)
    def host(self, settings, append_slash):
        settings.APPEND_SLASH = append_slash

    def test_lists_and_details_without_slash_are_shown(self, api, staff):
        session = ChatSessionFactory(session_id="autoclose")
        attempt = CloseAttemptFactory(session=session)
        job = CloseJob.objects.create(requested_by=staff)
        paths = [
            "sessions",
            "sessions/autoclose",
            "sessions/autoclose/actions",
            f"sessions/autoclose/attempts/{attempt.pk}",
            "close-jobs",
            f"close-jobs/{job.pk}",
            f"close-jobs/{job.pk}/results",
        ]
        for path in paths:
            bare, slashed = api.get(f"{BASE}/{path}"), api.get(f"{BASE}/{path}/")
            assert bare.status_code == slashed.status_code == 200, path
            assert bare.json() == slashed.json()

    def test_close_without_slash_keeps_note(self, api, osvi_sandbox):
        session = mirror(osvi_sandbox, session_id="autoclose", summary="All is well.")
        response = api.post(f"{BASE}/sessions/autoclose/close", {"note": "Bye"}, format="json")
        assert (response.status_code, response.json()["summary"]) == (200, "All is well.")
        assert CloseAttempt.objects.get(session=session).note == "Bye"

    def test_start_without_slash_starts_session(self, operator, osvi_sandbox):
        body = json.dumps({"agent_uuid": "agent_a", "customer_id": "+4917"})
        response = operator.post(f"{BASE}/sessions", body, content_type="application/json")
        assert response.status_code == 201
        assert response["Location"].endswith(f"/{ChatSession.objects.get().session_id}/")

    def test_bulk_close_without_slash_uses_filter(self, api, osvi_sandbox):
        sessions = [ChatSessionFactory(customer_id=customer) for customer in ("+1", "+2")]
        wanted = {"filter": {"customer_id": "+1"}}
        response = api.post(f"{BASE}/sessions/close", wanted, format="json")
        assert response.status_code == 202
        assert list(
            CloseJob.objects.get().items.values_list("requested_session_id", flat=True)
        ) == [sessions[0].session_id]
