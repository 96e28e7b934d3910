"""Look up customers at OSVI, and start sessions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, TypeGuard
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.admin import AdminSite
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.urls import URLPattern
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from osvi_django.admin.base import OSVIViews
from osvi_django.admin.bounded import is_key
from osvi_django.admin.deletion import redirect_to_itself
from osvi_django.admin.forms import ROWS, AccountForm, LookUpForm, StartForm
from osvi_django.admin.kept import (
    drop,
    form_key_of,
    is_sent_before,
    keep,
    keep_words,
    new_token,
    note_sent,
    posted,
    take,
)
from osvi_django.admin.mixins import write_history
from osvi_django.admin.pages import is_after_login, posted_context
from osvi_django.database import exact_match
from osvi_django.exceptions import (
    AlreadyOpen,
    InvalidInput,
    NotAllowed,
    OSVIBadAnswer,
    OSVIError,
    OSVINoAnswer,
    OSVINotConfigured,
    SentBefore,
)
from osvi_django.models import ChatAgent, ChatSession
from osvi_django.redaction import HiddenText
from osvi_django.services.mirroring import LookedUp, look_up_customer
from osvi_django.services.permissions import may_close
from osvi_django.services.search.keys import has_number
from osvi_django.services.search.terms import read_terms
from osvi_django.services.starting import start_session

SESSIONS_SHOWN: Final = 50
# Of so many chats with the same digits, the customers are offered.
ALIKE_READ: Final = 20

# The errors' own messages are about actions that may have been done; a lookup changes nothing.
_LOOK_UP_MESSAGES: Final = {
    OSVINoAnswer.code: _("OSVI did not answer. Nothing has changed there. Try again in a moment."),
    OSVIBadAnswer.code: _(
        "OSVI's answer was unreadable, so this page shows only what was known before."
    ),
}

_STARTED_BEFORE: Final = _(
    "You already sent this form, so no chat session was started now. Look up the customer to see "
    "what happened. If you want another chat session, send the form again."
)


class CustomerViews(OSVIViews):
    """The views of ``ChatSessionAdmin`` that look up and start sessions of a customer."""

    def own_urls(self) -> list[URLPattern]:
        """Return the URLs of these views and of the base classes."""
        return [
            self._path("lookup", self.lookup_view),
            self._path("start", self.start_view),
            *super().own_urls(),
        ]

    def lookup_view(self, request: HttpRequest) -> HttpResponseBase:
        """Ask OSVI what a customer has open (POST), and show all that is known (GET)."""
        self._require_operate(request)
        if request.method == "POST":
            return self._look_up(request, LookUpForm(posted(request)))
        form = LookUpForm(request.GET if "customer_id" in request.GET else None)
        known = self._known(request, form)
        alike = [] if known is None or known else self._alike(request, form)
        more = known is not None and len(known) > SESSIONS_SHOWN
        rows = [(each, self._link(request, each)) for each in (known or [])[:SESSIONS_SHOWN]]
        return self._page(
            request,
            "chatsession/lookup.html",
            title=_("Look up a customer"),
            form=take(request, self._key_of("lookup")).fill(form),
            known=known,
            rows=rows,
            more=more,
            alike=alike,
        )

    def start_view(self, request: HttpRequest) -> HttpResponseBase:
        """Ask for the values of a new session (GET), and start it (POST)."""
        self._require_operate(request)
        if request.method == "POST":
            return self._start(request, self._start_form(request, posted(request)))
        if is_after_login(request):
            return self._return_after_login(request, self._key_of("start"))
        kept = take(request, self._key_of("start"))
        form = kept.fill(self._start_form(request, rows=kept.typed.get("rows", "")))
        open_chat = self._open_chat(request, kept.typed.get("open_chat", ""))
        title, media = _("Start a chat session"), self.media + form.media
        return self._page(
            request,
            "chatsession/start.html",
            title=title,
            form=form,
            media=media,
            once=new_token(),
            open_chat=open_chat,
            open_url=open_chat and self._link(request, open_chat),
            **posted_context(request, kept),
        )

    def _open_chat(self, request: HttpRequest, key: str) -> ChatSession | None:
        """Return the chat that the customer had open when the form was sent."""
        return self.get_queryset(request).filter(pk=key).first() if is_key(key) else None

    def _start_form(
        self, request: HttpRequest, data: dict[str, str] | None = None, *, rows: str = ""
    ) -> StartForm:
        if data is not None:
            rows = data.get("rows", "")
            if not data.get("replace"):
                data["open_chat"] = ""
        site = self._site_with_agents(request)
        form = StartForm(data, user=request.user, search_on=site, rows=rows)
        if not may_close(request.user):
            del form.fields["replace"]
        return form

    def _site_with_agents(self, request: HttpRequest) -> AdminSite | None:
        """Return this admin site if this user may search its agents."""
        site = self.admin_site
        agents = site.get_model_admin(ChatAgent) if site.is_registered(ChatAgent) else None
        may_look = agents is not None and agents.has_view_permission(request)
        return site if may_look and agents and agents.get_search_fields(request) else None

    def _start(self, request: HttpRequest, form: StartForm) -> HttpResponseBase:
        """Start a session from the form, and redirect to it, or back to the form."""
        page = self._key_of("start")
        if request.POST.get("add_row"):
            typed = {name: form.data.get(name, "") for name in form.fields}
            keep_words(request, page, {**typed, "rows": str(form.number_of_rows + ROWS)})
            return redirect_to_itself(request)
        if is_sent_before(request):
            self.message_user(request, _STARTED_BEFORE, messages.WARNING)
        elif form.is_valid():
            by: dict[str, Any] = {"requested_by": request.user, "form_key": form_key_of(request)}
            try:
                session = start_session(via="admin", **by, **form.wanted())
            except SentBefore:
                self.message_user(request, _STARTED_BEFORE, messages.WARNING)
            except AlreadyOpen as error:
                _add_error(form, error)
                key = error.session.pk if error.session else ""
                form.data = {**form.data, "open_chat": str(key)}
            except (OSVIError, OSVINotConfigured) as error:
                if _may_have_started(error):
                    note_sent(request)
                    drop(request, page)
                    return self._maybe_started(request, form, error)
                _add_error(form, error)
            else:
                note_sent(request)
                drop(request, page)
                return self._started(request, session)
        keep(request, page, form)
        return redirect_to_itself(request)

    def _require_operate(self, request: HttpRequest) -> None:
        if not self.has_operate_permission(request):
            raise PermissionDenied

    def _look_up(self, request: HttpRequest, form: LookUpForm) -> HttpResponseBase:
        """Look up the customer; on an error the form says why, next to what is known."""
        if not form.is_valid():
            keep(request, self._key_of("lookup"), form)
            return HttpResponseRedirect(self.url_to("lookup"))
        customer, account = form.asked
        try:
            found = look_up_customer(
                customer, account=account, requested_by=request.user, via="admin"
            )
        except (OSVIError, OSVINotConfigured) as error:
            _add_error(form, error, _LOOK_UP_MESSAGES.get(error.code, ""))
            keep(request, self._key_of("lookup"), form)
        else:
            self._say_found(request, found)
        return HttpResponseRedirect(self.lookup_url(customer, account))

    def _known(self, request: HttpRequest, form: LookUpForm) -> list[ChatSession] | None:
        """Return the customer's sessions, one more than is shown; None if none was given."""
        if not form.is_bound or any(name in form.errors for name in form.fields):
            return None
        customer = form.cleaned_data["customer_id"]
        theirs = exact_match("customer_id", customer)
        ours = self.get_queryset(request).filter(theirs, agent__account=form.chosen_account)
        newest = ours.select_related("agent").defer("metadata").order_by("-started_at", "-id")
        return list(newest[: SESSIONS_SHOWN + 1])

    def _alike(self, request: HttpRequest, form: LookUpForm) -> list[tuple[str, str]]:
        """Return the customers here whose numbers have the same digits, each with a link."""
        customer, account = form.asked
        digits = read_terms(customer).digits
        if not digits:
            return []
        ours = self.get_queryset(request).filter(agent__account=account).order_by()
        found = ours.filter(has_number(digits, using=ours.db)).values_list("customer_id", flat=True)
        names = dict.fromkeys(HiddenText(each) for each in found[:ALIKE_READ])
        return [(each, self.lookup_url(each, account)) for each in names]

    def _link(self, request: HttpRequest, session: ChatSession) -> str:
        """Return the URL at which this user, who may operate, sees the session."""
        is_seen = self.may_open(request, session)
        return self.url_to("change" if is_seen else "desk", session.pk)

    def lookup_url(self, customer_id: str, account: str) -> str:
        """Return the URL of the lookup page of a customer."""
        query = urlencode({"customer_id": customer_id, "account": account})
        return f"{self.url_to('lookup')}?{query}"

    def _say_found(self, request: HttpRequest, found: LookedUp) -> None:
        level = messages.SUCCESS if found.sessions else messages.INFO
        said = " ".join(_sentences(found))
        self.message_user(request, said, messages.WARNING if found.unknown else level)

    def _started(self, request: HttpRequest, session: ChatSession) -> HttpResponseBase:
        sentence = str(_("The chat session was started."))
        write_history(self, request, session, sentence)
        self.message_user(request, sentence, messages.SUCCESS)
        return HttpResponseRedirect(self._page_after(request, session))

    def _maybe_started(
        self, request: HttpRequest, form: StartForm, error: OSVIError
    ) -> HttpResponseBase:
        """Redirect to the lookup page, so that a reload does not start another chat."""
        sentence = _("Look up the customer here to see whether the chat session was started.")
        self.message_user(request, f"{error} {sentence}", messages.WARNING)
        wanted = form.wanted()
        return HttpResponseRedirect(self.lookup_url(wanted["customer_id"], wanted["account"]))


