"""Plant a word in each place by using the product, erase, and look for it everywhere."""

from __future__ import annotations

import json
import logging
import uuid

import pytest
from django.contrib.auth import get_user_model
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client
from django.urls import reverse
from rest_framework.test import APIClient

from osvi_django import spool
from osvi_django.exceptions import OSVINoAnswer
from osvi_django.models import (
    ChatSession,
    CloseAttempt,
    CloseJob,
    CloseJobItem,
    DailyCount,
    DataExport,
    Erasure,
    StartLock,
    SupportAction,
    WebhookDelivery,
)
from osvi_django.services import close_session, erase_customer, export_customer
from osvi_django.services.jobs import create_close_job, run_close_job
from osvi_django.services.privacy.places import PERSONAL, label_of
from osvi_django.services.privacy.retention import purge_expired
from osvi_django.services.start_locks import key_of
from osvi_django.testing import Drop, Status
from tests.helpers.sandbox import mirror
from tests.services.helpers import expire_leases

pytestmark = pytest.mark.django_db(transaction=True)

WORD = "zebrawort"
CUSTOMER = f"{WORD}-47110815937"
OTHER = "someone-else-12"
# What cannot be looked for by the word: hashes, moments, derived texts and what comes with others.
NOT_BY_WORD = {
    "chatsession.customer_digits",
    "chatsession.session_id",
    "chatsession.session_key",
    "chatsession.session_key_reversed",
    "chatsession.erased_at",
    "chatsession.active_human",
    "closeattempt.answer_charset",
    "closeattempt.requester_key",
    "supportaction.redacted_at",
    "supportaction.form_key",
    "supportaction.requester_key",
    "closejob.requester_key",
    "closejobitem.requested_session_id",
    "webhookdelivery.subject",
    "webhookdelivery.data",
    "idempotentrequest.headers",
    "startlock.key",
    "erasure.customer_hash",
}


