"""Webhooks in the admin: what was delivered, to whom, and what staff can do about the rest."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db import router
from django.db.models import OuterRef, Q, QuerySet, Subquery
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.urls import URLPattern
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _now
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from osvi_django.admin.bounded import ConditionFilter
from osvi_django.admin.mixins import ReadOnlyRows, write_history
from osvi_django.admin.moments import ago
from osvi_django.admin.options import Names
from osvi_django.admin.pages import OwnPages
from osvi_django.admin.pagination import CappedPaginator
from osvi_django.models import WebhookDelivery, WebhookReceiver
from osvi_django.services import send_events_again, switch_on_receiver
from osvi_django.services.events.control import deliveries_inside
from osvi_django.services.events.payloads import message_id_of
from osvi_django.services.events.queue import wait_of
from osvi_django.services.events.receivers import usable_receivers
from osvi_django.services.permissions import may_operate

State = WebhookDelivery.State
SEND_AGAIN: Final = _("Send again")
_NEXT: Final = _("Next try: %(when)s.")
SWITCH_ON: Final = _("Switch on again")

# The colours of sessions: that of an open one, a closed one, and one that needs attention.
_COLOURS: Final[Mapping[str, str]] = {
    State.PENDING: "active",
    State.DELIVERED: "closed",
    State.FAILED: "unconfirmed",
}
_ERRORS: Final[Mapping[str, Any]] = {
    "refused": _("The receiver refused it."),
    "redirect": _("The receiver answered with a redirect, which is not followed."),
    "gone": _("The receiver wants no more events, and is off."),
    "timeout": _("The receiver did not answer in time."),
    "no_answer": _("The connection ended without an answer."),
    "not_connected": _("The receiver accepts no connection."),
    "no_address": _("The host of the receiver was not found."),
    "address_refused": _("The host has no address that may be called."),
    "certificate_refused": _("The certificate of the receiver is not valid."),
    "not_allowed_here": _("This process may only call its own machine."),
    "not_written": _("An error of this site: see its log."),
    "expired": _("It waited for too long."),
}


def error_text(code: str, status: int | None = None) -> str:
    """Return why a try failed, as a sentence, with the status that was answered."""
    sentence = str(_ERRORS.get(code, code))
    return f"{sentence} (HTTP {status})" if code and status else sentence


class ReceiverFilter(ConditionFilter):
    """Filter by receiver."""

    title = _("receiver")
    parameter_name = "receiver"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        rows = WebhookReceiver.objects.using(router.db_for_write(WebhookReceiver))
        return [(each.key, str(each)) for each in rows]

    def condition(self, value: str) -> Q:
        return Q(receiver=value)


class WebhookPages(ReadOnlyRows, OwnPages):
    """A list of read-only rows, and a page for each with one button for operators."""

    list_per_page = 50
    show_full_result_count = False
    paginator = CappedPaginator
    change_list_template = "admin/osvi_django/capped_list.html"
    change_form_template = "admin/osvi_django/webhook.html"
    button: ClassVar[Any]

    class Media:
        css = {"all": ("osvi_django/admin.css",)}

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Return whether to offer what changes something; the services check again."""
        return may_operate(request.user)

    def own_urls(self) -> list[URLPattern]:
        """Return the URL that the button posts to."""
        return [self._path("<path:object_id>/again", self.again_view), *super().own_urls()]

    @abstractmethod
    def act(self, request: HttpRequest, rows: QuerySet[Any]) -> None:
        """Do what the button says for these rows, and say so to the user."""

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show a row, with the button."""
        if self.has_operate_permission(request):
            url = self.url_to("again", unquote(object_id))
            extra_context = {"button": self.button, "again_url": url, **(extra_context or {})}
        return super().change_view(request, object_id, form_url, extra_context)

    def again_view(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Do what the button says (POST), and show the row."""
        if not (self.has_view_permission(request) and self.has_operate_permission(request)):
            raise PermissionDenied
        row = self.get_object(request, unquote(object_id))
        if row is None:
            raise Http404
        if request.method == "POST":
            self.act(request, self.get_queryset(request).filter(pk=row.pk))
        return HttpResponseRedirect(self.url_to("change", row.pk))

    def _remember(self, request: HttpRequest, rows: Iterable[Any]) -> None:
        for row in rows:
            write_history(self, request, row, str(self.button))


