"""What the views of ``ChatSessionAdmin`` that call OSVI have in common."""

from __future__ import annotations

from typing import Final

from django.contrib import messages
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.urls import URLPattern
from django.utils.text import Truncator
from django.utils.translation import gettext_lazy as _

from osvi_django.admin.dashboard import with_dashboard
from osvi_django.admin.neighbours import KeptList
from osvi_django.database import non_atomic
from osvi_django.models import ChatSession
from osvi_django.services.access import Purpose, is_inside
from osvi_django.services.permissions import VIEW, is_permitted, is_refused, may_operate
from osvi_django.validation import ID_MAX_LENGTH

# The views that call OSVI, send a file or commit step by step, by the ends of their names.
_CALLING_OSVI: Final = (
    "_erase",
    "_close",
    "_mark",
    "_review",
    "_changelist",
    "_desk",
    "_live",
    "_lookup",
    "_start",
    "_export",
)


class OSVIViews(KeptList):
    """Views in addition to the admin's own, outside any transaction."""

    def get_urls(self) -> list[URLPattern]:
        """Return the admin's URLs and ours; some run outside any transaction."""
        urls = super().get_urls()
        for pattern in urls:
            if pattern.name and pattern.name.endswith(_CALLING_OSVI):
                pattern.callback = non_atomic(pattern.callback)
        return urls

    def has_view_permission(self, request: HttpRequest, obj: ChatSession | None = None) -> bool:
        """Return whether the user may see sessions, or this one; a grant for it suffices."""
        if obj is None:
            return bool(super().has_view_permission(request))
        return self.may_open(request, obj) and is_inside(obj, request.user, Purpose.VIEW)

    def may_open(self, request: HttpRequest, row: ChatSession) -> bool:
        """Return whether the user may see a session that was read from ``get_queryset``."""
        has_it = super().has_view_permission(request) or is_permitted(request.user, VIEW, row)
        return bool(has_it) and not is_refused(request.user, VIEW, row)

    def has_operate_permission(self, request: HttpRequest, obj: ChatSession | None = None) -> bool:
        """Return whether to offer to look up, start and operate; the services check again."""
        return may_operate(request.user, obj)

    def _page_after(self, request: HttpRequest, session: ChatSession) -> str:
        if self.has_view_permission(request, session):
            return self.url_to("change", session.pk)
        if self.has_operate_permission(request, session):
            return self.url_to("desk", session.pk)
        return self.url_of_index()

    def _say_of(
        self, request: HttpRequest, session: ChatSession, sentence: object, level: int
    ) -> None:
        """Say something about a session; where this names OSVI's dashboard, it links to it."""
        self.message_user(request, with_dashboard(sentence, session), level)

    def _key_of(self, name: str, session: ChatSession | None = None) -> str:
        """Return the key under which the texts typed into one of these pages are stored."""
        return f"{self.opts.label_lower}:{name}:{session.pk if session else ''}"

    def _redirect_not_found(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        sentence = _("There is no chat session “%(key)s”. It may have been deleted.")
        shown = Truncator(object_id).chars(ID_MAX_LENGTH)
        self.message_user(request, sentence % {"key": shown}, messages.WARNING)
        return HttpResponseRedirect(self.url_of_index())
