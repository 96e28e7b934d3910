"""Test the pytest plugin: a sandbox for each test, and no calls to other machines."""

import os
import subprocess
import sys

import pytest
import requests
from django.conf import settings as django_settings

from osvi_django.client import OSVIClient
from osvi_django.client.connections import NetworkRefused
from osvi_django.exceptions import OSVIError, OSVINotConfigured
from osvi_django.models import ChatSession, CloseAttempt
from osvi_django.network import refusals
from osvi_django.services import close_session
from osvi_django.services.jobs import create_close_job, run_close_job
from osvi_django.testing.factories import ChatSessionFactory
from tests.helpers.raw_server import RawServer, close_response

pytest_plugins = ["pytester"]


def test_sandbox_fixture_points_default_account_at_sandbox(osvi_sandbox, settings):
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


def test_sandbox_fixture_keeps_other_settings(configured, osvi_sandbox, settings):
    default = dict(settings.OSVI["default"])
    assert not default.pop("SPOOL_DIR").exists()
    assert default == {
        "API_TOKEN": osvi_sandbox.token,
        "BASE_URL": osvi_sandbox.url,
        "READ_TIMEOUT": 2,
    }
    assert settings.OSVI["second"] == {"API_TOKEN": "token-of-another"}
    assert osvi_sandbox.token == "sandbox-token-16"


@pytest.fixture
def unconfigured(settings):
    del settings.OSVI


def test_sandbox_fixture_without_osvi_setting_adds_default_account(
    unconfigured, osvi_sandbox, settings
):
    assert set(settings.OSVI) == {"default"}


def test_sandbox_fixture_changes_django_settings(osvi_sandbox):
    assert django_settings.OSVI["default"]["BASE_URL"] == osvi_sandbox.url


def test_sandbox_fixture_stops_sandbox_after_test(pytester):
    """Run a separate pytest, which finds the plugin by its entry point."""
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


# 192.0.2.0/24 is reserved for documentation: its packets arrive nowhere.
CLIENT = """
    import threading
    from contextlib import suppress
    import pytest
    from osvi_django.client import NetworkRefused, OSVIClient
    from osvi_django.exceptions import OSVIUnreachable

    URL = "https://192.0.2.1"

    def close(url=URL):
        client = OSVIClient(token="a" * 16, base_url=url, connect_timeout=0.05, deadline=0.2)
        return client.close_session("s-1", agent_uuid="agent_1")
"""


@pytest.fixture
def run(pytester):
    """Run tests with a separate pytest, which finds the plugin by its entry point."""

    def _run(tests, ini=""):
        pytester.makepyfile(CLIENT + tests)
        pytester.makefile(".ini", pytest=f"[pytest]\n{ini}")
        return pytester.runpytest_inprocess("-p", "no:randomly", "-p", "no:django")

    return _run


@pytest.mark.parametrize(
    "url", ["https://192.0.2.1", "https://api.osvi.ai", "https://[2001:db8::1]"]
)
def test_call_to_other_machine_fails_test_with_hint_to_mark(run, url):
    result = run(
        f"""
    def test_one():
        close("{url}")
    """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*nothing was sent*@pytest.mark.osvi_allow_network*"])
    result.stdout.fnmatch_lines(["*osvi_allow_network = true*"])


def test_call_to_other_machine_in_fixture_is_an_error(run):
    result = run(
        """
    @pytest.fixture
    def closed():
        return close()

    def test_one(closed):
        pass
    """
    )
    result.assert_outcomes(errors=1)


ALLOWED = """
    def test_one():
        with pytest.raises(OSVIUnreachable):
            close()
"""


MARK = "\n    @pytest.mark.osvi_allow_network"


def test_call_to_other_machine_in_marked_test_is_allowed(run):
    run(
        "\n    @pytest.mark.osvi_allow_network" + ALLOWED, "addopts = --strict-markers"
    ).assert_outcomes(passed=1)


def test_mark_of_one_test_does_not_affect_next_test(run):
    run(MARK + ALLOWED + ALLOWED.replace("test_one", "test_two")).assert_outcomes(
        passed=1, failed=1
    )


def test_allow_network_option_allows_all_tests(run):
    run(ALLOWED, "osvi_allow_network = true").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    "tests",
    [
        # As a view or a periodic task does.
        """
    import contextlib

    def test_one():
        exec(compile("with suppress(Exception): close()", "host.py", "exec"))
    """,
        """
    def test_one():
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()

    exec(compile("def run():\\n with suppress(Exception): close()", "host.py", "exec"))
    """,
    ],
    ids=["handled", "thread"],
)
def test_refusal_handled_by_other_code_fails_test(run, tests):
    result = run(tests)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*osvi_allow_network*"])


