"""Transactions of our own: never inside the host's, and tried again while the database is away."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from django.db import InterfaceError, OperationalError, connections, transaction

from osvi_django.exceptions import InsideTransaction

_View = TypeVar("_View", bound=Callable[..., Any])
_Result = TypeVar("_Result")

# Between one try and the next: from the first to the last, doubled each time.
_FIRST_PAUSE: Final = 0.05  # seconds
_LAST_PAUSE: Final = 2.0  # seconds


def non_atomic(view: _View) -> _View:
    """Exempt a view from ``ATOMIC_REQUESTS`` on every database, not on the default one alone."""
    for alias in connections:
        view = transaction.non_atomic_requests(using=alias)(view)
    return view


def refuse_inside_transaction(using: str) -> None:
    """Raise ``InsideTransaction`` where the caller has a transaction open on this database.

    A durable block is the one guard that tells a caller's transaction from that of ``TestCase``.
    """
    connection = connections[using]
    if not connection.in_atomic_block:
        # With autocommit switched off by hand there is no block, and no commit of ours either.
        inside = not connection.get_autocommit()
    else:
        inside = _is_callers_own(using)
    if inside:
        raise InsideTransaction


def _is_callers_own(using: str) -> bool:
    try:
        with transaction.atomic(using=using, durable=True):
            return False
    except RuntimeError:
        return True


def persist(work: Callable[[], _Result], *, using: str, patience: float) -> _Result:
    """Run ``work`` in a transaction of its own, for up to ``patience`` seconds again and again.

    A deadlock, a lock or a database that restarts is over in a moment, so each try has a fresh
    connection where the old one is of no use. ``work`` may run more often than once.
    Raises the last error of the database.
    """
    ends_at = time.monotonic() + patience
    pause = _FIRST_PAUSE
    while True:
        try:
            with transaction.atomic(using=using, durable=True):
                return work()
        except (OperationalError, InterfaceError):
            connection = connections[using]
            # In the transaction of a TestCase nothing can be tried again.
            if connection.in_atomic_block or time.monotonic() + pause > ends_at:
                raise
            connection.close()
        time.sleep(pause)
        pause = min(2 * pause, _LAST_PAUSE)


def kind_of(error: BaseException) -> str:
    """What an error is, for a log: the words of a database's error may quote the row, a summary."""
    cause = error.__cause__
    name = type(error).__name__
    return f"{name}: {type(cause).__name__}" if cause is not None else name
