"""Reasons and required notes over REST."""

from __future__ import annotations

import pytest

from osvi_django.models import CloseJob
from osvi_django.testing.factories import ChatSessionFactory

pytestmark = pytest.mark.django_db

ROOT = "/api/osvi/sessions/"


@pytest.fixture(autouse=True)
def rules(settings, osvi_sandbox):
    """Give the default account two reasons, and require a note."""
    settings.OSVI["default"] |= {"CLOSE_REASONS": ["Answered", "Spam"], "NOTE_REQUIRED": True}


@pytest.fixture
def client(client_with):
    """Return a client that may view and close."""
    return client_with("view_chatsession", "close_chatsession")


@pytest.mark.parametrize("path", ["close/", "support/"])
def test_close_stores_the_reason_and_refuses_others(client, session, path):
    url = f"{ROOT}{session.session_id}/{path}"
    body = {"command": "close"} if path == "support/" else {}
    refused = client.post(url, {**body, "note": "n", "close_reason": "Bored"}, format="json")
    assert (refused.status_code, refused.data["code"]) == (400, "invalid")
    assert "“Answered”, “Spam”" in str(refused.data)
    refused = client.post(url, body, format="json")
    assert (refused.status_code, "note is required" in str(refused.data)) == (400, True)
    done = client.post(url, {**body, "note": "n", "close_reason": "Spam"}, format="json")
    assert (done.status_code, done.data["close_reason"]) == (200, "Spam")
    attempt = session.attempts.get()
    got = client.get(f"{ROOT}{session.session_id}/attempts/{attempt.pk}/")
    assert got.data["close_reason"] == "Spam"


def test_bulk_close_stores_the_reason_and_refuses_others(client, session, run):
    body = {"session_ids": [session.session_id], "note": "n", "close_reason": "Bored"}
    refused = client.post(f"{ROOT}close/", body, format="json")
    assert (refused.status_code, CloseJob.objects.exists()) == (400, False)
    made = client.post(f"{ROOT}close/", {**body, "close_reason": "Spam"}, format="json")
    assert (made.status_code, made.data["close_reason"]) == (202, "Spam")
    run(made.data)
    session.refresh_from_db()
    assert session.close_reason == "Spam"


def test_asynchronous_close_has_the_reason(client, session):
    url, prefer = f"{ROOT}{session.session_id}/close/", {"headers": {"prefer": "respond-async"}}
    refused = client.post(url, {"close_reason": "Spam"}, format="json", **prefer)
    assert refused.status_code == 400
    made = client.post(url, {"close_reason": "Spam", "note": "n"}, format="json", **prefer)
    assert (made.status_code, made.data["close_reason"]) == (202, "Spam")


def test_list_is_filtered_by_reason(client):
    wanted = ChatSessionFactory(status="closed", close_reason="Spam")
    ChatSessionFactory(status="closed", close_reason="Answered")
    found = client.get(ROOT, {"close_reason": "Spam"}).data["results"]
    assert [each["session_id"] for each in found] == [wanted.session_id]


def test_list_is_filtered_by_mode_and_help(client):
    waits = ChatSessionFactory(mode="support", help_requested=True)
    ChatSessionFactory(mode="support"), ChatSessionFactory(help_requested=True)
    found = client.get(ROOT, {"mode": "support", "help_requested": "true"}).data["results"]
    assert [each["session_id"] for each in found] == [waits.session_id]
    assert client.get(ROOT, {"help_requested": "1"}).status_code == 400


def test_goodbye_is_sent_and_reported(client_with, session, osvi_sandbox):
    url, why = f"{ROOT}{session.session_id}/close/", {"note": "n", "goodbye": "Bye"}
    refused = client_with("close_chatsession", name="al").post(url, why, format="json")
    assert refused.status_code == 403
    client = client_with("view_chatsession", "close_chatsession", "operate_chatsession")
    done = client.post(url, why, format="json")
    assert (done.status_code, done.data["goodbye"]) == (200, "sent")
    assert [each.body for each in osvi_sandbox.requests][1] == {"message": "Bye"}


def test_bulk_goodbye_is_sent_and_reported(client_with, session, osvi_sandbox, run):
    client = client_with("view_chatsession", "close_chatsession", "operate_chatsession")
    body = {"session_ids": [session.session_id], "note": "n", "goodbye": "Bye"}
    made = client.post(f"{ROOT}close/", body, format="json")
    assert made.data["goodbye"] == "Bye"
    run(made.data)
    (result,) = client.get(made.data["results"]).data["results"]
    assert (result["outcome"], result["goodbye"]) == ("closed", "sent")


def test_retry_of_a_cancelled_job_closes_the_rest_if_asked(client, session, settings, run):
    settings.OSVI["default"] |= {"NOTE_REQUIRED": False}
    made = client.post(f"{ROOT}close/", {"session_ids": [session.session_id]}, format="json")
    url = f"/api/osvi/close-jobs/{made.data['id']}/"
    client.post(f"{url}cancel/")
    assert client.post(f"{url}retry/").status_code == 400
    rest = client.post(f"{url}retry/", {"include_cancelled": True}, format="json")
    assert (rest.status_code, rest.data["total"]) == (202, 1)
