"""Chat sessions in the admin: find and read them.

``closing.py`` closes them, ``desk.py`` operates them, ``customers.py`` looks them up.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Final

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.contrib.admin.views.main import ChangeList
from django.db.models import QuerySet
from django.db.models.functions import Left
from django.http import HttpRequest, HttpResponse
from django.template.defaultfilters import linebreaksbr
from django.utils.functional import Promise
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext_lazy as _

from osvi_django.admin.agent_choice import AgentFilter, AgentViews
from osvi_django.admin.attempts import AttemptColumns, HistoryViews, without_answers
from osvi_django.admin.badges import status_badge
from osvi_django.admin.bounded import before
from osvi_django.admin.customers import CustomerViews
from osvi_django.admin.desk import DeskViews
from osvi_django.admin.messages import JUDGE, TRY_AGAIN, UNKNOWN
from osvi_django.admin.mixins import ReadOnlyRows
from osvi_django.admin.options import Names
from osvi_django.admin.pages import Way, WaysFilter
from osvi_django.admin.pagination import CappedPaginator
from osvi_django.admin.reviewing import LABEL as REVIEW_LABEL
from osvi_django.admin.reviewing import AnswerLinked, ReviewViews, source_text
from osvi_django.exceptions import CloseInProgress, OSVIBadAnswer, OSVINoAnswer
from osvi_django.models import ChatSession, CloseAttempt
from osvi_django.services import selectors
from osvi_django.services.closing import is_unconfirmed
from osvi_django.services.permissions import may_close, may_read_summary
from osvi_django.services.recovery import is_refused
from osvi_django.services.summaries import has_summarizer

SUMMARY_CHARACTERS: Final = 80
ID_CHARACTERS: Final = 9
_TRY_AGAIN: Final = _("Try again")
_REFUSED: Final = _(
    "OSVI would not close this chat. If OSVI's dashboard shows it as closed, use “Mark as closed”."
)
_REFUSED_WITH_REASON: Final = _(
    "OSVI would not close this chat (reason: “%(reason)s”). If OSVI's dashboard shows it as "
    "closed, use “Mark as closed”."
)
_LOST: Final = _("The summary was lost: OSVI closed the chat and its answer did not reach us.")


class CloseAttemptInline(ReadOnlyRows, AttemptColumns, AnswerLinked, admin.TabularInline):  # type: ignore[type-arg]
    """The newest attempts of a session; users who may see the session may see them."""

    model = CloseAttempt
    fields = AttemptColumns.columns
    readonly_fields = ("requested_by_shown", "via_shown", "note_shown", "answer_linked")
    extra = 0
    verbose_name_plural = _("attempts to close")

    def has_view_permission(self, request: HttpRequest, obj: ChatSession | None = None) -> bool:
        return True

    def get_fields(self, request: HttpRequest, obj: ChatSession | None = None) -> Any:
        """Return the columns, with the link to an answer if the user may close."""
        return self.fields + (("answer_linked",) if may_close(request.user, obj) else ())

    def get_queryset(self, request: HttpRequest) -> QuerySet[CloseAttempt]:
        return without_answers(super().get_queryset(request))


class SessionChangeList(ChangeList):
    """The list of sessions, which reads only the fields that it shows."""

    def get_results(self, request: HttpRequest) -> None:
        if "metadata" not in self.list_display:
            self.queryset = self.queryset.defer("metadata")
        if "summary_words" in self.list_display:
            start = Left("summary__text", 2 * SUMMARY_CHARACTERS)
            self.queryset = self.queryset.annotate(summary_start=start)
        super().get_results(request)


@admin.register(ChatSession)
class ChatSessionAdmin(
    ReadOnlyRows, CustomerViews, DeskViews, ReviewViews, HistoryViews, AgentViews
):
    """Sessions are mirrored, not edited: here they are read, operated and closed."""

    list_display: Names = (
        "session_id_shown",
        "customer_id",
        "status_shown",
        "summary_words",
        "agent",
        "mode",
        "started_at",
    )
    list_filter: ClassVar[Names] = ("status", "summary_status", "mode", AgentFilter)
    list_select_related = ("agent",)
    list_per_page = 50
    search_fields: ClassVar[Names] = (
        "session_id__startswith",
        "customer_id__startswith",
    )
    search_help_text = _(
        "Search by the beginning of a phone number, with its +, or of a session id."
    )
    # Counting the whole table becomes slower with every row.
    show_full_result_count = False
    paginator = CappedPaginator
    inlines: ClassVar[Names] = (CloseAttemptInline,)
    actions: Names | None = ("close_selected", "recover_selected")
    # By name, so that a proxy of the model has them too.
    change_form_template = "admin/osvi_django/chatsession/change_form.html"
    change_list_template = "admin/osvi_django/chatsession/change_list.html"
    object_history_template = "admin/osvi_django/chatsession/object_history.html"

    class Media:
        css = {"all": ("osvi_django/admin.css",)}

    @admin.display(description=_("session id"), ordering="session_id")
    def session_id_shown(self, session: ChatSession) -> SafeString:
        """Return the start of the id, with the whole id as a tooltip."""
        short = Truncator(session.session_id).chars(ID_CHARACTERS)
        return format_html('<span title="{}">{}</span>', session.session_id, short)

    @admin.display(description=_("status"), ordering="status")
    def status_shown(self, session: ChatSession) -> SafeString:
        """Return the status in its own colour."""
        return status_badge(session)

    @admin.display(description=_("status"))
    def status_explained(self, session: ChatSession) -> SafeString:
        """Return the status, with an explanation if it needs one."""
        shown = self.status_shown(session)
        if is_unconfirmed(session):
            return format_html("{}<br>{}", shown, _unconfirmed_text(session))
        if session.status == ChatSession.Status.CLOSING:
            return format_html("{}<br>{}", shown, CloseInProgress.message)
        if is_refused(session):
            return format_html("{}<br>{}", shown, _refusal_text(session))
        return shown

    @admin.display(description=_("summary"))
    def summary_words(self, session: ChatSession) -> str:
        """Return the summary's first words, or why there is none."""
        if hasattr(session, "summary_start"):  # in the list, which reads no more of it
            start = session.summary_start
        else:
            start = session.summary.text if hasattr(session, "summary") else None
        return Truncator(start).chars(SUMMARY_CHARACTERS) if start else _none_of(session)

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
        return format_html(
            '{} <a href="{}" class="osvi-look-up">{}</a>',
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

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return before(super().get_changelist(request, **kwargs), SessionChangeList)

    def get_list_display(self, request: HttpRequest) -> Names:
        """Return the columns, without the summary if the user may not read it."""
        if may_read_summary(request.user):
            return self.list_display
        return tuple(name for name in self.list_display if name != "summary_words")

    def get_sortable_by(self, request: HttpRequest) -> Any:
        """Return all columns but the agent: sorting by another table would sort all sessions."""
        names = super().get_sortable_by(request)
        if self.sortable_by is not None:
            return names
        return [name for name in names if name != "agent"]

    def get_fieldsets(self, request: HttpRequest, obj: ChatSession | None = None) -> Any:
        """Return the fields of a session, without the summary if the user may not read it."""
        readable = may_read_summary(request.user, obj)
        customer = "customer_linked" if self.has_operate_permission(request) else "customer_id"
        agent = "agent" if _may_view_agents(request) else "agent_named"
        facts = ("session_id", agent, customer, "status_explained", "mode_shown")
        times = ("started_at", "closed_at")
        ways = ("ways_shown",) if obj is not None and self._note_ways(request, obj) else ()
        return (
            (None, {"fields": ("summary_text" if readable else "summary_withheld",)}),
            # Last, as our own template has the same links at the top.
            (_("Session"), {"fields": facts + times + ways}),
        )

    @admin.display(description=_("actions"))
    def ways_shown(self, session: ChatSession) -> SafeString:
        """Return the links to actions, for pages whose template is not ours."""
        links = ((way.url, way.label) for way in getattr(session, "ways", ()))
        return format_html_join(" | ", '<a href="{}">{}</a>', links)

    def ways_of(self, request: HttpRequest, session: ChatSession) -> list[Way]:
        """Return the links from the page of a session that the user may follow."""
        ways = [*self._ways_to_close(request, session)]
        if self.has_operate_permission(request, session):
            ways.append(Way(label=_("Desk"), url=self.url_to("desk", session.pk)))
        else:
            ways.append(Way(label=_("Activity"), url=self.url_to("thread", session.pk)))
        return [*ways, *self.way_to_attempts(session)]

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
        """Show the page of a session, with links to its actions."""
        session = self.get_object(request, unquote(object_id))
        context = dict(extra_context or {})
        if session is not None:
            ways = self._note_ways(request, session)
            context = {"ways": ways, **self.desk_of(request, session), **context}
        return super().change_view(request, object_id, form_url, context)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the list, with links to look up and start sessions."""
        context = {"ways": self.ways_of_list(request), **(extra_context or {})}
        return super().changelist_view(request, context)

    def get_list_filter(self, request: HttpRequest) -> Any:
        """Return the filters; with a host's own list template, they include the links."""
        filters = super().get_list_filter(request)
        is_ours = self.change_list_template == ChatSessionAdmin.change_list_template
        return filters if is_ours else (*filters, WaysFilter)

    def ways_of_list(self, request: HttpRequest) -> list[Way]:
        """Return the links from the list that the user may follow."""
        if not self.has_operate_permission(request):
            return []
        return [
            Way(label=_("Look up a customer"), url=self.url_to("lookup")),
            Way(label=_("Start a chat session"), url=self.url_to("start")),
        ]


def _none_of(session: ChatSession) -> str:
    return session.get_summary_status_display()


def _may_view_agents(request: HttpRequest) -> bool:
    """Return whether the user may see agents, as Django's admin decides."""
    has_perm = request.user.has_perm
    return has_perm("osvi_django.view_chatagent") or has_perm("osvi_django.change_chatagent")


def _unconfirmed_text(session: ChatSession) -> str:
    """Return why we do not know whether it is closed, and which button to press."""
    last = selectors.attempts(session).values_list("error_code", flat=True).first()
    why = UNKNOWN[OSVIBadAnswer if last == OSVIBadAnswer.code else OSVINoAnswer]
    offered = {str(way.label) for way in getattr(session, "ways", ())}
    nexts = {_TRY_AGAIN: TRY_AGAIN, REVIEW_LABEL: JUDGE}
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
