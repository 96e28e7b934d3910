"""What HTTP has of its own: validators, caches, links, methods, media types."""

from __future__ import annotations

import pytest
from rest_framework.renderers import JSONRenderer
from rest_framework.test import APIClient

from osvi_django.models import CloseJob
from osvi_django.testing.factories import ChatSessionFactory
from osvi_django.testing.faults import Drop
from tests.helpers.sandbox import mirror

pytestmark = pytest.mark.django_db

SESSIONS = "/api/osvi/sessions/"
PROBLEM = "application/problem+json"


class TestValidators:
    def test_unchanged_answer_is_304_without_body(self, api):
        session = ChatSessionFactory()
        for url in (SESSIONS, f"{SESSIONS}{session.session_id}/"):
            first = api.get(url)
            again = api.get(url, headers={"If-None-Match": first["ETag"]})
            assert (again.status_code, again.content) == (304, b"")
            assert again["ETag"] == first["ETag"]

    def test_changed_answer_has_another_etag(self, api):
        session = ChatSessionFactory()
        url = f"{SESSIONS}{session.session_id}/"
        first = api.get(url)
        session.mode = "support"
        session.save()
        again = api.get(url, headers={"If-None-Match": first["ETag"]})
        assert (again.status_code, again.json()["mode"]) == (200, "support")

    def test_every_answer_is_for_its_caller_alone(self, api, client):
        session = ChatSessionFactory()
        answers = [
            api.get(SESSIONS),
            api.get(f"{SESSIONS}unknown/"),
            api.post(f"{SESSIONS}{session.session_id}/close/", {"x": 1}, format="json"),
            client.get(SESSIONS),
        ]
        for answer in answers:
            directives = {each.strip() for each in answer["Cache-Control"].split(",")}
            assert directives == {"private", "no-cache"}


class TestMethods:
    def test_head_has_headers_of_get_and_no_body(self, api, job):
        session, jobs = ChatSessionFactory(), "/api/osvi/close-jobs/"
        rows = (f"{SESSIONS}{session.session_id}/", f"{jobs}{job.pk}/", f"{jobs}{job.pk}/results/")
        for url in (SESSIONS, jobs, "/api/osvi/stats/", *rows):
            get, head = api.get(url), api.head(url)
            assert (head.status_code, head.content) == (200, b""), url
            for name in ("ETag", "Content-Length", "Content-Type", "Cache-Control", "Vary"):
                assert head[name] == get[name], (url, name)
            again = api.head(url, headers={"If-None-Match": head["ETag"]})
            assert (again.status_code, again["ETag"]) == (304, get["ETag"])

    @pytest.mark.parametrize(("path", "posts"), [("", True), ("s-1/close/", True), ("s-1/", False)])
    def test_options_name_media_type_of_posts(self, operator, path, posts):
        ChatSessionFactory(session_id="s-1")
        response = operator.options(f"{SESSIONS}{path}")
        assert response.get("Accept-Post") == ("application/json" if posts else None)
        assert ("POST" in response["Allow"]) is posts


class TestLinks:
    def test_pages_name_their_neighbours_in_link_header(self, api):
        ChatSessionFactory.create_batch(3)
        first = api.get(SESSIONS, {"page_size": 1})
        assert first["Link"] == f'<{first.json()["next"]}>; rel="next"'
        second = api.get(first.json()["next"])
        pair = second.json()
        assert second["Link"] == f'<{pair["next"]}>; rel="next", <{pair["previous"]}>; rel="prev"'

    def test_only_page_has_no_link_header(self, api):
        assert "Link" not in api.get(SESSIONS)


class TestProblemDetails:
    @pytest.mark.parametrize("accept", [PROBLEM, f"application/json, {PROBLEM};q=0.5"])
    def test_error_is_problem_for_caller_who_accepts_it(self, api, accept):
        response = api.get(f"{SESSIONS}unknown/", headers={"Accept": accept})
        assert (response.status_code, response["Content-Type"]) == (404, PROBLEM)
        body = response.json()
        assert (body["type"], body["title"], body["status"]) == ("about:blank", "Not Found", 404)
        assert (body["code"], body["retryable"]) == ("not_found", False)
        assert body["detail"] == "This site has no such chat session."

    @pytest.mark.parametrize("accept", [PROBLEM, f"application/json, {PROBLEM}"])
    def test_success_is_json_for_caller_who_accepts_problems(self, api, accept):
        response = api.get(SESSIONS, headers={"Accept": accept})
        assert (response.status_code, response["Content-Type"]) == (200, "application/json")
        assert response.json()["results"] == []

    def test_error_is_json_for_others(self, api):
        response = api.get(f"{SESSIONS}unknown/")
        assert response["Content-Type"] == "application/json"
        assert set(response.json()) == {"detail", "code", "retryable"}


class CamelRenderer(JSONRenderer):
    """A host's renderer, which writes other names."""

    def render(self, data, *args, **kwargs):
        return b"{}"


