"""Test the system checks of settings: ids, hints, and no secrets."""

from __future__ import annotations

import importlib
import re
import socket
import sys
from io import StringIO

import pytest
from django.core.checks import registry, run_checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.test import override_settings

from osvi_django import checks
from osvi_django.checks import check_retention, check_settings
from osvi_django.conf import CONTEXT_KEPT, KEYS, RETENTION_KINDS
from tests.executors.queues import PACKAGE, backend

# The backport notices a change of TASKS only after this import.
importlib.import_module(f"{PACKAGE}.signals")

TOKEN = "sandbox-token-16"
IDS = {
    "API_TOKEN": "osvi_django.E003",
    "BASE_URL": "osvi_django.E004",
    "CLOSE_WITH": "osvi_django.E005",
    "CONNECT_TIMEOUT": "osvi_django.E006",
    "READ_TIMEOUT": "osvi_django.E007",
    "DEADLINE": "osvi_django.E008",
    "CONCURRENCY": "osvi_django.E009",
    "LEASE_TIMEOUT": "osvi_django.E010",
    "SPOOL_DIR": "osvi_django.E011",
    "IDLE_TIMEOUT": "osvi_django.E018",
    "DASHBOARD_URL": "osvi_django.E021",
    "LIVE_INTERVAL": "osvi_django.E022",
    "CLOSE_REASONS": "osvi_django.E023",
    "NOTE_REQUIRED": "osvi_django.E024",
    "SHARE_SUMMARIES": "osvi_django.E025",
    "RETENTION": "osvi_django.E015",
}
EXECUTOR = "osvi_django.E013"
BULK_LIMIT = "osvi_django.E014"


def check(**accounts):
    """Check these accounts; return the ids and messages of the errors."""
    with override_settings(OSVI=accounts):
        found = check_settings(app_configs=None, databases=None)
    assert all(message.hint and message.hint.endswith(".") for message in found)
    assert TOKEN not in repr([vars(message) for message in found])
    return [(message.id, message.msg) for message in found]


def test_check_of_valid_account_reports_nothing():
    assert check(default={"API_TOKEN": TOKEN}) == []
    everything = {
        "API_TOKEN": TOKEN,
        "BASE_URL": "http://127.0.0.1:8800",
        "CLOSE_WITH": "v1",
        "CONNECT_TIMEOUT": 1,
        "READ_TIMEOUT": 2.5,
        "DEADLINE": 3,
        "IDLE_TIMEOUT": 5,
        "DASHBOARD_URL": "https://osvi.example/chats/{session_id}",
        "LIVE_INTERVAL": 0,
        "SHARE_SUMMARIES": 3,
        "CONCURRENCY": 1,
        "LEASE_TIMEOUT": 10,
        "SPOOL_DIR": "/var/spool/osvi",
        "CLOSE_REASONS": ["Answered", "x" * 100],
        "NOTE_REQUIRED": True,
        "RETENTION": {**dict.fromkeys(RETENTION_KINDS, 0.5), "summaries": None, "jobs": 0},
    }
    assert check(default=everything, other=everything) == []
    assert set(everything) <= KEYS


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("API_TOKEN", None),
        ("API_TOKEN", ""),
        ("API_TOKEN", 16),
        ("API_TOKEN", f"{TOKEN}\n"),
        ("API_TOKEN", f"{TOKEN} é"),
        ("API_TOKEN", "no.such.module.token"),
        ("BASE_URL", "http://api.osvi.ai"),
        ("BASE_URL", None),
        ("CLOSE_WITH", "v2"),
        ("CONNECT_TIMEOUT", 0),
        ("CONNECT_TIMEOUT", "5"),
        ("CONNECT_TIMEOUT", 10**400),
        ("READ_TIMEOUT", float("nan")),
        ("READ_TIMEOUT", True),
        ("DEADLINE", float("inf")),
        ("DEADLINE", 1),
        ("CLOSE_REASONS", "Answered"),
        ("CLOSE_REASONS", ["Answered", ""]),
        ("CLOSE_REASONS", ["x" * 101]),
        ("CLOSE_REASONS", [" Answered"]),
        ("CLOSE_REASONS", [1]),
        ("NOTE_REQUIRED", 1),
        ("CONCURRENCY", 0),
        ("CONCURRENCY", True),
        ("LEASE_TIMEOUT", 0.5),
        ("LEASE_TIMEOUT", "300"),
        ("SPOOL_DIR", "here"),
        ("IDLE_TIMEOUT", 0),
        ("DASHBOARD_URL", "https://osvi.example/chats/"),
        ("LIVE_INTERVAL", -1),
        ("SHARE_SUMMARIES", -1),
        ("SHARE_SUMMARIES", 6),
        ("SHARE_SUMMARIES", True),
        ("SHARE_SUMMARIES", "2"),
        ("RETENTION", 30),
        ("RETENTION", None),
        ("RETENTION", {"answers": 30}),
        ("RETENTION", {"summaries": -1}),
        ("RETENTION", {"summaries": "30"}),
        ("RETENTION", {"summaries": True}),
        ("RETENTION", {"summaries": float("nan")}),
        ("RETENTION", {"summaries": 10**9}),
        ("RETENTION", {"idempotency": 0}),
    ],
)
def test_check_of_invalid_value_reports_id_of_its_key(key, value):
    ((check_id, message),) = check(eu={"API_TOKEN": TOKEN, key: value})
    assert check_id == IDS[key]
    assert message.startswith(f'OSVI["eu"]["{key}"] ')


