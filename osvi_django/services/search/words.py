"""Find words in summaries and notes, at a cost that does not grow with their number.

PostgreSQL and MariaDB have an index of words. A common word is in so many texts that reading all of
them takes seconds, so a sample says first which words are common. If all of them are, and on
databases without such an index, only some thousand of the newest texts are read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partialmethod
from typing import Any, Final

from django.db import connections
from django.db.models import F, Func, IntegerField, Lookup, Max, Min, Model, Q, QuerySet

from osvi_django.models import CloseAttempt, SessionSummary
from osvi_django.redaction import HiddenText
from osvi_django.services.search.terms import folded

# Texts that are looked at to find out which words are common.
_SAMPLE: Final = 400
_GOLDEN_RATIO: Final = (5**0.5 - 1) / 2
# A word that is probably in more texts than this is common.
_COMMON: Final = 5_000
# How many of the newest texts are read without the help of an index.
_NEWEST: Final = 2_000
_NEWEST_WITHOUT_INDEX: Final = 10_000
# The beginnings of words are found too, except of words so short that they begin most others.
_SHORTEST_BEGINNING: Final = 3
# What MariaDB and MySQL leave out of an index of words.
_STOP_WORDS: Final = frozenset(
    {"a", "about", "an", "are", "as", "at", "be", "by", "com", "de", "en", "for", "from", "how"}
    | {"i", "in", "is", "it", "la", "of", "on", "or", "that", "the", "this", "to", "und", "was"}
    | {"what", "when", "where", "who", "will", "with", "www"}
)
_LONGEST_INDEXED: Final = 84

# In SQL, where %% is a percent sign.
_PUNCTUATION: Final = "!\"#$%%&''()*+,-./:;<=>?@[\\]^_`{|}~"
_SPACES: Final = " " * 32
_GIN: Final = (
    "to_tsvector('simple', translate(left([column], 100000), "
    f"'{_PUNCTUATION}', '{_SPACES}')) @@ to_tsquery('simple', %s)"
)
_FULLTEXT: Final = "MATCH ([column]) AGAINST (%s IN BOOLEAN MODE)"


class HasWords(Lookup):
    """Whether a field has words, as the database's index of words says in its own syntax.

    The expression is that of the index (migration 0002), character for character: PostgreSQL's
    parser would read A-1 and a/b as one thing. It is a lookup because Django compares other
    conditions with true on MariaDB, which then uses no index.
    """

    prepare_rhs = False

    def as_postgresql(self, compiler: Any, connection: Any) -> tuple[str, list[Any]]:
        """Compile it for PostgreSQL."""
        return self._compiled(compiler, connection, _GIN)

    def as_mysql(self, compiler: Any, connection: Any) -> tuple[str, list[Any]]:
        """Compile it for MariaDB and MySQL."""
        return self._compiled(compiler, connection, _FULLTEXT)

    def _compiled(self, compiler: Any, connection: Any, sql: str) -> tuple[str, list[Any]]:
        column, parameters = self.process_lhs(compiler, connection)
        return sql.replace("[column]", column), [*parameters, self.rhs]


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The texts of a model, each of which belongs to a session."""

    model: type[Model]
    field: str

    def rows(self, using: str) -> QuerySet[Any]:
        """Return all rows of a database, in any order."""
        rows = self.model._default_manager.using(using)  # noqa: SLF001  # it is documented
        return rows.order_by()


SUMMARIES: Final = Texts(model=SessionSummary, field="text")
NOTES: Final = Texts(model=CloseAttempt, field="note")


@dataclass(frozen=True, kw_only=True)
class FoundTexts:
    """The keys of the sessions of the texts that were found.

    ``read``: how many of the newest texts were read, if not all could be searched.
    """

    sessions: frozenset[int]
    read: int | None = None


def has_word_index(using: str) -> bool:
    """Return whether this database has an index of words."""
    return connections[using].vendor in _INDEXES


def find_words(
    texts: Texts,
    words: Sequence[str],
    *,
    using: str,
    index: WordIndex | None = None,
    among: Q | None = None,
) -> FoundTexts:
    """Return the sessions with a text that has all of these words; ``index``: of this database.

    ``among``: the condition for the texts that the caller may find.
    """
    rows = texts.rows(using)
    seen = rows if among is None else rows.filter(among)
    index = index or _INDEXES.get(connections[using].vendor)
    if index is None:
        return _read(texts, words, seen, _NEWEST_WITHOUT_INDEX)
    ends = rows.aggregate(first=Min("pk"), last=Max("pk"))
    first, last = ends["first"] or 0, ends["last"] or 0
    if last - first < _NEWEST:
        return _read(texts, words, seen, _NEWEST)
    sample = _Sample(texts, rows, first, last)
    rare = [each for each in words if not sample.is_common(each)]
    condition = index(texts, words, rare, using) if rare else None
    if condition is None:
        return _read(texts, words, seen, _NEWEST, up_to=sample.last_with_all(words))
    # Not sorted by the database, which would then prefer to read all texts in that order.
    found = seen.filter(condition).values_list("session_id", flat=True)
    return FoundTexts(sessions=frozenset(found[: 2 * _COMMON]))