class TestHostsOwnSettings:
    @pytest.fixture(autouse=True)
    def host(self, settings):
        settings.REST_FRAMEWORK = {
            **getattr(settings, "REST_FRAMEWORK", {}),
            "DATETIME_FORMAT": "%d.%m.%Y",
            "NON_FIELD_ERRORS_KEY": "nonFieldErrors",
            "DEFAULT_RENDERER_CLASSES": [f"{__name__}.CamelRenderer"],
            "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.FormParser"],
            "DEFAULT_VERSIONING_CLASS": "rest_framework.versioning.AcceptHeaderVersioning",
            "ALLOWED_VERSIONS": ["7"],
            "DEFAULT_VERSION": "7",
            "DEFAULT_PAGINATION_CLASS": "rest_framework.pagination.PageNumberPagination",
            "PAGE_SIZE": 1,
        }

    def test_names_times_and_pages_are_those_of_this_api(self, api):
        ChatSessionFactory.create_batch(2)
        body = api.get(SESSIONS).json()
        assert [len(body["results"]), body["next"]] == [2, None]
        assert body["results"][0]["started_at"].endswith("Z")
        assert "T" in body["results"][0]["started_at"]

    def test_errors_are_those_of_this_api(self, api):
        response = api.post(f"{SESSIONS}close/", {}, format="json")
        assert list(response.json()["errors"]) == ["non_field_errors"]

    def test_pages_for_people_are_not_shown(self, api):
        response = api.get(SESSIONS, headers={"Accept": "text/html"})
        assert (response.status_code, response.json()["code"]) == (406, "not_acceptable")


class TestPermissionFirst:
    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("s-1/close/", {"note": 5}),
            ("s-1/recover/", {"x": 1}),
            ("s-1/support/", {"command": 5}),
            ("s-1/context/", {}),
            ("s-1/messages/", {}),
            ("unknown/close/", {"note": 5}),
            ("unknown/support/", {}),
            ("close/", {"session_ids": 5}),
            ("close/", {"session_ids": ["s-1"], "note": 5}),
            ("sync/", {}),
            ("", {}),
        ],
    )
    def test_caller_without_permission_gets_403_before_400(self, client_with, path, body):
        ChatSessionFactory(session_id="s-1")
        viewer = client_with("view_chatsession")
        response = viewer.post(f"{SESSIONS}{path}", body, format="json")
        assert (response.status_code, response.json()["code"]) == (403, "permission_denied")
        assert not CloseJob.objects.exists()

    def test_list_without_permission_says_what_is_missing(self, client_with):
        response = client_with().get(SESSIONS)
        assert response.json()["detail"] == "You do not have permission to see chat sessions."


class GrantsOne:
    """A backend that grants everything in one session only."""

    def authenticate(self, request, **credentials):
        return None

    def has_perm(self, user, permission, obj=None):
        return getattr(obj, "session_id", None) == "s-1"


class TestGrantForOneSession:
    @pytest.fixture(autouse=True)
    def host(self, settings):
        settings.AUTHENTICATION_BACKENDS = [f"{__name__}.GrantsOne"]

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("support/", {"command": "takeover"}),
            ("context/", {"context": "A regular."}),
            ("close/", {}),
        ],
    )
    def test_caller_may_act_in_that_session_alone(self, client_with, osvi_sandbox, path, body):
        for session_id, status in (("s-1", 200), ("s-2", 403)):
            mirror(osvi_sandbox, session_id=session_id)
            response = client_with().post(f"{SESSIONS}{session_id}/{path}", body, format="json")
            assert response.status_code == status, response.json()


class TestNullAndPlus:
    def test_null_for_optional_field_means_not_given(self, api, session):
        nothing = {"note": None, "close_reason": None, "goodbye": None, "agent_uuid": None}
        response = api.post(f"{SESSIONS}{session.session_id}/close/", nothing, format="json")
        assert (response.status_code, response.json()["status"]) == (200, "closed")

    def test_null_in_bulk_filter_is_refused(self, api):
        chosen = {"filter": {"status": "active", "customer_id": None}}
        response = api.post(f"{SESSIONS}close/", chosen, format="json")
        assert (response.status_code, list(response.json()["errors"])) == (400, ["filter"])

    @pytest.mark.parametrize(
        "query", ["customer_id=+15551112222", "started_before=2026-01-01T00:00:00+01:00"]
    )
    def test_plus_that_is_not_encoded_returns_400_with_fix(self, api, query):
        response = api.get(f"{SESSIONS}?{query}")
        assert response.status_code == 400
        assert "send it as %2B" in response.json()["detail"]

    def test_search_with_plus_is_no_error(self, api):
        assert api.get(f"{SESSIONS}?search=+15551112222").status_code == 200


def test_number_with_too_many_digits_returns_400(api):
    body = b'{"session_ids": ' + b"1" * 10_000 + b"}"
    response = api.post(f"{SESSIONS}close/", body, content_type="application/json")
    assert (response.status_code, response.json()["code"]) == (400, "parse_error")
    assert response.json()["detail"] == "The body has a number with too many digits."


def test_unconfirmed_close_names_address_to_call(api, session, osvi_sandbox):
    osvi_sandbox.script(session.session_id, Drop(after_closing=True))
    body = api.post(f"{SESSIONS}{session.session_id}/close/").json()
    assert body["code"] == "unconfirmed"
    recovered = api.post(body["next"])
    assert (recovered.status_code, recovered.json()["status"]) == (200, "closed")


def test_problem_of_anonymous_caller_is_problem_too():
    response = APIClient().get(SESSIONS, headers={"Accept": PROBLEM})
    assert response.status_code in {401, 403}
    assert response["Content-Type"] == PROBLEM


@pytest.mark.parametrize("kind", ["actions", "attempts"])
def test_unknown_part_of_session_returns_404(api, kind):
    session = ChatSessionFactory()
    response = api.get(f"{SESSIONS}{session.session_id}/{kind}/999/")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("method", ["delete", "put", "patch"])
def test_other_method_with_unknown_query_returns_405(api, method):
    response = getattr(api, method)("/api/osvi/close-jobs/?unknown=1&cursor=")
    assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")
