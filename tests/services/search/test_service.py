"""Test that sessions are found by whatever people know of them."""

from __future__ import annotations

import pytest
from django.db import connection

from osvi_django.exceptions import InvalidInput, NotAllowed
from osvi_django.models import ChatSession
from osvi_django.services import mirror_session, mirror_started, search_sessions
from osvi_django.services.search.keys import has_customer, has_id, has_number, has_part
from osvi_django.testing.factories import (
    ChatSessionFactory,
    CloseAttemptFactory,
    ClosedSessionFactory,
)
from tests.services.helpers import AFTER, STARTED, session_object

pytestmark = pytest.mark.django_db
ID = "6513270e-b2a1-4f3c-9d8e-77aa10c0ffee"


def found(text, **caller):
    """Return the sessions that a search finds, oldest first."""
    return list(search_sessions(text, **caller).sessions.order_by("pk"))


def kinds(text, **caller):
    return [str(kind) for kind in search_sessions(text, **caller).kinds]


@pytest.mark.parametrize("value", [None, 5, b"refund", ["refund"]])
def test_search_for_what_is_no_text_raises_invalid_input(value):
    with pytest.raises(InvalidInput, match="text must be a text") as caught:
        search_sessions(value)
    assert caught.value.field == "text"


class TestNumbers:
    @pytest.mark.parametrize(
        "stored",
        ["+15551112222", "15551112222", "+1 555 111-2222", "whatsapp:+15551112222", "5551112222"],
    )
    @pytest.mark.parametrize(
        "typed",
        [
            "+15551112222",
            "+1 555 111 2222",
            "+1 (555) 111-2222",
            "0015551112222",
            "+1.555.111.2222",
            "tel:+15551112222",
            "\u202a+1\u00a0555\u00a0111\u00a02222\u202c",
            "5551112222",
            "(555) 111-2222",
            "05551112222",
            "0555 111 2222",
            "+1 (0) 555 111 2222",
            "111-2222",
            "2222",
            "\u0662\u0662\u0662\u0662",
        ],
    )
    def test_search_finds_number_in_any_writing(self, stored, typed):
        session = ChatSessionFactory(customer_id=stored)
        ChatSessionFactory.create_batch(2, customer_id="+15551112223")
        assert found(typed) == [session]

    def test_search_finds_number_that_is_stored_with_trunk_zero(self):
        session = ChatSessionFactory(customer_id="0171 2345678")
        assert found("+49 171 2345678") == found("(0)171/2345678") == [session]

    def test_search_keeps_zeros_of_last_digits(self):
        session = ChatSessionFactory(customer_id="+15551110042")
        ChatSessionFactory(customer_id="+15551117742")
        assert found("0042") == [session]

    @pytest.mark.parametrize("text", ["222", "call 2222", "..."])
    def test_search_for_other_text_searches_no_numbers(self, text):
        ChatSessionFactory(customer_id="+15551112222")
        assert found(text) == []
        assert "phone" not in kinds(text)


class TestCustomers:
    @pytest.mark.parametrize(
        "typed", ["maya@example.com", "maya", "  maya@", "“maya@example.com”", "Maya@Example.com"]
    )
    def test_search_finds_customer_by_beginning_of_id(self, typed):
        session = ChatSessionFactory(customer_id="maya@example.com")
        ChatSessionFactory(customer_id="not-maya@example.com")
        assert found(typed) == [session]

    @pytest.mark.parametrize("typed", ["50%", "a_c", "a\\c", "o'brien", "Zoë"])
    def test_search_takes_patterns_literally(self, typed):
        session = ChatSessionFactory(customer_id=f"{typed}1")
        ChatSessionFactory(customer_id="50x1")
        ChatSessionFactory(customer_id="abc1")
        assert found(typed) == [session]

    def test_search_finds_short_id(self):
        session = ChatSessionFactory(customer_id="7")
        assert found("7") == [session]

    def test_search_finds_customer_of_mirrored_session(self):
        mirror_started(STARTED, agent_uuid="agent_1")
        assert found("5550001") == []
        session = mirror_started(STARTED, agent_uuid="agent_1", customer_id="+1 555 0001")
        assert found("15550001") == [session]
        news = session_object(customer_id="+1 555 0002", updated_at=AFTER)
        assert mirror_session(news) == session
        assert (found("5550001"), found("5550002")) == ([], [session])


