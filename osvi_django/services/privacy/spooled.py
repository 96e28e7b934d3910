"""The files of the spools that hold answers for sessions."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from osvi_django import spool
from osvi_django.conf import InvalidSetting, account_aliases
from osvi_django.models import ChatSession
from osvi_django.services import selectors
from osvi_django.services.attempts.spooling import spool_dirs

logger = logging.getLogger(__name__)


def spooled_sessions() -> set[int]:
    """Return the keys of the sessions for which an answer waits in a spool of this machine."""
    return {key for path in spooled_files() if (key := session_of(path)) is not None}


def spooled_files() -> Iterator[Path]:
    """Yield the files in all spools that can be read."""
    for directory in dict.fromkeys(each for alias in _aliases() for each in spool_dirs(alias)):
        try:
            yield from spool.waiting(directory)
        except OSError:
            logger.exception("the spool %r cannot be read", str(directory))


def session_of(path: Path) -> int | None:
    """Return the key of the session that a file names; None if it names none."""
    with suppress(ValueError):
        return int(path.name.partition("-")[0])
    return None


def _aliases() -> list[str]:
    with suppress(InvalidSetting):
        return account_aliases()
    return []


def files_of(session: ChatSession) -> list[Path]:
    """Return the files that hold answers for a session of this database.

    The directory may have files of other sites, whose rows have the same keys.
    """
    named = [path for path in spooled_files() if session_of(path) == session.pk]
    if not named:
        return []
    claims = {str(each) for each in selectors.attempts(session).values_list("claim", flat=True)}
    return [path for path in named if any(path.stem.endswith(each) for each in claims)]
