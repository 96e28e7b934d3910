"""The spools of an account, and whether they can be used."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import Final

from osvi_django import spool
from osvi_django.conf import Account, InvalidSetting, default_spool_dir

logger = logging.getLogger(__name__)
_SPOOL_PROBLEM: Final = (
    "The spool %r, in which answers of OSVI wait while the database is unavailable, cannot be "
    "used: %s Let this user write there, or name another directory in SPOOL_DIR."
)


def spool_dirs(account: str) -> list[Path]:
    """Return the directories where answers of an account may wait, the first choice first."""
    try:
        chosen = [Account(account).spool_dir]
    except InvalidSetting as error:
        logger.error("the spool of account %r cannot be found: %s", account, error)
        chosen = []
    return list(dict.fromkeys([*chosen, default_spool_dir()]))


def try_spool(account: str) -> None:
    """Warn, once per process, if answers could not be stored while the database is unavailable."""
    with suppress(InvalidSetting):  # if it is needed, the default directory is used
        directory = Account(account).spool_dir
        if problem := spool.problem_once(directory):
            logger.error(_SPOOL_PROBLEM, str(directory), problem)
