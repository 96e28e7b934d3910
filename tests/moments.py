"""Moments as a site stores them, with USE_TZ or without."""

from __future__ import annotations

from datetime import datetime

from django.conf import settings
from django.utils.timezone import get_default_timezone

from osvi_django.database import to_db_datetime


def stored(text):
    """Return the moment of an ISO text with an offset."""
    return to_db_datetime(datetime.fromisoformat(text))


def shown(moment):
    """Return what REST shows of a stored moment: with its offset, in the zone of the site."""
    zone = get_default_timezone()
    aware = moment.astimezone(zone) if settings.USE_TZ else moment.replace(tzinfo=zone)
    return aware.isoformat().replace("+00:00", "Z")
