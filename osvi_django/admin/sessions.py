"""Chat sessions in the admin: find, read and close them."""

from __future__ import annotations

import logging
import time
from typing import Any, Final

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.template.defaultfilters import linebreaksbr
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from osvi_django.admin.outcomes import Told, told_of_error, told_of_result
from osvi_django.admin.pagination import CappedPaginator
from osvi_django.exceptions import (
    CloseInProgress,
    NotAllowed,
    OSVIError,
    OSVINoAnswer,
    OSVINotConfigured,
)
from osvi_django.models import NOTE_MAX_LENGTH, ChatSession, CloseAttempt
from osvi_django.services import close_session
from osvi_django.services.permissions import may_close, may_read_summary
from osvi_django.transactions import non_atomic

logger = logging.getLogger(__name__)

SUMMARY_CHARACTERS: Final = 80
ID_CHARACTERS: Final = 9
EXPLAINED: Final[dict[str, Any]] = {
    ChatSession.Status.CLOSING: CloseInProgress.message,
    ChatSession.Status.UNCONFIRMED: OSVINoAnswer.message,
}


class CloseForm(forms.Form):
    """The confirmation of a close."""

    note = forms.CharField(
        label=_("Note"),
        help_text=_("Why you close it, for your colleagues. It is not sent to OSVI."),
        required=False,
        max_length=NOTE_MAX_LENGTH,
        widget=forms.Textarea(attrs={"rows": 3}),
    )


