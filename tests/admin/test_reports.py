"""Error reports of interrupted pages of the admin contain no texts of people."""

from __future__ import annotations

import logging
from itertools import count

import pytest
from django.urls import reverse

from osvi_django.models import ChatSession
from osvi_django.testing.factories import CloseAttemptFactory
from tests.helpers.database import raise_on_queries
from tests.helpers.error_reports import (
    CANARY,
    CUSTOMER,
    MESSAGE,
    NOTE,
    SUMMARY,
    RecordingEmailHandler,
    find_leaks_at_each_query,
)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def staff_client(staff_client, staff, grant):
    """Log in as support staff who may also operate sessions."""
    grant(staff, "operate_chatsession")
    return staff_client


@pytest.fixture
def chat(mirrored):
    """Create sessions whose fields contain texts of people."""
    numbers = count()
    return lambda: mirrored(
        customer_id=f"{CUSTOMER}{next(numbers)}",
        summary=SUMMARY,
        mode="support",
        metadata={"metadata": {"context": [MESSAGE]}},
    )


def admin_url(name, *keys):
    return reverse(f"admin:osvi_django_{name}", args=keys)


def show(staff_client, session):
    staff_client.get(admin_url("chatsession_change", session.pk))


def show_list(staff_client, session):
    staff_client.get(admin_url("chatsession_changelist"), {"q": session.session_id})


def look_at(staff_client, session):
    for name in ("change", "live"):
        staff_client.get(admin_url(f"chatsession_{name}", session.pk))


def close(staff_client, session):
    url = admin_url("chatsession_close", session.pk)
    staff_client.get(url)
    assert staff_client.post(url, {"post": "yes", "note": NOTE}).status_code == 302


def mark(staff_client, session):
    ChatSession.objects.filter(pk=session.pk).update(status="unconfirmed")
    url = admin_url("chatsession_mark", session.pk)
    assert staff_client.post(url, {"post": "yes", "note": NOTE}).status_code == 302


def review(staff_client, session):
    ChatSession.objects.filter(pk=session.pk).update(status="unconfirmed")
    answer = '{"success": true, "data": {"session_id": "%s", "summary": "%s'
    attempt = CloseAttemptFactory(
        session=session,
        outcome="no_answer",
        http_status=200,
        answer=answer % (session.session_id, SUMMARY),
        answer_incomplete=True,
    )
    url = admin_url("chatsession_review", session.pk, attempt.pk)
    staff_client.get(url)
    form = {"post": "yes", "note": NOTE, "text": SUMMARY}
    assert staff_client.post(url, form).status_code == 302


def act(name):
    def _act(staff_client, session):
        form = {"command": "send", "to": name, "text": f"{MESSAGE} {session.pk}"}
        assert staff_client.post(admin_url("chatsession_desk", session.pk), form).status_code == 302
        staff_client.get(admin_url("chatsession_desk", session.pk))

    return _act


def keep(staff_client, session):
    """Send an unknown action, so that the texts are kept and shown again."""
    url = admin_url("chatsession_desk", session.pk)
    staff_client.post(url, {"command": "nothing", "text": MESSAGE})
    staff_client.get(url)


def look_up(staff_client, session):
    form = {"customer_id": session.customer_id}
    assert staff_client.post(admin_url("chatsession_lookup"), form).status_code == 302


def start(staff_client, session):
    form = {
        "agent": session.agent.pk,
        "customer_id": f"{session.customer_id}-new",
        "name_0": "name",
        "value_0": MESSAGE,
        "context": MESSAGE,
    }
    staff_client.post(admin_url("chatsession_start"), {**form, "agent": ""})
    staff_client.get(admin_url("chatsession_start"))
    assert staff_client.post(admin_url("chatsession_start"), form).status_code == 302


def close_selected(staff_client, session):
    form = {"action": "close_selected", "_selected_action": session.pk}
    question = staff_client.post(admin_url("chatsession_changelist"), form)
    assert question.status_code == 302
    assert staff_client.post(question.url, {"note": NOTE}).status_code == 302
    staff_client.get(question.url.replace("confirm", "change"))


def recover_selected(staff_client, session):
    ChatSession.objects.filter(pk=session.pk).update(status="unconfirmed")
    form = {"action": "recover_selected", "_selected_action": session.pk, "post": "yes"}
    assert staff_client.post(admin_url("chatsession_changelist"), form).status_code == 302


PAGES = {
    each.__name__: each
    for each in (
        show,
        show_list,
        look_at,
        close,
        mark,
        review,
        keep,
        look_up,
        start,
        close_selected,
        recover_selected,
    )
} | {name: act(name) for name in ("message", "tell", "context")}


# Python complains of PostgreSQL's cursors in the frames of what was interrupted.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("page", PAGES)
def test_report_of_interrupted_page_contains_no_texts(staff_client, chat, page):
    assert (
        find_leaks_at_each_query(lambda session: PAGES[page](staff_client, session), chat) == set()
    )


def test_mailed_report_of_form_contains_no_texts(staff_client, chat):
    staff_client.raise_request_exception = False
    form = {"command": "send", "to": "message", "text": MESSAGE}
    handler, log = RecordingEmailHandler(include_html=True), logging.getLogger("django.request")
    log.addHandler(handler)
    try:
        url = admin_url("chatsession_desk", chat().pk)
        with raise_on_queries(
            lambda sql, _params: "supportaction" in sql, RuntimeError("unexpected")
        ):
            assert staff_client.post(url, form).status_code == 500
    finally:
        log.removeHandler(handler)
    assert "text = '********************'" in handler.sent[0]
    for each in handler.sent:
        assert "desk_view" in each
        assert CANARY not in each
