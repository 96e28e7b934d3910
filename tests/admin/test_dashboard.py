"""Tests of the links to OSVI's dashboard in messages to staff about a session."""

from __future__ import annotations

import re

import pytest
from django.contrib.admin.models import LogEntry
from django.utils.functional import Promise
from django.utils.html import escape

from osvi_django.admin.dashboard import NAME, with_dashboard
from osvi_django.exceptions import OSVIError
from osvi_django.testing import Drop
from osvi_django.testing.factories import ChatSessionFactory, CloseAttemptFactory
from tests.admin.session_urls import desk_url, session_url

pytestmark = pytest.mark.django_db

LIST = "/admin/osvi_django/chatsession/"


@pytest.fixture
def dashboard(settings):
    """Set where OSVI's dashboard is."""
    settings.OSVI["default"]["DASHBOARD_URL"] = "https://osvi.example/c/{session_id}"


@pytest.fixture
def send(operator, mirrored, osvi_sandbox):
    """Send a text whose answer does not arrive, and return the session and the response."""

    def _send(**headers):
        session = mirrored(customer_id="c")
        osvi_sandbox.script(session.session_id, Drop())
        data = {"command": "send", "to": "whisper", "text": "They are new."}
        return session, operator.post(desk_url(session), data, follow=True, headers=headers)

    return _send


def link_to(session):
    """Return the link to a session in the dashboard."""
    url = f"https://osvi.example/c/{session.session_id}"
    return f'<a href="{url}" rel="noopener noreferrer">OSVI&#x27;s dashboard</a>'


def messages_on(response):
    """Return the messages on a page, as HTML."""
    return re.search(r'<ul class="messagelist".*?</ul>', response.text, re.DOTALL)[0]


def test_message_after_text_without_answer_links_to_dashboard(send, dashboard):
    session, response = send()
    assert link_to(session) in messages_on(response)


def test_message_for_script_links_to_dashboard(send, dashboard):
    session, response = send(**{"X-OSVI-Script": "1"})
    [message] = response.json()["messages"]
    assert link_to(session) in message["html"]


def test_message_without_url_of_dashboard_has_no_link(send):
    _session, response = send()
    assert "Check the chat in OSVI&#x27;s dashboard before" in messages_on(response)
    assert "<a" not in messages_on(response)


def test_message_after_check_links_to_dashboard(staff_client, dashboard):
    session = ChatSessionFactory(
        status="unconfirmed", customer_id="", agent__uuid=None, agent__number=1
    )
    data = {"action": "recover_selected", "_selected_action": [session.pk], "post": "yes"}
    shown = messages_on(staff_client.post(LIST, {**data, "index": 0}, follow=True))
    assert link_to(session) in shown
    assert f"Chat {session.session_id}:" in shown


def test_message_after_close_links_to_dashboard_and_history_has_words(
    staff_client, dashboard, osvi_sandbox
):
    session = ChatSessionFactory(customer_id="")
    response = staff_client.post(session_url(session, "close"), {"post": "yes"}, follow=True)
    assert link_to(session) in messages_on(response)
    assert "<a" not in " ".join(entry.change_message for entry in LogEntry.objects.all())


def test_page_of_refused_chat_links_to_dashboard(staff_client, dashboard):
    session = ChatSessionFactory(is_close_refused=True)
    CloseAttemptFactory(session=session, outcome="rejected", error_reason="<i>No</i>")
    html = staff_client.get(session_url(session)).text
    explained = re.search(r'class="osvi-explanation">(.*?)</p>', html)[1]
    assert link_to(session) in explained
    assert "“&lt;i&gt;No&lt;/i&gt;”" in explained


def test_reason_in_job_links_to_dashboard(staff_client, dashboard, make_job, job_url):
    job = make_job("completed_with_errors", rejected=1, code="rejected", reason=f"See {NAME}.")
    session = job.items.get().session
    assert link_to(session) in staff_client.get(job_url("change", job)).text


def test_sentence_is_escaped_around_its_link(dashboard):
    session = ChatSessionFactory()
    sentence = f"<script> {NAME} & {NAME}"
    linked = with_dashboard(sentence, session)
    assert linked == f"&lt;script&gt; {link_to(session)} &amp; {escape(NAME)}"
    assert repr(linked) == "[hidden]"
    assert with_dashboard("<script>", session) == "<script>"


def test_messages_of_all_errors_name_dashboard_in_same_words():
    kinds, said = [OSVIError], []
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        said += [str(each) for each in vars(kind).values() if isinstance(each, Promise)]
    named = [each for each in said if "dashboard" in each]
    assert len(named) > 3
    assert [each for each in named if str(NAME) not in each] == []
