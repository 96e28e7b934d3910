"""Export and erase the data of a customer over REST."""

from __future__ import annotations

import pytest
from django.urls import reverse

from osvi_django.models import ChatSession, DataExport, Erasure, IdempotentRequest
from osvi_django.testing.factories import ChatSessionFactory, ClosedSessionFactory

pytestmark = pytest.mark.django_db

CUSTOMER = "+15551112222"


@pytest.fixture
def officer(api, staff, grant, osvi_sandbox):
    """Return a REST client of a user who may erase customers."""
    api.force_authenticate(grant(staff, "erase_customer"))
    return api


def post(client, name, body, **headers):
    url = reverse(f"osvi_django:customer-{name}")
    return client.post(url, {"customer_id": CUSTOMER, **body}, format="json", headers=headers)


def test_erase_answers_what_was_erased(officer):
    ClosedSessionFactory(customer_id=CUSTOMER)
    planned = post(officer, "erase", {"dry_run": True}).json()
    assert (planned["marker"], planned["obstacle"]) == (None, None)
    response = post(officer, "erase", {"account": "default"}, **{"Idempotency-Key": "a"})
    body = response.json()
    assert (response.status_code, body["counts"]) == (200, planned["counts"])
    assert body["marker"] == Erasure.objects.get().marker
    assert "OSVI keeps its own copy" in body["notice"]
    assert CUSTOMER not in response.text
    assert IdempotentRequest.objects.count() == 1
    assert not ChatSession.objects.filter(customer_id=CUSTOMER).exists()


def test_null_for_a_look_is_no_erasure(officer):
    ClosedSessionFactory(customer_id=CUSTOMER)
    response = post(officer, "erase", {"dry_run": None})
    assert (response.status_code, [*response.json()["errors"]]) == (400, ["dry_run"])
    assert ChatSession.objects.get().customer_id == CUSTOMER


def test_open_chat_refuses_erasure(officer):
    ChatSessionFactory(customer_id=CUSTOMER)
    assert post(officer, "erase", {"dry_run": True}).json()["obstacle"]["code"] == "chats_open"
    response = post(officer, "erase", {})
    assert (response.status_code, response.json()["code"]) == (409, "chats_open")


def test_export_answers_all_rows_and_is_stored_nowhere(officer):
    session = ClosedSessionFactory(customer_id=CUSTOMER)
    response = post(officer, "export", {}, **{"Idempotency-Key": "a"})
    (found,) = response.json()["sessions"]
    assert found["chatsession"][0]["session_id"] == session.session_id
    assert found["sessionsummary"][0]["text"] == session.summary.text
    assert not IdempotentRequest.objects.exists()
    assert DataExport.objects.get().via == "rest"


@pytest.mark.parametrize("name", ["erase", "export"])
def test_caller_without_permission_gets_403(api, name):
    response = post(api, name, {})
    assert (response.status_code, response.json()["code"]) == (403, "permission_denied")


@pytest.mark.parametrize("name", ["erase", "export"])
def test_customer_is_required_in_the_body(officer, name):
    response = post(officer, name, {"customer_id": ""})
    assert (response.status_code, response.json()["code"]) == (400, "invalid")
