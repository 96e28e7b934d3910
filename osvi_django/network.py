"""Whether other machines may be called: yes, unless this process is limited to its own.

The pytest plugin sets that limit, so that no test closes a real chat. The environment variable
``OSVI_LOOPBACK_ONLY`` sets it for any other process, and for those that a test starts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

VARIABLE: Final = "OSVI_LOOPBACK_ONLY"
# Every refusal so far, for the pytest plugin: code that handles errors may hide one from a test.
refusals: Final[list[Exception]] = []

_IN_ENVIRONMENT: Final = "Unset the environment variable OSVI_LOOPBACK_ONLY to allow it."


class _Limit:
    """Whether calls are limited to this machine; ``how_to_allow`` is None if they are not."""

    how_to_allow: str | None = _IN_ENVIRONMENT if os.environ.get(VARIABLE) else None


def how_to_allow() -> str | None:
    """Return what to do to call other machines; None if they may be called."""
    return _Limit.how_to_allow


@contextmanager
def loopback_only(how_to_allow: str) -> Iterator[None]:
    """Limit calls to this machine, in all threads and in processes started during the block."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = "1"
    try:
        with _limited(how_to_allow):
            yield
    finally:
        os.environ.pop(VARIABLE, None)
        if before is not None:
            os.environ[VARIABLE] = before


@contextmanager
def any_host() -> Iterator[None]:
    """Lift the limit of this process."""
    with _limited(None):
        yield


@contextmanager
def _limited(how_to_allow: str | None) -> Iterator[None]:
    before, _Limit.how_to_allow = _Limit.how_to_allow, how_to_allow
    try:
        yield
    finally:
        _Limit.how_to_allow = before
