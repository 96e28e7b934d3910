"""Test each setting: its valid values, and the errors for others."""

from __future__ import annotations

import sys
import traceback
from types import MappingProxyType, ModuleType

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from osvi_django import executors
from osvi_django.conf import (
    DEFAULT_BULK_LIMIT,
    DEFAULTS,
    MAX_SECONDS,
    Account,
    InvalidSetting,
    account_aliases,
    base_url_problem,
    bulk_limit,
    configured,
    executor,
)
from osvi_django.exceptions import OSVINotConfigured
from tests.helpers.own_files import is_of_package

TOKEN = "sandbox-token-16"

NOT_SECONDS = [0, -1, -0.0, float("nan"), float("inf"), float("-inf"), True, False, "5", b"5", None]
NOT_SECONDS += [[5], MAX_SECONDS + 1, 10**400, 1e300, 5j]


def error_message_of(key, value, read):
    """Return the error message for this value of a key, after checking its form."""
    accounts = {"default": {"API_TOKEN": TOKEN, key: value}}
    with override_settings(OSVI=accounts), pytest.raises(InvalidSetting) as caught:
        read(Account())
    error = caught.value
    assert error.key == key
    assert str(error).startswith(f'OSVI["default"]["{key}"] ')
    assert str(error).endswith(".")
    assert error.hint or "callable raised" in str(error)
    assert isinstance(error, ImproperlyConfigured)
    return str(error)


@pytest.fixture
def account():
    def _account(**entry):
        return override_settings(OSVI={"default": {"API_TOKEN": TOKEN, **entry}})

    return _account


def test_account_with_token_only_uses_defaults(account):
    with account():
        it = Account()
        read = {
            "BASE_URL": it.base_url,
            "CLOSE_WITH": it.close_with,
            "CONNECT_TIMEOUT": it.connect_timeout,
            "READ_TIMEOUT": it.read_timeout,
            "DEADLINE": it.deadline,
            "IDLE_TIMEOUT": it.idle_timeout,
            "CONCURRENCY": it.concurrency,
        }
        assert it.api_token == TOKEN
    assert read == {key: DEFAULTS[key] for key in read}


def test_account_after_settings_change_returns_new_value(account):
    it = Account()
    for seconds in (1, 2.5):
        with account(READ_TIMEOUT=seconds):
            assert it.read_timeout == seconds


def test_accounts_do_not_inherit_values_from_each_other():
    with override_settings(OSVI={"a": {"API_TOKEN": TOKEN}, "b": {"READ_TIMEOUT": 7}}):
        assert account_aliases() == ["a", "b"]
        assert (Account("a").read_timeout, Account("b").read_timeout) == (60, 7)
        with pytest.raises(InvalidSetting, match="is missing"):
            _ = Account("b").api_token


def test_account_in_any_mapping_is_read():
    with override_settings(OSVI=MappingProxyType({"a": MappingProxyType({"API_TOKEN": TOKEN})})):
        assert Account("a").api_token == TOKEN


def test_repr_of_account_contains_only_alias(account):
    with account():
        assert repr(Account("eu")) == "Account('eu')"


@pytest.mark.parametrize("value", NOT_SECONDS)
@pytest.mark.parametrize(
    ("key", "read"),
    [
        ("CONNECT_TIMEOUT", lambda it: it.connect_timeout),
        ("READ_TIMEOUT", lambda it: it.read_timeout),
        ("DEADLINE", lambda it: it.deadline),
        ("IDLE_TIMEOUT", lambda it: it.idle_timeout),
    ],
)
def test_timeout_that_is_no_positive_number_raises_invalid_setting(key, value, read):
    assert "positive number of seconds" in error_message_of(key, value, read)


@pytest.mark.parametrize("value", [0.001, 1, 2.5, MAX_SECONDS])
def test_timeout_of_positive_number_is_returned(account, value):
    with account(READ_TIMEOUT=value):
        assert Account().read_timeout == value


def test_deadline_shorter_than_connect_timeout_raises_invalid_setting(account):
    message = error_message_of("DEADLINE", 4.9, lambda it: it.deadline)
    assert "is shorter than CONNECT_TIMEOUT" in message
    with account(DEADLINE=5):
        assert Account().deadline == 5


def test_lease_with_long_deadline_stays_below_a_minute(account):
    with account(DEADLINE=3600):
        assert 10 <= Account().lease_timeout < 60


