"""The text in a body, and the JSON object in that text, even if they are slightly invalid.

A summary is sent once, so an invalid byte or an extra comma must not lose it. What an object says,
and whether to trust it, is decided in ``responses.py``.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

from osvi_django.redaction import HiddenText

# Python neither reads nor writes longer whole numbers.
_LONGEST_NUMBER: Final = 4_000  # digits
# A byte order mark, U+0000 and white space are ignored around an object.
_BLANK: Final = "\ufeff\x00 \t\r\n"

_CHARSET = re.compile(r"[A-Za-z0-9_.:-]{1,40}")
# These codecs do not decode a character set.
_NO_CHARSETS: Final = frozenset({"idna", "punycode", "undefined", "utf-7"})
# Both mean Windows' own character set, as in every browser.
_WESTERN: Final = {"iso8859-1": "cp1252", "ascii": "cp1252"}
_UTF_8_CHARACTER = re.compile(
    rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}"
)
# The bytes above ASCII that are not letters or signs used in western languages.
_UNWESTERN = re.compile(rb"[\x81\x83\x86-\x89\x8b\x8d\x8f\x90\x98\x9b\x9d\xc2\xc3\xd7\xf7\xfe\xff]")
# Backslashes and what JSON lets follow them, or a backslash alone.
_ESCAPE = re.compile(r'((?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))++)|\\')
# Prefixes of some servers, so that no page of another site can run the JSON as a script.
_GUARD = re.compile(r"\)\]\}'?,?|(?:for\(;;\)|while\(1\));")
# Lines without a brace that a proxy has put before an object, or a list of one.
_STRAY_LINES = re.compile(r"(?:[^{}\n]{0,1000}\n){1,9}?(?=[\s\x00\ufeff]*[{\[])")
# A string, or else what JSON does not allow: a comma before an end, U+0000.
_REPAIRABLE = re.compile(r'("(?:[^"\\]|\\.)*+\\?(?:"|\Z))|,(?=[\s\x00]*[}\]])|\x00', re.DOTALL)


class JSONObject(dict[str, Any]):
    """An object; ``duplicates`` are the names that it has twice, with two values."""

    duplicates: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class FoundObject:
    """The first object of a body, or None, and any text around it."""

    fields: JSONObject | None = field(default=None, repr=False)
    rest: str = field(default="", repr=False)


def decode(body: bytes, charset: str = "") -> str:
    """Return the text of a body; ``charset`` is the declared one, which may be wrong."""
    return next(_texts(body, charset))


def find_object(body: bytes, charset: str = "") -> FoundObject:
    """Return the first JSON object of a body, from the first decoding that has one."""
    for text in _texts(body, charset):
        found = _first_object(text)
        if found.fields is not None:
            return found
    return FoundObject()


def _texts(body: bytes, charset: str) -> Iterator[str]:
    """Yield the body as text, in each likely decoding, the likeliest first.

    A body that is valid UTF-8 is UTF-8: servers often declare another encoding out of habit.
    """
    for name in (_detected(body), *_declared(charset)):
        with suppress(LookupError, ValueError):
            yield body.decode(name)
    is_western = not _UNWESTERN.search(body) and not _UTF_8_CHARACTER.search(body)
    yield body.decode("cp1252" if is_western else "utf-8", errors="replace")


def _detected(body: bytes) -> str:
    """Return UTF-8, or another Unicode encoding in which an object begins."""
    name = json.detect_encoding(body)
    text = body[:16].decode(name, errors="ignore")
    return name if text.lstrip(_BLANK).startswith("{") else "utf-8-sig"


def _declared(charset: str) -> Sequence[str]:
    """Return the declared character set, if it is valid, in each of its likely meanings."""
    name = charset.strip().strip("\"'").lower()
    if not _CHARSET.fullmatch(name) or "escape" in name or name.replace("_", "-") in _NO_CHARSETS:
        return ()
    with suppress(LookupError):
        found = codecs.lookup(name).name
        return (_WESTERN[found], found) if found in _WESTERN else (found,)
    return ()


def _first_object(text: str) -> FoundObject:
    text = _without_guard(text)
    found = _parsed_or_repaired(text)
    stray = _STRAY_LINES.match(text) if found is None else None
    if stray:
        found = _parsed_or_repaired(HiddenText(text[stray.end() :].lstrip(_BLANK)))
        # Treat it like what follows: it must not decide which session the object is about.
        found = found and replace(found, rest=HiddenText(f"{stray[0].strip()}\n{found.rest}"))
    return found or FoundObject()


def _without_guard(text: str) -> HiddenText:
    text = text.lstrip(_BLANK)
    guard = _GUARD.match(text)
    return HiddenText(text[guard.end() :].lstrip(_BLANK) if guard else text)


def _parsed_or_repaired(text: str) -> FoundObject | None:
    found = _parsed(text)
    return found if found is not None else _parsed(_REPAIRABLE.sub(_repaired, text))


def _parsed(text: str) -> FoundObject | None:
    """Return the object with which a text begins; None if there is none."""
    try:
        value, end = _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, list) and len(value) == 1:
        (value,) = value  # some servers put each answer in an array
    if not isinstance(value, JSONObject):
        return FoundObject() if isinstance(value, list) else None
    return FoundObject(fields=value, rest=HiddenText(text[end:].strip(_BLANK + ",")))


def _repaired(match: re.Match[str]) -> str:
    """Return a string in which each backslash that is invalid in JSON is taken literally."""
    return _ESCAPE.sub(lambda escape: escape[1] or r"\\", match[1] or "")


def _object(pairs: list[tuple[str, Any]]) -> JSONObject:
    found = JSONObject((name, _hidden(value)) for name, value in pairs)
    if len(found) < len(pairs):
        found.duplicates = frozenset(name for name, value in pairs if found[name] != value)
    return found


def _hidden(value: Any) -> Any:
    """Hide texts from error reporters; an object has hidden its own already."""
    if isinstance(value, list):
        return [_hidden(each) for each in value]
    return HiddenText(value) if isinstance(value, str) else value


def _whole_number(digits: str) -> int | float:
    return int(digits) if len(digits) < _LONGEST_NUMBER else float(digits)


# People's texts have line ends and tabs in them, and not every server escapes these.
_DECODER: Final = json.JSONDecoder(strict=False, object_pairs_hook=_object, parse_int=_whole_number)
