"""Test that no text of a cell can be run as a formula, and that nothing is lost by that."""

from __future__ import annotations

import csv
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osvi_django.services.export.cells import marked, unmarked

NASTY = st.text(alphabet="=+-@\t\r\n' ,;|\"a1_x\u00a0\uff1d\uff0b\uff0d\uff20", max_size=8)
RUNS = "=+-@\uff1d\uff0b\uff0d\uff20"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("=1+1", "'=1+1"),
        ("+SUM(A1)", "'+SUM(A1)"),
        ("-2+3+cmd|' /C calc'!A0", "'-2+3+cmd|' /C calc'!A0"),
        ("@SUM(1)", "'@SUM(1)"),
        ("\t=1", "'\t'=1"),
        ("\rx", "'\rx"),
        ("  =1", "  '=1"),
        ("\uff1d1+1", "'\uff1d1+1"),
        ('x",=1', "x\",'=1"),
        ("x;=1;-2", "x;'=1;'-2"),
        ("Asked for:\n- a refund", "Asked for:\n'- a refund"),
        ("'=1", "''=1"),
    ],
)
def test_marked_text_that_may_be_run_has_apostrophe(text, shown):
    assert marked(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "+15551112222",
        "+1 555 111 2222",
        "+49 30 1234567",
        "sam@example.com",
        "well-known",
        "2 + 2 = 4",
        "4718a326-417b-4dda-90d0-21fd65a11cb8",
        "It's fine",
    ],
)
def test_marked_text_that_cannot_be_run_is_as_it_was(text):
    assert marked(text) == text


@pytest.mark.parametrize("text", ["+1-555-111", "+1 (555) 111", "+", "+1=2", "+1234567890123456"])
def test_marked_text_that_is_no_plain_phone_number_has_apostrophe(text):
    assert marked(text) == f"'{text}"


@given(NASTY)
def test_marked_text_can_be_unmarked_without_loss(text):
    assert unmarked(marked(text)) == text


@given(st.lists(NASTY, min_size=1, max_size=4), st.sampled_from(",;\t|"))
def test_no_cell_begins_with_formula_whatever_a_program_takes_for_separator(texts, separator):
    file = io.StringIO(newline="")
    csv.writer(file).writerow(map(marked, texts))
    line = file.getvalue()
    # As a program reads it that knows quotes, and as one that knows none.
    cells = [*next(csv.reader(io.StringIO(line, newline=""), delimiter=separator))]
    cells += re.split(r"[,;|\t\r\n]", line)
    assert [cell for cell in cells if _runs(cell)] == []


def _runs(cell):
    begins = cell.strip('"')
    is_phone = re.fullmatch(r"\+[0-9 ]+", begins)
    return begins and begins[0] in RUNS and not is_phone
