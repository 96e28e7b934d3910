"""Write rows as CSV or JSON Lines, part by part."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias

from osvi_django.services.export.cells import marked, utc_text
from osvi_django.services.export.columns import Kind
from osvi_django.services.export.reading import Reader, Row

Convert: TypeAlias = Callable[[Any], Any]
# The content of a file.
Parts: TypeAlias = Generator[bytes, None, None]

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


def converted(page: Sequence[Row], converters: Sequence[Convert | None]) -> Iterator[Row]:
    """Yield the rows with their values converted, column by column, which is faster."""
    columns = zip(zip(*page, strict=True), converters, strict=True) if page else ()
    return zip(
        *(map(convert, values) if convert else values for values, convert in columns), strict=True
    )


def _marked(text: str | None) -> str | None:
    return marked(text) if text else None


def _time(moment: datetime | None) -> str | None:
    return utc_text(moment) if moment else None


def _text(text: str | None) -> str | None:
    return text or None


_CSV: Final[Mapping[Kind, Convert]] = {Kind.TEXT: _marked, Kind.TIME: _time}
_EXACT: Final[Mapping[Kind, Convert]] = {Kind.TEXT: _text, Kind.CODE: _text, Kind.TIME: _time}


def _converters(reader: Reader, by_kind: Mapping[Kind, Convert]) -> list[Convert | None]:
    return [by_kind.get(each.kind) for each in reader.columns]
