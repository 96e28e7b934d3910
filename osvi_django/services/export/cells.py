"""The values of cells: texts that no spreadsheet runs as a formula.

A program that opens a CSV file treats a cell that begins with ``=``, ``+``, ``-``, ``@``, a tab or
a line break as a formula, or guesses that another character separates the cells, so that a cell
may begin in the middle of a text. An apostrophe before each such character keeps it from that. It
can be removed again without loss: see ``unmarked``.
"""

from __future__ import annotations

import re
from typing import Final

# In the second half are the full-width forms, which some programs treat as equal.
_RUN: Final = r"[=+\-@\uff1d\uff0b\uff0d\uff20]"
# At the beginning, and after whatever may be taken for the end of a cell.
_BEGINS: Final = re.compile(rf"""{_RUN}(?<![^,;|\t\r\n"'].)""", re.DOTALL)
_AFTER_SPACES: Final = re.compile(rf"\A[^\S\t\r\n]+(?={_RUN})")
_BROKEN: Final = re.compile(r"\A'*[\t\r\n]")
_MARK: Final = re.compile(rf"\A'(?='*[\t\r\n])|'(?={_RUN})")
# For the texts that begin with a letter or a digit, which is most of them, this finds it sooner.
_BEGINS_INSIDE: Final = re.compile(rf"""[,;|\t\r\n"']{_RUN}""")
# It is its own value: at most a program shows it as a number.
_PHONE_NUMBER: Final = re.compile(r"\+(?:[0-9]{1,15}|[0-9](?: ?[0-9]){0,14})", re.ASCII)


def marked(text: str) -> str:
    """Return a text with an apostrophe before each character that might begin a formula.

    A phone number such as ``+15551112222`` or ``+49 30 1234567`` is as it was. One with dashes or
    parentheses is not, because a spreadsheet subtracts its parts.
    """
    first = text[:1]
    if first.isalnum() and not _BEGINS_INSIDE.search(text):
        return text
    if first == "+" and _PHONE_NUMBER.fullmatch(text):
        return text
    if first.isspace() or first == "'":
        text = _AFTER_SPACES.sub(r"\g<0>'", _BEGINS.sub(r"'\g<0>", text))
        return f"'{text}" if _BROKEN.match(text) else text
    return _BEGINS.sub(r"'\g<0>", text)


def unmarked(text: str) -> str:
    """Return the text that ``marked`` was given."""
    return _MARK.sub("", text)
