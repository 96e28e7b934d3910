"""Export and erase the data of a customer over REST."""

from __future__ import annotations

import pytest
from django.urls import reverse

from osvi_django.models import ChatSession, DataExport, Erasure, IdempotentRequest
from osvi_django.services.start_locks import erasure_lock
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


@pytest.mark.parametrize("wrong", ["yes", 1])
def test_flag_that_is_none_says_what_to_send(officer, wrong):
    response = post(officer, "erase", {"dry_run": wrong})
    assert response.json()["detail"] == "dry_run: This is not a flag: use true or false."


@pytest.mark.parametrize("name", ["erase", "export"])
def test_unknown_account_is_said_without_the_settings(officer, name):
    body = post(officer, name, {"account": "nope"}).json()
    assert body["errors"] == {"account": ['This site has no account "nope": use one of default.']}


@pytest.mark.parametrize("dry_run", [False, True])
def test_customer_who_is_erased_is_not_erased_again(officer, dry_run):
    ClosedSessionFactory(customer_id=CUSTOMER)
    marker = post(officer, "erase", {}).json()["marker"]
    before = ChatSession.objects.values().get()
    response = post(officer, "erase", {"customer_id": marker, "dry_run": dry_run})
    assert (response.status_code, [*response.json()["errors"]]) == (400, ["customer_id"])
    assert "is erased already" in response.json()["detail"]
    assert ChatSession.objects.values().get() == before
    assert Erasure.objects.count() == 1


def test_open_chat_refuses_erasure(officer):
    ChatSessionFactory(customer_id=CUSTOMER)
    obstacle = post(officer, "erase", {"dry_run": True}).json()["obstacle"]
    assert (obstacle["code"], "was erased" in obstacle["detail"]) == ("chats_open", False)
    response = post(officer, "erase", {})
    assert (response.status_code, response.json()["code"]) == (409, "chats_open")
    assert response.json()["detail"] == f"Nothing was erased. {obstacle['detail']}"


def test_export_answers_all_rows_and_is_stored_nowhere(officer):
    session = ClosedSessionFactory(customer_id=CUSTOMER)
    response = post(officer, "export", {}, **{"Idempotency-Key": "a"})
    (found,) = response.json()["sessions"]
    assert found["chatsession"][0]["session_id"] == session.session_id
    assert found["sessionsummary"][0]["text"] == session.summary.text
    assert not IdempotentRequest.objects.exists()
    assert DataExport.objects.get().via == "rest"


def test_customer_who_is_being_erased_is_busy(officer):
    ClosedSessionFactory(customer_id=CUSTOMER)
    with erasure_lock(CUSTOMER):
        response = post(officer, "erase", {})
        obstacle = post(officer, "erase", {"dry_run": True}).json()["obstacle"]
    body = response.json()
    assert (response.status_code, body["code"], body["retryable"]) == (409, "customer_busy", True)
    assert "Retry-After" in response
    assert "being erased at this moment" in body["detail"]
    assert obstacle == {"code": "customer_busy", "detail": body["detail"]}


@pytest.mark.parametrize("name", ["erase", "export"])
def test_unknown_customer_is_said_and_blank_one_is_refused(officer, name):
    assert "of a customer with this id" in post(officer, name, {}).json()["notice"]
    response = post(officer, name, {"customer_id": "  "})
    assert (response.status_code, [*response.json()["errors"]]) == (400, ["customer_id"])


@pytest.mark.parametrize("name", ["erase", "export"])
def test_caller_without_permission_gets_403(api, name):
    response = post(api, name, {})
    assert (response.status_code, response.json()["code"]) == (403, "permission_denied")


@pytest.mark.parametrize("name", ["erase", "export"])
def test_customer_is_required_in_the_body(officer, name):
    response = post(officer, name, {"customer_id": ""})
    assert (response.status_code, response.json()["code"]) == (400, "invalid")
