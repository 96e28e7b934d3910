"""Closing sessions in the admin: ask, do it outside any transaction, and say what came of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import PermissionDenied
from django.db.models import BooleanField, ExpressionWrapper, Q, QuerySet
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from osvi_django.admin.outcomes import (
    Told,
    told_of_error,
    told_of_marking,
    told_of_recovery,
    told_of_result,
)
from osvi_django.exceptions import NotAllowed, OSVIError, OSVINotConfigured
from osvi_django.models import NOTE_MAX_LENGTH, ChatSession
from osvi_django.services import close_session
from osvi_django.services.permissions import may_close
from osvi_django.services.recovery import close_again, mark_closed, recover_session
from osvi_django.services.steps import DatabaseNow
from osvi_django.transactions import non_atomic

logger = logging.getLogger(__name__)

Act = Callable[[HttpRequest, ChatSession, str], Told]

# The views that ask OSVI, by the ends of their names.
_ASKING: Final = ("_close", "_mark", "_changelist")


class CloseForm(forms.Form):
    """The confirmation of a close."""

    note = forms.CharField(
        label=_("Note (optional)"),
        help_text=_("Why you close it, for your colleagues. It is not sent to OSVI."),
        required=False,
        max_length=NOTE_MAX_LENGTH,
        widget=forms.Textarea(attrs={"rows": 3}),
    )


class MarkForm(CloseForm):
    """The confirmation that a session is closed at OSVI, by the word of whoever looked."""

    note = forms.CharField(
        label=_("Note"),
        help_text=_("How you know that it is closed, for your colleagues."),
        max_length=NOTE_MAX_LENGTH,
        widget=forms.Textarea(attrs={"rows": 3}),
    )


class RecoverForm(forms.Form):
    """The confirmation of a recovery, which takes no note."""


def is_unconfirmed(session: ChatSession) -> bool:
    """Whether nobody knows if it is closed: no answer came, or its closer did not come back."""
    lease_over = getattr(session, "lease_over", False)  # by the database's clock
    return session.status == ChatSession.Status.UNCONFIRMED or lease_over


class CloseViews(admin.ModelAdmin):  # type: ignore[type-arg]  # no generic at run time
    """The views and actions of ``ChatSessionAdmin`` that ask OSVI for something."""

    selection_limit = 20
    # No further session is begun after this: many web servers give up on a page after thirty.
    selection_seconds = 20

    def has_close_permission(self, request: HttpRequest, obj: ChatSession | None = None) -> bool:
        """Whether to offer a close; the service decides once more."""
        return may_close(request.user, obj)

    def get_queryset(self, request: HttpRequest) -> QuerySet[ChatSession]:
        """The sessions, and of each that is being closed whether its closer did not come back."""
        over = Q(status=ChatSession.Status.CLOSING, lease_until__lt=DatabaseNow())
        lease_over = ExpressionWrapper(over, output_field=BooleanField())
        sessions: QuerySet[ChatSession] = super().get_queryset(request)
        return sessions.annotate(lease_over=lease_over)

    def get_urls(self) -> list[URLPattern]:
        """The admin's URLs and ours, with those that ask OSVI outside any transaction."""
        urls = [self._path("close", self.close_view), self._path("mark", self.mark_view)]
        urls += super().get_urls()
        for pattern in urls:
            if pattern.name and pattern.name.endswith(_ASKING):
                pattern.callback = non_atomic(pattern.callback)
        return urls

    def close_view(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Ask whether to close one session (GET), and close it (POST with ``post=yes``)."""
        return self._ask_and_do(request, object_id, CloseForm, self._close)

    def mark_view(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Ask how it is known that a session is closed (GET), and mark it so (POST)."""
        return self._ask_and_do(request, object_id, MarkForm, self._mark)

    @admin.action(permissions=["close"], description=_("Close selected chat sessions"))
    def close_selected(
        self, request: HttpRequest, queryset: QuerySet[ChatSession]
    ) -> HttpResponseBase | None:
        """Ask whether to close the selection, and close it (POST with ``post=yes``)."""
        return self._ask_and_do_each(request, queryset, CloseForm, self._close)

    @admin.action(permissions=["close"], description=_("Ask OSVI about selected chat sessions"))
    def recover_selected(
        self, request: HttpRequest, queryset: QuerySet[ChatSession]
    ) -> HttpResponseBase | None:
        """Ask whether to settle the unconfirmed of the selection, and do (POST)."""
        return self._ask_and_do_each(request, queryset, RecoverForm, self._recover)

    def _ask_and_do(
        self, request: HttpRequest, object_id: str, form_class: type[forms.Form], act: Act
    ) -> HttpResponseBase:
        session = self.get_object(request, unquote(object_id))
        if not self.has_close_permission(request, session):
            raise PermissionDenied
        if session is None:
            return self._say_gone(request, object_id)
        form = _form_of(request, form_class)
        if form.is_valid():
            told = self._do(request, session, form, act)
            self.message_user(request, told.sentence, told.level)
            return HttpResponseRedirect(self._page_after(request, session))
        return self._confirmation(request, form, original=session)

    def _ask_and_do_each(
        self,
        request: HttpRequest,
        queryset: QuerySet[ChatSession],
        form_class: type[forms.Form],
        act: Act,
    ) -> HttpResponseBase | None:
        # One more than is allowed tells enough, however many are selected.
        sessions = list(queryset.select_related("agent")[: self.selection_limit + 1])
        if len(sessions) > self.selection_limit:
            self._say_too_many(request)
            return None
        if not sessions:
            self._say_none(request)
            return None
        form = _form_of(request, form_class)
        if form.is_valid():
            self._do_each(request, sessions, form, act)
            return None
        return self._confirmation(request, form, sessions=sessions)

    def _do_each(
        self, request: HttpRequest, sessions: list[ChatSession], form: forms.Form, act: Act
    ) -> None:
        """One after the other: report each failure, and count the rest."""
        ends_at = time.monotonic() + self.selection_seconds
        done = 0
        for number, session in enumerate(sessions):
            if time.monotonic() > ends_at:
                self._say_stopped(request, len(sessions) - number)
                break
            told = self._do(request, session, form, act)
            if told.level in {messages.SUCCESS, messages.INFO}:
                done += 1
            else:
                self.message_user(request, f"{session}: {told.sentence}", told.level)
        if done:
            self._say_done(request, done, act)

    def _do(self, request: HttpRequest, session: ChatSession, form: forms.Form, act: Act) -> Told:
        """Ask a service and write Django's own history; a refusal by permission is a 403."""
        try:
            told = act(request, session, form.cleaned_data.get("note", ""))
        except NotAllowed as error:
            raise PermissionDenied from error
        except (OSVIError, OSVINotConfigured) as error:
            told = told_of_error(error)
        if told.tried:
            self._write_history(request, session, told)
        return told

    def _close(self, request: HttpRequest, session: ChatSession, note: str) -> Told:
        # Of one that nobody knows about, OSVI is asked before anything is sent a second time.
        close = close_again if is_unconfirmed(session) else close_session
        result = close(session, requested_by=request.user, door="admin", note=note)
        return told_of_result(result)

    def _mark(self, request: HttpRequest, session: ChatSession, note: str) -> Told:
        mark_closed(session, requested_by=request.user, door="admin", note=note)
        return told_of_marking(note)

    def _recover(self, request: HttpRequest, session: ChatSession, _note: str) -> Told:
        return told_of_recovery(recover_session(session, requested_by=request.user, door="admin"))

    def _write_history(self, request: HttpRequest, session: ChatSession, told: Told) -> None:
        try:
            self.log_change(request, session, told.sentence)
        except Exception:  # the close is done, and whatever ails the history must not hide it
            logger.exception("no history entry for session %r", session.session_id)

    def _confirmation(
        self, request: HttpRequest, form: forms.Form, **rows: Any
    ) -> TemplateResponse:
        """The page that asks about one session (``original``) or several (``sessions``)."""
        session = rows.get("original")
        marking, recovering = isinstance(form, MarkForm), isinstance(form, RecoverForm)
        context = {
            **self.admin_site.each_context(request),
            "title": _title(one=session is not None, marking=marking, recovering=recovering),
            "opts": self.opts,
            "cl": {"opts": self.opts},  # the list's template takes its breadcrumbs from there
            "media": self.media,
            "form": form,
            "marking": marking,
            "recovering": recovering,
            "again": session is not None and is_unconfirmed(session),
            "has_view_permission": self.has_view_permission(request),
            **rows,
        }
        request.current_app = self.admin_site.name
        name = "close_selected_confirmation" if session is None else "close_confirmation"
        return TemplateResponse(request, f"admin/osvi_django/chatsession/{name}.html", context)

    def _path(self, name: str, view: Callable[..., HttpResponseBase]) -> URLPattern:
        return path(
            f"<path:object_id>/{name}/",
            self.admin_site.admin_view(view),
            name=f"{self.opts.app_label}_{self.opts.model_name}_{name}",
        )

    def _page_after(self, request: HttpRequest, session: ChatSession) -> str:
        if not self.has_view_permission(request, session):
            return reverse("admin:index", current_app=self.admin_site.name)
        return reverse(
            f"admin:{self.opts.app_label}_{self.opts.model_name}_change",
            args=[quote(session.pk)],
            current_app=self.admin_site.name,
        )

    def _say_gone(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        sentence = _("There is no chat session “%(key)s”. Perhaps it was deleted?")
        self.message_user(request, sentence % {"key": object_id}, messages.WARNING)
        return HttpResponseRedirect(reverse("admin:index", current_app=self.admin_site.name))

    def _say_none(self, request: HttpRequest) -> None:
        sentence = _("None of the chat sessions that you chose is in this list any more.")
        self.message_user(request, sentence, messages.WARNING)

    def _say_too_many(self, request: HttpRequest) -> None:
        sentence = _(
            "At most %(limit)d chat sessions can be chosen at a time, and none of yours was "
            "touched: select fewer."
        )
        self.message_user(request, sentence % {"limit": self.selection_limit}, messages.ERROR)

    def _say_stopped(self, request: HttpRequest, left: int) -> None:
        sentence = ngettext(
            "%(left)d chat session was not begun, as OSVI is slow just now: select it again.",
            "%(left)d chat sessions were not begun, as OSVI is slow just now: select them again.",
            left,
        )
        self.message_user(request, sentence % {"left": left}, messages.WARNING)

    def _say_done(self, request: HttpRequest, done: int, act: Act) -> None:
        closed = ngettext(
            "%(done)d chat session is closed.", "%(done)d chat sessions are closed.", done
        )
        settled = ngettext(
            "%(done)d chat session is settled.", "%(done)d chat sessions are settled.", done
        )
        sentence = settled if act == self._recover else closed
        self.message_user(request, sentence % {"done": done}, messages.SUCCESS)


def _form_of(request: HttpRequest, form_class: type[forms.Form]) -> forms.Form:
    """The form as it was sent, where it was sent to confirm; else an empty one."""
    return form_class(request.POST if request.POST.get("post") else None)


def _title(*, one: bool, marking: bool, recovering: bool) -> Any:
    if marking:
        return _("Mark chat session as closed")
    if recovering:
        return _("Ask OSVI about chat sessions")
    return _("Close chat session") if one else _("Close chat sessions")
