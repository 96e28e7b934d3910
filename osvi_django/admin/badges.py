"""Statuses in their own colours."""

from __future__ import annotations

from django.utils.html import format_html
from django.utils.safestring import SafeString

from osvi_django.models import ChatSession


def status_badge(session: ChatSession) -> SafeString:
    """Return the status of a session in its own colour."""
    return format_html(
        '<span class="osvi-status osvi-status-{}">{}</span>',
        session.status,
        session.get_status_display(),
    )
