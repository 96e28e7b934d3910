"""Doors, as staff know them: what somebody used to ask for a close."""

from __future__ import annotations

from typing import Any, Final

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

_LABELS: Final[dict[str, Any]] = {
    "admin": _("admin"),
    "rest": _("REST"),
    "code": _("this site's code"),
    "command": _("command line"),
    "task": _("task queue"),
    "recovery": _("recovery"),
}


def label_of(door: str) -> str:
    """What a door is called; a host's own is what the host calls it."""
    return str(_LABELS.get(door, door))


class DoorShown:
    """For admins of rows that have a door."""

    @admin.display(description=_("door"), ordering="door")
    def door_shown(self, row: Any) -> str:
        """Through which door it was asked for."""
        return label_of(row.door)


class DoorFilter(admin.SimpleListFilter):
    """The doors that there are."""

    title = _("door")
    parameter_name = "door"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        doors = model_admin.model.objects.order_by("door").values_list("door", flat=True)
        return [(door, label_of(door)) for door in doors.distinct()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        wanted = self.value()
        return queryset if wanted is None else queryset.filter(door=wanted)
