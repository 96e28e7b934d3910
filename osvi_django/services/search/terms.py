"""Read what people type into a search box: which kinds of search fit its look."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Final

from django.utils.translation import gettext as _

from osvi_django.models.search_keys import compact_id, digits_of
from osvi_django.validation import is_storable

TEXT_MAX_LENGTH: Final = 255
WORDS_MAX: Final = 12
_FEWEST_DIGITS: Final = 4
# A number with so many digits may be one with the zero or zeros that are dialled before it.
_DIGITS_OF_A_NUMBER: Final = 6
_ELLIPSIS: Final = re.compile(r"\.{3,}|\u2026")
_QUOTES: Final = " \t\r\n'\"\u2018\u2019\u201c\u201d\u201e\u00ab\u00bb"
_SCHEME: Final = re.compile(r"^(tel|sms|callto|whatsapp):", re.IGNORECASE)
# Between a country's code and a number, for those who dial it from inside.
_TRUNK_ZERO: Final = re.compile(r"\(0\)")


@dataclass(frozen=True, kw_only=True)
class SearchTerms:
    """What to search for; an empty one of these does not apply.

    ``text``: as typed, without what surrounds it. ``digits``: the last ones of a phone number.
    ``id_start`` and ``id_end``: of a session id. ``problem``: why nothing can be searched.
    """

    text: str = ""
    digits: str = ""
    id_start: str = ""
    id_end: str = ""
    words: tuple[str, ...] = ()
    problem: str = ""


def read_terms(typed: str) -> SearchTerms:
    """Return what to search for; any text is safe to pass."""
    if len(typed) > TEXT_MAX_LENGTH:
        problem = _("This text is too long to search for: use at most %(length)d characters.")
        return SearchTerms(problem=problem % {"length": TEXT_MAX_LENGTH})
    if not is_storable(typed):
        return SearchTerms(problem=_("This text has a character that cannot be searched for."))
    text = _without_surroundings(typed)
    words = _words(text)
    if not words:
        return SearchTerms(
            text=text, problem=_("There is nothing to search for: type a letter or a digit.")
        )
    if len(words) > WORDS_MAX:
        problem = _("This has too many words to search for: use at most %(number)d.")
        return SearchTerms(text=text, problem=problem % {"number": WORDS_MAX})
    id_start, id_end = _parts_of_id(text)
    return SearchTerms(
        text=text, digits=_digits(text), id_start=id_start, id_end=id_end, words=words
    )


def folded(text: str) -> str:
    """Return a text as words are compared: in lower case and without accents."""
    if text.isascii():
        return text.lower()
    parts = unicodedata.normalize("NFKD", text.casefold())
    return "".join(each for each in parts if not unicodedata.combining(each))


def _without_surroundings(typed: str) -> str:
    """Return what was typed without spaces, quotes, and the invisible marks that are copied."""
    composed = unicodedata.normalize("NFC", typed)
    visible = (each for each in composed if unicodedata.category(each) != "Cf")
    return " ".join("".join(visible).split()).strip(_QUOTES)


def _words(text: str) -> tuple[str, ...]:
    """Return the words in lower case, each once; letters may have marks of their own."""
    apart = (each if _is_in_word(each) else " " for each in text.lower())
    return tuple(dict.fromkeys("".join(apart).split()))


def _is_in_word(character: str) -> bool:
    return character.isalnum() or unicodedata.category(character).startswith("M")


def _digits(text: str) -> str:
    """Return the digits of a phone number, without what is dialled before it; "" if it is none."""
    number = _SCHEME.sub("", text)
    if any(each.isalpha() for each in number) or _ELLIPSIS.search(number):
        return ""
    if number.startswith(("+", "00")):
        number = _TRUNK_ZERO.sub("", number)
    digits = digits_of(number)
    dialled = digits.lstrip("0")
    if len(dialled) >= _DIGITS_OF_A_NUMBER:
        return dialled
    return digits if len(digits) >= _FEWEST_DIGITS else ""


def _parts_of_id(text: str) -> tuple[str, str]:
    """Return how a session id begins and how it ends, around the ellipsis if there is one."""
    if any(each.isspace() for each in text):
        return "", ""
    start, *rest = _ELLIPSIS.split(text, maxsplit=1)
    if not rest:
        return compact_id(start), compact_id(start)
    return compact_id(start), compact_id(rest[0])
