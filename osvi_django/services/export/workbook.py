"""Write rows as an Excel workbook (XLSX), by XlsxWriter, which comes with the extra ``xlsx``.

The file is complete before its first byte is sent: a workbook is a ZIP archive whose parts must be
known. Its rows are written to a temporary file, and memory is that of one row.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from django.utils.translation import gettext as _

from osvi_django.exceptions import ExportNotInstalled, TooManyRows
from osvi_django.services.export.columns import Kind
from osvi_django.services.export.formats import Parts, exact_rows
from osvi_django.services.export.reading import Reader

try:
    import xlsxwriter
except ImportError:  # it comes with the extra "xlsx"
    xlsxwriter = None

# Of a sheet, with the header, and of a cell, in units of UTF-16.
MAX_ROWS: Final = 1_048_576
MAX_CELL: Final = 32_767
_PART: Final = 65_536  # bytes
_OPTIONS: Final = {
    "constant_memory": True,
    "strings_to_formulas": False,
    "strings_to_urls": False,
    "strings_to_numbers": False,
    # Only a part of 2 GB or more is affected.
    "use_zip64": True,
}
_WIDTH: Final = 20
# A UUID can be read whole, and a time.
_WIDE: Final = 38
# The first byte of a unit that is the first half of a character.
_FIRST_OF_TWO: Final = frozenset(bytes([byte]) for byte in range(0xD8, 0xDC))


def is_xlsx_installed() -> bool:
    """Return whether this site can write XLSX."""
    return xlsxwriter is not None


def require_xlsx() -> None:
    """Raise ``ExportNotInstalled`` if this site cannot write XLSX."""
    if not is_xlsx_installed():
        raise ExportNotInstalled


def require_rows(number: int) -> None:
    """Raise ``TooManyRows`` if so many rows and a header do not fit on a sheet."""
    if number >= MAX_ROWS:
        raise TooManyRows


def xlsx_parts(reader: Reader) -> Parts:
    """Write the workbook, and yield it. Raises ``TooManyRows``."""
    with TemporaryDirectory(prefix="osvi-export-") as folder:
        path = Path(folder) / "export.xlsx"
        with xlsxwriter.Workbook(str(path), {**_OPTIONS, "tmpdir": folder}) as book:
            _write(book.add_worksheet(_("Chats")), reader)
        with path.open("rb") as file:
            while part := file.read(_PART):
                yield part


def _write(sheet: Any, reader: Reader) -> None:
    sheet.freeze_panes(1, 0)
    for place, column in enumerate(reader.columns):
        is_wide = column.kind is Kind.TIME or column.name == "session_id"
        sheet.set_column(place, place, _WIDE if is_wide else _WIDTH)
        sheet.write_string(0, place, column.name)
    is_number = [each.kind is Kind.NUMBER for each in reader.columns]
    for number, row in zip(count(1), exact_rows(reader), strict=False):
        require_rows(number)
        for place, value in enumerate(row):
            if value is None:
                continue
            if is_number[place]:
                sheet.write_number(number, place, value)
            elif 2 * len(value) > MAX_CELL:
                _write_long(sheet, number, place, value)
            else:
                sheet.write_string(number, place, value)


def _write_long(sheet: Any, row: int, place: int, text: str) -> None:
    """Write a text that may be longer than a cell: the cells to the right of it have the rest."""
    for column, cell in enumerate(_cells_of(text), start=place):
        sheet.write_string(row, column, cell)


def _cells_of(text: str) -> Iterator[str]:
    """Yield the parts of a text that fit into cells; no character is cut into two units."""
    units = text.encode("utf-16-be")
    begin = 0
    while begin < len(units):
        end = begin + 2 * MAX_CELL
        if units[end - 2 : end - 1] in _FIRST_OF_TWO and end < len(units):
            end -= 2
        yield units[begin:end].decode("utf-16-be")
        begin = end
