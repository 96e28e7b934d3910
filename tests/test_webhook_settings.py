"""The settings of webhooks, and what ``manage.py check`` says about them."""

from __future__ import annotations

import base64

import pytest
from django.test import override_settings

from osvi_django import conf
from osvi_django.checks import check_settings
from osvi_django.conf import (
    DEFAULT_WEBHOOK_RETRY,
    EVENTS,
    InvalidSetting,
    Webhook,
    event_executor,
    longest_retention,
    webhook_retry,
    webhooks,
)
from osvi_django.executors import deliver_in_thread
from osvi_django.models import WebhookDelivery

URL = "https://crm.example/hooks/very-secret"
KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
VALID = {"URL": URL, "SECRETS": [SECRET]}


def check(*entries, **others):
    """Check these receivers; return the ids and messages of the errors."""
    accounts = {"default": {"API_TOKEN": "sandbox-token-16"}}
    given = {"OSVI_WEBHOOKS": list(entries), **others}
    with override_settings(OSVI=accounts, **given):
        found = check_settings(app_configs=None, databases=None)
    assert all(message.hint and message.hint.endswith(".") for message in found)
    assert not any(secret in str(vars(message)) for message in found for secret in (SECRET, URL))
    return [(message.id, message.msg) for message in found]


def test_check_of_valid_receivers_reports_nothing():
    local = {"URL": "http://127.0.0.1:8000/hook?key=1", "ALLOW_PRIVATE": True}
    others = {"EVENTS": ["session.closed"], "INCLUDE_SUMMARY": True, "INCLUDE_CUSTOMER": False}
    assert check(VALID, {**VALID, **local, **others}) == []
    assert check() == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"URL": None}, '["URL"] is not a URL.'),
        ({"URL": "https://crm.example/" + 2000 * "x"}, '["URL"] is not a URL.'),
        ({"URL": "https:///hook"}, '["URL"] must consist of scheme, host, path and query only.'),
        ({"URL": "https://a:b@c/"}, '["URL"] must consist of scheme, host, path and query only.'),
        ({"URL": "https://c/#part"}, '["URL"] must consist of scheme, host, path and query only.'),
        (
            {"URL": "http://crm.example/"},
            '["URL"] does not use https (http is for private addresses, with ALLOW_PRIVATE).',
        ),
        ({"EVENTS": []}, '["EVENTS"] must be a list of names of events.'),
        ({"EVENTS": "session.closed"}, '["EVENTS"] must be a list of names of events.'),
        ({"EVENTS": [1]}, '["EVENTS"] must be a list of names of events.'),
        ({"EVENTS": ["session.open"]}, '["EVENTS"] has an unknown event "session.open".'),
        ({"ALLOW_PRIVATE": 1}, '["ALLOW_PRIVATE"] must be True or False.'),
        ({"INCLUDE_SUMMARY": None}, '["INCLUDE_SUMMARY"] must be True or False.'),
        ({"INCLUDE_CUSTOMER": "no"}, '["INCLUDE_CUSTOMER"] must be True or False.'),
        ({"SECRET": SECRET[:9]}, '["SECRET"] is not a setting.'),
    ],
)
def test_check_of_invalid_entry_names_it_and_its_key(changes, problem):
    assert check(VALID, {**VALID, **changes}) == [
        ("osvi_django.E026", f"OSVI_WEBHOOKS[1]{problem}")
    ]


@pytest.mark.parametrize(
    "secrets",
    [
        None,
        [],
        SECRET,
        [SECRET, 7],
        [SECRET.removeprefix("whsec_")],
        ["whsec_not base64!"],
        ["whsec_é"],
        ["whsec_" + base64.b64encode(bytes(23)).decode()],
        ["whsec_" + base64.b64encode(bytes(65)).decode()],
    ],
)
def test_check_of_secrets_that_cannot_be_used_says_what_they_are(secrets):
    problem = "must be a list of secrets: 24 to 64 bytes in base64 after whsec_"
    found = check({"URL": URL, "SECRETS": secrets})
    assert found == [("osvi_django.E026", f'OSVI_WEBHOOKS[0]["SECRETS"] {problem}.')]


def test_check_of_two_entries_with_one_url_reports_the_second():
    found = check(VALID, VALID)
    assert found == [("osvi_django.E026", 'OSVI_WEBHOOKS[1]["URL"] is that of an entry before it.')]


def test_check_of_what_is_not_a_list_of_entries_reports_that():
    assert check(VALID, "https://crm.example") == [
        ("osvi_django.E026", "OSVI_WEBHOOKS[1] is not a dictionary.")
    ]
    assert check(OSVI_WEBHOOKS=VALID) == [("osvi_django.E026", "OSVI_WEBHOOKS is not a list.")]


@pytest.mark.parametrize("pauses", [None, 5, [0], ["5"], [100_000]])
def test_check_of_invalid_retry_reports_it(pauses):
    (found,) = check(OSVI_WEBHOOK_RETRY=pauses)
    assert found[0] == "osvi_django.E027"


def test_defaults_are_those_of_standard_webhooks(settings):
    del settings.OSVI_WEBHOOKS
    assert webhooks() == []
    assert webhook_retry() == DEFAULT_WEBHOOK_RETRY
    assert 27 < sum(DEFAULT_WEBHOOK_RETRY) / 3600 < 29
    assert longest_retention("events") == 30
    settings.OSVI_WEBHOOK_RETRY = []
    assert webhook_retry() == ()


def test_receiver_shows_neither_its_url_nor_its_secrets():
    receiver = Webhook(0, VALID)
    assert (receiver.host, receiver.secrets) == ("crm.example", (KEY,))
    assert receiver.events == frozenset(EVENTS)
    assert (receiver.allow_private, receiver.include_summary) == (False, False)
    shown = repr([receiver, receiver.url, receiver.secrets])
    assert shown == "[Webhook(0), [hidden], ([hidden],)]"
    assert receiver.key == Webhook(3, {"URL": URL}).key
    assert receiver.key not in URL
    with pytest.raises(InvalidSetting):
        Webhook(0, {}).key  # noqa: B018


def test_events_of_settings_are_those_of_the_model():
    assert list(EVENTS) == WebhookDelivery.Event.values


def test_executor_of_events_belongs_to_that_of_jobs(settings):
    assert event_executor() is deliver_in_thread
    for path in conf._EVENT_EXECUTORS:
        settings.OSVI_EXECUTOR = path
        assert callable(event_executor())
    for others in (None, "myproject.queues.run_job", []):
        settings.OSVI_EXECUTOR = others
        assert event_executor() is None


def test_executor_of_events_may_be_another_than_that_of_jobs(settings):
    settings.OSVI_EXECUTOR = "myproject.queues.run_job"
    settings.OSVI_EVENT_EXECUTOR = "osvi_django.executors.deliver_in_thread"
    assert event_executor() is deliver_in_thread
    settings.OSVI_EXECUTOR = "osvi_django.executors.thread"
    settings.OSVI_EVENT_EXECUTOR = None
    assert event_executor() is None


@pytest.mark.parametrize("path", ["", "nowhere.at_all", "osvi_django.conf.EVENTS", 5])
def test_check_of_invalid_executor_of_events_reports_it(path):
    (found,) = check(OSVI_EVENT_EXECUTOR=path)
    assert (found[0], found[1].partition(" ")[0]) == ("osvi_django.E031", "OSVI_EVENT_EXECUTOR")
