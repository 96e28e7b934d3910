"""Pages of which each costs the same, the last of a million rows too."""

from __future__ import annotations

from datetime import UTC

from django.utils.dateparse import parse_datetime
from rest_framework.exceptions import NotFound
from rest_framework.pagination import Cursor, CursorPagination
from rest_framework.request import Request

# No database has keys of more digits.
_KEY_DIGITS = 18


class ByKey(CursorPagination):
    """In the order in which they were made; a cursor that somebody made up is a 404."""

    ordering: tuple[str, ...] = ("id",)
    page_size = 50
    page_size_query_param = "page_size"
    max_page_size = 200

    def decode_cursor(self, request: Request) -> Cursor | None:
        """The cursor of the query string; 404 where its position is none."""
        cursor = super().decode_cursor(request)
        if cursor is not None and cursor.position is not None:
            self._require_position(str(cursor.position))
        return cursor

    def is_position(self, position: str) -> bool:
        """Whether rows can be compared with this."""
        return position.isascii() and position.isdigit() and len(position) <= _KEY_DIGITS

    def _require_position(self, position: str) -> None:
        if not self.is_position(position):
            raise NotFound(self.invalid_cursor_message)


class NewestByKey(ByKey):
    """The newest first."""

    ordering = ("-id",)


class OldestByStart(ByKey):
    """By when they began, as they came."""

    ordering = ("started_at", "id")

    def is_position(self, position: str) -> bool:
        """Whether it is a moment in time."""
        try:
            moment = parse_datetime(position)
            return moment is not None and moment.astimezone(UTC) is not None
        except (ValueError, OverflowError):
            return False


class NewestSessions(OldestByStart):
    """By when they began, the newest first."""

    ordering = ("-started_at", "-id")
