"""System checks of what the app stands on: spools, and SQLite."""

from __future__ import annotations

import sqlite3

import pytest
from django.core.checks import run_checks
from django.db import connections

from osvi_django.environment_checks import check_databases, check_spools, check_sqlite

RIGHT = {
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

    def test_one_that_can_be_made_is_fine_and_is_not_made(self, spool_dir):
        assert check_spools() == []
        assert not spool_dir.exists()

    @pytest.mark.parametrize("mode", [0o700, 0o770, 0o2770])
    def test_one_that_can_be_written_is_fine_and_left_as_it_was(self, spool_dir, mode):
        spool_dir.mkdir()
        spool_dir.chmod(mode)
        assert check_spools() == []
        assert list(spool_dir.iterdir()) == []

    def test_one_that_all_may_see_is_said(self, spool_dir):
        spool_dir.mkdir()
        spool_dir.chmod(0o755)
        assert ids(check_spools()) == ["osvi_django.W020"]

    def test_one_that_cannot_be_used_is_said_once(self, spool_dir):
        spool_dir.touch()
        (message,) = check_spools()
        assert message.id == "osvi_django.W019"
        assert str(spool_dir) in message.msg
        assert "is not a directory" in message.msg

    @pytest.mark.parametrize("osvi", [None, {}, {"default": None}, {"default": {"SPOOL_DIR": 5}}])
    def test_settings_that_cannot_be_read_have_errors_of_their_own(self, settings, osvi):
        settings.OSVI = osvi
        assert check_spools() == []

    @pytest.mark.django_db
    def test_they_are_among_the_checks_that_the_command_runs(self, spool_dir):
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

    def test_as_django_sets_it_up_it_is_said(self, check):
        (message,) = check()
        assert message.id == "osvi_django.W021"
        for part in ('"transaction_mode": "IMMEDIATE"', '"timeout": 20', "WAL"):
            assert part in message.msg
            assert part in message.hint

    def test_as_it_should_be_nothing_is_said(self, check):
        assert check(**RIGHT) == []

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
    def test_one_that_is_missing_is_said(self, check, key, value):
        assert ids(check(**{**RIGHT, key: value})) == ["osvi_django.W021"]

    def test_a_file_that_has_its_journal_mode_for_good_is_fine(self, check, tmp_path):
        database = sqlite3.connect(tmp_path / "db.sqlite3")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE a (b)")
        database.close()
        assert check(transaction_mode="immediate", timeout=30) == []

    @pytest.mark.parametrize("name", [":memory:", "file:x?mode=memory&cache=shared"])
    def test_in_memory_nothing_is_said(self, check, name):
        assert check(name) == []

    def test_of_another_database_nothing_is_said(self, check):
        pytest.importorskip("psycopg")
        assert check("osvi", engine="postgresql") == []

    def test_the_example_project_is_as_it_should_be(self):
        assert check_sqlite() == []


class UsersElsewhere:
    """A router of a host that keeps users in a database of their own."""

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

    def test_users_in_another_database_are_an_error_that_names_both(self, check):
        (message,) = check("users.sqlite3")
        assert (message.id, message.is_serious()) == ("osvi_django.E020", True)
        assert '"default"' in message.msg
        assert '"users"' in message.msg
        assert "DATABASE_ROUTERS" in message.hint

    def test_another_name_of_the_same_database_is_fine(self, check):
        assert check("sessions.sqlite3") == []

    def test_one_database_is_fine(self):
        assert check_databases() == []
