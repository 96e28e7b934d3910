"""Find sessions by whatever people know of them: a number, a part of an id, or words."""

from __future__ import annotations

from osvi_django.services.search.service import (
    FOUND_MAX,
    SearchKind,
    SearchResult,
    find_matches,
    search_sessions,
)

__all__ = ["FOUND_MAX", "SearchKind", "SearchResult", "find_matches", "search_sessions"]
