"""Links to a session in OSVI's dashboard, if the settings say where that is."""

from __future__ import annotations

from typing import Final

from django.utils.html import conditional_escape, format_html
from django.utils.translation import gettext_lazy as _

from osvi_django.conf import Account, InvalidSetting
from osvi_django.models import ChatSession
from osvi_django.redaction import HiddenMarkup

# Translators: as it stands in the messages that name it, where it becomes a link.
NAME: Final = _("OSVI's dashboard")


def dashboard_url(session: ChatSession) -> str:
    """Return where a session is in OSVI's dashboard; "" if that is not known."""
    try:
        return Account(session.agent.account).dashboard_url_of(session.session_id)
    except InvalidSetting:  # the checks report it
        return ""


def with_dashboard(sentence: object, session: ChatSession) -> str:
    """Return a sentence in which the name of OSVI's dashboard is a link, if there is one."""
    said = sentence if isinstance(sentence, str) else str(sentence)
    url = dashboard_url(session) if str(NAME) in said else ""
    if not url:
        return said
    link = format_html('<a href="{}" rel="noopener noreferrer">{}</a>', url, NAME)
    return HiddenMarkup(conditional_escape(said).replace(conditional_escape(NAME), link, 1))