def test_longest_close_covers_three_calls_and_two_database_waits(account):
    with account(DEADLINE=100, DATABASE_RETRY_TIMEOUT=10):
        assert Account().longest_close == 3 * 100 + 2 * 10 + 20


@pytest.mark.parametrize("value", [0, 0.9, True, "300", -1, float("inf"), None])
def test_lease_below_a_second_raises_invalid_setting(value):
    error_message_of("LEASE_TIMEOUT", value, lambda it: it.lease_timeout)


def test_lease_timeout_setting_is_returned(account):
    with account(LEASE_TIMEOUT=270.5):
        assert Account().lease_timeout == 270.5


@pytest.mark.parametrize("value", ["", "spool", "./spool", 5, b"/spool", ["/spool"]])
def test_spool_dir_that_is_no_absolute_path_raises_invalid_setting(value):
    assert "absolute path" in error_message_of("SPOOL_DIR", value, lambda it: it.spool_dir)


def test_spool_dir_as_path_or_text_or_default_returns_absolute_path(account, tmp_path):
    for value in (tmp_path, str(tmp_path)):
        with account(SPOOL_DIR=value):
            assert Account().spool_dir == tmp_path
    with account():
        assert Account().spool_dir.is_absolute()


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "16", None, float("nan"), float("inf")])
def test_concurrency_that_is_no_whole_number_raises_invalid_setting(value):
    assert "whole number of 1 or more" in error_message_of(
        "CONCURRENCY", value, lambda it: it.concurrency
    )


@pytest.mark.parametrize("value", ["", "V1", "v2", None, 1, ["v1"], {"v1"}, " legacy"])
def test_close_with_unknown_dialect_raises_invalid_setting(value):
    assert "not a known dialect" in error_message_of("CLOSE_WITH", value, lambda it: it.close_with)


# The base URL


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("https://api.osvi.ai", "https://api.osvi.ai"),
        ("https://api.osvi.ai/", "https://api.osvi.ai"),
        ("https://api.osvi.ai//", "https://api.osvi.ai"),
        ("https://proxy.example:8443/osvi/", "https://proxy.example:8443/osvi"),
        ("HTTPS://API.OSVI.AI", "HTTPS://API.OSVI.AI"),
        ("https://203.0.113.7", "https://203.0.113.7"),
        ("http://127.0.0.1", "http://127.0.0.1"),
        ("http://127.0.0.1:8800/", "http://127.0.0.1:8800"),
        ("http://127.9.9.9", "http://127.9.9.9"),
        ("http://[::1]:8800", "http://[::1]:8800"),
        ("http://localhost:8800", "http://localhost:8800"),
        ("http://LOCALHOST", "http://LOCALHOST"),
    ],
)
def test_base_url_that_is_valid_is_returned_without_trailing_slash(account, url, read):
    with account(BASE_URL=url):
        assert Account().base_url == read


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        (None, "is not a URL"),
        ("", "scheme, host and path"),
        (443, "is not a URL"),
        (b"https://api.osvi.ai", "is not a URL"),
        (" https://api.osvi.ai", "is not a URL"),
        ("https://api.osvi.ai\n", "is not a URL"),
        ("https://api.osvi.ai/a b", "is not a URL"),
        ("https://ösvi.ai", "is not a URL"),
        ("https://api.osvi.ai/\x00", "is not a URL"),
        ("api.osvi.ai", "scheme, host and path"),
        ("https://", "scheme, host and path"),
        ("https:///path", "scheme, host and path"),
        ("https:api.osvi.ai", "scheme, host and path"),
        ("https://:443", "scheme, host and path"),
        ("https://user:secret@api.osvi.ai", "scheme, host and path"),
        ("https://@api.osvi.ai", "scheme, host and path"),
        ("http://localhost@evil.example", "scheme, host and path"),
        ("http://127.0.0.1\\@evil.example", "scheme, host and path"),
        ("https://api.osvi.ai?a=b", "scheme, host and path"),
        ("https://api.osvi.ai/?", "scheme, host and path"),
        ("https://api.osvi.ai?", "scheme, host and path"),
        ("https://api.osvi.ai#a", "scheme, host and path"),
        ("https://api.osvi.ai#", "scheme, host and path"),
        ("https://api.osvi.ai:port", "is not a URL"),
        ("https://api.osvi.ai:99999", "is not a URL"),
        ("https://[::1", "is not a URL"),
        ("http://api.osvi.ai", "does not use https"),
        ("http://127.0.0.1.evil.example", "does not use https"),
        ("http://localhost.evil.example", "does not use https"),
        ("http://127.0.0.1\\.evil.example", "does not use https"),
        ("http://0.0.0.0", "does not use https"),
        ("http://10.0.0.1", "does not use https"),
        ("http://2130706433", "does not use https"),
        ("http://0x7f.0.0.1", "does not use https"),
        ("http://[::]", "does not use https"),
        ("ftp://127.0.0.1", "does not use https"),
        ("file://localhost/etc", "does not use https"),
        ("javascript://127.0.0.1", "does not use https"),
    ],
)
def test_base_url_that_is_invalid_raises_invalid_setting(url, problem):
    assert problem in error_message_of("BASE_URL", url, lambda it: it.base_url)