class ReadOnlyRows:
    """Rows that are mirrored or journaled: nobody adds, changes or deletes them by hand."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class CloseAttemptInline(ReadOnlyRows, admin.TabularInline):  # type: ignore[type-arg]
    """The journal of a session; whoever may see the session may see who tried to close it."""

    model = CloseAttempt
    fields = ("started_at", "requested_by", "door", "outcome", "error_reason", "note")
    extra = 0
    verbose_name_plural = _("attempts to close")

    def has_view_permission(self, request: HttpRequest, obj: ChatSession | None = None) -> bool:
        return True

    def get_queryset(self, request: HttpRequest) -> QuerySet[CloseAttempt]:
        # The answer may be a megabyte, and holds what only readers of summaries may see.
        return super().get_queryset(request).select_related("requested_by").defer("answer")


@admin.register(ChatSession)
class ChatSessionAdmin(ReadOnlyRows, admin.ModelAdmin):  # type: ignore[type-arg]
    """Sessions are mirrored, not edited: all that can be done to one here is to close it."""

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
    actions = ("close_selected",)
    selection_limit = 20
    # No further close is begun after this: many web servers give up on a page after thirty.
    selection_seconds = 20

    class Media:
        css = {"all": ("osvi_django/admin.css",)}

    def has_close_permission(self, request: HttpRequest, obj: ChatSession | None = None) -> bool:
        """Whether to offer a close; the service decides once more."""
        return may_close(request.user, obj)

    def get_urls(self) -> list[URLPattern]:
        """The admin's URLs and the close's, with those that ask OSVI outside any transaction."""
        close_view = path(
            "<path:object_id>/close/",
            self.admin_site.admin_view(self.close_view),
            name="osvi_django_chatsession_close",
        )
        urls = [close_view, *super().get_urls()]
        for pattern in urls:
            if pattern.name and pattern.name.endswith(("_close", "_changelist")):
                pattern.callback = non_atomic(pattern.callback)
        return urls

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
        explained = EXPLAINED.get(session.status)
        shown = self.status_shown(session)
        return format_html("{}<br>{}", shown, explained) if explained else shown

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
            return format_html("{}", session.get_summary_status_display())
        text = linebreaksbr(session.summary.text, autoescape=True)
        return format_html('<div class="osvi-summary">{}</div>', text)

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
        facts = ("session_id", "agent", "customer_id", "status_explained", "mode")
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
        closable = session is not None and session.is_open
        context = {
            "show_close": closable and self.has_close_permission(request, session),
            **(extra_context or {}),
        }
        return super().change_view(request, object_id, form_url, context)

    def close_view(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Ask whether to close one session (GET), and close it (POST with ``post=yes``)."""
        session = self.get_object(request, unquote(object_id))
        if not self.has_close_permission(request, session):
            raise PermissionDenied
        if session is None:
            return self._say_gone(request, object_id)
        form = CloseForm(request.POST or None)
        if request.POST.get("post") and form.is_valid():
            told = self._close(request, session, form.cleaned_data["note"])
            self.message_user(request, told.sentence, told.level)
            return HttpResponseRedirect(self._page_after_close(request, session))
        return self._confirmation(request, form, original=session)

    @admin.action(permissions=["close"], description=_("Close selected chat sessions"))
    def close_selected(
        self, request: HttpRequest, queryset: QuerySet[ChatSession]
    ) -> HttpResponseBase | None:
        """Ask whether to close the selection, and close it (POST with ``post=yes``)."""
        # One more than is allowed tells enough, however many are selected.
        sessions = list(queryset.select_related("agent")[: self.selection_limit + 1])
        if len(sessions) > self.selection_limit:
            self._say_too_many(request)
            return None
        form = CloseForm(request.POST if request.POST.get("post") else None)
        if form.is_valid():
            self._close_each(request, sessions, form.cleaned_data["note"])
            return None
        return self._confirmation(request, form, sessions=sessions)

    def _close(self, request: HttpRequest, session: ChatSession, note: str) -> Told:
        """Close one session and write Django's own history; a refusal by permission is a 403."""
        try:
            result = close_session(session, requested_by=request.user, door="admin", note=note)
        except NotAllowed as error:
            raise PermissionDenied from error
        except (OSVIError, OSVINotConfigured) as error:
            told = told_of_error(error)
        else:
            told = told_of_result(result)
        if told.tried:
            self._write_history(request, session, told)
        return told

    def _write_history(self, request: HttpRequest, session: ChatSession, told: Told) -> None:
        try:
            self.log_change(request, session, told.sentence)
        except Exception:  # the close is done, and whatever ails the history must not hide it
            logger.exception("no history entry for session %r", session.session_id)

    def _close_each(self, request: HttpRequest, sessions: list[ChatSession], note: str) -> None:
        """Close one after the other, report each failure, and count the rest."""
        ends_at = time.monotonic() + self.selection_seconds
        closed = 0
        for number, session in enumerate(sessions):
            if time.monotonic() > ends_at:
                self._say_stopped(request, len(sessions) - number)
                break
            told = self._close(request, session, note)
            if told.level in {messages.SUCCESS, messages.INFO}:
                closed += 1
            else:
                self.message_user(request, f"{session}: {told.sentence}", told.level)
        if closed:
            self._say_closed(request, closed)

    def _confirmation(self, request: HttpRequest, form: CloseForm, **rows: Any) -> TemplateResponse:
        """The page that asks about one session (``original``) or several (``sessions``)."""
        one = "original" in rows
        context = {
            **self.admin_site.each_context(request),
            "title": _("Close chat session") if one else _("Close chat sessions"),
            "opts": self.opts,
            "cl": {"opts": self.opts},  # the list's template takes its breadcrumbs from there
            "media": self.media,
            "form": form,
            "has_view_permission": self.has_view_permission(request),
            **rows,
        }
        request.current_app = self.admin_site.name
        name = "close_confirmation" if one else "close_selected_confirmation"
        return TemplateResponse(request, f"admin/osvi_django/chatsession/{name}.html", context)

    def _page_after_close(self, request: HttpRequest, session: ChatSession) -> str:
        if not self.has_view_permission(request, session):
            return reverse("admin:index", current_app=self.admin_site.name)
        return reverse(
            "admin:osvi_django_chatsession_change",
            args=[quote(session.pk)],
            current_app=self.admin_site.name,
        )

    def _say_gone(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        sentence = _("There is no chat session “%(key)s”. Perhaps it was deleted?")
        self.message_user(request, sentence % {"key": object_id}, messages.WARNING)
        return HttpResponseRedirect(reverse("admin:index", current_app=self.admin_site.name))

    def _say_too_many(self, request: HttpRequest) -> None:
        sentence = _(
            "At most %(limit)d chat sessions can be closed at a time, and none of yours was: "
            "select fewer."
        )
        self.message_user(request, sentence % {"limit": self.selection_limit}, messages.ERROR)

    def _say_stopped(self, request: HttpRequest, left: int) -> None:
        sentence = ngettext(
            "%(left)d chat session was not begun, as OSVI is slow just now: select it again.",
            "%(left)d chat sessions were not begun, as OSVI is slow just now: select them again.",
            left,
        )
        self.message_user(request, sentence % {"left": left}, messages.WARNING)

    def _say_closed(self, request: HttpRequest, closed: int) -> None:
        sentence = ngettext(
            "%(closed)d chat session is closed.", "%(closed)d chat sessions are closed.", closed
        )
        self.message_user(request, sentence % {"closed": closed}, messages.SUCCESS)
