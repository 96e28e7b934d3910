"""Check whether sessions still match the filter that a job was made with."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from osvi_django.models import ChatSession
from osvi_django.services import selectors
from osvi_django.services.selectors import SessionFilter


def still_matching(kept: Mapping[str, Any], sessions: Collection[ChatSession]) -> set[int]:
    """Return the keys of the sessions that still match the filter stored with a job."""
    condition = SessionFilter.from_json(kept).condition_before_a_close()
    return set(selectors.rows(*sessions).filter(condition).values_list("pk", flat=True))
