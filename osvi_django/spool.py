"""Where an answer waits while the database is away: one file each, for its owner's eyes alone."""

from __future__ import annotations

import base64
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

_SUFFIX: Final = ".json"


class SpoolNotSafe(OSError):
    """The spool's directory is not its owner's alone, so that nothing is put there or read."""


@dataclass(frozen=True, kw_only=True)
class SpooledAnswer:
    """An answer of OSVI, and the keys of the session and the attempt that it belongs to.

    ``claim`` is what makes it theirs: another project's database may have the same keys.
    """

    session: int
    attempt: int
    claim: str
    status: int
    body: bytes = field(repr=False)
    truncated: bool

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"{self.session}-{self.attempt}-{self.claim}{_SUFFIX}"


def put(directory: Path, answer: SpooledAnswer) -> Path:
    """Write an answer so that it outlives this process and the machine's power.

    Raises ``OSError`` where that cannot be done.
    """
    _make(directory)
    content = asdict(answer) | {"body": base64.b64encode(answer.body).decode()}
    # The rename makes it appear whole or not at all; mkstemp's files are their owner's alone.
    handle, unfinished = tempfile.mkstemp(dir=directory)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    path = directory / answer.name
    Path(unfinished).rename(path)
    _sync(directory)
    return path


def waiting(directory: Path) -> Iterator[Path]:
    """The files that wait in a spool. Raises ``SpoolNotSafe``."""
    if not directory.exists():
        return
    _make(directory)
    yield from sorted(directory.glob(f"*{_SUFFIX}"))


def read(path: Path) -> SpooledAnswer:
    """The answer in a file. Raises ``ValueError`` where there is none in it, ``OSError``."""
    content: Any = json.loads(path.read_text(encoding="ascii"))
    try:
        return SpooledAnswer(**content | {"body": base64.b64decode(content["body"])})
    except (TypeError, KeyError) as error:
        raise ValueError from error


def _make(directory: Path) -> None:
    """Make the directory, or make sure that nobody else has made it."""
    directory.mkdir(mode=stat.S_IRWXU, parents=True, exist_ok=True)
    found = directory.lstat()
    others = stat.S_IRWXG | stat.S_IRWXO
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & others:
        problem = f"{directory} must be a directory of this user alone (chmod 700)."
        raise SpoolNotSafe(problem)


def _sync(directory: Path) -> None:
    """A new name is safe when the directory is written too."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
