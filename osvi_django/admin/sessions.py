"""Chat sessions in the admin: find and read them.

``closing.py`` closes them, ``desk.py`` operates them, ``customers.py`` brings them here.
"""

from __future__ import annotations

from typing import Any, Final

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.defaultfilters import linebreaksbr
from django.utils.functional import Promise
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext_lazy as _

from osvi_django.admin.closing import CloseViews, is_unconfirmed
from osvi_django.admin.customers import CustomerViews
from osvi_django.admin.desk import DeskViews
from osvi_django.admin.doors import DoorShown
from osvi_django.admin.forms import DeskForm
from osvi_django.admin.pagination import CappedPaginator
from osvi_django.admin.rows import ReadOnlyRows
from osvi_django.exceptions import CloseInProgress, OSVIBadAnswer, OSVINoAnswer
from osvi_django.models import ChatSession, CloseAttempt, SessionSummary
from osvi_django.services.permissions import may_read_summary
from osvi_django.services.recovery import is_refused
from osvi_django.services.summaries import has_summarizer

SUMMARY_CHARACTERS: Final = 80
ID_CHARACTERS: Final = 9
_REFUSED: Final = _(
    "OSVI refused to close it: the last attempt below says why. Should OSVI's dashboard show it as "
    "closed, it can be marked as closed here."
)


class CloseAttemptInline(ReadOnlyRows, DoorShown, admin.TabularInline):  # type: ignore[type-arg]
    """The journal of a session; whoever may see the session may see who tried to close it."""

    model = CloseAttempt
    fields = ("started_at", "kind", "asker", "door_shown", "outcome", "error_reason", "note")
    readonly_fields = ("asker", "door_shown")
    extra = 0
    verbose_name_plural = _("attempts to close")

    def has_view_permission(self, request: HttpRequest, obj: ChatSession | None = None) -> bool:
        return True

    def get_queryset(self, request: HttpRequest) -> QuerySet[CloseAttempt]:
        # The answer may be a megabyte, and holds what only readers of summaries may see.
        return super().get_queryset(request).select_related("requested_by").defer("answer")

    @admin.display(description=_("requested by"))
    def asker(self, attempt: CloseAttempt) -> str | None:
        """Who it was, without a way to their page, which few may see."""
        return str(attempt.requested_by) if attempt.requested_by else None