def test_check_of_too_many_summaries_names_the_limit():
    ((_check_id, message),) = check(eu={"API_TOKEN": TOKEN, "SHARE_SUMMARIES": 100})
    assert message.endswith("must be a whole number from 0 to 5, which is what OSVI keeps.")
    assert check(eu={"API_TOKEN": TOKEN, "SHARE_SUMMARIES": CONTEXT_KEPT}) == []


def test_check_of_wrong_retention_says_what_is_wrong():
    ((_check_id, message),) = check(eu={"API_TOKEN": TOKEN, "RETENTION": {"summary": 30}})
    assert message == 'OSVI["eu"]["RETENTION"] has an unknown kind "summary".'
    ((_check_id, message),) = check(eu={"API_TOKEN": TOKEN, "RETENTION": {"jobs": "1"}})
    assert message.endswith('must have a number of days from 0 to 36500 or None for "jobs".')
    ((_check_id, message),) = check(eu={"API_TOKEN": TOKEN, "RETENTION": {"idempotency": 0}})
    assert message.endswith('needs more than 0 and at most 36500 for "idempotency".')


def test_hint_of_wrong_retention_is_about_the_kind_or_its_period():
    hints = {}
    for wrong in ({"summary": 30}, {"jobs": "1"}):
        with override_settings(OSVI={"default": {"API_TOKEN": TOKEN, "RETENTION": wrong}}):
            hints[(*wrong,)] = [each.hint for each in check_settings()]
    assert hints["summary",][0].startswith("Kinds are raw_answers, texts, ")
    assert hints["jobs",] == ['Write it like {"jobs": 30}. None means forever.']


@pytest.mark.django_db
def test_deploy_check_warns_of_each_account_without_retention():
    accounts = {"default": {"API_TOKEN": TOKEN}, "eu": {"API_TOKEN": TOKEN, "RETENTION": {}}}
    with override_settings(OSVI=accounts):
        found = [each for each in run_checks(include_deployment_checks=True) if "W023" in each.id]
        assert not any("W023" in each.id for each in run_checks())
    assert [each.msg for each in found] == [
        'OSVI["default"] has no RETENTION, so most personal data is kept forever.'
    ]
    with override_settings(OSVI=None):
        assert check_retention() == []


def test_check_of_missing_token_reports_e003():
    ((check_id, message),) = check(default={})
    assert (check_id, message) == (IDS["API_TOKEN"], 'OSVI["default"]["API_TOKEN"] is missing.')