def _read(
    texts: Texts, words: Sequence[str], rows: QuerySet[Any], most: int, up_to: int | None = None
) -> FoundTexts:
    """Read the newest of these rows, up to a key if one is given, and compare their texts here."""
    some = rows if up_to is None else rows.filter(pk__lte=up_to)
    newest = some.order_by("-pk").values_list("session_id", texts.field)[:most]
    has_all = _all_in(words)
    compared = [(session, has_all(text)) for session, text in newest]
    found = frozenset(session for session, is_match in compared if is_match)
    is_all = up_to is None and len(compared) < most
    return FoundTexts(sessions=found, read=None if is_all else most)


class _Sample:
    """Texts from all over the table, the newest first, to find out which words are common."""

    def __init__(self, texts: Texts, rows: QuerySet[Any], first: int, last: int) -> None:
        self._span = last - first + 1
        self._last = last
        self._step = self._span // _SAMPLE + 1
        # The golden ratio spreads them evenly, and in step with no regularity of the texts.
        keys = {first + int(number * _GOLDEN_RATIO % 1 * self._span) for number in range(_SAMPLE)}
        sampled = rows.filter(pk__in=keys).values_list("pk", texts.field)
        self._texts = sorted(((key, HiddenText(text)) for key, text in sampled), reverse=True)

    def is_common(self, word: str) -> bool:
        """Return whether probably many texts have this word."""
        has_word = _all_in([word])
        hits = sum(has_word(text) for _key, text in self._texts)
        return hits * self._span > _COMMON * _SAMPLE

    def last_with_all(self, words: Sequence[str]) -> int:
        """Return a key before which texts with all words are; the last if the sample has none."""
        has_all = _all_in(words)
        keys = (key for key, text in self._texts if has_all(text))
        return next(keys, self._last) + self._step


def _all_in(words: Sequence[str]) -> Callable[[str], bool]:
    """Return a function that says whether a text has all of these words."""
    wanted = [folded(each) for each in words]
    patterns = [re.compile(_pattern(each)) for each in wanted]

    def has_all(text: str) -> bool:
        compared = folded(text)
        # Most texts do not even have the letters, which is found out faster.
        return all(each in compared for each in wanted) and all(
            each.search(compared) for each in patterns
        )

    return has_all


def _pattern(word: str) -> str:
    end = "" if _is_beginning(word) else r"(?![^\W_])"
    return rf"(?<![^\W_]){re.escape(word)}{end}"


def _is_beginning(word: str) -> bool:
    """Return whether longer words that begin with it are meant too."""
    return len(word) >= _SHORTEST_BEGINNING


def gin_condition(texts: Texts, words: Sequence[str], rare: Sequence[str], using: str) -> Q | None:
    """Return the condition for PostgreSQL's index."""
    query = " & ".join(f"({' | '.join(_lexemes(each))})" for each in rare)
    has_rare = Q(HasWords(F(texts.field), query)) & ~Q(**{texts.field: ""})
    return has_rare & _has_others(texts, words, rare)


def _lexemes(word: str) -> list[str]:
    """Return a word with and without its accents, as PostgreSQL keeps them."""
    end = ":*" if _is_beginning(word) else ""
    return [f"'{each}'{end}" for each in dict.fromkeys((word, folded(word)))]


def fulltext_condition(
    texts: Texts, words: Sequence[str], rare: Sequence[str], using: str
) -> Q | None:
    """Return the condition for MariaDB's index, or None if it has none of the rare words."""
    shortest = _shortest_indexed(texts, using)
    indexed = [each for each in rare if _is_indexed(each, shortest)]
    if not indexed:
        return None
    query = " ".join(f"+{each}{'*' if _is_beginning(each) else ''}" for each in indexed)
    return Q(HasWords(F(texts.field), query)) & _has_others(texts, words, indexed)


def _has_others(texts: Texts, words: Sequence[str], indexed: Sequence[str]) -> Q:
    """Return the condition for the other words in texts that were found by the index.

    For a common word, an index would read all that it knows of it.
    """
    condition = Q()
    for word in words:
        if word not in indexed:
            either = "|".join(re.escape(each) for each in dict.fromkeys((word, folded(word))))
            end = "" if _is_beginning(word) else "($|[^[:alnum:]])"
            pattern = f"(^|[^[:alnum:]])({either}){end}"
            condition &= Q(**{f"{texts.field}__iregex": pattern})
    return condition


def _is_indexed(word: str, shortest: int) -> bool:
    is_plain = all(each.isalpha() or each.isdecimal() for each in word)
    return is_plain and shortest <= len(word) <= _LONGEST_INDEXED and word not in _STOP_WORDS


def _shortest_indexed(texts: Texts, using: str) -> int:
    """Return how long a word must be to be in the index, which the server's settings say."""
    return next(iter(texts.rows(using).values_list(_ShortestIndexed(), flat=True)[:1]), 1)


class _ShortestIndexed(Func):
    template = "1"
    output_field = IntegerField()
    as_mysql = partialmethod(Func.as_sql, template="@@innodb_ft_min_token_size")


WordIndex = Callable[[Texts, Sequence[str], Sequence[str], str], Q | None]
_INDEXES: Final[Mapping[str, WordIndex]] = {
    "postgresql": gin_condition,
    "mysql": fulltext_condition,
}
