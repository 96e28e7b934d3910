"""Base classes for the admins of mirrored and journaled rows."""

from __future__ import annotations

import logging
from typing import Any

from django.contrib.admin import ModelAdmin
from django.db import router
from django.db.models import Model, QuerySet
from django.http import HttpRequest

logger = logging.getLogger(__name__)


class WrittenRows:
    """Read rows from the database they are written to, so that a page shows the latest change.

    A replica might not have it yet. List this before the class of Django's admin.
    """

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Return the rows, whatever database a router reads lists from."""
        rows: QuerySet[Any] = super().get_queryset(request)  # type: ignore[misc]
        return rows.using(router.db_for_write(rows.model))


class ReadOnlyRows(WrittenRows):
    """Rows that are mirrored or journaled: they are never added, changed or deleted by hand."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def write_history(admin: ModelAdmin[Any], request: HttpRequest, row: Model, sentence: str) -> None:
    """Write to Django's own history what was done with a row."""
    try:
        admin.log_change(request, row, sentence)
    except Exception:  # the action is done, and an error in the history must not hide that
        logger.exception("no history entry for %r", row)