def test_check_of_unknown_key_reports_e002():
    ((check_id, message),) = check(default={"API_TOKEN": TOKEN, "TIMEOUT": 5})
    assert (check_id, message) == (
        "osvi_django.E002",
        'OSVI["default"]["TIMEOUT"] is not a setting.',
    )


def test_check_of_several_accounts_reports_every_error():
    broken = {"TIMEOUT": 1, **dict.fromkeys(IDS, object())}
    found = check(one=broken, two={}, three=None, four={"API_TOKEN": TOKEN})
    ids = sorted(["osvi_django.E002", *IDS.values()])
    assert sorted(check_id for check_id, message in found if '"one"' in message) == ids
    assert [check_id for check_id, message in found if '"two"' in message] == [IDS["API_TOKEN"]]
    assert [check_id for check_id, message in found if '"three"' in message] == ["osvi_django.E001"]
    assert not any('"four"' in message for _, message in found)


def test_check_of_invalid_connect_timeout_does_not_report_deadline():
    found = check(default={"API_TOKEN": TOKEN, "CONNECT_TIMEOUT": -1, "DEADLINE": 9})
    assert [check_id for check_id, _ in found] == [IDS["CONNECT_TIMEOUT"]]


@pytest.mark.parametrize("accounts", [None, {}, [], "text"])
def test_check_of_setting_without_account_reports_e001(accounts):
    with override_settings(OSVI=accounts):
        (message,) = check_settings()
    assert message.id == "osvi_django.E001"
    assert "OSVI_API_TOKEN" in message.hint


def test_check_of_account_name_that_is_no_text_reports_e001():
    with override_settings(OSVI={1: {"API_TOKEN": TOKEN}}):
        (message,) = check_settings()
    assert message.id == "osvi_django.E001"


def check_site(**settings):
    """Check these settings with a valid account; return the ids, messages and hints."""
    with override_settings(OSVI={"default": {"API_TOKEN": TOKEN}}, **settings):
        return [(message.id, message.msg, message.hint) for message in check_settings()]


@pytest.mark.parametrize("name", ["thread", "immediate", "django_tasks"])
def test_check_of_executors_of_package_reports_nothing(name):
    assert check_site(OSVI_EXECUTOR=f"osvi_django.executors.{name}") == []


def test_check_without_executor_reports_nothing():
    assert check_site(OSVI_EXECUTOR=None) == []


@pytest.mark.parametrize("path", ["celery", "osvi_django.executors.celery", f"{__name__}.TOKEN"])
def test_check_of_unusable_executor_reports_e013(path):
    ((check_id, message, hint),) = check_site(OSVI_EXECUTOR=path)
    assert check_id == EXECUTOR
    assert message.startswith("OSVI_EXECUTOR ")
    assert "osvi_django.executors.thread" in hint


