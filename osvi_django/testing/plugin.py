"""Pytest fixtures for hosts and for this project's own tests; pytest loads them by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from osvi_django.testing.sandbox import OSVISandbox


@pytest.fixture
def osvi_sandbox(settings: Any) -> Iterator[OSVISandbox]:
    """A running sandbox OSVI, with ``settings.OSVI["default"]`` pointed at it for one test.

    Other options of that account, and other accounts, stay as the project configured them.
    """
    with OSVISandbox() as osvi:
        accounts = getattr(settings, "OSVI", {})
        here = {"API_TOKEN": osvi.token, "BASE_URL": osvi.url}
        settings.OSVI = {**accounts, "default": {**accounts.get("default", {}), **here}}
        yield osvi
