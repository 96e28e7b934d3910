"""The databases of a benchmark, created for one run and removed after it."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Self

POSTGRESQL = "postgres://postgres@127.0.0.1:5432/postgres"


class NotAvailable(Exception):
    """A database, or its driver, is not available on this machine."""


class Database(ABC):
    """A template that is migrated once, and copied for each measurement."""

    label: ClassVar[str]

    def __init__(self, migrate: Callable[[str], None]) -> None:
        self._migrate = migrate

    def __enter__(self) -> Self:
        self._migrate(self._template())
        return self

    def __exit__(self, *error: object) -> None:
        self._remove()

    @abstractmethod
    def _remove(self) -> None:
        """Remove the template."""

    @abstractmethod
    def _template(self) -> str:
        """Return the URL of the template."""

    @abstractmethod
    def copy(self) -> Any:
        """Create a copy, with all tables and no rows, for a ``with`` block; yield its URL."""


class SQLite(Database):
    """A file, with the options of the example project."""

    label = "SQLite"

    def __init__(self, migrate: Callable[[str], None], folder: Path) -> None:
        super().__init__(migrate)
        self._folder = folder
        self._numbers = count()

    def _remove(self) -> None:
        """Leave the template in the folder, which the caller removes."""

    def _template(self) -> str:
        return f"sqlite:///{self._folder / 'template.sqlite3'}"

    @contextmanager
    def copy(self) -> Iterator[str]:
        """Copy the file, which is complete because the process that migrated it has ended."""
        path = self._folder / f"{next(self._numbers)}.sqlite3"
        shutil.copy(self._folder / "template.sqlite3", path)
        yield f"sqlite:///{path}"


class PostgreSQL(Database):
    """Databases for this run on an existing server."""

    label = "PostgreSQL"

    def __init__(self, migrate: Callable[[str], None], server: str) -> None:
        super().__init__(migrate)
        self._server = server
        self._name = f"osvi_benchmark_{os.getpid()}"

    def _url(self, name: str) -> str:
        return f"{self._server.rpartition('/')[0]}/{name}"

    def _template(self) -> str:
        return self._url(self._name)

    def __enter__(self) -> Self:
        self._connection = _connect(self._server)
        self._run(f"CREATE DATABASE {self._name}")
        try:
            return super().__enter__()
        except BaseException:
            self._remove()
            raise

    def _remove(self) -> None:
        self._drop(self._name)
        self._connection.close()

    @contextmanager
    def copy(self) -> Iterator[str]:
        """Create a copy, yield its URL, and drop it."""
        name = f"{self._name}_run"
        self._run(f"CREATE DATABASE {name} TEMPLATE {self._name}")
        try:
            yield self._url(name)
        finally:
            self._drop(name)

    def _drop(self, name: str) -> None:
        self._run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _run(self, sql: str) -> None:
        self._connection.execute(sql)


def _connect(server: str) -> Any:
    try:
        import psycopg  # noqa: PLC0415 - SQLite alone needs no driver
    except ImportError:
        raise NotAvailable("psycopg is not installed") from None
    try:
        return psycopg.connect(server, autocommit=True, connect_timeout=5)
    except psycopg.OperationalError as error:
        raise NotAvailable(str(error).splitlines()[0]) from None
