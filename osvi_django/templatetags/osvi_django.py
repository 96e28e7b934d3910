"""Template tags for the templates of a host's admin: ``{% load osvi_django %}``."""

from __future__ import annotations

from typing import Any

from django import template

from osvi_django.admin.chats import chats_admin_of
from osvi_django.exceptions import OSVINotConfigured

register = template.Library()


@register.inclusion_tag("admin/osvi_django/attention_block.html", takes_context=True)
def osvi_attention(context: Any) -> dict[str, Any]:
    """Show what needs a person, with links to the lists; nothing if the user may see none of it."""
    request = context.get("request")
    found = chats_admin_of(request) if request is not None else None
    try:
        return found.attention_of(request) if found is not None else {}
    except OSVINotConfigured:  # the log says why; the page around it is the host's
        return {}
