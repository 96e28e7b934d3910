"""Pagination in which every page costs the same, even the last of a million rows.

A page starts after the last row of the previous one, by all fields that the rows are ordered by, as
any number of rows may have been started at the same moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from django.core.signing import BadSignature, Signer
from django.db.models import Model, Q
from django.utils.translation import gettext_lazy as _
from rest_framework.exceptions import ValidationError
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request
from rest_framework.views import APIView

_DIGITS: Final = 9


class KeysetPagination(CursorPagination):
    """Rows in the order of their creation.

    ``ordering`` names one or two fields, all in the same direction, the last of which is unique.
    Cursors are signed: a changed one is a 400, and not another page.
    """

    ordering: tuple[str, ...] = ("id",)
    page_size = 50
    page_size_query_param = "page_size"
    max_page_size = 200
    # Translated when it is shown.
    invalid_cursor_message: Any = _(
        "This cursor is not valid for this list: start from the first page."
    )
    invalid_page_size_message: Any = _("Use a whole number from 1 to %(most)d.")

    def paginate_queryset(
        self, queryset: Any, request: Request, view: APIView | None = None
    ) -> list[Any]:
        """Return the page that the query string asks for, or raise ``ValidationError``."""
        self.request = request
        size = self.get_page_size(request)
        self._is_back, self._position = self._read_cursor(request, queryset.model)
        rows = queryset.order_by(*self._ordering())
        if self._position:
            rows = rows.filter(self._beyond(self._position))
        found = list(rows[: size + 1])
        self._has_more = len(found) > size
        self.page = found[:size][::-1] if self._is_back else found[:size]
        self.display_page_controls = bool(self.get_next_link() or self.get_previous_link())
        return self.page

    def get_page_size(self, request: Request) -> int:
        """Return how many rows a page has, or raise ``ValidationError`` if it cannot be used."""
        name = self.page_size_query_param
        asked = request.query_params.get(name)
        if asked is None:
            return self.page_size
        # A number with more digits is too large, and may be too long for int().
        is_number = asked.isascii() and asked.isdigit() and len(asked) <= _DIGITS
        if not is_number or not 1 <= int(asked) <= self.max_page_size:
            problem = self.invalid_page_size_message % {"most": self.max_page_size}
            raise ValidationError({name: [problem]})
        return int(asked)

    def get_next_link(self) -> str | None:
        """Return the URL of the page after this one, if there is more."""
        return self._link(-1, back=False)

    def get_previous_link(self) -> str | None:
        """Return the URL of the page before this one, if there is more."""
        return self._link(0, back=True)

    @property
    def _names(self) -> list[str]:
        return [name.removeprefix("-") for name in self.ordering]

    def _ordering(self) -> Sequence[str]:
        if not self._is_back:
            return self.ordering
        is_descending = self.ordering[0].startswith("-")
        return self._names if is_descending else [f"-{name}" for name in self._names]

    def _beyond(self, position: Sequence[Any]) -> Q:
        """Return the condition for rows after a position, in the direction of reading."""
        is_descending = self.ordering[0].startswith("-")
        comparison = "lt" if is_descending != self._is_back else "gt"
        *moments, key = zip(self._names, position, strict=True)
        beyond = Q(**{f"{key[0]}__{comparison}": key[1]})
        for name, value in moments:
            # The first half is what the database searches the index by.
            further = Q(**{f"{name}__{comparison}": value})
            beyond = Q(**{f"{name}__{comparison}e": value}) & (further | beyond)
        return beyond

    def _link(self, end: int, *, back: bool) -> str | None:
        is_way_back = back != self._is_back and bool(self._position)
        if not (is_way_back or (back == self._is_back and self._has_more)):
            return None
        position = self._position_of(self.page[end]) if self.page else self._position
        query = self.request.query_params.copy()
        query[self.cursor_query_param] = self._signer.sign_object([back, *map(str, position)])
        return f"{self.request.build_absolute_uri(self.request.path)}?{query.urlencode()}"

    @property
    def _signer(self) -> Signer:
        return Signer(salt=f"osvi_django.rest.cursor:{','.join(self.ordering)}")

    def _fields(self, model: type[Model]) -> list[Any]:
        return [model._meta.get_field(name) for name in self._names]  # noqa: SLF001  # documented

    def _position_of(self, row: Model) -> list[str]:
        return [field.value_to_string(row) for field in self._fields(type(row))]

    def _read_cursor(self, request: Request, model: type[Model]) -> tuple[bool, list[Any]]:
        """Return the direction and the position in the query string; none at the start."""
        cursor = request.query_params.get(self.cursor_query_param)
        if cursor is None:
            return False, []
        try:
            back, *position = self._signer.unsign_object(cursor)
        except BadSignature:
            problem = {self.cursor_query_param: [self.invalid_cursor_message]}
            raise ValidationError(problem) from None
        values = zip(self._fields(model), position, strict=True)
        return back, [field.to_python(value) for field, value in values]


class NewestFirst(KeysetPagination):
    """Newest first."""

    ordering = ("-id",)


class OldestStartedFirst(KeysetPagination):
    """By start time, oldest first."""

    ordering = ("started_at", "id")


class SessionPagination(KeysetPagination):
    """Sessions in an order that the query string names, or by default in that of its range."""

    orderings: Final = {
        f"{sign}{name}": (f"{sign}{name}", f"{sign}id")
        for name in ("started_at", "updated_at", "closed_at", "last_activity_at")
        for sign in ("-", "")
    }

    def paginate_queryset(
        self, queryset: Any, request: Request, view: APIView | None = None
    ) -> list[Any]:
        """Return the page that the query string asks for, or raise ``ValidationError``."""
        self.ordering = self.orderings[order_of(request.query_params)]
        return super().paginate_queryset(queryset, request, view)


# What is in a range is found at once in the order of its column; in another, all before it would
# be read first. What is newer than a change is in the order of the changes.
_USUAL_ORDERS: Final = {
    "updated_after": "updated_at",
    "updated_before": "-updated_at",
    "closed_after": "-closed_at",
    "closed_before": "-closed_at",
    "idle_since": "-last_activity_at",
}


def order_of(query: Mapping[str, Any]) -> str:
    """Return the order that a valid query string asks for."""
    of_ranges = (order for name, order in _USUAL_ORDERS.items() if name in query)
    return str(query.get("ordering", next(of_ranges, "-started_at")))