class TestIds:
    @pytest.mark.parametrize(
        "typed",
        [
            ID,
            ID.upper(),
            ID.replace("-", ""),
            f"“{ID}”",
            "6513270e",
            "6513270e…",
            "6513270e...",
            "6513270e-b2a1",
            "6513270eb2a1",
            "77aa10c0ffee",
            "…c0ffee",
            "6513270e…c0ffee",
            "65…",
        ],
    )
    def test_search_finds_id_by_its_parts(self, typed):
        session = ChatSessionFactory(session_id=ID, customer_id="a")
        ChatSessionFactory(session_id=ID.replace("6", "5").replace("f", "e"), customer_id="b")
        assert found(typed) == [session]

    def test_search_with_ellipsis_searches_ids_alone_by_that_end(self):
        ChatSessionFactory(session_id=ID)
        assert found("c0ffee…") == found("…6513270e") == found("6513270e…6513") == []

    @pytest.mark.parametrize(
        ("typed", "sought"),
        [
            ("6513270e", "an id beginning or ending with “6513270e”"),
            ("6513270e…", "an id beginning with “6513270e”"),
            ("…C0FFEE", "an id ending with “c0ffee”"),
            ("6513…ffee", "an id beginning with “6513” and ending with “ffee”"),
        ],
    )
    def test_search_that_finds_no_id_says_what_was_searched(self, typed, sought):
        assert f", {sought}, " in search_sessions(typed).not_found

    @pytest.mark.skipif(connection.vendor != "sqlite", reason="Others need many rows for it.")
    @pytest.mark.parametrize(
        ("condition", "column"),
        [
            (has_number("15551112222", using="default"), "customer_digits"),
            (has_customer("maya", using="default"), "customer_id"),
            (has_part("6513270e", using="default"), "session_key"),
            (has_id("6513", "ffee", using="default"), "session_key"),
        ],
    )
    def test_search_by_prefix_uses_the_index(self, condition, column):
        plan = ChatSession.objects.order_by().filter(condition).explain()
        assert "SCAN" not in plan
        assert f"({column}" in plan

    def test_search_for_few_digits_prefers_phone_number(self):
        by_id = ChatSessionFactory(session_id="chat-2222", customer_id="maya")
        assert found("2222") == [by_id]
        by_number = ChatSessionFactory(customer_id="+15551112222")
        assert found("2222") == [by_number]

    def test_search_finds_short_id_exactly(self):
        session = ChatSessionFactory(session_id="s-1", customer_id="a")
        ChatSessionFactory(session_id="s-12", customer_id="b")
        assert found("s-1") == [session]


class TestWords:
    @pytest.fixture
    def session(self):
        return ClosedSessionFactory(
            customer_id="maya", summary__text="Die Café-Rechnung A-4711/b war für Zoë zu hoch."
        )

    @pytest.mark.parametrize(
        "typed",
        ["Rechnung", "rechn", "hoch rechnung", "4711", "café", "CAFE", "ZOË", "zu", "A-4711/b"],
    )
    def test_search_finds_words_of_summary(self, session, typed):
        ClosedSessionFactory()
        assert found(typed) == [session]

    @pytest.mark.parametrize("typed", ["echnung", "rechnung teuer", "zuhoch", "4712"])
    def test_search_for_words_that_no_summary_has_finds_nothing(self, session, typed):
        assert found(typed) == []

    def test_search_finds_words_of_note(self, session):
        CloseAttemptFactory(session=session, note="Refund #99 agreed by phone")
        CloseAttemptFactory(session=session)
        assert found("refund 99") == [session]
        assert found("refund rechnung") == []

    def test_search_of_user_without_permission_leaves_out_summaries(
        self, session, django_user_model, grant
    ):
        user = grant(django_user_model.objects.create_user("jo"), "view_chatsession")
        CloseAttemptFactory(session=session, note="Refund")
        assert found("rechnung", requested_by=user) == []
        assert found("refund", requested_by=user) == [session]
        assert kinds("rechnung", requested_by=user) == ["customer", "session", "note"]
        reader = grant(user, "view_sessionsummary")
        assert found("rechnung", requested_by=reader) == [session]

    def test_search_of_user_who_may_not_view_is_refused(self, django_user_model):
        with pytest.raises(NotAllowed):
            search_sessions("refund", requested_by=django_user_model.objects.create_user("jo"))
