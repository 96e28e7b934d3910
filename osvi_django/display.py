"""External text, made safe for a terminal or a log."""

from __future__ import annotations


def plain(text: object) -> str:
    """Return ``text`` as one line that is safe to show: all control characters are escaped.

    This is what Python's ``repr`` does to control characters, line ends and direction marks.
    """
    return "".join(each if each.isprintable() else _escaped(each) for each in str(text))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
