"""What the admins of mirrored and journaled rows share."""

from __future__ import annotations

import logging
from typing import Any

from django.contrib.admin import AdminSite, ModelAdmin
from django.contrib.admin.utils import quote
from django.db.models import Model
from django.http import HttpRequest
from django.urls import reverse

from osvi_django.models import ChatSession
from osvi_django.services.permissions import may_view

logger = logging.getLogger(__name__)


class ReadOnlyRows:
    """Rows that are mirrored or journaled: nobody adds, changes or deletes them by hand."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def url_of(admin: ModelAdmin[Any], name: str, row: Model) -> str:
    """The address of the page about a row whose URL has this name, on the same admin site."""
    site = admin.admin_site.name
    return reverse(f"admin:osvi_django_{name}", args=[quote(row.pk)], current_app=site)


def may_visit_sessions(site: AdminSite, user: Any) -> bool:
    """Whether a link to a session, or to their list, leads anywhere on this admin site."""
    return site.is_registered(ChatSession) and may_view(user)


def write_history(admin: ModelAdmin[Any], request: HttpRequest, row: Model, sentence: str) -> None:
    """Write into Django's own history what was done with a row."""
    try:
        admin.log_change(request, row, sentence)
    except Exception:  # it is done, and whatever ails the history must not hide it
        logger.exception("no history entry for %r", row)