@given(st.text() | st.from_regex(r"https?://[!-~]{0,20}", fullmatch=True) | st.binary())
def test_base_url_problem_with_any_value_returns_text(url):
    assert isinstance(base_url_problem(url), str)


# The token


def read_token(it):
    return it.api_token


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "is missing"),
        ("", "is empty"),
        (b"sandbox-token-16", "is not text"),
        (1234567890123456, "is not text"),
        ([TOKEN], "is not text"),
        ("sandbox token 16", "a character that a token cannot have"),
        (" sandbox-token", "a character that a token cannot have"),
        ("sandbox-token\n", "a character that a token cannot have"),
        ("sandbox\ttoken", "a character that a token cannot have"),
        ("sändbox-token-16", "a character that a token cannot have"),
        ("sandbox\x00token", "a character that a token cannot have"),
        ("sandbox\ud83dtoken", "a character that a token cannot have"),
        ("no.such.module.token", "there is nothing to import"),
        (f"{__name__}.no_such_name", "there is nothing to import"),
        (f"{__name__}.a_module_level_list", "is not text"),
    ],
)
def test_token_that_is_invalid_raises_invalid_setting_without_token(value, problem):
    message = error_message_of("API_TOKEN", value, read_token)
    assert problem in message
    assert not isinstance(value, str) or not value or value not in message


a_module_level_list = [TOKEN]
a_module_level_token = "module-token-016"


class Vault:
    answers = []

    def __call__(self):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


vault = Vault()


@pytest.mark.parametrize("source", [vault, f"{__name__}.vault"])
def test_token_callable_is_called_at_each_access(account, source):
    vault.answers = ["first-token", "second-token"]
    with account(API_TOKEN=source):
        assert [Account().api_token, Account().api_token] == ["first-token", "second-token"]


def test_token_as_dotted_path_to_text_returns_text(account):
    with account(API_TOKEN=f"{__name__}.a_module_level_token"):
        assert Account().api_token == a_module_level_token


@pytest.mark.parametrize("token", ["abc.defg.hij.klm", "a.b.c.d.e.f.g.hi"])
def test_token_of_16_characters_with_dots_is_no_dotted_path(account, token):
    with account(API_TOKEN=token):
        assert Account().api_token == token


@pytest.mark.parametrize("token", ["1.2.3", "a-b.c", "abc..def", ".abc", "abc.", "!~{}[]()%$#@"])
def test_token_that_is_no_dotted_path_is_returned(account, token):
    with account(API_TOKEN=token):
        assert Account().api_token == token


@pytest.mark.parametrize("answer", [None, "", b"x", "a b", 16, vault])
def test_token_callable_that_returns_junk_raises_invalid_setting(answer):
    vault.answers = [answer]
    error_message_of("API_TOKEN", vault, read_token)


