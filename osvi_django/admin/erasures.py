"""The journal of erasures in the admin: who erased a customer, and whether all of it is done."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import Q
from django.http import HttpRequest
from django.utils import timezone
from django.utils.formats import localize
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from osvi_django.admin.bounded import ConditionFilter
from osvi_django.admin.history_pages import HistoryPages
from osvi_django.admin.options import Names
from osvi_django.admin.personal_places import name_of_place
from osvi_django.admin.sources import ViaFilter
from osvi_django.models import Erasure
from osvi_django.models.privacy import ERASURE_STALLED

State = Erasure.State


class StateFilter(ConditionFilter):
    """Filter by the state as it is now."""

    title = _("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return list(State.choices)

    def condition(self, value: str) -> Q:
        is_dead = Q(last_step_at__lt=timezone.now() - ERASURE_STALLED)
        conditions = {
            State.RUNNING: Q(state=State.RUNNING) & ~is_dead,
            State.DONE: Q(state=State.DONE),
            State.UNFINISHED: Q(state=State.UNFINISHED) | (Q(state=State.RUNNING) & is_dead),
        }
        return conditions[State(value)]


@admin.register(Erasure)
class ErasureAdmin(HistoryPages):
    """Show erasures; they do not name the customer."""

    list_display: Names = (
        "started_at",
        "requested_by_shown",
        "via_shown",
        "account_shown",
        "state_shown",
        "finished_at",
    )
    list_filter: ClassVar[Names] = (StateFilter, ViaFilter)
    fields: ClassVar[Names] = (*list_display, "marker", "counts_shown")

    @admin.display(description=_("account"), ordering="account")
    def account_shown(self, erasure: Erasure) -> str:
        """Return the account, or that it was all of them."""
        return erasure.account or str(_("all"))

    @admin.display(description=_("state"))
    def state_shown(self, erasure: Erasure) -> str:
        """Return the state as it is now, and whether nothing was there to erase."""
        state = erasure.state_now
        is_empty = state == State.DONE and not erasure.counts
        return str(_("done: nothing was found") if is_empty else state.label)

    @admin.display(description=_("erased"))
    def counts_shown(self, erasure: Erasure) -> SafeString:
        """Return how many rows and files of each place it was."""
        counts = ((name_of_place(place), localize(each)) for place, each in erasure.counts.items())
        return format_html_join("", "<div>{}: {}</div>", counts)
