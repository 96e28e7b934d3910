"""Admins that large tables and invalid URLs cannot break."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Final

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import ValidationError
from django.db import DatabaseError, transaction
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _

from osvi_django.admin.deletion import CountedDeletion, redirect_to_itself
from osvi_django.validation import is_storable

TERM_MAX_LENGTH: Final = 255

# The errors of a query with a value that no row can have, on one database or another.
_NONSENSE: Final = (ValueError, OverflowError, DatabaseError)


class BoundedChangeList(ChangeList):
    """A list that handles invalid values as Django handles an unknown filter."""

    def get_results(self, request: HttpRequest) -> None:
        if not request.GET:
            super().get_results(request)
            return
        try:
            # A query that fails inside a transaction of the host must not break the rest of it.
            with transaction.atomic(using=self.queryset.db):
                super().get_results(request)
                len(self.result_list)  # this sends the query
        except _NONSENSE as error:
            raise IncorrectLookupParameters(error) from error


class ConditionFilter(admin.SimpleListFilter):
    """A filter with one condition per choice; all choices are counted in one pass.

    ``order``: the order of the list of sessions while this filter is used, if it has one.
    """

    order: ClassVar[tuple[str, ...]] = ()

    @property
    def is_used(self) -> bool:
        """Return whether the list is filtered by this."""
        return self.value() is not None

    @abstractmethod
    def condition(self, value: str) -> Q:
        """Return the condition for the rows of this choice."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        wanted = self.value()
        if wanted is None:
            return queryset
        try:
            return queryset.filter(self.condition(wanted))
        except (ValueError, ValidationError) as error:
            raise IncorrectLookupParameters(error) from error

    def get_facet_counts(self, pk_attname: str, filtered_qs: QuerySet[Any]) -> dict[str, Count]:
        """Return the count for each choice; Django's own way needs a subquery for each."""
        return {
            f"{number}__c": Count(pk_attname, filter=self.condition(str(value)))
            for number, (value, _label) in enumerate(self.lookup_choices)
        }


class BoundedAdmin(CountedDeletion):
    """The base of this app's admins."""

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """Return the list class of the other base classes, with ours before it."""
        return before(super().get_changelist(request, **kwargs), BoundedChangeList)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the list. Redirect a form without an action back to it."""
        if request.method == "POST" and not {"action", "_save"} & request.POST.keys():
            return redirect_to_itself(request)
        title = capfirst(self.opts.verbose_name_plural)
        return super().changelist_view(request, {"title": title, **(extra_context or {})})

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Any:
        """Return the row, by its key if the URL names no field."""
        return super().get_object(request, object_id, from_field or None)

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        """Allow what Django allows, except patterns, which may take a database minutes."""
        return "regex" not in lookup and super().lookup_allowed(lookup, value, request)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Search the list or for an autocomplete; find nothing if the text cannot be stored."""
        if not is_term(search_term):
            return queryset.none(), False
        return super().get_search_results(request, queryset, search_term)

    def response_action(
        self, request: HttpRequest, queryset: QuerySet[Any], *args: Any, **kwargs: Any
    ) -> HttpResponse | None:
        """Run an action on the selected rows, if the values can be keys of rows."""
        keys = request.POST.getlist(ACTION_CHECKBOX_NAME)
        if all(self._is_key(key) for key in keys):
            response: HttpResponse | None = super().response_action(
                request, queryset, *args, **kwargs
            )
            return response
        self.message_user(request, _("Your selection is not in this list."), messages.ERROR)
        return None

    def _is_key(self, value: str) -> bool:
        try:
            self.opts.pk.clean(value, None)
        except ValidationError:
            return False
        return True


def before(base: type[ChangeList], *ours: type[ChangeList]) -> type[ChangeList]:
    """Return a list class that combines ours with this one, ours first."""
    return type("OSVIChangeList", (*ours, base), {}) if base is not ChangeList else ours[0]


def is_term(text: str) -> bool:
    """Return whether every database can search for this text."""
    return len(text) <= TERM_MAX_LENGTH and is_storable(text)


def is_key(text: str) -> bool:
    """Return whether this can be the key of a row."""
    return text.isascii() and text.isdigit() and len(text) < 19  # the most that databases store
