"""The databases of a benchmark, each of its own and gone afterwards."""

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


class NotHere(Exception):
    """This machine lacks a database, or its driver."""


class Database(ABC):
    """Makes empty databases, by copying one that is migrated once."""

    label: ClassVar[str]

    def __init__(self, migrate: Callable[[str], None]) -> None:
        self._migrate = migrate

    def __enter__(self) -> Self:
        self._migrate(self._template())
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    @abstractmethod
    def _end(self) -> None:
        """Leave nothing behind."""

    @abstractmethod
    def _template(self) -> str:
        """The URL of the one that is to be migrated."""

    @abstractmethod
    def fresh(self) -> Any:
        """A context with the URL of one that has all tables and no rows."""


class SQLite(Database):
    """A file, with the options that the example project gives it."""

    label = "SQLite"

    def __init__(self, migrate: Callable[[str], None], folder: Path) -> None:
        super().__init__(migrate)
        self._folder = folder
        self._numbers = count()

    def _end(self) -> None:
        """The folder is its owner's to remove."""

    def _template(self) -> str:
        return f"sqlite:///{self._folder / 'template.sqlite3'}"

    @contextmanager
    def fresh(self) -> Iterator[str]:
        """A copy of the file; the process that migrated it has ended, so it is whole."""
        path = self._folder / f"{next(self._numbers)}.sqlite3"
        shutil.copy(self._folder / "template.sqlite3", path)
        yield f"sqlite:///{path}"


class PostgreSQL(Database):
    """Databases of the run's own on a server that is there."""

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
            self._end()
            raise

    def _end(self) -> None:
        self._drop(self._name)
        self._connection.close()

    @contextmanager
    def fresh(self) -> Iterator[str]:
        """A copy, made and dropped."""
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
        import psycopg  # noqa: PLC0415 - whoever measures SQLite alone needs no driver
    except ImportError:
        raise NotHere("psycopg is not installed") from None
    try:
        return psycopg.connect(server, autocommit=True, connect_timeout=5)
    except psycopg.OperationalError as error:
        raise NotHere(str(error).splitlines()[0]) from None