def crash_report_of(error):
    """Return what a crash reporter shows of an error: our frames with their local variables."""
    trace = error.__traceback__
    while not is_of_package(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    what = traceback.TracebackException(type(error), error, trace, capture_locals=True)
    return "".join(what.format())


@pytest.mark.parametrize("error", [KeyError(TOKEN), ImproperlyConfigured(TOKEN), OSError(TOKEN)])
def test_token_callable_that_raises_is_not_quoted_in_error(account, error):
    vault.answers = [error]
    with account(API_TOKEN=vault), pytest.raises(InvalidSetting) as caught:
        _ = Account().api_token
    assert f"its callable raised {type(error).__name__}" in str(caught.value)
    assert caught.value.__context__ is None
    assert TOKEN not in crash_report_of(caught.value)


@pytest.fixture
def broken_module(tmp_path, monkeypatch):
    (tmp_path / "broken_vault.py").write_text(f"raise RuntimeError({TOKEN!r})")
    monkeypatch.syspath_prepend(tmp_path)
    yield "broken_vault.token"
    sys.modules.pop("broken_vault", None)


def test_token_module_that_raises_is_not_quoted_in_error(account, broken_module):
    with account(API_TOKEN=broken_module), pytest.raises(InvalidSetting) as caught:
        _ = Account().api_token
    assert "its module raised RuntimeError" in str(caught.value)
    assert caught.value.__context__ is None
    assert TOKEN not in crash_report_of(caught.value)


@pytest.mark.parametrize(
    ("accounts", "read"),
    [
        ({"default": {"API_TOKEN": f"{TOKEN}\n"}}, read_token),
        ({"default": {"API_TOKEN": [TOKEN]}}, read_token),
        ({"default": {"API_TOKEN": lambda: f"{TOKEN} "}}, read_token),
        ({"default": {"API_TOKEN": "a.dotted.sandbox_token_16"}}, read_token),
        ({"other": {"API_TOKEN": TOKEN}}, lambda it: it.base_url),
        ({"default": TOKEN, "other": {"API_TOKEN": TOKEN}}, lambda it: it.base_url),
        (TOKEN, lambda it: it.base_url),
        ([TOKEN], lambda it: account_aliases()),
        ({"default": {"API_TOKEN": TOKEN, "DEADLINE": 0}}, lambda it: it.deadline),
        ({"default": {"API_TOKEN": TOKEN, "DEADLINE": 1}}, lambda it: it.deadline),
        ({"default": {"API_TOKEN": TOKEN, "CONCURRENCY": 0}}, lambda it: it.concurrency),
        ({"default": {"API_TOKEN": TOKEN, "CLOSE_WITH": 0}}, lambda it: it.close_with),
        ({"default": {"API_TOKEN": TOKEN, "BASE_URL": 0}}, lambda it: it.base_url),
    ],
)
def test_frames_of_invalid_setting_contain_no_token(accounts, read):
    with override_settings(OSVI=accounts), pytest.raises(InvalidSetting) as caught:
        read(Account())
    shown = crash_report_of(caught.value)
    assert "InvalidSetting" in shown
    assert TOKEN not in shown
    assert "sandbox_token_16" not in shown


# The setting as a whole


@pytest.mark.parametrize("accounts", [None, {}, [], "text", 5, [("default", {})], {"default"}])
def test_osvi_setting_without_account_raises_invalid_setting(accounts):
    with override_settings(OSVI=accounts):
        for read in (account_aliases, lambda: Account().base_url):
            with pytest.raises(InvalidSetting, match="OSVI is missing or has no account") as caught:
                read()
            assert caught.value.key == ""
            assert "API_TOKEN" in caught.value.hint


def test_osvi_setting_missing_raises_invalid_setting(settings):
    del settings.OSVI
    with pytest.raises(InvalidSetting, match="OSVI is missing"):
        account_aliases()


def test_account_missing_raises_invalid_setting(account):
    with account(), pytest.raises(InvalidSetting, match='no account "eu"') as caught:
        _ = Account("eu").base_url
    assert 'OSVI["eu"]' in caught.value.hint


@pytest.mark.parametrize("entry", [None, TOKEN, [], ModuleType("x")])
def test_account_that_is_no_dictionary_raises_invalid_setting(entry):
    problem = r'OSVI\["default"\] is not a dictionary'
    with override_settings(OSVI={"default": entry}), pytest.raises(InvalidSetting, match=problem):
        _ = Account().base_url


def test_unknown_keys_returns_keys_that_are_no_settings(account):
    with account(API_KEY="x", base_url="y", **{"1": 2}):
        assert Account().unknown_keys() == ["1", "API_KEY", "base_url"]


# The executor and the bulk limit


def unused_executor(job_id):
    raise AssertionError("looking it up calls nobody")


def test_executor_without_setting_is_thread(settings):
    del settings.OSVI_EXECUTOR
    assert executor() is executors.thread


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("osvi_django.executors.thread", executors.thread),
        ("osvi_django.executors.immediate", executors.immediate),
        ("osvi_django.executors.django_tasks", executors.django_tasks),
        (f"{__name__}.unused_executor", unused_executor),
        (None, None),
    ],
)
def test_executor_with_valid_path_is_returned(settings, path, found):
    settings.OSVI_EXECUTOR = path
    assert executor() == found


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("", "is not a dotted path"),
        ("thread", "is not a dotted path"),
        ("osvi_django.executors:thread", "is not a dotted path"),
        (" osvi_django.executors.thread", "is not a dotted path"),
        (executors.thread, "is not a dotted path"),
        (False, "is not a dotted path"),
        ([], "is not a dotted path"),
        ("no_such_module.thread", "could not be imported: No module named 'no_such_module'"),
        (
            "osvi_django.executors.celery",
            'could not be imported: Module "osvi_django.executors" does not define a "celery"',
        ),
        (f"{__name__}.a_module_level_list", "is not callable"),
        ("broken_vault.token", "could not be imported: its module raised RuntimeError"),
    ],
)
@pytest.mark.usefixtures("broken_module")
def test_executor_with_invalid_path_raises_invalid_setting(settings, path, problem):
    settings.OSVI_EXECUTOR = path
    with pytest.raises(InvalidSetting) as caught:
        executor()
    assert problem in str(caught.value)
    assert str(caught.value).startswith("OSVI_EXECUTOR ")
    assert caught.value.key == "OSVI_EXECUTOR"
    assert "osvi_django.executors.thread" in caught.value.hint
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("value", [1, 50, 10**9])
def test_bulk_limit_setting_is_returned(settings, value):
    settings.OSVI_BULK_LIMIT = value
    assert bulk_limit() == value


