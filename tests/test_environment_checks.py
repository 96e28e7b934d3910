"""Test the system checks of spools and databases."""

from __future__ import annotations

import sqlite3

import pytest
from django.core.checks import run_checks
from django.core.management import call_command
from django.db import OperationalError, connections

from osvi_django.environment_checks import (
    check_accounts,
    check_databases,
    check_spools,
    check_sqlite,
)
from osvi_django.testing.factories import ChatAgentFactory
from tests.helpers.database import raise_on_queries

RECOMMENDED = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
}


def ids(messages):
    assert all(each.hint for each in messages)
    return [each.id for each in messages]


class TestSpools:
    @pytest.fixture
    def spool_dir(self, settings, tmp_path):
        directory = tmp_path / "spool"
        account = {"API_TOKEN": "sandbox-token-16", "SPOOL_DIR": directory}
        settings.OSVI = {"default": account, "other": account}
        return directory

    def test_spool_that_can_be_created_reports_nothing_and_is_not_created(self, spool_dir):
        assert check_spools() == []
        assert not spool_dir.exists()

    @pytest.mark.parametrize("mode", [0o700, 0o770, 0o2770])
    def test_spool_that_is_writable_reports_nothing_and_stays_empty(self, spool_dir, mode):
        spool_dir.mkdir()
        spool_dir.chmod(mode)
        assert check_spools() == []
        assert list(spool_dir.iterdir()) == []

    def test_spool_readable_by_all_reports_w020(self, spool_dir):
        spool_dir.mkdir()
        spool_dir.chmod(0o755)
        assert ids(check_spools()) == ["osvi_django.W020"]

    def test_spool_that_is_no_directory_reports_w019_once(self, spool_dir):
        spool_dir.touch()
        (message,) = check_spools()
        assert message.id == "osvi_django.W019"
        assert str(spool_dir) in message.msg
        assert "is not a directory" in message.msg

    @pytest.mark.parametrize("osvi", [None, {}, {"default": None}, {"default": {"SPOOL_DIR": 5}}])
    def test_spool_with_invalid_settings_reports_nothing(self, settings, osvi):
        settings.OSVI = osvi
        assert check_spools() == []

    @pytest.mark.django_db
    def test_spool_check_is_run_by_check_command(self, spool_dir):
        spool_dir.touch()
        assert "osvi_django.W019" in [each.id for each in run_checks()]


class TestSQLite:
    @pytest.fixture
    def check(self, monkeypatch, tmp_path):
        """Check a database with these options."""

        def _check(name="db.sqlite3", engine="sqlite3", **options):
            where = {
                "ENGINE": f"django.db.backends.{engine}",
                "NAME": name if ":" in name else str(tmp_path / name),
                "OPTIONS": options,
            }
            fresh = type(connections)({"default": where})
            monkeypatch.setattr("osvi_django.environment_checks.connections", fresh)
            return check_sqlite()

        return _check

    def test_sqlite_with_default_options_reports_w021_with_options(self, check):
        (message,) = check()
        assert message.id == "osvi_django.W021"
        for part in ('"transaction_mode": "IMMEDIATE"', '"timeout": 20', "WAL"):
            assert part in message.msg
            assert part in message.hint

    def test_sqlite_with_recommended_options_reports_nothing(self, check):
        assert check(**RECOMMENDED) == []

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("transaction_mode", "DEFERRED"),
            ("transaction_mode", None),
            ("timeout", 5),
            ("timeout", None),
            ("init_command", ""),
            ("init_command", "PRAGMA journal_mode=DELETE"),
        ],
    )
    def test_sqlite_with_one_option_missing_reports_w021(self, check, key, value):
        assert ids(check(**{**RECOMMENDED, key: value})) == ["osvi_django.W021"]

    def test_sqlite_with_wal_stored_in_file_reports_nothing(self, check, tmp_path):
        database = sqlite3.connect(tmp_path / "db.sqlite3")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE a (b)")
        database.close()
        assert check(transaction_mode="immediate", timeout=30) == []

    @pytest.mark.parametrize("name", [":memory:", "file:x?mode=memory&cache=shared"])
    def test_sqlite_in_memory_reports_nothing(self, check, name):
        assert check(name) == []

    def test_sqlite_check_of_postgresql_reports_nothing(self, check):
        pytest.importorskip("psycopg")
        assert check("osvi", engine="postgresql") == []

    def test_sqlite_of_example_project_reports_nothing(self):
        assert check_sqlite() == []


class UsersElsewhere:
    """Route users to a database of their own."""

    def db_for_write(self, model, **hints):
        return "users" if model._meta.app_label == "auth" else None


class TestDatabases:
    @pytest.fixture
    def check(self, monkeypatch, settings):
        """Check with users in a database of this name."""

        def _check(name):
            where = {"ENGINE": "django.db.backends.sqlite3", "NAME": "sessions.sqlite3"}
            fresh = type(connections)({"default": where, "users": {**where, "NAME": name}})
            monkeypatch.setattr("osvi_django.environment_checks.connections", fresh)
            settings.DATABASE_ROUTERS = [UsersElsewhere()]
            return check_databases()

        return _check

    def test_users_in_other_database_report_e020_with_both_names(self, check):
        (message,) = check("users.sqlite3")
        assert (message.id, message.is_serious()) == ("osvi_django.E020", True)
        assert '"default"' in message.msg
        assert '"users"' in message.msg
        assert "DATABASE_ROUTERS" in message.hint

    def test_users_in_alias_of_same_database_report_nothing(self, check):
        assert check("sessions.sqlite3") == []

    def test_users_in_single_database_report_nothing(self):
        assert check_databases() == []


@pytest.mark.django_db
class TestAccounts:
    """The check ``check_accounts``, as ``check --database`` runs it."""

    @pytest.fixture(autouse=True)
    def accounts(self, settings):
        settings.OSVI = {"default": {"API_TOKEN": "sandbox-token-16"}}

    def test_accounts_that_are_removed_report_w022_with_their_names(self, capsys):
        for account in ("default", "outlet", "shop"):
            ChatAgentFactory.create_batch(2, account=account)
        call_command("check", databases=["default"])
        shown = capsys.readouterr().err
        assert "(osvi_django.W022)" in shown
        assert 'which chats on this site belong to: "outlet", "shop".' in shown

    def test_accounts_that_are_configured_report_nothing(self):
        ChatAgentFactory()
        assert check_accounts(databases=["default"]) == []

    @pytest.mark.parametrize("databases", [None, [], ["other"]])
    def test_accounts_in_a_database_that_is_not_named_are_not_read(
        self, databases, django_assert_num_queries
    ):
        ChatAgentFactory(account="outlet")
        with django_assert_num_queries(0):
            assert check_accounts(databases=databases) == []

    def test_accounts_with_invalid_settings_report_nothing(self, settings):
        ChatAgentFactory(account="outlet")
        settings.OSVI = {}
        assert check_accounts(databases=["default"]) == []

    def test_accounts_before_the_first_migration_report_nothing(self):
        gone = raise_on_queries(lambda _sql, _params: True, OperationalError("no such table"))
        with gone:
            assert check_accounts(databases=["default"]) == []
