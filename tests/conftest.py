"""Fixtures that several test modules share."""

from __future__ import annotations

import signal

import pytest
from django.contrib.auth.models import Permission
from django.db import connections
from rest_framework.test import APIClient

from osvi_django.exceptions import OSVINoAnswer
from osvi_django.services import close_session
from tests.mirroring import mirror


def pytest_configure():
    # A suite in a shell's background ignores Ctrl-C, and so would the programs that it starts,
    # which are to heed it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def django_db_modify_db_settings(tmp_path_factory):
    """SQLite in a file, as in production: threads and other processes must see the same rows."""
    settings = connections["default"].settings_dict
    if settings["ENGINE"].endswith("sqlite3"):
        settings["TEST"]["NAME"] = str(tmp_path_factory.mktemp("database") / "test.sqlite3")


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
    """A member of the support staff, who may see and close sessions and read summaries."""
    user = django_user_model.objects.create_user("sam", is_staff=True)
    return grant(user, "view_chatsession", "close_chatsession", "view_sessionsummary")


@pytest.fixture
def api(staff):
    """A REST client of a member of the support staff."""
    client = APIClient()
    client.force_authenticate(staff)
    return client


@pytest.fixture
def mirrored(osvi_sandbox, db):
    """Make a session that is here and at the sandbox."""
    return lambda **fields: mirror(osvi_sandbox, **fields)


@pytest.fixture
def unconfirmed(mirrored, osvi_sandbox):
    """Make a session whose close was answered by nobody, in the way of this fault."""

    def _unconfirmed(fault, **fields):
        session = mirrored(**fields)
        osvi_sandbox.script(session.session_id, fault)
        with pytest.raises(OSVINoAnswer):
            close_session(session)
        return session

    return _unconfirmed
