"""The history of exports in the admin: who took which chats along."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin
from django.utils.translation import gettext_lazy as _

from osvi_django.admin.bounded import BoundedAdmin
from osvi_django.admin.mixins import ReadOnlyRows
from osvi_django.admin.options import Names
from osvi_django.admin.pagination import CappedPaginator
from osvi_django.admin.sources import NOT_A_USER, ViaColumn, ViaFilter
from osvi_django.models import DataExport


@admin.register(DataExport)
class DataExportAdmin(ReadOnlyRows, ViaColumn, BoundedAdmin):
    """Show exports; nothing of what was exported is kept."""

    list_display: Names = (
        "started_at",
        "requested_by_shown",
        "via_shown",
        "file_format",
        "rows",
        "has_words",
        "selection",
        "outcome",
    )
    list_filter: ClassVar[Names] = ("outcome", "file_format", "has_words", ViaFilter)
    list_select_related: ClassVar[Any] = ("requested_by",)
    list_per_page = 50
    show_full_result_count = False
    paginator = CappedPaginator
    change_list_template = "admin/osvi_django/capped_list.html"
    actions: Names | None = None
    fields: ClassVar[Names] = (*list_display, "finished_at")

    class Media:
        css = {"all": ("osvi_django/admin.css",)}

    @admin.display(description=_("requested by"), ordering="requested_by")
    def requested_by_shown(self, export: DataExport) -> str:
        """Return the name of the user or other caller."""
        return str(export.requested_by or export.requester or NOT_A_USER)
