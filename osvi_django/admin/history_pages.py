"""Lists of what was done with the data of chats, each row with who asked for it."""

from __future__ import annotations

from typing import Any, ClassVar

from osvi_django.admin.bounded import BoundedAdmin
from osvi_django.admin.mixins import ReadOnlyRows
from osvi_django.admin.options import Names
from osvi_django.admin.pagination import CappedPaginator
from osvi_django.admin.sources import RequestColumns


class HistoryPages(ReadOnlyRows, RequestColumns, BoundedAdmin):
    """A list of read-only rows of any number, and a page for each."""

    list_select_related: ClassVar[Any] = ("requested_by",)
    list_per_page = 50
    show_full_result_count = False
    paginator = CappedPaginator
    change_list_template = "admin/osvi_django/capped_list.html"
    actions: Names | None = None

    class Media:
        css = {"all": ("osvi_django/admin.css",)}