def _sentences(found: LookedUp) -> Iterator[str]:
    """Yield what OSVI lists, and the dormant or unknown sessions if there are any."""
    listed = ngettext(
        "OSVI has %(number)d active chat for this customer.",
        "OSVI has %(number)d active chats for this customer.",
        found.listed,
    )
    none = _("OSVI has no active chat for this customer.")
    yield listed % {"number": found.listed} if found.listed else str(none)
    if found.dormant:
        dormant = ngettext(
            "%(number)d more chat is still open, but quiet.",
            "%(number)d more chats are still open, but quiet.",
            found.dormant,
        )
        yield dormant % {"number": found.dormant}
    if found.unknown:
        unknown = ngettext(
            "OSVI did not say whether %(number)d other chat is closed. Look up the customer again "
            "in a moment.",
            "OSVI did not say whether %(number)d other chats are closed. Look up the customer "
            "again in a moment.",
            found.unknown,
        )
        yield unknown % {"number": found.unknown}


def _may_have_started(error: OSVIError | OSVINotConfigured) -> TypeGuard[OSVIError]:
    """Return whether the start was sent. An error with an attempt is from the close before it."""
    if not isinstance(error, OSVINoAnswer | OSVIBadAnswer):
        return False
    return error.attempt is None and not error.is_read_only


def _add_error(form: AccountForm, error: OSVIError | OSVINotConfigured, sentence: Any = "") -> None:
    """Add why nothing was done to the form; a refusal by permission is a 403."""
    if isinstance(error, NotAllowed):
        raise PermissionDenied from error
    field = error.field if isinstance(error, InvalidInput) else ""
    form.add_error(field if field in form.fields else None, sentence or str(error))
