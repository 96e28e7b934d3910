"""Search the list of sessions by anything, and say what was searched if nothing is found."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from django.contrib.admin.views.main import ChangeList
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as _lazy

from osvi_django.admin.bounded import before
from osvi_django.admin.customers import CustomerViews
from osvi_django.admin.forms import accounts_here
from osvi_django.admin.options import Names
from osvi_django.admin.pages import Way
from osvi_django.conf import DEFAULT_ACCOUNT
from osvi_django.services.permissions import may_read_summary
from osvi_django.services.search import SearchResult, find_matches
from osvi_django.validation import is_storable_id

# Django shows a search box if there are such fields; a host that names others searches by those.
_FIELDS: Final[Names] = ("session_id", "customer_id")


class SearchedChangeList(ChangeList):
    """A list that knows how it was searched: ``searched`` is for the template."""

    searched: dict[str, Any] | None = None

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        model_admin = self.model_admin
        if isinstance(model_admin, SearchViews) and self.query:
            self.searched = model_admin.searched(request, self)


class SearchViews(CustomerViews):
    """The search of ``ChatSessionAdmin``."""

    search_fields: ClassVar[Names] = _FIELDS
    search_help_text = _lazy(
        "Search by a phone number in any writing, or its last four digits; by a customer's id; by "
        "the beginning or end of a session id; by words of a note or, if you may read it, of a "
        "summary."
    )

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return before(super().get_changelist(request, **kwargs), SearchedChangeList)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Search the list or for an autocomplete, by our own rules unless a host names fields."""
        if tuple(self.get_search_fields(request)) != _FIELDS:
            return super().get_search_results(request, queryset, search_term)
        if not search_term:
            return queryset, False
        found = find_matches(
            search_term,
            user=request.user,
            reads_summaries=may_read_summary(request.user),
            using=queryset.db,
        )
        request.osvi_search = found  # type: ignore[attr-defined]  # for the list that asked
        return queryset.filter(found.condition), False

    def searched(self, request: HttpRequest, found_list: ChangeList) -> dict[str, Any] | None:
        """Return what the list says about the search: a sentence, and where to look next."""
        found: SearchResult | None = getattr(request, "osvi_search", None)
        if found is None:
            return None
        if found_list.result_count:
            return {"notice": found.notice} if found.notice else None
        return {
            "not_found": self._not_found(found, found_list),
            "notice": found.notice if found.kinds else "",
            "way": self._way_to_look_up(request, found),
        }

    def _not_found(self, found: SearchResult, found_list: ChangeList) -> str:
        if found.keys:
            return _("The chats that match are not in this list: clear its filters to see them.")
        return found.not_found

    def _way_to_look_up(self, request: HttpRequest, found: SearchResult) -> Way | None:
        """Return the link that looks up what was typed as a customer, if it can be one."""
        customer = found.customer_id
        if not is_storable_id(customer) or not self.has_operate_permission(request):
            return None
        label = format_html(_("Look up “{}” at OSVI"), format_html("<bdi>{}</bdi>", customer))
        accounts = accounts_here()
        account = DEFAULT_ACCOUNT if DEFAULT_ACCOUNT in accounts else accounts[0]
        return Way(label=label, url=self.lookup_url(customer, account))