def test_refusal_expected_by_test_does_not_fail_test(run):
    expected = ALLOWED.replace("OSVIUnreachable", "Exception")
    run(expected).assert_outcomes(passed=1)


def test_inner_pytest_run_leaves_limit_of_outer_run(run):
    run(ALLOWED, "osvi_allow_network = true").assert_outcomes(passed=1)
    assert os.environ["OSVI_LOOPBACK_ONLY"] == "1"
    with pytest.raises(NetworkRefused):
        refused_call()


def refused_call(**options):
    options = {"base_url": "https://192.0.2.1", **options}
    return OSVIClient(token="a" * 16, **options).close_session("s-1", agent_uuid="agent_1")


def test_program_started_by_test_cannot_reach_other_machines():
    program = (
        "from osvi_django.client import OSVIClient\n"
        "client = OSVIClient(token='a' * 16, base_url='https://192.0.2.1')\n"
        "client.close_session('s-1', agent_uuid='agent_1')\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 1
    assert "nothing was sent" in result.stderr
    assert "Unset the environment variable OSVI_LOOPBACK_ONLY" in result.stderr


def test_call_to_other_machine_through_local_proxy_is_refused(monkeypatch):
    with RawServer(close_response()) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(NetworkRefused, match=r"192\.0\.2\.1"):
            refused_call()
        assert proxy.connections == 0


def test_call_through_proxy_on_other_machine_is_refused(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://192.0.2.7:3128")
    with pytest.raises(NetworkRefused, match=r"192\.0\.2\.7"):
        refused_call(base_url="https://osvi.invalid")


@pytest.fixture
def session(settings, db):
    settings.OSVI = {"default": {"API_TOKEN": "token-of-the-host", "BASE_URL": "https://192.0.2.1"}}
    return ChatSessionFactory(session_id="s-1", agent__uuid="agent_1", customer_id="+15551112222")


@pytest.mark.django_db(transaction=True)
def test_refused_close_leaves_session_unchanged(session):
    with pytest.raises(NetworkRefused) as caught:
        close_session(session)
    session.refresh_from_db()
    assert (session.status, session.claim) == (ChatSession.Status.ACTIVE, None)
    assert session.attempts.get().outcome == CloseAttempt.Outcome.NOT_SENT
    assert isinstance(caught.value, OSVINotConfigured)
    assert not isinstance(caught.value, OSVIError)


@pytest.mark.django_db(transaction=True)
def test_job_with_refused_closes_pauses_with_sessions_unchanged(session):
    job = create_close_job([session], start=False)
    job = run_close_job(job.pk)
    refusals.clear()  # else the plugin would fail this test
    session.refresh_from_db()
    assert (session.status, job.succeeded, job.is_finished) == ("active", 0, False)


@pytest.mark.django_db(transaction=True)
def test_view_with_refused_call_answers_503_and_records_refusal(session, api):
    response = api.post("/api/osvi/sessions/s-1/close/", {}, format="json")
    assert response.status_code == 503
    assert [error.host for error in refusals] == ["192.0.2.1"]
    refusals.clear()


def test_throttle_state_is_reset_after_each_test(run):
    result = run(
        """
    from osvi_django.exceptions import OSVIThrottled
    from osvi_django.client.throttle import throttle_for

    @pytest.mark.parametrize("again", [False, True])
    def test_one(again):
        throttle = throttle_for("default", URL, 1)
        assert throttle.seconds_of_retry_after == 0
        throttle.record_failure(1e12, OSVIThrottled("Busy.", retry_after=300))
        assert throttle.seconds_of_retry_after > 0
    """
    )
    result.assert_outcomes(passed=2)
