"""The context that an agent has for a session."""

from __future__ import annotations

from typing import Any

from osvi_django.client.validation import CONTEXT_KEPT
from osvi_django.models import ChatSession
from osvi_django.redaction import hidden
from osvi_django.services import selectors
from osvi_django.services.mirroring.sessions import context_in
from osvi_django.validation import checks_types


@checks_types
def context_of(session: ChatSession) -> list[str]:
    """Return the context that the agent was given, as far as is known here."""
    return context_in(session.metadata)


def write_context(session: ChatSession, kept: list[str]) -> None:
    """Write the context that OSVI keeps, unless another process has stored a longer one."""
    metadata = hidden(selectors.rows(session).values_list("metadata", flat=True).get())
    stored = context_in(metadata)
    if stored == context_of(session) or not _continues(kept, stored):
        selectors.rows(session).update(metadata=with_context(metadata, kept))


def _continues(kept: list[str], stored: list[str]) -> bool:
    """Return whether the stored context is what OSVI kept, with something added to it."""
    added = (stored[-number:] for number in range(1, len(stored)))
    return any([*kept, *more][-CONTEXT_KEPT:] == stored for more in added)


def with_context(metadata: Any, context: list[str]) -> dict[str, Any]:
    """Return a session's metadata with this context."""
    metadata = _object(metadata)
    return {**metadata, "metadata": {**_object(metadata.get("metadata")), "context": context}}


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
