"""Agents in the admin: OSVI does not tell their names everywhere, so staff may."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest

from osvi_django.models import ChatAgent


@admin.register(ChatAgent)
class ChatAgentAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # no generic at run time
    """List and name agents; the vendor's id of one stays what it was when it was added."""

    list_display = ("__str__", "uuid", "account")
    list_filter = ("account",)
    search_fields = ("name", "uuid")

    def get_readonly_fields(
        self, request: HttpRequest, obj: ChatAgent | None = None
    ) -> tuple[str, ...]:
        return ("account", "uuid") if obj else ()
