"""Keeping what OSVI answered out of the host's transactions, where a rollback would lose it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from django.db import connections, transaction

from osvi_django.exceptions import InsideTransaction

_View = TypeVar("_View", bound=Callable[..., Any])


def non_atomic(view: _View) -> _View:
    """Exempt a view from ``ATOMIC_REQUESTS`` on every database, not on the default one alone."""
    for alias in connections:
        view = transaction.non_atomic_requests(using=alias)(view)
    return view


def refuse_inside_transaction(using: str) -> None:
    """Raise ``InsideTransaction`` where the caller has a transaction open on this database.

    A durable block is the one guard that tells a caller's transaction from that of ``TestCase``.
    """
    try:
        with transaction.atomic(using=using, durable=True):
            pass
    except RuntimeError:
        inside = True
    else:
        # With autocommit switched off by hand there is no block, and no commit of ours either.
        connection = connections[using]
        inside = not connection.in_atomic_block and not connection.get_autocommit()
    if inside:
        raise InsideTransaction
