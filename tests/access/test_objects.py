"""Tests of object permissions, and of the host's own permission classes and throttles."""

from __future__ import annotations

from typing import ClassVar

import pytest
from django.contrib.auth.backends import BaseBackend
from django.core.exceptions import PermissionDenied
from django.urls import reverse
from rest_framework.permissions import BasePermission
from rest_framework.throttling import ScopedRateThrottle, UserRateThrottle

from osvi_django.services.jobs import create_close_job, run_close_job
from osvi_django.testing.factories import CloseAttemptFactory, ClosedSessionFactory

pytestmark = pytest.mark.django_db(transaction=True)

BASE = "/api/osvi/"
MODEL = "django.contrib.auth.backends.ModelBackend"
OBJECTS = f"{__name__}.ObjectBackend"


class ObjectBackend(BaseBackend):
    """Grant or refuse permissions for single sessions; it knows nothing else."""

    granted: ClassVar[set] = set()
    refused: ClassVar[set] = set()
    asked: ClassVar[list] = []

    def has_perm(self, user_obj, perm, obj=None):
        asked = (perm.removeprefix("osvi_django."), getattr(obj, "pk", None))
        self.asked.append(asked)
        if asked in self.refused:
            raise PermissionDenied
        return asked in self.granted


class NotOne(BasePermission):
    """Refuse the sessions of a customer, as a host's own class may."""

    message = "Not this customer."
    customer = ""

    def has_object_permission(self, request, view, obj):
        return obj.customer_id != type(self).customer


class NoPosts(BasePermission):
    """Let callers only read."""

    def has_permission(self, request, view):
        return request.method == "GET"


class TwoADay(ScopedRateThrottle):
    """Limit the scopes that have a rate."""

    THROTTLE_RATES: ClassVar = {"osvi-close": "2/day", "osvi-job": "1/day", "osvi-read": "9/day"}


class Unlimited(UserRateThrottle):
    """Limit nothing, as a host's throttle without a rate."""

    THROTTLE_RATES: ClassVar = {"user": None}


@pytest.fixture(autouse=True)
def backends(settings):
    settings.AUTHENTICATION_BACKENDS = [MODEL, OBJECTS]
    ObjectBackend.granted.clear()
    ObjectBackend.refused.clear()
    ObjectBackend.asked.clear()


@pytest.fixture
def host(settings):
    """Return a function that sets settings of the host's own API."""

    def _host(**options):
        settings.REST_FRAMEWORK = {**getattr(settings, "REST_FRAMEWORK", {}), **options}

    return _host


@pytest.fixture
def jo(django_user_model):
    """Return a member of the staff without any permission."""
    return django_user_model.objects.create_user("jo", is_staff=True)


class TestGrants:
    def test_grant_opens_rest_detail_attempts_and_actions(self, jo, api_of, chats):
        attempt = CloseAttemptFactory(session=chats.a, outcome="rejected")
        ObjectBackend.granted.add(("view_chatsession", chats.a.pk))
        for path in ("", "actions/", f"attempts/{attempt.pk}/"):
            paths = [f"{BASE}sessions/{each.session_id}/{path}" for each in (chats.a, chats.b)]
            assert [api_of(jo).get(each).status_code for each in paths] == [200, 403]
        unknown = api_of(jo).get(f"{BASE}sessions/unknown/")
        assert unknown.json() == api_of(jo).get(f"{BASE}sessions/{chats.b.session_id}/").json()
        assert api_of(jo).get(f"{BASE}sessions/").status_code == 403

    def test_grant_opens_admin_page(self, jo, client, chats):
        client.force_login(jo)
        ObjectBackend.granted.add(("view_chatsession", chats.a.pk))
        pages = [
            reverse("admin:osvi_django_chatsession_change", args=[each.pk])
            for each in (chats.a, chats.b)
        ]
        assert [client.get(each).status_code for each in pages] == [200, 403]

    def test_grant_to_read_summary_shows_it(self, jo, api_of, chats):
        closed = ClosedSessionFactory(summary__text="Well.")
        ObjectBackend.granted.add(("view_chatsession", closed.pk))
        address = f"{BASE}sessions/{closed.session_id}/"
        assert api_of(jo).get(address).json()["summary"] is None
        ObjectBackend.granted.add(("view_sessionsummary", closed.pk))
        assert api_of(jo).get(address).json()["summary"] == "Well."

    def test_grant_outside_access_opens_nothing(self, jo, api_of, chats, tenants):
        ObjectBackend.granted.add(("view_chatsession", chats.b.pk))
        assert api_of(jo).get(f"{BASE}sessions/{chats.b.session_id}/").status_code == 403


