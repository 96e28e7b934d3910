"""What staff typed about a customer and have not sent, which is kept in their login sessions.

That is possible if the site stores login sessions in its database. Others (a cache, files or signed
cookies) cannot be looked through: what is in them is no longer shown after a quarter of an hour,
and ends with the login session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, Final

from django.conf import settings
from django.utils import timezone

_OURS: Final = "osvi_django_"
_CHUNK: Final = 500

# Whether something that is kept for a page, with the name of that page, is about the customer.
IsAbout = Callable[[str, str], bool]


def drop_from_logins(is_about: IsAbout, *, dry_run: bool = False) -> int:
    """Drop what is kept for pages about a customer; return from how many login sessions."""
    found = 0
    for store, known in _logins():
        kept = {key: _without(value, is_about) for key, value in known.items() if _is_ours(key)}
        changed = {key: value for key, value in kept.items() if value != known[key]}
        found += bool(changed)
        if changed and not dry_run:
            store.update(changed)
            store.save()
    return found


def _is_ours(key: str) -> bool:
    return key.startswith(_OURS)


def _without(value: Any, is_about: IsAbout) -> Any:
    """Return what is kept, by page, without the pages about the customer."""
    if not isinstance(value, dict):
        return value
    return {page: each for page, each in value.items() if not is_about(page, str(each))}


def _logins() -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield the login sessions of the site's database, with their data; none if elsewhere."""
    kind: Any = import_module(settings.SESSION_ENGINE).SessionStore
    if hasattr(kind, "get_model_class"):
        rows = kind.get_model_class().objects.filter(expire_date__gt=timezone.now())
        for row in rows.iterator(_CHUNK):
            yield kind(session_key=row.session_key), row.get_decoded()
