"""Export chats from their list: the selected ones, or all that its filters and search find.

A page asks for the format, and its form is answered with the file. No script is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect, QueryDict
from django.urls import URLPattern
from django.utils.formats import localize
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as _lazy
from django.utils.translation import ngettext

from osvi_django.admin.bounded import is_key
from osvi_django.admin.closing import CloseViews
from osvi_django.admin.deletion import POSTED, redirect_to_itself
from osvi_django.admin.kept import Kept, keep_words, take
from osvi_django.admin.neighbours import FILTERS
from osvi_django.admin.pages import Way, is_after_login, posted_context, with_query
from osvi_django.admin.pagination import CappedPaginator
from osvi_django.admin.selection import TICKED, words_of_list
from osvi_django.admin.session_list import SessionListViews
from osvi_django.exceptions import OSVIError
from osvi_django.models import ChatSession, DataExport
from osvi_django.services.export import export_sessions, file_response, is_xlsx_installed
from osvi_django.services.permissions import EXPORT, may_export, may_read_summary

Format = DataExport.Format

_UNTICKED: Final = _lazy(
    "Nothing was exported: which chats you had ticked is no longer known, for example because you "
    "were logged out. Select them again."
)
# In the URL of the page about rows that were ticked.
_TICKED: Final = "ticked"


_FORMATS: Final = {
    Format.CSV: _lazy("CSV, for spreadsheets: texts are marked so that none is run"),
    Format.XLSX: _lazy("Excel (XLSX)"),
    Format.JSONL: _lazy("JSON Lines, for programs"),
}


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The sessions to export, how they were chosen in words, and the keys of ticked ones."""

    sessions: QuerySet[ChatSession]
    words: str
    keys: list[str] = field(default_factory=list)

    @property
    def said(self) -> str:
        """Return how many these are, as far as they are counted, and how they were chosen."""
        number = self.sessions.order_by()[: CappedPaginator.cap + 1].count()
        values = {"number": localize(min(number, CappedPaginator.cap)), "words": self.words}
        if number > CappedPaginator.cap:
            return _("More than %(number)s chats: %(words)s") % values
        said = ngettext("%(number)s chat: %(words)s", "%(number)s chats: %(words)s", number)
        return said % values


def _can_write(file_format: Format) -> bool:
    return file_format != Format.XLSX or is_xlsx_installed()


class ExportForm(forms.Form):
    """The format of the file."""

    file_format = forms.ChoiceField(
        label=_lazy("Format"),
        choices=lambda: [(each, _FORMATS[each]) for each in _FORMATS if _can_write(each)],
        initial=Format.CSV,
    )


class ExportViews(SessionListViews, CloseViews):
    """The page and the action of ``ChatSessionAdmin`` that export sessions."""

    def has_export_permission(self, request: HttpRequest) -> bool:
        """Return whether to offer an export; the service checks again."""
        return may_export(request.user)

    def permissions_for(self, page: str) -> Sequence[str]:
        """Return the permissions of which each one opens a page."""
        return (EXPORT,) if page == "export" else super().permissions_for(page)

    def own_urls(self) -> list[URLPattern]:
        """Return the URL of the page and those of the base classes."""
        return [self._path("export", self.export_view), *super().own_urls()]

    def ways_of_list(self, request: HttpRequest) -> list[Way]:
        """Return also the link that exports all that the list has with its filters."""
        ways = super().ways_of_list(request)
        if not self.has_export_permission(request):
            return ways
        return [*ways, Way(label=_("Export"), url=self._export_url(request))]

    @admin.action(permissions=["export"], description=_lazy("Export selected chat sessions"))
    def export_selected(
        self, request: HttpRequest, queryset: QuerySet[ChatSession]
    ) -> HttpResponseBase:
        """Redirect to the page that asks for the format: of these, or of all in the list."""
        url = self._export_url(request)
        if request.POST.get("select_across", "0") != "1":
            keys = " ".join(map(str, queryset.values_list("pk", flat=True)))
            keep_words(request, self._key_of("export"), {"keys": keys})
            url = with_query(url, **{_TICKED: "yes"})
        return HttpResponseRedirect(url)

    def export_view(self, request: HttpRequest) -> HttpResponseBase:
        """Ask for the format of a file (GET), and send it (POST)."""
        if not self.has_export_permission(request):
            raise PermissionDenied
        page, is_ticked = self._key_of("export"), _TICKED in request.GET
        if is_after_login(request) and not is_ticked:
            return self._return_after_login(request, page)
        if url := self._url_with_filters(request):
            return HttpResponseRedirect(url)
        kept = take(request, page)
        chosen = self._ticked(request, kept) if is_ticked else self._listed(request)
        if chosen is None:
            return HttpResponseRedirect(self.list_url(request))
        form = ExportForm(request.POST if request.method == "POST" else None)
        if form.is_valid():
            return self._file(request, chosen, form.cleaned_data["file_format"])
        return self._page(
            request,
            "chatsession/export.html",
            title=_("Export chat sessions"),
            form=form,
            chosen=chosen,
            reads=may_read_summary(request.user),
            lacks_xlsx=not is_xlsx_installed(),
            back=self.list_url(request),
            **posted_context(request, kept),
        )

    def _export_url(self, request: HttpRequest) -> str:
        """Return the URL of the page, with the filters of the list."""
        url, filters = self.url_to("export"), self.get_preserved_filters(request)
        return f"{url}?{filters}" if filters else url

    def _url_with_filters(self, request: HttpRequest) -> str:
        """Return the URL that means filters in the query itself as the list does; "" if none are.

        Without them, more chats would be exported than the URL says.
        """
        ours = {FILTERS, POSTED}
        given = {name: values for name, values in request.GET.lists() if name not in ours}
        if not given or _TICKED in given:
            return ""
        filters = QueryDict(request.GET.get(FILTERS, ""), mutable=True)
        for name, values in given.items():
            filters.setlist(name, values)
        return with_query(self.url_to("export"), **{FILTERS: filters.urlencode()})

    def _ticked(self, request: HttpRequest, kept: Kept) -> Chosen | None:
        """Return the sessions that were ticked, or None, and say why there are none any more."""
        asked = request.POST.getlist(ACTION_CHECKBOX_NAME) or kept.typed.get("keys", "").split()
        if not asked:  # a logout removes what the login session has kept
            self.message_user(request, _UNTICKED, messages.WARNING)
            return None
        keys = [key for key in asked if is_key(key)]
        sessions = self.get_queryset(request).filter(pk__in=keys)
        if not sessions.exists():
            self._say_none(request)
            return None
        return Chosen(sessions=sessions, words=str(TICKED), keys=keys)

    def _listed(self, request: HttpRequest) -> Chosen | None:
        """Return the sessions of the list with its filters; None if these are invalid."""
        found = self._list_without_rows(request)
        if found is None:
            return None
        return Chosen(sessions=found.queryset, words=words_of_list(found))

    def _file(self, request: HttpRequest, chosen: Chosen, file_format: str) -> HttpResponseBase:
        try:
            export = export_sessions(
                chosen.sessions,
                file_format=file_format,
                requested_by=request.user,
                via="admin",
                selection=chosen.words,
            )
        except OSVIError as error:
            self.message_user(request, str(error), messages.ERROR)
            keep_words(request, self._key_of("export"), {"keys": " ".join(chosen.keys)})
            return redirect_to_itself(request)
        return file_response(request, export)
