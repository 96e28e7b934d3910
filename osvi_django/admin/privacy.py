"""Erase a customer, hand out the data, and keep a chat for longer, in the admin."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from django import forms
from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.urls import URLPattern
from django.utils.formats import date_format, localize
from django.utils.translation import gettext_lazy as _

from osvi_django.admin.base import OSVIViews
from osvi_django.admin.deletion import redirect_to_itself
from osvi_django.admin.kept import drop, keep, take
from osvi_django.admin.mixins import write_history
from osvi_django.admin.pages import Way, is_after_login, posted_context
from osvi_django.admin.personal_places import name_of_place
from osvi_django.database import OSVIJSONEncoder, grouped
from osvi_django.exceptions import InvalidInput, OSVIError
from osvi_django.models import ChatSession
from osvi_django.services.permissions import may_erase
from osvi_django.services.privacy.erasure import Obstacle, erase_customer
from osvi_django.services.privacy.exporting import export_customer
from osvi_django.services.privacy.keeping import keep_session


class KeepForm(forms.Form):
    """Until which day nothing of a chat is removed."""

    keep_until = forms.DateField(
        label=_("Keep until"),
        required=False,
        widget=forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d"),
        help_text=_(
            "Nothing of the chat is removed before the end of this day. Leave it empty to remove "
            "it at its usual time."
        ),
        error_messages={"invalid": _("Enter a day such as 2026-01-31.")},
    )


class PrivacyViews(OSVIViews):
    """The pages of ``ChatSessionAdmin`` about personal data."""

    def has_erase_permission(self, request: HttpRequest) -> bool:
        """Return whether to offer an erasure; the service checks again."""
        return may_erase(request.user)

    def own_urls(self) -> list[URLPattern]:
        """Return the URLs of these pages and those of the base classes."""
        return [
            self._path("<path:object_id>/erase", self.erase_view),
            self._path("<path:object_id>/keep", self.keep_view),
            *super().own_urls(),
        ]

    def erase_view(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Show what will go (GET), and erase the customer or hand out the data (POST)."""
        session = self._for_privacy(request, object_id)
        if session is None:
            return self._redirect_not_found(request, object_id)
        if not session.customer_id or session.erased_at is not None:
            sentence = _("This chat has no customer, or the customer is erased already.")
            self.message_user(request, sentence, messages.INFO)
            return HttpResponseRedirect(self._page_after(request, session))
        if is_after_login(request):
            return self._return_after_login(request, self._key_of("erase", session))
        if request.method != "POST":
            return self._erase_page(request, session)
        if "export" in request.POST:
            return self._exported(request, session)
        return self._erase(request, session)

    def keep_view(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Ask until when to keep a chat (GET), and store it (POST)."""
        session = self._for_privacy(request, object_id)
        if session is None:
            return self._redirect_not_found(request, object_id)
        if request.method == "POST":
            return self._keep(request, session)
        page = self._key_of("keep", session)
        if is_after_login(request):
            return self._return_after_login(request, page)
        kept = take(request, page)
        return self._page(
            request,
            "chatsession/keep.html",
            title=_("Keep chat for longer"),
            form=kept.fill(KeepForm(initial={"keep_until": session.keep_until})),
            original=session,
            back=self._page_after(request, session),
            **posted_context(request, kept),
        )

    def ways_of_privacy(self, request: HttpRequest, session: ChatSession) -> Iterator[Way]:
        """Yield the links to these pages that the user may follow."""
        if not self.has_erase_permission(request):
            return
        day = session.keep_until
        label = _("Kept until %(day)s") % {"day": date_format(day)} if day else _("Keep for longer")
        yield Way(label=label, url=self.url_to("keep", session.pk))
        if session.customer_id and session.erased_at is None:
            url = self.url_to("erase", session.pk)
            yield Way(label=_("Erase customer"), url=url, is_erasing=True)

    def _for_privacy(self, request: HttpRequest, object_id: str) -> ChatSession | None:
        if not self.has_erase_permission(request):
            raise PermissionDenied
        session: ChatSession | None = self.get_object(request, unquote(object_id))
        return session

    def _erase_page(self, request: HttpRequest, session: ChatSession) -> HttpResponseBase:
        planned = erase_customer(session.customer_id, requested_by=request.user, dry_run=True)
        return self._page(
            request,
            "chatsession/erase.html",
            title=_("Erase customer"),
            original=session,
            counts=[
                (name_of_place(place), localize(each)) for place, each in planned.counts.items()
            ],
            obstacles=self._obstacles(request, planned.obstacles),
            notice=planned.notice,
            back=self._page_after(request, session),
            **posted_context(request, take(request, self._key_of("erase", session))),
        )

    def _obstacles(
        self, request: HttpRequest, found: Iterable[Obstacle]
    ) -> list[tuple[str, list[tuple[str, str]]]]:
        """Return what is in the way, each with the names and addresses of chats the user sees."""
        named = {each.session.pk: each.session for each in found if each.session is not None}
        visible = set(self.get_queryset(request).filter(pk__in=named).values_list("pk", flat=True))
        return [
            (
                why,
                [
                    (each.session.session_id, self.url_to("change", each.session.pk))
                    for each in alike
                    if each.session is not None and each.session.pk in visible
                ],
            )
            for why, alike in grouped(found, lambda each: str(each.error))
        ]

    def _erase(self, request: HttpRequest, session: ChatSession) -> HttpResponseBase:
        try:
            result = erase_customer(session.customer_id, requested_by=request.user, via="admin")
        except OSVIError as error:
            self.message_user(request, str(error), messages.ERROR)
            return redirect_to_itself(request)
        erased = _("The customer is erased here. %(notice)s") % {"notice": result.notice}
        level, sentence = (
            (messages.SUCCESS, erased) if result.counts else (messages.INFO, result.notice)
        )
        self.message_user(request, sentence, level)
        return HttpResponseRedirect(self._page_after(request, session))

    def _exported(self, request: HttpRequest, session: ChatSession) -> HttpResponseBase:
        found = export_customer(session.customer_id, requested_by=request.user, via="admin")
        content = json.dumps(found, cls=OSVIJSONEncoder, indent=2)
        name = 'attachment; filename="customer.json"'
        headers = {"Content-Disposition": name, "Cache-Control": "private, no-store"}
        return HttpResponse(content, content_type="application/json", headers=headers)

    def _keep(self, request: HttpRequest, session: ChatSession) -> HttpResponseBase:
        form, page = KeepForm(request.POST), self._key_of("keep", session)
        if not (form.is_valid() and self._keeps(request, session, form)):
            keep(request, page, form)
            return redirect_to_itself(request)
        drop(request, page)
        day = form.cleaned_data["keep_until"]
        kept = _("The chat is kept until the end of %(day)s.")
        sentence = kept % {"day": date_format(day)} if day else _("The chat is no longer kept.")
        write_history(self, request, session, str(sentence))
        self.message_user(request, sentence, messages.SUCCESS)
        return HttpResponseRedirect(self._page_after(request, session))

    def _keeps(self, request: HttpRequest, session: ChatSession, form: KeepForm) -> bool:
        """Store the day and return whether that was possible; otherwise say why not."""
        try:
            keep_session(session, form.cleaned_data["keep_until"], requested_by=request.user)
        except InvalidInput as error:
            form.add_error("keep_until", str(error))
        except OSVIError as error:
            self.message_user(request, str(error), messages.ERROR)
        else:
            return True
        return False
