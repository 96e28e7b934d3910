"""The fixture points the default account at a running sandbox, for one test."""

import pytest
import requests
from django.conf import settings as django_settings

pytest_plugins = ["pytester"]


def test_the_default_account_points_at_the_sandbox(osvi_sandbox, settings):
    account = settings.OSVI["default"]
    assert account["BASE_URL"] == osvi_sandbox.url
    headers = {"API-Token": account["API_TOKEN"]}
    answer = requests.get(f"{account['BASE_URL']}/v1/active_agents", headers=headers, timeout=5)
    assert answer.status_code == 200
    assert len(osvi_sandbox.requests) == 1


@pytest.fixture
def configured(settings):
    settings.OSVI = {
        "default": {"API_TOKEN": "token-of-the-host", "READ_TIMEOUT": 2},
        "second": {"API_TOKEN": "token-of-another"},
    }


def test_what_else_is_configured_stays(configured, osvi_sandbox, settings):
    assert {
        "default": {
            "API_TOKEN": osvi_sandbox.token,
            "BASE_URL": osvi_sandbox.url,
            "READ_TIMEOUT": 2,
        },
        "second": {"API_TOKEN": "token-of-another"},
    } == settings.OSVI
    assert osvi_sandbox.token == "sandbox-token-16"


@pytest.fixture
def unconfigured(settings):
    del settings.OSVI


def test_a_project_that_has_configured_nothing(unconfigured, osvi_sandbox, settings):
    assert set(settings.OSVI) == {"default"}


def test_django_sees_it(osvi_sandbox):
    assert django_settings.OSVI["default"]["BASE_URL"] == osvi_sandbox.url


def test_the_sandbox_ends_with_its_test(pytester):
    """Run by a pytest of its own, with the plugin found by its entry point."""
    pytester.makeconftest(
        """
        import pytest, types

        @pytest.fixture
        def settings():
            return types.SimpleNamespace()
        """
    )
    pytester.makepyfile(
        """
        import pytest, socket

        seen = []

        def test_one(osvi_sandbox):
            seen.append(osvi_sandbox.port)
            socket.create_connection(("127.0.0.1", osvi_sandbox.port)).close()

        def test_two():
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", seen[0]))
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:randomly", "-p", "no:django")
    result.assert_outcomes(passed=2)
