"""The list that a session was opened from: its filters, and what is before and after a session.

Django hands the filters of a list on in the query string of the pages opened from it. Here every
URL of a session's page that is built while such a page is shown has them as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final

from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import FieldDoesNotExist, SuspiciousOperation
from django.db import connections
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase, QueryDict
from django.template.response import TemplateResponse
from django.urls import URLPattern

from osvi_django.admin.bounded import before
from osvi_django.admin.pages import OwnPages, with_query
from osvi_django.admin.places import PLACE, at_place, is_place_of, place_of
from osvi_django.models import ChatSession

AttentionRank = ChatSession.AttentionRank

FILTERS: Final = "_changelist_filters"
_KEPT: Final[ContextVar[str]] = ContextVar("osvi_django_kept_filters", default="")
_PLACE: Final[ContextVar[str]] = ContextVar("osvi_django_place", default="")
_KEPT_BY: Final = frozenset(
    {"change", "close", "mark", "desk", "review", "live", "attempts", "thread"}
)
# Those that lead to what is done to a session, and back from it.
_PLACED: Final = frozenset({"change", "close", "mark", "desk", "live"})
_NULLS_ARE_LARGEST: Final = ("postgresql", "oracle")


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """The URLs of the sessions before and after one in its list; "" at an end of the list."""

    previous_url: str = ""
    next_url: str = ""


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """The key of a session in the list, and whether it is closed."""

    key: int
    is_closed: bool


class UncountedChangeList(ChangeList):
    """A list of which only the filters and the order are needed: no row is read or counted."""

    def get_results(self, request: HttpRequest) -> None:
        self.result_count = self.full_result_count = 1
        self.result_list = self.queryset.none()
        self.show_admin_actions = self.can_show_all = self.multi_page = False


class KeptList(OwnPages):
    """An admin of sessions whose pages know the list that they were opened from."""

    def get_urls(self) -> list[URLPattern]:
        """Return the URLs of the admin; all views keep the filters of the list."""
        urls = super().get_urls()
        for pattern in urls:
            pattern.callback = _keeping_filters(pattern.callback)
        return urls

    def url_to(self, name: str, *args: Any) -> str:
        """Return the URL of a page; one of a session has the filters of the list and its place."""
        url = super().url_to(name, *args)
        kept = _kept_for(name, args[0]) if args and name in _KEPT_BY else {}
        return with_query(url, **kept) if kept else url

    def get_object(self, request: HttpRequest, *args: Any, **kwargs: Any) -> ChatSession | None:
        """Return the session; while a page is opened, the URLs of an open one hold its place."""
        session: ChatSession | None = super().get_object(request, *args, **kwargs)
        if session is not None and request.method == "GET" and not _is_closed(session):
            _note_place(session)
        return session

    def list_url(self, request: HttpRequest) -> str:
        """Return the URL of the list that this page was opened from."""
        filters, url = request.GET.get(FILTERS, ""), self.url_to("changelist")
        return f"{url}?{filters}" if filters else url

    def neighbours_of(
        self, request: HttpRequest, session: ChatSession, *, leaves: bool = False
    ) -> Neighbours:
        """Return what comes before and after a session in its list, by a few bounded queries.

        Both are those of the place that the session had when its page was opened. If it has moved
        or left the list, or ``leaves`` it now, the next is no closed session while others of the
        list are open.
        """
        if not self.has_view_permission(request, session):
            return Neighbours()
        opened_from = self._list_without_rows(request)
        if opened_from is None:
            return Neighbours()
        rows = opened_from.queryset.prefetch_related(None)
        ordering = opened_from.get_ordering(request, opened_from.queryset)
        order, place = _fields_of(ordering, session), at_place(session, _PLACE.get())
        others = rows.exclude(pk=session.pk)
        following = _first_after(others, order, place)
        if _skips(following, place) and (leaves or _has_moved(rows, order, place, session)):
            following = _first_open(others) or following
        return Neighbours(
            previous_url=self._url_of_neighbour(_first_after(others, _reversed(order), place)),
            next_url=self._url_of_neighbour(following),
        )

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,  # as Django calls it
        change: bool = False,
        form_url: str = "",
        obj: ChatSession | None = None,
    ) -> HttpResponse:
        """Show the page of a session, with links to its list and its neighbours there."""
        found = self.neighbours_of(request, obj) if obj else Neighbours()
        context |= {
            "list_url": self.list_url(request),
            "previous_url": found.previous_url,
            "next_url": found.next_url,
        }
        return super().render_change_form(request, context, add, change, form_url, obj)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        base = super().get_changelist(request, **kwargs)
        is_uncounted = getattr(request, "osvi_is_uncounted", False)
        return before(base, UncountedChangeList) if is_uncounted else base

    def _page(self, request: HttpRequest, template: str, **context: Any) -> TemplateResponse:
        return super()._page(request, template, **{"list_url": self.list_url(request), **context})

    def _url_of_neighbour(self, found: Neighbour | None) -> str:
        return "" if found is None else self.url_to("change", found.key)

    def _list_without_rows(self, request: HttpRequest) -> ChangeList | None:
        """Return the list with its filters and order; None if its filters are invalid."""
        asked = copy(request)
        asked.GET = QueryDict(request.GET.get(FILTERS, ""))
        asked.osvi_is_uncounted = True  # type: ignore[attr-defined]
        try:
            return self.get_changelist_instance(asked)
        except (IncorrectLookupParameters, SuspiciousOperation):
            return None


def _keeping_filters(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    @wraps(view)
    def keeping(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        filters = _KEPT.set(request.GET.get(FILTERS, ""))
        place = _PLACE.set(request.GET.get(PLACE, ""))
        try:
            return view(request, *args, **kwargs)
        finally:
            _KEPT.reset(filters)
            _PLACE.reset(place)

    return keeping


def _note_place(session: ChatSession) -> None:
    if not is_place_of(_PLACE.get(), session.pk):
        _PLACE.set(place_of(session))


def _is_closed(session: ChatSession) -> bool:
    return bool(session.attention_rank == AttentionRank.CLOSED)


def _kept_for(name: str, key: Any) -> dict[str, str]:
    """Return what the URLs of the pages of this session have in their query string."""
    filters, place = _KEPT.get(), _PLACE.get()
    kept = {FILTERS: filters} if filters else {}
    has_place = name in _PLACED and is_place_of(place, key)
    return {**kept, PLACE: place} if has_place else kept


def _fields_of(ordering: Sequence[Any], session: ChatSession) -> list[str]:
    """Return the order by fields of a session, with its key; [] if it is not only of those."""
    fields: list[str] = []
    for each in ordering:
        name = each.removeprefix("-") if isinstance(each, str) else ""
        if name in {"pk", "id"}:
            return [*fields, "-id" if each.startswith("-") else "id"]
        try:
            session._meta.get_field(name)  # noqa: SLF001  # it is documented
        except FieldDoesNotExist:
            return []
        fields.append(each)
    return [*fields, "id"]  # Django adds no key to an order that is total without it


def _reversed(order: Sequence[str]) -> list[str]:
    return [each[1:] if each.startswith("-") else f"-{each}" for each in order]


def _first_after(
    rows: QuerySet[Any], order: Sequence[str], session: ChatSession
) -> Neighbour | None:
    """Return the first row after a session in this order.

    One condition for all of this could use no index: each of these reads one entry of the index.
    """
    for depth in reversed(range(len(order))):
        same = Q()
        for name in (each.removeprefix("-") for each in order[:depth]):
            value = getattr(session, name)
            same &= Q(**{f"{name}__isnull": True} if value is None else {name: value})
        for following in _following(order[depth], session, rows.db):
            if found := _first(rows.filter(same & following).order_by(*order)):
                return found
    return None


def _first(rows: QuerySet[Any]) -> Neighbour | None:
    for key, rank in rows.values_list("pk", "attention_rank")[:1]:
        return Neighbour(key=key, is_closed=rank == AttentionRank.CLOSED)
    return None


def _first_open(rows: QuerySet[Any]) -> Neighbour | None:
    """Return what is to be done first; by this order, an index knows what is open."""
    is_open = rows.filter(attention_rank__lt=AttentionRank.CLOSED)
    return _first(is_open.order_by(*ChatSession.ATTENTION_ORDER))


def _skips(following: Neighbour | None, place: ChatSession) -> bool:
    """Return whether nothing open follows a session that was open."""
    is_done = following is None or following.is_closed
    return is_done and not _is_closed(place)


def _has_moved(
    rows: QuerySet[Any], order: Sequence[str], place: ChatSession, session: ChatSession
) -> bool:
    """Return whether a session is elsewhere in this list than it was, or is not in it."""
    names = (each.removeprefix("-") for each in order)
    if any(getattr(place, name) != getattr(session, name) for name in names):
        return True
    return not rows.filter(pk=session.pk).exists()


def _following(field: str, session: ChatSession, using: str) -> Iterator[Q]:
    """Yield the conditions for later values of a field, in their order: nulls are at an end."""
    name, descends = field.removeprefix("-"), field.startswith("-")
    nulls_are_last = descends != (connections[using].vendor in _NULLS_ARE_LARGEST)
    value = getattr(session, name)
    if value is not None:
        yield Q(**{f"{name}__{'lt' if descends else 'gt'}": value})
    if nulls_are_last != (value is None) and session._meta.get_field(name).null:  # noqa: SLF001
        yield Q(**{f"{name}__isnull": value is not None})
