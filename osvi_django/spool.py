"""The spool: files in which answers wait while the database is unavailable, one for each.

The directory may be shared: only their owner can read the files (mode 600). Other users must not be
able to replace files in it: it must belong to this user, to root, or to a group that this process
is a member of, such as a volume of mode 2770 that is mounted into a container. If it cannot be used
when it is needed, the answer waits in the default directory.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import stat
import tempfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from osvi_django.conf import default_spool_dir

logger = logging.getLogger(__name__)

_SUFFIX: Final = ".json"
_lock = threading.Lock()
_tried: Final[set[Path]] = set()


class SpoolNotSafe(OSError):
    """Others could replace files in the spool, so nothing is written to it or read from it."""


@dataclass(frozen=True, kw_only=True)
class SpooledAnswer:
    """An answer of OSVI, and the keys of the session and the attempt that it belongs to.

    ``claim`` identifies them: another project's database may have the same keys.
    """

    session: int
    attempt: int
    claim: str
    status: int
    body: bytes = field(repr=False)
    truncated: bool
    # Files of an earlier version do not have these.
    incomplete: bool = False
    charset: str = ""
    seconds: float | None = None

    @property
    def name(self) -> str:
        """Return the name of its file."""
        return f"{self.session}-{self.attempt}-{self.claim}{_SUFFIX}"


def put(directory: Path, answer: SpooledAnswer) -> Path:
    """Write an answer so that it survives this process and a power failure.

    Raises ``OSError`` if that cannot be done.
    """
    _make(directory)
    content = asdict(answer) | {"body": base64.b64encode(answer.body).decode()}
    path = directory / answer.name
    # The rename makes it appear complete or not at all.
    _write(directory, json.dumps(content)).rename(path)
    _sync(directory)
    return path


def put_anywhere(directories: Iterable[Path], answer: SpooledAnswer) -> Path | None:
    """Write an answer to the first of these directories that accepts it; None if none does."""
    for directory in directories:
        try:
            return put(directory, answer)
        except OSError:
            logger.exception("the answer of attempt %s cannot be put in a spool", answer.attempt)
    return None


def remove(path: Path) -> None:
    """Remove the file of a stored answer; if that fails, it does no harm."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        logger.exception("the file %r cannot be removed from the spool", str(path))


def problem_of(directory: Path) -> str:
    """Return why this user cannot use a spool, "" if it can; nothing is left behind."""
    try:
        if directory.exists() or directory.is_symlink():
            _require_safe(directory)
            _write(directory, "").unlink()
            return ""
        parent = next(each for each in directory.parents if each.exists())
    except OSError as error:
        return str(error) if isinstance(error, SpoolNotSafe) else f"{error.strerror}."
    is_writable = parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)
    return "" if is_writable else f"It is not there, and cannot be made in {str(parent)!r}."


def problem_once(directory: Path) -> str:
    """Return the problem of a spool the first time in this process that it is asked for."""
    with _lock:
        if directory in _tried:
            return ""
        _tried.add(directory)
    return problem_of(directory)


def is_seen_by_all(directory: Path) -> bool:
    """Return whether users outside the directory's group may see the names of files in it."""
    return directory.exists() and bool(directory.stat().st_mode & stat.S_IRWXO)


def waiting(directory: Path) -> Iterator[Path]:
    """Yield the files that wait in a spool. Raises ``OSError``, or ``SpoolNotSafe``."""
    if not directory.exists():
        return
    _require_safe(directory)
    # Unlike a glob, this raises an error if the directory cannot be read.
    yield from sorted(path for path in directory.iterdir() if path.suffix == _SUFFIX)


def read(path: Path) -> SpooledAnswer:
    """Return the answer in a file. Raises ``OSError``, or ``ValueError`` if it has none."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(handle, encoding="ascii") as file:
        _require_own(path, os.fstat(file.fileno()))
        content: Any = json.load(file)
    try:
        return SpooledAnswer(**content | {"body": base64.b64decode(content["body"])})
    except (TypeError, KeyError) as error:
        raise ValueError from error


def _make(directory: Path) -> None:
    """Create the directory, or check that others could not replace files in it."""
    directory.mkdir(mode=stat.S_IRWXU, parents=True, exist_ok=True)
    _require_safe(directory)


def _require_safe(directory: Path) -> None:
    found = directory.lstat()
    if stat.S_ISLNK(found.st_mode) and found.st_uid in _trusted():
        found = directory.stat()
    if not stat.S_ISDIR(found.st_mode):
        raise _unsafe(directory, "is not a directory, or a link to one that another user made")
    if found.st_uid not in _trusted() and not _may_share(directory, found):
        raise _unsafe(directory, "belongs to another user")
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        raise _unsafe(directory, "can be written by all users, who could replace what is in it")


def _may_share(directory: Path, found: os.stat_result) -> bool:
    """Return whether another user's directory may be used: as one of our group, or by root."""
    if directory == default_spool_dir():  # its name is known, so any user may create it
        return False
    is_of_one_group = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) == stat.S_IWGRP
    is_ours = is_of_one_group and found.st_gid in {os.getegid(), *os.getgroups()}
    return is_ours or os.geteuid() == 0


def _require_own(path: Path, found: os.stat_result) -> None:
    """Check that a file in a world-writable directory does not belong to another user."""
    if path.parent.stat().st_mode & stat.S_IWOTH and found.st_uid not in _trusted():
        raise _unsafe(path, "belongs to another user")


def _unsafe(path: Path, problem: str) -> SpoolNotSafe:
    return SpoolNotSafe(f"{str(path)!r} {problem}.")


def _trusted() -> set[int]:
    return {os.geteuid(), 0}


def _write(directory: Path, text: str) -> Path:
    """Write a new file that only this user can access, and return its path."""
    handle, name = tempfile.mkstemp(dir=directory)  # of mode 600
    path = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def _sync(directory: Path) -> None:
    """Sync the directory, without which a new file name is not safe."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
