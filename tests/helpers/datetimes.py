"""Convert datetimes as a site does, with USE_TZ or without."""

from __future__ import annotations

from datetime import UTC, datetime

from django.conf import settings
from django.utils.timezone import get_default_timezone

from osvi_django.database import to_db_datetime


def db_datetime(text):
    """Return an ISO text with an offset as the datetime that the database stores."""
    return to_db_datetime(datetime.fromisoformat(text))


def rest_datetime(moment):
    """Return a stored datetime as REST shows it: in UTC."""
    aware = moment if settings.USE_TZ else moment.replace(tzinfo=get_default_timezone())
    return aware.astimezone(UTC).isoformat().replace("+00:00", "Z")
