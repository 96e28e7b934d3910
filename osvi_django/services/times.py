"""Moments as the host's columns have them."""

from __future__ import annotations

from datetime import datetime

from django.conf import settings
from django.utils import timezone


def as_stored(moment: datetime) -> datetime:
    """As it is, and without ``USE_TZ`` in the site's own zone and naive."""
    if settings.USE_TZ or timezone.is_naive(moment):
        return moment
    return timezone.make_naive(moment, timezone.get_default_timezone())
