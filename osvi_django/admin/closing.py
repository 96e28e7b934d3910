"""Close sessions in the admin: ask, act outside any transaction, and report the result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from osvi_django import clock
from osvi_django.admin.base import OSVIViews
from osvi_django.admin.bounded import is_key
from osvi_django.admin.composer import turn_of
from osvi_django.admin.deletion import redirect_to_itself
from osvi_django.admin.forms import CloseForm, MarkForm
from osvi_django.admin.jobs import CloseJobAdmin
from osvi_django.admin.kept import Kept, drop, keep, keep_words, posted, take
from osvi_django.admin.messages import (
    StaffMessage,
    message_for_error,
    message_for_marking,
    message_for_recovery,
    message_for_result,
    message_for_selection,
)
from osvi_django.admin.mixins import write_history
from osvi_django.admin.pages import admin_of, is_after_login, posted_context
from osvi_django.admin.selection import selection_of
from osvi_django.conf import Account, InvalidSetting
from osvi_django.exceptions import InvalidInput, NotAllowed, OSVIError, OSVINotConfigured
from osvi_django.models import ChatSession, CloseJob
from osvi_django.redaction import HiddenText
from osvi_django.services import close_session
from osvi_django.services.access import sessions_inside
from osvi_django.services.closing import is_unconfirmed, with_lease_expired
from osvi_django.services.jobs import create_close_job
from osvi_django.services.jobs.lifecycle import delete_stale_drafts
from osvi_django.services.permissions import may_close, purpose_of
from osvi_django.services.recovery import Settled, mark_closed, recover_session
from osvi_django.services.selectors import load_relations
from osvi_django.services.summaries import has_summarizer

Act = Callable[[HttpRequest, ChatSession, Mapping[str, str]], StaffMessage]

_CLOSED_ALREADY: Final = _("This chat session is already closed. Nothing was sent.")
# After these, *Close and next* leads to the next session.
_SETTLED: Final = (messages.SUCCESS, messages.INFO)
# The form of each page, by the end of its URL.
_FORMS: Final[Mapping[str, type[CloseForm]]] = {"close": CloseForm, "mark": MarkForm}


class CloseViews(OSVIViews):
    """The views and actions of ``ChatSessionAdmin`` that close or check sessions."""

    # How many sessions one page may check with OSVI.
    selection_limit = 20
    # No further session is checked after this: many web servers stop a page after 30 seconds.
    selection_seconds = 20

    def has_close_permission(self, request: HttpRequest, obj: ChatSession | None = None) -> bool:
        """Return whether to offer a close; the service checks again."""
        return may_close(request.user, obj)

    def has_close_many_permission(self, request: HttpRequest) -> bool:
        """Return whether a selection can be closed: this site then has the pages of its job."""
        return self._job_admin is not None and self.has_close_permission(request)

    def get_queryset(self, request: HttpRequest) -> QuerySet[ChatSession]:
        """Return the sessions inside the user's access.

        For each is also known whether the lease of its close has ended.
        """
        user, rows = request.user, super().get_queryset(request)
        return with_lease_expired(sessions_inside(rows, user, purpose_of(user)))

    def get_object(self, *args: Any, **kwargs: Any) -> ChatSession | None:
        """Return the session with its agent and summary, from the database they are written to."""
        session: ChatSession | None = super().get_object(*args, **kwargs)
        if session is not None:
            load_relations(session)
        return session

    def own_urls(self) -> list[URLPattern]:
        """Return the URLs of these views and of the base classes."""
        return [
            self._path("<path:object_id>/close", self.close_view),
            self._path("<path:object_id>/mark", self.mark_view),
            self._path("recover", self.recover_view),
            *super().own_urls(),
        ]

    def close_view(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Ask whether to close one session (GET), and close it (POST with ``post=yes``)."""
        return self._ask_and_do(request, object_id, "close", self._close)

    def mark_view(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Ask how the user knows that a session is closed (GET), and mark it as closed (POST)."""
        return self._ask_and_do(request, object_id, "mark", self._mark)

    def recover_view(self, request: HttpRequest) -> HttpResponseBase:
        """Ask whether to settle the selected sessions; the list's own action does it."""
        if not self.has_close_permission(request):
            raise PermissionDenied
        keys = take(request, self._key_of("recover")).typed.get("keys", "").split()
        sessions = self.get_queryset(request).filter(pk__in=keys).select_related("agent")
        title = _("Check chat sessions with OSVI")
        template = "chatsession/recover_selected_confirmation.html"
        back = self.list_url(request)
        return self._page(request, template, title=title, sessions=sessions, back=back)

    @admin.action(permissions=["close_many"], description=_("Close selected chat sessions"))
    def close_selected(
        self, request: HttpRequest, queryset: QuerySet[ChatSession]
    ) -> HttpResponseBase | None:
        """Create a draft job of the selection, of any size, and redirect to its confirmation."""
        if not queryset.exists():
            self._say_none(request)
            return None
        delete_stale_drafts()
        try:
            job = create_close_job(
                queryset,
                requested_by=request.user,
                via="admin",
                draft=True,
                selection=selection_of(self, request),
            )
        except (NotAllowed, InvalidInput) as error:
            self.message_user(request, str(error), messages.ERROR)
            return None
        question = cast("CloseJobAdmin", self._job_admin).url_to("confirm", job.pk)
        return self._redirect_with_filters(request, question)

    @admin.action(permissions=["close"], description=_("Check selected chat sessions with OSVI"))
    def recover_selected(
        self, request: HttpRequest, queryset: QuerySet[ChatSession]
    ) -> HttpResponseBase | None:
        """Ask whether to settle the unconfirmed sessions of the selection, and do it (POST)."""
        is_confirmed = bool(request.POST.get("post"))
        chosen = self._confirmed(request) if is_confirmed else queryset
        # One more than is allowed is enough to know, however many are selected.
        sessions = list(chosen.select_related("agent")[: self.selection_limit + 1])
        if len(sessions) > self.selection_limit:
            self._say_too_many(request)
        elif not sessions:
            self._say_none(request)
        elif is_confirmed:
            self._recover_each(request, sessions)
        else:
            keys = " ".join(str(session.pk) for session in sessions)
            keep_words(request, self._key_of("recover"), {"keys": keys})
            return self._redirect_with_filters(request, self.url_to("recover"))
        return redirect_to_itself(request)

    @property
    def _job_admin(self) -> CloseJobAdmin | None:
        return admin_of(self.admin_site, CloseJob, CloseJobAdmin)

    def _redirect_with_filters(self, request: HttpRequest, url: str) -> HttpResponseRedirect:
        """Redirect to a page whose link back opens this list with its current filters."""
        filters = self.get_preserved_filters(request)
        return HttpResponseRedirect(f"{url}?{filters}" if filters else url)

    def _ask_and_do(
        self, request: HttpRequest, object_id: str, name: str, act: Act
    ) -> HttpResponseBase:
        session = self.get_object(request, unquote(object_id))
        if not self.has_close_permission(request, session):
            raise PermissionDenied
        if session is None:
            return self._redirect_not_found(request, object_id)
        page, accounts = self._key_of(name, session), (session.agent.account,)
        if request.method != "POST" and session.status == ChatSession.Status.CLOSED:
            drop(request, page)
            self.message_user(request, _CLOSED_ALREADY, messages.INFO)
            return HttpResponseRedirect(self._page_after(request, session))
        if is_after_login(request):
            return self._return_after_login(request, page)
        if request.method != "POST":
            form, kept = _FORMS[name](accounts=accounts), take(request, page)
            return self._confirmation(request, kept.fill(form), session, kept)
        form = _FORMS[name](posted(request), accounts=accounts)
        if not (request.POST.get("post") and form.is_valid()):
            keep(request, page, form)
            return redirect_to_itself(request)
        following = self.neighbours_of(request, session, leaves=True)  # before it moves
        outcome = self._do(request, session, form.why, act)
        if "next" in request.POST and outcome.level in _SETTLED:
            drop(request, page)
            self._say_of(request, session, _about(session, outcome.sentence), outcome.level)
            return HttpResponseRedirect(following.next_url or self.list_url(request))
        self._say_of(request, session, outcome.sentence, outcome.level)
        if outcome.level == messages.ERROR:
            keep_words(request, page, form.why)
        else:
            drop(request, page)
        return HttpResponseRedirect(self._page_after(request, session))

    def _confirmed(self, request: HttpRequest) -> QuerySet[ChatSession]:
        """Return the sessions of the confirmation, which a first click may have settled.

        They may then no longer be in the list that they were selected in.
        """
        keys = [key for key in request.POST.getlist(ACTION_CHECKBOX_NAME) if is_key(key)]
        return self.get_queryset(request).filter(pk__in=keys)

    def _recover_each(self, request: HttpRequest, sessions: Sequence[ChatSession]) -> None:
        """Check one session after the other: report each unchanged one, and count the others."""
        ends_at = clock.monotonic() + self.selection_seconds
        settled: Counter[Settled] = Counter()
        for number, session in enumerate(sessions):
            if clock.monotonic() > ends_at:
                self._say_stopped(request, len(sessions) - number)
                break
            outcome = self._do(request, session, {}, self._recover)
            if outcome.settled:
                settled[outcome.settled] += 1
            else:
                self._say_of(request, session, _about(session, outcome.sentence), outcome.level)
        if settled:
            self.message_user(request, message_for_selection(settled), messages.SUCCESS)

    def _do(
        self, request: HttpRequest, session: ChatSession, why: Mapping[str, str], act: Act
    ) -> StaffMessage:
        """Call a service and write Django's own history; a refusal by permission is a 403."""
        try:
            outcome = act(request, session, why)
        except NotAllowed as error:
            raise PermissionDenied from error
        except (OSVIError, OSVINotConfigured) as error:
            outcome = message_for_error(error)
        if outcome.tried:
            write_history(self, request, session, outcome.sentence)
        return outcome

    def _close(
        self, request: HttpRequest, session: ChatSession, why: Mapping[str, str]
    ) -> StaffMessage:
        result = close_session(session, requested_by=request.user, via="admin", **why)
        return message_for_result(result)

    def _mark(
        self, request: HttpRequest, session: ChatSession, why: Mapping[str, str]
    ) -> StaffMessage:
        mark_closed(session, requested_by=request.user, via="admin", **why)
        return message_for_marking(why["note"])

    def _recover(
        self, request: HttpRequest, session: ChatSession, _why: Mapping[str, str]
    ) -> StaffMessage:
        found = recover_session(session, requested_by=request.user, via="admin")
        return message_for_recovery(found)

    def _confirmation(
        self, request: HttpRequest, form: CloseForm, session: ChatSession, kept: Kept
    ) -> TemplateResponse:
        marking, turn = isinstance(form, MarkForm), turn_of(session, request.user)
        return self._page(
            request,
            "chatsession/close_confirmation.html",
            title=_("Mark chat session as closed") if marking else _("Close chat session"),
            form=form,
            marking=marking,
            again=is_unconfirmed(session),
            original=session,
            back=self._page_after(request, session),
            next_url=self.neighbours_of(request, session, leaves=True).next_url,
            of_summary=_summary_notice(session.agent.account),
            with_colleague=turn.text if turn.is_of_other else "",
            **posted_context(request, kept),
        )

    def _say_none(self, request: HttpRequest) -> None:
        sentence = _("None of the chat sessions that you selected is in this list any more.")
        self.message_user(request, sentence, messages.WARNING)

    def _say_too_many(self, request: HttpRequest) -> None:
        sentence = _(
            "You can check %(limit)d chats at a time. Nothing was done: please select fewer."
        )
        self.message_user(request, sentence % {"limit": self.selection_limit}, messages.ERROR)

    def _say_stopped(self, request: HttpRequest, left: int) -> None:
        sentence = ngettext(
            "OSVI is slow, so %(left)d chat was not checked. Select it and try again.",
            "OSVI is slow, so %(left)d chats were not checked. Select them and try again.",
            left,
        )
        self.message_user(request, sentence % {"left": left}, messages.WARNING)


def _about(session: ChatSession, sentence: object) -> str:
    """Return a message on a page that is not the session's own.

    It does not begin with an id, whose first letter the admin would write as a capital.
    """
    if session.customer_id:
        names = {"customer": session.customer_id, "sentence": sentence}
        return HiddenText(_("Chat of %(customer)s: %(sentence)s") % names)
    return HiddenText(_("Chat %(id)s: %(sentence)s") % {"id": session, "sentence": sentence})


def _summary_notice(account: str) -> Promise:
    """Return where a summary comes from when a session of this account is closed."""
    try:
        comes_from_osvi = Account(account).close_with == "legacy"
    except InvalidSetting:  # the close reports it
        comes_from_osvi = True
    if comes_from_osvi:
        return _(
            "OSVI writes the summary now; this can take up to a minute. Please keep the page open."
        )
    if has_summarizer(account):
        return _(
            "If OSVI has no summary of it, this site writes one now; this can take up to a "
            "minute. Please keep the page open."
        )
    return _("You get a summary only if OSVI already has one.")
