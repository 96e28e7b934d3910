"""The start page "Chats": what needs a person, how many chats each, and who waits longest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakSet

from django.contrib import admin
from django.contrib.admin import AdminSite
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.template.loader import render_to_string
from django.urls import URLPattern
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from osvi_django.admin.composer import turn_of
from osvi_django.admin.figures import FiguresViews
from osvi_django.admin.jobs import UNFINISHED, CloseJobAdmin
from osvi_django.admin.moments import JUST_BEFORE, ago
from osvi_django.admin.neighbours import FILTERS
from osvi_django.admin.pages import admin_of, with_query
from osvi_django.models import ChatSession, CloseJob
from osvi_django.services.attention import (
    Attention,
    CappedCount,
    count_attention,
    first_waiting,
)

WAITING_SHOWN: Final = 5
_WAITING: Final = "admin/osvi_django/chatsession/waiting.html"
_QUERIES: Final = {
    Attention.HELP: "attention=help",
    Attention.TAKEN_OVER: "taken_over=me",
    Attention.UNCONFIRMED: "attention=unconfirmed",
    Attention.REFUSED: "attention=refused",
    Attention.CLOSING: "attention=closing",
    Attention.NOT_PROVIDED: "summary=not_provided",
    Attention.LOST: "summary=lost",
    Attention.PENDING: "summary=pending",
}
# The admins that have this page; a template tag finds that of its site here.
_ADMINS: Final[WeakSet[Any]] = WeakSet()


@dataclass(frozen=True, kw_only=True)
class Line:
    """One count; ``url``: of the list of these chats, or "" if this user has no such list."""

    kind: Attention
    label: str
    count: CappedCount
    url: str


@dataclass(frozen=True, kw_only=True)
class WaitingCustomer:
    """A chat whose customer waits; ``taken``: who has taken it over, as a phrase, or ""."""

    session: ChatSession
    url: str
    asked: SafeString
    taken: str


class ChatsViews(FiguresViews):
    """The start page of ``ChatSessionAdmin``, and its numbers as JSON."""

    def __init__(self, model: Any, admin_site: AdminSite) -> None:
        super().__init__(model, admin_site)
        _ADMINS.add(self)

    def own_urls(self) -> list[URLPattern]:
        """Return the URLs of these views and of the base classes."""
        return [
            self._path("chats", self.chats_view),
            self._path("chats/counts", self.counts_view),
            *super().own_urls(),
        ]

    def chats_view(self, request: HttpRequest) -> HttpResponseBase:
        """Show what needs a person."""
        context = self.attention_of(request)
        if not context:
            raise PermissionDenied
        return self._page(request, "chatsession/chats.html", title=_("Chats"), **context)

    def counts_view(self, request: HttpRequest) -> HttpResponseBase:
        """Return the same as JSON for the script on the page."""
        context = self.attention_of(request)
        if not context:
            raise PermissionDenied
        request.current_app = self.admin_site.name
        return JsonResponse(
            {
                "counts": {line.kind: str(line.count) for line in context["lines"]},
                "waiting": str(context["waiting_count"] or ""),
                "said": context["said"],
                "rows": render_to_string(_WAITING, context, request),
            }
        )

    def attention_of(self, request: HttpRequest) -> dict[str, Any]:
        """Return the numbers that this user may see, with links, and who waits; {} for none."""
        among = self.get_queryset(request)
        counts = count_attention(requested_by=request.user, among=among)
        if not counts:
            return {}
        waiting = counts.get(Attention.HELP)
        some = waiting is not None and waiting.number > 0
        number = WAITING_SHOWN if some else 0
        rows = first_waiting(number, requested_by=request.user, among=among)
        lines = [self._line(request, kind, count) for kind, count in counts.items()]
        return {
            "lines": lines,
            "chats_url": self.url_to("chats"),
            "figures_url": self.url_of_figures(request),
            "shows_waiting": waiting is not None,
            "waiting_count": waiting if some else None,
            "waiting": [self._waiting_customer(request, each) for each in rows],
            "more": _more(waiting, len(rows)),
            "more_url": next((each.url for each in lines if each.kind is Attention.HELP), ""),
            "said": _said(waiting) if waiting is not None else "",
        }

    def _line(self, request: HttpRequest, kind: Attention, count: CappedCount) -> Line:
        url = ""
        if kind is Attention.JOBS:
            jobs = admin_of(self.admin_site, CloseJob, CloseJobAdmin)
            url = f"{jobs.url_to('changelist')}?status={UNFINISHED}" if jobs else ""
        elif self.has_view_permission(request):
            url = f"{self.url_to('changelist')}?{_QUERIES[kind]}"
        return Line(kind=kind, label=capfirst(str(kind.label)), count=count, url=url)

    def _waiting_customer(self, request: HttpRequest, session: ChatSession) -> WaitingCustomer:
        return WaitingCustomer(
            session=session,
            url=self._url_of(request, session),
            asked=_asked(session),
            taken=_taken(session, request.user),
        )

    def _url_of(self, request: HttpRequest, session: ChatSession) -> str:
        """Return the URL of the page of a session, from which Back leads to those who wait."""
        if not self.may_open(request, session):
            return self.url_to("desk", session.pk)
        filters = _QUERIES[Attention.HELP]
        return with_query(self.url_to("change", session.pk), **{FILTERS: filters})


def chats_admin_of(request: HttpRequest) -> ChatsViews | None:
    """Return the admin with the start page on the admin site that shows this request."""
    name = getattr(request, "current_app", None) or admin.site.name
    return next((each for each in _ADMINS if each.admin_site.name == name), None)


def _asked(session: ChatSession) -> SafeString:
    """Return how long ago the customer asked for a person.

    If they had asked before this site knew the chat, that was at its last change at the latest.
    """
    if session.help_requested_at is not None:
        return ago(session.help_requested_at, at_first=JUST_BEFORE)
    return format_html(
        "{} {}", ago(session.last_activity_at, at_first=JUST_BEFORE), _("or earlier")
    )


def _taken(session: ChatSession, user: Any) -> str:
    """Return who has taken over while the customer still waits; "" if no one has."""
    turn = turn_of(session, user)
    if not turn.is_taken:
        return ""
    if turn.is_own:
        return _("taken over by you")
    return _("taken over by %(who)s") % {"who": turn.who or _("a colleague")}


def _more(waiting: CappedCount | None, shown: int) -> str:
    """Return how many more wait than are shown; "" if none."""
    if waiting is None or waiting.number <= shown:
        return ""
    left = CappedCount(number=waiting.number - shown, is_more=waiting.is_more)
    words = ngettext("and %(number)s more", "and %(number)s more", left.number)
    return words % {"number": left}


def _said(waiting: CappedCount) -> str:
    if not waiting.number:
        return _("No customer waits for a person.")
    sentence = ngettext(
        "%(number)s customer waits for a person.",
        "%(number)s customers wait for a person.",
        waiting.number,
    )
    return sentence % {"number": waiting}
