"""The place that a session had in its list when its page was opened.

Whatever is done to a session may move it in its list, or out of it, so the URLs of its pages hold
the values that its place depends on.
"""

from __future__ import annotations

from copy import copy
from datetime import datetime
from typing import Any, Final

from django.conf import settings
from django.utils.timezone import is_aware

from osvi_django.models import ChatSession

# The name in the query string.
PLACE: Final = "_osvi_place"
_SEPARATOR: Final = "~"
_RANKS: Final = [str(rank) for rank in ChatSession.AttentionRank.values]


def place_of(session: ChatSession) -> str:
    """Return the place of a session, with its key, for a query string."""
    moments = (session.last_activity_at, session.closed_at)
    shown = (each.isoformat() if each else "" for each in moments)
    rank = str(int(session.attention_rank))
    return _SEPARATOR.join([str(session.pk), rank, session.status, *shown])


def is_place_of(place: str, key: Any) -> bool:
    """Return whether this is a place of the session with this key."""
    return place.partition(_SEPARATOR)[0] == str(key)


def at_place(session: ChatSession, place: str) -> ChatSession:
    """Return the session with the values of a place, or as it is if this is no place of it."""
    try:
        key, rank, status, active, closed = place.split(_SEPARATOR)
        known = {"last_activity_at": _moment(active), "closed_at": _moment(closed)}
    except ValueError:
        return session
    is_valid = rank in _RANKS and status in ChatSession.Status.values
    if not is_valid or key != str(session.pk):
        return session
    is_closed = int(rank) == ChatSession.AttentionRank.CLOSED
    quiet_since = None if is_closed else known["last_activity_at"]
    then = copy(session)
    then.__dict__.update(known, status=status, attention_rank=int(rank), quiet_since=quiet_since)
    return then


def _moment(text: str) -> datetime | None:
    """Return a moment as this site stores them. Raise ``ValueError`` if it is none of these."""
    if not text:
        return None
    moment = datetime.fromisoformat(text)
    if is_aware(moment) != settings.USE_TZ or not 1 < moment.year < 9999:
        raise ValueError
    return moment
