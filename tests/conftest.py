"""Fixtures for several test packages."""

from __future__ import annotations

import os
import signal
import sys
from importlib import reload

import pytest
from django.apps import apps
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.management import create_contenttypes
from django.contrib.contenttypes.models import ContentType
from django.db import connections
from django.db.models.signals import post_migrate
from django.test import override_settings
from rest_framework.test import APIClient

from osvi_django.exceptions import OSVINoAnswer
from osvi_django.services import close_session
from osvi_django.services.export import workbook
from tests.helpers.sandbox import mirror


def pytest_configure(config):
    # Coverage measures the workers of pytest, but not the programs that tests start.
    starts_workers = config.getoption("numprocesses") and not hasattr(config, "workerinput")
    if not starts_workers:
        os.environ.pop("COVERAGE_PROCESS_CONFIG", None)
    # A suite in a shell's background ignores Ctrl-C, and the programs that it starts would
    # inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def django_db_modify_db_settings(tmp_path_factory, django_db_modify_db_settings_parallel_suffix):
    """Use SQLite in a file, as in production: threads and other processes must see the same rows.

    Nothing waits for the disk: a test database need not survive the machine.
    """
    connection = connections["default"]
    settings = connection.settings_dict
    if connection.vendor == "sqlite":
        settings["TEST"]["NAME"] = str(tmp_path_factory.mktemp("database") / "test.sqlite3")
        first = settings["OPTIONS"].get("init_command", "")
        settings["OPTIONS"]["init_command"] = f"{first};PRAGMA synchronous=OFF"
    elif connection.vendor == "postgresql":
        settings["OPTIONS"]["options"] = "-c synchronous_commit=off"


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup, django_db_blocker):
    """Empty the tables after a test that commits in milliseconds.

    Django makes content types and permissions app by app, with dozens of queries: here they are
    written back at once. PostgreSQL truncates in tenths of a second what it deletes in no time.
    """
    connection = connections["default"]
    if connection.vendor == "postgresql":
        connection.ops.sql_flush = lambda _style, tables, **_options: [
            f"DELETE FROM {connection.ops.quote_name(table)}"  # noqa: S608 - Django's own names
            for table in tables
        ]
    with django_db_blocker.unblock():
        tables = [list(model.objects.all()) for model in (ContentType, Permission)]

    def write_back(using, **_kwargs):
        for rows in tables:
            type(rows[0]).objects.using(using).bulk_create(rows)

    post_migrate.disconnect(create_contenttypes)
    post_migrate.disconnect(dispatch_uid="django.contrib.auth.management.create_permissions")
    post_migrate.connect(write_back, sender=apps.get_app_config("contenttypes"), weak=False)


@pytest.fixture(autouse=True, scope="session")
def fast_password_hasher():
    """Hash passwords fast, as no test depends on their strength."""
    with override_settings(PASSWORD_HASHERS=["tests.helpers.hashers.FastPasswordHasher"]):
        yield


@pytest.fixture(autouse=True)
def own_accounts(settings):
    """Give each test its own accounts: what it changes in one does not reach the next test."""
    settings.OSVI = {alias: {**options} for alias, options in settings.OSVI.items()}


@pytest.fixture(autouse=True)
def cold_content_types():
    """Look content types up in each test, so that its queries do not depend on the order."""
    ContentType.objects.clear_cache()


@pytest.fixture
def grant():
    """Give a user permissions of this app, by codename."""

    def _grant(user, *codenames):
        found = Permission.objects.filter(
            content_type__app_label="osvi_django", codename__in=codenames
        )
        assert found.count() == len(codenames)
        user.user_permissions.add(*found)
        return type(user).objects.get(pk=user.pk)

    return _grant


@pytest.fixture
def staff(db, django_user_model, grant):
    """Create a member of the support staff who may see and close sessions and read summaries."""
    user = django_user_model.objects.create_user("sam", is_staff=True)
    return grant(user, "view_chatsession", "close_chatsession", "view_sessionsummary")


@pytest.fixture
def api(staff):
    """Return a REST client of a member of the support staff."""
    client = APIClient()
    client.force_authenticate(staff)
    return client


@pytest.fixture
def operator(staff, grant):
    """Return a REST client of a member of the support staff who may also operate sessions."""
    client = APIClient()
    client.force_authenticate(grant(staff, "operate_chatsession"))
    return client


@pytest.fixture
def mirrored(osvi_sandbox, db):
    """Return a function that creates a session here and at the sandbox."""
    return lambda **fields: mirror(osvi_sandbox, **fields)


@pytest.fixture
def unconfirmed(mirrored, osvi_sandbox):
    """Return a function that creates an unconfirmed session, whose close met this fault."""

    def _unconfirmed(fault, **fields):
        session = mirrored(**fields)
        osvi_sandbox.script(session.session_id, fault)
        with pytest.raises(OSVINoAnswer):
            close_session(session)
        return session

    return _unconfirmed


@pytest.fixture
def without_xlsx(monkeypatch):
    """Let this site lack the extra ``xlsx``."""
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "xlsxwriter", None)
        reload(workbook)
        yield
    reload(workbook)
