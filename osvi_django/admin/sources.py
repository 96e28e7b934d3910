"""Names of the entry points that staff know."""

from __future__ import annotations

from typing import Any, Final

from django.contrib import admin
from django.db.models import Q
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from osvi_django.admin.bounded import ConditionFilter

_LABELS: Final[dict[str, Any]] = {
    "admin": _("admin"),
    "rest": _("API"),
    "code": _("this site's own code"),
    "command": _("command line"),
    "task": _("task queue"),
    "recovery": _("recovery"),
}

_ROWS_READ: Final = 500

WHERE: Final = _("where")
REQUESTED_BY: Final = _("requested by")
# Shown as who requested it, if it was the host's own code or a command.
NOT_A_USER: Final = "-"


def label_of(via: str) -> str:
    """Return the label of an entry point; a host's own entry point has the host's name."""
    return str(_LABELS.get(via, via))


def requester_of(row: Any) -> str:
    """Return who requested a row, without a link to a user's page, which few may see."""
    return str(row.requested_by or row.requester or NOT_A_USER)


class ViaColumn:
    """Show the entry point of a row."""

    @admin.display(description=WHERE, ordering="via")
    def via_shown(self, row: Any) -> str:
        """Return the name of the entry point."""
        return label_of(row.via)


class RequestColumns(ViaColumn):
    """Show who requested a row, and its entry point."""

    @admin.display(description=REQUESTED_BY, ordering="requested_by")
    def requested_by_shown(self, row: Any) -> str:
        """Return the name of the user or other caller."""
        return requester_of(row)


class ViaFilter(ConditionFilter):
    """Filter by the entry points that the newest rows have."""

    title = WHERE
    parameter_name = "via"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        seen = model_admin.get_queryset(request)
        newest = seen.select_related(None).order_by("-pk").values_list("via", flat=True)
        found = sorted(set(newest[:_ROWS_READ]))
        return [(via, label_of(via)) for via in found]

    def condition(self, value: str) -> Q:
        return Q(via=value)
