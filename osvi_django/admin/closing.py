"""Closing sessions in the admin: ask, do it outside any transaction, and say what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import BooleanField, ExpressionWrapper, Q, QuerySet
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from osvi_django.admin.asking import AskingViews
from osvi_django.admin.forms import CloseForm, MarkForm
from osvi_django.admin.outcomes import (
    Told,
    told_of_error,
    told_of_marking,
    told_of_recovery,
    told_of_result,
)
from osvi_django.admin.rows import url_of, write_history
from osvi_django.conf import Account, InvalidSetting
from osvi_django.exceptions import InvalidInput, NotAllowed, OSVIError, OSVINotConfigured
from osvi_django.models import ChatSession
from osvi_django.services import close_session
from osvi_django.services.jobs import create_close_job, discard_drafts
from osvi_django.services.permissions import may_close
from osvi_django.services.recovery import close_again, mark_closed, recover_session
from osvi_django.services.steps import DatabaseNow
from osvi_django.services.summaries import has_summarizer

Act = Callable[[HttpRequest, ChatSession, str], Told]


def is_unconfirmed(session: ChatSession) -> bool:
    """Whether nobody knows if it is closed: no answer came, or its closer did not come back."""
    lease_over = getattr(session, "lease_over", False)  # by the database's clock
    return session.status == ChatSession.Status.UNCONFIRMED or lease_over


class CloseViews(AskingViews):
    """The views and actions of ``ChatSessionAdmin`` that ask OSVI for something."""

    # Of those that OSVI is asked about while the page is awaited.
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

    def own_urls(self) -> list[URLPattern]:
        """Those that close one session, beside whatever else there is."""
        return [
            self._path("<path:object_id>/close", self.close_view),
            self._path("<path:object_id>/mark", self.mark_view),
            *super().own_urls(),
        ]

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
        """Draft a job of the selection, however large, and lead to the page that asks for it."""
        if not queryset.exists():
            self._say_none(request)
            return None
        discard_drafts()
        try:
            job = create_close_job(queryset, requested_by=request.user, door="admin", draft=True)
        except (NotAllowed, InvalidInput) as error:
            self.message_user(request, str(error), messages.ERROR)
            return None
        question = url_of(self, "closejob_confirm", job)
        filters = self.get_preserved_filters(request)  # so that its way back leads to this list
        return HttpResponseRedirect(f"{question}?{filters}" if filters else question)

    @admin.action(permissions=["close"], description=_("Ask OSVI about selected chat sessions"))
    def recover_selected(
        self, request: HttpRequest, queryset: QuerySet[ChatSession]
    ) -> HttpResponseBase | None:
        """Ask whether to settle the unconfirmed of the selection, and do (POST with ``post``)."""
        # One more than is allowed tells enough, however many are selected.
        sessions = list(queryset.select_related("agent")[: self.selection_limit + 1])
        if len(sessions) > self.selection_limit:
            self._say_too_many(request)
        elif not sessions:
            self._say_none(request)
        elif request.POST.get("post"):
            self._recover_each(request, sessions)
        else:
            title = _("Ask OSVI about chat sessions")
            return self._page(
                request, "recover_selected_confirmation", title=title, sessions=sessions
            )
        return None

    def _ask_and_do(
        self, request: HttpRequest, object_id: str, form_class: type[CloseForm], act: Act
    ) -> HttpResponseBase:
        session = self.get_object(request, unquote(object_id))
        if not self.has_close_permission(request, session):
            raise PermissionDenied
        if session is None:
            return self._say_gone(request, object_id)
        form = form_class(request.POST if request.POST.get("post") else None)
        if form.is_valid():
            told = self._do(request, session, form.cleaned_data["note"], act)
            self.message_user(request, told.sentence, told.level)
            return HttpResponseRedirect(self._page_after(request, session))
        return self._confirmation(request, form, session)

    def _recover_each(self, request: HttpRequest, sessions: Sequence[ChatSession]) -> None:
        """One after the other: report each that is left as it was, and count the rest."""
        ends_at = time.monotonic() + self.selection_seconds
        settled = 0
        for number, session in enumerate(sessions):
            if time.monotonic() > ends_at:
                self._say_stopped(request, len(sessions) - number)
                break
            told = self._do(request, session, "", self._recover)
            if told.level == messages.SUCCESS:
                settled += 1
            else:
                self.message_user(request, f"{session}: {told.sentence}", told.level)
        if settled:
            self._say_settled(request, settled)

    def _do(self, request: HttpRequest, session: ChatSession, note: str, act: Act) -> Told:
        """Ask a service and write Django's own history; a refusal by permission is a 403."""
        try:
            told = act(request, session, note)
        except NotAllowed as error:
            raise PermissionDenied from error
        except (OSVIError, OSVINotConfigured) as error:
            told = told_of_error(error)
        if told.tried:
            write_history(self, request, session, told.sentence)
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

    def _confirmation(
        self, request: HttpRequest, form: CloseForm, session: ChatSession
    ) -> TemplateResponse:
        marking = isinstance(form, MarkForm)
        return self._page(
            request,
            "close_confirmation",
            title=_("Mark chat session as closed") if marking else _("Close chat session"),
            form=form,
            marking=marking,
            again=is_unconfirmed(session),
            original=session,
            of_summary=_of_summary(session.agent.account),
        )

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

    def _say_settled(self, request: HttpRequest, settled: int) -> None:
        sentence = ngettext(
            "%(settled)d chat session is settled.",
            "%(settled)d chat sessions are settled.",
            settled,
        )
        self.message_user(request, sentence % {"settled": settled}, messages.SUCCESS)


def _of_summary(account: str) -> Promise:
    """Where the summary comes from when a session of this account is closed, if there is one."""
    try:
        comes_from_osvi = Account(account).close_with == "legacy"
    except InvalidSetting:  # of which the close tells
        comes_from_osvi = True
    if comes_from_osvi:
        return _(
            "OSVI's AI then writes the summary, which may take some seconds: please wait for the "
            "page."
        )
    if has_summarizer(account):
        return _(
            "Where OSVI has no summary of it, this site then writes one, which may take some "
            "seconds: please wait for the page."
        )
    return _("A summary comes with it only where OSVI has one already.")
