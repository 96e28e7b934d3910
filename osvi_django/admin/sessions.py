"""Chat sessions in the admin: find and read them.

``session_list.py`` lists them, ``search.py`` searches the list, ``exporting.py`` exports it,
``session_page.py`` shows one, ``closing.py`` closes them, ``desk.py`` operates them,
``customers.py`` looks them up, ``entry.py`` leads to the others.
"""

from __future__ import annotations

from django.contrib import admin

from osvi_django.admin.entry import EntryViews
from osvi_django.admin.exporting import ExportViews
from osvi_django.admin.mixins import ReadOnlyRows
from osvi_django.admin.options import Names
from osvi_django.admin.search import SearchViews
from osvi_django.admin.session_page import SessionPage
from osvi_django.models import ChatSession


@admin.register(ChatSession)
class ChatSessionAdmin(ReadOnlyRows, EntryViews, SearchViews, SessionPage, ExportViews):
    """Sessions are mirrored, not edited: here they are read, operated and closed."""

    actions: Names | None = ("close_selected", "recover_selected", "export_selected")
    # By name, so that a proxy of the model has it too.
    object_history_template = "admin/osvi_django/chatsession/object_history.html"

    class Media:
        css = {"all": ("osvi_django/admin.css",)}
