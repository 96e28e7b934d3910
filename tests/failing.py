"""Failures that befall only one of this process's threads."""

from __future__ import annotations

import threading
from contextlib import contextmanager

from django.db import OperationalError
from django.db.backends.signals import connection_created


@contextmanager
def database_away(thread_name):
    """New connections of threads of this name answer no query; the list of what they refused."""
    refused, failing = [], []

    def fail(execute, sql, params, many, context):
        refused.append(sql)
        raise OperationalError("a secret")

    def wrap(connection, **_named):
        if threading.current_thread().name == thread_name:
            connection.execute_wrappers.append(fail)
            failing.append(connection)

    connection_created.connect(wrap)
    try:
        yield refused
    finally:
        connection_created.disconnect(wrap)
        for connection in failing:  # a thread that goes on connects again with the same wrappers
            connection.execute_wrappers.remove(fail)
