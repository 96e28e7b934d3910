"""A way in for users who may not see the list of sessions, but may do something with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy as _

from osvi_django.admin.closing import CloseViews
from osvi_django.admin.frame import lacking
from osvi_django.admin.pages import Way
from osvi_django.services.permissions import CLOSE, ERASE, OPERATE

_OPENED_BY: Final[Mapping[str, Sequence[str]]] = {
    **dict.fromkeys(("close", "mark", "review", "recover"), (CLOSE,)),
    **dict.fromkeys(("desk", "lookup", "start"), (OPERATE,)),
    **dict.fromkeys(("erase", "keep"), (ERASE,)),
}
_OPENED_BY_VIEW_OR_OPERATE: Final = ("attempts", "thread")


class EntryViews(CloseViews):
    """The entry of ``ChatSessionAdmin`` in the index of the admin, and where it leads.

    Django lists a model for users who may view, add, change or delete its rows. To operate and to
    close are other permissions, so for those who have only these, the list is a page of links.
    """

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may do anything here."""
        return bool(super().has_module_permission(request) or self.ways_in(request))

    def get_model_perms(self, request: HttpRequest) -> dict[str, bool]:
        """Return Django's permissions; the index links to the list if there is a way in."""
        perms: dict[str, bool] = super().get_model_perms(request)
        return {**perms, "view": perms["view"] or bool(self.ways_in(request))}

    def permissions_for(self, page: str) -> Sequence[str]:
        """Return the permissions of which each one opens a page."""
        if page in _OPENED_BY_VIEW_OR_OPERATE:
            return (self._permission_to("view"), OPERATE)
        return _OPENED_BY.get(page) or super().permissions_for(page)

    def ways_in(self, request: HttpRequest) -> list[Way]:
        """Return the links to what the user may do without having found a session."""
        ways = []
        if self.has_view_permission(request):
            ways.append(Way(label=_("List of chat sessions"), url=self.url_to("changelist")))
        if self.has_operate_permission(request):
            ways.append(Way(label=_("Look up a customer"), url=self.url_to("lookup")))
            ways.append(Way(label=_("Start a chat session"), url=self.url_to("start")))
        jobs = self._job_admin
        if jobs is not None and jobs.has_view_permission(request):
            ways.append(Way(label=_("Close jobs"), url=jobs.url_to("changelist")))
        return ways

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the list, or to users who may not see it, what they may do."""
        ways = self.ways_in(request)
        if self.has_view_permission(request) or not ways:
            return super().changelist_view(request, extra_context)
        return self._page(
            request,
            "chatsession/entry.html",
            title=_("Chat sessions"),
            ways=ways,
            lacking=lacking(request.user, self.permissions_for("changelist")),
            **(extra_context or {}),
        )
