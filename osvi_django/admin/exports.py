"""The history of exports in the admin: who took which chats along."""

from __future__ import annotations

from typing import ClassVar

from django.contrib import admin

from osvi_django.admin.history_pages import HistoryPages
from osvi_django.admin.options import Names
from osvi_django.admin.sources import ViaFilter
from osvi_django.models import DataExport


@admin.register(DataExport)
class DataExportAdmin(HistoryPages):
    """Show exports; nothing of what was exported is kept."""

    list_display: Names = (
        "started_at",
        "requested_by_shown",
        "selection",
        "rows",
        "outcome",
        "file_format",
        "has_words",
        "via_shown",
    )
    list_filter: ClassVar[Names] = ("outcome", "file_format", "has_words", ViaFilter)
    fields: ClassVar[Names] = (*list_display, "finished_at")
