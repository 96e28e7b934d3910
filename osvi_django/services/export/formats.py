"""Write rows as CSV or JSON Lines, part by part."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from osvi_django.services.export.cells import marked, utc_text
from osvi_django.services.export.columns import Kind
from osvi_django.services.export.reading import Reader, Row

Convert: TypeAlias = Callable[[Any], Any]
# The content of a file.
Parts: TypeAlias = Generator[bytes, None, None]

_CSV: Final[Mapping[Kind, Convert]] = {Kind.TEXT: marked, Kind.TIME: utc_text}
_EXACT: Final[Mapping[Kind, Convert]] = {Kind.TIME: utc_text}
_BOM: Final = "\ufeff"
_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def csv_parts(reader: Reader) -> Parts:
    """Yield a CSV file (RFC 4180) in UTF-8, whose mark at the beginning Excel needs to see that."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    file.write(_BOM)
    writer.writerow(reader.names)
    converters = _converters(reader, _CSV)
    for page in reader.pages():
        writer.writerows(converted(page, converters))
        yield file.getvalue().encode()
        file.seek(0)
        file.truncate()


def jsonl_parts(reader: Reader) -> Parts:
    """Yield a line with a JSON object for each row; null is what is missing."""
    names, converters = reader.names, _converters(reader, _EXACT)
    for page in reader.pages():
        rows = converted(page, converters)
        lines = [_to_json(dict(zip(names, row, strict=True))) for row in rows]
        yield "\n".join([*lines, ""]).encode()


def exact_rows(reader: Reader) -> Iterator[Sequence[Any]]:
    """Yield the rows with times as text; None is what is missing."""
    converters = _converters(reader, _EXACT)
    for page in reader.pages():
        yield from converted(page, converters)


def converted(page: Sequence[Row], converters: Sequence[Convert | None]) -> Iterator[list[Any]]:
    """Yield the rows with their values converted; an empty text is None."""
    for row in page:
        pairs = zip(row, converters, strict=True)
        yield [
            (convert(value) if convert else value) if value or value == 0 else None
            for value, convert in pairs
        ]


def _converters(reader: Reader, by_kind: Mapping[Kind, Convert]) -> list[Convert | None]:
    return [by_kind.get(each.kind) for each in reader.columns]
