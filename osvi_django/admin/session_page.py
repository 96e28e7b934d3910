"""The page of one chat session in the admin: what it shows, and the links to its actions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import urlencode

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.db.models.functions import Left
from django.http import HttpRequest, HttpResponse
from django.template.defaultfilters import linebreaksbr
from django.template.response import TemplateResponse
from django.utils.functional import Promise
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from osvi_django.admin.badges import status_badge
from osvi_django.admin.customers import CustomerViews
from osvi_django.admin.dashboard import NAME as DASHBOARD
from osvi_django.admin.dashboard import dashboard_url, with_dashboard
from osvi_django.admin.desk import DeskViews
from osvi_django.admin.live import LiveViews
from osvi_django.admin.messages import JUDGE, UNKNOWN
from osvi_django.admin.pages import Way
from osvi_django.admin.privacy import PrivacyViews
from osvi_django.admin.reviewing import LABEL as REVIEW_LABEL
from osvi_django.admin.reviewing import ReviewViews, source_text
from osvi_django.admin.sources import NOT_A_USER
from osvi_django.database import exact_match
from osvi_django.exceptions import CloseInProgress, OSVIBadAnswer, OSVINoAnswer
from osvi_django.models import ChatSession
from osvi_django.redaction import HiddenText
from osvi_django.services import selectors
from osvi_django.services.closing import is_unconfirmed
from osvi_django.services.permissions import may_read_summary, readable_summaries
from osvi_django.services.recovery import is_refused
from osvi_django.services.summaries import has_summarizer

PAGE_TEMPLATE: Final = "admin/osvi_django/chatsession/change_form.html"
OTHERS_SHOWN: Final = 10
_START_CHARACTERS: Final = 300
_TRY_AGAIN: Final = _("Try again")
_CHECK_NOW: Final = _(
    "It will be checked with OSVI automatically. To check it now, press “Try again”, which cannot "
    "close it twice."
)
_REFUSED: Final = _(
    "OSVI would not close this chat. If OSVI's dashboard shows it as closed, use “Mark as closed”."
)
_REFUSED_WITH_REASON: Final = _(
    "OSVI would not close this chat (reason: “%(reason)s”). If OSVI's dashboard shows it as "
    "closed, use “Mark as closed”."
)
_LOST: Final = _("The summary was lost: OSVI closed the chat and its answer did not reach us.")


@dataclass(frozen=True, kw_only=True)
class OtherChats:
    """The customer's newest other chats, each with a link; ``all_url``: the list of all of them."""

    rows: Sequence[tuple[ChatSession, str]]
    shows_summaries: bool
    all_url: str


