"""Test how words are found in many texts: by the database's index, or in the newest texts."""

from __future__ import annotations

import json
import uuid

import pytest
from django.db import connection
from django.db.models import F, Q

from osvi_django.models import CloseAttempt, SessionSummary
from osvi_django.services import search_sessions
from osvi_django.services.search.words import (
    NOTES,
    SUMMARIES,
    HasWords,
    find_words,
    fulltext_condition,
    gin_condition,
)
from osvi_django.testing.factories import ChatSessionFactory, CloseAttemptFactory

HAS_INDEX = connection.vendor in {"postgresql", "mysql"}
# The first key is in each sample of the texts: with such a last one, its words seem to be common.
FIRST, LAST = 1, 20_000_000


def by_like(texts, words, rare, using):
    """Stand in for the index of words that SQLite has not."""
    condition = Q()
    for word in words:
        condition &= Q(**{f"{texts.field}__icontains": word})
    return condition


INDEX = None if HAS_INDEX else by_like


def found(*words, texts=SUMMARIES):
    return find_words(texts, words, using="default", index=INDEX)


def summary(text, pk):
    """Store a summary with this key, and return its session."""
    session = ChatSessionFactory()
    SessionSummary.objects.create(pk=pk, session=session, text=text)
    return session


def condition_as_sql(lookup, compile_for):
    query = SessionSummary.objects.all().query
    resolved = lookup.resolve_expression(query)
    return getattr(resolved, compile_for)(query.get_compiler("default"), connection)


# MariaDB's index has the words of a row when it is committed.
@pytest.mark.django_db(transaction=True)
class TestIndex:
    @pytest.fixture(autouse=True)
    def sessions(self):
        """Store many texts, as far as their keys say."""
        self.common = summary("The customer had a question.", FIRST)
        self.old = summary("The customer wants a refund for A-4711/b: café.", FIRST + 1)
        self.new = summary("Refunded. The customer's bicycle is back_again.", LAST)

    @pytest.mark.parametrize("words", [["4711"], ["refund", "4711"], ["café"], ["refund", "a"]])
    def test_find_words_finds_rare_words(self, words):
        if HAS_INDEX or "a" not in words:
            assert found(*words).sessions == {self.old.pk}
            assert found(*words).read is None

    def test_find_words_finds_beginnings_of_words(self):
        assert found("refun").sessions == {self.old.pk, self.new.pk}

    def test_find_words_finds_rare_words_beside_common_ones(self):
        assert found("customer", "refunded").sessions == {self.new.pk}
        assert found("question", "refunded").sessions == set()
        assert found("refunded", "customer").read is None

    def test_find_words_reads_some_texts_for_common_words(self):
        result = found("customer")
        assert result.sessions == {self.common.pk, self.old.pk}
        assert result.read == 2_000

    def test_find_words_that_are_common_one_by_one_reads_newest_texts(self):
        summary("What question is it?", LAST + 1)
        self.common.summary.text = "had question"
        self.common.summary.save()
        result = found("question", "had")
        assert self.common.pk in result.sessions
        assert result.read == 2_000

    def test_find_words_finds_notes(self):
        CloseAttemptFactory(pk=FIRST, session=self.old)
        CloseAttemptFactory(pk=LAST, session=self.new, note="Sent a bicycle")
        assert found("bicycle", texts=NOTES).sessions == {self.new.pk}

    @pytest.mark.parametrize(
        "text",
        ["'", '"', "&", "refund & !", "refund:*", "½", "²", "x²", "a'b", "ẞ", "हिन्दी", "refund\\"],
    )
    def test_search_for_syntax_of_the_index_is_no_error(self, text):
        assert search_sessions(text).is_capped in {False, True}

    @pytest.mark.skipif(not HAS_INDEX, reason="SQLite has no index of words.")
    @pytest.mark.parametrize("texts", [SUMMARIES, NOTES])
    def test_find_words_uses_the_index(self, texts):
        condition = {"postgresql": gin_condition, "mysql": fulltext_condition}[connection.vendor]
        rows = texts.model.objects.filter(condition(texts, ["refund"], ["refund"], "default"))
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute("SET enable_seqscan = off")
            plan = rows.order_by().explain()
            if connection.vendor == "postgresql":
                cursor.execute("RESET enable_seqscan")
        assert {SUMMARIES: "osvi_summary_words", NOTES: "osvi_attempt_words"}[texts] in plan


@pytest.mark.django_db
class TestConditions:
    def test_gin_condition_has_lexemes_with_and_without_accents(self):
        condition = gin_condition(SUMMARIES, ["café", "is", "common"], ["café", "is"], "default")
        assert "('café':* | 'cafe':*) & ('is')" in str(condition)
        assert "(^|[^[:alnum:]])(common)" in str(condition)
        assert "(^|[^[:alnum:]])(is)" not in str(condition)

    def test_gin_condition_is_the_expression_of_the_index(self):
        sql, parameters = condition_as_sql(HasWords(F("text"), "'refund'"), "as_postgresql")
        assert sql.startswith("to_tsvector('simple', translate(left(")
        assert sql.endswith(" @@ to_tsquery('simple', %s)")
        assert parameters == ["'refund'"]

    def test_fulltext_condition_is_a_boolean_search(self):
        sql, parameters = condition_as_sql(HasWords(F("text"), "+refund*"), "as_mysql")
        assert sql.startswith("MATCH (")
        assert sql.endswith(") AGAINST (%s IN BOOLEAN MODE)")
        assert parameters == ["+refund*"]

    def test_fulltext_condition_leaves_out_what_the_index_has_not(self):
        rare = ["refund", "the", "x²", "z" * 85]
        condition = str(fulltext_condition(SUMMARIES, rare, rare, "default"))
        assert "'+refund*'" in condition
        for word in rare[1:]:
            assert f"({word}" in condition

    @pytest.mark.parametrize("words", [["the", "what"], ["½"], ["z" * 85]])
    def test_fulltext_condition_without_indexed_words_is_none(self, words):
        assert fulltext_condition(SUMMARIES, words, words, "default") is None


@pytest.mark.django_db
class TestWithoutIndex:
    def test_search_of_few_texts_reads_all(self):
        session = summary("The customer wants a refund.", 1)
        result = search_sessions("refund")
        assert (list(result.sessions), result.is_capped, result.notice) == ([session], False, "")
        assert found("refund").sessions == {session.pk}

    @pytest.mark.skipif(HAS_INDEX, reason="It has an index of words.")
    def test_search_of_many_texts_reads_the_newest_and_says_so(self):
        session, other = ChatSessionFactory.create_batch(2)
        CloseAttempt.objects.bulk_create(
            CloseAttempt(session=other, claim=uuid.UUID(int=number), note=note)
            for number, note in enumerate(["Refund", *["No"] * 9_999])
        )
        assert list(search_sessions("refund").sessions) == [other]
        CloseAttemptFactory(session=session, note="Refund agreed")
        result = search_sessions("refund")
        assert (list(result.sessions), result.is_capped) == ([session], True)
        assert result.notice == (
            "Only the newest 10000 summaries and notes were searched for words, as this site's "
            "database has no index of words."
        )

    def test_longest_summary_can_be_stored(self):
        words = json.dumps([f"{number:x}" for number in range(200_000)])
        summary(words[:1_000_000], 1)
        assert SessionSummary.objects.count() == 1
