"""Two tenants: sessions of each, and users who may do everything with those of tenant A."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from rest_framework.test import APIClient

from osvi_django.testing.factories import ChatAgentFactory
from tests.helpers.sandbox import mirror
from tests.helpers.tenants import narrow

EVERYTHING = (
    "view_chatsession",
    "close_chatsession",
    "operate_chatsession",
    "view_sessionsummary",
    "export_chatsession",
    "view_closejob",
    "erase_customer",
    "view_chatagent",
    "add_chatagent",
    "change_chatagent",
    "delete_chatagent",
    "view_webhookdelivery",
    "view_webhookreceiver",
)


@pytest.fixture(autouse=True)
def no_executor(settings):
    """Let each job wait until a test runs it."""
    settings.OSVI_EXECUTOR = None


@pytest.fixture(autouse=True)
def keep_test_transaction(monkeypatch):
    """Keep REST framework from rolling back the test's own transaction after an error."""
    monkeypatch.setattr("rest_framework.views.set_rollback", lambda: None)


@pytest.fixture
def tenants(settings):
    """Narrow the access of each user to the sessions and agents of their tenant."""
    narrow(settings)


@pytest.fixture
def user_of(db, django_user_model, grant):
    """Return a function that creates a user of a tenant, with all permissions or only these."""

    def _user_of(tenant, *codenames):
        user = django_user_model.objects.create_user(
            f"user-of-{tenant}", first_name=tenant, is_staff=True
        )
        return grant(user, *(codenames or EVERYTHING))

    return _user_of


@pytest.fixture
def ann(user_of, tenants):
    """Return a user of tenant A who may do everything."""
    return user_of("A")


@pytest.fixture
def bob(user_of, tenants):
    """Return a user of tenant B who may do everything."""
    return user_of("B")


@pytest.fixture
def api_of():
    """Return a function that returns the REST client of a user."""

    def _api_of(user):
        client = APIClient(raise_request_exception=True)
        client.force_authenticate(user)
        return client

    return _api_of


@pytest.fixture
def chats(osvi_sandbox, db):
    """Create an open session of each tenant, here and at OSVI."""
    return SimpleNamespace(
        # Keys that are on a page only as what they are.
        a=mirror(osvi_sandbox, agent=ChatAgentFactory(pk=700_001, name="A one", uuid="agent_of_a")),
        b=mirror(osvi_sandbox, agent=ChatAgentFactory(pk=700_002, name="B one", uuid="agent_of_b")),
    )
