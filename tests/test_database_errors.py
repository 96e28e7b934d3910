"""Test what an error of the database is called in a log, and which of them do not pass."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from django.db import InterfaceError, OperationalError, ProgrammingError

from osvi_django.database import is_without_tables, safe_error_name


class PostgreSQLError(Exception):
    """An error as psycopg raises it, with the state that the database sent."""

    def __init__(self, sqlstate):
        super().__init__("relation of +1555 is missing")
        self.sqlstate = sqlstate


def caused_by(cause, kind=OperationalError):
    """Return the error that Django raises of one of a database's own."""
    error = kind(*cause.args)
    error.__cause__ = cause
    return error


def of_sqlite(statement):
    """Return SQLite's error for a statement."""
    database = sqlite3.connect(":memory:")
    with closing(database), pytest.raises(sqlite3.Error) as caught:
        database.execute(statement)
    return caused_by(caught.value)


@pytest.mark.parametrize(
    ("error", "name", "is_missing"),
    [
        (of_sqlite("SELECT 1 FROM x"), "OperationalError: no such table", True),
        (of_sqlite("SELECT x"), "OperationalError: no such column", True),
        (of_sqlite("ATTACH '/no/such/dir/x' AS y"), "OperationalError: SQLITE_CANTOPEN", False),
        (
            caused_by(PostgreSQLError("42P01"), ProgrammingError),
            "ProgrammingError: PostgreSQLError",
            True,
        ),
        (caused_by(PostgreSQLError("57P01")), "OperationalError: PostgreSQLError", False),
        (caused_by(Exception(1146, "+1555"), ProgrammingError), "ProgrammingError: 1146", True),
        (caused_by(Exception(2006, "gone")), "OperationalError: 2006", False),
        (caused_by(OperationalError("gone")), "OperationalError", False),
        (caused_by(InterfaceError()), "OperationalError: InterfaceError", False),
        (OperationalError("no such table: x"), "OperationalError", False),
        (caused_by(KeyError(1146), ValueError), "ValueError: KeyError", False),
    ],
)
def test_error_has_a_name_without_its_text_and_says_whether_it_passes(error, name, is_missing):
    assert safe_error_name(error) == name
    assert is_without_tables(error) is is_missing