@pytest.fixture
def spool_dir(settings, osvi_sandbox, tmp_path):
    directory = tmp_path / "spool"
    secrets = ["whsec_" + "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]
    settings.OSVI["default"]["SPOOL_DIR"] = directory
    settings.OSVI_WEBHOOKS = [{"URL": "https://crm.example/hook", "SECRETS": secrets}]
    settings.OSVI_EVENT_EXECUTOR = None
    settings.OSVI_EXECUTOR = None
    return directory


@pytest.fixture
def staff():
    return get_user_model().objects.create_superuser("staff", "staff@example.com", "x")


@pytest.fixture
def api(staff):
    client = APIClient()
    client.force_authenticate(staff)
    return client


def dump():
    """Return everything in the database as text, by table."""
    tables = {}
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")  # noqa: S608
            tables[table] = "\n".join(_text_of(row) for row in cursor.fetchall())
    return tables


def _text_of(row):
    return " ".join(
        bytes(each).decode(errors="replace") if isinstance(each, bytes | memoryview) else str(each)
        for each in row
    ).lower()


def hits(*words):
    """Return the tables in which one of these is found; login sessions are decoded."""
    found = dump()
    found["logins"] = " ".join(str(row.get_decoded()) for row in Session.objects.all()).lower()
    return {table for table, text in found.items() if any(each.lower() in text for each in words)}


def post(client, path, body, **headers):
    root = reverse("osvi_django:session-list")
    response = client.post(f"{root}{path}", body, format="json", headers=headers)
    assert response.status_code < 300, response.content
    return response.json()


def operate(api, session_id):
    """Do everything in a session that can be done in it over REST."""
    post(api, f"{session_id}/support/", {"command": "takeover", "message": f"{WORD} took"})
    post(api, f"{session_id}/support/", {"message": f"{WORD} message"})
    post(api, f"{session_id}/support/", {"command": "end"})
    for command in ("tell", "whisper"):
        post(api, f"{session_id}/support/", {"command": command, "message": f"{WORD} {command}"})
    post(api, f"{session_id}/context/", {"context": f"{WORD} context"})
    post(api, f"{session_id}/messages/", {"content": f"{WORD} inbound"})


def plant(api, osvi, staff, spool_dir):
    """Use the product so that the customer is in each place; return the ids of the sessions."""
    chats = [
        mirror(osvi, customer_id=CUSTOMER, summary=f"{WORD} summary {number}")
        for number in range(4)
    ]
    first, second, third, fourth = chats
    operate(api, first.session_id)
    close = {"note": f"{WORD} note", "close_reason": f"{WORD} reason"}
    headers = {"Idempotency-Key": "key-1"}
    post(api, f"{first.session_id}/close/", close, **headers)
    # One is refused first, and then closed with others by a job that a filter made.
    osvi.script(second.session_id, Status(422, errors=(f"{WORD} refusal",)))
    refused = create_close_job([second], note="first try")
    run_close_job(refused.pk)
    body = {"filter": {"customer_id": CUSTOMER}, "note": f"{WORD} job", "goodbye": f"{WORD} bye"}
    body["close_reason"] = f"{WORD} why"
    other = mirror(osvi, customer_id=OTHER, summary="Not theirs.")
    post(api, "close/", body)
    CloseJob.objects.order_by("pk").update(selection=f"search {WORD}")
    # Of one, the answer is lost: staff mark it as closed, and the answer is found in the spool.
    osvi.script(third.session_id, Drop(after_closing=True))
    with pytest.raises(OSVINoAnswer):
        close_session(third, note=f"{WORD} lost")
    expire_leases()
    login = Client()
    login.force_login(staff)
    mark = reverse("admin:osvi_django_chatsession_mark", args=(third.pk,))
    login.post(mark, {"post": "yes", "note": f"{WORD} seen as closed", "once": uuid.uuid4().hex})
    keep_draft(login, fourth)
    for job in CloseJob.objects.filter(finished_at=None):
        run_close_job(job.pk)
    close_rest(api, chats)
    rest_of_the_places(third, spool_dir)
    mixed = create_close_job([other], note="")
    run_close_job(mixed.pk)
    return [each.session_id for each in chats], other


def keep_draft(login, session):
    """Type a text and send it without a take-over, so that it is kept for the page."""
    url = reverse("admin:osvi_django_chatsession_desk", args=(session.pk,))
    login.post(url, {"do": "message", "text": f"{WORD} draft", "once": uuid.uuid4().hex})
    sessions = dict(login.session)
    if WORD not in str(sessions):
        store = login.session
        pages = {f"osvi_django.chatsession:desk:{session.pk}": {"typed": {"text": f"{WORD}"}}}
        store["osvi_django_kept"] = pages
        store.save()


def close_rest(api, chats):
    for each in chats:
        each.refresh_from_db()
        if each.status != "closed":
            post(api, f"{each.session_id}/close/", {})


def rest_of_the_places(session, spool_dir):
    """Plant what only a failure or another version leaves."""
    attempt = session.attempts.order_by("pk").first()
    answer = spool.SpooledAnswer(
        session=session.pk,
        attempt=attempt.pk,
        claim=str(attempt.claim),
        status=200,
        body=f'{{"data": "{WORD}"}}'.encode(),
        truncated=False,
    )
    spool.put(spool_dir, answer)
    CloseAttempt.objects.filter(pk=attempt.pk).update(
        answer_bytes=f"{WORD} bytes".encode(), answer_charset="x", requester_key=CUSTOMER
    )
    SupportAction.objects.update(answer=f'{{"{WORD}": 1}}', error_reason=f"{WORD} said")
    SupportAction.objects.filter(reply="").update(reply=f"{WORD} replied")
    ChatSession.objects.filter(pk=session.pk).update(
        active_human=f"{WORD} person", metadata={"metadata": {"context": [f"{WORD} said"]}}
    )
    CloseJobItem.objects.filter(session=session.pk).update(error_reason=f"{WORD} refused")
    lost = CloseJob.objects.create(status="completed", finished_at=session.closed_at)
    CloseJobItem.objects.create(job=lost, requested_session_id=session.session_id)
    key = key_of(session.agent.account, session.agent.uuid, CUSTOMER)
    StartLock.objects.create(key=key)
    DataExport.objects.create(file_format="csv", selection=f"customer {CUSTOMER}", rows=1)


def columns_with(word):
    """Return the personal columns that have a word somewhere."""
    return {
        f"{label_of(model)}.{name}"
        for model, columns in PERSONAL.items()
        for name in columns
        for value in model.objects.values_list(name, flat=True)
        if word in (bytes(value).decode() if isinstance(value, bytes | memoryview) else str(value))
    }


def spooled(directory):
    return [path.read_text() for path in directory.iterdir()] if directory.exists() else []


def test_erased_customer_is_nowhere(api, osvi_sandbox, staff, spool_dir, caplog):
    session_ids, other = plant(api, osvi_sandbox, staff, spool_dir)
    every = {f"{label_of(model)}.{name}" for model, names in PERSONAL.items() for name in names}
    assert every - columns_with(WORD) - NOT_BY_WORD == set()
    assert {"django_admin_log", "logins"} <= hits(WORD)
    assert len(spooled(spool_dir)) == 1
    assert WebhookDelivery.objects.filter(subject__in=session_ids).exists()
    attempts = CloseAttempt.objects.count()
    WebhookDelivery.objects.update(claim=None)

    planned = erase_customer(CUSTOMER, requested_by=staff, dry_run=True)
    assert (planned.obstacle, planned.marker) == (None, "")
    assert planned.counts["chatsession"] == 4
    exported = export_customer(CUSTOMER, requested_by=staff)
    assert len(exported["sessions"]) == 4
    assert json.dumps(exported, default=str).count(WORD) > 20
    caplog.clear()
    with caplog.at_level(logging.DEBUG, logger="osvi_django"):
        result = erase_customer(CUSTOMER, requested_by=staff, via="admin")

    assert {place: result.counts[place] for place in planned.counts} == result.counts
    assert result.counts["chatsession"] == 4
    assert {"spool", "history", "logins", "startlock", "dataexport"} <= set(result.counts)
    assert hits(WORD, *session_ids) == set()
    reversed_ids = [each.replace("-", "")[::-1] for each in session_ids]
    compact = [each.replace("-", "") for each in session_ids]
    assert hits("73951801174", *reversed_ids, *compact) == set()
    assert spooled(spool_dir) == []
    assert WORD not in caplog.text

    assert CloseAttempt.objects.count() == attempts
    assert ChatSession.objects.exclude(erased_at=None).count() == 4
    assert {each.status for each in ChatSession.objects.all()} == {"closed"}
    other.refresh_from_db()
    assert (other.customer_id, other.erased_at) == (OTHER, None)
    assert other.summary.text == "Not theirs."
    erasure = Erasure.objects.get()
    assert erasure.counts == result.counts
    assert (erasure.requested_by, erasure.via) == (staff, "admin")
    assert erasure.finished_at is not None
    again = erase_customer(CUSTOMER)
    assert (again.counts, again.was_erased) == ({}, True)
    assert Erasure.objects.get().counts == result.counts


def test_erased_session_is_still_counted_when_it_is_deleted(
    api, osvi_sandbox, staff, spool_dir, settings
):
    chat = mirror(osvi_sandbox, customer_id=CUSTOMER)
    post(api, f"{chat.session_id}/close/", {"close_reason": f"{WORD} reason"})
    erase_customer(CUSTOMER)
    settings.OSVI["default"]["RETENTION"] = {"sessions": 0, "events": 0}
    assert sum(each.number for each in purge_expired(only=["sessions"])) == 1
    count = DailyCount.objects.get()
    assert (count.close_reason, count.via, count.number) == ("other", "rest", 1)
