"""Statuses in their own colours."""

from __future__ import annotations

from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from osvi_django.models import ChatSession


def status_badge(session: ChatSession) -> SafeString:
    """Return the status of a session in its own colour."""
    return format_html(
        '<span class="osvi-status osvi-status-{}">{}</span>',
        session.status,
        session.get_status_display(),
    )


def help_mark(session: ChatSession) -> SafeString:
    """Return a mark if the customer waits for a person, and nothing otherwise."""
    if session.attention_rank != ChatSession.AttentionRank.HELP_REQUESTED:
        return SafeString()
    return format_html('<strong class="osvi-help-mark">{}</strong>', _("Help requested"))
