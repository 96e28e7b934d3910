"""Pytest fixtures for hosts and for this project's own tests, loaded by an entry point.

During tests, calls to any host but this machine are refused, so that no test closes a real chat.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Final

import pytest

from osvi_django.network import any_host, loopback_only, refusals
from osvi_django.testing.sandbox import OSVISandbox

_ALLOW: Final = "osvi_allow_network"
_HOW_TO_ALLOW: Final = (
    "In a test, use the fixture osvi_sandbox or a mock such as responses. To allow real calls, "
    f'mark the test with @pytest.mark.{_ALLOW}, or set "{_ALLOW} = true" in the configuration '
    "of pytest for all tests."
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the option that allows real calls."""
    parser.addini(_ALLOW, "Let every test call OSVI's real API.", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Refuse calls to other machines until the run ends, in all threads."""
    config.addinivalue_line("markers", f"{_ALLOW}: let this test call OSVI's real API.")
    limits = ExitStack()
    config.add_cleanup(limits.close)
    limits.enter_context(any_host() if config.getini(_ALLOW) else loopback_only(_HOW_TO_ALLOW))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Allow real calls in a test that is marked, and in its fixtures.

    Afterwards discard how long OSVI has asked to wait: it does not apply to the next test.
    """
    is_marked = item.get_closest_marker(_ALLOW) is not None
    try:
        with any_host() if is_marked else nullcontext():
            return (yield)
    finally:
        refusals.clear()  # a run inside a test has its own
        # This plugin is loaded before Django is set up, and by projects that do not use it.
        if throttle := sys.modules.get("osvi_django.client.throttle"):
            throttle.reset_throttles()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test that did not see a refusal: a view, a job or a thread may have handled it."""
    result = yield
    for error in refusals:
        if not _has_reached(item, error):
            pytest.fail(str(error), pytrace=False)
    return result


def _has_reached(item: pytest.Item, error: Exception) -> bool:
    """Return whether a function in the file of the test has seen the error."""
    outermost: TracebackType | None = error.__traceback__
    return outermost is not None and outermost.tb_frame.f_code.co_filename == str(item.path)


@pytest.fixture
def osvi_sandbox(settings: Any) -> Iterator[OSVISandbox]:
    """Yield a running sandbox OSVI, with ``settings.OSVI["default"]`` pointed at it for one test.

    Files that a test leaves in the spool are removed with it. Other options of that account, and
    other accounts, stay as the project configured them.
    """
    with OSVISandbox() as osvi, TemporaryDirectory() as folder:
        accounts = getattr(settings, "OSVI", {})
        here = {"API_TOKEN": osvi.token, "BASE_URL": osvi.url, "SPOOL_DIR": Path(folder, "spool")}
        settings.OSVI = {**accounts, "default": {**accounts.get("default", {}), **here}}
        yield osvi