@pytest.fixture
def no_task_queues(monkeypatch):
    """Make Django's task queues and the backport impossible to import."""
    monkeypatch.delitem(sys.modules, "osvi_django.tasks", raising=False)
    for name in ("django.tasks", "django_tasks"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("no_task_queues")
def test_check_of_executor_without_task_queues_reports_e013():
    ((check_id, message, hint),) = check_site(OSVI_EXECUTOR="osvi_django.executors.django_tasks")
    assert check_id == EXECUTOR
    assert "nor django-tasks" in message
    assert "pip install django-tasks" in hint
    assert check_site() == []


@pytest.mark.parametrize("path", ["tenants", "no.such.module", f"{__name__}.TOKEN", 5])
def test_check_of_unusable_thread_context_reports_e017(path):
    ((check_id, message, hint),) = check_site(OSVI_THREAD_CONTEXT=path)
    assert check_id == "osvi_django.E017"
    assert message.startswith("OSVI_THREAD_CONTEXT ")
    assert "returns a context manager" in hint


@pytest.mark.parametrize("path", [None, f"{__name__}.vault"])
def test_check_of_thread_context_does_not_call_it(path):
    calls.clear()
    assert check_site(OSVI_THREAD_CONTEXT=path) == []
    assert calls == []


@pytest.mark.parametrize("tasks", [backend("immediate", QUEUES=["slow"]), {"slow": {}}])
def test_check_of_executor_without_default_queue_reports_e013(settings, monkeypatch, tasks):
    monkeypatch.delitem(sys.modules, "osvi_django.tasks", raising=False)
    settings.TASKS = tasks
    ((check_id, message, hint),) = check_site(OSVI_EXECUTOR="osvi_django.executors.django_tasks")
    assert check_id == EXECUTOR
    assert message.startswith('OSVI_EXECUTOR needs the queue "default" of TASKS["default"]: ')
    assert hint.endswith(".")


@pytest.mark.parametrize("value", [0, True, "10", None, 2.5])
def test_check_of_unusable_bulk_limit_reports_e014(value):
    ((check_id, message, hint),) = check_site(OSVI_BULK_LIMIT=value)
    assert (check_id, hint) == (BULK_LIMIT, "The default is 10000.")
    assert message == "OSVI_BULK_LIMIT is not a whole number of 1 or more."


def test_check_with_invalid_accounts_also_reports_site_settings():
    with override_settings(OSVI=None, OSVI_BULK_LIMIT=0, OSVI_EXECUTOR=5):
        ids = [message.id for message in check_settings()]
    assert ids == ["osvi_django.E001", EXECUTOR, BULK_LIMIT]


calls = []


def vault():
    calls.append(1)
    raise RuntimeError(TOKEN)


@pytest.mark.parametrize("source", [vault, f"{__name__}.vault", "abc.defg.hij.klm"])
def test_check_of_callable_token_does_not_call_it(source):
    assert check(default={"API_TOKEN": source}) == []
    assert calls == []


def test_check_of_token_in_broken_module_reports_e003(tmp_path, monkeypatch):
    (tmp_path / "broken_secrets.py").write_text(f"raise RuntimeError({TOKEN!r})")
    monkeypatch.syspath_prepend(tmp_path)
    ((check_id, message),) = check(default={"API_TOKEN": "broken_secrets.token"})
    assert check_id == IDS["API_TOKEN"]
    assert "RuntimeError" in message


def test_check_uses_neither_network_nor_database(monkeypatch):
    """Run without the ``db`` mark: pytest-django then blocks the database."""

    def refuse(*args, **kwargs):
        raise AssertionError("the checks asked the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert check(default={"API_TOKEN": TOKEN, "BASE_URL": "https://osvi.invalid"}) == []


def test_docstring_lists_ids_of_all_checks():
    table = re.findall(r"^(osvi_django\.E\d+)   ``(\w+)``", checks.__doc__, re.MULTILINE)
    every = re.findall(r"^osvi_django\.E(\d+)", checks.__doc__, re.MULTILINE)
    assert every == [f"{number:03}" for number in range(1, len(every) + 1)]
    listed = {name: check_id for check_id, name in table if name != "OSVI"}
    known = {**checks._CHECKS, **checks._SITE_CHECKS}
    assert listed == {key: check_id for key, (check_id, _) in known.items()}
    assert listed.items() >= IDS.items()
    assert set(checks._CHECKS) == KEYS


@pytest.mark.django_db  # for Django's own checks: JSONField's asks the database
def test_check_command_with_invalid_setting_fails_with_hint():
    assert check_settings in registry.registry.get_checks()
    with override_settings(OSVI={"default": {"API_TOKEN": TOKEN, "DEADLINE": "9"}}):
        assert "osvi_django.E008" in [message.id for message in run_checks()]
        with pytest.raises(SystemCheckError) as caught:
            call_command("check", stdout=StringIO(), stderr=StringIO())
    shown = str(caught.value)
    assert '(osvi_django.E008) OSVI["default"]["DEADLINE"] is not a positive number' in shown
    assert "HINT: The default is 90." in shown
    assert TOKEN not in shown


@pytest.mark.django_db
def test_check_command_with_valid_account_reports_no_issues():
    out = StringIO()
    with override_settings(OSVI={"default": {"API_TOKEN": TOKEN}}):
        call_command("check", "osvi_django", stdout=out, stderr=StringIO())
    assert "no issues" in out.getvalue()