class TestRefusals:
    def test_refusal_wins_over_model_permission(self, staff, api_of, client, chats):
        for name in ("view_chatsession", "close_chatsession"):
            ObjectBackend.refused.add((name, chats.a.pk))
        address = f"{BASE}sessions/{chats.a.session_id}/"
        assert api_of(staff).get(address).status_code == 403
        assert api_of(staff).post(f"{address}close/", {}, "json").status_code == 403
        client.force_login(staff)
        page = reverse("admin:osvi_django_chatsession_change", args=[chats.a.pk])
        assert client.get(page).status_code == 403
        assert api_of(staff).get(f"{BASE}sessions/{chats.b.session_id}/").status_code == 200

    def test_refused_summary_is_null_in_list(self, staff, api_of):
        closed = ClosedSessionFactory(summary__text="Secret.")
        ObjectBackend.refused.add(("view_sessionsummary", closed.pk))
        assert "Secret." not in api_of(staff).get(f"{BASE}sessions/").content.decode()

    def test_lists_ask_only_about_what_they_show(self, staff, api_of, client, chats):
        closed = ClosedSessionFactory(summary__text="Well.")
        reads = ("view_sessionsummary", closed.pk)

        def asked_by(call, *arguments):
            ObjectBackend.asked.clear()
            assert call(*arguments).status_code == 200
            return {each for each in ObjectBackend.asked if each[1] is not None}

        api, client_of_staff = api_of(staff), client
        client_of_staff.force_login(staff)
        assert reads in asked_by(api.get, f"{BASE}sessions/")
        assert asked_by(api.get, f"{BASE}sessions/?fields=session_id,status") == set()
        page = reverse("admin:osvi_django_chatsession_changelist")
        assert asked_by(client_of_staff.get, page) == {reads}

    def test_refused_session_of_a_job_is_not_closed(self, staff, chats):
        ObjectBackend.refused.add(("close_chatsession", chats.a.pk))
        job = create_close_job([chats.a, chats.b], requested_by=staff)
        run_close_job(job.pk)
        outcomes = job.items.order_by("pk").values_list("outcome", flat=True)
        assert list(outcomes) == ["not_allowed", "closed"]

    def test_earlier_grant_wins_over_refusal_as_in_django(self, staff, api_of, chats, settings):
        settings.AUTHENTICATION_BACKENDS = [f"{__name__}.GrantingBackend", MODEL, OBJECTS]
        ObjectBackend.refused.add(("view_chatsession", chats.a.pk))
        address = f"{BASE}sessions/{chats.a.session_id}/"
        assert api_of(staff).get(address).status_code == 200

    def test_superuser_is_refused_nothing_as_in_django(self, admin_user, api_of, chats):
        ObjectBackend.refused.add(("view_chatsession", chats.a.pk))
        assert api_of(admin_user).get(f"{BASE}sessions/{chats.a.session_id}/").status_code == 200


class GrantingBackend(BaseBackend):
    """Grant whatever is asked about an object."""

    def has_perm(self, user_obj, perm, obj=None):
        return obj is not None


class TestPermissionClasses:
    def test_host_classes_hold_as_well(self, staff, api_of, chats, host):
        host(DEFAULT_PERMISSION_CLASSES=[f"{__name__}.NoPosts"])
        address = f"{BASE}sessions/{chats.a.session_id}/"
        assert api_of(staff).get(address).status_code == 200
        for path in (f"{address}close/", f"{BASE}sessions/", f"{BASE}sessions/close/"):
            assert api_of(staff).post(path, {}, "json").status_code == 403

    def test_host_class_refuses_one_session(self, staff, api_of, chats, host, monkeypatch):
        host(DEFAULT_PERMISSION_CLASSES=[f"{__name__}.NotOne"])
        monkeypatch.setattr(NotOne, "customer", chats.a.customer_id)
        address = f"{BASE}sessions/{chats.a.session_id}/"
        for response in (
            api_of(staff).get(address),
            api_of(staff).get(f"{address}actions/"),
            api_of(staff).post(f"{address}close/", {}, "json"),
        ):
            assert (response.status_code, response.json()["detail"]) == (403, "Not this customer.")
        assert api_of(staff).get(f"{BASE}sessions/{chats.b.session_id}/").status_code == 200

    @pytest.mark.parametrize(
        "name", ["AllowAny", "DjangoModelPermissions", "DjangoObjectPermissions"]
    )
    def test_model_permissions_are_those_of_this_api(self, staff, api_of, chats, host, name):
        host(DEFAULT_PERMISSION_CLASSES=[f"rest_framework.permissions.{name}"])
        address = f"{BASE}sessions/{chats.a.session_id}/"
        assert api_of(staff).get(address).status_code == 200
        assert api_of(staff).post(f"{address}close/", {}, "json").status_code == 200


class TestThrottles:
    def test_scopes_limit_each_kind_of_request(self, staff, api_of, chats, host):
        host(DEFAULT_THROTTLE_CLASSES=[f"{__name__}.TwoADay", f"{__name__}.Unlimited"])
        client, address = api_of(staff), f"{BASE}sessions/{chats.a.session_id}/"
        answers = [client.post(f"{address}close/", {}, "json") for _number in range(3)]
        assert [each.status_code for each in answers] == [200, 200, 429]
        assert answers[2].json()["code"] == "throttled"
        assert int(answers[2]["Retry-After"]) > 0
        jobs = [
            client.post(f"{BASE}sessions/close/", {"session_ids": ["x"]}, "json").status_code
            for _number in range(2)
        ]
        assert jobs == [202, 429]
        assert client.get(address).status_code == 200

    def test_scope_without_rate_is_not_limited(self, operator, chats, host):
        host(DEFAULT_THROTTLE_CLASSES=["rest_framework.throttling.ScopedRateThrottle"])
        address = f"{BASE}sessions/{chats.a.session_id}/context/"
        assert operator.post(address, {"context": "A fact"}, "json").status_code == 200
