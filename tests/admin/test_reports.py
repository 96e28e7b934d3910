"""What error reporters are sent of an interrupted page of the admin has nobody's words in it."""

from __future__ import annotations

import logging
from itertools import count

import pytest
from django.urls import reverse

from osvi_django.models import ChatSession
from osvi_django.testing.factories import CloseAttemptFactory
from tests.outside import refused
from tests.reporting import (
    CANARY,
    CUSTOMER,
    MESSAGE,
    NOTE,
    SUMMARY,
    KeptMails,
    of_each_interruption,
)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def desk(desk, staff, grant):
    grant(staff, "operate_chatsession")
    return desk


@pytest.fixture
def chat(mirrored):
    numbers = count()
    return lambda: mirrored(
        customer_id=f"{CUSTOMER}{next(numbers)}",
        summary=SUMMARY,
        mode="support",
        metadata={"metadata": {"context": [MESSAGE]}},
    )


def url_of(name, *keys):
    return reverse(f"admin:osvi_django_{name}", args=keys)


def show(desk, session):
    desk.get(url_of("chatsession_change", session.pk))


def show_list(desk, session):
    desk.get(url_of("chatsession_changelist"), {"q": session.session_id})


def close(desk, session):
    url = url_of("chatsession_close", session.pk)
    desk.get(url)
    assert desk.post(url, {"post": "yes", "note": NOTE}).status_code == 302


def mark(desk, session):
    ChatSession.objects.filter(pk=session.pk).update(status="unconfirmed")
    url = url_of("chatsession_mark", session.pk)
    assert desk.post(url, {"post": "yes", "note": NOTE}).status_code == 302


def review(desk, session):
    ChatSession.objects.filter(pk=session.pk).update(status="unconfirmed")
    answer = '{"success": true, "data": {"session_id": "%s", "summary": "%s'
    attempt = CloseAttemptFactory(
        session=session,
        outcome="no_answer",
        http_status=200,
        answer=answer % (session.session_id, SUMMARY),
        answer_incomplete=True,
    )
    url = url_of("chatsession_review", session.pk, attempt.pk)
    desk.get(url)
    form = {"post": "yes", "note": NOTE, "text": SUMMARY}
    assert desk.post(url, form).status_code == 302


def act(name):
    def _act(desk, session):
        form = {"command": name, name: f"{MESSAGE} {session.pk}", "whisper": MESSAGE}
        assert desk.post(url_of("chatsession_desk", session.pk), form).status_code == 302
        desk.get(url_of("chatsession_desk", session.pk))

    return _act


def refuse(desk, session):
    """Keep the words, and show them once more."""
    url = url_of("chatsession_desk", session.pk)
    desk.post(url, {"command": "nothing", "message": MESSAGE})
    desk.get(url)


def look_up(desk, session):
    form = {"customer_id": session.customer_id}
    assert desk.post(url_of("chatsession_lookup"), form).status_code == 302


def start(desk, session):
    form = {
        "agent": session.agent.pk,
        "customer_id": f"{session.customer_id}-new",
        "input_fields": f'{{"name": "{MESSAGE}"}}',
        "context": MESSAGE,
    }
    desk.post(url_of("chatsession_start"), {**form, "agent": ""})
    desk.get(url_of("chatsession_start"))
    assert desk.post(url_of("chatsession_start"), form).status_code == 302


def close_selected(desk, session):
    form = {"action": "close_selected", "_selected_action": session.pk}
    question = desk.post(url_of("chatsession_changelist"), form)
    assert question.status_code == 302
    assert desk.post(question.url, {"note": NOTE}).status_code == 302
    desk.get(question.url.replace("confirm", "change"))


def recover_selected(desk, session):
    ChatSession.objects.filter(pk=session.pk).update(status="unconfirmed")
    form = {"action": "recover_selected", "_selected_action": session.pk, "post": "yes"}
    assert desk.post(url_of("chatsession_changelist"), form).status_code == 302


WAYS = {
    each.__name__: each
    for each in (
        show,
        show_list,
        close,
        mark,
        review,
        refuse,
        look_up,
        start,
        close_selected,
        recover_selected,
    )
} | {name: act(name) for name in ("message", "tell", "context")}


# Python complains of PostgreSQL's cursors in the frames of what was interrupted.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("way", WAYS)
def test_report_of_interrupted_page_contains_no_texts(desk, chat, way, settings):
    settings.OSVI_EXECUTOR = None
    assert of_each_interruption(lambda session: WAYS[way](desk, session), chat) == set()


def test_mailed_report_of_form_contains_no_texts(desk, chat):
    desk.raise_request_exception = False
    form = {"command": "message", "message": MESSAGE, "whisper": MESSAGE}
    handler, log = KeptMails(include_html=True), logging.getLogger("django.request")
    log.addHandler(handler)
    try:
        url = url_of("chatsession_desk", chat().pk)
        with refused(lambda sql, _params: "supportaction" in sql, RuntimeError("unexpected")):
            assert desk.post(url, form).status_code == 500
    finally:
        log.removeHandler(handler)
    assert "whisper = '********************'" in handler.sent[0]
    for each in handler.sent:
        assert "desk_view" in each
        assert CANARY not in each
