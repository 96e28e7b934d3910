"""Find sessions by whatever people know of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from django.db import models, router
from django.db.models import Q, QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as _lazy

from osvi_django.models import ChatSession
from osvi_django.redaction import hides
from osvi_django.services.access import Purpose, condition_inside, sessions_inside
from osvi_django.services.permissions import may_read_summary, require_view
from osvi_django.services.search.keys import has_customer, has_id, has_number, has_part
from osvi_django.services.search.terms import SearchTerms, read_terms
from osvi_django.services.search.words import (
    NOTES,
    SUMMARIES,
    Texts,
    find_words,
    has_word_index,
)
from osvi_django.validation import AnyText, checks_types

FOUND_MAX: Final = 1_000
# Shorter parts are in too many ids, such as the last digits of a phone number: sessions with such
# an id are found only if nothing else is.
_SHORTEST_PART: Final = 4
_SHORTEST_NUMBER: Final = 6


class SearchKind(models.TextChoices):
    """What a text was compared with."""

    PHONE = "phone", _lazy("the end of a phone number")
    CUSTOMER = "customer", _lazy("the beginning of a customer's id")
    SESSION = "session", _lazy("the beginning or end of a session id")
    SUMMARY = "summary", _lazy("the words of a summary")
    NOTE = "note", _lazy("the words of a note")


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search has found: at most 1,000 sessions.

    ``kinds``: what the text was compared with. ``is_capped``: whether there may be more, and
    ``notice`` says why, or why this text cannot be searched for; "" if there is nothing to say.
    """

    keys: tuple[int, ...] = field(default=(), repr=False)
    kinds: tuple[SearchKind, ...] = ()
    terms: SearchTerms = field(default_factory=SearchTerms, repr=False)
    is_capped: bool = False
    notice: str = ""

    @property
    def condition(self) -> Q:
        """Return the condition for the sessions that were found."""
        return Q(pk__in=self.keys)

    @property
    def sessions(self) -> QuerySet[ChatSession]:
        """Return the sessions that were found."""
        return ChatSession.objects.filter(self.condition)

    @property
    def customer_id(self) -> str:
        """Return what was typed as the id of a customer: a phone number without spaces."""
        terms = self.terms
        is_international = terms.text.startswith(("+", "00"))
        return f"+{terms.digits}" if terms.digits and is_international else terms.text

    @property
    def not_found(self) -> str:
        """Return that nothing was found, and what was searched, as a sentence."""
        if not self.kinds:
            return self.notice
        *most, last = [_sought(kind, self.terms) for kind in self.kinds]
        listed = _("%(most)s or %(last)s") % {"most": ", ".join(most), "last": last}
        return _("No chat has %(what)s.") % {"what": listed if most else last}


@hides("text")
@checks_types
def search_sessions(text: AnyText, *, requested_by: Any = None) -> SearchResult:
    """Find sessions by a phone number, a customer's id, a part of a session id, or words.

    A phone number may be written in any way, and its last four digits suffice. Words are looked for
    in notes and, if ``requested_by`` may read them, in summaries; None may. Any text is safe to
    pass. Raises ``NotAllowed`` if ``requested_by`` may not see sessions, and ``InvalidInput`` if
    ``text`` is not a text.
    """
    require_view(requested_by)
    reads = requested_by is None or may_read_summary(requested_by)
    using = router.db_for_read(ChatSession)
    return find_matches(text, user=requested_by, reads_summaries=reads, using=using)


@hides("text")
def find_matches(text: str, *, user: Any, reads_summaries: bool, using: str) -> SearchResult:
    """Find sessions for a caller who may see them; ``using``: the alias of the database.

    Only those inside the access of ``user`` are found.
    """
    terms = read_terms(text)
    if terms.problem:
        return SearchResult(terms=terms, notice=terms.problem)
    return _Search(terms, user, using).result(reads_summaries=reads_summaries)


