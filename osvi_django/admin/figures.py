"""The page "Figures": what is open and was closed, by whom and how fast, for a range of days."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

from django import forms
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase
from django.urls import URLPattern
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as _lazy
from django.utils.translation import ngettext

from osvi_django.admin.base import OSVIViews
from osvi_django.admin.figure_panels import (
    Lists,
    change_shown,
    panels_of_now,
    panels_of_range,
    range_shown,
)
from osvi_django.admin.pages import with_query
from osvi_django.database import site_date
from osvi_django.exceptions import InvalidInput
from osvi_django.services.permissions import may_view
from osvi_django.services.statistics import DateRange, Figures, figures
from osvi_django.services.statistics.ranges import MAX_DAYS, YEARS

_ISO: Final = "%Y-%m-%d"
_LENGTHS: Final = (1, 7, 30, 90)


class DaysForm(forms.Form):
    """The first and the last day of a range; without them it is that of the service."""

    first = forms.DateField(
        label=_lazy("First day"),
        required=False,
        input_formats=[_ISO],
        widget=forms.DateInput(attrs={"type": "date"}, format=_ISO),
        error_messages={"invalid": _lazy("Enter a day such as 2026-01-31.")},
    )
    last = forms.DateField(
        label=_lazy("Last day"),
        required=False,
        input_formats=[_ISO],
        widget=forms.DateInput(attrs={"type": "date"}, format=_ISO),
        error_messages={"invalid": _lazy("Enter a day such as 2026-01-31.")},
    )

    def figures_for(self, user: Any) -> Figures | None:
        """Return the figures of these days; None if there is an error, which the form then has."""
        if not self.is_valid():
            return None
        try:
            return figures(**self.cleaned_data, requested_by=user)
        except InvalidInput as error:
            self.add_error(error.field, self._problem_of(error.field))
            return None

    def _problem_of(self, name: str) -> str:
        """Return in words of this page what the service says of a day."""
        day = self.cleaned_data[name]
        if day is not None and day.year not in YEARS:
            years = {"first": YEARS[0], "last": YEARS[-1]}
            return _("Choose a day in a year from %(first)d to %(last)d.") % years
        if name == "last":
            return _("This is before the first day. Choose a later day, or an earlier first day.")
        problem = _(
            "These are more than %(most)d days. Choose a later day, or an earlier last day."
        )
        return problem % {"most": MAX_DAYS}


@dataclass(frozen=True, kw_only=True)
class Shortcut:
    """A link to a range that ends today."""

    label: str
    url: str
    is_chosen: bool


class FiguresViews(OSVIViews):
    """The page of ``ChatSessionAdmin`` with the figures."""

    def own_urls(self) -> list[URLPattern]:
        """Return the URL of this view and those of the base classes."""
        return [self._path("figures", self.figures_view), *super().own_urls()]

    def url_of_figures(self, request: HttpRequest) -> str:
        """Return the URL of the page; "" if this user may not see it."""
        return self.url_to("figures") if self._may_see_figures(request) else ""

    def figures_view(self, request: HttpRequest) -> HttpResponseBase:
        """Show the figures of the days that are asked for, or what is wrong with these."""
        if not self._may_see_figures(request):
            raise PermissionDenied
        asked = DaysForm(request.GET)
        found = asked.figures_for(request.user)
        shown = {"form": asked} if found is None else self._shown(found)
        return self._page(
            request,
            "chatsession/figures.html",
            title=_("Figures"),
            shortcuts=self._shortcuts(None if found is None else found.days),
            **shown,
        )

    def _may_see_figures(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request) and may_view(request.user)

    def _shown(self, found: Figures) -> dict[str, Any]:
        lists = Lists(url=self.url_to("changelist"))
        return {
            "form": DaysForm(initial={"first": found.days.first, "last": found.days.last}),
            "found": found,
            "days_shown": range_shown(found.days),
            "before_shown": range_shown(found.before),
            "change": change_shown(found.closed.number, found.closed.before),
            "closed_url": lists.closed_in(found.days),
            "now": panels_of_now(found, lists),
            "range": panels_of_range(found, lists),
        }

    def _shortcuts(self, days: DateRange | None) -> list[Shortcut]:
        today = site_date(timezone.now())
        return [self._shortcut(length, today, days) for length in _LENGTHS]

    def _shortcut(self, length: int, today: date, days: DateRange | None) -> Shortcut:
        meant = DateRange(first=today - timedelta(days=length - 1), last=today)
        label = ngettext("%(number)s day", "%(number)s days", length) % {"number": length}
        return Shortcut(
            label=_("Today") if length == 1 else label,
            url=with_query(self.url_to("figures"), first=meant.first, last=meant.last),
            is_chosen=meant == days,
        )
