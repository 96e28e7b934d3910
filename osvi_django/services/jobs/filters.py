"""Check whether sessions still match the filter that a job was made with."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from django.db.models import QuerySet

from osvi_django.models import ChatSession
from osvi_django.services import selectors
from osvi_django.services.selectors import SessionFilter


def still_matching(kept: Mapping[str, Any], sessions: Collection[ChatSession]) -> set[int]:
    """Return the keys of the sessions that still match the filter stored with a job."""
    condition = SessionFilter.from_json(kept).condition_before_a_close()
    return _keys(selectors.rows(*sessions).filter(condition))


def still_spared(kept: Mapping[str, Any], sessions: Collection[ChatSession]) -> set[int]:
    """Return the keys of those that the filter leaves out although they were said goodbye to.

    Taking over and writing have changed what a filter looks at. It still spares the customers who
    have asked for a person since.
    """
    spares = SessionFilter.from_json(kept).help_requested is False
    return _keys(selectors.rows(*sessions).filter(help_requested=True)) if spares else set()


def _keys(sessions: QuerySet[ChatSession]) -> set[int]:
    return set(sessions.values_list("pk", flat=True))
