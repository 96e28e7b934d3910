"""Tests with the real backend of django-guardian, which ``test_guardian.py`` runs."""

from __future__ import annotations

import pytest
from django.contrib.auth.backends import BaseBackend
from django.core.exceptions import PermissionDenied
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from guardian.shortcuts import assign_perm, remove_perm
from rest_framework.test import APIClient

from osvi_django.testing.factories import ClosedSessionFactory

pytestmark = pytest.mark.django_db

LIST = "/api/osvi/sessions/"

READS = "osvi_django.view_sessionsummary"
VIEWS = "osvi_django.view_chatsession"


class RefusingBackend(BaseBackend):
    """Refuse the sessions of one customer, as django-guardian only grants."""

    def has_perm(self, user_obj, perm, obj=None):
        if getattr(obj, "customer_id", "") == "refused":
            raise PermissionDenied
        return False


@pytest.fixture
def jo(django_user_model):
    return django_user_model.objects.create_user("jo", is_staff=True)


@pytest.fixture
def api(jo):
    client = APIClient()
    client.force_authenticate(jo)
    return client


@pytest.fixture
def page(client, jo):
    """Return a function that returns the status and the text of a chat's page in the admin."""
    client.force_login(jo)

    def _page(session):
        url = reverse("admin:osvi_django_chatsession_change", args=[session.pk])
        response = client.get(url)
        return response.status_code, response.text

    return _page


def detail(session):
    return f"{LIST}{session.session_id}/"


def test_grant_for_one_session_opens_its_detail_and_page(jo, api, page):
    granted, other = ClosedSessionFactory(summary__text="Well done."), ClosedSessionFactory()
    assign_perm(VIEWS, jo, granted)
    assert [api.get(detail(each)).status_code for each in (granted, other)] == [200, 403]
    assert api.get(detail(granted)).json()["summary"] is None
    assert [page(each)[0] for each in (granted, other)] == [200, 403]
    assert "Well done." not in page(granted)[1]
    assign_perm(READS, jo)  # of all that the user may see, as the documentation says
    api.force_authenticate(type(jo).objects.get(pk=jo.pk))  # one that has cached nothing
    assert api.get(detail(granted)).json()["summary"] == "Well done."
    assert "Well done." in page(granted)[1]
    remove_perm(VIEWS, jo, granted)
    assert (api.get(detail(granted)).status_code, page(granted)[0]) == (403, 403)


def test_grant_for_one_session_opens_no_list(jo, api, page, client):
    assign_perm(VIEWS, jo, ClosedSessionFactory())
    assert api.get(LIST).status_code == 403
    assert client.get(reverse("admin:osvi_django_chatsession_changelist")).status_code == 403


def test_refusal_of_one_session_wins_over_the_permission_for_all(jo, api, page):
    assign_perm(VIEWS, jo)
    assign_perm(READS, jo)
    refused = ClosedSessionFactory(customer_id="refused", summary__text="Secret.")
    other = ClosedSessionFactory(summary__text="Well done.")
    assert [api.get(detail(each)).status_code for each in (refused, other)] == [403, 200]
    assert [page(each)[0] for each in (refused, other)] == [403, 200]
    text = api.get(LIST).content.decode()
    assert ("Secret." in text, "Well done." in text) == (False, True)


def test_list_without_words_takes_no_query_for_each_session(jo, api):
    assign_perm(VIEWS, jo)
    assign_perm(READS, jo)
    counts = {}
    for number in (1, 9):
        ClosedSessionFactory.create_batch(number)
        for query in ("", "?fields=session_id,status"):
            with CaptureQueriesContext(connection) as queries:
                assert api.get(f"{LIST}{query}").status_code == 200
            counts[number, query] = len(queries)
    few = "?fields=session_id,status"
    assert counts[1, few] == counts[9, few]
    # As the documentation says: at most two for each session whose summary is shown.
    assert counts[9, ""] - counts[1, ""] <= 2 * 9