class SessionPage(CustomerViews, DeskViews, ReviewViews, LiveViews, PrivacyViews):
    """The page of a session: its summary or desk, its history, the customer's chats, its facts."""

    # By name, so that a proxy of the model has it too.
    change_form_template = PAGE_TEMPLATE

    def page_of(
        self, request: HttpRequest, session: ChatSession, *, is_poll: bool = False
    ) -> dict[str, Any]:
        """Return the context of a session's page; without the customer's chats for a poll."""
        readable = may_read_summary(request.user, session)
        ways = self._note_ways(request, session)
        return {
            **self.desk_of(request, session, is_poll=is_poll),
            "ways": ways,
            "explanation": with_dashboard(_explanation(session), session),
            "may_read_summary": readable,
            # Called by the template, so that error reports do not show the text.
            "summary_text": partial(self.summary_text, session),
            "has_summary": readable and hasattr(session, "summary"),
            "dashboard_url": dashboard_url(session),
            "others": None if is_poll else self._others_of(request, session, readable=readable),
            "customer_url": self._customer_url(request, session),
            "live_url": self.url_to("live", session.pk),
        }

    def desk_page(self, request: HttpRequest, session: ChatSession) -> TemplateResponse:
        """Return the page for users who may operate a session and not see its own page."""
        return self._page(
            request,
            "chatsession/desk_page.html",
            title=_title_of(session),
            original=session,
            **self.page_of(request, session),
        )

    def _others_of(
        self, request: HttpRequest, session: ChatSession, *, readable: bool
    ) -> OtherChats | None:
        """Return the customer's other chats; None if the customer is not known."""
        if not session.customer_id:
            return None
        account, customer = session.agent.account, HiddenText(session.customer_id)
        theirs = exact_match("customer_id", customer)
        chats = self.get_queryset(request).filter(theirs, agent__account=account)
        chats = chats.exclude(pk=session.pk).select_related("agent").defer("metadata")
        if readable:
            chats = chats.annotate(summary_start=Left("summary__text", _START_CHARACTERS))
        found = list(chats.order_by("-started_at", "-id")[: OTHERS_SHOWN + 1])
        if readable:
            _withhold_summaries(request, found)
        query = HiddenText(urlencode({"customer_id": customer}))
        all_url = HiddenText(f"{self.url_to('changelist')}?{query}")
        shows_all = len(found) > OTHERS_SHOWN and self.has_view_permission(request)
        return OtherChats(
            rows=[(each, self._link(request, each)) for each in found[:OTHERS_SHOWN]],
            shows_summaries=readable,
            all_url=all_url if shows_all else "",
        )

    def _customer_url(self, request: HttpRequest, session: ChatSession) -> str:
        is_known = session.customer_id and session.erased_at is None
        if not is_known or not self.has_operate_permission(request):
            return ""
        return HiddenText(self.lookup_url(session.customer_id, session.agent.account))

    @admin.display(description=_("status"))
    def status_explained(self, session: ChatSession) -> SafeString:
        """Return the status, with an explanation if it needs one."""
        shown, why = status_badge(session), with_dashboard(_explanation(session), session)
        return format_html("{}<br>{}", shown, why) if why else shown

    @admin.display(description=DASHBOARD)
    def dashboard_linked(self, session: ChatSession) -> SafeString:
        """Return the link to the session in OSVI's dashboard."""
        url = dashboard_url(session)
        return format_html('<a href="{}">{}</a>', url, _("Open in OSVI's dashboard"))

    @admin.display(description=_("closed by"))
    def closed_by_shown(self, session: ChatSession) -> str:
        """Return the name of the user, without a link to their page, which few may see."""
        return str(session.closed_by or NOT_A_USER)

    @admin.display(description=_("summary"))
    def summary_text(self, session: ChatSession) -> SafeString:
        """Return the whole summary with its line breaks, everything in it escaped."""
        if not hasattr(session, "summary"):
            lost = session.summary_status == ChatSession.SummaryStatus.LOST
            status = _LOST if lost else session.get_summary_status_display()
            return format_html("{}{}", status, _why_none(session))
        text = linebreaksbr(session.summary.text, autoescape=True)
        shown = format_html('<div class="osvi-summary">{}</div>', text)
        source = source_text(session.summary.source)
        return format_html('{}<p class="help">{}</p>', shown, source) if source else shown

    @admin.display(description=_("customer"))
    def customer_linked(self, session: ChatSession) -> SafeString:
        """Return the customer, with a link to their other sessions."""
        if not session.customer_id:
            return format_html("{}", self.get_empty_value_display())
        if session.erased_at is not None:
            return format_html("<bdi>{}</bdi>", session.customer_id)
        return format_html(
            '<bdi>{}</bdi> <a href="{}" class="osvi-look-up">{}</a>',
            session.customer_id,
            self.lookup_url(session.customer_id, session.agent.account),
            _("Look up"),
        )

    @admin.display(description=_("mode"))
    def mode_shown(self, session: ChatSession) -> str:
        """Return who answers the customer, and whether the customer needs a person."""
        words = [session.get_mode_display()]
        if session.active_human:
            words.append(f"({session.active_human})")
        if session.help_requested:
            words.append(str(_("The customer needs a person.")))
        return " ".join(words)

    @admin.display(description=_("agent"))
    def agent_named(self, session: ChatSession) -> str:
        """Return the agent without a link, for users who may not see its page."""
        return str(session.agent)

    @admin.display(description=_("summary"))
    def summary_withheld(self, session: ChatSession) -> str:
        """Return a text in place of the summary for users who may not read it."""
        return str(_("You do not have permission to read summaries."))

    def get_fieldsets(self, request: HttpRequest, obj: ChatSession | None = None) -> Any:
        """Return the facts of a session; with a host's own template, all that ours shows."""
        customer = "customer_linked" if self.has_operate_permission(request) else "customer_id"
        agent = "agent" if _may_view_agents(request) else "agent_named"
        ends = ("closed_at", "closed_by_shown", "close_reason") if _is_closed(obj) else ()
        times = ("started_at", "last_activity_at", *ends, "synced_at")
        if self.change_form_template == PAGE_TEMPLATE:
            return ((_("Facts"), {"fields": (customer, agent, *times, "session_id")}),)
        readable = may_read_summary(request.user, obj)
        facts = (customer, agent, "status_explained", "mode_shown", *times, "session_id")
        ways = ("ways_shown",) if obj is not None and self._note_ways(request, obj) else ()
        link = ("dashboard_linked",) if obj is not None and dashboard_url(obj) else ()
        return (
            (None, {"fields": ("summary_text" if readable else "summary_withheld",)}),
            (_("Facts"), {"fields": (*facts, *link, *ways)}),
        )

    @admin.display(description=_("actions"))
    def ways_shown(self, session: ChatSession) -> SafeString:
        """Return the links to actions, for pages whose template is not ours."""
        links = ((way.url, way.label) for way in getattr(session, "ways", ()))
        return format_html_join(" | ", '<a href="{}">{}</a>', links)

    def ways_of(self, request: HttpRequest, session: ChatSession) -> list[Way]:
        """Return the links from the page of a session that the user may follow."""
        ways = [*self._ways_to_close(request, session)]
        if self.change_form_template != PAGE_TEMPLATE:  # which has these on the page itself
            operates = self.has_operate_permission(request, session)
            name, label = ("desk", _("Desk")) if operates else ("thread", _("History"))
            ways.append(Way(label=label, url=self.url_to(name, session.pk)))
        return [*ways, *self.way_to_attempts(session), *self.ways_of_privacy(request, session)]

    def _note_ways(self, request: HttpRequest, session: ChatSession) -> list[Way]:
        """Return the links from this row, and store them on it for ``ways_shown``."""
        ways = self.ways_of(request, session)
        session.ways = ways  # type: ignore[attr-defined]
        return ways

    def _ways_to_close(self, request: HttpRequest, session: ChatSession) -> Iterator[Way]:
        if not self.has_close_permission(request, session):
            return
        close, mark = (self.url_to(name, session.pk) for name in ("close", "mark"))
        unconfirmed = is_unconfirmed(session)
        if session.is_open:
            yield Way(label=_("Close chat session"), url=close, is_weighty=True)
        if unconfirmed:
            yield Way(label=_TRY_AGAIN, url=close, is_weighty=True)
        if unconfirmed or is_refused(session):
            yield Way(label=_("Mark as closed"), url=mark)
        yield from self.ways_to_review(session)

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show the page of a session."""
        session = self.get_object(request, unquote(object_id))
        context = dict(extra_context or {})
        if session is not None:
            title = {"title": _title_of(session), "subtitle": None}
            context = {**title, **self.page_of(request, session), **context}
        return super().change_view(request, object_id, form_url, context)


def _withhold_summaries(request: HttpRequest, chats: Sequence[Any]) -> None:
    """Remove the summaries that the user may not read from other chats of a customer."""
    readable_keys = readable_summaries(request.user, chats)
    for each in chats:
        if each.pk not in readable_keys:
            each.summary_start = None


def _may_view_agents(request: HttpRequest) -> bool:
    """Return whether the user may see agents, as Django's admin decides."""
    has_perm = request.user.has_perm
    return has_perm("osvi_django.view_chatagent") or has_perm("osvi_django.change_chatagent")


