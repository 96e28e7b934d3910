"""Read exported files as the programs of their readers do."""

from __future__ import annotations

import csv
import io
import json

from openpyxl import load_workbook
from openpyxl.utils.escape import unescape


def read_csv(content):
    """Return the rows of a CSV file as dicts."""
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))


def read_jsonl(content):
    """Return the objects of a file of JSON Lines."""
    return [json.loads(line) for line in content.decode().split("\n")[:-1]]


def read_xlsx(content):
    """Return the rows of a workbook as dicts; the last has the rest of a long text too."""
    sheet = load_workbook(io.BytesIO(content)).active
    header, *rows = sheet.iter_rows(values_only=True)
    names = [name for name in header if name is not None]
    return [
        {
            **{name: _text(value) for name, value in zip(names, row, strict=False)},
            names[-1]: "".join(_text(value) for value in row[len(names) - 1 :] if value) or None,
        }
        for row in rows
    ]


def types_in_xlsx(content):
    """Return the types of all cells of a workbook: a formula is "f", a text "s" or "inlineStr"."""
    sheet = load_workbook(io.BytesIO(content)).active
    return {cell.data_type for row in sheet.iter_rows() for cell in row if cell.value is not None}


READERS = {"csv": read_csv, "jsonl": read_jsonl, "xlsx": read_xlsx}


def _text(value):
    return unescape(value) if isinstance(value, str) else value
