"""Filter sessions and attempts by the reason for which they were closed."""

from __future__ import annotations

from typing import Any

from django.db.models import Q
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from osvi_django.admin.bounded import ConditionFilter
from osvi_django.services.attempts.close_rules import all_close_reasons


class CloseReasonFilter(ConditionFilter):
    """Filter by a reason; shown if the settings have any.

    A reason that the settings no longer have can still be asked for by its URL.
    """

    title = _("reason for closing")
    parameter_name = "close_reason"
    order = ("-closed_at", "-id")

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(reason, reason) for reason in all_close_reasons()]

    def condition(self, value: str) -> Q:
        return Q(close_reason=value)