def _is_closed(session: ChatSession | None) -> bool:
    return session is not None and session.status == ChatSession.Status.CLOSED


def _title_of(session: ChatSession) -> str:
    """Return whose chat it is."""
    if not session.customer_id:
        return str(_("Chat with %(agent)s") % {"agent": session.agent})
    names = {"customer": HiddenText(session.customer_id), "agent": session.agent}
    return HiddenText(_("%(customer)s with %(agent)s") % names)


def _explanation(session: ChatSession) -> str:
    """Return what staff should know about the status; "" if it speaks for itself."""
    if is_unconfirmed(session):
        return _unconfirmed_text(session)
    if session.status == ChatSession.Status.CLOSING:
        return str(CloseInProgress.message)
    return _refusal_text(session) if is_refused(session) else ""


def _unconfirmed_text(session: ChatSession) -> str:
    """Return why we do not know whether it is closed, and which button to press."""
    last = selectors.attempts(session).values_list("error_code", flat=True).first()
    why = UNKNOWN[OSVIBadAnswer if last == OSVIBadAnswer.code else OSVINoAnswer]
    offered = {str(way.label) for way in getattr(session, "ways", ())}
    nexts = {_TRY_AGAIN: _CHECK_NOW, REVIEW_LABEL: JUDGE}
    return " ".join([str(why), *(str(nexts[label]) for label in nexts if str(label) in offered)])


def _refusal_text(session: ChatSession) -> str:
    """Return that OSVI refused the last attempt, and its reason if it gave one."""
    reason = selectors.attempts(session).values_list("error_reason", flat=True).first()
    return str(_REFUSED_WITH_REASON) % {"reason": reason} if reason else str(_REFUSED)


def _why_none(session: ChatSession) -> SafeString:
    """Return why this site's own summary is missing; "" if this site does not write one."""
    why: str | Promise
    if session.summarizer_error:
        why = _("This site's own summary failed: %(error)s") % {"error": session.summarizer_error}
    elif session.summarized_at is None and _may_be_written(session):
        why = _("This site will write one when manage.py osvi_summarize runs.")
    else:
        return SafeString()
    return format_html('<p class="osvi-advice">{}</p>', why)


def _may_be_written(session: ChatSession) -> bool:
    return session.status == ChatSession.Status.CLOSED and has_summarizer(session.agent.account)
