"""Django's own history of the admin, which has sentences about our rows, if the host uses it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from django.apps import apps
from django.db import router
from django.db.models import CharField, Model, QuerySet, Value
from django.db.models.functions import Cast, Concat

from osvi_django.models import ChatSession

# The name of this place in counts.
HISTORY: Final = "history"


def entries_about(*models: type[Model]) -> QuerySet[Any] | None:
    """Return the entries about rows of these models; None if the site has no such history."""
    if not apps.is_installed("django.contrib.admin"):
        return None
    entry = apps.get_model("admin", "LogEntry")
    alias = router.db_for_write(entry)
    types = apps.get_model("contenttypes", "ContentType").objects.db_manager(alias)
    found = types.get_for_models(*models, for_concrete_models=False)
    kinds = [kind.pk for kind in found.values()]
    rows: QuerySet[Any] = entry._default_manager.using(alias)  # noqa: SLF001  # it is documented
    return rows.filter(content_type__in=kinds)


def count_entries(session: ChatSession) -> int:
    """Return how many entries there are about one session."""
    entries = entries_about(ChatSession)
    return 0 if entries is None else entries.filter(object_id=str(session.pk)).count()


def rename_entries(keys: Sequence[int], prefix: str) -> None:
    """Remove the words from the entries about sessions, and name each by this and its key."""
    entries = entries_about(ChatSession)
    if entries is not None:
        theirs = entries.filter(object_id__in=[str(key) for key in keys])
        name = Concat(Value(prefix), Cast("object_id", CharField()))
        theirs.update(object_repr=name, change_message="")


def redact_entries(session: ChatSession, name: str) -> int:
    """Remove the words from the entries about one session, and name it by this; return how many."""
    entries = entries_about(ChatSession)
    if entries is None:
        return 0
    theirs = entries.filter(object_id=str(session.pk))
    return theirs.update(object_repr=name, change_message="")