class _Search:
    """One search, kind by kind; each finds the keys of a limited number of sessions."""

    def __init__(self, terms: SearchTerms, user: Any, using: str) -> None:
        self._terms = terms
        self._user = user
        self._using = using
        self._keys: dict[int, None] = {}
        self._kinds: list[SearchKind] = []
        self._short_part = ""
        self._is_capped = False
        self._texts_read: int | None = None

    def result(self, *, reads_summaries: bool) -> SearchResult:
        """Search all kinds that fit the text, those that it fits best first."""
        terms, using = self._terms, self._using
        if terms.digits:
            self._find(SearchKind.PHONE, has_number(terms.digits, using=using))
        self._find(SearchKind.CUSTOMER, has_customer(terms.text, using=using))
        if terms.id_start or terms.id_end:
            self._find_id()
        if reads_summaries:
            self._find_words(SearchKind.SUMMARY, SUMMARIES)
        self._find_words(SearchKind.NOTE, NOTES)
        if self._short_part and not self._keys:
            self._add(self._keys_of(has_part(self._short_part, using=using)))
        return SearchResult(
            keys=tuple(self._keys),
            kinds=tuple(self._kinds),
            terms=terms,
            is_capped=self._is_capped or self._texts_read is not None,
            notice=" ".join(self._notices()),
        )

    def _find(self, kind: SearchKind, condition: Q) -> None:
        self._kinds.append(kind)
        self._add(self._keys_of(condition))

    def _find_id(self) -> None:
        """Find a session by its id, or by a part that is long enough to be meant as one."""
        start, end = self._terms.id_start, self._terms.id_end
        if start != end:
            condition = has_id(start, end, using=self._using)
        elif len(start) >= (_SHORTEST_NUMBER if start.isdecimal() else _SHORTEST_PART):
            condition = has_part(start, using=self._using)
        else:
            condition = Q(session_key=start)
            self._short_part = start
        self._find(SearchKind.SESSION, condition)

    def _find_words(self, kind: SearchKind, texts: Texts) -> None:
        inside = self._inside(Purpose.VIEW)
        if kind is SearchKind.SUMMARY:
            inside &= self._inside(Purpose.VIEW_SUMMARY)
        found = find_words(texts, self._terms.words, using=self._using, among=inside)
        self._kinds.append(kind)
        self._add(sorted(found.sessions, reverse=True))
        if found.read is not None:
            self._texts_read = found.read

    def _inside(self, purpose: Purpose) -> Q:
        return condition_inside(self._user, purpose, path="session", using=self._using)

    def _keys_of(self, condition: Q) -> list[int]:
        # Not sorted, as the database would then prefer to read all sessions in that order.
        written = ChatSession.objects.using(self._using).filter(condition).order_by()
        sessions = sessions_inside(written, self._user, Purpose.VIEW)
        return list(sessions.values_list("pk", flat=True)[: FOUND_MAX + 1])

    def _add(self, keys: Sequence[int]) -> None:
        """Add keys as long as there is room for them."""
        for key in keys:
            if len(self._keys) == FOUND_MAX and key not in self._keys:
                self._is_capped = True
                return
            self._keys[key] = None

    def _notices(self) -> Iterator[str]:
        """Yield why not all that match may have been found."""
        if self._is_capped:
            capped = _("More than %(most)s chats match, and only so many are listed. Type more.")
            yield capped % {"most": FOUND_MAX}
        if self._texts_read is None:
            return
        sentences = {
            True: _(
                "These words are in very many summaries or notes, so only some of the newest were "
                "searched. Add a rarer word."
            ),
            False: _(
                "Only the newest %(number)s summaries and notes were searched for words, as this "
                "site's database has no index of words."
            ),
        }
        common = sentences[has_word_index(self._using)]
        yield common % {"number": self._texts_read}


def _sought(kind: SearchKind, terms: SearchTerms) -> str:
    """Return what a chat would need to be found by this kind."""
    part = {
        SearchKind.PHONE: _("a phone number ending in %(digits)s"),
        SearchKind.CUSTOMER: _("a customer whose id begins with “%(text)s”"),
        SearchKind.SESSION: _sought_id(terms),
        SearchKind.SUMMARY: _("these words in its summary"),
        SearchKind.NOTE: _("these words in a note"),
    }[kind]
    return part % {
        "digits": terms.digits,
        "text": terms.text,
        "start": terms.id_start,
        "end": terms.id_end,
    }


def _sought_id(terms: SearchTerms) -> str:
    if terms.id_start == terms.id_end:
        return _("an id beginning or ending with “%(start)s”")
    if not terms.id_end:
        return _("an id beginning with “%(start)s”")
    if not terms.id_start:
        return _("an id ending with “%(end)s”")
    return _("an id beginning with “%(start)s” and ending with “%(end)s”")