@admin.register(WebhookDelivery)
class WebhookDeliveryAdmin(WebhookPages):
    """Show events and whether they have arrived; send them again."""

    list_display: Names = (
        "event",
        "subject_shown",
        "host_shown",
        "state_shown",
        "why_shown",
        "occurred_ago",
    )
    list_filter: ClassVar[Names] = ("state", "event", ReceiverFilter)
    search_fields: ClassVar[Names] = ("subject__exact",)
    search_help_text = _("Search by the id of a session or of a close job.")
    actions: Names | None = ("send_again",)
    fields: ClassVar[Names] = (
        "event",
        "message_id",
        "subject_shown",
        "receiver_shown",
        "occurred_at",
        "state_shown",
        "tries",
        "why_shown",
        "next_try",
        "finished_at",
        "data",
    )
    button = SEND_AGAIN

    def get_queryset(self, request: HttpRequest) -> QuerySet[WebhookDelivery]:
        """Return the rows with the hosts of their receivers."""
        receivers = WebhookReceiver.objects.filter(key=OuterRef("receiver"))
        rows = deliveries_inside(super().get_queryset(request), request.user)
        return rows.annotate(receiver_host=Subquery(receivers.values("host")[:1]))

    @admin.action(permissions=["operate"], description=SEND_AGAIN)
    def send_again(self, request: HttpRequest, queryset: QuerySet[WebhookDelivery]) -> None:
        """Send the selected events again, with the same ids."""
        self.act(request, queryset)

    def act(self, request: HttpRequest, rows: QuerySet[WebhookDelivery]) -> None:
        number = send_events_again(rows.iterator(), requested_by=request.user, via="admin")
        self._remember(request, rows[:1] if number == 1 else ())
        sentence = ngettext(
            "%(number)d event is sent again.", "%(number)d events are sent again.", number
        )
        self.message_user(request, sentence % {"number": number})

    @admin.display(description=_("webhook-id"))
    def message_id(self, delivery: WebhookDelivery) -> str:
        """Return the id that receivers get."""
        return message_id_of(delivery)

    @admin.display(description=_("about"), ordering="subject")
    def subject_shown(self, delivery: WebhookDelivery) -> SafeString:
        """Return the id of the session or job."""
        return format_html("<bdi>{}</bdi>", delivery.subject)

    @admin.display(description=_("receiver"))
    def host_shown(self, delivery: WebhookDelivery) -> SafeString:
        """Return the host of the receiver, with its key as a tooltip."""
        host = getattr(delivery, "receiver_host", None)
        return format_html('<span title="{}">{}</span>', delivery.receiver, host or "-")

    @admin.display(description=_("occurred"), ordering="occurred_at")
    def occurred_ago(self, delivery: WebhookDelivery) -> SafeString:
        """Return how long ago it happened."""
        return ago(delivery.occurred_at)

    @admin.display(description=_("receiver"))
    def receiver_shown(self, delivery: WebhookDelivery) -> str:
        """Return the host and the key of the receiver."""
        host = getattr(delivery, "receiver_host", None)
        return f"{host} ({delivery.receiver})" if host else delivery.receiver

    @admin.display(description=_("state"), ordering="state")
    def state_shown(self, delivery: WebhookDelivery) -> SafeString:
        """Return the state in its own colour."""
        return format_html(
            '<span class="osvi-status osvi-status-{}">{}</span>',
            _COLOURS.get(delivery.state, ""),
            delivery.get_state_display(),
        )

    @admin.display(description=_("last answer"))
    def why_shown(self, delivery: WebhookDelivery) -> str:
        """Return how the last try failed, and when the next one is."""
        why = error_text(delivery.error_code, delivery.http_status)
        if delivery.state != State.PENDING or not delivery.tries:
            return why
        return " ".join((why, str(_NEXT % {"when": self.next_try(delivery)})))

    @admin.display(description=_("next try"))
    def next_try(self, delivery: WebhookDelivery) -> str:
        """Return in how long it is tried again, if it is."""
        if delivery.state != State.PENDING:
            return ""
        return in_words(wait_of(delivery.due_at, using=router.db_for_write(WebhookDelivery)))


@admin.register(WebhookReceiver)
class WebhookReceiverAdmin(WebhookPages):
    """Show the receivers and whether they get events; switch them on again."""

    list_display: Names = (
        "host",
        "key",
        "state_shown",
        "failures",
        "error_shown",
        "last_success_at",
    )
    actions: Names | None = ("switch_on",)
    fields: ClassVar[Names] = (*list_display, "disabled_at")
    button = SWITCH_ON

    @admin.action(permissions=["operate"], description=SWITCH_ON)
    def switch_on(self, request: HttpRequest, queryset: QuerySet[WebhookReceiver]) -> None:
        """Send events to the selected receivers again."""
        self.act(request, queryset)

    def act(self, request: HttpRequest, rows: QuerySet[WebhookReceiver]) -> None:
        for row in rows:
            number = switch_on_receiver(row, requested_by=request.user, via="admin")
            sentence = ngettext(
                "%(receiver)s is on. %(number)d event that waits for it is sent now.",
                "%(receiver)s is on. %(number)d events that wait for it are sent now.",
                number,
            )
            values = {"receiver": row, "number": number}
            self.message_user(request, sentence % values, messages.SUCCESS)
        self._remember(request, rows)

    @admin.display(description=_("state"))
    def state_shown(self, receiver: WebhookReceiver) -> str:
        """Return whether it gets events."""
        if receiver.key not in {each.key for each in usable_receivers()}:
            return _now("not in the settings")
        if receiver.disabled_at is not None:
            return _now("off")
        until: Any = receiver.paused_until
        using = router.db_for_write(WebhookReceiver)
        wait = wait_of(until, using=using) if until else 0
        return _now("pause, %(wait)s") % {"wait": in_words(wait)} if wait else _now("on")

    @admin.display(description=_("last error"))
    def error_shown(self, receiver: WebhookReceiver) -> str:
        """Return how the last try ended, if it failed."""
        return error_text(receiver.last_error)


def in_words(seconds: float) -> str:
    """Return a time from now: “in 5 s”, “in 3 h”."""
    if seconds < 1:
        return _now("now")
    for size, words in ((3600, _("in %(number)d h")), (60, _("in %(number)d min"))):
        if seconds >= 2 * size:
            return str(words) % {"number": round(seconds / size)}
    return _now("in %(number)d s") % {"number": round(seconds)}
