"""Moments and durations as staff read them."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Final

from django.utils import timezone
from django.utils.formats import date_format
from django.utils.functional import Promise
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as _lazy
from django.utils.translation import ngettext

_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR
_DAYS_COUNTED: Final = 60
# In a column of times, and in a sentence.
NOW: Final = _lazy("now")
JUST_BEFORE: Final = _lazy("less than a minute ago")


def ago(moment: datetime, *, at_first: Promise | str = NOW) -> SafeString:
    """Return how long ago this was in a few characters, with the date and time as a tooltip.

    ``at_first``: the words for the first minute.
    """
    local = timezone.localtime(moment) if timezone.is_aware(moment) else moment
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        local.isoformat(timespec="seconds"),
        date_format(local, "DATETIME_FORMAT"),
        time_ago(timezone.now() - moment, local) or at_first,
    )


def time_ago(passed: timedelta, moment: datetime) -> str:
    """Return “3 h ago”, the date if it was long ago, or "" for the first minute."""
    seconds = int(passed.total_seconds())
    if seconds < _MINUTE:
        return ""
    if seconds < _HOUR:
        return _("%(number)d min ago") % {"number": seconds // _MINUTE}
    if seconds < 2 * _DAY:
        return _("%(number)d h ago") % {"number": seconds // _HOUR}
    if seconds < _DAYS_COUNTED * _DAY:
        return _("%(number)d d ago") % {"number": seconds // _DAY}
    return date_format(moment, "SHORT_DATE_FORMAT")


def duration_text(seconds: float) -> str:
    """Return a time to wait in words, rounded up to seconds: an hour needs no seconds."""
    whole = max(1, math.ceil(seconds))
    if whole < 100:
        return ngettext("%(number)d second", "%(number)d seconds", whole) % {"number": whole}
    minutes = round(whole / 60)
    if minutes < 100:
        return ngettext("%(number)d minute", "%(number)d minutes", minutes) % {"number": minutes}
    hours = round(minutes / 60)
    if hours < 100:
        return ngettext("%(number)d hour", "%(number)d hours", hours) % {"number": hours}
    days = round(hours / 24)
    return ngettext("%(number)d day", "%(number)d days", days) % {"number": days}
