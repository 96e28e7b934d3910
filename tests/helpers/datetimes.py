"""Convert datetimes as a site does, with USE_TZ or without."""

from __future__ import annotations

from datetime import datetime

from django.conf import settings
from django.utils.timezone import get_default_timezone

from osvi_django.database import to_db_datetime


def db_datetime(text):
    """Return an ISO text with an offset as the datetime that the database stores."""
    return to_db_datetime(datetime.fromisoformat(text))


def rest_datetime(moment):
    """Return a stored datetime as REST shows it: with its offset, in the site's time zone."""
    zone = get_default_timezone()
    aware = moment.astimezone(zone) if settings.USE_TZ else moment.replace(tzinfo=zone)
    return aware.isoformat().replace("+00:00", "Z")
