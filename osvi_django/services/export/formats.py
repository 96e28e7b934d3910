"""Write rows as CSV or JSON Lines, part by part."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias

from osvi_django.database import utc_text
from osvi_django.services.export.cells import marked
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
        writer.writerows(_rows(page, converters))
        yield file.getvalue().encode()
        file.seek(0)
        file.truncate()


def jsonl_parts(reader: Reader) -> Parts:
    """Yield a line with a JSON object for each row; null is what is missing."""
    members = ",".join(f"{_to_json(name)}:%s" for name in reader.names)
    line, converters = f"{{{members}}}\n", _converters(reader, _JSON)
    for page in reader.pages():
        yield "".join([line % row for row in _rows(page, converters)]).encode()


def exact_rows(reader: Reader) -> Iterator[Row]:
    """Yield the rows with times as text; None is what is missing."""
    converters = _converters(reader, _EXACT)
    for page in reader.pages():
        yield from _rows(page, converters)


def _rows(page: Sequence[Row], converters: Sequence[Convert | None]) -> Iterator[tuple[Any, ...]]:
    """Yield the rows without their keys, converted column by column, which is faster."""
    columns = zip([*zip(*page, strict=True)][1:], converters, strict=True) if page else ()
    return zip(
        *(convert(values) if convert else values for values, convert in columns), strict=True
    )


def _marked(texts: Iterable[str | None]) -> Iterator[str | None]:
    return (marked(text) if text else None for text in texts)


def _times(moments: Iterable[datetime | None]) -> Iterator[str | None]:
    return (utc_text(moment) if moment else None for moment in moments)


def _texts(texts: Iterable[str | None]) -> Iterator[str | None]:
    return (text or None for text in texts)


def _in_json(convert: Convert) -> Convert:
    """Return a function that returns each converted value as JSON.

    One call of the encoder is faster than a call for each. In JSON a line break is never part of a
    value, so it tells where the next one begins.
    """
    return lambda values: _to_json(list(convert(values)))[1:-1].split(",\n")


def _once(convert: Convert) -> Convert:
    """Return a function that converts each different value once."""

    def converted(values: Sequence[Any]) -> Iterator[Any]:
        different = list(set(values))
        cells = dict(zip(different, convert(different), strict=True))
        return map(cells.__getitem__, values)

    return converted


_CSV: Final[Mapping[Kind, Convert]] = {
    Kind.TEXT: _marked,
    Kind.SHARED: _once(_marked),
    Kind.TIME: _times,
}
_EXACT: Final[Mapping[Kind, Convert]] = {
    Kind.TEXT: _texts,
    Kind.SHARED: _once(_texts),
    Kind.CODE: _once(_texts),
    Kind.TIME: _times,
}
_JSON: Final[Mapping[Kind, Convert]] = {
    Kind.TEXT: _in_json(_texts),
    Kind.SHARED: _once(_in_json(_texts)),
    Kind.CODE: _once(_in_json(_texts)),
    Kind.TIME: _in_json(_times),
    Kind.NUMBER: _in_json(list),
}


def _converters(reader: Reader, by_kind: Mapping[Kind, Convert]) -> list[Convert | None]:
    return [by_kind.get(each.kind) for each in reader.columns]