@admin.register(ChatSession)
class ChatSessionAdmin(ReadOnlyRows, CustomerViews, DeskViews, CloseViews):
    """Sessions are mirrored, not edited: here they are read, operated and closed."""

    list_display = (
        "session_id_shown",
        "customer_id",
        "status_shown",
        "summary_words",
        "agent",
        "mode",
        "started_at",
    )
    list_filter = ("status", "summary_status", "mode", "agent")
    list_select_related = ("agent", "summary")
    list_per_page = 50
    search_fields = ("session_id__startswith", "customer_id__startswith")
    search_help_text = _("A session id or a customer, or how it begins.")
    # Work that grows with the table: counting it whole.
    show_full_result_count = False
    paginator = CappedPaginator
    inlines = (CloseAttemptInline,)
    actions = ("close_selected", "recover_selected")

    class Media:
        css = {"all": ("osvi_django/admin.css",)}

    @admin.display(description=_("session id"), ordering="session_id")
    def session_id_shown(self, session: ChatSession) -> SafeString:
        """As much of the id as tells sessions apart, and the whole of it at a second look."""
        short = Truncator(session.session_id).chars(ID_CHARACTERS)
        return format_html('<span title="{}">{}</span>', session.session_id, short)

    @admin.display(description=_("status"), ordering="status")
    def status_shown(self, session: ChatSession) -> SafeString:
        """The status in its own colour."""
        return format_html(
            '<span class="osvi-status osvi-status-{}">{}</span>',
            session.status,
            session.get_status_display(),
        )

    @admin.display(description=_("status"))
    def status_explained(self, session: ChatSession) -> SafeString:
        """The status, and what it means where that needs saying."""
        shown = self.status_shown(session)
        if is_unconfirmed(session):
            return format_html("{}<br>{}", shown, _why_unconfirmed(session))
        if session.status == ChatSession.Status.CLOSING:
            return format_html("{}<br>{}", shown, CloseInProgress.message)
        if is_refused(session):
            return format_html("{}<br>{}", shown, _REFUSED)
        return shown

    @admin.display(description=_("summary"))
    def summary_words(self, session: ChatSession) -> str:
        """The summary's first words, or why there is none."""
        if not hasattr(session, "summary"):
            return session.get_summary_status_display()
        return Truncator(session.summary.text).chars(SUMMARY_CHARACTERS)

    @admin.display(description=_("summary"))
    def summary_text(self, session: ChatSession) -> SafeString:
        """The whole summary with its line breaks, everything in it escaped."""
        if not hasattr(session, "summary"):
            return format_html("{}{}", session.get_summary_status_display(), _why_none(session))
        text = linebreaksbr(session.summary.text, autoescape=True)
        shown = format_html('<div class="osvi-summary">{}</div>', text)
        if session.summary.source == SessionSummary.Source.OSVI:
            return shown
        by_us = _("Written by this site, as OSVI provided none.")
        return format_html('{}<p class="help">{}</p>', shown, by_us)

    @admin.display(description=_("customer"))
    def customer_linked(self, session: ChatSession) -> SafeString:
        """The customer, and the way to whatever else they have open."""
        if not session.customer_id:
            return format_html("{}", self.get_empty_value_display())
        return format_html(
            '{} <a href="{}" class="osvi-look-up">{}</a>',
            session.customer_id,
            self.lookup_url(session.customer_id, session.agent.account),
            _("Look up"),
        )

    @admin.display(description=_("mode"))
    def mode_shown(self, session: ChatSession) -> str:
        """Who answers the customer, and whether somebody is called for."""
        words = [session.get_mode_display()]
        if session.active_human:
            words.append(f"({session.active_human})")
        if session.help_requested:
            words.append(str(_("Help is requested.")))
        return " ".join(words)

    @admin.display(description=_("agent"))
    def agent_named(self, session: ChatSession) -> str:
        """The agent without the way to its page, for those who may not see that."""
        return str(session.agent)

    @admin.display(description=_("summary"))
    def summary_withheld(self, session: ChatSession) -> str:
        """What stands in place of the summary for those who may not read it."""
        return str(_("You do not have the permission to read summaries."))

    def get_list_display(self, request: HttpRequest) -> tuple[Any, ...]:
        """The columns, without the summary's words for those who may not read them."""
        if may_read_summary(request.user):
            return self.list_display
        return tuple(name for name in self.list_display if name != "summary_words")

    def get_fieldsets(self, request: HttpRequest, obj: ChatSession | None = None) -> Any:
        """The facts of a session, its summary withheld from those who may not read it."""
        readable = may_read_summary(request.user, obj)
        customer = "customer_linked" if self.has_operate_permission(request) else "customer_id"
        agent = "agent" if _may_view_agents(request) else "agent_named"
        facts = ("session_id", agent, customer, "status_explained", "mode_shown")
        times = ("started_at", "closed_at")
        return (
            (None, {"fields": ("summary_text" if readable else "summary_withheld",)}),
            (_("Session"), {"fields": facts + times}),
        )

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """The page of a session, with a button to close it where that can be done."""
        session = self.get_object(request, unquote(object_id))
        buttons: dict[str, Any] = {}
        if session is not None and self.has_close_permission(request, session):
            unconfirmed = is_unconfirmed(session)
            buttons = {
                "show_close": session.is_open,
                "show_try_again": unconfirmed,
                "show_mark": unconfirmed or is_refused(session),
            }
        if session is not None:
            buttons |= self.desk_of(request, session, DeskForm())
        context = {**buttons, **(extra_context or {})}
        return super().change_view(request, object_id, form_url, context)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The list, with the ways to sessions that are not here yet."""
        context = {"show_operate": self.has_operate_permission(request), **(extra_context or {})}
        return super().changelist_view(request, context)


def _may_view_agents(request: HttpRequest) -> bool:
    """As Django's admin decides it."""
    has_perm = request.user.has_perm
    return has_perm("osvi_django.view_chatagent") or has_perm("osvi_django.change_chatagent")


def _why_unconfirmed(session: ChatSession) -> str | Promise:
    last = session.attempts.values_list("error_code", flat=True).first()
    return OSVIBadAnswer.message if last == OSVIBadAnswer.code else OSVINoAnswer.message


def _why_none(session: ChatSession) -> SafeString:
    """What became of this site's own try to write a summary; "" where it is not to make one."""
    why: str | Promise
    if session.summarizer_error:
        why = _("This site's summarizer failed: %(error)s") % {"error": session.summarizer_error}
    elif session.summarized_at is None and _is_ours_to_write(session):
        why = _("This site has yet to write one: that is for manage.py osvi_summarize.")
    else:
        return SafeString()
    return format_html('<p class="osvi-advice">{}</p>', why)


def _is_ours_to_write(session: ChatSession) -> bool:
    return session.status == ChatSession.Status.CLOSED and has_summarizer(session.agent.account)
