"""Write rows as CSV or JSON Lines, part by part."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias

from osvi_django.services.export.cells import marked, utc_text
from osvi_django.services.export.columns import Kind
from osvi_django.services.export.reading import Reader, Row

# Converts the values of a column.
Convert: TypeAlias = Callable[[Sequence[Any]], Iterable[Any]]
# The content of a file.
Parts: TypeAlias = Generator[bytes, None, None]

_BOM: Final = "\ufeff"
_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",\n", ":")).encode


def csv_parts(reader: Reader) -> Parts:
    """Yield a CSV file (RFC 4180) in UTF-8, whose mark at the beginning Excel needs to see that."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    file.write(_BOM)
    writer.writerow(reader.names)
    converters = _converters(reader, _CSV)
    for page in reader.pages():
        writer.writerows(zip(*_columns(page, converters), strict=True))
        yield file.getvalue().encode()
        file.seek(0)
        file.truncate()


def jsonl_parts(reader: Reader) -> Parts:
    """Yield a line with a JSON object for each row; null is what is missing."""
    members = ",".join(f"{_to_json(name)}:%s" for name in reader.names)
    line, converters = f"{{{members}}}\n", _converters(reader, _EXACT)
    for page in reader.pages():
        columns = map(_json_values, _columns(page, converters))
        yield "".join([line % row for row in zip(*columns, strict=True)]).encode()


def exact_rows(reader: Reader) -> Iterator[Row]:
    """Yield the rows with times as text; None is what is missing."""
    converters = _converters(reader, _EXACT)
    for page in reader.pages():
        yield from zip(*_columns(page, converters), strict=True)


def _columns(page: Sequence[Row], converters: Sequence[Convert | None]) -> Iterator[Iterable[Any]]:
    """Yield the columns without the key: to convert one is faster than to convert each row."""
    columns = zip([*zip(*page, strict=True)][1:], converters, strict=True) if page else ()
    return (convert(values) if convert else values for values, convert in columns)


def _json_values(values: Iterable[Any]) -> list[str]:
    """Return each value as JSON.

    One call of the encoder is faster than a call for each. In JSON a line break is never part of a
    value, so it tells where the next one begins.
    """
    return _to_json(list(values))[1:-1].split(",\n")


def _marked(texts: Iterable[str | None]) -> Iterator[str | None]:
    return (marked(text) if text else None for text in texts)


def _marked_once(texts: Sequence[str | None]) -> Iterator[str | None]:
    different = list(set(texts))
    cells = dict(zip(different, _marked(different), strict=True))
    return map(cells.__getitem__, texts)


def _times(moments: Sequence[datetime | None]) -> Iterator[str | None]:
    return (utc_text(moment) if moment else None for moment in moments)


def _texts(texts: Sequence[str | None]) -> Iterator[str | None]:
    return (text or None for text in texts)


_CSV: Final[Mapping[Kind, Convert]] = {
    Kind.TEXT: _marked,
    Kind.SHARED: _marked_once,
    Kind.TIME: _times,
}
_EXACT: Final[Mapping[Kind, Convert]] = {
    Kind.TEXT: _texts,
    Kind.SHARED: _texts,
    Kind.CODE: _texts,
    Kind.TIME: _times,
}


def _converters(reader: Reader, by_kind: Mapping[Kind, Convert]) -> list[Convert | None]:
    return [by_kind.get(each.kind) for each in reader.columns]
