"""Looking a customer up at OSVI, and starting sessions: how sessions come here by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlencode

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.urls import URLPattern
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from osvi_django.admin.asking import AskingViews
from osvi_django.admin.forms import AccountForm, LookUpForm, StartForm
from osvi_django.admin.rows import url_of, write_history
from osvi_django.exceptions import (
    InvalidInput,
    NotAllowed,
    OSVIBadAnswer,
    OSVIError,
    OSVINoAnswer,
    OSVINotConfigured,
)
from osvi_django.models import ChatSession
from osvi_django.services.mirroring import LookedUp, exactly, look_up_customer, start_session

SESSIONS_SHOWN: Final = 50

# What the errors say is about things that may have been done: it was a question that failed.
_NOT_TOLD: Final = {
    OSVINoAnswer.code: _("OSVI did not answer, and nothing was done there: try again in a moment."),
    OSVIBadAnswer.code: _(
        "OSVI's answer could not be understood, so this page shows what was known before."
    ),
}


class CustomerViews(AskingViews):
    """The views of ``ChatSessionAdmin`` that bring sessions of a customer here."""

    def own_urls(self) -> list[URLPattern]:
        """These two, beside whatever else there is."""
        return [
            self._path("lookup", self.lookup_view),
            self._path("start", self.start_view),
            *super().own_urls(),
        ]

    def lookup_view(self, request: HttpRequest) -> HttpResponseBase:
        """Ask OSVI what a customer has open (POST), and show all that is known of them (GET)."""
        self._require_operate(request)
        if request.method == "POST":
            form = LookUpForm(request.POST)
            if form.is_valid() and self._look_up(request, form):
                return HttpResponseRedirect(self.lookup_url(*form.asked))
        else:
            form = LookUpForm(request.GET if "customer_id" in request.GET else None)
        known = self._known(request, form)
        more = known is not None and len(known) > SESSIONS_SHOWN
        rows = [(each, self._link(request, each)) for each in (known or [])[:SESSIONS_SHOWN]]
        title = _("Look up a customer")
        return self._page(
            request, "lookup", title=title, form=form, known=known, rows=rows, more=more
        )

    def start_view(self, request: HttpRequest) -> HttpResponseBase:
        """Ask what a new session begins with (GET), and start it (POST)."""
        self._require_operate(request)
        form = StartForm(request.POST or None)
        if form.is_valid():
            try:
                session = start_session(requested_by=request.user, door="admin", **form.wanted())
            except (OSVINoAnswer, OSVIBadAnswer) as error:
                return self._perhaps_started(request, form, error)
            except (OSVIError, OSVINotConfigured) as error:
                _add_error(form, error)
            else:
                return self._started(request, session)
        return self._page(request, "start", title=_("Start a chat session"), form=form)

    def _require_operate(self, request: HttpRequest) -> None:
        if not self.has_operate_permission(request):
            raise PermissionDenied

    def _look_up(self, request: HttpRequest, form: LookUpForm) -> bool:
        """Ask; where that fails, the form says why."""
        customer, account = form.asked
        try:
            found = look_up_customer(
                customer, account=account, requested_by=request.user, door="admin"
            )
        except (OSVIError, OSVINotConfigured) as error:
            _add_error(form, error, _NOT_TOLD.get(error.code, ""))
            return False
        self._say_found(request, found)
        return True

    def _known(self, request: HttpRequest, form: LookUpForm) -> list[ChatSession] | None:
        """The customer's sessions that are here, one more than is shown; None: no customer."""
        if not form.is_bound or any(name in form.errors for name in form.fields):
            return None
        customer = form.cleaned_data["customer_id"]
        theirs = exactly("customer_id", customer)
        ours = self.get_queryset(request).filter(theirs, agent__account=form.chosen_account)
        newest = ours.select_related("agent").defer("metadata").order_by("-started_at", "-id")
        return list(newest[: SESSIONS_SHOWN + 1])

    def _link(self, request: HttpRequest, session: ChatSession) -> str:
        """Where the session is to be seen; "" where that is nowhere for this user."""
        if self.has_view_permission(request, session):
            return url_of(self, "chatsession_change", session)
        return url_of(self, "chatsession_desk", session)

    def lookup_url(self, customer_id: str, account: str) -> str:
        """Where all that is known of a customer is shown, and OSVI can be asked."""
        return (
            f"{self._url('lookup')}?{urlencode({'customer_id': customer_id, 'account': account})}"
        )

    def _say_found(self, request: HttpRequest, found: LookedUp) -> None:
        level = messages.SUCCESS if found.sessions else messages.INFO
        said = " ".join(_sentences(found))
        self.message_user(request, said, messages.WARNING if found.untold else level)

    def _started(self, request: HttpRequest, session: ChatSession) -> HttpResponseBase:
        sentence = str(_("The chat session is started."))
        write_history(self, request, session, sentence)
        self.message_user(request, sentence, messages.SUCCESS)
        return HttpResponseRedirect(self._page_after(request, session))

    def _perhaps_started(
        self, request: HttpRequest, form: StartForm, error: OSVIError
    ) -> HttpResponseBase:
        """Nobody knows: lead to where OSVI is asked, and let no reload start another one."""
        sentence = _("Look the customer up here to see whether the chat session was started.")
        self.message_user(request, f"{error} {sentence}", messages.WARNING)
        wanted = form.wanted()
        return HttpResponseRedirect(self.lookup_url(wanted["customer_id"], wanted["account"]))


def _sentences(found: LookedUp) -> Iterator[str]:
    """What OSVI lists; what it does not list, and what it did not tell, where there is any."""
    listed = ngettext(
        "OSVI was asked: it lists %(number)d chat session of this customer as active.",
        "OSVI was asked: it lists %(number)d chat sessions of this customer as active.",
        found.listed,
    )
    none = _("OSVI was asked: it lists no chat session of this customer as active.")
    yield listed % {"number": found.listed} if found.listed else str(none)
    if found.quiet:
        quiet = ngettext(
            "%(number)d other has gone quiet, and is not closed.",
            "%(number)d others have gone quiet, and are not closed.",
            found.quiet,
        )
        yield quiet % {"number": found.quiet}
    if found.untold:
        untold = ngettext(
            "Whether %(number)d other is closed, OSVI did not tell: look up again in a moment.",
            "Whether %(number)d others are closed, OSVI did not tell: look up again in a moment.",
            found.untold,
        )
        yield untold % {"number": found.untold}


def _add_error(form: AccountForm, error: OSVIError | OSVINotConfigured, sentence: Any = "") -> None:
    """Say in the form why nothing was done; a refusal by permission is a 403."""
    if isinstance(error, NotAllowed):
        raise PermissionDenied from error
    field = error.field if isinstance(error, InvalidInput) else ""
    form.add_error(field if field in form.fields else None, sentence or str(error))