def test_bulk_limit_without_setting_is_10000(settings):
    del settings.OSVI_BULK_LIMIT
    assert bulk_limit() == DEFAULT_BULK_LIMIT == 10_000


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "16", None, float("inf"), [5]])
def test_bulk_limit_that_is_invalid_raises_invalid_setting(settings, value):
    settings.OSVI_BULK_LIMIT = value
    with pytest.raises(InvalidSetting) as caught:
        bulk_limit()
    assert str(caught.value) == "OSVI_BULK_LIMIT is not a whole number of 1 or more."
    assert (caught.value.key, caught.value.hint) == ("OSVI_BULK_LIMIT", "The default is 10000.")


def test_configured_with_invalid_setting_raises_not_configured(settings):
    settings.OSVI = {"default": {"API_TOKEN": TOKEN, "CONCURRENCY": 0}}
    with pytest.raises(OSVINotConfigured, match="CONCURRENCY") as caught, configured():
        Account().concurrency  # noqa: B018  # a property
    assert caught.value.__suppress_context__


def test_configured_with_not_configured_reraises_same_error():
    error = OSVINotConfigured("BASE_URL is wrong.")
    with pytest.raises(OSVINotConfigured) as caught, configured():
        raise error
    assert caught.value is error


class TestDashboardURL:
    @pytest.mark.parametrize(
        ("url", "problem"),
        [
            (5, "is not a URL"),
            ("https://osvi.example/{session_id}\n", "is not a URL"),
            ("https://[osvi/{session_id}", "is not a URL"),
            ("https://osvi.example:x/{session_id}", "is not a URL"),
            ("javascript:alert({session_id})", "is not an http or https URL"),
            ("/chats/{session_id}", "is not an http or https URL"),
            ("https://{session_id}/", "is not an http or https URL"),
            ("https://osvi.example/", "has no {session_id}"),
        ],
    )
    def test_dashboard_url_invalid_raises(self, url, problem):
        message = error_message_of("DASHBOARD_URL", url, lambda it: it.dashboard_url)
        assert message == f'OSVI["default"]["DASHBOARD_URL"] {problem}.'

    def test_dashboard_url_of_session_has_quoted_id(self, account):
        with account(DASHBOARD_URL="https://osvi.example/c/{session_id}?of={session_id}"):
            url = Account().dashboard_url_of("a/../b?c")
        assert url == "https://osvi.example/c/a%2F..%2Fb%3Fc?of=a%2F..%2Fb%3Fc"

    def test_dashboard_url_by_default_is_unknown(self, account):
        with account():
            assert (Account().dashboard_url, Account().dashboard_url_of("a")) == (None, "")


@pytest.mark.parametrize("value", [-1, True, False, "0", None, MAX_SECONDS + 1, 0.0])
def test_live_interval_invalid_raises(value):
    message = error_message_of("LIVE_INTERVAL", value, lambda it: it.live_interval)
    assert "is not a positive number of seconds" in message


@pytest.mark.parametrize(("entry", "seconds"), [({}, 10), ({"LIVE_INTERVAL": 0}, 0)])
def test_live_interval_is_read(account, entry, seconds):
    with account(**entry):
        assert Account().live_interval == seconds
