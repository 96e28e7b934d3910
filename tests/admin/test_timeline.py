"""Tests of the history of a session as one time line, on its page and in pages of its own."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.utils import timezone

from osvi_django.exceptions import OSVIRejected
from osvi_django.models import ChatSession
from osvi_django.services import close_session, run_close_job
from osvi_django.services.jobs import create_close_job
from osvi_django.services.recovery import mark_closed, recover_session
from osvi_django.testing import Drop, Status
from osvi_django.testing.factories import (
    ChatSessionFactory,
    CloseAttemptFactory,
    ClosedSessionFactory,
)
from tests.admin.session_urls import session_url
from tests.helpers.sandbox import SUMMARY

pytestmark = pytest.mark.django_db


LONG_AGO = timezone.now() - timedelta(days=1)


def lines_on(response):
    """Return the text of each line of the time line, without tags."""
    lines = re.findall(r'<li class="osvi-line.*?</li>', response.text, re.DOTALL)
    return [" ".join(re.sub(r"<[^>]+>", " ", line).split()) for line in lines]


@pytest.fixture
def look(operator):
    """Return the lines on the page of a session."""
    return lambda session: lines_on(operator.get(session_url(session)))


class TestLines:
    def test_lines_have_seconds_and_order(self, look):
        now = timezone.now().replace(microsecond=0)
        session = ChatSessionFactory(
            started_at=now - timedelta(hours=3),
            help_requested=True,
            help_requested_at=now - timedelta(minutes=1),
        )
        session.actions.create(
            kind="inbound", text="Help!", outcome="done", started_at=now - timedelta(hours=2)
        )
        CloseAttemptFactory(
            session=session, started_at=now - timedelta(hours=1), outcome="rejected"
        )
        lines = look(session)
        starts = [
            "The chat started",
            "The customer wrote",
            "This site tried to close the chat",
            "The customer asked for a person",
        ]
        assert [line.startswith(start) for line, start in zip(lines, starts, strict=True)] == (
            [True] * 4
        )
        for line in lines:
            assert re.search(r" 20\d\d, \d\d:\d\d:\d\d", line)

    def test_started_chat_names_who_started_it_once(self, look):
        session = ChatSessionFactory()
        session.actions.create(kind="start", outcome="done")
        [line] = look(session)
        assert line.startswith("This site started the chat")

    def test_close_has_person_via_reason_note_and_summary(self, look, mirrored, staff):
        session = mirrored()
        close_session(session, requested_by=staff, via="rest", note="They <left>.")
        session.attempts.update(close_reason="Answered")
        started, closed, stored = look(session)
        assert started.startswith("The chat started")
        assert closed.startswith("sam closed the chat")
        for words in ("API", "Answered", "Note: They &lt;left&gt;."):
            assert words in closed
        assert stored.startswith("The summary by OSVI was stored")

    @pytest.mark.parametrize(
        ("kind", "outcome", "words"),
        [
            ("close", "no_answer", "tried to close the chat"),
            ("close", "started", "tried to close the chat"),
            ("reclose", "closed", "closed it again to get the summary"),
            ("reclose", "rejected", "tried to close it again to get the summary"),
            ("mirrored", "closed", "found that OSVI has closed the chat"),
            ("review", "closed", "used an answer as the summary"),
            ("reopened", "reopened", "found the chat open at OSVI, so it is open here again"),
            ("later", "closed", "later"),
        ],
    )
    def test_attempt_of_each_kind_says_what_it_did(self, look, kind, outcome, words):
        session = ChatSessionFactory(status="unconfirmed")
        CloseAttemptFactory(session=session, kind=kind, outcome=outcome)
        assert f"This site {words}" in look(session)[-1]

    def test_marked_chat_has_person_and_note(self, look, unconfirmed, staff):
        session = ChatSessionFactory(status="unconfirmed")
        mark_closed(session, requested_by=staff, via="admin", note="I saw it.")
        line = look(session)[-1]
        assert line.startswith("sam marked the chat as closed")
        assert "I saw it." in line

    @pytest.mark.parametrize("marked", [False, True])
    def test_unanswered_close_shows_its_reason_only_until_it_is_settled(
        self, look, unconfirmed, staff, marked
    ):
        session = unconfirmed(Drop(after_closing=True))
        old = "It will be checked with OSVI automatically"
        assert old in look(session)[1]
        if marked:
            mark_closed(session, requested_by=staff, note="I saw it.")
        else:
            recover_session(session)
        lines = look(session)
        assert old not in " ".join(lines)
        assert "Settled since: the chat is closed." in lines[1]
        assert "no answer" in lines[1]  # what happened stays

    def test_unanswered_close_of_chat_that_is_open_again_says_so(self, look, unconfirmed):
        session = unconfirmed(Drop())
        recover_session(session)
        assert "Checked since: OSVI has not closed the chat" in look(session)[1]

    def test_refused_close_quotes_its_reason_after_chat_is_closed(
        self, look, mirrored, osvi_sandbox
    ):
        session = mirrored()
        osvi_sandbox.script(session.session_id, Status(403, errors=["Not now."]))
        with pytest.raises(OSVIRejected):
            close_session(session)
        assert "It is still open. OSVI said: “Not now.”" in look(session)[1]
        close_session(session)
        line = look(session)[1]
        assert "It is still open" not in line
        assert "Settled since: the chat is closed. The reason then: “Not now.”" in line

    @pytest.mark.parametrize("outcome", ["no_answer", "bad_answer", "rejected", "not_sent"])
    @pytest.mark.parametrize("status", ["closing", "a new one"])
    def test_attempt_of_chat_in_other_state_is_shown(self, look, status, outcome):
        later = timezone.now() + timedelta(minutes=1)
        session = ChatSessionFactory(status=status, lease_until=later)
        CloseAttemptFactory(session=session, outcome=outcome, error_code="rejected")
        is_outdated = status == "closing" and outcome in {"rejected", "not_sent"}
        assert ("The chat is being closed again." in look(session)[-1]) == is_outdated

    def test_closed_by_osvi_has_reason(self, look):
        session = ChatSessionFactory(status="closed", closed_at=timezone.now())
        CloseAttemptFactory(session=session, kind="mirrored", outcome="closed", reason="later_chat")
        assert "OSVI lists a later chat of this customer" in look(session)[-1]

    def test_closed_chat_without_attempt_says_when_it_was_closed(self, look):
        session = ChatSessionFactory(status="closed", started_at=LONG_AGO, closed_at=timezone.now())
        assert look(session)[-1].startswith("The chat was closed")

    @pytest.mark.parametrize(
        ("source", "words"),
        [
            ("osvi", "The summary by OSVI was stored"),
            ("host", "The summary by this site was stored"),
            ("reviewed", "The summary taken from an answer was stored"),
            ("later", "The summary by OSVI was stored"),
        ],
    )
    def test_summary_says_where_it_is_from(self, look, source, words):
        assert look(ClosedSessionFactory(summary__source=source))[-1].startswith(words)

    def test_close_by_job_links_to_job_for_those_who_see_it(self, operator, mirrored, log_in):
        session = mirrored()
        job = create_close_job([session], requested_by=None, start=False)
        run_close_job(job.uuid)
        html = operator.get(session_url(session)).text
        assert f"closed the chat by {job}" in " ".join(lines_on(operator.get(session_url(session))))
        assert f"/closejob/{job.pk}/" not in html
        client = log_in("view_chatsession", "view_closejob", name="kim")
        assert f"/closejob/{job.pk}/change/" in client.get(session_url(session)).text


class TestPages:
    def test_older_lines_are_on_pages_of_their_own(self, operator):
        now = timezone.now()
        session = ChatSessionFactory(started_at=now - timedelta(days=9))
        for age in range(60):
            moment = now - timedelta(minutes=age)
            session.actions.create(
                kind="inbound", text=f"Number {age}.", outcome="done", started_at=moment
            )
            CloseAttemptFactory(session=session, started_at=moment, note=f"Try {age}.")
        response, seen = operator.get(session_url(session)), []
        while True:
            lines = lines_on(response)
            seen = [*lines, *seen]
            older = re.search(r'href="([^"]*thread/\?before=[^"]*)"', response.text)
            if older is None:
                break
            assert len(lines) == 50
            response = operator.get(older[1])
        assert len(seen) == 121
        assert seen[0].startswith("The chat started")
        order = [re.search(r"(?:Number|Try) (\d+)\.", line)[1] for line in seen[1:]]
        assert order == [str(age) for age in reversed(range(60)) for _each in range(2)]

    def test_page_before_unknown_line_shows_newest(self, operator):
        session = ChatSessionFactory()
        for before in ("", "x", "action-9"):
            response = operator.get(f"{session_url(session, 'thread')}?before={before}")
            assert len(lines_on(response)) == 1

    def test_page_before_fact_shows_what_was_earlier(self, operator):
        session = ClosedSessionFactory(started_at=LONG_AGO)
        response = operator.get(f"{session_url(session, 'thread')}?before=summary")
        assert [line[:16] for line in lines_on(response)] == [
            "The chat started",
            "The chat was clo",
        ]


class TestPage:
    def test_title_is_customer_and_agent(self, operator):
        html = operator.get(session_url(ChatSessionFactory(agent__name="Maya"))).text
        assert re.search(r"<h1><bdi>\+1555\d+</bdi> with Maya</h1>", html)
        assert re.search(r"<title>\+1555\d+ with Maya ", html)
        html = operator.get(
            session_url(ChatSessionFactory(agent__name="Maya", customer_id=""))
        ).text
        assert "<h1>Chat with Maya</h1>" in html
        assert "The customer is not known." in html

    def test_other_chats_of_customer_have_summaries(self, log_in):
        session = ChatSessionFactory(customer_id="+15551112222")
        other = ClosedSessionFactory(
            customer_id="+15551112222", agent=session.agent, summary__text=SUMMARY
        )
        ClosedSessionFactory(customer_id="+15551113333", summary__text="Not theirs.")
        client = log_in("view_chatsession", "view_sessionsummary")
        html = client.get(session_url(session)).text
        assert f'href="{session_url(other)}"' in html
        assert "asked for a refund." in html
        assert "Not theirs." not in html
        assert "All chats of this customer" not in html
        html = log_in("view_chatsession", name="kim").get(session_url(session)).text
        assert f'href="{session_url(other)}"' in html
        assert "asked for a refund." not in html

    def test_other_chats_of_customer_are_bounded(self, operator):
        session = ChatSessionFactory(customer_id="+1555")
        ChatSessionFactory.create_batch(11, customer_id="+1555", agent=session.agent)
        html = operator.get(session_url(session)).text
        found = re.search(r'href="([^"]*)">All chats of this customer', html)
        assert html.partition("osvi-others")[2].partition("</aside>")[0].count("<li>") == 10
        assert "12 chat sessions" in operator.get(found[1]).text

    def test_customer_without_other_chats_says_so(self, operator):
        assert "None on this site." in operator.get(session_url(ChatSessionFactory())).text

    def test_page_links_to_dashboard_if_its_url_is_set(self, operator, settings):
        session = ChatSessionFactory()
        words = "Open in OSVI&#x27;s dashboard"
        assert words not in operator.get(session_url(session)).text
        settings.OSVI = {
            "default": {"API_TOKEN": "t", "DASHBOARD_URL": "https://osvi.example/c/{session_id}"}
        }
        html = operator.get(session_url(session)).text
        assert f'href="https://osvi.example/c/{session.session_id}"' in html
        settings.OSVI["default"]["DASHBOARD_URL"] = "nowhere"
        assert words not in operator.get(session_url(session)).text

    def test_page_of_closed_chat_says_who_closed_it(self, operator, staff):
        session = ClosedSessionFactory(closed_by=staff)
        html = operator.get(session_url(session)).text
        assert re.search(r"Closed by.*?sam", html, re.DOTALL)
        ChatSession.objects.update(closed_by=None)
        html = operator.get(session_url(session)).text
        assert not re.search(r">\s*None\s*<", html)

    def test_page_of_closing_chat_has_link_to_look_again(self, operator):
        later = timezone.now() + timedelta(minutes=1)
        session = ChatSessionFactory(status="closing", lease_until=later)
        assert "Look again" in operator.get(session_url(session)).text

    def test_summary_has_button_to_copy_it(self, staff_client):
        assert "osvi-copy" in staff_client.get(session_url(ClosedSessionFactory())).text
        session = ChatSessionFactory(status="closed", summary_status="lost")
        assert "osvi-copy" not in staff_client.get(session_url(session)).text
