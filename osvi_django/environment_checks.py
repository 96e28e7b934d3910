"""System checks of the environment: the spool's directory, and the databases.

Only ``check_accounts`` opens a database, and none leaves anything behind. Those of the spool are
warnings, as the user who runs them may not be the one that serves the site.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from django.apps import apps
from django.contrib.auth import get_user_model
from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as CheckWarning
from django.db import Error as DatabaseError
from django.db import connections, router
from django.db.models import QuerySet

from osvi_django import spool
from osvi_django.conf import Account, InvalidSetting, account_aliases

# How long SQLite waits for a lock before it fails; its own default is 5.
MIN_TIMEOUT: Final = 20  # seconds
_WAL: Final = b"\x02\x02"  # at this offset in the file's header
_WAL_PLACE: Final = 18


def check_spools(**kwargs: Any) -> list[CheckMessage]:
    """Check that the spools of all accounts can be used."""
    return [message for each in _spool_dirs() for message in _check_spool(each)]


def check_sqlite(**kwargs: Any) -> list[CheckMessage]:
    """Warn of settings that SQLite needs, if it has our tables in a file."""
    alias = router.db_for_write(apps.get_model("osvi_django", "ChatSession"))
    connection: Any = connections[alias]  # the stubs do not know a backend's own methods
    if connection.vendor != "sqlite" or connection.is_in_memory_db():
        return []
    missing = ", ".join(_missing(connection.settings_dict))
    if not missing:
        return []
    problem = (
        f'DATABASES["{alias}"] is SQLite in a file without {missing}: while chat sessions are '
        "closed, other pages may fail because the database is locked."
    )
    hint = (
        'Set its "OPTIONS" to {"transaction_mode": "IMMEDIATE", '
        f'"timeout": {MIN_TIMEOUT}, "init_command": "PRAGMA journal_mode=WAL"}}.'
    )
    return [CheckWarning(problem, hint=hint, id="osvi_django.W021")]


def check_databases(**kwargs: Any) -> list[CheckMessage]:
    """Report an error if sessions and users would be in different databases."""
    ours = router.db_for_write(apps.get_model("osvi_django", "ChatSession"))
    theirs = router.db_for_write(get_user_model())
    if _place_of(ours) == _place_of(theirs):
        return []
    problem = (
        f'Chat sessions would be stored in the database "{ours}", and users in "{theirs}". Rows of '
        "this app refer to users, which no database does across its border."
    )
    hint = 'Use DATABASE_ROUTERS to put the app "osvi_django" in the same database as the users.'
    return [Error(problem, hint=hint, id="osvi_django.E020")]


def check_accounts(*, databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Warn of accounts that chats here belong to, but that the setting ``OSVI`` does not have.

    Django runs this only for the databases that ``check --database`` and ``migrate`` name.
    """
    agents = apps.get_model("osvi_django", "ChatAgent")
    alias = router.db_for_write(agents)
    # Without a valid setting, or before the first migration, there is nothing to compare.
    with suppress(InvalidSetting, DatabaseError):
        if alias in (databases or ()):
            rows: QuerySet[Any] = QuerySet(agents, using=alias)
            used = rows.order_by("account").values_list("account")
            missing = [each for (each,) in used.distinct() if each not in account_aliases()]
            return [_missing_accounts(missing)] if missing else []
    return []


def _missing_accounts(accounts: Sequence[str]) -> CheckMessage:
    named = ", ".join(f'"{each}"' for each in accounts)
    problem = (
        f"The setting OSVI has no entry for these accounts, which chats on this site belong to: "
        f"{named}. Such chats can be read, but not closed or looked up."
    )
    hint = (
        "Add the entries again. If an account is gone for good, mark its open chats as closed, "
        "and add this check to SILENCED_SYSTEM_CHECKS."
    )
    return CheckWarning(problem, hint=hint, id="osvi_django.W022")


def _place_of(alias: str) -> tuple[Any, ...]:
    """Return where a database is; two aliases may name the same one."""
    settings = connections[alias].settings_dict
    return tuple(str(settings[key]) for key in ("ENGINE", "HOST", "PORT", "NAME"))


def _spool_dirs() -> list[Path]:
    """Return the directories that can be read from the settings; the others have an error."""
    found: dict[Path, None] = {}
    with suppress(InvalidSetting):
        for alias in account_aliases():
            with suppress(InvalidSetting):
                found[Account(alias).spool_dir] = None
    return list(found)


def _check_spool(directory: Path) -> Iterator[CheckMessage]:
    if problem := spool.problem_of(directory):
        sentence = (
            f"The spool {str(directory)!r}, in which answers of OSVI wait while the database is "
            f"unavailable, cannot be used by this user. {problem}"
        )
        hint = (
            "Allow the user that runs the site to write there, or set SPOOL_DIR to another "
            "directory."
        )
        yield CheckWarning(sentence, hint=hint, id="osvi_django.W019")
    elif spool.is_seen_by_all(directory):
        sentence = f"All users can see which files are in the spool {str(directory)!r}."
        hint = "They cannot see the contents of the files. Use chmod 700, or 2770 for a group."
        yield CheckWarning(sentence, hint=hint, id="osvi_django.W020")


def _missing(database: Mapping[str, Any]) -> Iterator[str]:
    options = database.get("OPTIONS") or {}
    if str(options.get("transaction_mode", "")).upper() not in {"IMMEDIATE", "EXCLUSIVE"}:
        yield '"transaction_mode": "IMMEDIATE"'
    timeout = options.get("timeout", 0)
    if not isinstance(timeout, int | float) or timeout < MIN_TIMEOUT:
        yield f'"timeout": {MIN_TIMEOUT}'
    if not _has_wal(str(database.get("NAME")), str(options.get("init_command", ""))):
        yield "the journal mode WAL"


def _has_wal(name: str, init_command: str) -> bool:
    """Return whether each connection sets WAL, or the file has it permanently."""
    if "journal_mode=wal" in "".join(init_command.lower().split()):
        return True
    with suppress(OSError, ValueError), Path(name).open("rb") as file:
        return file.read(_WAL_PLACE + 2)[_WAL_PLACE:] == _WAL
    return False
