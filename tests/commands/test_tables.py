"""Test the commands on a database without this app's tables, or with those of an older version."""

from __future__ import annotations

import logging
import pkgutil

import pytest
from django.apps import apps
from django.core.management import load_command_class
from django.db import connection

from osvi_django.management import commands
from tests.helpers.database import call_after_queries

pytestmark = pytest.mark.django_db(transaction=True)

CUSTOMER = "+15551112222"
USES = [
    ("osvi_close", "s-1"),
    ("osvi_close", "--customer-id", CUSTOMER),
    ("osvi_close", "--idle-for", "1d", "--dry-run"),
    ("osvi_erase", "--customer", CUSTOMER),
    ("osvi_export", "--format", "csv"),
    ("osvi_export_customer", "--customer", CUSTOMER),
    ("osvi_purge",),
    ("osvi_recover",),
    ("osvi_recover", "--reread"),
    ("osvi_recover", "--watch", "0.1"),
    ("osvi_stats",),
    ("osvi_summarize",),
    ("osvi_sync", "--customer", CUSTOMER),
    ("osvi_sync", "--open"),
    ("osvi_sync", "--open", "--watch", "1"),
    ("osvi_worker",),
    ("osvi_worker", "--watch", "0.1"),
]
PROBLEM = (
    'The database "default" does not have the tables that this version of osvi_django needs, or '
    "does not let this site read them. Run “manage.py migrate”, then try again."
)
KINDS = (
    *("Error: no such table", "Error: no such column"),  # SQLite
    *("Error: UndefinedTable", "Error: UndefinedColumn"),  # PostgreSQL
    *("Error: 1146", "Error: 1054"),  # MariaDB
)
TABLES = [model._meta.db_table for model in apps.get_app_config("osvi_django").get_models()]


def execute(*statements):
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


@pytest.fixture
def remove():
    """Rename tables, and columns given as table.column, until the test has ended."""
    undo = []

    def _remove(*names):
        for name in names:
            table, _, column = name.partition(".")
            what, away = (f"COLUMN {column} TO", "gone") if column else ("TO", f"gone_{table}")
            execute(f"ALTER TABLE {table} RENAME {what} {away}")
            back = (
                f"ALTER TABLE {table} RENAME COLUMN gone TO {column}"
                if column
                else f"ALTER TABLE {away} RENAME TO {table}"
            )
            undo.append(back)

    yield _remove
    execute(*reversed(undo))


def assert_tables_are_missed(said, caplog):
    assert (said.code, said.error) == (1, PROBLEM)
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    (logged,) = [each.getMessage() for each in errors if "no usable table" in each.getMessage()]
    assert logged.startswith("the database default has no usable table osvi_django_")
    assert logged.endswith(KINDS)
    assert CUSTOMER not in caplog.text


@pytest.mark.parametrize("use", USES, ids=" ".join)
def test_command_without_tables_says_to_migrate_and_ends(osvi_sandbox, call, caplog, remove, use):
    remove(*TABLES)
    said = call(*use)
    assert said.out == said.err == ""
    assert_tables_are_missed(said, caplog)
    assert osvi_sandbox.requests == []


@pytest.mark.parametrize("use", USES, ids=" ".join)
def test_command_with_tables_of_an_older_version_says_to_migrate(
    osvi_sandbox, call, caplog, remove, use
):
    remove("osvi_django_chatsession.help_requested_at")
    assert_tables_are_missed(call(*use), caplog)


# Without the setting SUMMARIZER, nothing is read by its command.
@pytest.mark.parametrize("use", [use for use in USES if use[0] != "osvi_summarize"], ids=" ".join)
def test_command_whose_tables_are_gone_after_the_start_says_to_migrate(
    osvi_sandbox, call, caplog, remove, use
):
    """Remove the tables as soon as the last of them was found."""
    begun = []

    def is_last_check(sql, params):
        return TABLES[-1] in sql and not begun

    def remove_all():
        begun.append(True)
        remove(*TABLES)

    with call_after_queries(is_last_check, remove_all):
        said = call(*use)
    assert_tables_are_missed(said, caplog)


def test_every_command_that_needs_the_database_checks_the_tables():
    names = [each.name for each in pkgutil.iter_modules(commands.__path__)]
    checked = {
        name for name in names if load_command_class("osvi_django", name).requires_migrations_checks
    }
    assert checked == set(names) - {"osvi_sandbox"}
    assert checked == {use[0] for use in USES}


def test_check_of_the_tables_reads_no_row(django_assert_num_queries, call):
    with django_assert_num_queries(len(TABLES)) as captured:
        load_command_class("osvi_django", "osvi_purge").check_migrations()
    assert all("< 0" in query["sql"] for query in captured.captured_queries)
