"""Which changes of sessions may be handed to another system that asks for the next ones.

A change has the moment at which it was written, and can be seen only after its transaction has
committed. A reader who has gone beyond that moment by then would miss it. So a change is withheld
until none with an earlier moment can still appear.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from django.db import connections
from django.db.models import QuerySet

from osvi_django.conf import changes_delay, configured
from osvi_django.models import ChatSession
from osvi_django.models.changes import ChangeMoment

# When the oldest transaction that has written began. Those of other database users are seen only
# by members of pg_read_all_stats.
_OLDEST: Final = """
    SELECT LEAST(CLOCK_TIMESTAMP() - %s * INTERVAL '1 second', MIN(xact_start))
    FROM pg_stat_activity
    WHERE datname = CURRENT_DATABASE() AND backend_xid IS NOT NULL AND pid <> PG_BACKEND_PID()
"""


def settled_changes(sessions: QuerySet[ChatSession]) -> QuerySet[ChatSession]:
    """Return those of these sessions before whose last change no other can appear any more."""
    with configured():
        delay = changes_delay()
    if connections[sessions.db].vendor == "postgresql":  # tested on PostgreSQL
        return sessions.filter(updated_at__lt=_oldest_write(sessions.db, delay))
    return sessions.filter(updated_at__lt=ChangeMoment() - timedelta(seconds=delay))


def _oldest_write(using: str, delay: float) -> datetime:  # tested on PostgreSQL
    """Return when the oldest transaction that has written began, or ``delay`` seconds ago."""
    # Before the rows are read: a transaction that ends in between is complete then.
    with connections[using].cursor() as cursor:
        cursor.execute(_OLDEST, [delay])
        (moment,) = cursor.fetchone()
    oldest: datetime = moment
    return oldest
