"""Read the rows of an export in pages, by key.

One cursor for all rows would keep a transaction open on PostgreSQL, which a pool of connections
such as PgBouncer does not allow, and MariaDB would send all rows at once. So memory is that of one
page, and nothing is locked or open between two pages. Each session is there once, as it was when
its page was read, if it matched then; those that are mirrored after the start are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias

from django.db.models import QuerySet

from osvi_django.models import ChatSession
from osvi_django.services.export.columns import Column, read_columns

Row: TypeAlias = Sequence[Any]

# With fewer rows at once, PostgreSQL looks each of them up in the other tables one by one.
PAGE: Final = 2_000


class Reader:
    """Reads rows; ``number`` is how many were read."""

    def __init__(
        self,
        sessions: QuerySet[ChatSession],
        columns: list[Column],
        *,
        readable: QuerySet[ChatSession] | None,
    ) -> None:
        self.number = 0
        self.columns = columns
        self._rows = read_columns(sessions, columns, readable=readable)
        newest = ChatSession.objects.using(sessions.db).order_by("-pk")
        self._last_key = next(iter(newest.values_list("pk", flat=True)[:1]), 0)

    @property
    def names(self) -> list[str]:
        """Return the names of the columns."""
        return [each.name for each in self.columns]

    def pages(self) -> Iterator[list[Row]]:
        """Yield the rows in parts; the first value of each is its key."""
        key = 0
        while True:
            found = list(self._rows.filter(pk__gt=key, pk__lte=self._last_key)[:PAGE])
            # A caller's queryset with a join may have a session more than once.
            page = list({row[0]: row for row in found}.values())
            self.number += len(page)
            yield page
            if len(found) < PAGE:
                return
            key = found[-1][0]
